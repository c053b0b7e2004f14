"""Converts an image's colours to sRGB: by its ICC profile, or by the numbers with which its file tells its colours."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

# A display's profile has some kilobytes, a scanner's up to two megabytes.
MAX_PROFILE_BYTES = 4 * 2**20
# Of 255: less is how profiles of sRGB itself differ among each other.
_SAME = 2
# What a profile must be about, by the mode of the pixels.
_OF_MODE = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}
# So near to sRGB's own curve a pure power is meant for it, as in Chrome.
_SAME_POWER = 0.05
_SAME_CHROMATICITY = 0.001
# Of a matrix between two spaces that there are; what has more is no space.
_MOST = 100
# x and y of red, green, blue and white.
_D65 = (0.3127, 0.329)
_SRGB = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06, *_D65)
_BT2020 = (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, *_D65)
_NTSC = (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, *_D65)
_DISPLAY_P3 = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, *_D65)
# By the numbers of ITU-T H.273; those that are not here are taken for sRGB.
_PRIMARIES = {5: (0.64, 0.33, 0.29, 0.6, 0.15, 0.06, *_D65), 6: _NTSC, 7: _NTSC, 9: _BT2020, 12: _DISPLAY_P3}
_POWERS = {4: 2.2, 5: 2.8, 8: 1.0}
_UNSPECIFIED = 2
# Luminance of white in an HDR picture, and the most that is kept of what is brighter, in cd/m2 (ITU-R BT.2408).
_WHITE, _PEAK = 203.0, 1000.0


class Curve(Enum):
    """How a value becomes light, where it is no power."""

    SRGB = 13
    PQ = 16
    HLG = 18


@dataclass(frozen=True)
class Space:
    """What the values of an RGB image mean."""

    primaries: tuple[float, ...] = _SRGB
    """Chromaticities x, y of red, green, blue and white."""
    curve: Curve | float = Curve.SRGB
    """The curve, or the power to which a value in 0..1 is raised."""

    @classmethod
    def of_numbers(cls, primaries: int, transfer: int) -> Space | None:
        """Return what ITU-T H.273 calls so; None if that is unspecified. All curves of SDR video are sRGB's here."""
        if _UNSPECIFIED == primaries == transfer:
            return None
        curve: Curve | float = _POWERS.get(transfer, Curve.SRGB)
        if transfer in (Curve.PQ.value, Curve.HLG.value):
            curve = Curve(transfer)
        return cls(_PRIMARIES.get(primaries, _SRGB), curve)

    @classmethod
    def of_power(cls, power: float, chromaticities: tuple[float, ...]) -> Space:
        """Return the space of that power and these chromaticities; of sRGB's, if none can be what they say."""
        primaries: tuple[float, ...] = _SRGB
        try:
            if np.abs(np.subtract(chromaticities, _SRGB)).max() > _SAME_CHROMATICITY and min(chromaticities) > 0:
                with np.errstate(all="raise"):
                    if np.abs(_matrix(chromaticities, _SRGB)).max() < _MOST:
                        primaries = chromaticities
        except (ValueError, ArithmeticError):  # not eight, or on a line
            pass
        near = primaries == _SRGB and abs(power / 2.2 - 1) < _SAME_POWER
        return cls(primaries, Curve.SRGB if near else power)


def from_space(image: Image.Image, space: Space) -> Image.Image:
    """Return an RGB image of that space in sRGB; what sRGB cannot show is clipped.

    High dynamic range (PQ, HLG) is mapped as Chrome does: by the reference white tone mapping of SMPTE ST 2094-50, to a
    display that shows nothing brighter than white. Up to white (203 cd/m2) light is halved; a curve leads on from
    there to 1000 cd/m2.
    """
    if space == Space():
        return image
    light = _light(space.curve)[np.asarray(image)]
    if isinstance(space.curve, Curve) and space.curve is not Curve.SRGB:
        light = _tone_mapped(light @ _matrix(space.primaries, _BT2020), space.curve) @ _matrix(_BT2020, _SRGB)
    else:
        light = light @ _matrix(space.primaries, _SRGB)
    light = light.clip(0, 1)
    values = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return Image.fromarray((255 * values + 0.5).astype(np.uint8))


