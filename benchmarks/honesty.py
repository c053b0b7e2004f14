"""How far answers may be believed: what the model does not know, what it should not be sure of, and what that costs.

    python benchmarks/honesty.py --cache build/honesty

runs the pipeline on the fruits and on the groceries (``../shared``) into the cache, once, and prints a table. Features
are float32, so that the figures do not depend on the processor.
"""

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.stats import rankdata

from orchard import api
from orchard.classification import discriminant
from orchard.exports.formats import StoredPrecision
from orchard.exports.onnx_graph import to_onnx
from orchard.inference.calibration import softmax
from orchard.inference.kinds import Kinds
from orchard.inference.model import Model
from orchard.inference.predictor import Predictor, answer
from orchard.layout import FEATURES, Dataset
from orchard.output import Output
from orchard.reduction.moments import Moments
from orchard.reduction.pca import Reduction
from orchard.reduction.statistics import ClassSums
from orchard.vocabulary import Answer

SHARED = Path(__file__).resolve().parents[2] / "shared"
PICTURES = 20  # of each sort
Rows = NDArray[np.bool_]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("build/honesty"))
    cache: Path = parser.parse_args().cache
    settings = {"precision": "float32", "classifiers": ["linear_discriminant", "logistic_regression"]}
    manifest = cache / "grocery.csv"
    cache.mkdir(parents=True, exist_ok=True)
    manifest.write_text(_absolute(SHARED / "grocery" / "split.csv"))
    for source, output in ((SHARED / "fruits", cache / "fruits"), (manifest, cache / "grocery")):
        found = api.run(None, str(source), str(output), max_rejected=0, **settings).metrics
        for name, measured in found["classifiers"].items():
            kinds = f", by kind {measured['by_kind']['accuracy']:.3f}" if "by_kind" in measured else ""
            _say(
                f"{output.name}: accuracy of {name}", f"{measured['accuracy']:.4f}{kinds}, {measured['seconds']:.1f} s"
            )
        calibration = found["calibration"]
        _say(f"{output.name}: answered by", found["selection"]["chosen"])
        _say(f"{output.name}: sure on its own test images", f"{calibration['share_sure']:.3f}")
        _say(f"{output.name}: of these right", f"{calibration['accuracy_sure']:.4f}")
    fruits, groceries = Features(cache / "fruits"), Features(cache / "grocery")
    _unknown_to_fruits(cache / "fruits", groceries)
    _scale(fruits, groceries)
    _halves(groceries)
    _packages(groceries)
    _kinds(groceries)
    _cost(cache / "fruits")


