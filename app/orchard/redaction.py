"""Hides secrets in settings, commands, URLs, errors and logs, by one rule, and characters that steer a terminal.

Secrets are told by names (``fs.s3a.secretKey``) and by the looks of values (``https://user:password@host``); in doubt
one is hidden.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "••••••"

# Control characters, the ends of lines and paragraphs, and what turns the direction of writing.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SECRET_NAME = re.compile(
    # Parts of a word tell it, words without spaces between them too; `keyboard`, `tokenizer`, `secretary` are none.
    r"secret(?!ar)|webhook|passw(?:or)?d|passwort|passphrase|credential|signature|bearer|token(?!i[sz])|connection_?string"
    r"|(?:access|account|api|auth|encryption|master|private|secret|shared|signing|ssh|storage)_?key(?!b|_?(?:size|length|type))"
    # What is short must be a word by itself: `passenger`, `author`, `sasha` are none.
    r"|(?<![a-z])(?:pass|pwd|o?auth|authorization|cookie|jwt|sas|sig)(?![a-z])"
)

_TEXTS = [
    (re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL), HIDDEN),
    # user:password@ in a URL; a port and a path with an @ are none.
    (
        re.compile(r"(?<=://)[^\s/@:?#]{0,500}+:(?!\d{1,5}(?:[/?#]|$))[^\s@?#]{0,500}@(?:[^\s/@?#]{0,500}@)?"),
        f"{HIDDEN}@",
    ),
    (
        re.compile(r"\b((?:Proxy-)?Authorization[\"']?\s*[:=]\s*[\"']?)(?:\w+\s+)?[^\s\"',;]+", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\b([Bb]earer\s+)(?=\S*\d)[\w.~+/=-]{16,}"), rf"\1{HIDDEN}"),
    # Keys that tell by their look whose they are: AWS, GitHub, Slack, Google; JSON web tokens.
    (re.compile(r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b"), HIDDEN),
    (re.compile(r"\b(?:gh[opsur]_|github_pat_|xox[abeprs]-|AIza)[\w-]{16,}"), HIDDEN),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), HIDDEN),
]
# All that the patterns look for has one of these; most lines of a log have none.
_SIGN = re.compile(r"=|://|[\"\x27]\s{0,9}:|uthorization|-----|\b(?:A[A-Z]{3}|AIza|gh\w_|github|xox|eyJ|[Bb]earer)")
# name=value as a shell quotes it, in queries, connection strings and properties; "name": "value" in JSON and Python.
_PAIRS = [
    re.compile(r"((?P<mark>[\"'])(?P<name>[\w.%-]{1,200}+)=)(?:(?!(?P=mark)).)*+"),
    re.compile(r"((?<![\w.%-])(?P<name>[\w.%-]{1,200}+)=)(?:\\?\"[^\"]*+|'[^']*+|[^\s&;,\"'#\\]++)"),
    re.compile(
        r"((?P<quote>\\?[\"'])(?P<name>[\w.-]{1,200}+)(?P=quote)\s{0,9}:\s{0,9}(?P<mark>\\?[\"']))"
        r"(?:(?!(?P=mark))(?:\\.|[^\\]))*+"
    ),
]


@functools.lru_cache(1024)
def is_secret(name: str) -> bool:
    """Whether the value of this name (a setting, Spark property, variable, part of a query) is secret."""
    words = re.sub(r"[^a-z0-9]+", "_", _HUMP.sub("_", name).lower())
    return _SECRET_NAME.search(words) is not None


def redacted(text: str) -> str:
    """Return `text` with everything hidden that looks like a secret."""
    if not _SIGN.search(text):
        return text
    for pattern, instead in _TEXTS:
        text = pattern.sub(instead, text)
    for pairs in _PAIRS:
        text = pairs.sub(lambda found: f"{found[1]}{HIDDEN}" if is_secret(found["name"]) else found[0], text)
    return text


def printable(text: str) -> str:
    """Return text for a line of a terminal: what would end the line, or steer the terminal, is shown as its escape."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def without_secrets(value: Any, name: str = "") -> Any:
    """Return a value for JSON (a mapping, list, text, number) without secrets; `name` is the value's name."""
    if value is None or isinstance(value, bool):
        return value
    if is_secret(name):
        return HIDDEN
    if isinstance(value, Mapping):
        return {key: without_secrets(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return redacted(value) if isinstance(value, str) else value
