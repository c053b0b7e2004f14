"""Buckets may be held to regions, and what is written to a key: told by AWS's stand-in, which has regions and KMS."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest
from click.testing import CliRunner
from moto.server import ThreadedMotoServer

from orchard.cli import cli
from orchard.errors import RegionRefused
from orchard.layout import BACKBONE, INVENTORY, Dataset
from orchard.output import Output
from orchard.runlog import RunLog
from orchard.settings import load
from orchard.storage import S3Options, open_storage, read_path
from orchard.storage import s3 as s3_module

from .stub import Stub, error


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The endpoint."""
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def aws(server: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Clients of S3 and KMS; the bucket ``here`` is in eu-central-1, ``there`` in us-east-1 and holds an image."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
    clients = {name: boto3.client(name, endpoint_url=server, region_name="eu-central-1") for name in ("s3", "kms")}
    if not clients["s3"].list_buckets()["Buckets"]:
        clients["s3"].create_bucket(Bucket="here", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        boto3.client("s3", endpoint_url=server, region_name="us-east-1").create_bucket(Bucket="there")
        clients["s3"].put_object(Bucket="there", Key="photos/Lemon/1.jpg", Body=b"an image")
    return clients


EMR = ["--target", "emr-serverless", "--execution-role-arn", "arn:aws:iam::1:role/a", "--application-id", "b"]


def _run(server: str, *words: str) -> tuple[int, str]:
    where = ["--s3-endpoint", server, "--allowed-regions", "eu-central-1,eu-west-1"]
    result = CliRunner().invoke(cli, [*words, *where])
    return result.exit_code, str(result.exception or result.output)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "s3a://there/photos", "--output", "s3a://here/out"],
        ["run", "s3a://here/photos", "s3://there/more", "--output", "s3a://here/out"],
        ["run", "s3a://here/photos", "--output", "s3a://there/out"],
        ["run", "s3a://here/photos", "--output", "s3a://here/out", "--weights", "s3a://there/w.h5"],
        ["run", "s3a://here/photos", "--output", "s3a://here/out", "--cards", "s3a://there/cards.csv"],
        ["run", "s3a://here/photos", "-o", "s3a://here/out", "--spark-conf", "spark.eventLog.dir=s3a://there/events"],
        ["extract", "s3a://there/photos", "--output", "s3a://here/out"],
        ["compare", "s3a://there/photos", "--output", "s3a://here/out", "--backbones", "EfficientNetLite0"],
        ["plan", "s3a://there/photos"],
        ["report", "s3a://there/out"],
        ["predict", "s3a://here/out", "s3a://there/photos"],
        ["serve", "s3a://there/out"],
        ["submit", "s3a://here/photos", "-o", "s3a://here/out", *EMR, "--log-uri", "s3://there/logs"],
        ["export", "s3a://here/out", "--format", "onnx", "--to", "s3a://there/fruits.onnx"],
    ],
    ids=lambda words: f"{words[0]}-{len(words)}-{words[-1]}",
)
def test_a_bucket_elsewhere_is_refused_before_anything_is_read_or_written(
    server: str, aws: dict[str, Any], words: list[str]
) -> None:
    code, said = _run(server, *words)
    assert said == (
        "s3a://there is in us-east-1, and --allowed-regions is eu-central-1,eu-west-1: nothing of it was read or "
        "written; take a bucket of S3 in one of these."
    )
    assert code
    assert "Contents" not in aws["s3"].list_objects_v2(Bucket="here")


@pytest.mark.parametrize("source", ["gs://b/photos", "abfss://b@account.dfs.core.windows.net/photos"])
def test_a_store_that_does_not_tell_its_region_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(RegionRefused, match=r"^\w+://b\S* does not tell in which region it is, and --allowed-regions"):
        load({"allowed_regions": "eu-central-1"}).check_regions(source, str(tmp_path))
    load({"allowed_regions": "eu-central-1"}).check_regions(str(tmp_path))
    load().check_regions(source)


@pytest.mark.usefixtures("aws")
def test_what_a_list_names_is_held_to_the_regions_too_in_every_process(server: str) -> None:
    allowed = S3Options(server, allowed_regions=("eu-central-1",))
    with pytest.raises(RegionRefused, match=r"^s3a://there is in us-east-1"):
        read_path("s3a://there/photos/Lemon/1.jpg", allowed)
    with pytest.raises(RegionRefused):
        open_storage("s3a://there", allowed).write("a", b"1")
    open_storage("s3a://here/elsewhere", allowed).delete(["a"])
    assert S3Options(server, allowed_regions=["eu-central-1"]) == allowed  # type: ignore[arg-type]
    assert read_path("s3a://there/photos/Lemon/1.jpg", S3Options(server)) == b"an image"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("<LocationConstraint xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>eu-west-3</LocationConstraint>", None),
        ("<LocationConstraint/>", "is in us-east-1"),
        ("<Something/>", "does not tell"),
        (error(403, "AccessDenied"), "does not tell"),
    ],
)
def test_a_server_that_says_nothing_to_head_is_asked_for_the_location(
    stub: Stub, answer: Any, said: str | None
) -> None:
    stub.location = answer if isinstance(answer, tuple) else (200, answer.encode())
    stub.objects = {"a": b"1"}
    storage = open_storage("s3a://b", S3Options(stub.options.endpoint, allowed_regions=("eu-west-3",), timeout=1))
    if said is None:
        assert storage.read("a") == b"1"
    else:
        with pytest.raises(RegionRefused, match=re.escape(said)):
            storage.read("a")
        assert not any("/b/a" in request for request in stub.requests)


def test_everything_that_is_written_has_the_key(
    server: str, aws: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "_MULTIPART_BYTES", 2**20)
    key = aws["kms"].create_key()["KeyMetadata"]["Arn"]
    settings = load({"s3_endpoint": server, "s3_encryption": "aws:kms", "s3_kms_key": key, "s3_bucket_key": True})
    output = Output("s3a://here/encrypted", settings.s3_options())
    rows = pa.table({name: pa.nulls(1, field.type) for name, field in zip(INVENTORY.names, INVENTORY, strict=True)})
    with output.writing(), RunLog(output.storage, output.run_id):
        staged = output.stage(Dataset.INVENTORY, rows)
        output.commit({Dataset.INVENTORY: [staged]}, parts={BACKBONE: bytes(6 * 2**20)})
        output.commit({}, model=output.stage_model({"labels.json": b"[]"}))
        output.write("report.html", b"<html>")
        logging.getLogger("orchard").warning("said")
    found = aws["s3"].list_objects_v2(Bucket="here", Prefix="encrypted/")["Contents"]
    kinds = {entry["Key"].split("/")[1] for entry in found}
    assert kinds == {"_orchard", "inventory", "logs", "model", "report.html"}
    for entry in found:
        head = aws["s3"].head_object(Bucket="here", Key=entry["Key"])
        of = (head.get("ServerSideEncryption"), head.get("SSEKMSKeyId"), head.get("BucketKeyEnabled"))
        assert of == ("aws:kms", key, True), entry["Key"]
