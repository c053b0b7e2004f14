"""The chart: what is made of it is fresh, its examples render, its Job is replaced when it must be, bad values told."""

import importlib.util
import json
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import pytest

from orchard.version import VERSION

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "orchard"
EXAMPLES = sorted((CHART / "ci").glob("*-values.yaml"))
LEAST = ("--values", str(CHART / "ci" / "job-values.yaml"))


def _render_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render", ROOT / "helm" / "render.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


render = _render_module()
needs_helm = pytest.mark.skipif(render.helm() is None, reason="helm is missing: make tools")


def helm(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [render.helm(), "template", "fruits", str(CHART), *options], capture_output=True, text=True, check=False
    )


def objects(*options: str) -> list[dict[str, Any]]:
    done = helm(*options)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def job(*options: str) -> dict[str, Any]:
    return next(o for o in objects(*LEAST, *options, "--no-hooks") if o["kind"] == "Job")


def test_the_settings_in_the_schema_and_the_readme_are_those_of_the_pipeline() -> None:
    for path, text in render.outputs(manifests=False).items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} is out of date: make manifests"


@needs_helm
def test_the_manifests_are_those_of_the_chart() -> None:
    for path, text in render.outputs().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} is out of date: make manifests"


def test_the_chart_has_the_packages_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == VERSION
    assert f"orchard:{VERSION}" in chart["annotations"]["artifacthub.io/images"]


def test_a_template_makes_one_kind_and_lies_in_the_folder_of_its_component() -> None:
    for path in sorted((CHART / "templates").rglob("*.yaml")):
        name = path.relative_to(CHART / "templates")
        lines = path.read_text().splitlines()
        assert len(name.parts) == 2, f"templates/{name} lies in no component's folder"
        assert sum(line.startswith("kind: ") for line in lines) + ("orchard.policyHead" in path.read_text()) == 1, name
        assert "---" not in lines, f"templates/{name} makes more than one object"


@needs_helm
@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.name.removesuffix("-values.yaml"))
def test_every_pod_of_an_example_is_restricted(values: Path) -> None:
    pods = [pod for o in objects("--values", str(values)) for pod in _pods(o)]
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"] + pod.get("initContainers", []):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]  # noqa: S108


def _pods(value: Any) -> list[dict[str, Any]]:
    """Return every pod's specification in an object, that of the executors' template too."""
    if isinstance(value, str) and "kind: Pod" in value:
        value = yaml.safe_load(value)
    if isinstance(value, list):
        return [pod for item in value for pod in _pods(item)]
    if not isinstance(value, dict):
        return []
    if "containers" in value:
        return [value]
    return [pod for item in value.values() for pod in _pods(item)]


@needs_helm
def test_a_name_that_yaml_takes_for_a_number_stays_text() -> None:
    named = (
        "fullnameOverride=true",
        "source=/data/source,output=/data/output,serve.model=/data/output",
        "persistence.source.existingClaim=2024,persistence.source.subPath=2024",
        "persistence.output.existingClaim=2024,persistence.output.subPath=2024",
        "serviceAccount.driver.name=2024,serviceAccount.executor.name=2024,imagePullSecrets[0].name=2024",
        "s3.existingSecret=2024,s3.region=2024,webhook.existingSecret=2024",
        "driver.priorityClassName=2024,driver.runtimeClassName=2024,schedule.timeZone=2024",
        "batchScheduler.queue=2024,eventLog.directory=s3a://bucket/log",
        "serve.ingress.host=a.example,serve.ingress.className=2024,serve.ingress.tlsSecret=2024",
    )
    switches = ("serve.enabled", "serve.ingress.enabled", "eventLog.historyServer.enabled", "metrics.enabled")
    common = [word for each in named for word in ("--set-string", each)]
    common += [word for each in (*switches, "eventLog.enabled") for word in ("--set", f"{each}=true")]
    for more in (
        "metrics.rules.enabled=true",
        "schedule.cron=@daily,batchScheduler.name=kueue",
        "mode=operator,batchScheduler.name=yunikorn",
    ):
        for made in objects(*LEAST, "--namespace", "2024", *common, "--set", more):
            assert made["metadata"]["labels"]["app.kubernetes.io/instance"] == "true"
            assert isinstance(made["metadata"]["name"], str)
            for text in [made, *map(yaml.safe_load, filter(_is_a_pod, made.get("data", {}).values()))]:
                assert 2024 not in _leaves(text), f"a name is a number: {made['kind']} {made['metadata']['name']}"


