"""Templates of the pages, and their filters."""

import functools

from jinja2 import Environment, PackageLoader, StrictUndefined

from orchard.classification.training import classifier_title
from orchard.report import figures, formatting, reproduce


@functools.cache
def environment() -> Environment:
    """The environment of the templates, which escapes every value."""
    made = Environment(
        loader=PackageLoader("orchard.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    made.filters.update(
        number=formatting.number,
        count=formatting.count,
        percent=formatting.percent,
        interval=formatting.interval,
        duration=formatting.duration,
        filesize=formatting.size,
        date=formatting.date,
        shorten=formatting.shorten,
        tail=formatting.tail,
        label_name=formatting.label_name,
        title=classifier_title,
        shown=reproduce.shown,
    )
    made.globals["cell_at"] = figures.cell_at
    return made


def source(name: str) -> str:
    """The text of a template's file."""
    made = environment()
    assert made.loader is not None
    return made.loader.get_source(made, name)[0]
