"""A file that `orchard export` wrote, and its answers, using only a runtime for such files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from orchard.errors import InputError, UsageError
from orchard.exports.formats import FAMILIARITY, INPUT, KIND_PROBABILITIES, OUTPUT, Format, card_beside
from orchard.features.engines import import_openvino, openvino_core
from orchard.inference.calibration import Calibration
from orchard.vocabulary import Answer, Fit


@dataclass(frozen=True)
class Card:
    """The parts of the model card that decide answers."""

    labels: tuple[str, ...]
    kinds: tuple[str, ...]
    calibration: Calibration
    kind_threshold: float
    digest: str | None
    """Digest of the model that the card belongs to."""
    side: int
    """Largest side, in pixels, of a picture that the file gets; a larger picture is shrunk before."""
    fit: Fit

    @classmethod
    def beside(cls, file: Path) -> Self:
        """Read the card of a model file. Raises InputError if there is none, or it is something else."""
        path = card_beside(file)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                tuple(found["labels"]),
                tuple(found["kinds"] or ()),
                Calibration(threshold=float(found["threshold"]), familiarity=float(found["familiarity_threshold"])),
                float(found["kind_threshold"] or 1),
                found.get("digest"),
                int(found["input"]["size"]),
                Fit(found["input"]["fit"]),
            )
        except OSError as error:
            earlier = file.with_suffix(".json")
            if isinstance(error, FileNotFoundError) and earlier.is_file():  # as versions before each file had its own
                raise InputError(
                    f"{file.name} has no model card {path}: if {earlier} is its card, of an earlier version, rename "
                    "it; else export the model again."
                ) from error
            raise InputError(
                f"The model card {path} cannot be read ({error.strerror}): copy it along with {file.name}."
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no model card of this version ({error}): export the model again.") from error


class Exported:
    """A model file that is ready to answer; only one thread may use it at a time.

    Args:
        file: the ``.onnx`` or ``.xml`` file, with its card beside it.
        threads: number of threads that compute.

    Raises:
        InputError: the file or its card is missing, or cannot be used.
        UsageError: it has another format, or its runtime is not installed.
    """

    def __init__(self, file: Path, threads: int) -> None:
        runners = {Format.ONNX.suffix: _onnx, Format.OPENVINO.suffix: _openvino}
        if file.suffix not in runners:
            raise UsageError(
                f"{file} is neither an ONNX nor an OpenVINO file: write one with `orchard export OUT --format onnx`."
            )
        if not file.is_file():
            raise InputError(f"There is no file {file}: write it with orchard export.")
        self.card = Card.beside(file)
        self._run, digest = runners[file.suffix](file, threads)
        if digest and self.card.digest and digest != self.card.digest:
            raise InputError(f"{card_beside(file)} is the card of another model than {file.name}: export both again.")

    def answer(self, picture: NDArray[np.uint8], top: int) -> dict[str, Any]:
        """Return the answer for a picture, uint8 (height, width, 3), RGB, with the fields of `orchard predict`."""
        card, outputs = self.card, self._run(picture[np.newaxis])
        shares = outputs[OUTPUT][0]
        familiarity = float(outputs[FAMILIARITY][0]) if FAMILIARITY in outputs else 1.0
        order = np.argsort(-shares, kind="stable")[:top].tolist()
        confidence = float(shares[order[0]])
        said = Answer(card.calibration.answers(np.array([confidence]), np.array([familiarity]))[0])
        kind = None
        if card.kinds and said is not Answer.UNKNOWN:
            of_kinds = outputs[KIND_PROBABILITIES][0]
            best = int(of_kinds.argmax())
            kind = card.kinds[best] if said is Answer.SURE or of_kinds[best] >= card.kind_threshold else None
        return {
            "answer": str(said),
            "label": card.labels[order[0]] if said is Answer.SURE else None,
            "kind": kind,
            "confidence": round(confidence, 6),
            "familiarity": round(familiarity, 6),
            "top": [{"label": card.labels[place], "confidence": round(float(shares[place]), 6)} for place in order],
        }


def _onnx(file: Path, threads: int) -> tuple[Any, str | None]:
    runtime = _imported(partial(import_module, "onnxruntime"), "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a class of its own for each fault
        raise _unusable(file, error) from error
    names = [output.name for output in session.get_outputs()]
    digest = session.get_modelmeta().custom_metadata_map.get("digest")
    return lambda images: dict(zip(names, session.run(names, {INPUT: images}), strict=True)), digest


def _openvino(file: Path, threads: int) -> tuple[Any, str | None]:
    _imported(import_openvino, "openvino")
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    try:
        core = openvino_core()
        graph = core.read_model(str(file))
        request = core.compile_model(graph, "CPU", settings).create_infer_request()
    except Exception as error:  # OpenVINO's are of RuntimeError and others
        raise _unusable(file, error) from error
    at = ["orchard", "digest"]
    digest = graph.get_rt_info(at).astype(str) if graph.has_rt_info(at) else None
    return lambda images: {output.get_any_name(): values for output, values in request.infer([images]).items()}, digest


def _unusable(file: Path, error: Exception) -> InputError:
    cause = str(error).strip().rpartition("\n")[2].strip(" .!")[:200]  # OpenVINO begins with places of its source
    return InputError(f"{file} cannot be used ({cause}): export the model again.")


def _imported(load: Callable[[], Any], package: str) -> Any:
    try:
        return load()
    except ImportError as error:
        raise UsageError(f"{package} runs such files and is not installed: pip install {package}.") from error
