"""One odd key, one object that is denied, a store that is silent for a while: none of them ends a run."""

import logging
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orchard import interruption
from orchard.errors import AccessDenied, BucketMissing, StorageError
from orchard.images.decoding import Limits, Rejection
from orchard.images.reading import contents
from orchard.images.sources import list_images
from orchard.storage import S3Options, open_storage, read_path
from orchard.storage import s3 as s3_module
from orchard.storage.s3_requests import Requests
from orchard.vocabulary import Reason

from .stub import Stub, error, running

ODD = [
    "a//b.jpg",
    "a/./b.jpg",
    "a/../b.jpg",
    "../b.jpg",
    "a/..",
    "line\nbreak.jpg",
    "return\rhere.jpg",
    "tab\there.jpg",
    "delete\x7f.jpg",
    "control\x01.jpg",
    "/leading.jpg",
    "//twice.jpg",
    "trailing.jpg/",
    ".",
]
ORDINARY = ["a/b.jpg", "b.jpg", "leading.jpg", "plus + space.jpg", "100%25.jpg", "é e\u0301.jpg", "trailing.jpg"]


# Keys


def test_keys_of_any_kind_are_listed_and_read_as_they_are(stub: Stub) -> None:
    stub.objects = {key: key.encode() * 3 for key in ODD + ORDINARY} | {"folder/": b"", "empty.jpg": b""}
    stub.page = 4
    storage = open_storage("s3a://b", stub.options)
    keys = [entry.key for entry in storage.list()]
    assert sorted(keys) == sorted([*ODD, *ORDINARY, "empty.jpg"])
    for entry in storage.list():
        data = stub.objects[entry.key]
        assert (entry.size, storage.stat(entry.key)) == (len(data), entry)
        path = f"s3a://b/{entry.key}"
        assert read_path(path, stub.options) == data
        assert read_path(path, stub.options, max_bytes=2) == data[:3]
        assert storage.head(entry.key, 2) == data[:2]
        assert storage.open(entry.key).read() == data
    with pytest.raises(FileNotFoundError):
        storage.read("no//such")
    assert not storage.exists("no//such")


def test_a_prefix_may_be_odd_too(stub: Stub) -> None:
    stub.objects = {"a//photos/1.jpg": b"1", "a/photos/2.jpg": b"2"}
    storage = open_storage("s3a://b/a//photos", stub.options)
    assert [entry.key for entry in storage.list()] == ["1.jpg"]
    assert storage.read("1.jpg") == b"1"


def test_a_store_that_quotes_no_keys_lists_them_all_the_same(stub: Stub) -> None:
    stub.quotes = False
    stub.objects = dict.fromkeys(ODD + ORDINARY, b"1")
    keys = [entry.key for entry in open_storage("s3a://b", stub.options).list()]
    assert len(keys) == len(stub.objects)
    assert set(ORDINARY) <= set(keys)


def test_images_of_odd_keys_are_featurized_like_others(stub: Stub) -> None:
    stub.objects = {f"photos/Apple/{key}": b"1" for key in ("1.jpg", "/2.jpg", "./3.jpg", "new\nline.jpg")}
    table = list_images("s3a://b/photos", stub.options, limit=None, labels=None, seed=1).table
    assert set(table["label"].to_pylist()) == {"Apple"}
    assert list(contents(table, Limits(), stub.options)) == [b"1"] * 4


def test_what_answers_is_no_object_store(stub: Stub) -> None:
    stub.refused[""] = (200, b"<html>the console</html>")
    with pytest.raises(StorageError, match="does not answer as S3 does"):
        list(open_storage("s3a://b", stub.options).list())


