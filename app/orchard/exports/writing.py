"""A model written as one file with its card beside it, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchard import interruption
from orchard.exports.card import model_card
from orchard.exports.formats import Format, Precision, check
from orchard.exports.graph import folded_graph
from orchard.exports.keras_model import keras_file
from orchard.exports.onnx_graph import to_onnx
from orchard.exports.quantization import calibration_images, quantize_onnx
from orchard.features.engines import import_openvino
from orchard.inference.model import Model
from orchard.storage import DEFAULT_S3, S3Options, open_storage


@dataclass(frozen=True)
class Exported:
    """What was written."""

    files: dict[str, int]
    """Where -> bytes; the model's own file first."""
    card: dict[str, Any]


def export(
    output: str,
    file: str,
    kind: Format,
    precision: Precision = Precision.FLOAT32,
    *,
    weights: str | None = None,
    s3: S3Options = DEFAULT_S3,
) -> Exported:
    """Write the model in `output` to `file`, and its card to the same name with ``.json``.

    Args:
        output: folder or ``s3a://`` prefix of a run.
        file: local path or ``s3a://bucket/key``, with the suffix of the format; replaced if it is there.
        kind: the format.
        precision: how the weights are stored.
        weights: Keras and LiteRT: where the backbone's weights are; None: what the run was given.
        s3: where the object store is.

    Raises:
        UsageError: format, precision and suffix do not go together, or a package is missing.
        InputError: there is no model, or int8 lacks the images to calibrate with.
        WeightsUnavailable: Keras and LiteRT: the backbone's weights are not to be had.
        StorageError: reading or writing failed.
    """
    check(kind, precision, file)
    model = Model.load(output, s3)
    folder, _, name = file.rpartition("/")
    stem = name.removesuffix(kind.suffix)
    storage = open_storage(folder or ("/" if file.startswith("/") else "."), s3)
    card = model_card(model, kind, precision)
    images = None
    if precision is Precision.INT8:
        images = calibration_images(output, s3, model.artifact.input_size, fit=model.artifact.fit)
    text = json.dumps(card, ensure_ascii=False)
    match kind:
        case Format.ONNX:
            data = to_onnx(model, Precision.FLOAT32 if images is not None else precision, {"model_card": text})
            parts = {".onnx": data if images is None else quantize_onnx(data, images)}
        case Format.OPENVINO:
            parts = openvino_files(model, precision, text)
        case _:
            settings = model.run.get("settings", {})
            weights = weights or settings.get("weights") or model.artifact.weights
            seed = int(settings.get("seed", 0))
            parts = {
                kind.suffix: keras_file(model, kind, precision, weights=weights, seed=seed, card=text, images=images)
            }
    content = parts.pop(kind.suffix)
    # Beside the file alone: texts in several languages would make it heavier.
    card["cards"] = model.cards.as_list() or None
    card["file"] = {
        "name": name,
        "bytes": len(content) + sum(map(len, parts.values())),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    parts[".json"] = json.dumps(card, indent=2, ensure_ascii=False).encode()
    with interruption.in_order():
        for suffix, data in parts.items():
            storage.write(stem + suffix, data)
        storage.write(name, content)  # last: where it is, all is
    sizes = {kind.suffix: len(content)} | {suffix: len(data) for suffix, data in parts.items()}
    return Exported({f"{storage.url.rstrip('/')}/{stem}{suffix}": size for suffix, size in sizes.items()}, card)


def openvino_files(model: Model, precision: Precision = Precision.FLOAT32, card: str = "{}") -> dict[str, bytes]:
    """Return the graph (``.xml``) and the constants (``.bin``), with labels and card in the graph's ``rt_info``.

    float16 halves the constants; OpenVINO computes as it would otherwise.
    """
    openvino = import_openvino()
    graph = folded_graph(model)
    graph.set_rt_info(json.dumps(model.labels, ensure_ascii=False), ["orchard", "labels"])
    graph.set_rt_info(str(model.calibration.threshold), ["orchard", "threshold"])
    graph.set_rt_info(str(model.calibration.familiarity), ["orchard", "familiarity_threshold"])
    graph.set_rt_info(model.digest, ["orchard", "digest"])
    graph.set_rt_info(card, ["orchard", "model_card"])
    with tempfile.TemporaryDirectory(prefix="orchard-export-") as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(graph, path, compress_to_fp16=precision is Precision.FLOAT16)
        return {".xml": path.read_bytes(), ".bin": path.with_suffix(".bin").read_bytes()}
