"""What the tests of exported files share: the runtimes that answer, and what they are asked about."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from orchard.exports.formats import Format, StoredPrecision
from orchard.features.engines import openvino_core

Exporter = Callable[[Format, StoredPrecision], Path]


class Answers(NamedTuple):
    """What a file says of n photographs."""

    probabilities: NDArray[np.float32]
    """(n, n_classes)"""
    familiarity: NDArray[np.float32]
    """(n,)"""
    colour_probabilities: NDArray[np.float32]
    """(n, n_values) of a further label column."""


Run = Callable[[NDArray[np.uint8]], Answers]


@dataclass(frozen=True)
class Photographs:
    """Test photographs with what the pipeline answered."""

    pixels: NDArray[np.uint8]
    """(n, 100, 100, 3)"""
    label: list[str]
    predicted: list[str]
    confidence: NDArray[np.float32]
    familiarity: NDArray[np.float32]
    colour: list[str]
    """Predicted."""


def run_openvino(file: Path) -> Run:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    compiled = openvino_core().compile_model(str(file), "CPU", settings)

    def run(images: NDArray[np.uint8]) -> Answers:
        found = compiled([images])
        return Answers(*(np.array(found[name]) for name in Answers._fields))

    return run


def run_onnx(file: Path | bytes) -> Run:
    onnxruntime: Any = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    content = file if isinstance(file, bytes) else str(file)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: Answers(*session.run(Answers._fields, {"image": images}))


def run_tensorflow(files: Sequence[Path], photographs: Photographs, folder: Path) -> dict[str, Answers]:
    """Return each file's answers by its name, computed where Orchard cannot be imported."""
    np.save(folder / "images.npy", photographs.pixels)
    script = Path(__file__).with_name("without_orchard.py")
    command: list[str | Path] = [sys.executable, script, folder / "images.npy", folder / "answers.npz", *files]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "answers.npz") as answers:
        return {file.name: Answers(*(answers[f"{file.name}/{name}"] for name in Answers._fields)) for file in files}
