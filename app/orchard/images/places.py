"""Reads an image's label, kind and split from its folders."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from itertools import takewhile

import pyarrow as pa

from orchard.redaction import redacted
from orchard.vocabulary import Split

_WORDS = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "val": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "validation": Split.VALIDATION,
    "test": Split.TEST,
    "testing": Split.TEST,
}
# Names of people and things too: taken only beside a folder for training.
_WEAK_WORDS = {
    "trainval": Split.TRAIN,
    "dev": Split.VALIDATION,
    "development": Split.VALIDATION,
    "eval": Split.TEST,
    "evaluation": Split.TEST,
    "holdout": Split.TEST,
    "pred": Split.TEST,
    "predict": Split.TEST,
    "prediction": Split.TEST,
}
_NEUTRAL = r"(?:data)?sets?|data|splits?|folder|dir|files|images?|imgs?|photos?|pics?|pictures?"
_GLUED = re.compile(rf"({'|'.join([*_WORDS, *_WEAK_WORDS])})(?:{_NEUTRAL})")
_TOKEN = re.compile(r"[^\W\d_]+|\d+")
_NAMED = 3


@dataclass(frozen=True)
class _Hint:
    """What a folder's name suggests: a split, and how surely."""

    split: Split
    rest: tuple[str, ...]
    """The other words: of ``seg_train`` and ``seg_test`` they are the same."""
    is_sure: bool
    """Whether it is taken for a split alone, as ``Training`` or ``test_images``."""


def _hint(name: str) -> _Hint | None:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", name))
    tokens = _TOKEN.findall(re.sub(r"(?i)hold[\s_-]out", "holdout", spaced).lower())
    words: list[str] = []
    for token in tokens:
        glued = _GLUED.fullmatch(token)
        words.append(glued[1] if glued else token)
    splits = [word for word in words if word in _WORDS or word in _WEAK_WORDS]
    found = {_WORDS.get(word) or _WEAK_WORDS[word] for word in splits}
    if len(found) != 1:
        return None
    rest = tuple(w for w in words if w not in splits and not re.fullmatch(_NEUTRAL, w) and not w.isdecimal())
    split = found.pop()
    # Beside nothing to test on, train_images is all that there is: Orchard divides it.
    is_plain = tokens == splits if split is Split.TRAIN else not any(map(str.isdecimal, words))
    return _Hint(split, rest, is_sure=is_plain and not rest and splits[0] in _WORDS)


def split_named(name: str) -> Split | None:
    """The split that a column's value such as ``Training`` or ``dev`` names; None for any other."""
    hint = _hint(name)
    return hint.split if hint is not None and not hint.rest else None


@dataclass(frozen=True)
class Places:
    """Label, kind and split that folders give to the images in them."""

    labels: list[str | None]
    """The label of each folder, in Unicode's NFC."""
    kinds: list[str | None]
    """Likewise: the folder above the label."""
    splits: list[Split | None]
    label_warnings: list[str] = field(default_factory=list)
    """One sentence for each likely mistake in labels."""
    split_warnings: list[str] = field(default_factory=list)


