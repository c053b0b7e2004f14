"""The training itself, in the process that has TensorFlow: from activations to weights of the last blocks.

First a linear probe, then everything after the kept blocks: a head that starts at random would spoil what the blocks
have learned before it is any good (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution", https://arxiv.org/abs/2202.10054). The probe is the linear discriminant, which takes no iteration.
Then AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101) with a warm-up and a cosine, label smoothing
(Szegedy et al. 2016, https://arxiv.org/abs/1512.00567), dropout before the head, stochastic depth (Huang et al. 2016,
https://arxiv.org/abs/1603.09382), and in half of the batches CutMix (Yun et al. 2019,
https://arxiv.org/abs/1905.04899) of activations. Batch normalisation is frozen, as the statistics of a few
photographs are worse than ImageNet's. The network keeps the weights of the epoch with the least log loss on images held
out, which is steadier than how many of them are right.

Once that is settled, some last epochs at a low rate train on the images held out, too. What they are to judge is the
network of before, which never saw them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from orchard.classification.discriminant import fit
from orchard.inference.calibration import fit as calibrated
from orchard.inference.calibration import log_loss
from orchard.inference.linear import Linear
from orchard.reduction.moments import Moments
from orchard.reduction.pca import Reduction
from orchard.reduction.statistics import ClassSums
from orchard.tuning.activations import Activations
from orchard.tuning.blocks import with_factors

if TYPE_CHECKING:
    import keras

BATCH = 32
RATE, WARM_UP = 1e-3, 0.1
"""The highest learning rate, and the share of the steps until it is reached."""
DECAY, SMOOTHING, DROPOUT = 0.02, 0.1, 0.2
DEPTH = 0.2
"""Share of the images for which the last block computes nothing; of earlier blocks less, in even steps from none on."""
MIXED = 0.5
"""Share of the batches in which a rectangle of each image is another's."""
JOINING, JOINING_RATE = 0.25, 2e-4
"""Epochs on the images held out, too, as a share of the schedule, and the highest rate then: as in its last quarter."""
PATIENCE = 4
"""Epochs without a better one after which it stops, in the second half of the schedule."""
_TIMED = 4  # batches
PROBE_VIEWS = 2
"""Views of each image that the probe is fitted on."""


