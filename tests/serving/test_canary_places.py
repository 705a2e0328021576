"""The canary controller on the real places: the local host and, where ../shared/cluster is, real KServe.

Two controllers run, with MLflow's registry and the state in a database: processes on SQLite beside the local host; on
the cluster pods of manifests/base/canary with the project's image and no more rights than it gives, on PostgreSQL and
an MLflow server. A client asks all the time; the logger's real events become the evidence.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from config.settings import Canary as Policy
from config.settings import CanaryErrors, CanaryLatency, CanaryQuality, Deploy
from models.errors import UserError
from serving.control.canary import journal
from serving.control.canary.plan import Model
from serving.deploy import Status
from serving.deploy.manifest import storage_uri
from serving.registry import CHALLENGER, CHAMPION, Registry, home_uri
from serving.state import State, open_state
from serving.state.events import Given, Request, Response, store_events, text_hash
from serving.state.tables import Canary, Correction
from tests.conftest import running_postgres
from tests.e2e.cluster import HOST_IP, Cluster, build_project_image, started_cluster, until
from tests.serving.controllers import Controllers, PodControllers, ProcessControllers
from tests.serving.mlflow_server import running_mlflow
from tests.serving.places import Event, KServePlace, LocalPlace, Place, build_stub_image, receiver, write_stub_bundle
from tests.serving.s3 import free_ports, running_s3

pytestmark = pytest.mark.slow

VERSIONS = 3
POLICIES = {
    kind: Policy(
        steps=(10, 50, 100),
        step_seconds=0,
        step_requests=8,
        deadline_seconds=480,
        ready_seconds=240,
        block_seconds=block,
        settle_seconds=block,
        look_seconds=0.2,
        lease_seconds=lease,
        history_seconds=600,
        errors=CanaryErrors(margin_ratio=1.0, margin=0.3),
        latency=CanaryLatency(margin_ratio=6.0, tolerance_ratio=3.0, budget_seconds=None),
        quality=CanaryQuality(
            accuracy_margin=0.3,
            status_margin=0.6,
            status_tolerance=0.2,
            confidence_margin=0.6,
            confidence_tolerance=0.3,
        ),
    )
    for kind, block, lease in (("local", 0.5, 2), ("kserve", 2.0, 5))
}
"""So wide margins that a minute's requests decide."""


@dataclass
class Watched:
    """A place with registry, state and two controllers."""

    kind: str
    place: Place
    state: State
    registry: Registry
    controllers: Controllers
    stored: int = 0

    @property
    def policy(self) -> Policy:
        return POLICIES[self.kind]

    def start(self, name: str, fault: str = "none", **policy: float) -> int:
        """The champion at 100 %, settled, and a canary of a challenger with a fault."""
        self.place.deployer.apply(self.place.manifest(name, "1"), self.place.patience)
        return self.start_again(name, fault, **policy)

    def start_again(self, name: str, fault: str = "none", **policy: float) -> int:
        """A canary on the service as it is."""
        return journal.start(
            self.state,
            self.place.deployer.status(name),
            Model(self.place.bundle("2", fault), "2"),
            self.policy.model_copy(update=policy),
            model="hscode",
            who="the test",
            now=datetime.now(UTC),
        )

    def canary(self, number: int) -> Canary:
        with self.state.read() as session:
            return journal.find(session, number)

    def newest(self, name: str) -> int | None:
        """The service's last canary."""
        with self.state.read() as session:
            return session.scalar(select(func.max(Canary.id)).where(Canary.service == name))

    def finished(self, number: int) -> Canary:
        """The canary at its end."""
        seconds = self.policy.deadline_seconds + 60
        return until("the end of the canary", lambda: (c := self.canary(number)).finished_at and c, seconds)

    def steps(self, number: int) -> list[tuple[str, int]]:
        with self.state.read() as session:
            return [(step.action, step.percent_after) for step in journal.steps_of(session, number)]

    def take_events(self) -> None:
        """What the monitor will do: the logger's events into the state."""
        new = self.place.logger.events[self.stored :]
        self.stored += len(new)
        requests, responses = [], []
        for event in new:
            (requests if event.headers["ce-type"].endswith("request") else responses).append(event)
        store_events(self.state, map(read_request, requests), map(read_response, responses))


def common(event: Event) -> dict[str, Any]:
    headers = event.headers
    return {
        "ce_id": headers["ce-id"],
        "service": headers["ce-inferenceservicename"],
        "namespace": headers["ce-namespace"],
        "version": json.loads(headers.get("ce-annotations", "{}")).get("hscode/version", ""),
        "at": datetime.fromisoformat(headers["ce-time"]),
    }


