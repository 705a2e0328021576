"""Where tests find what lies beside the project; absent parts skip with the reason, and fail on CI."""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Before torch is imported: tests run side by side, and its threads would spin while they wait (pipelines/local.py).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def missing(reason: str) -> None:
    """Skip the test with `reason`; on CI (``CI=true``) a missing part is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"missing on CI: {reason}")
    pytest.skip(reason)


def beside(name: str) -> Path:
    """A folder of ``../shared``. ``HSCODE_WITHOUT_SHARED`` says that a machine has none and need not."""
    if not (SHARED / name).exists():
        if os.environ.get("HSCODE_WITHOUT_SHARED"):
            pytest.skip(f"shared/{name}: HSCODE_WITHOUT_SHARED is set")
        missing(f"shared/{name} is not beside the project")
    return SHARED / name


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real descriptions."""
    return beside("data")


@pytest.fixture(scope="session")
def shared_cluster() -> Path:
    """Folder whose `up` starts a real Kubernetes."""
    return beside("cluster")


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of all-MiniLM-L6-v2."""
    folder = tmp_path_factory.mktemp("encoders") / "minilm"
    got = subprocess.run([str(beside("encoders") / "get"), "minilm", str(folder)], capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    return folder


@contextmanager
def running_postgres(ip: str = "", port: int = 5432) -> Iterator[Path]:
    """A throw-away PostgreSQL (initdb and postgres of PATH or Debian); gives the folder of its Unix socket.

    With `ip` it listens there too; user and password are then `hscode`.
    """
    programs = [Path(found).resolve().parent] if (found := shutil.which("postgres")) else []
    programs += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not programs:
        missing("PostgreSQL is not installed (Debian: postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="hs-postgres-"))
    password = folder / "password"
    password.write_text("hscode")
    # The server refuses to run as root.
    account = {"user": "nobody", "group": "nogroup"} if os.getuid() == 0 else {}
    if account:
        shutil.chown(folder, **account)
        folder.chmod(0o755)
    data = folder / "data"
    made = ["--auth=trust", f"--pwfile={password}", "--no-sync", "-E", "UTF8", "--locale=C"]
    subprocess.run(
        [programs[0] / "initdb", "-D", data, "-U", "hscode", *made],
        check=True, capture_output=True, cwd=folder, **account,
    )  # fmt: skip
    with (data / "pg_hba.conf").open("a") as access:
        access.write("host all all all scram-sha-256\n")
    options = ["-c", f"listen_addresses={ip}", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [programs[0] / "postgres", "-D", data, "-k", folder, "-p", str(port), *options],
            stdout=log, stderr=log, cwd=folder, **account,
        )  # fmt: skip
    try:
        while subprocess.run(
            [programs[0] / "pg_isready", "-q", "-h", folder, "-p", str(port), "-t", "1"], check=False
        ).returncode:
            assert server.poll() is None, (folder / "log").read_text()
        yield folder
    finally:
        server.send_signal(2)  # SIGINT: the "fast" shutdown
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Path]:
    """A throw-away PostgreSQL; gives the folder of its Unix socket."""
    with running_postgres() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres(postgres_server: Path) -> Callable[[], str]:
    """Makes a new empty database on the throw-away server; gives its SQLAlchemy address."""
    import psycopg

    def new_database() -> str:
        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(
            host=str(postgres_server), user="hscode", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://hscode@/{name}?host={postgres_server}"

    return new_database
