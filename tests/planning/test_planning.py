"""A plan knows every stage, follows from what is measured, and says how sure it is; a run sets it beside what came."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from orchard import memory
from orchard.classification.training import chosen
from orchard.errors import InputError
from orchard.features.artifact import Precision
from orchard.features.extraction import ExtractionResult
from orchard.features.sharing import Done
from orchard.layout import LISTING, StagePlan
from orchard.machine import available_cores
from orchard.planning.costs import (
    STAGES,
    WITHIN,
    Rates,
    Source,
    Work,
    branched,
    branched_bytes,
    branches,
    corrections,
    estimates,
    sizes,
)
from orchard.planning.kernels import Speeds
from orchard.planning.outcome import _First
from orchard.planning.probe import measure
from orchard.planning.work import slots_of
from orchard.report import page
from orchard.settings import Settings

SPEEDS = Speeds(0.01, 4e-11, 3e-11, 2e-8, 5e-7, 2e-9, 11.0, 1.0, 0.1)
RATES = Rates(SPEEDS, 1.0, 0.007, 0.0, 0.5, 0.005, Precision.FLOAT32, 0.001, 0.3, {})
WORK = Work(
    images=12_158,
    listed=12_158,
    train=9_280,
    labels=58,
    views=0,
    test_views=1,
    n_features=1280,
    components=None,
    files=60,
    classifiers=chosen(Settings().classifiers, None),
    by_group=False,
    is_local=False,
    slots=2,
    cores=2,
    tune=0,
    tune_views=0,
    tune_epochs=12,
    tune_branches=1,
    tune_seconds=1200,
    classifier_bytes=512 * 2**20,
    heap=900 * 2**20,
)


def seconds(work: Work, rates: Rates = RATES) -> dict[str, float]:
    return {found["stage"]: found["seconds"] or 0 for found in estimates(work, rates)}


def test_every_stage_of_a_run_has_a_row() -> None:
    assert [stage.name for stage in STAGES] == list(page.STAGES)
    assert list(seconds(WORK)) == [name for name in page.STAGES if name != "tune"]
    assert list(seconds(replace(WORK, tune=2_000, tune_views=8))) == list(page.STAGES)
    assert list(seconds(replace(WORK, images=0))) == ["list"]  # nothing else is made again
    assert "classify" not in seconds(replace(WORK, labels=1))


def test_time_follows_from_images_slots_and_what_an_image_takes() -> None:
    one = seconds(WORK)
    assert one["extract"] == pytest.approx(12_158 * 0.007 / 2 / 0.9 + 0.5, abs=0.01)
    assert seconds(replace(WORK, slots=20))["extract"] < one["extract"] / 9
    busy = seconds(WORK, replace(RATES, slowdown=2.0))
    assert busy["extract"] == one["extract"]  # its images were measured on the busy machine
    assert 1.3 * one["classify"] < busy["classify"] <= 2 * one["classify"]
    assert seconds(replace(WORK, views=8))["reduce"] > one["reduce"]
    assert seconds(replace(WORK, by_group=True))["classify"] == pytest.approx(2 * one["classify"], abs=0.02)


def test_a_plan_for_executors_counts_their_cores() -> None:
    conf = {"spark.executor.instances": "4", "spark.executor.cores": "3"}
    assert slots_of(Settings(master="k8s://https://kubernetes.default.svc", spark_conf=conf)) == 12
    assert slots_of(Settings(master="local[5]", spark_conf=conf)) == 5
    assert slots_of(Settings(spark_conf=conf)) == available_cores()


def test_tuning_is_no_longer_than_it_may_be_and_holds_the_drivers_cores() -> None:
    work = replace(WORK, tune=5_000, tune_views=8, tune_epochs=1000, tune_seconds=600)
    (found,) = (found for found in estimates(work, RATES) if found["stage"] == "tune")
    starting = 80 * SPEEDS.launch
    assert found["seconds"] is not None and 500 < found["seconds"] - starting <= 600
    assert found["core_seconds"] == pytest.approx(2 * found["seconds"], abs=0.1)
    short = replace(work, tune_epochs=2)
    assert seconds(short)["tune"] < found["seconds"] / 2
    faster = replace(RATES, precision=Precision.BFLOAT16)
    assert seconds(short, faster)["tune"] > 1.4 * seconds(short)["tune"], "it trains in float32"


def test_as_many_branches_are_planned_as_fit_into_the_time() -> None:
    work = replace(WORK, tune=2_000, tune_views=8, tune_branches=3, tune_seconds=1e6)
    one = seconds(replace(work, tune_branches=1))["tune"]
    assert branches(work, RATES) == 3
    assert 2 * one < seconds(work)["tune"] < 3 * one, "what they begin with is made once"
    assert branches(replace(work, tune_seconds=one * 1.1), RATES) == 1
    assert branches(replace(work, tune_seconds=0.9 * seconds(work)["tune"]), RATES) == 2
    assert branches(replace(work, tune=0), RATES) == 1
    grown, slower = branched(work, RATES, 3)
    assert grown.n_features == 3 * 1280 and slower.image_seconds == pytest.approx(0.007 * 1.32)
    assert seconds(grown)["reduce"] > 2 * seconds(work)["reduce"]
    assert branched_bytes(100, 1) == 100 and branched_bytes(100, 3) == 250


def test_the_last_run_corrects_what_is_reckoned_and_not_what_is_measured() -> None:
    def took(found: StagePlan, factor: float) -> StagePlan:
        return {**found, "took": (found["seconds"] or 0) * factor}

    first = estimates(WORK, RATES)
    found = corrections([took(one, 100 if one["stage"] == "review" else 2.25) for one in first], {})
    assert found["classify"] == pytest.approx(1.5, abs=0.01)  # half of the way
    assert found["review"] == 5  # no more
    assert not {"list", "extract"} & found.keys()
    second = estimates(WORK, replace(RATES, corrections=found))
    by_name = {one["stage"]: one for one in second}
    assert by_name["classify"]["after"] == Source.CORRECTED
    assert by_name["classify"]["seconds"] == pytest.approx(1.5 * seconds(WORK)["classify"], rel=0.01)
    again = corrections([took(one, 1) for one in second], found)
    assert again["classify"] == pytest.approx(found["classify"], rel=0.01)  # it was right
    again = corrections([took(one, 2.25) for one in second], found)
    assert again["classify"] == pytest.approx(2.25, rel=0.01)


def test_the_first_task_of_a_worker_does_not_tell_what_an_image_takes() -> None:
    def task(worker: int, started: float, seconds: float) -> Done:
        return Done("here", 1, worker, started, seconds, cpu_seconds=seconds, memory=1, images=32)

    done = [task(1, 3.4, 0.032), task(1, 0.0, 0.4), task(2, 0.0, 0.5), task(1, 3.0, 0.064), task(2, 3.0, 0.064)]
    found = _First(ExtractionResult(images=160, worker_seconds=1.0, done=done), is_local=True)
    assert found.seconds == pytest.approx(0.16 / 96)
    assert found.compile_seconds == pytest.approx((0.9 - 64 * 0.16 / 96) / 2), "what the first tasks took beyond that"
    alone = _First(ExtractionResult(images=64, worker_seconds=0.5, done=done[1:3]), is_local=True)
    assert alone.seconds == pytest.approx(0.5 / 64), "there is nothing better"


def test_an_estimate_says_how_sure_it_is() -> None:
    for found in estimates(WORK, replace(RATES, spread=0.2)):
        low, high = WITHIN[Source(found["after"])]
        assert found["low"] is not None and found["high"] is not None and found["seconds"] is not None
        assert found["low"] <= low * found["seconds"] + 0.01 and found["high"] >= high * found["seconds"] - 0.01


def test_memory_and_disk_grow_with_what_is_asked_for() -> None:
    sized = partial(sizes, worker_memory=3 * 10**8, driver_memory=2 * 10**8, feature_bytes=4_700.0, view_bytes=0.0)
    found = sized(WORK, RATES, network_bytes=15_000_000)
    assert 60e6 < found["disk"] < 300e6
    million = replace(WORK, listed=10**6, train=8 * 10**5)
    more = sized(million, RATES, network_bytes=15_000_000)
    assert more["driver_python"] - found["driver_python"] > 900e6  # rows of the listing
    unlabelled = sized(replace(WORK, labels=0), RATES, network_bytes=15_000_000)
    assert unlabelled["driver_python"] <= found["driver_python"]
    tuned = replace(WORK, tune=2_640, tune_views=8, activation_bytes=69_360)
    assert sized(tuned, RATES, network_bytes=1)["tuning_disk"] == 2_640 * 8 * 69_360


@pytest.fixture
def images(fruits: Path) -> pa.Table:
    paths = sorted(str(path) for path in (fruits / "Test" / "Mango").glob("*.jpg"))[:32]
    rows = [{"path": path, "label": "Mango", "split": "test"} for path in paths]
    return pa.Table.from_pylist(rows, LISTING)


def test_as_many_processes_as_the_run_will_have_tell_what_an_image_takes(images: pa.Table) -> None:
    settings, cores = Settings(precision="float32"), os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(cores)])  # two workers of one core: a machine that is busy
    try:
        alone, together = (measure(images, settings, processes=count) for count in (1, 2))
    finally:
        os.sched_setaffinity(0, cores)
    assert (alone.processes, together.processes) == (1, 2)
    assert together.tried == 32
    assert together.slowdown > 1.4
    assert together.seconds > 1.2 * alone.seconds or alone.slowdown > 1.4
    assert 1_000 < together.feature_bytes < 5_600  # 1,280 numbers, compressed
    assert 10**8 < together.memory < 6 * 10**8
    assert not together.view_bytes


def test_images_that_cannot_be_decoded_are_counted_and_none_that_can_is_an_error(
    images: pa.Table, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"nothing")
    rows = pa.Table.from_pylist([{"path": str(bad), "label": "x", "split": "train"}], LISTING)
    settings = Settings(precision="float32", views=2)
    with pytest.raises(InputError, match="None of the 1 images"):
        measure(rows, settings)
    seen = images.slice(0, 3).set_column(5, LISTING.field("split"), pa.array(["train"] * 3))
    found = measure(pa.concat_tables([rows, seen]), settings)
    assert (found.tried, found.rejected.num_rows) == (4, 1)
    assert found.view_bytes > 500


def test_a_process_peak_is_its_own() -> None:
    before = memory.peak()
    held = b"x" * (before + 2**26)
    assert memory.peak() - before >= 2**25
    del held
    assert memory.peak(2**22 + 1) == 0  # no such process


def test_a_run_sets_its_plan_beside_what_it_took(trained: Path) -> None:
    run = json.loads((trained / "run.json").read_text())
    metrics = json.loads((trained / "metrics.json").read_text())
    planned, sharing = run["plan"], run["sharing"]
    stages = {stage["stage"]: stage for stage in planned["stages"]}
    assert {name: stage["took"] for name, stage in stages.items()} == {
        name: value for name, value in metrics["seconds"].items() if name != "total"
    }
    assert all(stages[name]["seconds"] > 0 for name in stages.keys() - {"list"})
    assert planned["images"] == metrics["images"]["listed"] == sharing["images"]
    assert 32 <= planned["measured_on"] < planned["images"]
    assert 0.3 < stages["extract"]["took"] / stages["extract"]["seconds"] < 3  # whatever else the machine does
    took, expected = planned["took"], planned["sizes"]
    assert took["worker_memory"] == sharing["worker_memory_bytes"] >= expected["worker_memory"]
    assert took["driver_python"] > 10**8 and took["disk"] > 10**7
    assert sum(share["images"] for share in sharing["by_worker"]) == sharing["images"]
    assert planned["took_core_hours"] > 0
    html = (trained / "report.html").read_text()
    assert "How the extraction was shared out" in html and "Expected" in html
