"""The SparkSession: all cores of this machine by default, or whatever master the settings or spark-submit name."""

import contextlib
import locale
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from orchard import interruption, memory, runlog
from orchard.child import UTF8, is_ascii
from orchard.cluster import executors
from orchard.cluster.autoscaling import Bounds
from orchard.errors import ClusterError, UsageError, first_line
from orchard.settings import Settings
from orchard.tasks import ATTEMPTS

if TYPE_CHECKING:
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

# What the JVM says and no exception will repeat.
ALARMING = re.compile(r"OutOfMemoryError|SIGSEGV|No space left|does not answer")
# On a small machine the JVM's optimising compiler takes cores from the workers: 5.9 s of CPU time while 12,158 images
# are featurized, 3.0 s if only what runs very often is optimised, and training is not slower for it.
LATE_OPTIMIZATION = (
    "-XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=20000 -XX:Tier4CompileThreshold=100000"
)
LOOPBACK = "127.0.0.1"
LOG4J = Path(__file__).with_name("log4j2.properties")
MINIMUM_JAVA = 17
JAVA_SECONDS = 60.0
"""How long ``java -version`` may take."""

# What Java says last when it does not start, and before it the line that tells why.
_EMPTY_WORDS = re.compile(
    r"Picked up |\s*at |Error: Could not create the Java Virtual Machine|Error: A fatal exception has occurred"
    r"|Error occurred during initialization of|WARNING|Using Spark's default log4j|Setting default log level"
)
_TELLING_WORDS = re.compile(
    r"could not|cannot|can't|unable|error|exception|invalid|unrecognized|unsupported|no such|not found|denied|too small"
    r"|exceeds|killed|fail",
    re.IGNORECASE,
)


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
    command = [java or "java", "-version"]
    try:
        asked = subprocess.run(command, capture_output=True, timeout=JAVA_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{command[0]} -version does not end: {install}") from None
    except OSError:
        where = f"JAVA_HOME ({home}) holds none" if home else "none is on the PATH"
        raise ClusterError(f"Spark needs Java and {where}: {install}") from None
    text = (asked.stderr + asked.stdout).decode(errors="replace")
    if asked.returncode:
        said = _last_words(text.splitlines()) or f"exit code {asked.returncode}"
        raise ClusterError(f"{command[0]} does not start ({said}): check JAVA_TOOL_OPTIONS and JAVA_HOME, or {install}")
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
    bounds: Bounds | None = None,
) -> "SparkSession":
    """Start Spark, or return the session that runs.

    Args:
        master: Spark's master URL. None: the one that spark-submit or the environment names, else this machine.
        driver_memory: heap of the driver's JVM; under a local master its tasks live there too.
        executor_timeout: seconds to wait for the first executor on Kubernetes.
        conf: further Spark properties; they win over Orchard's.
        leaving: once it is set, executors are no longer waited for.
        bounds: within which the number of executors on Kubernetes follows the work; None: it does not.

    Raises:
        ClusterError: Java is missing, Spark does not start, or no executor comes.
        UsageError: the event log cannot be written where it is to go.
    """
    check_java()
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    _speak_utf8()
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # spark-submit has started the JVM, which knows its properties
        SparkContext._ensure_initialized()
    spark_conf = SparkConf()
    given = master or spark_conf.get("spark.master") or os.environ.get("MASTER") or f"local[{available_cores()}]"
    chosen = with_attempts(given)
    if chosen != given:
        spark_conf.set("spark.master", chosen)
    if chosen.startswith("local"):
        _stay_on_this_machine()
    properties = _properties(chosen, driver_memory) | dict(conf or {})
    for key, value in properties.items():
        if key in (conf or {}):
            spark_conf.set(key, value)
        else:
            spark_conf.setIfMissing(key, value)
    on_kubernetes = chosen.startswith("k8s://")
    if on_kubernetes:
        executors.clear_predecessor(dict(spark_conf.getAll()), executor_timeout)
    try:
        _launch_jvm(spark_conf)
        spark = SparkSession.builder.config(conf=spark_conf).getOrCreate()
    except ClusterError:
        raise
    except Exception as error:
        if "EventLog" in str(error):
            folder = spark_conf.get("spark.eventLog.dir", "spark.eventLog.dir")
            raise UsageError(
                f"The event log's folder {folder} cannot be used ({first_line(error)}): create it (in S3 an object "
                "below it), allow this run to write there, or switch eventLog.enabled off."
            ) from error
        raise ClusterError(
            f"Spark did not start on {chosen}: {first_line(error)}; "
            "check the master, the memory and Java (--debug shows all)."
        ) from error
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


