"""A flag beats a variable, a variable the file, the file the default; what is wrong is said in a sentence."""

from pathlib import Path

import pytest

from orchard.errors import UsageError
from orchard.settings import Settings, load


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_flag_then_variable_then_file_then_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().seed == 42
    (tmp_path / "orchard.toml").write_text("seed = 1")
    assert load().seed == 1
    monkeypatch.setenv("ORCHARD_SEED", "2")
    assert load().seed == 2
    assert load({"seed": "3"}).seed == 3


def test_a_named_file_replaces_the_one_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "orchard.toml").write_text("seed = 1")
    (tmp_path / "other.toml").write_text('seed = 5\nlabels = ["Apple, red", "Lemon"]')
    settings = load(config=tmp_path / "other.toml")
    assert (settings.seed, settings.labels) == (5, ("Apple, red", "Lemon"))


def test_lists_are_separated_by_commas_in_flags_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHARD_CLASSIFIERS", "random_forest, logistic_regression")
    assert load().classifiers == ("random_forest", "logistic_regression")
    assert load({"labels": "a b,c"}).labels == ("a b", "c")


@pytest.mark.parametrize(
    ("value", "listed", "allowed"), [("0", 1000, 0), ("7", 10, 7), ("5%", 1000, 50), ("100%", 10, 10), ("5%", 19, 0)]
)
def test_rejections_are_allowed_by_count_or_share(value: str, listed: int, allowed: int) -> None:
    assert load({"max_rejected": value}).rejections_allowed(listed) == allowed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"limit": "0"}, r"--limit \(or ORCHARD_LIMIT\) cannot be '0'"),
        ({"engine": "caffe"}, "--engine"),
        ({"variance": "1.5"}, "--variance"),
        ({"max_rejected": "many"}, "--max-rejected"),
        ({"max_rejected": 1.5}, "a count or a share"),
        ({"driver_memory": "lots"}, "--driver-memory"),
        ({"variance": 0.9, "components": 3}, "exclude each other"),
        ({"colour": "red"}, "no setting called colour"),
    ],
)
def test_a_wrong_value_is_named(flags: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(flags)


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.toml does not exist"):
        load(config=Path("missing.toml"))
    (tmp_path / "orchard.toml").write_text("seed 1")
    with pytest.raises(UsageError, match="is not TOML"):
        load()
    (tmp_path / "orchard.toml").write_text("sead = 1")
    with pytest.raises(UsageError, match="no setting called sead"):
        load()


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.description for field in Settings.model_fields.values())
