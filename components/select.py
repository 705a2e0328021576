"""Step 6: the cheapest among the models that are as good as the best."""

from kfp.dsl import Artifact, Input, Model, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def select(
    settings: str,
    evaluation: Input[Artifact],
    chosen: Output[Model],
    textcnn: Input[Model] = None,
    bilstm: Input[Model] = None,
    transformer: Input[Model] = None,
    dnn: Input[Model] = None,
    svc: Input[Model] = None,
    encoder: Input[Model] = None,
    pool: Input[Model] = None,
) -> None:
    """Choose one bundle and say why (models.selection); its figures go into its card.

    Args:
        settings: The resolved settings tree as JSON.
        evaluation: Folder of the evaluate step.
        chosen: The winner's bundle, with selection.json beside its card.
        textcnn: Bundle, where this kind was trained; so the others.
        bilstm: Bundle.
        transformer: Bundle.
        dnn: Bundle.
        svc: Bundle.
        encoder: Bundle.
        pool: Bundle.
    """
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from models.comparison import select_bundle

    given = {
        "textcnn": textcnn, "bilstm": bilstm, "transformer": transformer, "dnn": dnn,
        "svc": svc, "encoder": encoder, "pool": pool,
    }  # fmt: skip
    bundles = {kind: Path(bundle.path) for kind, bundle in given.items() if bundle is not None}
    with step("select"):
        selection = select_bundle(bundles, Path(evaluation.path), Settings.from_json(settings), Path(chosen.path))
        chosen.metadata.update(kind=selection.kind, reason=selection.reason)
