"""Local folders, a real S3 server, and the emulators of Google's and Azure's stores keep the same promises."""

import hashlib
import os
import pickle
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchard.errors import BucketMissing, RegionRefused, StorageError, UsageError
from orchard.storage import S3Options, Storage, open_storage, read_path
from orchard.storage.s3_connection import connect

if TYPE_CHECKING:
    from conftest import Cloud, S3Server

EMULATORS = ("gs", "abfss")

ODD_KEYS = [
    "Pomme d'été/photo n° 1.jpg",
    "a b/c%20d.jpg",
    "x#y/+é è.jpg",
    "q?z=1&b/100%.jpg",
    "_leading/.dot",
    "quotes'\"<>/~*:;,=.jpg",
    " space /trailing .jpg",
    "decomposed e\u0301.jpg",
    "back\\slash.jpg",
    "[brackets]/{braces}.jpg",
]


@pytest.fixture(params=["local", "s3", *EMULATORS])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(str(tmp_path / "root"))
    if request.param in EMULATORS:
        cloud: Cloud = request.getfixturevalue("clouds")(request.param)
        return open_storage(f"{cloud.bucket()}/some prefix/50%", cloud.options)
    server: S3Server = request.getfixturevalue("s3_server")
    return open_storage(f"s3a://{server.bucket()}/some prefix/50%", server.options)


def _keys(storage: Storage, prefix: str = "") -> list[str]:
    return sorted(entry.key for entry in storage.list(prefix))


def test_every_key_comes_back_as_it_was_written(storage: Storage) -> None:
    azure = storage.url.startswith("abfss")  # which takes a backslash for a slash
    keys = [key for key in ODD_KEYS if not (azure and "\\" in key)]
    for key in keys:
        storage.write(key, key.encode())
    assert _keys(storage) == sorted(keys)
    for key in keys:
        assert storage.read(key) == key.encode()
        assert storage.exists(key)
        storage.move(key, f"moved/{key}")
        assert not storage.exists(key)
    assert _keys(storage, "moved") == sorted(f"moved/{key}" for key in keys)
    storage.delete([f"moved/{key}" for key in keys])
    assert _keys(storage) == []


def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(storage: Storage) -> None:
    storage.write("features/a", b"")
    storage.write("features2/b", b"")
    assert _keys(storage, "features") == ["features/a"]
    assert _keys(storage, "features/") == ["features/a"]
    assert _keys(storage, "nothing") == []


def test_size_is_listed_and_the_version_changes_with_the_content(storage: Storage) -> None:
    storage.write("a", b"one")
    (before,) = storage.list()
    storage.write("a", b"four")
    (after,) = storage.list()
    assert (before.size, after.size) == (3, 4)
    assert before.version and after.version and before.version != after.version


def test_one_file_is_told_as_it_is_listed(storage: Storage) -> None:
    for key in ODD_KEYS[:-2]:
        storage.write(key, key.encode())
    assert [storage.stat(entry.key) for entry in storage.list()] == list(storage.list())
    assert storage.stat("missing") is storage.stat(f"{ODD_KEYS[0]}/below") is None


def test_head_returns_no_more_than_there_is(storage: Storage) -> None:
    storage.write("three", b"abc")
    storage.write("none", b"")
    assert [storage.head("three", n) for n in (2, 3, 9)] == [b"ab", b"abc", b"abc"]
    assert storage.head("none", 9) == b""
    assert storage.read("none") == b""


