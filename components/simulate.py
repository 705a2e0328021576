"""Step 5b, where the settings ask for it: all kinds trained many times, to tell difference from chance."""

from kfp.dsl import Artifact, Dataset, Input, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def simulate(
    settings: str,
    parts: Input[Dataset],
    embedding: Input[Artifact],
    runs: Output[Artifact],
) -> None:
    """Train all kinds on grouped resamples with several seeds and compare their scores (models.simulation).

    Args:
        settings: The resolved settings tree as JSON.
        parts: Folder of the split step.
        embedding: Folder of the embed step.
        runs: Folder with simulation.json.
    """
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from models.simulation import simulate as simulated

    with step("simulate"):
        tree = Settings.from_json(settings)
        simulated(tree.models.trained, Path(parts.path), Path(embedding.path), tree, Path(runs.path))
