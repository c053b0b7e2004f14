"""Tuning in a child process, which ends with TensorFlow's memory; the driver follows it by its output lines.

::

    folder/request.json, training.parquet, held_out.parquet  ->  activations, checkpoint  ->  weights, head, result.json

The folder outlives a process that is killed: the next one goes on with what is in it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchard import child, interruption
from orchard.classification.judged import Judged, hashes
from orchard.classification.tuned_head import Head
from orchard.errors import OrchardError, TrainingError
from orchard.features.artifact import VIEW_SHARES
from orchard.features.backbones import Backbone, find
from orchard.features.branches import Branches, branched, save
from orchard.features.conversion import graph_of_tensorflow
from orchard.features.engines import import_openvino
from orchard.features.weights import keras_model, locate
from orchard.images.decoding import Limits
from orchard.layout import JUDGED, TRAINED_HEAD, TUNED
from orchard.scratch import full, is_full
from orchard.storage import S3Options
from orchard.tuning.activations import Activations, Pictures, write
from orchard.tuning.blocks import divided, last_kept
from orchard.tuning.training import DAMAGES, JOINING, PROBE_VIEWS, Progress, Trainer, measure, train
from orchard.vocabulary import Fit

MOST_PARTS = 8
"""Parts of a batch that are computed beside each other: of 32 images, four each."""
_RESULT = "result.json"
_IMAGES = ("training.parquet", "held_out.parquet")


@dataclass(frozen=True)
class Request:
    """What is to be tuned, and how; the process gets it as JSON."""

    backbone: str
    alpha: float
    input_size: int
    weights: str
    """As of `orchard.features.weights.locate`."""
    seed: int
    fit: Fit
    views: int
    test_views: int
    joins: bool
    """Whether the images held out are trained on, too, once they have settled what there is to settle."""
    epochs: int
    branches: int
    """How many there may be, see `orchard.features.branches`."""
    seconds: float
    """That it may take, from the first image on."""
    threads: int
    limits: Limits
    s3: S3Options

    def named(self) -> Backbone:
        """The backbone of the width and the input size."""
        return find(self.backbone, alpha=self.alpha, input_size=self.input_size)

    def pictures(self, training: int, held_out: int) -> int:
        """Return how many pictures pass through a part of the network, in all epochs, of so many images.

        One through the frozen blocks takes about as long as one that is trained on.
        """
        seen = training * self.views + held_out * self.test_views
        each = training * (min(PROBE_VIEWS, self.views) + self.epochs) + held_out  # which the probe is measured on
        if self.joins:
            seen += held_out * self.views
            each += math.ceil(JOINING * self.epochs) * (training + held_out)
        return seen + self.branches * each

    @classmethod
    def of(cls, found: dict[str, Any]) -> Request:
        """Return what `orchard.child.request_of` read."""
        return cls(
            **found | {"fit": Fit(found["fit"]), "limits": Limits(**found["limits"]), "s3": S3Options(**found["s3"])}
        )


def checkpoint_of(branch: int) -> str:
    """Return the file's name; the first one's is of before there were several."""
    return f"checkpoint-{branch}.npz" if branch else "checkpoint.npz"


def tune(
    request: Request,
    training: pa.Table,
    held_out: pa.Table,
    folder: Path,
    *,
    done: Callable[[int], None],
    saved: Callable[[str, bytes], None],
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Tune a network in a process of its own.

    Args:
        request: what and how.
        training: ``path, size, label`` of the images to train on.
        held_out: likewise, of those to measure on.
        folder: of this very request and these images; holds what earlier tries have done, such as checkpoints.
        done: told of pictures that have passed through a part of the network.
        saved: gets each new checkpoint, by its name.

    Returns:
        The files by name, `TUNED`, `TRAINED_HEAD` and `JUDGED`, empty if no image held out was trained on; and what it
        came to, see `orchard.layout.TuningMetrics`.

    Raises:
        OrchardError: the process broke off; or what it raised.
        KeyboardInterrupt: the command is to end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, images in zip(_IMAGES, (training, held_out), strict=True):
        pq.write_table(images.select(["path", "size", "label"]), folder / name)
    # What TensorFlow leaves among temporary files, as this process kills it in the end, goes with the folder.
    variables = {**child.KERAS, "TMPDIR": str(folder.absolute())}
    process = child.start("orchard.tuning.process", folder, request, stdout=subprocess.PIPE, variables=variables)
    assert process.stdout is not None
    try:
        with interruption.in_order(process.kill), process.stdout:
            for line in process.stdout:  # the process ends with the pipe, if this one is killed
                interruption.check()
                name, number = json.loads(line)
                if name == "saved":
                    checkpoint = checkpoint_of(number)
                    saved(checkpoint, (folder / checkpoint).read_bytes())
                else:
                    done(number)
            interruption.check()
    finally:
        process.kill()
        process.wait()
    child.raise_error(folder)
    try:
        files = {name: (folder / name).read_bytes() for name in (TUNED, TRAINED_HEAD, JUDGED)}
        return files, json.loads((folder / _RESULT).read_text())
    except OSError as error:
        if is_full(folder):
            raise OSError(errno.ENOSPC, full(folder)) from error
        raise OrchardError(
            f"Tuning {request.backbone} {child.last_words(folder, process.returncode)}: start again to go on, "
            "with more memory or with fewer images by --tune-images."
        ) from None


# --- What runs in the process of its own --------------------------------------------------------------------


def main(folder: Path) -> int:
    """Do what ``folder/request.json`` asks for."""
    say = _channel()
    try:
        _tune(Request.of(child.request_of(folder)), folder, say)
    except OrchardError as error:
        return child.leave_error(folder, error)
    return 0


def _channel() -> Callable[[str, int], None]:
    """Return a function that reports to the driver over standard output, from which libraries' prints are kept away."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(name: str, number: int) -> None:
        lines.write(f"{json.dumps([name, number])}\n")

    return say


