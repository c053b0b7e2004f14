"""``POST /v1/predict``: from a request to its answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from orchard.images.decoding import Rejection
from orchard.inference.model import Model
from orchard.inference.predict import column_values, seen
from orchard.inference.predictor import PLACE_IMAGES, Prediction
from orchard.serving.asgi import Receive, Scope, Send
from orchard.serving.batching import EnginePool, ImageResult, QueueFull
from orchard.serving.cards import CardOf, requested
from orchard.serving.metrics import ServerMetrics
from orchard.serving.observability import Gone, exchange
from orchard.serving.problems import Problem, Refusal
from orchard.serving.uploads import Body, Disconnected, MemoryBudget, Upload, UploadLimits, read_uploads

TOP = 5
"""Number of labels in an answer, unless the request gives another."""
UNWATCHED_SECONDS = 0.2
"""Seconds of waiting for an answer before the first check whether the client is still there; a check costs 0.05 ms."""

_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class PredictionHandler:
    """An ASGI application that classifies the images of a request.

    Args:
        model: the model.
        pool: its engines.
        metrics: the server's metrics.
        limits: limits for one request.
        held: budget for the bytes of all requests.
        request_seconds: seconds from the end of the body to the answer, at most.
    """

    def __init__(
        self,
        model: Model,
        pool: EnginePool,
        metrics: ServerMetrics,
        *,
        limits: UploadLimits,
        held: MemoryBudget,
        request_seconds: float,
    ) -> None:
        self._model = model
        self._pool = pool
        self._metrics = metrics
        self._limits = limits
        self._held = held
        self._request_seconds = request_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Raises Problem or Gone."""
        answer = await self.answer(scope, receive)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def answer(self, scope: Scope, receive: Receive) -> bytes:
        """Return the answer's JSON. Raises Problem or Gone."""
        state = exchange(scope)
        body = Body(self._held)
        state.body_pending = True
        try:
            asked = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            top, regions = self._top(asked), _regions(asked)
            card_of = requested(self._model.cards, scope["query_string"], scope["headers"])
            uploads = await read_uploads(scope["headers"], receive, self._limits, body)
            state.images = len(uploads)
            outcomes = await self._outcomes(uploads, top, receive, regions=regions)
        except Disconnected:
            raise Gone from None
        finally:
            state.body_pending = not body.complete
            state.bytes = body.size
            body.release()
        if len(outcomes) == 1 and not isinstance(result := outcomes[0].result, Prediction):
            raise Problem.of(result) if isinstance(result, Rejection) else result
        predictions = [
            self._entry(upload, outcome, top, card_of) for upload, outcome in zip(uploads, outcomes, strict=True)
        ]
        answer = {"model": self._model.digest, "predictions": predictions}
        return _to_json(answer).encode()

    def _top(self, asked: Mapping[str, list[str]]) -> int:
        """Return the number of labels that the request asks for."""
        classes = len(self._model.labels)
        given = asked.get("top", [str(min(TOP, classes))])
        text = given[0] if len(given) == 1 else ""
        top = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
        if not 1 <= top <= classes:
            raise Problem(Refusal.BAD_PARAMETER, f"top is a number from 1 to {classes}.")
        return top

    async def _outcomes(self, uploads: list[Upload], top: int, receive: Receive, *, regions: bool) -> list[ImageResult]:
        """Return the result of each file."""
        images = [upload.content for upload in uploads if isinstance(upload.content, bytes)]
        found: list[ImageResult] = []
        if images:
            try:
                answer = self._pool.submit(images, top, regions=regions)
            except QueueFull:
                detail = f"{self._pool.capacity} images may wait, and there is no room for these; try again."
                if regions:
                    detail += f" With regions an image takes the room of {PLACE_IMAGES}."
                raise Problem(Refusal.QUEUE_FULL, detail) from None
            found = await self._wait(answer, receive)
        answers = iter(found)
        return [
            ImageResult(upload.content, 0.0) if isinstance(upload.content, Rejection) else next(answers)
            for upload in uploads
        ]

    async def _wait(self, answer: asyncio.Future[list[ImageResult]], receive: Receive) -> list[ImageResult]:
        """Return the answer; give it up when the client goes away, or when it takes too long."""
        watchers: list[asyncio.Task[None]] = []

        def watch() -> None:
            watchers.append(asyncio.create_task(self._give_up(answer, receive)))

        timer = asyncio.get_running_loop().call_later(UNWATCHED_SECONDS, watch)
        try:
            return await answer
        finally:
            timer.cancel()
            answer.cancel()
            for watcher in watchers:
                watcher.cancel()

    async def _give_up(self, answer: asyncio.Future[list[ImageResult]], receive: Receive) -> None:
        """End the wait for an answer when the client has gone or the time is over."""
        error: Exception = Gone()
        try:
            async with asyncio.timeout(self._request_seconds):
                while (await receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            detail = f"There was no answer within {self._request_seconds:g} s; try again."
            error = Problem(Refusal.TIMEOUT, detail)
        if not answer.done():
            answer.set_exception(error)

    def _entry(self, upload: Upload, outcome: ImageResult, top: int, card_of: CardOf | None) -> dict[str, Any]:
        """Return one element of ``predictions``."""
        entry: dict[str, Any] = {} if upload.filename is None else {"filename": upload.filename}
        result = outcome.result
        if not isinstance(result, Prediction):
            assert result.reason is not None
            self._metrics.rejected(result.reason)
            return entry | {"error": {"reason": result.reason, "detail": result.detail}}
        self._metrics.answered(result.answer)
        entry |= describe(result, top)
        if card_of is not None:
            entry["card"] = card_of(entry["label"], entry.get("kind"))
        return entry | {"milliseconds": round(outcome.milliseconds, 2)}


def _regions(asked: Mapping[str, list[str]]) -> bool:
    """Return whether the request asks for regions."""
    given = asked.get("regions", ["false"])
    if given not in (["true"], ["false"]):
        raise Problem(Refusal.BAD_PARAMETER, "regions is true or false.")
    return given == ["true"]


def describe(prediction: Prediction, top: int) -> dict[str, Any]:
    """Return a prediction as JSON of the answer: shares with six decimals, and no label if it is not sure."""
    found: dict[str, Any] = {
        "answer": str(prediction.answer),
        "label": prediction.label,
        "kind": prediction.kind,
        "confidence": round(prediction.top[0][1], 6),
        "familiarity": round(prediction.familiarity, 6),
        "top": [{"label": name, "confidence": round(share, 6)} for name, share in prediction.top[:top]],
    }
    if prediction.columns:
        found["columns"] = {
            name: said | {"confidence": round(said["confidence"], 6)}
            for name, said in column_values(prediction.columns).items()
        }
    if prediction.place is not None:
        found["regions"] = [
            {**region, "confidence": round(region["confidence"], 6)} for region in seen(prediction.place)
        ]
        found["map"] = prediction.place.map
    return found
