"""The linear classifiers: fitted, compared and calibrated on held-out images, and fitted again on all."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from orchard.classification import discriminant, regression
from orchard.classification.forest import Forest, grow
from orchard.classification.held_out import HeldOut, collect, judge
from orchard.classification.judged import Judged
from orchard.classification.rows import Rows, feature_rows, inside_rows, reduced_rows
from orchard.classification.training import Classifier, classifier_title
from orchard.classification.tuned_head import Head, mix
from orchard.errors import InputError
from orchard.inference.calibration import LEAST_ROWS, Calibration, threshold
from orchard.inference.columns import Column
from orchard.inference.kinds import Kinds
from orchard.inference.linear import Linear
from orchard.layout import (
    LINEAR_DISCRIMINANT,
    LOGISTIC_REGRESSION,
    STATISTICS,
    TRAINED_HEAD,
    TUNED_HEAD,
    Dataset,
    FittedBy,
    Trial,
)
from orchard.machine import available_cores
from orchard.output import Output
from orchard.reduction.pca import Reduction
from orchard.reduction.stage import by_file, load
from orchard.reduction.statistics import Role, Statistics, Sums
from orchard.vocabulary import Split

if TYPE_CHECKING:
    from orchard.workers import Workers


@dataclass(frozen=True)
class _Seen:
    """Moments and class sums that a discriminant is fitted on.

    Attributes:
        sums: of all rows, with their weights.
        parts: sums of images, without weights, and of their views, where there are any.
        reduction: of these rows.
    """

    sums: Sums
    parts: Sequence[Sums | None]
    reduction: Reduction

    @classmethod
    def of(cls, views: Sequence[HeldOut], names: Sequence[str], components: int) -> _Seen:
        """Return the sums over images in memory, `views` rows of each, by the values of the columns `names`."""
        parts = [Sums.of(view.features, {name: view.columns[name] for name in names}) for view in views]
        sums = reduce(Sums.merge, parts)
        return cls(sums, parts, Reduction.fit(sums.moments, components=components))

    def fit(self, column: str) -> discriminant.Discriminant:
        """Fit it for a label column."""
        moments = self.sums.of_column(column)
        rows = [part.of_column(column).count for part in self.parts if part is not None]
        images = moments.count * rows[0] / sum(rows)  # as much as they weigh
        return discriminant.fit(moments, self.sums.columns[column], self.reduction, images)


_Regressions = tuple[tuple[Linear, Linear, bytes] | None, str | None]
"""The regression under trial, the final one and its file; or None, and what memory was too little for."""


@dataclass(frozen=True)
class Fitted:
    """A linear classifier.

    Attributes:
        linear: fitted on all training rows.
        files: of the model's folder, by name.
        trial: how it did on the images held out when it was fitted without them; None: too few are held out.
        calibration: by them.
        kind_threshold: the least confidence of a sure kind, by them; None where there are no kinds.
        by: what fitted it.
    """

    linear: Linear
    files: dict[str, bytes]
    trial: Trial | None
    calibration: Calibration
    kind_threshold: float | None
    by: FittedBy


class Candidates:
    """What linear classifiers of an output are fitted and judged with.

    Each is fitted twice, unless the validation split is held out and stays apart: without the rows that are held out,
    to be judged on them; and with them, to answer. Where a tuned network was trained on the rows held out, too, the
    first fit and what judges it are features of before, see `orchard.classification.judged`.

    Args:
        workers: what does the work.
        output: with reduced features.
        seed: of the forest.
        memory: bytes of the driver that rows may take; of more rows a regression is fitted by Spark ML.
        sure_at: how often a sure answer is to be right, 0..1.
        counts: how many training images have a label and a kind.

    Raises:
        InputError: the features are not reduced.
    """

    def __init__(
        self,
        workers: Workers,
        output: Output,
        *,
        seed: int,
        memory: int,
        sure_at: float,
        counts: Mapping[tuple[str, str | None], int],
    ) -> None:
        data = output.part(STATISTICS)
        if data is None:
            raise InputError(
                f"The features in {output.url} are not reduced yet: start with orchard reduce {output.url}."
            )
        self.reduction = load(output)
        self._workers, self._output, self._seed, self._sure_at, self._memory = workers, output, seed, sure_at, memory
        statistics = Statistics.from_bytes(data)
        everything = statistics.everything_seen
        self._weights = statistics.weights
        self._has_views = statistics.fit_views is not None
        self._roles, self.fits_held_out = statistics.roles, statistics.held_out is not None
        # Of the images alone: the discriminant learns from their views, too.
        self._fitted, self._everything = statistics.fit.columns["label"], statistics.everything.columns["label"]
        self.split = Split.VALIDATION if statistics.is_validation else Split.TRAIN
        self.labels = everything.columns["label"].names
        self.kinds = Kinds.of(self.labels, counts)
        self._counts = counts
        self.left_out: list[str] = []
        names = [name for name in statistics.fit.columns if name != "label"]
        self._judged_by = Judged.of(output)
        if self._judged_by:
            self._views, images = self._judged_by.rows(output, names)
            if len(set(self._views[0].columns["label"])) < 2:  # the output has other images now
                self._judged_by = None
        seen = [
            _Seen(everything, [statistics.everything, statistics.fit_views, statistics.held_out_views], self.reduction)
        ]
        if self._judged_by:
            seen.append(_Seen.of(self._views, ["label", *names], self.reduction.n_components_))
        elif statistics.held_out is not None and len(self._fitted.names) > 1:
            seen.append(_Seen(statistics.fit_seen, [statistics.fit, statistics.fit_views], self.reduction))
        further = self._learned(names, [statistics.fit, *(fit.sums for fit in seen)])
        # One thread each, side by side: they wait for each other less than threads within a decomposition do.
        with threadpool_limits(1), ThreadPoolExecutor(available_cores()) as threads:
            work = [(fit, name) for name in ("label", *further) for fit in seen]
            every = list(threads.map(_Seen.fit, *zip(*work, strict=True)))
        found, *others = (every[start : start + len(seen)] for start in range(0, len(every), len(seen)))
        self._final, self._trial = found[0], found[-1]
        self._trial_labels, self._trial_reduction = seen[-1].sums.columns["label"].names, seen[-1].reduction
        self.familiarity = self._final.familiarity
        if not self._judged_by:
            roles = by_file(output, statistics.roles)
            images = collect(workers, output.storage, output.files(Dataset.FEATURES), roles, further)
        if (images.classes("label", self._fitted.names) >= 0).sum() < LEAST_ROWS or len(self._fitted.names) < 2:
            images = HeldOut(images.features[:0], {name: [] for name in images.columns})
            self._trial, self._trial_labels = self._final, self.labels
        self._images = images
        self._heads = self._find_heads()
        fitted = zip(further, others, strict=True)
        self.columns = tuple(self._column(name, seen, discriminants) for name, discriminants in fitted)
        """Further label columns, those that can be learned."""
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="orchard-regression")
        self._regression: Future[_Regressions] | None = None
        self._mixes_regression = False

    def begin(self, classifiers: Collection[Classifier], done: Collection[str]) -> None:
        """Begin to fit what the driver fits of `classifiers` that are not `done`, so that `fit` waits less for it."""
        self._mixes_regression = Classifier.LOGISTIC_REGRESSION in classifiers and self._fits_inside
        wanted = {Classifier.LOGISTIC_REGRESSION} | ({Classifier.TUNED_HEAD} if self._mixes_regression else set())
        if self._by is FittedBy.SCIPY and wanted & set(classifiers) - set(done):
            self._regression = self._threads.submit(self._fit_regression)

    @property
    def has_head(self) -> bool:
        """Whether the network was tuned with a head that knows all labels, and images are held out to weigh it on."""
        return self._heads is not None

    @property
    def held_out(self) -> int:
        """Images that classifiers are judged on."""
        return len(self._images.features)

    def fit(self, classifier: Classifier) -> tuple[Fitted | None, str | None]:
        """Fit and judge a linear classifier.

        Returns:
            The classifier, or None and why memory does not hold it.
        """
        if classifier is Classifier.LINEAR_DISCRIMINANT:
            files = {LINEAR_DISCRIMINANT: self._final.linear.to_bytes()}
            return self._judged(self._final.linear, self._trial.linear, files, FittedBy.SUMS), None
        if classifier is Classifier.TUNED_HEAD and self._heads:
            mixed, mixed_trial = self._mix(*self._heads)
            return self._judged(mixed, mixed_trial, {TUNED_HEAD: mixed.to_bytes()}, FittedBy.TUNING), None
        found, lack = self._regressions()
        if found is None:
            return None, lack
        trial, final, data = found
        return self._judged(final, trial, {LOGISTIC_REGRESSION: data}, self._by), None

    def held_out_of(self, column: str) -> int:
        """Return how many images with a value in a further column it was judged on; 0: too few."""
        n = sum(value is not None for value in self._images.columns[column])
        return n if n >= LEAST_ROWS else 0

    def grow(self) -> tuple[Forest | None, str | None]:
        """Grow the forest on all training rows, or, for want of memory, not, and say why."""
        return grow(self._rows, self._n, self.labels, seed=self._seed, memory=self._memory)

    @property
    def _n(self) -> int:
        """Labelled images to train on."""
        return int(self._everything.counts.sum())

    def _learned(self, names: Sequence[str], fits: Sequence[Sums]) -> list[str]:
        """Return the further columns that have two values or more in each fit; the others are `left_out`."""
        enough = [name for name in names if all(len(sums.columns[name].names) > 1 for sums in fits)]
        self.left_out = [name for name in names if name not in enough]
        return enough

    def _find_heads(self) -> tuple[Linear, Linear] | None:
        """Return the heads that tuning trained, the final one and the one under trial; None: they cannot answer."""
        data = self._output.part(TRAINED_HEAD)
        if data is None or self._output.recall("identity").get("transform", "none") != "none" or not self.held_out:
            return None
        head = Head.from_bytes(data)
        of_trial = self._judged_by.head if self._judged_by else head
        final, trial = head.of(self.labels), of_trial.of(self._trial_labels)
        return None if final is None or trial is None else (final, trial)

    def _mix(self, final: Linear, trial: Linear) -> tuple[Linear, Linear]:
        """Mix both heads with the regressions inside, or where there are none, with the discriminants."""
        found, _ = self._regressions() if self._mixes_regression else (None, None)
        trial_other, other = found[:2] if found else (self._trial.linear, self._final.linear)
        classes = self._images.classes("label", self._trial_labels)
        mixture = mix(trial_other, trial, self._images.features, classes)
        return mixture(other, final), mixture(trial_other, trial)

    def _column(self, name: str, seen: Sequence[_Seen], found: Sequence[discriminant.Discriminant]) -> Column:
        """Return a further column's classifier, fitted on all images; those held out judge another fit."""
        names = seen[-1].sums.columns[name].names
        _, calibration = judge(found[-1].linear, names, self._images, column=name, sure_at=self._sure_at)
        return Column(name, seen[0].sums.columns[name].names, found[0].linear, calibration)

    def _judged(self, final: Linear, trial: Linear, files: dict[str, bytes], by: FittedBy) -> Fitted:
        figures, calibration = judge(
            trial,
            self._trial_labels,
            self._images,
            familiarity=self._trial.familiarity,
            sure_at=self._sure_at,
        )
        return Fitted(final, files, figures, calibration, self._kind_threshold(trial, calibration), by)

    def _kind_threshold(self, trial: Linear, calibration: Calibration) -> float | None:
        kinds = Kinds.of(self._trial_labels, self._counts)
        if kinds is None:
            return None
        if not self.held_out:
            return 1.0
        features = self._images.features
        familiar = self._trial.familiarity(features) >= calibration.familiarity
        shares = kinds.probabilities(calibration.probabilities(trial(features[familiar])))
        return threshold(shares, self._images.classes("kind", kinds.names)[familiar], self._sure_at)

    @cached_property
    def _by(self) -> FittedBy:
        columns = self._final.familiarity.rank if self._has_views else self.reduction.n_components_
        return regression.fitted_by(self._n, columns, len(self.labels), self._memory, inside=self._has_views)

    @property
    def _fits_inside(self) -> bool:
        """Whether the regression is fitted in the span of the discriminant's whitened means."""
        return self._has_views and self._by is FittedBy.SCIPY

    def _regressions(self) -> _Regressions:
        return self._regression.result() if self._regression else self._fit_regression()

    def _fit_regression(self) -> _Regressions:
        if self._fits_inside:
            return self._fit_inside(), None
        twice = self._trial is not self._final
        trial, final, lack = regression.fit(
            lambda: self._workers.spark,
            self._rows,
            self._fitted,
            self._everything,
            self.reduction.explained_variance_,
            twice=twice and not self._judged_by,
            memory=self._memory,
        )
        if final is None:
            return None, lack
        if twice and self._judged_by:
            rows = np.concatenate([self._trial_reduction.transform(view.features) for view in self._views])
            trial = regression.fit_rows(rows, self._labels_of_views, self._trial_reduction.explained_variance_)
        linear = final.on(self.reduction)
        return (trial.on(self._trial_reduction) if trial else linear, linear, final.to_bytes()), lack

    def _fit_inside(self) -> tuple[Linear, Linear, bytes]:
        """Fit it where the discriminants are, the final one and the one under trial."""
        files = self._output.files(Dataset.FEATURES)
        weights = None if self._weights is None else by_file(self._output, self._weights)
        read = feature_rows(self._output.storage, files, by_file(self._output, self._used_roles), weights)
        space = self._final.familiarity
        final = regression.fit_inside(space, *inside_rows(read, space, Role.FIT, Role.HELD_OUT))
        if self._trial is self._final:
            return final, final, final.to_bytes()
        space = self._trial.familiarity
        if self._judged_by:
            rows = np.concatenate([space.inside(view.features) for view in self._views])
            trial = regression.fit_inside(space, rows, self._labels_of_views, np.ones(len(rows), np.float32))
        else:
            trial = regression.fit_inside(space, *inside_rows(read, space, Role.FIT))
        return trial, final, final.to_bytes()

    @property
    def _labels_of_views(self) -> list[str | None]:
        return [label for view in self._views for label in view.columns["label"]]

    @property
    def _used_roles(self) -> NDArray[np.int8]:
        return self._roles if self.fits_held_out else np.where(self._roles == Role.HELD_OUT, Role.NONE, self._roles)

    @cached_property
    def _rows(self) -> Rows:
        return reduced_rows(self._output, self._used_roles, self._weights)


