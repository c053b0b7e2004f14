"""Held-out images, on which nothing was fitted: they choose between classifiers, and calibrate them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchard.datasets import balance, batches, matrix, with_marks
from orchard.files import DataFile
from orchard.images.columns import values_of
from orchard.images.selection import drawn
from orchard.inference.calibration import LEAST_ROWS, Calibration, fit, log_loss
from orchard.inference.familiarity import KNOWN, Familiarity
from orchard.inference.linear import Linear
from orchard.layout import LABEL_COLUMNS, NAMES, Trial
from orchard.reduction.stage import Roles
from orchard.reduction.statistics import Role
from orchard.storage import Storage

if TYPE_CHECKING:
    from orchard.workers import Workers

MAX_ROWS = 10_000
"""Held-out images that are used, at most: more would not make figures steadier. With 1,280 features they take 51 MB."""
_MAX_SCORES = 2_500_000  # the driver holds them some ten times over while it fits, as float64: 0.2 GB


@dataclass(frozen=True)
class HeldOut:
    """Labelled images that are held out.

    Attributes:
        features: (n, n_features) float32.
        columns: (n,) values of each label column.
    """

    features: NDArray[np.float32]
    columns: dict[str, list[str | None]]

    def classes(self, column: str, names: Sequence[str]) -> NDArray[np.intp]:
        """Return the index in `names` of each image's value in `column`, (n,); -1 for other values and for none."""
        index = {name: place for place, name in enumerate(names)}
        return np.array([-1 if value is None else index.get(value, -1) for value in self.columns[column]], np.intp)


def collect(
    workers: Workers, storage: Storage, files: Sequence[DataFile], roles: Roles, columns: Sequence[str] = ()
) -> HeldOut:
    """Return up to `MAX_ROWS` of the labelled rows of feature files that are held out, with further label `columns`."""
    held = {name: int((role == Role.HELD_OUT).sum()) for name, role in roles.items()}
    share = min(1.0, MAX_ROWS / max(1, sum(held.values())))
    groups = balance([file for file in files if held[file.name]], 2 * workers.slots)
    work = [(group, {file.name: roles[file.name] for file in group}) for group in groups if group]
    found = workers.run(partial(_held_out, storage, share, columns), work) if work else []
    width = max((features.shape[1] for features, _ in found), default=0)
    return HeldOut(
        np.concatenate([np.empty((0, width), np.float32), *(f for f, _ in found if len(f))]),
        {name: [value for _, values in found for value in values[name]] for name in (*NAMES, *columns)},
    )


def _held_out(
    storage: Storage, share: float, names: Sequence[str], work: tuple[Sequence[DataFile], Roles]
) -> tuple[NDArray[np.float32], dict[str, list[str | None]]]:
    files, roles = work
    features: list[NDArray[np.float32]] = []
    columns: dict[str, list[str | None]] = {name: [] for name in (*NAMES, *names)}
    for file in files:
        read = batches(storage, file, ["path", *NAMES, LABEL_COLUMNS, "features"])
        for batch, role in with_marks(read, roles[file.name]):
            is_chosen = (role == Role.HELD_OUT) & batch.column("label").is_valid().to_numpy(zero_copy_only=False)
            if share < 1:
                is_chosen &= drawn(batch.column("path"), share, 0, "held out")
            at = np.flatnonzero(is_chosen)
            features.append(matrix(batch.column("features"))[at])
            for name in NAMES:
                columns[name] += batch.column(name).take(pa.array(at)).to_pylist()
            for name in names:
                columns[name] += values_of(batch.column(LABEL_COLUMNS), name).take(pa.array(at)).to_pylist()
    return np.concatenate(features), columns


def judge(
    linear: Linear,
    names: Sequence[str],
    held_out: HeldOut,
    *,
    column: str = "label",
    familiarity: Familiarity | None = None,
    sure_at: float,
) -> tuple[Trial | None, Calibration]:
    """Measure a classifier on the held-out images, on which it was not fitted, and calibrate it on them.

    With fewer than `LEAST_ROWS` images of its classes, nothing is measured, and the calibration changes nothing.

    Args:
        linear: the classifier.
        names: names of its classes.
        held_out: the held-out images.
        column: the label column that it was fitted on; for a column other than ``label``, images without a value do
            not count.
        familiarity: the familiarity of a model that was fitted without these images, too; None: no image is unknown.
        sure_at: the share of sure answers that should be right, 0..1.
    """
    classes, features = held_out.classes(column, names), held_out.features
    if column != "label":
        has_value = np.array([value is not None for value in held_out.columns[column]], bool)
        classes, features = classes[has_value], features[has_value]
    most = max(LEAST_ROWS, _MAX_SCORES // max(1, len(names)))
    if len(classes) > most:  # spread over all: they lie label by label
        at = np.linspace(0, len(classes) - 1, most).astype(np.intp)
        classes, features = classes[at], features[at]
    if (classes >= 0).sum() < LEAST_ROWS:
        return None, Calibration()
    scores = linear(features)
    near = familiarity(features) if familiarity else None
    calibration = fit(scores, classes, sure_at=sure_at, familiarity=near, known=KNOWN)
    accuracy = float((scores.argmax(axis=1) == classes).mean())
    loss = log_loss(scores, classes, calibration.temperature)
    return Trial(accuracy=accuracy, log_loss=loss), calibration
