"""The command that classifies images: parse, call, print; nothing else."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from orchard.cli.printing import print_json, print_lines
from orchard.errors import UsageError
from orchard.flags import IMAGES, SPARK, STORAGE, options, settings_from
from orchard.progress import stage

if TYPE_CHECKING:
    from orchard.inference.predict import Answered

_WORKERS_FROM = 2_000  # images; they take about as long as Spark takes to start
_TABLE_LABEL = 32  # columns


@click.command(short_help="classify images with the model of a run")
@click.argument("output")
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--top", default=5, type=click.IntRange(1), metavar="N", help="print the N likeliest labels  [default: 5]"
)
@click.option(
    "--format",
    "form",
    default="table",
    type=click.Choice(["table", "jsonl", "csv"]),
    help="format of the answers  [default: table]",
)
@click.option(
    "--spark/--no-spark",
    default=None,
    help="compute in worker processes, Spark's where --master names a cluster, or in this process  "
    f"[default: in workers from {_WORKERS_FROM:,} images or with --master]",
)
@click.option("--regions", is_flag=True, help="also find several things on one image, and where each is")
@click.option(
    "--kinds-in-names",
    is_flag=True,
    help="measure --regions: set what is found beside what the files' names say (apple_pear(conference)2.jpg)",
)
@options(*IMAGES, *SPARK, *STORAGE)
def predict(
    output: str,
    images: tuple[str, ...],
    *,
    top: int,
    form: str,
    spark: bool | None,
    regions: bool,
    kinds_in_names: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Classify IMAGES: files, folders, s3a:// prefixes, patterns, manifests, or - for standard input.

    There are three answers: sure; not sure, with the likeliest labels; and unknown, for an image that is unlike the
    training images. The exit code is 1 if an image could not be read.

    With --kinds-in-names the last line is about all images: the share of the named kinds that are found (recall), the
    share of the found kinds that are named (precision), and the words in names that are no kind of the model.

    \b
    Example:
      orchard predict out photo.jpg
      orchard predict s3a://bucket/results s3a://bucket/new --format csv
    """
    from orchard.inference.model import Model
    from orchard.inference.names import Measured, Vocabulary
    from orchard.inference.predict import STDIN, find_images, predict_here, predict_in_workers

    settings = settings_from(flags)
    if images.count(STDIN) > 1:
        raise UsageError("- stands for standard input, which can be read once: name it once.")
    if kinds_in_names and not regions:
        raise UsageError("--kinds-in-names measures what --regions finds: give --regions, too.")
    if regions and form == "csv" and not as_json:
        raise UsageError("--regions gives lists, which a table of CSV has no columns for: give --format jsonl.")
    settings.check_regions(output, images)
    s3, limits = settings.s3_options(), settings.limits()
    model = Model.load(output, s3)
    top = min(top, len(model.labels))  # there are no more, and CSV has columns for each
    listed = find_images(images, s3)
    in_workers = spark if spark is not None else listed.num_rows >= _WORKERS_FROM or settings.master is not None
    if in_workers and STDIN in images:
        raise UsageError("Standard input is read in this process: give --no-spark.")
    columns = [column.name for column in model.columns]
    as_lines = as_json or form == "jsonl"
    if not as_lines and form == "csv" and (same := {f"{name}_confidence" for name in columns} & {*columns}):
        raise UsageError(f"{min(same)} is a column of the labels and of a confidence: give --format jsonl.")

    def printed(answers: Iterator[Answered]) -> int:
        printer = _PRINTERS["jsonl" if as_lines else form]
        if not kinds_in_names:
            return printer(answers, top, columns)
        measured = Measured()
        code = printer(measured.taken(Vocabulary(model), answers), top, columns)
        if as_lines:
            print_json({"kinds_in_names": measured.as_json()}, indent=None)
        else:
            click.echo(measured)
        return code

    if not in_workers:
        return printed(predict_here(model, listed, limits=limits, s3=s3, top=top, regions=regions))
    from orchard.spark.session import Session

    session = Session(settings)
    try:
        with stage("predict", listed.num_rows) as advance:
            answers = predict_in_workers(
                session.workers, model, listed, limits=limits, s3=s3, top=top, regions=regions, progress=advance
            )
            return printed(answers)
    finally:
        session.stop()


def _table(answers: Iterator[Answered], top: int, columns: Sequence[str]) -> int:  # noqa: ARG001 - the printers' signature
    failed = 0
    for answer in answers:
        if "reason" in answer:
            failed += 1
            print_lines(f"{answer['path']}: {answer['reason'].replace('_', ' ')} ({answer['detail']})")
            continue
        first, *others = answer["top"]
        name = {
            "sure": first["label"],
            "not_sure": f"{answer['kind'] or 'not sure'}; {first['label']}?",
            "unknown": "unlike anything learned",
        }[answer["answer"]]
        rest = ", ".join(f"{other['label']} {other['confidence']:.1%}" for other in others)
        further = answer.get("columns", {}) if answer["answer"] != "unknown" else {}
        values = [
            f"{column}: {found['likeliest']}{'' if found['value'] else '?'} {found['confidence']:.1%}"
            for column, found in further.items()
        ]
        where = "; ".join(
            f"{seen['name']} {seen['confidence']:.1%} at {' '.join(f'{edge:.2f}' for edge in seen['box'])}"
            for seen in answer.get("regions", ())
        )
        said = "   ".join(filter(None, [rest, *values, where]))
        print_lines(f"{answer['path']}: {name:<{_TABLE_LABEL}} {first['confidence']:6.1%}   {said}".rstrip())
    return 1 if failed else 0


def _json_lines(answers: Iterator[Answered], top: int, columns: Sequence[str]) -> int:  # noqa: ARG001 - likewise
    failed = 0
    for answer in answers:
        failed += "reason" in answer
        print_json(answer, indent=None)
    return 1 if failed else 0


class _Lines:
    """Standard output with lines that end as its other lines do; text is quoted for what ends a line in CSV, CR too."""

    def write(self, line: str) -> int:
        return sys.stdout.write(line.removesuffix("\r\n") + "\n")


def _csv(answers: Iterator[Answered], top: int, columns: Sequence[str]) -> int:
    from orchard.layout import FORMULA

    failed = 0
    ranks = [f"{name}_{rank}" for rank in range(1, top + 1) for name in ("label", "confidence")]
    said = ["path", "answer", "label", "kind", "confidence", "familiarity", "reason", "detail"]
    further = [name for column in columns for name in (f"column_{column}", f"column_{column}_confidence")]
    names = [*said, *further, *ranks]
    table = csv.DictWriter(_Lines(), names)
    table.writeheader()
    for answer in answers:
        failed += "reason" in answer
        row = {name: answer.get(name) for name in said}
        for rank, candidate in enumerate(answer.get("top", ()), 1):
            row |= {f"label_{rank}": candidate["label"], f"confidence_{rank}": f"{candidate['confidence']:.6f}"}
        for column, found in answer.get("columns", {}).items():
            row |= {f"column_{column}": found["value"], f"column_{column}_confidence": f"{found['confidence']:.6f}"}
        # Text that a spreadsheet would take for a formula begins with an apostrophe.
        texts = {name: re.sub(FORMULA, r"'\g<0>", value) for name, value in row.items() if isinstance(value, str)}
        table.writerow(row | texts)
    return 1 if failed else 0


_PRINTERS = {"table": _table, "jsonl": _json_lines, "csv": _csv}
COMMANDS = (predict,)
