"""How well several kinds on one picture are found: mosaics of photos from shops, and the photos alone.

    orchard run ../shared/grocery/split.csv --output out --quality balanced
    python benchmarks/regions.py out

Mosaics are made of test photos of ``split.csv``, of different kinds each, seeded, and go through `orchard predict
--regions` as JPEG files. Recall is the share of the kinds on them that are found, precision the share of what is found
that is on them. `orchard predict out FOLDER --regions --kinds-in-names` measures the same on pictures whose names say
what is on them.
"""

import argparse
import csv
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image

import measuring
from orchard.images.decoding import Decoded
from orchard.inference.model import Model
from orchard.inference.names import Tally
from orchard.inference.predictor import Predictor

SIDE = 348


def mosaic(rows: list[dict[str, str]], folder: Path, high: int, wide: int, random: np.random.Generator) -> bytes:
    """Return a JPEG file of photos side by side."""
    tiles = [np.asarray(Image.open(folder / row["path"]).convert("RGB").resize((SIDE, SIDE))) for row in rows]
    lines = [np.concatenate(tiles[line * wide : (line + 1) * wide], axis=1) for line in range(high)]
    content = io.BytesIO()
    Image.fromarray(np.concatenate(lines)).save(content, "JPEG", quality=int(random.integers(85, 96)))
    return content.getvalue()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="of a run on split.csv that knows kinds")
    parser.add_argument("--images", type=Path, default=measuring.SHARED / "grocery")
    parser.add_argument("--mosaics", type=int, default=200)
    given = parser.parse_args()
    with (given.images / "split.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    predictor = Predictor(Model.load(given.output))
    print("mosaic  recall  precision  ms of one core")
    for high, wide in ((1, 1), (1, 2), (2, 2)):
        random, tally, seconds = np.random.default_rng(0), Tally(), 0.0
        for number in range(given.mosaics):
            while True:
                chosen = [rows[i] for i in random.choice(len(rows), high * wide, replace=False)]
                kinds = {row["kind"] for row in chosen}
                if len(kinds) == high * wide:
                    break
            content = mosaic(chosen, given.images, high, wide, random)
            started = time.process_time()
            image = predictor.decode_larger(content)
            assert isinstance(image, Decoded), number
            seen = {region.name for region in predictor.regions(image)}
            seconds += time.process_time() - started
            tally.add([{kind} for kind in kinds], seen)
        print(
            f"{high} x {wide}   {tally.recall or 0:6.3f}     {tally.precision or 0:6.3f}"
            f"          {1000 * seconds / given.mosaics:6.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
