"""What an image's folder says: its label and its split."""

import re
from collections.abc import Iterable

import pyarrow as pa

from orchard.layout import Split

_SPLITS = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "test": Split.TEST,
    "testing": Split.TEST,
    "val": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "validation": Split.VALIDATION,
}


def split_named(name: str) -> Split | None:
    """The split of a folder or column value such as ``Training``; None for any other name."""
    return _SPLITS.get(name.strip().lower())


def place(root: str, folder: str) -> tuple[str | None, str | None]:
    """Label and split of the images in ``folder``, a path relative to the source's root.

    The label is the folder's name, or the ``root``'s for images that lie in the root itself; a split's name is
    no label. The split is the nearest folder above the label, inside the source, that is named like one.
    """
    parts = folder.split("/") if folder else []
    label = parts[-1] if parts else root
    above = parts if split_named(label) else parts[:-1]
    split = next((found for part in reversed(above) if (found := split_named(part))), None)
    return (None if not label or split_named(label) else label), split


def places(root: str, keys: Iterable[str]) -> tuple[pa.Array, pa.Array]:
    """Labels and splits (both string, one per key) of files at ``keys``, relative to the source's root."""
    known: dict[str, tuple[str | None, str | None]] = {}
    labels, splits = [], []
    for key in keys:
        folder = key.rpartition("/")[0]
        found = known.get(folder)
        if found is None:
            found = known[folder] = place(root, folder)
        labels.append(found[0])
        splits.append(found[1])
    return pa.array(labels, pa.string()), pa.array(splits, pa.string())


_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".JPEG", ".png", ".PNG", ".webp")
_NO_IMAGE = re.compile(
    r"(licen[cs]e|copying|readme|notice|changelog|authors|\.ds_store|thumbs\.db|desktop\.ini|_success"
    r"|\.gitignore|\.gitattributes|\.gitkeep|\.directory|\._.*|.*\.crc)(\..*)?"
    r"|.*\.(txt|md|rst|csv|tsv|json|jsonl|ndjson|xml|ya?ml|toml|ini|cfg|log|parquet|avro|orc|arrow|npy|npz"
    r"|pkl|pickle|mat|h5|hdf5|py|ipynb|sh|r|js|css|html?|pdf|docx?|xlsx?|pptx?|zip|tar|gz|tgz|bz2|xz|zst|7z|rar"
    r"|db|sqlite|md5|sha256|tfrecords?|mp4|avi|mov|mkv|mp3|wav|pt|pth|onnx|url|lnk|bak|tmp|part|aria2)",
    re.IGNORECASE,
)


def doubtful(key: str) -> bool:
    """Whether the file's name is known for other things than images, so that its content has to tell."""
    if key.endswith(_IMAGE_SUFFIXES) and "/._" not in f"/{key}":  # nearly every file; the pattern takes longer
        return False
    return _NO_IMAGE.fullmatch(key, key.rfind("/") + 1) is not None
