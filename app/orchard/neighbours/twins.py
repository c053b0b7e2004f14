"""Near twins: images so similar that a training image gives away the label of a test image."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from orchard.classification.intervals import wilson
from orchard.datasets import stored
from orchard.images.lookup import PathIndex
from orchard.layout import ApartMetrics, Dataset, Histogram, NeighbourMetrics
from orchard.output import Output
from orchard.stages import key_of
from orchard.vocabulary import Split

BINS = 2000
"""Number of bins in which cosines from 0 to 1 are counted."""

SHOWN_BINS = 100
"""Number of bins of the histograms in ``metrics.json``."""

CHANCE = 0.001
"""Share of training images whose cosine to an image of another label reaches the threshold."""

_LEAST = 20  # training images with another label to look at, before there is a threshold
_TAIL = 3.0902 / 0.6745  # a normal distribution's 99.9th percentile over its 75th, in standard deviations


def bins_of(similarities: ArrayLike) -> NDArray[np.int64]:
    """Return the bin of each cosine, 0 to `BINS` - 1."""
    found = np.floor(np.asarray(similarities, np.float64) * BINS)
    return np.clip(found, 0, BINS - 1).astype(np.int64)


def count(similarities: ArrayLike) -> NDArray[np.int64]:
    """Return how many cosines are in each bin, shape (BINS,)."""
    return np.bincount(bins_of(similarities), minlength=BINS)


def is_near(similarities: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """Return which cosines are those of near twins."""
    return np.asarray(bins_of(similarities) >= round(threshold * BINS))


def threshold_of(other_labels: NDArray[np.int64]) -> float | None:
    """Return the cosine from which two images are near twins.

    Images of different labels show different things, so the similarity that they reach is chance, and near twins must
    exceed it. (Lowe 2004, "Distinctive Image Features", section 7.1, does the same in matching: the nearest image known
    to show another object estimates the density of false matches.) The threshold is the cosine that one training image
    in a thousand reaches with an image of another label.

    An image under a wrong label has its twins under another label, which would raise the threshold. So the threshold is
    bounded by that of a normal distribution with the same median and third quartile, which a few such images do not
    change. Cosines are made normal by Fisher's transformation (1921, "On the 'probable error' of a coefficient of
    correlation").

    On 2,640 shop photographs taken in series it is 0.949: 44 % of them have a near twin among the others, and none of
    296 photographs of other series has one. On 9,280 frames of turntables, of 58 fruits that look much alike, it is
    0.979: 55 % of 2,878 test images have one.

    Args:
        other_labels: (BINS,), see `count`: training images by the cosine to the nearest one of another label.

    Returns:
        The edge of a bin, or None if there are too few images.
    """
    total = other_labels.sum()
    if total < _LEAST:
        return None
    share = np.cumsum(other_labels) / total
    middle, third = (np.arctanh((np.searchsorted(share, quantile) + 0.5) / BINS) for quantile in (0.5, 0.75))
    normal = int(np.ceil(np.tanh(middle + _TAIL * (third - middle)) * BINS))
    reached = int(np.searchsorted(share, 1 - CHANCE)) + 1
    return min(reached, normal, BINS - 1) / BINS


def shown(counts: NDArray[np.int64]) -> Histogram:
    """Return the counts of `count` in fewer bins."""
    return {"low": 0.0, "high": 1.0, "images": counts.reshape(SHOWN_BINS, -1).sum(axis=1).tolist()}


def are_many(found: NeighbourMetrics) -> bool:
    """Return whether test images have more near twins in training than chance explains."""
    if found["threshold"] is None or not found["test_rows"]:
        return False
    return wilson(found["near_twins"] / found["test_rows"], found["test_rows"])[0] > CHANCE


def remember_apart(output: Output) -> None:
    """If there are predictions, measure classifiers without near twins of training images, and commit the result."""
    found = output.recall("neighbours")
    key = key_of(found.get("key"), output.recall("classification").get("key"))
    threshold = found.get("metrics", {}).get("threshold")
    if output.recall("apart").get("key") != key:
        has_both = threshold is not None and output.rows(Dataset.PREDICTIONS)
        apart = measure_apart(output, threshold) if has_both else {}
        output.commit({}, properties={"apart": {"key": key, "classifiers": apart}})


def measure_apart(output: Output, threshold: float) -> dict[str, ApartMetrics]:
    """Measure each classifier on the test images without a near twin in training, and on those with one.

    Args:
        output: the output, with predictions and neighbours. Memory holds some rows of a dataset at a time, and the
            paths of the images with a near twin.
        threshold: see `threshold_of`.
    """
    near: list[pa.Array] = []
    for batch in stored(output, Dataset.NEIGHBOURS, ["path", "similarities"]):
        has_any = pc.greater(pc.list_value_length(batch["similarities"]), 0)
        rows = batch.filter(has_any)
        nearest = pc.list_element(rows["similarities"], 0)
        near.append(rows["path"].filter(pa.array(is_near(nearest, threshold))))
    twins = PathIndex(pa.chunked_array(near, pa.string()))
    images: Counter[tuple[str, bool]] = Counter()
    right: Counter[tuple[str, bool]] = Counter()
    for batch in stored(output, Dataset.PREDICTIONS, ["path", "label", "split", "classifier", "predicted"]):
        test = batch.filter(pc.equal(batch["split"], Split.TEST))
        rows = pa.table(
            {
                "classifier": test["classifier"],
                "near": twins.has(test["path"]),
                "right": pc.equal(test["label"], test["predicted"]),
            }
        )
        for row in rows.group_by(["classifier", "near"]).aggregate([("right", "count"), ("right", "sum")]).to_pylist():
            images[row["classifier"], row["near"]] += row["right_count"]
            right[row["classifier"], row["near"]] += row["right_sum"]

    def measured(classifier: str) -> ApartMetrics:
        apart, close = images[classifier, False], images[classifier, True]
        accuracy, accuracy_near = (
            right[classifier, is_twin] / rows if rows else None for is_twin, rows in ((False, apart), (True, close))
        )
        return ApartMetrics(
            test_rows=apart,
            accuracy=accuracy,
            accuracy_interval=None if accuracy is None else wilson(accuracy, apart),
            test_rows_near=close,
            accuracy_near=accuracy_near,
            accuracy_near_interval=None if accuracy_near is None else wilson(accuracy_near, close),
        )

    return {classifier: measured(classifier) for classifier in sorted({name for name, _ in images})}
