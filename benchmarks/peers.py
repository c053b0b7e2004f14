"""Orchard's extraction beside Daft, Ray Data and Spark's `predict_batch_udf`, each a whole process, in turns.

    python benchmarks/peers.py --python build/peers/bin/python --limits 4000 12158 --repeat 3 --json peers.json

All have the same images, decoder and converted network, in float32 and as many processes, and write Parquet; `Orchard,
auto` is what `orchard extract` does by itself on this processor. What Daft and Ray Data need is the dependency group
`peers`, in an environment of its own (`--python`), because they want other versions than Orchard's lock has::

    .venv/bin/uv venv build/peers && .venv/bin/uv pip install --python build/peers/bin/python --group peers .

Seconds of the whole are from before a process starts to after it has ended, with a warm cache. "Once started" are the
images a second from when its workers had compiled the network, on the average, to the end of the process; of Orchard
from the first task's submission to the last commit, which counts the compilation against it. The bare loop is that of
extraction.py, measured in each turn before the others. Before anything counts, all must give the same features: the
least cosine to Orchard's is printed.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extraction import BareLoop
from measuring import copy_images, images_folder, parser, report, save, use_shared_keras_home
from orchard.features.artifact import Artifact, EngineName, Precision
from orchard.features.backbones import DEFAULT_BACKBONE, find
from orchard.features.conversion import build_artifact
from orchard.features.engines import processor_flags
from peers_sides import PROCESSES, SIDES

ORCHARD, AUTO, LOOP = "Orchard", "Orchard, auto", "bare loop"
PEERS = {"daft": "Daft", "ray": "Ray Data", "spark": "Spark, predict_batch_udf"}
ENVIRONMENT = {
    **{"RAY_USAGE_STATS_ENABLED": "0", "DAFT_ANALYTICS_ENABLED": "0", "DO_NOT_TRACK": "1"},
    "DAFT_PROGRESS_BAR": "0",
}
"""Of the peers: no usage statistics."""
TOLD = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile")


@dataclass(frozen=True)
class Done:
    """One side in one turn."""

    seconds: float
    """Of the whole process; of the bare loop, of the work."""
    once_started: float
    """Images a second."""


def run_orchard(folder: Path, output: Path, *, backbone: str, weights: str, precision: str, images: int) -> Done:
    """Run `orchard extract` on a new output."""
    command = [sys.executable, "-m", "orchard", "extract", str(folder), "--output", str(output), "--json"]
    command += ["--backbone", backbone, "--weights", weights, "--precision", precision]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=output.parent, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    metrics = json.loads(done.stdout)["metrics"]
    if metrics["images"]["featurized"] != images:
        raise SystemExit(f"Orchard featurized {metrics['images']['featurized']} of {images} images.")
    return Done(seconds, metrics["images_per_second"])


def run_peer(side: str, folder: Path, network: Path, output: Path, *, python: str, images: int) -> Done:
    """Run one of `peers_sides.SIDES` on a new output."""
    with tempfile.TemporaryDirectory(dir=output.parent) as started_folder:
        command = [python, str(Path(__file__).with_name("peers_sides.py")), side]
        command += [str(folder), str(network), str(output), started_folder]
        app = str(Path(__file__).resolve().parents[1] / "app")
        paths = os.pathsep.join(filter(None, (app, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": paths}
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        seconds, ended = time.perf_counter() - started, time.time()
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        ready = [float(file.read_text()) for file in Path(started_folder).iterdir()]
    # A side may make more networks than it has workers; each costs it.
    first = sorted(ready)[:PROCESSES]
    return Done(seconds, images / (ended - statistics.mean(first)))


def features_of(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the features of each image of Parquet files by its path, without the scheme that a peer puts before it."""
    found = {}
    for file in sorted(folder.rglob("*.parquet")):
        table = pq.ParquetFile(file).read(columns=["path", "features"])
        for path, features in zip(table["path"].to_pylist(), table["features"].to_pylist(), strict=True):
            name = unquote(path.removeprefix("file:")) if path.startswith("file:") else path
            found[f"/{name.lstrip('/')}"] = np.array(features, np.float32)
    return found


def least_cosine(ours: Mapping[str, NDArray[np.float32]], theirs: Mapping[str, NDArray[np.float32]]) -> float:
    """Return the least cosine of the features of one image by two sides.

    Raises SystemExit if they do not have the same images.
    """
    if ours.keys() != theirs.keys():
        raise SystemExit(
            f"The sides have {len(ours)} and {len(theirs)} images, {len(ours.keys() & theirs.keys())} both."
        )
    a, b = (np.stack([side[path] for path in ours]).astype(np.float64) for side in (ours, theirs))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / lengths).min())


