"""The servers of a release, which the chart makes beside its job or instead of it."""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchard.cluster import reasons
from orchard.cluster.client import OF_HELM, Cluster, Forbidden, Log
from orchard.cluster.reasons import Hindrance
from orchard.cluster.state import Progress

if TYPE_CHECKING:
    from kubernetes.client import V1Deployment, V1Pod


@dataclass(frozen=True)
class Servers:
    """How the servers of a release are.

    Attributes:
        sentence: without its full stop.
        is_ready: whether all are ready, with what is set now.
        release: Helm's name; None if they were applied otherwise.
    """

    sentence: str
    is_ready: bool
    release: str | None


def find(cluster: Cluster, name: str) -> Servers | None:
    """Return how a release's servers are; None if it has none, or the caller may not see them."""
    with suppress(Forbidden):
        deployment = cluster.call(cluster.apps.read_namespaced_deployment, f"{name}-serve", cluster.namespace)
        if deployment is not None:
            ready, wanted, old = deployment.status.ready_replicas or 0, deployment.spec.replicas or 0, _old(deployment)
            is_ready = ready >= wanted > 0 and not old
            reason = None if is_ready else _reason(cluster, deployment)
            before = f", but {old} still serve what was set before the last change" if old else ""
            why = f", as {reason.sentence}" if reason else ""
            return Servers(
                f"{ready} of {wanted} servers are ready{before}{why}",
                is_ready,
                (deployment.metadata.annotations or {}).get(OF_HELM),
            )
    return None


def _old(deployment: "V1Deployment") -> int:
    """Return how many servers are still those of before the last change: they stay until their successors are ready."""
    status, seen = deployment.status, deployment.status.observed_generation or 0
    if seen < (deployment.metadata.generation or 0):
        return int(status.replicas or 0)  # the change itself was not taken up yet
    return int((status.replicas or 0) - (status.updated_replicas or 0))


def _reason(cluster: Cluster, deployment: "V1Deployment") -> Hindrance | None:
    """Return why there are no servers, too few or old ones; None if they are starting normally."""
    if not deployment.spec.replicas:
        return Hindrance("they were scaled to none: helm upgrade with serve.replicas, or kubectl scale", definite=True)
    for condition in deployment.status.conditions or []:
        if condition.type == "ReplicaFailure" and condition.status == "True":
            return reasons.of_refusal(condition.message or "", limits="set the chart's serve.resources")
    ours = ",".join(f"{key}={value}" for key, value in (deployment.spec.selector.match_labels or {}).items())
    pods = cluster.find(cluster.core.list_namespaced_pod, label_selector=ours)
    told = next(filter(None, (reasons.of_start(cluster, pod) for pod in pods)), None)
    return told or next(filter(None, (_said(cluster, pod) for pod in pods)), None)


def _said(cluster: Cluster, pod: "V1Pod") -> Hindrance | None:
    """Return what keeps the container of `pod` that is not ready, such as a store that does not answer, by its log."""
    statuses = [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
    status = next((status for status in statuses if not status.ready), None)
    if status is None:
        return None
    with suppress(Forbidden):
        progress = Progress.read(Log(cluster, pod.metadata.name, status.name).lines())
        if said := progress.reason or progress.sentence:
            return Hindrance(f"pod {pod.metadata.name} is not ready: {said.rstrip('.')}", definite=False)
    return None
