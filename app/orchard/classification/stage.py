"""The Spark stage from ``reduced/`` to ``predictions/``, metrics and the model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast

import pyarrow as pa
import pyarrow.compute as pc

from orchard.classification.answers import measure_answers
from orchard.classification.candidates import Candidates, choose
from orchard.classification.groups import evaluate_groups
from orchard.classification.leak import find_leak
from orchard.classification.metrics import evaluate, majority_baseline
from orchard.classification.predictions import LinearModel, Pairs, Written, write_forest, write_linear
from orchard.classification.regression import prepare
from orchard.classification.training import Classifier, chosen
from orchard.errors import InputError, TrainingError
from orchard.features.regrouping import group_key
from orchard.images.columns import values_of
from orchard.inference import columns as further
from orchard.inference.calibration import LEAST_ROWS, Calibration, Decision
from orchard.layout import (
    CALIBRATION,
    CARRIED,
    COLUMNS,
    FAMILIARITY,
    INVENTORY,
    KINDS,
    LABEL_COLUMNS,
    LABELS,
    NAMES,
    RANDOM_FOREST,
    TRAINED_HEAD,
    Baseline,
    CalibrationMetrics,
    ClassifierMetrics,
    ColumnMetrics,
    Dataset,
    FittedBy,
    GroupSplit,
    Leak,
    Selection,
    Trial,
)
from orchard.output import NO_MODEL, Output
from orchard.stages import Stage, key_of
from orchard.vocabulary import Split

if TYPE_CHECKING:
    from orchard.progress import Advance
    from orchard.settings import Settings
    from orchard.spark.session import Session
    from orchard.workers import Workers

VERSION = 6
"""Raise it when a change makes the same features give other classifiers: older results are then computed again."""

_NAMED = 10  # labels that a warning names before it only counts


class Classification(TypedDict, total=False):
    """The stage's committed property; `orchard.layout.Metrics` explains the fields that both have."""

    key: str  # of settings and input; only if all that was asked for is done
    begun: str  # the same, from the first classifier on
    lacked: str  # the memory of the driver's JVM, if it was too little for a classifier
    classifiers: dict[str, ClassifierMetrics]
    trials: dict[str, Trial | None]  # of linear classifiers
    calibrations: dict[str, dict[str, float]]  # of linear classifiers
    kind_thresholds: dict[str, float | None]  # of linear classifiers
    answers: dict[str, CalibrationMetrics | None]  # of linear classifiers
    selection: Selection | None
    calibration: CalibrationMetrics | None  # of the one that answers
    baseline: Baseline
    leak: Leak
    group_split: GroupSplit | None
    columns: dict[str, ColumnMetrics]  # of further label columns
    warnings: list[str]


def stage_of(output: Output, settings: Settings) -> Stage:
    """Return the stage. Its key is made of the reduction, of the groups that the split cuts, and of the settings.

    If memory was too small for a classifier, the key also contains the amount, so that another amount is tried.

    Raises:
        InputError: the features were not reduced since they last changed.
        UsageError: the settings name classifiers that do not exist.
    """
    classifiers = chosen(settings.classifiers, settings.answer_with, is_tuned=output.has_part(TRAINED_HEAD))
    reduced = output.recall("reduction").get("key")
    if reduced is None:
        raise InputError(f"The features in {output.url} are not reduced yet: start with orchard reduce {output.url}.")
    groups = group_key(output, straddling=True)
    key = key_of(
        VERSION,
        reduced,
        classifiers,
        settings.seed,
        groups,
        settings.test_fraction,
        settings.sure_at,
        settings.answer_with,
        settings.classifier_memory,
    )

    def work(session: Session, progress: Advance) -> None:
        run(
            session,
            output,
            classifiers,
            key=key,
            seed=settings.seed,
            split_by_group=groups is not None,
            test_fraction=settings.test_fraction,
            sure_at=settings.sure_at,
            answer_with=settings.answer_with,
            memory=settings.classifier_bytes,
            driver_memory=settings.driver_memory,
            progress=progress,
        )

    lacked = output.recall("classification").get("lacked", settings.driver_memory)
    return Stage("classify", "classification", key, work, again=lacked != settings.driver_memory)


def run(session: Session, output: Output, classifiers: Sequence[Classifier], *, key: str, **options: Any) -> None:
    """Run `classify`. If the data cannot train a classifier, warn instead, and make no model."""
    try:
        classify(session.workers, output, classifiers, key=key, **options)
    except TrainingError as error:
        found = {"key": key, "warnings": [str(error)]}
        output.commit({}, replace=[Dataset.PREDICTIONS], properties={"classification": found}, model=NO_MODEL)


