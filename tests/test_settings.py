"""A flag beats a variable, a variable the file, the file the default; what is wrong is said in a sentence."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest

from conftest import REPOSITORY
from orchard.cli import cli
from orchard.errors import UsageError
from orchard.settings import OTHER_VARIABLES, Settings, load
from orchard.settings_text import PREFIX
from orchard.spark.properties import of_store


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


def test_who_answers_and_how_surely_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load()
    assert settings.classifiers == ("linear_discriminant", "logistic_regression", "random_forest")
    assert (settings.answer_with, settings.sure_at) == (None, 0.99)
    monkeypatch.setenv("ORCHARD_ANSWER_WITH", "logistic_regression")
    monkeypatch.setenv("ORCHARD_SURE_AT", "0.95")
    assert (load().answer_with, load().sure_at) == ("logistic_regression", 0.95)


def test_a_key_is_for_kms_and_is_told_to_orchard_and_to_hadoop_alike() -> None:
    settings = load({"s3_encryption": "aws:kms", "s3_kms_key": "arn:aws:kms:eu-central-1:1:key/a"})
    options = settings.s3_options()
    assert (options.encryption, options.kms_key) == ("aws:kms", "arn:aws:kms:eu-central-1:1:key/a")
    hadoop = of_store(settings)
    assert hadoop["spark.hadoop.fs.s3a.encryption.algorithm"] == "SSE-KMS"
    assert hadoop["spark.hadoop.fs.s3a.encryption.key"] == options.kms_key
    assert not any("encryption" in name for name in of_store(load()))
    with pytest.raises(UsageError, match="give --s3-encryption aws:kms, too"):
        load({"s3_kms_key": "a", "s3_encryption": "AES256"})


def test_a_quality_sets_what_nobody_else_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(**flags: object) -> tuple[object, ...]:
        settings = load(flags)
        return settings.quality, settings.backbone, settings.views, settings.test_views, settings.tune

    assert load().fit_validation is False and load({"quality": "balanced"}).fit_validation is True
    assert found() == found(quality="fast") == ("fast", "EfficientNetLite0", None, None, False)
    assert found(quality="balanced") == ("balanced", "EfficientNetLite2", 8, "3", False)
    assert found(quality="best", views="2") == ("best", "EfficientNetLite2", 2, "3", True)
    monkeypatch.setenv("ORCHARD_QUALITY", "best")
    monkeypatch.setenv("ORCHARD_TUNE", "false")
    (tmp_path / "orchard.toml").write_text('backbone = "EfficientNetLite1"')
    assert found() == ("best", "EfficientNetLite1", 8, "3", False)
    assert load({"quality": "balanced"}).answer_with is None
    assert load({"quality": "best"}).answer_with == "tuned_head"
    assert load({"quality": "best"}).tune_minutes == 24 != load({"quality": "best", "tune_minutes": 9}).tune_minutes
    assert load({"quality": "best", "classifiers": "logistic_regression"}).answer_with is None
    assert load({"quality": "best", "classifiers": "linear_discriminant"}).answer_with == "tuned_head"
    assert load({"classifiers": "logistic_regression"}).answer_with is None
    with pytest.raises(UsageError, match=r"--quality .* cannot be 'good'"):
        load({"quality": "good"})


def test_another_quality_keeps_what_was_given_beside_the_first() -> None:
    best = load({"views": "2", "seed": "7"}).of_quality("best")
    assert (best.quality, best.backbone, best.views, best.tune, best.seed) == ("best", "EfficientNetLite2", 2, True, 7)
    fast = load({"quality": "best", "views": "2"}).of_quality("fast")
    assert (fast.quality, fast.backbone, fast.views, fast.tune) == ("fast", "EfficientNetLite0", 2, False)


@pytest.mark.parametrize(
    ("value", "listed", "allowed"), [("0", 1000, 0), ("7", 10, 7), ("5%", 1000, 50), ("100%", 10, 10), ("5%", 19, 0)]
)
def test_rejections_are_allowed_by_count_or_share(value: str, listed: int, allowed: int) -> None:
    assert load({"max_rejected": value}).rejections_allowed(listed) == allowed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"driver_memory": "2"}, "cannot be '2': give a number with its unit k, m or g, such as 900m[.]$"),
        ({"classifier_memory": "1 GB"}, "cannot be '1 GB': give a number with its unit k, m or g, such as 900m[.]$"),
        ({"finish_within": "90"}, "cannot be '90': give a number with its unit s, m or h, such as 90m[.]$"),
        ({"webhook": "example.com"}, ": give a URL that begins with http:// or https://[.]$"),
        ({"limit": "0"}, r"--limit \(or ORCHARD_LIMIT\) cannot be '0'"),
        ({"engine": "caffe"}, "--engine"),
        ({"variance": "1.5"}, "--variance"),
        ({"sure_at": "0"}, "--sure-at"),
        ({"sure_at": "1"}, "--sure-at"),
        ({"max_rejected": "many"}, "--max-rejected"),
        ({"max_rejected": 1.5}, "a count or a share"),
        ({"driver_memory": "lots"}, "--driver-memory"),
        ({"driver_memory": "\u0663g"}, "--driver-memory"),
        ({"core_hour_price": "inf"}, "--core-hour-price"),
        ({"source_weight": {"a": float("inf")}}, "--source-weight"),
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


def printed_defaults(command: str) -> dict[str, str]:
    """Each flag's default as a command's help prints it."""
    options = [option for option in cli.commands[command].params if isinstance(option, click.Option)]
    found = {str(option.name): re.search(r"\[default: (.+)\]", option.help or "") for option in options}
    return {name: default[1] for name, default in found.items() if default}


@pytest.mark.parametrize(("name", "printed"), printed_defaults("run").items())
@pytest.mark.parametrize("source", ["flag", "variable", "file"])
def test_a_printed_default_is_taken_as_a_value(
    source: str, name: str, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {}
    if source == "flag":
        flags = {name: printed}
    elif source == "variable":
        monkeypatch.setenv(f"ORCHARD_{name.upper()}", printed)
    else:
        number = re.fullmatch(r"[\d.]+", printed)
        (tmp_path / "orchard.toml").write_text(f"{name} = {printed}" if number else f'{name} = "{printed}"')
    assert getattr(load(flags), name) == Settings.model_fields[name].default


def test_every_setting_with_a_default_prints_it() -> None:
    expected = {name for name, field in Settings.model_fields.items() if field.default not in (None, (), False, {})}
    assert printed_defaults("run").keys() == expected


@pytest.mark.parametrize("command", cli.commands)
def test_a_printed_default_of_a_flag_that_is_no_setting_is_its_value(command: str) -> None:
    options = {option.name: option for option in cli.commands[command].params}
    for name, printed in printed_defaults(command).items():
        if name not in Settings.model_fields and not re.match(r"the |one for|in workers|orchard of", printed):
            assert options[name].type.convert(printed, None, None) == options[name].default, name


@pytest.mark.parametrize("value", ["0.05", "5e-2", ".05", "5 %", "5%"])
def test_a_share_of_rejections_is_written_in_many_ways(value: str, tmp_path: Path) -> None:
    assert load({"max_rejected": value}).rejections_allowed(100) == 5
    (tmp_path / "orchard.toml").write_text(f'max_rejected = "{value}"')
    assert load().rejections_allowed(100) == 5


@pytest.mark.parametrize("value", ["1.5", "150%", "-1", "-5%", "nan", "inf", "", "5 images"])
def test_a_share_of_rejections_that_cannot_be_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="--max-rejected"):
        load({"max_rejected": value})


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("ORCHARD_LIMT", "ORCHARD_LIMIT"),
        ("ORCHARD_SEDE", "ORCHARD_SEED"),
        ("ORCHARD_TESTFRACTION", "ORCHARD_TEST_FRACTION"),
        ("ORCHARD_LABEL", "ORCHARD_LABELS"),
        ("ORCHARD_CACH", "ORCHARD_CACHE"),
        ("orchard_limt", "ORCHARD_LIMIT"),
    ],
)
def test_a_slip_in_a_variables_name_is_refused(variable: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "5")
    with pytest.raises(UsageError, match=rf"no variable {variable}: did you mean {meant}\?"):
        load()


def test_another_variable_of_the_prefix_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ORCHARD_FLAVOUR", "sweet")
    assert load().model_dump() == Settings().model_dump()
    assert "ORCHARD_FLAVOUR is not used" in caplog.text


def test_what_kubernetes_says_of_services_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for service in ("ORCHARD", "ORCHARD_SERVE", "ORCHARD_SEED", "ORCHARD_LIMIT"):
        for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR"):
            monkeypatch.setenv(f"{service}_{name}", "tcp://10.0.0.1:80")
    assert load().model_dump() == Settings().model_dump()
    assert not caplog.text


def test_every_variable_that_orchard_reads_is_known() -> None:
    known = {f"{PREFIX}{name}" for name in (*map(str.upper, Settings.model_fields), *OTHER_VARIABLES)}
    for folder, suffixes in (("app", (".py", ".yaml")), ("helm", (".yaml", ".tpl")), ("docker", (".sh", "Dockerfile"))):
        for path in (REPOSITORY / folder).rglob("*"):
            if path.name.endswith(suffixes) and "node_modules" not in path.parts:
                used = set(re.findall(r"\bORCHARD_[A-Z][A-Z0-9_]*[A-Z0-9]\b", path.read_text()))
                assert used <= known, path


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIMIT", "LABELS", "SPARK_CONF", "FRESH", "MAX_REJECTED"):
        monkeypatch.setenv(f"ORCHARD_{name}", "")
    assert load().model_dump() == Settings().model_dump()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('labels = ["Pomme très mûre"]'.encode("latin-1"), "is not UTF-8"),
        ("seed = 1".encode("utf-16"), "is not UTF-8"),
        (b"seed = \0", "is not TOML"),
        (b"[orchard]\nseed = 1", r"has a table \[orchard\]"),
        (b"[spark_conf]\na = 1", r"--spark-conf a .*valid string"),
        (b"sead = 1", "no setting called sead: did you mean seed"),
        (b"test-fraction = 0.5", "did you mean test_fraction"),
        (b"seed = 1\nseed = 2", "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_is_one_sentence(written: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "orchard.toml").write_bytes(written)
    with pytest.raises(UsageError, match=message) as raised:
        load()
    assert "\n" not in str(raised.value)


def test_a_file_may_begin_with_a_mark_or_be_empty(tmp_path: Path) -> None:
    (tmp_path / "orchard.toml").write_bytes(b"\xef\xbb\xbfseed = 7")
    assert load().seed == 7
    (tmp_path / "orchard.toml").write_bytes(b"")
    assert load().model_dump() == Settings().model_dump()


def test_a_folder_is_no_settings_file(tmp_path: Path) -> None:
    (tmp_path / "orchard.toml").mkdir()
    for config in (None, tmp_path):
        with pytest.raises(UsageError, match="is a folder"):
            load(config=config)


def test_a_settings_file_may_be_a_pipe(tmp_path: Path) -> None:
    """As a shell makes of <(…)."""
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit((tmp_path / "pipe").write_text, "seed = 8")
        assert load(config=tmp_path / "pipe").seed == 8
        written.result()


def test_variables_that_are_no_json_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHARD_SPARK_CONF", "spark.hadoop.fs.s3a.secret.key=hunter2")
    with pytest.raises(UsageError, match="ORCHARD_SPARK_CONF cannot be read") as raised:
        load()
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "flags",
    [
        {"spark_conf": {"spark.hadoop.fs.s3a.secret.key": 12345678}},
        {"spark_conf": {"fs.s3a.accessKey": ["12345678"]}},
        {"spark_conf": "password=12345678"},
        {"limit": "https://ann:12345678@example.com"},
        {"password=12345678": "x"},
    ],
)
def test_a_secret_is_not_quoted(flags: dict[str, object]) -> None:
    with pytest.raises(UsageError) as raised:
        load(flags)
    assert "12345678" not in str(raised.value)


def test_names_that_are_given_twice_are_all_taken() -> None:
    context = cli.commands["run"].make_context("run", ["x", "-o", "y", "--labels", "a,b", "--labels", "c"])
    assert load({"labels": context.params["labels"]}).labels == ("a", "b", "c")
