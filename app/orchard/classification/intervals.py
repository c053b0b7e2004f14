"""Confidence intervals of shares that were measured on few images."""

from __future__ import annotations

import math

from orchard.layout import Interval

Z = 1.959964
"""Standard deviations that hold 95 % of a normal distribution."""

FEW = 20
"""Test images of a class below which its figures are hardly more than chance: one mistake is over 5 points."""


def wilson(share: float, count: int, z: float = Z) -> Interval:
    """Return the score interval of a share, within 0..1 (Wilson 1927, JASA 22, 209-212).

    Unlike the usual plus and minus it holds for few images and for shares near 0 and 1. It takes images to be
    independent of each other: where they come in series, the truth is wider.

    Args:
        share: of successes, 0..1.
        count: of trials; 0: nothing is known, so the interval is everything.
        z: half-width of the normal interval, in standard deviations.
    """
    if not count:
        return 0.0, 1.0
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # At the ends one bound is the share itself; rounding must not put it outside.
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)