class _Folders:
    """The folders of a source as a tree, and which of those below `top` are splits."""

    def __init__(self, folders: Sequence[str], top: str = "") -> None:
        self.top = top
        self.holding = set(folders)  # an image lies in it
        self.children: dict[str, set[str]] = defaultdict(set)
        for folder in folders:
            below = folder
            while below and below not in self.children[parent := below.rpartition("/")[0]]:
                self.children[parent].add(below)
                below = parent
        self.splits: dict[str, Split] = {}
        self.not_taken: list[str] = []
        self.as_labels: list[str] = []
        self.beside: list[str] = []
        pending: list[tuple[str, Split | None]] = [(top, None)]
        while pending:
            parent, inherited = pending.pop()
            self._level(sorted(self.children.get(parent, ())), inherited)
            pending += [(child, self.splits.get(child, inherited)) for child in self.children.get(parent, ())]

    def _level(self, siblings: list[str], inherited: Split | None) -> None:
        """Decide which of the folders in one folder are splits."""
        hints = {folder: hint for folder in siblings if (hint := _hint(_name(folder)))}
        if not hints:
            return
        others = [folder for folder in siblings if folder not in hints]
        is_divided = self._is_divided(hints)
        for folder, hint in hints.items():
            is_thing = hint.split is Split.TRAIN and others and all(map(self._is_leaf, [folder, *others]))
            is_repeated = hint.split == inherited and not others  # as in seg_train/seg_train
            if is_divided or is_repeated or (hint.is_sure and not is_thing):
                self.splits[folder] = hint.split
            elif inherited is None:
                (self.as_labels if hint.is_sure else self.not_taken).append(folder)
        if is_divided:
            self.beside += others

    def _is_divided(self, hints: dict[str, _Hint]) -> bool:
        """Whether there is training beside something else, by names that differ in that alone or are sure."""
        splits_of: dict[tuple[str, ...], set[Split]] = defaultdict(set)
        for hint in hints.values():
            splits_of[hint.rest].add(hint.split)
        if any(hint.is_sure and not self._is_leaf(folder) for folder, hint in hints.items()):
            splits_of[()] = set().union(*splits_of.values())
        return any(Split.TRAIN in splits and len(splits) > 1 for splits in splits_of.values())

    def _is_leaf(self, folder: str) -> bool:
        return folder in self.holding and folder not in self.children

    def classes(self, folder: str) -> tuple[str, ...]:
        """The names of the folders, from the source's root down to this one, that are no splits, nor named so above."""
        names = []
        while folder:
            is_above = f"{self.top}/".startswith(f"{folder}/")
            if folder not in self.splits and not (is_above and split_named(_name(folder))):
                names.append(unicodedata.normalize("NFC", _name(folder)))
            folder = folder.rpartition("/")[0]
        return tuple(reversed(names))

    def warnings(self) -> list[str]:
        """Warnings about folders that were perhaps not meant as they were read."""
        said = {
            "Folders that look like splits but have no counterpart beside them were not taken for such: {}; "
            "name them train, test or validation if they are.": self.not_taken,
            "Folders that look like splits but lie among labels were taken for labels: {}; "
            "put the labels into them if they are splits.": self.as_labels,
            "Folders beside splits that are none themselves are divided by Orchard: {}; "
            "move them into a split, or out of the source, if that is not meant.": self.beside,
        }
        return [sentence.format(_some(sorted(folders))) for sentence, folders in said.items() if folders]

    def split(self, folder: str) -> Split | None:
        """The nearest split on the way up from this folder."""
        while folder:
            if folder in self.splits:
                return self.splits[folder]
            folder = folder.rpartition("/")[0]
        return None


def places(root: str, folders: Sequence[str], level: int = 1, *, are_whole: bool = False) -> Places:
    """Label, kind and split of the images in each of the folders, which are paths relative to the source's root.

    If they `are_whole`, they are paths from the top, and what all of them share is above the source: no split.

    The label is made of the names of the last ``level`` folders that are no splits; of images that lie in the root
    itself it is the ``root``'s name, and in a split without folders there is none. The kind is the folder above
    (`_kind`). The split is the nearest folder that is named like one: by a plain word (``Training``, ``test_images``),
    or beside others that differ from it by that word alone (``seg_train`` and ``seg_test``).
    """
    folders = ["/".join(name for name in folder.split("/") if name not in _NAMELESS) for folder in folders]
    tree = _Folders(folders, shared_folder(folders) if are_whole else "")
    all_classes = [tree.classes(folder) for folder in folders]
    of_kinds = {classes[:depth] for classes in all_classes for depth in range(len(classes) - 1)}
    kinds = [_kind(classes, of_kinds, level) for classes in all_classes]
    labels: list[str | None] = []
    merged: dict[str, dict[tuple[str, ...], str]] = defaultdict(dict)
    for folder, classes in zip(folders, all_classes, strict=True):
        label = "/".join(classes[-level:]) or None
        if label:
            merged[label].setdefault(classes, folder)
        elif not folder and root and split_named(root) is None:
            label = unicodedata.normalize("NFC", root)
        labels.append(label)
    splits = [tree.split(folder) for folder in folders]
    return Places(labels, kinds, splits, _merged_labels(merged, level), tree.warnings())


