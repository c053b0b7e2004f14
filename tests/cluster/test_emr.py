"""EMR on EKS: the request is one that AWS takes, and what AWS says of a job becomes a sentence and an exit code."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.session import get_session
from botocore.validate import validate_parameters
from click.testing import CliRunner
from moto import mock_aws
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.emrcontainers.models import emrcontainers_backends

from orchard.cli import cli
from orchard.cluster import emr
from orchard.cluster.manifests import Submission
from orchard.errors import ClusterError, UsageError
from orchard.settings import load

REGION = "eu-west-3"
ROLE = "arn:aws:iam::111122223333:role/orchard-job"
EXAMPLE = Path(__file__).resolve().parents[2] / "k8s" / "emr-on-eks"


@pytest.fixture
def virtual_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setattr(emr, "POLL_SECONDS", 0.01)
    with mock_aws():
        provider = {"id": "eks", "type": "EKS", "info": {"eksInfo": {"namespace": "orchard"}}}
        made = boto3.client("emr-containers").create_virtual_cluster(name="orchard", containerProvider=provider)
        yield made["id"]


def job_run(virtual_cluster: str, **options: Any) -> emr.JobRun:
    settings = load({"backbone": "MobileNetV2", "max_rejected": "7%", "labels": "a,b", "spark_conf": {"a.b": "c"}})
    submission = Submission("fruits", "s3a://bucket/photos", "s3a://bucket/out", settings, image="acct/orchard:1")
    return emr.JobRun(submission, virtual_cluster, ROLE, **options)


def end(identity: str, state: str, details: str, reason: str | None = None) -> None:
    """Let a job run end, as EMR would."""
    run = emrcontainers_backends[DEFAULT_ACCOUNT_ID][REGION].job_runs[identity]
    run.state, run.state_details = state, details
    run.failure_reason = reason  # type: ignore[assignment]  # moto begins with None


def test_the_request_is_one_that_aws_takes() -> None:
    request = job_run("abc123", log_group="/orchard", log_uri="s3://logs/orchard", tags={"team": "fruit"}).request()
    model = get_session().get_service_model("emr-containers").operation_model("StartJobRun")
    validate_parameters({**request, "clientToken": "x"}, model.input_shape)
    driver = request["jobDriver"]["sparkSubmitJobDriver"]
    assert driver["entryPoint"] == "local:///opt/orchard/main.py"
    assert driver["entryPointArguments"][:4] == ["run", "s3a://bucket/photos", "--output", "s3a://bucket/out"]
    assert "acct/orchard:1" in driver["sparkSubmitParameters"]
    assert request["retryPolicyConfiguration"] == {"maxAttempts": 3}


def test_the_entry_points_arguments_are_the_command_lines() -> None:
    """What the request passes on, the command in the image reads back as the same settings."""
    arguments = job_run("abc123").request()["jobDriver"]["sparkSubmitJobDriver"]["entryPointArguments"]
    context = cli.commands["run"].make_context("run", arguments[1:])
    given = {name: value for name, value in context.params.items() if value not in (None, (), False)}
    settings = load({name: given[name] for name in ("backbone", "max_rejected", "labels")})
    assert (settings.backbone, settings.max_rejected, settings.labels) == ("MobileNetV2", 0.07, ("a", "b"))


def test_spark_properties_are_the_charts_with_the_users_on_top() -> None:
    overrides = job_run("abc123").request()["configurationOverrides"]
    (defaults,) = overrides["applicationConfiguration"]
    assert defaults["classification"] == "spark-defaults"
    assert defaults["properties"]["spark.decommission.enabled"] == "true"
    assert defaults["properties"]["a.b"] == "c"
    assert not any("podTemplate" in key or "serviceAccount" in key for key in defaults["properties"])


@pytest.mark.parametrize("name", ["job-role-policy", "submitter-policy"])
def test_the_policies_grant_no_wildcard(name: str) -> None:
    for statement in json.loads((EXAMPLE / f"{name}.json").read_text())["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        assert not any("*" in action for action in actions), statement
        assert all(resource.startswith("arn:aws:") and resource.count(":") >= 5 for resource in resources), statement


def test_what_emr_cannot_do_is_refused_and_other_commands_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHARD_LIMIT", "9")  # of `orchard run`, and no flag of `orchard tune`
    target = ["--target", "emr-eks", "--virtual-cluster-id", "a", "--execution-role-arn", ROLE, "--image", "i"]
    command = ["submit", "--output", "s3a://bucket/out", *target, "--dry-run"]
    done = CliRunner().invoke(cli, [*command, "--command", "tune", "--tune-minutes", "5"])
    request = json.loads(done.stdout)["jobDriver"]["sparkSubmitJobDriver"]
    assert request["entryPointArguments"] == ["tune", "s3a://bucket/out", "--tune-minutes", "5.0"]
    for more in (["--webhook-secret", "chat"], ["--finish-within", "2h", "--max-executors", "8"]):
        refused = CliRunner().invoke(cli, [*command, "s3a://bucket/photos", *more])
        assert isinstance(refused.exception, UsageError)
        assert "leave --webhook-secret and --finish-within away" in str(refused.exception)


def test_the_driver_has_the_charts_room_beside_its_heap() -> None:
    (defaults,) = job_run("abc123").request()["configurationOverrides"]["applicationConfiguration"]
    assert defaults["properties"]["spark.driver.memoryOverhead"] == "1500m"


def test_a_job_starts_runs_and_completes(virtual_cluster: str) -> None:
    service = emr.Emr(virtual_cluster)
    identity = service.start(job_run(virtual_cluster))
    assert service.status(identity).exit_code is None
    end(identity, "COMPLETED", "")
    service.follow(identity, start_timeout=60)
    assert service.status(identity).exit_code == 0


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("USER_ERROR", "driver's log"),
        ("VALIDATION_ERROR", "trust policy"),
        ("CLUSTER_UNAVAILABLE", "EKS cluster"),
        ("INTERNAL_ERROR", "submit it again"),
    ],
)
def test_each_failure_reason_is_a_sentence_that_says_what_to_do(virtual_cluster: str, reason: str, advice: str) -> None:
    service = emr.Emr(virtual_cluster)
    identity = service.start(job_run(virtual_cluster, log_uri="s3://logs/orchard"))
    end(identity, "FAILED", "Main Spark container terminated with errors.", reason)
    with pytest.raises(ClusterError, match=advice) as raised:
        service.follow(identity, start_timeout=60)
    assert "Main Spark container terminated with errors" in str(raised.value)
    assert f"s3://logs/orchard/{virtual_cluster}/jobs/{identity}/" in str(raised.value)
    assert service.status(identity).exit_code == 4


def test_a_job_is_cancelled_once(virtual_cluster: str) -> None:
    service = emr.Emr(virtual_cluster)
    identity = service.start(job_run(virtual_cluster))
    assert identity in service.cancel(identity)
    assert service.status(identity).state == "cancelled"
    with pytest.raises(ClusterError, match="not in a cancellable state"):
        service.cancel(identity)


def test_what_does_not_exist_is_one_sentence(virtual_cluster: str) -> None:
    with pytest.raises(ClusterError, match="nowhere doesn't exist"):
        emr.Emr("nowhere").start(job_run("nowhere"))
    with pytest.raises(ClusterError, match="doesn't exist"):
        emr.Emr(virtual_cluster).status("0000000000000000000")


def test_a_request_that_breaks_the_apis_rules_is_a_usage_error(virtual_cluster: str) -> None:
    with pytest.raises(UsageError, match="EMR would not take the request"):
        emr.Emr(virtual_cluster).start(emr.JobRun(job_run(virtual_cluster).submission, virtual_cluster, ""))


def test_without_a_region_one_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(ClusterError, match="AWS_REGION"):
        emr.Emr("abc123")


def test_the_example_request_is_what_the_dry_run_prints() -> None:
    """`k8s/emr-on-eks/start-job-run.json` is made by this command (its README says so)."""
    arguments = (
        "submit s3a://bucket/images --output s3a://bucket/results --target emr-eks"
        " --virtual-cluster-id VIRTUAL_CLUSTER_ID"
        " --execution-role-arn arn:aws:iam::ACCOUNT_ID:role/orchard-job"
        " --image ACCOUNT_ID.dkr.ecr.REGION.amazonaws.com/orchard-emr:0.1.0"
        " --log-group /emr-on-eks/orchard --log-uri s3://bucket/logs/ --tags project=orchard --dry-run"
    )
    printed = CliRunner().invoke(cli, arguments.split())
    assert printed.exit_code == 0, printed.output
    assert json.loads(printed.stdout) == json.loads((EXAMPLE / "start-job-run.json").read_text())
