"""Lists of images are read as people write them; what is wrong with one is said in one sentence."""

import codecs
import gzip
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchard.errors import InputError
from orchard.images.sources import Listing, list_images
from orchard.storage import S3Options, open_storage

if TYPE_CHECKING:
    from conftest import S3Server


def _list(source: Path) -> Listing:
    return list_images(str(source), S3Options(), limit=None, labels=None, seed=0)


def _rows(listing: Listing, root: Path | str) -> list[tuple[str, str | None, str | None]]:
    table = listing.table
    paths = [path.removeprefix(f"{root}/") for path in table["path"].to_pylist()]
    return list(zip(paths, table["label"].to_pylist(), table["split"].to_pylist(), strict=True))


@pytest.mark.parametrize("stray", ['b.jpg,"5 inch', 'b.jpg,"5 inch\nc.jpg,"5 inch'], ids=["one", "two"])
def test_a_stray_quote_takes_no_images_away(tmp_path: Path, stray: str) -> None:
    (tmp_path / "list.csv").write_text(f"path,label\na.jpg,Kiwi\n{stray}\nd.jpg,Plum\ne.jpg,Plum\n")
    with pytest.raises(InputError, match="line 3 has a quote"):
        _list(tmp_path / "list.csv")


def test_quotes_that_end_their_value_may_hold_lines_and_quotes(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('path,label\na.jpg,"red\nKiwi"\nb.jpg,5" plum\nc.jpg,"a ""b"""\n')
    assert [label for _, label, _ in _rows(_list(tmp_path / "list.csv"), tmp_path)] == [
        "red\nKiwi",
        '5" plum',
        'a "b"',
    ]


def test_a_row_may_hold_more_than_its_reader_takes_at_once(tmp_path: Path) -> None:
    """As a column with thumbnails in base64 does."""
    (tmp_path / "list.csv").write_text(
        "path,note,thumbnail\n" + "".join(f'{n}.jpg,"two\nlines",{"A" * 2_500_000}\n' for n in range(3))
    )
    assert [path for path, _, _ in _rows(_list(tmp_path / "list.csv"), tmp_path)] == ["0.jpg", "1.jpg", "2.jpg"]


def test_a_table_that_is_only_a_header_lists_nothing_whether_its_line_ends_or_not(tmp_path: Path) -> None:
    for end in ("", "\n"):
        (tmp_path / "list.csv").write_text(f"path,label{end}")
        with pytest.raises(InputError, match="holds no image"):
            _list(tmp_path / "list.csv")


def test_a_number_that_is_missing_is_no_value_of_its_own(tmp_path: Path) -> None:
    """Pandas, NumPy and Spark write NaN for it, or null."""
    numbers = [1.0, float("nan"), None]
    table = pa.table(
        {"path": ["a.jpg", "b.jpg", "c.jpg"], "label": numbers, "ripe": numbers, "bag": numbers, "size": numbers}
    )
    pq.write_table(table, tmp_path / "list.parquet")
    listing = list_images(
        str(tmp_path / "list.parquet"),
        S3Options(),
        limit=None,
        labels=None,
        seed=0,
        label_columns=["ripe"],
        group_by="bag",
    ).table.to_pydict()
    assert listing["label"] == ["1", None, None]
    assert listing["label_columns"] == ['{"ripe":"1"}', None, None]
    assert listing["group"] == ["1", None, None]
    assert listing["size"] == [1, None, None]


def test_a_wide_table_is_read_in_a_time_that_grows_with_its_columns(tmp_path: Path) -> None:
    header, row = ",".join(f"c{n}" for n in range(4000)), ",".join("1" * 4000)
    (tmp_path / "list.csv").write_text(f"path,label,{header}\na.jpg,Kiwi,{row}\n")
    started = time.process_time()
    assert _rows(_list(tmp_path / "list.csv"), tmp_path) == [("a.jpg", "Kiwi", None)]
    assert time.process_time() - started < 3


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


@pytest.mark.parametrize("column", ["path", "label", "kind", "split", "series", "ripeness"])
def test_a_column_that_holds_no_text_is_named(tmp_path: Path, column: str) -> None:
    """The sentence was Arrow's, of a cast, and named no column."""
    rows = {"path": ["a.jpg"], "label": ["Kiwi"], "kind": ["Fruit"], "split": ["train"], "ripeness": ["ripe"]}
    rows["series"] = ["1"]
    pq.write_table(pa.table({**rows, column: [rows[column]]}), tmp_path / "list.parquet")
    with pytest.raises(InputError, match=rf"cannot be read \(its column '{column}' holds list<element: string>"):
        list_images(
            str(tmp_path / "list.parquet"),
            S3Options(),
            limit=None,
            labels=None,
            seed=0,
            group_by="series",
            label_columns=["ripeness"],
        )


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.large_string())])
def test_a_blank_path_is_told_of_text_of_any_type(tmp_path: Path, kind: pa.DataType) -> None:
    """As pandas and polars write text: a path of blanks was a path."""
    table = pa.table({"path": pa.array(["a.jpg", " "], pa.string()).cast(kind), "label": ["Kiwi", "Fig"]})
    pq.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(InputError, match="no path in row 2"):
        _list(tmp_path / "list.parquet")


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