def classify(
    workers: Workers,
    output: Output,
    classifiers: Sequence[Classifier],
    *,
    key: str = "",
    seed: int,
    split_by_group: bool,
    memory: int,
    test_fraction: float,
    sure_at: float = 0.99,
    answer_with: str | None = None,
    driver_memory: str = "",
    progress: Callable[[int], None] | None = None,
) -> Classification:
    """Train on ``train``, predict every labelled row, measure on ``test``, and commit.

    Linear classifiers are fitted twice, unless there is a validation split: without the training rows that are held
    out, on which they are then compared and calibrated; and on all training rows. On the test rows nothing is fitted.

    Each classifier is committed when it is done, with its predictions and a model of all that are done. If a later one
    fails, the earlier ones are kept, and the next start continues with it. Images without a label are left out. A
    classifier that does not fit into memory is left out, with a warning.

    Args:
        workers: what does the work.
        output: the output, with reduced features, locked for writing.
        classifiers: names of the classifiers to train.
        key: the stage's key; results with another key are replaced.
        seed: seed of the forest and of the split by groups.
        memory: as for `Candidates`.
        split_by_group: whether to measure also with whole groups on one side of the split.
        test_fraction: share of test images in the split by groups, 0..1.
        sure_at: the share of sure answers that should be right, 0..1.
        answer_with: name of the linear classifier that answers; None: the best one on the held-out rows.
        driver_memory: the driver's memory setting, recorded if it is too small.
        progress: called with 1 after every classifier, including those of the split by groups.

    Returns:
        What was committed as the property ``classification``.

    Raises:
        InputError: there are no reduced features.
        TrainingError: there is nothing to train or to test on, or only one label.
    """
    if not output.rows(Dataset.REDUCED):
        raise InputError(f"{output.url} holds no reduced features: run orchard reduce first.")
    inventory = output.read(Dataset.INVENTORY, ["path", *CARRIED, "split", "digest", "featurized"], INVENTORY)
    rows = inventory.filter(inventory["featurized"])
    train_counts, test_counts = (_count(rows, split) for split in (Split.TRAIN, Split.TEST))
    _check(train_counts, test_counts, drawn_by=output.recall("identity").get("group_by"))
    prepare()
    fitted_on = output.recall("reduction").get("fitted_on", [Split.TRAIN])
    counts = _kinds_of_labels(rows, fitted_on)
    candidates = Candidates(workers, output, seed=seed, memory=memory, sure_at=sure_at, counts=counts)

    if not candidates.has_head:
        classifiers = [classifier for classifier in classifiers if classifier is not Classifier.TUNED_HEAD]
    found, files = _begin(output, key, rows, candidates, fitted_on)
    candidates.begin(classifiers, found["classifiers"])
    for classifier in classifiers:
        if classifier in found["classifiers"]:
            continue
        start = time.perf_counter()
        lack, done = _do(workers, output, classifier, candidates, found=found, fitted_on=fitted_on, sure_at=sure_at)
        if lack is not None and lack not in found["warnings"]:
            found |= {"lacked": driver_memory, "warnings": [*found["warnings"], lack]}
        if done is None:
            continue
        made, written, by = done
        files |= made
        if classifier.is_linear:
            files[CALIBRATION] = _choose(found, candidates, answer_with).to_bytes()
        measured = _evaluate(written, sum(counts.values()))
        measured |= {"seconds": time.perf_counter() - start, "fitted_by": by}
        is_first = not found["classifiers"]
        found["classifiers"] = found["classifiers"] | {str(classifier): measured}
        if len(found["classifiers"]) == len(classifiers) and not split_by_group:
            found["key"] = key
        output.commit(
            {Dataset.PREDICTIONS: written.files},
            replace={Dataset.PREDICTIONS} if is_first else (),
            properties={"classification": found},
            model=output.stage_model(files),
        )
        if progress:
            progress(1)

    if split_by_group and found["classifiers"]:
        try:
            found["group_split"] = evaluate_groups(
                workers,
                output,
                # The head has seen every group.
                [c for c in classifiers if c in found["classifiers"] and c is not Classifier.TUNED_HEAD],
                components=candidates.reduction.n_components_,
                seed=seed,
                memory=memory,
                test_fraction=test_fraction,
                progress=progress,
            )
        except TrainingError as error:  # the other figures stand
            found["warnings"] = [*found["warnings"], str(error)]
    if "key" not in found:
        found["key"] = key
        nothing: dict[str, Any] = {} if found["classifiers"] else {"replace": {Dataset.PREDICTIONS}, "model": NO_MODEL}
        output.commit({}, properties={"classification": found}, **nothing)
    return found


