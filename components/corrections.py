"""Step 0 of a retraining: what experts have corrected, as rows."""

from kfp.dsl import Dataset, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def corrections(settings: str, since: str, rows: Output[Dataset]) -> None:
    """Write the corrections that hold (serving.state.corrections) as a source of the ingest step.

    Args:
        settings: The resolved settings tree as JSON.
        since: ISO 8601 moment from which they are taken; empty: as the settings say.
        rows: Folder with corrections.jsonl.
    """
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from serving.handover import export_corrections

    with step("corrections"):
        folder = Path(rows.path)
        folder.mkdir(parents=True, exist_ok=True)
        rows.metadata["count"] = export_corrections(Settings.from_json(settings), since, folder / "corrections.jsonl")
