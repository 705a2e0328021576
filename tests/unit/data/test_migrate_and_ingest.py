"""What `migration` foretells is what ingest then does: the same rows, the same table, row for row."""

from pathlib import Path

from config.settings import load_settings
from models.data.codes import count_codes
from models.data.ingest import ingest
from models.data.sample import nomenclature, write_sample
from models.hs.correlation import load_correlation
from models.hs.edition import load_edition
from models.hs.migrate import migration


def test_ingest_does_what_migration_foretells(tmp_path: Path) -> None:
    rows, new, table = tmp_path / "rows.csv", tmp_path / "HS9.csv", tmp_path / "table.csv"
    write_sample(1_500, 4, rows)
    # A made-up new edition: T-shirts renumbered, creams split in their heading, books in their chapter, toys gone.
    moved = {
        "610910": ["610911"],
        "330499": ["330497", "330498"],
        "490199": ["490210", "491210"],
        "950300": [],
        "851830": ["851830", "851831"],
    }
    texts = {code: text for code, text in nomenclature().items() if code not in moved or code in moved[code]}
    texts |= {code: "new" for successors in moved.values() for code in successors if code not in texts}
    new.write_text("code,text\n" + "".join(f'{code},"{text}"\n' for code, text in texts.items()), encoding="utf-8")
    pairs = [(old, code) for old, successors in moved.items() for code in successors or [""]]
    pairs += [(code, code) for code in nomenclature() if code not in moved]
    table.write_text("old,new\n" + "".join(f"{old},{code}\n" for old, code in pairs), encoding="utf-8")

    edition, correlation = load_edition(new, "HS9"), load_correlation(table)
    counts = count_codes(
        str(rows),
        load_settings(),
        lambda code: edition.knows(code) or code in correlation,
    )
    told = migration(counts.codes, edition, correlation)
    settings = load_settings(
        assignments=[
            f"data.sources=[{{path: {rows}}}]",
            f"nomenclature.path={new}",
            f"nomenclature.correlation={table}",
            "nomenclature.edition=HS9",
        ]
    )
    report = ingest(settings, tmp_path / "out", legal_texts=False)

    assert report.repairs["retired code mapped to its successor"] == told.rows_by_fate["renumbered"] > 10
    assert report.repairs["retired code shortened to what its successors share"] == told.rows_by_fate["split"] > 10
    refused = sum(
        count for reason, count in report.reasons.items() if reason.startswith(("code retired", "code not in"))
    )
    assert refused == told.rows_by_fate["lost"] > 10
    assert told.rows_shortened[4] > 0
    assert told.rows_shortened[2] > 0
