"""The SparkSession, and the workers of a run: on all cores of this machine, or on the master that is given."""

import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event
from typing import TYPE_CHECKING, Any

from orchard import interruption, memory
from orchard.cluster import executors
from orchard.cluster.autoscaling import Bounds
from orchard.errors import ClusterError, OrchardError, UsageError, first_line
from orchard.machine import shortage
from orchard.processes import LocalWorkers
from orchard.settings import Settings
from orchard.spark import jvm, properties
from orchard.tasks import SparkWorkers
from orchard.workers import Workers

if TYPE_CHECKING:
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)


def start(
    *,
    master: str | None = None,
    driver_memory: str = "900m",
    executor_timeout: float = 600,
    conf: Mapping[str, str] | None = None,
    leaving: Event | None = None,
    bounds: Bounds | None = None,
    ending: ExitStack | None = None,
) -> "SparkSession":
    """Start Spark, or return the session that runs.

    Args:
        master: Spark's master URL. None: the one that spark-submit or the environment names, else this machine.
        driver_memory: heap of the driver's JVM; under a local master its tasks live there too.
        executor_timeout: seconds to wait for the first executor on Kubernetes.
        conf: further Spark properties; they win over Orchard's.
        leaving: once it is set, executors are no longer waited for.
        bounds: within which the number of executors on Kubernetes follows the work; None: it does not.
        ending: takes what is to be done once Spark has stopped.

    Raises:
        ClusterError: Java is missing, Spark does not start, or no executor comes.
        UsageError: the event log cannot be written where it is to go.
    """
    jvm.check_java()
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    jvm.speak_utf8()
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # spark-submit has started the JVM, which knows its properties
        SparkContext._ensure_initialized()
    spark_conf = SparkConf()
    given = master or spark_conf.get("spark.master") or default_master()
    chosen = properties.with_attempts(given)
    if chosen != given:
        spark_conf.set("spark.master", chosen)
    if chosen.startswith("local"):
        jvm.stay_on_this_machine()
    for key, value in (properties.of_master(chosen, driver_memory) | dict(conf or {})).items():
        if key in (conf or {}):
            spark_conf.set(key, value)
        else:
            spark_conf.setIfMissing(key, value)
    on_kubernetes = chosen.startswith("k8s://")
    if on_kubernetes:
        of_driver = dict(spark_conf.getAll())
        executors.clear_predecessor(of_driver, executor_timeout)
        (ending or ExitStack()).callback(executors.clear, of_driver)
    try:
        jvm.launch(spark_conf)
        spark = SparkSession.builder.config(conf=spark_conf).getOrCreate()
    except ClusterError:
        raise
    except Exception as error:
        raise _why_not_started(error, chosen, spark_conf) from error
    spark.sparkContext.setLogLevel("ERROR")
    _say_no_more_than_once(spark.sparkContext)
    _check_bounds(bounds, chosen, spark_conf.get(executors.ALLOCATOR, ""))
    if on_kubernetes:
        try:
            executors.attend(spark.sparkContext, executor_timeout, leaving or Event(), bounds)
        except BaseException:
            with contextlib.suppress(Exception):  # its JVM may be gone, which is no news beside the error
                spark.stop()
            raise
    return spark


def _why_not_started(error: Exception, master: str, conf: "SparkConf") -> OrchardError:
    """Return the sentence for what Spark says when it does not start."""
    if master.startswith("k8s://") and (refusal := executors.role_refusal(str(error))):
        return refusal
    if "EventLog" in str(error):
        folder = conf.get("spark.eventLog.dir", "spark.eventLog.dir")
        return UsageError(
            f"The event log's folder {folder} cannot be used ({first_line(error)}): create it (in S3 an object "
            "below it), allow this run to write there, or switch eventLog.enabled off."
        )
    return ClusterError(
        f"Spark did not start on {master}: {first_line(error)}; "
        "check the master, the memory and Java (--debug shows all)."
    )


def default_master() -> str:
    """Return the default master: that of the environment, or this machine."""
    return os.environ.get("MASTER") or f"local[{properties.own_slots()}]"


def _say_no_more_than_once(context: "SparkContext") -> None:
    """Silence PySpark's accumulator server, which prints a traceback when the JVM is gone; the failed call says so."""
    server = getattr(context, "_accumulatorServer", None)
    if server is not None:
        server.handle_error = lambda *_: log.debug("Spark's accumulators lost the JVM", exc_info=True)


def _check_bounds(bounds: Bounds | None, master: str, allocator: str) -> None:
    if bounds is not None and not (master.startswith("k8s://") and allocator in executors.SETS):
        log.warning("--finish-within is not used: there is no set of executors on %s that could be scaled", master)


