"""Where tests find what lies beside the project; absent parts skip with the reason, and fail on CI."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def missing(reason: str) -> None:
    """Skip the test with `reason`; on CI (``CI=true``) a missing part is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"missing on CI: {reason}")
    pytest.skip(reason)


def _beside(name: str) -> Path:
    if not (SHARED / name).exists():
        missing(f"shared/{name} is not beside the project")
    return SHARED / name


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real descriptions."""
    return _beside("data")


@pytest.fixture(scope="session")
def shared_cluster() -> Path:
    """Folder whose `up` starts a real Kubernetes."""
    return _beside("cluster")


@pytest.fixture(scope="session")
def shared_encoders() -> Path:
    """Folder whose `get` makes a pre-trained encoder's folder."""
    return _beside("encoders")
