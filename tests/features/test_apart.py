"""An image that ends its decoder is rejected, and ends nothing else."""

import io
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import deadly
from orchard.errors import ClusterError
from orchard.features.apart import decoding
from orchard.features.quantization import LEAST_IMAGES, decoded
from orchard.images.decoding import Decoded, Limits, Rejection, decode
from orchard.images.limits import DEFAULT_LIMITS
from orchard.storage import S3Options
from orchard.tuning.activations import Pictures
from orchard.vocabulary import Fit, Reason


@pytest.fixture(autouse=True)
def dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started die of deadly images."""
    for name, value in deadly.environment(tmp_path / "site").items():
        monkeypatch.setenv(name, value)


def photo(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_what_is_decoded_apart_is_the_same() -> None:
    with decoding(apart=True) as apart, decoding(apart=False) as here:
        for data in (photo(), photo()[:500], b"", b"text"):
            for more in ((48, DEFAULT_LIMITS), (48, DEFAULT_LIMITS, Fit.PAD, 60), (48, Limits(max_pixels=10))):
                one, other, known = apart(data, *more), here(data, *more), decode(data, *more)
                if isinstance(known, Rejection):
                    assert one == other == known
                    continue
                assert isinstance(one, Decoded) and isinstance(other, Decoded)
                assert np.array_equal(one.pixels, known.pixels) and np.array_equal(other.pixels, known.pixels)
                assert (one.width, one.height, one.format) == (known.width, known.height, known.format)
                assert (one.larger is None) == (known.larger is None)


def test_an_image_that_ends_its_decoder_is_rejected_and_the_next_one_decoded() -> None:
    with decoding(apart=True) as decode:
        for number, reason, detail in (
            (signal.SIGABRT, Reason.CORRUPT, "JPEG: it ends its decoder (SIGABRT)"),
            (signal.SIGSEGV, Reason.CORRUPT, "JPEG: it ends its decoder (SIGSEGV)"),
            (signal.SIGKILL, Reason.TOO_MANY_PIXELS, "JPEG takes more memory than there is to decode"),
        ):
            assert decode(deadly.deadly(number), 48, DEFAULT_LIMITS) == Rejection(reason, detail)
            assert isinstance(decode(photo(), 48, DEFAULT_LIMITS), Decoded)


def test_images_are_not_blamed_for_a_machine_that_kills_what_decodes() -> None:
    killed = Rejection(Reason.TOO_MANY_PIXELS, "JPEG takes more memory than there is to decode")
    with decoding(apart=True) as decode:
        for data in (photo(), *[deadly.deadly(signal.SIGKILL)] * 2, photo(), *[deadly.deadly(signal.SIGKILL)] * 2):
            found = decode(data, 48, DEFAULT_LIMITS)
            assert isinstance(found, Decoded) or found == killed
        with pytest.raises(ClusterError, match=r"again and again \(code -9\), most likely for want of memory: give"):
            decode(deadly.deadly(signal.SIGKILL), 48, DEFAULT_LIMITS)
        with pytest.raises(ClusterError, match="code -15"):
            decode(deadly.deadly(signal.SIGTERM), 48, DEFAULT_LIMITS)


def test_no_image_is_blamed_where_what_decodes_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "site" / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    with decoding(apart=True) as decode, pytest.raises(ClusterError, match=r"again and again \(code -11\)"):
        decode(photo(), 48, DEFAULT_LIMITS)


def test_an_image_whose_decoder_never_ends_is_rejected() -> None:
    limits = Limits(max_seconds=0.2)
    with decoding(apart=True) as decode:
        found = decode(deadly.deadly(0), 48, limits)
        assert found == Rejection(Reason.TOO_SLOW, "JPEG takes more than 0.2 s to decode")
        assert isinstance(decode(photo(), 48, limits), Decoded)


def test_a_network_is_quantised_and_tuned_without_an_image_that_ends_its_decoder(tmp_path: Path) -> None:
    images = [*(photo(seed) for seed in range(LEAST_IMAGES)), deadly.deadly(signal.SIGSEGV)]
    assert len(decoded(images, 48, DEFAULT_LIMITS)) == LEAST_IMAGES
    for number, data in enumerate(images[-3:]):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    paths = [str(tmp_path / f"{number}.jpg") for number in range(3)]
    table = pa.table({"path": paths, "size": pa.nulls(3, pa.int64())})
    seen = list(Pictures(DEFAULT_LIMITS, S3Options(), Fit.STRETCH, 48, seed=0).views(table, 2))
    assert [found and len(found) for found in seen] == [2, 2, None]
