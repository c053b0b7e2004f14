"""The SparkSession: all cores of this machine by default, or whatever master the settings or spark-submit name."""

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from orchard.cluster import executors
from orchard.errors import ClusterError, first_line
from orchard.settings import Settings
from orchard.storage import S3Options

if TYPE_CHECKING:
    from pyspark import SparkConf
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

# What the JVM says and no exception will repeat.
ALARMING = re.compile(r"OutOfMemoryError|SIGSEGV|No space left")
# On a small machine the JVM's optimising compiler takes cores from the workers: 5.9 s of CPU time while 12,158 images
# are featurized, 3.0 s if only what runs very often is optimised, and training is not slower for it.
LATE_OPTIMIZATION = (
    "-XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=20000 -XX:Tier4CompileThreshold=100000"
)
LOG4J = Path(__file__).with_name("log4j2.properties")
MINIMUM_JAVA = 17


def available_cores() -> int:
    """Return the CPUs that this process may use: its affinity, cut to a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        return cores


def check_java() -> None:
    """Make sure that Spark will find a Java it runs on.

    Raises:
        ClusterError: there is none, or it is too old; the sentence says what to install.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    install = (
        f"install Java {MINIMUM_JAVA} (Debian and Ubuntu: apt-get install openjdk-17-jre-headless; "
        "macOS: brew install openjdk@17) and start again."
    )
    try:
        text = subprocess.run([java or "java", "-version"], capture_output=True, text=True, check=True).stderr  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        where = f"JAVA_HOME ({home}) holds none" if home else "none is on the PATH"
        raise ClusterError(f"Spark needs Java and {where}: {install}") from None
    found = re.search(r'version "(\d+)', text)
    if found and int(found[1]) < MINIMUM_JAVA:
        raise ClusterError(f"Spark needs Java {MINIMUM_JAVA} or newer and found Java {found[1]}: {install}")


def start(
    *,
    master: str | None = None,
    driver_memory: str = "900m",
    executor_timeout: float = 600,
    conf: Mapping[str, str] | None = None,
    leaving: Event | None = None,
) -> "SparkSession":
    """Start Spark, or return the session that runs.

    Args:
        master: Spark's master URL. None: the one that spark-submit or the environment names, else this machine.
        driver_memory: heap of the driver's JVM; under a local master its tasks live there too.
        executor_timeout: seconds to wait for the first executor on Kubernetes.
        conf: further Spark properties; they win over Orchard's.
        leaving: once it is set, executors are no longer waited for.

    Raises:
        ClusterError: Java is missing, Spark does not start, or no executor comes.
    """
    check_java()
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    # Workers must run the interpreter that has Orchard; on a cluster the image decides.
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # spark-submit has started the JVM, which knows its properties
        SparkContext._ensure_initialized()
    spark_conf = SparkConf()
    chosen = master or spark_conf.get("spark.master") or os.environ.get("MASTER") or f"local[{available_cores()}]"
    properties = _properties(chosen, driver_memory) | dict(conf or {})
    for key, value in properties.items():
        if key in (conf or {}):
            spark_conf.set(key, value)
        else:
            spark_conf.setIfMissing(key, value)
    on_kubernetes = chosen.startswith("k8s://")
    if on_kubernetes:
        executors.clear_predecessor(dict(spark_conf.getAll()))
    try:
        _launch_jvm(spark_conf)
        spark = SparkSession.builder.config(conf=spark_conf).getOrCreate()
    except Exception as error:
        raise ClusterError(
            f"Spark did not start on {chosen}: {first_line(error)}; "
            "check the master, the memory and Java (--debug shows all)."
        ) from error
    spark.sparkContext.setLogLevel("ERROR")
    if on_kubernetes:
        try:
            executors.attend(spark.sparkContext, executor_timeout, leaving or Event())
        except BaseException:
            spark.stop()
            raise
    return spark


