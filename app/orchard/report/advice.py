"""The report's three answers: is the data good, is the model good, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from orchard.classification.intervals import FEW, wilson
from orchard.features.backbones import REGISTRY
from orchard.layout import CalibrationMetrics, ClassifierMetrics, CoveragePoint, Fault, Metrics, Run
from orchard.neighbours.twins import are_many
from orchard.redaction import redacted
from orchard.report import alerts, reproduce
from orchard.report.formatting import count, interval, label_name, number, percent
from orchard.vocabulary import Split

MAX_STEPS = 5

LEAST_ANSWERED = 0.2
"""A model that answers a smaller share of the test images is of little use."""

FALSE_SURE = 0.01
"""Share of images of unknown things for which a sure answer is acceptable."""

_REJECTED = 0.05, 0.001  # share of the listed images from which on this is bad, and worth a word
_GOOD = 0.9  # accuracy from which on a model is good, if nothing else is wrong
_NAMED = 5  # classes that a step names
_RELIABILITIES = (0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7)  # that `--sure-at` is advised with
_MOST_FOR_SPEED = 3  # times the parameters of today's that an advised backbone may have


class Level(StrEnum):
    """Grades, the best first."""

    GOOD = "good"
    AMBER = "amber"
    BAD = "bad"


@dataclass(frozen=True)
class Verdict:
    """A grade, and a sentence with its figure."""

    level: Level
    sentence: str


@dataclass(frozen=True)
class Step:
    """A next step, with its command and its likely gain."""

    title: str
    why: str
    command: str
    gain: float
    """The gain if the reasoning in `why` is right: a share of images, 0..1."""
    of: str = ""
    """What `gain` is a share of, in words; empty if the step is information rather than a gain."""


@dataclass(frozen=True)
class Advice:
    """The verdicts and next steps on the first screen of the report."""

    data: Verdict
    model: Verdict
    steps: list[Step]  # what brings most first


def advise(metrics: Metrics, run: Run) -> Advice:
    """Judge a run by its figures, and choose next steps: at most `MAX_STEPS`, those with the largest gain first."""
    steps = [
        *_unreadable(metrics, run),
        *_conflicts(metrics, run),
        *_doubts(metrics, run),
        *_copies(metrics, run),
        *_too_alike(metrics, run),
        *_threshold(metrics, run),
        *_photos(metrics, run),
        *_backbone(metrics, run),
        *_unknown(metrics, run),
        *_cards(metrics, run),
    ]
    best = sorted(steps, key=lambda step: -step.gain)[:MAX_STEPS]
    return Advice(_worst(_of_data(metrics)), _worst(_of_model(metrics)), best)


def broken_promise(calibration: CalibrationMetrics) -> tuple[float, float] | None:
    """Return the interval of the accuracy of sure answers if all of it lies below the wanted share, else None."""
    accuracy = calibration["accuracy_sure"]
    if accuracy is None:
        return None
    low, high = wilson(accuracy, round(calibration["share_sure"] * calibration["test_rows"]))
    return (low, high) if high < calibration["sure_at"] else None


def _worst(verdicts: Iterator[Verdict]) -> Verdict:
    return max(verdicts, key=lambda verdict: list(Level).index(verdict.level))  # the first of equals


def _of_data(metrics: Metrics) -> Iterator[Verdict]:
    images = metrics["images"]
    rejected = images["rejected"] / max(1, images["listed"])
    bad, worth = _REJECTED
    if not images["featurized"]:
        yield Verdict(Level.BAD, "No image could be read.")
    if rejected > bad:
        text = f"{percent(rejected)} of the images listed could not be read."
        yield Verdict(Level.BAD, text)
    leak = metrics.get("leak")
    if leak is not None and (twins := leak["test_rows_with_twin_in_train"]):
        share = twins / max(1, leak["test_rows"])
        text = f"{percent(share)} of the test images are byte for byte in training too: the model has seen the answer."
        yield Verdict(Level.BAD, text)
    near = metrics.get("neighbours")
    if near is not None and are_many(near) and "group_split" not in metrics:
        share = near["near_twins"] / max(1, near["test_rows"])
        text = (
            f"{percent(share)} of the test images have a near twin in training: the test is easier than the world is."
        )
        yield Verdict(Level.AMBER, text)
    if conflicts := metrics.get("conflicts"):
        yield Verdict(Level.AMBER, f"{count(conflicts['images'], 'image')} are the same file as one of another class.")
    training = [splits.get(Split.TRAIN, 0) for splits in metrics["labels"].values()]
    if missing := training.count(0):
        plural = "class has" if missing == 1 else "classes have"
        yield Verdict(Level.AMBER, f"{number(missing)} {plural} no training image.")
    if rejected > worth:
        yield Verdict(Level.AMBER, f"{percent(rejected)} of the images listed could not be read.")
    tested = [splits.get(Split.TEST, 0) for splits in metrics["labels"].values()]
    if few := sum(images < FEW for images in tested):
        none = f" ({number(tested.count(0))} on none)" if 0 in tested else ""
        text = f"{number(few)} of {number(len(tested))} classes are measured on fewer than {FEW} test images{none}"
        yield Verdict(Level.AMBER, f"{text}: the figures of each are rough.")
    text = f"{count(images['featurized'], 'image')} were read, and every class has {number(min(training, default=0))}"
    text += f" training images or more and {number(min(tested, default=0))} test images or more"
    yield Verdict(Level.GOOD, f"{text}.{' No file is in both.' if leak is not None else ''}")


def _of_model(metrics: Metrics) -> Iterator[Verdict]:
    found = metrics.get("headline")
    if found is None:
        yield Verdict(Level.BAD, "No classifier was measured.")
        return
    low, high = found["accuracy_interval"]
    accuracy = f"{percent(found['accuracy'])} ({interval((low, high))})"
    if "baseline" in metrics and low <= metrics["baseline"]["accuracy"]:
        text = f"Accuracy is {accuracy}, hardly more than always giving the most frequent answer."
        yield Verdict(Level.BAD, f"{text[:-1]} ({percent(metrics['baseline']['accuracy'])}).")
    calibration = _calibration(metrics)
    if calibration is not None:
        wanted, share = calibration["sure_at"], calibration["share_sure"]
        if (bounds := broken_promise(calibration)) is not None:
            text = (
                f"Sure answers are right in {percent(calibration['accuracy_sure'] or 0.0)} ({interval(bounds)}) of the"
            )
            yield Verdict(Level.BAD, f"{text} test images, where {percent(wanted)} were wanted.")
        if share < LEAST_ANSWERED:
            text = (
                f"Only {percent(share)} of the test images would be answered"
                if share
                else "No test image would be answered"
            )
            yield Verdict(Level.AMBER, f"{text}: too few are so certain that {percent(wanted)} of them are right.")
    if (wrongly := _false_sure(metrics)) is not None and wrongly > FALSE_SURE:
        text = f"Of images of nothing that it knows, {percent(wrongly)} get a sure answer."
        yield Verdict(Level.BAD if wrongly > 5 * FALSE_SURE else Level.AMBER, text)
    level = Level.GOOD if found["accuracy"] >= _GOOD else Level.AMBER
    text = f"Accuracy is {accuracy}"
    if calibration is not None and calibration["accuracy_sure"] is not None:
        text += f"; {percent(calibration['share_sure'])} of the test images are answered, and"
        text += f" {percent(calibration['accuracy_sure'])} of those answers are right"
    yield Verdict(level, f"{text}.")


def _unreadable(metrics: Metrics, run: Run) -> Iterator[Step]:
    images = metrics["images"]
    if not images["rejected"]:
        return
    kinds = images.get("rejected_kinds", [])
    why = f"{count(images['rejected'], 'image')} of {number(images['listed'])} could not be read."
    if kinds and kinds[0]["remedy"]:
        why += f" Mostly {kinds[0]['kind']}: {kinds[0]['remedy'].rstrip('.')}."
    share = images["rejected"] / max(1, images["listed"])
    yield Step(
        "Mend the images that were rejected", why, reproduce.command(run, retry_rejected=True), share, "of the images"
    )


def _conflicts(metrics: Metrics, run: Run) -> Iterator[Step]:
    if conflicts := metrics.get("conflicts"):
        images = conflicts["images"]
        pair = conflicts["pairs"][0] if conflicts["pairs"] else None
        why = f"{count(images, 'image')} are the same file under another label; at most one of them is right."
        if pair is not None:
            why += f" Such as {' and '.join(f'“{label_name(label)}”' for label in pair['labels'][:2])}."
        share = images / max(1, metrics["images"]["featurized"])
        yield Step("Give the same image one label", why, reproduce.command(run), share, "of the images")


def _doubts(metrics: Metrics, run: Run) -> Iterator[Step]:
    """Look at labels that classifiers doubt which never saw the image."""
    review = metrics.get("review")
    doubted = review["faults"].get(Fault.LABEL, 0) if review is not None else 0
    if review is None or not doubted:
        return
    why = (
        f"{count(doubted, 'image')} of {number(review['judged'])} {'looks' if doubted == 1 else 'look'} more like "
        "another label. They are in review/suspects.csv: write the right labels into the column “corrected” of a copy."
    )
    first = next((image for image in review["first"] if image["fault"] == Fault.LABEL), None)
    if first is not None:
        says, fits = (label_name(first[name] or "") for name in ("label", "suggested"))
        why += f" Such as {first['path']}: “{says}”, or “{fits}”?"
    command = reproduce.command(run, corrections="corrected.csv")
    yield Step("Look at the labels in doubt", why, command, doubted / max(1, review["judged"]), "of the labels")


def _copies(metrics: Metrics, run: Run) -> Iterator[Step]:
    """Take out of test what is in training byte for byte."""
    leak = metrics.get("leak")
    if leak is not None and (twins := leak["test_rows_with_twin_in_train"]):
        why = (
            f"{count(twins, 'test image')} {'is' if twins == 1 else 'are'} in training too. Delete one of the two, "
            "or let Orchard split: it keeps copies together where the source names no split."
        )
        command = reproduce.command(run, prune=True)
        yield Step("Take the copies out of test", why, command, twins / max(1, leak["test_rows"]), "of the test images")


def _too_alike(metrics: Metrics, run: Run) -> Iterator[Step]:
    """Keep what belongs together on one side: the figures, and what was calibrated, are too good otherwise."""
    calibration, near = _calibration(metrics), metrics.get("neighbours")
    bounds = broken_promise(calibration) if calibration is not None else None
    grouped = "grouping" in metrics
    if calibration is not None and bounds is not None:
        why = (
            f"Sure answers were to be right in {percent(calibration['sure_at'])}, as they are on the images held out, "
            f"and are in {percent(calibration['accuracy_sure'] or 0.0)} ({interval(bounds)}) of the test images: the "
            "images held out were too like the rest. "
        )
        gain = calibration["share_sure"]
        if grouped:
            why += "Bring a validation split of your own: a folder Validation, or the column split of a manifest."
            yield Step(
                "Hold out images that are like those to come", why, reproduce.command(run), gain, "of the answers"
            )
        else:
            why += (
                "Name what belongs together (a column of the manifest, a regular expression on paths, or frames), so "
                "that it is held out together; or bring a validation split, as a folder Validation or the column split."
            )
            yield Step("Hold out whole groups", why, reproduce.command(run, group_by="REGEX"), gain, "of the answers")
    elif near is not None and are_many(near) and not grouped:
        share = near["near_twins"] / max(1, near["test_rows"])
        why = (
            f"{percent(share)} of the test images have a near twin in training. If they are series of one thing, their "
            "groups should be on one side of the split: the accuracy is then that on things never seen."
        )
        yield Step(
            "Measure on whole groups", why, reproduce.command(run, group_by="frames"), share, "of the test images"
        )


def _threshold(metrics: Metrics, run: Run) -> Iterator[Step]:
    """Trade reliability against answers, where few are given."""
    calibration = _calibration(metrics)
    if calibration is None or calibration["share_sure"] >= LEAST_ANSWERED:
        return
    share, rows = calibration["share_sure"], max(1, calibration["test_rows"])
    for wanted in _RELIABILITIES:
        point = answered_at(calibration, wanted)
        if wanted < calibration["sure_at"] and point is not None and point["images"] / rows >= LEAST_ANSWERED:
            why = (
                f"{percent(share)} of the test images are answered where {percent(calibration['sure_at'])} of the sure "
                f"answers are to be right. Where {wanted:.0%} will do, it would be about {percent(point['answered'])}."
            )
            command = reproduce.command(run, sure_at=wanted)
            yield Step("Answer more, a little less surely", why, command, point["answered"] - share, "more answered")
            return


def answered_at(calibration: CalibrationMetrics, wanted: float) -> CoveragePoint | None:
    """Return the point of the curve that answers most test images with a share of at least `wanted` right."""
    good = [point for point in calibration["coverage"] if point["right"] >= wanted * point["images"]]
    return max(good, key=lambda point: point["images"], default=None)


def _photos(metrics: Metrics, run: Run) -> Iterator[Step]:
    """Take more photos of the classes that are hard and have few."""
    classifier = _answering(metrics)
    if classifier is None or not classifier["test_rows"]:
        return
    error = 1 - classifier["accuracy"]
    training = {label: splits.get(Split.TRAIN, 0) for label, splits in metrics["labels"].items()}
    ordered = sorted(training.values())
    median = ordered[len(ordered) // 2] if ordered else 0
    excess = {
        label: row["support"] * (1 - row["recall"] - error)
        for label, row in classifier["per_class"].items()
        if row["support"] and training.get(label, 0) <= median
    }
    hardest = sorted((label for label in excess if excess[label] > 0), key=lambda label: (-excess[label], label))
    if not hardest:
        return
    named = hardest[:_NAMED]
    gain = sum(excess[label] for label in named) / classifier["test_rows"]
    each = "; ".join(
        f"“{label_name(label)}” ({percent(classifier['per_class'][label]['recall'])} right, "
        f"{count(training.get(label, 0), 'training image')})"
        for label in named
    )
    why = f"{each}. Were they as good as the rest, {percent(gain)} more of the test images would be right."
    yield Step("Take more photos of the hardest classes", why, reproduce.command(run), gain, "more right")


def _backbone(metrics: Metrics, run: Run) -> Iterator[Step]:
    """Try the backbone that is best on ImageNet of those that are not much larger.

    Networks that are better there are mostly better elsewhere (Kornblith et al. 2019, arXiv:1805.08974); the estimate
    takes the same share of the mistakes to go.
    """
    classifier = _answering(metrics)
    today = REGISTRY.get(str(run["backbone"].get("name")))
    if classifier is None or today is None or today.top1 is None:
        return
    error = 1 - classifier["accuracy"]
    most = today.parameters * _MOST_FOR_SPEED
    others = [one for one in REGISTRY.values() if one.top1 is not None and one.parameters <= most]
    best = max(others, key=lambda one: one.top1 or 0.0)
    if best.top1 is None or best.top1 <= today.top1 or not error:
        return
    gain = error * (best.top1 - today.top1) / (100 - today.top1)
    why = (
        f"On ImageNet {best.name} is right in {best.top1:.1f}% and {today.name} in {today.top1:.1f}%. If it avoids the "
        f"same share of mistakes here, {percent(gain)} more of the test images are right. It has "
        f"{best.parameters / today.parameters:.1f} times the parameters."
    )
    source, output = (shlex.quote(redacted(run[name])) for name in ("source", "output"))
    names = f"{today.name},{best.name}"
    command = f"orchard compare {source} \\\n  --backbones {names} \\\n  --output {output}-backbones"
    yield Step("Compare with a better backbone", why, command, gain, "more right")


def _unknown(metrics: Metrics, run: Run) -> Iterator[Step]:
    wrongly = _false_sure(metrics)
    if wrongly is None and "selection" in metrics:
        why = (
            "Whether the model knows what it does not know was not measured. A folder of photos that show none of its "
            "classes, such as people's rooms and hands, tells."
        )
        yield Step("Show it what it does not know", why, reproduce.command(run, unknown="FOLDER"), 0.0)
    elif wrongly is not None and wrongly > FALSE_SURE:
        calibration = _calibration(metrics)
        wanted = calibration["sure_at"] if calibration is not None else 0.99
        why = (
            f"Of {count(metrics['unknown']['images'], 'image')} that are none of the classes {percent(wrongly)} get a "
            "sure answer. A higher reliability makes them fewer, and the right answers too."
        )
        stricter = round(1 - (1 - wanted) / 2, 4)
        yield Step("Be sure less often", why, reproduce.command(run, sure_at=stricter), wrongly, "wrongly sure")


def _cards(metrics: Metrics, run: Run) -> Iterator[Step]:
    cards = metrics.get("cards")
    if cards is not None and (without := cards["labels_without"]):
        named = ", ".join(f"“{label_name(label)}”" for label in without[:_NAMED])
        more = f" and {number(len(without) - _NAMED)} more" if len(without) > _NAMED else ""
        why = f"{count(len(without), 'label')} lead to no card: {named}{more}."
        yield Step("Write the cards that are missing", why, reproduce.command(run), 0.0)


def _answering(metrics: Metrics) -> ClassifierMetrics | None:
    name = alerts.answering(metrics)
    return metrics["classifiers"][name] if name is not None else None


def _calibration(metrics: Metrics) -> CalibrationMetrics | None:
    return alerts.calibration(metrics)


def _false_sure(metrics: Metrics) -> float | None:
    """Return the share of images of nothing that was learned that are answered with a label; None: not measured."""
    found = metrics.get("unknown")
    return found["sure"] / found["images"] if found is not None and found["images"] else None
