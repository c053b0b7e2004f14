"""A setting as text: its flag, its variable, its value, and the words of a command line."""

from collections.abc import Iterator, Mapping

from orchard.redaction import is_secret

PREFIX = "ORCHARD_"


def flag_of(name: str) -> str:
    """Return the flag of a setting: ``--task-images`` of ``task_images``."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """Return the variable of a setting: ``ORCHARD_TASK_IMAGES`` of ``task_images``."""
    return PREFIX + name.upper()


def as_text(name: str, value: object) -> str:
    """Return a setting's value as text: for its variable, its flag, and its default in the help."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):  # JSON knows lists alone
        return ",".join(map(str, value))
    if name == "max_rejected" and isinstance(value, float):
        return f"{100 * value:.12g}%"
    return str(value)


def command_line(given: Mapping[str, object]) -> Iterator[tuple[str, ...]]:
    """Yield each flag with its value, if it takes one, that gives a command these settings; what is secret is left out.

    Args:
        given: values by the settings' names, as they are or as they come out of JSON.
    """
    for name, value in given.items():
        if is_secret(name):
            continue
        if isinstance(value, bool):
            if value:
                yield (flag_of(name),)
        elif isinstance(value, Mapping):
            yield from ((flag_of(name), f"{key}={item}") for key, item in value.items() if not is_secret(str(key)))
        else:
            yield flag_of(name), as_text(name, value)
