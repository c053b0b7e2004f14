"""Which blocks and images are tuned, how training goes on where it was cut off, and what is refused."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from orchard.classification.judged import Judged
from orchard.classification.tuned_head import Head
from orchard.errors import StorageError, TrainingError, UsageError
from orchard.features.artifact import BATCH_SIZE
from orchard.features.backbones import REGISTRY, find
from orchard.features.conversion import build_artifact
from orchard.features.engines import import_openvino
from orchard.features.weights import keras_model, locate
from orchard.images.limits import Limits
from orchard.layout import INVENTORY, JUDGED, LISTING, TRAINED_HEAD, TUNED, Dataset
from orchard.output import Output
from orchard.settings import Settings
from orchard.storage import S3Options
from orchard.tuning import process
from orchard.tuning.activations import Activations, Pictures, write
from orchard.tuning.blocks import activation_bytes, divided, last_kept, with_factors
from orchard.tuning.images import chosen
from orchard.tuning.stage import _bring_checkpoints, _keep_checkpoint, _key, _scratch, large_folder, tune_again
from orchard.tuning.training import DAMAGES, RATE, Progress, Trainer, epochs_in, mixed, rate, train
from orchard.vocabulary import Fit


def listing(counts: dict[str, int], split: str = "train") -> pa.Table:
    rows = [(f"/{split}/{label}/{n}.jpg", label, split) for label, count in counts.items() for n in range(count)]
    paths, labels, splits = zip(*rows, strict=True)
    nothing = [None] * len(rows)
    return pa.table(
        {
            "path": list(paths),
            "size": pa.array(nothing, pa.int64()),
            "label": pa.array(labels, pa.string()),
            "split": list(splits),
            "group": pa.array(nothing, pa.string()),
        }
    )


def test_the_blocks_after_the_last_reduction_are_trained() -> None:
    names = ("EfficientNetLite0", "EfficientNetLite1", "EfficientNetLite2", "MobileNetV2")
    assert [last_kept(find(name)) for name in names] == ["block10_add", "block14_add", "block14_add", "block_12_add"]
    others = [backbone for name, backbone in REGISTRY.items() if name not in names]
    for backbone in others:
        with pytest.raises(UsageError, match=f"cannot train {backbone.name}.*take one of EfficientNetLite0, .*V2"):
            last_kept(backbone)


def test_what_a_view_takes_on_disk_is_known_before() -> None:
    names = ("EfficientNetLite0", "EfficientNetLite2", "MobileNetV2")
    assert [activation_bytes(find(name)) for name in names] == [14 * 14 * 112 * 2, 17 * 17 * 120 * 2, 14 * 14 * 96 * 2]


def test_images_are_balanced_and_those_held_out_apart() -> None:
    images = pa.concat_tables([listing({"a": 500, "b": 60, "c": 300}), listing({"a": 40, "b": 40}, "test")])
    training, held = chosen(images, most=300, seed=1)
    assert training.num_rows == 300
    counts = Counter(training["label"].to_pylist())
    assert counts["b"] == 54 and abs(counts["a"] - counts["c"]) <= 1
    assert held.num_rows == 86
    assert not set(training["path"].to_pylist()) & set(held["path"].to_pylist())
    assert set(training["split"].to_pylist()) == set(held["split"].to_pylist()) == {"train"}
    assert chosen(images.take(np.random.default_rng(0).permutation(images.num_rows)), most=300, seed=1)[0] == training

    given = pa.concat_tables([images, listing({"a": 30, "b": 30}, "validation")])
    training, held = chosen(given, most=10_000, seed=1)
    assert training.num_rows == 860 and set(held["split"].to_pylist()) == {"validation"}
    with pytest.raises(TrainingError, match="too little to tune a backbone with"):
        chosen(listing({"a": 100}), most=10, seed=1)


def test_the_rate_rises_falls_and_ends_at_nothing() -> None:
    rates = [rate(step, 100) for step in range(100)]
    assert max(rates) == rates[9] == RATE
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[99] < RATE / 1000
    assert [epochs_in(seconds, 10, 12) for seconds in (1, 35, 1000)] == [1, 3, 12]


def test_a_mixture_is_of_its_classes_by_area() -> None:
    rows = np.repeat(np.arange(6, dtype=np.float16), 5 * 7 * 2).reshape(6, 5, 7, 2)
    shares = set()
    for seed in range(50):
        seen, truth = mixed(rows, np.eye(6, dtype=np.float32), np.random.default_rng(seed))
        for image in range(6):
            found = np.bincount(seen[image].astype(int).ravel(), minlength=6) / (5 * 7 * 2)
            np.testing.assert_allclose(truth[image], found, atol=1e-6)
            shares.add(round(float(found[image]), 3))
    assert min(shares) < 0.4 and max(shares) > 0.9 and len(shares) > 10
    assert (rows == np.arange(6).reshape(6, 1, 1, 1)).all()  # what was given is as it was


def test_progress_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    history, weights = [{"accuracy": 0.5, "loss": 1.0}], [np.ones(3), np.zeros((2, 2))]
    progress = Progress(5, 2, 3.5, history, weights, [np.eye(2)], 1, 3, 2)
    progress.save(tmp_path / "checkpoint.npz")
    found = Progress.load(tmp_path / "checkpoint.npz")
    assert (found.epochs, found.epoch, found.seconds, found.history) == (5, 2, 3.5, history)
    assert (found.best_epoch, found.joining, found.joined) == (1, 3, 2)
    np.testing.assert_array_equal(found.weights[1], progress.weights[1])
    np.testing.assert_array_equal(found.best[0], np.eye(2))
    assert not found.is_done and Progress(5, 5).is_done
    (tmp_path / "checkpoint.npz").write_bytes((tmp_path / "checkpoint.npz").read_bytes()[:100])
    with pytest.raises(DAMAGES):
        Progress.load(tmp_path / "checkpoint.npz")


def test_a_checkpoint_of_another_tuning_or_a_part_of_one_is_not_gone_on_with(tmp_path: Path) -> None:
    output, folder = Output(str(tmp_path / "out")), tmp_path / "activations"
    folder.mkdir()
    names = [process.checkpoint_of(branch) for branch in range(3)]
    with output.writing():
        for checkpoint in (b"of the first epoch", b"of the second\nepoch"):  # a kill in between leaves the first
            for name in names[:2]:
                _keep_checkpoint(output, "mine", name, checkpoint + name.encode())
            _bring_checkpoints(output, "mine", folder, 3)
            assert [(folder / name).read_bytes() for name in names[:2]] == [checkpoint + n.encode() for n in names[:2]]
            assert not (folder / names[2]).exists()
        _bring_checkpoints(output, "another's", folder, 3)
        assert not list(folder.iterdir())
        for found in output.storage.list("_orchard/tuning"):
            output.storage.write(found.key, output.storage.read(found.key)[:-1])
        _bring_checkpoints(output, "mine", folder, 3)
        assert not list(folder.iterdir())


def test_a_folder_whose_files_go_meanwhile_is_no_abandoned_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path))
    begun, busy, old = (tmp_path / "tuning" / name for name in ("begun", "busy", "old"))
    for folder in (begun, busy, old):
        folder.mkdir(parents=True)
    (busy / "renamed since").symlink_to("nothing")
    os.utime(old, (0, 0))
    _scratch(Output(str(tmp_path / "out")), "mine")
    assert sorted((tmp_path / "tuning").iterdir()) == [begun, busy]


def test_images_that_are_gone_are_said() -> None:
    rows = np.zeros((4, 1, 1, 1, 1), np.float16)
    every, one, none = (Activations(rows, np.arange(known)) for known in (4, 1, 0))
    classes = np.array([0, 1, 0, 1])
    process.check_readable(classes, every, one)
    for training, held_out, said in ((one, every, "1 and 4"), (every, none, "4 and 0")):
        with pytest.raises(TrainingError, match=rf"Of 4 images to tune .* {said} can be read: bring them back"):
            process.check_readable(classes, training, held_out)


def test_images_that_are_back_are_read_when_tuning_goes_on(tmp_path: Path) -> None:
    """What is remembered of a try holds the images that could not be read: their disk was not there, say."""
    openvino = import_openvino()
    pixels = openvino.opset13.parameter([BATCH_SIZE, 8, 8, 3])
    graph = openvino.Model([openvino.opset13.relu(pixels)], [pixels])
    paths = [tmp_path / f"{n}.png" for n in range(70)]
    images = pa.table({"path": list(map(str, paths)), "size": pa.nulls(70, pa.int64())})
    pictures = Pictures(Limits(), S3Options(), Fit.STRETCH, 8, seed=0)

    def known(*there: int) -> list[int]:
        for n in there:
            Image.new("RGB", (8, 8), (n, n, n)).save(paths[n])
        done: list[int] = []
        found = write(tmp_path / "seen", graph, images, 0, pictures, threads=1, done=done.append)
        assert sum(done) == 70
        assert [int(found.rows[n].max()) for n in found.known] == found.known.tolist()
        return [int(n) for n in found.known]

    assert known() == []
    assert known(3, 69) == [3, 69]
    assert known(5) == [3, 5, 69]
    assert known(*range(1, 70)) == list(range(1, 70))


def test_what_is_seen_otherwise_is_another_tuning() -> None:
    """The key names the folder of activations, in which one of another shape is not to be gone on with."""
    images = listing({"a": 2}).append_column("version", pa.nulls(2, pa.string()))
    seen = {"backbone": "EfficientNetLite0", "weights": "imagenet", "alpha": 1.0, "input_size": 224, "fit": "stretch"}
    others = ({"test_views": 3}, {"transform": "square_root"}, {"fit": "pad"}, {"input_size": 128})
    keys = [_key(images, seen | other, Settings()) for other in ({}, *others)]
    assert len(set(keys)) == len(keys)
    assert _key(images, {**seen, "test_views": 1, "transform": "none"}, Settings()) == keys[0]


def test_a_first_run_that_has_tuned_and_rejected_images_is_not_tuned_again(tmp_path: Path) -> None:
    """It tunes before any image is known to be rejected; the command knew others, and did all of it twice."""
    rows = [{"path": f"/{n}.jpg", "label": "a", "split": "train", "featurized": n > 0} for n in range(3)]
    images = pa.Table.from_pylist(rows, INVENTORY)
    seen = {"backbone": "EfficientNetLite0", "weights": "imagenet", "alpha": 1.0, "input_size": 224, "fit": "stretch"}
    output = Output(str(tmp_path))
    with output.writing():
        output.commit(
            {Dataset.INVENTORY: [output.stage(Dataset.INVENTORY, images)]},
            properties={
                "identity": seen,
                "listing": {"listed": 3},
                "tuning": {"key": _key(images.select(LISTING.names), seen, Settings())},
            },
        )
        assert tune_again(output, Settings()) is None


def test_activations_lie_among_temporary_files_where_the_cache_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path / "cache"))
    assert large_folder() == tmp_path / "cache" / "tuning"
    (tmp_path / "image").write_bytes(b"")
    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path / "image" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = large_folder()
    assert folder.parent == tmp_path and folder.is_dir() and folder.stat().st_mode & 0o077 == 0
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="is another user's"):
        large_folder()


def test_it_stops_early_only_where_the_rate_has_fallen() -> None:
    def progress(*losses: float) -> Progress:
        return Progress(20, len(losses) - 1, history=[{"accuracy": 0.5, "loss": loss} for loss in losses])

    worse = [3.0, *(4.0 + epoch for epoch in range(20))]  # than what it was before, and always more so
    assert [progress(*worse[: epoch + 1]).is_done for epoch in (6, 13, 14)] == [False, False, True]
    better = [*worse[:13], 3.5, 3.6, 3.6, 3.6]
    assert not progress(*better).is_done and progress(*better, 3.6).is_done


class Killed(Exception):
    pass


def two_colours(folder: Path) -> pa.Table:
    """Return 96 green or red images in `folder`, one of which is none."""
    random, paths, labels = np.random.default_rng(0), [], []
    for number in range(96):
        pixels = random.integers(0, 120, (40, 40, 3), dtype=np.uint8)
        pixels[..., number % 2] //= 4
        paths.append(str(folder / f"{number}.png"))
        labels.append("green" if number % 2 == 0 else "red")
        Image.fromarray(pixels).save(paths[-1])
    (folder / "3.png").write_bytes(b"no image")
    return pa.table({"path": paths, "size": pa.nulls(96, pa.int64()), "label": labels})


def test_a_process_that_is_killed_goes_on_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From weights of no use the last blocks learn two colours; what was done before the kill is not done again."""
    images = two_colours(tmp_path)
    limits = Limits(2**20, 10**6, 2**27, 5)
    request = process.Request(
        backbone="EfficientNetLite0",
        alpha=1.0,
        input_size=64,
        weights="random",
        seed=2**40,  # Keras takes none of more than 32 bits
        fit=Fit.STRETCH,
        views=2,
        test_views=3,
        joins=True,
        epochs=3,
        branches=2,
        seconds=600.0,
        threads=1,
        limits=limits,
        s3=S3Options(),
    )
    folder, told = tmp_path / "work", Counter[str]()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    def tune(stop_at: str = "") -> tuple[dict[str, bytes], dict[str, Any]]:
        def saved(name: str, checkpoint: bytes) -> None:
            assert (folder / name).read_bytes() == checkpoint
            told[name] += 1
            if name == stop_at:
                raise Killed

        return process.tune(
            request,
            images.slice(0, 64),
            images.slice(64),
            folder,
            done=lambda number: told.update(done=number),
            saved=saved,
        )

    first, second = map(process.checkpoint_of, range(2))
    with pytest.raises(Killed):
        tune(stop_at=first)
    assert told[first] == 1
    branch = 2 * 64 + 3 * 64 + 32 + 96  # pictures: of the probe, of three epochs, and of one with the images held out
    left = 2 * 64 + 96 + branch
    expected = request.pictures(64, 32) - left
    assert told["done"] == pytest.approx(expected, abs=64)  # batches are whole, one is unreadable
    before = Progress.load(folder / first)
    written = (folder / "training" / "activations").stat().st_mtime_ns
    told.clear()
    with pytest.raises(Killed):
        tune(stop_at=second)
    assert (folder / "training" / "activations").stat().st_mtime_ns == written
    trained = Progress.load(folder / first)
    assert told[first] == 3 - before.epoch + trained.joined and told[second] == 1
    told.clear()
    files, found = tune()
    assert not told[first] and told[second] == 2 + Progress.load(folder / second).joined
    assert found["images"] == 63 and found["held_out"] == 32 and found["epochs"] == found["epochs_asked"] == 3
    assert len(found["history"]) == 4 and found["history"] == trained.history
    assert trained.history[: before.epoch + 1] == before.history
    assert json.loads((folder / "result.json").read_text()) == found
    assert not list(temporary.iterdir()), "TensorFlow left files"
    assert_files_of_two_branches(files, found, [Progress.load(folder / name) for name in (first, second)])
    (tmp_path / TUNED).write_bytes(files[TUNED])
    assert build_artifact(request.named(), weights=str(tmp_path / TUNED)).n_features == 2 * 1280


