"""Whatever happens between Orchard and its object store, every image is there once, and the answers are the same."""

from typing import Any

import pytest

import orchard
from chaos_table import Note, seeds

from .conftest import SETTINGS, Result
from .proxy import FaultProxy, seeded

SHARE = 0.08
"""Of the requests that something happens to."""


def run(spark: Any, source: str, out: str, proxy: FaultProxy) -> None:
    orchard.run(spark, source, out, s3_endpoint=proxy.endpoint, s3_region="us-east-1", **SETTINGS)


@pytest.mark.parametrize("seed", seeds(2, 12))
def test_what_passes_is_not_noticed(
    spark: Any, s3_server: Any, source: str, undisturbed: Result, proxy: FaultProxy, note: Note, seed: int
) -> None:
    out = f"s3a://{s3_server.bucket()}/out"
    with proxy.faults(seeded(seed, SHARE)) as done:
        run(spark, source, out, proxy)
    assert done.total() >= 5
    Result(out, s3_server.options).assert_same(undisturbed)
    note("requests to the store disturbed, of every kind that passes", done.total(), "the run ends as undisturbed")
