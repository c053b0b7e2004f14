"""The command line: parse, call, print; nothing else."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.table import Table

from orchard.cluster import commands as cluster
from orchard.commandline import run_command
from orchard.exports import commands as export
from orchard.flags import (
    CLASSIFICATION,
    DRIVERS,
    EXTRACTION,
    PRICES,
    REDUCTION,
    SPARK,
    STORAGE,
    comparison,
    options,
    settings_from,
)
from orchard.inference import commands as inference
from orchard.serving import commands as serving
from orchard.version import VERSION
from orchard.watching import commands as watching


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _one_or_several(
    context: click.Context,  # noqa: ARG001 -- click's signature
    argument: click.Parameter,  # noqa: ARG001
    given: tuple[str, ...],
) -> str | tuple[str, ...]:
    return given[0] if len(given) == 1 else given


_SOURCES = click.argument("source", nargs=-1, required=True, callback=_one_or_several)


class _Orchard(click.Group):
    """Commands in the order in which people meet them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        return list(self.commands)


@click.group(cls=_Orchard, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="orchard")
def cli() -> None:
    """Turn a large collection of images into features, a reduced table, measured classifiers and a model.

    \b
    Example:
      orchard sample photos
      orchard run photos --output out
    """


@cli.command(short_help="run all stages, from images to the report")
@_SOURCES
@click.option(
    "--output", "-o", required=True, help="folder or bucket's prefix (s3a://, gs://, abfss://) for the results"
)
@options(*DRIVERS["run"])
def run(source: str | Sequence[str], output: str, as_json: bool, **flags: Any) -> int:
    """Extract features of the images at SOURCE, reduce them, train classifiers, and write a report.

    A second run resumes where the first stopped, and does nothing if nothing has changed. With several sources, the
    report gives the accuracy on each.

    \b
    Example:
      orchard run photos --output out
      orchard run s3a://bucket/photos --output s3a://bucket/results --backbone MobileNetV2
      orchard run studio market --output out --source-weight studio=0.3

    """
    from orchard import pipeline

    return _print_outcome(pipeline.run(source, output, settings_from(flags)), as_json)


@cli.command(short_help="estimate a run: counts, tasks, and each stage's time, memory, disk and cost")
@_SOURCES
@click.option("--output", "-o", help="output whose finished images need not be done again")
@options(*EXTRACTION, *REDUCTION, *CLASSIFICATION, *SPARK, *PRICES, *STORAGE)
def plan(source: str | Sequence[str], output: str | None, as_json: bool, **flags: Any) -> int:
    """Estimate what `orchard run` would do with SOURCE, and what each stage and each quality would take.

    Nothing is written. To measure the time for one image, a few are decoded and featurized in memory, by as many
    processes as a run would use.

    \b
    Example:
      orchard plan photos --backbone MobileNetV2
    """
    from orchard.planning.plan import make_plan

    planned = make_plan(source, output, settings_from(flags))
    _print_json(planned) if as_json else _print_plan(planned)
    return 0


@cli.command(short_help="extract the images' features")
@_SOURCES
@click.option(
    "--output", "-o", required=True, help="folder or bucket's prefix (s3a://, gs://, abfss://) for the results"
)
@options(*EXTRACTION, *SPARK, *STORAGE)
def extract(source: str | Sequence[str], output: str, as_json: bool, **flags: Any) -> int:
    """Extract features of the images at SOURCE that OUTPUT does not have yet.

    \b
    Example:
      orchard extract photos --output out
    """
    from orchard.images.sources import check_apart
    from orchard.pipeline import Pipeline

    settings = settings_from(flags)
    check_apart(source, output)
    with Pipeline(output, settings) as pipeline:
        pipeline.extract(source)
        return _print_outcome(pipeline.finish(), as_json)


@cli.command(short_help="fine-tune the backbone on the images of an output")
@click.argument("output")
@options(*DRIVERS["tune"])
def tune(output: str, as_json: bool, **flags: Any) -> int:
    """Fine-tune the backbone's last blocks on the training images of OUTPUT, and make everything else there again.

    \b
    Example:
      orchard tune out --tune-minutes 30
    """
    from orchard import pipeline

    return _print_outcome(pipeline.tune(output, settings_from(flags)), as_json)


@cli.command(short_help="reduce the features by PCA")
@click.argument("output")
@options(*REDUCTION, *SPARK, *STORAGE)
def reduce(output: str, as_json: bool, **flags: Any) -> int:
    """Fit scaler and PCA on the training features of OUTPUT, and write all features reduced.

    \b
    Example:
      orchard reduce out --components 100
    """
    from orchard.pipeline import Pipeline

    with Pipeline(output, settings_from(flags), must_exist=True) as pipeline:
        pipeline.reduce()
        return _print_outcome(pipeline.finish(), as_json)


