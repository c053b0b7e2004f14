"""Arrays as bytes of an ``.npz`` file, without pickle."""

import io
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def dump(arrays: dict[str, ArrayLike]) -> bytes:
    """Return arrays by name as a file's content."""
    buffer = io.BytesIO()
    ready: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(buffer, **ready)
    return buffer.getvalue()


def load(data: bytes) -> dict[str, NDArray[Any]]:
    """Return what `dump` wrote. Raises ValueError or zipfile.BadZipFile if it is something else."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