def _say_no_more_than_once(context: "SparkContext") -> None:
    """Leave it to what fails to say that the JVM is gone: PySpark's server of accumulators prints a traceback, too."""
    server = getattr(context, "_accumulatorServer", None)
    if server is not None:
        server.handle_error = lambda *_: log.debug("Spark's accumulators lost the JVM", exc_info=True)


def _check_bounds(bounds: Bounds | None, master: str, allocator: str) -> None:
    if bounds is not None and not (master.startswith("k8s://") and allocator in executors.SETS):
        log.warning("--finish-within is not used: there is no set of executors on %s that could be scaled", master)


def with_attempts(master: str) -> str:
    """Return a local master that tries a task as often as a cluster does; by itself it tries once."""
    found = re.fullmatch(r"local(?:\[([0-9]+|\*)\])?", master)
    return f"local[{found[1] or 1},{ATTEMPTS}]" if found else master


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
        cores = available_cores()
        properties |= {
            "spark.driver.host": LOOPBACK,
            "spark.driver.bindAddress": LOOPBACK,
            "spark.sql.shuffle.partitions": str(2 * cores),
            "spark.default.parallelism": str(cores),
        }
    elif master.startswith("k8s://"):
        properties |= executors.pod_properties() | {
            "spark.executor.extraJavaOptions": LATE_OPTIMIZATION,
            "spark.scheduler.minRegisteredResourcesRatio": "0",  # the first executor is enough to begin
        }
    return properties


def _speak_utf8() -> None:
    """Let Java and Python workers name files as this machine does, if the locale (``LANG=C``) knows ASCII alone."""
    if is_ascii(locale.getencoding()):
        os.environ |= UTF8


def _stay_on_this_machine() -> None:
    """Under a local master: workers run the interpreter that has Orchard, and the machine's name need not resolve."""
    given = os.environ.get("PYSPARK_PYTHON")
    if given and shutil.which(given) != sys.executable:
        log.info("PYSPARK_PYTHON=%s is not used: on this machine Orchard's own %s works", given, sys.executable)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    for name, value in (("SPARK_LOCAL_IP", LOOPBACK), ("SPARK_LOCAL_HOSTNAME", "localhost")):
        os.environ[name] = os.environ.get(name) or value
    if os.environ.get("AWS_ACCESS_KEY_ID"):  # then Spark wants the name all the same, to note where the key was set
        try:
            socket.getaddrinfo(socket.gethostname(), None)
        except OSError:
            name = socket.gethostname()
            raise ClusterError(
                f"Spark does not start with AWS_ACCESS_KEY_ID on a machine whose name ({name}) does not resolve: "
                f'add "{LOOPBACK} {name}" to /etc/hosts, or use AWS_PROFILE instead.'
            ) from None


def options_of(settings: Settings) -> dict[str, Any]:
    """Return what `start` is to be told where settings decide."""
    return {
        "master": settings.master,
        "driver_memory": settings.driver_memory,
        "executor_timeout": settings.executor_timeout,
        "conf": _s3a(settings) | settings.spark_conf,
        "bounds": settings.bounds(),
    }


