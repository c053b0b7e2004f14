"""The chart's alerts, by promtool: each comes when it should, for its own release, and not before."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .test_chart import CHART, needs_helm, objects

yaml = pytest.importorskip("yaml")

pytestmark = [
    needs_helm,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: apt-get install prometheus"),
]
SCHEDULED = ("--set", "schedule.cron=0 3 * * *")
OPERATOR = ("--set", "mode=operator")


def _rules(folder: Path, *options: str) -> dict[str, Any]:
    made = objects("--values", str(CHART / "ci" / "observed-values.yaml"), "--namespace", "vision", *options)
    (rule,) = (o for o in made if o["kind"] == "PrometheusRule")
    (folder / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    found: dict[str, Any] = {r["alert"]: r for r in rule["spec"]["groups"][0]["rules"]}
    return found


def _promtool(folder: Path, *words: str) -> None:
    done = subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _series(series: str, values: str) -> dict[str, str]:
    return {"series": series, "values": values}


OURS = 'namespace="vision",release="fruits",pod="fruits-1"'
OTHERS = 'namespace="vision",release="fruits-2",pod="fruits-2-1"'
JOB = 'kube_job_failed{{condition="true",namespace="vision",job_name="{}"}}'
CASES: list[tuple[str, tuple[str, ...], list[dict[str, str]], dict[str, int]]] = [
    # alert, values, series (a sample a minute), minute -> alerts
    ("OrchardJobFailed", SCHEDULED, [_series(JOB.format("fruits-29000000"), "0x5 1x60")], {"4m": 0, "7m": 1}),
    ("OrchardJobFailed", SCHEDULED, [_series(JOB.format("fruits-2-29000000"), "1x60")], {"30m": 0}),
    (
        "OrchardJobFailed",
        OPERATOR,
        [_series('kube_pod_status_phase{phase="Failed",namespace="vision",pod="fruits-driver"}', "0x5 1x1 0x5 1x60")],
        {"8m": 0, "20m": 1},  # a driver that another replaces is no failure
    ),
    (
        "OrchardJobStalled",
        (),
        [_series(f"orchard_last_progress_timestamp_seconds{{{OURS}}}", "0+60x10 600x100")],
        {"60m": 0, "69m": 0, "71m": 1},
    ),
    ("OrchardJobStalled", (), [_series(f"orchard_last_progress_timestamp_seconds{{{OTHERS}}}", "0x100")], {"90m": 0}),
    (
        "OrchardRejectsAboveLimit",
        (),
        [
            _series(f'orchard_images_total{{{OURS},state="featurized"}}', "0+100x60"),
            _series(f'orchard_images_total{{{OURS},state="rejected"}}', "0+1x60"),
            _series(f"orchard_rejected_limit_images{{{OURS}}}", "20x60"),
        ],
        {"20m": 0, "21m": 1},
    ),
    (
        "OrchardScheduleMissed",
        SCHEDULED,
        [
            _series('kube_cronjob_next_schedule_time{namespace="vision",cronjob="fruits"}', "600x60"),
            _series('kube_cronjob_spec_suspend{namespace="vision",cronjob="fruits"}', "0x40 1x20"),
        ],
        {"24m": 0, "26m": 1, "45m": 0},  # who suspends a schedule misses none
    ),
]


@pytest.mark.parametrize(("alert", "options", "series", "expected"), CASES)
def test_an_alert_comes_when_it_should(
    tmp_path: Path, alert: str, options: tuple[str, ...], series: list[dict[str, str]], expected: dict[str, int]
) -> None:
    rule = _rules(tmp_path, *options)[alert]
    _promtool(tmp_path, "check", "rules", "rules.yaml")
    firing = (
        f'count(ALERTS{{alertname="{alert}",alertstate="firing",severity="warning",release="fruits"}}) or vector(0)'
    )
    asked = [
        {"expr": firing, "eval_time": time, "exp_samples": [{"labels": "{}", "value": count}]}
        for time, count in expected.items()
    ]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": asked}
    whole = {"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(whole))
    _promtool(tmp_path, "test", "rules", "test.yaml")
    assert "fruits" in rule["annotations"]["summary"]


def test_a_jobs_failure_is_told_by_the_name_of_its_job_alone(tmp_path: Path) -> None:
    made = objects("--values", str(CHART / "ci" / "observed-values.yaml"), "--namespace", "vision")
    (job,) = (o for o in made if o["kind"] == "Job" and "helm.sh/hook" not in o["metadata"].get("annotations", {}))
    assert f'job_name="{job["metadata"]["name"]}"' in _rules(tmp_path)["OrchardJobFailed"]["expr"]
