"""Orchard: from a large collection of images to features, a reduced table, measured classifiers and a model."""

from orchard.api import (
    classify,
    compare,
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
from orchard.errors import OrchardError

__all__ = [
    "OrchardError",
    "classify",
    "compare",
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
