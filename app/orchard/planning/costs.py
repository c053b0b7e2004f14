"""The cost of each stage, from the amount of work and the speed of this machine.

A new stage needs a row in `STAGES`. The rows count work, which is the same on every machine: the number of sums and
rows, and fixed work (starting, Spark's jobs) as a number of program starts. The times of a sum and a start are measured
on this machine (`orchard.planning.kernels`), the time of an image with a few images (`orchard.planning.probe`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from orchard.classification import multinomial
from orchard.classification.forest import TREE_ROWS, TREES
from orchard.classification.regression import INSIDE_BYTES, fitted_by
from orchard.classification.training import Classifier
from orchard.features.artifact import Precision
from orchard.layout import FittedBy, Sizes, StagePlan
from orchard.neighbours.search import CELL_ROWS, PROBES
from orchard.neighbours.stage import EXACT_ROWS, SAMPLE_ROWS
from orchard.planning.kernels import Speeds
from orchard.report.looks import MAX_LOOKS
from orchard.report.page import MAX_ICONS, MAX_PICTURES
from orchard.tuning.training import JOINING, PROBE_VIEWS
from orchard.usage import EFFICIENCY


class Source(StrEnum):
    """The source of an estimate."""

    MEASURED = "some of the images"
    RECKONED = "sums of this kind"
    CORRECTED = "the last run of this output"


WITHIN: Mapping[Source, tuple[float, float]] = {
    Source.MEASURED: (0.8, 1.3),
    Source.CORRECTED: (0.7, 1.5),
    Source.RECKONED: (0.5, 2.0),
}
"""Source -> lowest and highest multiple of the estimate within which the time is expected, if the load stays the same.
This is a judgement, not a confidence interval; docs/sizing.md has measurements."""

MOST_CORRECTED, LEAST_CORRECTED_SECONDS = 5.0, 0.5
"""Largest factor by which the last run may correct an estimate, and least seconds of a stage there for a correction."""

# Fixed work, in starts of a program (`Speeds.launch`): of Spark and its workers, and of the jobs, imports and commits
# of each stage; and the same where processes of this machine work.
_STARTS = {"start": 66, "reduce": 10, "neighbours": 7, "classify": 14, "review": 8, "report": 8, "tune": 80}
_STARTS_HERE = _STARTS | {"start": 3, "reduce": 24}
# What starting Spark takes of the processor, where it starts beside the work.
_SPARK_BESIDE = 120
# Passes of the regression over its rows: some 50 for the first fit and 20 for the second, which begins where the first
# ended; each has two products, and its exponentials take twice as long again.
_PASSES, _PASS_PRODUCTS = 70, 6
# Growing a tree compares each row with a split in eleven components at each level, and an answer goes down each level:
# so many times what sorting takes for an entry and level.
_TREE_SORTS, _ANSWER_SORTS = 150, 22
# A file of features, which a task of the extraction writes, is opened by each pass: as long as so many numbers take to
# be written. Its sums, two matrices of the features' size, are then added to the others': as so many rows.
_OPENED_VALUES, _FILE_ROWS = 4_000, 480
# What an epoch takes for an image, and what the kept blocks take for a view, in passes of the whole network.
_EPOCH_PASSES, _FRONT_PASSES = 1.3, 0.9
# What each further branch adds: passes of a network without any, and a share of its weights.
_BRANCH_PASSES, _BRANCH_WEIGHTS = 0.16, 0.75
# Tuning computes in float32: so long a pass takes there, in passes of the precision that was measured.
_FLOAT32_PASSES = {Precision.FLOAT32: 1.0, Precision.BFLOAT16: 1.6, Precision.INT8: 1.6}
# Pictures of mistakes and of what is near to them, about.
_GALLERY = 150
# Components that hold 95 % of the variance: a share of the training images, or of the features if these are fewer.
_COMPONENTS = 0.33
# Bytes. Of the driver: Spark's Python part and scikit-learn; an image's row of listing and inventory; matrices of the
# features' size that the fits hold; a Java machine beside its heap.
_IMPORTS, _ROW, _MATRICES, _JVM = 160 * 2**20, 1_000, 12, 260 * 2**20
# On disk, an image's rows of inventory, neighbours and of one classifier's predictions; the page and the rest.
_INVENTORY, _NEIGHBOURS, _PREDICTION, _REST = 110, 90, 40, 6 * 2**20


@dataclass(frozen=True)
class Work:
    """The amount of work of a run.

    Attributes:
        images: number of images to featurize.
        listed: number of images that the output will have.
        train, labels: number of training images among these, and of their labels.
        views: number of random views of each training image.
        test_views: number of views whose features are averaged.
        n_features, components: numbers for an image; None: not known, and estimated.
        files: number of features files; with views, there are as many files of views.
        classifiers: names of the classifiers to train.
        by_group: whether everything is fitted a second time, on the split by groups.
        slots: number of tasks that run at once.
        is_local: whether processes of this machine do them.
        cores: number of the driver's cores.
        tune: number of images to tune the network on; 0: it is not tuned.
        tune_views: number of views of each of these.
        tune_epochs: number of epochs, at most.
        tune_branches: number of branches, at most.
        tune_seconds: seconds of tuning, at most.
        classifier_bytes: bytes that classifiers may take.
        heap: bytes of the heap of the driver's JVM.
        activation_bytes: bytes of the activations of one view.
    """

    images: int
    listed: int
    train: int
    labels: int
    views: int
    test_views: int
    n_features: int
    components: int | None
    files: int
    classifiers: Sequence[Classifier]
    by_group: bool
    slots: int
    is_local: bool
    cores: int
    tune: int
    tune_views: int
    tune_epochs: int
    tune_branches: int
    tune_seconds: float
    classifier_bytes: int
    heap: int
    activation_bytes: int = 0

    @property
    def k(self) -> int:
        """Number of components that are kept."""
        most = max(1, min(self.train - 1, self.n_features))
        return min(most, self.components) if self.components else max(1, round(_COMPONENTS * most))

    @property
    def regression_columns(self) -> int:
        """Columns that the regression is fitted on: with views as many as discriminants, otherwise components."""
        return max(1, min(self.labels - 1, self.n_features)) if self.views else self.k

    @property
    def needs_spark(self) -> bool:
        """Whether Spark starts."""
        columns, has_views = self.regression_columns, bool(self.views)
        fits = Classifier.LOGISTIC_REGRESSION not in self.classifiers or (
            fitted_by(self.train, columns, self.labels, self.classifier_bytes, inside=has_views) is FittedBy.SCIPY
        )
        return not self.is_local or self.listed > EXACT_ROWS or not fits

    def starts(self, stage: str) -> float:
        """Return the fixed work of a stage, in starts of a program."""
        return (_STARTS_HERE if self.is_local else _STARTS)[stage]


@dataclass(frozen=True)
class Rates:
    """The speed of the work.

    Attributes:
        speeds: speeds of this machine.
        slowdown: wall clock time divided by CPU time, 1 or more.
        image_seconds: seconds for each image in one slot, while all slots work; None: not known.
        spread: share of it by which slots differ.
        compile_seconds: seconds to compile the network, in each slot.
        single_seconds: seconds for one pass of the network, in `precision`.
        precision: the number format that the network was measured in.
        picture_seconds: CPU seconds for a small picture of an image.
        list_seconds: seconds that listing took; None: not known.
        corrections: stage -> factor for its estimate, from the output's last run.
    """

    speeds: Speeds
    slowdown: float
    image_seconds: float | None
    spread: float
    compile_seconds: float
    single_seconds: float
    precision: Precision
    picture_seconds: float
    list_seconds: float | None
    corrections: Mapping[str, float]


@dataclass(frozen=True)
class Cost:
    """The cost of a stage.

    Attributes:
        driver: CPU seconds on the driver, which more slots do not shorten.
        shared: CPU seconds that are divided among the slots.
        starts: fixed work, see `_STARTS`.
        clock: seconds of wall clock time.
        source: the source of the estimate.
    """

    driver: float = 0.0
    shared: float = 0.0
    starts: float = 0.0
    clock: float = 0.0
    source: Source = Source.RECKONED


@dataclass(frozen=True)
class Stage:
    """A row of the table.

    Attributes:
        name: the stage's name in `run.json`.
        cost: returns its cost, or None if the stage has nothing to do, or nothing is known about it.
        is_before_spark: whether it runs before Spark holds its cores.
    """

    name: str
    cost: Callable[[Work, Rates], Cost | None]
    is_before_spark: bool = False


def _list(_: Work, rates: Rates) -> Cost | None:
    found = rates.list_seconds
    return None if found is None else Cost(clock=found, source=Source.MEASURED)


@dataclass(frozen=True)
class _Tuning:
    """What tuning takes, in seconds: what all branches begin with, each of them before its epochs, and an epoch."""

    views: float
    probe: float
    epoch: float

    @classmethod
    def of(cls, work: Work, rates: Rates) -> _Tuning:
        one = _FLOAT32_PASSES[rates.precision] * rates.single_seconds / work.cores
        epoch = _EPOCH_PASSES * one * work.tune
        return cls(_FRONT_PASSES * one * work.tune * work.tune_views, epoch * PROBE_VIEWS / 3, epoch)  # forwards alone

    def branch(self, work: Work) -> float:
        """Return the seconds of a branch that has all its epochs."""
        return self.probe + self.epoch * (1 + JOINING) * work.tune_epochs


def branches(work: Work, rates: Rates) -> int:
    """Return how many branches the tuned network will have, see `orchard.features.branches`."""
    if not work.tune:
        return 1
    tuning = _Tuning.of(work, rates)
    return max(1, min(work.tune_branches, int((work.tune_seconds - tuning.views) // tuning.branch(work))))


def branched(work: Work, rates: Rates, number: int) -> tuple[Work, Rates]:
    """Return both for a network of so many branches, where they are for one."""
    if rates.image_seconds is not None:
        rates = replace(rates, image_seconds=rates.image_seconds * passes(number))
    return replace(work, n_features=work.n_features * number), rates


def passes(number: int) -> float:
    """Return how long a network of so many branches takes, in passes of one that has none."""
    return 1 + (number - 1) * _BRANCH_PASSES


def branched_bytes(network_bytes: int, number: int) -> int:
    """Return the bytes of a network of so many branches, from those of one that has none."""
    return round(network_bytes * (1 + (number - 1) * _BRANCH_WEIGHTS))


def _tune(work: Work, rates: Rates) -> Cost | None:
    if not work.tune:
        return None
    tuning, number = _Tuning.of(work, rates), branches(work, rates)
    clock = number * tuning.branch(work)
    if number == 1:
        fits = max(1.0, (work.tune_seconds - tuning.views - tuning.probe) // tuning.epoch)
        clock = tuning.probe + tuning.epoch * min((1 + JOINING) * work.tune_epochs, fits)
    return Cost(clock=tuning.views + clock, starts=work.starts("tune"), source=Source.RECKONED)


def _start(work: Work, rates: Rates) -> Cost | None:  # noqa: ARG001 - a row's signature
    return Cost(starts=work.starts("start")) if work.images else None


def _extract(work: Work, rates: Rates) -> Cost | None:
    if not work.images or rates.image_seconds is None:
        return None
    at_work = min(work.slots, work.images)
    clock = work.images * rates.image_seconds / at_work / EFFICIENCY + rates.compile_seconds
    is_beside = work.is_local and work.needs_spark
    return Cost(clock=clock, starts=_SPARK_BESIDE / work.slots if is_beside else 0, source=Source.MEASURED)


def _reduce(work: Work, rates: Rates) -> Cost:
    speeds, d = rates.speeds, work.n_features
    files = work.files * (2 if work.views else 1)
    sums = speeds.gram * d**2 * (work.train * (1 + work.views) + _FILE_ROWS * files)
    written = work.listed * work.k * (speeds.product * d + speeds.value)
    return Cost(speeds.eigen_of(d), sums + written + 2 * _opened(work, speeds), work.starts("reduce"))


def _neighbours(work: Work, rates: Rates) -> Cost:
    speeds, d = rates.speeds, work.n_features
    compared = work.train if work.train <= EXACT_ROWS else CELL_ROWS * PROBES
    space = speeds.product * min(work.train, SAMPLE_ROWS) * d**2 + speeds.eigen_of(d)
    return Cost(space, speeds.pair * work.listed * compared + 3 * _opened(work, speeds), work.starts("neighbours"))


def _classify(work: Work, rates: Rates) -> Cost | None:
    if not work.classifiers or work.labels < 2:
        return None
    speeds, d = rates.speeds, work.n_features
    driver, shared, starts = 0.0, 0.0, work.starts("classify")
    # Two discriminants, side by side; familiarity comes of them whatever is trained.
    driver += speeds.eigen_of(d) * (2 if work.cores == 1 else 1)
    linear = speeds.product * d * work.listed * (2 * work.labels + 256)
    if Classifier.LINEAR_DISCRIMINANT in work.classifiers:
        shared += linear
    if Classifier.LOGISTIC_REGRESSION in work.classifiers:
        products = _PASSES * _PASS_PRODUCTS * work.train * work.regression_columns * work.labels
        driver += speeds.product * products / min(work.cores, multinomial.PARTS)
        shared += linear
    if Classifier.RANDOM_FOREST in work.classifiers:
        rows = max(2, min(work.train, TREE_ROWS))
        sorts = speeds.sorting * TREES * math.log2(rows)
        driver += _TREE_SORTS * sorts * rows / work.cores
        shared += _ANSWER_SORTS * sorts * work.listed
    shared += (1 + len(work.classifiers)) * _opened(work, speeds)
    times = 2 if work.by_group else 1
    return Cost(times * driver, times * shared, times * starts)


def _review(work: Work, rates: Rates) -> Cost:
    d = work.n_features
    judged = rates.speeds.product * d * (d + 2 * work.labels) * work.listed
    return Cost(rates.speeds.eigen_of(d), judged + _opened(work, rates.speeds), work.starts("review"))


def _opened(work: Work, speeds: Speeds) -> float:
    """Return the seconds to open every file of features once."""
    return _OPENED_VALUES * speeds.value * work.files


def _report(work: Work, rates: Rates) -> Cost:
    pictures = min(work.listed, MAX_PICTURES) + min(work.labels, MAX_ICONS) + _GALLERY
    looked = rates.compile_seconds + MAX_LOOKS * rates.single_seconds
    return Cost(rates.picture_seconds * pictures / work.cores + looked, 0, work.starts("report"))


STAGES = (
    Stage("list", _list, is_before_spark=True),
    Stage("tune", _tune, is_before_spark=True),
    Stage("start", _start, is_before_spark=True),
    Stage("extract", _extract),
    Stage("reduce", _reduce),
    Stage("neighbours", _neighbours),
    Stage("classify", _classify),
    Stage("review", _review),
    Stage("report", _report),
)
"""All stages, in the order of a run."""


def estimates(work: Work, rates: Rates) -> list[StagePlan]:
    """Return the estimate of every stage; a stage with nothing to do is left out.

    If no image has to be featurized, only listing is left: later stages run only if features have changed.
    """
    found = []
    for stage in STAGES if work.images else STAGES[:1]:
        cost = stage.cost(work, rates)
        if cost is not None:
            found.append(_estimate(stage, cost, work, rates))
    return found


def _estimate(stage: Stage, cost: Cost, work: Work, rates: Rates) -> StagePlan:
    seconds = cost.clock + rates.slowdown * (cost.driver + cost.shared / work.slots) + cost.starts * rates.speeds.launch
    source = cost.source
    if source is Source.RECKONED and stage.name in rates.corrections:
        seconds, source = seconds * rates.corrections[stage.name], Source.CORRECTED
    low, high = WITHIN[source]
    if source is Source.MEASURED:
        low, high = low - rates.spread / 2, high + rates.spread / 2
    cores = work.slots if not stage.is_before_spark else work.cores if stage.name == "tune" else 0
    return StagePlan(
        stage=stage.name,
        seconds=round(seconds, 2),
        low=round(max(0.0, low) * seconds, 2),
        high=round(high * seconds, 2),
        core_seconds=round(cores * seconds, 1),
        after=str(source),
    )


def corrections(before: Sequence[StagePlan], applied: Mapping[str, float]) -> dict[str, float]:
    """Return factors for estimates, from a run's plan and the real times of its stages.

    A factor goes half of the way, in logarithms: the other half may have been other work on the machine.

    Args:
        before: the plan's stages of that run.
        applied: the factors that its estimates had been multiplied by.
    """
    found = dict(applied)
    for stage in before:
        took, expected = stage.get("took"), stage["seconds"]
        if took is None or not expected or stage["after"] == Source.MEASURED or took < LEAST_CORRECTED_SECONDS:
            continue
        corrected = applied.get(stage["stage"], 1.0) * math.sqrt(took / expected)
        found[stage["stage"]] = round(min(max(corrected, 1 / MOST_CORRECTED), MOST_CORRECTED), 3)
    return found


def sizes(
    work: Work,
    rates: Rates,
    *,
    worker_memory: int,
    driver_memory: int,
    feature_bytes: float,
    view_bytes: float,
    network_bytes: int,
) -> Sizes:
    """Return the peak memory and disk of a run, in bytes.

    Args:
        work: the amount of work.
        rates: the speed of the work.
        worker_memory: measured memory of a worker, in bytes.
        driver_memory: peak memory of this process so far, including the listing, in bytes.
        feature_bytes: bytes of an image's features on disk.
        view_bytes: bytes of a random view on disk.
        network_bytes: bytes of the network.
    """
    k, fits = work.k, 0
    if Classifier.LOGISTIC_REGRESSION in work.classifiers:
        fits = multinomial.memory(work.train, work.regression_columns, work.labels, INSIDE_BYTES if work.views else 4)
    python = (
        driver_memory
        + _IMPORTS
        + _ROW * work.listed
        + _MATRICES * 8 * work.n_features**2
        + min(fits, work.classifier_bytes)
    )
    # The sums of the rows to fit on and of those held out, and of their views; scaler and components, twice.
    matrices = 4 * work.n_features**2 * (4 if work.views else 2) + 16 * k * work.n_features
    rows = _INVENTORY + _NEIGHBOURS + _PREDICTION * len(work.classifiers) + rates.speeds.value_bytes * k
    found = Sizes(
        worker_memory=worker_memory,
        driver_python=round(python),
        disk=round(
            work.listed * (rows + feature_bytes)
            + work.train * work.views * view_bytes
            + matrices
            + 2 * network_bytes
            + _REST
        ),
    )
    if work.needs_spark:
        found["driver_jvm"] = work.heap + _JVM
    if work.tune:
        found["tuning_disk"] = work.tune * work.tune_views * work.activation_bytes
    return found
