"""The manifests that `orchard submit` applies: the chart's, rendered beforehand, with a job's values filled in."""

import functools
import hashlib
import json
import os.path
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from orchard.cluster.client import MANAGER
from orchard.cluster.executors import WANTED
from orchard.errors import UsageError
from orchard.flags import DRIVERS
from orchard.settings import Settings
from orchard.settings_text import as_text, command_line, flag_of, variable_of
from orchard.storage import local_path, split_object_url

RENDERED = Path(__file__).with_name("job.yaml")
"""Made from the chart by `make manifests`, for a release of the name `RELEASE`."""
RELEASE = "orchard"
LONGEST_NAME = 42  # executors have a label of 63 characters at the most: their set, spark-s-NAME-0, and a digest of 10
INSTANCE = "app.kubernetes.io/instance"
JOB_NAME = re.compile("[a-z]([a-z0-9-]*[a-z0-9])?")
_MANAGED_BY, _CHART = "app.kubernetes.io/managed-by", "helm.sh/chart"
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_MEMORY, _CPU = re.compile(r"[1-9][0-9]*[mg]"), re.compile(r"[1-9][0-9]*m|(?=.*[1-9])[0-9]+(\.[0-9]+)?")
"""Sizes as the chart's schema takes them."""
_LEAST_HEAP = 512 * 2**20
_ELSEWHERE = {"source_weight", "master", "spark_conf", "webhook"}
"""Settings that are no variable of the job's: there is one source, so none has a weight; a webhook is secret and stands
in the Secret that pods get."""

KubernetesObject = dict[str, Any]


TUNING = {"memory": "3g", "cpu": "2", "disk": "4Gi"}
"""Resources of a driver that tunes a network, in addition to its heap: the chart's ``tune.resources``."""


