"""From Google's and Azure's stores and back to them: a run that is killed goes on, and what passes is not noticed."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import orchard
from chaos_table import Note, seeds
from orchard.errors import AccessDenied, BucketMissing, StorageError
from orchard.layout import COMMITS, LOCKS, Dataset
from orchard.lock import hold
from orchard.storage import S3Options, Storage, open_storage
from waiting import wait_until

from .conftest import SECONDS, Result, started
from .proxy import Fault, FaultProxy, Request, fault_proxy, seeded

if TYPE_CHECKING:
    from conftest import Cloud

SHARE = 0.08
SETTINGS: dict[str, Any] = {"precision": "float32", "task_images": 12}


@pytest.fixture(params=["gs", "abfss"], scope="module")
def cloud(request: pytest.FixtureRequest, clouds: Any) -> "Cloud":
    found: Cloud = clouds(request.param)
    return found


@pytest.fixture(scope="module")
def photos(cloud: "Cloud", fruits_drawn: Path) -> str:
    """The drawn fruits in a bucket."""
    url = f"{cloud.bucket()}/my photos"
    storage = open_storage(url, cloud.options)
    for image in fruits_drawn.rglob("*"):
        if image.is_file():
            storage.write(str(image.relative_to(fruits_drawn)), image.read_bytes())
    return url


@pytest.fixture(scope="module")
def proxy(cloud: "Cloud") -> Iterator[FaultProxy]:
    with fault_proxy(cloud.endpoint, keeps_host=cloud.scheme != "gs") as proxy:
        yield proxy


def _through(proxy: FaultProxy, cloud: "Cloud") -> dict[str, Any]:
    """The setting that leads to a store through a proxy."""
    return {cloud.setting: f"{proxy.endpoint}{urlsplit(cloud.endpoint).path}"}


def _features(result: Result) -> dict[str, list[float]]:
    """By what all sources call an image: its last folders and its name."""
    rows = result[Dataset.FEATURES].select(["path", "features"]).to_pylist()
    return {"/".join(row["path"].split("/")[-3:]): row["features"] for row in rows}


@pytest.fixture(scope="module")
def undisturbed(spark: Any, fruits_drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What the same files come to in a folder."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    orchard.extract(spark, str(fruits_drawn), str(out), **SETTINGS)
    return Result(str(out))


@pytest.mark.parametrize("seed", seeds(1, 8))
def test_what_passes_is_not_noticed(
    spark: Any, cloud: "Cloud", photos: str, proxy: FaultProxy, undisturbed: Result, note: Note, seed: int
) -> None:
    out = f"{cloud.bucket()}/out"
    with proxy.faults(seeded(seed, SHARE)) as done:
        orchard.extract(spark, photos, out, **SETTINGS, **_through(proxy, cloud))
    assert done.total() >= 5
    result = Result(out, cloud.options)
    assert _features(result) == _features(undisturbed)
    assert result[Dataset.REJECTED].num_rows == undisturbed[Dataset.REJECTED].num_rows
    for fault, times in done.items():
        note(f"request to {cloud.scheme}://: {fault}", times, "the run ends as undisturbed")


@pytest.mark.chaos  # four starts of Spark
def test_a_run_that_was_killed_goes_on(cloud: "Cloud", photos: str, undisturbed: Result, note: Note) -> None:
    out = f"{cloud.bucket()}/out"
    storage = open_storage(out, cloud.options)
    does = ("extract", "--precision=float32", "--master=local[2]")
    flags = [f"--{cloud.setting.replace('_', '-')}={cloud.endpoint}", "--task-images=6"]
    haste = "from orchard import lock; lock.EXPIRY_SECONDS = 5; lock.HELD_SECONDS = 3; lock.RENEWAL_SECONDS = 1\n"
    program = ("-c", f"{haste}from orchard.cli import main; main()")
    with started(photos, out, *flags, program=program, does=does) as process:
        wait_until(lambda: next(storage.list(COMMITS), None) or process.poll() is not None, SECONDS)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not storage.exists("metrics.json")
    with started(photos, out, *flags, program=program, does=does) as process:
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert _features(Result(out, cloud.options)) == _features(undisturbed)
    assert storage.exists("metrics.json")
    note(f"run killed from and to {cloud.scheme}://", 1, "goes on, and ends as undisturbed")


# The lock, and creating


@pytest.fixture
def storage(cloud: "Cloud", proxy: FaultProxy) -> Storage:
    return open_storage(f"{cloud.bucket()}/out", replace(S3Options(), **_through(proxy, cloud)))


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.TWICE, Fault.TRUNCATED, Fault.SLOW_DOWN])
def test_what_was_created_by_a_request_that_failed_is_the_writers_own(
    storage: Storage, proxy: FaultProxy, fault: Fault
) -> None:
    """A create whose answer is lost is sent again, and meets itself."""
    left = [fault, fault]

    def first(request: Request) -> Fault | None:
        return left.pop() if request.method == "PUT" and left else None

    with proxy.faults(first) as done:
        assert storage.create("lease", b"mine")
    assert done.total() >= 1
    assert storage.create("lease", b"another's") is False
    assert storage.read("lease") == b"mine"


def test_one_run_at_a_time_holds_the_lock(storage: Storage) -> None:
    with hold(storage, "one") as lease:
        assert not lease.lost
        lease.renew()  # type: ignore[attr-defined]
        assert len(list(storage.list(LOCKS))) == 1
    with hold(storage, "two"):  # at once, for it was released
        pass


def test_a_listing_that_fails_in_the_middle_goes_on(
    storage: Storage, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchard.storage.connection._PAGE", 3)
    keys = [f"{n:02}/{n}.jpg" for n in range(12)]
    for key in keys:
        storage.write(key, b"1")
    with proxy.faults(seeded(3, 0.5, [Fault.RESET_AFTER, Fault.ERROR])):
        assert [entry.key for entry in storage.list()] == keys


def test_empty_objects_that_stand_for_folders_are_left_out(cloud: "Cloud") -> None:
    """Consoles make them."""
    storage = open_storage(cloud.bucket(), cloud.options)
    for key, data in {"Apple": b"", "Apple/1.jpg": b"1", "Pear.jpg": b"", "empty": b""}.items():
        storage.write(key, data)
    assert [entry.key for entry in storage.list()] == ["Apple/1.jpg", "Pear.jpg", "empty"]


# Sentences


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "AccessDenied", {"gs": "allow storage.objects.create", "abfss": "Storage Blob Data Contributor"}),
        (401, "AuthenticationRequired", {"gs": "check the service account", "abfss": "check the account's key"}),
    ],
)
def test_what_may_not_be_written_is_told_with_what_to_allow(
    cloud: "Cloud", storage: Storage, proxy: FaultProxy, status: int, code: str, said: dict[str, str]
) -> None:
    proxy.answers[Fault.DENIED] = (f"{status} No", code)
    with proxy.faults(lambda _: Fault.DENIED):
        for call in (lambda: storage.write("a", b""), lambda: storage.create("a", b""), lambda: storage.delete(["a"])):
            with pytest.raises(AccessDenied, match=said[cloud.scheme]):
                call()
        with pytest.raises(AccessDenied):
            list(storage.list())


def test_a_missing_bucket_is_told(cloud: "Cloud") -> None:
    url = f"{cloud.bucket()}/out".replace("://b-", "://no-such-")
    storage = open_storage(url, cloud.options)
    kind = {"gs": "bucket", "abfss": "container"}[cloud.scheme]
    for call in (lambda: list(storage.list()), lambda: storage.write("a", b"")):
        with pytest.raises(BucketMissing, match=f"{kind} no-such-.* does not exist at {cloud.endpoint}"):
            call()


def test_a_store_that_does_not_answer_is_told_in_time(cloud: "Cloud", proxy: FaultProxy) -> None:
    storage = open_storage(f"{cloud.bucket()}/out", S3Options(timeout=1, **_through(proxy, cloud)))
    proxy.down = True
    try:
        with pytest.raises(StorageError, match="does not answer"):
            storage.read("a")
    finally:
        proxy.down = False
