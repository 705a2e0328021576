"""Keeps out of the process what KServe imports and an answer never uses: most of a cold start is that.

`import kserve` runs `kserve/__init__.py`, which imports the kubernetes client, pandas, the AWS and Google sign-in
libraries and a hundred generated API classes. `install` puts in place, before anything of KServe is imported:

- a package `kserve` that has the real one's path but has not run its `__init__`: submodules import as always;
- stand-ins for modules that the parts we use name only in annotations, or in code that this process never reaches.

A stand-in gives for any name a class that can be annotated with, subclassed and called, and that says when it is really
used what is missing and how to have it (``HSCODE_FULL_IMPORTS=1``). What was tried and what each part gave:
docs/decisions, the page on cold start.
"""

import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Sequence
from typing import Any, NoReturn

FULL_IMPORTS = "HSCODE_FULL_IMPORTS"
"""Environment variable: set to 1, everything is imported as KServe has it."""

STAND_INS = frozenset(
    {
        # Data frames in and out of requests: ours are lists of strings.
        "pandas",
        # KServe's REST application, its data classes and its extras: serving.predictor.rest answers the same paths.
        "kserve.protocol.rest.server",
        "kserve.protocol.rest.multiprocess",
        "fastapi",
        "pydantic",
        # The client of a transformer that calls another predictor.
        "kserve.inference_client",
        "httpx",
        # Log settings from a YAML file.
        "yaml",
        # uvicorn's reloading of changed code.
        "watchfiles",
        # Counts processors for a thread pool that we do not use.
        "psutil",
        # Metrics over a web server of their own, or pushed: serving.predictor.rest gives them.
        "wsgiref",
        "http.server",
        "urllib.request",
    }
)
"""Modules that get a stand-in, with all below them."""
GRPC = frozenset(
    {
        "grpc",
        "grpc_interceptor",
        "kserve.protocol.grpc.server",
        "kserve.protocol.grpc.grpc_predict_v2_pb2_grpc",
    }
)
"""The same where there is no gRPC port (Knative gives a service one port)."""


class Unavailable(Exception):
    """What a stand-in gives for any name: fine as an annotation, a base class, in `except`, or called at import."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __getattr__(self, name: str) -> NoReturn:
        raise ImportError(f"{type(self).__name__} is not loaded in the predictor; {FULL_IMPORTS}=1 loads it")


class StandIn(types.ModuleType):
    """A module of which only names are needed."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (Unavailable,), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class StandInFinder:
    """Finds and loads stand-ins. (Not a subclass of importlib.abc's: importing that costs 10 ms.)"""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec for the names and what is below them, else None."""
        parts = fullname.split(".")
        if any(".".join(parts[:n]) in self.names for n in range(1, len(parts) + 1)):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """An empty stand-in."""
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def install(grpc: bool = True) -> bool:
    """Put package and stand-ins in place; `grpc` False: stand-ins for gRPC too.

    False where KServe is already imported or the environment says not to.
    """
    if os.environ.get(FULL_IMPORTS) == "1" or "kserve" in sys.modules:
        return False
    spec = importlib.util.find_spec("kserve")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("kserve is not installed")
    package = types.ModuleType("kserve")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    package.__file__ = spec.origin
    sys.modules["kserve"] = package
    sys.meta_path.insert(0, StandInFinder(STAND_INS if grpc else STAND_INS | GRPC))
    return True
