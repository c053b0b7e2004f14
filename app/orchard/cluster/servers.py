"""The servers of a release, which the chart makes beside its job or instead of it."""

from contextlib import suppress
from dataclasses import dataclass

from orchard.cluster import reasons
from orchard.cluster.client import OF_HELM, Cluster, Forbidden


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
        servers = cluster.call(cluster.apps.read_namespaced_deployment, f"{name}-serve", cluster.namespace)
        if servers is not None:
            ready, wanted = servers.status.ready_replicas or 0, servers.spec.replicas or 0
            old, reason = reasons.old_servers(servers), reasons.of_servers(cluster, servers)
            before = f", but {old} still serve what was set before the last change" if old else ""
            why = f", as {reason.sentence}" if reason else ""
            return Servers(
                f"{ready} of {wanted} servers are ready{before}{why}",
                ready >= wanted > 0 and not old,
                (servers.metadata.annotations or {}).get(OF_HELM),
            )
    return None
