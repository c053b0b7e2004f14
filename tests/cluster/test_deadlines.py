"""Whatever the cluster does, no command waits for ever: each wait ends with one sentence.

The cluster is an API server on this machine that does not answer, does not come to an end, or never changes.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest

from orchard.cluster import client, emr, executors, jobs
from orchard.cluster.client import Cluster, Log, Unreachable
from orchard.errors import ClusterError

NOW = datetime.now(UTC).isoformat()
LABELS = {"app.kubernetes.io/instance": "peach", "app.kubernetes.io/name": "orchard"}
DRIVER = {**LABELS, "app.kubernetes.io/component": "driver", "app.kubernetes.io/managed-by": "orchard"}


class Api:
    """An API server: `objects` are what there is, by path; a function is called with the handler that answers."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.undeletable = False
        self.deleted: list[str] = []
        self.over = Event()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        found = self.objects.get(path)
        if callable(found):
            return found(handler)
        if handler.command == "DELETE" and found is not None and not self.undeletable:
            self.deleted.append(path)
            for gone in [other for other in self.objects if not other.endswith("/events")]:
                del self.objects[gone]
        if found is None and not path.endswith(("jobs", "pods", "events")):
            return answer(handler, {"kind": "Status", "reason": "NotFound", "details": {"kind": "things"}}, 404)
        return answer(handler, found or {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": []})


def answer(handler: BaseHTTPRequestHandler, content: object, status: int = 200) -> None:
    body = json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def serving(api: Api) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            api.serve(self)

        do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        api.over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The server, which KUBECONFIG names; what waits polls often."""
    for module in (jobs, executors):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    api = Api()
    with serving(api) as url:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "fruit"}}],
            "clusters": [{"name": "here", "cluster": {"server": url}}],
            "users": [{"name": "me", "user": {}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        yield api


def pod(phase: str = "Pending") -> dict[str, Any]:
    metadata = {"name": "peach-1-a", "labels": DRIVER, "creationTimestamp": NOW}
    return {"metadata": metadata, "spec": {"containers": [{"name": "driver"}]}, "status": {"phase": phase}}


def job() -> dict[str, Any]:
    return {"metadata": {"name": "peach-1", "labels": DRIVER, "creationTimestamp": NOW}, "status": {"startTime": NOW}}


def there(api: Api, *pods: dict[str, Any]) -> None:
    """Let there be a job with these pods."""
    api.objects["/apis/batch/v1/namespaces/fruit/jobs"] = {"kind": "JobList", "items": [job()]}
    api.objects["/apis/batch/v1/namespaces/fruit/jobs/peach-1"] = job()
    api.objects["/api/v1/namespaces/fruit/pods"] = {"kind": "PodList", "items": list(pods)}
    for each in pods:
        api.objects[f"/api/v1/namespaces/fruit/pods/{each['metadata']['name']}"] = each


def never(api: Api) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda _: (api.over.wait(20), None)[1]


def drop_by_drop(api: Api, drop: bytes, chunk: int = 1) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer for ever, a drop at a time, each soon enough for any limit of one read."""

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        while not api.over.wait(0.01):
            try:
                handler.wfile.write(drop * chunk)
            except OSError:
                return

    return drip


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("how", ["silence", "drops"])
def test_an_api_that_does_not_come_to_an_end_is_unreachable(api: Api, how: str) -> None:
    answers = never(api) if how == "silence" else drop_by_drop(api, b" ")
    api.objects["/apis/batch/v1/namespaces/fruit/jobs"] = answers
    with pytest.raises(Unreachable, match="does not answer"):
        jobs.report(Cluster(answer_seconds=0.3), "peach")


def test_applying_to_an_api_that_does_not_come_to_an_end_is_unreachable(api: Api) -> None:
    api.objects["/version"] = api.objects["/apis"] = api.objects["/api/v1"] = drop_by_drop(api, b" ")
    with pytest.raises(Unreachable, match="does not answer"):
        Cluster(answer_seconds=0.3).apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}})


