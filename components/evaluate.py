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
    plain: Input[Model] = None,
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
        plain: Bundle of a kind trained without up-sampling, for the report's comparison.
    """
    from pathlib import Path

    from components.step import folders, step
    from config.settings import Settings
    from models.comparison import evaluate_bundles

    bundles = folders(
        textcnn=textcnn, bilstm=bilstm, transformer=transformer, dnn=dnn, svc=svc, encoder=encoder, pool=pool
    )
    with step("evaluate"):
        tree, without = Settings.from_json(settings), Path(plain.path) if plain is not None else None
        evaluate_bundles(bundles, Path(parts.path), tree, Path(evaluation.path), without)
