"""Labelled rows to judge a model by: every readable row of a file, in its order, nothing merged."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from config.settings import Settings
from models.data.clean import clean_text
from models.data.labels import Labels
from models.data.sources import Wanted, read_batches
from models.errors import UserError
from models.hs.correlation import Correlation, load_correlation
from models.hs.edition import Edition

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Labelled:
    """`frame`: columns description, code, hs6, source, label_kind, group (its own number for each row);
    `refused`: rows that cannot be judged, by reason."""

    frame: "pl.DataFrame"
    refused: dict[str, int]


def edition_of(name: str, texts: Mapping[str, str]) -> Edition | None:
    """The edition that a bundle's legal texts make up; None where it has none (trained without nomenclature)."""
    legal = {code: text for code, text in texts.items() if len(code) == 6 and text}
    return Edition(name, legal) if legal else None


def read_labelled(address: str, settings: Settings, edition: Edition | None) -> Labelled:
    """Read a csv, parquet or jsonl file (as ingest does: same columns, same reading of codes, same cleaning).

    Codes are checked against `edition` (None: any chapter that exists; a code that the model does not know then
    counts as a wrong answer); retired ones go through the correlation table of the settings, where it names one.
    Raises UserError where the file cannot be used or holds no row to judge.
    """
    import polars as pl

    data, table = settings.data, settings.nomenclature.correlation
    labels = Labels(edition, load_correlation(Path(table)) if table else Correlation())
    wanted = Wanted(data.description_column, data.code_column, True, data.encoding, data.max_line_bytes)
    default = address.rstrip("/").rpartition("/")[2].partition(".")[0]
    refused: Counter[str] = Counter()
    columns: dict[str, list[str | None]] = {n: [] for n in ("description", "code", "hs6", "source", "label_kind")}
    with tempfile.TemporaryDirectory() as scratch:
        for batch in read_batches(address, wanted, Path(scratch), lambda _: None):
            refused.update(one.reason for one in batch.refused)
            for i, raw in enumerate(batch.descriptions):
                text = clean_text(raw if isinstance(raw, str) else "" if raw is None or raw != raw else str(raw))
                label = labels.read(None if batch.codes is None else batch.codes[i])
                if label.reason or not text:
                    refused[label.reason or "no description"] += 1
                    continue
                name = " ".join(str((batch.sources[i] if batch.sources else None) or default).split())
                kind = "vague" if not label.code else data.source_kinds.get(name, "given")
                values = (text[: data.max_text_chars], label.code, label.hs6, name, kind)
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
    if not columns["description"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in refused.most_common(3))
        raise UserError(f"no row to judge ({reasons or 'the file is empty'})", address)
    frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    return Labelled(frame.with_row_index("group").with_columns(pl.col("group").cast(pl.Int64)), dict(refused))
