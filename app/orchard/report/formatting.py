"""Numbers, dates and names as a person reads them; the report's Jinja filters."""

import math
from collections.abc import Sequence
from datetime import datetime

NOTHING = "\N{EN DASH}"
"""Text for a missing value."""

LABEL_LENGTH = 48


def number(value: float) -> str:
    """A count or rate with three significant digits below 100 and thousands separated: 12,158, 4.25, 0.031."""
    if not math.isfinite(value):
        return NOTHING
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 4)}f}"


def count(n: int, thing: str) -> str:
    """A number of things: 1 image, 2,000 images."""
    return f"{number(n)} {thing}{'' if n == 1 else 's'}"


def percent(share: float) -> str:
    """A share of 0..1 with one decimal; only exactly 1 reads 100%, and only exactly 0 reads 0%."""
    if not math.isfinite(share):
        return NOTHING
    if share in (0, 1):
        return f"{share:.0%}"
    if 0.9995 <= share < 1:
        return ">99.9%"
    if 0 < share < 0.0005:
        return "<0.1%"
    return f"{share:.1%}"


def interval(bounds: Sequence[float] | None) -> str:
    """Two shares of 0..1 as "93.1 to 95.2%"; empty if there are none."""
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}%" if bounds is not None else ""


def duration(seconds: float) -> str:
    """A length of time: 0.42 s, 12.3 s, 3 min 20 s, 2 h 05 min."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {round(seconds) % 60:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(n_bytes: float) -> str:
    """An amount of memory or storage in binary units: 512 B, 23.4 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n_bytes < 1024 or unit == "TiB":
            break
        n_bytes /= 1024
    return f"{number(round(n_bytes, 1))} {unit}"


def date(iso: str) -> str:
    """An ISO 8601 time as "21 November 2026, 14:49 UTC"; any other text is returned unchanged."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    zone = moment.tzname() or ""
    return f"{moment.day} {moment:%B %Y, %H:%M} {zone}".rstrip()


def shorten(text: str, limit: int) -> str:
    """The text, or its beginning and an ellipsis, in at most ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def tail(path: str, limit: int) -> str:
    """The path, or an ellipsis and its end, in at most ``limit`` characters: the end tells images apart."""
    return path if len(path) <= limit else "…" + path[-(limit - 1) :]


def label_name(label: str | None) -> str:
    """A label as shown, in at most ``LABEL_LENGTH`` characters; images whose path names none have the empty one."""
    return shorten(label, LABEL_LENGTH) if label else "(no label)"
