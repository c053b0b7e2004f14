"""Jobs on EMR Serverless, in an application with Orchard's image."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchard.cluster.emr import ENTRY_POINT, PROJECT, EmrState, Service, call, client
from orchard.cluster.emr_ec2 import RELEASE, properties, read_log
from orchard.cluster.manifests import Submission

_RUNNING = {"SUBMITTED", "PENDING", "SCHEDULED", "RUNNING", "CANCELLING", "QUEUED"}
IDLE_MINUTES = 15


@dataclass(frozen=True)
class ServerlessRun:
    """A job, and the further parameters of EMR Serverless; the image belongs to the application."""

    submission: Submission
    execution_role_arn: str
    release_label: str = RELEASE
    log_group: str | None = None
    log_uri: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    retries: int = 2

    def application(self) -> dict[str, Any]:
        """Return the CreateApplication request: it starts with a job and stops when idle."""
        return {
            "name": self.submission.name,
            "releaseLabel": self.release_label,
            "type": "SPARK",
            "imageConfiguration": {"imageUri": self.submission.image},
            "autoStartConfiguration": {"enabled": True},
            "autoStopConfiguration": {"enabled": True, "idleTimeoutMinutes": IDLE_MINUTES},
            "tags": PROJECT | dict(self.tags),
        }

    def request(self, application_id: str) -> dict[str, Any]:
        """Return the StartJobRun request."""
        job = self.submission
        monitoring: dict[str, Any] = {}
        if self.log_group:
            monitoring["cloudWatchLoggingConfiguration"] = {
                "enabled": True,
                "logGroupName": self.log_group,
                "logStreamNamePrefix": job.name,
            }
        if self.log_uri:
            monitoring["s3MonitoringConfiguration"] = {"logUri": self.log_uri}
        return {
            "name": job.name,
            "applicationId": application_id,
            "executionRoleArn": self.execution_role_arn,
            "jobDriver": {
                "sparkSubmit": {
                    "entryPoint": ENTRY_POINT,
                    "entryPointArguments": [*job.arguments, *job.flags],
                }
            },
            "configurationOverrides": {
                "applicationConfiguration": [{"classification": "spark-defaults", "properties": self._properties()}],
                "monitoringConfiguration": monitoring,
            },
            "executionTimeoutMinutes": 0,  # none
            "retryPolicy": {"maxAttempts": self.retries + 1},
            "tags": PROJECT | dict(self.tags),
        }

    def _properties(self) -> dict[str, str]:
        python = {f"spark.{who}.PYSPARK_PYTHON": "python3.11" for who in ("emr-serverless.driverEnv", "executorEnv")}
        return python | properties(self.submission)


class Serverless(Service):
    """An application of EMR Serverless."""

    api = "emr-serverless"
    flag = "--application-id"

    @classmethod
    def made_for(cls, run: ServerlessRun) -> "Serverless":
        """Make an application with a job's image. Raises ClusterError if AWS refuses it."""
        return cls(str(call(client(cls.api).create_application, **run.application())["applicationId"]))

    def start(self, run: ServerlessRun) -> str:
        """Start a job run and return its id. Raises ClusterError if AWS refuses it."""
        return str(call(self._client.start_job_run, **run.request(self.identity))["jobRunId"])

    def status(self, identity: str) -> EmrState:
        """Return how a job run is. Raises ClusterError if there is none of this id."""
        run = call(self._client.get_job_run, applicationId=self.identity, jobRunId=identity)["jobRun"]
        monitoring = (run.get("configurationOverrides") or {}).get("monitoringConfiguration") or {}
        log_uri = (monitoring.get("s3MonitoringConfiguration") or {}).get("logUri")
        state = run["state"]
        return EmrState(
            id=identity,
            state=state.lower(),
            reason=(run.get("stateDetails") or "").rstrip(".") or None,
            logs=f"{log_uri.rstrip('/')}/applications/{self.identity}/jobs/{identity}/" if log_uri else None,
            exit_code=None if state in _RUNNING else 0 if state == "SUCCESS" else 4,
        )

    def log(self, identity: str) -> list[str]:
        """Return the log of a job's driver."""
        return read_log(self.status(identity).logs, "SPARK_DRIVER/")

    def _end(self, identity: str) -> None:
        call(self._client.cancel_job_run, applicationId=self.identity, jobRunId=identity)