def _s3a(settings: Settings) -> dict[str, str]:
    """Return what Hadoop's connector must know to write to the same object store as Orchard, such as an event log."""
    s3 = settings.s3_options()
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

    Otherwise it would go to standard error and output as it is, between JSON lines and through progress bars.

    Raises:
        ClusterError: Java does not start; the sentence has its last words.
    """
    from pyspark import SparkContext
    from pyspark.java_gateway import launch_gateway

    if SparkContext._gateway is not None or "PYSPARK_GATEWAY_PORT" in os.environ:  # it runs already
        return
    read, write = os.pipe()
    said: deque[str] = deque(maxlen=200)
    relay = Thread(target=_relay, args=(read, said), name="orchard-jvm-messages", daemon=True)
    relay.start()
    try:
        try:
            # In a session of its own, so that Ctrl-C in a terminal is the driver's alone.
            gateway = launch_gateway(conf, {"stdout": write, "stderr": write, "start_new_session": True})
        finally:
            os.close(write)
    except Exception as error:
        relay.join(5)  # until Java's end of the pipe is closed
        raise ClusterError(
            f"Java did not start for Spark ({_last_words(said) or first_line(error)}): "
            f"check --driver-memory ({conf.get('spark.driver.memory')}), JAVA_TOOL_OPTIONS and Spark's properties."
        ) from error
    SparkContext._ensure_initialized(gateway=gateway, conf=conf)


def _last_words(lines: Iterable[str]) -> str:
    """Return the line that tells most of why a JVM ended: the first cause of a stack trace, or the first complaint."""
    words = [line.strip().rstrip(".:") for line in lines if line.strip() and not _EMPTY_WORDS.match(line)]
    causes = [line.removeprefix("Caused by: ") for line in words if line.startswith("Caused by: ")]
    complaints = [line for line in words if _TELLING_WORDS.search(line)]
    return (causes[-1:] or complaints or words[-1:] or [""])[0]


def _relay(read: int, said: "deque[str]") -> None:
    with os.fdopen(read, encoding="utf-8", errors="replace") as messages:
        for line in messages:
            said.append(line)
            runlog.note_spark(line.rstrip())
            log.log(logging.WARNING if ALARMING.search(line) else logging.DEBUG, "spark: %s", line.rstrip())


class Session:
    """A Spark session that starts while other work goes on.

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
        self._ending = ExitStack()

    def start(self, then: "Callable[[SparkSession], None] | None" = None) -> None:
        """Begin to start Spark and return at once; let it do `then` as soon as it is up."""
        if self._given is None and self._started is None:
            check_java()
            self._ending.enter_context(interruption.in_order(self._abandon))
            self._started = self._starter.submit(start, leaving=self._leaving, **self._options)
        if then:
            self._starter.submit(lambda: then(self.spark))

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

    def cores(self, own: int = 0) -> int:
        """Return how many cores are held now: Spark's, and `own` of the driver.

        Spark's are those of this machine or of the executors that are registered; under a local master the driver's
        are among them.
        """
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
        """Return the bytes that the driver's JVM has held at its most; 0 where it is not one that was started here."""
        from pyspark import SparkContext

        process = getattr(SparkContext._gateway, "proc", None)
        return memory.peak(process.pid) if process is not None else 0

    def stop(self) -> None:
        """Stop the session if it was started here."""
        with self._ending:
            self._leaving.set()
            if interruption.asked() and self._abandon():
                return
            self._starter.shutdown()
            if self._started is not None and self._started.exception() is None:
                try:
                    self._started.result().stop()
                except Exception as error:  # its JVM is gone, and something else says why
                    log.debug("Spark could not be stopped: %s", first_line(error))

    def _abandon(self) -> bool:
        """End a JVM that is still starting, or has its executors in it, with its workers; return whether it was one."""
        from pyspark import SparkContext

        self._leaving.set()
        context = SparkContext._active_spark_context
        alone = SparkContext._gateway is None if context is None else context.master.startswith("local")
        if alone := alone and "PYSPARK_GATEWAY_PORT" not in os.environ:
            interruption.end_children()
        return alone
