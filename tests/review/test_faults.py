"""Which images are at fault, in which order, and what a spreadsheet sees of them."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa

from orchard.datasets import list_column
from orchard.images.lookup import PathIndex
from orchard.layout import FEATURES, INVENTORY, NEIGHBOURS, SUSPECT_LIST, SUSPECTS, Dataset, Fault, ReviewMetrics
from orchard.output import Output
from orchard.reduction.pca import Reduction
from orchard.reduction.statistics import Sums
from orchard.review.clusters import PAIRS, clusters, near_pairs
from orchard.review.data import describe
from orchard.review.faults import (
    as_csv,
    from_csv,
    outliers,
    poor_pictures,
    rank,
    same_images,
    summary,
    twins_of_other_labels,
    wrong_labels,
)
from orchard.review.judging import DOUBTED, STRANGE, Judge, Judged
from orchard.review.leave_one_out import LeaveOneOut
from orchard.review.stage import run as review
from orchard.spark.session import Session


def images(**columns: Sequence[object]) -> pa.Table:
    n = len(next(iter(columns.values())))
    base = {"path": [f"{i}.jpg" for i in range(n)], "label": ["Lemon"] * n, "split": ["train"] * n}
    return pa.table(base | columns)


def test_the_same_bytes_under_two_labels_are_found_with_each_other() -> None:
    table = images(label=["Lemon", "Lime", "Lemon", "Lime", None], digest=["a", "a", "b", "b", "b"])
    table = table.append_column("more", table["path"])
    found = same_images(pa.concat_tables([table, images(label=["Fig"], digest=["c"]).append_column("more", [["x"]])]))
    assert found["path"].to_pylist() == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert found["like"].to_pylist() == ["1.jpg", "0.jpg", "3.jpg", "2.jpg"]


def test_suspect_labels_have_the_confidence_in_the_other_label_as_score() -> None:
    rows = [
        {"path": path, "label": "Lemon", "split": "train", "suggested": "Lime", "margin": margin}
        for path, margin in (("surer", -5.0), ("sure", -2.5))
    ]
    found = wrong_labels(Judged(pa.Table.from_pylist(rows, DOUBTED), STRANGE.empty_table(), 2))
    assert found.select(["path", "suggested", "fault"]).to_pylist() == [
        {"path": "surer", "suggested": "Lime", "fault": "label"},
        {"path": "sure", "suggested": "Lime", "fault": "label"},
    ]
    assert found["score"].to_pylist() == [np.float32(1 / (1 + np.exp(margin))) for margin in (-5, -2.5)]


def test_near_twins_of_another_label_are_found_and_clusters_counted() -> None:
    table = images(label=["Lemon", "Lemon", "Lime", "Fig", None, "Fig", "Fig"])
    pairs = [(0, 1, 0.99), (0, 2, 0.98), (1, 0, 0.99), (2, 0, 0.98), (3, 4, 0.97), (6, 5, 0.97)]
    linked = pa.table([list(column) for column in zip(*pairs, strict=True)], schema=PAIRS)
    found = twins_of_other_labels(table, linked)
    assert found.select(["path", "like"]).to_pylist() == [
        {"path": "0.jpg", "like": "2.jpg"},
        {"path": "2.jpg", "like": "0.jpg"},
    ]
    assert clusters(table["path"], linked) == {
        "clusters": 3,
        "images": 7,
        "largest": [["0.jpg", "1.jpg", "2.jpg"], ["3.jpg", "4.jpg"], ["5.jpg", "6.jpg"]],
    }
    assert clusters(table["path"], PAIRS.empty_table())["clusters"] == 0


def test_pairs_are_those_of_the_neighbours_that_are_near_enough(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    rows = [
        {"path": "a", "neighbours": ["b", "c", "d"], "similarities": [0.99, 0.96, 0.5]},
        {"path": "b", "neighbours": [], "similarities": []},
        {"path": "c", "neighbours": ["a"], "similarities": [0.94]},
    ]
    with output.writing():
        staged = [output.stage(Dataset.NEIGHBOURS, pa.Table.from_pylist(rows[i:], NEIGHBOURS)) for i in (0, 3)]
        output.commit({Dataset.NEIGHBOURS: staged})
    images = PathIndex(pa.array(["d", "c", "b", "a"]))
    found = near_pairs(output, images, 0.95)
    assert found.select(["image", "like"]).to_pylist() == [{"image": 3, "like": 2}, {"image": 3, "like": 1}]
    assert found.nbytes < 20 * found.num_rows  # and no paths


def test_the_order_in_which_tasks_ended_does_not_matter(tmp_path: Path) -> None:
    pairs = [(f"{i:02}a", f"{i:02}b") for i in range(12)]
    twins = {**dict(pairs), **{b: a for a, b in pairs}}
    inventory = [{"path": path, "label": path[-1], "split": "train", "featurized": True} for path in twins]
    tables = {
        Dataset.INVENTORY: pa.Table.from_pylist(inventory, INVENTORY),
        Dataset.FEATURES: pa.Table.from_pylist([{"path": path, "width": 9, "height": 9} for path in twins], FEATURES),
        Dataset.NEIGHBOURS: pa.Table.from_pylist(
            [{"path": path, "neighbours": [twin], "similarities": [1.0]} for path, twin in twins.items()], NEIGHBOURS
        ),
    }
    found: list[tuple[ReviewMetrics, bytes]] = []
    for order in (np.arange(24), np.random.default_rng(0).permutation(24)):
        output = Output(str(tmp_path / str(len(found))))
        with output.writing():
            staged = {dataset: [output.stage(dataset, table.take(order))] for dataset, table in tables.items()}
            output.commit(staged, properties={"neighbours": {"metrics": {"threshold": 0.99}}})
            metrics = review(cast(Session, None), output, key="", temperature=1.0)
        found.append((metrics, output.storage.read(SUSPECT_LIST)))
    assert found[0] == found[1]
    assert found[0][0]["clusters"]["largest"] == [list(pair) for pair in pairs[:10]]


def test_a_long_chain_of_twins_is_one_cluster() -> None:
    order = np.random.default_rng(0).permutation(3000)
    links = pa.table([order[:-1], order[1:], np.ones(2999, np.float32)], PAIRS.names).cast(PAIRS)
    found = clusters(pa.chunked_array([[f"{i}" for i in range(3000)]]), links)
    assert (found["clusters"], found["images"]) == (1, 3000)


def test_a_stranger_is_an_outlier_and_no_wrong_label() -> None:
    rng = np.random.default_rng(0)
    d, names = 400, ["a", "b", "c"]
    centres = 4 * rng.normal(size=(3, d)).astype(np.float32)
    labels = np.repeat(np.arange(3), 100)
    rows = centres[labels] + rng.normal(size=(300, d)).astype(np.float32)
    labels[0] = 1  # it is an a
    rows[1] = rows.mean(axis=0) + 20 * rng.normal(size=d)
    table = images(path=[f"{i}" for i in range(300)], label=[names[i] for i in labels])
    sums = Sums.of(rows, {"label": table["label"].to_pylist()})
    model = LeaveOneOut.fit(sums.labelled, sums.columns["label"], Reduction.fit(sums.moments, components=2))
    batch = table.append_column("features", list_column(rows)).combine_chunks().to_batches()[0]
    found = Judge(model, names, 1.0)(batch).merge(Judged.none())
    assert outliers(found).select(["path", "fault"]).to_pylist() == [{"path": "1", "fault": "outlier"}]
    wrong = wrong_labels(found)
    assert wrong.select(["path", "suggested"]).to_pylist() == [{"path": "0", "suggested": "a"}]
    assert found.images == 300


def test_blurred_and_dark_are_told_from_the_other_images_of_the_label() -> None:
    rng = np.random.default_rng(0)
    smooth, rough = rng.uniform(18, 22, 50), rng.uniform(900, 1100, 50)  # a tomato is no blurred pineapple
    sharpness = [*smooth, *rough, 30.0, None, 0.2]
    brightness = [*[0.5, 0.6] * 50, 0.5, None, 0.01]
    labels = ["Tomato"] * 50 + ["Pineapple"] * 51 + ["Tomato"] * 2
    found = poor_pictures(images(label=labels, sharpness=sharpness, brightness=brightness))
    assert found.select(["path", "fault"]).to_pylist() == [
        {"path": "100.jpg", "fault": "blurred"},
        {"path": "102.jpg", "fault": "blurred"},
        {"path": "102.jpg", "fault": "dark"},
    ]
    nothing = images(sharpness=pa.nulls(3, pa.float32()), brightness=pa.nulls(3, pa.float32()))
    assert poor_pictures(nothing).num_rows == 0


def test_every_image_is_listed_once_grave_faults_and_high_scores_first() -> None:
    columns = {"label": ["Lemon"] * 5, "split": ["train"] * 5, "suggested": [None, "Lime", None, "Fig", None]}
    faults = pa.table(
        {
            "path": ["a", "b", "a", "c", "d"],
            **columns,
            "fault": ["dark", "label", "same_image", "label", "dark"],
            "score": pa.array([0.9, 0.7, 1.0, 0.8, 0.95], pa.float32()),
            "like": [None, None, "z", None, None],
        }
    ).cast(same_images(images(label=["a"], digest=["a"])).schema)
    suspects = rank(faults)
    assert suspects.schema == SUSPECTS
    listed = [(row["path"], row["fault"], row["also"], row["like"]) for row in suspects.to_pylist()]
    assert listed == [
        ("a", "same_image", "dark", "z"),
        ("c", "label", None, None),
        ("b", "label", None, None),
        ("d", "dark", None, None),
    ]
    found = summary(faults, suspects, 7)
    assert found["faults"] == {Fault.SAME_IMAGE: 1, Fault.LABEL: 2, Fault.DARK: 2}
    assert (found["images"], found["judged"], len(found["first"])) == (4, 7, 4)


def test_names_that_would_be_formulas_are_text_in_a_spreadsheet() -> None:
    rows = [{"path": "=1+1.jpg", "label": '@Lemon, "big"', "suggested": "-Lime", "fault": "label", "score": 0.5}]
    (row,) = csv.DictReader(io.StringIO(as_csv(pa.Table.from_pylist(rows, SUSPECTS)).decode()))
    assert list(row) == SUSPECTS.names
    assert (row["path"], row["label"], row["suggested"]) == ("'=1+1.jpg", '\'@Lemon, "big"', "'-Lime")
    assert (row["score"], row["corrected"], row["drop"]) == ("0.5000", "", "")
    assert from_csv(as_csv(pa.Table.from_pylist(rows, SUSPECTS))) == pa.Table.from_pylist(rows, SUSPECTS)


def test_what_the_data_is_is_counted() -> None:
    table = pa.table({"label": ["a", "a", "b", None], "format": ["PNG", "JPEG", "JPEG", None]})
    sizes = pa.table({"width": [100, 64, 10, 1], "height": [100, 32, 20, 1]})
    assert describe(table, sizes) == {
        "formats": {"JPEG": 2, "PNG": 1},
        "shapes": {"landscape": 1, "portrait": 1, "square": 2},
        "pixels": {"1": 1, "128": 1, "2048": 1, "8192": 1},
        "smallest": [1, 1],
        "largest": [100, 100],
        "labels": 2,
        "images_a_label": {"fewest": 1, "median": 1.5, "most": 2},
    }