def compare(
    folder: Path, scratch: Path, artifact: Artifact, *, turns: int, python: str, peers: Sequence[str], weights: str
) -> tuple[dict[str, list[Done]], dict[str, float]]:
    """Measure all sides in turns; return what each came to, and the peers' least cosine to Orchard's features."""
    images = sum(1 for file in folder.rglob("*") if file.is_file())
    network = scratch / "network"
    network.write_bytes(artifact.to_bytes())
    paths = [str(file) for file in sorted(folder.rglob("*")) if file.is_file()]
    found: dict[str, list[Done]] = {}
    cosines: dict[str, float] = {}
    loop = BareLoop(artifact, paths, PROCESSES)
    try:
        for turn in range(turns):
            loop.run(min(512, images))
            seconds, _ = loop.run(images)
            found.setdefault(LOOP, []).append(Done(seconds, images / seconds))
            outputs = {name: scratch / f"{name.replace(', ', '-')}-{turn}" for name in (ORCHARD, AUTO, *peers)}
            for name, precision in ((ORCHARD, "float32"), (AUTO, "auto")):
                done = run_orchard(
                    folder,
                    outputs[name],
                    backbone=artifact.backbone,
                    weights=weights,
                    precision=precision,
                    images=images,
                )
                found.setdefault(name, []).append(done)
            for side in peers:
                # Spark is Orchard's own.
                python_of_side = sys.executable if side == "spark" else python
                done = run_peer(side, folder, network, outputs[side], python=python_of_side, images=images)
                found.setdefault(PEERS[side], []).append(done)
            if not cosines:
                ours = features_of(outputs[ORCHARD] / "features")
                cosines = {PEERS[side]: least_cosine(ours, features_of(outputs[side])) for side in peers}
            for output in outputs.values():
                shutil.rmtree(output, ignore_errors=True)
            said = ", ".join(f"{name} {done[-1].seconds:.1f} s" for name, done in found.items())
            print(f"{images:,} images, turn {turn + 1} of {turns}: {said}", flush=True)
    finally:
        loop.stop()
    return found, cosines


def ratios(found: Mapping[str, Sequence[Done]]) -> dict[str, float]:
    """Return the medians, over the turns, of what has a target."""

    def median(name: str, other: str, figure: str) -> float:
        pairs = zip(found[name], found[other], strict=True)
        return float(statistics.median(getattr(one, figure) / getattr(two, figure) for one, two in pairs))

    values = {f"{ORCHARD}, of the bare loop, once started": median(ORCHARD, LOOP, "once_started")}
    for peer in PEERS.values():
        if peer in found:
            values[f"{ORCHARD}'s seconds, of {peer}'s"] = median(ORCHARD, peer, "seconds")
            values[f"{AUTO}: times as fast as {peer}"] = median(peer, AUTO, "seconds")
    return values


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--python", default=sys.executable, help="of the environment that has the peers [this one]")
    arguments.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="which [all]")
    arguments.add_argument("--limits", type=int, nargs="+", default=[4000, 12_158], metavar="N", help="[%(default)s]")
    arguments.add_argument("--backbone", default=DEFAULT_BACKBONE)
    arguments.add_argument("--weights", default="imagenet", help="imagenet, random, or a file [%(default)s]")
    given = arguments.parse_args()
    assert set(PEERS) == set(SIDES)

    use_shared_keras_home()
    scratch = Path(tempfile.mkdtemp(prefix="orchard-benchmark-", dir=given.scratch)).resolve()
    results, rows, lines = {}, [], []
    try:
        source = images_folder(given.images, scratch, at_least=max(given.limits))
        artifact = build_artifact(
            find(given.backbone), weights=given.weights, engine=EngineName.OPENVINO, precision=Precision.FLOAT32
        )
        for limit in given.limits:
            folder = scratch / f"images-{limit}"
            images = copy_images(source, folder, limit=limit)
            found, cosines = compare(
                folder,
                scratch,
                artifact,
                turns=given.repeat,
                python=given.python,
                peers=given.peers,
                weights=given.weights,
            )
            shutil.rmtree(folder)
            measured = ratios(found)
            for name, done in found.items():
                whole = "" if name == LOOP else f"{statistics.median(one.seconds for one in done):.1f}"
                rate = f"{statistics.median(one.once_started for one in done):,.0f}"
                rows.append((f"{images:,}", name, whole, rate, f"{cosines[name]:.6f}" if name in cosines else ""))
            lines += [f"{images:,} images: {name} {value:.2f}" for name, value in measured.items()]
            results[images] = {
                "sides": {name: [vars(one) for one in done] for name, done in found.items()},
                "ratios": measured,
                "least_cosine": cosines,
            }
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    lines += [
        "targets: Orchard's seconds of Daft's at most 1.10 (4,000 images) and 1.00 (12,158); auto at least 1.4 times",
        "as fast as Daft without VNNI, 1.6 with VNNI or AMX (12,158); once started at least 0.95 of the bare loop",
        f"this processor has {', '.join(flag for flag in TOLD if flag in processor_flags()) or 'none of the flags'}",
    ]
    headers = ("images", "side", "whole process, s", "once started, images/s", "least cosine to Orchard's")
    report(f"{artifact.backbone}, {PROCESSES} processes, float32 but for auto", headers, rows, lines)
    save(given.json, {"backbone": artifact.backbone, "flags": sorted(processor_flags()), "images": results})


if __name__ == "__main__":
    main()
