"""Kubeflow Pipelines as the place where runs happen: the run backend and the schedules of the trigger, by `kfp.Client`.

Facts this rests on (KFP 2.17): names of runs need not be unique, and a client-given run id that exists starts a second
workflow all the same. So a run is looked for by its name before each submit, and after one that was not answered. Lists
leave out what is empty, so an answer that is not a JSON object (a proxy's page, half an answer) must never be read as
"no such run": each answer is checked before it is believed.
"""

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from config.settings import Kubeflow, Settings
from models.errors import UserError
from pipelines.compile import Compiled, compiled
from serving.control.trigger.backend import (
    BackendRefused,
    BackendUnavailable,
    RunState,
    ScheduleState,
    Status,
    Value,
)
from serving.deploy.kserve import one_try

log = logging.getLogger("hscode.kfp")

POD_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105 — a path
"""Where a pod finds its token for KFP, where its manifest mounts one (audience pipelines.kubeflow.org)."""

STATUS: Mapping[str, Status] = {
    "SUCCEEDED": "succeeded",
    "SKIPPED": "succeeded",
    "FAILED": "failed",
    "CANCELED": "failed",
    "PENDING": "running",
    "RUNNING": "running",
    "CANCELING": "running",
    "PAUSED": "running",
}
"""Run states; one that is missing or unspecified means that KFP knows the run and nothing runs yet."""

SCHEDULE = "hscode-retraining"
"""Name of the one recurring run."""
NO_LOG = "KFP has no log of it: it was ended by hand, or a pod was never admitted (see the Workflow's status)"
_PAGE = 100
_LOG_CHARS = 20_000


@dataclass(frozen=True)
class Task:
    """One node of a run, as far as KFP tells."""

    name: str
    """The step's name in the pipeline (`train-2`); KFP's API knows no display names of tasks."""
    state: str
    started_at: datetime | None
    finished_at: datetime | None
    children: tuple[str, ...]
    """Node ids of what is under it: where its log is."""


