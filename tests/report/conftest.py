"""A run's output with drawn images, real Parquet and the metrics that belong to them."""

import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from orchard import layout
from orchard.classification.metrics import evaluate
from orchard.features.artifact import Artifact, EngineName, Precision
from orchard.features.engines import import_openvino
from orchard.inference.model import Model
from orchard.layout import Baseline, ClassifierMetrics, Dataset, Metrics, Run
from orchard.output import Output


def picture(label: int, number: int) -> bytes:
    """A JPEG of a coloured disc: its hue tells the label."""
    image = Image.new("RGB", (100, 80), "white")
    hue = f"hsl({label * 67 % 360}, 70%, 45%)"
    ImageDraw.Draw(image).ellipse((10 + number % 7, 6, 80 + number % 7, 74), fill=hue)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def classifier(labels: Sequence[str], matrix: Sequence[Sequence[int]] | np.ndarray) -> ClassifierMetrics:
    """The metrics that follow from a confusion matrix."""
    table = np.asarray(matrix)
    rows, columns = np.nonzero(table)
    true, predicted = ([labels[index] for index in indices.tolist()] for indices in (rows, columns))
    counts = table[rows, columns].tolist()
    return evaluate(true, predicted, counts=counts, train_rows=4 * int(table.sum()), seconds=1.25)


def kind_of(label: int) -> str:
    """The kind of a label, by its number: two labels are of one kind."""
    return f"Kind {label // 2}"


