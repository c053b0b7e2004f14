"""A backbone that is ready to run: the driver builds it once, and every worker gets it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, fields
from enum import StrEnum

from orchard.vocabulary import Fit

# Raise it when the same settings begin to give other features: results of before are then never mixed in.
FEATURES_VERSION = 1

# Images a network takes at once. One thread, 224 px: 8 fills the vector units and stays in the cache.
BATCH_SIZE = 8


VIEW_SHARES = {1: (1.0,), 3: (1.0, 7 / 8, 7 / 10)}
"""Number of views -> the share of each side, in the middle of the image, that each view takes."""
LARGER = 1 / min(VIEW_SHARES[3])
"""For views, an image is decoded to so many times the network's input size, so that few views have to be enlarged."""


AFTER_TUNING = ", tuned"
"""Suffix of the weights' name if the network was tuned."""


class EngineName(StrEnum):
    """The framework that runs a backbone."""

    OPENVINO = "openvino"
    TENSORFLOW = "tensorflow"


class Precision(StrEnum):
    """The number format in which a network computes; features are float32 in any case."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    """The network is another one, see `orchard.features.quantization`."""


@dataclass(frozen=True)
class Artifact:
    """A backbone without its classifier, with its weights, for one engine. Picklable: broadcast it.

    The network takes float32 (n, input_size, input_size, 3), RGB, 0..255 and gives float32 (n, n_features).
    """

    backbone: str
    alpha: float
    input_size: int  # pixels
    n_features: int
    engine: EngineName
    precision: Precision
    weights: str  # where they came from, for people
    weights_digest: str
    square_root: bool = field(default=False, kw_only=True)  # of what the network gives, see `engines.square_root`
    test_views: int = field(default=1, kw_only=True)  # whose mean an image's features are
    fit: Fit = field(default=Fit.STRETCH, kw_only=True)  # how pictures were made square
    topology: bytes = field(repr=False)  # OpenVINO: the graph (XML); TensorFlow: a .keras file
    parameters: bytes = field(repr=False, default=b"")  # OpenVINO: the constants, float32; of int8 also whole numbers
    # Of int8 alone:
    calibration: str = ""  # the digest of the images that it was quantised with
    network: str = ""  # the digest of what came of them
    agreement: float | None = None  # of its features with float32's, see `orchard.features.quantization.agreement`

    @property
    def decoded_size(self) -> int:
        """Largest side, in pixels, of an image that the network gets."""
        return self.input_size if self.test_views == 1 else math.ceil(LARGER * self.input_size)

    def fingerprint(self) -> str:
        """32 hexadecimal digits; two artifacts have the same if, and only if, their features may be mixed."""
        settings = (
            f"version={FEATURES_VERSION} backbone={self.backbone} alpha={self.alpha} size={self.input_size} "
            f"engine={self.engine} precision={self.precision} weights={self.weights_digest}"
        )
        if self.network:
            settings += f" network={self.network}"
        if self.fit is not Fit.STRETCH:  # what was made before there was a choice keeps its fingerprint
            settings += f" fit={self.fit}"
        if self.test_views != 1:
            settings += f" test_views={self.test_views}"
        if self.square_root:
            settings += " square_root"
        return hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()

    def to_bytes(self) -> bytes:
        """The content of a file: a line of JSON, then topology and parameters."""
        payload = self.topology + self.parameters
        header: dict[str, object] = {
            item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("topology", "parameters")
        }
        header["topology_bytes"] = len(self.topology)
        header["payload_digest"] = hashlib.blake2b(payload, digest_size=16).hexdigest()
        return json.dumps(header).encode() + b"\n" + payload

    @classmethod
    def from_bytes(cls, data: bytes) -> Artifact:
        """The artifact that `to_bytes` wrote. Raises ValueError if the file is damaged or of another version."""
        line, _, payload = data.partition(b"\n")
        try:
            header = json.loads(line)
            length = header.pop("topology_bytes")
            if header.pop("payload_digest") != hashlib.blake2b(payload, digest_size=16).hexdigest():
                raise ValueError("the content is damaged")
            header |= {"engine": EngineName(header["engine"]), "precision": Precision(header["precision"])}
            header["fit"] = Fit(header.get("fit", Fit.STRETCH))
            return cls(**header, topology=payload[:length], parameters=payload[length:])
        except (TypeError, KeyError) as error:
            raise ValueError("the header is of another version") from error
