"""Six-field cron expressions."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import UserError
from serving.control.trigger import cron

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "due"),
    [
        ("0 0 3 * * *", datetime(2026, 11, 25, 3, tzinfo=UTC)),
        ("0 0 3 * * MON", datetime(2026, 11, 30, 3, tzinfo=UTC)),
        (" 0  0 3 ? jan-mar ?", datetime(2027, 1, 1, 3, tzinfo=UTC)),
        ("*/7 * * * * *", NOW + timedelta(seconds=7)),
        ("0 30 2 1,15 * *", datetime(2026, 12, 1, 2, 30, tzinfo=UTC)),
    ],
)
def test_next(expression: str, due: datetime) -> None:
    checked = cron.checked(expression)
    assert checked == " ".join(expression.split())
    assert cron.next_after(checked, NOW) == due


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("0 3 * * *", r"five fields; the first of six is the second; write: 0 0 3 \* \* \*"),
        ("@daily", "1 fields where 6 are needed"),
        ("0 0 3 * * 7", "7 is no day of week; Sunday is 0"),
        ("0 0 3 L * *", "'L' is no day of month"),
        ("0 0 3 * * MON#1", "is no day of week"),
        ("60 * * * * *", "bad second"),
        ("0 0 0 31 2 *", "bad day-of-month"),
        ("0 0 0 1 * ; rm", "'rm' is no|7 fields|is no"),
        ("", "0 fields"),
    ],
)
def test_refused_in_one_line(expression: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        cron.checked(expression)
    assert "\n" not in str(caught.value)


@given(
    st.sampled_from(["0 0 3 * * *", "*/10 * * * * *", "5 4 */6 * * 1-5", "0 0 0 1 1 *"]),
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC)),
)
def test_last_and_next_enclose_any_moment(expression: str, moment: datetime) -> None:
    last, due = cron.last_until(expression, moment), cron.next_after(expression, moment)
    assert last <= moment < due
    assert cron.next_after(expression, last) == due
    assert cron.last_until(expression, last) == last
