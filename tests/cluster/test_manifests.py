"""`orchard submit` applies the chart's manifests, under the job's name and with its values, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from conftest import REPOSITORY
from orchard.cli import cli
from orchard.cluster.manifests import RENDERED, TUNING, Submission, render
from orchard.errors import UsageError
from orchard.settings import Settings, load
from orchard.settings_text import as_text

SOURCE, OUTPUT = "s3a://bucket/photos", "s3a://bucket/out"


def rendered(name: str = "peach", flags: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Return the manifests by kind and name."""
    manifests = render(Submission(name, SOURCE, OUTPUT, load(flags), **options), "fruit")
    return {f"{manifest['kind']}/{manifest['metadata']['name']}": manifest for manifest in manifests}


def job_of(manifests: dict[str, Any]) -> Any:
    return next(iter(manifests.values()))


def container_of(manifests: dict[str, Any]) -> Any:
    return job_of(manifests)["spec"]["template"]["spec"]["containers"][0]


def properties_of(manifests: dict[str, Any]) -> dict[str, str]:
    name = job_of(manifests)["metadata"]["labels"]["app.kubernetes.io/instance"]
    loaded: dict[str, str] = json.loads(manifests[f"ConfigMap/{name}-settings"]["data"]["ORCHARD_SPARK_CONF"])
    return loaded


def test_everything_of_the_chart_is_there_under_the_jobs_name() -> None:
    kinds = sorted(manifest["kind"] for manifest in yaml.safe_load_all(RENDERED.read_text()) if manifest)
    manifests = rendered()
    assert sorted(key.partition("/")[0] for key in manifests) == kinds
    assert next(iter(manifests)).startswith("Job/peach-")
    for manifest in manifests.values():
        assert manifest["metadata"]["namespace"] == "fruit"
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "peach"
        assert manifest["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "orchard"
    role = manifests["Role/peach-driver"]
    assert [name for rule in role["rules"] for name in rule.get("resourceNames", [])] == ["spark-s-peach-0"] * 2
    assert manifests["RoleBinding/peach-driver"]["subjects"][0] == {
        "kind": "ServiceAccount",
        "name": "peach-driver",
        "namespace": "fruit",
    }


def test_no_name_of_the_release_is_left() -> None:
    """``orchard`` stays where it is the product's name: the image, its folder, one label."""
    text = json.dumps(list(rendered().values()))
    for left in ("orchard-driver", "orchard-executor", "orchard-settings", "orchard-pods", "spark-s-orchard"):
        assert left not in text
    assert {"name": "ORCHARD_APP_ID", "value": "peach"} in container_of(rendered())["env"]


def test_without_options_a_job_named_like_the_release_is_the_charts() -> None:
    mine = rendered("orchard")
    for manifest in (manifest for manifest in yaml.safe_load_all(RENDERED.read_text()) if manifest):
        if manifest["kind"] == "Role":
            assert mine["Role/orchard-driver"]["rules"] == manifest["rules"]
        if manifest["kind"] == "ConfigMap" and "executor.yaml" in manifest["data"]:
            template, charts = mine["ConfigMap/orchard-pods"], manifest
            ours, theirs = (yaml.safe_load(each["data"]["executor.yaml"]) for each in (template, charts))
            assert ours["spec"] == theirs["spec"]
        if manifest["kind"] == "Job":
            ours, theirs = job_of(mine)["spec"], manifest["spec"]
            theirs["template"]["spec"]["containers"][0]["args"] = ["run", SOURCE, "--output", OUTPUT]
            assert ours["template"]["spec"] == theirs["template"]["spec"]


def test_settings_become_variables_that_are_read_back_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"max_rejected": "7%", "labels": "a,b", "fresh": True, "variance": "0.9", "backbone": "MobileNetV2"}
    data = rendered(flags=flags)["ConfigMap/peach-settings"]["data"]
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert (settings.max_rejected, settings.labels, settings.fresh) == (0.07, ("a", "b"), True)
    assert (settings.variance, settings.backbone) == (0.9, "MobileNetV2")
    assert settings.master == "k8s://https://kubernetes.default.svc"


WRITTEN = [name for name, field in Settings.model_fields.items() if field.default not in (None, {})]