def _is_a_pod(text: str) -> bool:
    return "kind: Pod" in text


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [value]


@needs_helm
def test_only_the_number_of_executors_leaves_the_job_as_it_is() -> None:
    name = job()["metadata"]["name"]
    assert job("--set", "executor.instances=7")["metadata"]["name"] == name
    for change in (
        "source=s3a://bucket/others",
        "rerun=2",
        "image.tag=v2",
        "settings.seed=7",
        "executor.memory=2g",
        "executor.nodeSelector.disk=ssd",
        "s3.existingSecret=keys",
        "backoffLimit=1",
    ):
        assert job("--set", change)["metadata"]["name"] != name, change


@needs_helm
@pytest.mark.parametrize("mode", ["schedule.cron=0 3 * * *", "gitops=true", "mode=operator,schedule.cron=0 3 * * *"])
def test_the_next_driver_of_a_run_has_the_settings_of_the_first(mode: str) -> None:
    made = objects(
        *LEAST, "--set", mode, "--set", "settings.limit=50,executor.instances=7,extraEnv[0].name=ORCHARD_SEED"
    )
    kinds = ("Job", "CronJob", "ScheduledSparkApplication")
    workload = next(o for o in made if o["kind"] in kinds and "test" not in o["metadata"]["name"])
    settings = next(o["data"] for o in made if o["metadata"]["name"] == "fruits-settings")
    driver = next(found for found in _dicts(workload) if found.get("name") in ("driver", "spark-kubernetes-driver"))
    assert all("configMapRef" not in source for source in driver.get("envFrom", []))
    given = {one["name"]: one.get("value", settings[one["name"]]) for one in driver["env"] if one["name"] in settings}
    assert given == settings
    assert ("ORCHARD_LIMIT", "50") in given.items()


def _dicts(value: Any) -> list[dict[str, Any]]:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [*([value] if isinstance(value, dict) else []), *(found for one in inner for found in _dicts(one))]


@needs_helm
def test_what_applies_manifests_gets_no_hook_and_one_job_whatever_changes() -> None:
    gitops = ("--values", str(CHART / "ci" / "gitops-values.yaml"))
    made = objects(*gitops)
    assert not [o for o in made if "helm.sh/hook" in o["metadata"].get("annotations", {})]
    names = {
        next(o["metadata"]["name"] for o in objects(*gitops, "--set", change) if o["kind"] == "Job")
        for change in ("executor.instances=7", "settings.seed=7", "rerun=1")
    }
    assert names == {"fruits"}


@needs_helm
@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.name.removesuffix("-values.yaml"))
def test_every_container_requests_disk(values: Path) -> None:
    for o in objects("--values", str(values), "--set", "driver.initContainers=null"):
        for pod in _pods(o):
            for container in pod["containers"]:
                assert container["resources"]["requests"]["ephemeral-storage"], o["metadata"]["name"]