def _begin(
    output: Output, key: str, rows: pa.Table, candidates: Candidates, fitted_on: Sequence[str]
) -> tuple[Classification, dict[str, bytes]]:
    """Return the results and model files to begin with: those that an interrupted run has committed, or none."""
    found = cast(Classification, output.recall("classification"))
    if found.get("begun") == key and "key" not in found:
        return found, output.classifier_files()
    train_counts, test_counts = _count(rows, *fitted_on), _count(rows, Split.TEST)
    warnings = _warnings(rows, train_counts, test_counts)
    if not candidates.held_out:
        warnings.append(f"Fewer than {LEAST_ROWS} labelled images can be held out: confidences are not calibrated.")
    warnings += _column_warnings(candidates)
    found = {
        "begun": key,
        "classifiers": {},
        "trials": {},
        "calibrations": {},
        "kind_thresholds": {},
        "answers": {},
        "selection": None,
        "calibration": None,
        "baseline": majority_baseline(train_counts, test_counts),
        "leak": find_leak(rows),
        "group_split": None,
        "columns": _columns(rows, candidates),
        "warnings": warnings,
    }
    files = {
        LABELS: json.dumps(candidates.labels, ensure_ascii=False).encode(),
        FAMILIARITY: candidates.familiarity.to_bytes(),
    }
    if candidates.kinds:
        files[KINDS] = candidates.kinds.to_bytes()
    if candidates.columns:
        files[COLUMNS] = further.to_bytes(candidates.columns)
    return found, files


def _columns(rows: pa.Table, candidates: Candidates) -> dict[str, ColumnMetrics]:
    """Return the figures of further columns that need no answers to test images."""
    found: dict[str, ColumnMetrics] = {}
    for name in sorted([*candidates.left_out, *(column.name for column in candidates.columns)]):
        named = pa.table({"value": values_of(rows[LABEL_COLUMNS], name), "split": rows["split"]})
        values: dict[str, dict[str, int]] = {}
        counts = named.group_by(["value", "split"]).aggregate([([], "count_all")]).sort_by("value")
        for row in counts.to_pylist():
            values.setdefault(row["value"] or "", {})[row["split"]] = row["count_all"]
        found[name] = ColumnMetrics(values=values)
    for column in candidates.columns:
        found[column.name] |= ColumnMetrics(
            values=found[column.name]["values"],
            held_out=candidates.held_out_of(column.name),
            temperature=column.calibration.temperature,
            threshold=column.calibration.threshold,
        )
    return found


def _column_warnings(candidates: Candidates) -> list[str]:
    warnings = [
        f"Nothing was learned of {name}: training images have fewer than two values of it."
        for name in candidates.left_out
    ]
    few = [column.name for column in candidates.columns if not candidates.held_out_of(column.name)]
    if few and candidates.held_out:
        warnings.append(
            f"Fewer than {LEAST_ROWS} images that are held out have a value of {', '.join(few)}: its confidences are "
            "not calibrated."
        )
    return warnings


def _do(
    workers: Workers,
    output: Output,
    classifier: Classifier,
    candidates: Candidates,
    *,
    found: Classification,
    fitted_on: Sequence[str],
    sure_at: float,
) -> tuple[str | None, tuple[dict[str, bytes], Written, FittedBy] | None]:
    """Train a classifier and predict every row; the weights of a linear one are added to `found`.

    Returns:
        What memory was too little for; and the model's files, the staged predictions, and what fitted it.
    """
    if not classifier.is_linear:
        forest, lack = candidates.grow()
        if forest is None:
            return lack, None
        written = write_forest(workers, output, str(classifier), forest, candidates.kinds)
        return lack, ({RANDOM_FOREST: forest.to_bytes()}, written, FittedBy.SCIKIT_LEARN)
    fitted, lack = candidates.fit(classifier)
    if fitted is None:
        return lack, None
    name = str(classifier)
    answering = LinearModel(
        name,
        candidates.labels,
        fitted.linear,
        fitted.calibration,
        candidates.familiarity,
        candidates.kinds,
        candidates.columns,
    )
    written, answered = write_linear(workers, output, answering)
    found["columns"] = _measured(found.get("columns", {}), written.columns, fitted_on)
    figures = measure_answers(
        answered, fitted.calibration, split=candidates.split, rows=candidates.held_out, sure_at=sure_at
    )
    found["trials"] = found["trials"] | {name: fitted.trial}
    found["calibrations"] = found["calibrations"] | {name: fitted.calibration.as_json()}
    found["answers"] = found["answers"] | {name: figures}
    found["kind_thresholds"] = found["kind_thresholds"] | {name: fitted.kind_threshold}
    return lack, (fitted.files, written, fitted.by)


