"""One small training of each kind on the synthetic sample, shared by the tests of behaviour."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from config.settings import Settings, load_settings
from models.bundle import Bundle

KINDS = ("textcnn", "bilstm", "transformer", "dnn", "svc", "encoder", "pool")
SMALL = (
    "data.sample_rows=8000",
    "train.epochs=4",
    "train.threads=1",
    "explain.index_rows=2000",
)


@pytest.fixture(scope="session")
def small() -> Settings:
    """Settings of a training that takes seconds."""
    return load_settings(assignments=SMALL)


@pytest.fixture(scope="session")
def sample_parts(tmp_path_factory: pytest.TempPathFactory, small: Settings) -> Path:
    """Folder of the split of a synthetic sample, with its embedding beside it."""
    from models.data.ingest import ingest
    from models.data.split import split
    from models.text.embedding import train_embedding

    home = tmp_path_factory.mktemp("sample")
    ingest(small, home / "rows")
    split(home / "rows", small, home / "parts")
    train_embedding(home / "parts", small, home / "embedding")
    return home / "parts"


@pytest.fixture(scope="session")
def trained(sample_parts: Path, small: Settings, request: pytest.FixtureRequest) -> Callable[[str], Bundle]:
    """Kind → its bundle, trained once a session; `encoder` stands on MiniLM and is skipped where that is not there."""
    from models.training import train_bundle

    home = sample_parts.parent

    @cache
    def of(kind: str) -> Bundle:
        members = {name: of(name).folder for name in ("textcnn", "svc")} if kind == "pool" else None
        settings = small
        if kind == "encoder":
            folder = request.getfixturevalue("minilm")
            settings = load_settings(assignments=(*SMALL, f"models.encoder.source={folder}", "models.encoder.heads=1"))
        train_bundle(kind, sample_parts, home / "embedding", settings, home / kind, members=members)
        return Bundle.load(home / kind)

    return of