@cli.command(short_help="train classifiers, and measure them on the test split")
@click.argument("output")
@options(*CLASSIFICATION, *("seed", "test_fraction", "group_by"), *SPARK, *STORAGE)
def classify(output: str, as_json: bool, **flags: Any) -> int:
    """Train classifiers on the reduced features of OUTPUT, and measure them on its test split.

    \b
    Example:
      orchard classify out --classifiers logistic_regression --group-by frames
    """
    from orchard.pipeline import Pipeline

    with Pipeline(output, settings_from(flags), must_exist=True) as pipeline:
        pipeline.neighbours()
        pipeline.classify()
        pipeline.measure_unknown()
        return _print_outcome(pipeline.finish(), as_json)


@cli.command(short_help="find wrong labels, twins, and blurred or dark images")
@click.argument("output")
@options(*SPARK, *STORAGE)
def review(output: str, as_json: bool, **flags: Any) -> int:
    """Write review/suspects.csv: images of OUTPUT with a likely fault, likeliest first.

    Edit the table, and give it to the next run with --corrections.

    \b
    Example:
      orchard review out
    """
    from orchard.pipeline import Pipeline

    with Pipeline(output, settings_from(flags), must_exist=True) as pipeline:
        pipeline.review()
        return _print_outcome(pipeline.finish(), as_json)


@cli.command(short_help="write the report again")
@click.argument("output")
@click.option(
    "--figures",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="also write each figure to FOLDER, as SVG and PNG",
)
@options("max_rejected", *STORAGE)
def report(output: str, figures: Path | None, as_json: bool, **flags: Any) -> int:
    """Write report.html, metrics.json and run.json of OUTPUT again, from what it holds.

    \b
    Example:
      orchard report out
      orchard report out --figures slides
    """
    from orchard.pipeline import Pipeline

    with Pipeline(output, settings_from(flags), must_exist=True) as pipeline:
        return _print_outcome(pipeline.report(again=True, figures=figures), as_json)


@cli.command(short_help="check every file of an output, and repair it")
@click.argument("output")
@click.option("--dry-run", is_flag=True, help="report damage, and change nothing")
@options(*STORAGE)
def verify(output: str, dry_run: bool, as_json: bool, **flags: Any) -> int:
    """Check every file of OUTPUT against what was committed, and repair what can be made again.

    Damaged files are deleted, and the next `orchard run` makes them again. Exit code 3 means that damage is left.

    \b
    Example:
      orchard verify out
    """
    from orchard.output import Output
    from orchard.verify import verify as verify_output

    verdict = verify_output(Output(output, settings_from(flags).s3_options()), mend=not dry_run)
    if as_json:
        _print_json(verdict)
    else:
        lines = [f"damage     {sentence}" for sentence in verdict["damage"]]
        count = verdict["images_to_do_again"]
        if not verdict["damage"]:
            lines.append(f"whole      {verdict['files']:,} files are what was written")
        elif verdict["mended"]:
            again = f"{count:,} images are featurized again" if count else "what was dropped is made again"
            lines.append(f"mended     {again} by the next orchard run")
        click.echo("\n".join(lines))
    return 0 if verdict["mended"] else 3


@cli.command(short_help="compare several backbones in accuracy, size and speed")
@click.argument("source")
@comparison(required=True)
@click.option(
    "--output", "-o", required=True, help="folder or bucket's prefix for the results; each backbone gets a folder in it"
)
@options(*DRIVERS["compare"])
def compare(source: str, backbones: str, output: str, tolerance: float, as_json: bool, **flags: Any) -> int:
    """Run the pipeline with several backbones, and print one table that marks the best trade-off.

    OUTPUT gets the table too, as compare.html and compare.json.

    \b
    Example:
      orchard compare photos --backbones EfficientNetLite0,MobileNetV2 --output comparison
      orchard compare photos --backbones EfficientNetLite0,EfficientNetLite0@128 --output sizes
    """
    from orchard.comparison import compare as compare_backbones
    from orchard.layout import COMPARISON_PAGE

    names = [name.strip() for name in backbones.split(",") if name.strip()]
    rows = compare_backbones(source, output, names, settings_from(flags), tolerance=tolerance)
    if as_json:
        _print_json(rows)
    else:
        _print_comparison(rows)
        click.echo(f"page  {output.rstrip('/')}/{COMPARISON_PAGE}")
    return 0


