"""What tests of several areas share: fruits, photographed or drawn, a Spark session, a real S3 server."""

import base64
import csv
import fcntl
import hmac
import json
import logging
import lzma
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any, NoReturn

import pytest
import urllib3
from pyspark.sql import SparkSession

import orchard.api
from chaos_table import note, pytest_terminal_summary  # noqa: F401 -- fixture and hook
from orchard.processes import LocalWorkers
from orchard.spark import session
from orchard.storage import S3Options
from orchard.workers import Workers
from turntable import write_turntable

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"

LONGEST = (
    "e2e/test_live.py",
    "e2e/test_operator.py",
    "e2e/test_failures.py",
    "docker/test_image.py",
    "e2e/test_gitops.py",
    "e2e/test_release.py",
    "e2e/test_serve.py",
    "e2e/test_schedule.py",
    "integration/test_fruits.py",
    "integration/test_resume.py",
    "integration/test_interruption.py",
    "integration/test_run.py",
    "integration/test_yarn.py",
    "tuning/test_tuning.py",
    "chaos/test_kills.py",
    "export/test_parity.py",
    "integration/test_api.py",
    "serving/test_page.py",
    "serving/test_engines.py",
)
"""The files that take longest, minutes each: first, for a lane that begins one last works alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with `LONGEST`; within a file, and among the others, the order stays."""
    rank = {Path(__file__).parent / file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def _cannot(reason: str) -> NoReturn:
    """Skip; in CI, where everything is to be had, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def _log_as_a_library_has_it() -> None:
    """Undo what a command of an earlier test did to the log: what is said comes once to whoever looks, in any order."""
    log = logging.getLogger("orchard")
    log.handlers, log.propagate = [], True
    log.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def photographed() -> bool:
    """Whether `fruits` are photographs; drawn ones have bounds of their own where a test is about accuracy."""
    return (SHARED / "fruits").is_dir()


@pytest.fixture(scope="session")
def fruits(photographed: bool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fruits of Fruits-360, ``{Training,Test}/<class>/<frame>_100.jpg``: photographs, or drawings where there are none.

    The photographs, of 58 classes, are not part of the repository; drawn are the classes of `trained`.
    """
    if photographed:
        return SHARED / "fruits"
    folder = tmp_path_factory.mktemp("fruits")
    write_turntable(folder)
    return folder


@pytest.fixture(scope="session")
def spark(s3_server: "S3Server", cloud_keys: None) -> Iterator[SparkSession]:  # noqa: ARG001 -- workers inherit them
    """One local session of two slots for all tests; starting it takes longer than most of them."""
    spark = session.start(master="local[2]")
    yield spark
    spark.stop()


@pytest.fixture(scope="session")
def workers(spark: SparkSession) -> Iterator[Workers]:
    """What does the tasks of a local run: two processes, and Spark where it alone can do the work."""
    with closing(LocalWorkers(2, lambda: spark)) as workers:
        yield workers


TRAINED = {
    **{"Apple Golden 2": "yellow", "Cherry Rainier 2": "red", "Grape pink 2": "red", "Lemon Meyer": "yellow"},
    **{"Mango": "red", "Onion Red 2": "", "Orange 2": "orange", "Papaya 2": "yellow", "Plum 5": "violet"},
    **{"Raspberry": "red", "Tomato 2": "red"},
}
"""The labels of `trained` with their colours, a further label column; onions have none."""


@pytest.fixture(scope="session")
def trained(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with a model of 11 fruits, in float32, trained on 1,760 images and measured on 550; read only."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [
        (path, label, split, colour)
        for label, colour in TRAINED.items()
        for split in ("Training", "Test")
        for path in sorted((fruits / split / label).iterdir())
    ]
    with (folder / "fruits.csv").open("w", newline="") as manifest:
        csv.writer(manifest).writerows([("path", "label", "split", "colour"), *rows])
    orchard.api.run(
        None,
        str(folder / "fruits.csv"),
        str(folder / "out"),
        label_columns=["colour"],
        precision="float32",
        classifiers=["linear_discriminant"],
    )
    return folder / "out"


@dataclass(frozen=True)
class S3Server:
    """An S3 server on this machine, whose buckets are the folders of ``root``."""

    endpoint: str
    root: Path
    access_key: str
    secret_key: str

    @property
    def options(self) -> S3Options:
        return S3Options(endpoint=self.endpoint, region="us-east-1", path_style=True)

    def bucket(self) -> str:
        """A new, empty bucket's name."""
        name = f"b-{uuid.uuid4().hex[:12]}"
        (self.root / name).mkdir()
        return name

    def export(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put its credentials into the environment; the endpoint is passed as an option."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", self.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", self.secret_key)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """versitygw with its own folder; its credentials are in the environment for the whole session."""
    root = tmp_path_factory.mktemp("s3")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = S3Server(f"http://127.0.0.1:{port}", root, "test", "testsecret")
    keys = {"ROOT_ACCESS_KEY": server.access_key, "ROOT_SECRET_KEY": server.secret_key}
    log = tmp_path_factory.mktemp("s3-log") / "versitygw.log"
    command = [str(_versitygw()), "--port", f"127.0.0.1:{port}", "posix", str(root)]
    with log.open("wb") as output, pytest.MonkeyPatch.context() as environment:
        process = subprocess.Popen(command, env=os.environ | keys, stdout=output, stderr=output)
        try:
            _wait_until_it_listens(process, port, log)
            server.export(environment)
            yield server
        finally:
            process.terminate()
            process.wait(10)


@dataclass(frozen=True)
class Cloud:
    """An emulator of Google Cloud Storage or of Azure Storage on this machine."""

    scheme: str
    endpoint: str

    @property
    def options(self) -> S3Options:
        named: dict[str, Any] = {self.setting: self.endpoint}
        return replace(S3Options(), **named)

    @property
    def setting(self) -> str:
        """The setting that names its endpoint."""
        return {"gs": "gcs_endpoint", "abfss": "azure_endpoint"}[self.scheme]

    def bucket(self) -> str:
        """The address of a new, empty bucket."""
        name = f"b-{uuid.uuid4().hex[:12]}"
        if self.scheme == "gs":
            body = json.dumps({"name": name}).encode()
            made = urllib3.request("POST", f"{self.endpoint}/storage/v1/b", body=body)
        else:
            made = urllib3.request("PUT", f"{self.endpoint}/{name}?restype=container", headers=_signed(name))
        assert made.status in (200, 201), made.data
        return f"gs://{name}" if self.scheme == "gs" else f"abfss://{name}@{AZURITE}.dfs.core.windows.net"


AZURITE = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of every Azurite there is."""


def _signed(container: str) -> dict[str, str]:
    """Headers of the request that makes a container: obstore makes none."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    named = "".join(f"{name}:{value}\n" for name, value in headers.items())
    text = f"PUT{12 * chr(10)}{named}/{AZURITE}/{AZURITE}/{container}\nrestype:container"
    digest = hmac.digest(base64.b64decode(AZURITE_KEY), text.encode(), "sha256")
    return {**headers, "Authorization": f"SharedKey {AZURITE}:{base64.b64encode(digest).decode()}"}


@pytest.fixture(scope="session")
def cloud_keys() -> Iterator[None]:
    """How to get into the emulators is in the environment for the whole session."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GOOGLE_BEARER_TOKEN", "any")
        environment.setenv("AZURE_STORAGE_ACCOUNT_KEY", AZURITE_KEY)
        yield


@pytest.fixture(scope="session")
def clouds(tmp_path_factory: pytest.TempPathFactory, cloud_keys: None) -> Iterator[Callable[[str], Cloud]]:  # noqa: ARG001
    """The emulator of a scheme, started when first asked for."""
    started: dict[str, Cloud] = {}
    with ExitStack() as running:

        def cloud(scheme: str) -> Cloud:
            if scheme not in started:
                started[scheme] = running.enter_context(_emulator(scheme, tmp_path_factory.mktemp(scheme)))
            return started[scheme]

        yield cloud


@contextmanager
def _emulator(scheme: str, folder: Path) -> Iterator[Cloud]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint, log = f"http://127.0.0.1:{port}", folder / "emulator.log"
    if scheme == "gs":
        command = [emulator("fake-gcs-server"), "-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-port={port}"]
        command.append(f"-public-host=127.0.0.1:{port}")
    else:
        command = [emulator("azurite-blob"), "--silent", "--disableTelemetry", "--inMemoryPersistence"]
        command += ["--skipApiVersionCheck", "--blobHost=127.0.0.1", f"--blobPort={port}"]
        endpoint += f"/{AZURITE}"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
        try:
            _wait_until_it_listens(process, port, log)
            yield Cloud(scheme, endpoint)
        finally:
            process.terminate()
            process.wait(10)


def emulator(name: str) -> str:
    """The command of that name: installed, or made with Go or npm."""
    if found := shutil.which(name):
        return found
    made = REPOSITORY / ".tools" / "bin" / name
    made.parent.mkdir(parents=True, exist_ok=True)
    with (made.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another lane may be making it
        if not os.access(made, os.X_OK):
            built = subprocess.run(
                ["make", f".tools/bin/{name}"], cwd=REPOSITORY, capture_output=True, text=True, check=False
            )
            if built.returncode:
                _cannot(f"{name} cannot be made: {built.stderr[-300:]}")
    return str(made)


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 120  # an emulator in Node.js on a machine that has other things to do
    while time.monotonic() < deadline:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"{process.args!r} does not listen: {log.read_text(errors='replace')[-500:]}")


def _versitygw() -> Path:
    """The server's binary: installed, unpacked, or built with Go, in this order."""
    cache = REPOSITORY / ".cache"
    candidates = [cache / "versitygw", Path("~/.cache/cluster-lab/bin/versitygw").expanduser()]
    if found := shutil.which("versitygw"):
        candidates.insert(0, Path(found))
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate
    cache.mkdir(exist_ok=True)
    target = cache / "versitygw"
    packed = SHARED / "cluster" / "prebuilt" / "versitygw.xz"
    if packed.is_file():
        unpacked = cache / f"versitygw.{os.getpid()}"
        with lzma.open(packed) as source, unpacked.open("wb") as binary:
            shutil.copyfileobj(source, binary)
        unpacked.chmod(0o755)
        unpacked.replace(target)
        return target
    if shutil.which("go"):
        build = subprocess.run(
            ["go", "install", VERSITYGW],
            env=os.environ | {"GOBIN": str(cache)},
            capture_output=True,
            check=False,
        )
        if build.returncode == 0:
            return target
        _cannot(f"versitygw cannot be built: {build.stderr.decode(errors='replace')[-300:]}")
    _cannot("there is no S3 server: put versitygw on the PATH, or install Go")
