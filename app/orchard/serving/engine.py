"""An engine in a process of its own: it shares no interpreter lock with the server, and a picture that kills it kills
nothing else.

::

    parent: model, limits, sizes -> child: compiles, answers None, or the exception that it failed with
    parent: images, top          -> child: decodes, predicts, answers a list or an exception
    parent: closes the pipe      -> child: ends
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from orchard import child
from orchard.images.decoding import Decoded, Limits, Rejection
from orchard.inference.model import Model
from orchard.inference.predictor import Prediction, Predictor

PIPE_BYTES = 48 * 1024
"""So many bytes of images fit into the pipe whatever the child is doing: to send them never blocks."""

Answer = Prediction | Rejection


class EngineDied(Exception):
    """The process has ended by itself."""


class EngineProcess:
    """The parent's side.

    Args:
        limits: what an image may cost.
        sizes: of the batches that the network is compiled for, one after the other.
    """

    def __init__(self, limits: Limits, sizes: Sequence[int]) -> None:
        self._limits, self._sizes = limits, tuple(sizes)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orchard.serving.engine"],
            env=child.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def start(self, model: Model) -> None:
        """Give it what answers, and wait until that is compiled. Raises what it failed with, or EngineDied."""
        self._send((model, self._limits, self._sizes))
        if (error := self._receive()) is not None:
            raise error

    def send(self, images: Sequence[bytes], top: int) -> None:
        """Give it a batch; it may have one more than it is at, if that has at most `PIPE_BYTES`."""
        self._send((list(images), top))

    def receive(self) -> list[Answer]:
        """Return the answers to the oldest batch. Raises what it failed with, or EngineDied."""
        answer = self._receive()
        if isinstance(answer, Exception):
            raise answer
        found: list[Answer] = answer
        return found

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except OSError:  # it is gone, and what was still to be written with it
                continue
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except OSError as error:
            raise EngineDied from error

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)  # noqa: S301 - our own child's
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise EngineDied from error


def predict(predictors: dict[int, Predictor], images: Sequence[bytes], top: int) -> list[Answer]:
    """Decode images and predict those that can be, in the smallest batch that holds them."""
    any_predictor = next(iter(predictors.values()))
    decoded = [any_predictor.decode(image) for image in images]
    pixels = [image.pixels for image in decoded if isinstance(image, Decoded)]
    size = min((size for size in predictors if size >= len(pixels)), default=max(predictors))
    predictions = iter(predictors[size].predict(pixels, top) if pixels else ())
    return [image if isinstance(image, Rejection) else next(predictions) for image in decoded]


def main() -> None:
    """Answer what comes through standard input until it is closed."""
    for name in (signal.SIGTERM, signal.SIGINT):  # the parent says when it is over
        signal.signal(name, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not answer

    def answer(message: object) -> None:
        pickle.dump(message, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()

    model, limits, sizes = pickle.load(sys.stdin.buffer)  # noqa: S301 - the parent's
    try:
        predictors = {size: Predictor(model, batch_size=size, limits=limits) for size in sizes}
    except Exception as error:
        answer(error)
        return
    answer(None)
    while True:
        try:
            images, top = pickle.load(sys.stdin.buffer)  # noqa: S301 - the parent's
        except EOFError:
            return
        try:
            found: object = predict(predictors, images, top)
        except Exception as error:  # the request that it concerns logs it
            error.add_note(traceback.format_exc())
            found = error
        answer(found)


if __name__ == "__main__":
    main()