DAMAGES = (OSError, ValueError, KeyError, EOFError, BadZipFile)
"""What reading a checkpoint raises where there is none, or no whole one."""


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        epochs: of the whole schedule.
        epoch: how many are done.
        seconds: that everything until then took.
        history: of each epoch, the first that of the probe: ``accuracy`` and ``loss`` on images held out.
        weights: of the model's trained variables, in their order, and the optimizer's.
        best: of the trained variables, after the best epoch.
        best_epoch: 0 is the probe, on the network as it was.
        joining: further epochs in the end, from the best one on, which train on the images held out, too.
        joined: how many of them are done.
    """

    epochs: int
    epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    weights: list[NDArray[Any]] = field(default_factory=list)
    best: list[NDArray[Any]] = field(default_factory=list)
    best_epoch: int = 0
    joining: int = 0
    joined: int = 0

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to train: a network that no epoch has made better stays as it was."""
        return self.is_settled and (not self.best_epoch or self.joined >= self.joining)

    @property
    def is_settled(self) -> bool:
        """Whether the schedule is at its end, or has brought nothing for `PATIENCE` epochs of its second half.

        In the first half the rate is high, and what was learned before is lost before it is learned better.
        """
        losses = [measured["loss"] for measured in self.history[1:]]
        best = 1 + losses.index(min(losses)) if losses else 0
        return self.epoch >= self.epochs or self.epoch - max(best, self.epochs // 2) >= PATIENCE

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        arrays = {f"weights_{n}": a for n, a in enumerate(self.weights)} | {
            f"best_{n}": a for n, a in enumerate(self.best)
        }
        numbers = np.array([self.epochs, self.epoch, self.seconds, self.best_epoch, self.joining, self.joined])
        measured = np.array([[m["accuracy"], m["loss"]] for m in self.history])
        partial = path.with_name(f"{path.name}.partial")
        with partial.open("wb") as file:
            np.savez(file, numbers=numbers, history=measured, **arrays)  # type: ignore[arg-type]
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Progress:
        """Read what `save` wrote. Raises `DAMAGES` for anything else."""
        with np.load(path) as arrays:
            epochs, epoch, seconds, *others = arrays["numbers"].tolist()
            weights, best = (
                [arrays[f"{name}_{n}"] for n in range(sum(key.startswith(f"{name}_") for key in arrays.files))]
                for name in ("weights", "best")
            )
            history = [{"accuracy": accuracy, "loss": loss} for accuracy, loss in arrays["history"].tolist()]
        return cls(int(epochs), int(epoch), seconds, history, weights, best, *(int(number) for number in others))


class Trainer:
    """Trains the last blocks and a head on top of them.

    Args:
        tail: from activations to features; it is changed.
        training: activations of the images to train on.
        classes: (images,) the class of each of them, known or not.
        held_out: activations of the images to measure on, by the first view of each.
        held_out_classes: likewise; -1 where it is none of the classes.
        joining: activations of random views of the images held out, as many as of those to train on; None: they are
            never trained on.
        seed: of batches, views, dropout, depth and mixtures.
        parts: of a batch, which are computed beside each other.
    """

    def __init__(
        self,
        tail: keras.Model,
        training: Activations,
        classes: NDArray[np.intp],
        held_out: Activations,
        held_out_classes: NDArray[np.intp],
        *,
        joining: Activations | None = None,
        seed: int,
        parts: int = 1,
    ) -> None:
        import keras
        import tensorflow

        keras.utils.set_random_seed(seed % 2**32)  # it takes no greater one
        self._tail, self._training, self._classes = tail, training, classes
        self._held_out, self._held_out_classes, self._seed = held_out, held_out_classes, seed
        self._joining = joining
        self._batch = min(BATCH, len(training.known))
        self._n_classes = int(classes.max()) + 1
        inputs = keras.Input(tail.input.shape[1:])
        self._head = keras.layers.Dense(self._n_classes)
        self._model = keras.Model(inputs, self._head(tail(inputs)))
        self._optimizer = keras.optimizers.AdamW(RATE, weight_decay=DECAY)
        self._optimizer.exclude_from_weight_decay(var_names=["bias"])
        self._optimizer.build(self._model.trainable_variables)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=SMOOTHING)
        trained, self._blocks = with_factors(tail)

        def through(rows: Any, factors: Any = None) -> Any:
            """Return features of a batch; a thread that has a part of it need not wait for others in each operation."""
            n = tensorflow.shape(rows)[0]
            ends = [n * part // parts for part in range(parts + 1)]
            found = []
            for start, end in pairwise(ends):
                part = tensorflow.cast(rows[start:end], tensorflow.float32)
                is_trained = factors is not None
                found.append(trained([part, factors[start:end]], training=True) if is_trained else tail(part))
            return tensorflow.concat(found, axis=0)

        def step(rows: Any, factors: Any, kept: Any, truth: Any) -> Any:
            with tensorflow.GradientTape() as tape:
                found = loss(truth, self._head(kept * through(rows, factors)))
            variables = self._model.trainable_variables
            self._optimizer.apply_gradients(zip(tape.gradient(found, variables), variables, strict=True))
            return found

        def judge(rows: Any) -> Any:
            return self._head(through(rows))

        self._step = tensorflow.function(step, reduce_retracing=True)
        self._judge = tensorflow.function(judge, reduce_retracing=True)
        self._features = tensorflow.function(through, reduce_retracing=True)

    @property
    def head(self) -> Linear:
        """The classes' scores of features, as they are now."""
        kernel, bias = self._head.get_weights()
        return Linear(np.ascontiguousarray(kernel.T), bias)

    @property
    def joined_images(self) -> int:
        """How many of the images held out may be trained on in the end."""
        return len(self._to_join)

    @property
    def _to_join(self) -> NDArray[np.intp]:
        if self._joining is None:
            return np.empty(0, np.intp)
        return self._joining.known[self._held_out_classes[self._joining.known] >= 0]

    def epoch_seconds(self) -> float:
        """Return what an epoch takes, as a few batches tell; nothing is learned from them."""
        variables = [*self._model.trainable_variables, *self._optimizer.variables]
        before = [variable.numpy() for variable in variables]
        rows = self._training.known[np.arange(self._batch) % len(self._training.known)]
        truth = np.eye(self._n_classes, dtype=np.float32)[self._classes[rows]]
        given = self._training.batch(rows, np.zeros(len(rows), np.intp)), *self._left(np.random.default_rng(0)), truth
        self._step(*given)  # traces it
        started = time.monotonic()
        for _ in range(_TIMED):
            self._step(*given)
        seconds = (time.monotonic() - started) / _TIMED
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        return seconds * (len(self._training.known) // self._batch)

    def begin(self, epochs: int, done: Callable[[int], None]) -> Progress:
        """Fit the probe, make it the head, and measure it.

        Args:
            epochs: of the schedule.
            done: told of each batch of images.
        """
        features = np.concatenate(self.features(held_out=False, views=PROBE_VIEWS, done=done))
        classes = self._classes[self._training.known]
        names = [f"{c:08d}" for c in np.tile(classes, len(features) // len(classes)).tolist()]
        moments, sums = Moments.of(features), ClassSums.of(features, names)
        linear = fit(moments, sums, Reduction.fit(moments)).linear
        held = self._held_out.known
        scores = linear(self.features(held_out=True, views=1, done=done)[0])
        # A class of which no image could be decoded has no scores.
        place = np.full(self._n_classes + 1, -1)
        place[[int(name) for name in sums.names]] = np.arange(len(sums.names))
        temperature = calibrated(scores, place[self._held_out_classes[held]], sure_at=0.5).temperature
        kernel = np.zeros((features.shape[1], self._n_classes), np.float32)
        bias = np.full(self._n_classes, -10.0, np.float32)
        at = [int(name) for name in sums.names]
        kernel[:, at], bias[at] = linear.weights.T / temperature, linear.bias / temperature
        self._head.set_weights([kernel, bias - bias[at].mean()])
        progress = Progress(epochs, history=[self._measured()])
        progress.best = self._trained()
        return progress

    def epoch(self, progress: Progress, done: Callable[[int], None]) -> None:
        """Do the next epoch, and remember it in `progress`."""
        joining = progress.is_settled
        if joining and not progress.joined:
            self._begin_again(progress)
        elif progress.weights:
            self._restore(progress)
        past, epochs, highest = (
            (progress.joined, progress.joining, JOINING_RATE) if joining else (progress.epoch, progress.epochs, RATE)
        )
        random = np.random.default_rng((self._seed, progress.epoch + progress.joined))
        # Those held out, if they take part, are numbered after the others.
        n = len(self._training.rows)
        images = np.concatenate([self._training.known, n + self._to_join]) if joining else self._training.known
        classes = np.concatenate([self._classes, self._held_out_classes])
        steps = len(images) // self._batch
        order = random.permutation(images)[: steps * self._batch]
        # Each image has another view in every epoch, as long as there are others.
        views = (order + progress.epoch + progress.joined) % self._training.views
        identity = np.eye(self._n_classes, dtype=np.float32)
        for step, (at, view) in enumerate(zip(_parts(order, self._batch), _parts(views, self._batch), strict=True)):
            self._optimizer.learning_rate.assign(rate(past * steps + step, epochs * steps, highest))
            rows, left, truth = self._rows(at, view), self._left(random), identity[classes[at]]
            if random.random() < MIXED:
                rows, truth = mixed(rows, truth, random)
            self._step(rows, *left, truth)
            done(self._batch)
        if joining:
            progress.joined += 1
        else:
            progress.epoch += 1
            progress.history.append(self._measured())
        progress.weights = self._trained() + [np.asarray(v.numpy()) for v in self._optimizer.variables]
        if not joining and progress.history[-1]["loss"] < progress.history[progress.best_epoch]["loss"]:
            progress.best, progress.best_epoch = self._trained(), progress.epoch

    def keep_best(self, progress: Progress) -> None:
        """Give the network the weights of the best epoch, which the images held out judge."""
        self._assign(progress.best)

    def keep_last(self, progress: Progress) -> None:
        """Give the network the weights of the last epoch, after `Progress.joined` ones."""
        self._assign(progress.weights[: len(progress.best)])

    def features(self, *, held_out: bool, views: int | None, done: Callable[[int], None]) -> NDArray[np.float32]:
        """Return (views, images, n_features) of the first views of the known images, as the network is now.

        Args:
            held_out: of which images.
            views: how many, at the most; None: all.
            done: told of each batch of images.
        """
        of = self._held_out if held_out else self._training
        n, views = len(of.known), min(views or of.views, of.views)
        return np.stack([self._features_of(of, of.known, np.full(n, view), done) for view in range(views)])

    def scores_held_out(self) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Return (images, classes) scores of the images held out whose class is known, by the first view, and that."""
        known = self._held_out.known[self._held_out_classes[self._held_out.known] >= 0]
        found = [np.empty((0, self._n_classes), np.float32)]
        for at in _parts(known, BATCH):
            found.append(self._judge(self._held_out.batch(at, np.zeros(len(at), np.intp))).numpy())
        return np.concatenate(found), self._held_out_classes[known]

    def _left(self, random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what a batch's blocks and features are multiplied by: drawn here, as a layer's would begin anew."""

        def drawn(shares: NDArray[np.float32]) -> NDArray[np.float32]:
            left = random.random((self._batch, len(shares)), np.float32) >= shares
            return (left / (1 - shares)).astype(np.float32)

        blocks = np.linspace(0, DEPTH, self._blocks + 1, dtype=np.float32)[1:]
        return drawn(blocks), drawn(np.full(self._tail.output.shape[-1], DROPOUT, np.float32))

    def _rows(self, images: NDArray[np.intp], views: NDArray[np.intp]) -> Any:
        n = len(self._training.rows)
        if self._joining is None or images.max() < n:
            return self._training.batch(images, views)
        is_joining = images >= n
        rows = np.empty((len(images), *self._training.rows.shape[2:]), np.float16)
        rows[~is_joining] = self._training.batch(images[~is_joining], views[~is_joining])
        rows[is_joining] = self._joining.batch(images[is_joining] - n, views[is_joining])
        return rows

    def _begin_again(self, progress: Progress) -> None:
        """Restore the weights of the best epoch, and reset the optimizer."""
        self._assign(progress.best)
        for variable in self._optimizer.variables:
            variable.assign(np.zeros_like(variable.numpy()))

    def _restore(self, progress: Progress) -> None:
        variables = [*self._model.trainable_variables, *self._optimizer.variables]
        for variable, value in zip(variables, progress.weights, strict=True):
            variable.assign(value)

    def _assign(self, values: Sequence[NDArray[Any]]) -> None:
        for variable, value in zip(self._model.trainable_variables, values, strict=True):
            variable.assign(value)

    def _trained(self) -> list[NDArray[Any]]:
        return [np.asarray(variable.numpy()) for variable in self._model.trainable_variables]

    def _measured(self) -> dict[str, float]:
        return measure(*self.scores_held_out())

    def _features_of(
        self, of: Activations, images: NDArray[np.intp], views: NDArray[np.intp], done: Callable[[int], None]
    ) -> NDArray[np.float32]:
        found = [np.empty((0, self._tail.output.shape[-1]), np.float32)]
        for at, view in zip(_parts(images, BATCH), _parts(views, BATCH), strict=True):
            found.append(self._features(of.batch(at, view)).numpy())
            done(len(at))
        return np.concatenate(found)


def measure(scores: NDArray[np.float32], truth: NDArray[np.intp]) -> dict[str, float]:
    """Return accuracy and calibrated mean log loss of scores, (images, classes); 0 where there are no images.

    Label smoothing makes a network less sure than it may be, and the probe has none: as they are, the loss of a network
    that is right far more often was the greater one.
    """
    if not len(truth):
        return {"accuracy": 0.0, "loss": 0.0}
    loss = log_loss(scores, truth, calibrated(scores, truth, sure_at=0.5).temperature)
    return {"accuracy": float((scores.argmax(axis=1) == truth).mean()), "loss": loss}


def mixed(
    rows: NDArray[np.float16], truth: NDArray[np.float32], random: np.random.Generator
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Return a batch in which one rectangle of each image, anywhere and of any size, is another image's.

    Args:
        rows: (n, height, width, channels) activations.
        truth: (n, classes) the share that each class has of each image; afterwards by area.
        random: of the rectangle, and of whose it is.
    """
    height, width = rows.shape[1:3]
    others = random.permutation(len(rows))
    half = np.sqrt(random.random()) / 2
    down, across = (
        slice(round(max(0.0, at - half) * side), round(min(1.0, at + half) * side))
        for at, side in zip(random.random(2), (height, width), strict=True)
    )
    found = rows.copy()
    found[:, down, across] = rows[others, down, across]
    share = np.float32((down.stop - down.start) * (across.stop - across.start) / (height * width))
    return found, (1 - share) * truth + share * truth[others]


def rate(step: int, steps: int, highest: float = RATE) -> float:
    """Return the learning rate of a step of so many: a line up to the highest, then half a cosine down to nothing."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return highest * (step + 1) / warm_up
    return highest * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


def epochs_in(seconds: float, epoch_seconds: float, most: int) -> int:
    """Return how many epochs of so many seconds fit, one at least and `most` at most."""
    return max(1, min(most, int(seconds / max(epoch_seconds, 1e-9))))


def train(
    trainer: Trainer,
    epochs: int,
    path: Path,
    *,
    most_seconds: float,
    seconds: Callable[[], float],
    done: Callable[[int], None],
    saved: Callable[[], None],
    whole: bool = False,
) -> Progress:
    """Train from the checkpoint at `path`, or from the beginning, and return what it came to.

    The schedule is as long as the time allows, as a first batch tells; at the end of an epoch that leaves no time it
    stops in any case. The network then has the weights of the best epoch.

    Args:
        trainer: what is trained.
        epochs: of the schedule, at most.
        path: of the checkpoint, which is written after each epoch.
        most_seconds: that everything may take, earlier tries included.
        seconds: that everything has taken.
        done: told of each batch of images.
        saved: called when there is a new checkpoint.
        whole: whether it is of use only if it comes to its end: where the time does not allow that, it does not begin.
    """
    try:
        progress = Progress.load(path)
    except DAMAGES:
        joining = JOINING if trainer.joined_images else 0.0
        left, each = most_seconds - seconds(), trainer.epoch_seconds() * (1 + joining)
        if whole and left < epochs * each:
            return Progress(epochs)
        progress = trainer.begin(epochs_in(left, each, epochs), done)
        progress.joining = math.ceil(joining * progress.epochs)
    while not progress.is_done and progress.seconds < most_seconds:
        trainer.epoch(progress, done)
        progress.seconds = seconds()
        progress.save(path)
        saved()
    trainer.keep_best(progress)
    return progress


def _parts(rows: NDArray[np.intp], size: int) -> Sequence[NDArray[np.intp]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
