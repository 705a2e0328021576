"""Which run backend and which schedule the settings name: Kubeflow Pipelines where they have its address, else here."""

from pathlib import Path

from config.settings import Settings
from serving.control.trigger.backend import RunBackend, Schedules
from serving.state import State


def backend_of(settings: Settings, home: Path) -> RunBackend:
    """Where retrainings run. `settings` have been through `with_home`; `home` is for runs on this machine."""
    if settings.kfp.endpoint is not None:
        from pipelines.kfp_backend import KfpBackend

        return KfpBackend(settings)
    from pipelines.local_backend import LocalBackend

    return LocalBackend(settings, home)


def schedules_of(settings: Settings, state: State) -> Schedules:
    """Where the recurring retraining is kept."""
    if settings.kfp.endpoint is not None:
        from pipelines.kfp_backend import KfpBackend

        return KfpBackend(settings)
    from serving.control.trigger.schedule import StateSchedules

    return StateSchedules(state)
