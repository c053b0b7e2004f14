"""The driver's JVM: the Java that runs it, its environment and its workers', its start and its messages."""

import locale
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from orchard import runlog
from orchard.child import UTF8, is_ascii
from orchard.cluster import executors
from orchard.errors import ClusterError, first_line
from orchard.spark.properties import LOOPBACK

if TYPE_CHECKING:
    from pyspark import SparkConf

log = logging.getLogger(__name__)

# What the JVM says and no exception will repeat.
ALARMING = re.compile(r"OutOfMemoryError|SIGSEGV|No space left|does not answer")
MINIMUM_JAVA = 17
JAVA_SECONDS = 60.0
"""Time limit of ``java -version``, in seconds."""

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


def speak_utf8() -> None:
    """Make Java and Python workers use UTF-8 in file names where the locale knows only ASCII (``LANG=C``)."""
    if is_ascii(locale.getencoding()):
        os.environ |= UTF8


def stay_on_this_machine() -> None:
    """Set the environment of a local master: workers run this interpreter, and the host name need not resolve."""
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


def launch(conf: "SparkConf") -> None:
    """Start the driver's JVM; its output and that of its Python workers goes to Orchard's log.

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
    """Return the line that best explains why a JVM ended: the first cause of a stack trace, or the first error."""
    words = [line.strip().rstrip(".:") for line in lines if line.strip() and not _EMPTY_WORDS.match(line)]
    causes = [line.removeprefix("Caused by: ") for line in words if line.startswith("Caused by: ")]
    complaints = [line for line in words if _TELLING_WORDS.search(line)]
    return (causes[-1:] or complaints or words[-1:] or [""])[0]


def _relay(read: int, said: "deque[str]") -> None:
    with os.fdopen(read, encoding="utf-8", errors="replace") as messages:
        for line in messages:
            said.append(line)
            runlog.note_spark(line.rstrip())
            executors.note(line)
            log.log(logging.WARNING if ALARMING.search(line) else logging.DEBUG, "spark: %s", line.rstrip())
