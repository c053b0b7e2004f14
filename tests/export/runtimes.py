"""What the tests of exported files share: the runtimes that answer, and what they are asked about."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from orchard.export.formats import Format, Precision
from orchard.features.engines import import_openvino

Exporter = Callable[[Format, Precision], Path]


@dataclass(frozen=True)
class Photographs:
    """Test photographs with what the pipeline answered."""

    pixels: NDArray[np.uint8]
    """(n, 100, 100, 3)"""
    label: list[str]
    predicted: list[str]
    confidence: NDArray[np.float32]


def run_openvino(file: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    compiled = import_openvino().Core().compile_model(str(file), "CPU", settings)
    return lambda images: np.array(compiled([images])[0])


def run_onnx(file: Path | bytes) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    onnxruntime: Any = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    content = file if isinstance(file, bytes) else str(file)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"image": images})[0]


def run_tensorflow(files: Sequence[Path], photographs: Photographs, folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return each file's probabilities by its name, computed where Orchard cannot be imported."""
    np.save(folder / "images.npy", photographs.pixels)
    script = Path(__file__).with_name("without_orchard.py")
    command = [sys.executable, script, folder / "images.npy", folder / "answers.npz", *files]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "answers.npz") as answers:
        return dict(answers)
