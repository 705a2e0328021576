"""A server that answers as Kubeflow Pipelines' published v2beta1 API does, and can fail in every way that matters.

Its routes, query parameters and bodies are read out of `kfp-server-api`, which is generated from KFP's swagger file: a
request with a field, a parameter or a type that the API does not have is refused and noted in `violations`. Answers are
checked against the same models. What KFP does beyond its swagger file (names of runs need not be unique, a run id that
exists is answered 500 and starts a second workflow all the same, what 400, 404 and 409 mean, nodes without reasons) was
seen on KFP 2.17.0.
"""

import contextlib
import inspect
import json
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api
import yaml
from dateutil.parser import isoparse
from kfp_server_api import models

How = Literal["status", "hang", "cut", "shortened", "page", "lost", "late"]
"""status: this status. hang: no answer. cut: the connection ends amid the body. shortened: half the body as if it were
whole. page: 200 with a login page. lost: the work is done and the connection closed without a word."""
LOG = re.compile(r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log")
FILTERS = {"name", "display_name", "state", "storage_state", "created_at"}
PARAMETER_TYPES = {"STRING": str, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": (int, float), "BOOLEAN": bool}


class Refusal(Exception):
    """An error answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Operation:
    """One operation of the published API."""

    name: str
    verb: str
    path: re.Pattern[str]
    query: frozenset[str]
    body: str | None
    response: str


@dataclass
class Failure:
    """What happens to the next `times` requests of an operation."""

    operation: str
    how: How
    status: int = 500
    times: int = 1


def operations() -> list[Operation]:
    """All operations of `kfp-server-api`: from the code that the generator wrote for each."""
    found = []
    for class_name, api in inspect.getmembers(kfp_server_api.api, inspect.ismodule):
        del class_name
        for _, service in inspect.getmembers(api, inspect.isclass):
            for name, method in inspect.getmembers(service, inspect.isfunction):
                if not name.endswith("_with_http_info"):
                    continue
                code = inspect.getsource(method)
                address = re.search(r"call_api\(\s*'([^']+)', '(\w+)'", code)
                response = re.search(r"response_type='([^']+)'", code)
                if not address or not response:
                    continue
                pattern = re.sub(r"\\\{([\w.]+)\\\}", r"([^/:]+)", re.escape(address[1]))
                body = re.search(r":type (\w+): ((?:V2beta1|Recurring)\w+)", code)
                found.append(
                    Operation(
                        name.removesuffix("_with_http_info"),
                        address[2],
                        re.compile(pattern + "$"),
                        frozenset(re.findall(r"query_params.append\(\('([\w.]+)'", code)),
                        body[2] if body and "body_params = local_var_params" in code else None,
                        response[1],
                    )
                )
    return found


def faults(value: Any, kind: str, where: str) -> Iterator[str]:
    """What of `value` is not as the swagger model `kind` says."""
    if value is None:
        return
    if match := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for number, item in enumerate(value):
            yield from faults(item, match[1], f"{where}[{number}]")
    elif match := re.fullmatch(r"dict\(\w+, (.+)\)", kind):
        if not isinstance(value, dict):
            yield f"{where} is no object"
            return
        for key, item in value.items():
            yield from faults(item, match[1], f"{where}.{key}")
    elif kind in ("str", "int", "bool", "float"):
        if type(value).__name__ != kind:
            yield f"{where} is {type(value).__name__}, not {kind}"
    elif kind == "datetime":
        try:
            isoparse(value)
        except (TypeError, ValueError):
            yield f"{where} is no date and time"
    elif kind != "object":
        model = getattr(models, kind)
        if hasattr(model, "allowable_values"):
            if value not in model.allowable_values:
                yield f"{where}: {value!r} is none of {model.allowable_values}"
            return
        if not isinstance(value, dict):
            yield f"{where} is no object"
            return
        types = {published: model.openapi_types[own] for own, published in model.attribute_map.items()}
        for key, item in value.items():
            if key not in types:
                yield f"{where}.{key} is not in {kind}"
            else:
                yield from faults(item, types[key], f"{where}.{key}")


def now() -> str:
    """This moment as KFP writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class KfpServer:
    """The state of one installation. Methods named as the API's operations answer them."""

    token: str | None = None
    namespaces: frozenset[str] | None = None
    """On a multi-user installation: where this token may look; None: single-user."""
    version: str = "2.17.0"
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    recurring: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[tuple[str, str], str] = field(default_factory=dict)
    workflows: list[str] = field(default_factory=list)
    """Names of the workflows that were really started: what "exactly once" is counted by."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Verb and operation of each request that was understood."""
    violations: list[str] = field(default_factory=list)
    failures: deque[Failure] = field(default_factory=deque)
    address: str = ""
    late: threading.Event = field(default_factory=threading.Event)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _released: threading.Event = field(default_factory=threading.Event)

    # -- for tests ----------------------------------------------------------------------------------------------

    def fail(self, operation: str, how: How, status: int = 500, times: int = 1) -> None:
        """Let the next `times` requests of an operation fail."""
        self.failures.append(Failure(operation, how, status, times))

    def count(self, operation: str) -> int:
        """Requests of an operation so far."""
        return sum(name == operation for _, name in self.requests)

    def go_on(self, run_id: str, *states: tuple[str, str]) -> None:
        """Give a run's steps states; a step is three Argo nodes without display names or reasons, as KFP shows them."""
        details = [self._node("root", "RUNNING", [])]
        for step, state in states:
            pod = f"{run_id[:8]}-system-container-impl-{step}"
            details += [
                self._node(f"{step}-driver", "SUCCEEDED", []),
                self._node(step, state, [pod]),
                self._node("executor(0)", state, []),
            ]
        run = self.runs[run_id]
        run["state"], run["run_details"] = "RUNNING", {"task_details": details}

    def finish(self, run_id: str, failed: str | None = None, log: str | None = None, state: str = "") -> None:
        """End a run: well, or by a step whose pod left a log (None: it was never admitted)."""
        run = self.runs[run_id]
        if failed is not None:
            self.go_on(run_id, ("ingest", "SUCCEEDED"), (failed, "FAILED"))
            if log is not None:
                self.logs[(run_id, f"{run_id[:8]}-system-container-impl-{failed}")] = log
        run["state"] = state or ("FAILED" if failed is not None else "SUCCEEDED")
        run["finished_at"] = now()

    def tick(self, recurring_run_id: str) -> str:
        """The schedule is due: start its run, as KFP's controller does while it is enabled; returns the run's id."""
        one = self.recurring[recurring_run_id]
        assert one["status"] == "ENABLED"
        kept = ("experiment_id", "pipeline_version_reference", "runtime_config", "service_account")
        body = {key: one[key] for key in kept if key in one}
        name = f"{one['display_name']}-{len(self.workflows)}"
        made = self._started({**body, "display_name": name, "recurring_run_id": recurring_run_id})
        return str(made["run_id"])

    @staticmethod
    def _node(name: str, state: str, children: list[str]) -> dict[str, Any]:
        return {
            "task_id": str(uuid.uuid4()),
            "display_name": name,
            "create_time": now(),
            "start_time": now(),
            "end_time": now() if state in ("SUCCEEDED", "FAILED") else "1970-01-01T00:00:00Z",
            "state": state,
            "child_tasks": [{"pod_name": pod} for pod in children],
        }

    # -- the API ------------------------------------------------------------------------------------------------

    def healthz_service_get_healthz(self, _: "Asked") -> dict[str, Any]:
        return {"multi_user": self.namespaces is not None}

    def experiment_service_create_experiment(self, asked: "Asked") -> dict[str, Any]:
        body = asked.body
        self._allowed(body.get("namespace"))
        if any(one["display_name"] == body.get("display_name") for one in self.experiments.values()):
            raise Refusal(409, f"Experiment {body.get('display_name')} already exists")
        made = {**body, "experiment_id": str(uuid.uuid4()), "created_at": now(), "storage_state": "AVAILABLE"}
        self.experiments[made["experiment_id"]] = made
        return made

    def experiment_service_list_experiments(self, asked: "Asked") -> dict[str, Any]:
        return self._page(asked, "experiments", self.experiments)

    def pipeline_service_create_pipeline(self, asked: "Asked") -> dict[str, Any]:
        body = asked.body
        self._allowed(body.get("namespace"))
        name = body.get("name") or body.get("display_name")
        if any(one["name"] == name for one in self.pipelines.values()):
            raise Refusal(409, f"Already exist error: pipeline with name {name} already exists")
        made = {**body, "name": name, "pipeline_id": str(uuid.uuid4()), "created_at": now()}
        self.pipelines[made["pipeline_id"]] = made
        return made

    def pipeline_service_list_pipelines(self, asked: "Asked") -> dict[str, Any]:
        return self._page(asked, "pipelines", self.pipelines)

    def pipeline_service_list_pipeline_versions(self, asked: "Asked") -> dict[str, Any]:
        pipeline_id = self._known(self.pipelines, asked.path[0], "Pipeline")["pipeline_id"]
        mine = {key: one for key, one in self.versions.items() if one["pipeline_id"] == pipeline_id}
        return self._page(asked, "pipeline_versions", mine)

    def upload_pipeline_version(self, asked: "Asked") -> dict[str, Any]:
        pipeline_id = self._known(self.pipelines, asked.query.get("pipelineid", ""), "Pipeline")["pipeline_id"]
        name = asked.query["name"]
        if any(one["name"] == name for one in self.versions.values()):
            raise Refusal(409, f"Already exist error: pipeline version with name {name} already exists")
        documents = [document for document in yaml.safe_load_all(asked.file) if document]
        spec: dict[str, Any] = documents[0]
        if len(documents) > 1:
            spec = {"pipeline_spec": documents[0], "platform_spec": documents[1]}
        made = {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": str(uuid.uuid4()),
            "name": name,
            "display_name": asked.query.get("display_name", name),
            "created_at": now(),
            "pipeline_spec": spec,
        }
        self.versions[made["pipeline_version_id"]] = made
        return made

    def run_service_create_run(self, asked: "Asked") -> dict[str, Any]:
        return self._started(asked.body)

    def run_service_get_run(self, asked: "Asked") -> dict[str, Any]:
        return self._known(self.runs, asked.path[0], "Run")

    def run_service_list_runs(self, asked: "Asked") -> dict[str, Any]:
        rows = self.runs
        if wanted := asked.query.get("experiment_id"):
            self._known(self.experiments, wanted, "Experiment")
            rows = {key: one for key, one in rows.items() if one["experiment_id"] == wanted}
        return self._page(asked, "runs", rows)

    def run_service_terminate_run(self, asked: "Asked") -> dict[str, Any]:
        self._known(self.runs, asked.path[0], "Run")["state"] = "FAILED"
        return {}

    def recurring_run_service_create_recurring_run(self, asked: "Asked") -> dict[str, Any]:
        body = asked.body
        self._checked(body)
        cron = ((body.get("trigger") or {}).get("cron_schedule") or {}).get("cron")
        if cron is not None and len(cron.split()) not in (5, 6):
            raise Refusal(400, f"Schedule cron {cron!r} is not supported")
        made = {
            **body,
            "recurring_run_id": str(uuid.uuid4()),
            "created_at": now(),
            "status": "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED",
        }
        self.recurring[made["recurring_run_id"]] = made
        return made

    def recurring_run_service_list_recurring_runs(self, asked: "Asked") -> dict[str, Any]:
        return self._page(asked, "recurringRuns", self.recurring)

    def recurring_run_service_get_recurring_run(self, asked: "Asked") -> dict[str, Any]:
        return self._known(self.recurring, asked.path[0], "RecurringRun")

    def recurring_run_service_disable_recurring_run(self, asked: "Asked") -> dict[str, Any]:
        self._known(self.recurring, asked.path[0], "RecurringRun")["status"] = "DISABLED"
        return {}

    def recurring_run_service_enable_recurring_run(self, asked: "Asked") -> dict[str, Any]:
        self._known(self.recurring, asked.path[0], "RecurringRun")["status"] = "ENABLED"
        return {}

    def recurring_run_service_delete_recurring_run(self, asked: "Asked") -> dict[str, Any]:
        gone = self.recurring.pop(self._known(self.recurring, asked.path[0], "RecurringRun")["recurring_run_id"])
        for run in self.runs.values():
            if run.get("recurring_run_id") == gone["recurring_run_id"] and run["state"] == "RUNNING":
                run["description"] = "orphaned: nothing will ever end it"
        return {}

    # -- rules --------------------------------------------------------------------------------------------------

    def _started(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self._checked(body)
        self.workflows.append(str(body.get("display_name")))
        run_id = body.get("run_id") or str(uuid.uuid4())
        if run_id in self.runs:
            raise Refusal(500, f"Failed to create a run: Duplicate entry '{run_id}' for key 'run_details.PRIMARY'")
        made = {
            **body,
            "run_id": run_id,
            "created_at": now(),
            "scheduled_at": now(),
            "finished_at": "1970-01-01T00:00:00Z",
            "storage_state": "AVAILABLE",
            "state": "PENDING",
        }
        self.runs[run_id] = made
        return made

    def _checked(self, body: Mapping[str, Any]) -> None:
        if not str(body.get("display_name") or "").strip():
            raise Refusal(400, "Invalid input error: the display name is empty")
        experiment = self._known(self.experiments, body.get("experiment_id", ""), "Experiment")
        self._allowed(experiment.get("namespace"))
        reference = body.get("pipeline_version_reference") or {}
        self._known(self.pipelines, reference.get("pipeline_id", ""), "Pipeline")
        version = self.versions.get(reference.get("pipeline_version_id", ""))
        if version is None:
            raise Refusal(500, f"Pipeline version {reference.get('pipeline_version_id')} not found")
        spec = version["pipeline_spec"]
        defined = spec.get("pipeline_spec", spec)["root"].get("inputDefinitions", {}).get("parameters", {})
        given = (body.get("runtime_config") or {}).get("parameters") or {}
        for name, value in given.items():
            if name not in defined:
                raise Refusal(400, f"Invalid input error: unexpected parameter {name}")
            kind = PARAMETER_TYPES.get(defined[name]["parameterType"])
            if kind is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
                raise Refusal(400, f"Invalid input error: parameter {name} is no {defined[name]['parameterType']}")
        for name, definition in defined.items():
            if name not in given and not definition.get("isOptional"):
                raise Refusal(400, f"Invalid input error: parameter {name} is missing")

    def _allowed(self, namespace: str | None) -> None:
        if self.namespaces is not None and not namespace:
            raise Refusal(400, "Invalid input error: In multi-user mode, namespace is required")
        if self.namespaces is not None and namespace not in self.namespaces:
            raise Refusal(403, f"User 'system:serviceaccount:x' is not authorized in namespace {namespace}")

    @staticmethod
    def _known(rows: dict[str, dict[str, Any]], key: str, kind: str) -> dict[str, Any]:
        if key not in rows:
            raise Refusal(404, f"ResourceNotFoundError: {kind} {key} not found")
        return rows[key]

    def _page(self, asked: "Asked", key: str, rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        if "experiment_id" not in asked.query and "namespace" in asked.operation.query:
            self._allowed(asked.query.get("namespace"))
        found = [row for row in rows.values() if matches(row, asked.query.get("filter", ""))]
        by, _, order = asked.query.get("sort_by", "").partition(" ")
        if by and by not in FILTERS | {"id"}:
            raise Refusal(400, f"Invalid input error: Invalid sorting field: {by}")
        if by:
            found.sort(key=lambda row: str(row.get(by)), reverse=order == "desc")
        start, size = int(asked.query.get("page_token") or 0), int(asked.query.get("page_size") or 20)
        page = found[start : start + size]
        # Lists leave out what is empty.
        answer: dict[str, Any] = {key: page, "total_size": len(found)} if page else {}
        if start + size < len(found):
            answer["next_page_token"] = str(start + size)
        return answer


def matches(row: Mapping[str, Any], text: str) -> bool:
    """Whether a row passes a filter. Raises Refusal for one that KFP does not take."""
    if not text:
        return True
    given = json.loads(text)
    if wrong := list(faults(_snake(given), "V2beta1Filter", "filter")):
        raise Refusal(400, f"Invalid input error: {wrong[0]}")
    for predicate in given["predicates"]:
        predicate = _snake(predicate)
        key, operation = predicate["key"], predicate["operation"]
        if key not in FILTERS:
            raise Refusal(400, f"Invalid input error: Filter key {key} is not supported")
        value = str(row.get(key, ""))
        if operation == "EQUALS":
            passed = value == predicate["string_value"]
        elif operation == "IS_SUBSTRING":
            passed = predicate["string_value"] in value
        elif operation == "IN":
            passed = value in predicate["string_values"]["values"]
        else:
            raise Refusal(400, f"Invalid input error: operation {operation} is not supported")
        if not passed:
            return False
    return True


def _snake(value: Any) -> Any:
    """Protocol buffers' JSON takes stringValue and string_value alike."""
    if isinstance(value, dict):
        return {re.sub("([A-Z])", lambda m: "_" + m[1].lower(), key): _snake(item) for key, item in value.items()}
    return [_snake(item) for item in value] if isinstance(value, list) else value


@dataclass
class Asked:
    """A request that names an operation."""

    operation: Operation
    path: tuple[str, ...]
    query: dict[str, str]
    body: dict[str, Any]
    file: bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "kfp"
    wbufsize = -1
    kfp: KfpServer
    table: list[Operation]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_DELETE = do_PATCH = do_GET

    def _handle(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = urlsplit(self.path)
        if match := LOG.fullmatch(parts.path):
            self.kfp.requests.append((self.command, "log"))
            if self._unauthorised():
                return self._send(401, {"message": "Unauthorized"})
            text = self.kfp.logs.get((unquote(match[1]), unquote(match[2])))
            if text is None:
                return self._send(500, {"error": "Could not find log", "message": "Could not find log", "code": 13})
            return self._raw(200, text.encode(), "text/plain")
        operation = next(
            (one for one in self.table if one.verb == self.command and one.path.fullmatch(parts.path)), None
        )
        if operation is None or not hasattr(self.kfp, operation.name):
            self.kfp.violations.append(f"{self.command} {parts.path} is not in the API")
            return self._send(404, {"message": "Not Found"})
        found = operation.path.fullmatch(parts.path)
        assert found is not None
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        self.kfp.requests.append((self.command, operation.name))
        failure = self._failure(operation.name)
        if failure is not None and failure.how in ("status", "hang", "page"):
            return self._fail(failure, b"")
        if failure is not None and failure.how == "late":
            self.kfp.late.wait(60)
        try:
            if self._unauthorised():
                raise Refusal(401, "Request header error: there is no user identity header. Unauthorized")
            asked = self._asked(operation, found, query, raw)
            with self.kfp._lock:
                answer = getattr(self.kfp, operation.name)(asked)
                if wrong := list(faults(answer, operation.response, "answer")):
                    raise AssertionError(f"this server's own answer: {wrong}")
                body = json.dumps(answer).encode()
        except Refusal as refusal:
            code = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6}.get(refusal.status, 13)
            text = f"{operation.name} failed: {refusal}"
            return self._send(refusal.status, {"error": text, "message": text, "code": code, "details": []})
        if failure is not None:
            return self._fail(failure, body)
        self._raw(200, body)

    def _asked(self, operation: Operation, found: re.Match[str], query: dict[str, str], raw: bytes) -> Asked:
        wrong = [f"query parameter {name}" for name in query if name not in operation.query]
        body: dict[str, Any] = {}
        file = b""
        content = self.headers.get("content-type", "")
        if content.startswith("multipart/form-data"):
            message: Message = BytesParser().parsebytes(b"Content-Type: " + content.encode() + b"\r\n\r\n" + raw)
            for part in message.get_payload():
                assert isinstance(part, Message)
                if part.get_param("name", header="content-disposition") == "uploadfile":
                    file = bytes(part.get_payload(decode=True) or b"")
            if not file:
                wrong.append("no uploadfile")
        elif raw:
            body = json.loads(raw)
            if operation.body is None:
                wrong.append("a body")
            else:
                wrong += list(faults(body, operation.body, operation.body))
        elif operation.body is not None:
            wrong.append("no body")
        if wrong:
            self.kfp.violations += [f"{operation.name}: {one}" for one in wrong]
            raise Refusal(400, f"proto: {wrong[0]}")
        return Asked(operation, tuple(map(unquote, found.groups())), query, body, file)

    def _unauthorised(self) -> bool:
        return self.kfp.token is not None and self.headers.get("authorization") != f"Bearer {self.kfp.token}"

    def _failure(self, operation: str) -> Failure | None:
        with self.kfp._lock:
            for failure in self.kfp.failures:
                if failure.operation == operation and failure.times > 0:
                    failure.times -= 1
                    return failure
        return None

    def _fail(self, failure: Failure, body: bytes) -> None:
        if failure.how == "status":
            return self._send(failure.status, {"error": "made to fail", "message": "made to fail", "code": 13})
        if failure.how == "page":
            return self._raw(200, b"<html><body>Log in to Your Account</body></html>", "text/html")
        if failure.how == "shortened":
            return self._raw(200, body[: len(body) // 2])
        if failure.how == "hang":
            self.kfp._released.wait(60)
        if failure.how == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
        self.close_connection = True

    def _send(self, status: int, answer: Mapping[str, Any]) -> None:
        self._raw(status, json.dumps(answer).encode())

    def _raw(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # Whoever asked may have given up.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)
            self.wfile.flush()


@contextmanager
def running(server: KfpServer | None = None, host: str = "127.0.0.1") -> Iterator[KfpServer]:
    """Serve on a free port of `host` until the end of the block; `address` says where."""
    kfp = server or KfpServer()
    handler = type("Handler", (_Handler,), {"kfp": kfp, "table": operations()})
    http = ThreadingHTTPServer((host, 0), handler)
    http.daemon_threads = True
    kfp.address = f"http://{host}:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield kfp
    finally:
        kfp._released.set()
        http.shutdown()
        http.server_close()
        thread.join()


def until(what: str, true: Callable[[], object], seconds: float = 20) -> None:
    """Read until it is so."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)
