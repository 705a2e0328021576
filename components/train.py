"""Step 4, once for each model kind: train, export, calibrate."""

from kfp.dsl import Artifact, Dataset, Input, Model, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def train(
    kind: str,
    settings: str,
    parts: Input[Dataset],
    embedding: Input[Artifact],
    bundle: Output[Model],
) -> None:
    """Train one kind and write its bundle (models.training).

    Args:
        kind: textcnn, bilstm, transformer, dnn, svc or encoder.
        settings: The resolved settings tree as JSON.
        parts: Folder of the split step.
        embedding: Folder of the embed step.
        bundle: The model bundle.
    """
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from models.training import train_bundle

    with step(f"train-{kind}"):
        card = train_bundle(
            kind, Path(parts.path), Path(embedding.path), Settings.from_json(settings), Path(bundle.path)
        )
        bundle.metadata.update(kind=kind, data_hash=card["data_hash"])
