"""The Spark properties that Orchard sets. Those of spark-submit or of the caller win over them."""

import re
import tempfile
from pathlib import Path

from orchard.cluster import executors
from orchard.machine import available_cores, fitting_processes
from orchard.settings import Settings
from orchard.workers import ATTEMPTS, ENVIRONMENT

# On a small machine the JVM's optimising compiler takes cores from the workers: 5.9 s of CPU time while 12,158 images
# are featurized, 3.0 s if only what runs very often is optimised, and training is not slower for it.
LATE_OPTIMIZATION = (
    "-XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=20000 -XX:Tier4CompileThreshold=100000"
)
WORKER_BYTES, DRIVER_BYTES = 200 * 10**6, 350 * 10**6
"""What a worker process takes of memory, and the driver beyond its start, without what the kernel can drop.

Measured in a run of 640 images with EfficientNet-Lite0: 132 and 326 MB.
"""
LOOPBACK = "127.0.0.1"
LOG4J = Path(__file__).with_name("log4j2.properties")


def with_attempts(master: str) -> str:
    """Return a local master with the number of attempts of a cluster added; by default it has one attempt."""
    found = re.fullmatch(r"local(?:\[([0-9]+|\*)\])?", master)
    return f"local[{found[1] or 1},{ATTEMPTS}]" if found else master


def local_slots(master: str) -> int | None:
    """Return the number of tasks that a local master runs at once; None: the master is not local.

    ``local[*]`` has one for each core, as far as memory has room for a worker process each.
    """
    found = re.fullmatch(r"local(?:\[([0-9]+|\*)(?:,[0-9]+)?\])?", master)
    if found is None:
        return None
    return own_slots() if found[1] == "*" else int(found[1] or 1)


def own_slots() -> int:
    """Return the number of tasks that this machine runs at once where none is asked for."""
    return fitting_processes(WORKER_BYTES, DRIVER_BYTES)


def of_master(master: str, driver_memory: str) -> dict[str, str]:
    """Return Orchard's Spark properties for a master."""
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
        **{f"spark.executorEnv.{name}": value for name, value in ENVIRONMENT.items()},
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


def of_store(settings: Settings) -> dict[str, str]:
    """Return the properties with which Hadoop's connector writes to Orchard's object store, such as an event log."""
    s3 = settings.s3_options()
    properties = {
        "endpoint": s3.endpoint,
        "endpoint.region": s3.region,
        "path.style.access": "true" if s3.endpoint and s3.path_style else None,
        # Hadoop's own choice knows no web identity, which is how a pod has a role.
        "aws.credentials.provider": "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider",
        "encryption.algorithm": {"aws:kms": "SSE-KMS"}.get(s3.encryption or "", s3.encryption),
        "encryption.key": s3.kms_key,
    }
    return {f"spark.hadoop.fs.s3a.{name}": value for name, value in properties.items() if value}
