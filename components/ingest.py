"""Step 1: rows from all sources, cleaned, checked and merged."""

from kfp.dsl import Dataset, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def ingest(settings: str, data_version: str, rows: Output[Dataset]) -> None:
    """Read, clean, check, merge and group the rows of all sources (models.data.ingest).

    Args:
        settings: The resolved settings tree as JSON.
        data_version: Fingerprint of the input files; the step's cached result is used only for the same one.
        rows: Folder with rows.parquet, quarantine, edition and report.
    """
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from models.data.ingest import ingest as read_rows

    with step("ingest"):
        report = read_rows(Settings.from_json(settings), Path(rows.path))
        rows.metadata.update(data_hash=report.data_hash, data_version=data_version, kept=report.kept)
