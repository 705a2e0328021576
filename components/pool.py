"""Step 4b: chosen members become one model."""

from kfp.dsl import Artifact, Dataset, Input, Model, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def pool(
    settings: str,
    parts: Input[Dataset],
    embedding: Input[Artifact],
    bundle: Output[Model],
    textcnn: Input[Model] = None,
    bilstm: Input[Model] = None,
    transformer: Input[Model] = None,
    dnn: Input[Model] = None,
    svc: Input[Model] = None,
    encoder: Input[Model] = None,
) -> None:
    """Average the members' calibrated probabilities with weights from the valid part (models.nets.pool).

    Args:
        settings: The resolved settings tree as JSON.
        parts: Folder of the split step.
        embedding: Folder of the embed step.
        bundle: The pool's bundle, its members inside.
        textcnn: Bundle of a member; so the others.
        bilstm: Bundle.
        transformer: Bundle.
        dnn: Bundle.
        svc: Bundle.
        encoder: Bundle.
    """
    from pathlib import Path

    from components.step import folders, step
    from config.settings import Settings
    from models.training import train_bundle

    members = folders(textcnn=textcnn, bilstm=bilstm, transformer=transformer, dnn=dnn, svc=svc, encoder=encoder)
    with step("train-pool"):
        tree = Settings.from_json(settings)
        train_bundle("pool", Path(parts.path), Path(embedding.path), tree, Path(bundle.path), members=members)