def read_request(event: Event) -> Request:
    texts = json.loads(event.body)["instances"]
    return Request(**common(event), instances=len(texts), text_hashes=[text_hash(text) for text in texts])


def read_response(event: Event) -> Response:
    answers = json.loads(event.body)["predictions"]
    return Response(**common(event), answers=[Given(a["status"], a["code"], a["confidence"]) for a in answers])


class Client:
    """Asks a service all the time from two threads, each request another text; keeps what it got."""

    def __init__(self, watched: Watched, name: str) -> None:
        self.watched, self.name = watched, name
        self.asked, self.statuses, self.versions = 0, Counter[int](), Counter[str]()
        self.corrected = 0
        self.lost: list[str] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]
        self._threads.append(threading.Thread(target=self._take))

    def __enter__(self) -> "Client":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.watched.take_events()

    def _ask(self) -> None:
        while not self._stop.wait(0.02):
            with self._lock:
                self.asked += 1
                text = f"{self.name} goods {self.asked}"
            try:
                answer = self.watched.place.ask(self.name, text)
            except httpx.HTTPError as error:
                self.lost.append(repr(error))
                continue
            with self._lock:
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    self.versions[answer.json()["model"]["version"]] += 1

    def _take(self) -> None:
        while not self._stop.wait(0.1):
            self.watched.take_events()


def write_versions(registry: Registry, folder: Path) -> None:
    for number in range(1, VERSIONS + 1):
        made = registry.register(write_stub_bundle(folder / f"registered-{number}", str(number)), f"run-{number}", {})
        assert made.number == str(number)


@pytest.fixture(scope="module", params=["local", pytest.param("kserve", marks=pytest.mark.cluster)])
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as stack:
        if request.param == "local":
            yield on_the_local_host(folder, stack)
        else:
            yield on_kserve(folder, stack, started_cluster(request.getfixturevalue("shared_cluster")))


def on_the_local_host(folder: Path, stack: contextlib.ExitStack) -> Watched:
    place = LocalPlace(folder, stack.enter_context(receiver()))
    stack.enter_context(place.host)
    home = folder / "home"
    home.mkdir(exist_ok=True)
    registry, state = registered(home_uri(home), folder), open_state(f"sqlite:///{home}/state.db")
    stack.callback(state.close)
    controllers = ProcessControllers(home, POLICIES["local"])
    stack.callback(controllers.end)
    return Watched("local", place, state, registry, controllers)


def on_kserve(folder: Path, stack: contextlib.ExitStack, cluster: Cluster) -> Watched:
    (folder / "image").mkdir()
    build_stub_image(cluster, folder / "image")
    image = build_project_image(cluster, "control")
    logger, s3 = stack.enter_context(receiver(HOST_IP)), stack.enter_context(running_s3(HOST_IP))
    namespace = stack.enter_context(cluster.namespace("canary", s3))
    place = KServePlace(cluster, namespace, s3, folder, logger)
    (port,) = free_ports(HOST_IP, 1)
    stack.enter_context(running_postgres(HOST_IP, port))
    database = f"postgresql+psycopg://hscode:hscode@{HOST_IP}:{port}/postgres"
    state = open_state(database, upgrade=True)
    stack.callback(state.close)
    (folder / "mlflow").mkdir()
    address = stack.enter_context(running_mlflow(folder / "mlflow", HOST_IP, s3))
    patched = stack.enter_context(pytest.MonkeyPatch.context())
    for name, value in s3.environment.items():
        patched.setenv(name, value)
    registry = registered(address, folder)
    (folder / "overlay").mkdir()
    controllers = PodControllers(cluster, namespace, folder / "overlay", image, POLICIES["kserve"], database, address)
    stack.callback(controllers.end)
    return Watched("kserve", place, state, registry, controllers)


def registered(address: str, folder: Path) -> Registry:
    registry = Registry(address)
    write_versions(registry, folder)
    return registry


@pytest.fixture(autouse=True)
def first_version_is_champion(watched: Watched) -> None:
    watched.registry.set_alias(CHAMPION, "1")
    watched.registry.set_alias(CHALLENGER, "2")


def models(status: Status) -> tuple[str, int | None, dict[str, int]]:
    """(version in the spec, share in the spec, share by version)."""
    shares: Counter[str] = Counter()
    for entry in status.traffic:
        revision = status.revision(entry.revision)
        shares[revision.version if revision else "?"] += entry.percent
    return status.version, status.canary_percent, {version: share for version, share in shares.items() if share}


