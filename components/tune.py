"""Step 4a, for each kind that the settings search: better settings before the training."""

from kfp.dsl import Artifact, Dataset, Input, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def tune(
    kind: str,
    settings: str,
    parts: Input[Dataset],
    embedding: Input[Artifact],
    search: Output[Artifact],
) -> None:
    """Search the settings of one kind within the budget of the settings (models.tuning).

    Args:
        kind: textcnn, bilstm, transformer, dnn, svc or encoder.
        settings: The resolved settings tree as JSON.
        parts: Folder of the split step.
        embedding: Folder of the embed step.
        search: Folder with best.yaml (a config file), tuning.json (all trials) and pictures.
    """
    import os
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from models.tuning import tune as searched

    with step(f"tune-{kind}"):
        tree, work = Settings.from_json(settings), os.environ.get("HSCODE_WORK")
        storage = Path(work) / "tune" if work else None
        searched(kind, Path(parts.path), Path(embedding.path), tree, Path(search.path), storage)