@pytest.mark.parametrize("above", ["/data/test/fruits", "/mnt/Training", "s3a://test-data", "s3a://b/val", "../test"])
def test_folders_above_all_images_of_a_manifest_do_not_tell_the_split(tmp_path: Path, above: str) -> None:
    def found(*paths: str) -> list[tuple[str | None, str | None]]:
        (tmp_path / "list.csv").write_text("\n".join(["path", *(f"{above}/{path}" for path in paths)]))
        return sorted(row[1:] for row in _rows(_list(tmp_path / "list.csv"), above))

    assert found("Kiwi/a.jpg", "Fig/b.jpg") == [("Fig", None), ("Kiwi", None)]
    assert found("Kiwi/a.jpg") == [("Kiwi", None)]
    assert found("train/Kiwi/a.jpg", "test/Kiwi/b.jpg") == [("Kiwi", "test"), ("Kiwi", "train")]


TABLE = [["path", "label", "split", "size"], ["a, b.jpg", "Pêche", "train", "7"], ["c.jpg", "Kiwi\n2", "", ""]]


def _csv(delimiter: str = ",", end: str = "\n", quoted: bool = False) -> str:
    def value(text: str) -> str:
        return f'"{text}"' if quoted or any(odd in text for odd in (delimiter, "\n")) else text

    return "".join(delimiter.join(map(value, row)) + end for row in TABLE)