def told(place: Place, name: str) -> set[str]:
    """Reasons of the Events on the object that the controller wrote."""
    if isinstance(place, KServePlace):
        events = place.cluster.get("-n", place.namespace, "events", f"--field-selector=involvedObject.name={name}")
        return {e["reason"] for e in events["items"] if e["reason"].startswith("Canary")}
    assert isinstance(place, LocalPlace)
    return {event["reason"] for event in place.local.store.events(name)}


def test_a_good_challenger_is_promoted_by_itself(watched: Watched) -> None:
    number = watched.start("good")
    with Client(watched, "good") as client:
        canary = watched.finished(number)
    assert canary.state == "promoted", canary.reason
    assert watched.steps(number) == [("start", 10), ("step", 50), ("step", 100), ("promote", 100)]
    assert models(watched.place.deployer.status("good")) == ("2", None, {"2": 100})
    assert watched.registry.resolve(CHAMPION).number == "2"
    assert watched.registry.find(CHALLENGER) is None
    assert client.lost == []
    assert client.statuses == {200: client.asked}
    assert set(client.versions) == {"1", "2"}
    assert told(watched.place, "good") == {"CanaryStep", "CanaryPromoted"}


def test_a_new_challenger_of_the_registry_gets_its_canary_by_itself(watched: Watched) -> None:
    """What a retraining leaves, an alias, is all it takes; the model is loaded from where the registry has it."""
    name = Deploy().name
    watched.place.deployer.apply(watched.place.manifest(name, "1"), watched.place.patience)
    watched.registry.set_alias(CHALLENGER, "3")
    with Client(watched, name) as client:
        number = until("its canary", lambda: watched.newest(name), watched.place.patience)
        canary = watched.finished(number)
    assert (canary.state, canary.challenger_version) == ("promoted", "3"), canary.reason
    assert canary.challenger_uri == storage_uri(watched.registry.version("3").source)
    after = watched.place.deployer.status(name)
    assert (models(after), after.storage_uri) == (("3", None, {"3": 100}), canary.challenger_uri)
    assert watched.registry.resolve(CHAMPION).number == "3"
    assert client.statuses == {200: client.asked}
    assert client.lost == []
    watched.place.deployer.delete(name)


@pytest.mark.parametrize(
    ("fault", "measure"), [("error", "errors"), ("slow", "latency"), ("worse", "status"), ("wrong", "accuracy")]
)
def test_a_bad_challenger_is_rolled_back_and_the_old_model_is_back(watched: Watched, fault: str, measure: str) -> None:
    name = f"bad-{fault}"
    number = watched.start(name, fault)
    before_uri = watched.canary(number).champion_uri
    with Client(watched, name) as client:
        if fault == "wrong":
            until("traffic", lambda: watched.canary(number).first_seen_at, watched.place.patience)
            until("the end", lambda: correct(watched, name, client) or watched.canary(number).finished_at, 480)
        canary = watched.finished(number)
        asked = client.asked
        until("answers of the old model", lambda: client.asked > asked + 20, watched.place.patience)
    assert canary.state == "rolled_back"
    assert canary.reason.startswith(f"{measure} worse"), canary.reason
    after = watched.place.deployer.status(name)
    assert models(after) == ("1", None, {"1": 100})
    assert after.storage_uri == before_uri
    assert told(watched.place, name) >= {"CanaryStep", "CanaryRollback", "CanaryRolledBack"}
    assert watched.registry.resolve(CHAMPION).number == "1"
    assert watched.registry.find(CHALLENGER) is None
    assert client.lost == []
    # All requests were answered; those that failed were the challenger's.
    assert sum(client.statuses.values()) == client.asked
    assert set(client.statuses) <= {200, 500 if fault == "error" else 200}


def correct(watched: Watched, name: str, client: Client) -> None:
    """An expert confirms or corrects what was answered up to now; 610910 is right."""
    now, first = datetime.now(UTC), client.corrected + 1
    client.corrected = client.asked - 1
    with watched.state.write() as session:
        for asked in range(first, client.asked):
            text = f"{name} goods {asked}"
            session.add(
                Correction(
                    ce_id=f"c-{text}",
                    text_hash=text_hash(text),
                    code="610910",
                    edition="HS2022",
                    who="an expert",
                    said_at=now,
                    recorded_at=now,
                )
            )


def test_a_challenger_whose_bundle_is_missing_gets_no_traffic_and_is_reported(watched: Watched) -> None:
    number = watched.start("never", "missing", ready_seconds=watched.place.patience / 6)
    with Client(watched, "never") as client:
        canary = watched.finished(number)
    assert canary.state == "rolled_back"
    assert "not ready for 10 %" in canary.reason
    assert canary.first_seen_at is None
    assert set(client.versions) == {"1"}
    assert client.statuses == {200: client.asked}
    assert models(watched.place.deployer.status("never")) == ("1", None, {"1": 100})


