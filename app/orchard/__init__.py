"""Orchard turns a large collection of images into features, a reduced table, measured classifiers and a model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from orchard.errors import OrchardError

if TYPE_CHECKING:
    from orchard.api import (
        classify,
        compare,
        erase,
        export,
        extract,
        plan,
        predict,
        read,
        reduce,
        results,
        run,
        start_spark,
        suspects,
        tune,
    )

__all__ = [
    "OrchardError",
    "classify",
    "compare",
    "erase",
    "export",
    "extract",
    "plan",
    "predict",
    "read",
    "reduce",
    "results",
    "run",
    "start_spark",
    "suspects",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for alone: `orchard watch` runs where there is neither Spark nor pyarrow."""
    if name in __all__:
        return getattr(import_module("orchard.api"), name)
    raise AttributeError(f"module 'orchard' has no attribute {name!r}")
