"""Whatever the cluster does, no command waits for ever: each wait ends with one sentence.

The cluster is an API server on this machine that does not answer, does not come to an end, or never changes.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import kubernetes.dynamic  # now, and not in the time of the first test that needs it
import pytest
from click.testing import CliRunner

from orchard import interruption, tasks
from orchard.cli import cli
from orchard.cluster import client, emr, executors, jobs
from orchard.cluster.client import Cluster, Log, Unreachable
from orchard.errors import ClusterError, ExecutorsRefused, UsageError
from orchard.runlog import RunLog, new_run_id
from orchard.spark import session
from orchard.storage import open_storage

NOW = datetime.now(UTC).isoformat()
LABELS = {"app.kubernetes.io/instance": "peach", "app.kubernetes.io/name": "orchard"}
DRIVER = {**LABELS, "app.kubernetes.io/component": "driver", "app.kubernetes.io/managed-by": "orchard"}


OWNED = ("configmaps", "serviceaccounts", "roles", "rolebindings")


class Api:
    """An API server: `objects` are what there is, by path; a function is called with the handler that answers."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.undeletable = False
        self.deleted: list[str] = []
        self.kept: set[str] = set()
        self.over = Event()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        found = self.objects.get(path)
        if callable(found):
            found(handler)
            return
        if handler.command == "DELETE" and found is not None and not self.undeletable:
            self.deleted.append(path)
            for gone in [other for other in self.objects if not other.endswith("/events") and other not in self.kept]:
                del self.objects[gone]
        if found is None and not path.endswith(("jobs", "pods", "events", *OWNED)):
            answer(handler, {"kind": "Status", "reason": "NotFound", "details": {"kind": "things"}}, 404)
            return
        answer(handler, found or {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": []})


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

        do_DELETE = do_POST = do_PATCH = do_GET  # noqa: N815

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


def test_applying_to_what_is_no_kubernetes_api_is_one_sentence(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was an AttributeError of the caller's."""

    def nowhere(*_: object, **__: object) -> None:
        raise kubernetes.client.ApiException(status=404, reason="404 page not found")

    dynamic = SimpleNamespace(server_side_apply=nowhere)
    monkeypatch.setattr(Cluster, "_resource", lambda *_: (dynamic, None))
    with pytest.raises(ClusterError, match=r"knows no place for Job x \(404\) in the namespace fruit: check that"):
        Cluster().apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}})
    assert not api.deleted


@pytest.mark.parametrize("name", ["Fruit", "fruit/x", "../x", "fruit_1", "-fruit", "f" * 64])
@pytest.mark.usefixtures("api")
def test_no_cluster_is_asked_for_what_cannot_be_a_namespace(name: str) -> None:
    """In a request's path it leads elsewhere, and no answer to that is about a job."""
    place = ("--output", "s3a://bucket/out")
    for command in (
        ("submit", "s3a://bucket/photos", *place, "--dry-run"),
        ("submit", "s3a://bucket/photos", *place),
        ("status", "peach"),
        ("cancel", "peach"),
    ):
        told = CliRunner().invoke(cli, [*command, "--namespace", name])
        assert isinstance(told.exception, UsageError)
        assert f"{name} cannot be a namespace's name, which has up to 63 small letters" in str(told.exception)


def test_a_namespace_that_is_being_deleted_is_told_with_what_to_do(api: Api) -> None:
    def ends(handler: BaseHTTPRequestHandler) -> None:
        message = 'jobs.batch "x" is forbidden: unable to create new content in namespace fruit because it is being '
        answer(handler, {"kind": "Status", "message": f"{message}terminated"}, 403)

    api.objects["/apis/batch/v1/namespaces/fruit/jobs"] = ends
    with pytest.raises(ClusterError, match="The namespace fruit is being deleted: wait until it is gone and create it"):
        jobs.report(Cluster(), "peach")


