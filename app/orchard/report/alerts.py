"""Warnings to read before the figures: rejected images, leaks, labels of uneven size."""

from dataclasses import dataclass
from enum import StrEnum

from orchard.headline import measured_by
from orchard.images.groups import FRAMES_PER_GROUP
from orchard.layout import (
    CalibrationMetrics,
    ClassifierMetrics,
    Grouping,
    GroupSource,
    Headline,
    Leak,
    Measure,
    Metrics,
)
from orchard.neighbours.twins import are_many
from orchard.report.formatting import count, label_name, number, percent
from orchard.vocabulary import Reason, Split

REASONS = {
    Reason.EMPTY: "The file has no bytes.",
    Reason.UNREADABLE: "The file could not be opened or read.",
    Reason.UNSUPPORTED_FORMAT: "The content is of no supported image format, whatever the name says.",
    Reason.TRUNCATED: "The file ends before the image does.",
    Reason.CORRUPT: "The content cannot be decoded.",
    Reason.TOO_LARGE: "The file has more bytes than the settings allow.",
    Reason.TOO_MANY_PIXELS: "The image has more pixels, or takes more memory, than the settings allow.",
    Reason.TOO_SLOW: "Decoding takes more time than the settings allow.",
}

_UNEVEN = 5.0  # times as many training images in the largest class as in the smallest
_OPTIMISM = 0.02  # accuracy that grouping may cost before it is worth a warning
_WARNINGS = 30  # shown


class Level(StrEnum):
    """Severity of an alert."""

    WARNING = "warning"
    NOTE = "note"
    GOOD = "good"


class Topic(StrEnum):
    """What an alert is about; the template adds a table to some."""

    REJECTED = "rejected"
    GROUPS = "groups"
    LEAK = "leak"
    NEAR = "near"
    BALANCE = "balance"
    COUNTS = "counts"
    RUN = "run"


@dataclass(frozen=True)
class Alert:
    """A warning of the report."""

    level: Level
    topic: Topic
    title: str
    text: str


def measured(metrics: Metrics) -> dict[str, ClassifierMetrics]:
    """The classifiers that were measured on at least one test image, the most accurate first."""
    found = {name: c for name, c in metrics.get("classifiers", {}).items() if c["test_rows"] > 0}
    return dict(sorted(found.items(), key=lambda item: (-item[1]["accuracy"], -item[1]["macro_f1"], item[0])))


def answering(metrics: Metrics) -> str | None:
    """The classifier that answers, or the most accurate one where none was chosen; None if nothing was measured."""
    found = measured(metrics)
    chosen = metrics["selection"]["chosen"] if "selection" in metrics else None
    return chosen if chosen in found else next(iter(found), None)


def calibration(metrics: Metrics) -> CalibrationMetrics | None:
    """The calibration figures of the classifier that answers; None without figures, or if they have no curves yet."""
    found = metrics.get("calibration")
    return found if found is not None and "coverage" in found else None


def grouped_accuracy(metrics: Metrics) -> tuple[str, float, float] | None:
    """The best classifier that both splits measured: its name, its accuracy, and that of the grouped split."""
    groups = metrics.get("group_split")
    if groups is None:
        return None
    for name, classifier in measured(metrics).items():
        honest = groups["classifiers"].get(name)
        if honest is not None and honest["test_rows"] > 0:
            return name, classifier["accuracy"], honest["accuracy"]
    return None


def all_images(metrics: Metrics) -> Headline | None:
    """The headline on all test images; None if it is the same."""
    found = metrics.get("headline")
    return measured_by(metrics, Measure.ALL) if found is not None and found["measure"] != Measure.ALL else None


def grouped_how(grouping: Grouping) -> str:
    """A sentence that says where groups come from."""
    how = {
        GroupSource.COLUMN: f"named by the manifest's column “{grouping['by']}”",
        GroupSource.PATTERN: f"named by what “{grouping['by']}” finds in a path",
        GroupSource.FRAMES: "guessed: files of one class whose names differ in one number alone are taken for "
        f"frames of one recording, and up to {FRAMES_PER_GROUP} that follow each other for a group",
    }[GroupSource(grouping["source"])]
    alone = grouping["ungrouped"]
    more = f" {count(alone, 'image')} of no group {'stands' if alone == 1 else 'stand'} alone." if alone else ""
    return f"{count(grouping['groups'], 'group')}, {how}.{more}"


def alerts(metrics: Metrics) -> list[Alert]:
    """All warnings, the most serious first."""
    found = [
        *_counts(metrics),
        *_groups(metrics),
        *_leak(metrics),
        *_near(metrics),
        *_rejected(metrics),
        *_balance(metrics),
    ]
    warnings = metrics.get("warnings", [])
    found += [Alert(Level.WARNING, Topic.RUN, "The run says", text) for text in warnings[:_WARNINGS]]
    if len(warnings) > _WARNINGS:
        text = f"{number(len(warnings) - _WARNINGS)} more warnings are in metrics.json."
        found.append(Alert(Level.WARNING, Topic.RUN, "And more", text))
    return sorted(found, key=lambda alert: list(Level).index(alert.level))


def _counts(metrics: Metrics) -> list[Alert]:
    images = metrics["images"]
    if images["listed"] == images["featurized"] + images["rejected"]:
        return []
    text = (
        f"{number(images['listed'])} images were listed, but {number(images['featurized'])} featurized and "
        f"{number(images['rejected'])} rejected. Run the same command again: it does what is missing."
    )
    return [Alert(Level.WARNING, Topic.COUNTS, "The counts do not add up", text)]


