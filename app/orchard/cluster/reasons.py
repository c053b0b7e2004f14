"""Why a pod does not start, in one sentence, from its status and from the events of its owner."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Event, V1ContainerStatus, V1Pod

    from orchard.cluster.client import Cluster

# What waiting does not mend (the registry may, of a pull that failed once, so callers give all of them some seconds).
_DEFINITE = {
    "ErrImagePull": "its image {image} cannot be pulled: check its name, its tag and the pull secret",
    "ImagePullBackOff": "its image {image} cannot be pulled: check its name, its tag and the pull secret",
    "RegistryUnavailable": "its image {image} cannot be pulled, its registry does not answer: check name and network",
    "ImageInspectError": "its image {image} cannot be used ({message}): load or push it again",
    "ErrImageNeverPull": "its image {image} is not on the node and may not be pulled: load it there",
    "InvalidImageName": "its image's name {image} is not valid: correct it",
    "CreateContainerConfigError": "it cannot be configured ({message}): create what is missing",
    "CreateContainerError": "its container cannot be created ({message})",
    "RunContainerError": "its container cannot be run ({message})",
}
# What a node cannot do for a pod: it tries again and again, and can as soon as the cause is mended.
_OF_NODES = {
    "FailedMount": "a volume cannot be mounted ({message}): create what is missing",
    "FailedAttachVolume": "a volume cannot be attached ({message}): free it, or take one that several nodes can mount",
    "FailedCreatePodSandBox": "a node cannot prepare the pod ({message}): mend network, runtime class or node",
}
_REFUSALS = ("FailedCreate", *_OF_NODES)
COMPONENT = "app.kubernetes.io/component"
"""The label that says whether a pod is of the driver, an executor or a server."""
RETURN = "bring it back, or take it out of the cluster (kubectl delete node {})"
"""What to do about a node that does not answer: Kubernetes replaces no pod of which it does not know that it ended."""
_UNPLACED = {
    "Insufficient|Too many pods": "let the pod ask for less",
    # A person or a drain has cordoned it: nothing of the pod is to be corrected.
    "were unschedulable": "let pods on the nodes again (kubectl uncordon)",
}
"""What the scheduler says of nodes that do not take a pod, and what to do."""
_SET_LIMITS = "set the chart's coreLimit and ephemeralStorage.limit of driver and executor"
# What Kubernetes says when it refuses a pod, whose rule that is, and the remedy; None: to set the pod's limits.
_RULES: dict[str, tuple[str, str | None]] = {
    "exceeded quota": ("quota does", "ask for less"),
    "failed quota": ("quota does", None),  # it counts what the pod does not name
    "No limit is specified": ("limits do", None),
    # A default limit, of a LimitRange, below what the pod requests.
    r"must be less than or equal to \S+ limit": ("limits do", None),
    "limit to request ratio": ("limits do", "bring its requests and its limits closer together"),
    "violates PodSecurity": ("Pod Security does", "set the chart's podSecurityContext and securityContext as it says"),
    r"maximum \S+ usage per": ("limits do", "ask for less"),
    r"minimum \S+ usage per": ("limits do", "ask for more"),
}
_CRASHES = 2
"""So often a container has ended at its start before that is no accident, unless it says so itself."""
_START_SECONDS = 180.0
"""So long a JVM with a tenth of a core may take to start."""
_TOLD_TO_END = (0, 137, 143)
_NO_ACCIDENT = re.compile(r"IllegalArgumentException|Unrecognized VM option|Could not create the Java Virtual Machine")
_COMPLAINT = re.compile(r"(?:Exception|Error)\b.*: \S")

_REFUSED = re.compile(r"Failure executing: POST at: \S+/pods\. Message: (.+?)\. Received status")


@dataclass(frozen=True)
class Hindrance:
    """Something that keeps a pod from running."""

    sentence: str
    definite: bool
    """Whether it is permanent; a pod that fits on no node may still get one."""


def of_pod(pod: "V1Pod") -> Hindrance | None:
    """Return why `pod` does not start; None if it runs or is starting normally."""
    name = pod.metadata.name
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            if condition.reason == "SchedulingGated":  # no node was looked for
                return Hindrance(f"pod {name} is held back by a queue such as Kueue, or a person", definite=False)
            return Hindrance(f"pod {name} fits on no node: {_unplaced(condition.message or '')}", definite=False)
    statuses = [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
    for status in statuses:
        waiting = status.state.waiting if status.state else None
        if waiting and waiting.reason in _DEFINITE:
            text = _DEFINITE[waiting.reason].format(image=status.image, message=waiting.message or waiting.reason)
            return Hindrance(f"pod {name} does not start, {text}", definite=True)
    if node := lost_node(pod):
        return Hindrance(
            f"pod {name} is on the node {node}, which does not answer: {RETURN.format(node)}", definite=False
        )
    return of_end(pod)


def _unplaced(message: str) -> str:
    """Return what the scheduler says of a pod's nodes, without its search for victims, and what to do."""
    said = re.split(r"(?:no new claims to deallocate, )?preemption: ", message)[0].rstrip(". ")
    if claim := re.search(r'persistentvolumeclaim "[^"]+" not found|unbound immediate PersistentVolumeClaims', said):
        return f"{claim[0]}: create the claim and its volume, or correct its name"
    remedies = [remedy for sign, remedy in _UNPLACED.items() if re.search(sign, said)]
    first = " and ".join(remedies) or "correct what it names (node selector, taint, claim)"
    return f"{said}: {first}, or add a node"


