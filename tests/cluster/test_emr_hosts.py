"""EMR on EC2 and Serverless: requests that AWS takes, and what it says of jobs as sentences, logs and exit codes."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.session import get_session
from botocore.stub import Stubber
from botocore.validate import validate_parameters
from click.testing import CliRunner
from moto import mock_aws
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.emr.models import emr_backends
from moto.emrserverless.models import emrserverless_backends

from orchard.cli import cli
from orchard.cluster import emr
from orchard.cluster.emr_ec2 import Ec2
from orchard.errors import ClusterError, UsageError

REGION = "eu-west-3"
ROLE = "arn:aws:iam::123456789012:role/orchard-job"
JOB = [
    "submit",
    "s3a://bucket/photos",
    "--output",
    "s3a://bucket/out",
    "--name",
    "fruits",
    "--log-uri",
    "s3://orchard-logs/it/",
]
EC2 = [*JOB, "--target", "emr-ec2"]
NEW = ["--bundle", "s3://bucket/emr/orchard-emr-0.1.0.tar", "--bundle-sha256", "ab" * 32, "--tags", "team=fruit"]
SERVERLESS = [*JOB, "--target", "emr-serverless", "--execution-role-arn", ROLE, "--image", "acct/orchard:1"]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setattr(emr, "POLL_SECONDS", 0.01)
    with mock_aws():
        made = {"LocationConstraint": REGION}
        boto3.client("s3").create_bucket(Bucket="orchard-logs", CreateBucketConfiguration=made)
        yield


def said(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert done.exception is None, done.exception
    assert done.return_value == code, done.output
    return done.stdout


def assert_valid(api: str, operation: str, request: dict[str, Any]) -> None:
    model = get_session().get_service_model(api).operation_model(operation)
    validate_parameters({"clientToken": "x", **request} if api == "emr-serverless" else request, model.input_shape)


def test_a_new_cluster_installs_the_bundle_scales_ends_when_idle_and_is_tagged() -> None:
    request = json.loads(said(*EC2, *NEW, "--limit", "9", "--max-instances", "6", "--dry-run"))
    assert_valid("emr", "RunJobFlow", request)
    (action,) = request["BootstrapActions"]
    assert action["ScriptBootstrapAction"] == {"Path": "s3://bucket/emr/bootstrap.sh", "Args": [NEW[1], NEW[3]]}
    assert request["ManagedScalingPolicy"]["ComputeLimits"]["MaximumCapacityUnits"] == 6
    assert request["AutoTerminationPolicy"] == {"IdleTimeout": 900}
    assert request["LogUri"] == "s3://orchard-logs/it/"
    assert {"Key": "project", "Value": "orchard"} in request["Tags"]
    assert {"Key": "team", "Value": "fruit"} in request["Tags"]
    (step,) = request["Steps"]
    words = step["HadoopJarStep"]["Args"]
    assert words[:3] == ["spark-submit", "--deploy-mode", "client"]
    photos = ["--data_source", "s3a://bucket/photos", "--output_uri", "s3a://bucket/out"]
    assert words[words.index("/opt/orchard/main.py") + 1 :] == [*photos, "--limit", "9"]


def test_a_step_says_how_many_executors_of_what_size_and_leaves_the_rest_to_the_cluster() -> None:
    wanted = ["--executors", "3", "--executor-cores", "4", "--spark-conf", "a.b=c", "--driver-memory", "3g"]
    request = json.loads(said(*EC2, "--cluster-id", "j-1", *wanted, "--dry-run"))
    assert_valid("emr", "AddJobFlowSteps", request)
    words = request["Steps"][0]["HadoopJarStep"]["Args"]
    found = {word.removeprefix("--conf=") for word in words if word.startswith("--conf=")}
    assert found >= {"spark.executor.instances=3", "spark.dynamicAllocation.enabled=false", "a.b=c"}
    assert found >= {"spark.executor.memoryOverhead=2184m", "spark.driver.memory=3g"}
    assert not any("kubernetes" in each for each in found)


def test_a_serverless_application_has_the_image_and_the_run_the_settings() -> None:
    request = json.loads(said(*SERVERLESS, "--backbone", "MobileNetV2", "--dry-run"))
    assert_valid("emr-serverless", "CreateApplication", request["CreateApplication"])
    assert_valid("emr-serverless", "StartJobRun", request["StartJobRun"])
    assert request["CreateApplication"]["imageConfiguration"] == {"imageUri": "acct/orchard:1"}
    assert request["CreateApplication"]["tags"] == {"project": "orchard"}
    words = request["StartJobRun"]["jobDriver"]["sparkSubmit"]["entryPointArguments"]
    assert words[:4] == ["run", "s3a://bucket/photos", "--output", "s3a://bucket/out"]
    assert words[4:] == ["--backbone", "MobileNetV2"]
    assert list(json.loads(said(*SERVERLESS, "--application-id", "00f", "--dry-run"))) == ["StartJobRun"]


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (EC2, "--bundle-sha256"),
        ([*EC2, "--bundle", "s3://bucket/x.tar"], "--bundle-sha256"),
        (SERVERLESS[:-2], "--application-id"),
        ([*SERVERLESS, "--s3-role", ROLE], "leave --s3-secret"),
        (["status", "s-1", "--cluster-id", "j-1", "--application-id", "00f"], "two places"),
    ],
)
def test_what_is_missing_or_too_much_is_one_sentence(words: list[str], missing: str) -> None:
    refused = CliRunner().invoke(cli, words)
    assert isinstance(refused.exception, UsageError)
    assert missing in str(refused.exception)


@pytest.mark.usefixtures("aws")
def test_a_step_is_submitted_told_of_and_read() -> None:
    step, _, cluster = said(*EC2, *NEW, "--detach").rsplit(" ", 3)[1:]
    cluster = cluster.strip()
    backend = emr_backends[DEFAULT_ACCOUNT_ID][REGION]
    assert "is submitted" in said(*EC2, "--cluster-id", cluster, "--detach")
    state = json.loads(said("status", step, "--cluster-id", cluster, "--json"))
    assert state["logs"] == f"s3://orchard-logs/it/{cluster}/steps/{step}/"
    with pytest.raises(ClusterError, match="every few minutes"):
        Ec2(cluster).log(step)
    body = gzip.compress(b"orchard: nothing to do\n")
    boto3.client("s3").put_object(Bucket="orchard-logs", Key=f"it/{cluster}/steps/{step}/stderr.gz", Body=body)
    assert said("logs", step, "--cluster-id", cluster) == "orchard: nothing to do\n"
    (found,) = [each for each in backend.clusters[cluster].steps if each.id == step]
    found.state = "COMPLETED"
    Ec2(cluster).follow(step, start_timeout=60)
    found.state = "FAILED"
    with pytest.raises(ClusterError, match="is failed"):
        Ec2(cluster).follow(step, start_timeout=60)
    assert "is failed" in said("status", step, "--cluster-id", cluster, code=4)


@pytest.mark.parametrize("status", ["SUBMITTED", "FAILED"])
@pytest.mark.usefixtures("aws")
def test_a_step_is_cancelled_or_says_why_not(status: str) -> None:
    service = Ec2("j-1")
    with Stubber(service._client) as stubbed:  # moto does not have it
        asked = {"ClusterId": "j-1", "StepIds": ["s-1"], "StepCancellationOption": "SEND_INTERRUPT"}
        answer = {"CancelStepsInfoList": [{"StepId": "s-1", "Status": status, "Reason": "It has ended."}]}
        stubbed.add_response("cancel_steps", answer, asked)
        if status == "SUBMITTED":
            assert "orchard status s-1 --cluster-id j-1" in service.cancel("s-1")
        else:
            with pytest.raises(ClusterError, match="does not cancel s-1: It has ended"):
                service.cancel("s-1")


@pytest.mark.usefixtures("aws")
def test_a_serverless_run_is_submitted_told_of_read_and_cancelled() -> None:
    job, _, application = said(*SERVERLESS, "--detach").rsplit(" ", 3)[1:]
    application = application.strip()
    body = gzip.compress(b"hello\n")
    key = f"it/applications/{application}/jobs/{job}/SPARK_DRIVER/stdout.gz"
    boto3.client("s3").put_object(Bucket="orchard-logs", Key=key, Body=body)
    assert said("logs", job, "--application-id", application) == "hello\n"
    run = emrserverless_backends[DEFAULT_ACCOUNT_ID][REGION].job_runs[application][0]
    run.state = "RUNNING"
    assert f"orchard status {job} --application-id" in said("cancel", job, "--application-id", application)
    run.state, run.state_details = "FAILED", "Job failed, please check the logs."
    assert "Job failed, please check the logs" in said("status", job, "--application-id", application, code=4)
