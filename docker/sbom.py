"""Print the software bill of materials of the file system it runs in: CycloneDX 1.6, JSON.

It reads what is installed: Python's metadata, Debian's list of packages, the jars, Java's release file, and beside this
file npm's lock, of what the page was built from::

    python3 sbom.py VERSION SECONDS_SINCE_1970
"""

import hashlib
import json
import re
import sys
import uuid
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

PACKAGES = "/opt/packages"
JARS = Path("/opt/spark/jars")
JAVA = Path("/opt/java/release")
NPM = Path(__file__).with_name("package-lock.json")
DEBIAN = Path("/var/lib/dpkg/status")

Component = dict[str, Any]


def component(kind: str, name: str, version: str, *, group: str = "", **more: Any) -> Component:
    """Return a component with its package URL (https://github.com/package-url/purl-spec)."""
    namespace = f"{quote(group)}/" if group else ""
    purl = f"pkg:{kind}/{namespace}{quote(name)}@{quote(version, safe='')}"
    found = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return found | ({"group": group} if group else {}) | more


def python_packages() -> Iterator[Component]:
    """What Python's metadata names."""
    for distribution in distributions(path=[PACKAGES]):
        metadata = distribution.metadata
        licence = metadata.get("License-Expression") or metadata.get("License", "").partition("\n")[0]
        licences = {"licenses": [{"license": {"name": licence[:100]}}]} if licence else {}
        name = re.sub(r"[-_.]+", "-", metadata["Name"]).lower()
        yield component("pypi", name, distribution.version, **licences)


def debian_packages() -> Iterator[Component]:
    """What Debian's list of packages names."""
    for paragraph in DEBIAN.read_text().split("\n\n"):
        fields = dict(re.findall(r"^(\S+): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status") == "install ok installed":
            yield component("deb", fields["Package"], fields["Version"], group="debian")


def jars() -> Iterator[Component]:
    """Spark's jars and those beside them, by Maven's coordinates where the jar holds them."""
    for path in sorted(JARS.glob("*.jar")):
        name, version = re.fullmatch(r"(.+?)-(\d.*)\.jar|(.+)\.jar", path.name).group(1, 2)  # type: ignore[union-attr]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        more = {"hashes": [{"alg": "SHA-256", "content": digest}]}
        group, name, version = _maven_coordinates(path) or ("", name or path.stem, version or "unknown")
        yield component("maven", name, version, group=group, **more)


def _maven_coordinates(jar: Path) -> tuple[str, str, str] | None:
    """What Maven wrote into the jar; a jar with several such files has others packed in, and goes by its own name."""
    with zipfile.ZipFile(jar) as archive:
        for entry in archive.namelist():
            if entry.startswith("META-INF/maven/") and entry.endswith("/pom.properties"):
                values = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", archive.read(entry).decode(), re.MULTILINE))
                artifact, version = values.get("artifactId", ""), values.get("version", "")
                if jar.name.startswith(f"{artifact}-{version}"):
                    return values["groupId"], artifact, version
    return None


def java() -> Component:
    """The Java runtime."""
    version = re.search(r'JAVA_VERSION="(.+)"', JAVA.read_text())
    return component("generic", "openjdk", version[1] if version else "unknown")


def page() -> Iterator[Component]:
    """What the page for the browser was built from."""
    for path, package in json.loads(NPM.read_text())["packages"].items():
        if path and not package.get("dev"):
            group, _, name = path.removeprefix("node_modules/").rpartition("/")
            licences = {"licenses": [{"license": {"name": package["license"]}}]} if "license" in package else {}
            yield component("npm", name, package["version"], group=group, **licences)


def main(version: str, seconds: str) -> None:
    """Print the bill of Orchard `version`, dated `seconds` after 1970."""
    found = {c["bom-ref"]: c for c in (*python_packages(), *debian_packages(), *jars(), java(), *page())}
    components = [found[reference] for reference in sorted(found)]
    content = hashlib.sha256(json.dumps(components).encode()).digest()
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=content[:16], version=4)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(int(seconds), UTC).isoformat(),
            "component": {"type": "container", "name": "orchard", "version": version},
        },
        "components": components,
    }
    json.dump(bill, sys.stdout, indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
