"""The Prometheus metrics at ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from orchard.serving.problems import Refusal
from orchard.vocabulary import Answer, Reason

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class ServerMetrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter("orchard_requests", "Requests answered", ["route", "status"], registry=self._registry)
        self._seconds = Histogram(
            "orchard_request_seconds",
            "Time from the first byte of a request's headers to the last byte of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rejected = Counter(
            "orchard_rejected", "Images and requests rejected", ["reason"], registry=self._registry
        )
        for reason in (*Reason, *Refusal):
            self._rejected.labels(reason)
        self._images = Counter("orchard_images", "Images that were answered", registry=self._registry)
        self._answers = Counter("orchard_answers", "Images by their answer", ["answer"], registry=self._registry)
        for answer in Answer:
            self._answers.labels(answer)
        self._batches = Histogram(
            "orchard_batch_images",
            "Images in one batch of an engine",
            buckets=(1, 2, 4, 8),
            registry=self._registry,
        )
        self._deaths = Counter(
            "orchard_engine_deaths", "Engines that ended by themselves, or could not start", registry=self._registry
        )
        self._deadlines = Counter(
            "orchard_engine_deadlines", "Engines ended because a batch took too long", registry=self._registry
        )
        self._retries = Counter(
            "orchard_retried_images", "Images tried again, as their engine failed", registry=self._registry
        )
        # A label's child is looked up once: that costs more than to count.
        self._request_counter = lru_cache(maxsize=256)(self._requests.labels)
        self._request_seconds = lru_cache(maxsize=64)(self._seconds.labels)

    def watch(
        self,
        *,
        waiting: Callable[[], int],
        capacity: int,
        engines: int,
        able: Callable[[], int],
        held: Callable[[], int],
    ) -> None:
        """Report the state of queue and engines, and the bytes held, whenever the metrics are read."""
        gauge = Gauge("orchard_queue_images", "Images that wait for an engine", registry=self._registry)
        gauge.set_function(waiting)
        Gauge("orchard_queue_capacity_images", "Images that may wait", registry=self._registry).set(capacity)
        Gauge("orchard_engines", "Engines, one for each core", registry=self._registry).set(engines)
        gauge = Gauge("orchard_able_engines", "Engines that can answer now", registry=self._registry)
        gauge.set_function(able)
        gauge = Gauge("orchard_held_bytes", "Bytes of bodies that are held in memory", registry=self._registry)
        gauge.set_function(held)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._request_counter(route, status).inc()
        self._request_seconds(route).observe(seconds)

    def rejected(self, reason: Reason | Refusal) -> None:
        """Count an image or a request that was rejected."""
        self._rejected.labels(reason).inc()

    def answered(self, answer: Answer) -> None:
        """Count an image that was answered."""
        self._images.inc()
        self._answers.labels(answer).inc()

    def batch(self, images: int) -> None:
        """Count a batch."""
        self._batches.observe(images)

    def ended(self, *, late: bool) -> None:
        """Count an engine that died, or was ended because it was late."""
        (self._deadlines if late else self._deaths).inc()

    def tried_again(self, images: int) -> None:
        """Count images that are tried a second time."""
        self._retries.inc(images)

    def exposition(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self._registry)
