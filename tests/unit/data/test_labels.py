import pytest

from models.data.labels import Labels
from models.hs.correlation import Correlation
from models.hs.edition import Edition

EDITION = Edition("HS2022", {"010121": "", "010130": "", "851771": "", "851779": "", "851830": ""})
CORRELATION = Correlation(
    {
        "851770": ("851771", "851779"),
        "010110": ("010121",),
        "010191": ("010130", "851830"),
        "010192": (),
        "010193": ("999999",),
    }
)


@pytest.mark.parametrize(
    ("raw", "code", "hs6", "repair"),
    [
        ("8518.30.00", "85183000", "851830", ""),
        ("101.21", "010121", "010121", "leading zero restored"),
        (10121, "010121", "010121", "leading zero restored"),
        (851830.0, "851830", "851830", "read from a spreadsheet's number"),
        ("8518", "8518", None, ""),
        ("01", "01", None, ""),
        ("VAGUE", "", None, ""),
        (" vague ", "", None, ""),
        ("8517700000", "8517", None, "retired code shortened to what its successors share"),
        ("0101.10", "010110", "010121", "retired code mapped to its successor"),
    ],
)
def test_accepted(raw: object, code: str, hs6: str | None, repair: str) -> None:
    labels = Labels(EDITION, CORRELATION)
    label = labels.read(raw)
    assert (label.code, label.hs6, label.repair, label.reason) == (code, hs6, repair, "")
    assert labels.names[label.number] == (hs6 or code)
    assert labels.entries[label.entry] is label
    assert labels.read(raw) is label


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "no code"),
        (None, "no code"),
        (float("nan"), "no code"),
        ("abc", "code holds letters or signs"),
        ("999999", "code not in HS2022"),
        ("010191", "code retired, and no single chapter took it over"),
        ("010192", "code retired, and no single chapter took it over"),
        ("010193", "code not in HS2022"),
        (["851830"], "code holds letters or signs"),
    ],
)
def test_refused(raw: object, reason: str) -> None:
    labels = Labels(EDITION, CORRELATION)
    assert labels.read(raw).reason == reason
    assert labels.names == [""]


def test_without_an_edition_any_chapter_will_do() -> None:
    labels = Labels(None, Correlation())
    assert labels.read("851899").hs6 == "851899"
    assert labels.read("10121").hs6 == "010121"
    assert labels.read("8518").code == "8518"
    assert labels.read("770000").reason == "code of no chapter"
    assert labels.read("990000").reason == "code of no chapter"