def assert_files_of_two_branches(files: dict[str, bytes], found: dict[str, Any], ends: list[Progress]) -> None:
    assert all(end.joined == (1 if end.best_epoch else 0) for end in ends)
    assert found["joined"] == max(end.joined for end in ends) and bool(files[JUDGED]) is bool(found["joined"])
    assert found["branches"] == found["branches_asked"] == 2 and 0 <= found["together"]["accuracy"] <= 1
    assert len(files[TUNED]) > 10_000_000
    head = Head.from_bytes(files[TRAINED_HEAD])
    assert head.labels == ["green", "red"] and head.linear.weights.shape == (2, 2 * 1280)
    if found["joined"]:
        judged = Judged.from_bytes(files[JUDGED])
        assert judged.features.shape == (2, 63, 2 * 1280) and judged.held_out_features.shape == (32, 2 * 1280)
        one, other = np.split(judged.held_out_features, 2, axis=1)
        assert not np.array_equal(one, other)


def test_a_further_branch_is_begun_only_if_all_of_it_fits(tmp_path: Path) -> None:
    def trained(name: str, most_seconds: float, *, whole: bool, epoch_seconds: float = 10.0) -> Progress:
        trainer, took = small_trainer(), [0.0]
        trainer.epoch_seconds = lambda: epoch_seconds  # type: ignore[method-assign]

        def seconds() -> float:
            took[0] += 10.0
            return took[0]

        return train(
            trainer,
            4,
            tmp_path / name,
            most_seconds=most_seconds,
            seconds=seconds,
            done=lambda _: None,
            saved=lambda: None,
            whole=whole,
        )

    short = trained("first", 45, whole=False)
    assert short.epochs == short.epoch == 2
    assert not trained("second", 45, whole=True).is_done and not (tmp_path / "second").exists()
    assert trained("third", 1000, whole=True).is_done
    slower = trained("fourth", 35, whole=True, epoch_seconds=1.0)  # than a first batch told
    assert not slower.is_done and (tmp_path / "fourth").exists()


