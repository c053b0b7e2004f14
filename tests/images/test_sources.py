"""A source's images, labels and splits are found wherever they lie and whatever they are called."""

import gzip
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from orchard.errors import InputError, StorageError, UsageError
from orchard.images.sources import Listing, list_images
from orchard.layout import LISTING
from orchard.storage import S3Options, open_storage, read_path

if TYPE_CHECKING:
    from conftest import S3Server

ODD_FOLDER = "Training/Pomme d'été 100% #1 [bio]+{x}"


def _list(source: Path | str, limit: int | None = None, labels: list[str] | None = None, seed: int = 0) -> Listing:
    listing = list_images(str(source), S3Options(), limit=limit, labels=labels, seed=seed)
    assert listing.table.schema.equals(LISTING)
    paths = listing.table["path"].to_pylist()
    assert paths == sorted(set(paths))
    return listing


def _rows(listing: Listing, root: Path | str) -> list[tuple[str, str | None, str | None]]:
    table = listing.table
    paths = [path.removeprefix(f"{root}/") for path in table["path"].to_pylist()]
    return list(zip(paths, table["label"].to_pylist(), table["split"].to_pylist(), strict=True))


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\xff\xd8\xff" + name.encode())
    return root


def test_labels_are_parent_folders_and_splits_are_above_them(tmp_path: Path) -> None:
    root = _touch(
        tmp_path / "fruits",
        "Training/Apple Red 1/a.jpg",
        "test/Apple Red 1/b.jpg",
        "VALIDATION/more/Kiwi/c.jpg",
        "Kiwi/d.jpg",
        "Train/e.jpg",
        "f.jpg",
        "train/Test/Plum/g.jpg",
    )
    assert _rows(_list(root), root) == [
        ("Kiwi/d.jpg", "Kiwi", None),
        ("Train/e.jpg", None, "train"),
        ("Training/Apple Red 1/a.jpg", "Apple Red 1", "train"),
        ("VALIDATION/more/Kiwi/c.jpg", "Kiwi", "validation"),
        ("f.jpg", "fruits", None),
        ("test/Apple Red 1/b.jpg", "Apple Red 1", "test"),
        ("train/Test/Plum/g.jpg", "Plum", "test"),
    ]
    assert _rows(_list(root / "Training/Apple Red 1"), root)[0][1:] == ("Apple Red 1", None)
    assert _rows(_list(root / "Train"), root)[0][1:] == (None, None)


def test_folders_above_the_source_do_not_tell_the_split(tmp_path: Path) -> None:
    root = _touch(tmp_path / "test" / "fruits", "Kiwi/a.jpg")
    assert _rows(_list(root), root) == [("Kiwi/a.jpg", "Kiwi", None)]


def test_the_collection_is_listed_whole(fruits: Path) -> None:
    listing = _list(fruits)
    table = listing.table
    assert table.num_rows == len(list(fruits.glob("T*/*/*.jpg")))
    assert listing.ignored == [str(fruits / "LICENSE")]
    assert set(table["split"].to_pylist()) == {"train", "test"}
    assert set(table["label"].to_pylist()) == {path.name for path in (fruits / "Training").iterdir()}
    first = Path(table["path"][0].as_py())
    assert table["size"][0].as_py() == first.stat().st_size
    assert table["version"][0].as_py() == str(first.stat().st_mtime_ns)


def test_names_of_other_things_are_looked_into_and_never_dropped_silently(tmp_path: Path) -> None:
    root = tmp_path / "src"
    (root / "Kiwi").mkdir(parents=True)
    others = ["LICENSE", "README.md", "Kiwi/labels.csv", "Kiwi/.DS_Store", "Kiwi/Thumbs.db", "_SUCCESS", "Kiwi/e.txt"]
    for name in others:
        (root / name).write_bytes(b"" if name.endswith(("_SUCCESS", "e.txt")) else b"some text")
    Image.new("RGB", (4, 4)).save(root / "Kiwi/photo.txt", "PNG")
    for name in ["Kiwi/no_extension", "Kiwi/broken.jpg", "Kiwi/_a.jpg", "Kiwi/.b.jpg", "Kiwi/empty.jpg"]:
        (root / name).write_bytes(b"" if "empty" in name else b"not an image")
    listing = _list(root)
    assert {row[0] for row in _rows(listing, root)} == {
        "Kiwi/photo.txt", "Kiwi/no_extension", "Kiwi/broken.jpg", "Kiwi/_a.jpg", "Kiwi/.b.jpg", "Kiwi/empty.jpg"
    }  # fmt: skip
    assert listing.ignored_count == len(others)
    assert sorted(listing.ignored) == sorted(f"{root}/{name}" for name in others)