def _properties(master: str, driver_memory: str) -> dict[str, str]:
    """Return Orchard's Spark properties for a master; what spark-submit or the caller give wins over them."""
    properties = {
        "spark.master": master,
        "spark.app.name": "orchard",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.python.worker.reuse": "true",  # a worker compiles the network once
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # Rows that go to a Python worker at a time; with a score of each of 3,000 classes 12 MB.
        "spark.sql.execution.arrow.maxRecordsPerBatch": "1000",
        "spark.sql.warehouse.dir": str(Path(tempfile.gettempdir(), "orchard-warehouse")),
        "spark.driver.memory": driver_memory,
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={LOG4J.as_uri()} {LATE_OPTIMIZATION}",
    }
    if master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        cores = available_cores()
        properties |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.sql.shuffle.partitions": str(2 * cores),
            "spark.default.parallelism": str(cores),
        }
    elif master.startswith("k8s://"):
        properties |= executors.pod_properties() | {
            "spark.executor.extraJavaOptions": LATE_OPTIMIZATION,
            "spark.scheduler.minRegisteredResourcesRatio": "0",  # the first executor is enough to begin
        }
    return properties


def _s3a(settings: Settings) -> dict[str, str]:
    """Return what Hadoop's connector must know to write a Spark ML model to the same object store as Orchard."""
    s3 = S3Options(settings.s3_endpoint, settings.s3_region).resolved()
    properties = {
        "endpoint": s3.endpoint,
        "endpoint.region": s3.region,
        "path.style.access": "true" if s3.endpoint and s3.path_style else None,
        # Hadoop's own choice knows no web identity, which is how a pod has a role.
        "aws.credentials.provider": "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider",
    }
    return {f"spark.hadoop.fs.s3a.{name}": value for name, value in properties.items() if value}


def _launch_jvm(conf: "SparkConf") -> None:
    """Start the driver's JVM with what it and its Python workers say going to Orchard's log.

    Otherwise it would go to standard error as it is, between JSON lines and through progress bars.
    """
    from pyspark import SparkContext
    from pyspark.java_gateway import launch_gateway

    if SparkContext._gateway is not None or "PYSPARK_GATEWAY_PORT" in os.environ:  # it runs already
        return
    read, write = os.pipe()
    Thread(target=_relay, args=(read,), name="orchard-jvm-messages", daemon=True).start()
    try:
        SparkContext._ensure_initialized(gateway=launch_gateway(conf, {"stderr": write}), conf=conf)
    finally:
        os.close(write)


def _relay(read: int) -> None:
    with os.fdopen(read, errors="replace") as messages:
        for line in messages:
            log.log(logging.WARNING if ALARMING.search(line) else logging.DEBUG, "spark: %s", line.rstrip())


class Session:
    """A Spark session that starts while other work goes on.

    Args:
        settings: say where Spark runs and what it may use.
        given: a session of the caller's, used as it is and left running; None: one is started when it is needed.
    """

    def __init__(self, settings: Settings, given: "SparkSession | None" = None) -> None:
        self._given = given
        self._options: dict[str, Any] = {
            "master": settings.master,
            "driver_memory": settings.driver_memory,
            "executor_timeout": settings.executor_timeout,
            "conf": _s3a(settings) | settings.spark_conf,
        }
        self._leaving = Event()
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="orchard-spark")
        self._started: Future[SparkSession] | None = None

    def start(self, then: "Callable[[SparkSession], None] | None" = None) -> None:
        """Begin to start Spark and return at once; let it do `then` as soon as it is up."""
        if self._given is None and self._started is None:
            check_java()
            self._started = self._starter.submit(start, leaving=self._leaving, **self._options)
        if then:
            self._starter.submit(lambda: then(self.spark))

    @property
    def spark(self) -> "SparkSession":
        """The session, once it is up. Raises ClusterError if it does not start."""
        if self._given is not None:
            return self._given
        self.start()
        assert self._started is not None
        return self._started.result()

    def stop(self) -> None:
        """Stop the session if it was started here."""
        self._leaving.set()
        self._starter.shutdown()
        if self._started is not None and self._started.exception() is None:
            self._started.result().stop()
