"""The FastAPI application: its routes, and their shared parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import RedirectResponse

from orchard.images.decoding import Limits
from orchard.inference.model import Model
from orchard.serving import metrics, openapi, reference, static
from orchard.serving.asgi import AsgiApp, Receive, Scope, Send
from orchard.serving.batching import EnginePool
from orchard.serving.observability import RequestMiddleware
from orchard.serving.prediction import PredictionHandler
from orchard.serving.problems import Problem, Refusal
from orchard.serving.uploads import MemoryBudget, UploadLimits
from orchard.version import VERSION

PREDICT = "/v1/predict"
MODEL_ROUTE = "/v1/model"
HEALTH = "/healthz"
READY = "/readyz"
METRICS_ROUTE = "/metrics"
OPENAPI = "/openapi.json"
PAGE = ("/", "/sw.js", "/manifest.webmanifest", "/model.json", "/cards.json", "/model.onnx")
PROBES = (HEALTH, READY, METRICS_ROUTE)
ROUTES = (PREDICT, MODEL_ROUTE, *PROBES, OPENAPI, reference.DOCS, *PAGE)


@dataclass(frozen=True)
class Serving:
    """Settings of the server."""

    engines: int = 1
    """Number of processes with one engine each; best one for each core."""
    queue: int = 256
    """Number of images that may wait."""
    uploads: UploadLimits = field(default_factory=UploadLimits)
    max_pixels: int = 50_000_000
    """Pixels of one image, as its header says, at most; a photo of 48 megapixels is accepted."""
    max_decode_seconds: float = 10.0
    """CPU time for one image, in seconds, at most."""
    request_seconds: float = 30.0
    """Seconds from the end of the body to the answer, at most."""
    cors_origins: Sequence[str] = ()
    """Other origins whose pages may call the API."""
    privacy_notice: str = ""
    """Notice, as text or as its address, that the page shows before a photo is taken; empty: none."""
    root_path: str = ""
    """Path before all requests of a proxy, such as ``/fruits``, whether the proxy removes it or not."""


@dataclass
class Lifecycle:
    """State of the server, which it shares with the application."""

    draining: bool = False
    """Whether the server is about to stop."""
    failure: Exception | None = None
    """The error for which an engine could not start."""


def create_app(model: Model, serving: Serving | None = None, state: Lifecycle | None = None) -> AsgiApp:
    """Return the application that answers with `model`; its engines are compiled when it starts."""
    serving = serving or Serving()
    state = state or Lifecycle()
    counted = metrics.ServerMetrics()
    held = MemoryBudget(serving.uploads.max_held_bytes)

    def failed(error: Exception) -> None:
        state.failure = error

    limits = Limits(
        max_bytes=serving.uploads.max_bytes,
        max_pixels=serving.max_pixels,
        max_seconds=serving.max_decode_seconds,
    )
    pool = EnginePool(
        model,
        engines=serving.engines,
        capacity=serving.queue,
        limits=limits,
        observer=counted,
        failed=failed,
    )
    counted.watch(
        waiting=lambda: pool.waiting,
        capacity=serving.queue,
        engines=serving.engines,
        able=lambda: pool.able,
        held=lambda: held.total,
    )
    handler = PredictionHandler(
        model, pool, counted, limits=serving.uploads, held=held, request_seconds=serving.request_seconds
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        pool.start()
        yield
        await pool.close()

    app = FastAPI(
        title="Orchard",
        summary="What is on a photograph",
        version=VERSION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        docs_url=None,  # it would load its scripts from elsewhere: see `reference`
        redoc_url=None,
        openapi_url=OPENAPI,
        servers=[{"url": serving.root_path}] if serving.root_path else None,
        lifespan=lifespan,
        redirect_slashes=False,  # it would lead off the proxy's path, and from https to http, a photo with it
    )
    _add_prediction(app, handler, model, serving)
    _add_model(app, model)
    _add_probes(app, pool, counted, state)
    app.include_router(static.router(model, serving.privacy_notice))
    app.include_router(reference.router())
    openapi.describe_problems(app)
    app.add_exception_handler(HTTPException, _leave_to_observed)
    observed = partial(
        RequestMiddleware, metrics=counted, routes=ROUTES, probes=PROBES, draining=lambda: state.draining
    )
    app.add_middleware(observed)
    # What is asked most does without the framework's middleware and router, a twentieth of the server's own time.
    answers: AsgiApp = Shortcut(app, {("POST", PREDICT): observed(handler)})
    if serving.cors_origins:
        answers = CORSMiddleware(
            answers,
            allow_origins=list(serving.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    return UnderPath(answers, serving.root_path) if serving.root_path else answers


class UnderPath:
    """ASGI application that serves another one at a path as well; probes and some proxies omit the path.

    Args:
        app: the application to serve.
        root: the path, without a slash at its end.
    """

    def __init__(self, app: AsgiApp, root: str) -> None:
        self._app = app
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; the page is at the path with a slash, from where its relative addresses hold."""
        path = scope.get("path", "")
        if path == self._root:
            await RedirectResponse(f"{self._root}/", 308)(scope, receive, send)
            return
        if path.startswith(f"{self._root}/"):
            scope["path"] = path.removeprefix(self._root)
            scope["raw_path"] = scope.get("raw_path", b"").removeprefix(self._root.encode())
        await self._app(scope, receive, send)


