"""Jobs on EMR on EKS, through AWS's API: the request, the state, and the end."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from orchard import progress
from orchard.cluster.manifests import Submission, spark_properties
from orchard.errors import ClusterError, UsageError

log = logging.getLogger(__name__)

RELEASE = "emr-7.13.0-latest"
ENTRY_POINT = "local:///opt/orchard/main.py"
POLL_SECONDS = 10.0
PROJECT = {"project": "orchard"}
"""The tag of everything that is created, in addition to the given tags."""

# Of the chart's Spark properties those that hold here too; the rest is about pods that EMR makes itself.
_SHARED = (
    *("spark.executor.instances", "spark.executor.cores", "spark.executor.memory", "spark.executor.memoryOverhead"),
    "spark.kubernetes.executor.request.cores",
    *("spark.decommission.", "spark.storage.decommission.", "spark.authenticate", "spark.network.crypto."),
    "spark.io.encryption.",
)
_RUNNING = {"PENDING", "SUBMITTED", "RUNNING", "CANCEL_PENDING"}
_WAITING = {"pending", "submitted", "scheduled", "queued"}
_ADVICE = {
    "USER_ERROR": "the job itself failed: read the driver's log",
    "VALIDATION_ERROR": "EMR refuses it: check the role, its trust policy, the release label and the image",
    "CLUSTER_UNAVAILABLE": "EMR does not reach the EKS cluster: check that it runs and lets EMR into the namespace",
    "INTERNAL_ERROR": "EMR itself failed: submit it again",
}


@dataclass(frozen=True)
class JobRun:
    """A job, and the further parameters of EMR on EKS."""

    submission: Submission
    virtual_cluster_id: str
    execution_role_arn: str
    release_label: str = RELEASE
    log_group: str | None = None
    log_uri: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    retries: int = 2

    def request(self) -> dict[str, Any]:
        """Return the StartJobRun request."""
        job = self.submission
        monitoring: dict[str, Any] = {"persistentAppUI": "ENABLED"}
        if self.log_group:
            monitoring["cloudWatchMonitoringConfiguration"] = {
                "logGroupName": self.log_group,
                "logStreamNamePrefix": job.name,
            }
        if self.log_uri:
            monitoring["s3MonitoringConfiguration"] = {"logUri": self.log_uri}
        return {
            "name": job.name,
            "virtualClusterId": self.virtual_cluster_id,
            "executionRoleArn": self.execution_role_arn,
            "releaseLabel": self.release_label,
            "jobDriver": {
                "sparkSubmitJobDriver": {
                    "entryPoint": ENTRY_POINT,
                    "entryPointArguments": [*job.arguments, *job.flags],
                    "sparkSubmitParameters": f"--conf spark.kubernetes.container.image={job.image}",
                }
            },
            "configurationOverrides": {
                "applicationConfiguration": [{"classification": "spark-defaults", "properties": self._properties()}],
                "monitoringConfiguration": monitoring,
            },
            "retryPolicyConfiguration": {"maxAttempts": self.retries + 1},
            "tags": dict(self.tags),
        }

    def _properties(self) -> dict[str, str]:
        job = self.submission
        shared = {key: value for key, value in spark_properties().items() if key.startswith(_SHARED)}
        driver = {
            "spark.driver.memory": job.settings.driver_memory,
            "spark.driver.memoryOverhead": job.driver_overhead,
            "spark.kubernetes.driver.request.cores": job.driver_cpu,
        }
        return (
            {"spark.dynamicAllocation.enabled": "false"}
            | shared
            | {key: value for key, value in driver.items() if value}
            | job.executor_properties()
            | job.settings.spark_conf
        )


@dataclass(frozen=True)
class EmrState:
    """State of a job run."""

    id: str
    state: str
    reason: str | None
    logs: str | None
    exit_code: int | None

    @property
    def sentence(self) -> str:
        """The state, for people."""
        why = f": {self.reason}" if self.reason else ""
        return f"{self.id} is {self.state}{why}" + (f" (logs: {self.logs})" if self.logs else "")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


class Service:
    """A place of EMR where jobs run; region and credentials come from the standard AWS chain.

    Args:
        identity: id of the cluster or application.

    Raises:
        ClusterError: boto3 is not installed, or no region is set.
    """

    api: ClassVar[str]
    flag: ClassVar[str]
    """The command line's flag for its id."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self._client = client(self.api)

    def where(self, job: str) -> str:
        """Return the words that name a job on the command line."""
        return f"{job} {self.flag} {self.identity}"

    def status(self, identity: str) -> EmrState:
        """Return how a job is. Raises ClusterError if there is none of this id."""
        raise NotImplementedError

    def log(self, identity: str) -> list[str]:
        """Return what a job's driver has said. Raises ClusterError if that lies nowhere, or not yet."""
        raise NotImplementedError

    def follow(self, identity: str, *, start_timeout: float) -> None:
        """Wait for the end of a job, showing its state.

        Raises:
            ClusterError: it does not complete, or has not started after `start_timeout` seconds.
        """
        began, now = time.monotonic(), self.status(identity)
        while now.exit_code is None:
            with progress.stage(shown := now.state):
                while now.state == shown and now.exit_code is None:
                    if shown in _WAITING and time.monotonic() - began > start_timeout:
                        raise ClusterError(
                            f"{now.sentence}, and has not started in {start_timeout:.0f} s: make room in the cluster; "
                            f"`orchard cancel {self.where(identity)}` ends it."
                        )
                    time.sleep(POLL_SECONDS)
                    now = self.status(identity)
        if now.exit_code:
            raise ClusterError(f"{now.sentence}.")

    def cancel(self, identity: str) -> str:
        """Ask EMR to end a job; return what was done, as a sentence."""
        self._end(identity)
        return f"{identity} is asked to end; `orchard status {self.where(identity)}` says when."

    def _end(self, identity: str) -> None:
        raise NotImplementedError


