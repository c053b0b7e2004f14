"""The command that writes the model as one file: parse, call, print; nothing else."""

from __future__ import annotations

from typing import Any

import click

from orchard.cli.printing import print_json
from orchard.exports.formats import Format, StoredPrecision
from orchard.flags import STORAGE, options, settings_from


@click.command(short_help="write the model as one file: ONNX, OpenVINO, Keras or LiteRT")
@click.argument("output")
@click.option(
    *("--format", "kind"),
    required=True,
    type=click.Choice([str(kind) for kind in Format]),
    help="onnx: browser, iOS, servers; litert: Android; openvino: Intel's processors; keras: to go on in Python",
)
@click.option("--to", "file", required=True, metavar="FILE", help="local path or s3a:// URL, with the format's suffix")
@click.option(
    "--precision",
    default=str(StoredPrecision.FLOAT32),
    type=click.Choice([str(precision) for precision in StoredPrecision]),
    help="how the weights are stored, in int8 also what is computed with  [default: float32]",
)
@click.option(
    "--weights",
    metavar="TEXT",
    help="keras, litert, and float32 of a run in int8: the backbone's weights, if they are elsewhere than for the run",
)
@options(*STORAGE)
def export(
    output: str, *, kind: str, file: str, precision: str, weights: str | None, as_json: bool, **flags: Any
) -> int:
    """Write the model of OUTPUT to FILE.

    The file takes uint8 RGB pixels of any size, and gives calibrated probabilities and familiarity. Network, scaler,
    PCA and classifier are one graph in it. A model card is written beside it, as FILE.json.

    \b
    Example:
      orchard export out --format onnx --to fruits.onnx
      orchard export out --format litert --precision int8 --to app/src/main/assets/fruits.tflite
    """
    from orchard.exports.writing import export as write

    settings = settings_from(flags)
    settings.check_regions(output, file)
    done = write(output, file, Format(kind), StoredPrecision(precision), weights=weights, s3=settings.s3_options())
    if as_json:
        print_json({"files": done.files, "card": done.card})
        return 0
    for name, size in done.files.items():
        click.echo(f"{size / 1e6:8.2f} MB  {name}")
    return 0


COMMANDS = (export,)
