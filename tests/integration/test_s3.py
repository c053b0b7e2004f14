"""From one bucket to another, on a real S3 server, without Hadoop's connector."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import orchard
from orchard.errors import AccessDenied, OrchardError
from orchard.layout import FEATURES, REJECTED, Dataset
from orchard.output import Output
from storage.stub import Answer, Stub, error, running


@pytest.fixture
def bucket(s3_server: Any, painted: Path) -> str:
    """The painted images as objects, their names as they are."""
    name: str = s3_server.bucket()
    target = s3_server.root / name / "my photos"
    for image in painted.rglob("*.jpg"):
        path = target / image.relative_to(painted)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.read_bytes())
    (target / "Training" / "Lemon #2" / "html.jpg").write_text("<html>")
    return name


def test_a_run_from_bucket_to_bucket(spark: Any, s3_server: Any, bucket: str) -> None:
    source, out = f"s3a://{bucket}/my photos", f"s3a://{bucket}/results"
    settings: dict[str, Any] = {"s3_endpoint": s3_server.endpoint, "s3_region": "us-east-1"}
    outcome = orchard.run(spark, source, out, classifiers="linear_discriminant", **settings)
    counts = outcome.metrics["images"]
    assert (counts["listed"], counts["featurized"], counts["rejected"]) == (91, 90, 1)
    assert outcome.metrics["classifiers"]["linear_discriminant"]["accuracy"] >= 0.9
    output = Output(out, s3_server.options)
    paths = output.read(Dataset.FEATURES, ["path"], FEATURES)["path"].to_pylist()
    assert len(set(paths)) == len(paths) == 90
    assert all(path.startswith(f"{source}/T") for path in paths)
    assert output.read(Dataset.REJECTED, ["path"], REJECTED)["path"].to_pylist() == [
        f"{source}/Training/Lemon #2/html.jpg"
    ]
    assert json.loads(output.storage.read("metrics.json"))["images"] == counts
    assert b"<svg" in output.storage.read("report.html")
    again = orchard.run(spark, source, out, classifiers="linear_discriminant", **settings)
    assert again.metrics["images"]["decoded"] == 0


def test_images_of_a_bucket_have_the_features_of_the_same_files(
    spark: Any, s3_server: Any, bucket: str, painted: Path, tmp_path: Path
) -> None:
    remote = orchard.extract(
        spark, f"s3a://{bucket}/my photos/Test", str(tmp_path / "remote"), s3_endpoint=s3_server.endpoint
    )
    local = orchard.extract(spark, str(painted / "Test"), str(tmp_path / "local"))
    by_name = [
        {Path(row.path).parent.name + Path(row.path).name: row.features for row in frame.collect()}
        for frame in (remote, local)
    ]
    assert by_name[0] == by_name[1]
    assert len(by_name[0]) == 18


def test_a_missing_bucket_and_wrong_credentials_are_told_apart_quickly(
    spark: Any, s3_server: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"s3_endpoint": s3_server.endpoint}
    with pytest.raises(OrchardError, match="no-such-bucket"):
        orchard.run(spark, "s3a://no-such-bucket/photos", str(tmp_path / "out"), **settings)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(OrchardError, match="credentials"):
        orchard.run(spark, f"s3a://{bucket}/my photos", str(tmp_path / "out"), **settings)


@pytest.fixture
def stub(painted: Path) -> Iterator[Stub]:
    """A store that can be made to refuse; the painted images are in it. Workers have the other server's keys."""
    objects = {f"photos/{image.relative_to(painted)}": image.read_bytes() for image in painted.rglob("*.jpg")}
    with running(Stub(objects=objects)) as stub:
        yield stub


def _extract(spark: Any, stub: Stub, out: Path) -> Output:
    orchard.extract(spark, "s3a://b/photos", str(out), s3_endpoint=stub.options.endpoint, max_rejected=1000)
    return Output(str(out))


def test_one_odd_key_and_one_denied_object_stop_nothing(spark: Any, stub: Stub, tmp_path: Path) -> None:
    first, second, third, *others = sorted(stub.objects)
    for key, name in ((first, "//double.jpg"), (second, "/./dot.jpg"), (third, "/../line\nbreak.jpg")):
        stub.objects[f"{key.rpartition('/')[0]}{name}"] = stub.objects[key]
    stub.refused[others[0]] = error(403, "InvalidObjectState", "The object is archived")
    output = _extract(spark, stub, tmp_path / "out")
    assert output.rows(Dataset.FEATURES) == len(stub.objects) - 1
    (row,) = output.read(Dataset.REJECTED, ["path", "reason", "detail"], REJECTED).to_pylist()
    assert (row["path"], row["reason"]) == (f"s3a://b/{others[0]}", "unreadable")
    assert "archived" in row["detail"]
    labels = output.read(Dataset.FEATURES, ["label"], FEATURES)["label"].to_pylist()
    assert set(labels) == {key.split("/")[2] for key in (first, second, third, *others)}


def test_if_all_objects_are_denied_the_permission_is_named(spark: Any, stub: Stub, tmp_path: Path) -> None:
    stub.refused = dict.fromkeys(stub.objects, error(403, "AccessDenied"))
    with pytest.raises(AccessDenied, match="s3:GetObject") as told:
        _extract(spark, stub, tmp_path / "out")
    assert told.value.exit_code == 3
    stub.refused = {}
    assert _extract(spark, stub, tmp_path / "out").rows(Dataset.FEATURES) == len(stub.objects)


def test_an_outage_in_the_middle_is_survived(spark: Any, stub: Stub, tmp_path: Path) -> None:
    """Longer than obstore tries by itself; by default up to five minutes are."""

    def check(_: str) -> Answer | None:
        begun = len(stub.requests) > 20
        if begun and not ends:
            ends.append(time.monotonic() + 8)
        return error(503, "ServiceUnavailable") if begun and time.monotonic() < ends[0] else None

    ends: list[float] = []
    stub.check = check
    assert _extract(spark, stub, tmp_path / "out").rows(Dataset.FEATURES) == len(stub.objects)
    assert ends
