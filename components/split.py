"""Step 2: train, valid and test by near-duplicate group."""

from kfp.dsl import Dataset, Input, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def split(settings: str, rows: Input[Dataset], parts: Output[Dataset]) -> None:
    """Cut the rows into train, valid and test without letting near-duplicates cross (models.data.split).

    Args:
        settings: The resolved settings tree as JSON.
        rows: Folder of the ingest step.
        parts: Folder with train.parquet, valid.parquet, test.parquet, split.json, edition.json.
    """
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from models.data.split import split as cut

    with step("split"):
        cut(Path(rows.path), Settings.from_json(settings), Path(parts.path))
