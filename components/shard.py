"""Batch step 1: a file is cut into parts, and the model version is pinned for all of them."""

from kfp.dsl import Dataset, Output, component

from components.step import IMAGE


@component(base_image=IMAGE, install_kfp_package=False)
def shard(
    settings: str,
    source: str,
    model: str,
    count: int,
    data_version: str,
    shards: Output[Dataset],
) -> str:
    """Fetch the file and cut it into at most `count` parts of consecutive rows (serving.predictor.batch).

    Args:
        settings: The resolved settings tree as JSON.
        source: Local path or address (s3://, https://) of a csv, jsonl or parquet file.
        model: Version number or alias.
        count: Number of parts.
        data_version: Fingerprint of the file and the model; a cached result is used only for the same one.
        shards: Folder with the parts.

    Returns:
        The version's number, the same for all parts whatever is promoted meanwhile.
    """
    import tempfile
    from pathlib import Path

    from components.step import step
    from config.settings import Settings
    from serving.addresses import fetched
    from serving.predictor.batch import shard as cut
    from serving.registry import Registry

    with step("shard"), tempfile.TemporaryDirectory() as work:
        tree = Settings.from_json(settings)
        number = Registry(tree.registry.uri or "", tree.registry.model).resolve(model).number
        cut(fetched(source, Path(work)), Path(shards.path), count, tree.data.encoding)
    return number
