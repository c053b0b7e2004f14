"""Where a network looks: what each cell of its last grid says for a label.

The classifier is linear behind a global average, so the score of a label is the mean over cells of what it makes of
each cell alone: the map is exact, and no approximation by gradients (Zhou et al. 2016, "Learning Deep Features for
Discriminative Localization", https://arxiv.org/abs/1512.04150, equation 2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchard.features.engines import SMALLEST
from orchard.inference.model import Model

MOST_CELLS = 16
"""Of a side of a map; networks of 224 pixels have 7."""


def scores_of_cells(model: Model, cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what each cell says for each label, (height, width, n_classes); their mean are the scores of the features.

    Args:
        model: whose linear layer it is.
        cells: (height, width, n_features), whose mean the features are, before any square root.
    """
    weights = model.weights
    if model.artifact.square_root:
        # The score is linear in the cells once the roots that it divides by are known.
        weights = weights / np.sqrt(np.maximum(np.abs(cells.mean(axis=(0, 1))), np.float32(SMALLEST)))
    scores: NDArray[np.float32] = cells @ weights.T + model.bias
    return scores


def class_map(model: Model, cells: NDArray[np.float32], label: str) -> list[list[float]]:
    """Return how much each cell speaks for a label, row by row, as a share of what the cell says that says most.

    What a cell says for labels on average does not tell any of them apart, so it is subtracted; what speaks against
    the label is 0.

    Args:
        model: what knows the label.
        cells: as those of `scores_of_cells`.
        label: one of the model's.

    Returns:
        At most `MOST_CELLS` rows of as many, 0..1 with two decimals; all 0 where no cell speaks for it.
    """
    scores = scores_of_cells(model, cells)
    said = np.maximum(scores[..., model.labels.index(label)] - scores.mean(axis=-1), 0).astype(np.float32)
    height, width = (min(side, MOST_CELLS) for side in said.shape)
    if said.shape != (height, width):
        said = np.asarray(Image.fromarray(said).resize((width, height), Image.Resampling.BOX))
    most = float(said.max())
    shares = said / most if most > 0 else said
    return [[round(float(share), 2) for share in row] for row in shares]
