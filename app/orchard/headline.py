"""The one accuracy to quote, which the summary, the report and `orchard compare` share."""

from __future__ import annotations

from collections.abc import Sequence

from orchard.classification.intervals import FEW, wilson
from orchard.layout import Headline, Measure, Metrics
from orchard.neighbours.twins import are_many

MEASURES = {
    Measure.GROUPS: "test images of groups that are not in training",
    Measure.APART: "test images without a near twin in training",
    Measure.ALL: "all test images",
}
"""The images of each measure, in words."""


def headline(metrics: Metrics) -> Headline | None:
    """Return the figure to quote: the accuracy of the classifier that answers, by the strictest available measure.

    The accuracy on whole groups comes first, because whoever named groups knows what belongs together. Then, if there
    are more near twins than chance explains, the accuracy on test images without a near twin in training. Then that on
    all test images. None if nothing was measured.
    """
    neighbours = metrics.get("neighbours")
    for measure in Measure:
        if measure is Measure.APART and not (neighbours is not None and are_many(neighbours)):
            continue
        if (found := measured_by(metrics, measure)) is not None:
            return found
    return None


def measured_by(metrics: Metrics, measure: Measure) -> Headline | None:
    """Return the figure of a measure, for the classifier that answers, or else for the best one.

    The classifier that answers was chosen without the test images. None if too little was measured.
    """
    figures: dict[str, tuple[float, int]]
    if measure is Measure.APART:
        apart = metrics.get("without_near_twins", {})
        figures = {name: (found["accuracy"] or 0.0, found["test_rows"]) for name, found in apart.items()}
        figures = {name: found for name, found in figures.items() if found[1] >= FEW}
    else:
        groups = metrics.get("group_split")
        every = metrics.get("classifiers", {}) if measure is Measure.ALL else groups["classifiers"] if groups else {}
        figures = {name: (found["accuracy"], found["test_rows"]) for name, found in every.items() if found["test_rows"]}
    if not figures:
        return None
    chosen = metrics["selection"]["chosen"] if "selection" in metrics else None
    name = chosen if chosen in figures else min(figures, key=lambda name: (-figures[name][0], name))
    accuracy, rows = figures[name]
    return Headline(
        measure=measure,
        classifier=name,
        accuracy=accuracy,
        accuracy_interval=wilson(accuracy, rows),
        test_rows=rows,
    )


def common(runs: Sequence[Metrics]) -> Measure:
    """Return the measure for comparing runs: the strictest that one of their headlines uses, and that all runs have."""
    wanted = {found["measure"] for run in runs if (found := headline(run)) is not None}
    for measure in Measure:
        if measure in wanted and all(measured_by(run, measure) is not None for run in runs):
            return measure
    return Measure.ALL
