"""Accuracy by source: counted from inventory and predictions, measured once, forgotten with the sources."""

from pathlib import Path

import pyarrow as pa

from orchard.classification.sources import remember_sources
from orchard.features.regrouping import update_groups
from orchard.layout import INVENTORY, PREDICTIONS, Dataset
from orchard.output import Output

ROWS = [("s/1", "train", "studio"), ("s/2", "test", "studio"), ("m/1", "test", "market"), ("m/2", "test", "market")]


def test_each_source_has_its_images_and_its_accuracy(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    inventory = [
        {"path": path, "label": "a", "split": split, "source": source, "featurized": True}
        for path, split, source in ROWS
    ]
    inventory.append({"path": "m/3", "label": "a", "split": "test", "source": "market", "featurized": False})
    said = [
        {"path": path, "label": "a", "split": split, "classifier": name, "predicted": "b" if path == wrong else "a"}
        for name, wrong in (("linear_discriminant", "m/2"), ("random_forest", "s/2"))
        for path, split, _ in ROWS
    ]
    with output.writing():
        output.commit(
            {
                Dataset.INVENTORY: [output.stage(Dataset.INVENTORY, pa.Table.from_pylist(inventory, INVENTORY))],
                Dataset.PREDICTIONS: [output.stage(Dataset.PREDICTIONS, pa.Table.from_pylist(said, PREDICTIONS))],
            },
            properties={"reduction": {"weights": {"studio": 0.3}}, "classification": {"key": "1"}},
        )
        remember_sources(output)
        found = output.recall("sources")["metrics"]
        assert {name: (of["images"], of["rejected"], of["weight"]) for name, of in found.items()} == {
            "market": ({"test": 2}, 1, 1.0),
            "studio": ({"test": 1, "train": 1}, 0, 0.3),
        }
        accuracy = {
            (name, classifier): (figures["accuracy"], figures["test_rows"])
            for name, of in found.items()
            for classifier, figures in of["classifiers"].items()
        }
        assert accuracy == {
            ("market", "linear_discriminant"): (0.5, 2),
            ("market", "random_forest"): (1.0, 2),
            ("studio", "linear_discriminant"): (1.0, 1),
            ("studio", "random_forest"): (0.0, 1),
        }
        low, high = found["market"]["classifiers"]["linear_discriminant"]["accuracy_interval"]
        assert low < 0.5 < high
        before = output.property("sources"), len(list((tmp_path / "out" / "_orchard" / "commits").iterdir()))
        remember_sources(output)
        after = output.property("sources"), len(list((tmp_path / "out" / "_orchard" / "commits").iterdir()))
        assert after == before, "it is measured once"
        alone = pa.table({"path": [row["path"] for row in inventory], "group": pa.nulls(5, pa.string())})
        update_groups(output, alone.append_column("source", pa.nulls(5, pa.string())), None)
        remember_sources(output)
        assert not output.recall("sources")
