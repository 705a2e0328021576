"""Step 9: the version is handed to serving."""

from kfp.dsl import component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def deploy(settings: str, version: str, rollout: str = "") -> str:
    """Make the first version champion at once; a later one becomes challenger, for the canary to decide.

    Args:
        settings: The resolved settings tree as JSON.
        version: Number of the registered version.
        rollout: "direct" or "canary"; empty: as the settings say.

    Returns:
        "champion" or "challenger".
    """
    from components.step import step
    from config.settings import Settings
    from serving.handover import hand_over

    with step("deploy"):
        return hand_over(Settings.from_json(settings), version, rollout)
