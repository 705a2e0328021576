"""What the trigger asks of the place where pipelines run. Implementations are in `pipelines`; cli hands one in.

A backend submits the retraining pipeline (`pipelines.retrain`). It fills in the pipeline's parameter `settings` itself;
the caller's parameters are the others:

- ``run_key``: the run's name, so that a run which is started again registers no second version;
- ``triggered_by``: the trigger's key, e.g. ``alertmanager:…``;
- ``since``: ISO 8601 moment from which corrections are taken; empty: since the champion was made;
- ``data_until``: id of the last decision on new data whose addresses the ingest step reads from the state
  (`serving.state.arrivals`); empty: none. Addresses themselves would outgrow what one argument of a process may hold;
- ``new_data``: addresses of further sources that a person names, one a line; may be empty;
- ``data_version``: fingerprint for the ingest step's cache; empty: the backend's affair.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

Value = str | float | int | bool
Status = Literal["intended", "running", "succeeded", "failed"]


class BackendUnavailable(Exception):
    """No answer, or a 5xx: try later. Whether a submitted run was started is not known: look by name."""


class BackendRefused(Exception):
    """A clear no (4xx): the same request will never start a run."""


@dataclass(frozen=True)
class RunState:
    """What a backend says of one run."""

    backend_id: str
    name: str
    status: Status
    """intended: known to the backend, nothing runs yet. succeeded and failed are the end."""
    error: str = ""
    """Why it failed, one line."""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class RunBackend(Protocol):
    """Where runs are started. Each call raises BackendUnavailable or BackendRefused and has its own deadline."""

    @property
    def name(self) -> Literal["kfp", "local"]:
        """What `runs.backend` says."""
        ...

    def find(self, name: str) -> RunState | None:
        """The run of this exact name; the oldest where there are several."""
        ...

    def submit(self, name: str, parameters: Mapping[str, Value], tags: Mapping[str, str]) -> str:
        """Start a run; returns the backend's id. Not idempotent: the caller looks by name before."""
        ...

    def status(self, backend_id: str) -> RunState:
        """How a submitted run is. An id that is unknown is BackendRefused."""
        ...


@dataclass(frozen=True)
class ScheduleState:
    """The recurring retraining as it is set."""

    cron: str
    """Six fields: second, minute, hour, day of month, month, day of week; UTC."""
    enabled: bool = True
    next_at: datetime | None = None
    """When it is due next, where that is known."""
    backend_id: str = ""


class Schedules(Protocol):
    """The one recurring retraining: a recurring run on KFP, a row in the state that the trigger fires locally.

    Never catches up: what was due while it was down is not run late.
    """

    def set_schedule(self, cron: str) -> ScheduleState:
        """Set or replace it. `cron` has been checked (`serving.control.trigger.cron`)."""
        ...

    def show(self) -> ScheduleState | None:
        """As it is; None: there is none."""
        ...

    def remove(self) -> bool:
        """Take it away; False: there was none."""
        ...
