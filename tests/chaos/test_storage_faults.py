"""Whatever happens between Orchard and its object store, every image is there once, and the answers are the same."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import orchard
from chaos_table import TIMES, Note, seeds
from orchard.errors import OrchardError
from orchard.layout import COMMITS, Dataset

from .conftest import SETTINGS, Result
from .proxy import PASSING, Fault, FaultProxy, Request, seeded

SHARE = 0.08
"""Of the requests that something happens to."""


@dataclass(frozen=True)
class Bucket:
    """Runs from the bucket of drawn fruits to a new output, through the proxy."""

    spark: Any
    source: str
    out: str
    proxy: FaultProxy
    direct: Any

    def run(self) -> None:
        orchard.run(
            self.spark, self.source, self.out, s3_endpoint=self.proxy.endpoint, s3_region="us-east-1", **SETTINGS
        )

    def result(self) -> Result:
        return Result(self.out, self.direct)


@pytest.fixture
def bucket(spark: Any, s3_server: Any, source: str, proxy: FaultProxy) -> Bucket:
    return Bucket(spark, source, f"s3a://{s3_server.bucket()}/out", proxy, s3_server.options)


@pytest.mark.parametrize("seed", seeds(2, 12))
def test_what_passes_is_not_noticed(bucket: Bucket, undisturbed: Result, note: Note, seed: int) -> None:
    with bucket.proxy.faults(seeded(seed, SHARE)) as done:
        bucket.run()
    assert done.total() >= 5
    bucket.result().assert_same(undisturbed)
    for fault, times in done.items():
        note(f"request to the store: {fault}", times, "the run ends as undisturbed")


@pytest.mark.chaos
@pytest.mark.parametrize("fault", PASSING)
def test_much_of_one_kind_is_not_noticed(bucket: Bucket, undisturbed: Result, note: Note, fault: Fault) -> None:
    with bucket.proxy.faults(seeded(1, 0.25, [fault], in_a_row=2)) as done:
        bucket.run()
    bucket.result().assert_same(undisturbed)
    note(f"request to the store: {fault}", done.total(), "the run ends as undisturbed")


@pytest.mark.chaos
@pytest.mark.parametrize("seed", seeds(1, 8))
def test_wrong_answers_end_a_run_or_cost_nothing(bucket: Bucket, undisturbed: Result, note: Note, seed: int) -> None:
    """A store that says of what is there that it is missing, or refuses it now and then."""
    ends = 0
    with bucket.proxy.faults(seeded(seed, 0.03, [Fault.DENIED, Fault.MISSING, Fault.ERROR], in_a_row=1)) as done:
        for _ in range(2):
            try:
                bucket.run()
            except OrchardError as error:
                assert "\n" not in str(error)
                ends += 1
    bucket.run()
    bucket.result().assert_same(undisturbed)
    note(
        "request to the store: 403 or 404 for what is there", done.total(), "nothing lost, or one sentence and resumed"
    )


@pytest.mark.chaos
def test_an_object_that_is_denied_is_a_row_until_it_is_allowed(bucket: Bucket, undisturbed: Result, note: Note) -> None:
    path = random.Random(1).choice(undisturbed[Dataset.FEATURES]["path"].to_pylist())

    def deny(request: Request) -> Fault | None:
        return Fault.DENIED if request.method in ("GET", "HEAD") and path.endswith(request.path) else None

    with bucket.proxy.faults(deny) as done:
        bucket.run()
    assert done.total()
    rejected = bucket.result()[Dataset.REJECTED]
    assert path in rejected["path"].to_pylist()
    assert rejected.num_rows == undisturbed[Dataset.REJECTED].num_rows + 1
    bucket.run()
    bucket.result().assert_same(undisturbed)
    note("one object denied, then allowed", 1, "a row in rejected/, then done by the next start")


def at_once(_: FaultProxy) -> bool:
    return True


def in_the_middle(proxy: FaultProxy) -> bool:
    """Whether the output has its first commits."""
    return proxy.seen(f"{COMMITS}00000002")


@pytest.mark.chaos
@pytest.mark.parametrize("moment", [at_once, in_the_middle])
def test_an_outage_is_waited_for(
    bucket: Bucket, undisturbed: Result, note: Note, moment: Callable[[FaultProxy], bool]
) -> None:
    seconds = 6 if TIMES == 1 else 75
    bucket.proxy.paths.clear()
    with bucket.proxy.outage(lambda: moment(bucket.proxy), seconds):
        bucket.run()
    assert bucket.proxy.refused
    bucket.result().assert_same(undisturbed)
    note(f"no store for {seconds} s, {moment.__name__.replace('_', ' ')}", 1, "the run waits, and ends as undisturbed")