def choose(trials: Mapping[str, Trial | None], answer_with: str | None, held_out: int) -> tuple[str, str]:
    """Return the linear classifier that answers, and a sentence that says why.

    It is the one that is right most often. Between those that are within two standard errors of it, whose order is
    chance, the log loss decides: it weighs every confidence, and is steadier.

    Args:
        trials: of those that are done, by name, not empty.
        answer_with: the one that is to answer if it is among them.
        held_out: images that the trials were on.
    """
    if answer_with in trials:
        return str(answer_with), f"{classifier_title(str(answer_with))} answers, as --answer-with says."
    judged = {name: trial for name, trial in trials.items() if trial is not None}
    if not judged or len(trials) == 1:
        name = next(iter(trials))
        others = "it is the only linear classifier" if len(trials) == 1 else "too few images are held out to compare"
        return name, f"{classifier_title(name)} answers: {others}."
    best = max(trial["accuracy"] for trial in judged.values())
    margin = 2 * math.sqrt(best * (1 - best) / max(held_out, 1))
    equal = {name: trial["log_loss"] for name, trial in judged.items() if trial["accuracy"] >= best - margin}
    name = min(equal, key=lambda name: (equal[name], -judged[name]["accuracy"]))
    figures = ", ".join(f"{classifier_title(other).lower()} {trial['accuracy']:.1%}" for other, trial in judged.items())
    if judged[name]["accuracy"] == best:
        return name, f"{classifier_title(name)} answers: it is the best on the images held out ({figures})."
    return name, (
        f"{classifier_title(name)} answers: on the images held out none is better than by chance ({figures}), and its "
        "confidences are the truest."
    )
