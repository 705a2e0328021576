"""What a home folder fills in: everything that settings leave to this machine."""

from pathlib import Path

from config.settings import Settings
from serving.registry import home_uri


def with_home(settings: Settings, home: Path) -> Settings:
    """Registry, deployment target and state in `home`, where the settings do not name others."""
    registry, deploy, state = settings.registry, settings.deploy, settings.state
    if registry.uri is None:
        registry = registry.model_copy(update={"uri": home_uri(home)})
    if deploy.target is None:
        deploy = deploy.model_copy(update={"target": f"local:{home.resolve()}"})
    if state.url is None:
        state = state.model_copy(update={"url": f"sqlite:///{home.resolve()}/state.db"})
    return settings.model_copy(update={"registry": registry, "deploy": deploy, "state": state})
