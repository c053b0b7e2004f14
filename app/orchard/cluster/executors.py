"""A driver's work on its executors: delete an earlier driver's, wait for the first one, report changes.

If the chart's ``executor.instances`` changes meanwhile, it scales to that number.
"""

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from orchard import interruption
from orchard.cluster import reasons
from orchard.cluster.autoscaling import Autoscaler, Bounds
from orchard.cluster.client import Cluster, Forbidden, Unreachable
from orchard.errors import ClusterError, ExecutorsRefused

if TYPE_CHECKING:
    from pyspark import SparkContext

log = logging.getLogger(__name__)

# A pull that failed once may work at the next try; what still holds after this long is told.
DEFINITE_SECONDS = 20.0
POLL_SECONDS = 1.0
# How long the API may take to answer: a driver that ends, or waits for its executors, cannot wait for long.
ANSWER_SECONDS = 20.0
# How long a driver that ends tries to delete its executors while the API is away, and so cannot see it end either.
CLEAR_SECONDS = 600.0
# The same of a driver that was told to end, and how long it waits for an answer: it has few seconds left.
HASTE_SECONDS = 5.0
# How often it is said why executors are still awaited.
REMINDER_SECONDS = 30.0
# A pod's status tells a little later than its connection why it has ended.
LOOK_SECONDS = 10.0
# An executor that is missed now may have been evicted so long ago: its node lets it end first.
EVICTION_SECONDS = 60.0
# So long there are no executors before it is looked whether their set is still there.
GONE_SECONDS = 10.0
WANTED = Path("/etc/orchard/executors")
"""File with the number of executors in the chart's values: a mounted ConfigMap, which Kubernetes keeps up to date."""
SETS = {"statefulset": ("s", "stateful_set"), "deployment": ("d", "deployment")}
_FORBIDDEN = re.compile(
    r'User "[^"]+" cannot \w+ resource "[^"]+"(?: in API group "[^"]*")?(?: in the namespace "[^"]+")?'
)
ALLOCATOR = "spark.kubernetes.allocation.pods.allocator"
_trouble: str | None = None
_refusal: reasons.Hindrance | None = None


