"""Multinomial logistic regression in the driver: SciPy's L-BFGS on sums over blocks of rows, on up to four cores.

scikit-learn's has the same minimum, but holds the scores of all rows and classes, three times over, and wants rows in
single precision. One thread multiplies each block: OpenBLAS's threads wait for each other while they spin, so that
where something else wants the cores two of them take ten times as long, and the result would depend on their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from orchard import interruption
from orchard.machine import available_cores

PARTS = 4
"""Threads, at most. There are always so many sums, so that the result does not depend on the number of cores."""
_BLOCK_ROWS, _BLOCK_SCORES = 1024, 2**20
# As large as the coefficients: those that L-BFGS keeps, and the parts' sums.
_VECTORS = 40


def memory(rows: int, columns: int, n_classes: int, itemsize: int) -> int:
    """Return the bytes that fitting rows of numbers of `itemsize` bytes takes, with the rows."""
    scores = 4 * PARTS * 2 * min(rows, _block_rows(n_classes)) * n_classes
    return itemsize * rows * columns + scores + 8 * _VECTORS * n_classes * (columns + 1)


def fit(
    rows: NDArray[np.floating],
    classes: NDArray[np.int32],
    weights: NDArray[np.float32],
    n_classes: int,
    *,
    penalty: float,
    tolerance: float,
    iterations: int,
    start: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Minimise the weighted mean of the log loss, plus `penalty` / 2 times the squares of the coefficients.

    Args:
        rows: (n, k) float32 or float16.
        classes: (n,) numbers of the rows' classes, below `n_classes`.
        weights: (n,) of the rows.
        n_classes: number of classes.
        penalty: of the coefficients; intercepts are free.
        tolerance: largest entry of the gradient at which it stops.
        iterations: after which it stops in any case.
        start: (n_classes, k + 1), where it begins; None: at zeros.

    Returns:
        Coefficients, and in the last column intercepts, (n_classes, k + 1).

    Raises:
        KeyboardInterrupt: the command is to end.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    n, k = rows.shape
    total = weights.sum(dtype=np.float64)
    size = _block_rows(n_classes)
    blocks = [slice(first, first + size) for first in range(0, n, size)]
    parts = [blocks[part::PARTS] for part in range(PARTS)]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        interruption.check()
        found = flat.reshape(n_classes, k + 1)
        sums = partial(_sums, rows, classes, weights, found.astype(np.float32))
        losses, gradients = zip(*threads.map(sums, parts), strict=True)
        gradient = sum(gradients) / total
        gradient[:, :-1] += penalty * found[:, :-1]
        return sum(losses) / total + penalty / 2 * np.square(found[:, :-1]).sum(), gradient.ravel()

    # As scikit-learn stops.
    options = {"maxiter": iterations, "maxls": 50, "gtol": tolerance, "ftol": 64 * np.finfo(float).eps}
    first = np.zeros((n_classes, k + 1)) if start is None else start
    with threadpool_limits(1), ThreadPoolExecutor(min(PARTS, available_cores()), "orchard-regression") as threads:
        result = minimize(loss, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    best: NDArray[np.float64] = result.x.reshape(n_classes, k + 1)
    return best


def _block_rows(n_classes: int) -> int:
    """Return the number of rows of a block: few enough for a processor's cache."""
    return min(_BLOCK_ROWS, max(1, _BLOCK_SCORES // max(1, n_classes)))


def _sums(
    rows: NDArray[np.floating],
    classes: NDArray[np.int32],
    weights: NDArray[np.float32],
    found: NDArray[np.float32],
    blocks: Sequence[slice],
) -> tuple[float, NDArray[np.float64]]:
    """Return the weighted log loss of blocks of rows, and its gradient, (n_classes, k + 1), at coefficients `found`."""
    loss, gradient = 0.0, np.zeros(found.shape)
    for block in blocks:
        values, own, weight = rows[block].astype(np.float32, copy=False), classes[block], weights[block]
        places = np.arange(len(own))
        shares = values @ found[:, :-1].T
        shares += found[:, -1]
        shares -= shares.max(axis=1, keepdims=True)
        score = shares[places, own]
        np.exp(shares, out=shares)
        exponentials = shares.sum(axis=1)
        loss += float(np.dot(np.log(exponentials) - score, weight.astype(np.float64)))
        shares *= (weight / exponentials)[:, np.newaxis]
        shares[places, own] -= weight
        gradient[:, :-1] += shares.T @ values
        gradient[:, -1] += shares.sum(axis=0)
    return loss, gradient
