"""Writes the model as one file with its card beside it, completely or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchard import interruption
from orchard.errors import InputError, UsageError
from orchard.exports.card import model_card
from orchard.exports.formats import Format, StoredPrecision, card_beside, check
from orchard.exports.graph import folded_graph
from orchard.exports.keras_model import keras_file
from orchard.exports.onnx_graph import to_onnx
from orchard.exports.quantization import Images, in_other_numbers, training_images
from orchard.features.artifact import Precision
from orchard.features.engines import graph_files
from orchard.features.weights import tuned
from orchard.inference.model import Model
from orchard.output import Output
from orchard.storage import DEFAULT_S3, LocalStorage, S3Options, Storage, open_storage, readable_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """The files that an export has written, and the card."""

    files: dict[str, int]
    """Where -> bytes; the model's own file first."""
    card: dict[str, Any]


def export(
    output: str,
    file: str,
    kind: Format,
    precision: StoredPrecision = StoredPrecision.FLOAT32,
    *,
    weights: str | None = None,
    s3: S3Options = DEFAULT_S3,
) -> Exported:
    """Write the model in `output` to `file`, and its card to that name with ``.json`` after it.

    Args:
        output: folder or ``s3a://`` prefix of a run.
        file: local path or ``s3a://bucket/key``, with the suffix of the format; an existing file is replaced.
        kind: the format.
        precision: number format of the stored weights.
        weights: the backbone's weights, for Keras and LiteRT, and for float files of a run in int8; None: those that
            the run was given.
        s3: where the object store is.

    Raises:
        UsageError: format, precision and suffix do not go together, a package is missing, or a folder is in the way.
        InputError: there is no model, or int8 lacks the images to calibrate with.
        WeightsUnavailable: the backbone's weights are needed and not available.
        StorageError: reading or writing failed.
    """
    check(kind, precision, file)
    folder, _, name = readable_path(file).rpartition("/")
    stem = name.removesuffix(kind.suffix)
    storage = open_storage(folder or ("/" if file.startswith("/") else "."), s3)
    _check_room(storage, [name, card_beside(Path(name)).name, *([f"{stem}.bin"] if kind is Format.OPENVINO else [])])
    model = Model.load(output, s3)
    settings = model.run.get("settings", {})
    weights = weights or tuned(Output(output, s3)) or settings.get("weights") or model.artifact.weights
    seed = int(settings.get("seed", 0))
    images = _images(output, model, kind, precision, seed=seed, s3=s3)
    card = model_card(model, kind, precision)
    if kind in (Format.ONNX, Format.OPENVINO):
        if images is not None:
            model = in_other_numbers(model, images, weights=weights, seed=seed)
            card["familiarity_threshold"] = model.calibration.familiarity
        text, digest = json.dumps(card, ensure_ascii=False), card["digest"]
        if kind is Format.ONNX:
            parts = {".onnx": to_onnx(model, precision, {"model_card": text, "digest": digest})}
        else:
            parts = openvino_files(model, precision, text, digest)
    else:
        built = keras_file(model, kind, precision, weights=weights, seed=seed, card=card, images=images)
        parts = {kind.suffix: built.data}
        card["familiarity_threshold"] = built.familiarity_threshold
    content = parts.pop(kind.suffix)
    # Beside the file alone: texts in several languages would make it heavier.
    card["cards"] = model.cards.as_list() or None
    card["file"] = {
        "name": name,
        "bytes": len(content) + sum(map(len, parts.values())),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    files = {stem + suffix: data for suffix, data in parts.items()}
    files[card_beside(Path(name)).name] = json.dumps(card, indent=2, ensure_ascii=False).encode()
    files[name] = content  # last: where it is, all is
    with interruption.in_order():
        storage.replace_together(files)  # a full disk mixes no new card with an old file
    sizes = {name: len(content)} | {part: len(data) for part, data in files.items()}
    return Exported({f"{storage.url.rstrip('/')}/{part}": size for part, size in sizes.items()}, card)


def _check_room(storage: Storage, names: Sequence[str]) -> None:
    """Raise UsageError if a folder is where a file will be: it would be noticed when the file of before is gone."""
    for name in names if isinstance(storage, LocalStorage) else ():
        if (path := Path(storage.url, name)).is_dir():
            raise UsageError(f"{path} is a folder, and a file of the export has this name: give --to another one.")


def _images(
    output: str, model: Model, kind: Format, precision: StoredPrecision, *, seed: int, s3: S3Options
) -> Images | None:
    """Return training images for an export whose precision is not the run's; None if it is the same.

    Raises:
        InputError: int8 lacks them. Floats can do without: then they keep the run's threshold.
    """
    int8, in_int8 = precision is StoredPrecision.INT8, model.artifact.precision is Precision.INT8
    if not (int8 or in_int8) or (int8 and in_int8 and kind is not Format.LITERT):
        return None
    try:
        return training_images(output, s3, size=model.artifact.decoded_size, fit=model.artifact.fit, seed=seed)
    except InputError as error:
        if int8:
            raise
        log.warning("familiarity keeps the threshold that the run measured in int8: %s", error)
        return Images([], "")


def openvino_files(
    model: Model, precision: StoredPrecision = StoredPrecision.FLOAT32, card: str = "{}", digest: str | None = None
) -> dict[str, bytes]:
    """Return the graph (``.xml``) and the constants (``.bin``), with labels and card in the graph's ``rt_info``.

    float16 halves the constants; OpenVINO computes as without it. ``digest`` is the digest of the run's model, if that
    is another one.
    """
    graph = folded_graph(model)
    graph.set_rt_info(json.dumps(model.labels, ensure_ascii=False), ["orchard", "labels"])
    graph.set_rt_info(str(model.calibration.threshold), ["orchard", "threshold"])
    graph.set_rt_info(str(model.calibration.familiarity), ["orchard", "familiarity_threshold"])
    graph.set_rt_info(digest or model.digest, ["orchard", "digest"])
    graph.set_rt_info(card, ["orchard", "model_card"])
    topology, constants = graph_files(graph, half=precision is StoredPrecision.FLOAT16)
    return {".xml": topology, ".bin": constants}
