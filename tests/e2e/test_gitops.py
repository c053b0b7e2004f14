"""The chart as manifests that are applied again and again, as Argo CD and Flux do: one driver, whatever changes."""

from pathlib import Path

from e2e.cluster import Namespace, kubectl, until

VALUES = ("gitops=true", "executor.instances=1", "executor.coreLimit=300m", "settings.precision=float32")
COPIES = 10
"""Of the sample: the run lasts longer than the kubelet takes to renew a ConfigMap, 90 s, on a fast machine too."""


def test_applying_again_changes_the_number_alone_and_never_starts_a_second_driver(
    namespace: Namespace, sample: Path
) -> None:
    for copy in range(COPIES):
        namespace.bucket.upload(sample, f"photos/{copy}")
    on = ("-n", namespace.name)

    def apply(*values: str, force: bool = False, check: bool = True) -> str:
        source, output = namespace.bucket.url("photos"), namespace.bucket.url("out")
        manifests = namespace.render(
            "grove", source, output, *VALUES, "settings.classifiers=linear_discriminant", *values
        )
        done = kubectl(*on, "apply", "-f", "-", *(["--force"] if force else []), stdin=manifests, check=check)
        return done.out + done.err

    def job() -> str:
        (found,) = namespace.get("jobs")["items"]
        return str(found["metadata"]["uid"])

    apply()
    first = job()
    until("features", lambda: namespace.bucket.holds("out/features/"))
    assert "job.batch/grove unchanged" in apply()
    # The number: the same driver, which scales.
    apply("executor.instances=2")
    scaled = lambda: (namespace.get("statefulset", "spark-s-grove-0") or {}).get("spec", {}).get("replicas") == 2  # noqa: E731
    until("two executors to be asked for", scaled)
    assert job() == first and len(namespace.pods("grove", "driver")) == 1
    # A setting: a plain apply is refused, and starts nothing.
    changed = ("executor.instances=2", "settings.sure_at=0.9")
    assert "field is immutable" in apply(*changed, check=False)
    assert job() == first and len(namespace.pods("grove", "driver")) == 1
    # Told to replace it, as its annotations tell Argo CD and Flux: one Job, whose driver goes on.
    apply(*changed, force=True)
    assert job() != first
    assert namespace.finish("grove") == "Complete"
    images = namespace.bucket.json("out/metrics.json")["images"]
    assert images["featurized"] == 540 * COPIES
    assert images["decoded"] < 542 * COPIES, "the second driver began again from nothing"
    # What has ended stays, and is not started again.
    second = job()
    assert "job.batch/grove unchanged" in apply(*changed)
    assert job() == second
    kubectl(
        *on, "delete", "-f", "-", "--wait=false", stdin=namespace.render("grove", "s3a://a/b", "s3a://a/c", *VALUES)
    )
    until("nothing to be left", lambda: not namespace.left("grove"), 90)
