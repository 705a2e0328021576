"""Loading and importing side by side: the bundle's session is made while KServe is imported."""

import gc
import threading
from typing import Any

from serving.predictor.options import Options


def serve(options: Options) -> None:
    """Serve the bundle of `options` until SIGTERM. Raises UserError for a bundle or a port that is none."""
    loaded: dict[str, Any] = {}

    def load() -> None:
        try:
            from models.bundle import Bundle

            loaded["bundle"] = Bundle.load(options.model_dir, threads=options.threads)
            loaded["bundle"].answer(["warm up"])
        except BaseException as error:
            loaded["error"] = error

    gc.disable()
    loading = threading.Thread(target=load, name="load")
    loading.start()
    from serving.predictor.engine import Engine
    from serving.predictor.model import HSModel
    from serving.predictor.server import PredictorServer

    server = PredictorServer(options)
    loading.join()
    if "error" in loaded:
        raise loaded["error"]
    gc.freeze()
    gc.enable()
    engine = Engine(options.limits.waiting, options.batch_rows)
    server.start([HSModel(options.model_name, loaded["bundle"], engine, options.limits, options.version)])


def import_all() -> None:
    """Import what serving imports, and do nothing with it: the image's build has the bytecode written by this."""
    from serving.predictor import lean, options

    options.parse([])
    lean.install()
    import onnxruntime  # noqa: F401

    import models.answer
    import models.bundle
    import models.text.encode  # noqa: F401
    import serving.predictor.__main__
    import serving.predictor.openapi
    import serving.predictor.server  # noqa: F401


if __name__ == "__main__":
    import_all()