@pytest.mark.parametrize("drop", [f"{NOW} a line\n".encode(), b"no end of the line"])
def test_a_log_without_end_is_read_in_parts(api: Api, drop: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LOG_SECONDS", 0.3)
    monkeypatch.setattr(client, "LONGEST_LINE", 1000)
    api.objects["/api/v1/namespaces/fruit/pods/peach-1-a/log"] = drop_by_drop(api, drop)
    for follow in (False, True):
        assert len(list(Log(Cluster(), "peach-1-a").lines(follow=follow))) <= 1


def test_a_job_that_is_deleted_and_does_not_go_is_told(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "DELETE_SECONDS", 0.2)
    there(api, pod("Running"))
    api.undeletable = True
    with pytest.raises(ClusterError, match=r"peach was deleted, and peach-1, peach-1-a is still there after 0 s"):
        jobs.cancel(Cluster(), "peach")


def test_a_job_that_starts_is_given_up_though_nothing_hinders_it(api: Api) -> None:
    there(api, pod())
    with pytest.raises(ClusterError, match="cannot start: nothing is known of its pod") as raised:
        jobs.follow(Cluster(), "peach", start_timeout=0.3)
    assert "the job was deleted" in str(raised.value)
    assert api.deleted == ["/apis/batch/v1/namespaces/fruit/jobs/peach-1"]


def test_the_log_of_a_pod_that_never_starts_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "START_SECONDS", 0.2)
    there(api, pod())
    with pytest.raises(ClusterError, match="no log to follow: pod peach-1-a has not started"):
        list(jobs.logs(Cluster(), "peach", follow=True))


PREDECESSOR = "/apis/apps/v1/namespaces/fruit/statefulsets/spark-s-peach-0"
OURS = {
    "spark.kubernetes.allocation.pods.allocator": "statefulset",
    "spark.app.id": "peach",
    "spark.kubernetes.namespace": "fruit",
}


@pytest.fixture
def in_pod(api: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
    """The same server, as a driver in a pod reaches it."""
    monkeypatch.setattr(executors, "Cluster", lambda **options: Cluster(**options | {"in_pod": False}))
    return api


def test_an_earlier_drivers_set_that_does_not_go_is_told(in_pod: Api) -> None:
    in_pod.objects[PREDECESSOR] = {"kind": "StatefulSet", "metadata": {"name": "spark-s-peach-0"}}
    in_pod.undeletable = True
    with pytest.raises(ClusterError, match=r"spark-s-peach-0 of an earlier driver does not go .*still there after 0 s"):
        executors.clear_predecessor(OURS, 0.2)
    in_pod.undeletable = False
    executors.clear_predecessor(OURS, 0.2)


def test_an_api_that_is_silent_ends_the_clearing(in_pod: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "ANSWER_SECONDS", 0.1)
    in_pod.objects[PREDECESSOR] = never(in_pod)
    with pytest.raises(ClusterError, match=r"does not go .*does not answer"):
        executors.clear_predecessor(OURS, 0.3)


def test_an_api_that_is_silent_does_not_keep_a_driver_from_its_deadline(
    in_pod: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(executors, "count", lambda _: 0)
    in_pod.objects["/api/v1/namespaces/fruit/pods"] = never(in_pod)
    context: Any = SimpleNamespace(
        applicationId="peach", getConf=lambda: SimpleNamespace(get=lambda key, default="": OURS.get(key, default))
    )
    with pytest.raises(ClusterError, match="No executor has started in 0 s"):
        executors.attend(context, 0.3, Event())


def test_a_run_on_emr_that_never_starts_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emr, "POLL_SECONDS", 0.01)
    service = emr.Emr.__new__(emr.Emr)
    service._id = "abc"
    monkeypatch.setattr(service, "_describe", lambda _: {"id": "1", "virtualClusterId": "abc", "state": "SUBMITTED"})
    with pytest.raises(ClusterError, match=r"has not started in 0 s: .*orchard cancel 1 --virtual-cluster-id abc"):
        service.follow("1", start_timeout=0.2)