@dataclass(frozen=True)
class Submission:
    """A job and its place in a cluster; for fields that are None, the chart's defaults apply."""

    name: str
    source: str | None
    """Source of the images; None for the command ``tune``, which works on the images of the output."""
    output: str
    settings: Settings
    command: str = "run"
    """The driver's command: a key of `orchard.flags.DRIVERS`."""
    backbones: str | None = None
    """The flag ``--backbones`` of the command ``compare``."""
    tolerance: float | None = None
    """The flag ``--tolerance`` of the command ``compare``."""
    image: str | None = None
    executors: int | None = None
    executor_cores: int | None = None
    executor_memory: str | None = None
    executor_memory_overhead: str | None = None
    executor_core_request: str | None = None
    driver_core_request: str | None = None
    driver_memory_overhead: str | None = None
    s3_secret: str | None = None
    s3_role: str | None = None
    gcs_account: str | None = None
    """E-mail address of the Google service account as which pods run (workload identity of GKE)."""
    azure_client: str | None = None
    """Client id of the managed identity as which pods run (workload identity of AKS)."""
    webhook_secret: str | None = None
    """Secret with the webhook's address under the key ``url``."""
    claims: Mapping[str, str] = field(default_factory=dict)
    """Mount path of each PersistentVolumeClaim, in driver and executors."""
    as_json: bool = False

    def __post_init__(self) -> None:
        from orchard.images.sources import check_apart

        if len(self.name) > LONGEST_NAME or not JOB_NAME.fullmatch(self.name):
            raise UsageError(
                f"--name {self.name} cannot be a job's name: take up to {LONGEST_NAME} small letters, digits, dashes."
            )
        self._check_command()
        self._check_sizes()
        if self.settings.webhook and not self.webhook_secret:
            raise UsageError(
                "A webhook's address is secret and would lie in clear in the job's settings: put it into a Secret of "
                "the cluster under the key url and name that by --webhook-secret, or leave it away."
            )
        if self.source is not None:
            check_apart(self.source, self.output)
        files = ("weights", "cards", "corrections", "unknown", "backgrounds")
        read = [getattr(self.settings, name) for name in files]
        for place in (self.source, self.output, *read):
            if place not in (None, "imagenet", "random", "none"):
                self._check_reachable(place)

    def _check_command(self) -> None:
        if self.command == "tune" and self.source is not None:
            raise UsageError("tune works on the images of --output: leave SOURCE away.")
        if self.command != "tune" and self.source is None:
            raise UsageError("SOURCE is missing: name the images, such as s3a://bucket/photos.")
        if (self.command == "compare") != (self.backbones is not None):
            raise UsageError("--command compare and --backbones A,B need each other: give both, or neither.")
        if self.command != "compare" and self.tolerance is not None:
            raise UsageError("--tolerance is a flag of --command compare: leave it away.")

    def _check_sizes(self) -> None:
        """Refuse sizes that the chart would refuse."""
        for name in ("executor_memory", "executor_memory_overhead", "driver_memory_overhead"):
            if (size := getattr(self, name)) is not None and not _MEMORY.fullmatch(size):
                raise UsageError(f"{flag_of(name)} {size} is no size as Spark writes it: give one such as 900m or 2g.")
        for name in ("executor_core_request", "driver_core_request"):
            if (cpus := getattr(self, name)) is not None and not _CPU.fullmatch(cpus):
                raise UsageError(f"{flag_of(name)} {cpus} is no number of CPUs: give one such as 500m or 2.")
        heaps = {"executor_memory": self.executor_memory, "driver_memory": self.settings.driver_memory}
        for name, heap in heaps.items():
            if heap is not None and _bytes(heap) < _LEAST_HEAP:
                raise UsageError(f"{flag_of(name)} {heap} is too little: Spark starts with 512m at the least.")
        cores, given = self.executor_cores or _rendered_cores(), self.executor_memory_overhead
        least = _least_overhead(cores)
        if given is not None and _bytes(given) < _bytes(least):
            raise UsageError(
                f"--executor-memory-overhead {given} is too little for --executor-cores {cores}: 384m for the JVM and "
                f"450m for each core's Python worker are {least}; leave it away to have that."
            )
        mounts = {PurePosixPath("/tmp"), WANTED.parent}  # noqa: S108 - the pods' own
        for claim, path in self.claims.items():
            if not path.startswith("/"):
                raise UsageError(f"--claim {claim}={path} needs an absolute path: give one such as {claim}=/data.")
            if (mount := PurePosixPath(path)) in mounts:
                raise UsageError(f"--claim {claim}={path}: another volume is mounted there; give a path of its own.")
            mounts.add(mount)
        if self.settings.bounds() and self.settings.spark_conf.get("spark.dynamicAllocation.enabled") == "true":
            raise UsageError(
                "Either the driver chooses the number of executors, by --finish-within, or Spark does, by "
                "spark.dynamicAllocation.enabled: leave one away."
            )

    @property
    def tunes(self) -> bool:
        """Whether the driver trains a network."""
        return self.settings.tune or self.command == "tune"

    @property
    def driver_overhead(self) -> str:
        """The driver's memory in addition to its heap."""
        return self.driver_memory_overhead or (TUNING["memory"] if self.tunes else driver_memory_overhead())

    @property
    def driver_cpu(self) -> str | None:
        """CPUs that the driver requests; None: the chart's default."""
        return self.driver_core_request or (TUNING["cpu"] if self.tunes else None)

    def _check_reachable(self, place: str) -> None:
        folder = Path(os.path.normpath(place.removeprefix("file://")))
        if split_object_url(place) is None and not any(map(folder.is_relative_to, self.claims.values())):
            path = local_path(place)  # says of addresses what to write instead
            raise UsageError(
                f"{path} is a path of this machine, which the cluster cannot see: give an address such as "
                "s3a://bucket/photos, or mount a claim that holds it with --claim NAME=/path."
            )

    def identities(self) -> dict[str, str | None]:
        """Annotations of the service accounts that give pods an identity in a cloud."""
        return {
            "eks.amazonaws.com/role-arn": self.s3_role,
            "iam.gke.io/gcp-service-account": self.gcs_account,
            "azure.workload.identity/client-id": self.azure_client,
        }

    @property
    def arguments(self) -> list[str]:
        """The container's arguments."""
        words = [self.command, *([self.source, "--output"] if self.source is not None else []), self.output]
        if self.backbones is not None:
            words += ["--backbones", self.backbones]
            words += ["--tolerance", f"{self.tolerance:g}"] if self.tolerance is not None else []
        return [*words, *(["--json"] if self.as_json else [])]

    @property
    def given(self) -> dict[str, Any]:
        """The given settings that have a meaning in a cluster."""
        return {name: value for name, value in self.settings.given().items() if name not in _ELSEWHERE}

    @property
    def flags(self) -> list[str]:
        """These settings as words of the command line, as far as the command has them."""
        known = {name: value for name, value in self.given.items() if name in DRIVERS[self.command]}
        return [word for words in command_line(known) for word in words]

    def executor_properties(self) -> dict[str, str]:
        """Return the Spark properties for the number and size of executors."""
        # As the chart derives them: sizing.md says why.
        cores = self.executor_cores
        overhead = self.executor_memory_overhead or (_least_overhead(cores) if cores else None)
        sizes = {
            "spark.executor.instances": self.executors,
            "spark.executor.cores": cores,
            "spark.executor.memory": self.executor_memory,
            "spark.executor.memoryOverhead": overhead,
            "spark.kubernetes.executor.request.cores": self.executor_core_request
            or (f"{500 * cores}m" if cores else None),
        }
        return {key: str(value) for key, value in sizes.items() if value is not None}