@pytest.mark.parametrize("name", WRITTEN)
def test_every_settings_default_survives_the_way_through_a_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default = getattr(load(), name)
    monkeypatch.setenv(f"ORCHARD_{name.upper()}", as_text(name, default))
    assert getattr(load(), name) == default


def test_the_callers_own_master_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHARD_MASTER", "local[2]")
    assert rendered()["ConfigMap/peach-settings"]["data"]["ORCHARD_MASTER"].startswith("k8s://")


def test_sizes_reach_spark_and_the_drivers_container() -> None:
    manifests = rendered(
        flags={"driver_memory": "2g", "spark_conf": {"spark.task.maxFailures": "8"}},
        executors=5,
        executor_cores=2,
        executor_memory="512m",
        executor_memory_overhead="1300m",
        driver_core_request="250m",
        driver_memory_overhead="1g",
        image="registry/orchard:2",
    )
    properties = properties_of(manifests)
    assert properties["spark.executor.instances"] == "5"
    assert properties["spark.executor.memoryOverhead"] == "1300m"
    assert properties["spark.kubernetes.container.image"] == "registry/orchard:2"
    assert properties["spark.task.maxFailures"] == "8"
    container = container_of(manifests)
    assert container["image"] == "registry/orchard:2"
    assert container["resources"]["requests"] == {
        "cpu": "250m",
        "memory": "3072Mi",
        "ephemeral-storage": "512Mi",
    }
    assert container["resources"]["limits"]["memory"] == "3072Mi"


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"executor_memory": "2Gi"}, "--executor-memory 2Gi is no size"),
        ({"executor_memory": "450m"}, "--executor-memory 450m is too little"),
        ({"executor_memory_overhead": "lots"}, "--executor-memory-overhead lots is no size"),
        ({"executor_memory_overhead": "833m"}, "--executor-memory-overhead 833m is too little for --executor-cores 1"),
        ({"executor_cores": 4, "executor_memory_overhead": "834m"}, "leave it away"),
        ({"executor_core_request": "0"}, "--executor-core-request 0 is no number of CPUs"),
        ({"driver_core_request": "half"}, "--driver-core-request half is no number of CPUs"),
        ({"driver_memory_overhead": "1Gi"}, "--driver-memory-overhead 1Gi is no size"),
        ({"flags": {"driver_memory": "400m"}}, "--driver-memory 400m is too little"),
        ({"claims": {"photos": "data"}}, "needs an absolute path"),
        (
            {
                "flags": {
                    "finish_within": "2h",
                    "max_executors": 8,
                    "spark_conf": {"spark.dynamicAllocation.enabled": "true"},
                }
            },
            "leave one away",
        ),
    ],
)
def test_what_the_chart_refuses_is_refused(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        rendered(**option)


def test_a_driver_that_tunes_gets_what_the_chart_gives_it() -> None:
    tuned = yaml.safe_load((REPOSITORY / "helm" / "orchard" / "values.yaml").read_text())["tune"]["resources"]
    assert {"memory": tuned["memoryOverhead"], "cpu": tuned["coreRequest"]} | {
        "disk": tuned["ephemeralStorage"]["request"]
    } == TUNING
    for flags in ({"tune": True}, {"quality": "best"}):
        amounts = container_of(rendered(flags=flags))["resources"]
        assert amounts["requests"] == {"cpu": "2", "memory": "3972Mi", "ephemeral-storage": "4Gi"}
        assert amounts["limits"]["memory"] == "3972Mi"
    given = rendered(flags={"tune": True}, driver_memory_overhead="5g", driver_core_request="4")
    assert container_of(given)["resources"]["requests"]["cpu"] == "4"
    assert container_of(given)["resources"]["limits"]["memory"] == "6020Mi"


def test_a_driver_compares_and_tunes_as_well() -> None:
    compared = rendered(command="compare", backbones="EfficientNetLite0,MobileNetV2@128", tolerance=0.02)
    assert container_of(compared)["args"] == [
        *("compare", SOURCE, "--output", OUTPUT),
        *("--backbones", "EfficientNetLite0,MobileNetV2@128", "--tolerance", "0.02"),
    ]
    (tuning, *_) = render(Submission("peach", None, OUTPUT, load(), command="tune"), "fruit")
    container = tuning["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["tune", OUTPUT]
    assert container["resources"]["requests"]["cpu"] == TUNING["cpu"]


def test_places_are_as_they_are_named_though_kubernetes_takes_dollars_for_variables() -> None:
    submission = Submission("peach", "s3a://bucket/$(HOME) $$", "/$(X)/out", load(), claims={"results": "/$(X)"})
    container = render(submission, "fruit")[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["run", "s3a://bucket/$$(HOME) $$$$", "--output", "/$$(X)/out"]
    assert {"name": "ORCHARD_CLAIMS", "value": "results=/$$(X)"} in container["env"]
    assert container["volumeMounts"][-1]["mountPath"] == "/$(X)"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([SOURCE, "--command", "tune"], "leave SOURCE away"),
        ([], "SOURCE is missing"),
        ([SOURCE, "--command", "compare"], "need each other"),
        ([SOURCE, "--backbones", "MobileNetV2"], "need each other"),
        (
            [SOURCE, "--command", "compare", "--backbones", "MobileNetV2", "--backbone", "VGG16"],
            "--backbone is no flag",
        ),
        ([SOURCE, "--tolerance", "0.1"], "--tolerance is a flag of --command compare"),
        (["--command", "tune", "--limit", "9"], "--limit is no flag of `orchard tune`"),
    ],
)
def test_what_a_command_does_not_take_is_refused(arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(cli, ["submit", *arguments, "--output", OUTPUT, "--dry-run"])
    assert isinstance(done.exception, UsageError)
    assert sentence in str(done.exception)


def test_a_driver_that_scales_by_the_work_gets_the_charts_role(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rendered()["Role/peach-driver"]["rules"][-1]["verbs"] == ["patch"]
    bounds = {"finish_within": "2h", "max_executors": 8}
    manifests = rendered(flags=bounds)
    assert manifests["Role/peach-driver"]["rules"][-1] == {
        "apiGroups": ["apps"],
        "resources": ["statefulsets/scale"],
        "resourceNames": ["spark-s-peach-0"],
        "verbs": ["get", "patch"],
    }
    assert "executors" not in manifests["ConfigMap/peach-pods"]["data"], "the driver would follow this number, too"
    for name, value in manifests["ConfigMap/peach-settings"]["data"].items():
        monkeypatch.setenv(name, value)
    assert load().bounds() == load(bounds).bounds()


def test_a_webhooks_address_comes_from_a_secret_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHARD_WEBHOOK", "https://chat.example.com/hooks/hunter2")
    with pytest.raises(UsageError, match="--webhook-secret"):
        rendered()
    manifests = rendered(webhook_secret="chat")  # noqa: S106
    reference = {"secretKeyRef": {"name": "chat", "key": "url"}}
    assert {"name": "ORCHARD_WEBHOOK", "valueFrom": reference} in container_of(manifests)["env"]
    assert "hunter2" not in json.dumps(list(manifests.values()))


def test_keys_roles_and_claims_reach_driver_and_executors() -> None:
    manifests = rendered(s3_secret="keys", s3_role="arn:aws:iam::1:role/r", claims={"data": "/data"})  # noqa: S106
    executor = yaml.safe_load(manifests["ConfigMap/peach-pods"]["data"]["executor.yaml"])["spec"]
    for pod in (job_of(manifests)["spec"]["template"]["spec"], executor):
        assert {"secretRef": {"name": "keys"}} in pod["containers"][0]["envFrom"]
        assert {"name": "claim-0", "mountPath": "/data"} in pod["containers"][0]["volumeMounts"]
        assert {"name": "claim-0", "persistentVolumeClaim": {"claimName": "data"}} in pod["volumes"]
    for account in ("driver", "executor"):
        annotations = manifests[f"ServiceAccount/peach-{account}"]["metadata"]["annotations"]
        assert annotations["eks.amazonaws.com/role-arn"] == "arn:aws:iam::1:role/r"


def test_pods_of_other_clouds_have_an_identity_without_keys() -> None:
    manifests = rendered(gcs_account="orchard@p.iam.gserviceaccount.com", azure_client="0-1")
    executor = yaml.safe_load(manifests["ConfigMap/peach-pods"]["data"]["executor.yaml"])
    for pod in (job_of(manifests)["spec"]["template"], executor):
        assert pod["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    for account in ("driver", "executor"):
        annotations = manifests[f"ServiceAccount/peach-{account}"]["metadata"]["annotations"]
        assert annotations["iam.gke.io/gcp-service-account"] == "orchard@p.iam.gserviceaccount.com"
        assert annotations["azure.workload.identity/client-id"] == "0-1"
        assert "eks.amazonaws.com/role-arn" not in annotations


@pytest.mark.parametrize("place", ["gs://bucket/a", "abfss://photos@fruits.dfs.core.windows.net/a", "s3://bucket/a"])
def test_addresses_of_every_cloud_are_taken(place: str) -> None:
    assert Submission("peach", place, f"{place}/out", Settings()).arguments[1] == place


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("wasbs://photos@fruits.blob.core.windows.net/a", "write abfss://photos@fruits.dfs.core.windows.net/a"),
        ("https://fruits.blob.core.windows.net/photos/a", "write abfss://photos@fruits.dfs.core.windows.net/a"),
        ("hdfs://host/a", "a local path, file://, s3a://, gs:// or abfss://, not hdfs"),
        ("/home/me/photos", "a path of this machine, which the cluster cannot see"),
    ],
)
def test_of_what_the_cluster_cannot_read_it_is_said_what_to_write(place: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Submission("peach", place, "s3a://bucket/out", Settings())


def test_only_the_number_of_executors_leaves_the_job_as_it_is() -> None:
    name = next(iter(rendered()))
    assert next(iter(rendered(executors=9))) == name
    assert next(iter(rendered(executor_memory="2g"))) != name
    assert next(iter(rendered(flags={"seed": 1}))) != name
    assert next(iter(rendered(s3_secret="keys"))) != name  # noqa: S106


@pytest.mark.parametrize("name", ["Peach", "-a", "a-", "p" * 43, "1a", "a_b", "a.b", ""])
def test_a_name_that_kubernetes_would_refuse_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        Submission(name, SOURCE, OUTPUT, load())


@pytest.mark.parametrize("claims", [{"photos": "/data", "results": "/data/"}, {"photos": "/etc/orchard"}])
def test_two_volumes_at_one_path_are_refused(claims: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="another volume is mounted there; give a path of its own"):
        Submission("peach", SOURCE, OUTPUT, load(), claims=claims)


def test_a_folder_of_this_machine_is_refused_unless_a_claim_holds_it() -> None:
    with pytest.raises(UsageError, match="cannot see"):
        Submission("peach", "photos", OUTPUT, load())
    for name in ("weights", "cards", "corrections", "unknown", "backgrounds"):
        with pytest.raises(UsageError, match="mine is a path of this machine"):
            rendered(flags={name: "mine"})
    with pytest.raises(UsageError, match="cannot see"):
        Submission("peach", "/data/../photos", OUTPUT, load(), claims={"fruit": "/data"})
    Submission("peach", "file:///data/photos", "/data/out", load(), claims={"fruit": "/data"})


def test_an_output_that_is_the_source_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(UsageError, match="is where the images are"):
        Submission("fruits", "s3a://bucket/photos", "s3://bucket/photos/", Settings())
    assert Submission("fruits", "s3a://bucket/photos", "s3a://bucket/photos/results", Settings())


def test_a_dry_run_prints_the_manifests_and_needs_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    printed = CliRunner().invoke(cli, ["submit", SOURCE, "--output", OUTPUT, "-n", "fruit", "--dry-run"])
    assert printed.exit_code == 0, printed.output
    assert next(yaml.safe_load_all(printed.stdout))["kind"] == "Job"


def test_a_dry_run_shows_the_namespace_that_the_context_names_and_needs_no_cluster(tmp_path: Path) -> None:
    contexts = [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "vision"}}]
    clusters = [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}]
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": contexts, "clusters": clusters}
    (tmp_path / "config").write_text(json.dumps(config | {"users": [{"name": "u", "user": {"token": "t"}}]}))
    command = [sys.executable, "-m", "orchard", "submit", SOURCE, "--output", OUTPUT, "--dry-run"]
    for kubeconfig, namespace in ((tmp_path / "config", "vision"), (tmp_path / "none", "default")):
        # The client reads the variable when it is imported.
        environment = os.environ | {"KUBECONFIG": str(kubeconfig)}
        printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        assert {manifest["metadata"]["namespace"] for manifest in yaml.safe_load_all(printed)} == {namespace}