@pytest.mark.parametrize("drop", [f"{NOW} a line\n".encode(), b"no end of the line"], ids=["lines", "one line"])
def test_a_log_without_end_is_read_in_parts(api: Api, drop: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LOG_SECONDS", 0.3)
    monkeypatch.setattr(client, "LONGEST_LINE", 1000)
    api.objects["/api/v1/namespaces/fruit/pods/peach-1-a/log"] = drop_by_drop(api, drop)
    for follow in (False, True):
        assert len(list(Log(Cluster(), "peach-1-a").lines(follow=follow))) <= 1


def cannot_now(handler: BaseHTTPRequestHandler, status: int = 503) -> None:
    answer(handler, {"kind": "Status", "message": "apiserver is shutting down."}, status)


def first_away(api: Api, path: str, status: int = 503) -> None:
    """Let the next request for `path` be refused, as while an API server restarts, and the following ones answered."""
    found = api.objects[path]

    def serve(handler: BaseHTTPRequestHandler) -> None:
        api.objects[path] = found
        cannot_now(handler, status)

    api.objects[path] = serve


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_an_api_cannot_do_now_it_may_a_moment_later(
    api: Api, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(jobs, "WATCH_SECONDS", 0.01)
    there(api, pod("Failed"))
    api.objects["/apis/batch/v1/namespaces/fruit/jobs"]["items"] = [ended()]
    path = "/apis/batch/v1/namespaces/fruit/jobs"
    first_away(api, path, status)
    with pytest.raises(Unreachable, match=r"cannot do it now \(apiserver is shutting down\): try again in a while"):
        jobs.report(Cluster(), "peach")
    first_away(api, path, status)
    assert [each.state for each in jobs.watch(Cluster(), "peach")] == ["failed"]
    first_away(api, path, status)
    assert jobs.follow(Cluster(), "peach", start_timeout=1).state == "failed"
    first_away(api, "/api/v1/namespaces/fruit/pods/peach-1-a", status)
    assert list(jobs.logs(Cluster(), "peach", follow=True)) == []


def test_who_follows_a_job_is_told_what_its_log_cannot_say(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    unplaced = pod()
    unplaced["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "message": "0/1: too full."}]
    lost = pod("Running")
    lost["spec"]["nodeName"] = "node-7"
    lost["status"]["conditions"] = [
        {"type": "Ready", "status": "False"},
        {"type": "ContainersReady", "status": "True"},
    ]
    path, looks = "/api/v1/namespaces/fruit/pods", iter([unplaced, unplaced, lost, lost, pod("Running")])

    def look(handler: BaseHTTPRequestHandler) -> None:
        found = next(looks, None)
        if found is None:
            api.objects["/apis/batch/v1/namespaces/fruit/jobs"]["items"] = [ended()]
        answer(handler, {"kind": "PodList", "items": [found or pod("Failed")]})

    there(api, pod())
    api.objects[path] = look
    with caplog.at_level(logging.WARNING):
        jobs.follow(Cluster(), "peach", start_timeout=20)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("The driver cannot start: pod peach-1-a fits on no node: 0/1: too full")
    assert second.startswith("The driver's node node-7 does not answer: bring it back")


def test_a_job_that_is_deleted_while_it_is_watched_is_not_called_a_wrong_name(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "WATCH_SECONDS", 0.01)
    there(api, pod("Running"))
    watched = jobs.watch(Cluster(), "peach")
    assert next(watched).state == "running"
    api.objects.clear()
    with pytest.raises(
        ClusterError,
        match=r"The job peach, or its namespace, was deleted while it was watched: submitted .* goes on from",
    ):
        next(watched)


def test_a_job_is_made_again_though_the_api_is_away_while_it_goes(api: Api) -> None:
    there(api, pod("Failed"))
    path, posted = "/apis/batch/v1/namespaces/fruit/jobs", []

    def jobs_of(handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "POST":
            posted.append(handler.path)
            return answer(handler, ended())
        return answer(handler, {"kind": "JobList", "items": [] if api.deleted else [ended()]})

    def deleting(handler: BaseHTTPRequestHandler) -> None:
        if handler.command != "DELETE":
            return answer(handler, {"kind": "Status", "details": {"kind": "jobs"}}, 404)
        api.deleted.append(handler.path)
        del api.objects["/api/v1/namespaces/fruit/pods"]
        first_away(api, path)
        return answer(handler, ended())

    api.objects |= {path: jobs_of, f"{path}/peach-1": deleting}
    assert "runs again" in jobs.retry(Cluster(), "peach")
    assert len(posted) == 1, "it was deleted and not made again"


def test_scaling_waits_for_executors_though_the_api_is_away_for_a_moment(api: Api) -> None:
    there(api, pod("Running"))
    path = "/apis/apps/v1/namespaces/fruit/statefulsets/spark-s-peach-0"
    spec = {"replicas": 2, "serviceName": "none", "selector": {}, "template": {}}
    metadata = {"name": "spark-s-peach-0", "creationTimestamp": NOW}
    log = json.dumps({"time": NOW, "level": "info", "event": "executors", "executors": 3})

    def scaled(handler: BaseHTTPRequestHandler) -> None:
        first_away(api, path)
        answer(handler, {"metadata": {}, "spec": {"replicas": 3}})

    def said(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(f"{NOW} {log}\n".encode())

    api.objects |= {
        path: {"kind": "StatefulSet", "metadata": metadata, "spec": spec, "status": {"replicas": 2}},
        f"{path}/scale": scaled,
        "/api/v1/namespaces/fruit/pods/peach-1-a/log": said,
    }
    assert jobs.scale(Cluster(), "peach", 3, timeout=5).startswith("peach has 3 executors, after ")


def test_the_status_of_a_job_whose_node_is_gone_is_told_without_its_log(api: Api) -> None:
    there(api, pod("Running"))
    api.objects["/api/v1/namespaces/fruit/pods/peach-1-a/log"] = lambda handler: cannot_now(handler, 500)
    found = jobs.report(Cluster(), "peach")
    assert (found.state, found.stage) == ("running", None)
    with pytest.raises(Unreachable, match="cannot do it now"):  # an empty log would be taken for the whole
        list(jobs.logs(Cluster(), "peach"))


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


def ended(job_name: str = "peach-1") -> dict[str, Any]:
    failed = {"type": "Failed", "status": "True", "lastTransitionTime": NOW}
    template = {
        "metadata": {"labels": DRIVER | {"batch.kubernetes.io/controller-uid": "old"}},
        "spec": {"containers": []},
    }
    return {
        "metadata": {
            "name": job_name,
            "labels": DRIVER | {"controller-uid": "old"},
            "creationTimestamp": NOW,
            "uid": "old",
        },
        "spec": {"template": template, "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "old"}}},
        "status": {"startTime": NOW, "conditions": [failed]},
    }


def test_a_job_that_failed_is_made_again_as_it_was_and_keeps_what_it_owns(api: Api) -> None:
    there(api, pod("Failed"))
    api.objects["/apis/batch/v1/namespaces/fruit/jobs"] = {"kind": "JobList", "items": [ended()]}
    owned = {
        "name": "peach-settings",
        "ownerReferences": [{"uid": "old", "kind": "Job", "name": "peach-1", "apiVersion": "v1"}],
    }
    maps = "/api/v1/namespaces/fruit/configmaps"
    api.objects[maps] = {"kind": "ConfigMapList", "items": [{"metadata": owned}]}
    asked: list[tuple[str, str, Any]] = []

    def note(handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        asked.append((handler.command, handler.path, body))
        answer(handler, body | {"metadata": body["metadata"] | {"uid": "new"}})

    def jobs_of(handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "POST":
            return note(handler)
        deleted = "/apis/batch/v1/namespaces/fruit/jobs/peach-1" in api.deleted
        return answer(handler, {"kind": "JobList", "items": [] if deleted else [ended()]})

    api.objects["/apis/batch/v1/namespaces/fruit/jobs"] = jobs_of
    api.objects[f"{maps}/peach-settings"] = note
    api.kept = {"/apis/batch/v1/namespaces/fruit/jobs", maps, f"{maps}/peach-settings"}
    assert "runs again" in jobs.retry(Cluster(), "peach")
    (made, owner) = asked
    assert made[0] == "POST"
    assert made[2]["metadata"]["name"] == "peach-1"
    assert "selector" not in made[2]["spec"] and "status" not in made[2]
    assert made[2]["spec"]["template"]["metadata"]["labels"] == DRIVER == made[2]["metadata"]["labels"]
    assert owner[:2] == ("PATCH", f"{maps}/peach-settings")
    assert owner[2]["metadata"]["ownerReferences"][0]["uid"] == "new"


def test_a_job_that_somebody_else_has_just_made_again_is_not_deleted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that ran it again at once, the second deleted what the first had made, and could make none itself."""
    monkeypatch.setattr(jobs, "DELETE_SECONDS", 1.0)
    there(api, pod("Failed"))
    path, gone = "/apis/batch/v1/namespaces/fruit/jobs", []

    def of_another(handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"] or 0))
        wanted = json.loads(body or "{}").get("preconditions", {}).get("uid", "new")
        if handler.command == "DELETE" and wanted != "new":
            return answer(handler, {"kind": "Status", "message": "the UID in the precondition: old"}, 409)
        if handler.command == "DELETE":
            gone.append(path)
        return answer(handler, {"kind": "Status", "details": {"kind": "jobs"}}, 404)

    api.objects[path] = {"kind": "JobList", "items": [ended()]}
    api.objects[f"{path}/peach-1"] = of_another
    for end in (jobs.retry, jobs.cancel):
        with pytest.raises(ClusterError, match="peach was started again by somebody else just now: `orchard status"):
            end(Cluster(), "peach")
    assert not gone


def of_schedule(api: Api, state: str, *beside: dict[str, Any], older: str = "Succeeded") -> list[Any]:
    """Let there be a schedule with a run of yesterday, which is kept, and one of today; return what is posted.

    `beside` are further pods, which stay; `older` is the phase of yesterday's.
    """
    yesterday, today = "peach-1", "peach-2"
    owner = {"kind": "CronJob", "name": "peach", "uid": "schedule", "apiVersion": "batch/v1", "controller": True}
    first, second = ended(yesterday), ended(today)
    first["metadata"]["creationTimestamp"] = "2026-01-01T03:00:00Z"
    first["metadata"]["uid"] = "older"
    pods = []
    for run, phase in ((first, older), (second, state)):
        run["metadata"] |= {"ownerReferences": [owner], "labels": DRIVER | {"app.kubernetes.io/managed-by": "Helm"}}
        name = run["metadata"]["name"]
        made = pod(phase)
        labels = run["metadata"]["labels"] | {"batch.kubernetes.io/job-name": name}
        made["metadata"] = run["metadata"] | {"name": f"{name}-a", "labels": labels}
        pods.append(made)
        if phase == "Running":
            run["status"].pop("conditions")
    path, posted = "/apis/batch/v1/namespaces/fruit/jobs", []

    def gone() -> bool:
        return f"{path}/{today}" in api.deleted

    def runs(handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "POST":
            posted.append(json.loads(handler.rfile.read(int(handler.headers["Content-Length"]))))
            return answer(handler, posted[-1])
        return answer(handler, {"kind": "JobList", "items": [first] if gone() else [first, second]})

    api.objects[path] = runs
    api.objects[f"{path}/{today}"] = second
    api.objects["/api/v1/namespaces/fruit/pods"] = lambda handler: answer(
        handler, {"kind": "PodList", "items": [*(pods[:1] if gone() else pods), *beside]}
    )
    api.kept = {path, "/api/v1/namespaces/fruit/pods"}
    return posted


def test_a_schedules_failed_run_is_made_again_beside_those_that_are_kept(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "DELETE_SECONDS", 1.0)
    posted = of_schedule(api, "Failed")
    found = jobs.report(Cluster(), "peach")
    assert (found.state, found.restarts) == ("failed", 0), "an earlier run is no restart"
    assert "runs again" in jobs.retry(Cluster(), "peach")
    (made,) = posted
    assert made["metadata"]["name"] == "peach-2"
    assert made["metadata"]["ownerReferences"][0]["uid"] == "schedule", "it would stay when the schedule goes"


def test_a_schedules_run_is_cancelled_beside_those_that_are_kept(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "DELETE_SECONDS", 1.0)
    of_schedule(api, "Running")
    assert "its schedule starts the next one" in jobs.cancel(Cluster(), "peach")
    assert api.deleted == ["/apis/batch/v1/namespaces/fruit/jobs/peach-2"]


def test_who_cancels_a_run_is_told_of_one_that_works_beside_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where somebody has started one by hand."""
    monkeypatch.setattr(jobs, "DELETE_SECONDS", 1.0)
    of_schedule(api, "Running", older="Running")
    assert "another run of it still works, which the same command cancels; its" in jobs.cancel(Cluster(), "peach")
    api.deleted.clear()
    of_schedule(api, "Running")
    assert "another run" not in jobs.cancel(Cluster(), "peach")


def test_executors_of_a_run_beside_it_do_not_keep_a_cancelled_run(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who starts a run by hand while another one works, and cancels it, waited for the executors of the other."""
    monkeypatch.setattr(jobs, "DELETE_SECONDS", 1.0)

    def owned(name: str, uid: str, owner: str) -> dict[str, Any]:
        owners = [{"kind": "any", "name": "any", "apiVersion": "v1", "uid": owner}]
        return {"name": name, "uid": uid, "creationTimestamp": NOW, "ownerReferences": owners}

    executor = pod("Running")
    executor["metadata"] = owned("spark-s-peach-0-0", "executor", "set")
    executor["metadata"]["labels"] = LABELS | {"app.kubernetes.io/component": "executor"}
    of_schedule(api, "Failed", executor)
    path = "/apis/apps/v1/namespaces/fruit/statefulsets/spark-s-peach-0"
    spec = {"replicas": 1, "serviceName": "none", "selector": {}, "template": {}}
    metadata = owned("spark-s-peach-0", "set", "older")
    api.objects[path] = {"kind": "StatefulSet", "metadata": metadata, "spec": spec, "status": {"replicas": 1}}
    api.kept.add(path)
    assert "executors" not in str(jobs.report(Cluster(), "peach").reason), "they are not this run's"
    assert "its driver and executors are gone" in jobs.cancel(Cluster(), "peach")
    api.deleted.clear()
    api.objects["/apis/batch/v1/namespaces/fruit/jobs/peach-2"] = ended("peach-2")
    metadata["ownerReferences"][0]["uid"] = "old"  # its own
    with pytest.raises(ClusterError, match=r"spark-s-peach-0, spark-s-peach-0-0 is still there after"):
        jobs.cancel(Cluster(), "peach")


def test_of_the_operators_schedule_the_newest_application_is_meant(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "DELETE_SECONDS", 1.0)
    path = "/apis/sparkoperator.k8s.io/v1beta2/namespaces/fruit/sparkapplications"
    first, second = (
        {
            "metadata": {"name": f"peach-{n}", "uid": str(n), "creationTimestamp": f"2026-01-0{n}T03:00:00Z"},
            "status": {"applicationState": {"state": state}},
        }
        for n, state in ((1, "COMPLETED"), (2, "FAILED"))
    )
    pods = []
    for n, phase in ((1, "Succeeded"), (2, "Failed")):
        made = pod(phase)
        name, labels = f"peach-{n}-driver", LABELS | {"app.kubernetes.io/component": "driver"}
        made["metadata"] |= {"name": name, "labels": labels | {"sparkoperator.k8s.io/app-name": f"peach-{n}"}}
        pods.append(made)
    patched: list[Any] = []

    def gone() -> bool:
        return f"{path}/peach-2" in api.deleted

    def change(handler: BaseHTTPRequestHandler) -> None:
        if handler.command == "DELETE":
            api.deleted.append(handler.path.partition("?")[0])
        else:
            patched.append(json.loads(handler.rfile.read(int(handler.headers["Content-Length"]))))
        answer(handler, second)

    api.objects[path] = lambda handler: answer(handler, {"items": [first] if gone() else [first, second]})
    api.objects[f"{path}/peach-2"] = change
    api.objects["/api/v1/namespaces/fruit/pods"] = lambda handler: answer(
        handler, {"kind": "PodList", "items": pods[:1] if gone() else pods}
    )
    found = jobs.report(Cluster(), "peach")
    assert (found.state, found.restarts) == ("failed", 0), "an earlier run is no restart"
    jobs.retry(Cluster(), "peach")
    assert patched[0]["spec"]["driver"]["template"]["metadata"]["annotations"]["orchard/rerun"]
    assert "its schedule starts the next one" in jobs.cancel(Cluster(), "peach")


@pytest.mark.parametrize(
    ("spec", "past", "state", "told"),
    [
        ({}, {}, "scheduled", r"no run of it has begun yet: the next begins at \d{4}-\d\d-\d\d 03:00 UTC\.$"),
        ({"timeZone": "No/Where"}, {}, "scheduled", "yet: wait for its time"),
        ({"suspend": True}, {}, "suspended", "yet: it is suspended, schedule.suspend=false .* resumes it"),
        (
            {},
            {"lastScheduleTime": "2026-01-01T03:00:00Z", "lastSuccessfulTime": "2026-01-01T03:09:00Z"},
            "scheduled",
            "its last run, of 2026-01-01 03:00 UTC, is not kept: the next begins at",
        ),
        (
            {},
            {"lastScheduleTime": "2026-01-02T03:00:00Z", "lastSuccessfulTime": "2026-01-01T03:09:00Z"},
            None,
            "its last run, of 2026-01-02 03:00 UTC, failed or was cancelled.*orchard logs .*: the next begins at",
        ),
        (
            {"suspend": True},
            {"lastScheduleTime": "2026-01-02T03:00:00Z"},
            None,
            "its last run, of 2026-01-02 03:00 UTC, failed .*: it is suspended",
        ),
    ],
)
def test_a_schedule_that_waits_is_well_unless_its_last_run_failed(
    api: Api, spec: dict[str, Any], past: dict[str, str], state: str | None, told: str
) -> None:
    schedule = {"metadata": {"name": "peach"}, "spec": {"schedule": "0 3 * * *", "jobTemplate": {}} | spec}
    api.objects["/apis/batch/v1/namespaces/fruit/cronjobs/peach"] = schedule | {"status": past}
    for flags in ([], ["--watch"]):
        done = CliRunner().invoke(cli, ["status", "peach", *flags])
        if state is None:
            assert isinstance(done.exception, ClusterError)
            assert re.search(told, str(done.exception))
        else:
            assert done.exit_code == 0
            assert f"state      {state}\n" in done.output
            assert re.search(told, done.output.strip()), done.output
    with pytest.raises(
        ClusterError, match=r"peach is a schedule \(0 3 .*; `kubectl .* create job --from=cronjob/peach"
    ):
        jobs.retry(Cluster(), "peach")


@pytest.mark.parametrize(("state", "code"), [("Succeeded", 0), ("Failed", 4)])
def test_of_a_schedules_ended_run_the_next_one_is_told(api: Api, state: str, code: int) -> None:
    of_schedule(api, state)
    spec: dict[str, Any] = {"schedule": "0 3 * * *", "jobTemplate": {}}
    api.objects["/apis/batch/v1/namespaces/fruit/cronjobs/peach"] = {"metadata": {"name": "peach"}, "spec": spec}
    if state == "Succeeded":
        complete(api)
    found = jobs.report(Cluster(), "peach")
    assert found.exit_code == code
    assert re.search(r"Its schedule starts the next run at \d{4}-\d\d-\d\d 03:00 UTC\.$", found.reason or "")
    spec["suspend"] = True
    assert "Its schedule is suspended: schedule.suspend=false" in (jobs.report(Cluster(), "peach").reason or "")


def complete(api: Api) -> None:
    """Let the newest run be one that has succeeded."""
    found = api.objects["/apis/batch/v1/namespaces/fruit/jobs/peach-2"]
    found["status"]["conditions"] = [{"type": "Complete", "status": "True", "lastTransitionTime": NOW}]


SERVERS = "/apis/apps/v1/namespaces/fruit/deployments/peach-serve"


def serve(api: Api) -> dict[str, Any]:
    """Let a release have two servers and no job, and return their Deployment."""
    spec = {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "peach"}},
        "template": {"metadata": {}, "spec": {"containers": [{"name": "serve"}]}},
    }
    found: dict[str, Any] = {"kind": "Deployment", "metadata": {"name": "peach-serve"}, "spec": spec, "status": {}}
    api.objects[SERVERS] = found
    return found


def test_so_is_a_release_that_only_serves_a_model(api: Api) -> None:
    servers = serve(api)
    with pytest.raises(ClusterError, match=r"serves a model, and has no job now: 0 of 2 servers are ready\.$"):
        jobs.report(Cluster(), "peach")
    unplaced = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available: 1 Insufficient cpu."}
    pod: dict[str, Any] = {
        "metadata": {"name": "peach-serve-x", "labels": {"app": "peach"}},
        "spec": {"containers": [{"name": "serve"}]},
        "status": {"phase": "Pending", "conditions": [unplaced]},
    }
    api.objects["/api/v1/namespaces/fruit/pods"] = {"kind": "PodList", "apiVersion": "v1", "items": [pod]}
    with pytest.raises(ClusterError, match=r"0 of 2 servers are ready, as pod peach-serve-x fits on no node: 0/1"):
        jobs.report(Cluster(), "peach")
    killed = {"name": "serve", "image": "o", "imageID": "", "ready": False, "restartCount": 1, "state": {}}
    killed["lastState"] = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    pod["metadata"] |= {"labels": {"app": "peach", "app.kubernetes.io/component": "serve"}}
    pod["status"] = {"phase": "Running", "containerStatuses": [killed]}
    with pytest.raises(ClusterError, match=r"as pod peach-serve-x ran out of memory.*: give it more \(serve\.res"):
        jobs.report(Cluster(), "peach")
    pod["status"] = {"phase": "Pending", "conditions": [unplaced]}
    refusal = 'Pod "x" is invalid: requests: Invalid value: "2": must be less than or equal to cpu limit of 100m'
    failure = {"type": "ReplicaFailure", "status": "True", "message": refusal}
    servers["status"] = {"readyReplicas": 1, "conditions": [failure]}
    with pytest.raises(ClusterError, match=r"1 of 2 .*, as the namespace's limits do not allow .*: set .*serve\.res"):
        jobs.report(Cluster(), "peach")
    # Another model that is missing, or a quota without room for one server more: the old ones stay, and are ready.
    servers["status"] = {"readyReplicas": 2, "replicas": 2, "conditions": [failure]}
    with pytest.raises(ClusterError, match=r"2 of 2 .*, but 2 still serve what was set before.*, as the namespace's"):
        jobs.report(Cluster(), "peach")
    servers["status"] = {"readyReplicas": 2, "replicas": 3, "updatedReplicas": 2}
    with pytest.raises(ClusterError, match=r"2 of 2 .*, but 1 still serve what .*, as pod peach-serve-x fits on no"):
        jobs.report(Cluster(), "peach")
    servers["spec"]["replicas"], servers["status"] = 0, {}
    with pytest.raises(ClusterError, match=r"0 of 0 servers are ready, as they were scaled to none: .*serve\.replicas"):
        jobs.report(Cluster(), "peach")

    def refuse(handler: BaseHTTPRequestHandler) -> None:
        answer(handler, {"kind": "Status", "message": 'User "me" cannot get resource "deployments"'}, 403)

    api.objects[SERVERS] = refuse
    with pytest.raises(ClusterError, match="There is no job peach"):
        jobs.report(Cluster(), "peach")


def test_a_server_that_waits_for_its_store_says_so_in_its_log_alone(api: Api) -> None:
    serve(api)
    metadata = {"name": "peach-serve-x", "labels": {"app": "peach"}}
    pod: dict[str, Any] = {"metadata": metadata, "spec": {"containers": [{"name": "serve"}]}}
    api.objects["/api/v1/namespaces/fruit/pods"] = {"kind": "PodList", "apiVersion": "v1", "items": [pod]}
    waits = {"image": "o", "imageID": "", "ready": False, "restartCount": 0, "state": {"running": {"startedAt": NOW}}}
    log, why = "/api/v1/namespaces/fruit/pods/peach-serve-x/log", "http://s3 does not answer: trying for 9 s more"
    asked = []

    def says(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        line = f"{NOW} {json.dumps({'event': why, 'reason': why})}\n".encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(line)))
        handler.end_headers()
        handler.wfile.write(line)

    api.objects[log] = says
    for kind, name in (("containerStatuses", "serve"), ("initContainerStatuses", "model")):
        pod["status"] = {"phase": "Running", kind: [waits | {"name": name}]}
        with pytest.raises(ClusterError, match=rf"as pod peach-serve-x is not ready: {why}\.$"):
            jobs.report(Cluster(), "peach")
        assert f"container={name}&" in f"{asked[-1]}&"
    api.objects[log] = lambda handler: answer(handler, {"message": "you cannot get pods/log"}, 403)
    with pytest.raises(ClusterError, match=r"0 of 2 servers are ready\.$"):
        jobs.report(Cluster(), "peach")


@pytest.mark.parametrize("flags", [[], ["--watch"], ["--json"]])
def test_a_release_all_of_whose_servers_are_ready_is_well(api: Api, flags: list[str]) -> None:
    spec = {"replicas": 2, "selector": {}, "template": {"metadata": {}, "spec": {"containers": [{"name": "serve"}]}}}
    metadata: dict[str, Any] = {"name": "peach-serve"}
    metadata["annotations"] = {"meta.helm.sh/release-name": "peach"}
    status = {"readyReplicas": 2, "replicas": 2, "updatedReplicas": 2}
    servers = {"metadata": metadata, "spec": spec, "status": status}
    api.objects["/apis/apps/v1/namespaces/fruit/deployments/peach-serve"] = servers
    told = CliRunner().invoke(cli, ["status", "peach", *flags])
    assert told.exit_code == 0, told.output
    assert "serving" in told.output
    assert "peach serves a model, and has no job now: 2 of 2 servers are ready." in told.output
    with pytest.raises(
        ClusterError, match="2 of 2 servers are ready; `helm uninstall peach` ends them, `kubectl -n fr"
    ):
        jobs.cancel(Cluster(), "peach")
    with pytest.raises(
        ClusterError, match=r"no job of it runs\. To have more or fewer servers: helm upgrade with serve\."
    ):
        jobs.scale(Cluster(), "peach", 3)
    metadata["annotations"] = {}
    with pytest.raises(
        ClusterError, match=r"ready; whoever applied them \(GitOps, kubectl\) ends them, `kubectl -n fr"
    ):
        jobs.cancel(Cluster(), "peach")


def test_the_servers_beside_a_job_are_told_too(api: Api) -> None:
    """A job that has succeeded said nothing of its servers, which could not start."""
    there(api, pod("Running"))
    spec = {"replicas": 2, "selector": {}, "template": {"metadata": {}, "spec": {"containers": [{"name": "serve"}]}}}
    failure = {"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: exceeded quota: q'}
    status = {"readyReplicas": 1, "replicas": 1, "updatedReplicas": 1, "conditions": [failure]}
    servers = {"metadata": {"name": "peach-serve"}, "spec": spec, "status": status}
    api.objects["/apis/apps/v1/namespaces/fruit/deployments/peach-serve"] = servers
    for path in ("/apis/batch/v1/namespaces/fruit/jobs", "/api/v1/namespaces/fruit/pods"):
        for thing in api.objects[path]["items"]:
            thing["metadata"] = thing["metadata"] | {"labels": LABELS | {"app.kubernetes.io/component": "driver"}}
    done = CliRunner().invoke(cli, ["status", "peach"])
    assert done.exit_code == 0 and "state      running" in done.output
    assert "servers    1 of 2 servers are ready, as the namespace's quota does not allow the pod" in done.output
    del api.objects["/apis/batch/v1/namespaces/fruit/jobs"], api.objects["/api/v1/namespaces/fruit/pods"]
    schedule = {"metadata": {"name": "peach"}, "spec": {"schedule": "0 3 * * *", "jobTemplate": {}}}
    api.objects["/apis/batch/v1/namespaces/fruit/cronjobs/peach"] = schedule
    assert "1 of 2 servers are ready, as" in (jobs.report(Cluster(), "peach").servers or "")


@pytest.mark.parametrize("by_helm", [True, False])
@pytest.mark.parametrize("scheduled", [True, False])
def test_who_cancels_what_was_not_installed_by_helm_is_not_sent_to_helm(
    api: Api, monkeypatch: pytest.MonkeyPatch, *, by_helm: bool, scheduled: bool
) -> None:
    there(api)
    for each in api.objects["/apis/batch/v1/namespaces/fruit/jobs"]["items"]:
        each["metadata"]["labels"] = LABELS | {"app.kubernetes.io/component": "driver"}
        owner = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "peach", "uid": "7"}
        each["metadata"]["ownerReferences"] = [owner] if scheduled else []
    metadata: dict[str, Any] = {"name": "peach-settings", "labels": {"app.kubernetes.io/managed-by": "Helm"}}
    metadata["annotations"] = {"meta.helm.sh/release-name": "grove"} if by_helm else {}
    api.objects["/api/v1/namespaces/fruit/configmaps/peach-settings"] = {"metadata": metadata}
    monkeypatch.setattr(jobs, "_delete", lambda *_: None)
    told = jobs.cancel(Cluster(), "peach")
    assert ("`helm uninstall grove`" in told) == by_helm
    assert ("(GitOps, kubectl)" in told) != by_helm
    del api.objects["/apis/batch/v1/namespaces/fruit/jobs"]
    with pytest.raises(
        ClusterError, match="`helm upgrade` runs it" if by_helm else r"it again \(GitOps, kubectl\) runs"
    ) as gone:
        jobs.cancel(Cluster(), "peach")
    assert ("or Helm failed before it was made (`helm status grove`)" in str(gone.value)) == by_helm


def test_so_is_a_release_whose_job_has_ended_and_was_removed(api: Api) -> None:
    path = "/api/v1/namespaces/fruit/configmaps/peach-settings"
    api.objects[path] = {"metadata": {"name": "peach-settings", "labels": {"app.kubernetes.io/managed-by": "Helm"}}}
    with pytest.raises(ClusterError, match=r"peach is installed, and has no job now: .*ttlSecondsAfterFinished"):
        jobs.report(Cluster(), "peach")

    def refuse(handler: BaseHTTPRequestHandler) -> None:
        answer(handler, {"kind": "Status", "message": 'User "me" cannot get resource "configmaps"'}, 403)

    api.objects[path] = refuse
    with pytest.raises(ClusterError, match="There is no job peach"):
        jobs.report(Cluster(), "peach")


def test_so_is_a_schedule_of_the_operator(api: Api) -> None:
    template = {"arguments": ["run", "s3a://fruit/photos", "--output", "s3a://fruit/out"]}
    path = "/apis/sparkoperator.k8s.io/v1beta2/namespaces/fruit/scheduledsparkapplications/peach"
    spec = {"schedule": "0 3 * * *", "template": template}
    schedule: dict[str, Any] = {"metadata": {"name": "peach"}, "spec": spec}
    taken_up = {"scheduleState": "Scheduled", "nextRun": "2026-01-02T03:00:00Z"}
    for changes, state, why in (
        ({}, None, "the Spark operator has not taken it up"),
        ({"status": {"scheduleState": "Scheduled"}}, "scheduled", "wait for its time"),
        ({"status": taken_up}, "scheduled", "the next begins at 2026-01-02 03:00 UTC"),
        (
            {"status": {"scheduleState": "FailedValidation", "reason": "Invalid timezone: x"}},
            None,
            ".* refuses it .Invalid timezone",
        ),
        ({"spec": spec | {"suspend": True}}, "suspended", "it is suspended"),
    ):
        api.objects[path] = schedule | changes
        told = rf"peach is a schedule \(0 3 \* \* \*\), and no run .*: {why}"
        if state is None:
            with pytest.raises(ClusterError, match=told):
                jobs.report(Cluster(), "peach")
        else:
            found = jobs.report(Cluster(), "peach")
            assert found.state == state and re.match(told, found.reason or "")
    assert jobs.output_of(Cluster(), "peach") == "s3a://fruit/out"


def test_an_output_with_a_dollar_is_read_as_it_was_meant(api: Api) -> None:
    job = ended()
    job["spec"]["template"]["spec"]["containers"] = [{"name": "driver", "args": ["run", "a", "--output", "/$$(X)"]}]
    api.objects["/apis/batch/v1/namespaces/fruit/jobs"] = {"kind": "JobList", "items": [job]}
    assert jobs.output_of(Cluster(), "peach") == "/$(X)"


def test_who_may_not_see_schedules_is_told_that_there_is_no_such_job(api: Api) -> None:
    said = 'cronjobs.batch "peach" is forbidden: User "me" cannot get resource "cronjobs"'
    refusal = {"kind": "Status", "reason": "Forbidden", "message": said}
    api.objects["/apis/batch/v1/namespaces/fruit/cronjobs/peach"] = lambda handler: answer(handler, refusal, 403)
    with pytest.raises(ClusterError, match="There is no job peach"):
        jobs.report(Cluster(), "peach")
    assert jobs.output_of(Cluster(), "peach") is None


@pytest.mark.parametrize(
    ("suspended", "told"), [(True, "its schedule is suspended"), (False, "its schedule starts the next one")]
)
def test_who_cancels_a_run_of_a_schedule_is_told_whether_there_will_be_another(
    api: Api, monkeypatch: pytest.MonkeyPatch, suspended: bool, told: str
) -> None:
    there(api)
    owner = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "peach", "uid": "7"}
    for path in ("jobs", "jobs/peach-1"):
        found = api.objects[f"/apis/batch/v1/namespaces/fruit/{path}"]
        for each in found.get("items", [found]):
            each["metadata"]["ownerReferences"] = [owner]
    spec = {"schedule": "0 3 * * *", "suspend": suspended, "jobTemplate": {"spec": {"template": {}}}}
    api.objects["/apis/batch/v1/namespaces/fruit/cronjobs/peach"] = {"metadata": {"name": "peach"}, "spec": spec}
    monkeypatch.setattr(jobs, "_delete", lambda *_: None)
    assert told in jobs.cancel(Cluster(), "peach")


def test_a_release_whose_job_is_gone_is_not_taken_over(api: Api) -> None:
    metadata = {"name": "peach-settings", "labels": {"app.kubernetes.io/managed-by": "Helm"}}
    api.objects["/api/v1/namespaces/fruit/configmaps/peach-settings"] = {"metadata": metadata}
    with pytest.raises(UsageError, match="peach in the namespace fruit belongs to a Helm release"):
        jobs.submit(Cluster(), "peach", [{"kind": "Job", "metadata": {"name": "peach-1"}}])


@pytest.mark.usefixtures("api")
def test_objects_of_others_are_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were changed, and deleted with the job."""
    theirs: dict[str, dict[str, str] | None] = {"peach-driver": {}, "peach-pods": {"app.kubernetes.io/managed-by": "x"}}
    monkeypatch.setattr(Cluster, "labels", lambda _, manifest: theirs.get(manifest["metadata"]["name"]))
    monkeypatch.setattr(Cluster, "apply", lambda *_: pytest.fail("it has changed something"))
    job = {"kind": "Job", "metadata": {"name": "peach-1"}}
    for kind, name in (("ServiceAccount", "peach-driver"), ("ConfigMap", "peach-pods")):
        needed = {"kind": kind, "metadata": {"name": name}}
        with pytest.raises(UsageError, match=f"namespace fruit has a {kind} {name} already.* another --name"):
            jobs.submit(Cluster(), "peach", [job, needed])


def test_a_job_that_was_deleted_by_other_means_is_submitted_again_when_its_driver_has_ended(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    there(api, pod("Running"))
    for path in ("jobs", "jobs/peach-1"):
        del api.objects[f"/apis/batch/v1/namespaces/fruit/{path}"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "peach-1", "uid": "1"}
    metadata = {"name": "peach-settings", "labels": DRIVER, "ownerReferences": [owner]}
    there_still = iter(range(3))
    pods, settings = "/api/v1/namespaces/fruit/pods", "/api/v1/namespaces/fruit/configmaps/peach-settings"

    def goes(handler: BaseHTTPRequestHandler) -> None:
        items = [pod("Running")] if next(there_still, None) is not None else []
        if not items:
            api.objects.pop(settings, None)
        answer(handler, {"kind": "PodList", "items": items})

    api.objects[pods], api.objects[settings] = goes, {"kind": "ConfigMap", "metadata": metadata}
    applied: list[Any] = []

    def apply(_: Cluster, manifest: Any) -> Any:
        applied.append(manifest)
        return the_job("peach-2")

    monkeypatch.setattr(Cluster, "apply", apply)
    jobs.submit(Cluster(), "peach", [{"kind": "Job", "metadata": {"name": "peach-2"}, "spec": {}}])
    assert next(there_still, None) is None
    assert [manifest["spec"]["suspend"] for manifest in applied] == [True, False]


def test_a_submit_that_was_cut_off_is_completed_by_the_next(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Job waits suspended; it was taken for one that runs."""
    applied: list[Any] = []

    def apply(_: Cluster, manifest: Any) -> Any:
        applied.append(manifest)
        if len(applied) == 2:
            raise SystemExit  # as if it was killed
        return the_job(manifest["metadata"]["name"])

    monkeypatch.setattr(Cluster, "apply", apply)
    monkeypatch.setattr(jobs, "_delete", lambda *_: None)
    new = {"kind": "Job", "metadata": {"name": "peach-1", "annotations": {"mine": "1"}}, "spec": {}}
    settings = {"kind": "ConfigMap", "metadata": {"name": "peach-settings"}}
    with pytest.raises(SystemExit):
        jobs.submit(Cluster(), "peach", [new, settings])
    there(api)
    first = applied[0]
    for path in ("jobs", "jobs/peach-1"):
        found = api.objects[f"/apis/batch/v1/namespaces/fruit/{path}"]
        for each in found.get("items", [found]):
            each["metadata"]["annotations"] = first["metadata"]["annotations"]
            each["spec"] = {"suspend": True, "template": {"spec": {"containers": []}}}
    reason = str(jobs.report(Cluster(), "peach").reason)
    assert reason.endswith("give the same command again, or `orchard cancel peach`."), reason
    jobs.submit(Cluster(), "peach", [new, settings])
    assert [(each["kind"], each.get("spec", {}).get("suspend")) for each in applied[2:]] == [
        ("Job", True),
        ("ConfigMap", None),
        ("Job", False),
    ]
    assert applied[-1]["metadata"]["annotations"] == {"mine": "1"}


def the_job(name: str) -> Any:
    return SimpleNamespace(metadata=SimpleNamespace(name=name, uid="9"))


def test_a_job_that_somebody_else_submits_at_the_same_moment_is_not_run_beside(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both had one output and one set of executors, and the settings of the later one."""
    applied: list[Any] = []

    def apply(_: Cluster, manifest: Any) -> Any:
        there(api)  # the other's, which was not there before
        applied.append(manifest)
        return the_job(manifest["metadata"]["name"])

    monkeypatch.setattr(Cluster, "apply", apply)
    deleted: list[str] = []
    monkeypatch.setattr(Cluster, "call", _noting(Cluster.call, deleted))
    with pytest.raises(UsageError, match="peach in the namespace fruit was submitted with other settings"):
        job = {"kind": "Job", "metadata": {"name": "peach-2"}, "spec": {}}
        jobs.submit(Cluster(), "peach", [job, {"kind": "ConfigMap", "metadata": {"name": "peach-settings"}}])
    assert [manifest["kind"] for manifest in applied] == ["Job"]
    assert deleted == ["peach-2"]


def _noting(call: Any, deleted: list[str]) -> Any:
    def noting(cluster: Cluster, function: Any, *words: Any, **more: Any) -> Any:
        if function.__name__ == "delete_namespaced_job":
            deleted.append(words[0])
            return None
        return call(cluster, function, *words, **more)

    return noting


def test_the_log_of_a_pod_whose_image_cannot_be_pulled_says_so(api: Api) -> None:
    waits = pod()
    waiting = {"waiting": {"reason": "ImagePullBackOff"}}
    status = {"name": "driver", "image": "orchard:9", "imageID": "", "ready": False, "restartCount": 0}
    waits["status"]["containerStatuses"] = [status | {"state": waiting}]
    there(api, waits)
    with pytest.raises(ClusterError, match=r"There is no log yet: .* its image orchard:9 cannot be pulled"):
        list(jobs.logs(Cluster(), "peach"))


def test_a_job_that_runs_needs_no_other_start(api: Api) -> None:
    there(api, pod("Running"))
    with pytest.raises(UsageError, match="peach is running and needs no other start"):
        jobs.retry(Cluster(), "peach")


def test_who_may_not_see_the_executors_is_not_told_that_there_are_none(api: Api) -> None:
    there(api, pod("Running"))

    def refuse(handler: BaseHTTPRequestHandler) -> None:
        said = 'sets.apps "x" is forbidden: User "me" cannot get resource "sets"'
        answer(handler, {"kind": "Status", "message": said}, 403)

    sets = "/apis/apps/v1/namespaces/fruit"
    api.objects[f"{sets}/statefulsets/spark-s-peach-0"] = api.objects[f"{sets}/deployments/spark-d-peach-0"] = refuse
    with pytest.raises(ClusterError, match=r'does not allow it \(User "me" cannot get'):
        jobs.scale(Cluster(), "peach", 2)
    assert jobs.report(Cluster(), "peach").state == "running"


def test_a_job_that_runs_without_executors_yet_is_not_said_not_to_run(api: Api) -> None:
    there(api, pod("Running"))
    with pytest.raises(ClusterError, match="no executors to scale in the namespace fruit: it runs and has not made"):
        jobs.scale(Cluster(), "peach", 2)
    there(api, pod("Pending"))
    with pytest.raises(ClusterError, match="it is not running"):
        jobs.scale(Cluster(), "peach", 2)


def test_a_job_is_watched_to_its_end(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "WATCH_SECONDS", 0.01)
    there(api, pod("Running"))
    told = []
    for status in jobs.watch(Cluster(), "peach"):
        told.append(status.state)
        api.objects["/apis/batch/v1/namespaces/fruit/jobs"] = {"kind": "JobList", "items": [ended()]}
    assert told == ["running", "failed"]


def test_a_pod_that_is_gone_leaves_its_log_in_the_output(api: Api, tmp_path: Path) -> None:
    with RunLog(open_storage(str(tmp_path)), new_run_id()):
        logging.getLogger("orchard").error("what it said last")
    job = ended()
    for arguments in (["run", "a", "--output", str(tmp_path)], ["tune", str(tmp_path)]):
        job["spec"]["template"]["spec"]["containers"] = [{"name": "driver", "args": arguments}]
        api.objects["/apis/batch/v1/namespaces/fruit/jobs"] = {"kind": "JobList", "items": [job]}
        done = CliRunner().invoke(cli, ["logs", "peach"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["event"] == "what it said last"
        assert f"peach is gone: reading the log that it left in {tmp_path}" in done.stderr


@pytest.mark.parametrize(
    ("names", "has"), [(["peach-1f-exec-2", "peach-1f-exec-1"], "1, 2"), (["spark-d-peach-0-x7"], "0"), ([], "none")]
)
def test_an_executor_that_is_not_there_is_told_with_the_numbers_of_those_that_are(
    api: Api, names: list[str], has: str
) -> None:
    executors = [pod("Running") for _ in names]
    for name, each in zip(names, executors, strict=True):
        each["metadata"] |= {"name": name, "labels": {**LABELS, "app.kubernetes.io/component": "executor"}}
    there(api, pod("Running"), *executors)
    with pytest.raises(ClusterError, match=f"peach has no executor 7 now: it has {has}[.]"):
        next(jobs.logs(Cluster(), "peach", executor=7))


def test_with_json_every_line_of_a_log_is_json(api: Api) -> None:
    there(api, pod("Running"))
    lines = ["Picked up JAVA_TOOL_OPTIONS", json.dumps({"event": "executors", "executors": 2})]

    def log(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write("".join(f"2026-11-28T03:00:0{n}Z {line}\n" for n, line in enumerate(lines)).encode())

    api.objects["/api/v1/namespaces/fruit/pods/peach-1-a/log"] = log
    assert CliRunner().invoke(cli, ["logs", "peach"]).stdout.splitlines() == lines
    told = CliRunner().invoke(cli, ["logs", "peach", "--json"]).stdout.splitlines()
    assert [json.loads(line) for line in told] == [{"event": lines[0]}, {"event": "executors", "executors": 2}]


def test_another_number_reaches_a_job_that_runs_and_the_same_one_changes_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    there(api, pod("Running"))
    wanted: dict[str, Any] = {
        "kind": "ConfigMap",
        "metadata": {"name": "peach-pods"},
        "data": {"executors": "5", "executor.yaml": ""},
    }
    held = wanted | {"apiVersion": "v1", "data": {"executors": "2"}}
    api.objects["/api/v1/namespaces/fruit/configmaps/peach-pods"] = held
    applied: list[Any] = []
    monkeypatch.setattr(Cluster, "apply", lambda _, manifest: applied.append(manifest))
    manifests: list[dict[str, Any]] = [
        {"metadata": {"name": "peach-1"}},
        {"kind": "Role", "metadata": {"name": "peach-driver"}},
        wanted,
    ]
    jobs.submit(Cluster(), "peach", manifests)
    (pods,) = applied
    assert pods["data"]["executors"] == "5"
    assert pods["metadata"]["ownerReferences"][0]["name"] == "peach-1", "what the Job does not own stays behind it"
    held["data"] = {"executors": "5"}
    jobs.submit(Cluster(), "peach", manifests)
    assert len(applied) == 1


def test_the_driver_scales_when_the_charts_number_changes(
    in_pod: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tried once, and kept the old number if the API was away at that moment."""
    monkeypatch.setattr(executors, "WANTED", tmp_path / "executors")
    monkeypatch.setattr(executors, "REMINDER_SECONDS", 0.1)
    tries: list[str] = []
    (tmp_path / "executors").write_text("2")
    asked = Event()

    def scaled(handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        assert (handler.command, body) == ("PATCH", {"spec": {"replicas": 5}})
        tries.append(handler.path)
        if len(tries) == 1:
            answer(handler, {"kind": "Status", "message": "etcd has no leader"}, 503)
            return
        asked.set()
        answer(handler, {"kind": "Scale", "spec": {"replicas": 5}})

    in_pod.objects[f"{PREDECESSOR}/scale"] = scaled
    conf = SimpleNamespace(get=lambda key, default="": OURS.get(key, default))
    context: Any = SimpleNamespace(applicationId="peach", getConf=lambda: conf, _jsc=object())
    monkeypatch.setattr(executors, "count", lambda _: 2)
    watching = Thread(target=executors._watch, args=(context,), daemon=True)
    watching.start()
    assert not asked.wait(0.3)  # the number that it began with
    (tmp_path / "executors").write_text("5")
    assert asked.wait(5)
    time.sleep(2 * executors.POLL_SECONDS)
    assert len(tries) == 2, "once it is done it is left at that"
    context._jsc = None
    watching.join(5)


def test_a_run_whose_executors_set_somebody_deletes_does_not_wait_for_ever(
    in_pod: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "GONE_SECONDS", 0.0)
    monkeypatch.setattr(executors, "POLL_SECONDS", 0.01)
    ended, tries = Event(), []

    def there(handler: BaseHTTPRequestHandler) -> None:
        tries.append((handler.command, "dryRun=All" in handler.path))
        answer(handler, {"kind": "StatefulSet", "metadata": {"name": "spark-s-peach-0"}})

    in_pod.objects[PREDECESSOR] = there
    conf = SimpleNamespace(get=lambda key, default="": OURS.get(key, default))
    context: Any = SimpleNamespace(applicationId="peach", getConf=lambda: conf, _jsc=object(), cancelAllJobs=ended.set)
    monkeypatch.setattr(executors, "count", lambda _: 0)
    watching = Thread(target=executors._watch, args=(context,), daemon=True)
    watching.start()
    assert not ended.wait(0.3), "scaled to none, it has a set"
    assert set(tries) == {("DELETE", True)}, "to look is not to delete"
    in_pod.objects.pop(PREDECESSOR, None)
    assert ended.wait(5)
    context._jsc = None
    watching.join(5)
    error = tasks.error_of(Exception("[SPARK_JOB_CANCELLED] Job 5 cancelled as part of cancellation of all jobs"))
    assert str(error).startswith(
        "Spark's jobs were cancelled, in a cluster because the executors' set was deleted: see"
    )


def test_an_executor_that_is_lost_is_said_with_its_reason(
    in_pod: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    killed = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    lost = pod("Running") | {"metadata": {"name": "spark-s-peach-0-1", "creationTimestamp": NOW}}
    status = {"name": "executor", "image": "i", "imageID": "", "ready": True, "restartCount": 1, "lastState": killed}
    lost["status"] = {"phase": "Running", "containerStatuses": [status]}
    in_pod.objects["/api/v1/namespaces/fruit/pods"] = {"kind": "PodList", "items": [lost]}
    monkeypatch.setattr(executors, "_trouble", None)
    conf = SimpleNamespace(get=lambda key, default="": OURS.get(key, default))
    context: Any = SimpleNamespace(applicationId="peach", getConf=lambda: conf)
    assert executors._tell_trouble(context)
    assert caplog.records[-1].fields["reason"] == executors.last_trouble()  # type: ignore[attr-defined]
    gave_up = tasks.error_of(Exception("ExecutorLostFailure (executor 1 exited)"))
    assert "its executors were lost, as pod spark-s-peach-0-1 ran out of memory and was killed" in str(gave_up)


def test_an_executor_that_its_node_evicted_is_said_with_the_nodes_reason(
    in_pod: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its set has made another pod of its name at once, of which nothing is wrong.
    now = datetime.now(UTC).isoformat()
    another = pod("Running") | {"metadata": {"name": "spark-s-peach-0-1", "creationTimestamp": now}}
    in_pod.objects["/api/v1/namespaces/fruit/pods"] = {"kind": "PodList", "items": [another]}
    event = {
        "reason": "Evicted",
        "type": "Warning",
        "message": "The node was low on resource: ephemeral-storage. ",
        "lastTimestamp": now,
        "metadata": {"name": "evicted"},
        "involvedObject": {"name": "spark-s-peach-0-1"},
    }
    in_pod.objects["/api/v1/namespaces/fruit/events"] = {"kind": "EventList", "items": [event]}
    monkeypatch.setattr(executors, "_trouble", None)
    conf = SimpleNamespace(get=lambda key, default="": OURS.get(key, default))
    context: Any = SimpleNamespace(applicationId="peach", getConf=lambda: conf)
    assert executors._tell_trouble(context)
    gave_up = str(tasks.error_of(Exception("ExecutorLostFailure (executor 1 exited)")))
    assert "as pod spark-s-peach-0-1 was evicted (The node was low on resource: ephemeral-storage); give" in gave_up
    assert "memory;" not in gave_up


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


LACKS = 'User "me" cannot delete resource "statefulsets" in API group "apps" in the namespace "fruit"'


def test_a_role_that_may_not_delete_the_set_is_told_at_once_and_no_other_driver_tries(in_pod: Api) -> None:
    """It ended with exit code 4, so three other drivers were started, and spoke of a set that was not there."""

    def refuse(handler: BaseHTTPRequestHandler) -> None:
        said = f'statefulsets.apps "spark-s-peach-0" is forbidden: {LACKS}'
        answer(handler, {"kind": "Status", "message": said}, 403)

    in_pod.objects[PREDECESSOR] = refuse
    with pytest.raises(
        ExecutorsRefused, match=rf"role does not allow what its executors need \({LACKS}\): give "
    ) as told:
        executors.clear_predecessor(OURS, 0.2)
    assert told.value.exit_code == 3


def test_what_spark_says_of_a_role_becomes_the_same_sentence() -> None:
    java = (
        "KubernetesClientException: Failure executing: POST at: https://host/apis/apps/v1/namespaces/h3/statefulsets."
    )
    said = f"{java} Message: statefulsets.apps is forbidden: {LACKS}. Received status: Status(apiVersion=v1, code=403)"
    conf: Any = {}
    told = session._why_not_started(RuntimeError(said), "k8s://https://host", conf)
    assert told.exit_code == 3
    assert str(told) == (
        f"The driver's role does not allow what its executors need ({LACKS}): give its service account the role "
        "that the chart makes (rbac.create)."
    )
    other = session._why_not_started(RuntimeError("pods is forbidden: exceeded quota: q"), "k8s://https://host", conf)
    assert "Spark did not start on k8s://https://host: pods is forbidden" in str(other)


def test_a_driver_that_ends_deletes_its_set_though_the_api_is_away_for_a_moment(
    in_pod: Api, caplog: pytest.LogCaptureFixture
) -> None:
    def away(handler: BaseHTTPRequestHandler) -> None:
        in_pod.objects[PREDECESSOR] = {"kind": "StatefulSet", "metadata": {"name": "spark-s-peach-0"}}
        answer(handler, {"kind": "Status", "message": "etcd has no leader"}, 503)

    in_pod.objects[PREDECESSOR] = away
    executors.clear(OURS)
    assert in_pod.deleted == [PREDECESSOR]
    executors.clear(OURS)  # Spark has deleted it
    executors.clear({"spark.master": "k8s://peach"})  # pods that Spark makes one by one end by themselves
    assert not caplog.records


def test_a_driver_that_ends_while_the_api_is_upgraded_waits_for_it(
    in_pod: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After five seconds it left its executors behind, which started again and again for a day."""
    monkeypatch.setattr(executors, "HASTE_SECONDS", 0.5)
    monkeypatch.setattr(executors, "POLL_SECONDS", 0.1)
    back = time.monotonic() + 2

    def away(handler: BaseHTTPRequestHandler) -> None:
        if time.monotonic() > back:
            in_pod.objects[PREDECESSOR] = {"kind": "StatefulSet", "metadata": {"name": "spark-s-peach-0"}}
        answer(handler, {"kind": "Status", "message": "etcd has no leader"}, 503)

    in_pod.objects[PREDECESSOR] = away
    executors.clear(OURS)
    assert in_pod.deleted == [PREDECESSOR]
    (said,) = caplog.messages
    assert re.search("spark-s-peach-0 is still there: trying for (600|599) s more: .*no leader", said)


def test_a_driver_that_is_told_to_end_does_not_wait_for_the_api(
    in_pod: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "HASTE_SECONDS", 0.5)
    monkeypatch.setattr(executors, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(interruption, "asked", lambda: True)
    in_pod.objects[PREDECESSOR] = lambda handler: answer(handler, {"kind": "Status"}, 503)
    started = time.monotonic()
    executors.clear(OURS)
    assert time.monotonic() - started < 5
    assert "spark-s-peach-0 may still be there" in caplog.messages[-1]


def test_a_driver_that_cannot_delete_its_set_ends_all_the_same(
    in_pod: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "CLEAR_SECONDS", 0.1)
    for status in (403, 503):
        in_pod.objects[PREDECESSOR] = lambda handler, status=status: answer(handler, {"kind": "Status"}, status)
        executors.clear(OURS)
        assert "spark-s-peach-0 may still be there" in caplog.messages[-1]


@pytest.mark.parametrize("text", ["contexts: [", "[]", "a text"])
def test_a_file_that_is_no_kubeconfig_is_told(api: Api, tmp_path: Path, text: str) -> None:
    assert api.objects == {}
    (tmp_path / "kubeconfig").write_text(text)
    with pytest.raises(ClusterError, match="The kubeconfig cannot be used"):
        Cluster()


def test_whom_the_cluster_does_not_know_is_told_to_log_in(api: Api) -> None:
    """A plugin of the kubeconfig that fails, such as for an expired login, leaves the caller without a name."""
    message = 'jobs.batch is forbidden: User "system:anonymous" cannot list resource "jobs" in API group "batch"'
    api.objects["/apis/batch/v1/namespaces/fruit/jobs"] = lambda handler: answer(
        handler, {"kind": "Status", "message": message}, 403
    )
    with pytest.raises(ClusterError, match="does not know you: log in again"):
        jobs.report(Cluster(), "peach")


def test_a_driver_whose_account_was_deleted_says_so(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no kubeconfig in a pod, and nobody to log in."""
    monkeypatch.setattr(kubernetes.config, "load_incluster_config", kubernetes.config.load_kube_config)
    api.objects[PREDECESSOR] = lambda handler: answer(handler, {"kind": "Status", "message": "Unauthorized"}, 401)
    executors.clear(OURS)
    assert "refuses the pod's token: look whether its service account was deleted" in caplog.messages[-1]


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


def test_a_driver_says_what_its_executors_wait_for_on_their_node(in_pod: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = pod()
    waits["status"]["phase"] = "Pending"
    in_pod.objects["/api/v1/namespaces/fruit/pods"] = {"kind": "PodList", "items": [waits]}
    event: dict[str, Any] = {
        "type": "Warning",
        "reason": "FailedAttachVolume",
        "message": "Multi-Attach error for volume",
    }
    event |= {"metadata": {"name": "event"}, "involvedObject": {"name": "peach-1-a"}}
    in_pod.objects["/api/v1/namespaces/fruit/events"] = {"kind": "EventList", "items": [event]}
    monkeypatch.setattr(executors, "count", lambda _: 0)
    conf = SimpleNamespace(get=lambda key, default="": OURS.get(key, default))
    context: Any = SimpleNamespace(applicationId="peach", getConf=lambda: conf)
    with pytest.raises(
        ClusterError, match=r"No executor has started in 0 s: a volume cannot be attached \(Multi-Attach"
    ):
        executors.attend(context, 0.3, Event())


def test_spark_that_gives_up_its_executors_is_told_with_their_reason(
    in_pod: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = pod()
    status = {"name": "executor", "image": "orchard:9", "imageID": "", "ready": False, "restartCount": 0}
    waits["status"]["containerStatuses"] = [status | {"state": {"waiting": {"reason": "ImagePullBackOff"}}}]
    in_pod.objects["/api/v1/namespaces/fruit/pods"] = {"kind": "PodList", "items": [waits]}
    answers = iter([0])

    def count(_: object) -> int:
        for number in answers:
            return number
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(executors, "count", count)
    conf = SimpleNamespace(get=lambda key, default="": OURS.get(key, default))
    context: Any = SimpleNamespace(applicationId="peach", getConf=lambda: conf)
    with pytest.raises(ExecutorsRefused, match=r"No executor can start: pod peach-1-a .* cannot be pulled"):
        executors.attend(context, 60, Event())
    with pytest.raises(ClusterError, match="Spark ended while it waited for executors"):
        executors.attend(context, 60, Event())


def test_spark_that_ends_while_its_driver_looks_for_the_reason_is_told(
    in_pod: Api,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([0])

    def gone() -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(executors, "count", lambda _: next(answers))
    context: Any = SimpleNamespace(applicationId="peach", getConf=gone)
    with pytest.raises(ClusterError, match="Spark ended while it waited for executors"):
        executors.attend(context, 60, Event())


def test_what_refuses_an_executor_that_spark_makes_itself_is_known_from_its_jvm(
    in_pod: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = 'pods "peach-7c-exec-9" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1'
    monkeypatch.setattr(executors, "_refusal", None)
    executors.note("20:54:02 ERROR ExecutorPodsAllocator: Failed to create executor pod 9. Total failures: 9")
    assert executors._refusal is None
    executors.note(
        "io.fabric8.kubernetes.client.KubernetesClientException: Failure executing: POST at: "
        f"https://kubernetes.default.svc/api/v1/namespaces/fruit/pods. Message: {said}. Received status: S."
    )
    monkeypatch.setattr(executors, "count", lambda _: 0)
    monkeypatch.setattr(executors, "DEFINITE_SECONDS", 0.0)
    in_pod.objects["/api/v1/namespaces/fruit/pods"] = {"kind": "PodList", "items": []}
    conf = SimpleNamespace(get=lambda key, default="": (OURS | {executors.ALLOCATOR: "direct"}).get(key, default))
    context: Any = SimpleNamespace(applicationId="peach", getConf=lambda: conf)
    with pytest.raises(ExecutorsRefused, match=r"No executor can start: the namespace's quota .*exceeded quota: q"):
        executors.attend(context, 60, Event())


def test_a_run_on_emr_that_never_starts_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emr, "POLL_SECONDS", 0.01)
    service = emr.Emr.__new__(emr.Emr)
    service.identity = "abc"
    waiting = {"jobRun": {"id": "1", "virtualClusterId": "abc", "state": "SUBMITTED"}}
    client = SimpleNamespace(describe_job_run=lambda **_: waiting)
    monkeypatch.setattr(service, "_client", client, raising=False)
    with pytest.raises(ClusterError, match=r"has not started in 0 s: .*orchard cancel 1 --virtual-cluster-id abc"):
        service.follow("1", start_timeout=0.2)
