"""Step 7: the candidate against the champion, and the report."""

from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def gate(
    settings: str,
    rows: Input[Dataset],
    parts: Input[Dataset],
    evaluation: Input[Artifact],
    chosen: Input[Model],
    verdict: Output[Artifact],
    report: Output[HTML],
) -> str:
    """Compare candidate and champion on the same rows (models.gate); write the run's report (models.report).

    Args:
        settings: The resolved settings tree as JSON.
        rows: Folder of the ingest step.
        parts: Folder of the split step.
        evaluation: Folder of the evaluate step.
        chosen: The candidate's bundle.
        verdict: Folder with gate.json.
        report: The report as one page.

    Returns:
        "pass" or "fail".
    """
    import tempfile
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from models.comparison import gate_candidate, write_report
    from serving.registry import Registry

    with step("gate"), tempfile.TemporaryDirectory() as cache:
        tree = Settings.from_json(settings)
        registry = Registry(tree.registry.uri or "", tree.registry.model)
        champion = registry.folder("champion", Path(cache)) if registry.find("champion") else None
        result = gate_candidate(Path(chosen.path), champion, Path(parts.path), tree, Path(verdict.path))
        write_report(
            Path(rows.path),
            Path(parts.path),
            Path(evaluation.path),
            Path(chosen.path),
            Path(verdict.path),
            tree,
            Path(report.path),
        )
        return "pass" if result.passed else "fail"
