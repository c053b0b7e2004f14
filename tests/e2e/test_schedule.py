"""A schedule: what the CronJob starts completes as a job does, and the next run finds nothing to do."""

from pathlib import Path

from e2e.cluster import Namespace, kubectl


def test_a_scheduled_run_completes_and_the_next_one_decodes_nothing(namespace: Namespace, sample: Path) -> None:
    namespace.bucket.upload(sample / "Test", "photos")
    flags = ("schedule.cron=0 3 1 1 *", "settings.classifiers=linear_discriminant", "settings.max_rejected=5")
    namespace.install("nightly", namespace.bucket.url("photos"), namespace.bucket.url("out"), *flags)
    decoded = []
    for run in ("first", "second"):
        job = f"nightly-{run}"
        kubectl("-n", namespace.name, "create", "job", "--from=cronjob/nightly", job)
        kubectl("-n", namespace.name, "wait", "--for=condition=complete", f"job/{job}", "--timeout=400s", timeout=420)
        decoded.append(namespace.bucket.json("out/metrics.json")["images"]["decoded"])
    assert decoded[0] > 0 and decoded[1] == 0
    namespace.uninstall("nightly")
