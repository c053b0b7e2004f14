"""Error answers of the API: ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import json
from enum import StrEnum
from http import HTTPStatus

from orchard.images.decoding import Rejection
from orchard.vocabulary import Reason

MEDIA_TYPE = "application/problem+json"


class Refusal(StrEnum):
    """Why a request was refused, other than for a fault of an image. With `Reason`, the closed list of ``reason``."""

    NO_FILE = "no_file"
    """The body holds no file."""
    TOO_MANY_FILES = "too_many_files"
    """More files, or more parts of any kind, than a request may have."""
    UNSUPPORTED_MEDIA = "unsupported_media"
    """The body is neither multipart/form-data nor a single image, or it is compressed."""
    BAD_PARAMETER = "bad_parameter"
    """A query parameter is out of its range."""
    SLOW_BODY = "slow_body"
    """The body did not arrive in time."""
    QUEUE_FULL = "queue_full"
    """More images wait, or more bytes are held, than the server allows: try again."""
    TIMEOUT = "timeout"
    """The answer was not there in time: try again."""
    NOT_READY = "not_ready"
    """No engine can answer now, or the server is about to stop."""
    ENGINE_DIED = "engine_died"
    """The engine died at the image, and so did the next one, though it had nothing else to do."""


STATUS = {
    Reason.EMPTY: HTTPStatus.UNPROCESSABLE_ENTITY,
    Reason.UNREADABLE: HTTPStatus.BAD_REQUEST,
    Reason.UNSUPPORTED_FORMAT: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Reason.TRUNCATED: HTTPStatus.UNPROCESSABLE_ENTITY,
    Reason.CORRUPT: HTTPStatus.UNPROCESSABLE_ENTITY,
    Reason.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Reason.TOO_MANY_PIXELS: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Reason.TOO_SLOW: HTTPStatus.UNPROCESSABLE_ENTITY,
    Refusal.NO_FILE: HTTPStatus.UNPROCESSABLE_ENTITY,
    Refusal.TOO_MANY_FILES: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Refusal.UNSUPPORTED_MEDIA: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Refusal.BAD_PARAMETER: HTTPStatus.UNPROCESSABLE_ENTITY,
    Refusal.SLOW_BODY: HTTPStatus.REQUEST_TIMEOUT,
    Refusal.QUEUE_FULL: HTTPStatus.SERVICE_UNAVAILABLE,
    Refusal.TIMEOUT: HTTPStatus.SERVICE_UNAVAILABLE,
    Refusal.NOT_READY: HTTPStatus.SERVICE_UNAVAILABLE,
    Refusal.ENGINE_DIED: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""The status of an answer that gives this reason."""

RETRY_SECONDS = 1
"""``Retry-After`` of a 503, in seconds: a full queue empties in less time."""


class Problem(Exception):
    """An answer that is an error.

    Args:
        reason: the reason; None for errors that HTTP itself names (404, 405), and for a fault of the server (500).
        detail: one sentence for people; never a path, never a part of an image.
        status: HTTP status, if it is not the reason's own.
        headers: headers to send with it.
    """

    def __init__(
        self,
        reason: Reason | Refusal | None,
        detail: str | None = None,
        *,
        status: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.status = status or (STATUS[reason] if reason else HTTPStatus.INTERNAL_SERVER_ERROR)
        self.headers = headers or {}
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.headers["Retry-After"] = str(RETRY_SECONDS)

    @classmethod
    def of(cls, rejection: Rejection) -> Problem:
        """Return the problem for a request whose only image was rejected."""
        return cls(rejection.reason, rejection.detail)

    def to_json(self, request_id: str) -> bytes:
        """Return the answer's body."""
        title = "Client Closed Request" if self.status == 499 else HTTPStatus(self.status).phrase
        body: dict[str, object] = {"type": "about:blank", "title": title, "status": int(self.status)}
        if self.detail:
            body["detail"] = self.detail
        if self.reason:
            body["reason"] = self.reason
        body |= {"instance": f"/requests/{request_id}", "request_id": request_id}
        return json.dumps(body, ensure_ascii=False).encode()
