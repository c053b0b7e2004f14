"""The command that exports the model: parse, call, print; nothing else."""

from __future__ import annotations

from typing import Any

import click

from orchard.cli.printing import print_json
from orchard.exports.formats import Format, StoredPrecision
from orchard.flags import STORAGE, options, settings_from


@click.command(short_help="export the model as one file: ONNX, OpenVINO, Keras or LiteRT")
@click.argument("output")
@click.option(
    *("--format", "kind"),
    required=True,
    type=click.Choice([str(kind) for kind in Format]),
    help="onnx: browsers, iOS, servers; litert: Android; openvino: Intel processors; keras: Python",
)
@click.option(
    "--to",
    "file",
    required=True,
    metavar="FILE",
    help="file to write: local path or s3a:// URL, with the format's suffix",
)
@click.option(
    "--precision",
    default=str(StoredPrecision.FLOAT32),
    type=click.Choice([str(precision) for precision in StoredPrecision]),
    help="number format of the stored weights; int8 also computes in int8  [default: float32]",
)
@click.option(
    "--weights",
    metavar="TEXT",
    help="where the backbone's weights are now, if they have moved since the run; keras, litert, and float32 after "
    "an int8 run read them",
)
@options(*STORAGE)
def export(
    output: str, *, kind: str, file: str, precision: str, weights: str | None, as_json: bool, **flags: Any
) -> int:
    """Write the model of OUTPUT to FILE.

    The file holds backbone, scaler, PCA and classifier as one graph. Its input is RGB pixels in uint8, of any size; its
    outputs are calibrated probabilities and familiarity. A model card is written beside it, as FILE.json.

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
