"""Milliseconds an image of every backbone on one thread: the table of `orchard backbones`, measured.

Weights are drawn, as they make no difference to the time. Each network is built, compiled as a worker does and timed on
full batches; the least of the repeats counts, for another process can only make it slower. `--only A,B` takes some.
"""

import time

import numpy as np

import measuring
from orchard.features.artifact import BATCH_SIZE
from orchard.features.backbones import REGISTRY
from orchard.features.conversion import build_artifact
from orchard.features.engines import OpenVinoEngine


def milliseconds(name: str, repeat: int) -> float:
    """Return the milliseconds that one image of a full batch takes in float32."""
    engine = OpenVinoEngine(build_artifact(REGISTRY[name], weights="random"))
    side = engine.input_size
    images = list(np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, side, side, 3), np.uint8))
    engine(images)
    seconds = []
    for _ in range(repeat):
        began = time.perf_counter()
        engine(images)
        seconds.append(time.perf_counter() - began)
    return 1000 * min(seconds) / BATCH_SIZE


def main() -> None:
    """Measure, print, save."""
    parser = measuring.parser(__doc__)
    parser.add_argument("--only", default=",".join(REGISTRY), metavar="A,B", help="backbones [all]")
    given = parser.parse_args()
    found: dict[str, float] = {}
    for name in given.only.split(","):
        found[name] = milliseconds(name, given.repeat)
        print(f"{name}: {found[name]:.1f}", flush=True)
    rows = [(name, f"{value:.1f}") for name, value in found.items()]
    measuring.report("Milliseconds an image, one thread, float32", ("backbone", "ms"), rows, [])
    measuring.save(given.json, {"milliseconds": found})


if __name__ == "__main__":
    main()
