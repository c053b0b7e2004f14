"""If the split cuts groups: everything is fitted and measured again with whole groups."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard.classification import discriminant, regression
from orchard.classification.discriminant import Discriminant
from orchard.classification.forest import Forest, grow
from orchard.classification.metrics import evaluate, majority_baseline
from orchard.classification.rows import Marked, Rows, feature_rows, inside_rows
from orchard.classification.training import Classifier
from orchard.datasets import balance, batches, matrix, with_marks
from orchard.errors import TrainingError
from orchard.files import DataFile
from orchard.images.groups import draw_groups, group_names
from orchard.inference.linear import Linear
from orchard.layout import FEATURES, INVENTORY, ClassifierMetrics, Dataset, FittedBy, GroupSplit
from orchard.output import Output
from orchard.reduction.pca import Projection, Reduction
from orchard.reduction.stage import Roles, project_batches, training_sums, view_sums
from orchard.reduction.statistics import Role, Sums
from orchard.storage import Storage

if TYPE_CHECKING:
    from orchard.workers import Shared, Workers


def evaluate_groups(
    workers: Workers,
    output: Output,
    classifiers: Sequence[Classifier],
    *,
    components: int,
    seed: int,
    memory: int,
    test_fraction: float,
    progress: Callable[[int], None] | None = None,
) -> GroupSplit:
    """Split by the groups of the inventory, fit scaler, PCA and classifiers on one side, measure on the other.

    All labelled images take part, whatever their split; nothing is written.

    Args:
        workers: what does the work.
        output: the output, with features and groups.
        classifiers: names of the classifiers to train.
        components: k, as in the main reduction; fewer if the training rows allow fewer.
        seed: seed of the split and of the forest.
        memory: as for `orchard.classification.candidates.Candidates`.
        test_fraction: about which share of each label's images is for testing, 0 to 1.
        progress: called with 1 after every classifier.

    Raises:
        TrainingError: the groups leave fewer than two labels to train on, or nothing to test.
    """
    files = output.files(Dataset.FEATURES)
    images = output.read(Dataset.FEATURES, ["path", "label"], FEATURES)
    labels = np.array(images.column("label").to_pylist(), dtype=object)
    labelled = np.array([label is not None for label in labels], bool)
    inventory = output.read(Dataset.INVENTORY, ["path", "group"], INVENTORY)
    at = pc.index_in(images["path"], inventory["path"].combine_chunks())
    groups = np.array(group_names(inventory.take(at)), dtype=object)
    in_test = np.zeros(len(labels), bool)
    in_test[labelled] = draw_groups(
        groups[labelled].tolist(), labels[labelled].tolist(), test_fraction=test_fraction, seed=seed
    )
    in_train = ~in_test & labelled
    train_counts, test_counts = _count(labels[in_train]), _count(labels[in_test])
    if len(train_counts) < 2 or not test_counts:
        raise TrainingError(
            "A split by groups leaves too little to train or to test on: name smaller ones, or add some for each label."
        )

    starts = np.cumsum([0, *(file.rows for file in files)])
    masks = {file.name: in_train[start : start + file.rows] for file, start in zip(files, starts, strict=False)}
    roles = {name: np.where(mask, Role.FIT, Role.NONE).astype(np.int8) for name, mask in masks.items()}
    sums, _ = training_sums(workers, output.storage, files, roles)
    reduction = Reduction.fit(sums.moments, components=components)
    views, _ = view_sums(workers, output, roles, ())
    seen = sums if views is None else sums.merge(views)  # what the discriminant learns from
    learned = cache(
        partial(discriminant.fit, seen.labelled, seen.columns["label"], reduction, int(sums.labelled.count))
    )
    projection = workers.share(Projection(*reduction.affine()))
    rows = Rows(files, partial(_regrouped, output.storage, projection, roles))
    features = None if views is None else feature_rows(output.storage, files, roles)
    measured: dict[str, ClassifierMetrics] = {}
    try:
        for classifier in classifiers:
            start = time.perf_counter()
            made = _fit(
                workers,
                classifier,
                rows,
                features,
                sums,
                learned=learned,
                reduction=reduction,
                seed=seed,
                memory=memory,
            )
            if made is None:
                continue
            answer, by = made
            true, predicted, counts = _pairs(workers, output, masks, answer, sums.columns["label"].names)
            seconds = time.perf_counter() - start
            measured[classifier] = evaluate(
                true, predicted, counts=counts, train_rows=int(in_train.sum()), seconds=seconds
            )
            measured[classifier]["fitted_by"] = by
            if progress:
                progress(1)
    finally:
        projection.unpersist()
    return {
        "groups": len(set(groups[labelled].tolist())),
        "train_rows": int(in_train.sum()),
        "test_rows": int(in_test.sum()),
        "k": reduction.n_components_,
        "baseline": majority_baseline(train_counts, test_counts),
        "classifiers": measured,
    }


@dataclass(frozen=True)
class _OfFeatures:
    """A forest that takes features and reduces them itself."""

    projection: Projection
    forest: Forest

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return self.forest(self.projection(features))


FeatureClassifier = Linear | _OfFeatures


def _fit(
    workers: Workers,
    classifier: Classifier,
    rows: Rows,
    features: Rows | None,
    sums: Sums,
    *,
    learned: Callable[[], Discriminant],
    reduction: Reduction,
    seed: int,
    memory: int,
) -> tuple[FeatureClassifier, FittedBy] | None:
    """Return a classifier of features and the name of what fitted it; None if its data do not fit into memory.

    `sums` are those of `rows`, of components, and of `features`, which there are where images have views. `learned`
    returns the discriminant.
    """
    classes, n = sums.columns["label"], int(sums.columns["label"].counts.sum())
    if classifier is Classifier.RANDOM_FOREST:
        forest, _ = grow(rows, n, classes.names, seed=seed, memory=memory)
        if forest is None:
            return None
        return _OfFeatures(Projection(*reduction.affine()), forest), FittedBy.SCIKIT_LEARN
    if classifier is Classifier.LINEAR_DISCRIMINANT:
        return learned().linear, FittedBy.SUMS
    if features is not None:
        space = learned().familiarity
        if regression.fitted_by(n, space.rank, len(classes.names), memory, inside=True) is FittedBy.SCIPY:
            return regression.fit_inside(space, *inside_rows(features, space, Role.FIT)), FittedBy.SCIPY
    by = regression.fitted_by(n, reduction.n_components_, len(classes.names), memory)
    variances = reduction.explained_variance_
    _, found, _ = regression.fit(lambda: workers.spark, rows, classes, classes, variances, twice=False, memory=memory)
    return None if found is None else (Linear.on_components(reduction, found.coefficients, found.intercept), by)


def _regrouped(storage: Storage, projection: Shared[Projection], roles: Roles, file: DataFile) -> Marked:
    """Yield the reduced rows of a features file; their role comes from the split by groups."""
    return with_marks(project_batches(storage, projection.value, file), roles[file.name])


def _pairs(
    workers: Workers,
    output: Output,
    masks: Mapping[str, NDArray[np.bool_]],
    answer: FeatureClassifier,
    labels: Sequence[str],
) -> tuple[list[str], list[str], list[int]]:
    """Count the pairs of true and predicted label, of a classifier of features."""
    shared = workers.share(answer)
    count = partial(_count_pairs, output.storage, shared, labels, masks)
    files = output.files(Dataset.FEATURES)
    found: Counter[tuple[str, str]] = sum(workers.run(count, balance(files, 2 * workers.slots)), Counter())
    shared.unpersist()
    return [true for true, _ in found], [predicted for _, predicted in found], list(found.values())


def _count_pairs(
    storage: Storage,
    shared: Shared[FeatureClassifier],
    labels: Sequence[str],
    masks: Mapping[str, NDArray[np.bool_]],
    files: Sequence[DataFile],
) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for file in files:
        for batch, in_train in with_marks(batches(storage, file, ["label", "features"]), masks[file.name]):
            test = batch.filter(pa.array(~in_train)).drop_null()
            if test.num_rows:
                chosen = shared.value(matrix(test.column("features"))).argmax(axis=1)
                found.update(zip(test.column("label").to_pylist(), (labels[i] for i in chosen), strict=True))
    return found


def _count(labels: NDArray[np.object_]) -> dict[str, int]:
    names, counts = np.unique(labels, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))
