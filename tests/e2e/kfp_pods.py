"""A compiled pipeline's steps as pods, without KFP: each with its own command, environment and security context.

What KFP's driver and launcher do is done here: inputs are resolved from the specification, artifacts are fetched from
and stored in S3 below /s3/BUCKET, and the executor gets its input as JSON. A step runs under Pod Security `restricted`
with a read-only root file system.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.e2e.cluster import Cluster, until
from tests.serving.s3 import KEY, S3, SECRET

LAUNCHER = """
import json, os, subprocess, sys
import s3fs
job = json.load(open("/job/job.json"))
files = s3fs.S3FileSystem(key=job["key"], secret=job["secret"], endpoint_url=job["endpoint"])
given = json.loads(job["input"])
def uris(side):
    return [one["uri"] for entry in given[side].get("artifacts", {}).values() for one in entry["artifacts"]]
for uri in uris("inputs"):
    for key in files.find(uri[5:]):
        os.makedirs(os.path.dirname("/s3/" + key), exist_ok=True)
        files.get_file(key, "/s3/" + key)
for uri in uris("outputs"):
    os.makedirs(os.path.dirname("/s3/" + uri[5:]), exist_ok=True)
done = subprocess.run([part.replace("{{$}}", job["input"]) for part in job["command"]])
if done.returncode:
    sys.exit(done.returncode)
for uri in uris("outputs"):
    path = "/s3/" + uri[5:]
    found = [os.path.join(d, f) for d, _, names in os.walk(path) for f in names] if os.path.isdir(path) else [path]
    for file in found:
        files.put_file(file, file[4:])
