"""What a reader has to know is said once, and bad news never as good news."""

from collections.abc import Callable

from orchard.layout import Metrics
from orchard.report.alerts import Level, Topic, alerts


def test_twins_of_two_labels_are_no_good_news(metrics_of: Callable[..., Metrics]) -> None:
    metrics = metrics_of(["Apple", "Pear"])
    metrics["neighbours"]["near_twins"] = 0
    metrics["leak"] = {"test_rows": 9, "test_rows_with_twin_in_train": 0, "duplicate_rows": 4}

    def of_leaks() -> list[str]:
        return [alert.text for alert in alerts(metrics) if alert.topic is Topic.LEAK]

    assert "Images with a twin on their own side of the split: 4." in of_leaks()[0]
    metrics["conflicts"] = {"images": 4, "pairs": []}
    metrics["warnings"] = ["4 images have the same bytes as one of another label."]
    assert "twin" not in of_leaks()[0]
    assert [(a.level, a.text) for a in alerts(metrics) if "another label" in a.text] == [
        (Level.WARNING, metrics["warnings"][0])
    ]
