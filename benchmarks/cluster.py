"""The same job in a cluster and on this machine, with as many cores.

    python benchmarks/cluster.py s3a://bucket/photos s3a://bucket/results --executors 2 --namespace fruits \
        --s3-secret s3 --s3-endpoint http://s3.fruits.svc:7070 --local-endpoint http://127.0.0.1:7070

Both read from and write to the same bucket, each turn to a new prefix under the output; executors have one core each,
and the local run has as many task slots. `orchard submit` must reach the cluster, and keys for the bucket must be in
the environment. Compared are the images per second of the extraction, from the first task submitted to the last
commit, and the seconds of the whole run, as `metrics.json` has them: without the starts of pods and processes.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from measuring import parser, report, save
from orchard.storage import S3Options, open_storage


def run(words: list[str], output: str, endpoint: str | None, settings: argparse.Namespace) -> dict[str, Any]:
    """Run a command of Orchard's and return the metrics that it wrote to `output`."""
    flags = ["--output", output, "--s3-region", settings.s3_region, *settings.flag]
    done = subprocess.run(
        [sys.executable, "-m", "orchard", *words, *flags], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{words[0]} failed: {done.stderr.splitlines()[-1]}")
    storage = open_storage(output, S3Options(endpoint, settings.s3_region))
    metrics: dict[str, Any] = json.loads(storage.read("metrics.json"))
    return metrics


def turn(number: int, settings: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run both sides once; return the images per second of the extraction and the seconds of each."""
    output = f"{settings.output}/{int(time.time())}"
    local = ["run", settings.source, "--master", f"local[{settings.executors}]"]
    there = ["submit", settings.source, "--executors", str(settings.executors), "--name", f"benchmark-{number}"]
    for flag in ("namespace", "s3_secret", "image", "executor_core_request", "driver_core_request"):
        if value := getattr(settings, flag):
            there += [f"--{flag.replace('_', '-')}", value]
    endpoints = {"local": settings.local_endpoint, "cluster": settings.s3_endpoint}
    sides = {}
    for side, words in (("local", local), ("cluster", there)):
        endpoint = ["--s3-endpoint", endpoints[side]] if endpoints[side] else []
        found = run([*words, *endpoint], f"{output}/{side}", settings.local_endpoint, settings)
        sides[side] = {"images_per_second": found["images_per_second"], "seconds": found["seconds"]["total"]}
        sides[side] |= {stage: found["seconds"][stage] for stage in ("extract", "reduce", "classify")}
    return sides


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("source")
    arguments.add_argument("output")
    arguments.add_argument("--executors", type=int, default=2, help="executors of one core each [%(default)s]")
    arguments.add_argument("--namespace")
    arguments.add_argument("--image")
    arguments.add_argument("--s3-secret")
    arguments.add_argument("--s3-endpoint", help="as pods reach it")
    arguments.add_argument("--local-endpoint", help="as this machine reaches it")
    arguments.add_argument("--s3-region", default="us-east-1")
    arguments.add_argument("--executor-core-request", help="CPUs that an executor asks for")
    arguments.add_argument("--driver-core-request", help="CPUs that the driver asks for")
    arguments.add_argument("--flag", action="append", default=[], help="further flag of both runs; can be repeated")
    settings = arguments.parse_args()
    turns = [turn(number, settings) for number in range(1, settings.repeat + 1)]
    rows = [
        (str(number), side, *(f"{found[side][column]:,.1f}" for column in found[side]))
        for number, found in enumerate(turns, 1)
        for side in ("local", "cluster")
    ]
    ratios = [found["cluster"]["images_per_second"] / found["local"]["images_per_second"] for found in turns]
    report(
        f"{settings.source}, {settings.executors} cores",
        ("turn", "side", "extraction, images/s", "all, s", "extract, s", "reduce, s", "classify, s"),
        rows,
        (f"extraction, cluster to local: {', '.join(f'{ratio:.2f}' for ratio in ratios)} (target: at least 0.85)",),
    )
    save(settings.json, {"turns": turns, "ratios": ratios})


if __name__ == "__main__":
    main()
