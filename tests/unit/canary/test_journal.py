"""What the canary's rows in the state tell."""

from pathlib import Path

from serving.control.canary import journal
from serving.state import open_state
from tests.unit.canary.test_blocks import canary


def test_a_version_was_tried_where_that_service_had_its_canary(tmp_path: Path) -> None:
    state = open_state(f"sqlite:///{tmp_path}/state.db", upgrade=True)
    try:
        with state.write() as session:
            session.add(canary())
        with state.read() as session:
            assert journal.tried(session, "hscode", "2", "hscode", "shop")
            assert journal.tried(session, "hscode", "2", "hscode")
            assert not journal.tried(session, "hscode", "2", "hscode", "another")
            assert not journal.tried(session, "hscode", "2", "second", "shop")
            assert not journal.tried(session, "hscode", "3", "hscode", "shop")
            assert not journal.tried(session, "other", "2", "hscode", "shop")
    finally:
        state.close()
