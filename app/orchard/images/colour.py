"""Converts an image's colours to sRGB by its colour profile."""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

# A display's profile has some kilobytes, a scanner's up to two megabytes.
MAX_PROFILE_BYTES = 4 * 2**20
# Of 255: less is how profiles of sRGB itself differ among each other.
_SAME = 2


def to_srgb(image: Image.Image, profile: object) -> None:
    """Convert an RGB image to sRGB in place, if its ICC profile is a valid one of another RGB colour space."""
    if isinstance(profile, bytes) and len(profile) <= MAX_PROFILE_BYTES and (transform := _transform(profile)):
        ImageCms.applyTransform(image, transform, inPlace=True)


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB; None if there is none, or none is needed."""
    # The elements of "mpet" can be chained without end.
    if profile[16:20] != b"RGB " or profile[36:40] != b"acsp" or b"mpet" in profile:
        return None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            *("RGB", "RGB"),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
        levels = np.linspace(0, 255, 9).astype(np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(9, -1, 3)
        converted = ImageCms.applyTransform(Image.fromarray(colours), transform)
    except Exception:  # a broken profile says nothing about colours
        return None
    difference = np.abs(np.asarray(converted).astype(int) - colours).max()
    return transform if difference > _SAME else None
