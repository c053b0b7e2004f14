"""Every figure of the report as an SVG and a PNG of its own, for slides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchard.errors import UsageError
from orchard.report.rendering import source

WIDTH = 1920
"""Width of the PNG, in pixels."""

_FONTS = 'font-family="DejaVu Sans, Noto Sans, Liberation Sans, Arial, Helvetica, sans-serif"'
_BOX = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)"')
_LABEL = re.compile(r"--label:([\d.]+)px")
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_PAD = 14  # around a figure, in units of its view box


def write_figures(drawn: Mapping[str, str], folder: Path) -> list[Path]:
    """Write figures as ``NAME.svg`` and ``NAME.png``; confusion matrices by share and by count.

    Args:
        drawn: name -> figure, from `orchard.report.drawings.draw`.
        folder: folder for the files, created if it is missing; files of the same names are replaced.

    Raises:
        UsageError: the folder cannot be written to, or the package that draws PNG is not installed.
    """
    resvg = renderer()
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, svg in _alone(drawn):
            picture = resvg.svg_to_bytes(svg_string=svg, width=WIDTH)
            for suffix, content in ((".svg", svg.encode()), (".png", bytes(picture))):
                file = folder / f"{name}{suffix}"
                file.write_bytes(content)
                written.append(file)
    except OSError as error:
        raise UsageError(
            f"--figures {folder}: it cannot be written to ({error.strerror}); name another folder."
        ) from None
    return written


def renderer() -> Any:
    """The function that draws PNG. Raises UsageError if its package is not installed."""
    try:
        import resvg_py
    except ImportError:
        raise UsageError(
            "The package resvg-py is not installed, and --figures draws with it: pip install resvg-py."
        ) from None
    return resvg_py


def _alone(drawn: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Figures as stand-alone documents, with file names."""
    for name, svg in drawn.items():
        file = re.sub(r"[^\w-]+", "-", name.replace("_", "-"))
        if "by-share" in svg:
            yield f"{file}-share", _document(str(svg), ".by-count{display:none}")
            yield f"{file}-count", _document(str(svg), ".by-share{display:none}")
        else:
            yield file, _document(str(svg))


def _document(svg: str, more: str = "") -> str:
    """An SVG with its style and a ground, in the report's light colours."""
    box = _BOX.search(svg)
    assert box is not None
    width, height = float(box[1]), float(box[2])
    label = _LABEL.search(svg)
    style = _style(label[1] if label else "12") + more
    opening = svg.index(">", svg.index("<svg"))
    classes = re.search(r'class="([^"]*)"', svg[:opening])
    names = classes[1] if classes else ""
    is_map = 'id="scatter"' in svg[:opening]
    left, top, across, down = -_PAD, -_PAD, width + 2 * _PAD, height + 2 * _PAD
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:g} {top:g} {across:g} {down:g}" width="{across:g}" '
        f'height="{down:g}" class="{names}"{" id=" + chr(34) + "scatter" + chr(34) if is_map else ""} {_FONTS}>'
        f'<style>{style}</style><rect class="sheet" x="{left:g}" y="{top:g}" width="{across:g}" height="{down:g}"/>'
    )
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", head + svg[opening + 1 :].strip())


def _style(label: str) -> str:
    """The figures' style with every variable replaced by what it is on a light ground."""
    root = re.search(r":root\{(.*?)\}", source("report.css"), re.DOTALL)
    assert root is not None
    values = dict(re.findall(r"--([\w-]+):([^;]+);", root[1])) | {"label": f"{label}px"}
    style = source("figures.css")
    # Colours of labels are a variable of their own in the page; here each class says what it is.
    style += "".join(
        f".h{i}{{fill:var(--c{i});stroke:var(--ground)}}.h{i}.open{{fill:var(--ground);stroke:var(--c{i})}}"
        for i in range(8)
    )
    style = re.sub(r"[^{}]*\{[^{}]*var\(--h\)[^{}]*\}|\.h\d\{--h:[^}]*\}", "", style)
    style = re.sub(r"min\(var\(--label\),(\w+)\)", lambda found: found[1], style)
    style = re.sub(r"var\(--([\w-]+)\)", lambda found: values[found[1]], style)
    return style + f".sheet{{fill:{values['ground']}}}.points .bare{{opacity:1}}.matrix .corner{{display:inline}}"