def _tune(request: Request, folder: Path, say: Callable[[str, int], None]) -> None:
    import_openvino()  # before Keras does
    import keras
    import tensorflow

    started = time.monotonic()
    parts = min(request.threads, MOST_PARTS)
    tensorflow.config.threading.set_intra_op_parallelism_threads(math.ceil(request.threads / parts))
    tensorflow.config.threading.set_inter_op_parallelism_threads(parts)
    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")
    backbone = request.named()
    model, _ = keras_model(backbone, locate(backbone, request.weights, seed=request.seed))
    front, tail, network = divided(model, backbone)
    graph = graph_of_tensorflow(front)
    tables = [pq.read_table(folder / name) for name in _IMAGES]
    labels = sorted(set(tables[0]["label"].to_pylist()))
    shares = VIEW_SHARES[request.test_views]
    pictures = Pictures(request.limits, request.s3, request.fit, request.input_size, request.seed, shares)

    def done(pictures: int) -> None:
        say("done", pictures)

    def seen(name: str, table: pa.Table, views: int) -> Activations:
        return write(folder / name, graph, table, views, pictures, threads=request.threads, done=done)

    training, held_out = seen("training", tables[0], request.views), seen("held_out", tables[1], 0)
    joining = seen("joining", tables[1], request.views) if request.joins else None
    classes = [_classes(table, labels) for table in tables]
    check_readable(classes[0], training, held_out)
    paths = [
        table["path"].take(pa.array(found.known)) for table, found in zip(tables, (training, held_out), strict=True)
    ]
    earlier = max(_seconds(folder / checkpoint_of(number)) for number in range(request.branches))
    untrained, branches = tail.get_weights(), list[_Branch]()
    for number in range(request.branches):
        tail.set_weights(untrained)
        seed = request.seed + number
        trainer = Trainer(tail, training, classes[0], held_out, classes[1], joining=joining, seed=seed, parts=parts)
        progress = train(
            trainer,
            branches[0].progress.epochs if branches else request.epochs,
            folder / checkpoint_of(number),
            most_seconds=request.seconds,
            seconds=lambda: earlier + time.monotonic() - started,
            done=done,
            saved=partial(say, "saved", number),
            whole=number > 0,
        )
        if number and not progress.is_done:
            break
        scores = trainer.scores_held_out()
        judged = judged_by(trainer, labels, *paths) if request.joins else None
        if progress.joined:
            trainer.keep_last(progress)
        branches.append(_Branch(progress, judged, scores, tail.get_weights(), Head(trainer.head, labels)))
    judging = [branch.judged for branch in branches if branch.judged is not None]
    joined = max(branch.progress.joined for branch in branches)
    (folder / JUDGED).write_bytes(Judged.side_by_side(judging).to_bytes() if joined else b"")
    _save(network, tail, last_kept(backbone), branches, folder / TUNED)
    (folder / TRAINED_HEAD).write_bytes(Head.side_by_side([branch.head for branch in branches]).to_bytes())
    first = branches[0].progress
    result = {
        "images": len(training.known),
        "held_out": len(held_out.known),
        "views": training.views,
        "epochs": first.epoch,
        "epochs_asked": request.epochs,
        "best_epoch": first.best_epoch,
        "joined": joined,
        "history": first.history,
        "seconds": round(branches[-1].progress.seconds, 1),
    }
    if request.branches > 1:
        together = measure(np.mean([branch.scores[0] for branch in branches], axis=0), branches[0].scores[1])
        result |= {"branches": len(branches), "branches_asked": request.branches, "together": together}
    (folder / _RESULT).write_text(json.dumps(result))


