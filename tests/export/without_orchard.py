"""Run by the tests in a process of its own: what an exported file answers where Orchard is not installed.

    python without_orchard.py IMAGES.npy ANSWERS.npz FILE…

A .keras file takes all images at once, a .tflite file one by one.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(images: str, answers: str, *files: str) -> None:
    sys.modules["orchard"] = None  # type: ignore[assignment]
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    pixels = np.load(images)
    found = {file: _run(file, pixels) for file in files}
    named: dict[str, Any] = {
        f"{Path(f).name}/{name}": values for f, said in found.items() for name, values in said.items()
    }
    np.savez(answers, **named)


def _run(file: str, images: np.ndarray) -> dict[str, np.ndarray]:
    import tensorflow as tf

    if file.endswith(".keras"):
        import keras

        said: dict[str, np.ndarray] = keras.saving.load_model(file).predict(images, verbose=0)
        return said
    interpreter = tf.lite.Interpreter(model_path=file, num_threads=2)
    entry = interpreter.get_input_details()[0]
    assert entry["dtype"] == np.uint8, entry
    interpreter.resize_tensor_input(entry["index"], images[:1].shape)
    interpreter.allocate_tensors()
    run = interpreter.get_signature_runner()
    rows = [run(image=image[np.newaxis]) for image in images]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


if __name__ == "__main__":
    main(*sys.argv[1:])
