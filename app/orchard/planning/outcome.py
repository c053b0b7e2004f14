"""A run's own estimate, made after its first tasks, and compared with what the run took."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from orchard import memory
from orchard.errors import first_line
from orchard.features.artifact import Precision
from orchard.features.backbones import Backbone
from orchard.features.extraction import ExtractionResult
from orchard.features.sharing import Done
from orchard.layout import BACKBONE, MODEL, PARTS, Dataset, Planned, Sizes, StagePlan
from orchard.output import Output
from orchard.planning.costs import STAGES, Rates, Work, corrections, estimates, sizes
from orchard.planning.kernels import picture_seconds, speeds
from orchard.planning.work import work_of
from orchard.settings import Settings
from orchard.storage import is_object
from orchard.usage import EFFICIENCY

log = logging.getLogger(__name__)


class Expectation:
    """A run's estimate of itself, made after its first tasks.

    Args:
        output: the run's output.
        settings: the run's settings.
    """

    def __init__(self, output: Output, settings: Settings) -> None:
        self._output, self._settings, self._s3 = output, settings, settings.s3_options()
        self._applied: dict[str, float] = output.recall("plan").get("corrections", {}) if output.known else {}
        self._found: Future[Planned] | None = None

    def learn(
        self,
        listed: pa.Table,
        to_do: pa.Table,
        backbone: Backbone,
        identity: Mapping[str, Any],
        result: ExtractionResult,
        *,
        slots: int,
        tuned: bool,
    ) -> None:
        """Begin to make the plan in the background, while work goes on.

        Args:
            listed: ``path, label, split`` of the whole source.
            to_do: the same columns of the images to featurize.
            backbone: the backbone, with its width and input size.
            identity: identity of the features.
            result: the result of the first tasks, at least one.
            slots: number of tasks that run at once.
            tuned: whether this run has tuned the network.
        """
        first = _First(result, is_local=not is_object(to_do["path"][0].as_py()))
        thread = ThreadPoolExecutor(1, thread_name_prefix="orchard-plan")
        asked = {"views": identity["views"], "test_views": str(identity["test_views"])}
        settings = self._settings.model_copy(update=asked)
        work = work_of(
            settings, backbone, listed, to_do, self._output, slots=slots, image_seconds=first.seconds, tune=tuned
        )
        written, precision = _Written.of(self._output), Precision(identity["precision"])
        self._found = thread.submit(
            self._make, work, first, written, partial(picture_seconds, to_do, self._s3), precision
        )
        thread.shutdown(wait=False)

    def beside(self, took: Mapping[str, float], sizes_now: Sizes, core_hours: float) -> dict[str, object]:
        """Return the property ``plan``: expected and real times and sizes; empty if there was no plan.

        Args:
            took: seconds of each stage so far.
            sizes_now: real sizes of memory and disk.
            core_hours: core-hours that were held.
        """
        if self._found is None:
            return {}
        try:
            planned = self._found.result()
        except Exception as error:  # a run is not to fail for want of it
            log.warning("this run has no plan to be set beside what it took: %s", first_line(error))
            return {}
        expected = {stage["stage"]: stage for stage in planned["stages"]}
        stages = []
        for name in [stage.name for stage in STAGES if stage.name in expected or stage.name in took]:
            nothing = StagePlan(stage=name, seconds=None, low=None, high=None, core_seconds=None, after="")
            found = expected.get(name, nothing)
            if name in took:
                found["took"] = took[name]
            stages.append(found)
        beside = Planned(**planned | {"stages": stages, "took": sizes_now, "took_core_hours": round(core_hours, 6)})
        return {"planned": beside, "corrections": corrections(stages, self._applied)}

    def _make(
        self, work: Work, first: _First, written: _Written, picture: Callable[[], float], precision: Precision
    ) -> Planned:
        rates = Rates(
            speeds=speeds(),
            slowdown=first.slowdown,
            image_seconds=first.seconds * EFFICIENCY,  # those of tasks have reading and writing in them
            spread=first.spread,
            compile_seconds=first.compile_seconds,
            single_seconds=first.seconds / (work.test_views + work.views * work.train / max(work.listed, 1)),
            precision=precision,
            picture_seconds=picture(),
            list_seconds=None,
            corrections=self._applied,
        )
        found = estimates(work, rates)
        log.info(
            "expected: %s",
            ", ".join(f"{stage['stage']} {stage['seconds']:.0f} s" for stage in found),
        )
        return Planned(
            images=work.images,
            measured_on=first.images,
            stages=found,
            sizes=sizes(
                work,
                rates,
                worker_memory=first.memory,
                driver_memory=memory.peak(),
                feature_bytes=written.feature,
                view_bytes=written.view,
                network_bytes=written.network,
            ),
            took=Sizes(),
            core_hours=round(sum(stage["core_seconds"] or 0 for stage in found) / 3600, 6),
            took_core_hours=0.0,
        )


class _First:
    """Rates from the first tasks; see `Rates`."""

    def __init__(self, result: ExtractionResult, *, is_local: bool) -> None:
        took, worked = sum(task.seconds for task in result.done), sum(task.cpu_seconds for task in result.done)
        firsts, later = _by_worker(result.done)
        each = [_seconds_of(tasks) for tasks in later] or [0.0]
        self.images = result.images
        # A worker's first task compiles the network, and meets everything for the first time.
        steady = [task for tasks in later for task in tasks]
        self.seconds = _seconds_of(steady) if steady else result.worker_seconds / result.images
        extra = sum(task.seconds - task.images * self.seconds for task in firsts)
        self.compile_seconds = max(0.0, extra) / len(firsts)
        # Who waits for objects does not wait for the processor.
        self.slowdown = max(1.0, took / worked) if is_local and worked else 1.0
        self.spread = (max(each) - min(each)) / self.seconds if self.seconds else 0.0
        self.memory = max(task.memory for task in result.done)


def _by_worker(done: Sequence[Done]) -> tuple[list[Done], list[list[Done]]]:
    """Return the first task of each worker, and the later ones of each that has some."""
    by_worker: dict[tuple[str, int], list[Done]] = defaultdict(list)
    for task in sorted(done, key=lambda task: task.started):
        by_worker[task.host, task.worker].append(task)
    return [tasks[0] for tasks in by_worker.values()], [tasks[1:] for tasks in by_worker.values() if len(tasks) > 1]


def _seconds_of(tasks: Sequence[Done]) -> float:
    """Return the seconds that an image took in these tasks."""
    return sum(task.seconds for task in tasks) / sum(task.images for task in tasks)


def disk_bytes(output: Output) -> int:
    """Return the bytes of all committed files."""
    return sum(file.size or 0 for folder in (*Dataset, MODEL, PARTS) for file in output.files(folder))


@dataclass(frozen=True)
class _Written:
    """Bytes of what the first tasks have written: of an image's features, of a view's, of the network."""

    feature: float
    view: float
    network: int

    @classmethod
    def of(cls, output: Output) -> _Written:
        """Return what an output holds of them."""
        network = sum(file.size or 0 for file in output.files(PARTS) if file.name.endswith(f"/{BACKBONE}"))
        return cls(_row_bytes(output, Dataset.FEATURES), _row_bytes(output, Dataset.VIEWS), network)


def _row_bytes(output: Output, dataset: Dataset) -> float:
    rows = output.rows(dataset)
    return sum(file.size or 0 for file in output.files(dataset)) / rows if rows else 0.0
