"""Cards: facts about a label or a kind, in one language or several; they are part of the model.

They are written as a table (CSV), and kept and sent as JSON::

    {"cards": [{"label": "Apple Golden 3", "language": "en", "name": "Golden Delicious", "season": "October to April"},
               {"kind": "Apple", "language": "fr", "name": "Pomme"}]}
"""

from __future__ import annotations

import csv
import difflib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypedDict, cast
from urllib.parse import urlsplit

import pyarrow as pa

from orchard.delimited import decoded, read_table, rows
from orchard.errors import InputError
from orchard.files import digest_of
from orchard.layout import CARDS, INVENTORY, MODEL, NAMES, PARTS, CardMetrics, Dataset
from orchard.storage import DEFAULT_S3, S3Options

if TYPE_CHECKING:
    from orchard.output import Output

FIELDS = ("name", "text", "season", "storage", "origin", "link", "source", "licence")
"""Fields of a card; all but the first may be missing."""
COLUMNS = (*NAMES, "language", *FIELDS)
MAX_BYTES = 4 * 2**20
MAX_CARDS = 20_000
_MAX_CHARACTERS = {"text": 4_000, "link": 2_000}
_MAX_CHARACTERS_ELSE = 500
_FALLBACK = "en"
_LANGUAGE = re.compile(r"([A-Za-z]{2,3})((?:[-_][A-Za-z0-9]{2,8}){0,3})")
_NAMED = 5

Entries = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Name of a label or kind -> language -> field -> plain text, not HTML."""


class Card(TypedDict, total=False):
    """A card in an answer: its label or kind, its language, and the fields that are filled in."""

    label: str  # or:
    kind: str
    language: str  # BCP 47, such as fr or pt-BR
    name: str
    text: str
    season: str
    storage: str
    origin: str
    link: str  # http or https
    source: str
    licence: str


@dataclass(frozen=True)
class Cards:
    """The cards of a model."""

    labels: Entries = field(default_factory=dict)
    kinds: Entries = field(default_factory=dict)

    @classmethod
    def from_csv(cls, data: bytes, url: str) -> Self:
        """Return the cards of a table with the columns `COLUMNS`, by header, in any order.

        It is in UTF-8 or UTF-16, separated by commas, semicolons, tabs or bars. A row is about its label, or if that is
        empty about its kind.

        Args:
            data: the file.
            url: where it is, for errors.

        Raises:
            InputError: it is too large, no text or no such table; a row has no label and kind, language or name, a
                language or link that is none, a text that is too long, or the label (or kind) and language of another.
        """
        if len(data) > MAX_BYTES:
            raise InputError(f"cards {url} has more than {MAX_BYTES:,} bytes: shorten its texts.")
        found: dict[str, dict[str, dict[str, dict[str, str]]]] = {name: {} for name in NAMES}
        lines: dict[tuple[str, str, str], int] = {}
        try:
            given = rows(
                decoded(data),
                f"cards {url}",
                lambda names: {"name", "language"} <= names,
                partial(_check_columns, url=url),
            )
            for line, row in given:
                if len(lines) == MAX_CARDS:
                    raise InputError(f"cards {url} has more than {MAX_CARDS:,} rows: leave some out.")
                column, name, language, card = _read(row, f"cards {url}, line {line}")
                before = lines.setdefault((column, name, language), line)
                if before != line:
                    raise InputError(
                        f"cards {url}, line {line}: the {column} {name!r} has a card in {language!r} already, in line "
                        f"{before}: delete one of them."
                    )
                found[column].setdefault(name, {})[language] = card
        except UnicodeDecodeError as error:
            raise InputError(f"cards {url} cannot be read as UTF-8 ({error.reason}): save it so.") from error
        except (csv.Error, ValueError) as error:
            raise InputError(f"cards {url} cannot be read ({error}): save it as CSV.") from error
        return cls(found["label"], found["kind"])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return what `to_bytes` wrote. Raises ValueError or KeyError for anything else."""
        found: dict[str, dict[str, dict[str, dict[str, str]]]] = {column: {} for column in NAMES}
        for card in json.loads(data)["cards"]:
            column = "label" if "label" in card else "kind"
            says = {name: card[name] for name in FIELDS if name in card}
            found[column].setdefault(card[column], {})[card["language"]] = says
        return cls(found["label"], found["kind"])

    def to_bytes(self) -> bytes:
        """Return the cards as JSON, the same bytes for the same cards."""
        return json.dumps({"cards": self.as_list()}, ensure_ascii=False, separators=(",", ":")).encode()

    def as_list(self) -> list[Card]:
        """Return all cards, those of labels first, by name and language."""
        return [
            cast(Card, {column: name, "language": language, **languages[language]})
            for column, entries in zip(NAMES, (self.labels, self.kinds), strict=True)
            for name, languages in sorted(entries.items())
            for language in sorted(languages)
        ]

    def __len__(self) -> int:
        return sum(len(languages) for entries in (self.labels, self.kinds) for languages in entries.values())

    @property
    def languages(self) -> list[str]:
        """The languages of all cards, sorted."""
        entries = (*self.labels.values(), *self.kinds.values())
        return sorted({language for languages in entries for language in languages})

    def find(self, label: str | None, kind: str | None, languages: Sequence[str] = ()) -> Card | None:
        """Return the card of a label, or if it has none that of its kind; None if there is neither.

        Args:
            label: the label; None: it is not known.
            kind: the kind; None: it is not known. A card for a label of the same name counts, too.
            languages: the wanted languages, the preferred first, as `language_tag` writes them. If there is no card in
                one of them, or in a wider or narrower one (``fr-CA``, ``fr``, ``fr-BE``), it is in English, or else in
                any language.
        """
        for column, entries, name in (
            ("label", self.labels, label),
            ("kind", self.kinds, kind),
            ("kind", self.labels, kind),
        ):
            if name is not None and (present := entries.get(name)):
                language = _best(present, languages)
                return cast(Card, {column: name, "language": language, **present[language]})
        return None

    def covers(self, label: str | None, kind: str | None) -> bool:
        """Whether there is a card for them, in whatever language."""
        return self.find(label, kind) is not None


