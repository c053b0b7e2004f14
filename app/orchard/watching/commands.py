"""The command that answers to frames as they come: parse, call, print; nothing else."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from orchard import interruption


@click.command(short_help="say what a camera, a video or a folder that fills shows")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("source")
@click.option("--rate", type=click.FloatRange(0, min_open=True), metavar="N", help="frames a second at most")
@click.option("--top", default=3, type=click.IntRange(1), metavar="N", help="name the N likeliest labels  [default: 3]")
@click.option("--threads", default=1, type=click.IntRange(1), metavar="N", help="that compute  [default: 1]")
def watch(model: Path, source: str, *, rate: float | None, top: int, threads: int) -> int:
    """Say what is on frames of SOURCE as they come, a line of JSON for each.

    MODEL is an ONNX or OpenVINO file of `orchard export`, its card beside it. SOURCE is a folder into which pictures
    come, a video file, or the number of a camera. Of a folder and a camera the newest frame is answered; older ones are
    left and counted, so that no answer is late. It takes neither Spark nor TensorFlow.

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
    for number, frame in enumerate(frames(source, look), 1):
        line = {"number": number, "frame": frame.name, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        if isinstance(frame.picture, Rejection):
            said: dict[str, Any] = {"reason": str(frame.picture.reason), "detail": frame.picture.detail}
        else:
            started = time.perf_counter()
            said = exported.answer(frame.picture, top)
            said["milliseconds"] = round(1000 * (time.perf_counter() - started), 1)
        click.echo(json.dumps(line | said | {"skipped": frame.skipped}, ensure_ascii=False))
    interruption.check()
    return 0


COMMANDS = (watch,)
