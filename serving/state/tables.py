"""The tables of the state: events, corrections, canaries, trigger decisions, runs, schedules and leases.

One schema for SQLite (embedded) and PostgreSQL (cluster). Times are UTC and aware on both. A change here needs a
migration in `migrations/versions`; `tests/unit/state` compares the two on both databases.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Utc(TypeDecorator[datetime]):
    """A moment in UTC, microseconds. Refuses a naive datetime: it would mean another moment on another machine."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database: SQLite keeps no zone, so the UTC wall time goes in."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}; times in the state are aware")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database: always aware, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


BigId = BigInteger().with_variant(Integer, "sqlite")
"""A 64-bit key; SQLite counts up only a column typed INTEGER."""
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class Base(DeclarativeBase):
    """Constraint names are fixed so that migrations can name them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Event(Base):
    """One inference: the logger's request and response event with the same ``ce-id`` fill the two halves of a row.

    Each half is stored once, so an event is unique by ce-id and type. KServe's logger sends no response event unless
    the status is 200, so a request without a response after the time-out is an error (or a lost event).
    """

    __tablename__ = "events"
    __table_args__ = (
        Index(None, "namespace", "service", "at"),
        Index(None, "version", "at"),
        Index(None, "at"),
        Index(
            "ix_events_waiting",
            "request_at",
            sqlite_where=text("response_at IS NULL AND NOT unanswered"),
            postgresql_where=text("response_at IS NULL AND NOT unanswered"),
        ),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    ce_id: Mapped[str] = mapped_column(String(200), unique=True)
    namespace: Mapped[str] = mapped_column(String(63), default="")
    service: Mapped[str] = mapped_column(String(63))
    version: Mapped[str] = mapped_column(String(63), default="")
    at: Mapped[datetime] = mapped_column(Utc)
    """Time of the half that was stored first; windows are cut by it."""
    request_at: Mapped[datetime | None] = mapped_column(Utc)
    response_at: Mapped[datetime | None] = mapped_column(Utc)
    stored_at: Mapped[datetime] = mapped_column(Utc)
    instances: Mapped[int | None] = mapped_column(Integer)
    """Descriptions in the request."""
    client_error: Mapped[bool] = mapped_column(Boolean, default=False, server_default=text("false"))
    """The request itself is at fault (not JSON, no instances, over a limit): no error of the version."""
    cold: Mapped[bool] = mapped_column(Boolean, default=False, server_default=text("false"))
    """Known to have waited for a start from zero."""
    unanswered: Mapped[bool] = mapped_column(Boolean, default=False, server_default=text("false"))
    """A monitor has waited long enough for the response and counted the request as an error, once."""
    texts: Mapped[list[str] | None] = mapped_column(Json)
    """The descriptions as sent, or redacted, or None, as the monitor's settings say."""
    text_hashes: Mapped[list[str] | None] = mapped_column(Json)
    """`serving.state.events.text_hash` of each description; kept when the texts are not."""
    features: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """What drift needs of the request (token counts, lengths, scripts); the monitor decides."""


