"""Bounded samples of an output's datasets: points to draw, mistakes to show, rejections to explain."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from orchard.datasets import stored
from orchard.layout import Dataset
from orchard.vocabulary import Split

if TYPE_CHECKING:
    from orchard.output import Output

MAX_POINTS = 1_200  # more would hide one another
MAX_MISTAKES = 48  # in the gallery
MAX_MISTAKES_OF_A_PAIR = 4
MAX_NEIGHBOURS = 3  # of a mistake
MAX_REJECTIONS_PER_REASON = 5

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
class Neighbour:
    """A nearest training image of another image."""

    path: str
    label: str
    similarity: float  # cosine


@dataclass(frozen=True)
class Mistake:
    """A test image that a classifier took for something else."""

    path: str
    label: str
    predicted: str
    confidence: float  # 0..1
    answer: str | None = None  # Answer; None of the forest
    familiarity: float | None = None  # 0..1
    kind: str | None = None
    predicted_kind: str | None = None
    neighbours: tuple[Neighbour, ...] = ()  # the nearest first


Pairs = frozenset[tuple[str, str]]
"""Pairs of true and predicted label."""


@dataclass(frozen=True)
class RejectedImage:
    """An image that did not become features, and why."""

    path: str
    reason: str
    detail: str


def quotas(counts: Mapping[str, int], limit: int) -> dict[str, int]:
    """Divide ``limit`` among labels: a few for each, the rest by size; the sum is at most ``limit``."""
    if not counts:
        return {}
    floor = min(_SMALLEST_SHARE, limit // len(counts))
    rest, total = limit - floor * len(counts), max(1, sum(counts.values()))
    return {label: floor + rest * count // total for label, count in counts.items()}


def sample_points(output: "Output", counts: Mapping[str, int], limit: int = MAX_POINTS) -> list[Point]:
    """At most ``limit`` rows of ``reduced/``, stratified by label, the same ones on every call.

    Rows are ranked within their label by a hash of the path, so neither the order of files nor their division matters.
    The result takes the labels in turn, so any beginning of it is stratified, too.

    Args:
        output: the output; one file at a time is in memory.
        counts: number of images of each label, from the metrics.
        limit: number of points, at most.
    """
    quota = quotas(counts, limit)
    kept = pd.DataFrame({"path": [], "label": [], "split": [], "pc1": [], "pc2": [], "order": [], "rank": []})
    for batch in stored(output, Dataset.REDUCED, ["path", "label", "split", "pca_features"]):
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


def worst_mistakes(
    output: "Output", wanted: Mapping[str, Pairs], limit: int = MAX_MISTAKES
) -> dict[str, list[Mistake]]:
    """The mistakes on test images with the highest confidence, a few for each pair of labels.

    The frames of one recording share a mistake, so without this bound one confusion could fill the gallery.

    Args:
        output: the output; memory holds one batch of predictions at a time, and the chosen mistakes.
        wanted: classifier -> pairs of which some mistakes are wanted whatever their confidence.
        limit: number of other mistakes of each classifier, at most.
    """
    columns = ["classifier", "path", "label", "predicted", "confidence"]
    columns += ["answer", "familiarity", "kind", "predicted_kind"]
    kept = pd.DataFrame({column: [] for column in columns})
    for batch in stored(output, Dataset.PREDICTIONS):
        of_test = pc.equal(batch.column("split"), Split.TEST.value)
        wrong = pc.not_equal(batch.column("label"), batch.column("predicted"))
        chosen = pc.is_in(batch.column("classifier"), pa.array(list(wanted), pa.string()))
        rows = batch.filter(pc.and_(chosen, pc.and_(of_test, wrong))).to_pandas().reindex(columns=columns)
        kept = rows if kept.empty else pd.concat([kept, rows], ignore_index=True)
        kept = kept.sort_values(["confidence", "path"], ascending=[False, True])
        kept = kept.groupby(["classifier", "label", "predicted"], sort=False).head(MAX_MISTAKES_OF_A_PAIR)
        is_wanted = [
            (label, predicted) in wanted[classifier]
            for classifier, label, predicted in zip(kept["classifier"], kept["label"], kept["predicted"], strict=True)
        ]
        kept = kept[np.array(is_wanted, bool) | (kept.groupby("classifier").cumcount() < limit)]
    near = _neighbours(output, set(kept["path"]))
    found: dict[str, list[Mistake]] = {classifier: [] for classifier in wanted}
    for row in kept.astype(object).where(kept.notna(), None).to_dict("records"):
        found[row.pop("classifier")].append(Mistake(**row, neighbours=near.get(row["path"], ())))
    return found


def _neighbours(output: "Output", paths: Collection[str]) -> dict[str, tuple[Neighbour, ...]]:
    """The nearest training images of some images; nothing where they were not searched for."""
    if not paths:
        return {}
    wanted = pa.array(sorted(paths), pa.string())
    nearest: dict[str, list[tuple[str, float]]] = {}
    for batch in stored(output, Dataset.NEIGHBOURS):
        rows = batch.filter(pc.is_in(batch.column("path"), wanted))
        for path, others, similarities in _rows(rows, ["path", "neighbours", "similarities"]):
            pairs = zip(others or (), similarities or (), strict=True)
            nearest[str(path)] = [(str(other), float(similarity)) for other, similarity in pairs][:MAX_NEIGHBOURS]
    labels: dict[str, str] = {}
    of = pa.array(sorted({other for others in nearest.values() for other, _ in others}), pa.string())
    for batch in stored(output, Dataset.REDUCED, ["path", "label"]):
        labels |= dict(_rows(batch.filter(pc.is_in(batch.column("path"), of)), ["path", "label"]))
    return {
        path: tuple(Neighbour(other, labels.get(other) or "", similarity) for other, similarity in others)
        for path, others in nearest.items()
    }


def sample_rejections(output: "Output", per_reason: int = MAX_REJECTIONS_PER_REASON) -> list[RejectedImage]:
    """The first few rejected images of every reason."""
    seen: Counter[str] = Counter()
    kept: list[RejectedImage] = []
    for batch in stored(output, Dataset.REJECTED):
        for row in _rows(batch, ["path", "reason", "detail"]):
            path, reason, detail = row
            if seen[reason or ""] < per_reason:
                seen[reason or ""] += 1
                kept.append(RejectedImage(path or "", reason or "", detail or ""))
    return sorted(kept, key=lambda rejection: (rejection.reason, rejection.path))


def _rows(batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