def small_trainer(parts: int = 3) -> Trainer:
    """Return the same trainer each time, of 960 images and 64 held out."""
    import keras

    random = np.random.default_rng(0)

    def seen(number: int) -> tuple[Activations, np.ndarray]:
        """Return what no linear probe tells apart: whether two channels are of one sign."""
        rows = random.normal(size=(number, 2, 2, 2, 6))
        signs = random.choice([-1, 1], (number, 2))
        rows[..., :2] += signs[:, None, None, None]
        return Activations(rows.astype(np.float16), np.arange(number)), (signs[:, 0] == signs[:, 1]).astype(np.intp)

    (training, classes), (held_out, held_classes) = seen(960), seen(64)
    held_classes[:3] = -1  # a label that training images do not have
    keras.utils.set_random_seed(0)  # the same blocks
    inputs = keras.Input((2, 2, 6))
    computed = keras.layers.Dense(8, activation="relu")(inputs)
    added = keras.layers.Add()([keras.layers.Dense(8, activation="relu")(computed), computed])
    tail = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(added))
    return Trainer(tail, training, classes, held_out, held_classes, joining=held_out, seed=1, parts=parts)


@pytest.mark.parametrize(("name", "alpha", "sums"), [("EfficientNetLite0", 1.0, 3), ("MobileNetV2", 0.35, 2)])
def test_a_block_is_left_out_by_its_factor(name: str, alpha: float, sums: int) -> None:
    import keras

    keras.utils.set_random_seed(0)
    backbone = find(name, alpha=alpha, input_size=96)
    model, _ = keras_model(backbone, locate(backbone, "random", seed=0))
    _, tail, _ = divided(model, backbone)
    deep, blocks = with_factors(tail)
    assert blocks == sums
    rows = np.random.default_rng(0).random((3, *tail.input.shape[1:]), np.float32)
    factors = np.ones((3, blocks), np.float32)
    whole = np.asarray(tail(rows))
    np.testing.assert_allclose(np.asarray(deep([rows, factors])), whole, atol=1e-5)
    factors[1] = 0
    found = np.asarray(deep([rows, factors]))
    np.testing.assert_allclose(found[[0, 2]], whole[[0, 2]], atol=1e-5)
    # As if its last convolutions computed nothing: what a block gets is what it gives.
    for layer in tail.layers:
        if isinstance(layer, keras.layers.Add):
            later = max(layer.input, key=lambda each: tail.layers.index(each._keras_history.operation))
            normalized = later._keras_history.operation
            normalized.set_weights([np.zeros_like(values) for values in normalized.get_weights()])
    np.testing.assert_allclose(found[1], np.asarray(tail(rows))[1], atol=1e-5)