class Answer(Base):
    """One answered description of an event."""

    __tablename__ = "answers"
    __table_args__ = (Index(None, "text_hash"), Index(None, "version", "at"))

    event_id: Mapped[int] = mapped_column(ForeignKey("events.id", ondelete="CASCADE"), type_=BigId, primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    version: Mapped[str] = mapped_column(String(63))
    at: Mapped[datetime] = mapped_column(Utc)
    status: Mapped[str] = mapped_column(String(16))
    """answered, shortened, vague or unsure."""
    code: Mapped[str] = mapped_column(String(6))
    confidence: Mapped[float] = mapped_column(Float)
    text_hash: Mapped[str | None] = mapped_column(String(32))


class Sketch(Base):
    """What one monitor saw of one version's texts and answers in one stretch of time: counts, no texts.

    Written in the transaction that stores the events. Each monitor has rows of its own (`writer`), so that several do
    not wait for each other; the sum over writers is what was seen.
    """

    __tablename__ = "sketches"
    __table_args__ = (Index(None, "begins_at"),)

    service: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[str] = mapped_column(String(63), primary_key=True)
    begins_at: Mapped[datetime] = mapped_column(Utc, primary_key=True)
    writer: Mapped[str] = mapped_column(String(100), primary_key=True)
    counts: Mapped[dict[str, Any]] = mapped_column(Json)
    """`serving.control.monitor.sketches.Sketch.to_json`."""


class Correction(Base):
    """What an expert says is right, for one answer or for a text. Never updated but to be withdrawn."""

    __tablename__ = "corrections"
    __table_args__ = (Index(None, "text_hash"), Index(None, "recorded_at"), Index(None, "answer_ce_id"))

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    ce_id: Mapped[str] = mapped_column(String(200), unique=True)
    """Id of the CloudEvent or of the imported line: the same correction sent twice counts once."""
    answer_ce_id: Mapped[str | None] = mapped_column(String(200))
    """ce-id of the event whose answer is meant; None: every answer to this text."""
    answer_position: Mapped[int | None] = mapped_column(Integer)
    description: Mapped[str | None] = mapped_column(Text)
    text_hash: Mapped[str] = mapped_column(String(32))
    code: Mapped[str] = mapped_column(String(6))
    """The right code, 2, 4 or 6 digits."""
    edition: Mapped[str] = mapped_column(String(63))
    who: Mapped[str] = mapped_column(String(200))
    why: Mapped[str] = mapped_column(Text, default="")
    said_at: Mapped[datetime] = mapped_column(Utc)
    recorded_at: Mapped[datetime] = mapped_column(Utc)
    withdrawn_at: Mapped[datetime | None] = mapped_column(Utc)
    withdrawn_by: Mapped[str | None] = mapped_column(String(200))


class Canary(Base):
    """One challenger's way to 100 % or back. One undecided canary a service.

    `state` goes starting → stepping → promoting → promoted, or → rolling_back → rolled_back, or → gone (the service was
    deleted), or → superseded (someone put another model into the spec). `row_version` makes every change a
    compare-and-set: of two controllers only one writes a step.
    """

    __tablename__ = "canary"
    __table_args__ = (
        Index(
            "uq_canary_undecided",
            "namespace",
            "service",
            unique=True,
            sqlite_where=text("finished_at IS NULL"),
            postgresql_where=text("finished_at IS NULL"),
        ),
        CheckConstraint("percent >= 0 AND percent <= 100", name="percent"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    namespace: Mapped[str] = mapped_column(String(63), default="")
    service: Mapped[str] = mapped_column(String(63))
    service_uid: Mapped[str] = mapped_column(String(63))
    """Of the InferenceService at the start: one of the same name made later is another."""
    model: Mapped[str] = mapped_column(String(200))
    """Name of the registered model, whose alias moves at promotion."""
    champion_version: Mapped[str] = mapped_column(String(63))
    challenger_version: Mapped[str] = mapped_column(String(63))
    champion_uri: Mapped[str] = mapped_column(Text)
    """Storage address in the spec before the canary: what a rollback restores."""
    challenger_uri: Mapped[str] = mapped_column(Text)
    policy: Mapped[dict[str, Any]] = mapped_column(Json)
    """The settings section the canary was started with; later changes of settings do not touch it."""
    run_name: Mapped[str | None] = mapped_column(String(200))
    """The run that made the challenger (runs.name): lineage alert → run → version → canary → verdict."""
    state: Mapped[str] = mapped_column(String(16))
    percent: Mapped[int] = mapped_column(Integer)
    """Share of traffic that is wanted for the challenger; what is, the deployment says."""
    reason: Mapped[str] = mapped_column(Text, default="")
    latest: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """The last verdict on the last closed block, for people who look."""
    command: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """What a person asked for and the controller has not yet done: {"verb", "who", "why"}."""
    started_by: Mapped[str] = mapped_column(String(200), default="")
    started_at: Mapped[datetime] = mapped_column(Utc)
    before: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """What was seen of the champion in the time before: where the statistics start from."""
    first_seen_at: Mapped[datetime | None] = mapped_column(Utc)
    """When the challenger was first seen with its share of traffic; blocks start here."""
    step_since: Mapped[datetime | None] = mapped_column(Utc)
    """Since when the wanted share has been seen in the deployment; None: not yet."""
    deadline_at: Mapped[datetime] = mapped_column(Utc)
    finished_at: Mapped[datetime | None] = mapped_column(Utc)
    row_version: Mapped[int] = mapped_column(Integer)

    __mapper_args__ = {"version_id_col": row_version}  # noqa: RUF012


class CanaryStep(Base):
    """One decision: written as intent before anything is done, confirmed when it is seen to be done."""

    __tablename__ = "canary_steps"
    __table_args__ = (UniqueConstraint("canary_id", "sequence"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    canary_id: Mapped[int] = mapped_column(ForeignKey("canary.id", ondelete="CASCADE"), type_=BigId)
    sequence: Mapped[int] = mapped_column(Integer)
    action: Mapped[str] = mapped_column(String(16))
    """start, step, promote, rollback, gone, superseded."""
    percent_before: Mapped[int] = mapped_column(Integer)
    percent_after: Mapped[int] = mapped_column(Integer)
    verdict: Mapped[str] = mapped_column(String(16), default="")
    reason: Mapped[str] = mapped_column(Text, default="")
    evidence: Mapped[dict[str, Any]] = mapped_column(Json)
    """The statistics the decision rests on."""
    actor: Mapped[str] = mapped_column(String(200))
    """Which controller, or which person."""
    intent_at: Mapped[datetime] = mapped_column(Utc)
    done_at: Mapped[datetime | None] = mapped_column(Utc)


class CanaryBlock(Base):
    """What was seen of both versions in one closed stretch of time: the evidence, append-only.

    Verdicts use nothing else, so each can be computed again from here after the events are gone.
    """

    __tablename__ = "canary_blocks"

    canary_id: Mapped[int] = mapped_column(
        ForeignKey("canary.id", ondelete="CASCADE"), type_=BigId, primary_key=True, autoincrement=False
    )
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    opened_at: Mapped[datetime] = mapped_column(Utc)
    closed_at: Mapped[datetime] = mapped_column(Utc)
    percent: Mapped[int] = mapped_column(Integer)
    counts: Mapped[dict[str, Any]] = mapped_column(Json)


class TriggerDecision(Base):
    """One thing that happened and what was decided about it. By its key one alert is one row however often sent."""

    __tablename__ = "trigger_decisions"
    __table_args__ = (Index(None, "received_at"), Index(None, "run_name"))

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    key: Mapped[str] = mapped_column(String(200), unique=True)
    source: Mapped[str] = mapped_column(String(32))
    """alertmanager, data, object_store, person, schedule."""
    payload: Mapped[dict[str, Any]] = mapped_column(Json)
    deliveries: Mapped[int] = mapped_column(Integer, default=1)
    received_at: Mapped[datetime] = mapped_column(Utc)
    decision: Mapped[str | None] = mapped_column(String(16))
    """run, refuse, dry_run; None: accepted, not yet decided."""
    reason: Mapped[str] = mapped_column(Text, default="")
    decided_at: Mapped[datetime | None] = mapped_column(Utc)
    run_name: Mapped[str | None] = mapped_column(String(200))


class Run(Base):
    """A pipeline run that was decided on; the name is derived from its trigger, so a second submit finds the first."""

    __tablename__ = "runs"
    __table_args__ = (Index(None, "created_at"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    backend: Mapped[str] = mapped_column(String(16))
    """kfp or local."""
    backend_id: Mapped[str | None] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(16))
    """intended, submitting, running, succeeded, failed."""
    parameters: Mapped[dict[str, Any]] = mapped_column(Json)
    tags: Mapped[dict[str, Any]] = mapped_column(Json)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    error: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(Utc)
    submitted_at: Mapped[datetime | None] = mapped_column(Utc)
    finished_at: Mapped[datetime | None] = mapped_column(Utc)


class Schedule(Base):
    """The recurring retraining where no run backend keeps it: the trigger fires it. At most one row."""

    __tablename__ = "schedules"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    cron: Mapped[str] = mapped_column(String(200))
    """Six fields, seconds first, UTC."""
    set_at: Mapped[datetime] = mapped_column(Utc)
    """Times that were due before are not run."""


class LeaseRow(Base):
    """Who may act under a name, and until when. The token grows with each new holder (fencing)."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    holder: Mapped[str] = mapped_column(String(200))
    token: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[float] = mapped_column(Float(53))
    """Seconds since 1970 by the database's clock."""
