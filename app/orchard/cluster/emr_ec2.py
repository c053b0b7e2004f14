"""Jobs as steps of EMR on EC2, in an existing cluster or in a new one that ends when it is idle."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchard.cluster.emr import PROJECT, EmrState, Service, call, client
from orchard.cluster.manifests import Submission
from orchard.errors import ClusterError

RELEASE = "emr-7.13.0"
ENTRY_POINT = "/opt/orchard/main.py"
CONFIGURATION = Path(__file__).with_name("emr-configuration.json")
"""Configuration of Spark and YARN for a new cluster."""
_RUNNING = {"PENDING", "RUNNING", "CANCEL_PENDING"}


@dataclass(frozen=True)
class Step:
    """A job and the cluster that it runs in, or is to be made for it.

    Attributes:
        submission: the job.
        bundle: address in S3 of the bundle that nodes install; ``bootstrap.sh`` lies beside it.
        bundle_sha256: the bundle's digest, in hex.
        subnet_id: subnet of a new cluster.
        instance_profile: instance profile with the nodes' role.
        service_role: EMR's own role.
        instance_type: instance type of every node.
        max_instances: number of core and task nodes, at most; there is at least one.
        idle_minutes: minutes without a step after which the cluster ends.
        release_label: EMR's release.
        log_uri: address in S3 for logs.
        tags: the cluster's tags, in addition to `PROJECT`.
    """

    submission: Submission
    bundle: str | None = None
    bundle_sha256: str | None = None
    subnet_id: str | None = None
    instance_profile: str = "EMR_EC2_DefaultRole"
    service_role: str = "EMR_DefaultRole"
    instance_type: str = "m6i.xlarge"
    max_instances: int = 4
    idle_minutes: int = 15
    release_label: str = RELEASE
    log_uri: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def step(self) -> dict[str, Any]:
        """Return the step: ``spark-submit`` on the primary node."""
        job = self.submission
        conf = [f"--conf={key}={value}" for key, value in properties(job).items()]
        words = job.arguments
        if job.command == "run":
            words = ["--data_source", str(job.source), "--output_uri", job.output, *(["--json"] if job.as_json else [])]
        submit = ["spark-submit", "--deploy-mode", "client", *conf, ENTRY_POINT]
        return {
            "Name": job.name,
            "ActionOnFailure": "CONTINUE",
            "HadoopJarStep": {
                "Jar": "command-runner.jar",
                "Args": [*submit, *words, *job.flags],
            },
        }

    def request(self) -> dict[str, Any]:
        """Return the RunJobFlow request: a cluster that installs the bundle, does the step and ends when idle."""
        bundle = _s3(str(self.bundle))
        groups = [
            {"Name": role.lower(), "InstanceRole": role, "InstanceType": self.instance_type, "InstanceCount": 1}
            for role in ("MASTER", "CORE")
        ]
        network = {"Ec2SubnetId": self.subnet_id} if self.subnet_id else {}
        limits = {
            "UnitType": "Instances",
            "MinimumCapacityUnits": 1,
            "MaximumCapacityUnits": self.max_instances,
            "MaximumCoreCapacityUnits": 1,  # what holds no blocks can go at once
        }
        return {
            "Name": self.submission.name,
            "ReleaseLabel": self.release_label,
            **({"LogUri": _s3(self.log_uri)} if self.log_uri else {}),
            "Applications": [{"Name": "Spark"}],
            "Configurations": json.loads(CONFIGURATION.read_text()),
            "ServiceRole": self.service_role,
            "JobFlowRole": self.instance_profile,
            "VisibleToAllUsers": True,
            "Instances": {"InstanceGroups": groups, **network, "KeepJobFlowAliveWhenNoSteps": True},
            "BootstrapActions": [
                {
                    "Name": "orchard",
                    "ScriptBootstrapAction": {
                        "Path": f"{bundle.rpartition('/')[0]}/bootstrap.sh",
                        "Args": [bundle, str(self.bundle_sha256)],
                    },
                }
            ],
            "Steps": [self.step()],
            "ManagedScalingPolicy": {"ComputeLimits": limits},
            "AutoTerminationPolicy": {"IdleTimeout": 60 * self.idle_minutes},
            "Tags": [{"Key": key, "Value": value} for key, value in (PROJECT | dict(self.tags)).items()],
        }


class Ec2(Service):
    """A cluster of EMR on EC2."""

    api = "emr"
    flag = "--cluster-id"

    @classmethod
    def made_for(cls, step: Step) -> "Ec2":
        """Make a cluster with a step. Raises ClusterError if AWS refuses it."""
        return cls(str(call(client(cls.api).run_job_flow, **step.request())["JobFlowId"]))

    def first(self) -> str:
        """Return the id of the cluster's first step."""
        steps = call(self._client.list_steps, ClusterId=self.identity)["Steps"]
        return str(steps[-1]["Id"])

    def start(self, step: Step) -> str:
        """Add a step and return its id. Raises ClusterError if AWS refuses it."""
        added = call(self._client.add_job_flow_steps, JobFlowId=self.identity, Steps=[step.step()])
        return str(added["StepIds"][0])

    def status(self, identity: str) -> EmrState:
        """Return how a step is. Raises ClusterError if there is none of this id."""
        found = call(self._client.describe_step, ClusterId=self.identity, StepId=identity)["Step"]["Status"]
        state, cluster = found["State"], self._cluster()
        failure = found.get("FailureDetails") or found.get("StateChangeReason") or {}
        reason = failure.get("Message") or failure.get("Reason")
        if not reason and state not in _RUNNING | {"COMPLETED"}:
            reason = cluster["Status"].get("StateChangeReason", {}).get("Message")  # such as a failed bootstrap
        log_uri = cluster.get("LogUri")
        return EmrState(
            id=identity,
            state=state.lower().replace("_", " "),
            reason=reason.rstrip(".") if reason else None,
            logs=f"{_s3(log_uri).rstrip('/')}/{self.identity}/steps/{identity}/" if log_uri else None,
            exit_code=None if state in _RUNNING else 0 if state == "COMPLETED" else 4,
        )

    def log(self, identity: str) -> list[str]:
        """Return the log of a step's driver, which EMR copies to S3 every five minutes."""
        return read_log(self.status(identity).logs, "")

    def _cluster(self) -> dict[str, Any]:
        cluster: dict[str, Any] = call(self._client.describe_cluster, ClusterId=self.identity)["Cluster"]
        return cluster

    def _end(self, identity: str) -> None:
        request = {"ClusterId": self.identity, "StepIds": [identity], "StepCancellationOption": "SEND_INTERRUPT"}
        (done,) = call(self._client.cancel_steps, **request)["CancelStepsInfoList"]
        if done["Status"] == "FAILED":
            raise ClusterError(f"EMR does not cancel {identity}: {done.get('Reason', 'it has ended').rstrip('.')}.")


