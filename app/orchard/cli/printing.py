"""What commands print: JSON, tables, and the results of a run, a plan and a comparison."""

import json
import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from orchard.redaction import printable


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print a value as JSON, on one line if there is no indent."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=indent))


def print_lines(*lines: str) -> None:
    """Print lines; what a name holds that would steer the terminal, or end the line, is shown as its escape."""
    click.echo("\n".join(map(printable, lines)))


def print_outcome(outcome: Any, as_json: bool) -> int:
    """Print the results of a command; return its exit code: 1 if too many images were rejected, else 0."""
    from orchard.headline import MEASURES
    from orchard.images.rejections import sentence
    from orchard.layout import SUSPECT_LIST

    metrics = outcome.metrics
    if as_json:
        print_json({"output": outcome.output, "report": outcome.report, "metrics": metrics})
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
        print_lines(*lines)
    if not outcome.within_limits:
        rejected = metrics["images"]["rejected"]
        click.echo(
            f"orchard: {rejected} image{'s were' if rejected > 1 else ' was'} rejected, more than --max-rejected "
            f"allows: look into {outcome.output}/rejected.",
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
    """Return an accuracy as text with its 95 % confidence interval."""
    text = f"{measured['accuracy']:.2%}"
    if interval := measured.get("accuracy_interval"):
        text += f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
    return text


def print_plan(planned: Any) -> None:
    """Print a plan: what a run would do, and what time, memory, disk and cost it would take."""
    from orchard.images.rejections import sentence
    from orchard.report.formatting import duration

    warnings, kinds, stages, qualities = (
        planned.pop(name) for name in ("warnings", "rejected_kinds", "stages", "qualities")
    )
    for name, value in planned.items():
        is_bytes = name.endswith("bytes")
        text = f"{value / 1e6:,.1f} MB" if is_bytes else value if isinstance(value, str) else f"{value:,}"
        print_lines(f"{name.replace('bytes', 'size').replace('_', ' '):<20} {text}")
    for kind in kinds:
        print_lines(f"{'':<20} {sentence(kind)}")
    for warning in warnings:
        print_lines(f"{'warning':<20} {warning}")

    click.echo()
    is_priced = "cost" in planned
    table = table_of("stage", "expected", "between", "core-hours", *(["cost"] * is_priced), "by what is known of")
    for stage in stages:
        between = f"{duration(stage['low'])} and {duration(stage['high'])}"
        figures = [f"{stage[name]:.4f}" for name in ("core_hours", "cost") if name in stage]
        table.add_row(stage["stage"], duration(stage["seconds"]), between, *figures, stage["after"])
    print_table(table)
    if qualities:
        click.echo()
        _print_qualities(qualities)


def _print_qualities(qualities: Any) -> None:
    from orchard.report.formatting import duration

    is_priced = any("cost" in row for row in qualities)
    columns = ("ms/image", "expected", "between", "worker", "driver", "disk", "core-hours", *(["cost"] * is_priced))
    table = table_of("quality", "backbone", "views", "tuned", *columns)
    for row in qualities:
        if "lack" in row:
            table.add_row(row["quality"], row["lack"])
            continue
        driver = row["driver_python_bytes"] + row.get("driver_jvm_bytes", 0)
        memory = (row["worker_memory_bytes"], driver, row["disk_bytes"])
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
    print_table(table)
    click.echo("Views: random views of each training image + views that an answer averages.")
    click.echo("The driver's memory is an upper bound.")


def print_comparison(rows: Any) -> None:
    """Print the table of several backbones."""
    from orchard.headline import MEASURES

    table = table_of(
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
    print_table(table)
    click.echo(f"Accuracy is that of {MEASURES[rows[0]['measure']]}, with its 95 % interval.")


def print_table(table: Table) -> None:
    """Print a table: fitted to the terminal if there is one, else in full width."""
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def table_of(first: str, *others: str) -> Table:
    """Return a table with these columns and no rows yet."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def print_erasure(found: Any) -> None:
    """Print what an output holds of the images to erase, and what happens to each part."""
    done = "erased" if found["erased"] else "to erase"
    rows = ", ".join(f"{count:,} of {dataset}" for dataset, count in found["rows"].items())
    lines = [f"{done:<10} {found['images']:,} images" + (f": rows {rows}" if rows else "")]
    if others := found["neighbours_of_others"]:
        lines.append(f"{'':<10} as neighbours of {others:,} other images")
    lines += [f"{'':<10} {file}" for file in found["files"]]
    for path in found["unknown"]:
        if path in found["erased_before"]:
            lines.append(f"{'before':<10} {path} was erased already")
            continue
        no_folder = "" if path.endswith("/") else "; of a folder, write a slash at the end"
        lines.append(f"{'unknown':<10} {path}: no row names it{no_folder}")
    lines += [f"{'copy':<10} {path} has the same bytes, and stays" for path in found["copies"]]
    lines += [f"{'source':<10} {path} is still there: delete it" for path in found["in_source"]]
    lines += [f"{'left':<10} {sentence}" for sentence in found["to_make_again"]]
    print_lines(*lines)
