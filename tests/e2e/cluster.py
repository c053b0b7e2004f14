"""How the tests talk to a cluster: kubectl, helm, and a bucket of the S3 server in it."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import boto3
import obstore
import pytest
from obstore.store import S3Store

REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "helm" / "orchard"
IMAGE = os.environ.get("ORCHARD_E2E_IMAGE", "orchard:0.1.0")
S3_IMAGE = os.environ.get("ORCHARD_E2E_S3_IMAGE", "versity/versitygw:v1.8.0")
S3_NAMESPACE = f"orchard-e2e-s3-{os.environ.get('PYTEST_XDIST_WORKER', '0')}"
"""Of these tests alone: each process of a session has a server of its own."""
ORCHARD = (sys.executable, "-m", "orchard")
T = TypeVar("T")
ENDPOINT = f"http://s3.{S3_NAMESPACE}.svc.cluster.local:7070"


@dataclass(frozen=True)
class Ran:
    """What a command came to."""

    code: int
    out: str
    err: str


def command(*arguments: object, check: bool = True, timeout: float = 600, stdin: str | None = None) -> Ran:
    """Run a command; with `check`, fail the test with what it said if it does."""
    words = [str(argument) for argument in arguments]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout, input=stdin)
    if check and done.returncode:
        pytest.fail(f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return Ran(done.returncode, done.stdout, done.stderr)


def until(what: str, look: Callable[[], T | None], timeout: float = 180, every: float = 1) -> T:
    """Return what `look` finds as soon as it is true; each look takes kubectl some CPU from what is awaited."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(every)
    pytest.fail(f"{what} did not come about within {timeout:.0f} s")


def kubectl(*arguments: object, **options: Any) -> Ran:
    """Run kubectl."""
    return command("kubectl", *arguments, **options)


def get(*arguments: object) -> Any:
    """Return what ``kubectl get`` finds, as data; None for one object that is not there."""
    found = kubectl("get", *arguments, "-o", "json", check=False)
    return json.loads(found.out) if found.code == 0 else None


@dataclass
class Bucket:
    """A bucket of the server in the cluster, filled and read from here."""

    name: str
    store: S3Store

    def url(self, prefix: str) -> str:
        return f"s3a://{self.name}/{prefix}"

    def upload(self, folder: Path, prefix: str) -> int:
        """Put all files of `folder` under `prefix`; return how many."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]

        def put(path: Path) -> None:
            obstore.put(self.store, f"{prefix}/{path.relative_to(folder)}", path.read_bytes())

        with ThreadPoolExecutor(8) as senders:
            list(senders.map(put, files))
        return len(files)

    def touch(self, key: str) -> None:
        """Make an empty object."""
        obstore.put(self.store, key, b"")

    def download(self, prefix: str, folder: Path) -> Path:
        """Copy all objects under `prefix` to `folder`, but for the output's own records."""
        for batch in obstore.list(self.store, prefix):
            for found in batch:
                if found["path"].startswith(f"{prefix}/_orchard/") or not found["size"]:  # Hadoop marks folders
                    continue
                path = folder / found["path"].removeprefix(f"{prefix}/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(obstore.get(self.store, found["path"]).bytes().to_bytes())
        return folder

    def holds(self, prefix: str) -> bool:
        """Return whether there is an object of this name, or under it where it ends with a slash."""
        if prefix.endswith("/"):
            return any(batch for batch in obstore.list(self.store, prefix))
        with contextlib.suppress(FileNotFoundError):
            return bool(obstore.head(self.store, prefix))
        return False

    def json(self, key: str) -> Any:
        return json.loads(obstore.get(self.store, key).bytes().to_bytes())


@dataclass
class Namespace:
    """A namespace with Pod Security ``restricted``, in which releases are installed."""

    name: str
    bucket: Bucket
    releases: list[str] = field(default_factory=list)

    def get(self, *arguments: object) -> Any:
        return get("-n", self.name, *arguments)

    def pods(self, release: str, component: str | None = None) -> list[Any]:
        selector = f"app.kubernetes.io/instance={release}"
        if component:
            selector += f",app.kubernetes.io/component={component}"
        return list(self.get("pods", "-l", selector)["items"])

    def install(self, release: str, source: str, output: str, *values: str, check: bool = True) -> Ran:
        """``helm upgrade --install`` with the cluster's S3 server, and what a small node can hold."""
        self.releases.append(release)
        flags = self.flags(source, output, *values)
        return command("helm", "upgrade", "--install", release, CHART, "-n", self.name, *flags, check=check)

    def render(self, release: str, source: str, output: str, *values: str) -> str:
        """``helm template`` with the same."""
        return command("helm", "template", release, CHART, "-n", self.name, *self.flags(source, output, *values)).out

    def flags(self, source: str, output: str, *values: str) -> list[str]:
        settings = [
            f"image.repository={IMAGE.rpartition(':')[0]}",
            f"image.tag={IMAGE.rpartition(':')[2]}",
            f"source={source}",
            f"output={output}",
            f"s3.endpoint={ENDPOINT}",
            "s3.region=us-east-1",
            "s3.existingSecret=s3",
            "driver.coreRequest=100m",
            "executor.coreRequest=100m",
            *values,
        ]
        return [word for setting in settings for word in ("--set", setting)]

    def orchard(self, *arguments: object, check: bool = False, timeout: float = 300) -> Ran:
        """Run the command line against this namespace."""
        return command(*ORCHARD, *arguments, "--namespace", self.name, check=check, timeout=timeout)

    def events(self, release: str) -> list[Any]:
        """Return the JSON lines that the release's drivers have logged so far."""
        lines: list[Any] = []
        for pod in self.pods(release, "driver"):
            text = kubectl("-n", self.name, "logs", pod["metadata"]["name"], check=False).out
            lines += [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return lines

    def phase(self, release: str) -> str:
        """Return Complete, Failed or Running of the release's job."""
        jobs = self.get("jobs", "-l", f"app.kubernetes.io/instance={release},app.kubernetes.io/component=driver")
        for job in jobs["items"]:
            for condition in job.get("status", {}).get("conditions", []):
                if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
                    return str(condition["type"])
        return "Running"

    def finish(self, release: str, timeout: float = 400) -> str:
        """Wait for the job's end; return Complete or Failed."""
        return until(
            f"the end of {release}",
            lambda: found if (found := self.phase(release)) != "Running" else None,
            timeout,
            every=3,
        )

    def uninstall(self, release: str) -> None:
        """Uninstall, and make sure that nothing is left."""
        command("helm", "uninstall", release, "-n", self.name, "--wait")
        until(f"{release} to leave nothing", lambda: not self.left(release), 90)

    def left(self, release: str) -> list[str]:
        """Return what there still is of a release, of any kind."""
        kinds = "pods,jobs,statefulsets,deployments,services,configmaps,secrets,serviceaccounts,roles,rolebindings,pvc"
        found = kubectl("-n", self.name, "get", kinds, "-o", "name").out.split()
        return [name for name in found if release in name]


@dataclass(frozen=True)
class Server:
    """The S3 server in the cluster, as it is reached from here."""

    endpoint: str
    access_key: str
    secret_key: str

    def bucket(self, name: str) -> Bucket:
        """Make a bucket."""
        keys = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key}
        client = boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **keys)
        client.create_bucket(Bucket=name)
        store = S3Store(
            name,
            config={
                "endpoint": self.endpoint,
                "access_key_id": self.access_key,
                "secret_access_key": self.secret_key,
                "region": "us-east-1",
                "virtual_hosted_style_request": False,
            },
            client_options={"allow_http": True},
        )
        return Bucket(name, store)