class Emr(Service):
    """A virtual cluster of EMR on EKS."""

    api = "emr-containers"
    flag = "--virtual-cluster-id"

    def start(self, run: JobRun) -> str:
        """Start a job run and return its id. Raises ClusterError if AWS refuses it."""
        return str(call(self._client.start_job_run, **run.request())["id"])

    def status(self, identity: str) -> EmrState:
        """Return how a job run is. Raises ClusterError if there is none of this id."""
        described = call(self._client.describe_job_run, id=identity, virtualClusterId=self.identity)
        run: dict[str, Any] = described["jobRun"]
        state = run["state"]
        return EmrState(
            id=identity,
            state=state.lower().replace("_", " "),
            reason=_reason(run),
            logs=_logs(run),
            exit_code=None if state in _RUNNING else 0 if state == "COMPLETED" else 4,
        )

    def log(self, identity: str) -> list[str]:
        """Raise ClusterError, which says where the log lies."""
        raise ClusterError(
            f"EMR on EKS keeps the log elsewhere: {self.status(identity).logs or 'name --log-uri next time'}."
        )

    def _end(self, identity: str) -> None:
        call(self._client.cancel_job_run, id=identity, virtualClusterId=self.identity)


def client(api: str) -> Any:
    """Return boto3's client of an API. Raises ClusterError if boto3 is not installed, or no region is set."""
    try:
        import boto3
    except ImportError:
        raise ClusterError("EMR needs boto3: pip install boto3.") from None
    return call(lambda: boto3.client(api))


def call(function: Callable[..., Any], **request: Any) -> Any:
    """Call AWS's API.

    Raises:
        ClusterError: it refuses or does not answer; the sentence says what to do.
        UsageError: the request breaks the API's rules.
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        NoRegionError,
        ParamValidationError,
    )

    try:
        return function(**request)
    except NoRegionError:
        raise ClusterError("AWS needs a region: set AWS_REGION, or one in your AWS profile.") from None
    except NoCredentialsError:
        raise ClusterError("AWS finds no credentials: set AWS_PROFILE, or log in (aws sso login).") from None
    except ParamValidationError as error:
        raise UsageError(f"EMR would not take the request: {_first_line(error)}.") from error
    except ClientError as error:
        what = error.response["Error"]
        message = what.get("Message") or what["Code"]
        raise ClusterError(f"EMR refuses ({what['Code']}): {message.rstrip('.')}.") from error
    except BotoCoreError as error:
        raise ClusterError(f"AWS does not answer: {_first_line(error)}; check the network and AWS_REGION.") from error


def _reason(run: Mapping[str, Any]) -> str | None:
    details = (run.get("stateDetails") or "").rstrip(".")
    if run["state"] != "FAILED":
        return details or None
    advice = _ADVICE.get(run.get("failureReason", ""), "read the driver's log")
    return f"{details}; {advice}" if details else advice


def _logs(run: Mapping[str, Any]) -> str | None:
    monitoring = run.get("configurationOverrides", {}).get("monitoringConfiguration", {})
    if s3 := monitoring.get("s3MonitoringConfiguration"):
        return f"{s3['logUri'].rstrip('/')}/{run['virtualClusterId']}/jobs/{run['id']}/"
    if watch := monitoring.get("cloudWatchMonitoringConfiguration"):
        return f"CloudWatch group {watch['logGroupName']}, streams {watch.get('logStreamNamePrefix', '')}*"
    return None


def _first_line(error: Exception) -> str:
    lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
    return ": ".join(lines[:2])