@functools.cache
def _light(curve: Curve | float) -> NDArray[np.float32]:
    """Light of the values 0 to 255: 1 is white; of HLG, the scene's, 1 at most."""
    values = np.arange(256) / 255
    match curve:
        case Curve.SRGB:
            light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        case Curve.PQ:  # ITU-R BT.2100, table 4
            root = values ** (32 / 2523)
            light = 10_000 / _WHITE * ((root - 107 / 128).clip(0) / (2413 / 128 - 2392 / 128 * root)) ** (8192 / 1305)
        case Curve.HLG:  # table 5
            light = np.where(
                values <= 0.5, values**2 / 3, (np.exp((values - 0.55991073) / 0.17883277) + 0.28466892) / 12
            )
        case power:
            light = values**power
    return np.asarray(light, np.float32)


def _tone_mapped(light: NDArray[np.float32], curve: Curve) -> NDArray[np.float32]:
    """Light of BT.2020 as a display of standard range shows it, with the same gain for all three colours."""
    if curve is Curve.HLG:
        light = light * (_PEAK / _WHITE * (light @ np.array([0.2627, 0.678, 0.0593], np.float32))[..., None] ** 0.2)
    ends, mapped = _tone_curve()
    brightest = light.max(axis=-1, keepdims=True).clip(1e-6)
    return np.asarray(light * np.interp(brightest, ends, mapped) / brightest, np.float32)


@functools.cache
def _tone_curve() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Light before and after: a line to (1, 0.5), and from there a quadratic Bézier curve to the peak."""
    peak, knee, bend = _PEAK / _WHITE, 0.5, 0.65
    t = np.linspace(0, 1, 256)[:, None]
    middle = (1 - bend) * np.array([1, knee]) + bend * np.array([1 / knee, 1])
    points = (1 - t) ** 2 * [1, knee] + 2 * t * (1 - t) * middle + t**2 * [peak, 1]
    return np.append(0, points[:, 0]), np.append(0, points[:, 1])


@functools.lru_cache(maxsize=32)
def _matrix(primaries: tuple[float, ...], others: tuple[float, ...]) -> NDArray[np.float32]:
    """What takes rows of linear RGB from the one space to the other, white to white."""
    there, here = (_to_xyz(each) for each in (primaries, others))
    adapted = there / there.sum(axis=0) * here.sum(axis=0)
    return np.asarray(adapted @ np.linalg.inv(here), np.float32)


def _to_xyz(primaries: tuple[float, ...]) -> NDArray[np.float64]:
    """The XYZ of red, green and blue, in rows, so that their sum is white of luminance 1."""
    x, y = np.array(primaries).reshape(4, 2).T
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y], axis=1)
    return np.asarray(np.linalg.solve(xyz[:3].T, xyz[3])[:, None] * xyz[:3])


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in that mode: itself if it has it, of which Pillow would make a copy."""
    return image if image.mode == mode else image.convert(mode)


def to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Return an image of mode L, RGB or CMYK in sRGB, mode RGB, by its ICC profile if that is valid and of its kind."""
    if isinstance(profile, bytes) and len(profile) <= MAX_PROFILE_BYTES and (found := _transform(profile, image.mode)):
        return ImageCms.applyTransform(image, found) or image
    return in_mode(image, "RGB")


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB; None if there is none for that mode, or none is needed."""
    # The elements of "mpet" can be chained without end.
    if profile[16:20] != _OF_MODE.get(mode) or profile[36:40] != b"acsp" or b"mpet" in profile:
        return None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            *(mode, "RGB"),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
        levels = np.linspace(0, 255, 9).astype(np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(9, -1, 3)
        plain = Image.fromarray(colours).convert(mode)
        converted = np.asarray(ImageCms.applyTransform(plain, transform)).astype(int)
    except Exception:  # a broken profile says nothing about colours
        return None
    difference = np.abs(converted - np.asarray(plain.convert("RGB"))).max()
    return transform if difference > _SAME else None