def by_kind(matrix: np.ndarray) -> ClassifierMetrics:
    """The metrics of kinds that follow from a confusion matrix of labels."""
    kinds = [kind_of(i) for i in range(0, len(matrix), 2)]
    folded = np.zeros((len(kinds), len(kinds)), int)
    np.add.at(folded, tuple(index // 2 for index in np.indices(matrix.shape)), matrix)
    return classifier(kinds, folded)


def metrics_of(labels: Sequence[str], per_label: int = 10, n_classifiers: int = 2) -> Metrics:
    """Metrics of a run with everything in it; each class is taken for the next one now and then."""
    n = len(labels)
    matrix = np.diag([per_label] * n) + np.roll(np.diag(range(n)), 1, axis=1) * (n > 1)
    names = ["logistic_regression", "random_forest", *(f"another_{i}" for i in range(n_classifiers))] if n else []
    classifiers: dict[str, ClassifierMetrics] = {
        name: {**classifier(labels, matrix + i), "by_kind": by_kind(matrix + i)}
        for i, name in enumerate(names[:n_classifiers])
    }
    featurized = n * per_label * 5
    ratios = (0.5 ** np.arange(1, 41)).tolist()
    baseline = Baseline(label=labels[0] if labels else "", accuracy=0.1)
    return {
        "images": {
            "listed": featurized + 2,
            "featurized": featurized,
            "rejected": 2,
            "ignored": 1,
            "decoded": featurized,
            "rejected_by_reason": {"empty": 1, "truncated": 1},
        },
        "labels": {label: {"train": per_label * 4, "test": per_label} for label in labels},
        "pca": {
            "k": 5,
            "explained_variance": float(sum(ratios[:5])),
            "explained_variance_ratio": ratios,
            "n_features": 40,
            "zero_variance_features": 1,
            "train_rows": featurized,
        },
        "baseline": baseline,
        "classifiers": classifiers,
        "selection": {
            "split": "train",
            "rows": 321,
            "trials": {
                name: {"accuracy": 0.8 - i / 10, "log_loss": 0.5 + i} for i, name in enumerate(names[:n_classifiers])
            },
            "chosen": names[0] if names else "",
            "why": "Logistic regression answers: it is the best on the images held out.",
        },
        "calibration": {
            "split": "train",
            "rows": 321,
            "temperature": 1.7,
            "threshold": 0.83,
            "familiarity_threshold": 0.3,
            "sure_at": 0.99,
            "test_rows": 200,
            "error_before": 0.071,
            "error_after": 0.013,
            "reliability_before": [{"confidence": 0.9, "accuracy": 0.8, "images": 1.0}],
            "reliability_after": [{"confidence": 0.8, "accuracy": 0.8, "images": 1.0}],
            "accuracy": 0.8,
            "accuracy_sure": 0.991,
            "share_sure": 0.62,
            "share_unknown": 0.05,
            "familiarity": [0] * 10 + [4] * 20 + [6] * 20,
            "coverage": [
                {"confidence": 0.99, "answered": 0.5, "images": 100, "right": 100},
                {"confidence": 0.83, "answered": 0.62, "images": 124, "right": 123},
                {"confidence": 0.4, "answered": 0.95, "images": 190, "right": 156},
            ],
        },
        "unknown": {
            "source": "/data/others",
            "images": 50,
            "rejected": 1,
            "sure": 1,
            "not_sure": 4,
            "unknown": 45,
            "familiarity": [5] * 10 + [0] * 40,
            "auroc": 0.975,
        },
        "sources": {
            "/data/studio <b>": {
                "images": {"train": 40, "test": 12},
                "rejected": 1,
                "weight": 0.3,
                "classifiers": {
                    name: {"test_rows": 12, "accuracy": 0.75, "accuracy_interval": (0.468, 0.911)}
                    for name in classifiers
                },
            },
            "s3a://market/photos": {"images": {"train": 5}, "rejected": 0, "weight": 1.0, "classifiers": {}},
        },
        "columns": {
            "ripeness_by_eye": {
                "values": {"raw": {"train": 20, "test": 10}, "ripe": {"train": 30, "test": 10}, "": {"train": 7}},
                "held_out": 60,
                "temperature": 1.2,
                "threshold": 0.91,
                "baseline": Baseline(label="ripe", accuracy=0.5),
                "test": classifier(["raw", "ripe"], [[7, 3], [0, 10]]),
            },
            "variety": {"values": {"Gala": {"train": 9, "test": 3}, "": {"train": 48, "test": 17}}},
        },
        "cards": {"cards": 3, "languages": ["de", "en"], "labels_without": list(labels[:1])},
        "grouping": {
            "by": "frames",
            "source": "frames",
            "groups": 12,
            "ungrouped": 1,
            "examples": [
                {"name": f"Apple/r0_#/{i:06d} from {i}", "images": 27, "paths": [f"/data/some fruits/Apple/r0_{i}.jpg"]}
                for i in (0, 27)
            ],
        },
        "neighbours": {
            "exact": True,
            "recall": None,
            "train_rows": 4 * n * per_label,
            "test_rows": n * per_label,
            "threshold": 0.95,
            "near_twins": n * per_label // 2,
            "near_other_labels": 1,
            "test": {"low": 0.0, "high": 1.0, "images": [0] * 80 + [n * per_label // 20] * 20},
            "other_labels": {"low": 0.0, "high": 1.0, "images": [0] * 70 + [4 * n * per_label // 20] * 20 + [0] * 10},
        },
        "without_near_twins": {
            name: {
                "test_rows": 40,
                "accuracy": 0.7,
                "accuracy_interval": (0.5457, 0.8193),
                "test_rows_near": 40,
                "accuracy_near": 1.0,
                "accuracy_near_interval": (0.912, 1.0),
            }
            for name in classifiers
        },
        "leak": {"test_rows": n * per_label, "test_rows_with_twin_in_train": 1, "duplicate_rows": 2},
        "group_split": {
            "groups": 12,
            "train_rows": 80,
            "test_rows": 20,
            "k": 5,
            "baseline": baseline,
            "classifiers": {name: {**one, "accuracy": 0.5} for name, one in classifiers.items()},
        },
        "headline": {
            "measure": "groups",
            "classifier": "logistic_regression",
            "accuracy": 0.5,
            "accuracy_interval": (0.39, 0.61),
            "test_rows": 20,
        },
        "warnings": ["Something to look at."],
        "seconds": {"list": 0.5, "extract": 20.0, "reduce": 3.0, "classify": 6.5, "report": 1.0, "total": 31.0},
        "images_per_second": 123.4,
    }


def a_run() -> Run:
    """A ``run.json``."""
    return {
        "run_id": "20260102T030405-abcdef",
        "started": "2026-01-02T03:04:05+00:00",
        "finished": "2026-01-02T03:05:05+00:00",
        "source": "/data/some fruits",
        "output": "/data/out",
        "settings": {
            "seed": 42,
            "variance": 0.9,
            "max_rejected": 0.1,
            "classifiers": ["random_forest"],
            "fresh": True,
            "limit": None,
            "spark_conf": {"spark.executor.memory": "4g", "spark.hadoop.fs.s3a.secret.key": "hunter2"},
        },
        "backbone": {"name": "EfficientNetLite0", "n_features": 1280, "precision": "float32"},
        "fitting": None,
        "versions": {"orchard": "0.1.0", "pyspark": "4.3.0"},
        "machine": {"cores": 2, "memory_bytes": 2 * 2**30},
        "usage": {},
        "plan": {
            "images": 200,
            "measured_on": 128,
            "stages": [
                {
                    "stage": "list",
                    "seconds": None,
                    "low": None,
                    "high": None,
                    "core_seconds": None,
                    "after": "",
                    "took": 0.5,
                },
                {
                    "stage": "extract",
                    "seconds": 17.25,
                    "low": 13.8,
                    "high": 22.4,
                    "core_seconds": 34.5,
                    "after": "some of the images",
                    "took": 20.0,
                },
                {
                    "stage": "classify",
                    "seconds": 77.0,
                    "low": 40.0,
                    "high": 150.0,
                    "core_seconds": 154.0,
                    "after": "sums of this kind",
                    "took": 99.0,
                },
            ],
            "sizes": {"worker_memory": 300 * 2**20, "driver_python": 2**30, "driver_jvm": 2**30, "disk": 2**24},
            "took": {"worker_memory": 312 * 2**20, "driver_python": 2**29, "disk": 2**23},
            "core_hours": 0.0123,
            "took_core_hours": 0.0234,
        },
        "sharing": {
            "tasks": 9,
            "images": 200,
            "workers": 2,
            "worker_memory_bytes": 312 * 2**20,
            "median_task_seconds": 1.5,
            "by_executor": [
                {
                    "executor": "spark-<b>1</b>",
                    "workers": 2,
                    "tasks": 9,
                    "images": 200,
                    "seconds": 18.0,
                    "slowest_seconds": 4.5,
                }
            ],
            "by_worker": [
                {
                    "executor": "spark-<b>1</b>",
                    "worker": 1,
                    "tasks": 5,
                    "images": 120,
                    "seconds": 10.0,
                    "slowest_seconds": 4.5,
                },
                {
                    "executor": "spark-<b>1</b>",
                    "worker": 2,
                    "tasks": 4,
                    "images": 80,
                    "seconds": 8.0,
                    "slowest_seconds": 2.5,
                },
            ],
            "slowest": [{"executor": "spark-<b>1</b>", "worker": 1, "images": 32, "seconds": 4.5, "after": 1.25}],
            "bin_seconds": 0.25,
            "at_work": [2.0] * 50 + [0.5] * 10,
        },
    }


ReadImage = Callable[[str], bytes]


def write_output(folder: Path, labels: Sequence[str], per_label: int = 6, n_components: int = 5) -> ReadImage:
    """Commit reduced, predictions and rejected rows of the labels; returns what reads their images."""
    images: dict[str, bytes] = {}
    reduced, predictions, neighbours = [], [], []
    random = np.random.default_rng(0)
    for i, label in enumerate(labels):
        for j in range(per_label):
            split = "test" if j % 3 == 0 else "train"
            path = f"{split}/{label}/{j}.jpg"
            images[path] = picture(i, j)
            image = {"path": path, "label": label, "split": split}
            reduced.append(image | {"pca_features": (random.normal(size=n_components) + i).tolist()})
            predicted = labels[(i + 1) % len(labels)] if j == 0 else label
            for name, said in (
                ("logistic_regression", {"familiarity": 0.42, "answer": "not_sure"}),
                ("random_forest", {}),
            ):
                kinds = {"kind": kind_of(i), "predicted_kind": kind_of((i + (j == 0)) % len(labels))}
                answer = {"classifier": name, "predicted": predicted, "confidence": 0.5 + i / (2 * len(labels))}
                predictions.append(image | kinds | answer | said)
            near = [f"train/{label}/{j % 3 + 1}.jpg", f"train/{labels[0]}/1.jpg"]
            neighbours.append({"path": path, "neighbours": near, "similarities": [0.91, 0.75]})
    rejected = [
        {"path": "a/empty.jpg", "reason": "empty", "detail": "no bytes"},
        {"path": "a/cut <b>.jpg", "reason": "truncated", "detail": "12 bytes short"},
    ]
    output = Output(str(folder))
    with output.writing():
        half = len(reduced) // 2
        staged = {
            Dataset.REDUCED: [
                output.stage(Dataset.REDUCED, pa.Table.from_pylist(rows, layout.REDUCED))
                for rows in (reduced[:half], reduced[half:])
            ],
            Dataset.NEIGHBOURS: [output.stage(Dataset.NEIGHBOURS, pa.Table.from_pylist(neighbours, layout.NEIGHBOURS))],
            Dataset.PREDICTIONS: [
                output.stage(Dataset.PREDICTIONS, pa.Table.from_pylist(predictions, layout.PREDICTIONS))
            ],
            Dataset.REJECTED: [output.stage(Dataset.REJECTED, pa.Table.from_pylist(rejected, layout.REJECTED))],
        }
        output.commit(staged)
    return images.__getitem__


def a_model(labels: Sequence[str]) -> Model:
    """A model to which all labels but the first look dark: its network averages 4 x 4 cells of what white lacks."""
    openvino = import_openvino()
    from openvino import opset13 as opset

    pixels = opset.parameter([8, 32, 32, 3], openvino.Type.f32)
    planes = opset.transpose(opset.subtract(np.float32(255), pixels), np.array([0, 3, 1, 2]))
    cells = opset.avg_pool(planes, [8, 8], [0, 0], [0, 0], [8, 8], True)
    graph = openvino.Model([opset.reduce_mean(cells, np.array([2, 3]), False)], [pixels])
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(graph, f"{folder}/model.xml", compress_to_fp16=False)
        topology, parameters = (Path(folder, f"model.{suffix}").read_bytes() for suffix in ("xml", "bin"))
    artifact = Artifact(
        *("tiny", 1.0, 32, 3, EngineName.OPENVINO, Precision.FLOAT32, "none", "0" * 32),
        topology=topology,
        parameters=parameters,
    )
    weights = np.ones((len(labels), 3), np.float32)
    weights[0] = 0
    bias = np.zeros(len(labels), np.float32)
    return Model(artifact, tuple(labels), weights, bias, classifier="logistic_regression")


@pytest.fixture
def labels() -> list[str]:
    return ["Apple", "Cherry", "Lemon", "Mango"]


# Test modules cannot import this one (import mode importlib), so its functions come as fixtures.


@pytest.fixture(scope="session", name="classifier")
def _classifier() -> Callable[..., ClassifierMetrics]:
    return classifier


@pytest.fixture(scope="session", name="metrics_of")
def _metrics_of() -> Callable[..., Metrics]:
    return metrics_of


@pytest.fixture(scope="session", name="a_run")
def _a_run() -> Callable[[], Run]:
    return a_run


@pytest.fixture(scope="session", name="write_output")
def _write_output() -> Callable[..., ReadImage]:
    return write_output


@pytest.fixture(scope="session", name="a_model")
def _a_model() -> Callable[[Sequence[str]], Model]:
    return a_model
