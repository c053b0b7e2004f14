"""yarn.py JARS FOLDER: a YARN of one node, until standard input ends.

Hadoop's mini cluster has the real scheduler, the real node manager and real containers, all on this machine. It is
started through PySpark's own gateway to a JVM. FOLDER gets ``conf/yarn-site.xml``, once there is a node, and all that
containers write.
"""

import os
import sys
from pathlib import Path

from pyspark import SparkConf
from pyspark.java_gateway import launch_gateway

SITE = {
    "fs.defaultFS": "file:///",
    "yarn.resourcemanager.hostname": "127.0.0.1",
    "yarn.resourcemanager.bind-host": "127.0.0.1",
    "yarn.nodemanager.hostname": "127.0.0.1",
    # What is promised, of which little is used: a driver and two executors in the sizes that EMR gives them.
    "yarn.minicluster.yarn.nodemanager.resource.memory-mb": "12288",
    "yarn.nodemanager.resource.cpu-vcores": "8",
    "yarn.scheduler.minimum-allocation-mb": "128",
    "yarn.scheduler.maximum-allocation-mb": "8192",
    "yarn.scheduler.capacity.root.queues": "default",
    "yarn.scheduler.capacity.root.capacity": "100",
    "yarn.scheduler.capacity.root.default.capacity": "100",
    "yarn.scheduler.capacity.maximum-am-resource-percent": "1.0",
    # A container that takes more memory than it asked for is killed, as on EMR; mapped files do not count.
    "yarn.minicluster.control-resource-monitoring": "true",
    "yarn.nodemanager.pmem-check-enabled": "true",
    "yarn.nodemanager.vmem-check-enabled": "false",
    # Or a node manager takes no container on a disk that is more than 90 % full.
    "yarn.nodemanager.disk-health-checker.enable": "false",
    "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": "100",
    "yarn.nodemanager.delete.debug-delay-sec": "600",  # logs of containers stay, for whoever looks into a failed test
}


def main(jars: Path, folder: Path) -> None:
    """Start it, say where it is, and wait."""
    (folder / "conf").mkdir(parents=True)
    os.chdir(folder)  # it writes below the current folder
    options = f"-XX:TieredStopAtLevel=1 -Dtest.build.data={folder} -Dhadoop.log.dir={folder} -Dyarn.log.dir={folder}"
    given = {
        "spark.driver.extraClassPath": f"{jars}/*",
        "spark.driver.memory": "512m",
        "spark.driver.extraJavaOptions": options,
    }
    jvm = launch_gateway(SparkConf(loadDefaults=False).setAll(list(given.items()))).jvm
    conf = jvm.org.apache.hadoop.yarn.conf.YarnConfiguration()
    for name, value in SITE.items():
        conf.set(name, value)
    cluster = jvm.org.apache.hadoop.yarn.server.MiniYARNCluster("orchard", 1, 1, 1)
    cluster.init(conf)
    cluster.start()
    if not cluster.waitForNodeManagersToConnect(60_000):
        sys.exit("no node manager has connected")
    written = jvm.java.io.FileOutputStream(str(folder / "conf" / "started.xml"))
    cluster.getConfig().writeXml(written)
    written.close()
    (folder / "conf" / "started.xml").rename(folder / "conf" / "yarn-site.xml")
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
