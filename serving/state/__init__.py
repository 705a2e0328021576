"""What must not be lost (events, corrections, decisions, runs, leases): SQLite embedded, PostgreSQL on a cluster."""

from serving.state.database import State, migrate, open_state
from serving.state.lease import Lease, SqlLease

__all__ = ["Lease", "SqlLease", "State", "migrate", "open_state"]
