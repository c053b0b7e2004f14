"""Accuracy by source: a high accuracy on studio pictures says little about a market."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from orchard.classification.intervals import wilson
from orchard.datasets import stored
from orchard.features.regrouping import source_key
from orchard.images.lookup import PathIndex
from orchard.layout import INVENTORY, Dataset, SourceAccuracy, SourceMetrics
from orchard.output import Output
from orchard.stages import key_of
from orchard.vocabulary import Split


def remember_sources(output: Output) -> None:
    """Measure the classifiers on the test images of each source, if there are several, and commit."""
    sources = source_key(output)
    weights = output.recall("reduction").get("weights", {})
    key = sources and key_of(sources, output.recall("classification").get("key"), weights)
    if output.recall("sources").get("key") == key:
        return
    found = measure_sources(output, weights) if key else None
    output.commit({}, properties={"sources": key and {"key": key, "metrics": found}})


def measure_sources(output: Output, weights: Mapping[str, float]) -> dict[str, SourceMetrics]:
    """Return what there is of each source, and how each classifier does on its test images.

    Args:
        output: with an inventory, and predictions or none; some of these are in memory at a time.
        weights: of the sources that have another one than 1.
    """
    inventory = output.read(Dataset.INVENTORY, ["path", "split", "source", "featurized"], INVENTORY)
    found: dict[str, SourceMetrics] = {}
    counts = inventory.group_by(["source", "split", "featurized"]).aggregate([([], "count_all")])
    for row in counts.sort_by([("source", "ascending"), ("split", "ascending")]).to_pylist():
        name = row["source"] or ""
        of = found.setdefault(name, SourceMetrics(images={}, rejected=0, weight=weights.get(name, 1.0), classifiers={}))
        if row["featurized"]:
            of["images"][row["split"]] = row["count_all"]
        else:
            of["rejected"] += row["count_all"]
    test = inventory.filter(pc.and_(inventory["featurized"], pc.equal(inventory["split"], Split.TEST)))
    for (name, classifier), (right, images) in _counted(output, test).items():
        accuracy = right / images
        found[name]["classifiers"][classifier] = SourceAccuracy(
            test_rows=images, accuracy=accuracy, accuracy_interval=wilson(accuracy, images)
        )
    return found


def _counted(output: Output, test: pa.Table) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the number of right answers and of test images, by source and classifier."""
    right: Counter[tuple[str, str]] = Counter()
    images: Counter[tuple[str, str]] = Counter()
    index, sources = PathIndex(test["path"]), test["source"].combine_chunks()
    for batch in stored(output, Dataset.PREDICTIONS, ["path", "label", "split", "classifier", "predicted"]):
        rows = batch.filter(pc.equal(batch["split"], Split.TEST))
        places = index.places(rows["path"])
        table = pa.table(
            {
                "source": pc.fill_null(sources.take(pa.array(places, mask=places < 0)), ""),
                "classifier": rows["classifier"],
                "right": pc.equal(rows["label"], rows["predicted"]),
            }
        )
        summed = table.group_by(["source", "classifier"]).aggregate([("right", "count"), ("right", "sum")])
        for row in summed.to_pylist():
            images[row["source"], row["classifier"]] += row["right_count"]
            right[row["source"], row["classifier"]] += row["right_sum"]
    return {key: (right[key], count) for key, count in sorted(images.items())}