def properties(job: Submission) -> dict[str, str]:
    """Return a job's Spark properties outside of Kubernetes: those that differ from the cluster's."""
    sizes = {key: value for key, value in job.executor_properties().items() if "kubernetes" not in key}
    if job.executors:
        sizes["spark.dynamicAllocation.enabled"] = "false"
    driver = {
        "spark.driver.memory": job.settings.driver_memory if "driver_memory" in job.settings.model_fields_set else None,
        "spark.driver.memoryOverhead": job.driver_memory_overhead or (job.driver_overhead if job.tunes else None),
        "spark.driver.cores": job.driver_core_request,
    }
    return {key: value for key, value in driver.items() if value} | sizes | job.settings.spark_conf


def read_log(folder: str | None, below: str) -> list[str]:
    """Return the lines of a driver's standard error and output in S3. Raises ClusterError if there are none."""
    from botocore.exceptions import ClientError

    if folder is None:
        raise ClusterError("No logs were asked for: name --log-uri when you submit.")
    bucket, _, prefix = folder.removeprefix("s3://").partition("/")
    s3, lines = client("s3"), list[str]()
    for name in ("stderr.gz", "stdout.gz"):
        try:
            stored = s3.get_object(Bucket=bucket, Key=f"{prefix}{below}{name}")
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("NoSuchKey", "404"):
                raise ClusterError(f"{folder} cannot be read ({error.response['Error']['Code']}).") from error
        else:
            lines += gzip.decompress(stored["Body"].read()).decode(errors="replace").splitlines()
    if not lines:
        raise ClusterError(f"There is no log in {folder} yet: EMR copies it every few minutes.")
    return lines


def _s3(address: str) -> str:
    return address.replace("s3a://", "s3://").replace("s3n://", "s3://")
