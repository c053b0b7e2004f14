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
from collections.abc import Callable
from dataclasses import dataclass
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
from orchard.features.conversion import graph_of_tensorflow
from orchard.features.engines import import_openvino
from orchard.features.weights import keras_model, locate
from orchard.images.decoding import Limits
from orchard.layout import JUDGED, TRAINED_HEAD, TUNED
from orchard.scratch import full, is_full
from orchard.storage import S3Options
from orchard.tuning.activations import Activations, Pictures, write
from orchard.tuning.blocks import divided
from orchard.tuning.training import JOINING, PROBE_VIEWS, Trainer, train
from orchard.vocabulary import Fit

MOST_PARTS = 8
"""Parts of a batch that are computed beside each other: of 32 images, four each."""
CHECKPOINT = "checkpoint.npz"
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
        total = training * (self.views + min(PROBE_VIEWS, self.views) + self.epochs)
        total += held_out * (self.test_views + 1)  # measured, and by the probe
        if self.joins:
            total += held_out * self.views + math.ceil(JOINING * self.epochs) * (training + held_out)
        return total

    @classmethod
    def of(cls, found: dict[str, Any]) -> Request:
        """Return what `orchard.child.request_of` read."""
        return cls(
            **found | {"fit": Fit(found["fit"]), "limits": Limits(**found["limits"]), "s3": S3Options(**found["s3"])}
        )


def tune(
    request: Request,
    training: pa.Table,
    held_out: pa.Table,
    folder: Path,
    *,
    done: Callable[[int], None],
    saved: Callable[[bytes], None],
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Tune a network in a process of its own.

    Args:
        request: what and how.
        training: ``path, size, label`` of the images to train on.
        held_out: likewise, of those to measure on.
        folder: of this very request and these images; holds what earlier tries have done, such as `CHECKPOINT`.
        done: told of pictures that have passed through a part of the network.
        saved: gets each new checkpoint.

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
    process = child.start("orchard.tuning.process", folder, request, stdout=subprocess.PIPE, variables=child.KERAS)
    assert process.stdout is not None
    try:
        with interruption.in_order(process.kill), process.stdout:
            for line in process.stdout:  # the process ends with the pipe, if this one is killed
                interruption.check()
                name, number = json.loads(line)
                if name == "saved":
                    saved((folder / CHECKPOINT).read_bytes())
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
    trainer = Trainer(tail, training, classes[0], held_out, classes[1], joining=joining, seed=request.seed, parts=parts)
    progress = train(
        trainer,
        request.epochs,
        folder / CHECKPOINT,
        most_seconds=request.seconds,
        seconds=lambda: time.monotonic() - started,
        done=done,
        saved=lambda: say("saved", 0),
    )
    judged = b""
    if progress.joined:
        known = (
            table["path"].take(pa.array(found.known)) for table, found in zip(tables, (training, held_out), strict=True)
        )
        judged = judged_by(trainer, labels, *known).to_bytes()
        trainer.keep_last(progress)
    (folder / JUDGED).write_bytes(judged)
    network.save_weights(folder / TUNED)
    (folder / TRAINED_HEAD).write_bytes(Head(trainer.head, labels).to_bytes())
    result = {
        "images": len(training.known),
        "held_out": len(held_out.known),
        "views": training.views,
        "epochs": progress.epoch,
        "epochs_asked": request.epochs,
        "best_epoch": progress.best_epoch,
        "joined": progress.joined,
        "history": progress.history,
        "seconds": round(progress.seconds, 1),
    }
    (folder / _RESULT).write_text(json.dumps(result))


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
