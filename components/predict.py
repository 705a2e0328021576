"""Batch step 2, once for each part: every row is answered."""

from kfp.dsl import Dataset, Input, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def predict(
    settings: str,
    version: str,
    index: int,
    shards: Input[Dataset],
    answers: Output[Dataset],
) -> None:
    """Answer part `index`; where the file was cut into fewer parts there is nothing to do.

    Args:
        settings: The resolved settings tree as JSON.
        version: The model version's number.
        index: Which part, from 0.
        shards: Folder of the shard step.
        answers: Folder with the answered part.
    """
    import tempfile
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from models.bundle import Bundle
    from models.progress import report
    from serving.predictor.batch import Question, predict_shard
    from serving.registry import Registry

    out = Path(answers.path)
    out.mkdir(parents=True, exist_ok=True)
    name = f"predict-{index}"
    with step(name), tempfile.TemporaryDirectory() as cache:
        tree = Settings.from_json(settings)
        folder = Registry(tree.registry.uri or "", tree.registry.model).folder(version, Path(cache))
        question = Question(column=tree.data.description_column, candidates=tree.answer.candidates)
        for part in sorted(Path(shards.path).glob(f"{index:05d}.*")):
            predict_shard(Bundle.load(folder), part, out / part.name, question, lambda rows: report(name, rows))
