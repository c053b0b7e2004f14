"""One namespace of one Kubernetes cluster: Orchard's requests to its API, with each refusal as one sentence."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from orchard.errors import ClusterError, UsageError

MANAGER, MANAGED_BY = "orchard", "app.kubernetes.io/managed-by"
"""Who owns the fields that `Cluster.apply` sets, and the label that says so."""
OF_HELM = "meta.helm.sh/release-name"
"""Annotation that Helm gives to what it installs, and to nothing that it only renders."""

SILENCE_SECONDS = 10.0
"""After so long without a line, following a log is interrupted to check the pod."""

OPERATOR = ("sparkoperator.k8s.io", "v1beta2", "sparkapplications")
"""Group, version and plural of the Spark operator's applications."""
_OF_SCHEDULE = "sparkoperator.k8s.io/scheduled-app-name"
_SCHEDULES = (*OPERATOR[:2], "scheduledsparkapplications")

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
ANSWER_SECONDS = 90.0
LOG_SECONDS = 60.0
"""How long a log is read before the pod is checked; an endless log is read in parts."""
LONGEST_LINE = 2**20

_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


_NAMESPACE = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ANONYMOUS = 'User "system:anonymous" cannot'
_PASSING = (429, 500, 502, 503, 504)
"""What the API server, or a load balancer before it, answers when it restarts, is overloaded or misses a node."""


class Unreachable(ClusterError):
    """The API server does not answer, or cannot do it now; the next attempt may succeed."""


class Forbidden(ClusterError):
    """The caller's role does not allow the request."""


def check_namespace(name: str) -> None:
    """Refuse a name that no namespace can have: in a request's path it would lead elsewhere. Raises UsageError."""
    if not _NAMESPACE.fullmatch(name):
        raise UsageError(
            f"{name} cannot be a namespace's name, which has up to 63 small letters, digits and dashes: "
            "correct --namespace, or the context's namespace in the kubeconfig."
        )