@cli.command(short_help="list the backbones to choose from")
@options()
def backbones(as_json: bool, **flags: Any) -> int:
    """List every backbone: input size, features, parameters, size, depth, published ImageNet accuracy, speed.

    MB is the size of the weights in float32, without ImageNet's classifier. Depth counts the layers with parameters,
    ImageNet's classifier included. Top-1 and top-5 are the accuracies that the weights' publisher states. The time was
    measured on one core with AVX2, in float32.

    \b
    Example:
      orchard backbones
    """
    from orchard.features.backbones import DEFAULT_BACKBONE, REGISTRY

    settings_from(flags)
    if as_json:
        _print_json(
            [
                {"name": b.name, "input_size": b.input_size, "n_features": b.n_features}
                | {"parameters": b.parameters, "megabytes": round(b.megabytes, 1), "depth": b.depth}
                | {"top1": b.top1, "top5": b.top5, "milliseconds": b.milliseconds}
                | {"default": b.name == DEFAULT_BACKBONE}
                for b in REGISTRY.values()
            ]
        )
        return 0
    table = _table("backbone", "input px", "features", "parameters", "MB", "depth", "top-1", "top-5", "ms an image")
    for b in REGISTRY.values():
        name = f"{b.name} (default)" if b.name == DEFAULT_BACKBONE else b.name
        published = ("-" if share is None else f"{share:.1f} %" for share in (b.top1, b.top5))
        speed = "-" if b.milliseconds is None else f"{b.milliseconds:.1f}"
        size = f"{b.parameters / 1e6:.1f} M", f"{b.megabytes:.0f}", f"{b.depth}"
        table.add_row(name, f"{b.input_size}", f"{b.n_features:,}", *size, *published, speed)
    _print_table(table)
    return 0


@cli.command(short_help="generate fruit-like images to try things on")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", default=0, metavar="N", help="seed of the images  [default: 0]")
@options()
def sample(folder: Path, seed: int, as_json: bool, **flags: Any) -> int:
    """Write a labelled sample of fruit-like images to FOLDER, which must be new or empty.

    \b
    Example:
      orchard sample photos
    """
    from orchard.images.sample import write_sample

    settings_from(flags)
    images = write_sample(folder, seed=seed)
    if as_json:
        _print_json({"folder": str(folder.absolute()), "images": images})
    else:
        click.echo(f"{images} images in {folder}; next: orchard run {folder} --output out")
    return 0


for _command in (*inference.COMMANDS, *export.COMMANDS, *serving.COMMANDS, *watching.COMMANDS, *cluster.COMMANDS):
    cli.add_command(_command)


def _print_outcome(outcome: Any, as_json: bool) -> int:
    from orchard.headline import MEASURES
    from orchard.images.rejections import sentence
    from orchard.layout import SUSPECT_LIST

    metrics = outcome.metrics
    if as_json:
        _print_json({"output": outcome.output, "report": outcome.report, "metrics": metrics})
    else:
        images = metrics["images"]
        lines = [
            f"images     {images['listed']:,} listed = {images['featurized']:,} featurized + "
            f"{images['rejected']:,} rejected; {images['decoded']:,} decoded by this run"
        ]
        if images["decoded"]:
            lines[-1] += f" at {metrics['images_per_second']:,.0f} a second"
        if images["rejected_by_reason"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in images["rejected_by_reason"].items())
            lines.append(f"rejected   {reasons} (see {outcome.output}/rejected)")
            lines += [f"           {sentence(kind)}" for kind in images.get("rejected_kinds", [])]
        if "pca" in metrics:
            pca = metrics["pca"]
            lines.append(
                f"reduced    {pca['n_features']:,} features to {pca['k']:,} components, "
                f"{pca['explained_variance']:.1%} of the variance"
            )
        for name, measured in metrics.get("classifiers", {}).items():
            text = f"{name.replace('_', ' '):<20} accuracy {_with_interval(measured)}, F1 {measured['macro_f1']:.2%}"
            if (apart := metrics.get("without_near_twins", {}).get(name)) and apart["test_rows"]:
                text += f"; without near twins {_with_interval(apart)}"
            if grouped := metrics.get("group_split", {}).get("classifiers", {}).get(name):
                text += f"; by group {_with_interval(grouped)}"
            lines.append(text)
        lines += _of_sources(metrics)
        if "baseline" in metrics:
            lines.append(f"{'majority class':<20} accuracy {_with_interval(metrics['baseline'])}")
        if best := metrics.get("headline"):
            lines.append(
                f"headline   {_with_interval(best)} by {best['classifier'].replace('_', ' ')}, on "
                f"{best['test_rows']:,} {MEASURES[best['measure']].removeprefix('all ')}"
            )
        if metrics.get("review", {}).get("faults"):
            faults = ", ".join(f"{count:,} {fault}" for fault, count in metrics["review"]["faults"].items())
            lines.append(f"to look at {faults} (see {outcome.output}/{SUSPECT_LIST})")
        lines += [f"warning    {warning}" for warning in metrics["warnings"]]
        lines.append(f"report     {outcome.report or 'none yet: orchard report ' + outcome.output}")
        lines.append(f"seconds    {metrics['seconds']['total']:.1f}")
        click.echo("\n".join(lines))
    if not outcome.within_limits:
        click.echo(
            f"orchard: {metrics['images']['rejected']} images were rejected, more than --max-rejected allows: "
            f"look into {outcome.output}/rejected.",
            err=True,
        )
    return 0 if outcome.within_limits else 1


