"""From one bucket to another, on a real S3 server, without Hadoop's connector."""

import json
from pathlib import Path
from typing import Any

import pytest

import orchard
from orchard.errors import OrchardError
from orchard.layout import FEATURES, REJECTED, Dataset
from orchard.output import Output


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
    outcome = orchard.run(spark, source, out, classifiers="logistic_regression", **settings)
    counts = outcome.metrics["images"]
    assert (counts["listed"], counts["featurized"], counts["rejected"]) == (91, 90, 1)
    assert outcome.metrics["classifiers"]["logistic_regression"]["accuracy"] >= 0.9
    output = Output(out, s3_server.options)
    paths = output.read(Dataset.FEATURES, ["path"], FEATURES)["path"].to_pylist()
    assert len(set(paths)) == len(paths) == 90
    assert all(path.startswith(f"{source}/T") for path in paths)
    assert output.read(Dataset.REJECTED, ["path"], REJECTED)["path"].to_pylist() == [
        f"{source}/Training/Lemon #2/html.jpg"
    ]
    assert json.loads(output.storage.read("metrics.json"))["images"] == counts
    assert b"<svg" in output.storage.read("report.html")
    again = orchard.run(spark, source, out, classifiers="logistic_regression", **settings)
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
