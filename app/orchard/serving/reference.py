"""The API's description for people, at ``/docs``: Swagger UI, from files that npm has brought."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from orchard.serving.problems import Problem
from orchard.serving.static import PAGE, File

DOCS = "/docs"
VENDORED = ("swagger-ui-bundle.js", "swagger-ui.css")
"""Files that ``npm run vendor`` copies; without them the page does not exist."""

_TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}


def router() -> APIRouter:
    """Return the routes of the page and its files; if the files are missing, a route that says so."""
    docs = APIRouter(include_in_schema=False)
    paths = {DOCS: PAGE / "reference/index.html", f"{DOCS}/reference.js": PAGE / "reference/reference.js"}
    paths |= {f"{DOCS}/{name}": PAGE / "vendor" / name for name in VENDORED}
    if not all(path.is_file() for path in paths.values()):
        docs.add_api_route(DOCS, _missing, methods=["GET", "HEAD"])
        return docs
    for path, source in paths.items():
        file = File.of(source.read_bytes(), _TYPES[source.suffix[1:]])
        docs.add_api_route(path, partial(_respond, file), methods=["GET", "HEAD"], name=path)
    return docs


async def _respond(file: File, request: Request) -> Response:
    return file.respond(request)


async def _missing() -> Response:
    detail = "Swagger UI is not there, as npm was missing when this was built: read /openapi.json."
    raise Problem(None, detail, status=404)
