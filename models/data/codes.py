"""The codes of a file, counted, without its texts."""

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from config.settings import Settings
from models.data.labels import VAGUE
from models.data.sources import Wanted, read_batches
from models.errors import UserError
from models.hs.codes import normalise_code


@dataclass(frozen=True)
class CodeCounts:
    """`codes`: rows by code of six, four or two digits; `vague`: rows that say to be too vague for one; `refused`: rows
    whose code cannot be read, by reason."""

    codes: dict[str, int]
    vague: int
    refused: dict[str, int]


def count_codes(address: str, settings: Settings, knows: Callable[[str], bool]) -> CodeCounts:
    """Count the codes of a csv, parquet or jsonl file, or of the folder that ingest wrote; memory as the codes.

    `knows` says whether a code of two, four or six digits exists in any edition meant (lost leading zeros are proved by
    it). Raises UserError where the file cannot be used.
    """
    if (Path(address) / "rows.parquet").is_file():
        address = str(Path(address) / "rows.parquet")
    data = settings.data
    wanted = Wanted(data.description_column, data.code_column, True, data.encoding, data.max_line_bytes)
    raw: Counter[object] = Counter()
    refused: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        for batch in read_batches(address, wanted, Path(scratch), lambda _: None):
            refused.update(one.reason for one in batch.refused)
            raw.update(batch.codes or [])
    codes: Counter[str] = Counter()
    vague = 0
    for value, rows in raw.items():
        if isinstance(value, str) and value.strip().upper() == VAGUE:
            vague += rows
            continue
        digits, reason = normalise_code(value, knows)
        if digits is None:
            refused[reason] += rows
        else:
            codes[digits[:6]] += rows
    if not codes:
        raise UserError("no row with a code that can be read", address)
    return CodeCounts(dict(sorted(codes.items())), vague, dict(refused))
