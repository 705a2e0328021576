"""Step 6: the cheapest among the models that are as good as the best."""

from kfp.dsl import Artifact, Input, Model, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def select(
    settings: str,
    evaluation: Input[Artifact],
    chosen: Output[Model],
    simulation: Input[Artifact] = None,
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
        simulation: Folder of the simulate step, where the settings ask for one.
        textcnn: Bundle, where this kind was trained; so the others.
        bilstm: Bundle.
        transformer: Bundle.
        dnn: Bundle.
        svc: Bundle.
        encoder: Bundle.
        pool: Bundle.
    """
    from pathlib import Path

    from components.step import folders, step
    from config.settings import Settings
    from models.comparison import select_bundle

    bundles = folders(
        textcnn=textcnn, bilstm=bilstm, transformer=transformer, dnn=dnn, svc=svc, encoder=encoder, pool=pool
    )
    with step("select"):
        tree, runs = Settings.from_json(settings), Path(simulation.path) if simulation is not None else None
        selection = select_bundle(bundles, Path(evaluation.path), tree, Path(chosen.path), runs)
        chosen.metadata.update(kind=selection.kind, reason=selection.reason)
