"""Compares the kinds that files' names mention with those that are found on the pictures: recall and precision.

Names are read as people write them, and as Fruits-360 names its pictures of several fruits::

    apple_apricot_peach(flat)2.jpg  ->  Apple, Apricot, Peach
    Bananas(lady_finger)1.jpg       ->  Banana

Case, number and order of words do not matter. A word in brackets is a variety, which a kind does not need. A picture
whose name has a word that the model does not know is not measured, because its name does not say what else it shows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from orchard.inference.model import Model

if TYPE_CHECKING:
    from orchard.inference.predict import Answered

_LONGEST = 4  # words of a name of the model
_PART = re.compile(r"([^\W\d_]+)|\(([^()]*)\)")


@dataclass(frozen=True)
class Named:
    """The things that a file's name mentions.

    Attributes:
        things: for each thing, the names that the model may have for it: one, unless the model's labels distinguish
            varieties and the name does not.
        unknown: words that are no name of the model, as they are written.
    """

    things: frozenset[frozenset[str]]
    unknown: tuple[str, ...] = ()


@dataclass
class Tally:
    """Counts of things on pictures, and of things found there; each counts once for each picture."""

    pictures: int = 0
    there: int = 0
    found: int = 0
    """Number of the present things that were found."""
    said: int = 0
    right: int = 0
    """Number of the answered things that are present."""

    @property
    def recall(self) -> float | None:
        """Share of the present things that are found, 0..1; None: nothing is present."""
        return self.found / self.there if self.there else None

    @property
    def precision(self) -> float | None:
        """Share of the answered things that are present, 0..1; None: nothing was answered."""
        return self.right / self.said if self.said else None

    def add(self, there: Iterable[Collection[str]], said: Collection[str]) -> None:
        """Count a picture, given the names that each thing on it may have, and the answered names."""
        things = [set(names) for names in there]
        self.pictures += 1
        self.there += len(things)
        self.found += sum(not names.isdisjoint(said) for names in things)
        self.said += len(set(said))
        self.right += len(set(said) & set().union(*things))


@dataclass
class Measured:
    """Recall and precision of a model on pictures whose names say what they show."""

    tally: Tally = field(default_factory=Tally)
    unread: int = 0
    """Pictures whose names cannot be read."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Words that the model does not know -> names of pictures that have them."""

    def taken(self, vocabulary: Vocabulary, answers: Iterable[Answered]) -> Iterator[Answered]:
        """Yield answers with ``regions`` unchanged, and count them; a rejected image does not count."""
        for answer in answers:
            if "regions" in answer:
                named = vocabulary.read(answer["path"])
                if named.unknown or not named.things:
                    self.unread += 1
                    self.unknown.update(set(named.unknown))
                else:
                    self.tally.add(named.things, {seen["name"] for seen in answer["regions"]})
            yield answer

    def as_json(self) -> dict[str, Any]:
        """Return it as values for JSON."""
        tally = self.tally
        return {
            "pictures": tally.pictures,
            "recall": tally.recall,
            "precision": tally.precision,
            "there": tally.there,
            "found": tally.found,
            "said": tally.said,
            "right": tally.right,
            "unread": self.unread,
            "unknown": dict(self.unknown.most_common()),
        }

    def __str__(self) -> str:
        tally = self.tally
        lines = [f"names      {tally.pictures:,} can be read, {self.unread:,} cannot"]
        if tally.recall is not None:
            lines.append(
                f"recall     {tally.recall:.1%}: {tally.found:,} of {tally.there:,} kinds that are there are found"
            )
        if tally.precision is not None:
            lines.append(
                f"precision  {tally.precision:.1%}: {tally.right:,} of {tally.said:,} kinds that are said are there"
            )
        if self.unknown:
            lines.append(f"not known  {', '.join(f'{word} ({count})' for word, count in self.unknown.most_common())}")
        return "\n".join(lines)


class Vocabulary:
    """The words that a model knows: its kinds, and its labels as words for their kinds; without kinds, its labels.

    Args:
        model: the model whose `orchard.inference.regions` are measured.
    """

    def __init__(self, model: Model) -> None:
        self._names: dict[tuple[str, ...], set[str]] = {}
        self._first: dict[str, set[str]] = {}
        kinds = model.kinds
        for place, label in enumerate(model.labels):
            name = label if kinds is None else kinds.of_label(place)
            if name is not None:
                self._names.setdefault(_words(label), set()).add(name)
            if kinds is None and _words(label):
                self._first.setdefault(_words(label)[0], set()).add(label)
        # A kind's own name stands for it alone, though a label is called so, too.
        self._names |= {_words(kind): {kind} for kind in (kinds.names if kinds is not None else ())}
        self._names.pop((), None)

    def read(self, path: str) -> Named:
        """Return the things that a file's name mentions."""
        stem = re.sub(r"\.\w{1,5}$", "", PurePosixPath(path).name)
        parts = [(word, _words(variety)) for word, variety in _parts(stem)]
        things: set[frozenset[str]] = set()
        unknown: list[str] = []
        while parts:
            length, names = self._longest(parts)
            if names:
                things.add(frozenset(names))
            else:
                unknown.append(parts[0][0])
            parts = parts[length:]
        return Named(frozenset(things), tuple(unknown))

    def _longest(self, parts: list[tuple[str, tuple[str, ...]]]) -> tuple[int, set[str]]:
        """Return the length of the longest known name that the parts begin with, and the names that it stands for."""
        for length in range(min(_LONGEST, len(parts)), 0, -1):
            words = tuple(_singular(word) for word, _ in parts[:length])
            variety = parts[length - 1][1]
            for key in (words + variety, variety + words, words):
                if names := self._names.get(key):
                    return length, names
        return 1, self._first.get(_singular(parts[0][0]), set())


def _parts(stem: str) -> Iterator[tuple[str, str]]:
    """Yield each word, and what stands behind it in brackets."""
    word = None
    for found in _PART.finditer(stem):
        if found[1] is not None:
            if word is not None:
                yield word, ""
            word = found[1]
        elif word is not None:
            yield word, found[2]
            word = None
    if word is not None:
        yield word, ""


def _words(text: str) -> tuple[str, ...]:
    """Return the words of a name, each in the singular; numbers are none."""
    return tuple(_singular(word) for word in re.findall(r"[^\W\d_]+", text))


def _singular(word: str) -> str:
    """Return a word in small letters and, by the rules of English, in the singular: for names to agree, not to show."""
    word = word.casefold()
    for plural, singular in (("ies", "y"), ("oes", "o"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("ss", "ss")):
        if word.endswith(plural) and len(word) > len(plural) + 1:
            return word.removesuffix(plural) + singular
    return word.removesuffix("s") if len(word) > 2 else word
