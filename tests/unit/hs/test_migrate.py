"""What a new edition does to data and model: one example of each fate, and the real table."""

import json
from pathlib import Path

import pytest

from models.errors import UserError
from models.hs.correlation import Correlation, correlation_of, load_correlation
from models.hs.edition import Edition, load_edition
from models.hs.migrate import FATES, Migration, migration

OLD = Edition(
    "OLD",
    dict.fromkeys(["010121", "040310", "030792", "851770", "854890", "111100", "441400", "620193", "999900"], "old"),
)
NEW = Edition(
    "NEW",
    {
        "010121": "Horses",
        "040320": "Yogurt",
        "030792": "Other molluscs",
        "030990": "Flours of molluscs",
        "851771": "Aerials",
        "851779": "Other parts",
        "854911": "Waste of batteries",
        "853333": "Resistors",
        "441410": "Frames of tropical wood",
        "441490": "Other frames",
        "620193": "Something else now",
        "620140": "Anoraks",
        "240412": "Only in the new edition",
    },
)
TABLE = correlation_of(
    [
        ("010121", "010121"),
        ("040310", "040320"),
        ("030792", "030792"),
        ("030792", "030990"),
        ("851770", "851771"),
        ("851770", "851779"),
        ("854890", "854911"),
        ("854890", "853333"),
        ("111100", ""),
        ("441400", "441410"),
        ("441400", "441490"),
        ("620193", "620140"),
    ]
)
ROWS = {
    "010121": 10,
    "040310": 20,
    "030792": 30,
    "851770": 40,
    "854890": 50,
    "111100": 60,
    "441400": 70,
    "620193": 80,
    "0101": 3,
    "010100": 2,
    "770000": 1,
}


@pytest.fixture
def result() -> Migration:
    return migration(ROWS, NEW, TABLE, classes=[*OLD.texts, ""], model_edition="OLD")


def test_every_row_has_one_fate(result: Migration) -> None:
    assert result.rows_by_fate == {
        "kept": 10 + 3 + 2,
        "narrowed": 30,
        "reused": 80,
        "renumbered": 20,
        "split": 40 + 50 + 70,
        "lost": 60 + 1,
    }
    assert sum(result.rows_by_fate.values()) == result.rows == sum(ROWS.values())
    assert list(result.rows_by_fate) == list(FATES)


def test_split_rows_are_shortened_to_what_the_successors_share(result: Migration) -> None:
    assert result.rows_shortened == {4: 110, 2: 50}
    becomes = {change.code: change.becomes for change in result.changes}
    assert becomes["851770"] == "8517"
    assert becomes["854890"] == "85"
    assert becomes["040310"] == "040320"
    assert becomes["030792"] == "030792"
    assert becomes["111100"] is None
    assert "010121" not in becomes


def test_changes_begin_with_those_that_most_rows_carry(result: Migration) -> None:
    assert [change.rows for change in result.changes] == sorted((c.rows for c in result.changes), reverse=True)


def test_new_codes_name_their_parents_and_where_their_examples_are(result: Migration) -> None:
    new = {each.code: each for each in result.new}
    assert set(new) == set(NEW.texts) - set(OLD.texts)
    assert (new["040320"].parents, new["040320"].rows_sure, new["040320"].rows_possible) == (("040310",), 20, 20)
    assert (new["851771"].rows_sure, new["851771"].rows_possible) == (0, 40)
    assert (new["240412"].parents, new["240412"].rows_possible) == ((), 0)
    assert new["851771"].text == "Aerials"


def test_the_model_loses_classes_and_lacks_others(result: Migration) -> None:
    model = result.model
    assert model is not None
    assert model.classes == 9
    assert model.vanished == ("040310", "111100", "441400", "851770", "854890", "999900")
    assert model.fates["lost"] == 2
    assert model.uncovered == len(NEW.texts) - 3
    assert set(model.uncovered_new) == set(NEW.texts) - set(OLD.texts)
    assert model.rows_uncovered == 20


def test_without_a_model_there_is_no_effect_on_one() -> None:
    assert migration(ROWS, NEW, TABLE).model is None


def test_the_same_edition_changes_nothing() -> None:
    rows = dict.fromkeys(NEW.texts, 5)
    result = migration(rows, NEW, Correlation(), classes=list(NEW.texts), model_edition="NEW")
    assert result.rows_by_fate["kept"] == result.rows
    assert result.changes == ()
    assert result.model is not None
    assert (result.model.vanished, result.model.uncovered, result.model.rows_uncovered) == ((), 0, 0)


def test_it_is_plain_json(result: Migration) -> None:
    assert json.loads(json.dumps(result.to_json()))["rows_by_fate"]["split"] == 160


def test_a_table_of_other_editions_is_refused() -> None:
    with pytest.raises(UserError, match="does not lead to OLD: 9 of its 11 new codes are not in it"):
        migration(ROWS, OLD, TABLE)


def test_the_real_table(shared_data: Path) -> None:
    edition = load_edition(shared_data / "hs2022-nomenclature.csv.gz", "HS2022")
    table = load_correlation(shared_data / "correlation-hs2017-hs2022.csv")
    result = migration(dict.fromkeys(table.mapping, 1), edition, table, list(table.mapping), "HS2017")
    assert result.codes_by_fate["renumbered"] + result.codes_by_fate["reused"] == 56
    assert result.codes_by_fate["split"] + result.codes_by_fate["lost"] == 65
    assert result.codes_by_fate["narrowed"] == 57
    assert result.model is not None
    assert len(result.model.vanished) == 120
    assert len(result.new) == 371
    backwards = correlation_of((new, old) for old, successors in table.mapping.items() for new in successors)
    with pytest.raises(UserError, match="does not lead to HS2022"):
        migration({}, edition, backwards)
