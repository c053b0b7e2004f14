"""The command that classifies frames: parse, call, print; nothing else."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from orchard import interruption
from orchard.commandline import FiniteRange, NamedPath


@click.command(short_help="classify frames of a camera, a video or a growing folder")
@click.argument("model", type=NamedPath())
@click.argument("source", type=NamedPath())
@click.option(
    "--rate",
    type=FiniteRange(0, min_open=True),
    metavar="N",
    help="largest number of frames to classify in a second",
)
@click.option(
    "--top", default=3, type=click.IntRange(1), metavar="N", help="print the N likeliest labels  [default: 3]"
)
@click.option(
    "--threads",
    default=1,
    type=click.IntRange(1, 1024),
    metavar="N",
    help="number of threads that compute  [default: 1]",
)
def watch(model: Path, source: Path, *, rate: float | None, top: int, threads: int) -> int:
    """Classify the frames of SOURCE as they arrive, and print a line of JSON for each.

    MODEL is an ONNX or OpenVINO file that `orchard export` wrote, with its card beside it. SOURCE is a folder that
    receives images, a video file, or the number of a camera. From a folder or a camera, only the newest frame is
    classified; older ones are skipped and counted, so that no answer is late. Neither Spark nor TensorFlow is needed.
    The exit code is 1 if a video ends too early.

    \b
    Example:
      orchard watch fruits.onnx 0 --rate 2
      orchard watch fruits.xml incoming
    """
    from orchard.images.decoding import Rejection
    from orchard.watching.exported import Exported
    from orchard.watching.frames import Look, frames

    exported = Exported(model, threads)
    look = Look(exported.card.side, exported.card.fit, rate)
    failed = 0
    for number, frame in enumerate(frames(str(source), look), 1):
        line = {"number": number, "frame": frame.name, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        if isinstance(frame.picture, Rejection):
            failed += 1
            said: dict[str, Any] = {"reason": str(frame.picture.reason), "detail": frame.picture.detail}
        else:
            started = time.perf_counter()
            said = exported.answer(frame.picture, top)
            said["milliseconds"] = round(1000 * (time.perf_counter() - started), 1)
        click.echo(json.dumps(line | said | {"skipped": frame.skipped}, ensure_ascii=False))
    interruption.check()
    return 1 if failed else 0


COMMANDS = (watch,)
