"""Class maps, which show where a network looks: the contribution of each cell of its last grid to a label's score.

The classifier is linear behind a global average, so a label's score is the mean over cells of the scores of each cell
alone. The map is therefore exact, not an approximation by gradients (Zhou et al. 2016, "Learning Deep Features for
Discriminative Localization", https://arxiv.org/abs/1512.04150, equation 2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchard.features.engines import SMALLEST
from orchard.inference.model import Model

MOST_CELLS = 16
"""Cells along a side of a map, at most; networks with an input of 224 pixels have 7."""


def scores_of_cells(model: Model, cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scores of each cell, (height, width, n_classes); their mean over cells is the scores of the features.

    Args:
        model: the model with the linear layer.
        cells: (height, width, n_features); their mean is the features, before any square root.
    """
    weights = model.weights
    if model.artifact.square_root:
        # The score is linear in the cells once the roots that it divides by are known.
        weights = weights / np.sqrt(np.maximum(np.abs(cells.mean(axis=(0, 1))), np.float32(SMALLEST)))
    scores: NDArray[np.float32] = cells @ weights.T + model.bias
    return scores


def class_map(model: Model, cells: NDArray[np.float32], label: str) -> list[list[float]]:
    """Return each cell's contribution to a label's score, row by row, as a share of the largest contribution.

    A cell's mean contribution to all labels does not separate labels, so it is subtracted. Negative contributions are
    set to 0.

    Args:
        model: the model.
        cells: as in `scores_of_cells`.
        label: one of the model's labels.

    Returns:
        At most `MOST_CELLS` rows of as many values, 0..1 with two decimals; all 0 if no contribution is positive.
    """
    scores = scores_of_cells(model, cells)
    said = np.maximum(scores[..., model.labels.index(label)] - scores.mean(axis=-1), 0).astype(np.float32)
    height, width = (min(side, MOST_CELLS) for side in said.shape)
    if said.shape != (height, width):
        said = np.asarray(Image.fromarray(said).resize((width, height), Image.Resampling.BOX))
    most = float(said.max())
    shares = said / most if most > 0 else said
    return [[round(float(share), 2) for share in row] for row in shares]
