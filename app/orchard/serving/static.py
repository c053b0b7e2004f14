"""The page for phones, and the model that it runs in the browser; all files are read once, at the start.

The headers that guard and isolate the page are sent with every answer, see `orchard.serving.observability`.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import logging
import re
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response

from orchard.exports.formats import StoredPrecision, probabilities_of
from orchard.exports.graph import output_shapes
from orchard.inference import regions
from orchard.inference.description import describe
from orchard.inference.model import Model
from orchard.serving.negotiation import weighed
from orchard.serving.problems import Problem

PAGE = Path(__file__).parent / "page"
RUNTIME = ("vendor/ort.wasm.bundle.min.mjs", "vendor/ort-wasm-simd-threaded.wasm")
"""Files that `npm run vendor` copies; without them the page asks the server for every answer."""

_FILES = {
    "index.html": "text/html; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    "manifest.webmanifest": "application/manifest+json",
    "icons/icon.svg": "image/svg+xml",
    "icons/icon-192.png": "image/png",
    "icons/icon-512.png": "image/png",
    "icons/maskable-512.png": "image/png",
    "icons/apple-touch-icon.png": "image/png",
} | dict.fromkeys(
    (
        *("app.js", "answers.js", "camera.js", "cards.js", "consent.js", "corrections.js", "decision.js", "facts.js"),
        *("looking.js", "pixels.js", "regions.js", "share.js", "texts.js", "upright.js", "whole.js", "worker.js"),
        "zip.js",
    ),
    "text/javascript; charset=utf-8",
)
# In the page itself, so that it is there before any script, without one, and offline.
_NOTICE = re.compile(r'( *<details id="privacy".*?<p)></p>(.*?</details>\n\n)', re.DOTALL)
_ROOT = {"index.html": "/", "manifest.webmanifest": "/manifest.webmanifest"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class File:
    """A file of the page, ready to be sent."""

    media_type: str
    content: bytes
    etag: str
    compressed: bytes | None = None
    """The content as gzip; None if that saves too little."""

    @classmethod
    def of(cls, content: bytes, media_type: str) -> File:
        """Return a file whose ETag is the hash of its content."""
        worth_it = not media_type.startswith("image/png")
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        return cls(media_type, content, digest, gzip.compress(content, 6, mtime=0) if worth_it else None)

    def respond(self, request: Request) -> Response:
        """Return the answer to a GET or HEAD; 304 if the client has it already."""
        # no-cache: kept, and asked for again before use. The page has names without versions, so that is what
        # brings a new version at once, for one short answer a file.
        headers = {"etag": f'"{self.etag}"', "cache-control": "no-cache", "vary": "accept-encoding"}
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if headers["etag"] in known or "*" in known:
            return Response(status_code=304, headers=headers)
        if self.compressed is not None and _takes_gzip(request.headers.get("accept-encoding", "")):
            headers["content-encoding"] = "gzip"
            return Response(self.compressed, media_type=self.media_type, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def router(model: Model, notice: str = "") -> APIRouter:
    """Return the routes of the page, and begin to make the model for the browser in the background.

    Args:
        model: the model.
        notice: see `with_notice`.
    """
    files = read_page(notice)
    exported = ExportedModel(model)
    exported.start()
    page = APIRouter(include_in_schema=False)
    for path, file in files.items():
        page.add_api_route(path, partial(_respond, file), methods=["GET", "HEAD"], name=path)
    about = about_model(model, runtime=all(f"/assets/{name}" in files for name in RUNTIME))

    async def describe(request: Request) -> Response:
        return about.respond(request)

    cards = File.of(model.cards.to_bytes(), "application/json") if model.cards else None

    async def send_cards(request: Request) -> Response:
        if cards is None:
            raise Problem(None, "The model has no cards.", status=404)
        return cards.respond(request)

    async def send(request: Request) -> Response:
        return exported.respond(request)

    page.add_api_route("/model.json", describe, methods=["GET", "HEAD"])
    page.add_api_route("/cards.json", send_cards, methods=["GET", "HEAD"])
    page.add_api_route("/model.onnx", send, methods=["GET", "HEAD"])
    return page


def read_page(notice: str = "") -> dict[str, File]:
    """Return path -> file of the page; the service worker contains the paths and ETags of the other files.

    ``notice`` is as in `with_notice`.
    """
    types = _FILES | {RUNTIME[0]: "text/javascript; charset=utf-8", RUNTIME[1]: "application/wasm"}
    files = {
        _ROOT.get(name, f"/assets/{name}"): File.of(
            with_notice((PAGE / name).read_text("utf-8"), notice).encode()
            if name == "index.html"
            else (PAGE / name).read_bytes(),
            media_type,
        )
        for name, media_type in types.items()
        if name in _FILES or (PAGE / name).is_file()
    }
    version = hashlib.blake2b("".join(file.etag for file in files.values()).encode(), digest_size=16).hexdigest()
    listed = json.dumps({"version": version, "files": {path: file.etag for path, file in sorted(files.items())}})
    script = f"const PAGE = {listed};\n".encode() + (PAGE / "sw.js").read_bytes()
    return files | {"/sw.js": File.of(script, "text/javascript; charset=utf-8")}


def with_notice(page: str, notice: str) -> str:
    """Return the page with a privacy notice above the buttons that take photos, or without one.

    Args:
        page: its HTML.
        notice: plain text, or the address (``https://…``) of a notice that is linked to; empty: there is none.
    """
    if not notice:
        return _NOTICE.sub("", page)
    escaped = html.escape(notice)
    if is_address(notice):
        escaped = f'<a href="{escaped}" target="_blank" rel="noopener noreferrer">{escaped}</a>'
    return _NOTICE.sub(lambda found: f'{found[1]} dir="auto">{escaped}</p>{found[2]}', page)


def is_address(notice: str) -> bool:
    """Return whether a notice is the address of a notice, rather than its text."""
    return re.fullmatch(r"https?://[^/\s]+\S*", notice) is not None


def about_model(model: Model, *, runtime: bool) -> File:
    """Return ``model.json``, the page's description of the model; ``runtime`` says whether the page can run it."""
    described = describe(model)
    kinds = {
        "names": described.kinds,
        "threshold": described.kind_threshold,
        "of_label": described.kind_of_label,
    }
    about: dict[str, Any] = {
        "digest": described.digest,
        "labels": described.labels,
        "threshold": described.threshold,
        "familiarity_threshold": described.familiarity_threshold,
        "kinds": kinds if described.kinds else None,
        "columns": [
            {
                "name": column.name,
                "output": probabilities_of(column.name),
                "values": column.values,
                "threshold": column.threshold,
            }
            for column in described.columns
        ],
        "input": {
            "name": "image",
            "dtype": "uint8",
            "layout": "NHWC",
            "size": described.largest_size,
            "fit": described.fit,
        },
        "outputs": list(output_shapes(model, where=True)),
        "regions": _about_regions(model),
        "runtime": runtime,
        "cards": "/cards.json" if model.cards else None,
    }
    return File.of(json.dumps(about, ensure_ascii=False).encode(), "application/json")


def _about_regions(model: Model) -> dict[str, Any]:
    """Return the page's parameters for finding several things, those of `orchard.inference.regions`."""
    shapes = {"square": (1, 1), "wide": (2, 1), "tall": (1, 2)}
    return {
        "size": regions.LARGER * model.artifact.input_size,
        "part": model.artifact.input_size,
        "oblong": regions.OBLONG,
        "boxes": {name: regions.boxes(*shape) for name, shape in shapes.items()},
        "familiarity": regions.FAMILIAR * model.calibration.familiarity,
        "confidence": regions.CONFIDENT,
    }


class ExportedModel:
    """The model in the browser's format; one thread makes it, others send it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._file: File | None = None
        self._failed = False

    def start(self) -> None:
        """Make it in the background. The process cannot end before this is done, because running C++ would abort it."""
        threading.Thread(target=self.make, name="model-for-browsers").start()

    def make(self) -> None:
        """Make it; if that fails, the log says why, and the page leaves the answers to the server."""
        try:
            from orchard.exports.onnx_graph import to_onnx

            content = to_onnx(self._model, StoredPrecision.FLOAT16, where=True)
        except Exception:
            _log.exception("The model cannot be made for browsers, so the page asks the server for every answer.")
            self._failed = True
            return
        # Not compressed: weights hardly shrink. The ETag is the model's, by which the page knows what it gets.
        self._file = File("application/octet-stream", content, self._model.digest)

    def respond(self, request: Request) -> Response:
        """Return the model; raises Problem: 503 while it is being made, 404 if it cannot be."""
        if self._file is not None:
            return self._file.respond(request)
        if self._failed:
            raise Problem(None, "It could not be made of this model; the server's log has why.", status=404)
        raise Problem(None, "The model for browsers is being made: ask again.", status=503)


def _takes_gzip(accepted: str) -> bool:
    """Return whether an ``Accept-Encoding`` header names gzip, by a weight that is valid and not 0."""
    items = map(weighed, accepted.lower().split(","))
    return next((bool(quality) for name, quality in items if name in ("gzip", "x-gzip")), False)


async def _respond(file: File, request: Request) -> Response:
    return file.respond(request)
