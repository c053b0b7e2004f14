"""The results of a run, for ``metrics.json`` and ``run.json``: counted from the output, and reported by its stages."""

import json
import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from orchard.classification.leak import conflict_warnings, label_conflicts
from orchard.features.backbones import find
from orchard.headline import headline
from orchard.images.rejections import commonest_kinds
from orchard.layout import INVENTORY, REJECTED, Dataset, Fitting, ImageCounts, Metrics, Planned, Run, Selection, Usage
from orchard.machine import available_cores
from orchard.output import Output
from orchard.redaction import without_secrets
from orchard.settings import Settings
from orchard.version import VERSION

VERSIONED = (
    "pyspark",
    "openvino",
    "nncf",
    "keras",
    "tensorflow-cpu",
    "tensorflow",
    "pillow",
    "pyarrow",
    "numpy",
    "scikit-learn",
    "scipy",
)


def metrics(output: Output, *, decoded: int, seconds: dict[str, float]) -> Metrics:
    """Return the content of ``metrics.json``: counts of the output, and its measurements.

    Args:
        output: the output.
        decoded: number of images that this run decoded.
        seconds: seconds of each stage in the run that did it last, and the total of this run.
    """
    rejections = output.read(Dataset.REJECTED, ["reason", "detail"], REJECTED)
    rejected = _by_reason(rejections)
    featurized = output.rows(Dataset.FEATURES)
    reduction, classification = output.recall("reduction"), output.recall("classification")
    found: dict[str, Any] = {
        "images": ImageCounts(
            listed=output.recall("listing").get("listed", featurized + sum(rejected.values())),
            featurized=featurized,
            rejected=sum(rejected.values()),
            ignored=output.recall("listing").get("ignored", 0),
            decoded=decoded,
            rejected_by_reason=rejected,
            rejected_kinds=commonest_kinds(rejections),
        ),
        "labels": _by_name(output, "label"),
    }
    found |= {"model": output.model_folder} if output.model_folder else {}
    if (kinds := _by_name(output, "kind")).keys() - {""}:
        found["kinds"] = kinds
    if "metrics" in reduction:
        found["pca"] = reduction["metrics"]
    found |= {name: one["metrics"] for name in ("sources",) if (one := output.recall(name))}
    found |= {
        name: classification[name]
        for name in ("baseline", "classifiers", "selection", "calibration", "leak", "group_split", "columns")
        if classification.get(name) not in (None, {})
    }
    cards = output.recall("cards")
    if cards:
        found["cards"] = cards["metrics"]
    if unknown := output.recall("unknown").get("metrics"):
        found["unknown"] = unknown
    if grouping := output.property("grouping"):
        found["grouping"] = grouping
    if "metrics" in (near := output.recall("neighbours")):
        found["neighbours"] = near["metrics"]
        if apart := output.recall("apart").get("classifiers"):
            found["without_near_twins"] = apart
    if best := headline(cast(Metrics, found)):
        found["headline"] = best
    conflicts = label_conflicts(_featurized(output, ["path", "label", "digest"]))
    if conflicts["images"]:
        found["conflicts"] = conflicts
    review = output.recall("review")
    if review:
        found |= {"review": review["metrics"], "data": review["data"]}
    tuning = output.recall("tuning")
    if tuning:
        found["tuning"] = tuning["metrics"] | ({"before": tuning["before"]} if tuning.get("before") else {})
    if corrections := output.recall("listing").get("corrections"):
        found["corrections"] = corrections
    found["warnings"] = [
        *output.recall("listing").get("warnings", []),
        *conflict_warnings(conflicts),
        *reduction.get("warnings", []),
        *classification.get("warnings", []),
        *cards.get("warnings", []),
    ]
    found["seconds"] = seconds
    found["images_per_second"] = output.recall("extraction").get("images_per_second", 0.0)
    return cast(Metrics, found)


def run(
    output: Output,
    settings: Settings,
    *,
    started: datetime,
    usage: dict[str, Usage],
    planned: Planned | None = None,
) -> Run:
    """Return the content of ``run.json``: settings, versions and machine of the run; without secrets.

    Args:
        output: the output.
        settings: the run's settings.
        started: time of its start.
        usage: usage of its stages.
        planned: its plan; None: the plan of the run that extracted last, if there is one.
    """
    identity = output.recall("identity")
    backbone = find(identity.get("backbone", settings.backbone)).with_input_size(identity.get("input_size"))
    selection = output.recall("classification").get("selection")
    found = Run(
        run_id=output.run_id,
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        source=output.recall("listing").get("source", ""),
        output=output.url,
        settings=settings.recorded(),
        backbone=identity | {"name": backbone.name, "input_size": backbone.input_size, "top1": backbone.top1},
        fitting=_fitting(output, selection) if selection else None,
        versions=_versions(),
        machine={
            "cores": available_cores(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "cpu": _cpu(),
            "spark_master": output.recall("extraction").get("master", ""),
        },
        usage=usage,
    )
    if planned := planned or output.recall("plan").get("planned"):
        found["plan"] = planned
    if sharing := output.recall("extraction").get("sharing"):
        found["sharing"] = sharing
    if sources := output.recall("listing").get("sources"):
        found["sources"] = sources
    return cast(Run, without_secrets(found))


def _fitting(output: Output, selection: Selection) -> Fitting:
    return Fitting(
        held_out=f"images of {selection['split']}",
        held_out_rows=selection["rows"],
        fitted_again_on=output.recall("reduction").get("metrics", {}).get("train_rows", 0),
        answers=selection["chosen"],
        why=selection["why"],
    )


def as_json(found: Mapping[str, object]) -> bytes:
    """Return a file's content."""
    return json.dumps(found, ensure_ascii=False, indent=2).encode() + b"\n"


def _by_reason(rejections: pa.Table) -> dict[str, int]:
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(rejections["reason"]).to_pylist()}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _featurized(output: Output, columns: list[str]) -> pa.Table:
    table = output.read(Dataset.INVENTORY, [*columns, "featurized"], INVENTORY)
    return table.filter(table["featurized"])


def _by_name(output: Output, name: str) -> dict[str, dict[str, int]]:
    """Return featurized images by one of `NAMES` and split; images without such a name count under the empty one."""
    table = _featurized(output, [name, "split"])
    counts: dict[str, dict[str, int]] = {}
    for row in table.group_by([name, "split"]).aggregate([([], "count_all")]).sort_by(name).to_pylist():
        counts.setdefault(row[name] or "", {})[row["split"]] = row["count_all"]
    return counts


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "orchard": VERSION}
    for package in VERSIONED:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # of TensorFlow's two distributions one is there
            continue
    return versions


def _cpu() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor()