class Cluster:
    """A namespace, by the kubeconfig's context or, inside a pod, by its service account.

    Args:
        context: a context of the kubeconfig; None: its current one.
        namespace: a namespace; None: the context's, or the pod's own.
        in_pod: whether to use the pod's service account, even if there is a kubeconfig.
        answer_seconds: how long a whole answer may take; a limit for each read does not stop a very slow answer.

    Raises:
        ClusterError: there is neither kubeconfig nor service account, or no such context, or the file is no kubeconfig.
        UsageError: no namespace can have this name.
    """

    def __init__(
        self,
        *,
        context: str | None = None,
        namespace: str | None = None,
        in_pod: bool = False,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        from kubernetes import client, config

        configuration = client.Configuration()
        self._in_pod = in_pod
        try:
            if in_pod:
                raise config.ConfigException("in a pod")
            config.load_kube_config(context=context, client_configuration=configuration)
            contexts, current = config.list_kube_config_contexts()
            chosen = next((c for c in contexts if c["name"] == context), current)
            default = chosen["context"].get("namespace")
        except config.ConfigException as error:
            if context:
                raise ClusterError(f"The kubeconfig has no usable context {context}: {error}.") from None
            try:
                config.load_incluster_config(client_configuration=configuration)
            except config.ConfigException as no_account:
                why = str(no_account if in_pod else error).rstrip(".")
                raise ClusterError(
                    f"There is no cluster to talk to: {why}; set KUBECONFIG, or name a context with --context."
                ) from None
            default = _POD_NAMESPACE.read_text().strip() if _POD_NAMESPACE.is_file() else None
        except OSError:  # it names the file
            raise
        except Exception as error:  # the client takes a kubeconfig's form for granted
            why = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
            raise ClusterError(
                f"The kubeconfig cannot be used ({why}): look at the files that KUBECONFIG names with "
                "`kubectl config view`."
            ) from error
        configuration.retries = False  # those who can wait try again themselves
        self.namespace = namespace or default or "default"
        check_namespace(self.namespace)
        self.host = configuration.host
        self._answer_seconds = answer_seconds
        self._timeouts = (min(CONNECT_SECONDS, answer_seconds), min(READ_SECONDS, answer_seconds))
        self._dynamic: Any = None
        self._api = client.ApiClient(configuration)
        self.core, self.batch, self.apps = (
            client.CoreV1Api(self._api),
            client.BatchV1Api(self._api),
            client.AppsV1Api(self._api),
        )

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Return what `function` of the API returns; None where the object does not exist.

        Raises:
            ClusterError: the API refuses; the sentence says what and why.
            Unreachable: the API does not answer, or cannot now.
        """
        with self._explained():
            return _within(self._answer_seconds, partial(function, *args, _request_timeout=self._timeouts, **options))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            if error.status == 404 and _body(error).get("details", {}).get("kind") != "namespaces":
                return
            raise self.refusal(error) from error
        except (HTTPError, TimeoutError) as error:
            raise self.silence(error) from error

    def silence(self, error: Exception) -> Unreachable:
        """Return a sentence for an answer that has not come."""
        cause = getattr(error, "reason", None) or error
        return Unreachable(
            f"The cluster at {self.host} does not answer ({_plain(cause)}): "
            "check that it runs and that KUBECONFIG or --context names the right one."
        )

    def refusal(self, error: Any) -> ClusterError:
        """Return a sentence for the API's error."""
        message = (_message(error) or str(error.reason)).rstrip(".")
        if not error.status:  # TLS: urllib3's error as the client wraps it
            return ClusterError(
                f"The cluster at {self.host} cannot be trusted ({str(error.reason).splitlines()[-1]}): "
                "check the kubeconfig's certificate-authority."
            )
        if error.status == 401 or _ANONYMOUS in message:  # a plugin that fails to log in leaves a caller without a name
            of_person = f"at {self.host} does not know you: log in again, or check the kubeconfig's credentials."
            of_pod = "refuses the pod's token: look whether its service account was deleted."
            return ClusterError(f"The cluster {of_pod if self._in_pod else of_person}")
        is_ending = error.status == 403 and "being terminated" in message
        if error.status == 404 or is_ending:
            begin = f"The namespace {self.namespace} is being deleted: wait until it is gone and"
            begin = begin if is_ending else f"There is no namespace {self.namespace}:"
            again = f"create it (kubectl create namespace {self.namespace}) or name another with --namespace"
            return ClusterError(f"{begin} {again}.")
        if error.status == 403 and " cannot " in message:
            what = message.partition(" is forbidden: ")[2] or message
            return Forbidden(f"The cluster does not allow it ({what}): ask for a role that does.")
        if error.status in _PASSING:
            return Unreachable(f"The cluster at {self.host} cannot do it now ({message}): try again in a while.")
        return ClusterError(f"The cluster refuses ({error.status}): {message}.")

    def apply(self, manifest: Mapping[str, Any]) -> Any:
        """Create an object, or change the given fields of the existing one (server-side apply); return the object.

        Raises ClusterError, as `call` does, and where the API does not know the place of the object.
        """

        def apply() -> Any:
            dynamic, resource = self._resource(manifest)
            return dynamic.server_side_apply(
                resource,
                body=dict(manifest),
                namespace=self.namespace,
                field_manager=MANAGER,
                force_conflicts=True,
                _request_timeout=self._timeouts,
            )

        with self._explained():
            return _within(self._answer_seconds, apply)
        raise ClusterError(
            f"The server at {self.host} knows no place for {manifest['kind']} {manifest['metadata']['name']} "
            f"(404) in the namespace {self.namespace}: check that KUBECONFIG or --context names a Kubernetes cluster."
        )

    def labels(self, manifest: Mapping[str, Any]) -> dict[str, str] | None:
        """Return the labels of the object of a manifest's kind and name; None without one, or the right to see it."""

        def get() -> Any:
            _, resource = self._resource(manifest)
            name = manifest["metadata"]["name"]
            return resource.get(name=name, namespace=self.namespace, _request_timeout=self._timeouts)

        with suppress(Forbidden), self._explained():
            return dict(_within(self._answer_seconds, get).to_dict()["metadata"].get("labels") or {})
        return None

    def _resource(self, manifest: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the client of all kinds, and in it a manifest's kind."""
        from kubernetes.dynamic import DynamicClient
        from kubernetes.dynamic.exceptions import ResourceNotFoundError

        if self._dynamic is None:
            self._dynamic = DynamicClient(self._api)
        try:
            found = self._dynamic.resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
        except ResourceNotFoundError:
            raise ClusterError(f"The cluster has no {manifest['kind']} of {manifest['apiVersion']}.") from None
        return self._dynamic, found

    def application(self, name: str) -> dict[str, Any] | None:
        """Return the Spark operator's SparkApplication; for a schedule, the newest one that it has started.

        None without one, the operator, or the permission to see it.
        """
        from kubernetes.client import CustomObjectsApi

        api, (group, version, plural) = CustomObjectsApi(self._api), OPERATOR
        where = (group, version, self.namespace, plural)
        try:
            found: dict[str, Any] | None = self.call(api.get_namespaced_custom_object, *where, name)
            if found is None:
                selector = f"{_OF_SCHEDULE}={name}"
                several = self.call(api.list_namespaced_custom_object, *where, label_selector=selector) or {}
                found = max(
                    several.get("items", []), key=lambda each: str(each["metadata"]["creationTimestamp"]), default=None
                )
        except Forbidden:
            return None
        return found

    def application_schedule(self, name: str) -> dict[str, Any] | None:
        """Return the Spark operator's ScheduledSparkApplication.

        None without one, the operator, or the permission to see it.
        """
        from kubernetes.client import CustomObjectsApi

        group, version, plural = _SCHEDULES
        get = CustomObjectsApi(self._api).get_namespaced_custom_object
        with suppress(Forbidden):
            found: dict[str, Any] | None = self.call(get, group, version, self.namespace, plural, name)
            return found
        return None

    def find(self, function: Callable[..., Any], **selector: str) -> list[Any]:
        """Return the objects that a ``list_namespaced_…`` function finds."""
        found = self.call(function, self.namespace, **selector)
        return [] if found is None else list(found.items)

    def events(self, name: str) -> list[Any]:
        """Return the events about the object `name`; none if the caller may not read them."""
        return self._events(f"involvedObject.name={name}")

    def evictions(self) -> list[Any]:
        """Return the events that tell of pods which their node evicted; none if the caller may not read them."""
        return self._events("reason=Evicted")

    def _events(self, selector: str) -> list[Any]:
        try:
            return self.find(self.core.list_namespaced_event, field_selector=selector)
        except Forbidden:
            return []


class Log:
    """A pod's log, or that of one of its containers; each reading continues where the last one ended."""

    def __init__(self, cluster: Cluster, pod: str, container: str | None = None) -> None:
        self._cluster, self.pod = cluster, pod
        self._options = {"container": container} if container else {}
        self._last = ""
        self._read_at: float | None = None
        self.lost: Unreachable | None = None
        """Why the last reading could not begin, such as a node that is gone; the next one may."""

    def lines(self, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines that were not read yet, for `LOG_SECONDS` at most.

        With `follow`, until the container ends or is silent for `SILENCE_SECONDS`. There are none while it has not
        started.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        self.lost = None
        # What was read already is told by the lines' times; a margin for lines that were long on their way.
        since = {} if self._read_at is None else {"since_seconds": int(time.time() - self._read_at) + 60}
        try:
            response = self._cluster.core.read_namespaced_pod_log(
                *(self.pod, self._cluster.namespace),
                timestamps=True,
                follow=follow,
                _preload_content=False,
                _request_timeout=(CONNECT_SECONDS, SILENCE_SECONDS),
                **self._options,
                **since,
            )
        except ApiException as error:
            if error.status in (400, 404):  # not started yet; gone
                return
            refusal = self._cluster.refusal(error)
            if not isinstance(refusal, Unreachable):
                raise refusal from error
            self.lost = refusal
            return
        except HTTPError as error:
            self.lost = self._cluster.silence(error)
            return
        rest, until = b"", time.monotonic() + LOG_SECONDS
        try:
            while chunk := response.read1(2**16, decode_content=False):
                *lines, rest = (rest + chunk).split(b"\n")
                rest = rest[:LONGEST_LINE]
                for line in lines:
                    at, _, text = line.decode(errors="replace").partition(" ")
                    if at > self._last:
                        self._last, self._read_at = at, time.time()
                        yield text
                if time.monotonic() > until:
                    return
        except HTTPError:
            return  # silent for a while, or cut off: the caller comes again
        finally:
            response.close()


def _within(seconds: float, function: Callable[[], Any]) -> Any:
    """Return what `function` returns. Raises TimeoutError if that takes longer; its thread is then left behind."""
    done: Future[Any] = Future()

    def work() -> None:
        try:
            done.set_result(function())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=work, name="orchard-cluster-api", daemon=True).start()
    try:
        return done.result(seconds)
    except TimeoutError as error:
        raise error if done.done() else TimeoutError(f"no whole answer in {seconds:.0f} s") from None


def _message(error: Any) -> str:
    return str(_body(error).get("message") or "")


def _body(error: Any) -> dict[str, Any]:
    try:
        body = json.loads(error.body)
    except (TypeError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def _plain(cause: object) -> str:
    """Return an error's text without the connection object that urllib3 puts before it."""
    return str(cause).rpartition(">: ")[2] or type(cause).__name__
