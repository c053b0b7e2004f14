"""What a tuned network gave before the images held out were trained on, too: by that they judge.

The last epochs of a tuning train on the images held out as well, which afterwards look easier than other images do. So
classifiers are compared and calibrated on features of the network of before: fitted on those of the images that it was
trained on, judged on those that it had never seen. Weights of sources take no part in that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard import npz
from orchard.classification.held_out import HeldOut
from orchard.classification.tuned_head import Head
from orchard.images.columns import values_of
from orchard.images.selection import seeded_hashes
from orchard.inference.linear import Linear
from orchard.layout import FEATURES, JUDGED, LABEL_COLUMNS, NAMES, Dataset
from orchard.output import Output

_SEED = 0


@dataclass(frozen=True)
class Judged:
    """Of the images of a tuning, by the network before it was trained on those held out.

    Attributes:
        head: that was trained with it.
        trained: (n,) `hashes` of the images that it was trained on.
        held_out: (m,) of those held out.
        features: (views, n, n_features) of random views of the former.
        held_out_features: (m, n_features) of the latter, as test images have them.
    """

    head: Head
    trained: NDArray[np.uint64]
    held_out: NDArray[np.uint64]
    features: NDArray[np.floating]
    held_out_features: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """Return the file's content, which names no image; features of views are rounded to float16."""
        return npz.dump(
            {
                "weights": self.head.linear.weights,
                "bias": self.head.linear.bias,
                "labels": np.array(self.head.labels),
                "trained": self.trained,
                "held_out": self.held_out,
                "features": self.features.astype(np.float16),
                "held_out_features": self.held_out_features,
            }
        )

    @classmethod
    def side_by_side(cls, branches: Sequence[Self]) -> Self:
        """Return what a network gave, from what each of its branches gave of the same images."""
        first = branches[0]
        return replace(
            first,
            head=Head.side_by_side([branch.head for branch in branches]),
            features=np.concatenate([branch.features for branch in branches], axis=2),
            held_out_features=np.concatenate([branch.held_out_features for branch in branches], axis=1),
        )

    @classmethod
    def of(cls, output: Output) -> Self | None:
        """Return that of an output, see `from_bytes`; None: its network was trained on no image held out."""
        data = output.part(JUDGED)
        return cls.from_bytes(data) if data else None

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return what `to_bytes` wrote; raises ValueError, KeyError or zipfile.BadZipFile if it is something else."""
        arrays = npz.load(data)
        head = Head(Linear(arrays["weights"], arrays["bias"]), arrays["labels"].tolist())
        return cls(head, *(arrays[name] for name in ("trained", "held_out", "features", "held_out_features")))

    def without(self, paths: pa.Array) -> Self:
        """Return what is left when images are erased."""
        named = hashes(paths)
        trained, held_out = ~np.isin(self.trained, named), ~np.isin(self.held_out, named)
        return replace(
            self,
            trained=self.trained[trained],
            held_out=self.held_out[held_out],
            features=self.features[:, trained],
            held_out_features=self.held_out_features[held_out],
        )

    def rows(self, output: Output, further: Sequence[str]) -> tuple[list[HeldOut], HeldOut]:
        """Return the images to fit on, by each of the views, and those to judge on, with what their columns hold now.

        Args:
            output: with their features.
            further: label columns beside label and kind.
        """
        images = output.read(Dataset.FEATURES, ["path", *NAMES, LABEL_COLUMNS], FEATURES)
        images = images.filter(images["label"].is_valid())
        known = pa.array(hashes(images["path"]))

        def columns(of: NDArray[np.uint64]) -> tuple[NDArray[np.intp], dict[str, list[str | None]]]:
            """Return which images are still there, and their values."""
            at = pc.index_in(pa.array(of), known)
            there, rows = np.flatnonzero(at.is_valid()), images.take(at.drop_null())
            values = {name: rows[name].to_pylist() for name in NAMES}
            return there, values | {name: values_of(rows[LABEL_COLUMNS], name).to_pylist() for name in further}

        there, values = columns(self.trained)
        views = [HeldOut(view[there].astype(np.float32), values) for view in self.features]
        there, values = columns(self.held_out)
        return views, HeldOut(self.held_out_features[there], values)


def hashes(paths: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return what images are known by: no name, (n,)."""
    return seeded_hashes(paths, _SEED)
