"""Which run backend and which schedule the settings name: Kubeflow Pipelines where they have its address, else here."""

from importlib import import_module
from pathlib import Path

from config.settings import Settings
from serving.control.trigger.backend import RunBackend, Schedules
from serving.state import State


def backend_of(settings: Settings, home: Path) -> RunBackend:
    """Where retrainings run. `settings` have been through `with_home`; `home` is for runs on this machine."""
    if settings.kfp.endpoint is not None:
        backend: RunBackend = import_module("pipelines.kfp_backend").KfpBackend(settings)
        return backend
    from pipelines.local_backend import LocalBackend

    return LocalBackend(settings, home)


def schedules_of(settings: Settings, state: State) -> Schedules:
    """Where the recurring retraining is kept."""
    if settings.kfp.endpoint is not None:
        schedules: Schedules = import_module("pipelines.kfp_backend").KfpBackend(settings)
        return schedules
    from serving.control.trigger.schedule import StateSchedules

    return StateSchedules(state)
