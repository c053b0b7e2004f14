"""Metrics for Prometheus while a run lasts, on the port of the setting ``metrics_port``.

Metrics have the same names for every job. The labels that Prometheus gives to a target (``release``, ``namespace``)
say which job it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orchard import progress
from orchard.errors import UsageError, in_driver_pod
from orchard.layout import RUN, Dataset
from orchard.output import Output
from orchard.settings import Settings

STATES = {"featurized": Dataset.FEATURES, "rejected": Dataset.REJECTED}


class _Run(Collector):
    """Reads the run's state whenever someone asks: nothing is counted twice."""

    def __init__(self, output: Output, settings: Settings, core_seconds: Callable[[], float]) -> None:
        self._output, self._settings, self._core_seconds = output, settings, core_seconds
        self._started = time.time()
        self._last_success = _last_success(output)

    def describe(self) -> list[Metric]:
        """Return nothing: without it the registry would collect once to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it is now."""
        output = self._output
        works = [work for work in progress.works() if work.started >= self._started]
        extraction = next((work for work in works if work.name == "extract"), None)
        images = CounterMetricFamily("orchard_images", "Images that the output holds, committed", labels=["state"])
        if output.known:
            for state, dataset in STATES.items():
                images.add_metric([state], output.rows(dataset))
            if committed := output.committed:
                yield _gauge("orchard_last_commit_timestamp_seconds", "When the last commit was made", committed)
        yield images
        rate = extraction.per_second if extraction and extraction.ended is None else 0.0
        yield _gauge("orchard_images_per_second", "Images that this run featurizes in a second", rate)
        listed = (extraction and extraction.total) or (output.known and output.recall("listing").get("listed"))
        if listed:
            yield _gauge("orchard_listed_images", "Images of the source, as it is selected", listed)
            limit = self._settings.rejections_allowed(listed)
            yield _gauge("orchard_rejected_limit_images", "Images that may be rejected by --max-rejected", limit)
        stages = GaugeMetricFamily("orchard_stage", "1 for the stage that is at work", labels=["stage"])
        shares = GaugeMetricFamily("orchard_stage_done_ratio", "Share of a stage that is done", labels=["stage"])
        seconds = GaugeMetricFamily("orchard_stage_seconds", "Time that a stage has been at work", labels=["stage"])
        for work in works:
            stages.add_metric([work.name], float(work.ended is None))
            seconds.add_metric([work.name], work.seconds)
            if work.total:
                shares.add_metric([work.name], work.done / work.total)
        yield from (stages, shares, seconds)
        moved = max((work.moved for work in works), default=self._started)
        yield _gauge("orchard_last_progress_timestamp_seconds", "When a stage last began, ended or got on", moved)
        yield _gauge("orchard_lock_held", "1 while this run holds the output's lock", output.holds_lock)
        if self._last_success is not None:
            told = "When a run over this output last ended well, before this one"
            yield _gauge("orchard_last_success_timestamp_seconds", told, self._last_success)
        yield CounterMetricFamily(
            "orchard_core_seconds", "Time that this run has held Spark's cores", value=self._core_seconds()
        )


@contextmanager
def served(port: int, output: Output, settings: Settings, core_seconds: Callable[[], float]) -> Iterator[int]:
    """Serve a run's metrics during a ``with`` block: to the cluster from a driver's pod, else to this machine alone.

    Args:
        port: 0 takes any that is free.
        output: the run's.
        settings: the run's.
        core_seconds: returns the core-seconds that the run has held so far.

    Yields: the port.

    Raises:
        UsageError: the port cannot be used.
    """
    registry = CollectorRegistry()
    registry.register(_Run(output, settings, core_seconds))
    ProcessCollector(registry=registry)
    server, thread = _start(port, registry)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _start(port: int, registry: CollectorRegistry) -> tuple[WSGIServer, Thread]:
    for address in ("::", "0.0.0.0") if in_driver_pod() else ("127.0.0.1",):  # noqa: S104 -- a pod's, for Prometheus
        try:
            return start_http_server(port, address, registry)
        except OSError as error:  # "::" where there is no IPv6
            failure = error
    raise UsageError(f"--metrics-port {port} cannot be had ({failure.strerror}): choose another.") from failure


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(name, told, value=float(value))


def _last_success(output: Output) -> float | None:
    """Return when ``run.json`` was written, which is at the end of a run that went well."""
    try:
        return datetime.fromisoformat(json.loads(output.storage.read(RUN))["finished"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError):  # there was none yet
        return None
