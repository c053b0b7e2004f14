"""The stage from an output's images to a tuned backbone, with which features are then extracted.

What has been trained is kept as a checkpoint beside the commits, where the next start finds it, on whatever machine;
activations lie in the cache of this one. The commit that brings the weights drops what the network of before has made,
if there is any, and keeps what was listed until it is featurized again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchard.errors import InputError, OutputDamaged, StorageError
from orchard.features.backbones import find
from orchard.features.conversion import cache_folder
from orchard.features.stage import identity_before, refuse_changes
from orchard.features.weights import brought
from orchard.files import digest_of, parquet_bytes
from orchard.layout import (
    BACKBONE,
    DERIVED,
    FEATURIZED,
    FORGOTTEN,
    INVENTORY,
    LISTING,
    PARTS,
    TO_DO_AGAIN,
    TUNED,
    TUNING,
    Dataset,
)
from orchard.machine import available_cores
from orchard.output import Output
from orchard.progress import stage
from orchard.scratch import within
from orchard.settings import Settings
from orchard.stages import key_of
from orchard.tuning import process
from orchard.tuning.blocks import last_kept
from orchard.tuning.images import chosen
from orchard.vocabulary import Fit, Split

log = logging.getLogger(__name__)

VERSION = 5
"""Raise it when the same images begin to give another network: a checkpoint of before is then not gone on with."""
MOST_VIEWS, MOST_ACTIVATIONS = 8, 40_000
"""Views of each image, and how many there are in all: 2.8 GB on disk of EfficientNetLite2."""
_ABANDONED_SECONDS = 24 * 3600.0


def is_there(output: Output) -> bool:
    """Whether the output has a tuned network, or its weights."""
    return output.has_part(TUNED) or bool(output.recall("identity").get("tune") and output.has_part(BACKBONE))


def tune(output: Output, images: pa.Table, identity: dict[str, Any], settings: Settings) -> None:
    """Tune the network of a new output, before there are features.

    Args:
        output: held for writing.
        images: schema `LISTING`, every row with its split.
        identity: of the features that will be made.
        settings: of the run.

    Raises:
        OutputDamaged: it has features of a tuned network that is lost.
        UsageError: the backbone's blocks are not known.
        TrainingError: there is too little to train on.
        OrchardError: see `orchard.tuning.process.tune`.
    """
    if output.rows(Dataset.INVENTORY):
        raise OutputDamaged(
            f"{output.url} has lost its tuned backbone and that backbone's weights: start again with --fresh."
        )
    key = _key(images, identity, settings)
    files, metrics = _train(output, images, identity, settings, key)
    output.commit(
        {},
        properties={"tuning": {"key": key, "metrics": metrics}},
        parts=files,
    )
    _forget(output)


def tune_again(output: Output, settings: Settings) -> pa.Table | None:
    """Tune the network of an output that has features, from its first weights, and drop these features.

    What was tuned so already is left as it is.

    Returns:
        What is to be featurized by the tuned network, schema `LISTING`; None if that is done.

    Raises:
        InputError: there are no features.
        SettingsChanged: its views are of another seed.
        UsageError, TrainingError, OrchardError: as `tune`.
    """
    identity = identity_before(output)
    if output.has_part(TO_DO_AGAIN):
        return to_do_again(output)
    if not identity:
        raise InputError(f"{output.url} holds no features: start with orchard run SOURCE --output {output.url} --tune.")
    if output.recall("listing").get("listed") != output.rows(Dataset.INVENTORY):
        raise InputError(f"{output.url} has not all of its features yet: let orchard run go on first, then tune.")
    if "seed" in identity:
        refuse_changes(output, {"seed": settings.seed})
    inventory = output.read(Dataset.INVENTORY, [*LISTING.names, "featurized"], INVENTORY)
    images = inventory.select(LISTING.names).cast(LISTING)
    usable = images.filter(inventory["featurized"])
    key = _key(usable, identity, settings)
    # A first run tuned before it knew which images are rejected.
    if output.recall("tuning").get("key") in {key, _key(images, identity, settings)}:
        return None
    files, metrics = _train(output, usable, identity, settings, key)
    made_by_build = ("weights_digest", "n_features", "network", "calibration", "agreement")
    others = {name: value for name, value in identity.items() if name not in made_by_build}
    output.commit(
        {},
        replace=[*FEATURIZED, *DERIVED],
        remove=[file.name for file in output.files(PARTS) if file.name.endswith(f"/{BACKBONE}")],
        properties={
            **FORGOTTEN,
            "identity": others | {"tune": True},
            "tuning": {"key": key, "metrics": metrics, "before": _before(output)},
        },
        parts={**files, TO_DO_AGAIN: parquet_bytes(images).to_pybytes()},
    )
    _forget(output)
    return images


def done_again(output: Output) -> None:
    """Forget what was to be featurized again, once it is."""
    output.commit({}, remove=[file.name for file in output.files(PARTS) if file.name.endswith(f"/{TO_DO_AGAIN}")])


def to_do_again(output: Output) -> pa.Table | None:
    """Return what is to be featurized by the tuned network, schema `LISTING`; None if that is done."""
    content = output.part(TO_DO_AGAIN)
    if content is None:
        return None
    found = pq.read_table(pa.BufferReader(content))  # an earlier version may have written it, without some columns
    return (
        pa.concat_tables([LISTING.empty_table(), found], promote_options="default").select(LISTING.names).cast(LISTING)
    )


def _before(output: Output) -> dict[str, float]:
    """Return the accuracy on test images that each classifier had with the earlier network."""
    found = output.recall("classification").get("classifiers", {})
    return {name: measured["accuracy"] for name, measured in found.items()}


def _key(images: pa.Table, identity: dict[str, Any], settings: Settings) -> str:
    rows = images.select(["path", "label", "split", "version", "size"]).sort_by("path")
    made_of = {name: identity[name] for name in ("backbone", "weights", "alpha", "input_size", "fit")}
    # Named where they are not the default, as networks that were tuned by the default are to keep their key.
    usual = {"test_views": 1, "transform": "none"}
    made_of |= {name: identity[name] for name in usual if identity.get(name, usual[name]) != usual[name]}
    if settings.tune_branches > 1:
        made_of["branches"] = settings.tune_branches
    asked = (settings.tune_images, settings.tune_epochs, settings.tune_minutes, settings.seed, settings.fit_validation)
    return key_of(VERSION, digest_of(parquet_bytes(rows)), made_of, asked)


def _train(
    output: Output, images: pa.Table, identity: dict[str, Any], settings: Settings, key: str
) -> tuple[dict[str, bytes], dict[str, Any]]:
    backbone = find(identity["backbone"], alpha=identity["alpha"], input_size=identity["input_size"])
    last_kept(backbone)
    training, held_out = chosen(images, most=settings.tune_images, seed=settings.seed)
    joins = _joins(held_out, identity, settings)
    folder = _scratch(output, key)
    folder.mkdir(parents=True, exist_ok=True)
    request = process.Request(
        backbone=backbone.name,
        alpha=backbone.alpha,
        input_size=backbone.input_size,
        weights=brought(backbone, identity["weights"], settings.s3_options()),
        seed=settings.seed,
        fit=Fit(identity["fit"]),
        views=views_of(training.num_rows + joins * held_out.num_rows),
        test_views=identity.get("test_views", 1),
        joins=joins,
        epochs=settings.tune_epochs,
        branches=settings.tune_branches,
        seconds=60 * settings.tune_minutes,
        threads=available_cores(),
        limits=settings.limits(),
        s3=settings.s3_options(),
    )

    save = partial(_keep_checkpoint, output, key)
    pictures = request.pictures(training.num_rows, held_out.num_rows)
    with within(folder, "ORCHARD_CACHE"), stage("tune", pictures) as advance:
        _bring_checkpoints(output, key, folder, settings.tune_branches)
        files, metrics = process.tune(request, training, held_out, folder, done=advance, saved=save)
    shutil.rmtree(folder, ignore_errors=True)
    first = metrics["history"][0]
    best = metrics.get("together") or metrics["history"][metrics["best_epoch"]]
    log.info(
        "tuned on %d images in %d epochs: of %d held out %.1f %% are right, before %.1f %%; in %d more on these, too",
        *(metrics["images"], metrics["epochs"], metrics["held_out"]),
        *(100 * best["accuracy"], 100 * first["accuracy"], metrics["joined"]),
    )
    if metrics["epochs"] < min(settings.tune_epochs, metrics["best_epoch"] + 1):
        log.warning("--tune-minutes %g was enough for %d epochs only", settings.tune_minutes, metrics["epochs"])
    if metrics.get("branches", 1) < settings.tune_branches:
        log.warning(
            "--tune-minutes %g was enough for %d of %d branches",
            *(settings.tune_minutes, metrics["branches"], settings.tune_branches),
        )
    return files, metrics


def _joins(held_out: pa.Table, identity: dict[str, Any], settings: Settings) -> bool:
    """Whether images held out are trained on in the end: where the classifiers' last fit takes them, too.

    Not where features are transformed, as what judges them then is not.
    """
    is_training = pc.all(pc.equal(held_out["split"], Split.TRAIN)).as_py()
    return (is_training or settings.fit_validation) and identity.get("transform", "none") == "none"


def views_of(images: int) -> int:
    """Return how many views are made of each of so many training images."""
    return int(np.clip(MOST_ACTIVATIONS // images, 1, MOST_VIEWS))


def _scratch(output: Output, key: str) -> Path:
    """Return the folder of this tuning's activations; remove abandoned folders of others."""
    folder = large_folder()
    for other in folder.glob("*"):
        if time.time() - max(map(_changed, [other, *other.glob("*")])) > _ABANDONED_SECONDS:
            shutil.rmtree(other, ignore_errors=True)
    return folder / key_of(output.url, key)


