"""Loading and importing side by side: the bundle's session is made while KServe is imported."""

import gc
import threading
from typing import Any

from serving.predictor.options import Options
from serving.predictor.timeline import Timeline


def serve(options: Options) -> None:
    """Serve the bundle of `options` until SIGTERM. Raises UserError for a bundle or a port that is none."""
    loaded: dict[str, Any] = {}
    timeline = Timeline()
    timeline.mark("begun")

    def load() -> None:
        try:
            from models.bundle import Bundle

            loaded["bundle"] = Bundle.load(options.model_dir, threads=options.threads)
            loaded["bundle"].answer(["warm up"])
            timeline.mark("loaded")
        except BaseException as error:
            loaded["error"] = error

    gc.disable()
    loading = threading.Thread(target=load, name="load")
    loading.start()
    from serving.predictor.engine import Engine, processors
    from serving.predictor.model import HSModel
    from serving.predictor.server import PredictorServer

    server = PredictorServer(options, timeline)
    timeline.mark("imported")
    loading.join()
    if "error" in loaded:
        raise loaded["error"]
    gc.freeze()
    gc.enable()
    engine = Engine(options.limits.waiting, options.batch_rows, options.engine_threads or min(4, processors()))
    server.start([HSModel(options.model_name, loaded["bundle"], engine, options.limits, options.version)])


ALL = (
    "onnxruntime",
    "uvloop",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.http.httptools_impl",
    "models.answer",
    "models.bundle",
    "models.explain",
    "models.text.encode",
    "serving.predictor.__main__",
    "serving.predictor.openapi",
    "serving.predictor.server",
)
"""What serving imports, at once or on first use."""


def import_all() -> None:
    """Import ALL and do nothing with it: the image's build has the bytecode written by this."""
    from importlib import import_module

    from serving.predictor import lean, options

    options.parse([])
    lean.install()
    for name in ALL:
        import_module(name)


if __name__ == "__main__":
    import_all()
