"""Further label columns of a model, such as ripeness: each has its own classifier."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchard import npz
from orchard.inference.calibration import Calibration
from orchard.inference.linear import Linear


@dataclass(frozen=True)
class Column:
    """A column with its classifier, a linear discriminant on the features that the label's sees, too.

    Attributes:
        name: of the column.
        values: the n_values classes, sorted.
        linear: scores of features.
        calibration: how they become probabilities, and from which one on a value is sure; familiarity is the label's.
    """

    name: str
    values: tuple[str, ...]
    linear: Linear
    calibration: Calibration

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return calibrated probabilities, float32 (n, n_values), of features (n, n_features)."""
        return self.calibration.probabilities(self.linear(features))


@dataclass(frozen=True)
class ColumnAnswer:
    """What a further column says of an image."""

    name: str
    likeliest: str
    confidence: float
    """Of `likeliest`, 0..1, calibrated."""
    sure: bool

    @property
    def value(self) -> str | None:
        """The value if it is sure."""
        return self.likeliest if self.sure else None


def answers(
    columns: Sequence[Column], features: NDArray[np.float32], unknown: NDArray[np.bool_]
) -> list[tuple[ColumnAnswer, ...]]:
    """Return for each image what every column says; of an image that is `unknown` (n,) nothing is sure.

    Args:
        columns: of the model.
        features: (n, n_features).
        unknown: (n,)
    """
    found: list[list[ColumnAnswer]] = [[] for _ in unknown]
    for column in columns:
        shares = column.probabilities(features)
        for said, row, is_unknown in zip(found, shares, unknown.tolist(), strict=True):
            best = int(row.argmax())
            is_sure = not is_unknown and float(row[best]) >= column.calibration.threshold
            said.append(ColumnAnswer(column.name, column.values[best], float(row[best]), is_sure))
    return [tuple(said) for said in found]


def to_bytes(columns: Sequence[Column]) -> bytes:
    """Return an ``.npz`` file of all columns, without pickles."""
    about = {column.name: column.calibration.as_json() for column in columns}
    arrays: dict[str, NDArray[Any]] = {"columns": np.array(json.dumps(about))}
    for column in columns:
        arrays |= {
            f"{column.name}/values": np.array(column.values, np.str_),
            f"{column.name}/weights": column.linear.weights,
            f"{column.name}/bias": column.linear.bias,
        }
    return npz.dump({**arrays})


def from_bytes(data: bytes) -> tuple[Column, ...]:
    """Return what `to_bytes` wrote; raises ValueError or KeyError if it is something else."""
    arrays = npz.load(data)
    return tuple(
        Column(
            name,
            tuple(arrays[f"{name}/values"].tolist()),
            Linear(arrays[f"{name}/weights"], arrays[f"{name}/bias"]),
            Calibration.from_json(calibration),
        )
        for name, calibration in json.loads(str(arrays["columns"])).items()
    )
