"""The monitor's figures of a real predictor behind the local host: nothing lost, no drift."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlalchemy import func, select

from config.settings import Monitor as MonitorSettings
from models.reference import text_reference
from models.text.encode import encoder_from_json
from serving.control.monitor.cleaning import clean
from serving.control.monitor.served import served_in
from serving.deploy.host import LocalHost
from serving.deploy.local import LocalDeployer
from serving.deploy.manifest import inference_service
from serving.registry import Registry, home_uri
from serving.state import State, open_state
from serving.state.events import Given, Request, Response, store_events
from serving.state.tables import Answer, Event
from serving.state.tables import Sketch as SketchRow
from tests.serving.monitoring import running_monitor
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
def test_a_real_predictors_traffic(home: Path) -> None:
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
        for _ in range(4):
            ask(texts(rng, 60, list(GOODS)))
        # The logger's queue runs behind the answers by a moment.
        until("all of it logged", lambda: metric(monitor, "hs_completeness_ratio") == 1.0, 60)
        for feature in ("tokens", "lengths", "chapters"):
            assert (metric(monitor, "hs_drift_lower_ratio", version="1", feature=feature) or 0) < 0.05, feature
        # Its vocabulary has all words but the masked number of one class.
        calm = metric(monitor, "hs_unknown_token_ratio", version="1")
        assert calm is not None
        assert calm < 0.1
        age = metric(monitor, "hs_model_age_seconds", version="1")
        assert age is not None
        assert 0 < age < 600
        assert metric(monitor, "hs_requests_total", version="1", status="ok")


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
