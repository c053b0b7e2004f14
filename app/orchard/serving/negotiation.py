"""Headers in which a client names what it takes: ``Accept-Language``, ``Accept-Encoding``."""

import re

_QUALITY = re.compile(r"\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*")


def weighed(item: str) -> tuple[str, float | None]:
    """Return what an item of such a header names, and its quality from 0 (refused) to 1; None if that is invalid."""
    name, _, weight = item.partition(";")
    found = _QUALITY.fullmatch(weight or "q=1")
    return name.strip(), float(found[1]) if found else None