class Shortcut:
    """ASGI application that passes some requests to other applications than `app`.

    Args:
        app: the application for all other requests.
        others: (method, path) -> the application for such requests.
    """

    def __init__(self, app: AsgiApp, others: Mapping[tuple[str, str], AsgiApp]) -> None:
        self._app = app
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        key = (scope.get("method", ""), scope.get("path", ""))
        await self._others.get(key, self._app)(scope, receive, send)


async def _leave_to_observed(_: Request, error: Exception) -> Response:
    """Pass a 404 or a 405 on to `RequestMiddleware`, which answers all errors."""
    assert isinstance(error, HTTPException)
    raise Problem(None, status=error.status_code, headers=dict(error.headers or {}))


def _add_prediction(app: FastAPI, handler: PredictionHandler, model: Model, serving: Serving) -> None:
    @app.post(
        PREDICT,
        summary="Classify one image or several",
        response_class=Response,
        responses={
            200: {"model": openapi.Predictions, "content": openapi.answer_example(model)},
            **openapi.problems(400, 408, 413, 415, 422, 500, 503),
        },
        openapi_extra=openapi.predict_request(model, serving.uploads.max_files),
    )
    async def predict(request: Request) -> Response:
        return Response(await handler.answer(request.scope, request.receive), media_type="application/json")


def _add_model(app: FastAPI, model: Model) -> None:
    card = openapi.model_card(model)
    content = card.model_dump_json().encode()
    example = {"application/json": {"example": card.model_dump()}}

    @app.get(
        MODEL_ROUTE,
        summary="The model that answers",
        response_class=Response,
        responses={200: {"model": openapi.ModelCard, "content": example}},
    )
    async def describe() -> Response:
        return Response(content, media_type="application/json")


def _add_probes(app: FastAPI, pool: EnginePool, counted: metrics.ServerMetrics, state: Lifecycle) -> None:
    @app.get(HEALTH, summary="Liveness: the process runs", response_model=openapi.Health)
    async def healthy() -> dict[str, str]:
        return {"status": "alive"}

    @app.get(
        READY,
        summary="Readiness: an engine can answer, and the server is not stopping",
        response_model=openapi.Health,
        responses=openapi.problems(503),
    )
    async def ready() -> dict[str, str]:
        if state.draining:
            raise Problem(Refusal.NOT_READY, "The server is about to stop.")
        if not pool.tried:
            raise Problem(Refusal.NOT_READY, "The engines are being compiled.")
        if not pool.ready:
            raise Problem(Refusal.NOT_READY, "No engine can answer: each is replaced, or is at an image for too long.")
        return {"status": "ready"}

    text = {"text/plain": {"schema": {"type": "string"}}}

    @app.get(
        METRICS_ROUTE, summary="Metrics for Prometheus", response_class=Response, responses={200: {"content": text}}
    )
    async def figures() -> Response:
        return Response(counted.exposition(), media_type=metrics.CONTENT_TYPE)
