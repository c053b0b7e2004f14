"""Intervals hold what they should, also for few images and at the ends."""

import numpy as np
import pytest

from orchard.classification.intervals import wilson


def test_textbook_values() -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1 / 29, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_nothing_is_known_of_no_images() -> None:
    assert wilson(0.0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("share", [0.0, 1.0, 0.3])
def test_the_share_lies_within(share: float) -> None:
    low, high = wilson(share, 10)
    assert 0 <= low <= share <= high <= 1


@pytest.mark.parametrize("truth", [0.7, 0.95])
def test_it_holds_the_truth_95_times_in_a_hundred(truth: float) -> None:
    drawn = np.random.default_rng(0).binomial(200, truth, 4000) / 200
    held = np.mean([low <= truth <= high for low, high in (wilson(share, 200) for share in drawn.tolist())])
    assert 0.93 < held < 0.97
