"""The flags of commands, made from the settings."""

from collections.abc import Callable, Iterable
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click

from orchard import progress
from orchard.commandline import NamedPath
from orchard.redaction import without_secrets
from orchard.settings import Settings, load
from orchard.settings_text import as_text, flag_of

SELECTION = (
    "limit",
    "labels",
    "label_level",
    "kind_from",
    "label_columns",
    "corrections",
    "test_fraction",
    "group_by",
    "seed",
)
IMAGES = ("max_bytes", "max_pixels", "max_decode_memory", "max_decode_seconds")
TUNING = ("tune_minutes", "tune_epochs", "tune_branches", "tune_images")
EXTRACTION = (
    *SELECTION,
    *(*IMAGES, "max_rejected"),
    "quality",
    *(
        "backbone",
        "weights",
        "alpha",
        "input_size",
        "fit",
        "views",
        "backgrounds",
        "test_views",
        "transform",
        "engine",
        "precision",
    ),
    *("tune", *TUNING),
    "task_images",
    *("fresh", "prune", "retry_rejected"),
)
REDUCTION = ("variance", "components", "fit_validation", "source_weight")
CLASSIFICATION = ("classifiers", "answer_with", "sure_at", "unknown", "classifier_memory", "cards")
SPARK = ("master", "driver_memory", "executor_timeout", "spark_conf")
SCALING = ("min_executors", "max_executors", "finish_within")
PRICES = ("core_hour_price", "core_watts")
TELLING = ("metrics_port", "webhook")
STORAGE = (
    *("s3_endpoint", "s3_region", "gcs_endpoint", "azure_endpoint", "storage_timeout"),
    *("allowed_regions", "s3_encryption", "s3_kms_key", "s3_bucket_key"),
)
AROUND = (*SPARK, *SCALING, *TELLING, *PRICES, *STORAGE)
DRIVERS = {
    "run": (*EXTRACTION, *REDUCTION, *CLASSIFICATION, *AROUND),
    "compare": (*(name for name in EXTRACTION if name != "backbone"), *REDUCTION, "classifiers", *AROUND),
    "tune": (*TUNING, *IMAGES, *REDUCTION, *CLASSIFICATION, "seed", "test_fraction", "group_by", *AROUND),
}
"""Command that a cluster's driver can run -> the settings that are its flags."""

Command = Callable[..., Any]


def options(*names: str) -> Callable[[Command], Command]:
    """Give a command the flags of these settings, and ``--config``, ``--json`` and ``--debug``."""

    def decorate(command: Command) -> Command:
        command = click.option("--debug", is_flag=True, help="show tracebacks and debug messages")(command)
        command = click.option("--json", "as_json", is_flag=True, help="print the result as JSON")(command)
        config = NamedPath()
        command = click.option("--config", type=config, help="settings file, in TOML (default: orchard.toml)")(command)
        for name in reversed(names):
            command = _option(name)(command)
        return command

    return decorate


def comparison(*, required: bool) -> Callable[[Command], Command]:
    """Give a command the flags ``--backbones`` and ``--tolerance``."""
    backbones = click.option(
        "--backbones",
        required=required,
        metavar="A,B@128,…",
        help="backbones to compare, separated by commas; NAME@128 gives one an input size of 128 pixels",
    )
    default = "0.01" if required else "the command's"
    tolerance = click.option(
        "--tolerance",
        type=float,
        default=0.01 if required else None,
        metavar="NUMBER",
        help=f"how much less accurate a faster backbone may be and still be the best trade-off  [default: {default}]",
    )
    return lambda command: backbones(tolerance(command))


def _option(name: str) -> Callable[[Command], Command]:
    field = Settings.model_fields[name]
    flag = flag_of(name)
    described = field.description or ""
    if field.default not in (None, (), False, {}):
        described += f"  [default: {as_text(name, field.default)}]"
    if field.annotation is bool:
        return click.option(flag, is_flag=True, default=None, help=described)
    if isinstance(field.default, dict):
        return click.option(flag, multiple=True, metavar="KEY=VALUE", help=described)
    if isinstance(field.default, tuple):
        return click.option(flag, multiple=True, callback=_joined, metavar="A,B,…", help=described)
    return click.option(flag, metavar=_metavar(field.annotation), help=described)


def _joined(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> str | None:  # noqa: ARG001
    """Return the names of all uses of a flag, separated by commas."""
    return ",".join(given) or None


def _metavar(annotation: Any) -> str:
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if get_origin(kinds[0]) is Literal:
        return "|".join(get_args(kinds[0]))
    return {int: "N", float: "NUMBER"}.get(kinds[0], "TEXT")


def settings_from(flags: dict[str, Any]) -> Settings:
    """Set up the log, and load the settings: from the flags that click has parsed, variables and the settings file."""
    progress.configure_logging(debug=flags.pop("debug"))
    config = flags.pop("config")
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    for name in ("spark_conf", "source_weight"):
        if name in given:
            given[name] = key_values(given[name], flag_of(name))
    return load(given, config)


def key_values(given: Iterable[str], flag: str | None = None) -> dict[str, str]:
    """Return the pairs of a repeated flag KEY=VALUE. Raises BadParameter for other values."""
    # A path may contain an equals sign, so its weight follows the last one; a property's name contains none.
    pairs = [pair.rpartition("=") if flag == "--source-weight" else pair.partition("=") for pair in given]
    if bad := next((pair[0] or pair[2] for pair in pairs if not pair[1]), None):
        raise click.BadParameter(f"{without_secrets(bad, bad)!r} is not KEY=VALUE", param_hint=flag)
    return {key: value for key, _, value in pairs}
