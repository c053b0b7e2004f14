"""Models of an output: each has its own folder, named by a digest of all its parts.

::

    OUT/model/current.json                {"folder": "model/<digest>/"}
    OUT/model/<digest>/manifest.json      the digest of every part; <digest> is the digest of this file
    OUT/model/<digest>/backbone, reduction.npz, labels.json, calibration.json, familiarity.npz,
                       linear_discriminant.npz, tuned_head.npz, logistic_regression.npz, random_forest.npz
                       and, where there are any, kinds.npz, columns.npz and cards.json

A part of another run, or an edited part, has another digest than the manifest says, and another manifest has another
name. So a model whose parts do not belong together cannot be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from orchard.errors import AccessDenied, InputError, OutputDamaged, StorageError, file_failure
from orchard.files import digest_of
from orchard.layout import CURRENT_MODEL, LOGISTIC_REGRESSION, MODEL
from orchard.storage import Storage, is_object

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ModelFolder:
    """The parts of one model."""

    storage: Storage
    folder: str
    """``model/<digest>/``"""
    digests: Mapping[str, str]
    """Part, such as ``reduction.npz`` -> digest of its content."""

    def read(self, part: str) -> bytes:
        """Return the content of a part.

        Raises:
            InputError: the model has no such part.
            OutputDamaged: it differs from the part that the model was made with.
            FileNotFoundError: it is missing, which is no damage if another model has replaced this one meanwhile.
        """
        url = self.storage.url
        if part not in self.digests:
            raise InputError(
                f"The model in {url} has no {part}: make one with orchard classify {url} --classifiers {_name(part)}."
            )
        data = self.storage.read(f"{self.folder}{part}")
        if digest_of(data) != self.digests[part]:
            raise OutputDamaged(
                f"{url}/{self.folder}{part} is not what the model was made with: run orchard verify {url}, "
                "or orchard run again."
            )
        return data


def manifest(digests: Mapping[str, str]) -> tuple[str, bytes]:
    """Return the folder of a model of these parts, and the content of its manifest."""
    content = json.dumps(dict(sorted(digests.items())), indent=1).encode()
    return f"{MODEL}{digest_of(content)}/", content


def current(storage: Storage) -> ModelFolder:
    """Return the current model.

    Raises:
        InputError: there is none, or it is of a version that did not bind its parts.
        OutputDamaged: what says which, or its manifest, is damaged.
        FileNotFoundError: it has gone meanwhile.
    """
    url = storage.url
    try:
        folder = json.loads(storage.read(CURRENT_MODEL))["folder"]
        if not re.fullmatch(rf"{MODEL}[0-9a-f]{{32}}/", folder):
            raise ValueError
    except FileNotFoundError:
        if storage.exists(f"{MODEL}{LOGISTIC_REGRESSION}"):
            raise of_earlier_version(url) from None
        raise InputError(
            f"{url} holds no model: make one with orchard run SOURCE --output {url}, which needs images of two labels."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise OutputDamaged(f"{url}/{CURRENT_MODEL} is damaged: run orchard verify {url}.") from None
    content = storage.read(f"{folder}{MANIFEST}")
    try:
        digests = json.loads(content)
        if manifest(digests)[0] != folder:
            raise ValueError
    except (ValueError, AttributeError, TypeError):
        raise OutputDamaged(f"{url}/{folder}{MANIFEST} is damaged: run orchard verify {url}.") from None
    return ModelFolder(storage, folder, digests)


def of_earlier_version(url: str) -> InputError:
    """Return the error for a model that lacks what today's answers need."""
    return InputError(
        f"The model in {url} is of an earlier version of Orchard: run orchard run SOURCE --output {url} to make it "
        "again; no image is decoded again."
    )


def explain(storage: Storage, error: OSError) -> StorageError:
    """Return the error for a part that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return OutputDamaged(
            f"a part of the model in {storage.url} is gone ({error.filename}): run orchard verify {storage.url}."
        )
    if not is_object(storage.url):
        return file_failure(error, "read", f"the model in {storage.url}")
    kind = AccessDenied if isinstance(error, PermissionError) else StorageError
    return kind(f"the model in {storage.url} cannot be read: {error.strerror or error}.")


def _name(part: str) -> str:
    return part.removesuffix("/").removesuffix(".npz")
