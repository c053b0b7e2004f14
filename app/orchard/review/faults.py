"""Faults of images as rows of one schema, and their ranked list."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard.images.selection import codes
from orchard.layout import ESCAPED, FORMULA, SUSPECTS, Fault, ReviewMetrics, Suspect
from orchard.review.judging import MOST, Judged

SHOWN = 200
"""Number of suspects that the metrics list."""

_MAD = 1.4826  # a normal distribution's standard deviation over its median absolute deviation
_FAR = 3.5  # standard deviations, as Iglewicz & Hoaglin (1993, "How to Detect and Handle Outliers") advise
_LEAST = 8  # images of a label that have a median of their own
_BLURRED, _DARK = 0.25, 0.5  # share of the label's median below which an image may be blurred, or dark
_FLAT, _BLACK = 1.0, 0.05  # below which it is, whatever the others are

FAULTS = pa.schema(
    [
        pa.field("path", pa.string()),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("suggested", pa.string()),
        pa.field("fault", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("like", pa.string()),
    ]
)


def _faults(fault: Fault, images: pa.Table, **columns: object) -> pa.Table:
    """Return rows of `FAULTS` of images (``path, label, split``); what is not given is null."""
    given = {name: images[name] for name in ("path", "label", "split")} | columns
    given["fault"] = pa.repeat(pa.scalar(str(fault)), images.num_rows)
    nothing = pa.nulls(images.num_rows)
    arrays = [given.get(field.name, nothing) for field in FAULTS]
    typed = [
        array.cast(field.type) if isinstance(array, pa.Array | pa.ChunkedArray) else pa.array(array, field.type)
        for array, field in zip(arrays, FAULTS, strict=True)
    ]
    return pa.table(typed, schema=FAULTS)


def same_images(images: pa.Table) -> pa.Table:
    """Return rows of `FAULTS` for images whose bytes another image has under another label.

    Args:
        images: ``path, label, split, digest`` of the featurized images of the inventory.
    """
    known = images.filter(pc.and_(pc.is_valid(images["digest"]), pc.is_valid(images["label"])))
    labels = known.group_by("digest").aggregate([("label", "count_distinct")])
    twice = labels.filter(pc.greater(labels["label_count_distinct"], 1))["digest"]
    rows = known.filter(pc.is_in(known["digest"], twice.combine_chunks())).sort_by("path").combine_chunks()
    first: dict[str, dict[str, tuple[str, str]]] = {}  # digest -> label -> path and label
    for row in rows.select(["path", "label", "digest"]).to_pylist():
        first.setdefault(row["digest"], {}).setdefault(row["label"], (row["path"], row["label"]))
    like = [
        next(path for label, (path, _) in first[row["digest"]].items() if label != row["label"])
        for row in rows.select(["label", "digest"]).to_pylist()
    ]
    return _faults(Fault.SAME_IMAGE, rows, like=like, score=np.ones(len(like)))


def wrong_labels(judged: Judged) -> pa.Table:
    """Return rows of `FAULTS` for images that another label fits better, the smallest margins first.

    The score is the confidence in the suggested label, divided by the sum of the confidences in both labels. None of
    the scores that were tried (confidence in the label, at several temperatures, and margin) found wrong labels better
    than the margin.
    """
    rows = judged.doubted
    margin = np.asarray(rows["margin"], np.float64)
    return _faults(Fault.LABEL, rows, suggested=rows["suggested"], score=1 / (1 + np.exp(np.maximum(margin, -700))))


def outliers(judged: Judged) -> pa.Table:
    """Return rows of `FAULTS` for images that resemble no label; the score is 1 minus their familiarity."""
    rows = judged.strange
    return _faults(Fault.OUTLIER, rows, score=1 - np.clip(np.asarray(rows["familiarity"]), 0, 1))


def twins_of_other_labels(images: pa.Table, pairs: pa.Table) -> pa.Table:
    """Return rows of `FAULTS` for images with a near twin under another label.

    Args:
        images: ``path, label, split`` of the inventory.
        pairs: of `orchard.review.clusters.PAIRS`, the nearest of each image first.
    """
    labels = codes(images["label"])
    is_labelled = np.asarray(images["label"].is_valid())
    mine, other = (np.asarray(pairs[name], np.int64) for name in ("image", "like"))
    differ = np.flatnonzero((labels[mine] != labels[other]) & is_labelled[mine] & is_labelled[other])
    _, first = np.unique(mine[differ], return_index=True)
    at = differ[first]  # of each image the first pair, which is the nearest
    pairs = pairs.take(pa.array(at))
    rows, like = images.take(pairs["image"]), images["path"].take(pairs["like"])
    return _faults(Fault.NEAR_TWIN, rows, like=like, score=np.clip(np.asarray(pairs["similarity"]), 0, 1))


def poor_pictures(images: pa.Table) -> pa.Table:
    """Return rows of `FAULTS` for images that are blurred or dark, compared with others of their label.

    Args:
        images: ``path, label, split, brightness, sharpness``; those without figures are left out.
    """
    found = [FAULTS.empty_table()]
    for fault, column, share, least in (
        (Fault.BLURRED, "sharpness", _BLURRED, _FLAT),
        (Fault.DARK, "brightness", _DARK, _BLACK),
    ):
        known = images.filter(pc.is_valid(images[column]))
        values = np.asarray(known[column], np.float64)
        is_low, usual = _low(values, codes(known["label"]), share, least)
        at = np.flatnonzero(is_low)
        score = 1 - values[at] / np.maximum(usual[at], least)
        found.append(_faults(fault, known.take(pa.array(at)), score=np.clip(score, 0, 1)))
    return pa.concat_tables(found)


def _low(
    values: NDArray[np.float64], labels: NDArray[np.int64], share: float, least: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which values (n,) are below `least`, or far below those of their label, and the label's median."""
    if not len(values):
        return np.zeros(0, bool), values
    logs = np.log(np.maximum(values, 1e-6))
    middle, deviation = np.full(len(values), np.median(logs)), np.full(len(values), _spread_of(logs))
    order = np.argsort(labels, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        if len(rows) >= _LEAST:
            middle[rows], deviation[rows] = np.median(logs[rows]), _spread_of(logs[rows])
    is_far = (logs < middle - _FAR * deviation) & (logs < middle + np.log(share))
    return is_far | (values < least), np.exp(middle)


def _spread_of(values: NDArray[np.float64]) -> float:
    return float(_MAD * np.median(np.abs(values - np.median(values))))


def rank(faults: pa.Table) -> pa.Table:
    """Return rows of `SUSPECTS`: each image once, with its gravest fault; grave faults first, high scores first.

    Args:
        faults: of `FAULTS`; of each fault the `MOST` highest scores are taken.
    """
    order = {str(fault): place for place, fault in enumerate(Fault)}
    kept = [FAULTS.empty_table()]
    for fault in order:
        of_fault = faults.filter(pc.equal(faults["fault"], fault))
        # Python's sort and the merges keep what is equal in order: of equal scores the smaller margin stays first.
        at = np.argsort(-np.asarray(of_fault["score"], np.float64), kind="stable")[:MOST]
        kept.append(of_fault.take(pa.array(at)))
    rows = pa.concat_tables(kept).to_pylist()
    images: dict[str, dict[str, Any]] = {}
    for row in rows:
        first = images.setdefault(row["path"], row | {"also": []})
        if first["fault"] != row["fault"]:
            first["also"].append(row["fault"])
        for name in ("suggested", "like"):
            first[name] = first[name] or row[name]
    listed = [image | {"also": " ".join(image["also"]) or None} for image in images.values()]
    return pa.Table.from_pylist(listed, SUSPECTS)


def summary(faults: pa.Table, suspects: pa.Table, judged: int) -> ReviewMetrics:
    """Return the review's part of the metrics.

    Args:
        faults: all faults.
        suspects: the ranked list of suspects.
        judged: number of images whose label was judged.
    """
    counts = {row["values"]: row["counts"] for row in pc.value_counts(faults["fault"]).to_pylist()}
    place = codes(suspects["fault"])
    within = np.zeros(len(place), np.int64)
    for code in range(int(place.max(initial=-1)) + 1):
        within[place == code] = np.arange((place == code).sum())
    first = suspects.take(pa.array(np.sort(np.argsort(within, kind="stable")[:SHOWN])))
    return ReviewMetrics(
        judged=judged,
        images=suspects.num_rows,
        faults={str(fault): counts[fault] for fault in Fault if fault in counts},
        first=[
            Suspect(
                path=row["path"],
                label=row["label"],
                suggested=row["suggested"],
                fault=row["fault"],
                score=round(row["score"], 4),
                also=(row["also"] or "").split(),
                split=row["split"],
                like=row["like"],
            )
            for row in first.to_pylist()
        ],
    )


def as_csv(suspects: pa.Table) -> bytes:
    """Return rows of `SUSPECTS` as CSV; what a spreadsheet would take for a formula begins with an apostrophe."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SUSPECTS.names)
    for row in suspects.to_pylist():
        cells = (
            "" if value is None else f"{value:.4f}" if isinstance(value, float) else value for value in row.values()
        )
        writer.writerow([re.sub(FORMULA, r"'\g<0>", cell) for cell in cells])
    return text.getvalue().encode()


def from_csv(data: bytes) -> pa.Table:
    """Return the rows of `SUSPECTS` that `as_csv` wrote."""
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    cells = [[ESCAPED.sub("", row[name]) or None for row in rows] for name in SUSPECTS.names]
    return pa.table([pa.array(column, pa.string()) for column in cells], SUSPECTS.names).cast(SUSPECTS)