@dataclass(frozen=True)
class _Branch:
    """A branch that has been trained.

    Attributes:
        progress: of its training.
        judged: what it gave before it was trained on the images held out; None: it is not.
        scores: as of `Trainer.scores_held_out`, likewise.
        weights: of its blocks.
        head: that was trained with them.
    """

    progress: Progress
    judged: Judged | None
    scores: tuple[NDArray[np.float32], NDArray[np.intp]]
    weights: list[NDArray[np.float32]]
    head: Head


def _save(network: Any, tail: Any, after: str, branches: Sequence[_Branch], path: Path) -> None:
    """Write the weights of the network with these branches; one is what `tail` is, from the layer `after` on."""
    if len(branches) == 1:
        tail.set_weights(branches[0].weights)
        network.save_weights(path)
        return
    found = Branches(len(branches), after)
    whole, parts = branched(network, found)
    for part, branch in zip(parts, branches, strict=True):
        part.set_weights(branch.weights)
    save(whole, path, found)


def _seconds(checkpoint: Path) -> float:
    try:
        return Progress.load(checkpoint).seconds
    except DAMAGES:
        return 0.0


def check_readable(classes: NDArray[np.intp], training: Activations, held_out: Activations) -> None:
    """Raise TrainingError if too few images can be read: of fewer than two `classes`, or none that is held out."""
    if len(np.unique(classes[training.known])) < 2 or not len(held_out.known):
        raise TrainingError(
            f"Of {len(training.rows)} images to tune a backbone on, and {len(held_out.rows)} to measure it, "
            f"{len(training.known)} and {len(held_out.known)} can be read: bring them back to where they were."
        )


def judged_by(trainer: Trainer, labels: list[str], trained: pa.ChunkedArray, held_out: pa.ChunkedArray) -> Judged:
    """Return what the network gives as it is now.

    Args:
        trainer: has it.
        labels: of its classes.
        trained: paths of the images to train on that could be decoded.
        held_out: likewise, of those held out.
    """
    return Judged(
        Head(trainer.head, labels),
        hashes(trained),
        hashes(held_out),
        trainer.features(held_out=False, views=PROBE_VIEWS, done=lambda _: None),
        trainer.features(held_out=True, views=None, done=lambda _: None).mean(axis=0),
    )


def _classes(images: pa.Table, labels: list[str]) -> NDArray[np.intp]:
    place = {label: number for number, label in enumerate(labels)}
    return np.array([place.get(label, -1) for label in images["label"].to_pylist()], np.intp)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
