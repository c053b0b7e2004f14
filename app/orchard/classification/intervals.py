"""Confidence intervals of shares that were measured on few images."""

from __future__ import annotations

import math

from orchard.layout import Interval

Z = 1.959964
"""Half-width, in standard deviations, of the interval that contains 95 % of a normal distribution."""

FEW = 20
"""With fewer test images than this, a class' figures are hardly more than chance: one mistake is over 5 points."""


def wilson(share: float, count: int, z: float = Z) -> Interval:
    """Return the score interval of a share, within 0..1 (Wilson 1927, JASA 22, 209-212).

    Unlike the normal approximation it is valid for few images and for shares near 0 and 1. It assumes that images are
    independent; for images that come in series, the true interval is wider.

    Args:
        share: share of successes, 0..1.
        count: number of trials; if it is 0, nothing is known, and the interval is 0..1.
        z: half-width of the normal interval, in standard deviations.
    """
    if not count:
        return 0.0, 1.0
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # At the ends one bound is the share itself; rounding must not put it outside.
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)
