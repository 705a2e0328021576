"""The state on both databases."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.state import State, open_state


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database's address, on each of the two; the folder of SQLite's is not there yet."""
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("postgres")
        return make()
    return f"sqlite:///{tmp_path}/deep/state.db"


@pytest.fixture
def state(url: str) -> Iterator[State]:
    """It, opened."""
    opened = open_state(url, upgrade=True)
    yield opened
    opened.close()