def test_a_name_that_is_not_utf8_is_listed_and_can_be_read(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/p\xeache"
    os.mkdir(folder)  # noqa: PTH102
    with open(folder + b"/\xe9.jpg", "wb") as file:  # noqa: PTH123
        file.write(b"1")
    for source in (str(tmp_path), os.fsdecode(folder)):
        table = _list(source).table
        assert table["label"].to_pylist() == ["p\\xeache"]
        assert read_path(table["path"][0].as_py()) == b"1"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*/Apple*/*.jpg", {"Training/Apple 1/a.jpg", "Training/Apple 2/b.jpg", "Test/Apple 1/c.jpg"}),
        ("Training/*", {"Training/Apple 1/a.jpg", "Training/Apple 2/b.jpg", "Training/Plum/d.jpg"}),
        ("**/a.jpg", {"Training/Apple 1/a.jpg"}),
        ("**/*.jpg", {"Training/Apple 1/a.jpg", "Training/Apple 2/b.jpg", "Training/Plum/d.jpg", "Test/Apple 1/c.jpg"}),
        ("Training/Apple [!2]", {"Training/Apple 1/a.jpg"}),
        ("T*/{Plum,Apple 2}", {"Training/Plum/d.jpg", "Training/Apple 2/b.jpg"}),
        ("Test/Apple ?/c.jpg", {"Test/Apple 1/c.jpg"}),
    ],
)
@pytest.mark.parametrize("place", ["local", "s3"])
def test_patterns_choose_files_or_whole_folders(
    pattern: str, found: set[str], place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    names = ["Training/Apple 1/a.jpg", "Training/Apple 2/b.jpg", "Test/Apple 1/c.jpg", "Training/Plum/d.jpg"]
    s3 = S3Options()
    root = str(tmp_path)
    if place == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        s3, root = server.options, f"s3a://{server.bucket()}/set"
    for name in names:
        open_storage(root, s3).write(name, b"x")
    listing = list_images(f"{root}/{pattern}", s3, limit=None, labels=None, seed=0)
    rows = _rows(listing, root)
    assert {row[0] for row in rows} == found
    assert all(label == path.split("/")[1] for path, label, _ in rows)


def test_a_folder_that_looks_like_a_pattern_is_a_folder(tmp_path: Path) -> None:
    root = _touch(tmp_path, f"{ODD_FOLDER}/a.jpg", "Training/Pomme/b.jpg")
    assert [row[1] for row in _rows(_list(root / ODD_FOLDER), root)] == [ODD_FOLDER.split("/")[1]]


def test_a_single_image_is_a_source(tmp_path: Path) -> None:
    root = _touch(tmp_path, "Kiwi/a.jpg", "Kiwi/b.jpg")
    assert _rows(_list(root / "Kiwi/a.jpg"), root) == [("Kiwi/a.jpg", "Kiwi", None)]


def test_what_is_not_there_is_told(tmp_path: Path, s3_server: "S3Server") -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for source, message in [
        (tmp_path / "nowhere", "does not exist"),
        (empty, "holds no image"),
        (tmp_path / "*/none", "holds no image"),
        (tmp_path / "[z-a]", "cannot be understood"),
        (_touch(tmp_path / "other", "x").joinpath("README.txt"), "does not exist"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            _list(source)
        assert str(tmp_path) in str(error.value) or "pattern" in str(error.value)
        assert "\n" not in str(error.value)
    (empty / "README").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"only 1 other files such as .*README"):
        _list(empty)
    with pytest.raises(UsageError):
        _list("hdfs://host/x")
    for url, message in [("s3a://no-such-bucket/x", "does not exist"), (f"s3a://{s3_server.bucket()}/x", "no objects")]:
        with pytest.raises(InputError, match=message):
            list_images(url, s3_server.options, limit=None, labels=None, seed=0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_not_skipped(tmp_path: Path) -> None:
    _touch(tmp_path, "Kiwi/a.jpg", "Plum/b.jpg")
    (tmp_path / "Kiwi").chmod(0)
    with pytest.raises(StorageError, match="Kiwi"):
        _list(tmp_path)


def test_a_bucket_is_listed_as_a_folder_is(s3_server: "S3Server") -> None:
    bucket = s3_server.bucket()
    root = f"s3a://{bucket}"
    storage = open_storage(root, s3_server.options)
    names = [f"{ODD_FOLDER}/a b.jpg", "Test/Kiwi/é+%20.jpg", "top.jpg"]
    for name in [*names, "LICENSE"]:
        storage.write(name, b"text")
    for url in (root, f"s3://{bucket}/"):
        listing = list_images(url, s3_server.options, limit=None, labels=None, seed=0)
        assert _rows(listing, root) == [
            (names[1], "Kiwi", "test"),
            (names[0], ODD_FOLDER.split("/")[1], "train"),
            ("top.jpg", None, None),
        ]
        assert listing.ignored == [f"{root}/LICENSE"]
        assert None not in listing.table["version"].to_pylist()
    one = list_images(f"{root}/{names[1]}", s3_server.options, limit=None, labels=None, seed=0)
    assert _rows(one, root) == [(names[1], "Kiwi", None)]


# Manifests


def test_a_manifest_names_images_labels_and_splits(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    (root / "list.csv").write_text(
        '\ufeffPath,Label,Split\n"a, b.jpg",Kiwi,TRAIN\nx/../c.jpg,,\n/abs/d.jpg,"Pomme ""d\'été""",testing\n'
        "s3://bucket/k#+%20.jpg,Plum,val\n",
        encoding="utf-8",
    )
    data = (root / "list.csv").read_bytes()
    (root / "list.csv.gz").write_bytes(gzip.compress(data))
    for name in ("list.csv", "list.csv.gz"):
        assert _rows(_list(root / name), root) == [
            ("/abs/d.jpg", 'Pomme "d\'été"', "test"),
            ("a, b.jpg", "Kiwi", "train"),
            ("c.jpg", None, None),
            ("s3a://bucket/k#+%20.jpg", "Plum", "validation"),
        ]


def test_without_columns_for_them_folders_tell_label_and_split(tmp_path: Path) -> None:
    table = pa.table({"path": ["Training/Kiwi/a.jpg", "Plum/b.jpg", "/else/Fig/c.jpg"], "size": [7, None, 9]})
    pq.write_table(table, tmp_path / "list.parquet")
    listing = _list(tmp_path / "list.parquet")
    assert _rows(listing, tmp_path) == [
        ("/else/Fig/c.jpg", "Fig", None),
        ("Plum/b.jpg", "Plum", None),
        ("Training/Kiwi/a.jpg", "Kiwi", "train"),
    ]
    assert listing.table["size"].to_pylist() == [9, None, 7]


def test_a_path_listed_twice_is_merged_or_refused(tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,label\na.jpg,Kiwi\na.jpg,Kiwi\n./a.jpg,Kiwi\nb.jpg,Fig\n")
    listing = _list(manifest)
    assert (listing.table.num_rows, listing.duplicates) == (2, 2)
    manifest.write_text("path,label\na.jpg,Kiwi\na.jpg,Fig\n")
    with pytest.raises(InputError, match=r"a\.jpg twice"):
        _list(manifest)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,label\na.jpg,Kiwi\n", "no column 'path', only file, label"),
        (b"path,split\na.jpg,somewhere\n", "somewhere"),
        (b"path,label\na.jpg,Kiwi\n,Fig\n", "row 2"),
        (b"path,label\na.jpg\n", "cannot be read"),
        (b"\x1f\x8bbroken", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"", "no image"),
        (b"path\n", "no image"),
    ],
)
def test_a_manifest_that_is_wrong_is_told_in_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        _list(tmp_path / "list.csv")
    assert "\n" not in str(error.value)
    (tmp_path / "list.parquet").write_bytes(content)
    with pytest.raises(InputError):
        _list(tmp_path / "list.parquet")


@pytest.mark.parametrize("form", ["headerless", "header", "parquet"])
def test_an_s3_inventory_is_a_manifest(s3_server: "S3Server", tmp_path: Path, form: str) -> None:
    bucket = s3_server.bucket()
    storage = open_storage(f"s3a://{bucket}", s3_server.options)
    storage.write("LICENSE", b"text")
    etag = "d41d8cd98f00b204e9800998ecf8427e"
    keys = ["Training/Kiwi+x/a b%.jpg", "Training/", "LICENSE"]
    if form == "parquet":
        columns = {"bucket": [bucket] * 3, "key": keys, "size": [5, 0, 4], "e_tag": [etag] * 3}
        pq.write_table(pa.table(columns), tmp_path / "list.parquet")
        source = tmp_path / "list.parquet"
    else:
        encoded = ["Training/Kiwi%2Bx/a+b%25.jpg", "Training/", "LICENSE"]
        lines = [
            f'"{bucket}","{key}","{n}","2026-01-01T00:00:00.000Z","{etag}"'
            for key, n in zip(encoded, (5, 0, 4), strict=True)
        ]
        if form == "header":
            lines.insert(0, "Bucket,Key,Size,LastModifiedDate,ETag")
        source = tmp_path / "list.csv.gz"
        source.write_bytes(gzip.compress("\n".join(lines).encode()))
    listing = list_images(str(source), s3_server.options, limit=None, labels=None, seed=0)
    assert _rows(listing, f"s3a://{bucket}") == [(keys[0], "Kiwi+x", "train")]
    assert listing.table.select(["size", "version"]).to_pylist() == [{"size": 5, "version": etag}]
    assert listing.ignored == [f"s3a://{bucket}/LICENSE"]


def test_old_versions_in_an_inventory_are_left_out(tmp_path: Path) -> None:
    rows = [("a.jpg", "true", "false"), ("b.jpg", "false", "false"), ("c.jpg", "true", "true")]
    text = "".join(f'"bucket","Kiwi/{key}","version","{latest}","{deleted}","12"\n' for key, latest, deleted in rows)
    (tmp_path / "list.csv").write_text(text)
    assert _rows(_list(tmp_path / "list.csv"), "s3a://bucket") == [("Kiwi/a.jpg", "Kiwi", None)]


# Labels and limits


def test_labels_choose_and_a_wrong_one_names_its_neighbours(tmp_path: Path) -> None:
    root = _touch(tmp_path, "Kiwi/a.jpg", "Plum/b.jpg", "Apple Red/c.jpg")
    assert [row[1] for row in _rows(_list(root, labels=["Plum", "Kiwi"]), root)] == ["Kiwi", "Plum"]
    with pytest.raises(InputError, match=r"'kiwi'.*did you mean 'Kiwi'\?"):
        _list(root, labels=["kiwi"])
    with pytest.raises(InputError, match="3 labels are Apple Red, Kiwi, Plum"):
        _list(root, labels=["zzzzzz"])


def test_a_limit_is_shared_out_by_label_and_split_and_repeats(tmp_path: Path) -> None:
    names = [f"Training/Kiwi/{n}.jpg" for n in range(60)] + [f"Test/Kiwi/{n}.jpg" for n in range(20)]
    names += [f"Training/Plum/{n}.jpg" for n in range(30)] + [f"Test/Plum/{n}.jpg" for n in range(10)]
    root = _touch(tmp_path, *names, "Training/Fig/1.jpg", "Test/Fig/2.jpg")
    rows = _rows(_list(root, limit=42), root)
    counts = {key: sum(row[1:] == key for row in rows) for key in {row[1:] for row in rows}}
    assert len(rows) == 42
    assert counts["Fig", "train"] == counts["Fig", "test"] == 1
    assert abs(counts["Kiwi", "train"] - 20) <= 1
    assert abs(counts["Plum", "test"] - 3.3) <= 1
    assert rows == _rows(_list(root, limit=42), root)
    assert rows != _rows(_list(root, limit=42, seed=1), root)
    assert [row[1] for row in _rows(_list(root, limit=3), root)].count("Fig") == 1
    assert {row[1:] for row in _rows(_list(root, limit=6), root)} == set(counts)
    assert _list(root, limit=1000).table.num_rows == len(names) + 2
