"""Which run backend and which schedule the settings name: Kubeflow Pipelines where they have its address, else here."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from config.settings import Settings
from models.errors import UserError
from serving.control.trigger.backend import BackendRefused, BackendUnavailable, RunBackend, RunState, Schedules
from serving.state import State


class Runs(RunBackend, Protocol):
    """A run backend as people see it."""

    def listed(self, limit: int) -> list[RunState]:
        """The newest runs."""
        ...

    def progress(self, backend_id: str) -> tuple[RunState, Mapping[str, str]]:
        """A run and what is known of its steps: their state by name, in the order they began."""
        ...

    def failed_step(self, backend_id: str) -> tuple[str, str]:
        """Name of the step that failed and the end of its log; empty where there is none."""
        ...

    def artifacts(self, state: RunState) -> str:
        """Where the steps' artifacts lie."""
        ...


def backend_of(settings: Settings, home: Path) -> RunBackend:
    """Where retrainings run. `settings` have been through `with_home`; `home` is for runs on this machine."""
    if settings.kfp.endpoint is not None:
        from pipelines.kfp_backend import KfpBackend

        return KfpBackend(settings)
    from pipelines.local_backend import LocalBackend

    return LocalBackend(settings, home)


def runs_of(settings: Settings, home: Path, pipeline: str = "retrain") -> Runs:
    """As `backend_of`, for people: any pipeline (training, retrain, batch) on KFP, the retraining alone here.

    Raises UserError for another one here: it has a verb that runs it in the foreground.
    """
    if settings.kfp.endpoint is not None:
        from pipelines.kfp_backend import KfpBackend

        return KfpBackend(settings, f"hscode-{pipeline}")
    if pipeline != "retrain":
        verb = {"training": "hscode run", "batch": "hscode predict --input FILE --output FILE"}[pipeline]
        raise UserError(
            f"{pipeline} is not submitted on this machine", "setting kfp.endpoint is not set", f"run: {verb}"
        )
    from pipelines.local_backend import LocalBackend

    return LocalBackend(settings, home)


@contextmanager
def asked() -> Iterator[None]:
    """What a backend raises as the one line that a person is told."""
    try:
        yield
    except BackendUnavailable as error:
        raise UserError(str(error), todo="try again: what was started is found by its name") from None
    except BackendRefused as error:
        raise UserError(str(error)) from None


def schedules_of(settings: Settings, state: State) -> Schedules:
    """Where the recurring retraining is kept."""
    if settings.kfp.endpoint is not None:
        from pipelines.kfp_backend import KfpBackend

        return KfpBackend(settings)
    from serving.control.trigger.schedule import StateSchedules

    return StateSchedules(state)
