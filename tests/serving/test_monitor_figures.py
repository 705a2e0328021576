"""The monitor's figures of a real predictor behind the local host: nothing lost, drift where the texts shift."""

import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlparse

import httpx
import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import func, select

from config.settings import Monitor as MonitorSettings
from models.reference import text_reference
from models.text.encode import encoder_from_json
from serving.control.monitor.cleaning import clean
from serving.control.monitor.served import served_in
from serving.control.monitor.versions import FILES, fetch, read_bundle
from serving.control.monitor.windows import FEATURES
from serving.deploy.host import LocalHost
from serving.deploy.local import LocalDeployer
from serving.deploy.manifest import inference_service
from serving.registry import Registry, home_uri
from serving.state import State, open_state
from serving.state.events import Given, Request, Response, store_events
from serving.state.tables import Answer, Event
from serving.state.tables import Sketch as SketchRow
from tests.conftest import ROOT
from tests.serving.mlflow_server import running_mlflow
from tests.serving.monitoring import Monitor, running_monitor
from tests.serving.s3 import running_s3
from tests.serving.test_monitor import metric, until
from tests.serving.tiny_bundle import GOODS, write_tiny_bundle

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def texts(rng: random.Random, count: int, codes: list[str]) -> list[str]:
    """Two to four words of one class each."""
    return [" ".join(rng.sample(GOODS[code].split(), rng.randint(2, 4))) for code in rng.choices(codes, k=count)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose champion is a tiny bundle with the reference of 600 texts of all its classes."""
    folder = write_tiny_bundle(tmp_path / "made")
    encoder = encoder_from_json(json.loads((folder / "text.json").read_text()))
    known = texts(random.Random(1), 600, list(GOODS))
    words = {code: set(text.split()) for code, text in GOODS.items()}
    chapters = Counter(next(code for code, own in words.items() if set(text.split()) <= own)[:2] for text in known)
    reference = text_reference(known, encoder) | {
        "chapters": {chapter: count / 600 for chapter, count in chapters.items()},
        "confidence": np.eye(10)[9].tolist(),
    }
    (folder / "reference.json").write_text(json.dumps(reference))
    registry = Registry(home_uri(tmp_path / "home"), "hscode")
    version = registry.register(folder, "run", {"kind": "tiny"})
    registry.set_alias("champion", version.number)
    bundle = registry.folder("champion", tmp_path / "cache")
    manifest = inference_service("hscode", bundle.as_uri(), version.number, logger_url="")
    manifest["spec"]["predictor"]["minReplicas"] = 1
    LocalDeployer(tmp_path / "home").apply(manifest, 60)
    return tmp_path / "home"


@pytest.mark.slow
def test_drift_rises_with_a_real_predictors_shifted_traffic(home: Path) -> None:
    url = f"sqlite:///{home}/state.db"
    quick = ["monitor.refresh_seconds=0.2", "monitor.window_seconds=60", "monitor.window_parts=60"]
    host = LocalHost(home, logger_url="http://127.0.0.1:1/")
    with host, running_monitor(url, *quick, f'monitor.served_urls=["{host.url}/metrics"]', home=home) as monitor:
        # Its address is known only now; the proxy takes it from here on.
        assert host._proxy is not None
        host._proxy.logger_url = monitor.url
        rng = random.Random(2)
        until("the database", lambda: httpx.get(f"{monitor.url}/readyz").status_code == 200, 120)

        def ask(some: list[str]) -> None:
            path = f"{host.url}/v1/models/hscode:predict"
            with httpx.Client(timeout=30) as client:
                for at in range(0, len(some), 2):
                    client.post(path, json={"instances": some[at : at + 2]}).raise_for_status()

        def seen(name: str) -> float | None:
            ask(texts(rng, 2, list(GOODS)))
            return metric(monitor, name, version="1")

        # A process that loads MLflow fetches it.
        until("its reference", lambda: seen("hs_drift_ratio") is not None, 300)
        calm = []
        for _ in range(4):
            ask(texts(rng, 60, list(GOODS)))
            calm.append(drift(monitor))
        # The logger's queue runs behind the answers by a moment.
        until("all of it logged", lambda: metric(monitor, "hs_completeness_ratio") == 1.0, 60)
        assert set(calm[-1]) == set(FEATURES)
        for found in (*calm, drift(monitor)):
            assert max(found.values()) < threshold()
        # Its vocabulary has all words but the masked number of one class.
        unknown = metric(monitor, "hs_unknown_token_ratio", version="1")
        assert unknown is not None
        assert unknown < 0.1
        age = metric(monitor, "hs_model_age_seconds", version="1")
        assert age is not None
        assert 0 < age < 600
        assert metric(monitor, "hs_requests_total", version="1", status="ok")

        def shifted() -> bool:
            ask([f"{text} für Küche und Haus" for text in texts(rng, 20, ["691110", "961700"])])
            found = drift(monitor)
            return min(found[feature] for feature in ("tokens", "unknown", "chapters")) > threshold()

        until("the shift in the figures", shifted, 120)


def threshold() -> float:
    """Of the drift alert."""
    rules = yaml.safe_load((ROOT / "manifests/monitoring/rules.yaml").read_text())
    found = [r for group in rules["groups"] for r in group["rules"] if r.get("alert") == "HscodeDriftSustained"]
    return float(found[0]["expr"].removeprefix("max by (version) (hs_drift_lower_ratio) > "))


def drift(monitor: Monitor) -> dict[str, float]:
    """The figure that the alert looks at, by feature."""
    text = httpx.get(f"{monitor.url}/metrics").raise_for_status().text
    return {
        sample.labels["feature"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "hs_drift_lower_ratio"
    }


@pytest.mark.slow
@pytest.mark.parametrize("place", ["s3", "server"])
def test_a_versions_reference_is_read_wherever_its_bundle_lies(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_tiny_bundle(tmp_path / "made")
    with contextlib.ExitStack() as stack:
        if place == "server":
            registry = Registry(stack.enter_context(running_mlflow(tmp_path)), "hscode")
        else:
            s3 = stack.enter_context(running_s3())
            for name, value in s3.environment.items():
                monkeypatch.setenv(name, value)
            registry = Registry(home_uri(tmp_path), "hscode")
            registry.client.create_experiment("hscode", artifact_location=f"s3://{s3.bucket}/mlflow")
        number = registry.register(bundle, "run", {"kind": "tiny"}).number
        assert urlparse(registry.version(number).source).scheme not in ("", "file")
        found, created, folder = fetch(registry, number, tmp_path / "cache")
        known = read_bundle(folder, found, created)
        assert {file.name for file in folder.iterdir()} == set(FILES)
    assert known.number == "1"
    assert known.knows is not None
    assert known.codes.knows("851830")


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    if request.param == "postgresql":
        opened = open_state(request.getfixturevalue("postgres")(), upgrade=True)
    else:
        opened = open_state(f"sqlite:///{tmp_path}/state.db")
    yield opened
    opened.close()


def test_what_is_past_its_days_goes(state: State) -> None:
    for name, days in (("new", 1), ("middle", 40), ("old", 100)):
        at = NOW - timedelta(days=days)
        asked = Request(name, "hscode", at, instances=1, texts=["bolt"], text_hashes=["h"])
        told = Response(name, "hscode", at, answers=(Given("answered", "731815", 0.9),))
        sketch = SketchRow(service="hscode", version="1", begins_at=at, writer="w", counts={"texts": 1})
        store_events(state, [asked], [told], lambda session, _, sketch=sketch: session.add(sketch))  # type: ignore[misc]
    settings = MonitorSettings(texts_days=30, events_days=90)
    assert clean(state, settings, NOW) == {"texts": 1, "events": 1}
    assert clean(state, settings, NOW) == {"texts": 0, "events": 0}
    with state.read() as session:
        assert dict(session.execute(select(Event.ce_id, Event.texts)).tuples().all()) == {
            "new": ["bolt"],
            "middle": None,
        }
        assert session.scalar(select(func.count()).select_from(Answer)) == 2
        assert session.scalar(select(func.count()).select_from(SketchRow)) == 2


def test_a_predictors_own_count() -> None:
    exposition = """# TYPE hs_predictor_requests_total counter
hs_predictor_requests_total{protocol="v1",verb="predict",code="200"} 7
hs_predictor_requests_total{protocol="v2",verb="infer",code="200"} 2
hs_predictor_requests_total{protocol="v1",verb="predict",code="400"} 5
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.5
"""
    assert served_in(exposition) == ("1.5", 9.0)