def read(url: str, s3: S3Options = DEFAULT_S3) -> Cards:
    """Return the cards of a table at a local path or ``s3a://`` URL.

    Raises:
        InputError: it is not there, or see `Cards.from_csv`.
        StorageError: it cannot be read.
    """
    return Cards.from_csv(read_table(url, "cards", MAX_BYTES, s3), url)


def language_tag(text: str) -> str | None:
    """Return a language tag as BCP 47 writes it (``fr``, ``pt-BR``, ``zh-Hant``); None if it is invalid."""
    found = _LANGUAGE.fullmatch(text.strip())
    if found is None:
        return None
    parts = found[2].replace("_", "-").split("-")[1:]
    cased = [part.title() if len(part) == 4 else part.upper() if len(part) == 2 else part.lower() for part in parts]
    return "-".join([found[1].lower(), *cased])


def remember(output: Output, cards: Cards | None) -> None:
    """Commit cards as a part for models, with their metrics; None: there are no cards."""
    data = None if cards is None else cards.to_bytes()
    found = None if cards is None else _compared(output, cards)
    present = {file.name: file.digest for file in output.files(PARTS) if file.name.endswith(f"/{CARDS}")}
    is_same = set(present.values()) == (set() if data is None else {digest_of(data)})
    if not is_same or output.property("cards") != found:
        output.commit(
            {},
            parts={CARDS: data} if data is not None and not is_same else {},
            remove=present if data is None else (),
            properties={"cards": found},
        )


def bring_to_model(output: Output) -> None:
    """Make a model of the committed cards and the existing classifiers, if the present model has other cards."""
    if output.model_folder is None:
        return
    wanted = [file.digest for file in output.files(PARTS) if file.name.endswith(f"/{CARDS}")]
    present = [file.digest for file in output.files(MODEL) if file.name == f"{output.model_folder}{CARDS}"]
    if wanted != present:
        files = output.classifier_files()
        files.pop(CARDS, None)  # of a model with cards, where there are none any more
        output.commit({}, model=output.stage_model(files))


