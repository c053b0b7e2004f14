"""A real Prometheus reads a real run: every query of the dashboard has an answer, and the figures are the run's."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from pyspark.sql import SparkSession

from orchard import monitoring, pipeline
from orchard.errors import UsageError
from orchard.layout import RUN
from orchard.output import Output
from orchard.settings import Settings
from waiting import wait_until

DASHBOARD = Path(__file__).resolve().parents[2] / "helm" / "orchard" / "dashboard.json"
LABELS = ("Lemon Meyer", "Mango")
CONFIG = """
global: {{scrape_interval: 250ms}}
scrape_configs:
  - job_name: orchard
    static_configs:
      - targets: ["127.0.0.1:{port}"]
        labels: {{namespace: vision, release: fruits, pod: fruits-1}}
"""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _prometheus(folder: Path, port: int) -> Iterator[Callable[..., Any]]:
    """Run a Prometheus that reads `port`; yield what asks it."""
    (folder / "prometheus.yml").write_text(CONFIG.format(port=port))
    own = _free_port()
    command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{own}"], cwd=folder, stdout=log, stderr=log
        )

        def ask(path: str, **query: Any) -> Any:
            with urlopen(f"http://127.0.0.1:{own}{path}?{urlencode(query)}", timeout=10) as answer:
                return json.load(answer)["data"] if path.startswith("/api") else answer.read()

        try:
            # Some five seconds pass from when it is ready until it first scrapes: a short run would be over.
            wait_until(lambda: process.poll() is not None or _scrapes(ask))
            assert process.poll() is None, (folder / "log").read_text()
            yield ask
        finally:
            process.terminate()
            process.wait(10)


def _scrapes(ask: Callable[..., Any]) -> bool:
    """Return whether Prometheus has tried to read the port, which nobody serves yet."""
    try:
        return bool(ask("/api/v1/query", query="up")["result"])
    except OSError:  # it is starting
        return False


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is missing: apt-get install prometheus")
def test_the_dashboards_queries_find_what_a_run_did(spark: SparkSession, fruits: Path, tmp_path: Path) -> None:
    output, port = str(tmp_path / "out"), _free_port()
    common: dict[str, Any] = {"precision": "float32", "classifiers": ("linear_discriminant",)}
    with pipeline.Pipeline(output, Settings(labels=LABELS[:1], **common), spark) as first:
        first.extract(str(fruits))
        first.finish()
    settings = Settings(labels=LABELS, metrics_port=port, core_hour_price=0.04, core_watts=8, **common)
    with _prometheus(tmp_path, port) as ask:
        began = time.time()
        outcome = pipeline.run(str(fruits), output, settings, spark)
        ended = time.time()
        span = {"start": began, "end": ended, "step": 0.25}

        def series(query: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = ask("/api/v1/query_range", query=query, **span)["result"]
            return found

        for panel in json.loads(DASHBOARD.read_text())["panels"]:
            for target in panel["targets"]:
                query = target["expr"].replace("$__rate_interval", "2s").replace("$__range", "1m")
                found = series(query.replace("$namespace", "vision").replace("$release", ".*"))
                assert found, f"{panel['title']}: {query}"
                assert all(one["metric"].get("release") == "fruits" for one in found), panel["title"]
                values = [value for one in found for _, value in one["values"]]
                assert set(values) - {"NaN"}, panel["title"]

        images = outcome.metrics["images"]
        done = [float(value) for _, value in series('orchard_images_total{state="featurized"}')[0]["values"]]
        assert done == sorted(done)
        assert images["featurized"] - images["decoded"] <= done[0] <= done[-1] == images["featurized"]
        assert float(series("orchard_listed_images")[0]["values"][-1][1]) == images["listed"]
        stages = {one["metric"]["stage"] for one in series("orchard_stage")}
        assert {"list", "extract", "reduce", "report"} <= stages
        assert {value for _, value in series("orchard_lock_held")[0]["values"]} >= {"1"}
        (committed,) = series("orchard_last_commit_timestamp_seconds")
        assert began < float(committed["values"][-1][1]) <= ended
        cores = float(series("orchard_core_seconds_total")[0]["values"][-1][1])
    with pytest.raises(OSError, match="refused"):
        urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)

    used = json.loads(Path(output, RUN).read_text())["usage"]
    seconds = outcome.metrics["seconds"]
    assert used["total"]["core_hours"] * 3600 == pytest.approx(2 * seconds["total"], rel=0.1, abs=1)
    assert used["extract"]["core_hours"] * 3600 == pytest.approx(2 * seconds["extract"], rel=0.1, abs=1)
    assert cores == pytest.approx(used["total"]["core_hours"] * 3600, rel=0.2, abs=3)
    assert used["total"]["cost"] == pytest.approx(used["total"]["core_hours"] * 0.04, abs=1e-6)
    assert used["total"]["energy_kwh"] == pytest.approx(used["total"]["core_hours"] * 0.008, abs=1e-6)


def test_a_damaged_output_and_an_empty_one_are_told_of_too(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    with monitoring.served(0, output, Settings(), lambda: 0.0) as port:
        text = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        assert 'orchard_images_total{state="rejected"} 0.0' in text
        assert "orchard_lock_held 0.0" in text
        assert "orchard_last_success" not in text
        with (
            pytest.raises(UsageError, match=f"--metrics-port {port} cannot be had"),
            monitoring.served(port, output, Settings(), lambda: 0.0),
        ):
            pass
    (tmp_path / "out" / "_orchard" / "commits").mkdir(parents=True)
    (tmp_path / "out" / "_orchard" / "commits" / "00000001.json").write_text("{}")
    with monitoring.served(0, Output(str(tmp_path / "out")), Settings(), lambda: 0.0) as port:
        text = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        assert "orchard_lock_held 0.0" in text
        assert "orchard_images_total{" not in text
