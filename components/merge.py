"""Batch step 3: the answered parts become one file, rows in the order of the input."""

from kfp.dsl import Dataset, Input, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def merge(
    to: str,
    answers: Output[Dataset],
    part_0: Input[Dataset],
    part_1: Input[Dataset] = None,
    part_2: Input[Dataset] = None,
    part_3: Input[Dataset] = None,
    part_4: Input[Dataset] = None,
    part_5: Input[Dataset] = None,
    part_6: Input[Dataset] = None,
    part_7: Input[Dataset] = None,
) -> None:
    """Put the parts together and, where `to` names one, write the file there too.

    Args:
        to: Local path or address of the output; empty: the artifact alone.
        answers: Folder with answers.csv (or .jsonl, .parquet: as the parts are).
        part_0: Folder of a predict step; so the others.
        part_1: Folder.
        part_2: Folder.
        part_3: Folder.
        part_4: Folder.
        part_5: Folder.
        part_6: Folder.
        part_7: Folder.
    """
    from pathlib import Path

    from components.step import step
    from serving.addresses import stored
    from serving.predictor.batch import merge as join
    from serving.predictor.files import file_format

    given = (part_0, part_1, part_2, part_3, part_4, part_5, part_6, part_7)
    with step("merge"):
        folders = [Path(part.path) for part in given if part is not None]
        files = [
            file for folder in folders for file in folder.iterdir() if file.suffix[1:] in ("csv", "jsonl", "parquet")
        ]
        out = Path(answers.path) / f"answers.{file_format(files[0])}"
        out.parent.mkdir(parents=True, exist_ok=True)
        join(sorted(files, key=lambda file: file.name), out)
        if to:
            stored(out, to)
