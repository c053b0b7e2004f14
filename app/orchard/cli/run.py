"""The commands that make and check an output: parse, call, print; nothing else."""

import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from orchard.cli.group import cli
from orchard.cli.printing import (
    print_comparison,
    print_erasure,
    print_json,
    print_lines,
    print_outcome,
    print_plan,
    print_table,
    table_of,
)
from orchard.commandline import NamedPath
from orchard.errors import UsageError
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


def _one_or_several(
    context: click.Context,  # noqa: ARG001 -- click's signature
    argument: click.Parameter,  # noqa: ARG001
    given: tuple[str, ...],
) -> str | tuple[str, ...]:
    return given[0] if len(given) == 1 else given


_SOURCES = click.argument("source", nargs=-1, required=True, callback=_one_or_several)


def _age(context: click.Context, option: click.Parameter, given: str | None) -> timedelta | None:
    """Return the age that a text such as 365d stands for."""
    found = re.fullmatch(r"([1-9]\d{0,4})d", given or "")
    if given is not None and found is None:
        raise click.BadParameter(f"{given!r} is no age such as 365d.", context, option)
    return timedelta(days=int(found[1])) if found else None


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

    return print_outcome(pipeline.run(source, output, settings_from(flags)), as_json)


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
    print_json(planned) if as_json else print_plan(planned)
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
    settings.check_regions(source, output)
    with Pipeline(output, settings) as pipeline:
        pipeline.extract(source)
        return print_outcome(pipeline.finish(), as_json)


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

    return print_outcome(pipeline.tune(output, settings_from(flags)), as_json)


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
        return print_outcome(pipeline.finish(), as_json)


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
        return print_outcome(pipeline.finish(), as_json)


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
        return print_outcome(pipeline.finish(), as_json)


@cli.command(short_help="write the report again")
@click.argument("output")
@click.option(
    "--figures",
    metavar="FOLDER",
    type=NamedPath(),
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
        return print_outcome(pipeline.report(again=True, figures=figures), as_json)


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
        print_json(verdict)
    else:
        lines = [f"damage     {sentence}" for sentence in verdict["damage"]]
        count = verdict["images_to_do_again"]
        if not verdict["damage"]:
            lines.append(f"whole      {verdict['files']:,} files are what was written")
        elif verdict["mended"]:
            again = f"{count:,} images are featurized again" if count else "what was dropped is made again"
            lines.append(f"mended     {again} by the next orchard run")
        print_lines(*lines)
    return 0 if verdict["mended"] else 3


@cli.command(short_help="erase images from an output, and say what was learned from them")
@click.argument("output")
@click.argument("images", nargs=-1, metavar="[PATH]...")
@click.option("--dry-run", is_flag=True, help="only say what is known of them")
@click.option(
    "--older-than",
    callback=_age,
    metavar="365d",
    help="erase what is older instead: logs of runs, and all images if the output was not changed for so long",
)
@click.option("--allow-again", is_flag=True, help="let later runs take these images in again")
@options(*STORAGE)
def erase(  # noqa: PLR0917 -- click passes each flag by name
    output: str,
    images: tuple[str, ...],
    dry_run: bool,
    older_than: timedelta | None,
    allow_again: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Erase all that OUTPUT holds of the images at each PATH, and of all below it if a slash ends it.

    What was learned from them, and what has left OUTPUT, is named with the command that makes it again. Later runs
    leave these images out, and say so, as long as the source has them. The exit code is 1 if no row names a PATH that
    was not erased before; with --allow-again, if a PATH was not erased.

    \b
    Example:
      orchard erase out photos/anna.jpg photos/visitors/ --dry-run
      orchard erase s3a://bucket/results s3a://bucket/photos/anna.jpg
      orchard erase out --older-than 365d
    """
    from orchard import pipeline

    settings = settings_from(flags)
    if bool(images) == (older_than is not None):
        raise UsageError("Say what to erase: give each PATH, or --older-than with an age such as 365d.")
    if allow_again:
        if older_than is not None or dry_run:
            raise UsageError("--allow-again goes with a PATH alone: leave --older-than and --dry-run away.")
        count = pipeline.allow_again(output, images, settings)
        print_json({"allowed_again": count}) if as_json else click.echo(f"images that may come again: {count}")
        if lack := len({*images}) - count:
            click.echo(
                f"orchard: {lack} of the paths were not erased before: name each image, not its folder, as only "
                "digests of their paths are kept.",
                err=True,
            )
        return 1 if lack else 0
    found = pipeline.erase(output, images, settings, older_than=older_than, dry_run=dry_run)
    print_json(found) if as_json else print_erasure(found)
    return 1 if {*found["unknown"]} - {*found["erased_before"]} else 0


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
    from orchard.settings import comma_separated

    rows = compare_backbones(source, output, comma_separated(backbones), settings_from(flags), tolerance=tolerance)
    if as_json:
        print_json(rows)
    else:
        print_comparison(rows)
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
        print_json(
            [
                {"name": b.name, "input_size": b.input_size, "n_features": b.n_features}
                | {"parameters": b.parameters, "megabytes": round(b.megabytes, 1), "depth": b.depth}
                | {"top1": b.top1, "top5": b.top5, "milliseconds": b.milliseconds}
                | {"default": b.name == DEFAULT_BACKBONE}
                for b in REGISTRY.values()
            ]
        )
        return 0
    table = table_of("backbone", "input px", "features", "parameters", "MB", "depth", "top-1", "top-5", "ms an image")
    for b in REGISTRY.values():
        name = f"{b.name} (default)" if b.name == DEFAULT_BACKBONE else b.name
        published = ("-" if share is None else f"{share:.1f} %" for share in (b.top1, b.top5))
        speed = "-" if b.milliseconds is None else f"{b.milliseconds:.1f}"
        size = f"{b.parameters / 1e6:.1f} M", f"{b.megabytes:.0f}", f"{b.depth}"
        table.add_row(name, f"{b.input_size}", f"{b.n_features:,}", *size, *published, speed)
    print_table(table)
    return 0


@cli.command(short_help="generate fruit-like images to try things on")
@click.argument("folder", type=NamedPath())
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
        print_json({"folder": str(folder.absolute()), "images": images})
    else:
        click.echo(f"{images} images in {folder}; next: orchard run {folder} --output out")
    return 0