def _least_overhead(cores: int) -> str:
    """Return the memory beside the heap as docs/sizing.md has it: the JVM's own, and a Python worker for each core."""
    return f"{384 + 450 * cores}m"


def render(submission: Submission, namespace: str) -> list[KubernetesObject]:
    """Return the manifests of a job in a namespace, the Job itself first."""
    objects = [_renamed(manifest, _names(submission.name), submission.name) for manifest in _rendered()]
    (job,) = (manifest for manifest in objects if manifest["kind"] == "Job")
    settings = _fill_settings(_one(objects, "ConfigMap", "-settings")["data"], submission)
    pods = _one(objects, "ConfigMap", "-pods")["data"]
    _fill_driver(job["spec"]["template"]["spec"], submission)
    properties: dict[str, str] = json.loads(settings["ORCHARD_SPARK_CONF"])
    executor = _from_yaml(pods["executor.yaml"])
    _fill_pod(executor["spec"], submission)
    if submission.azure_client:  # by this label the webhook of AKS gives a pod its token
        for pod in (job["spec"]["template"], executor):
            pod["metadata"].setdefault("labels", {})["azure.workload.identity/use"] = "true"
    pods["executor.yaml"] = to_yaml(executor)
    if submission.settings.bounds() is None:
        pods["executors"] = properties["spark.executor.instances"]
    else:
        _scale_by_work(pods, _one(objects, "Role", "-driver"))
    identities = {name: value for name, value in submission.identities().items() if value}
    for account in (manifest for manifest in objects if manifest["kind"] == "ServiceAccount" and identities):
        account["metadata"].setdefault("annotations", {}).update(identities)
    for manifest in objects:
        manifest["metadata"]["namespace"] = namespace
        for subject in manifest.get("subjects", []):
            subject["namespace"] = namespace
    # Like the chart's: a change of anything but the number of executors makes another Job.
    job["spec"]["template"]["metadata"]["annotations"].pop("checksum/settings", None)
    job["metadata"]["name"] = f"{submission.name}-{_digest(job['spec']['template'], settings, pods)}"
    return [job, *(manifest for manifest in objects if manifest is not job)]


def _scale_by_work(pods: KubernetesObject, role: KubernetesObject) -> None:
    """Let the driver read the number of its executors, too, which it chooses itself: as the chart's ``autoscale``."""
    pods.pop("executors")
    for rule in role["rules"]:
        if rule["resources"][0].endswith("/scale"):
            rule["verbs"] = ["get", *rule["verbs"]]


def literal(word: str) -> str:
    """Return what Kubernetes makes `word` of: it takes $(NAME) in arguments for a variable, and $$ for one $."""
    return word.replace("$", "$$")


def as_meant(word: str) -> str:
    """Return what `literal` was given."""
    return word.replace("$$", "$")


def to_yaml(*manifests: KubernetesObject) -> str:
    """Return manifests as a YAML stream."""
    import yaml

    return "---\n".join(yaml.safe_dump(manifest, sort_keys=False, width=120) for manifest in manifests)


def _from_yaml(text: str) -> KubernetesObject:
    import yaml

    loaded: KubernetesObject = yaml.safe_load(text)
    return loaded


@functools.cache
def _rendered() -> tuple[KubernetesObject, ...]:
    """Return the chart's manifests, cached: callers must not change them (`_renamed` copies)."""
    import yaml

    return tuple(manifest for manifest in yaml.safe_load_all(RENDERED.read_text()) if manifest)


def spark_properties() -> dict[str, str]:
    """Return the Spark properties that the chart gives a job."""
    settings = _one(_rendered(), "ConfigMap", "-settings")["data"]
    loaded: dict[str, str] = json.loads(settings["ORCHARD_SPARK_CONF"])
    return loaded


def _rendered_cores() -> int:
    return int(spark_properties()["spark.executor.cores"])


def default_image() -> str:
    """Return the image of this version."""
    return str(_rendered_driver()["image"])


def driver_memory_overhead() -> str:
    """Return the chart's default for the driver's memory in addition to its heap."""
    heap = _one(_rendered(), "ConfigMap", "-settings")["data"]["ORCHARD_DRIVER_MEMORY"]
    return f"{(_bytes(_rendered_driver()['resources']['limits']['memory']) - _bytes(heap)) // 2**20}m"


def _rendered_driver() -> KubernetesObject:
    (job,) = (manifest for manifest in _rendered() if manifest["kind"] == "Job")
    return _container(job["spec"]["template"]["spec"])


