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
    """A further column with its classifier, a linear discriminant on the same features as the label's.

    Attributes:
        name: the column's name.
        values: its n_values values, sorted.
        linear: the linear layer that gives scores.
        calibration: the temperature of the scores, and the threshold of a sure value; familiarity is the label's.
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
    """The answer of a further column for an image."""

    name: str
    likeliest: str
    confidence: float
    """Calibrated probability of `likeliest`, 0..1."""
    sure: bool

    @property
    def value(self) -> str | None:
        """The value if it is sure."""
        return self.likeliest if self.sure else None


def answers(
    columns: Sequence[Column], features: NDArray[np.float32], unknown: NDArray[np.bool_]
) -> list[tuple[ColumnAnswer, ...]]:
    """Return the answers of every column for each image; for an unknown image no value is sure.

    Args:
        columns: the model's further columns.
        features: (n, n_features) features of the images.
        unknown: (n,) whether each image is unknown.
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