def _of_sources(metrics: Any) -> list[str]:
    """Return a line for each of several sources, with the accuracy of the classifier that answers."""
    lines = []
    for name, of in metrics.get("sources", {}).items():
        answers = of["classifiers"].get(metrics.get("selection", {}).get("chosen", ""))
        figure = f", accuracy {_with_interval(answers)}" if answers else ""
        lines.append(f"of {name:<17} {sum(of['images'].values()):,} images{figure}")
    return lines


def _with_interval(measured: Any) -> str:
    """Return an accuracy with the interval in which it lies with 95 % confidence."""
    text = f"{measured['accuracy']:.2%}"
    if interval := measured.get("accuracy_interval"):
        text += f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    return text


def _print_plan(planned: Any) -> None:
    from orchard.images.rejections import sentence
    from orchard.report.formatting import duration

    warnings, kinds, stages, qualities = (
        planned.pop(name) for name in ("warnings", "rejected_kinds", "stages", "qualities")
    )
    for name, value in planned.items():
        is_bytes = name.endswith("bytes")
        text = f"{value / 1e6:,.1f} MB" if is_bytes else value if isinstance(value, str) else f"{value:,}"
        click.echo(f"{name.replace('bytes', 'size').replace('_', ' '):<20} {text}")
    for kind in kinds:
        click.echo(f"{'':<20} {sentence(kind)}")
    for warning in warnings:
        click.echo(f"{'warning':<20} {warning}")

    click.echo()
    is_priced = "cost" in planned
    table = _table("stage", "expected", "between", "core-hours", *(["cost"] * is_priced), "by what is known of")
    for stage in stages:
        between = f"{duration(stage['low'])} and {duration(stage['high'])}"
        figures = [f"{stage[name]:.4f}" for name in ("core_hours", "cost") if name in stage]
        table.add_row(stage["stage"], duration(stage["seconds"]), between, *figures, stage["after"])
    _print_table(table)
    if qualities:
        click.echo()
        _print_qualities(qualities)


def _print_qualities(qualities: Any) -> None:
    from orchard.report.formatting import duration

    is_priced = any("cost" in row for row in qualities)
    columns = ("ms/image", "expected", "between", "worker", "driver", "disk", "core-hours", *(["cost"] * is_priced))
    table = _table("quality", "backbone", "views", "tuned", *columns)
    for row in qualities:
        if "lack" in row:
            table.add_row(row["quality"], row["lack"])
            continue
        memory = (row["worker_memory_bytes"], row["driver_python_bytes"] + row["driver_jvm_bytes"], row["disk_bytes"])
        table.add_row(
            row["quality"],
            f"{row['backbone']}, {row['precision']}",
            f"{row['views']} + {row['test_views']}",
            "yes" if row["tune"] else "no",
            f"{row['ms_per_image']:.1f}",
            duration(row["seconds"]),
            f"{duration(row['low'])} and {duration(row['high'])}",
            *(f"{size / 1e6:,.0f} MB" for size in memory),
            f"{row['core_hours']:.4f}",
            *([f"{row['cost']:.4f}"] if "cost" in row else []),
        )
    _print_table(table)
    click.echo("Views: random views of each training image + views that an answer averages.")
    click.echo("The driver's memory is an upper bound.")


def _print_comparison(rows: Any) -> None:
    from orchard.headline import MEASURES

    table = _table(
        *("backbone", "classifier", "accuracy", "features", "k", "parameters", "size", "ms/image", "images/s", "")
    )
    for row in rows:
        table.add_row(
            row["backbone"],
            row["classifier"].replace("_", " "),
            _with_interval(row),
            f"{row['features']:,}",
            f"{row['k']:,}",
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['size_mb']:.1f} MB",
            f"{row['ms_per_image']:.2f}",
            f"{row['images_per_second']:,.0f}",
            "best trade-off" if row["best_trade_off"] else "",
            style="bold" if row["best_trade_off"] else None,
        )
    _print_table(table)
    click.echo(f"Accuracy is that of {MEASURES[rows[0]['measure']]}, with its 95 % interval.")


def _print_table(table: Table) -> None:
    """Print a table, whole where there is no terminal to fit it to."""
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    # The server takes its signals itself: for it SIGTERM is a normal end.
    run_command(cli, in_main_thread=sys.argv[1:2] == ["serve"])
