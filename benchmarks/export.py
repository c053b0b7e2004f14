"""The exported files against the pipeline: sizes, parity, accuracy, and time for one image on one thread.

    python benchmarks/export.py OUT --images ../shared/fruits/Test --json export.json

OUT holds a model; ``--images`` photographs in folders named after its labels, which it has not seen. The reference is
`orchard.inference.predictor.Predictor` with the network in float32. Times are of the processor (user and system), so
that whoever else uses the machine counts little; reading and decoding are not in them. A batch of Keras' holds 32.
"""

import argparse
import json
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
from orchard.exports.formats import FAMILIARITY, INPUT, OUTPUT, Format, StoredPrecision, card_beside, check
from orchard.exports.writing import export
from orchard.features.artifact import Precision
from orchard.features.engines import openvino_core
from orchard.images.decoding import Decoded
from orchard.inference.model import Model
from orchard.inference.predictor import Predictor

Images = Sequence[NDArray[np.uint8]]
Answers = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Probabilities (n, n_classes) and familiarity (n,)."""
Run = Callable[[NDArray[np.uint8]], Answers]
"""From (n, height, width, 3)."""
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
    unknown: float  # share of the images, by the file's own threshold
    ms_per_image: float


def main() -> int:
    """Export, run, print."""
    arguments = _arguments()
    model = Model.load(arguments.output)
    reference = replace(model, artifact=replace(model.artifact, precision=Precision.FLOAT32))
    predictor = Predictor(reference, batch_size=1)
    images, labels = _images(arguments.images, predictor, model.labels)
    truth = np.array([model.labels.index(label) for label in labels])
    expected, milliseconds = _timed(_one_by_one(predictor), images)
    threshold = model.calibration.familiarity
    rows = [_row("pipeline, float32", 0, expected, expected, truth, threshold, milliseconds)]
    if model.artifact.precision is not Precision.FLOAT32:
        found, milliseconds = _timed(_one_by_one(Predictor(model, batch_size=1)), images)
        rows.append(_row(f"pipeline, {model.artifact.precision}", 0, found, expected, truth, threshold, milliseconds))
    with tempfile.TemporaryDirectory() as scratch:
        for kind, precision in _variants(arguments.formats):
            file = Path(arguments.keep or scratch) / f"{precision}{kind.suffix}"
            if not file.exists():
                export(arguments.output, str(file), kind, precision)
            size = file.stat().st_size
            if kind is Format.OPENVINO:
                size += file.with_suffix(".bin").stat().st_size
            found, milliseconds = _timed(_RUNNERS[kind](file), images, KERAS_BATCH if kind is Format.KERAS else 1)
            card = json.loads(card_beside(file).read_text())
            threshold = card["familiarity_threshold"]
            rows.append(_row(f"{kind}, {precision}", size, found, expected, truth, threshold, milliseconds))
            print(rows[-1], file=sys.stderr, flush=True)
    headers = ["", "MB", "same top-1", "greatest diff.", "mean diff.", "accuracy", "unknown", "ms/image"]
    cells = [
        [
            row.name,
            f"{row.bytes / MB:.2f}" if row.bytes else "",
            f"{row.same_top1:.2%}",
            f"{row.greatest_difference:.1e}",
            f"{row.mean_difference:.1e}",
            f"{row.accuracy:.2%}",
            f"{row.unknown:.2%}",
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
    found.add_argument("--formats", type=Format, nargs="+", default=list(_RUNNERS), help="which [all]")
    found.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    return found.parse_args()


def _variants(formats: Sequence[Format]) -> Iterator[tuple[Format, StoredPrecision]]:
    for kind in formats:
        for precision in StoredPrecision:
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


def _timed(run: Run, images: Images, batch: int = 1) -> tuple[Answers, float]:
    """Return the answers for all images and the milliseconds of the processor for each."""
    run(np.stack(images[:batch]))
    started = time.process_time()
    rows = [run(np.stack(images[start : start + batch])) for start in range(0, len(images), batch)]
    found = (np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows]))
    return found, (time.process_time() - started) * 1e3 / len(images)


def _row(  # noqa: PLR0917
    name: str,
    size: int,
    found: Answers,
    expected: Answers,
    truth: NDArray[np.intp],
    threshold: float,
    milliseconds: float,
) -> Row:
    top = expected[0].argmax(axis=1)
    differences = np.abs(found[0] - expected[0])[np.arange(len(top)), top]
    answers = found[0].argmax(axis=1)
    return Row(
        name,
        size,
        float((answers == top).mean()),
        float(differences.max()),
        float(differences.mean()),
        float((answers == truth).mean()),
        float((found[1] < threshold).mean()),
        milliseconds,
    )


def _one_by_one(predictor: Predictor) -> Run:
    def run(batch: NDArray[np.uint8]) -> Answers:
        features = predictor.features(list(batch))
        return predictor.model.probabilities(features), predictor.model.familiarities(features)

    return run


def _openvino(file: Path) -> Run:
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core().compile_model(str(file), "CPU", settings)

    def run(batch: NDArray[np.uint8]) -> Answers:
        found = compiled([batch])
        return np.array(found[OUTPUT]), np.array(found[FAMILIARITY])

    return run


def _onnx(file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda batch: tuple(session.run([OUTPUT, FAMILIARITY], {INPUT: batch}))


def _litert(file: Path) -> Run:
    import tensorflow as tf

    runner = tf.lite.Interpreter(model_path=str(file), num_threads=1).get_signature_runner()

    def run(batch: NDArray[np.uint8]) -> Answers:
        found = runner(**{INPUT: batch})
        return found[OUTPUT], found[FAMILIARITY]

    return run


def _keras(file: Path) -> Run:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    model: Any = keras.saving.load_model(file)

    def run(batch: NDArray[np.uint8]) -> Answers:
        found = model.predict_on_batch(batch)
        return found[OUTPUT], found[FAMILIARITY]

    return run


_RUNNERS = {Format.OPENVINO: _openvino, Format.ONNX: _onnx, Format.LITERT: _litert, Format.KERAS: _keras}

if __name__ == "__main__":
    sys.exit(main())