def test_columns_of_a_parquet_file_are_read_without_the_others(storage: Storage) -> None:
    table = pa.table({"path": ["a", "b"] * 5000, "features": [[float(n)] * 100 for n in range(10_000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.write("big", sink.getvalue())
    with storage.open("big") as file:
        assert pq.read_table(file, columns=["path"]) == table.select(["path"])
        assert pq.read_table(file) == table
    with pytest.raises(FileNotFoundError):
        storage.open("missing")


def test_a_file_that_this_very_writer_created_counts_as_created(storage: Storage) -> None:
    assert storage.create("lease", b"mine")
    assert storage.create("lease", b"another's") is False


def test_buffers_are_written_without_copying_them_to_bytes_first(storage: Storage) -> None:
    storage.write("buffer", pa.py_buffer(b"arrow"))
    storage.write("view", memoryview(b"memory"))
    assert storage.read("buffer") + storage.read("view") == b"arrowmemory"


def test_a_missing_key_is_told_by_its_name(storage: Storage) -> None:
    storage.write("here", b"")
    for call in (storage.read, lambda key: storage.head(key, 3), lambda key: storage.move(key, "x")):
        with pytest.raises(FileNotFoundError, match=r"not-here"):
            call("not-here.jpg")
    assert not storage.exists("not-here.jpg")
    storage.delete(["not-here.jpg", "nor/here.jpg"])


def test_move_replaces_the_target(storage: Storage) -> None:
    storage.write("a", b"new")
    storage.write("b/c", b"old")
    storage.move("a", "b/c")
    assert (_keys(storage), storage.read("b/c")) == (["b/c"], b"new")


def test_one_of_many_creates_a_file(storage: Storage) -> None:
    start = threading.Barrier(8)

    def create(n: int) -> bool:
        start.wait()
        return storage.create("_orchard/lock", b"%d" % n)

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(create, range(8)))
    assert created.count(True) == 1
    assert storage.read("_orchard/lock") == b"%d" % created.index(True)
    assert _keys(storage) == ["_orchard/lock"]


def test_a_storage_travels_to_another_process(storage: Storage) -> None:
    storage.write("a", b"1")
    copy = pickle.loads(pickle.dumps(storage))  # noqa: S301
    assert copy.url == storage.url
    assert copy.read("a") == b"1"
    assert b"testsecret" not in pickle.dumps(storage)


def test_read_path_takes_what_listings_name_and_stops_at_the_limit(storage: Storage) -> None:
    key = ODD_KEYS[2]
    storage.write(key, b"0123456789")
    path, s3 = f"{storage.url}/{key}", getattr(storage, "s3", S3Options())
    assert read_path(path, s3) == b"0123456789"
    assert read_path(path, s3, max_bytes=10) == b"0123456789"
    assert read_path(path, s3, max_bytes=4) == b"01234"
    with pytest.raises(FileNotFoundError):
        read_path(path + "x", s3)


def test_urls_of_every_form_name_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my fruits"
    folder.mkdir()
    forms = [str(folder), f"file://{folder}", f"file:{folder}", f"file://{folder}".replace(" ", "%20")]
    assert {open_storage(form).url for form in forms} == {str(folder)}
    assert open_storage("s3://b/p/").url == open_storage("s3a://b/p").url == "s3a://b/p"
    assert open_storage("gs://b/p/").url == "gs://b/p"
    azure = "abfss://photos@fruits.dfs.core.windows.net"
    assert open_storage(f"abfs{azure.removeprefix('abfss')}/p/").url == open_storage(f"{azure}/p").url == f"{azure}/p"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("wasbs://photos@fruits.blob.core.windows.net/a/b", "write abfss://photos@fruits.dfs.core.windows.net/a/b."),
        ("https://fruits.blob.core.windows.net/photos/a?sig=x", "write abfss://photos@fruits.dfs.core.windows.net/a."),
        ("https://fruits.dfs.core.chinacloudapi.cn/photos", "write abfss://photos@fruits.dfs.core.chinacloudapi.cn."),
        ("abfss://photos/a", "write abfss://photos@ACCOUNT.dfs.core.windows.net/a."),
        ("abfss://photos@fruits.blob.core.windows.net/a", "write abfss://photos@ACCOUNT.dfs.core.windows.net/a."),
        ("az://photos/a", "write abfss://photos@ACCOUNT.dfs.core.windows.net/a."),
        ("https://storage.googleapis.com/photos/a", "write gs://photos/a."),
        ("https://storage.cloud.google.com/photos/a", "write gs://photos/a."),
        ("gcs://photos/a", "write gs://photos/a."),
        ("https://photos.s3.eu-west-3.amazonaws.com/a", "write s3a://photos/a."),
        ("gs:/photos", "gs://BUCKET/PREFIX, not gs:"),
        ("hdfs://host/a", "a local path, file://, s3a://, gs:// or abfss://, not hdfs:"),
    ],
)
def test_of_an_address_in_other_words_it_is_said_what_to_write(url: str, said: str) -> None:
    with pytest.raises(UsageError) as told:
        open_storage(url)
    assert said in str(told.value)
    assert "sig=" not in str(told.value).partition("write")[2]


@pytest.mark.parametrize("url", ["", "photos", "./photos"])
def test_an_address_that_leads_nowhere_is_told(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UsageError, match="is in the current folder, which was deleted" if url else "is empty"):
        open_storage(url)
    assert open_storage(str(tmp_path)).url == str(tmp_path)


# Local folders


def test_an_aborted_write_leaves_nothing_to_list(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    (tmp_path / f".{'0' * 32}.orchard-tmp").write_bytes(b"part")
    assert _keys(storage) == []
    with pytest.raises(TypeError):
        storage.write("a", "not bytes")
    assert len(list(tmp_path.iterdir())) == 1


def test_links_are_followed_once_and_dangling_ones_are_listed(tmp_path: Path) -> None:
    (tmp_path / "root/Apple").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/1.jpg").write_bytes(b"1")
    (tmp_path / "root/Pear").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/Apple/loop").symlink_to(tmp_path / "root")
    (tmp_path / "root/Apple/gone.jpg").symlink_to("nowhere")
    (tmp_path / "root/itself").symlink_to("itself")
    os.mkfifo(tmp_path / "root/pipe")
    assert _keys(open_storage(str(tmp_path / "root"))) == ["Apple/gone.jpg", "Pear/1.jpg", "itself", "pipe"]


@pytest.mark.parametrize("target", ["root", "root/Zebra", ".", "root/Apple", "root/Zebra/deep"])
def test_a_link_to_what_is_listed_anyway_adds_nothing(tmp_path: Path, target: str) -> None:
    names = ["Apple/1.jpg", "Zebra/2.jpg", "Zebra/deep/3.jpg"]
    for name in names:
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(b"1")
    (tmp_path / "root/A link").symlink_to(tmp_path / target)  # before all others
    (tmp_path / "root/Apple/z link").symlink_to(tmp_path / target)
    (tmp_path / "way").symlink_to("root")
    for root in ("root", "way"):
        assert _keys(open_storage(str(tmp_path / root))) == names


def test_folders_may_lie_deeper_than_python_recurses(tmp_path: Path) -> None:
    depth = 1100
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("a", dir_fd=folder)
        below = os.open("a", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("1.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    assert _keys(open_storage(str(tmp_path))) == ["a/" * depth + "1.jpg"]
    subprocess.run(["rm", "-r", tmp_path / "a"], check=True)  # shutil recurses


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s.jpg"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    storage = open_storage(str(tmp_path))
    for key in ("pipe.jpg", "s.jpg", "/dev/zero", "folder", "loop", "null\0", "n" * 300):
        for call in (storage.read, lambda key: storage.head(key, 3), storage.open):
            with pytest.raises(OSError) as error:
                call(key)
            assert error.value.strerror
    listening.close()
    with pytest.raises(OSError, match="pipe, socket or device"):
        read_path(str(tmp_path / "pipe.jpg"))


@pytest.mark.parametrize("path", ["http://host/a.jpg", "wasbs://bucket/a.jpg", "hdfs://a/b"])
def test_addresses_of_others_are_no_local_paths(path: str) -> None:
    with pytest.raises(OSError) as error:
        read_path(path)
    scheme = path.split("//", maxsplit=1)[0]
    assert error.value.strerror == f"{scheme} is not read, local paths, file://, s3a://, gs:// and abfss:// are"


def test_a_name_that_is_not_utf8_is_listed_readably_and_read(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(name, "wb") as file:  # noqa: PTH123
        file.write(b"1")
    storage = open_storage(str(tmp_path))
    assert _keys(storage) == ["caf\\xe9.jpg"]
    assert storage.read("caf\\xe9.jpg") == b"1"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=f"{tmp_path}/file/a cannot be written"):
        open_storage(str(tmp_path / "file")).write("a", b"")


# Object stores


def test_markers_of_folders_are_not_listed(s3_server: "S3Server") -> None:
    bucket = s3_server.bucket()
    storage = open_storage(f"s3a://{bucket}/root", s3_server.options)
    storage.write("full/a.jpg", b"1")
    storage.write("full/empty.jpg", b"")
    for folder in ("root/", "root/full/", "root/nothing/"):
        curl = ["curl", "-sf", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "test:testsecret", "-X", "PUT"]
        headers = ["-H", f"x-amz-content-sha256: {hashlib.sha256().hexdigest()}", "-H", "Content-Length: 0"]
        subprocess.run([*curl, *headers, f"{s3_server.endpoint}/{bucket}/{folder}"], check=True)
    assert _keys(storage) == ["full/a.jpg", "full/empty.jpg"]


def test_a_missing_bucket_is_told_by_its_name(s3_server: "S3Server") -> None:
    storage = open_storage("s3a://no-such-bucket/x", s3_server.options)
    for call in (
        lambda: list(storage.list()),
        lambda: storage.read("a"),
        lambda: storage.write("a", b""),
        lambda: storage.create("a", b""),
        lambda: storage.delete(["a"]),
    ):
        with pytest.raises(BucketMissing, match="no-such-bucket does not exist"):
            call()


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_told(s3_server: "S3Server", name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "wrong")
    storage = open_storage(f"s3a://{s3_server.bucket()}", s3_server.options)
    for call in (lambda: list(storage.list()), lambda: storage.read("a"), lambda: storage.write("a", b"")):
        with pytest.raises(StorageError, match="refuses the credentials"):
            call()


def test_an_endpoint_that_does_not_answer_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        storage = open_storage("s3a://bucket", S3Options(f"http://127.0.0.1:{port}", timeout=3))
        started = time.monotonic()
        with pytest.raises(StorageError, match=f"127.0.0.1:{port} does not answer"):
            list(storage.list())
    assert time.monotonic() - started < 25


def test_a_secure_endpoint_is_never_left_for_plain_http() -> None:
    config = connect("b", S3Options("https://storage.example")).store.client_options
    assert config is not None and str(config.get("allow_http")) == "false"


def test_the_bucket_is_in_the_host_name_where_that_is_asked_for() -> None:
    virtual = connect("fruits", S3Options("https://s3.example:9000", path_style=False)).store
    assert virtual.config.get("endpoint") == "https://fruits.s3.example:9000"
    assert connect("fruits", S3Options()).store.config.get("endpoint") is None


def test_the_endpoint_of_the_environment_travels_with_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://localhost:1/")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    storage = open_storage("s3a://bucket")
    assert vars(storage)["s3"] == S3Options("http://localhost:1", "eu-west-3", True)
    with pytest.raises(UsageError, match="localhost:9000"):
        open_storage("s3a://bucket", S3Options("localhost:9000"))


def test_a_wrong_region_is_told(s3_server: "S3Server") -> None:
    storage = open_storage(f"s3a://{s3_server.bucket()}", S3Options(s3_server.endpoint, "mars-north-1"))
    with pytest.raises(RegionRefused, match="is not in region mars-north-1") as told:
        list(storage.list())
    assert told.value.exit_code == 3  # no other driver would find it elsewhere