def options_of(settings: Settings) -> dict[str, Any]:
    """Return the arguments of `start` that settings give."""
    return {
        "master": settings.master,
        "driver_memory": settings.driver_memory,
        "executor_timeout": settings.executor_timeout,
        "conf": properties.of_store(settings) | settings.spark_conf,
        "bounds": settings.bounds(),
    }


class Session:
    """What does the work of a run: its workers, and a Spark session that starts while other work goes on.

    Args:
        settings: say where Spark runs and what it may use.
        given: a session of the caller's, used as it is and left running; None: one is started when it is needed.
    """

    def __init__(self, settings: Settings, given: "SparkSession | None" = None) -> None:
        self._given = given
        self._options = options_of(settings)
        self._leaving = Event()
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="orchard-spark")
        self._started: Future[SparkSession] | None = None
        self._workers: Workers | None = None
        self._ending = ExitStack()

    def start(self) -> None:
        """Start Spark in the background."""
        if self._given is None and self._started is None:
            jvm.check_java()
            self._ending.enter_context(interruption.in_order(self._abandon))
            self._started = self._starter.submit(start, leaving=self._leaving, ending=self._ending, **self._options)

    @property
    def workers(self) -> Workers:
        """What does the tasks of all stages; the first call begins to start it.

        Under a local master these are processes of this machine, and Spark is started only where it alone can do the
        work. A session of the caller's, or spark-submit's, has its own workers.
        """
        if self._workers is None:
            slots = self._local_slots()
            if slots is not None:
                if lacking := shortage(slots, properties.WORKER_BYTES, properties.DRIVER_BYTES):
                    log.warning(lacking)
                self._workers = LocalWorkers(slots, lambda: self.spark)
            else:
                self.start()
                self._workers = SparkWorkers(lambda: self.spark)
        return self._workers

    def _local_slots(self) -> int | None:
        """Return the number of worker processes on this machine; None if Spark's executors do the tasks."""
        if self._given is not None or "PYSPARK_GATEWAY_PORT" in os.environ:
            return None
        return properties.local_slots(
            self._options["conf"].get("spark.master") or self._options["master"] or default_master()
        )

    def start_if_awaited(self) -> None:
        """Begin to start Spark where its absence would end the driver, be there work for it or not.

        YARN's application master waits 100 seconds for a session, which listing a bucket may take, and takes a driver
        that has ended without one as failed.
        """
        if self._given is None and "PYSPARK_GATEWAY_PORT" in os.environ:
            from pyspark import SparkConf, SparkContext

            SparkContext._ensure_initialized()
            conf = SparkConf()
            if (conf.get("spark.master"), conf.get("spark.submit.deployMode")) == ("yarn", "cluster"):
                self.start()

    @property
    def spark(self) -> "SparkSession":
        """The session, once it is up. Raises ClusterError if it does not start."""
        if self._given is not None:
            return self._given
        self.start()
        assert self._started is not None
        return self._started.result()

    @property
    def of_cluster(self) -> "SparkSession | None":
        """The session for several runs, once it is up; None where processes of this machine do the tasks of each."""
        return self.spark if self._local_slots() is None else None

    def cores(self, own: int = 0) -> int:
        """Return how many cores are held now: those of the workers, and `own` of the driver.

        The workers' are those of this machine or of the executors that are registered; under a local master the
        driver's are among them.
        """
        if isinstance(self._workers, LocalWorkers):
            return max(own, self._workers.slots)
        if self._given is None and (self._started is None or not self._started.done()):
            return own
        try:
            context = self.spark.sparkContext
            if context.master.startswith("local"):
                return max(own, int(context.defaultParallelism))
            return own + executors.count(context) * int(context.getConf().get("spark.executor.cores", "1"))
        except Exception:  # it did not start, or its JVM is gone: others say so
            return own

    def jvm_memory(self) -> int:
        """Return the peak memory of the driver's JVM, in bytes; 0 if it was not started here."""
        if self._started is None and self._given is None:
            return 0
        from pyspark import SparkContext

        process = getattr(SparkContext._gateway, "proc", None)
        return memory.peak(process.pid) if process is not None else 0

    def stop(self) -> None:
        """End what was started here."""
        with self._ending:
            self._leaving.set()
            if self._workers is not None:
                self._workers.close()
            if interruption.asked() and self._abandon():
                return
            self._starter.shutdown()
            if self._started is not None and self._started.exception() is None:
                try:
                    self._started.result().stop()
                except Exception as error:  # its JVM is gone, and something else says why
                    log.debug("Spark could not be stopped: %s", first_line(error))

    def _abandon(self) -> bool:
        """Kill a JVM that is still starting or is local, with its workers; return whether there was one."""
        from pyspark import SparkContext

        self._leaving.set()
        context = SparkContext._active_spark_context
        alone = SparkContext._gateway is None if context is None else context.master.startswith("local")
        if alone := alone and "PYSPARK_GATEWAY_PORT" not in os.environ:
            interruption.end_children()
        return alone