print("HS-OUTPUT " + json.dumps(json.load(open(given["outputs"]["outputFile"]))))
"""


@dataclass
class PodRunner:
    """Runs the steps of a pipeline, in the order that their inputs allow."""

    cluster: Cluster
    namespace: str
    s3: S3
    text: str
    """IR YAML."""
    image: str
    parameters: Mapping[str, str]
    run_id: str = "run-1"
    requests: Mapping[str, str] = field(default_factory=lambda: {"cpu": "100m", "memory": "256Mi"})
    """In place of the steps' own, which a small node could not place."""
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Parameters and artifacts by step."""

    def __post_init__(self) -> None:
        self.spec, self.platform = yaml.safe_load_all(self.text)
        self.components = self.spec["components"]

    def run(self, leave_out: frozenset[str] = frozenset()) -> list[str]:
        """Run all steps but `leave_out`; returns their names in the order they ran."""
        return self._dag(self.spec["root"]["dag"]["tasks"], dict(self.parameters), {}, leave_out)

    def _dag(
        self, tasks: Mapping[str, Any], parameters: Mapping[str, Any], artifacts: Mapping[str, Any], out: frozenset[str]
    ) -> list[str]:
        ran: list[str] = []
        waiting = {name: task for name, task in tasks.items() if name not in out}
        while waiting:
            name = next(n for n, t in waiting.items() if not set(t.get("dependentTasks", ())) & set(waiting))
            task = waiting.pop(name)
            given = self._inputs(task.get("inputs", {}), parameters, artifacts)
            component = self.components[task["componentRef"]["name"]]
            if "dag" in component:
                condition = re.search(r"\['([^']+)'\] == '([^']+)'", task["triggerPolicy"]["condition"])
                assert condition is not None
                if given[0][condition[1]] == condition[2]:
                    ran += self._dag(component["dag"]["tasks"], *given, out)
                continue
            self._step(name, component, *given)
            ran.append(name)
        return ran

    def _inputs(
        self, inputs: Mapping[str, Any], parameters: Mapping[str, Any], artifacts: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        values, files = {}, {}
        for name, source in inputs.get("parameters", {}).items():
            if "runtimeValue" in source:
                values[name] = str(source["runtimeValue"]["constant"]).replace("{{$.pipeline_job_uuid}}", self.run_id)
            elif "taskOutputParameter" in source:
                made = source["taskOutputParameter"]
                values[name] = self.outputs[made["producerTask"]]["parameters"][made["outputParameterKey"]]
            else:
                values[name] = parameters.get(source["componentInputParameter"], "")
        for name, source in inputs.get("artifacts", {}).items():
            if "taskOutputArtifact" in source:
                made = source["taskOutputArtifact"]
                files[name] = self.outputs[made["producerTask"]]["artifacts"][made["outputArtifactKey"]]
            else:
                files[name] = artifacts[source["componentInputArtifact"]]
        return values, files

    def _step(
        self, name: str, component: Mapping[str, Any], values: Mapping[str, Any], files: Mapping[str, Any]
    ) -> None:
        for parameter, defined in component.get("inputDefinitions", {}).get("parameters", {}).items():
            values = {parameter: defined.get("defaultValue", ""), **values}
        defined = component.get("outputDefinitions", {})
        made = {
            key: {
                "name": key,
                "type": one["artifactType"],
                "uri": f"s3://{self.s3.bucket}/{self.run_id}/{name}/{key}",
                "metadata": {},
            }
            for key, one in defined.get("artifacts", {}).items()
        }
        given = {
            "inputs": {
                "parameterValues": values,
                "artifacts": {key: {"artifacts": [one]} for key, one in files.items()},
            },
            "outputs": {
                "artifacts": {key: {"artifacts": [one]} for key, one in made.items()},
                "parameters": {key: {"outputFile": f"/tmp/out/{key}"} for key in defined.get("parameters", {})},
                "outputFile": "/tmp/executor_output.json",
            },
        }
        executor = component["executorLabel"]
        said = self._pod(name, executor, json.dumps(given))
        for key, entry in said.get("artifacts", {}).items():
            made[key] = entry["artifacts"][0]
        self.outputs[name] = {"artifacts": made, "parameters": said.get("parameterValues", {})}

    def _pod(self, name: str, executor: str, given: str) -> dict[str, Any]:
        container = self.spec["deploymentSpec"]["executors"][executor]["container"]
        platform = self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][executor]
        job = {
            "command": [*container["command"], *container["args"]],
            "input": given,
            "key": KEY,
            "secret": SECRET,
            "endpoint": f"http://{self.s3.address}",
        }
        pod = f"{self.run_id}-{name}"
        self._apply("Secret", pod, {"stringData": {"job.json": json.dumps(job), "launcher.py": LAUNCHER}})
        environment = [
            {
                "name": one["envVar"],
                "valueFrom": {"secretKeyRef": {"name": s["secretName"], "key": one["secretKey"], "optional": True}},
            }
            for s in platform.get("secretAsEnv", [])
            for one in s["keyToEnv"]
        ]
        environment += [
            {
                "name": one["envVar"],
                "valueFrom": {
                    "configMapKeyRef": {"name": m["configMapName"], "key": one["configMapKey"], "optional": True}
                },
            }
            for m in platform.get("configMapAsEnv", [])
            for one in m["keyToEnv"]
        ]
        context = {
            **{key: int(value) for key, value in platform["securityContext"].items() if key != "runAsNonRoot"},
            "runAsNonRoot": platform["securityContext"]["runAsNonRoot"],
            "readOnlyRootFilesystem": True,
            # What KFP's own compiler adds to every container.
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        mounts = [{"name": one["volumeName"], "mountPath": one["mountPath"]} for one in platform["emptyDirMounts"]]
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "activeDeadlineSeconds": int(platform["activeDeadlineSeconds"]),
            "containers": [
                {
                    "name": "main",
                    "image": self.image,
                    "command": ["python3", "/job/launcher.py"],
                    "env": environment,
                    "securityContext": context,
                    "resources": {"requests": self.requests, "limits": {"cpu": "2", "memory": "4Gi"}},
                    "volumeMounts": [
                        *mounts,
                        {"name": "s3-scratch", "mountPath": "/s3"},
                        {"name": "job", "mountPath": "/job", "readOnly": True},
                    ],
                }
            ],
            "volumes": [
                *({"name": one["name"], "emptyDir": {}} for one in mounts),
                {"name": "s3-scratch", "emptyDir": {}},
                {"name": "job", "secret": {"secretName": pod}},
            ],
        }
        self._apply("Pod", pod, {"spec": spec}, platform["podMetadata"]["labels"])

        def phase() -> str:
            found: str = self.cluster.get("-n", self.namespace, "pod", pod)["status"].get("phase", "")
            return found if found in ("Succeeded", "Failed") else ""

        ended = until(f"step {name}", phase, 400, 1)
        log = self.cluster.kubectl("-n", self.namespace, "logs", pod)
        assert ended == "Succeeded", f"step {name}:\n{log[-4000:]}"
        self.cluster.kubectl("-n", self.namespace, "delete", "pod,secret", pod, "--wait=false")
        output = next(line for line in reversed(log.splitlines()) if line.startswith("HS-OUTPUT "))
        said: dict[str, Any] = json.loads(output.removeprefix("HS-OUTPUT "))
        return said

    def _apply(self, kind: str, name: str, body: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> None:
        metadata = {"name": name, "labels": dict(labels or {})}
        given = {"apiVersion": "v1", "kind": kind, "metadata": metadata, **body}
        self.cluster.kubectl("apply", "-n", self.namespace, "-f", "-", given=given)