def _changed(file: Path) -> float:
    """Return when the file or folder was last changed, in seconds since 1970; 0 if it has gone since it was listed."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0


def large_folder() -> Path:
    """Return where activations may lie: in the cache, or, where that is a part of the image, among temporary files.

    Raises StorageError if another user has taken its name there.
    """
    folder = cache_folder() / "tuning"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        return folder
    folder = Path(tempfile.gettempdir()) / f"orchard-tuning-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise StorageError(f"{folder} is another user's: name a folder of your own by the variable ORCHARD_CACHE.")
    return folder


def _keep_checkpoint(output: Output, key: str, name: str, checkpoint: bytes) -> None:
    """Put a checkpoint and its key into the output: in one file, as a kill would leave two of different epochs."""
    output.write(f"{TUNING}{name}", f"{key} {digest_of(checkpoint)}\n".encode() + checkpoint)


def _bring_checkpoints(output: Output, key: str, folder: Path, branches: int) -> None:
    """Put the output's checkpoints where the process looks for them, if they are of this key and whole."""
    found = 0
    for name in map(process.checkpoint_of, range(branches)):
        (folder / name).unlink(missing_ok=True)
        try:
            head, _, checkpoint = output.storage.read(f"{TUNING}{name}").partition(b"\n")
        except FileNotFoundError:
            continue
        if head == f"{key} {digest_of(checkpoint)}".encode():
            (folder / name).write_bytes(checkpoint)
            found += 1
    if found:
        log.info("going on with the tuning that was cut off")


def _forget(output: Output) -> None:
    output.storage.delete([entry.key for entry in output.storage.list(TUNING)])
