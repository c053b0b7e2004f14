"""Makes the bundle that `bootstrap.sh` installs, Orchard's wheel and its locked dependencies, and uploads it to S3.

Each dependency is checked against its hash in the lock. The bundle's digest is printed at the end, for the request.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from packaging.markers import Marker

REPOSITORY = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
IN_EMR = ("pyspark", "py4j")
"""Spark brings them, in its own version."""
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_27_x86_64", "manylinux_2_28_x86_64")
"""Wheels that Amazon Linux 2023 (glibc 2.34) loads."""
FILES = ("bootstrap.sh", "configuration.json")
"""What goes beside the bundle."""


def main() -> int:
    """Make the bundle, and upload it with ``--upload``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=REPOSITORY / "build" / "emr", help="local folder for the bundle")
    parser.add_argument("--upload", metavar="s3://…", help="upload bundle, bootstrap.sh and configuration.json there")
    parser.add_argument("--lock", type=Path, default=REPOSITORY / "docker" / "requirements.lock")
    parser.add_argument("--python-version", default="3.11")
    parser.add_argument("--wheel", type=Path, help="Orchard's wheel  [default: built from this checkout]")
    given = parser.parse_args()
    bundle = make(given.to, given.lock, given.python_version, given.wheel)
    digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
    if given.upload:
        upload(given.upload, [bundle, *(HERE / name for name in FILES)])
    print(f"--bundle {given.upload.rstrip('/') if given.upload else bundle.parent}/{bundle.name}")
    print(f"--bundle-sha256 {digest}")
    return 0


def make(folder: Path, lock: Path, python: str, wheel: Path | None = None) -> Path:
    """Return the bundle, a tar file: ``wheels/``, ``main.py``, ``python-version``. Equal parts make equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        wheels = work / "wheels"
        wheels.mkdir()
        (work / "runtime.lock").write_text(for_nodes(lock.read_text(), python))
        download(work / "runtime.lock", wheels, python)
        if wheel is None:
            pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, REPOSITORY)
        else:
            shutil.copy(wheel, wheels)
        (work / "python-version").write_text(python)
        shutil.copy(REPOSITORY / "docker" / "main.py", work)
        (own,) = wheels.glob("orchard_images-*.whl")
        bundle = folder / f"orchard-emr-{own.name.split('-')[1]}.tar"
        with tarfile.open(bundle, "w") as tar:
            for path in ("main.py", "python-version", *sorted(f"wheels/{each.name}" for each in wheels.iterdir())):
                tar.add(work / path, path, filter=_plain)
    return bundle


def for_nodes(lock: str, python: str) -> str:
    """Return what a lock pins for EMR's nodes, but for what is there: pip itself would choose for this machine."""
    node = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    kept, keeps = [], True
    for line in lock.splitlines(keepends=True):
        requirement, _, condition = line.partition(" ; ")
        condition = condition.strip(" \\\n")
        if not line.startswith((" ", "#")):
            keeps = requirement.partition("==")[0].strip() not in IN_EMR
            keeps = keeps and (not condition or Marker(condition).evaluate(node))
        if keeps:
            kept.append(f"{requirement} \\\n" if condition else line)
    return "".join(kept)


def download(lock: Path, wheels: Path, python: str) -> None:
    """Fetch what a lock pins, by its hashes, for Amazon Linux; what comes as source alone becomes a wheel."""
    pip(
        *("download", "--no-deps", "--require-hashes", "--requirement", lock, "--dest", wheels),
        *("--python-version", python, "--implementation", "cp"),
        *(word for name in PLATFORMS for word in ("--platform", name)),
    )
    for source in [path for path in wheels.iterdir() if path.suffix != ".whl"]:
        pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source)
        source.unlink()
    if foreign := [path.name for path in wheels.glob("*-linux_*.whl")]:
        sys.exit(f"orchard: {', '.join(foreign)} was compiled here and need not run on EMR: take another version")


def pip(*words: object) -> None:
    """Run pip; exit as it does if it fails."""
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, words)], check=False)  # noqa: S603
    if done.returncode:
        sys.exit(done.returncode)


def upload(place: str, files: Sequence[Path]) -> None:
    """Put files below an address in S3, by the standard AWS chain."""
    import boto3

    bucket, _, prefix = place.removeprefix("s3://").removeprefix("s3a://").rstrip("/").partition("/")
    client = boto3.client("s3")
    for path in files:
        client.upload_file(str(path), bucket, f"{prefix}/{path.name}".lstrip("/"))


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname, entry.mode = 0, 0, 0, "", "", 0o644
    return entry


if __name__ == "__main__":
    sys.exit(main())