def test_a_challenger_whose_image_is_missing_gets_no_traffic_and_the_way_back_waits_for_it(watched: Watched) -> None:
    """Only KServe has images. The old model cannot start anew either: its running revision serves on until it can."""
    place = watched.place
    if not isinstance(place, KServePlace):
        pytest.skip("the local host runs no images")
    # A runtime of its own: KServe cuts new revisions of all services whose runtime changes.
    runtime = place.cluster.get("-n", place.namespace, "servingruntime", "hscode")
    there = runtime["spec"]["containers"][0]["image"]
    own = {key: runtime[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": {"name": "image"}}
    own["spec"]["supportedModelFormats"][0].pop("autoSelect")
    place.cluster.kubectl("apply", "-n", place.namespace, "-f", "-", given=own)
    manifest = place.manifest("image", "1")
    manifest["spec"]["predictor"]["model"]["runtime"] = "image"
    place.deployer.apply(manifest, place.patience)
    set_image(place, f"{there}-nowhere")
    try:
        number = watched.start_again("image", ready_seconds=place.patience / 4)
        with Client(watched, "image") as client:
            until("the decision", lambda: watched.canary(number).state == "rolling_back", place.patience)
            canary = watched.canary(number)
            asked = client.asked
            until("answers of the old model", lambda: client.asked > asked + 20, watched.place.patience)
            assert models(place.deployer.status("image"))[2] == {"1": 100}
            set_image(place, there)
            watched.finished(number)
    finally:
        set_image(place, there)
    assert canary.first_seen_at is None
    assert "ImagePull" in canary.reason
    assert client.statuses == {200: client.asked}
    assert set(client.versions) == {"1"}
    assert models(place.deployer.status("image")) == ("1", None, {"1": 100})
    assert told(place, "image") >= {"CanaryRollback", "CanaryRolledBack"}


def set_image(place: KServePlace, image: str) -> None:
    """What the runtime `image` runs from the next revision on."""
    patch = [{"op": "replace", "path": "/spec/containers/0/image", "value": image}]
    place.cluster.kubectl(
        "patch", "-n", place.namespace, "servingruntime", "image", "--type=json", "-p", json.dumps(patch)
    )


def test_the_leader_is_killed_between_two_steps(watched: Watched) -> None:
    number = watched.start("killed")
    with Client(watched, "killed") as client:
        until("the step to 50 %", lambda: watched.canary(number).percent >= 50, watched.place.patience)
        with watched.state.read() as session:
            leader = journal.steps_of(session, number)[-1].actor
        watched.controllers.kill(leader)
        canary = watched.finished(number)
    assert canary.state == "promoted", canary.reason
    assert watched.steps(number) == [("start", 10), ("step", 50), ("step", 100), ("promote", 100)]
    assert client.statuses == {200: client.asked}
    assert client.lost == []


def test_an_object_that_is_edited_and_deleted_meanwhile(watched: Watched) -> None:
    deployer, name = watched.place.deployer, "edited"
    number = watched.start(name, step_requests=100_000)
    with Client(watched, name):
        until("traffic", lambda: watched.canary(number).first_seen_at, watched.place.patience)
        deployer.change(name, canary_percent=70)
        until("the share put back", lambda: deployer.status(name).canary_percent == 10, watched.place.patience)
        assert watched.canary(number).finished_at is None
    with pytest.raises(UserError, match="a canary is undecided already"):
        watched.start_again(name)
    deployer.delete(name)
    assert watched.finished(number).state == "gone"


def test_people_ask_by_the_command_line(watched: Watched) -> None:
    name = "asked"
    number = watched.start(name, step_requests=100_000)

    def hscode(*arguments: str) -> Any:
        command = [sys.executable, "-m", "cli.main", "canary", *arguments, *watched.controllers.arguments, "--json"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, **watched.controllers.environment, "HSCODE_WHO": "an engineer"},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with Client(watched, name):
        until("a block", lambda: watched.canary(number).latest, watched.place.patience)
        assert hscode("status")["state"] == "stepping"
        assert {m["name"] for m in hscode("explain")["measures"]} >= {"errors", "latency", "accuracy", "status"}
        hscode("abort", str(number), "--why", "seen enough")
        canary = watched.finished(number)
    assert (canary.state, canary.reason) == ("rolled_back", "aborted by an engineer: seen enough")
    assert hscode("history")[0]["canary"] == number
