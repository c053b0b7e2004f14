"""A source's images, labels and splits are found wherever they lie and whatever they are called."""

import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from orchard.errors import InputError, StorageError, UsageError
from orchard.images.sources import Listing, check_apart, list_images, list_selected
from orchard.layout import LISTING
from orchard.settings import Settings
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


def test_labels_that_differ_in_capitals_or_blanks_alone_are_named(tmp_path: Path) -> None:
    for label in ("Apple", "apple", "Red plum", "red  plum", "Pear"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.jpg").write_bytes(b"\xff\xd8\xff" + label.encode())
    told = list_images(str(tmp_path), S3Options(), limit=None, labels=None, seed=0).warnings
    assert told == [
        "Labels that differ in capitals or blanks alone: 'Apple' and 'apple' (and 1 more likewise); "
        "give them one name, if they are the same."
    ]
    told = list_images(str(tmp_path), S3Options(), limit=None, labels=["apple", "Pear"], seed=0).warnings
    assert told == []


def test_a_name_that_is_shown_as_another_file_is_called_is_told_and_listed_once(tmp_path: Path) -> None:
    (tmp_path / "Kiwi").mkdir()
    for name in (b"odd\xff.jpg", b"odd\\xff.jpg", b"1.jpg"):
        (tmp_path / "Kiwi" / os.fsdecode(name)).write_bytes(b"\xff\xd8\xff" + name)
    found = list_images(str(tmp_path), S3Options(), limit=None, labels=None, seed=0)
    assert sorted(found.table["path"].to_pylist()) == [f"{tmp_path}/Kiwi/1.jpg", rf"{tmp_path}/Kiwi/odd\xff.jpg"]
    assert found.ignored_count == 1
    assert "only the former is read; rename the other" in found.warnings[0]


NO_TEST = "There are labelled images for validation but none for testing, so the former are for testing."


@pytest.mark.parametrize("name", ["val", "Validation", "dev", "valid_set"])
def test_what_is_for_validation_measures_where_nothing_is_for_testing(name: str, tmp_path: Path) -> None:
    train = "train_set" if name.endswith("set") else "train"
    root = _touch(tmp_path / "photos", f"{train}/Kiwi/a.jpg", f"{name}/Kiwi/b.jpg")
    found = list_images(str(root), S3Options(), limit=None, labels=None, seed=0)
    assert found.table["split"].to_pylist() == (["train", "test"] if train < name else ["test", "train"])
    assert found.warnings == [NO_TEST]
    _touch(root, "test/c.jpg")  # without a label, as of a competition
    found = list_images(str(root), S3Options(), limit=None, labels=None, seed=0)
    assert "validation" not in found.table["split"].to_pylist()
    _touch(root, "test/Kiwi/d.jpg")
    found = list_images(str(root), S3Options(), limit=None, labels=None, seed=0)
    assert "validation" in found.table["split"].to_pylist()
    assert found.warnings == []


def test_what_a_manifest_has_for_validation_measures_where_nothing_is_for_testing(tmp_path: Path) -> None:
    rows = "a.jpg,Kiwi,train\nb.jpg,Kiwi,validation\nc.jpg,,test\n"
    (tmp_path / "list.csv").write_text(f"path,label,split\n{rows}")
    found = list_images(str(tmp_path / "list.csv"), S3Options(), limit=None, labels=None, seed=0)
    assert found.table["split"].to_pylist() == ["train", "test", "test"]
    assert found.warnings == [NO_TEST]


def test_of_several_sources_one_may_have_the_images_for_testing(tmp_path: Path) -> None:
    studio = _touch(tmp_path / "studio", "train/Kiwi/a.jpg", "val/Kiwi/b.jpg")
    market = _touch(tmp_path / "market", "test/Kiwi/c.jpg")
    found = list_images([str(studio), str(market)], S3Options(), limit=None, labels=None, seed=0)
    assert found.table["split"].to_pylist() == ["test", "train", "validation"]
    assert found.warnings == []


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
    for source in (str(tmp_path), os.fsdecode(folder), os.fsdecode(folder + b"/\xe9.jpg")):
        table = _list(source).table
        assert table["path"].to_pylist() == [f"{tmp_path}/p\\xeache/\\xe9.jpg"]
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


def test_archives_are_named_and_not_opened(tmp_path: Path) -> None:
    root = _touch(tmp_path / "photos", "Kiwi/a.jpg", "Kiwi/b.jpg")
    assert not _list(root).warnings
    for name, content in (("more.ZIP", b"PK\x03\x04"), ("Kiwi/rest.tar.gz", b"\x1f\x8b")):
        (root / name).write_bytes(content)
    assert _list(root).warnings == [
        f"2 archives such as {root}/Kiwi/rest.tar.gz were not opened: unpack what holds images."
    ]
    (root / "Kiwi/rest.tar.gz").unlink()
    assert _list(root).warnings == [f"The archive {root}/more.ZIP was not opened: unpack what holds images."]
    with pytest.raises(InputError, match=r"more\.ZIP is an archive, which Orchard does not open: unpack it"):
        _list(root / "more.ZIP")


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
    with pytest.raises(InputError, match=r"holds no image, only \S+/README: give"):
        _list(empty)
    with pytest.raises(InputError, match=r"README is neither an image nor a manifest: give .*\.csv"):
        _list(empty / "README")
    (empty / "part-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"only 2 other files .*named itself: .*/part-0\.parquet\."):
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_in_one_that_may_only_be_listed_is_not_skipped(tmp_path: Path) -> None:
    _touch(tmp_path, "Training/Kiwi/a.jpg", "Test/Plum/b.jpg")
    (tmp_path / "Training").chmod(0o444)
    try:
        with pytest.raises(StorageError, match="Kiwi"):
            _list(tmp_path)
    finally:
        (tmp_path / "Training").chmod(0o755)


def test_a_folder_whose_path_is_too_long_is_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, "Kiwi/a.jpg")
    monkeypatch.chdir(tmp_path)
    for _ in range(17):
        Path("d" * 250).mkdir()
        monkeypatch.chdir("d" * 250)
    Path("b.jpg").touch()
    with pytest.raises(StorageError, match="too long"):
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


# What is not looked into

IGNORED = [
    ".git",
    "Training/.ipynb_checkpoints",
    "@eaDir",
    "Training/Kiwi/@eaDir",
    "__MACOSX",
    "lost+found",
    ".Trash-1",
]


Place = tuple[str, S3Options]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a source may lie."""
    if request.param == "local":
        return str(tmp_path / "photos"), S3Options()
    server: S3Server = request.getfixturevalue("s3_server")
    return f"s3a://{server.bucket()}/photos", server.options


def _fill(place: Place, *names: str) -> None:
    for name in names:
        open_storage(*place).write(name, b"\xff\xd8\xff" + name.encode())


def _found(place: Place, output: str | None = None, source: str | None = None) -> tuple[Listing, set[str]]:
    root, s3 = place
    listing = list_images(source or root, s3, limit=None, labels=None, seed=0, output=output)
    return listing, {path.removeprefix(f"{root}/") for path in listing.table["path"].to_pylist()}


def test_folders_of_systems_are_named_and_their_images_are_nobodys(place: Place) -> None:
    _fill(
        place,
        "Training/Kiwi/a.jpg",
        "Training/Kiwi/.b.jpg",
        *(f"{folder}/deep/{n}.jpg" for folder in IGNORED for n in "12"),
    )
    listing, found = _found(place)
    assert found == {"Training/Kiwi/a.jpg", "Training/Kiwi/.b.jpg"}
    assert sorted(listing.ignored) == sorted(f"{place[0]}/{folder}/" for folder in IGNORED)
    assert listing.ignored_count == len(IGNORED)
    for source in (f"{place[0]}/.git", f"{place[0]}/*/.ipynb_checkpoints/**/*.jpg"):  # meant
        assert len(_found(place, source=source)[1]) == 2


def test_outputs_inside_the_source_are_not_listed(place: Place) -> None:
    images = ["Kiwi/a.jpg", "out2/a.jpg", "features/b.jpg"]
    output = [f"{name}/part.parquet" for name in ("features", "inventory")] + ["report.html", "x.jpg", "model/m.bin"]
    _fill(place, *images)
    _fill(
        place,
        *(f"{folder}/{name}" for folder in ("out", "deep/other") for name in ["_orchard/commits/1.json", *output]),
    )
    listing, found = _found(place, output=f"{place[0]}/out")
    assert found == set(images)
    assert (listing.ignored, listing.warnings) == ([f"{place[0]}/deep/other/"], [])
    _fill(place, *(f"own/{name}" for name in output))  # not begun
    assert _found(place, output=f"{place[0]}/own")[1] == set(images)


def test_of_a_source_that_once_took_results_the_images_are_listed(place: Place) -> None:
    _fill(place, "Kiwi/a.jpg", "_orchard/commits/1.json", "features/part.parquet", "model/backbone")
    assert _found(place)[1] == {"Kiwi/a.jpg"}


def test_an_inventory_leaves_out_what_a_listing_does(s3_server: "S3Server", tmp_path: Path) -> None:
    keys = ["Kiwi/a.jpg", ".git/b.jpg", "out/_orchard/commits/1.json", "out/features/c.jpg", "mine/d.jpg"]
    pq.write_table(pa.table({"bucket": ["b"] * 5, "key": keys, "e_tag": keys}), tmp_path / "list.parquet")
    listing, found = _found(("s3a://b", s3_server.options), "s3a://b/mine", str(tmp_path / "list.parquet"))
    assert found == {"Kiwi/a.jpg"}
    assert listing.ignored == ["s3a://b/.git/", "s3a://b/out/"]


def test_the_output_is_not_listed_whatever_way_leads_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _touch(tmp_path / "photos", "Kiwi/a.jpg", "out/features/b.jpg", "out/_orchard/c")
    (tmp_path / "way").symlink_to("photos")
    (root / "linked").symlink_to("out/features")
    (root / "again").symlink_to("../way")
    monkeypatch.chdir(root)
    for source in (str(root), str(tmp_path / "way"), "."):
        for output in ("out", str(root / "out"), str(tmp_path / "way/out"), f"file://{root}/out"):
            listing = list_images(source, S3Options(), limit=None, labels=None, seed=0, output=output)
            assert [Path(path).name for path in listing.table["path"].to_pylist()] == ["a.jpg"]


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("photos", "photos"),
        ("photos/", "photos/."),
        ("photos", "way"),
        ("way", "photos"),
        ("file:{root}/photos", "photos"),
        ("photos/*/*.jpg", "photos"),
        ("*/*/*.jpg", "."),
        ("new", "new"),
        ("s3a://b/photos", "s3://b/photos/"),
        ("s3a://b/photos/T*", "s3a://b/photos"),
        ("s3a://b", "s3a://b/"),
    ],
)
def test_results_are_not_written_among_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, output: str
) -> None:
    _touch(tmp_path / "photos", "Kiwi/a.jpg")
    (tmp_path / "way").symlink_to("photos")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is where the images are: choose another --output, such as a folder in it"):
        check_apart(source.format(root=tmp_path), output)


@pytest.mark.parametrize("source", [".", "way", "*", "{root}", "s3a://{bucket}", "s3://{bucket}/"])
def test_a_folder_of_the_source_with_images_is_no_new_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_server: "S3Server", source: str
) -> None:
    bucket = s3_server.bucket()
    monkeypatch.chdir(tmp_path)
    for root in (tmp_path, s3_server.root / bucket):
        _touch(root, "Kiwi/a.jpg", "photos/Lime/b.jpg", "photos/log.txt")
    (tmp_path / "way").symlink_to(".")
    source = source.format(root=tmp_path, bucket=bucket)
    output = f"s3a://{bucket}/photos" if "://" in source else "photos"
    with pytest.raises(UsageError, match=r"photos holds images, such as Lime/b.jpg, and nothing of an output is read"):
        list_selected(source, output, Settings(s3_endpoint=s3_server.endpoint, s3_region="us-east-1"))


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("photos", "photos/out"),
        ("photos/Kiwi", "photos"),
        (".", "out"),
        ("photos/list.csv", "photos"),
        ("photos/[x]", "photos"),
        ("s3a://b", "b"),
        ("s3a://b/photos", "s3a://b/photos/out"),
        ("s3a://b/photos", "s3a://b/photos2"),
    ],
)
def test_results_may_lie_in_a_folder_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, output: str
) -> None:
    _touch(tmp_path / "photos", "Kiwi/a.jpg", "list.csv", "[x]/a.jpg")
    monkeypatch.chdir(tmp_path)
    check_apart(source, output)


def test_composed_and_decomposed_folders_are_one_label(place: Place) -> None:
    composed, decomposed = "Pêche", unicodedata.normalize("NFD", "Pêche")
    names = [f"Training/{composed}/1.jpg", f"Test/{decomposed}/1.jpg"]
    _fill(place, *names, "Training/Kiwi/1.jpg")
    for wanted in (composed, decomposed):
        listing = list_images(*place, limit=None, labels=[wanted], seed=0)
        assert _rows(listing, place[0]) == [(names[1], composed, "test"), (names[0], composed, "train")]


def test_one_odd_file_is_a_row_and_stops_nothing(tmp_path: Path) -> None:
    root = _touch(tmp_path / "photos", "Kiwi/a.jpg")
    os.mkfifo(root / "Kiwi/pipe.jpg")
    os.mkfifo(root / "Kiwi/notes.txt")
    (root / "Kiwi/loop.jpg").symlink_to("loop.jpg")
    (root / "Kiwi/gone.jpg").symlink_to("nothing")
    listing = _list(root)
    assert [row[0] for row in _rows(listing, root)] == [f"Kiwi/{name}.jpg" for name in ("a", "gone", "loop", "pipe")]
    assert listing.ignored == [f"{root}/Kiwi/notes.txt"]
    assert _list(root / "Kiwi/pipe.jpg").table.num_rows == 1
    os.mkfifo(root / "list.csv")
    with pytest.raises(InputError, match=r"list\.csv cannot be read"):
        _list(root / "list.csv")


@pytest.mark.parametrize("level", [1, 2, 9])
def test_the_level_of_labels_is_a_setting(place: Place, level: int) -> None:
    _fill(place, "Training/Red/Apple/1.jpg", "Training/Green/Apple/1.jpg", "Test/Red/Apple/1.jpg")
    listing = list_images(*place, limit=None, labels=None, seed=0, label_level=level)
    assert set(listing.table["label"].to_pylist()) == ({"Apple"} if level == 1 else {"Red/Apple", "Green/Apple"})
    assert len(listing.warnings) == (level == 1)


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
