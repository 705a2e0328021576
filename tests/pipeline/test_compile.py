"""The pipeline as files: deterministic, complete, and honest about images, resources and caching."""

from pathlib import Path

import pytest
import yaml

from config.settings import Settings, load_settings
from pipelines import retrain
from pipelines.compile import compile_all
from pipelines.training import build

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compiled")
    compile_all(Settings(), out, "registry.example/hscode/training:1")
    return out


def test_the_same_input_gives_the_same_bytes(compiled: Path, tmp_path: Path) -> None:
    for path in compile_all(Settings(), tmp_path, "registry.example/hscode/training:1"):
        assert path.read_bytes() == (compiled / path.name).read_bytes()


def test_every_step_runs_the_given_image_with_limits(compiled: Path) -> None:
    spec = next(yaml.safe_load_all((compiled / "hscode-training.yaml").read_text()))
    executors = spec["deploymentSpec"]["executors"]
    assert len(executors) == 11
    for executor in executors.values():
        container = executor["container"]
        assert container["image"] == "registry.example/hscode/training:1"
        assert container["resources"]["resourceMemoryLimit"]
        assert container["resources"]["resourceCpuLimit"]


def test_nothing_is_installed_when_a_step_starts(compiled: Path) -> None:
    assert "pip install" not in (compiled / "hscode-training.yaml").read_text()


def test_steps_that_read_a_changing_world_are_not_cached(compiled: Path) -> None:
    spec = next(yaml.safe_load_all((compiled / "hscode-training.yaml").read_text()))
    tasks = {**spec["root"]["dag"]["tasks"], **spec["components"]["comp-condition-1"]["dag"]["tasks"]}
    cached = {name for name, task in tasks.items() if task.get("cachingOptions", {}).get("enableCache")}
    assert cached == {"split", "embed", "train", "train-2", "pool", "evaluate", "select"}


def test_every_step_passes_a_restricted_namespace_and_a_read_only_root(compiled: Path) -> None:
    for name in ("hscode-training", "hscode-batch"):
        spec, platform = yaml.safe_load_all((compiled / f"{name}.yaml").read_text())
        pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        assert set(pods) == set(spec["deploymentSpec"]["executors"])
        for pod in pods.values():
            assert pod["securityContext"] == {"runAsGroup": "65532", "runAsNonRoot": True, "runAsUser": "65532"}
            assert pod["emptyDirMounts"] == [{"mountPath": "/tmp", "volumeName": "tmp"}]
            assert int(pod["activeDeadlineSeconds"]) == Settings().kfp.step_seconds
            assert all(one["optional"] for one in pod.get("secretAsEnv", []) + pod.get("configMapAsEnv", []))


def test_a_step_gets_the_secrets_it_needs_and_no_others(compiled: Path) -> None:
    _, platform = yaml.safe_load_all((compiled / "hscode-training.yaml").read_text())
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    secrets = {
        name.removeprefix("exec-"): [one["secretName"] for one in pod.get("secretAsEnv", [])]
        for name, pod in pods.items()
    }
    assert {name for name, given in secrets.items() if given} == {"ingest", "gate", "register"}
    assert {one for given in secrets.values() for one in given} == {"hscode-s3"}


def test_every_task_has_a_name_for_people_and_is_tried_again(compiled: Path) -> None:
    spec = next(yaml.safe_load_all((compiled / "hscode-training.yaml").read_text()))
    tasks = {**spec["root"]["dag"]["tasks"], **spec["components"]["comp-condition-1"]["dag"]["tasks"]}
    names = [task["taskInfo"]["name"] for name, task in tasks.items() if not name.startswith("condition")]
    assert len(set(names)) == 11
    assert all(name[0].isupper() for name in names)
    assert {t["retryPolicy"]["maxRetryCount"] for n, t in tasks.items() if not n.startswith("condition")} == {2}


def test_each_kind_is_a_task_of_its_own() -> None:
    spec = build(load_settings(None, {}, ["models.kinds=[textcnn,bilstm,dnn,svc]"])).pipeline_spec
    trained = [t for t in spec.root.dag.tasks.values() if t.component_ref.name.startswith("comp-train")]
    assert sorted(t.inputs.parameters["kind"].runtime_value.constant.string_value for t in trained) == [
        "bilstm",
        "dnn",
        "svc",
        "textcnn",
    ]


def test_the_kubernetes_manifests_carry_the_same_spec(compiled: Path) -> None:
    spec = next(yaml.safe_load_all((compiled / "hscode-training.yaml").read_text()))
    pipeline, version = yaml.safe_load_all((compiled / "hscode-training.kubernetes.yaml").read_text())
    assert version["spec"]["pipelineSpec"] == spec
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"]


def test_a_warm_retraining_reads_the_champion_and_every_kind_begins_there() -> None:
    warm = load_settings(assignments=["models.kinds=[textcnn, svc]", "retrain.warm_start=true"])
    for settings, expected in ((warm, True), (load_settings(), False)):
        spec = retrain.build(settings).pipeline_spec
        tasks = spec.root.dag.tasks
        assert ("champion" in tasks) is expected
        for name in ("train", "train-2"):
            begun = tasks[name].inputs.artifacts.get("champion")
            assert (begun is not None and begun.task_output_artifact.producer_task == "champion") is expected
