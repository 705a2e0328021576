"""What an InferenceService does, held against both places: the local host and, where ../shared/cluster is, real KServe.

Where the two differ, real KServe is right.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from serving.deploy import Conflict, DeployFailed, NotDeployed
from tests.e2e.cluster import HOST_IP, started_cluster, until
from tests.serving.places import KServePlace, LocalPlace, Place, build_stub_image, receiver
from tests.serving.s3 import running_s3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["local", pytest.param("kserve", marks=pytest.mark.cluster)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "local":
        with receiver() as logger:
            local = LocalPlace(folder, logger)
            with local.host:
                yield local
        return
    cluster = started_cluster(request.getfixturevalue("shared_cluster"))
    (folder / "image").mkdir()
    build_stub_image(cluster, folder / "image")
    with receiver(HOST_IP) as logger, running_s3(HOST_IP) as s3, cluster.namespace("scenarios", s3) as namespace:
        yield KServePlace(cluster, namespace, s3, folder, logger)


class SteadyClient:
    """Asks all the time, from a thread of its own, and keeps what it got."""

    def __init__(self, place: Place, name: str) -> None:
        self.place, self.name = place, name
        self.asked = 0
        self.versions: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "SteadyClient":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            self.asked += 1
            try:
                answer = self.place.ask(self.name, "ladies cotton t-shirt")
            except httpx.HTTPError as error:
                self.failures.append(repr(error))
                continue
            if answer.status_code == 200:
                self.versions[answer.json()["model"]["version"]] += 1
            else:
                self.failures.append(f"{answer.status_code} {answer.text}")


def versions(place: Place, name: str, count: int) -> Counter[str]:
    """Who answers `count` requests; each must be answered."""
    answers = [place.ask(name, "a") for _ in range(count)]
    assert {answer.status_code for answer in answers} == {200}, [a.text for a in answers if a.status_code != 200][:3]
    return Counter(answer.json()["model"]["version"] for answer in answers)


def test_a_good_challenger_goes_up_by_steps_and_no_request_fails(place: Place) -> None:
    deployer, name = place.deployer, "good"
    # The first deployment gets all traffic whatever the manifest says.
    first = deployer.apply(place.manifest(name, "1", canary_percent=10), place.patience)
    assert (first.version, first.ready) == ("1", True)
    assert first.percent(first.latest_ready) == 100
    assert versions(place, name, 10) == {"1": 10}

    with SteadyClient(place, name) as client:
        status = deployer.change(name, storage_uri=place.bundle("2"), version="2", canary_percent=20, expected=first)
        status = deployer.wait(name, place.patience)
        old, new = first.latest_ready, status.latest_ready
        assert old != new
        assert [(t.revision, t.percent) for t in status.traffic] == [(new, 20), (old, 80)]
        assert (status.latest_created, status.latest_rolledout) == (new, old)
        assert [r.version for r in status.revisions] == ["1", "2"]
        seen = until("20 answers", lambda: client.versions["2"] >= 20 and client.versions.copy(), place.patience)
        assert seen["1"] > seen["2"]

        # A share alone cuts no revision.
        deployer.change(name, canary_percent=60)
        status = deployer.wait(name, place.patience)
        assert status.latest_created == new
        assert (status.percent(new), status.percent(old)) == (60, 40)

        # Promotion is removing the field.
        deployer.change(name, canary_percent=None)
        status = deployer.wait(name, place.patience)
        assert status.percent(new) == 100
        assert (status.latest_rolledout, status.previous_rolledout) == (new, old)
    assert client.failures == []
    assert sum(client.versions.values()) == client.asked
    assert versions(place, name, 20) == {"2": 20}

    # The same values again change nothing.
    again = deployer.change(name, storage_uri=place.bundle("2"), version="2", canary_percent=None)
    assert (again.generation, again.latest_created) == (status.generation, new)

    # After a full rollout, a share of 0 brings the one before back.
    deployer.change(name, canary_percent=0)
    back = until("the old revision", lambda: (s := deployer.status(name)).percent(old) == 100 and s, place.patience)
    assert back.percent(new) == 0
    until("its answers", lambda: set(versions(place, name, 5)) == {"1"}, place.patience)
    deployer.delete(name)
    with pytest.raises(NotDeployed):
        deployer.status(name)


def test_a_rolled_back_challenger_leaves_the_old_model_in_the_spec(place: Place) -> None:
    deployer, name = place.deployer, "back"
    first = deployer.apply(place.manifest(name, "1"), place.patience)
    deployer.change(name, storage_uri=place.bundle("2", "error"), version="2", canary_percent=50)
    deployer.wait(name, place.patience)
    answers = until(
        "errors of the challenger",
        lambda: (got := [place.ask(name, "a").status_code for _ in range(20)]) and 500 in got and got,
        place.patience,
    )
    assert set(answers) == {200, 500}

    with pytest.raises(Conflict):
        deployer.change(name, canary_percent=0, expected=first)
    deployer.change(name, canary_percent=0)
    deployer.wait(name, place.patience)
    until("no more errors", lambda: {place.ask(name, "a").status_code for _ in range(10)} == {200}, place.patience)
    deployer.change(name, storage_uri=first.storage_uri, version="1", canary_percent=0)
    restored = deployer.wait(name, place.patience)
    assert restored.rolled_out
    deployer.change(name, canary_percent=None)
    done = deployer.wait(name, place.patience)
    assert (done.version, done.storage_uri, done.canary_percent) == ("1", first.storage_uri, None)
    assert versions(place, name, 10) == {"1": 10}
    deployer.delete(name)


@pytest.mark.parametrize("fault", ["crash", "missing"])
def test_a_challenger_that_cannot_start_never_gets_traffic(place: Place, fault: str) -> None:
    deployer, name = place.deployer, f"never-{fault}"
    first = deployer.apply(place.manifest(name, "1"), place.patience)
    with SteadyClient(place, name) as client:
        with pytest.raises(DeployFailed) as failed:
            deployer.apply(place.manifest(name, "2", fault), place.patience)
        broken = deployer.status(name)
        restored = deployer.wait(name, place.patience)
    assert "revision" in str(failed.value)
    assert client.failures == []
    assert set(client.versions) == {"1"}
    assert client.versions["1"] == client.asked
    # The spec is what it was before.
    assert (broken.storage_uri, broken.version) == (first.storage_uri, "1")
    assert restored.percent(restored.latest_ready) == 100
    deployer.delete(name)


def test_scales_to_zero_and_the_next_request_waits(place: Place) -> None:
    deployer, name = place.deployer, "zero"
    deployer.apply(place.manifest(name, "1"), place.patience)
    assert versions(place, name, 3) == {"1": 3}
    for _ in range(2):
        until("zero", lambda: place.asleep(name), place.patience)
        assert deployer.status(name).ready
        # Several at once: all wait for the one start.
        with ThreadPoolExecutor(5) as askers:
            answers = list(askers.map(lambda _: place.ask(name, "a"), range(5)))
        assert [answer.status_code for answer in answers] == [200] * 5
    deployer.delete(name)


def test_the_logger_sends_pairs_with_the_version(place: Place) -> None:
    deployer, name = place.deployer, "logged"
    deployer.apply(place.manifest(name, "7"), place.patience)
    headers = {"ce-id": "given-by-the-client"}
    first = place.ask(name, "with an id", headers=headers)
    second = place.ask(name, "without")
    wrong = place.ask(name, "die")
    assert (first.status_code, second.status_code, wrong.status_code >= 500) == (200, 200, True)

    def mine() -> list[tuple[str, str, bytes]]:
        return [
            (e.headers["ce-id"], e.headers["ce-type"].rsplit(".", 1)[1], e.body)
            for e in place.logger.events
            if e.headers["ce-inferenceservicename"] == name
        ]

    until("the events", lambda: sum(b"die" not in body for _, _, body in mine()) >= 4, place.patience)
    events = {(event_id, kind): body for event_id, kind, body in mine()}
    assert json.loads(events["given-by-the-client", "request"]) == {"instances": ["with an id"]}
    assert events["given-by-the-client", "response"] == first.content
    (other,) = {i for (i, k), body in events.items() if k == "response"} - {"given-by-the-client"}
    assert json.loads(events[other, "request"]) == {"instances": ["without"]}
    assert events[other, "response"] == second.content
    # A request without answer is logged alone.
    died = {i for (i, _), body in events.items() if b"die" in body}
    assert all((i, "response") not in events for i in died)
    for event in [e for e in place.logger.events if e.headers["ce-inferenceservicename"] == name]:
        assert event.headers["ce-specversion"] == "1.0"
        assert event.headers["content-type"] == "application/json"
        assert json.loads(event.headers["ce-annotations"]) == {"hscode/version": "7"}
        assert event.headers["ce-component"] == "predictor"
        assert event.headers.get("ce-endpoint", "") == ""
        assert event.headers["ce-time"]
    deployer.delete(name)
