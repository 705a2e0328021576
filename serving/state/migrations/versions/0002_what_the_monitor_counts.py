"""What the monitor counts: sketches of windows, and requests that waited in vain.

Revision: 0002.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
WAITING = sa.text("response_at IS NULL AND NOT unanswered")


def upgrade() -> None:
    """Forward."""
    op.add_column("events", sa.Column("unanswered", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_index("ix_events_at", "events", ["at"], unique=False)
    op.create_index("ix_events_waiting", "events", ["request_at"], sqlite_where=WAITING, postgresql_where=WAITING)
    op.create_table(
        "sketches",
        sa.Column("service", sa.String(length=63), nullable=False),
        sa.Column("version", sa.String(length=63), nullable=False),
        sa.Column("begins_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("writer", sa.String(length=100), nullable=False),
        sa.Column("counts", JSON, nullable=False),
        sa.PrimaryKeyConstraint("service", "version", "begins_at", "writer", name="pk_sketches"),
    )
    op.create_index("ix_sketches_begins_at", "sketches", ["begins_at"], unique=False)


def downgrade() -> None:
    """Back."""
    op.drop_table("sketches")
    op.drop_index("ix_events_waiting", "events")
    op.drop_index("ix_events_at", "events")
    op.drop_column("events", "unanswered")
