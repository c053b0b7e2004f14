"""Images that end the process that decodes them, as a fault of a native decoder does; for tests."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

_SITE = """\
import itertools, os
from PIL import JpegImagePlugin

class Deadly(JpegImagePlugin.JpegImageFile):
    def load(self):
        comment = self.info.get("comment", b"")
        if comment.startswith(b"deadly "):
            if not int(comment.split()[1]):
                sum(itertools.repeat(0))  # native code that never ends
            os.kill(os.getpid(), int(comment.split()[1]))
        return super().load()

JpegImagePlugin.JpegImageFile = Deadly
"""


def environment(folder: Path) -> dict[str, str]:
    """Return the variable with which Python's decoder of JPEG dies of what `deadly` makes; `folder` is its own."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_SITE)
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}


def deadly(signal: int) -> bytes:
    """Return a JPEG at which a process of `environment` ends by a signal, or never if 0; any other one decodes it."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(signal).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", comment=f"deadly {signal:d}".encode())
    return buffer.getvalue()