# What may not be read or written


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (error(403, "AccessDenied"), "access denied"),
        (error(403, "InvalidObjectState"), "archived"),
        (error(403, "AccessDenied", "not authorized to perform: kms:Decrypt"), "allow its key, kms:Decrypt"),
        (error(400, "KMS.DisabledException"), "KMS.DisabledException"),
        (error(400, "InvalidRequest", "stored using a form of Server Side Encryption"), "Server Side Encryption"),
        (error(404, "NoSuchKey"), "no such object"),
    ],
)
def test_an_object_that_is_refused_is_a_row(stub: Stub, answer: Any, said: str) -> None:
    stub.objects = {f"{n}.jpg": b"%d" % n for n in range(4)}
    stub.refused["2.jpg"] = answer
    images = pa.table({"path": [f"s3a://b/{n}.jpg" for n in range(4)], "size": [1] * 4})
    first, second, refused, last = contents(images, Limits(), stub.options)
    assert (first, second, last) == (b"0", b"1", b"3")
    assert isinstance(refused, Rejection)
    assert refused.reason is Reason.UNREADABLE
    assert said in refused.detail


def test_what_may_not_be_written_is_told_with_the_permission(stub: Stub) -> None:
    stub.objects["there"] = b"1"
    storage = open_storage("s3a://b", stub.options)
    stub.refused = dict.fromkeys(["a", ""], error(403, "AccessDenied", "no kms:GenerateDataKey"))
    for call in (
        lambda: storage.write("a", b""),
        lambda: storage.create("a", b""),
        lambda: storage.copy("there", "a"),
        lambda: storage.move("there", "a"),
        lambda: storage.delete(["a"]),
    ):
        with pytest.raises(AccessDenied, match=r"GenerateDataKey.*: allow s3:PutObject") as told:
            call()
        assert told.value.exit_code == 3
    with pytest.raises(AccessDenied, match="allow s3:ListBucket"):
        list(storage.list())
    stub.refused = {"a": error(403, "AccessDenied")}
    with pytest.raises(AccessDenied, match="s3:DeleteObject"):  # within an answer that is a success
        storage.delete(["there", "a"])


def test_credentials_that_are_refused_are_told_whatever_is_asked(stub: Stub) -> None:
    """An answer to HEAD has no body, and its 400 or 403 may mean anything."""
    stub.check = lambda _: error(400, "ExpiredToken")
    storage = open_storage("s3a://b", stub.options)
    for call in (storage.exists, storage.stat, storage.read, storage.open, lambda key: storage.read(f"/{key}")):
        with pytest.raises(AccessDenied, match="refuses the credentials"):
            call("a")


def test_credentials_that_are_changed_meanwhile_are_left_to_the_next_driver(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the Secret's new ones; with exit code 3, as of wrong ones, a run ended whose keys were rotated."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    stub.objects = {"a": b"1"}
    storage = open_storage("s3a://b", stub.options)
    storage.read("a")
    for answer in (error(403, "InvalidAccessKeyId"), error(400, "ExpiredToken"), error(401, "Unauthorized")):
        stub.check = lambda _, answer=answer: answer  # type: ignore[misc]
        for call in (storage.exists, storage.read, lambda key: list(storage.list(key))):
            with pytest.raises(StorageError, match=r"which it took before: .* as they were when it started") as told:
                call("a")
            assert told.value.exit_code == 4


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "NoSuchBucket", BucketMissing),
        (400, "InvalidBucketName", BucketMissing),
        (403, "InvalidAccessKeyId", AccessDenied),
        (400, "ExpiredToken", AccessDenied),
        (403, "RequestTimeTooSkewed", AccessDenied),
        (301, "PermanentRedirect", StorageError),
        (501, "NotImplemented", StorageError),
    ],
)
def test_what_does_not_pass_is_told_at_once(stub: Stub, status: int, code: str, kind: type[Exception]) -> None:
    storage = open_storage("s3a://b", stub.options)
    stub.refused = dict.fromkeys(["a", ""], error(status, code))
    started = time.monotonic()
    for call in (lambda: list(storage.list()), lambda: storage.read("a"), lambda: storage.write("a", b"")):
        with pytest.raises(kind) as told:
            call()
        assert "\n" not in str(told.value)
    assert time.monotonic() - started < 8


# Silence