def shared_folder(folders: Sequence[str]) -> str:
    """The last folder that holds all of these."""
    parts = [folder.split("/") for folder in folders]
    pairs = zip(min(parts, default=()), max(parts, default=()), strict=False)  # what these share, all do
    return "/".join(one for one, other in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _kind(classes: tuple[str, ...], of_kinds: Set[tuple[str, ...]], level: int) -> str | None:
    """The kind of what lies in a folder, of which ``classes`` are the names; None for a label in the root.

    It is the folder above: of ``Fruit/Apple/Golden`` Apple. But what lies beside a folder of labels, as
    ``Fruit/Banana`` does beside ``Fruit/Apple``, is a kind without varieties, and so its own kind. Of a label of
    several folders the kind has all but the last, so that no label has two kinds.

    Args:
        classes: from the root down, without splits.
        of_kinds: the classes of every folder that holds folders of labels.
        level: folders that make a label.
    """
    above = classes[:-1]
    kind = classes if above in of_kinds else above
    return "/".join(kind[-max(level - 1, 1) :]) or None


def _merged_labels(folders_of: dict[str, dict[tuple[str, ...], str]], level: int) -> list[str]:
    several = {label: sorted(folders.values()) for label, folders in folders_of.items() if len(folders) > 1}
    if not several:
        return []
    label, folders = min(several.items())
    others = f" (and {len(several) - 1} more labels likewise)" if len(several) > 1 else ""
    return [
        f"{len(folders)} folders became one label {label!r}{others}: {_some(folders)}; "
        f"--label-level {level + 1} takes one more folder of the path into the label."
    ]


def placed(
    root: str, keys: Iterable[str], level: int = 1, *, are_whole: bool = False
) -> tuple[pa.Array, pa.Array, pa.Array, Places]:
    """Labels, kinds and splits (strings, one for each key) of files at ``keys``, and the `Places` of their folders."""
    numbers: dict[str, int] = {}
    at = pa.array([numbers.setdefault(key.rpartition("/")[0], len(numbers)) for key in keys], pa.int32())
    found = places(root, list(numbers), level, are_whole=are_whole)
    labels, kinds, splits = (
        pa.array(values, pa.string()).take(at) for values in (found.labels, found.kinds, found.splits)
    )
    return labels, kinds, splits, found


def _some(folders: list[str]) -> str:
    shown = ", ".join(folders[:_NAMED])
    return f"{shown} and {len(folders) - _NAMED} more" if len(folders) > _NAMED else shown


def _name(folder: str) -> str:
    return folder.rpartition("/")[2]


# Parts that the keys of objects may have, though no folder has such a name.
_NAMELESS = ("", ".", "..")
_IGNORED_FOLDERS = frozenset(
    ["@eadir", "@__thumb", "#recycle", "#snapshot", "__macosx", "__pycache__", "lost+found", "$recycle.bin", "recycler"]
)


def is_ignored(folder: str) -> bool:
    """Whether a folder of this name is left out: it is hidden, or an operating system made it for itself."""
    return (folder.startswith(".") and folder not in _NAMELESS) or folder.lower() in _IGNORED_FOLDERS


_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".JPEG", ".png", ".PNG", ".webp")
_ARCHIVE = re.compile(r"\.(?:zip|7z|rar|tgz|tbz2?|txz|tar(?:\.\w+)?)$", re.IGNORECASE)
_NO_IMAGE = re.compile(
    r"(licen[cs]e|copying|readme|notice|changelog|authors|\.ds_store|thumbs\.db|desktop\.ini|_success"
    r"|\.gitignore|\.gitattributes|\.gitkeep|\.directory|\._.*|.*\.crc)(\..*)?"
    r"|.*\.(txt|md|rst|csv|tsv|json|jsonl|ndjson|xml|ya?ml|toml|ini|cfg|log|parquet|avro|orc|arrow|npy|npz"
    r"|pkl|pickle|mat|h5|hdf5|py|ipynb|sh|r|js|css|html?|pdf|docx?|xlsx?|pptx?|zip|tar|gz|tgz|bz2|xz|zst|7z|rar"
    r"|db|sqlite|md5|sha256|tfrecords?|mp4|avi|mov|mkv|mp3|wav|pt|pth|onnx|url|lnk|bak|tmp|part|aria2)",
    re.IGNORECASE,
)


def has_image_suffix(key: str) -> bool:
    """Whether a file is named as images usually are."""
    return key.endswith(_IMAGE_SUFFIXES) and "/._" not in f"/{key}"


def doubtful(key: str) -> bool:
    """Whether the name is usual for something other than an image, so that the content has to be looked at."""
    if has_image_suffix(key):  # nearly every file; the pattern takes longer
        return False
    return _NO_IMAGE.fullmatch(key, key.rfind("/") + 1) is not None


def is_archive(key: str) -> bool:
    """Whether the name is that of an archive of files, which may be images."""
    return _ARCHIVE.search(key) is not None


def source_name(source: str) -> str:
    """The name of a source in an image's column ``source``: as it was given, without a slash at its end."""
    return redacted(source.rstrip("/") or source)
