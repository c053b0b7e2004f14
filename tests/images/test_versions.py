"""Versions are asked of the storage in no more requests than one for each path."""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from orchard.images import reading, versions
from orchard.images.limits import Limits
from orchard.images.sources import list_images
from orchard.images.versions import readable, with_versions
from orchard.layout import LISTING
from orchard.storage import ObjectStorage, S3Options, Storage, open_storage
from orchard.storage.s3_connection import S3Connection

if TYPE_CHECKING:
    from conftest import S3Server


class Requests:
    """Counts what is asked of the object store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
        self.asked = self.pages = 0
        monkeypatch.setattr(versions, "_PAGE", page)
        stat, listed = ObjectStorage.stat, S3Connection.page

        def count(storage: ObjectStorage, key: str) -> object:
            self.asked += 1
            return stat(storage, key)

        def pages(connection: S3Connection, prefix: str, after: str | None) -> object:
            self.pages += 1
            return listed(connection, prefix, after)

        monkeypatch.setattr(ObjectStorage, "stat", count)
        monkeypatch.setattr(S3Connection, "page", pages)


@pytest.fixture(scope="module")
def bucket(s3_server: "S3Server") -> Storage:
    """With 250 objects in two folders of one, and three elsewhere."""
    storage = open_storage(f"s3a://{s3_server.bucket()}", s3_server.options)
    for n in range(250):
        storage.write(f"photos/{n % 2}/{n}.jpg", b"1" * n)
    for n in range(3):
        storage.write(f"a/{n}.jpg", b"1")
    return storage


def _listing(storage: Storage, *keys: str) -> pa.Table:
    return pa.Table.from_pylist([{"path": f"{storage.url}/{key}", "size": 7} for key in keys], LISTING)


def _ask(storage: Storage, s3: S3Options, *keys: str) -> list[str]:
    listing, missing = with_versions(_listing(storage, *keys), s3)
    assert listing.schema.equals(LISTING)
    known = {entry.key: entry for entry in storage.list()}
    for key, row in zip(keys, listing.to_pylist(), strict=True):
        assert row["path"] == f"{storage.url}/{key}"
        assert (row["size"], row["version"]) == (known[key][1:] if key in known else (7, None))
    return [path.removeprefix(f"{storage.url}/") for path in missing]


def test_many_paths_are_found_by_listing_their_folder(
    bucket: Storage, s3_server: "S3Server", monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = Requests(monkeypatch, page=200)
    keys = [f"photos/{n % 2}/{n}.jpg" for n in range(250)]
    assert _ask(bucket, s3_server.options, *keys[:-1], "photos/1/none.jpg") == ["photos/1/none.jpg"]
    assert (requests.asked, requests.pages - 1) == (0, 1)  # one is of the check itself


def test_few_paths_and_those_scattered_among_others_are_asked_one_by_one(
    bucket: Storage, s3_server: "S3Server", monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = Requests(monkeypatch, page=20)
    assert _ask(bucket, s3_server.options, "a/1.jpg", "photos/1/7.jpg", "none") == ["none"]
    assert requests.asked == 3
    requests.asked = 0
    keys = [f"photos/{n % 2}/{n}.jpg" for n in range(0, 250, 2)]  # folder 0, of 125: more than a page of 20
    assert not _ask(bucket, s3_server.options, *keys)
    assert len(keys) * 0.7 < requests.asked < len(keys)


def test_odd_keys_of_a_manifest_are_taken_literally_and_stop_nothing(
    bucket: Storage, s3_server: "S3Server", tmp_path: Path
) -> None:
    odd = ["", "photos/", "a//1.jpg", "a/../a/1.jpg", "./a/1.jpg", "k" * 1100, "b\x01.jpg", "%2F?x=1#y"]
    addresses = [f"s3://{bucket.url.removeprefix('s3a://')}", "s3:///x", *(f"{bucket.url}/{key}" for key in odd)]
    text = "".join(f'"{address}"\n' for address in [*addresses, f"{bucket.url}/a/1.jpg"])
    (tmp_path / "list.csv").write_text(f"path\n{text}")
    source = str(tmp_path / "list.csv")
    listing = list_images(source, s3_server.options, limit=None, labels=None, seed=0).table
    assert set(listing["path"].to_pylist()) == {
        *(a.replace("s3://", "s3a://") for a in addresses),
        f"{bucket.url}/a/1.jpg",
    }
    known = with_versions(listing, s3_server.options)[0].filter(pc.is_valid(pc.field("version")))
    assert f"{bucket.url}/a/1.jpg" in known["path"].to_pylist()  # and what this server takes for the same
    contents = reading.contents(listing, Limits(), s3_server.options)
    assert [content for content in contents if isinstance(content, bytes)] == [b"1"] * known.num_rows


def test_files_are_asked_and_addresses_of_others_are_not(
    bucket: Storage, s3_server: "S3Server", tmp_path: Path
) -> None:
    file = f"{tmp_path}/a.jpg"
    open_storage(str(tmp_path)).write("a.jpg", b"123")
    paths = [file, f"{tmp_path}/none.jpg", "http://host/a.jpg", f"{bucket.url}/a/1.jpg", f"{tmp_path}/{'n' * 300}"]
    table = pa.Table.from_pylist([{"path": path} for path in paths], LISTING)
    listing, missing = with_versions(table, s3_server.options)
    assert listing["size"].to_pylist() == [3, None, None, 1, None]
    assert missing == [paths[1]]
    assert readable(paths, s3_server.options) == [file, paths[3]]
    complete = listing.slice(0, 1).combine_chunks()
    assert with_versions(complete, s3_server.options) == (complete, [])
