"""Every figure of the report as SVG, for the page and for slides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from orchard.layout import Metrics, Sharing
from orchard.report import alerts, figures
from orchard.report.formatting import number, percent
from orchard.report.rendering import environment

if TYPE_CHECKING:
    from orchard.report.page import ClassifierView


def draw(
    metrics: Metrics,
    scatter: figures.Scatter | None,
    pictures: Sequence[str | None],
    views: Sequence[ClassifierView],
    sharing: Sharing | None = None,
) -> dict[str, Markup]:
    """Draw all figures for which there is data; return name -> SVG. Figures of classifiers are named after them.

    Args:
        metrics: the metrics to draw.
        scatter: the map of the images; None: there is none.
        pictures: pictures of the map's first points.
        views: the classifiers' views, with their confusion matrices.
        sharing: how the extraction was divided among executors and workers; None: not known.
    """
    macros: Any = environment().get_template("figures.svg.j2").module
    drawn: dict[str, Markup] = {}
    if (calibration := alerts.calibration(metrics)) is not None:
        text = (
            f"{percent(calibration['share_sure'])} of the test images are answered today; were all answered, "
            f"{percent(calibration['accuracy'])} of the answers would be right."
        )
        drawn["coverage"] = macros.coverage(figures.coverage(calibration), text)
        unknown = metrics.get("unknown")
        text = f"{percent(calibration['share_unknown'])} of the test images are called unknown"
        if unknown is not None and unknown["images"]:
            text += f", and {percent(unknown['unknown'] / unknown['images'])} of the images of nothing that was learned"
        drawn["familiarity"] = macros.distribution(
            figures.familiarity(calibration, unknown),
            "familiarity",
            "How familiar images are",
            f"{text}.",
            "familiarity",
        )
        text = (
            f"After calibration confidence and accuracy differ by {percent(calibration['error_after'])} in the mean, "
            f"before by {percent(calibration['error_before'])}."
        )
        drawn["reliability"] = macros.reliability(figures.reliability(calibration), text)
    for i, view in enumerate(views):
        drawn[f"confusion-{view.name}"] = macros.matrix(view.matrix, 2 * i, view.title)
        if view.folded is not None:
            drawn[f"confusion-{view.name}-by-kind"] = macros.matrix(view.folded, 2 * i + 1, f"{view.title} by kind")
    if (near := metrics.get("neighbours")) is not None and near["test_rows"]:
        text = f"{number(near['near_twins'])} of {number(near['test_rows'])} test images have a near twin in training."
        drawn["near-twins"] = macros.distribution(
            figures.distribution(near),
            "distribution",
            "How near test images are to the nearest training image",
            text,
            "cosine to the nearest training image",
        )
    if scatter is not None:
        drawn["map"] = macros.scatter(scatter, pictures)
    pca = metrics.get("pca")
    if pca is not None and (ratios := pca["explained_variance_ratio"]):
        k = pca["k"]
        text = f"The first holds {percent(ratios[0])}; {k} components were kept."
        title = "Share of the variance that each component holds"
        drawn["scree"] = macros.curve(figures.scree(ratios, k), "scree", title, text, "component")
        text = f"{k} components hold {percent(pca['explained_variance'])}."
        title = "Share of the variance that the first components hold together"
        drawn["cumulative"] = macros.curve(figures.cumulative(ratios, k), "cumulative", title, text, "components")
    if sharing is not None:
        most, mean = max(sharing["at_work"]), sum(sharing["at_work"]) / len(sharing["at_work"])
        text = f"{number(round(mean, 2))} in the mean, {number(round(most, 2))} at the most, "
        text += f"of {sharing['workers']} workers."
        drawn["work"] = macros.distribution(
            figures.at_work(sharing), "work", "Tasks at work over the time of the extraction", text, "seconds"
        )
    return drawn