def pod_properties(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the Spark properties that depend on the driver's own pod, from the pod's environment variables.

    ``ORCHARD_POD_NAME``, ``ORCHARD_POD_NAMESPACE`` and ``ORCHARD_POD_IP`` come from the downward API;
    ``ORCHARD_APP_ID`` makes the name of the executors' set predictable: ``spark-s-<app id>-0``.
    """
    ip = environment.get("ORCHARD_POD_IP", "")
    host = f"[{ip}]" if ":" in ip else ip
    properties = {
        # Bound to all addresses, Spark would tell executors to call 0.0.0.0.
        "spark.driver.host": host,
        "spark.driver.bindAddress": host,
        "spark.kubernetes.driver.pod.name": environment.get("ORCHARD_POD_NAME", ""),
        "spark.kubernetes.namespace": environment.get("ORCHARD_POD_NAMESPACE", ""),
        "spark.app.id": environment.get("ORCHARD_APP_ID", ""),
    }
    return {key: value for key, value in properties.items() if value}


def clear_predecessor(properties: Mapping[str, str], timeout: float) -> None:
    """Delete the executors' set of an earlier, killed driver with the same application id, and wait until it is gone.

    The set exists until the earlier driver's pod is deleted. Its executors restart for ever, and a new driver cannot
    create a set of the same name.

    Args:
        properties: Spark properties of the starting driver.
        timeout: seconds to wait.

    Raises:
        ExecutorsRefused: the driver's role does not allow it, whether there is a set or not.
        ClusterError: it cannot be deleted, or is still there after `timeout`.
    """
    if (deletion := _deletion(properties, ANSWER_SECONDS)) is None:
        return
    name, delete = deletion
    until, found = time.monotonic() + timeout, False
    while True:
        try:
            if delete("Foreground") is None:
                return
            why, found_now = f"it is still there after {timeout:.0f} s", True
        except Unreachable as error:
            why, found_now = str(error).rstrip("."), False
        except Forbidden as error:
            raise role_refusal(str(error)) or error from error
        except ClusterError as error:
            raise ClusterError(
                f"The executors' set {name} of an earlier driver cannot be deleted ({str(error).rstrip('.')}): "
                "allow the driver's role to, or delete it by hand."
            ) from error
        if time.monotonic() > until:
            raise ClusterError(
                f"The executors' set {name} of an earlier driver does not go ({why}): "
                "delete it and its pods by hand, or raise --executor-timeout."
            )
        if found_now and not found:
            log.info("clearing away the executors of an earlier driver: %s", name)
        found = found or found_now
        time.sleep(POLL_SECONDS)


def role_refusal(message: str) -> ExecutorsRefused | None:
    """Return the error of a driver's role that lacks a right, if `message`, of Kubernetes or Spark, tells of one.

    A second try would not help, so a cluster makes none.
    """
    if (found := _FORBIDDEN.search(message)) is None:
        return None
    return ExecutorsRefused(
        f"The driver's role does not allow what its executors need ({found[0]}): give its service account the role "
        "that the chart makes (rbac.create)."
    )


def clear(properties: Mapping[str, str]) -> None:
    """Delete the executors' set of a driver that ends, where Spark has not: its JVM was killed, or the API was away.

    The pod of a job that has failed stays for a day or longer, and so would the set: its executors would start again
    and again, and keep their nodes. Never raises: a run that has ended well has.

    Args:
        properties: Spark properties of the driver.
    """
    if (deletion := _deletion(properties, HASTE_SECONDS)) is None:
        return
    name, delete = deletion
    started, told = time.monotonic(), False
    while True:
        try:
            delete("Background")
            return
        except ClusterError as error:
            left = (HASTE_SECONDS if interruption.asked() else CLEAR_SECONDS) - (time.monotonic() - started)
            if not isinstance(error, Unreachable) or left < 0:
                log.warning("the executors' set %s may still be there: %s", name, error)
                return
            if not told and time.monotonic() - started > HASTE_SECONDS:
                log.warning("the executors' set %s is still there: trying for %.0f s more: %s", name, left, error)
                told = True
        time.sleep(POLL_SECONDS)


def attend(context: "SparkContext", timeout: float, leaving: Event, bounds: Bounds | None = None) -> None:
    """Wait for the first executor, and from then on log every change of their number.

    Args:
        context: Spark's context in a driver on Kubernetes.
        timeout: seconds to wait for the first executor; a cluster's autoscaler may need minutes to add a node.
        leaving: set when the driver ends, which ends the waiting.
        bounds: bounds within which the number of executors follows the work; None: it is fixed.

    Raises:
        ExecutorsRefused: a permanent hindrance, which the sentence names.
        ClusterError: no executor came in time.
    """
    started = reminded = time.monotonic()
    hindered_since: float | None = None
    reason: reasons.Hindrance | None = None
    while not (_registered(context, reason) or leaving.wait(POLL_SECONDS)):
        now = time.monotonic()
        reason = _why_not(context)
        hindered_since = (hindered_since or now) if reason and reason.definite else None
        text = reason.sentence if reason else "they are on their way"
        if hindered_since and now - hindered_since > DEFINITE_SECONDS:
            raise ExecutorsRefused(f"No executor can start: {text}.")
        if now - started > timeout:
            raise ClusterError(f"No executor has started in {timeout:.0f} s: {text}; or raise --executor-timeout.")
        if now - reminded > REMINDER_SECONDS:
            reminded = now
            log.warning("waiting for executors: %s", text)
    Thread(target=_watch, args=(context, bounds), name="orchard-executors", daemon=True).start()


def count(context: "SparkContext") -> int:
    """Return how many executors are registered with the driver."""
    return int(context._jsc.sc().getExecutorIds().size())


def _name(allocator: str, application: str) -> str:
    """Return the name of the executors' set of an application; `allocator` is one of `SETS`."""
    kind, _ = SETS[allocator]
    return f"spark-{kind}-{application}-0"


def _deletion(properties: Mapping[str, str], answer_seconds: float) -> tuple[str, Callable[..., Any]] | None:
    """Return the executors' set's name, and what deletes it, by a propagation policy; None: there is no such set."""
    allocator, application = properties.get(ALLOCATOR, ""), properties.get("spark.app.id")
    namespace = properties.get("spark.kubernetes.namespace")
    if allocator not in SETS or not (application and namespace):
        return None
    name = _name(allocator, application)

    def delete(policy: str, **options: Any) -> Any:
        cluster = Cluster(namespace=namespace, in_pod=True, answer_seconds=answer_seconds)
        function = getattr(cluster.apps, f"delete_namespaced_{SETS[allocator][1]}")
        return cluster.call(function, name, namespace, propagation_policy=policy, **options)

    return name, delete


def _registered(context: "SparkContext", reason: reasons.Hindrance | None) -> int:
    """Return how many executors are registered; `reason` is why there were none a moment ago.

    Raises:
        ExecutorsRefused, ClusterError: Spark's JVM has ended, as it does after some executors that end at their start.
    """
    try:
        return count(context)
    except Exception as error:
        if reason is not None and reason.definite:
            raise ExecutorsRefused(f"No executor can start: {reason.sentence}.") from error
        why = reason.sentence if reason else "its log says why (orchard logs --spark)"
        raise ClusterError(f"Spark ended while it waited for executors: {why}.") from error


def note(line: str) -> None:
    """Note why Kubernetes refuses an executor that Spark makes itself: no event says it, only the JVM, in `line`."""
    global _refusal  # noqa: PLW0603 - a process has one driver
    _refusal = reasons.of_spark(line) or _refusal


def last_trouble() -> str | None:
    """Return the last known reason why an executor was lost."""
    return _trouble


def _why_not(context: "SparkContext") -> reasons.Hindrance | None:
    """Return the reason why this application has no executors, as far as the driver's role may read it."""
    with contextlib.suppress(Exception):  # the API does not answer; or Spark's JVM is gone, which the caller tells
        cluster, pods = _cluster_and_pods(context)
        allocator, refused = context.getConf().get(ALLOCATOR, ""), _refusal
        if allocator in SETS:
            refused = reasons.of_events(cluster.events(_name(allocator, context.applicationId)))
        return next(filter(None, (reasons.of_start(cluster, pod) for pod in pods)), None if pods else refused)
    return None


def _cluster_and_pods(context: "SparkContext") -> tuple[Cluster, list[Any]]:
    namespace = context.getConf().get("spark.kubernetes.namespace", "default")
    cluster = Cluster(namespace=namespace, in_pod=True, answer_seconds=ANSWER_SECONDS)
    ours = f"spark-app-selector={context.applicationId},spark-role=executor"
    return cluster, cluster.find(cluster.core.list_namespaced_pod, label_selector=ours)


def _watch(context: "SparkContext", bounds: Bounds | None = None) -> None:
    known, wanted, look_until, seen = 0, _wanted(), 0.0, time.monotonic()
    follow_at = 0.0
    autoscaler = (
        None if bounds is None else Autoscaler(bounds, partial(_asked_for, context), partial(_scale_to, context))
    )
    while context._jsc is not None:
        try:
            now = count(context)
        except Exception:  # the context stops, or its JVM is gone: others say so
            return
        if now != known:
            log.info("executors", extra={"fields": {"executors": now}})
        if now < known:
            look_until = time.monotonic() + LOOK_SECONDS
        known = now
        if time.monotonic() < look_until and _tell_trouble(context):
            look_until = 0.0
        if now:
            seen = time.monotonic()
        elif time.monotonic() - seen > GONE_SECONDS:
            seen = time.monotonic()
            _end_without_set(context)
        if (number := _wanted()) is not None and number != wanted and time.monotonic() >= follow_at:
            if _follow(context, number):
                wanted = number
            else:
                follow_at = time.monotonic() + REMINDER_SECONDS
        if autoscaler is not None:
            autoscaler.look(now)
        time.sleep(POLL_SECONDS)


def _end_without_set(context: "SparkContext") -> None:
    """End Spark's jobs if somebody has deleted the executors' set: Spark makes no other, and they would wait for ever.

    The driver's role may delete the set and not read it, so a deletion on trial tells whether it is there.
    """
    with contextlib.suppress(Exception):  # the API does not answer; or Spark's JVM is gone, which others tell
        conf = context.getConf()
        names = {key: conf.get(key, "") for key in (ALLOCATOR, "spark.kubernetes.namespace")}
        deletion = _deletion(names | {"spark.app.id": context.applicationId}, ANSWER_SECONDS)
        if deletion is not None and deletion[1]("Background", dry_run="All") is None:
            log.warning("the executors' set %s was deleted", deletion[0])
            context.cancelAllJobs()


def _tell_trouble(context: "SparkContext") -> bool:
    """Log why an executor was lost; return whether it is known."""
    global _trouble  # noqa: PLW0603 - a process has one driver
    with contextlib.suppress(ClusterError):
        cluster, pods = _cluster_and_pods(context)
        since = datetime.now(UTC) - timedelta(seconds=EVICTION_SECONDS)
        young = [pod for pod in pods if pod.metadata.creation_timestamp >= since]  # in the place of such as are gone
        evictions = (reasons.of_eviction(cluster.events(pod.metadata.name), since) for pod in young)
        if reason := next(filter(None, chain(map(reasons.of_end, pods), evictions)), None):
            _trouble = reason.sentence
            log.warning("an executor was lost: %s", _trouble, extra={"fields": {"reason": _trouble}})
            return True
    return False


def _wanted() -> int | None:
    """Return the number of executors in the chart's values; None if they do not set it."""
    try:
        return int(WANTED.read_text())
    except (OSError, ValueError):
        return None


def _follow(context: "SparkContext", number: int) -> bool:
    """Scale the executors' set as the chart's values say; return False while the API is away, to try again."""
    with contextlib.suppress(Unreachable):
        if _scale_to(context, number, passing=True):
            log.info("executor.instances is %d now: the executors are scaled", number)
        return True
    log.warning("executor.instances is %d now, and the Kubernetes API does not answer: trying again", number)
    return False


def _asked_for(context: "SparkContext") -> int | None:
    """Return the number of replicas that the executors' set is asked for; None if it cannot be read."""
    scale = _of_set(context, "read_namespaced_{}_scale")
    return None if scale is None else int(scale.spec.replicas or 0)


def _scale_to(context: "SparkContext", number: int, *, passing: bool = False) -> bool:
    """Scale the executors' set; return whether that was possible. Raises as `_of_set`."""
    return _of_set(context, "patch_namespaced_{}_scale", {"spec": {"replicas": number}}, passing=passing) is not None


def _of_set(context: "SparkContext", function: str, *more: Any, passing: bool = False) -> Any:
    """Call the API for the executors' set; None, and a warning, where it refuses.

    Raises Unreachable, with `passing`, where it does not answer.
    """
    conf = context.getConf()
    allocator = conf.get(ALLOCATOR, "")
    if allocator not in SETS:
        return None
    namespace, name = conf.get("spark.kubernetes.namespace", "default"), _name(allocator, context.applicationId)
    try:
        cluster = Cluster(namespace=namespace, in_pod=True, answer_seconds=ANSWER_SECONDS)
        return cluster.call(getattr(cluster.apps, function.format(SETS[allocator][1])), name, namespace, *more)
    except ClusterError as error:
        if passing and isinstance(error, Unreachable):
            raise
        log.warning("the number of executors of %s cannot be read or changed: %s", name, error)
        return None
