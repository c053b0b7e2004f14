"""The exported files against the pipeline: sizes, parity, accuracy, and time for one image on one thread.

    python benchmarks/export.py OUT --images ../shared/fruits/Test --json export.json

OUT holds a model; ``--images`` photographs in folders named after its labels, which it has not seen. The reference is
`orchard.inference.predictor.Predictor` with the network in float32. Times are of the processor (user and system), so
that whoever else uses the machine counts little; reading and decoding are not in them. A batch of Keras' holds 32.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from measuring import MB, report, save
from orchard.errors import UsageError
from orchard.exports.formats import INPUT, Format, Precision, check
from orchard.exports.writing import export
from orchard.features.artifact import Precision as Computing
from orchard.features.engines import import_openvino
from orchard.images.decoding import Decoded
from orchard.inference.model import Model
from orchard.inference.predictor import Predictor

Images = Sequence[NDArray[np.uint8]]
Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From (n, height, width, 3) to probabilities (n, n_classes)."""
KERAS_BATCH = 32


@dataclass(frozen=True)
class Row:
    """One file, or the pipeline itself."""

    name: str
    bytes: int
    same_top1: float  # share of the images
    greatest_difference: float  # of the likeliest label's probability
    mean_difference: float
    accuracy: float
    ms_per_image: float


def main() -> int:
    """Export, run, print."""
    arguments = _arguments()
    model = Model.load(arguments.output)
    reference = replace(model, artifact=replace(model.artifact, precision=Computing.FLOAT32))
    predictor = Predictor(reference, batch_size=1)
    images, labels = _images(arguments.images, predictor, model.labels)
    truth = np.array([model.labels.index(label) for label in labels])
    expected, milliseconds = _timed(_one_by_one(predictor), images)
    rows = [_row("pipeline, float32", 0, expected, expected, truth, milliseconds)]
    if model.artifact.precision is not Computing.FLOAT32:
        found, milliseconds = _timed(_one_by_one(Predictor(model, batch_size=1)), images)
        rows.append(_row(f"pipeline, {model.artifact.precision}", 0, found, expected, truth, milliseconds))
    with tempfile.TemporaryDirectory() as scratch:
        for kind, precision in _variants():
            file = Path(arguments.keep or scratch) / f"{precision}{kind.suffix}"
            if not file.exists():
                export(arguments.output, str(file), kind, precision)
            size = file.stat().st_size
            if kind is Format.OPENVINO:
                size += file.with_suffix(".bin").stat().st_size
            found, milliseconds = _timed(_RUNNERS[kind](file), images, KERAS_BATCH if kind is Format.KERAS else 1)
            rows.append(_row(f"{kind}, {precision}", size, found, expected, truth, milliseconds))
            print(rows[-1], file=sys.stderr, flush=True)
    headers = ["", "MB", "same top-1", "greatest diff.", "mean diff.", "accuracy", "ms/image"]
    cells = [
        [
            row.name,
            f"{row.bytes / MB:.2f}" if row.bytes else "",
            f"{row.same_top1:.2%}",
            f"{row.greatest_difference:.1e}",
            f"{row.mean_difference:.1e}",
            f"{row.accuracy:.2%}",
            f"{row.ms_per_image:.1f}",
        ]
        for row in rows
    ]
    report(f"{len(images):,} images, {len(model.labels)} classes, {model.artifact.backbone}", headers, cells, [])
    if arguments.json:
        save(arguments.json, {"images": len(images), "rows": [asdict(row) for row in rows]})
    return 0


def _arguments() -> argparse.Namespace:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("output", help="output of a run")
    found.add_argument("--images", type=Path, required=True, help="folder of folders named after labels")
    found.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the files there, and take those already there")
    found.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    return found.parse_args()


def _variants() -> Iterator[tuple[Format, Precision]]:
    for kind in (Format.OPENVINO, Format.ONNX, Format.LITERT, Format.KERAS):
        for precision in Precision:
            try:
                check(kind, precision, f"file{kind.suffix}")
            except UsageError:
                continue
            yield kind, precision


def _images(folder: Path, predictor: Predictor, labels: Sequence[str]) -> tuple[Images, list[str]]:
    found = [(path, path.parent.name) for path in sorted(folder.rglob("*.jpg")) if path.parent.name in labels]
    decoded = [(predictor.decode(path.read_bytes()), label) for path, label in found]
    kept = [(image.pixels, label) for image, label in decoded if isinstance(image, Decoded)]
    return [pixels for pixels, _ in kept], [label for _, label in kept]


def _timed(run: Run, images: Images, batch: int = 1) -> tuple[NDArray[np.float32], float]:
    """Return the probabilities of all images and the milliseconds of the processor for each."""
    run(np.stack(images[:batch]))
    started = time.process_time()
    rows = [run(np.stack(images[start : start + batch])) for start in range(0, len(images), batch)]
    return np.concatenate(rows), (time.process_time() - started) * 1e3 / len(images)


def _row(  # noqa: PLR0917
    name: str,
    size: int,
    found: NDArray[np.float32],
    expected: NDArray[np.float32],
    truth: NDArray[np.intp],
    milliseconds: float,
) -> Row:
    top = expected.argmax(axis=1)
    differences = np.abs(found - expected)[np.arange(len(top)), top]
    answers = found.argmax(axis=1)
    return Row(
        name,
        size,
        float((answers == top).mean()),
        float(differences.max()),
        float(differences.mean()),
        float((answers == truth).mean()),
        milliseconds,
    )


def _one_by_one(predictor: Predictor) -> Run:
    return lambda batch: predictor.probabilities(list(batch))


def _openvino(file: Path) -> Run:
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = import_openvino().Core().compile_model(str(file), "CPU", settings)
    return lambda batch: np.array(compiled([batch])[0])


def _onnx(file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {INPUT: batch})[0]


def _litert(file: Path) -> Run:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_path=str(file), num_threads=1)
    entry, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    shape: tuple[int, ...] | None = None

    def run(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal shape
        if batch.shape != shape:
            interpreter.resize_tensor_input(entry, batch.shape)
            interpreter.allocate_tensors()
            shape = batch.shape
        interpreter.set_tensor(entry, batch)
        interpreter.invoke()
        return interpreter.get_tensor(result).copy()

    return run


def _keras(file: Path) -> Run:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    model: Any = keras.saving.load_model(file)
    run: Run = model.predict_on_batch
    return run


_RUNNERS = {Format.OPENVINO: _openvino, Format.ONNX: _onnx, Format.LITERT: _litert, Format.KERAS: _keras}

if __name__ == "__main__":
    sys.exit(main())
