"""Step of a warm retraining: the bundle that training begins at."""

from kfp.dsl import Model, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def champion(settings: str, bundle: Output[Model]) -> None:
    """Copy the champion's bundle from the registry; an empty folder where there is none.

    Args:
        settings: The resolved settings tree as JSON.
        bundle: The champion's bundle.
    """
    import shutil
    import tempfile
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from serving.registry import Registry

    with step("champion"), tempfile.TemporaryDirectory() as cache:
        tree, out = Settings.from_json(settings), Path(bundle.path)
        registry = Registry(tree.registry.uri or "", tree.registry.model)
        out.mkdir(parents=True, exist_ok=True)
        version = registry.find("champion")
        if version is not None:
            shutil.copytree(registry.folder(version.number, Path(cache)), out, dirs_exist_ok=True)
        bundle.metadata["version"] = "" if version is None else version.number
