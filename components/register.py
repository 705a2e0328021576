"""Step 8: the candidate becomes a version, once."""

from kfp.dsl import HTML, Dataset, Input, Model, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def register(
    settings: str,
    run: str,
    run_key: str,
    triggered_by: str,
    rows: Input[Dataset],
    chosen: Input[Model],
    report: Input[HTML],
) -> str:
    """Register the bundle and its report in MLflow, with the way back to run, data, settings and code.

    Args:
        settings: The resolved settings tree as JSON.
        run: Id of the pipeline run.
        run_key: Same input, same key: a run that is started again registers no second version. Empty: `run`.
        triggered_by: What started the run (a person, a schedule, a trigger's id).
        rows: Folder of the ingest step.
        chosen: The candidate's bundle.
        report: The run's report.

    Returns:
        The version's number.
    """
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from serving.handover import register_candidate

    with step("register"):
        tree = Settings.from_json(settings)
        return register_candidate(tree, Path(chosen.path), Path(report.path), run, run_key, triggered_by).number
