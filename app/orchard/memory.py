"""The peak memory of a process."""

from __future__ import annotations

import re
import resource
from pathlib import Path


def peak(process: int | None = None) -> int:
    """Return the bytes that a process, None: this one, has held at its most; 0 where the system does not say.

    It is the kernel's high-water mark of the process itself: `getrusage` knows one of before its start, too, which is
    its parent's.
    """
    try:
        status = Path(f"/proc/{process or 'self'}/status").read_text()
    except OSError:
        status = ""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if process is None else 0
