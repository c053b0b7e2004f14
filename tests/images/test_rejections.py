"""The commonest kinds of rejected images are counted, and each is told with what to do."""

import pyarrow as pa

from orchard.images.content import describe
from orchard.images.decoding import Limits, Rejection, decode
from orchard.images.rejections import commonest_kinds, sentence
from orchard.vocabulary import Reason


def test_kinds_are_counted_by_what_they_look_like() -> None:
    contents = [b"version https://git-lfs.github.com/spec/v1"] * 38 + [b"<html>"] * 3 + [b""] * 2
    contents += [bytes([200 + n, 1, 2, 3]) for n in range(4)] + [b"GIF89a\x01"]
    rejections = [decode(content, 224, Limits()) for content in contents]
    rows = [{"reason": r.reason, "detail": r.detail} for r in rejections if isinstance(r, Rejection)]
    rows += [{"reason": Reason.UNREADABLE, "detail": "Permission denied"}] * 5
    kinds = commonest_kinds(pa.Table.from_pylist(rows))
    assert [(kind["kind"], kind["images"]) for kind in kinds] == [
        ("a Git LFS pointer", 38),
        ("unreadable (Permission denied)", 5),
        ("unknown data", 4),
        ("an HTML page", 3),
        ("empty", 2),
    ]
    assert sentence(kinds[0]) == "38 x a Git LFS pointer: run `git lfs pull`"
    assert all(kind["remedy"] for kind in kinds)


def test_who_raises_a_limit_is_told_that_the_images_are_to_be_tried_again() -> None:
    reasons = [Reason.TOO_LARGE, Reason.TOO_MANY_PIXELS, Reason.TOO_SLOW]
    kinds = commonest_kinds(pa.table({"reason": reasons, "detail": [""] * 3}))
    assert all("raise --max" in kind["remedy"] and "--retry-rejected" in kind["remedy"] for kind in kinds)


def test_no_rejection_is_no_kind() -> None:
    assert commonest_kinds(pa.table({"reason": pa.array([], pa.string()), "detail": pa.array([], pa.string())})) == []


def test_a_description_is_bounded_in_time_whatever_the_bytes() -> None:
    for piece in (b"<!--", b"<!-- -->", b"<?xml >", b"<!doctype svg ", b" ", b"../", b"[", b"\xef\xbb\xbf"):
        assert ": " in describe(piece * 500)


def test_a_byte_that_no_text_has_is_not_called_text() -> None:
    """An erased memory card reads as 0xFF."""
    assert describe(b"\xff" * 3000).startswith("unknown data")
    assert describe(b"caf\xe9 " * 100).startswith("unknown data")
    assert describe("é".encode() * 3000).startswith("text")
    assert describe(b"a" + "é".encode() * 3000).startswith("text")