def lost_node(pod: "V1Pod") -> str | None:
    """Return the name of the node of `pod` if the cluster has lost it; None if it has not.

    A pod is then no longer ready, though its containers are still what the node said of them last.
    """
    ready = {condition.type: condition.status == "True" for condition in pod.status.conditions or []}
    is_lost = ready.get("ContainersReady") and not ready.get("Ready", True) and not pod.spec.readiness_gates
    return str(pod.spec.node_name) if is_lost else None


def of_start(cluster: "Cluster", pod: "V1Pod") -> Hindrance | None:
    """Return why `pod` does not start, by its status or, while it waits, by the events about it."""
    waits = pod.status.phase == "Pending"
    return of_pod(pod) or (of_events(cluster.events(pod.metadata.name)) if waits else None)


def of_end(pod: "V1Pod") -> Hindrance | None:
    """Return why a container of `pod` has ended (lack of memory, or a failed start), even if it was restarted."""
    name = pod.metadata.name
    for status in pod.status.container_statuses or []:
        last = status.last_state.terminated if status.last_state else None
        ended = last or (status.state.terminated if status.state else None)
        if ended and ended.reason == "OOMKilled":
            serves = (pod.metadata.labels or {}).get(COMPONENT) == "serve"
            value = "serve.resources" if serves else "executor.memoryOverhead, --executor-memory-overhead"
            return Hindrance(f"pod {name} ran out of memory and was killed: give it more ({value})", definite=False)
        count = status.restart_count or 0
        crashes = (count >= _CRASHES or (ended and _NO_ACCIDENT.search(ended.message or ""))) and not _works(status)
        if ended and crashes and ended.exit_code not in _TOLD_TO_END and _is_start(ended.started_at, ended.finished_at):
            words = last_words(ended.message or "") or f"exit code {ended.exit_code}"
            return Hindrance(f"pod {name} ends at its start ({words}): correct what it says", definite=True)
    return None


def of_preparation(pod: "V1Pod") -> str | None:
    """Return which init container of `pod` has failed, with the last line of its log; None if none has failed."""
    for status in pod.status.init_container_statuses or []:
        ended = status.state.terminated if status.state else None
        if ended and ended.exit_code:
            words = last_words(ended.message or "") or ended.reason or "it says nothing"
            return f"its init container {status.name} ended with exit code {ended.exit_code} ({words})"
    return None


def _works(status: "V1ContainerStatus") -> bool:
    """Whether a container has run for longer than one that crashes at its start; it is ready as soon as it runs."""
    running = status.state.running if status.state else None
    return running is not None and not _is_start(running.started_at, datetime.now(UTC))


def _is_start(began: datetime | None, ended: datetime | None) -> bool:
    """Whether the time between the two is as short as a start."""
    return began is None or ended is None or (ended - began).total_seconds() < _START_SECONDS


def last_words(message: str) -> str:
    """Return the line near the end of a log that best explains why its container ended."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    for sign in (r"Caused by: ", _COMPLAINT, r"\b(?:\w*Exception|ERROR|Error)\b"):
        if said := [line for line in lines if re.search(sign, line)]:
            return said[-1][:300].removeprefix("Caused by: ").rstrip(".")
    return (lines or [""])[-1][:300].rstrip(".")


def of_events(events: "Iterable[CoreV1Event]") -> Hindrance | None:
    """Return why pods were refused or cannot be prepared, by the newest such warning; None if there is none."""
    refused = [event for event in events if event.reason in _REFUSALS and event.type == "Warning"]
    if not refused:
        return None
    newest = max(refused, key=lambda e: str(e.last_timestamp or e.event_time or ""))
    message = newest.message or ""
    if newest.reason in _OF_NODES:
        return Hindrance(_OF_NODES[newest.reason].format(message=message.rstrip(".")), definite=False)
    return of_refusal(message)


def seen(event: "CoreV1Event") -> datetime:
    """Return when an event was seen last."""
    at: datetime = event.last_timestamp or event.event_time or event.metadata.creation_timestamp
    return at


def of_eviction(events: "Iterable[CoreV1Event]", since: datetime, role: str = "executor") -> Hindrance | None:
    """Return why a node evicted a pod after `since`.

    A set makes another of its name at once, and the operator another driver, so only events tell.
    """
    for event in events:
        if event.reason == "Evicted" and seen(event) >= since:
            message = (event.message or "").rstrip(". ")
            sentence = f"pod {event.involved_object.name} was evicted ({message}): {relief(message, role)}"
            return Hindrance(sentence, definite=False)
    return None


def relief(message: str, role: str) -> str:
    """Return what helps a pod that was evicted: its node was short of room, or it took more than its limit."""
    if "low on resource" in message:
        return "give it a node with more room"
    return f"give it more ({role}.ephemeralStorage.limit)"


def of_spark(log: str) -> Hindrance | None:
    """Return why Kubernetes refuses a pod that Spark would make itself, from what its JVM says; None if it does not."""
    found = _REFUSED.search(log)
    return of_refusal(found[1]) if found else None


def of_refusal(message: str, limits: str = _SET_LIMITS) -> Hindrance:
    """Return what `message`, with which Kubernetes refuses a pod, means; `limits` is how this pod's limits are set."""
    cause = re.split(r" is (?:forbidden|invalid): ", message, maxsplit=1)[-1]
    for sign, (whose, remedy) in _RULES.items():
        if re.search(sign, message):
            return Hindrance(f"the namespace's {whose} not allow the pod ({cause}): {remedy or limits}", definite=True)
    remedy = ": create what is missing, or correct its name" if re.search("not found|no .* was found", cause) else ""
    return Hindrance(f"Kubernetes refuses the pod ({cause}){remedy}", definite=True)