@needs_helm
def test_servers_that_do_not_answer_let_a_node_be_drained() -> None:
    serve = objects("--values", str(CHART / "ci" / "serve-values.yaml"))
    (budget,) = (o for o in serve if o["kind"] == "PodDisruptionBudget")
    # Without it no server may be evicted while fewer than the budget's are ready, and all of them crash where their
    # model, a key or a bucket is gone.
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@needs_helm
@pytest.mark.parametrize(("answers", "told"), [(False, "does not answer ([Errno"), (True, "answers 501: ")])
def test_the_test_of_the_servers_says_in_a_sentence_what_is_wrong(*, answers: bool, told: str) -> None:
    made = objects("--values", str(CHART / "ci" / "serve-values.yaml"))
    (asking,) = (o for o in made if o["metadata"]["name"].endswith("-serve-test"))
    *python, script = asking["spec"]["containers"][0]["command"]
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # it takes no POST
        here = re.sub(r"http://[a-z-]+-serve:\d+", f"http://127.0.0.1:{server.server_port}", script)
        if answers:
            Thread(target=server.handle_request, daemon=True).start()
        else:
            server.server_close()
        done = subprocess.run([sys.executable, *python[1:], here], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@needs_helm
def test_the_pipeline_reads_what_the_chart_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchard.settings import load

    config = next(
        o
        for o in objects("--values", str(CHART / "ci" / "settings-values.yaml"))
        if o["kind"] == "ConfigMap" and o["metadata"]["name"].endswith("-settings")
    )
    for name, value in config["data"].items():
        monkeypatch.setenv(name, value)
    settings = load()
    given = yaml.safe_load((CHART / "ci" / "settings-values.yaml").read_text())["settings"]
    assert settings.labels == tuple(given["labels"])
    assert settings.max_rejected == 0.05
    assert settings.classifiers == tuple(given["classifiers"].split(","))
    for name in ("limit", "test_fraction", "group_by", "max_pixels", "backbone", "alpha", "components", "prune"):
        assert getattr(settings, name) == given[name], name
    assert settings.spark_conf == json.loads(config["data"]["ORCHARD_SPARK_CONF"])


@needs_helm
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("source=", "source is missing: --set source=s3a://bucket/images"),
        ("output=", "output is missing"),
        ("mode=cronjob", "at '/mode': value must be one of 'job', 'operator', 'none'"),
        ("executor.instances=0", "at '/executor/instances': minimum: got 0, want 1"),
        ("executor.instance=3", "at '/executor': additional properties 'instance' not allowed"),
        ("executor.memory=2Gi", "at '/executor/memory': '2Gi' does not match pattern '^[1-9][0-9]*[mg]$'"),
        ("executor.allocator=direct", "at '/executor/allocator': value must be one of 'statefulset', 'deployment'"),
        ("settings.engine=onnx", "at '/settings/engine': value must be one of 'openvino', 'tensorflow'"),
        ("settings.test_fraction=2", "at '/settings/test_fraction': exclusiveMaximum: got 2, want 1"),
        ("settings.spark_conf.a=b", "at '/settings': additional properties 'spark_conf' not allowed"),
        ("settings.max_rejected=many", "at '/settings/max_rejected': 'many' does not match pattern"),
        ("s3.accessKey=AKIA", "at '/s3': additional properties 'accessKey' not allowed"),
        ("image.tag=latest", "at '/image/tag'"),
        ("schedule.cron=nightly", "at '/schedule/cron': 'nightly' does not match pattern"),
        ("settings.variance=0.9,settings.components=5", "exclude each other"),
        ("executor.instances=null", "at '/executor': missing property 'instances'"),
        ("driver.ephemeralStorage.request=null", "at '/driver/ephemeralStorage': missing property 'request'"),
        ("driver.ephemeralStorage.request=900000K", "at '/driver/ephemeralStorage/request': '900000K' does not match"),
        ("executor.ephemeralStorage.limit=900000K", "at '/executor/ephemeralStorage/limit': '900000K' does not match"),
        ("networkPolicy.enabled=true,networkPolicy.apiServerPorts=null", "networkPolicy.apiServerPorts is empty"),
        ("settings=null", "missing property 'settings'"),
        ("extraEnv[0].name=A,extraEnv[0].value=5", "at '/extraEnv/0/value': got number, want string"),
        ("extraEnv[0].value=a", "at '/extraEnv/0': missing property 'name'"),
        ("schedule.cron=null", "at '/schedule': missing property 'cron'"),
    ],
)
def test_a_bad_value_is_told(change: str, told: str) -> None:
    done = helm(*LEAST, "--set", change)
    assert done.returncode != 0
    assert told in done.stderr
