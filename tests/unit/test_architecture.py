"""The import graph: arrows point one way, and light modules stay light."""

import subprocess
import sys

import grimp
import pytest

ROOMS = ("cli", "pipelines", "components", "serving", "models", "config")
ALLOWED = {
    "cli": {"pipelines", "components", "serving", "models", "config"},
    "pipelines": {"components", "serving", "models", "config"},
    "components": {"serving", "models", "config"},
    "serving": {"models", "config"},
    "models": {"config"},
    "config": {"models"},
}
SERVING_MAY_IMPORT = (
    "models.answer",
    "models.batch",
    "models.bundle",
    "models.calibration",
    "models.errors",
    "models.explain",
    "models.hs",
    "models.progress",
    "models.reference",
    "models.text.encode",
    "models.text.normalise",
)
CONFIG_MAY_IMPORT = ("models.errors", "models.hs.codes")

HEAVY = ("torch", "kfp", "mlflow", "kserve", "sklearn", "matplotlib", "polars", "pandas", "onnxruntime", "kubernetes")
LIGHT = {
    "cli.main": HEAVY,
    "cli.commands": HEAVY,
    "config.settings": HEAVY,
    "models.bundle": HEAVY,
    "models.answer": HEAVY,
    "models.explain": HEAVY,
    "serving.registry": HEAVY,
    "serving.handover": HEAVY,
    "serving.deploy": HEAVY,
    "serving.control.monitor.service": (*HEAVY, "aiohttp"),
    "serving.predictor.model": ("torch", "sklearn", "mlflow", "polars", "kfp", "matplotlib"),
}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*ROOMS)


def test_arrows_point_one_way(graph: grimp.ImportGraph) -> None:
    wrong = [
        f"{importer} imports {imported}"
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
        if importer.split(".")[0] != imported.split(".")[0]
        and imported.split(".")[0] not in ALLOWED[importer.split(".")[0]]
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("room", "allowed"), [("serving", SERVING_MAY_IMPORT), ("config", CONFIG_MAY_IMPORT)], ids=["serving", "config"]
)
def test_a_room_imports_only_the_light_part_of_models(
    graph: grimp.ImportGraph, room: str, allowed: tuple[str, ...]
) -> None:
    wrong = [
        f"{importer} imports {imported}"
        for importer in graph.modules
        if importer.split(".")[0] == room
        for imported in graph.find_modules_directly_imported_by(importer)
        if imported.startswith("models") and not imported.startswith(allowed)
    ]
    assert wrong == []


def test_the_graph_sees_the_rooms(graph: grimp.ImportGraph) -> None:
    assert graph.find_modules_directly_imported_by("components.register") >= {"serving.handover", "config.settings"}


@pytest.mark.parametrize("module", LIGHT)
def test_importing_a_light_module_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [heavy for heavy in LIGHT[module] if heavy in loaded] == []


@pytest.mark.slow
def test_importing_any_module_does_nothing(graph: grimp.ImportGraph) -> None:
    code = (
        "import importlib, os, sys\n"
        "opened = []\n"
        "def hook(event, args):\n"
        "    if event == 'open' and isinstance(args[1], str) and any(c in args[1] for c in 'wax+'):\n"
        "        opened.append(str(args[0]))\n"
        "    if event in ('socket.connect', 'subprocess.Popen'):\n"
        "        opened.append(event)\n"
        f"modules = {sorted(m for m in graph.modules if not m.endswith('__main__') and 'migrations' not in m)!r}\n"
        "sys.dont_write_bytecode = True\n"
        "import torch, mlflow, kserve, kfp\n"
        "sys.addaudithook(hook)\n"
        "for module in modules:\n"
        "    importlib.import_module(module)\n"
        "print(*opened, sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    ours = [line for line in done.stdout.splitlines() if line and "site-packages" not in line and "/proc/" not in line]
    assert ours == []
