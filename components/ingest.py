"""Step 1: rows from all sources, cleaned, checked and merged."""

from kfp.dsl import Dataset, Input, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def ingest(
    settings: str,
    data_version: str,
    rows: Output[Dataset],
    new_data: str = "",
    data_until: str = "",
    corrections: Input[Dataset] = None,
) -> None:
    """Read, clean, check, merge and group the rows of all sources (models.data.ingest).

    Args:
        settings: The resolved settings tree as JSON.
        data_version: Fingerprint of the input files; the step's cached result is used only for the same one.
        rows: Folder with rows.parquet, quarantine, edition and report.
        new_data: Addresses of further sources, one a line.
        data_until: Id of the last decision on data that arrived; its addresses are read from the state. Empty: none.
        corrections: Folder of the corrections step, where there is one.
    """
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from models.data.ingest import added_sources
    from models.data.ingest import ingest as read_rows
    from serving.handover import arrived_data

    with step("ingest"):
        tree = Settings.from_json(settings)
        file = None if corrections is None else Path(corrections.path) / "corrections.jsonl"
        addresses = [*arrived_data(tree, data_until), *new_data.splitlines()]
        report = read_rows(tree, Path(rows.path), added=added_sources(tree, addresses, file))
        (Path(rows.path) / "new_data.txt").write_text("".join(f"{each}\n" for each in addresses), encoding="utf-8")
        rows.metadata.update(data_hash=report.data_hash, data_version=data_version, kept=report.kept)
