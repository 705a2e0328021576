"""The KFP backend with the real `kfp.Client` against a server that answers as KFP's published API does."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.settings import Settings, load_settings
from models.errors import UserError
from pipelines.compile import Compiled, compiled
from pipelines.kfp_backend import NO_LOG, SCHEDULE, KfpBackend, last_words
from serving.control.trigger.backend import BackendRefused, BackendUnavailable, RunBackend, Schedules
from tests.pipeline.kfp_server import KfpServer, running, until

pytestmark = pytest.mark.slow
PIPELINE = "hscode-training"
CLUSTER = ["registry.uri=http://mlflow:5000", "deploy.target=kserve:hscode", "kfp.request_seconds=20"]
DAILY, HOURLY = "0 30 4 * * *", "0 0 * * * *"
PASSWORD = "not-to-be-shown"


@pytest.fixture(scope="module")
def content() -> Compiled:
    return compiled(Settings(), PIPELINE)


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with running() as server:
        yield server
        assert server.violations == []


def settings_for(server: KfpServer, *assignments: str) -> Settings:
    return load_settings(None, {}, [*CLUSTER, f"kfp.endpoint={server.address}", *assignments])


SHORT = "kfp.request_seconds=3"
"""For what hangs; elsewhere the deadline is long, for busy machines."""


def backend_for(server: KfpServer, content: Compiled, *assignments: str) -> KfpBackend:
    backend = KfpBackend(settings_for(server, *assignments), PIPELINE)
    backend.__dict__["_compiled"] = content
    return backend


@pytest.fixture
def backend(server: KfpServer, content: Compiled) -> KfpBackend:
    return backend_for(server, content)


def test_it_is_what_the_trigger_is_handed(backend: KfpBackend) -> None:
    run_backend: RunBackend = backend
    schedules: Schedules = backend
    assert run_backend.name == "kfp"
    assert schedules.show() is None


def test_a_submit_is_one_run_with_all_it_needs(server: KfpServer, content: Compiled) -> None:
    backend = backend_for(server, content, f"state.url=postgresql+psycopg://hscode:{PASSWORD}@db/hscode")
    run_id = backend.submit("retrain-1", {"triggered_by": "alertmanager:x"}, {"alert": "x"})
    assert server.workflows == ["retrain-1"]
    run = server.runs[run_id]
    parameters = run["runtime_config"]["parameters"]
    assert parameters["run_key"] == "retrain-1"
    assert parameters["triggered_by"] == "alertmanager:x"
    assert run["service_account"] == "hscode-pipeline"
    assert json.loads(run["description"]) == {"alert": "x"}
    assert PASSWORD not in json.dumps(run)
    version = server.versions[run["pipeline_version_reference"]["pipeline_version_id"]]
    assert version["name"] == content.version
    assert version["pipeline_spec"]["pipeline_spec"] == next(yaml.safe_load_all(content.text))
    found = backend.find("retrain-1")
    assert found is not None
    assert (found.backend_id, found.name, found.status) == (run_id, "retrain-1", "running")


def test_a_name_is_submitted_once(server: KfpServer, backend: KfpBackend, content: Compiled) -> None:
    first = backend.submit("retrain-1", {}, {})
    assert backend.submit("retrain-1", {}, {}) == first
    assert backend_for(server, content).submit("retrain-1", {}, {}) == first
    assert server.workflows == ["retrain-1"]
    assert backend.submit("retrain-10", {}, {}) != first, "a name is not its beginning"


def test_the_same_content_is_uploaded_once_and_a_changed_one_is_a_version_more(
    server: KfpServer, backend: KfpBackend
) -> None:
    backend.submit("a", {}, {})
    backend.submit("b", {}, {})
    assert server.count("upload_pipeline_version") == 1
    changed = KfpBackend(settings_for(server, "kfp.step_seconds=600"), PIPELINE)
    changed.submit("c", {}, {})
    assert len(server.pipelines) == 1
    assert len(server.versions) == 2


def test_of_several_runs_of_a_name_the_oldest_counts(server: KfpServer, backend: KfpBackend) -> None:
    run_id = backend.submit("retrain-1", {}, {})
    later = dict(server.runs[run_id], run_id="later", created_at="2099-01-01T00:00:00Z")
    server.runs = {"later": later, run_id: server.runs[run_id]}
    found = backend.find("retrain-1")
    assert found is not None
    assert found.backend_id == run_id


@pytest.mark.parametrize(
    ("failed", "log", "error"),
    [
        (
            "train-2",
            "INFO x\n[KFP] hscode: rows.csv: no rows; add some\nexit",
            "step train-2: rows.csv: no rows; add some",
        ),
        ("gate", "Traceback\nRuntimeError: boom\n", "step gate: RuntimeError: boom"),
        ("deploy", None, NO_LOG),
    ],
)
def test_a_failed_run_says_why(
    server: KfpServer, backend: KfpBackend, failed: str, log: str | None, error: str
) -> None:
    run_id = backend.submit("r", {}, {})
    server.finish(run_id, failed, log)
    state = backend.status(run_id)
    assert (state.status, state.error) == ("failed", error)
    assert state.finished_at is not None
    assert state.started_at is not None


def test_a_run_goes_from_known_to_its_end(server: KfpServer, backend: KfpBackend) -> None:
    run_id = backend.submit("r", {}, {})
    server.runs[run_id].pop("state")
    assert backend.status(run_id).status == "intended"
    server.go_on(run_id, ("ingest", "SUCCEEDED"), ("split", "RUNNING"))
    state, steps = backend.progress(run_id)
    assert (state.status, state.finished_at) == ("running", None)
    assert list(steps.items()) == [("ingest", "succeeded"), ("split", "running")]
    server.finish(run_id)
    assert backend.status(run_id).status == "succeeded"
    server.finish(run_id, state="CANCELED")
    assert (backend.status(run_id).status, backend.status(run_id).error) == ("failed", "cancelled")


def test_looking_makes_nothing(server: KfpServer, backend: KfpBackend) -> None:
    assert backend.listed() == []
    assert backend.show() is None
    assert not backend.remove()
    assert {verb for verb, _ in server.requests} == {"GET"}
    run_id = backend.submit("r", {}, {})
    assert [state.backend_id for state in backend.listed()] == [run_id]


# -- errors ----------------------------------------------------------------------------------------------------------

CREATE, LIST = "run_service_create_run", "run_service_list_runs"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409])
def test_a_clear_no_is_refused_in_one_line(server: KfpServer, backend: KfpBackend, status: int) -> None:
    server.fail(CREATE, "status", status)
    with pytest.raises(BackendRefused, match=rf"^{server.address}: {status} made to fail[^\n]*$"):
        backend.submit("r", {}, {})
    assert server.workflows == []


@pytest.mark.parametrize("operation", [LIST, CREATE, "experiment_service_list_experiments", "upload_pipeline_version"])
@pytest.mark.parametrize("how", ["status", "hang", "cut", "shortened", "page", "lost"])
def test_no_clear_answer_is_unavailable_and_never_a_second_run(
    server: KfpServer, content: Compiled, operation: str, how: Any
) -> None:
    backend = backend_for(server, content, *([SHORT] if how == "hang" else []))
    server.fail(operation, how, 500)
    with contextlib.suppress(BackendUnavailable):
        backend.submit("r", {}, {})
    server.failures.clear()
    run_id = backend.submit("r", {}, {})
    assert server.workflows == ["r"]
    assert list(server.runs) == [run_id]


def test_the_deadline_of_a_call_is_for_all_its_tries(server: KfpServer, content: Compiled) -> None:
    backend = backend_for(server, content, "kfp.request_seconds=1")
    assert backend.find("r") is None
    server.fail(LIST, "hang", times=9)
    with pytest.raises(BackendUnavailable, match="no answer"):
        backend.find("r")
    assert server.count(LIST) == 2


def test_a_run_that_began_though_its_answer_was_lost_is_found(server: KfpServer, backend: KfpBackend) -> None:
    server.fail(CREATE, "lost")
    run_id = backend.submit("r", {}, {})
    assert list(server.runs) == [run_id]
    assert server.count(CREATE) == 1


def test_a_run_that_begins_after_we_gave_up_waiting_is_found_the_next_time(
    server: KfpServer, content: Compiled
) -> None:
    backend = backend_for(server, content, SHORT)
    server.fail(CREATE, "late")
    with pytest.raises(BackendUnavailable):
        backend.submit("r", {}, {})
    server.late.set()
    until("the late run", lambda: server.runs)
    assert backend.submit("r", {}, {}) in server.runs
    assert server.workflows == ["r"]


def test_an_unanswered_submit_whose_look_fails_too_is_looked_for_the_next_time(
    server: KfpServer, backend: KfpBackend
) -> None:
    backend.submit("warm", {}, {})
    server.fail(CREATE, "lost")
    real, asked = backend.find, []

    def find(name: str) -> Any:
        asked.append(name)
        if len(asked) == 2:
            raise BackendUnavailable("the network is gone")
        return real(name)

    backend.find = find  # type: ignore[method-assign]
    with pytest.raises(BackendUnavailable):
        backend.submit("r", {}, {})
    assert backend.submit("r", {}, {}) in server.runs
    assert server.workflows == ["warm", "r"]


def test_a_pipeline_that_another_made_meanwhile_is_taken(server: KfpServer, content: Compiled) -> None:
    one, other = backend_for(server, content), backend_for(server, content)
    one.published()
    real = other._asked
    hidden = iter([{}, None])

    def asked(call: Any, *arguments: Any, **named: Any) -> Any:
        if call.__name__ == "pipeline_service_list_pipelines":
            answer = next(hidden, None)
            if answer is not None:
                return answer
        return real(call, *arguments, **named)

    other._asked = asked  # type: ignore[method-assign]
    assert other.published() == one.published()
    assert len(server.pipelines) == 1


@pytest.mark.parametrize("token", [None, "old"])
def test_without_a_valid_token_nothing_is_asked_twice(content: Compiled, tmp_path: Path, token: str | None) -> None:
    (tmp_path / "token").write_text(f"{token}\n")
    with running(KfpServer(token="right")) as server:
        assignments = [f"kfp.token_file={tmp_path / 'token'}"] if token else []
        # Not refused for good: a run that is under way must not count as failed by it.
        with pytest.raises(BackendUnavailable, match=r"401 .*Unauthorized.*kfp\.token_file"):
            backend_for(server, content, *assignments).submit("r", {}, {})
        assert server.workflows == []


@pytest.mark.parametrize(
    ("status", "raised"), [(401, BackendUnavailable), (403, BackendUnavailable), (404, BackendRefused)]
)
def test_a_run_is_unknown_only_where_kfp_says_so(
    server: KfpServer, backend: KfpBackend, status: int, raised: type[Exception]
) -> None:
    run_id = backend.submit("r", {}, {})
    server.fail("run_service_get_run", "status", status)
    with pytest.raises(raised):
        backend.status(run_id)
    assert backend.status(run_id).status == "running"


def test_the_token_is_read_again_for_each_request(content: Compiled, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    with running(KfpServer(token="first")) as server:
        backend = backend_for(server, content, f"kfp.token_file={tmp_path / 'token'}")
        backend.submit("a", {}, {})
        server.token = "second"
        (tmp_path / "token").write_text("second\n")
        backend.submit("b", {}, {})
        assert server.workflows == ["a", "b"]
        run_id = backend.submit("c", {}, {})
        server.finish(run_id, "gate", "hscode: no\n")
        assert backend.status(run_id).error == "step gate: no"


def test_a_token_file_that_is_not_there_is_the_users(server: KfpServer, content: Compiled, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"token cannot be read"):
        backend_for(server, content, f"kfp.token_file={tmp_path / 'none'}").find("r")


def test_a_namespace_that_is_not_ours_is_refused(content: Compiled) -> None:
    with running(KfpServer(namespaces=frozenset({"team"}))) as server:
        with pytest.raises(BackendUnavailable, match=r"403 .*not authorized.*kfp\.namespace"):
            backend_for(server, content, "kfp.namespace=other").submit("r", {}, {})
        backend = backend_for(server, content, "kfp.namespace=team")
        assert backend.submit("r", {}, {}) in server.runs
        assert next(iter(server.experiments.values()))["namespace"] == "team"


def test_a_server_that_is_not_there_is_known_at_once(content: Compiled) -> None:
    with running() as server:
        pass
    with pytest.raises(BackendUnavailable, match=rf"^{server.address}: no answer \(ConnectError"):
        backend_for(server, content).find("r")


@pytest.mark.parametrize("how", ["hang", "status", "page"])
def test_a_server_that_is_not_ready_is_known_by_the_deadline(server: KfpServer, content: Compiled, how: Any) -> None:
    server.fail("healthz_service_get_healthz", how, 503)
    backend = backend_for(server, content, SHORT)
    with pytest.raises(BackendUnavailable):
        backend.find("r")
    assert server.count("healthz_service_get_healthz") == 1, "kfp.Client was not reached"
    assert backend.find("r") is None, "it is there now"


def test_unknown_ids_and_parameters_are_refused(backend: KfpBackend) -> None:
    with pytest.raises(BackendRefused, match=r"404 .*Run nope not found"):
        backend.status("nope")
    with pytest.raises(BackendRefused, match="has no parameter colour; it takes data_version, run_key, settings"):
        backend.submit("r", {"colour": "red"}, {})
    with pytest.raises(BackendRefused, match=r"400 .*parameter data_version is no STRING"):
        backend.submit("r", {"data_version": 1}, {})


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["data.sources=[{path: rows.csv}]"], "cannot read the local file rows.csv"),
        (["nomenclature.path=/x/codes.csv"], "cannot read the local file"),
        (["registry.uri=sqlite:///x.db"], "MLflow's address"),
        (["deploy.target=local:.hscode"], "deploys to KServe"),
    ],
)
def test_what_a_pod_could_not_reach_is_said_before_anything_is_asked(
    server: KfpServer, assignments: list[str], said: str
) -> None:
    backend = KfpBackend(settings_for(server, *assignments), PIPELINE)
    with pytest.raises(BackendRefused, match=said):
        backend.submit("r", {}, {})
    with pytest.raises(BackendRefused, match=said):
        backend.set_schedule(DAILY)
    assert server.requests == []


def test_without_an_address_there_is_no_backend() -> None:
    with pytest.raises(UserError, match=r"kfp\.endpoint is missing"):
        KfpBackend(Settings())


# -- the schedule ----------------------------------------------------------------------------------------------------


def test_a_schedule_is_one_recurring_run_that_never_catches_up(server: KfpServer, backend: KfpBackend) -> None:
    made = backend.set_schedule(DAILY)
    assert backend.set_schedule(DAILY) == made, "the same again changes nothing"
    (one,) = server.recurring.values()
    assert one["trigger"] == {"cron_schedule": {"cron": DAILY}}
    assert (one["no_catchup"], one["max_concurrency"], one["mode"]) == (True, "1", "ENABLE")
    assert one["runtime_config"]["parameters"]["triggered_by"] == "schedule"
    shown = backend.show()
    assert shown is not None
    assert (shown.cron, shown.enabled, shown.backend_id) == (DAILY, True, one["recurring_run_id"])
    run = server.runs[server.tick(one["recurring_run_id"])]
    assert run["pipeline_version_reference"] == one["pipeline_version_reference"]


def test_changing_it_leaves_one(server: KfpServer, backend: KfpBackend) -> None:
    backend.set_schedule(DAILY)
    backend.set_schedule(HOURLY)
    (one,) = server.recurring.values()
    assert (one["display_name"], one["trigger"]["cron_schedule"]["cron"]) == (SCHEDULE, HOURLY)


def test_one_whose_run_is_active_is_disabled_first_and_deleted_later(server: KfpServer, backend: KfpBackend) -> None:
    made = backend.set_schedule(DAILY)
    run_id = server.tick(made.backend_id)
    server.go_on(run_id, ("ingest", "RUNNING"))
    with pytest.raises(BackendUnavailable, match="still active"):
        backend.remove()
    assert server.recurring[made.backend_id]["status"] == "DISABLED"
    assert "orphaned" not in json.dumps(server.runs)
    shown = backend.show()
    assert shown is not None
    assert not shown.enabled
    server.finish(run_id)
    assert backend.remove()
    assert server.recurring == {}
    assert not backend.remove()


def test_a_replaced_schedule_with_an_active_run_fires_no_more(server: KfpServer, backend: KfpBackend) -> None:
    old = backend.set_schedule(DAILY)
    server.go_on(server.tick(old.backend_id), ("ingest", "RUNNING"))
    new = backend.set_schedule(HOURLY)
    assert server.recurring[old.backend_id]["status"] == "DISABLED"
    assert backend.show() == new


@pytest.mark.parametrize("cron", ["30 4 * * *", "0 0 0 30 4 * *", ""])
def test_other_than_six_fields_are_refused_here(server: KfpServer, backend: KfpBackend, cron: str) -> None:
    with pytest.raises(UserError, match="fields"):
        backend.set_schedule(cron)
    assert server.recurring == {}


def test_pages_are_followed(server: KfpServer, backend: KfpBackend) -> None:
    made = backend.set_schedule(DAILY)
    template = server.recurring[made.backend_id]
    for number in range(130):
        key = f"old-{number}"
        server.recurring[key] = {**template, "recurring_run_id": key, "status": "DISABLED"}
    assert backend.remove()
    assert server.recurring == {}


def test_last_words_of_a_log() -> None:
    assert last_words("a\nhscode: first\nValueError: x\n") == "first"
    assert last_words("a\nValueError: x\nb") == "ValueError: x"
    assert last_words("a\nb\n\n") == "b"
