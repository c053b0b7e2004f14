"""Bounded samples of an output's datasets: points to draw, mistakes to show, rejections to explain."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orchard.files import open_parquet
from orchard.layout import Dataset, Split

if TYPE_CHECKING:
    from orchard.output import Output

MAX_POINTS = 1_200  # more would hide one another
MAX_MISTAKES = 48
MAX_MISTAKES_OF_A_KIND = 4
MAX_REJECTIONS_PER_REASON = 5

_BATCH_ROWS = 16_384
_SMALLEST_SHARE = 5  # points of every label, however rare, as long as they fit


@dataclass(frozen=True)
class Point:
    """An image in the plane of the first two principal components."""

    path: str
    label: str
    split: str
    pc1: float
    pc2: float | None  # None if there is only one component


@dataclass(frozen=True)
class Mistake:
    """A test image that a classifier took for something else."""

    path: str
    label: str
    predicted: str
    confidence: float  # 0..1


@dataclass(frozen=True)
class Rejection:
    """An image that did not become features, and why."""

    path: str
    reason: str
    detail: str


def quotas(counts: Mapping[str, int], limit: int) -> dict[str, int]:
    """Share ``limit`` among labels by size, after a few for each; the sum is at most ``limit``."""
    if not counts:
        return {}
    floor = min(_SMALLEST_SHARE, limit // len(counts))
    rest, total = limit - floor * len(counts), max(1, sum(counts.values()))
    return {label: floor + rest * count // total for label, count in counts.items()}


def sample_points(output: "Output", counts: Mapping[str, int], limit: int = MAX_POINTS) -> list[Point]:
    """At most ``limit`` rows of ``reduced/``, stratified by label, the same ones on every call.

    Rows are ranked within their label by a hash of the path, so neither the order of files nor how they are
    cut matters. The order of the result goes round the labels: any beginning of it is stratified too.

    Args:
        output: what to read from; one file at a time is in memory.
        counts: images of each label, from the metrics.
        limit: the most points to return.
    """
    quota = quotas(counts, limit)
    kept = pd.DataFrame({"path": [], "label": [], "split": [], "pc1": [], "pc2": [], "order": [], "rank": []})
    for batch in _batches(output, Dataset.REDUCED, ["path", "label", "split", "pca_features"]):
        vectors = batch.column("pca_features")
        n_components = pc.min(pc.list_value_length(vectors)).as_py() or 0
        if n_components == 0:
            continue
        rows = batch.select(["path", "label", "split"]).to_pandas()
        rows["label"] = rows["label"].fillna("")
        rows["split"] = rows["split"].fillna("")
        rows["pc1"] = pc.list_element(vectors, 0).to_numpy(zero_copy_only=False)
        rows["pc2"] = pc.list_element(vectors, 1).to_numpy(zero_copy_only=False) if n_components > 1 else float("nan")
        rows["order"] = pd.util.hash_array(rows["path"].to_numpy(dtype=object))
        kept = rows if kept.empty else pd.concat([kept, rows], ignore_index=True)
        kept = kept.sort_values(["order", "path"])
        kept["rank"] = kept.groupby("label").cumcount()
        room = kept["label"].map(lambda label: quota.get(label, max(1, limit // (len(quota) + 1))))
        kept = kept[kept["rank"] < room]
    kept = kept.sort_values(["rank", "order"]).head(limit)
    kept = kept[kept["pc1"].notna()]
    return [
        Point(path, label, split, pc1, None if math.isnan(pc2) else pc2)
        for path, label, split, pc1, pc2 in zip(
            kept["path"].astype(str),
            kept["label"].astype(str),
            kept["split"].astype(str),
            kept["pc1"].astype(float),
            kept["pc2"].astype(float),
            strict=True,
        )
    ]


def worst_mistakes(output: "Output", classifier: str, limit: int = MAX_MISTAKES) -> list[Mistake]:
    """The test images that the classifier got wrong, the surest ones first, a few of each confusion.

    Frames of one recording are mistaken alike: without the bound one confusion could fill the gallery.
    """
    columns = ["path", "label", "predicted", "confidence"]
    kept = pd.DataFrame({column: [] for column in columns})
    for batch in _batches(output, Dataset.PREDICTIONS):
        of_test = pc.equal(batch.column("split"), Split.TEST.value)
        wrong = pc.not_equal(batch.column("label"), batch.column("predicted"))
        chosen = pc.and_(pc.equal(batch.column("classifier"), classifier), pc.and_(of_test, wrong))
        rows = batch.filter(chosen).select(columns).to_pandas()
        kept = rows if kept.empty else pd.concat([kept, rows], ignore_index=True)
        kept = kept.sort_values(["confidence", "path"], ascending=[False, True])
        kept = kept.groupby(["label", "predicted"], sort=False).head(MAX_MISTAKES_OF_A_KIND).head(limit)
    return [
        Mistake(path, label, predicted, confidence)
        for path, label, predicted, confidence in zip(
            kept["path"].astype(str),
            kept["label"].astype(str),
            kept["predicted"].astype(str),
            kept["confidence"].astype(float),
            strict=True,
        )
    ]


def sample_rejections(output: "Output", per_reason: int = MAX_REJECTIONS_PER_REASON) -> list[Rejection]:
    """The first few rejected images of every reason."""
    seen: Counter[str] = Counter()
    kept: list[Rejection] = []
    for batch in _batches(output, Dataset.REJECTED):
        for row in _rows(batch, ["path", "reason", "detail"]):
            path, reason, detail = row
            if seen[reason or ""] < per_reason:
                seen[reason or ""] += 1
                kept.append(Rejection(path or "", reason or "", detail or ""))
    return sorted(kept, key=lambda rejection: (rejection.reason, rejection.path))


def _rows(batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[tuple[str | None, ...]]:
    return zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def _batches(output: "Output", dataset: Dataset, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    for file in output.files(dataset):
        with open_parquet(output.storage, file) as parquet:
            yield from parquet.iter_batches(batch_size=_BATCH_ROWS, columns=columns)