def test_a_store_that_comes_back_in_time_is_waited_for(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stub.objects = {"a": b"1"}
    storage = open_storage("s3a://b", S3Options(f"http://127.0.0.1:{port}", "us-east-1", timeout=30))
    later = Stub(objects={"a": b"1"})

    def come() -> None:
        time.sleep(3)
        with running(later, port=port):
            done.wait(30)

    done = threading.Event()
    server = threading.Thread(target=come)
    server.start()
    try:
        with caplog.at_level(logging.WARNING):
            assert [entry.key for entry in storage.list()] == ["a"]
        assert storage.read("a") == b"1"
    finally:
        done.set()
        server.join()
    (told,) = [record.getMessage() for record in caplog.records if "does not answer" in record.getMessage()]
    assert f"http://127.0.0.1:{port} does not answer (connection refused): trying for " in told


@pytest.mark.parametrize(
    "call",
    [
        lambda storage: list(storage.list()),
        lambda storage: storage.read("a"),
        lambda storage: storage.write("a", b"1"),
        lambda storage: storage.create("a", b"1"),
        lambda storage: storage.move("a", "b"),
    ],
)
def test_the_whole_time_is_used_and_no_more(stub: Stub, call: Any) -> None:
    stub.refused = dict.fromkeys(["a", "b", ""], error(503, "SlowDown"))
    storage = open_storage("s3a://b", S3Options(stub.options.endpoint, "us-east-1", timeout=4))
    storage.exists("other")
    started = time.monotonic()
    with pytest.raises(StorageError, match="SlowDown"):
        call(storage)
    assert 3.9 < time.monotonic() - started < 9
    started = time.monotonic()
    with pytest.raises(StorageError, match="SlowDown"):  # the store had its time
        call(storage)
    assert time.monotonic() - started < 4


def test_a_store_that_has_answered_was_not_silent(stub: Stub) -> None:
    """That there is no such object was taken for the begin of a silence, and an outage after it had less time."""
    stub.refused = {"a": error(503, "SlowDown")}
    storage = open_storage("s3a://b", S3Options(stub.options.endpoint, "us-east-1", timeout=2))
    assert not storage.exists("other")
    time.sleep(1.5)
    started = time.monotonic()
    with pytest.raises(StorageError, match="SlowDown"):
        storage.read("a")
    assert time.monotonic() - started > 1.9


def test_bodies_that_are_cut_off_are_asked_for_again(stub: Stub) -> None:
    stub.objects = {"a": b"0123456789" * 1000, "a//b": b"odd" * 100}
    storage = open_storage("s3a://b", S3Options(stub.options.endpoint, timeout=20))
    calls: list[Callable[[], bool]] = [
        lambda: len(storage.read("a")) == 10_000,
        lambda: storage.head("a", 10) == b"0123456789",
        lambda: len(storage.read("a//b")) == 300,
        lambda: len(list(storage.list())) == 2,
    ]
    for call in calls:
        stub.cut = 5  # more often than obstore itself tries
        assert call()
        assert stub.cut == 0


def test_a_task_that_is_tried_again_does_not_wait_as_long(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyspark

    class Again:
        def attemptNumber(self) -> int:  # noqa: N802 -- pyspark's name
            return 1

    monkeypatch.setattr("orchard.storage.s3._RETRIED_TASK_SECONDS", 1.0)
    monkeypatch.setattr(pyspark.TaskContext, "get", Again)
    stub.refused["a"] = error(503, "SlowDown")
    started = time.monotonic()
    with pytest.raises(StorageError):
        open_storage("s3a://b", S3Options(stub.options.endpoint, "us-east-1", timeout=60)).read("a")
    assert time.monotonic() - started < 30


def test_nothing_is_waited_for_once_the_command_is_to_end(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.refused["a"] = error(503, "SlowDown")
    storage = open_storage("s3a://b", S3Options(stub.options.endpoint, "us-east-1", timeout=60))
    asked = threading.Event()
    monkeypatch.setattr(interruption, "_asked", asked)
    threading.Timer(1, asked.set).start()
    started = time.monotonic()
    with pytest.raises(StorageError):
        storage.read("a")
    assert time.monotonic() - started < 30


def test_a_name_that_does_not_resolve_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    storage = open_storage("s3a://bucket", S3Options("http://no-such-host.invalid:9", timeout=300))
    started = time.monotonic()
    for call in (lambda: list(storage.list()), lambda: storage.read("a")):
        with pytest.raises(StorageError, match="its name does not resolve"):
            call()
    assert time.monotonic() - started < 25


def test_in_a_drivers_pod_a_name_that_does_not_resolve_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "ORCHARD_POD_NAME"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setattr(s3_module, "_NAME_SECONDS", 0.5)
    storage = open_storage("s3a://bucket", S3Options("http://none-is-called-so.invalid:9", timeout=6))
    started = time.monotonic()
    with pytest.raises(StorageError, match="its name does not resolve"):
        storage.read("a")
    assert time.monotonic() - started > 5


# Repeating


def test_a_move_that_was_done_already_is_done(stub: Stub, tmp_path: Path) -> None:
    for storage in (open_storage("s3a://b/out", stub.options), open_storage(str(tmp_path))):
        storage.write("a", b"1")
        storage.move("a", "b")
        storage.move("a", "b")
        storage.copy("b", "c/d")
        storage.write("b", b"2")
        storage.copy("b", "c/d")
        assert (storage.read("c/d"), storage.read("b"), storage.exists("a")) == (b"2", b"2", False)
        with pytest.raises(FileNotFoundError, match="not-here"):
            storage.copy("not-here", "c/d")


# Endpoints


@pytest.mark.parametrize("path_style", [True, None])
def test_an_endpoint_may_have_a_path(stub: Stub, path_style: bool | None) -> None:
    stub.path = "/s3/v1"
    options = S3Options(f"{stub.options.endpoint}/", "us-east-1", path_style)
    storage = open_storage("s3a://b/out", options)
    storage.write("a", b"1")
    assert ([entry.key for entry in storage.list()], storage.read("a")) == (["a"], b"1")


def test_a_bucket_is_listed_whose_name_is_in_its_host_s() -> None:
    with running(Stub(hosted=True, objects={"a": b"1", "a//b": b"2"})) as amazon:
        requests = Requests(f"http://127.0.0.1:{amazon.port}", "us-east-1", None)  # obstore's part would need DNS
        assert [found.key for found in requests.page("", None).objects] == ["a", "a//b"]
        assert requests.send("GET", "a//b").data == b"2"


@pytest.mark.parametrize("direct", ["localhost, 127.0.0.0/8", "127.0.0.1/32", "127.0.0.1"])
def test_a_server_in_a_network_that_needs_no_proxy_is_asked_directly(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, direct: str
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("no_proxy", direct)
    storage = open_storage("s3a://b/out", stub.options)
    storage.write("a", b"1")
    assert ([entry.key for entry in storage.list()], storage.read("a")) == (["a"], b"1")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority of our own, and a certificate of it for this machine."""
    folder = tmp_path_factory.mktemp("tls")
    run = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    ca = ["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test authority"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"]
    key = ["-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*run, *ca], cwd=folder, check=True, capture_output=True)
    subprocess.run([*run, *key, *name], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.usefixtures("stub")
def test_an_authority_of_ones_own_is_trusted_by_name(
    authority: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    with running(Stub(objects={"a": b"1", "a//b": b"2"}), context) as secure:
        for call in (lambda s: list(s.list()), lambda s: s.read("a")):
            with pytest.raises(StorageError, match=r"not trusted: .*AWS_CA_BUNDLE"):
                call(open_storage("s3a://b", secure.options))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority / "ca.pem"))
    with running(Stub(objects={"a": b"1", "a//b": b"2"}), context) as secure:
        storage = open_storage("s3a://b", secure.options)
        assert [(entry.key, storage.read(entry.key)) for entry in storage.list()] == [("a", b"1"), ("a//b", b"2")]
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with running(Stub(), context) as secure, pytest.raises(StorageError, match=r"none\.pem, which cannot be read"):
        open_storage("s3a://b", secure.options).read("a")
