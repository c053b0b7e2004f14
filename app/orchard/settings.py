"""Every setting once: flag before ``ORCHARD_*`` variable before settings file before default.

The flags of the command line are made from the fields below, so a setting's name, type, default and help
stand here and nowhere else.
"""

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from orchard.errors import UsageError
from orchard.storage.interface import S3Options

SETTINGS_FILE = Path("orchard.toml")
"""Read from the working directory when no ``--config`` is given and it is there."""


def _comma_separated(value: object) -> object:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


def _count_or_share(value: object) -> object:
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip()[:-1]) / 100
    if isinstance(value, str):
        return int(value)
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]


class Settings(BaseSettings):
    """What a run can be told. See each field's description."""

    model_config = SettingsConfigDict(env_prefix="ORCHARD_", extra="forbid", frozen=True, validate_default=False)

    # What to read
    limit: int | None = Field(None, ge=1, description="take a stratified sample of N images")
    labels: Names = Field((), description="take these labels only, separated by commas")
    label_level: int = Field(1, ge=1, description="make the label of the last N folders of a path, such as Apple/Red")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of test images where the source has no split")
    split_by: Literal["image", "group"] = Field(
        "image", description="group: also measure with consecutive frames kept on one side of the split"
    )
    seed: int = Field(42, ge=0, description="seed of every random choice")

    # What a picture may be
    max_bytes: int = Field(64 * 2**20, ge=1, description="reject files of more bytes")
    max_pixels: int = Field(100_000_000, ge=1, description="reject images of more pixels")
    max_rejected: Annotated[int | float, BeforeValidator(_count_or_share)] = Field(
        0.05, ge=0, description="exit with 1 if more images are rejected: a count, or a share such as 5%"
    )

    # How features are made
    backbone: str = Field("EfficientNetLite0", description="the network (`orchard backbones` lists them)")
    weights: str = Field("imagenet", description="imagenet, random, or a weights file")
    alpha: float = Field(1.0, gt=0, description="width of MobileNet and MobileNetV2")
    engine: Literal["openvino", "tensorflow"] = Field("openvino", description="what runs the network")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the driver's CPU has it"
    )

    # How features are reduced and classified
    variance: float = Field(0.95, gt=0, le=1, description="keep the components that explain this share")
    components: int | None = Field(None, ge=1, description="keep K components instead")
    classifiers: Names = Field(
        ("logistic_regression", "random_forest"), description="classifiers to train, separated by commas"
    )

    # What happens to an output that is there already
    fresh: bool = Field(False, description="drop what the output holds and start over")
    prune: bool = Field(False, description="drop rows of images that the source no longer has")
    retry_rejected: bool = Field(False, description="try rejected images again")

    # Where Spark runs and what it may use
    master: str | None = Field(None, description="Spark master; by default all cores of this machine")
    driver_memory: str = Field("900m", pattern=r"^\d+[kmgKMG]$", description="memory of the driver's JVM")
    executor_timeout: float = Field(600, gt=0, description="seconds to wait for the first executor on Kubernetes")
    spark_conf: dict[str, str] = Field({}, description="further Spark property, key=value; can be repeated")

    # Object storage (keys come from the standard AWS chain: environment, profile, role)
    s3_endpoint: str | None = Field(None, description="S3 endpoint, if it is not AWS")
    s3_region: str | None = Field(None, description="S3 region")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.components is not None and "variance" in self.model_fields_set:
            raise ValueError("--variance and --components exclude each other: give one of them")
        if isinstance(self.max_rejected, float) and self.max_rejected > 1:
            raise ValueError("--max-rejected is a count or a share such as 5%")
        return self

    def s3_options(self) -> S3Options:
        """Return where the object store is; credentials are no settings, they come from the environment."""
        return S3Options(self.s3_endpoint, self.s3_region).resolved()

    def rejections_allowed(self, listed: int) -> int:
        """Return how many of `listed` images may be rejected before the run ends with exit code 1."""
        if isinstance(self.max_rejected, int):
            return self.max_rejected
        return math.floor(self.max_rejected * listed)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- named by pydantic
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- named by pydantic
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then variables, then the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(flags: Mapping[str, object] | None = None, config: Path | None = None) -> Settings:
    """Return the settings from `flags`, the environment and the settings file, in this order.

    Raises:
        UsageError: a value cannot be right, or the file is missing, no TOML, or names what is no setting.
    """
    if config is not None and not config.is_file():
        raise UsageError(f"The settings file {config} does not exist: check --config.")
    file = config or SETTINGS_FILE

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        return FromFile(**dict(flags or {}))  # type: ignore[arg-type]
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The settings file {file} is not TOML: {error}.") from None
    except (ValidationError, SettingsError) as error:
        raise UsageError(_sentence(error)) from None


def _sentence(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        return f"{error}: check the ORCHARD_* variables."
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return f"{message}."
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"There is no setting called {name}: `orchard run --help` lists them."
    flag = "--" + name.replace("_", "-")
    return f"{flag} (or ORCHARD_{name.upper()}) cannot be {first['input']!r}: {message[0].lower()}{message[1:]}."
