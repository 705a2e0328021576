"""The first schema: events, corrections, canaries, trigger decisions, runs, leases.

Revision: 0001.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "canary",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("namespace", sa.String(length=63), nullable=False),
        sa.Column("service", sa.String(length=63), nullable=False),
        sa.Column("service_uid", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("champion_version", sa.String(length=63), nullable=False),
        sa.Column("challenger_version", sa.String(length=63), nullable=False),
        sa.Column("champion_uri", sa.Text(), nullable=False),
        sa.Column("challenger_uri", sa.Text(), nullable=False),
        sa.Column("policy", JSON, nullable=False),
        sa.Column("run_name", sa.String(length=200), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("latest", JSON, nullable=True),
        sa.Column("command", JSON, nullable=True),
        sa.Column("started_by", sa.String(length=200), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("before", JSON, nullable=True),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("step_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("row_version", sa.Integer(), nullable=False),
        sa.CheckConstraint("percent >= 0 AND percent <= 100", name="ck_canary_percent"),
        sa.PrimaryKeyConstraint("id", name="pk_canary"),
    )
    op.create_index(
        "uq_canary_undecided",
        "canary",
        ["namespace", "service"],
        unique=True,
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )

    op.create_table(
        "corrections",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("ce_id", sa.String(length=200), nullable=False),
        sa.Column("answer_ce_id", sa.String(length=200), nullable=True),
        sa.Column("answer_position", sa.Integer(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("text_hash", sa.String(length=32), nullable=False),
        sa.Column("code", sa.String(length=6), nullable=False),
        sa.Column("edition", sa.String(length=63), nullable=False),
        sa.Column("who", sa.String(length=200), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("said_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("withdrawn_by", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_corrections"),
        sa.UniqueConstraint("ce_id", name="uq_corrections_ce_id"),
    )
    op.create_index("ix_corrections_answer_ce_id", "corrections", ["answer_ce_id"], unique=False)
    op.create_index("ix_corrections_recorded_at", "corrections", ["recorded_at"], unique=False)
    op.create_index("ix_corrections_text_hash", "corrections", ["text_hash"], unique=False)

    op.create_table(
        "events",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("ce_id", sa.String(length=200), nullable=False),
        sa.Column("namespace", sa.String(length=63), nullable=False),
        sa.Column("service", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("request_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("response_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=True),
        sa.Column("client_error", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("cold", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("texts", JSON, nullable=True),
        sa.Column("text_hashes", JSON, nullable=True),
        sa.Column("features", JSON, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.UniqueConstraint("ce_id", name="uq_events_ce_id"),
    )
    op.create_index("ix_events_namespace_service_at", "events", ["namespace", "service", "at"], unique=False)
    op.create_index("ix_events_version_at", "events", ["version", "at"], unique=False)

    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("holder", sa.String(length=200), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.create_table(
        "runs",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("backend", sa.String(length=16), nullable=False),
        sa.Column("backend_id", sa.String(length=200), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("parameters", JSON, nullable=False),
        sa.Column("tags", JSON, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.UniqueConstraint("name", name="uq_runs_name"),
    )
    op.create_index("ix_runs_created_at", "runs", ["created_at"], unique=False)

    op.create_table(
        "trigger_decisions",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decision", sa.String(length=16), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_name", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_trigger_decisions"),
        sa.UniqueConstraint("key", name="uq_trigger_decisions_key"),
    )
    op.create_index("ix_trigger_decisions_received_at", "trigger_decisions", ["received_at"], unique=False)
    op.create_index("ix_trigger_decisions_run_name", "trigger_decisions", ["run_name"], unique=False)

    op.create_table(
        "answers",
        sa.Column("event_id", BIG_ID, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=6), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("text_hash", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name="fk_answers_event_id_events", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("event_id", "position", name="pk_answers"),
    )
    op.create_index("ix_answers_text_hash", "answers", ["text_hash"], unique=False)
    op.create_index("ix_answers_version_at", "answers", ["version", "at"], unique=False)

    op.create_table(
        "canary_blocks",
        sa.Column("canary_id", BIG_ID, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=False),
        sa.Column("counts", JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["canary_id"], ["canary.id"], name="fk_canary_blocks_canary_id_canary", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("canary_id", "number", name="pk_canary_blocks"),
    )
    op.create_table(
        "canary_steps",
        sa.Column("id", BIG_ID, nullable=False),
        sa.Column("canary_id", BIG_ID, nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("percent_before", sa.Integer(), nullable=False),
        sa.Column("percent_after", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence", JSON, nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("intent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["canary_id"], ["canary.id"], name="fk_canary_steps_canary_id_canary", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_canary_steps"),
        sa.UniqueConstraint("canary_id", "sequence", name="uq_canary_steps_canary_id_sequence"),
    )


def downgrade() -> None:
    """Back: all of it goes."""
    for table in (
        "canary_steps",
        "canary_blocks",
        "answers",
        "trigger_decisions",
        "runs",
        "leases",
        "events",
        "corrections",
        "canary",
    ):
        op.drop_table(table)
