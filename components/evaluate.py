"""Step 5: every bundle judged on the same test rows."""

from kfp.dsl import Artifact, Dataset, Input, Model, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    settings: str,
    parts: Input[Dataset],
    evaluation: Output[Artifact],
    textcnn: Input[Model] = None,
    bilstm: Input[Model] = None,
    transformer: Input[Model] = None,
    dnn: Input[Model] = None,
    svc: Input[Model] = None,
    encoder: Input[Model] = None,
    pool: Input[Model] = None,
) -> None:
    """Measure each given bundle on the test part (models.evaluation).

    Args:
        settings: The resolved settings tree as JSON.
        parts: Folder of the split step.
        evaluation: Folder with one KIND.json of figures for each bundle.
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
    from models.comparison import evaluate_bundles

    given = {
        "textcnn": textcnn, "bilstm": bilstm, "transformer": transformer, "dnn": dnn,
        "svc": svc, "encoder": encoder, "pool": pool,
    }  # fmt: skip
    bundles = {kind: Path(bundle.path) for kind, bundle in given.items() if bundle is not None}
    with step("evaluate"):
        evaluate_bundles(bundles, Path(parts.path), Settings.from_json(settings), Path(evaluation.path))