def _compared(output: Output, cards: Cards) -> dict[str, Any]:
    """Return ``metrics`` and ``warnings`` of cards for the images of an output."""
    images = output.read(Dataset.INVENTORY, [*NAMES, "featurized"], INVENTORY)
    images = images.filter(images["featurized"])
    pairs = [(pair["label"], pair["kind"]) for pair in _distinct(images)]
    labels, kinds = ({pair[column] for pair in pairs} - {None} for column in (0, 1))
    without = sorted({label for label, kind in pairs if label is not None and not cards.covers(label, kind)})
    warnings = []
    if without:
        warnings.append(
            f"{len(without)} of {len(labels)} labels have no card: {_some(without)}; add rows to the cards."
        )
    unused = sorted({*(cards.labels.keys() - labels - kinds), *(cards.kinds.keys() - kinds)})
    if unused:
        warnings.append(f"Cards of names that no image has: {_some(unused)}; check how labels and kinds are spelled.")
    metrics: CardMetrics = {"cards": len(cards), "languages": cards.languages, "labels_without": without}
    return {"metrics": metrics, "warnings": warnings}


def _distinct(images: pa.Table) -> list[dict[str, str | None]]:
    pairs: list[dict[str, str | None]] = images.group_by(list(NAMES)).aggregate([]).to_pylist()
    return pairs


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _best(present: Mapping[str, object], wanted: Sequence[str]) -> str:
    """Return the language to answer in, of those that are present."""
    for tag in (*wanted, _FALLBACK):
        wider = tag
        while wider:
            if wider in present:
                return wider
            wider = wider.rpartition("-")[0]
        primary = tag.partition("-")[0]
        if narrower := sorted(language for language in present if language.partition("-")[0] == primary):
            return narrower[0]
    return min(present)


def _check_columns(columns: Sequence[str], url: str) -> None:
    if not columns:
        raise InputError(f"cards {url} is empty: give it a header with some of {', '.join(COLUMNS)}.")
    for column in columns:
        if column not in COLUMNS:
            near = difflib.get_close_matches(column, COLUMNS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COLUMNS)}."
            raise InputError(f"cards {url} has a column {_shown(column)!r}: {hint}")
        if columns.count(column) > 1:
            raise InputError(f"cards {url} has two columns {column!r}: delete one of them.")
    if not set(NAMES) & set(columns):
        raise InputError(f"cards {url} has no column 'label' or 'kind': say in one of them what each card is about.")
    for column in ("language", "name"):
        if column not in columns:
            raise InputError(f"cards {url} has no column {column!r}: every card needs it.")


def _read(row: Mapping[str, str], where: str) -> tuple[str, str, str, dict[str, str]]:
    """Return what a row is about (a column of `NAMES`, and the name), its language and its card."""
    texts = {column: text for column, cell in row.items() if (text := _text(column, cell, where))}
    about = next((column for column in NAMES if column in texts), None)
    if about is None:
        raise InputError(f"{where}: it has neither label nor kind: say what the card is about.")
    for column in ("language", "name"):
        if column not in texts:
            raise InputError(f"{where}: it has no {column}: fill it in, or delete the row.")
    language = language_tag(texts["language"])
    if language is None:
        raise InputError(f"{where}: {_shown(texts['language'])!r} is no language: write it as en, fr or pt-BR.")
    if "link" in texts:
        _check_link(texts["link"], where)
    return about, texts[about], language, {column: texts[column] for column in FIELDS if column in texts}


def _text(column: str, cell: str, where: str) -> str:
    """Return a cell's text in Unicode's NFC, with single spaces; a longer text keeps its lines."""
    lines = (" ".join(line.split()) for line in unicodedata.normalize("NFC", cell).splitlines())
    text = ("\n" if column == "text" else " ").join(lines).strip()
    most = _MAX_CHARACTERS.get(column, _MAX_CHARACTERS_ELSE)
    if len(text) > most:
        raise InputError(f"{where}: its {column} has {len(text):,} characters: {most:,} are the most.")
    if any(unicodedata.category(character) == "Cc" and character != "\n" for character in text):
        raise InputError(f"{where}: its {column} holds control characters: delete them.")
    return text


def _check_link(link: str, where: str) -> None:
    try:
        parts = urlsplit(link)
        is_link = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username
    except ValueError:
        is_link = False
    if not is_link or re.search(r"[\s\\<>\"]", link):
        raise InputError(f"{where}: {_shown(link)!r} is no link: give one that begins with https:// or http://.")


def _shown(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"
