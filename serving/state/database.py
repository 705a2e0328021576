"""Opening the state: an engine, sessions that read or write, and migrations."""

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session

from models.errors import UserError, made_folder

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30.0
"""How long a SQLite writer waits for another before it fails."""
_POSTGRESQL_CONNECTION = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "target_session_attrs": "read-write",
}
"""libpq's; seconds, the time-out of TCP in milliseconds. Without them a server that vanished is waited for by minutes.
Of the hosts of an address the one that takes writes is taken; a standby alone is no database to us."""
_READ_ONLY = "25006"
"""PostgreSQL's state for a write in a session that only reads."""
_ADVISORY_LOCK = 0x68735F636F6465
"""Key of PostgreSQL's advisory lock that lets one process migrate at a time."""


def insert_into(dialect: str, table: Any) -> Any:
    """The dialect's own INSERT into a table or mapped class, which can say what happens on a conflict."""
    return (sqlite if dialect == "sqlite" else postgresql).insert(table)


class State:
    """The database. Sessions of `read` see one consistent moment; a session of `write` is one transaction.

    On SQLite a write takes the write lock at its start (BEGIN IMMEDIATE): it waits for others instead of failing
    halfway. A commit is on the disk when `write` returns (WAL with synchronous=FULL; PostgreSQL's default).
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writes = engine.execution_options(hs_begin="BEGIN IMMEDIATE")

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that is rolled back at its end."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session that is committed at its end, or rolled back when the block raises."""
        with Session(self._writes, expire_on_commit=False) as session, session.begin():
            yield session

    @property
    def dialect(self) -> str:
        """sqlite or postgresql."""
        return self.engine.dialect.name

    def close(self) -> None:
        """Give back all connections."""
        self.engine.dispose()


def open_state(url: str, *, upgrade: bool | None = None) -> State:
    """Open the state at an SQLAlchemy `url` (``sqlite:///file`` or ``postgresql+psycopg://…``).

    `upgrade` brings the schema to this code's version. None: on SQLite yes, on PostgreSQL no: there `hscode state
    migrate` (a Job) does it and anything else refuses to run on an older schema. Raises UserError when the database
    cannot be reached, its schema is older or newer than this code, or the address is not one.
    """
    engine = _engine(url)
    if upgrade is None:
        upgrade = engine.dialect.name == "sqlite"
    try:
        if upgrade:
            migrate(engine)
        else:
            _refuse_other_schema(engine)
    except OperationalError as error:
        engine.dispose()
        raise UserError(f"cannot reach the database ({str(error.orig).strip().splitlines()[0]})", _shown(url)) from None
    except BaseException:
        engine.dispose()
        raise
    return State(engine)


def migrate(engine: Engine) -> str:
    """Bring the schema to the newest revision; returns it. Safe to call from several processes at once."""
    from alembic import command

    with engine.execution_options(hs_begin="BEGIN IMMEDIATE").begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        before, newest = _current(connection), _newest()
        if before == newest:
            return newest
        _refuse_unknown(before, engine)
        command.upgrade(_alembic(connection), "head")
    log.info("state migrated from %s to %s", before or "nothing", newest)
    return newest


def schema_difference(engine: Engine) -> list[Any]:
    """What alembic's autogenerate would still change: empty when tables and migrations agree."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from serving.state.tables import Base

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": connection.dialect.name == "postgresql"}
        )
        return list(compare_metadata(context, Base.metadata))


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise UserError(
                "the state lives in SQLite or PostgreSQL", _shown(url), "sqlite:///FILE or postgresql+psycopg://…"
            )
        if parsed.get_backend_name() == "sqlite":
            if parsed.database and parsed.database != ":memory:":
                made_folder(Path(parsed.database).parent, "choose another --home, or set state.url")
            engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine = create_engine(
            parsed, pool_pre_ping=True, pool_size=5, max_overflow=10, connect_args=dict(_POSTGRESQL_CONNECTION)
        )
        event.listen(engine, "handle_error", _leave_a_standby, retval=True)
        return engine
    except (ArgumentError, NoSuchModuleError) as error:
        raise UserError(f"not a database address ({error})", _shown(url)) from None


def _leave_a_standby(context: ExceptionContext) -> OperationalError | None:
    """A server that became a standby while we were connected: its connections are dropped, and who asked is told what
    it would be told of a server that is gone, so that it tries again."""
    error = context.original_exception
    if getattr(error, "sqlstate", None) != _READ_ONLY:
        return None
    context.is_disconnect = True
    return OperationalError(context.statement, None, error, hide_parameters=True, connection_invalidated=True)


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # Transactions are begun by `_begin_sqlite`, not by the driver's guesses.
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        _set_pragma(cursor, pragma)
    cursor.close()


def _set_pragma(cursor: sqlite3.Cursor, pragma: str) -> None:
    """The change to WAL does not wait for another that makes it too, whatever the time-out: tried again so long."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute(f"PRAGMA {pragma}")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("hs_begin", "BEGIN"))


def _alembic(connection: Connection | None = None) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _newest() -> str:
    from alembic.script import ScriptDirectory

    newest = ScriptDirectory.from_config(_alembic()).get_current_head()
    if newest is None:
        raise RuntimeError(f"no migrations under {MIGRATIONS}")
    return newest


def _current(connection: Connection) -> str | None:
    from alembic.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()


def _refuse_unknown(revision: str | None, engine: Engine) -> None:
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}
    if revision is not None and revision not in known:
        raise UserError(
            f"the database's schema {revision} is newer than this program",
            engine.url.render_as_string(),
            "run the newer program",
        )


def _refuse_other_schema(engine: Engine) -> None:
    with engine.connect() as connection:
        current = _current(connection)
    _refuse_unknown(current, engine)
    if current != _newest():
        raise UserError(
            f"the database's schema is {current or 'missing'}, this program needs {_newest()}",
            engine.url.render_as_string(),
            "run: hscode state migrate",
        )


def _shown(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "state address"