def _choose(found: Classification, candidates: Candidates, answer_with: str | None) -> Decision:
    """Return the finished linear classifier that answers, and its calibration; the reason is added to `found`."""
    chosen, why = choose(found["trials"], answer_with, candidates.held_out)
    found["selection"] = Selection(
        split=candidates.split,
        rows=candidates.held_out,
        trials={name: trial for name, trial in found["trials"].items() if trial is not None},
        chosen=chosen,
        why=why,
        fitted_again=candidates.fits_held_out,
    )
    found["calibration"] = found["answers"][chosen] if candidates.held_out else None
    return Decision(chosen, Calibration.from_json(found["calibrations"][chosen]), found["kind_thresholds"][chosen])


def _evaluate(written: Written, train_rows: int) -> ClassifierMetrics:
    measured = _evaluate_pairs(written.labels, train_rows)
    if written.kinds:
        measured["by_kind"] = _evaluate_pairs(written.kinds, train_rows)
    return measured


def _evaluate_pairs(pairs: Pairs, train_rows: int) -> ClassifierMetrics:
    true, predicted, counts = (list(values) for values in zip(*pairs, strict=True)) if pairs else ([], [], [])
    return evaluate(true, predicted, counts=counts, train_rows=train_rows)


def _measured(
    columns: dict[str, ColumnMetrics], pairs: dict[str, Pairs], fitted_on: Sequence[str]
) -> dict[str, ColumnMetrics]:
    """Return the figures of further columns, with those measured on test images added."""
    found = dict(columns)
    for name, of_column in pairs.items():
        if not of_column:
            continue
        values = {value: counts for value, counts in columns[name]["values"].items() if value}
        training = {value: sum(counts.get(split, 0) for split in fitted_on) for value, counts in values.items()}
        training = {value: count for value, count in training.items() if count}
        test: dict[str, int] = {}
        for true, _, images in of_column:
            test[true] = test.get(true, 0) + images
        figures = _evaluate_pairs(of_column, sum(training.values()))
        found[name] = found[name] | {"test": figures, "baseline": majority_baseline(training, test)}
    return found


def _kinds_of_labels(rows: pa.Table, fitted_on: Sequence[str]) -> dict[tuple[str, str | None], int]:
    """Return how many images of some splits have a label and a kind."""
    training = rows.filter(pc.is_in(rows["split"], pa.array(fitted_on, pa.string())))
    counts = training.filter(training["label"].is_valid()).group_by([*NAMES]).aggregate([([], "count_all")])
    return {(row["label"], row["kind"]): row["count_all"] for row in counts.to_pylist()}


def _count(rows: pa.Table, *splits: str) -> dict[str, int]:
    """Return label -> labelled rows of some splits."""
    is_of = pc.is_in(rows.column("split"), pa.array(splits, pa.string()))
    labels = rows.filter(is_of).column("label").drop_null()
    return {item["values"]: item["counts"] for item in pc.value_counts(labels).to_pylist()}


def _check(train_counts: dict[str, int], test_counts: dict[str, int], *, drawn_by: str | None) -> None:
    """Raise TrainingError if there is too little; `drawn_by` names the groups by which Orchard drew the split."""
    if not train_counts:
        raise TrainingError("No classifier was trained: no image of the train split has a label.")
    if len(train_counts) == 1:
        (label,) = train_counts
        raise TrainingError(
            f"No classifier was trained: all training images are labelled {label!r}, and it takes two labels; "
            "a label is the name of an image's folder."
        )
    if not test_counts and drawn_by:
        raise TrainingError(
            f"No classifier was trained: each group by {drawn_by!r} holds all images of a label, so none is left to "
            "test on; name smaller ones."
        )
    if not test_counts:
        raise TrainingError(
            "No classifier was trained: no labelled image is in the test split, so nothing could be measured; "
            "add a Test folder, or leave the split to Orchard."
        )


def _warnings(rows: pa.Table, train_counts: dict[str, int], test_counts: dict[str, int]) -> list[str]:
    warnings = []
    unlabelled = rows["path"].filter(pc.is_null(rows["label"]))
    if len(unlabelled):
        such = pc.min(unlabelled).as_py()
        warnings.append(
            f"{len(unlabelled)} image(s) have no label, such as {such}: they were neither trained on nor predicted."
        )
    seen = train_counts.keys() | test_counts.keys() | _count(rows, Split.VALIDATION).keys()
    if untrained := sorted(seen - train_counts.keys()):
        warnings.append(
            f"{_name(untrained)} cannot be predicted, for lack of training images; their test images count as errors."
        )
    if untested := sorted(train_counts.keys() - test_counts.keys()):
        warnings.append(f"{_name(untested)} were not measured, for lack of test images.")
    return warnings


def _name(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return f"{len(labels)} label(s) ({', '.join(labels[:_NAMED])}{more})"
