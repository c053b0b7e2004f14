"""The command that repeats a run, and its settings as the page shows them."""

import shlex
from collections.abc import Iterable, Mapping

from orchard.layout import Run
from orchard.redaction import HIDDEN, is_secret, redacted
from orchard.report.formatting import NOTHING
from orchard.settings import Settings
from orchard.settings_text import command_line

# Settings of how a run treats what is there already, and whom it tells: no part of what the results are.
_ONE_OFF = frozenset({"fresh", "prune", "retry_rejected", "metrics_port", "core_hour_price", "core_watts"})


def command(run: Run, **changed: object) -> str:
    """The shell command of a run, with the settings that differ from the defaults, one a line; some may be replaced."""
    sources = run.get("sources", [run["source"]])
    lines = [f"orchard run {' '.join(map(_quote, sources))}", f"--output {_quote(run['output'])}"]
    given = {}
    for name, value in (run["settings"] | changed).items():
        field = Settings.model_fields.get(name)
        if field is None or value is None or (name in _ONE_OFF and name not in changed):
            continue
        if _plain(value) != _plain(field.default):
            given[name] = value
    lines += [" ".join((flag, *map(_quote, values))) for flag, *values in command_line(given)]
    return " \\\n  ".join(lines)


def shown(value: object, name: str = "") -> str:
    """A setting's value as text, without anything that looks like a secret."""
    if value is None or value in ("", (), [], {}):
        return NOTHING
    if is_secret(name):
        return HIDDEN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={shown(item, str(key))}" for key, item in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(shown(item) for item in value)
    return redacted(str(value))


def _quote(text: str) -> str:
    return shlex.quote(redacted(text))


def _plain(value: object) -> object:
    """Return the value as JSON would bring it back."""
    return list(value) if isinstance(value, tuple) else value