def _rejected(metrics: Metrics) -> list[Alert]:
    images = metrics["images"]
    if images["rejected"] == 0:
        text = f"{count(images['featurized'], 'image')} became features."
        return [Alert(Level.GOOD, Topic.REJECTED, "No image was rejected", text)] if images["featurized"] else []
    plural = "image was" if images["rejected"] == 1 else "images were"
    share = images["rejected"] / max(1, images["listed"])
    text = f"{percent(share)} of {number(images['listed'])} listed; they are left out of everything below."
    level = Level.WARNING if share >= 0.001 else Level.NOTE
    return [Alert(level, Topic.REJECTED, f"{number(images['rejected'])} {plural} rejected", text)]


def _leak(metrics: Metrics) -> list[Alert]:
    leak: Leak | None = metrics.get("leak")
    if leak is None or leak["test_rows"] == 0:
        return []
    twins = leak["test_rows_with_twin_in_train"]
    if twins:
        text = (
            f"{percent(twins / leak['test_rows'])} of {count(leak['test_rows'], 'test image')} have a byte-identical "
            "twin in training: the classifier has seen the answer. The accuracy on them says nothing about new images."
        )
        title = f"{number(twins)} test image{' is' if twins == 1 else 's are'} also in training"
        return [Alert(Level.WARNING, Topic.LEAK, title, text)]
    if (near := metrics.get("neighbours")) is not None and are_many(near):
        return []  # `_near` says so
    text = "No test image is byte for byte the same as a training image."
    if leak["duplicate_rows"] and "conflicts" not in metrics:  # those are a warning
        text += f" Images with a twin on their own side of the split: {number(leak['duplicate_rows'])}."
    return [Alert(Level.GOOD, Topic.LEAK, "Training and test share no file", text)]


def _near(metrics: Metrics) -> list[Alert]:
    found = metrics.get("neighbours")
    if found is None or found["threshold"] is None or not found["test_rows"]:
        return []
    near, rows = found["near_twins"], found["test_rows"]
    others = found["near_other_labels"]
    about = (
        f"Near are images whose features have a cosine of {found['threshold']:.3f} or more, which images of different "
        f"things reach once in a thousand; {percent(others / max(1, found['train_rows']))} of the training images are "
        "as near to one of another class."
    )
    if not are_many(found):
        title = "No test image has a near twin in training"
        if near:
            title = f"{count(near, 'test image')} as near to training as chance has it"
        return [Alert(Level.GOOD, Topic.NEAR, title, f"{percent(near / rows)} of {count(rows, 'test image')}. {about}")]
    text = f"{percent(near / rows)} of {count(rows, 'test image')}. {about}"
    apart = measured_by(metrics, Measure.APART)
    if apart is not None:
        low, high = apart["accuracy_interval"]
        text += (
            f" On the {count(apart['test_rows'], 'test image')} without one, accuracy is {percent(apart['accuracy'])} "
            f"({percent(low)} to {percent(high)})."
        )
    else:
        text += " Too few test images are without one to measure anything on them."
    if "group_split" not in metrics:
        text += " Name what belongs together with --group-by, or guess it with --group-by frames."
    verb = "has a near twin" if near == 1 else "have near twins"
    return [Alert(Level.WARNING, Topic.NEAR, f"{count(near, 'test image')} {verb} in training", text)]


def _groups(metrics: Metrics) -> list[Alert]:
    pair, grouping = grouped_accuracy(metrics), metrics.get("grouping")
    how = grouped_how(grouping) if grouping is not None else ""
    if pair is None:
        if grouping is None:
            return []
        return [Alert(Level.GOOD, Topic.GROUPS, "No group is on both sides of the split", how)]
    _, usual, whole = pair
    text = (
        f"With whole groups on one side of the split, everything fitted again, accuracy is {percent(whole)} instead of "
        f"{percent(usual)}. {how}"
    ).strip()
    if usual - whole > _OPTIMISM:
        title = f"{percent(whole)} rather than {percent(usual)} on groups that are not in training"
        return [Alert(Level.WARNING, Topic.GROUPS, title, text)]
    return [Alert(Level.GOOD, Topic.GROUPS, "The accuracy holds when groups are kept together", text)]


def _balance(metrics: Metrics) -> list[Alert]:
    training = {label: splits.get(Split.TRAIN, 0) for label, splits in metrics["labels"].items()}
    if len(training) < 2 or not any(training.values()):
        return []
    missing = sorted(label_name(label) for label, images in training.items() if images == 0)
    found = []
    if missing:
        named = ", ".join(f"“{label}”" for label in missing[:5]) + (" and others" if len(missing) > 5 else "")
        title = f"{number(len(missing))} class{'' if len(missing) == 1 else 'es'} without a training image"
        text = f"No classifier can answer {named}: every test image of it counts as a mistake."
        found.append(Alert(Level.WARNING, Topic.BALANCE, title, text))
    smallest = min((label for label in training if training[label]), key=lambda label: training[label])
    largest = max(training, key=lambda label: training[label])
    ratio = training[largest] / training[smallest]
    if ratio >= _UNEVEN:
        text = (
            f"“{label_name(largest)}” has {number(training[largest])} training images, “{label_name(smallest)}” "
            f"{number(training[smallest])}. Accuracy leans to the large classes; look at macro F1 and the rare ones."
        )
        title = f"The largest class is {number(round(ratio, 1))} times the smallest"
        found.append(Alert(Level.NOTE, Topic.BALANCE, title, text))
    return found
