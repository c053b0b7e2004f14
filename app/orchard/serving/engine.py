"""An engine in a process of its own.

It shares no interpreter lock with the server. A picture that kills it, or keeps it busy for ever, harms nothing else.

::

    parent: model, limits, sizes     -> child: compiles, answers None, or the exception that it failed with
    parent: sizes, top, regions, and the images' bytes
                                     -> child: decodes, predicts, answers a list or an exception
    parent: closes its side          -> child: ends

A message is a pickle. Images follow theirs as they are: in it they would be in memory twice. The child's messages begin
with their length in 8 bytes, because the event loop needs it.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from orchard import child
from orchard.images.decoding import Decoded, Limits, Rejection
from orchard.images.limits import Deadline
from orchard.inference.model import Model
from orchard.inference.predictor import Prediction, Predictor

ImageAnswer = Prediction | Rejection
_LENGTH_BYTES = 8


class EngineDied(Exception):
    """The process has ended by itself."""


class EngineProcess:
    """The parent's side, in its event loop.

    Args:
        limits: limits for decoding one image.
        sizes: batch sizes that the network is compiled for, one after the other.
    """

    def __init__(self, limits: Limits, sizes: Sequence[int]) -> None:
        self._limits, self._sizes = limits, tuple(sizes)
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    async def start(self, model: Model) -> None:
        """Start the process with a model, and wait until it is compiled. Raises the process's error, or EngineDied."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orchard.serving.engine"],
                stdin=theirs.fileno(),
                **child.options(**child.unless_given(child.ONE_THREAD)),
            )
        self._send((model, self._limits, self._sizes))
        if (error := await self._receive()) is not None:
            raise error

    def send(self, images: Sequence[bytes], top: int, *, regions: bool = False) -> None:
        """Send a batch; batches are answered in order. With `regions` the answers contain regions, too."""
        self._send(([len(image) for image in images], top, regions))
        for image in images:
            self._writer.write(image)

    async def receive(self) -> list[ImageAnswer]:
        """Return the answers to the oldest batch. Raises the process's error, or EngineDied."""
        answer = await self._receive()
        if isinstance(answer, Exception):
            raise answer
        found: list[ImageAnswer] = answer
        return found

    def finish(self) -> None:
        """Send no more batches: the process ends when it has answered all batches."""
        with suppress(OSError, RuntimeError):  # it is gone already
            self._writer.write_eof()

    def kill(self) -> None:
        """End the process at once, because it is late."""
        self._killed = True
        assert self._process is not None
        self._process.kill()

    async def close(self) -> None:
        """End the process if it still runs, and record why it has ended."""
        if self._process is None:
            return
        self._writer.transport.abort()
        self._process.kill()  # what has ended already keeps its exit status
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, 5)

    @property
    def overran(self) -> bool:
        """Whether the process has ended because an image exceeded its CPU time."""
        return self._process is not None and self._process.returncode == -Deadline.ENDS_NATIVE_CODE

    @property
    def late(self) -> bool:
        """Whether the process was ended because a batch took too much wall clock time."""
        return self._killed or self.overran

    @property
    def killed(self) -> bool:
        """Whether others have killed the process; of a machine or container that lacks memory the kernel does."""
        return not self._killed and self._process is not None and self._process.returncode == -signal.SIGKILL

    def _send(self, message: object) -> None:
        self._writer.write(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))

    async def _receive(self) -> Any:
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
            return pickle.loads(await self._reader.readexactly(length))  # noqa: S301 - our own child's
        except (asyncio.IncompleteReadError, OSError, pickle.UnpicklingError) as error:
            raise EngineDied from error


def predict(predictors: dict[int, Predictor], images: Sequence[bytes], top: int, *, regions: bool) -> list[ImageAnswer]:
    """Decode images, and predict those that can be decoded, in the smallest batch size that holds them."""
    largest = predictors[max(predictors)]
    decode = largest.decode_larger if regions else largest.decode
    decoded = [decode(image) for image in images]
    readable = [image for image in decoded if isinstance(image, Decoded)]
    size = min((size for size in predictors if size >= len(readable)), default=max(predictors))
    found = predictors[size].predict([image.pixels for image in readable], top)
    if regions:
        places = (largest.place(*each) for each in zip(readable, found, strict=True))
        found = [replace(one, place=place) for one, place in zip(found, places, strict=True)]
    predictions = iter(found)
    return [image if isinstance(image, Rejection) else next(predictions) for image in decoded]


def main() -> None:
    """Answer the messages that arrive through standard input, which is a socket, until it is closed."""
    for name in (signal.SIGTERM, signal.SIGINT):  # the parent says when it is over
        signal.signal(name, signal.SIG_IGN)
    parent = socket.socket(fileno=os.dup(0)).makefile("rwb")

    def answer(message: object) -> None:
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        parent.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        parent.flush()

    model, limits, sizes = pickle.load(parent)  # noqa: S301 - the parent's
    try:
        predictors = {size: Predictor(model, batch_size=size, limits=limits) for size in sizes}
    except Exception as error:
        answer(error)
        return
    answer(None)
    while True:
        try:
            sizes, top, regions = pickle.load(parent)  # noqa: S301 - the parent's
            images = [parent.read(size) for size in sizes]
        except EOFError:
            return
        try:
            found: object = predict(predictors, images, top, regions=regions)
        except Exception as error:  # the request that it concerns logs it
            error.add_note(traceback.format_exc())
            found = error
        answer(found)


if __name__ == "__main__":
    main()
