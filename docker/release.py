"""Push an image and the chart to a registry, each with its provenance, the image with its bill of materials too.

::

    python3 docker/release.py registry.example.com/vision --image orchard:0.1.0

The chart that is pushed has the pushed image as its default. What is attached are OCI artifacts that refer to what they
are about, so that `oras discover` lists and `oras copy --recursive` takes them along; credentials are Docker's and
Helm's own.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "orchard"
SBOM = "application/vnd.cyclonedx+json"
PROVENANCE = "application/vnd.in-toto+json"
LOCKS = ("requirements.lock", "docker/requirements.lock")
REVISION = "org.opencontainers.image.revision"


def run(*words: str, cwd: Path = ROOT) -> str:
    """Return what a command prints; where it fails, end with what it said."""
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        sys.exit(
            f"{words[0]} is missing: `make tools .tools/bin/oras` builds Helm and ORAS; Docker is to be installed."
        )
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Registry:
    """Where things are pushed: a host, and perhaps a path on it."""

    name: str
    plain_http: bool = False

    @property
    def _options(self) -> list[str]:
        return ["--plain-http"] if self.plain_http else []

    def attach(self, reference: str, kind: str, content: bytes) -> None:
        """Attach a document of a media type to what a reference names."""
        with TemporaryDirectory() as folder:
            name = {SBOM: "sbom.cdx.json", PROVENANCE: "provenance.json"}[kind]
            Path(folder, name).write_bytes(content)
            run(
                "oras", "attach", *self._options, "--artifact-type", kind, reference, f"{name}:{kind}", cwd=Path(folder)
            )

    def push_chart(self, archive: Path) -> str:
        """Push a packaged chart; return the digest that the registry knows it by."""
        said = run("helm", "push", *self._options, str(archive), f"oci://{self.name}/charts")
        return _digest(said)


def push_image(docker: str, image: str, target: str) -> tuple[str, bytes, str]:
    """Push an image under another name.

    Returns:
        Its digest in the registry, the bill of materials in it, and the commit that it was built from.
    """
    run(docker, "tag", image, target)
    digest = _digest(run(docker, "push", target))
    revision = run(docker, "image", "inspect", "--format", f'{{{{index .Config.Labels "{REVISION}"}}}}', image).strip()
    container = run(docker, "create", image, "none").strip()
    try:
        with TemporaryDirectory() as folder:
            run(docker, "cp", f"{container}:/opt/orchard/sbom.cdx.json", folder)
            bill = Path(folder, "sbom.cdx.json").read_bytes()
    finally:
        run(docker, "rm", container)
    return digest, bill, revision


def package(repository: str, version: str, folder: Path) -> Path:
    """Return the chart as an archive in a folder, with an image of `repository` as its default."""
    copy = Path(shutil.copytree(CHART, folder / "orchard"))
    for name, line, changed in (
        ("values.yaml", '  repository: ""\n', f"  repository: {json.dumps(repository)}\n"),
        ("Chart.yaml", f"      image: orchard:{version}\n", f"      image: {repository}:{version}\n"),
    ):
        text = (copy / name).read_text()
        if text.count(line) != 1:
            sys.exit(f"{name} of the chart does not have the line {line.strip()!r} once.")
        (copy / name).write_text(text.replace(line, changed))
    run("helm", "package", str(copy), "--destination", str(folder))
    return folder / f"orchard-{version}.tgz"


def provenance(name: str, digest: str, target: str, revision: str, *, uncommitted: bool) -> dict[str, Any]:
    """Return an in-toto statement (v1) of SLSA provenance (v1): of which sources something was made, and how.

    Args:
        name: of what was made.
        digest: its ``sha256:…``.
        target: of the Makefile.
        revision: the commit.
        uncommitted: whether there were changes that are in no commit.
    """
    source = re.sub(r"//[^/@]*@", "//", _git("config", "--get", "remote.origin.url")) or "orchard"
    locks = [{"uri": f"file:{lock}", "digest": {"sha256": _sha256(ROOT / lock)}} for lock in LOCKS]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:orchard:make",
                "externalParameters": {"target": target},
                "internalParameters": {"uncommitted": uncommitted},
                "resolvedDependencies": [{"uri": f"git+{source}", "digest": {"gitCommit": revision}}, *locks],
            },
            "runDetails": {
                "builder": {"id": "urn:orchard:make-release"},
                "metadata": {"finishedOn": datetime.now(UTC).isoformat(timespec="seconds")},
            },
        },
    }


def release_chart(registry: Registry, version: str, *, uncommitted: bool) -> str:
    """Push the chart with its provenance; return its digest."""
    with TemporaryDirectory() as folder:
        digest = registry.push_chart(package(f"{registry.name}/orchard", version, Path(folder)))
    name = f"{registry.name}/charts/orchard"
    made = provenance(name, digest, "release", _git("rev-parse", "HEAD"), uncommitted=uncommitted)
    registry.attach(f"{name}@{digest}", PROVENANCE, json.dumps(made).encode())
    return digest


def describe_image(registry: Registry, digest: str, bill: bytes, revision: str, *, uncommitted: bool) -> None:
    """Attach bill of materials and provenance to an image that was pushed."""
    name = f"{registry.name}/orchard"
    made = provenance(name, digest, "image", revision, uncommitted=uncommitted)
    registry.attach(f"{name}@{digest}", SBOM, bill)
    registry.attach(f"{name}@{digest}", PROVENANCE, json.dumps(made).encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Release what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("::")[0] if __doc__ else None)
    parser.add_argument("registry", help="host and path, such as registry.example.com/vision")
    parser.add_argument("--image", required=True, help="the image, as it is called here")
    parser.add_argument("--version", required=True, help="that of image and chart")
    parser.add_argument("--docker", default="docker", help="the Docker command")
    parser.add_argument("--plain-http", action="store_true", help="the registry speaks no TLS")
    parser.add_argument("--uncommitted", action="store_true", help="release changes that are in no commit")
    given = parser.parse_args(arguments)
    uncommitted = bool(_git("status", "--porcelain"))
    if uncommitted and not given.uncommitted:
        sys.exit(
            "There are changes that are in no commit: commit them, or say --uncommitted (make release UNCOMMITTED=1)."
        )
    registry = Registry(given.registry.rstrip("/"), given.plain_http)
    target = f"{registry.name}/orchard:{given.version}"
    digest, bill, revision = push_image(given.docker, given.image, target)
    describe_image(registry, digest, bill, revision, uncommitted=uncommitted)
    chart = release_chart(registry, given.version, uncommitted=uncommitted)
    print(f"image  {target}@{digest}")  # noqa: T201
    print(f"chart  oci://{registry.name}/charts/orchard --version {given.version} ({chart})")  # noqa: T201


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603, S607
    return done.stdout.strip()


def _digest(said: str) -> str:
    found = re.findall(r"sha256:[0-9a-f]{64}", said)
    if not found:
        sys.exit(f"No digest was told: {said.strip()}")
    return str(found[-1])


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