@pytest.mark.parametrize(
    "content",
    [
        _csv().encode(),
        codecs.BOM_UTF8 + _csv(end="\r\n").encode(),
        codecs.BOM_UTF8 + _csv(";", quoted=True).encode(),
        codecs.BOM_UTF16_LE + _csv("\t").encode("utf-16-le"),
        codecs.BOM_UTF16_BE + _csv(";", "\r\n").encode("utf-16-be"),
        _csv("|").encode(),
        b"sep=;\r\n" + _csv(";", "\r\n").encode(),
        b"\r\n\n" + _csv(end="\n\n").encode() + b",,,\n\n",
        _csv().encode() + b" , ,\t,\n",
        _csv().replace("path,label", " PATH , Label").encode(),
        _csv().replace("Pêche", "Pe\u0302che ").encode(),
        gzip.compress(_csv("\t").encode()),
        _csv(end=",,\n").encode(),
        _csv().replace("size\n", '"size\n"\n').encode(),
    ],
    ids=[
        *("plain", "bom", "excel", "utf-16", "utf-16 be", "bars", "sep", "empty lines", "blanks", "capitals"),
        *("nfd", "gzip", "unnamed columns", "lines in a name"),
    ],
)
@pytest.mark.parametrize("name", ["list.csv", "list.TSV"])
def test_a_manifest_is_read_as_spreadsheets_and_editors_write_it(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    listing = _list(tmp_path / name)
    assert _rows(listing, tmp_path) == [("a, b.jpg", "Pêche", "train"), ("c.jpg", "Kiwi\n2", None)]
    assert listing.table["size"].to_pylist() == [7, None]


def test_paths_of_windows_are_read_unless_files_are_named_so(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\nTraining\\Kiwi\\a.jpg\nTest\\Kiwi\\b.jpg\n")
    assert _rows(_list(tmp_path / "list.csv"), tmp_path) == [
        ("Test/Kiwi/b.jpg", "Kiwi", "test"), ("Training/Kiwi/a.jpg", "Kiwi", "train")
    ]  # fmt: skip
    (tmp_path / "Training\\Kiwi\\a.jpg").write_bytes(b"1")
    assert "Training\\Kiwi\\a.jpg" in {row[0] for row in _rows(_list(tmp_path / "list.csv"), tmp_path)}


def test_addresses_that_are_not_read_stay_as_they_are_for_a_row(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\nhttp://host/a.jpg,Kiwi\ngs://b/a.jpg,Kiwi\na.jpg,Kiwi\n")
    assert {row[0] for row in _rows(_list(tmp_path / "list.csv"), tmp_path)} == {
        "http://host/a.jpg", "gs://b/a.jpg", "a.jpg"
    }  # fmt: skip


def test_addresses_of_files_are_decoded_unless_files_are_named_so(tmp_path: Path) -> None:
    folder = tmp_path / "Red apples"
    folder.mkdir()
    (folder / "100%25.jpg").write_bytes(b"1")
    address = f"file://{tmp_path}/Red%20apples"
    rows = [f"{address}/p%C3%AAche%20%231.jpg", f"file://{folder}/a%20b.jpg", f"file:{folder}/100%25.jpg"]
    (tmp_path / "list.csv").write_text("\n".join(["path", *rows]))
    assert {row[:2] for row in _rows(_list(tmp_path / "list.csv"), folder)} == {
        ("pêche #1.jpg", "Red apples"), ("a b.jpg", "Red apples"), ("100%25.jpg", "Red apples")
    }  # fmt: skip


def test_folders_say_what_columns_do_not(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\nseg_train/Red/Apple/a.jpg\nseg_test/Green/Apple/b.jpg\n")
    listing = _list(tmp_path / "list.csv")
    assert [row[1:] for row in _rows(listing, tmp_path)] == [("Apple", "test"), ("Apple", "train")]
    assert "--label-level 2" in listing.warnings[0]
    rows = "path,label,split\ntrain_images/Red/Apple/a.jpg,x,train\nGreen/Apple/b.jpg,y,dev\nc.jpg,z,test\n"
    (tmp_path / "list.csv").write_text(rows)
    listing = _list(tmp_path / "list.csv")
    assert [row[1:] for row in _rows(listing, tmp_path)] == [("y", "validation"), ("z", "test"), ("x", "train")]
    assert not listing.warnings


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
        (b"path,label\na.jpg,Kiwi\n ,Fig\n", "no path in row 2"),
        (b'path,label\n"a\nb.jpg",Kiwi\n\nc.jpg\n', "line 5 has 1 value, and the first row 2"),
        (b"\nsep=;\npath;label\na;b;c\n", "line 4 has 3 values, and the first row 2"),
        (b"\x1f\x8bbroken", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"path,size\na.jpg,7\nb.jpg,12 kB\n", "the size '12 kB' in row 2: give bytes as a whole number"),
        (b"path,size\na.jpg,-1\n", "the size '-1' in row 1"),
        (b"path,path\na.jpg,b.jpg\n", "two columns 'path'"),
        ("path,label\na.jpg,Pêche\n".encode("latin-1"), "cannot be read as UTF-8"),
        ("path\na.jpg\n".encode("utf-16-le"), "null characters; .* save it as UTF-8"),
        (b"path,label\na.jpg,Kiwi\na.jpg,Fig\n", "twice, with different labels"),
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