def _one(objects: Iterable[KubernetesObject], kind: str, suffix: str) -> KubernetesObject:
    (found,) = (m for m in objects if m["kind"] == kind and m["metadata"]["name"].endswith(suffix))
    return found


def _names(name: str) -> dict[str, str]:
    """Return the new name of everything that is named after the release."""
    sets = {f"spark-{kind}-{RELEASE}-0": f"spark-{kind}-{name}-0" for kind in "sd"}
    old = {manifest["metadata"]["name"] for manifest in _rendered()}
    return sets | {each: name + each.removeprefix(RELEASE) for each in old}


def _renamed(value: Any, names: Mapping[str, str], name: str) -> Any:
    """Return `value` with every name that was made from the release's replaced, also within embedded YAML and JSON."""
    if isinstance(value, list):
        return [_renamed(item, names, name) for item in value]
    if isinstance(value, dict):
        if value.get("name") == "ORCHARD_APP_ID":
            return {**value, "value": name}
        return {key: _renamed_entry(key, item, names, name) for key, item in value.items() if key != _CHART}
    return names.get(value, value) if isinstance(value, str) else value


def _renamed_entry(key: str, value: Any, names: Mapping[str, str], name: str) -> Any:
    if key == _MANAGED_BY:
        return MANAGER
    if key in (INSTANCE, "spark.app.name"):
        return name
    if key == "ORCHARD_SPARK_CONF":
        return json.dumps(_renamed(json.loads(value), names, name))
    if key == "executor.yaml":
        return to_yaml(_renamed(_from_yaml(value), names, name))
    return _renamed(value, names, name)


def _fill_settings(data: dict[str, str], submission: Submission) -> dict[str, str]:
    for name, value in submission.given.items():
        data[variable_of(name)] = as_text(name, value)
    properties = json.loads(data["ORCHARD_SPARK_CONF"])
    if submission.image:
        properties["spark.kubernetes.container.image"] = submission.image
    properties |= submission.executor_properties() | submission.settings.spark_conf
    data["ORCHARD_SPARK_CONF"] = json.dumps(properties)
    return data


def _fill_driver(pod: KubernetesObject, submission: Submission) -> None:
    _fill_pod(pod, submission)
    container = _container(pod)
    container["args"] = [literal(word) for word in submission.arguments]
    if submission.claims:
        claims = ",".join(f"{claim}={path}" for claim, path in submission.claims.items())
        container["env"].append({"name": "ORCHARD_CLAIMS", "value": literal(claims)})
    if submission.webhook_secret:
        address = {"secretKeyRef": {"name": submission.webhook_secret, "key": "url"}}
        container["env"].append({"name": "ORCHARD_WEBHOOK", "valueFrom": address})
    if submission.image:
        container["image"] = submission.image
    amounts = container["resources"]
    if submission.driver_cpu:
        amounts["requests"]["cpu"] = submission.driver_cpu
    if submission.tunes:
        amounts["requests"]["ephemeral-storage"] = TUNING["disk"]
    for part in ("requests", "limits"):
        amounts[part]["memory"] = (
            f"{(_bytes(submission.settings.driver_memory) + _bytes(submission.driver_overhead)) // 2**20}Mi"
        )


def _fill_pod(pod: KubernetesObject, submission: Submission) -> None:
    """Add what driver and executors share to a pod: the Secret with the store's keys, and the claims."""
    container = _container(pod)
    if submission.s3_secret:
        container.setdefault("envFrom", []).append({"secretRef": {"name": submission.s3_secret}})
    for index, (claim, path) in enumerate(submission.claims.items()):
        volume = {"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": claim}}
        pod.setdefault("volumes", []).append(volume)
        container.setdefault("volumeMounts", []).append({"name": volume["name"], "mountPath": path})


def _container(pod: KubernetesObject) -> KubernetesObject:
    container: KubernetesObject = pod["containers"][0]
    return container


def _bytes(memory: str) -> int:
    """Return the bytes of Spark's ``900m`` or Kubernetes' ``900Mi``."""
    text = memory.lower().removesuffix("b").removesuffix("i")
    return int(float(text[:-1]) * _UNITS[text[-1]]) if text[-1] in _UNITS else int(text)


def _digest(template: KubernetesObject, settings: dict[str, str], pods: dict[str, str]) -> str:
    """Return a digest of a job's manifests that leaves the number of executors out."""
    properties = json.loads(settings["ORCHARD_SPARK_CONF"])
    properties.pop("spark.executor.instances", None)
    pods = {name: text for name, text in pods.items() if name != "executors"}
    whole = [template, {**settings, "ORCHARD_SPARK_CONF": properties}, pods]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:8]
