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
    search: Input[Artifact] = None,
    champion: Input[Model] = None,
    upsampled: bool = True,
) -> None:
    """Train one kind and write its bundle (models.training).

    Args:
        kind: textcnn, bilstm, transformer, dnn, svc or encoder.
        settings: The resolved settings tree as JSON.
        parts: Folder of the split step.
        embedding: Folder of the embed step.
        bundle: The model bundle.
        search: Folder of the tune step, where this kind was searched; it goes into the bundle as tuning/.
        champion: Bundle that training begins at (models.nets.warm), in a retraining that wants it.
        upsampled: False trains without up-sampling, for the report's comparison.
    """
    import shutil
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from models.training import train_bundle
    from models.tuning import tuned, with_values

    with step(f"train-{kind}" if upsampled else f"train-{kind}-plain"):
        tree = Settings.from_json(settings)
        if search is not None:
            tree = tuned(tree, Path(search.path))
        if not upsampled:
            tree = with_values(tree, {"train.upsample": 0.0})
        start = None if champion is None else Path(champion.path)
        folders = (Path(parts.path), Path(embedding.path))
        card = train_bundle(kind, *folders, tree, Path(bundle.path), champion=start)
        if search is not None:
            shutil.copytree(search.path, Path(bundle.path) / "tuning")
        bundle.metadata.update(kind=kind, data_hash=card["data_hash"])
