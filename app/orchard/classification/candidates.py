"""The linear classifiers: fitted, compared on images that are held out, calibrated on them, and fitted again on all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from orchard.classification import discriminant
from orchard.classification.held_out import HeldOut, collect, judge
from orchard.classification.training import Classifier, classifier_title, coefficients, train, vectors
from orchard.datasets import frame, with_marks
from orchard.errors import InputError
from orchard.files import DataFile
from orchard.inference.calibration import LEAST_ROWS, Calibration, threshold
from orchard.inference.kinds import Kinds
from orchard.inference.linear import Linear
from orchard.layout import LINEAR_DISCRIMINANT, LOGISTIC_REGRESSION, REDUCED, STATISTICS, Dataset, Split, Trial
from orchard.output import Output
from orchard.reduction.pca import Projection
from orchard.reduction.stage import Roles, by_file, load, project_batches
from orchard.reduction.statistics import Role, Statistics
from orchard.storage import Storage

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class Fitted:
    """A linear classifier.

    Attributes:
        linear: fitted on all training rows.
        files: of the model's folder, by name.
        trial: how it did on the images held out when it was fitted without them; None: too few are held out.
        calibration: by them.
        kind_threshold: the least confidence of a sure kind, by them; None where there are no kinds.
    """

    linear: Linear
    files: dict[str, bytes]
    trial: Trial | None
    calibration: Calibration
    kind_threshold: float | None


class Candidates:
    """What linear classifiers of an output are fitted and judged with.

    Without a validation split, each is fitted twice: without the training rows that are held out, to be judged on them;
    and on all training rows, to answer.

    Args:
        spark: where the work runs.
        output: with reduced features.
        seed: of logistic regression.
        sure_at: how often a sure answer is to be right, 0..1.
        counts: how many training images have a label and a kind.

    Raises:
        InputError: the features are not reduced.
    """

    def __init__(
        self,
        spark: SparkSession,
        output: Output,
        *,
        seed: int,
        sure_at: float,
        counts: Mapping[tuple[str, str | None], int],
    ) -> None:
        data = output.part(STATISTICS)
        if data is None:
            raise InputError(
                f"The features in {output.url} are not reduced yet: start with orchard reduce {output.url}."
            )
        self.reduction = load(output)
        self._spark, self._output, self._seed, self._sure_at = spark, output, seed, sure_at
        statistics = Statistics.from_bytes(data)
        everything, fit = statistics.everything_seen, statistics.fit_seen
        self._roles = by_file(output, statistics.roles)
        self.split = Split.VALIDATION if statistics.is_validation else Split.TRAIN
        self.labels = everything.columns["label"].names
        self.kinds = Kinds.of(self.labels, counts)
        self._counts = counts
        self._final = discriminant.fit(everything.labelled, everything.columns["label"], self.reduction)
        self.familiarity = self._final.familiarity
        self._trial, self._trial_labels = self._final, self.labels
        images = collect(spark, output.storage, output.files(Dataset.FEATURES), self._roles)
        names = fit.columns["label"].names
        if (images.classes("label", names) >= 0).sum() < LEAST_ROWS or len(names) < 2:
            images = HeldOut(images.features[:0], {name: [] for name in images.columns})
        elif statistics.held_out is not None:
            self._trial_labels = names
            self._trial = discriminant.fit(fit.labelled, fit.columns["label"], self.reduction)
        self._images = images

    @property
    def held_out(self) -> int:
        """Images that classifiers are judged on."""
        return len(self._images.features)

    def fit(self, classifier: Classifier, table: DataFrame) -> tuple[Fitted | None, str | None]:
        """Fit and judge a classifier.

        Args:
            classifier: a linear one.
            table: rows of `orchard.classification.training.vectors`.

        Returns:
            The classifier, or None and why memory does not hold it.
        """
        if classifier is Classifier.LINEAR_DISCRIMINANT:
            files = {LINEAR_DISCRIMINANT: self._final.linear.to_bytes()}
            return self._judged(self._final.linear, self._trial.linear, files), None
        trial: Linear | None = None
        if self._trial is not self._final:
            trial, _, lack = self._regression(self._without_held_out(), self._trial_labels)
            if trial is None:
                return None, lack
        final, content, lack = self._regression(table, self.labels)
        if final is None:
            return None, lack
        return self._judged(final, trial or final, {LOGISTIC_REGRESSION: content}), None

    def _judged(self, final: Linear, trial: Linear, files: dict[str, bytes]) -> Fitted:
        figures, calibration = judge(
            trial,
            self._trial_labels,
            self._images,
            familiarity=self._trial.familiarity,
            sure_at=self._sure_at,
        )
        return Fitted(final, files, figures, calibration, self._kind_threshold(trial, calibration))

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

    def _regression(self, rows: DataFrame, labels: Sequence[str]) -> tuple[Linear | None, bytes, str | None]:
        variances = self.reduction.explained_variance_
        model, lack = train(Classifier.LOGISTIC_REGRESSION, rows, labels, variances=variances, seed=self._seed)
        if model is None:
            return None, b"", lack
        content = coefficients(model, labels)
        return Linear.from_bytes(content, self.reduction), content, None

    def _without_held_out(self) -> DataFrame:
        """Return the training rows that are not held out, as `vectors`."""
        projection = self._spark.sparkContext.broadcast(Projection(*self.reduction.affine()))
        rows_of = partial(_fitted_rows, self._output.storage, projection, self._roles)
        return vectors(frame(self._spark, self._output.files(Dataset.FEATURES), REDUCED, rows_of))


def _fitted_rows(
    storage: Storage, projection: Broadcast[Projection], roles: Roles, file: DataFile
) -> Iterator[pa.RecordBatch]:
    for batch, role in with_marks(project_batches(storage, projection.value, file), roles[file.name]):
        yield batch.filter(pa.array(role == Role.FIT))


def choose(trials: Mapping[str, Trial | None], answer_with: str | None) -> tuple[str, str]:
    """Return the linear classifier that answers, and a sentence that says why.

    Args:
        trials: of those that are done, by name, not empty.
        answer_with: the one that is to answer if it is among them.
    """
    if answer_with in trials:
        return str(answer_with), f"{classifier_title(str(answer_with))} answers, as --answer-with says."
    judged = {name: trial for name, trial in trials.items() if trial is not None}
    if not judged or len(trials) == 1:
        name = next(iter(trials))
        others = "it is the only linear classifier" if len(trials) == 1 else "too few images are held out to compare"
        return name, f"{classifier_title(name)} answers: {others}."
    name = min(judged, key=lambda name: (-judged[name]["accuracy"], judged[name]["log_loss"]))
    figures = ", ".join(f"{classifier_title(other).lower()} {trial['accuracy']:.1%}" for other, trial in judged.items())
    return name, f"{classifier_title(name)} answers: it is the best on the images held out ({figures})."