class KfpBackend:
    """One KFP installation, and one of our pipelines on it (by default the retraining)."""

    name: Literal["kfp"] = "kfp"

    def __init__(self, settings: Settings, pipeline: str = "hscode-retrain") -> None:
        """`pipeline` is a name of `pipelines.compile.pipelines`. Nothing is asked before the first call."""
        if not settings.kfp.endpoint:
            raise UserError("setting kfp.endpoint is missing", todo="set it to KFP's address, such as http://HOST:8888")
        self.settings, self.pipeline = settings, pipeline

    # -- the trigger's contract ---------------------------------------------------------------------------------

    def find(self, name: str) -> RunState | None:
        """The run of this exact name; the oldest where there are several."""
        found = self._asked(
            self.client.runs.run_service_list_runs,
            **self._place(),
            filter=_equals("display_name", name),
            sort_by="created_at asc",
            page_size=1,
        )
        return next((self._state(run) for run in found.get("runs") or []), None)

    def submit(self, name: str, parameters: Mapping[str, Value], tags: Mapping[str, str]) -> str:
        """Start a run of this name, unless there is one: then that one's id.

        `tags` become the run's description: KFP's runs have no tags to filter by. A submit without a clear answer is
        looked for by name; where it is not found BackendUnavailable says so, and the same call may be made again.
        """
        _reachable_from_pods(self.settings)
        already = self.find(name)
        if already is not None:
            return already.backend_id
        from kfp_server_api import V2beta1PipelineVersionReference, V2beta1Run

        pipeline_id, version_id = self.published()
        run = V2beta1Run(
            display_name=name,
            description=json.dumps(dict(tags), sort_keys=True) if tags else None,
            experiment_id=self._experiment(),
            pipeline_version_reference=V2beta1PipelineVersionReference(pipeline_id, version_id),
            runtime_config=self._runtime({"run_key": name, **parameters}),
            service_account=self.settings.kfp.service_account,
        )
        try:
            made = self._asked(self.client.runs.run_service_create_run, run)
            return _id(made, "run_id")
        except BackendUnavailable as error:
            log.info("the submit of %s was not answered (%s); looking for it", name, error)
            found = self.find(name)
            if found is None:
                raise
            return found.backend_id

    def status(self, backend_id: str) -> RunState:
        """How a run is; for a failed one with the line that its step ended with."""
        return self.progress(backend_id)[0]

    # -- the one schedule ---------------------------------------------------------------------------------------

    def set_schedule(self, cron: str) -> ScheduleState:
        """Set or replace the recurring run. KFP has no update, so the new one is made before the old ones go.

        Six fields: of five KFP takes the first as seconds. Raises UserError for another number.
        """
        if len(cron.split()) != 6:
            raise UserError(
                f"cron {cron!r} has {len(cron.split())} fields", todo="give six: second minute hour day month weekday"
            )
        from kfp_server_api import (
            RecurringRunMode,
            V2beta1CronSchedule,
            V2beta1PipelineVersionReference,
            V2beta1RecurringRun,
            V2beta1Trigger,
        )

        _reachable_from_pods(self.settings)
        old = list(self._schedules())
        pipeline_id, version_id = self.published()
        kept = next(
            (one for one in old if _cron(one) == cron and _version(one) == version_id and _enabled(one)),
            None,
        )
        if kept is None:
            recurring = V2beta1RecurringRun(
                display_name=SCHEDULE,
                description="Retraining, set by hscode schedule",
                experiment_id=self._experiment(),
                namespace=self.settings.kfp.namespace,
                pipeline_version_reference=V2beta1PipelineVersionReference(pipeline_id, version_id),
                runtime_config=self._runtime({"triggered_by": "schedule"}),
                service_account=self.settings.kfp.service_account,
                trigger=V2beta1Trigger(cron_schedule=V2beta1CronSchedule(cron=cron)),
                mode=RecurringRunMode.ENABLE,
                max_concurrency="1",
                no_catchup=True,
            )
            kept = self._asked(self.client.recurring_runs.recurring_run_service_create_recurring_run, recurring)
        kept_id = _id(kept, "recurring_run_id")
        self._retired([one["recurring_run_id"] for one in old if one["recurring_run_id"] != kept_id])
        return ScheduleState(cron, backend_id=kept_id)

    def show(self) -> ScheduleState | None:
        """The recurring run as it is, the enabled one where several are left from an interrupted change."""
        found = sorted(self._schedules(), key=lambda one: (_enabled(one), str(one.get("created_at"))))
        if not found:
            return None
        return ScheduleState(_cron(found[-1]), _enabled(found[-1]), backend_id=found[-1]["recurring_run_id"])

    def remove(self) -> bool:
        """Take it away. Disabled at once; deleted when none of its runs is active, else those would never end.

        Raises BackendUnavailable where a run is still active: it is disabled then, and the same call goes on.
        """
        found = [one["recurring_run_id"] for one in self._schedules()]
        active = self._retired(found)
        if active:
            raise BackendUnavailable(
                f"the schedule is disabled; a run of it is still active, so {', '.join(active)} is deleted later"
            )
        return bool(found)

    def _retired(self, ids: list[str]) -> list[str]:
        """Disable recurring runs, and delete those without an active run (KFP would leave it RUNNING for ever).

        Returns those that have one.
        """
        if not ids:
            return []
        recurring = self.client.recurring_runs
        for one in ids:
            self._asked(recurring.recurring_run_service_disable_recurring_run, one)
        ended = ("succeeded", "failed")
        busy = {r.get("recurring_run_id") for r in self.runs() if STATUS.get(r.get("state") or "") not in ended}
        for one in ids:
            if one not in busy:
                self._asked(recurring.recurring_run_service_delete_recurring_run, one)
        return [one for one in ids if one in busy]

    def _schedules(self) -> Iterator[dict[str, Any]]:
        yield from self._pages(
            self.client.recurring_runs.recurring_run_service_list_recurring_runs,
            "recurringRuns",
            **self._place(),
            filter=_equals("display_name", SCHEDULE),
        )

    # -- for people ---------------------------------------------------------------------------------------------

    def runs(self, limit: int = _PAGE) -> list[dict[str, Any]]:
        """The newest runs of our experiment, as KFP says them."""
        experiment = self._found_experiment()
        if experiment is None:
            return []
        found = self._asked(
            self.client.runs.run_service_list_runs,
            experiment_id=_id(experiment, "experiment_id"),
            sort_by="created_at desc",
            page_size=min(limit, _PAGE),
        )
        return list(found.get("runs") or [])

    def listed(self, limit: int = _PAGE) -> list[RunState]:
        """The newest runs, without their errors (each would cost requests of its own)."""
        return [self._state(run) for run in self.runs(limit)]

    def progress(self, backend_id: str) -> tuple[RunState, Mapping[str, str]]:
        """A run, and its steps' states by name (as in the pipeline, `train-2`: KFP tells no display names of tasks)."""
        answer = self._asked(self.client.runs.run_service_get_run, backend_id)
        tasks = tuple(_tasks(answer))
        return self._state(answer, tasks), {task.name: task.state.lower() for task in steps(tasks)}

    def failed_step(self, backend_id: str) -> tuple[str, str]:
        """As `failed_log`, of a run by its id."""
        return self.failed_log(backend_id, tuple(_tasks(self._asked(self.client.runs.run_service_get_run, backend_id))))

    def artifacts(self, state: RunState) -> str:
        """Address of the run's folder in the object store, where the settings name the root; else where it is said."""
        if self.settings.kfp.pipeline_root is None:
            return f"below defaultPipelineRoot of ConfigMap kfp-launcher, in the folder {state.backend_id}"
        return f"{self.settings.kfp.pipeline_root.rstrip('/')}/{self.pipeline}/{state.backend_id}"

    def failed_log(self, backend_id: str, tasks: tuple[Task, ...]) -> tuple[str, str]:
        """Name of the failed step and the end of its log; both empty where KFP has none (the pod was never admitted).

        KFP keeps no reason for a failure but the log of the node; a parent that failed has no log of its own.
        """
        for task in reversed([task for task in tasks if task.state == "FAILED"]):
            for node in task.children:
                try:
                    text = self._log(backend_id, node)
                except (BackendRefused, BackendUnavailable) as error:
                    log.debug("no log of node %s: %s", node, error)
                    continue
                if text.strip():
                    return _step_name(task, tasks), text[-_LOG_CHARS:]
        return "", ""

    # -- publishing ---------------------------------------------------------------------------------------------

    def published(self) -> tuple[str, str]:
        """Ids of the pipeline and of the version with this content; uploaded where KFP does not have it.

        By name, so that Pipeline and PipelineVersion objects put there by kubectl are found alike.
        """
        from kfp_server_api import V2beta1Pipeline

        content = self._compiled
        pipelines, uploads = self.client.pipelines, self.client.pipeline_uploads

        def pipeline() -> dict[str, Any] | None:
            found = self._asked(
                pipelines.pipeline_service_list_pipelines,
                **self._place(),
                filter=_equals("display_name", content.name),
            )
            return next(iter(found.get("pipelines") or []), None)

        def make_pipeline() -> dict[str, Any]:
            named = V2beta1Pipeline(name=content.name, display_name=content.name, namespace=self.settings.kfp.namespace)
            return self._asked(pipelines.pipeline_service_create_pipeline, named)

        pipeline_id = _id(self._once(pipeline, make_pipeline), "pipeline_id")

        def version() -> dict[str, Any] | None:
            found = self._asked(
                pipelines.pipeline_service_list_pipeline_versions,
                pipeline_id,
                filter=_equals("display_name", content.version),
            )
            return next(iter(found.get("pipeline_versions") or []), None)

        def make_version() -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as work:
                file = Path(work) / f"{content.version}.yaml"
                file.write_text(content.text, encoding="utf-8")
                return self._asked(
                    uploads.upload_pipeline_version,
                    str(file),
                    name=content.version,
                    display_name=content.version,
                    pipelineid=pipeline_id,
                )

        return pipeline_id, _id(self._once(version, make_version), "pipeline_version_id")

    def _experiment(self) -> str:
        from kfp_server_api import V2beta1Experiment

        kfp = self.settings.kfp

        def make() -> dict[str, Any]:
            named = V2beta1Experiment(display_name=kfp.experiment, namespace=kfp.namespace)
            return self._asked(self.client.experiments.experiment_service_create_experiment, named)

        return _id(self._once(self._found_experiment, make), "experiment_id")

    def _found_experiment(self) -> dict[str, Any] | None:
        found = self._asked(
            self.client.experiments.experiment_service_list_experiments,
            **self._place(),
            filter=_equals("display_name", self.settings.kfp.experiment),
        )
        return next(iter(found.get("experiments") or []), None)

    @cached_property
    def _compiled(self) -> Compiled:
        return compiled(self.settings, self.pipeline)

    def _runtime(self, parameters: Mapping[str, Value]) -> Any:
        """Values for what the pipeline takes; its `settings` are ours, without secrets."""
        import yaml
        from kfp_server_api import V2beta1RuntimeConfig

        taken = next(yaml.safe_load_all(self._compiled.text))["root"]["inputDefinitions"]["parameters"]
        given = {"settings": self.settings.without_secrets().to_json(), **parameters}
        unknown = sorted(set(parameters) - set(taken) - {"run_key", "triggered_by"})
        if unknown:
            raise BackendRefused(f"{self.pipeline} has no parameter {unknown[0]}; it takes {', '.join(sorted(taken))}")
        return V2beta1RuntimeConfig(
            parameters={name: value for name, value in given.items() if name in taken},
            pipeline_root=self.settings.kfp.pipeline_root,
        )

    @staticmethod
    def _once(find: Callable[[], dict[str, Any] | None], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is found, else made; found once more where another made it meanwhile or the answer was lost."""
        found = find()
        if found is not None:
            return found
        try:
            return make()
        except (BackendRefused, BackendUnavailable):
            found = find()
            if found is None:
                raise
            return found

    # -- asking -------------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """The endpoint without a slash at its end."""
        return str(self.settings.kfp.endpoint).rstrip("/")

    @cached_property
    def client(self) -> Any:
        """`kfp.Client`, made once the server has been seen to answer: its own start would wait for 9 minutes."""
        kfp = self.settings.kfp
        _reachable(self.address, kfp)
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            from kfp import Client
            from kfp.client import ServiceAccountTokenVolumeCredentials

            token = _token_file(kfp)
            client = Client(
                host=self.address,
                namespace=kfp.namespace or "kubeflow",
                credentials=ServiceAccountTokenVolumeCredentials(token) if token else None,
                ssl_ca_cert=kfp.ca_file,
            )
        # The deadline of a call is for all of it: the generated client would try three times more.
        pools = client.runs.api_client.rest_client.pool_manager
        pools.connection_pool_kw["retries"] = one_try()
        pools.clear()
        return client

    def _asked(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> dict[str, Any]:
        """Make a call of the generated API with our deadline; its answer is a JSON object. Raises as the contract.

        What only asks is refused for what is not there (400, 404) alone: a run does not fail by our token's end.
        """
        text = self._text(call, *arguments, **named)
        try:
            answer = json.loads(text) if text.strip() else {}
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise BackendUnavailable(f"{self.address}: not an answer of KFP's API: {text[:80]!r}")
        return answer

    def _text(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
        from kfp_server_api.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        given = {name: value for name, value in named.items() if value is not None}
        deadline = self.settings.kfp.request_seconds
        try:
            response = call(*arguments, **given, _preload_content=False, _request_timeout=deadline)
            return bytes(response.data).decode("utf-8", "replace")
        except ApiException as error:
            reading = any(verb in getattr(call, "__name__", "") for verb in ("_list_", "_get_"))
            raise _refusal(self.address, int(error.status or 0), error.body or error.reason, reading) from None
        except (HTTPError, OSError, AttributeError) as error:
            # AttributeError: what the generated client makes of an error of TLS.
            raise BackendUnavailable(f"{self.address}: no answer ({_cause(error)})") from None

    def _pages(self, call: Callable[..., Any], key: str, **named: Any) -> Iterator[dict[str, Any]]:
        token = ""
        while True:
            page = self._asked(call, **named, page_size=_PAGE, page_token=token)
            yield from page.get(key) or []
            token = page.get("next_page_token") or ""
            if not token:
                return

    def _log(self, run_id: str, node: str) -> str:
        api = self.client.runs.run_service_get_run.__self__.api_client
        path, values = "/apis/v1alpha1/runs/{run}/nodes/{node}/log", {"run": run_id, "node": node}
        return self._text(
            lambda **named: api.call_api(
                path, "GET", values, [], {}, auth_settings=["Bearer"], _return_http_data_only=True, **named
            )
        )

    def _place(self) -> dict[str, str | None]:
        return {"namespace": self.settings.kfp.namespace}

    def _state(self, run: Mapping[str, Any], tasks: tuple[Task, ...] = ()) -> RunState:
        run_id, state = _id(run, "run_id"), str(run.get("state") or "")
        error = ""
        if tasks and state == "FAILED":
            step, text = self.failed_log(run_id, tasks)
            error = f"step {step}: {last_words(text)}" if text else NO_LOG
        elif state == "CANCELED":
            error = "cancelled"
        return RunState(
            run_id,
            str(run.get("display_name") or ""),
            STATUS.get(state, "intended"),
            error,
            _moment(run.get("created_at")),
            _moment(run.get("finished_at")),
        )


def _reachable_from_pods(settings: Settings) -> None:
    """A step's pod has no files of this machine: raises BackendRefused for an address that only works here."""
    files = [(f"data.sources[{n}].path", source.path) for n, source in enumerate(settings.data.sources)]
    files += [
        ("nomenclature.path", settings.nomenclature.path or ""),
        ("nomenclature.correlation", settings.nomenclature.correlation or ""),
    ]
    for setting, address in files:
        if address and "://" not in address:
            raise BackendRefused(
                f"setting {setting}: a pod cannot read the local file {address}; give an s3:// address"
            )
    if not (settings.registry.uri or "").startswith(("http://", "https://")):
        raise BackendRefused("setting registry.uri: a pod needs MLflow's address; give the server's, http://HOST:5000")
    if not (settings.deploy.target or "").startswith("kserve:"):
        raise BackendRefused("setting deploy.target: a pod deploys to KServe; give kserve:NAMESPACE")


def last_words(text: str) -> str:
    """The line of a step's log that says why it ended: its own ``hscode: …``, else the last that names an error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line.partition("hscode: ")[2] for line in lines if "hscode: " in line]
    named = [line for line in lines if "Error" in line or "Killed" in line]
    return (own or named or lines or ["no log"])[-1][:500]


def _reachable(address: str, kfp: Kubeflow) -> None:
    import httpx

    token = _token_file(kfp)
    headers = {}
    if token:
        try:
            headers["Authorization"] = "Bearer " + Path(token).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UserError(
                f"the token cannot be read ({error.strerror})", token, "see setting kfp.token_file"
            ) from None
    url = f"{address}/apis/v2beta1/healthz"
    try:
        with httpx.Client(verify=kfp.ca_file or True, timeout=kfp.request_seconds, trust_env=False) as client:
            got = client.get(url, headers=headers)
    except httpx.InvalidURL as error:
        raise UserError(f"not an address ({error})", address, "see setting kfp.endpoint") from None
    except (httpx.HTTPError, OSError) as error:
        raise BackendUnavailable(f"{address}: no answer ({_cause(error)})") from None
    if not got.is_success:
        raise _refusal(address, got.status_code, got.text, reading=True)
    if "json" not in got.headers.get("content-type", ""):
        raise BackendUnavailable(f"{address}: not KFP's API (its healthz is no JSON); is a login page in front of it?")


def _token_file(kfp: Kubeflow) -> str | None:
    return kfp.token_file or (POD_TOKEN if os.path.exists(POD_TOKEN) else None)


def _refusal(address: str, status: int, body: object, reading: bool) -> BackendRefused | BackendUnavailable:
    """What an error status means for the caller, in one line."""
    said = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    with contextlib.suppress(ValueError, AttributeError):
        said = str(json.loads(said).get("message") or said)
    said = " ".join(said.split())[:300]
    hint = {
        401: "; does kfp.token_file hold a valid token?",
        403: "; may this account use the namespace of setting kfp.namespace?",
        429: "; it asks for patience",
    }.get(status, "")
    line = f"{address}: {status} {said}{hint}"
    later = (0, 401, 403, 408, 429) if reading else (0, 408, 429)
    return BackendUnavailable(line) if status in later or status >= 500 else BackendRefused(line)


def _cause(error: BaseException) -> str:
    """The innermost reason, in one line."""
    reason = getattr(error, "reason", None)
    inner = reason if isinstance(reason, BaseException) else error
    return " ".join(f"{type(inner).__name__}: {inner}".split())[:200]


def _equals(key: str, value: str) -> str:
    # The API wants the operation's name or number; the SDK sends numbers.
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "stringValue": value}]})


def _id(answer: Mapping[str, Any], key: str) -> str:
    value = answer.get(key)
    if not value:
        raise BackendUnavailable(f"half an answer of KFP: {key} is missing in {json.dumps(answer)[:120]}")
    return str(value)


def _moment(text: str | None) -> datetime | None:
    """An RFC 3339 moment; KFP writes the beginning of 1970 where there is none."""
    moment = datetime.fromisoformat(text) if text else None
    return moment if moment is not None and moment.timestamp() > 0 else None


def _tasks(run: Mapping[str, Any]) -> Iterator[Task]:
    for detail in (run.get("run_details") or {}).get("task_details") or []:
        children = tuple(str(child["pod_name"]) for child in detail.get("child_tasks") or [] if child.get("pod_name"))
        yield Task(
            str(detail.get("display_name") or ""),
            str(detail.get("state") or ""),
            _moment(detail.get("start_time")),
            _moment(detail.get("end_time")),
            children,
        )


def steps(tasks: tuple[Task, ...]) -> list[Task]:
    """The tasks that are steps of the pipeline, in the order they began; Argo's inner nodes are left out."""
    inner = ("", "executor", "driver", "root")
    shown = [t for t in tasks if t.name.split("(")[0] not in inner and not t.name.endswith(("-driver", "-executor"))]
    return sorted(shown, key=lambda t: (t.started_at is None, t.started_at or datetime.min))


def _step_name(task: Task, tasks: tuple[Task, ...]) -> str:
    if task in steps((task,)):
        return task.name
    failed = [t for t in steps(tasks) if t.state == "FAILED"]
    return failed[-1].name if failed else task.name


def _cron(recurring: Mapping[str, Any]) -> str:
    return str(((recurring.get("trigger") or {}).get("cron_schedule") or {}).get("cron") or "")


def _version(recurring: Mapping[str, Any]) -> str:
    return str((recurring.get("pipeline_version_reference") or {}).get("pipeline_version_id") or "")


def _enabled(recurring: Mapping[str, Any]) -> bool:
    return recurring.get("status") == "ENABLED"
