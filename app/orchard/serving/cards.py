"""Cards in answers: whether a request asks for them, and in which language."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import parse_qs

from orchard.cards import Card, Cards, language_tag
from orchard.serving.negotiation import weighed
from orchard.serving.problems import Problem, Refusal

CardOf = Callable[[str | None, str | None], Card | None]
"""Function from label and kind (None if not sure) to their card."""

MAX_LANGUAGES = 10


def requested(cards: Cards, query: bytes, headers: Iterable[tuple[bytes, bytes]]) -> CardOf | None:
    """Return a function that finds cards in the language that a request asks for; None if it asks for no cards.

    ``?cards=fr`` asks for them in French, and ``?cards`` in the languages of ``Accept-Language``.

    Args:
        cards: the model's cards.
        query: the request's query string, as bytes of ASGI.
        headers: the request's headers, as pairs of bytes of ASGI.

    Raises:
        Problem: ``cards`` is no language.
    """
    if b"cards" not in query:
        return None
    given = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("cards")
    if given is None:
        return None
    text = given[0].strip() if len(given) == 1 else "?"
    if text:
        tag = language_tag(text)
        if tag is None:
            raise Problem(Refusal.BAD_PARAMETER, "cards is a language such as fr or pt-BR, or empty.")
        languages = [tag]
    else:
        languages = accepted(b",".join(value for name, value in headers if name == b"accept-language"))

    def card_of(label: str | None, kind: str | None) -> Card | None:
        return cards.find(label, kind, languages)

    return card_of


def accepted(header: bytes) -> list[str]:
    """Return the languages of an ``Accept-Language`` header, the preferred first; invalid ones are left out."""
    found: list[tuple[float, str]] = []
    for item in header.decode("latin-1").split(",")[:MAX_LANGUAGES]:
        text, quality = weighed(item)
        if quality is not None and (tag := language_tag(text)) is not None:
            found.append((quality, tag))
    return [tag for share, tag in sorted(found, key=lambda pair: -pair[0]) if share > 0]