def test_blocks_are_left_out_more_often_the_later_they_are() -> None:
    trainer = small_trainer()
    trainer._blocks = 5
    factors = np.concatenate([trainer._left(np.random.default_rng(n))[0] for n in range(200)])
    np.testing.assert_allclose((factors == 0).mean(axis=0), [0.04, 0.08, 0.12, 0.16, 0.2], atol=0.02)
    np.testing.assert_allclose(factors.mean(axis=0), np.ones(5), atol=0.02)


def test_some_batches_are_mixtures(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, truths = small_trainer(), list[np.ndarray]()
    monkeypatch.setattr(trainer, "_step", lambda _rows, _factors, _kept, truth: truths.append(truth))
    trainer.epoch(trainer.begin(4, lambda _: None), lambda _: None)
    shares = [bool((truth.max(axis=1) < 1).any()) for truth in truths]
    assert len(shares) == 30 and 8 <= sum(shares) <= 22
    assert all(truth.sum(axis=1) == pytest.approx(1) for truth in truths)


def test_a_batch_in_parts_is_learned_from_as_a_whole_one() -> None:
    ends = []
    for parts in (1, 3, 40):  # some of which are empty
        trainer = small_trainer(parts)
        progress = trainer.begin(4, lambda _: None)
        trainer.epoch(progress, lambda _: None)
        ends.append(progress.weights)
    for found in ends[1:]:
        for weights, whole in zip(found, ends[0], strict=True):
            np.testing.assert_allclose(weights, whole, rtol=1e-3, atol=1e-5)


def test_images_held_out_are_trained_on_in_the_end_and_judge_the_network_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that is cut off goes on in either phase, and comes to the same weights."""
    monkeypatch.setattr("orchard.tuning.training.RATE", 0.02)  # few steps

    class Stopped(Exception):
        pass

    def trained(path: Path, stop_after: int) -> tuple[Trainer, Progress]:
        """Train, cut off after so many epochs of each try."""
        while True:
            left, found = [stop_after], small_trainer()

            def saved(left: list[int] = left) -> None:
                left[0] -= 1
                if not left[0]:
                    raise Stopped

            try:
                return found, train(
                    found, 4, path, most_seconds=600.0, seconds=lambda: 0.0, done=lambda _: None, saved=saved
                )
            except Stopped:
                continue

    ends = []
    for stop_after in (100, 2, 1):
        found, progress = trained(tmp_path / f"{stop_after}.npz", stop_after)
        assert found.joined_images == 61
        assert progress.is_done and progress.best_epoch and (progress.epoch, progress.joined) == (4, 1)
        assert len(progress.history) == 5, "images held out say nothing of an epoch that trains on them"
        judging = found.head
        paths = [
            pa.chunked_array([[f"{split}/{n}" for n in range(number)]]) for split, number in (("a", 960), ("b", 64))
        ]
        judged = process.judged_by(found, ["same", "other"], *paths)
        assert judged.features.shape == (2, 960, 8) and len(judged.trained) == 960
        assert judged.held_out_features.shape == (64, 8) and len(judged.held_out) == 64
        right = judged.head.linear(judged.held_out_features).argmax(axis=1) == found._held_out_classes
        assert right[3:].mean() >= progress.history[progress.best_epoch]["accuracy"] - 0.1
        found.keep_last(progress)
        ends.append([*progress.weights, *progress.best])
        assert not np.array_equal(found.head.weights, judging.weights)
        found.keep_best(progress)
        np.testing.assert_array_equal(found.head.weights, judging.weights)
    for other in ends[1:]:
        for weights, others in zip(ends[0], other, strict=True):
            np.testing.assert_array_equal(weights, others)
    assert Progress(8, 8, best_epoch=0, joining=2).is_done, "no epoch has made it better"