class Features:
    """The features of an output: paths, labels, kinds (n,), features (n, d), and which rows are training."""

    def __init__(self, output: Path) -> None:
        table = Output(str(output)).read(Dataset.FEATURES, FEATURES.names, FEATURES)
        self.paths, self.labels, self.kinds, split = (
            np.array(table[name].to_pylist(), object) for name in ("path", "label", "kind", "split")
        )
        self.rows = table["features"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
        self.train = split == "train"

    def fit(self, chosen: Rows) -> tuple[discriminant.Discriminant, list[str]]:
        """Return the discriminant of the chosen rows, and its labels."""
        moments = Moments.of(self.rows[chosen])
        classes = ClassSums.of(self.rows[chosen], list(self.labels[chosen]))
        return discriminant.fit(moments, classes, Reduction.fit(moments)), list(classes.names)


def _unknown_to_fruits(output: Path, groceries: Features) -> None:
    model = Model.load(str(output))
    _say("fruits: sure of photographs of groceries", _sure(model, groceries.rows))
    predictor = Predictor(model)
    for name, draw in (("blank", _blank), ("noise", _noise), ("text", _text), ("screens", _screen)):
        pictures = [draw(np.random.default_rng(seed)) for seed in range(PICTURES)]
        features = predictor.features([np.asarray(picture) for picture in pictures])
        _say(f"fruits: sure of {PICTURES} pictures of {name}", _sure(model, features))


def _sure(model: Model, features: NDArray[np.float32]) -> str:
    answers = [found.answer for found in answer(model, features, 1)]
    return ", ".join(f"{answers.count(kind) / len(answers):.4f} {kind}" for kind in Answer)


def _scale(fruits: Features, groceries: Features) -> None:
    reduction = Reduction.fit(Moments.of(fruits.rows[fruits.train]))
    z = np.abs((groceries.rows - reduction.mean_) / reduction.scale_).max()
    deviation = fruits.rows[fruits.train].std(axis=0, dtype=np.float64)
    bare = np.abs((groceries.rows - reduction.mean_) / np.where(deviation > 0, deviation, 1)).max()
    _say("largest |z| of groceries, scaled as fruits", f"{z:.1f} (without a floor {bare:,.0f})")


def _halves(data: Features) -> None:
    found: dict[str, list[float]] = {}
    names = np.unique(data.labels)
    for seed in range(5):
        known = np.isin(data.labels, np.random.RandomState(seed).permutation(names)[: len(names) // 2])
        for name, value in _scores(data, known).items():
            found.setdefault(name, []).append(value)
    _say("half of the labels against the other, AUROC", _named({name: float(np.mean(v)) for name, v in found.items()}))


def _packages(data: Features) -> None:
    known = np.array(["/Packages/" not in path for path in data.paths])
    _say("fruits and vegetables against packages, AUROC", _named(_scores(data, known)))


def _scores(data: Features, known: Rows) -> dict[str, float]:
    """Return how well scores tell test images of known labels from others: area under the ROC curve."""
    fitted, _ = data.fit(data.train & known)
    test = data.rows[~data.train]
    scores = fitted.linear(test)
    scaled = (test - fitted.familiarity.origin) * fitted.familiarity.inverse_scale
    inside = scaled @ fitted.familiarity.discriminants
    whole = fitted.familiarity.isotropic * (scaled**2).sum(axis=1) - ((scaled @ fitted.familiarity.spread) ** 2).sum(
        axis=1
    )
    nearest = (inside @ fitted.familiarity.classes.T).max(axis=1)
    tried = {
        "familiarity": fitted.familiarity(test),
        "softmax confidence": softmax(scores).max(axis=1),
        "largest logit": scores.max(axis=1),
        "cosine in the whole space": nearest / np.sqrt(np.maximum(whole, 1e-9)),
        "cosine among the means": nearest / np.sqrt((inside**2).sum(axis=1)),
        "Mahalanobis": 2 * scores.max(axis=1) - whole,
    }
    is_known = known[~data.train]
    return {name: _auroc(score[is_known], score[~is_known]) for name, score in tried.items()}


def _auroc(known: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    ranks = rankdata(np.concatenate([known, other]))  # many confidences are 1: equals share their rank
    return float((ranks[: len(known)].sum() - len(known) * (len(known) + 1) / 2) / (len(known) * len(other)))


def _kinds(data: Features) -> None:
    fitted, names = data.fit(data.train)
    counts: dict[tuple[str, str | None], int] = {}
    for label, kind in zip(data.labels[data.train], data.kinds[data.train], strict=True):
        counts[label, kind] = counts.get((label, kind), 0) + 1
    kinds = Kinds.of(names, counts)
    assert kinds is not None
    test, true = data.rows[~data.train], data.kinds[~data.train]
    folded = kinds.probabilities(softmax(fitted.linear(test)))
    moments = Moments.of(data.rows[data.train])
    classes = ClassSums.of(data.rows[data.train], list(data.kinds[data.train]))
    own = discriminant.fit(moments, classes, Reduction.fit(moments)).linear(test)
    right = [
        np.mean(np.array(list(names), object)[scores.argmax(axis=1)] == true)
        for names, scores in ((kinds.names, folded), (classes.names, own))
    ]
    _say("groceries: accuracy by kind", f"{right[0]:.3f} as sums of labels, {right[1]:.3f} by a discriminant of kinds")


def _cost(output: Path) -> None:
    model = Model.load(str(output))
    bare = replace(model, familiarity=None)
    for precision in (StoredPrecision.FLOAT32, StoredPrecision.FLOAT16):
        sizes = [len(to_onnx(each, precision)) for each in (model, bare)]
        _say(
            f"ONNX, {precision}", f"{sizes[0] / 1e6:.2f} MB, of which familiarity {(sizes[0] - sizes[1]) / 1e6:.2f} MB"
        )
    predictor = Predictor(model, batch_size=1)
    image = [np.zeros((224, 224, 3), np.uint8)]
    features = predictor.features(image)
    network, head = _milliseconds(lambda: predictor.features(image)), _milliseconds(lambda: answer(model, features, 5))
    without = _milliseconds(lambda: answer(bare, features, 5))
    share = (head - without) / (network + without)
    _say("an answer", f"{network + head:.2f} ms, of which familiarity {head - without:.3f} ms ({share:.1%})")


def _milliseconds(work: object, times: int = 50) -> float:
    assert callable(work)
    work()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return float(np.median(found)) * 1000


def _blank(rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", (400, 300), tuple(int(value) for value in rng.choice([0, 255, int(rng.integers(256))], 3)))


def _noise(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8))


def _text(rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (600, 800), "white")
    draw = ImageDraw.Draw(image)
    for line in range(40):
        words = ["".join(chr(97 + letter) for letter in rng.integers(0, 26, rng.integers(2, 9))) for _ in range(12)]
        draw.text((30, 20 + 19 * line), " ".join(words), fill="black")
    return image


def _screen(rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (390, 844), tuple(int(value) for value in rng.integers(200, 256, 3)))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 390, 90), fill=tuple(int(value) for value in rng.integers(0, 256, 3)))
    for row in range(9):
        top = 110 + 80 * row
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        draw.rounded_rectangle((16, top, 374, top + 66), 12, fill="white", outline="lightgrey")
        draw.ellipse((28, top + 10, 72, top + 54), fill=colour)
        draw.text((90, top + 24), "".join(chr(97 + letter) for letter in rng.integers(0, 26, 18)), fill="black")
    return image


def _absolute(manifest: Path) -> str:
    """Return the manifest with paths from the root."""
    rows = list(csv.DictReader(manifest.open()))
    names = list(rows[0])
    lines = [",".join(names)]
    lines += [",".join([str(manifest.parent / row["path"]), *(row[name] for name in names[1:])]) for row in rows]
    return "\n".join(lines) + "\n"


def _named(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def _say(what: str, value: str) -> None:
    print(f"{what:<52} {value}", flush=True)


if __name__ == "__main__":
    main()
