"""Step 3: the text-embedding encoder that every net reuses."""

from kfp.dsl import Artifact, Dataset, Input, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def embed(settings: str, parts: Input[Dataset], embedding: Output[Artifact]) -> None:
    """Train subword embeddings on all text at hand (models.text.embedding).

    Args:
        settings: The resolved settings tree as JSON.
        parts: Folder of the split step.
        embedding: Folder with text.json, vectors.npy and embedding.json.
    """
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from models.text.embedding import train_embedding

    with step("embed"):
        train_embedding(Path(parts.path), Settings.from_json(settings), Path(embedding.path))
