"""All settings. A flag wins over an ``ORCHARD_*`` variable, which wins over the settings file and the default.

The flags of the command line are made from the fields below: a setting's name, type, default and help are defined here
and nowhere else.
"""

import logging
import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from orchard.errors import UsageError
from orchard.redaction import without_secrets
from orchard.settings_text import PREFIX, flag_of, variable_of
from orchard.storage.interface import S3Options

if TYPE_CHECKING:
    from orchard.cluster.autoscaling import Bounds
    from orchard.images.limits import Limits
log = logging.getLogger(__name__)

SETTINGS_FILE = Path("orchard.toml")
"""Settings file in the working directory. It is read if it exists and ``--config`` is not given."""

OTHER_VARIABLES = {
    "CACHE": "folder of converted backbones, instead of ~/.cache/orchard",
    "JOB_UID": "of the Kubernetes Job, by the downward API: its next pod goes on where the last one stopped",
    "POD_NAME": "of the driver, by the downward API",
    "POD_NAMESPACE": "of the driver, by the downward API",
    "POD_IP": "of the driver, by the downward API",
    "CLAIMS": "name=/mount/path of the claims that the driver's pod mounts, separated by commas",
    "APP_ID": "makes the name of the executors' set: spark-s-<app id>-0",
    "IMAGE": "compose.yaml's image",
}
"""Variables that are read besides those of settings, without the prefix, and what each is."""

_REAL_PHOTOS: Mapping[str, object] = {
    "backbone": "EfficientNetLite2",
    "views": 8,
    "test_views": "3",
    "fit_validation": True,
}
QUALITIES: Mapping[str | None, Mapping[str, object]] = {
    "balanced": {**_REAL_PHOTOS, "transform": "square_root"},
    # So long that two cores without AVX-512 do nearly all epochs on 3,000 photos.
    "best": {**_REAL_PHOTOS, "tune": True, "tune_minutes": 24, "tune_branches": 3, "answer_with": "tuned_head"},
}
"""Quality -> its settings. The settings of fast are the defaults."""

LIKENESS = 0.75
"""Smallest similarity, 0..1, at which an unknown name is taken for a misspelling of a known one."""

# What Kubernetes tells every pod of the namespace's services, be one called orchard or orchard-…
_SERVICE_LINK = re.compile(r"(?:^|_)(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)\w*)?)$")


# A further column gives its name to an output of every exported file, and to arrays of the model.
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,39}")
_TAKEN = frozenset({"path", "label", "kind", "split", "size"})
_MOST_COLUMNS = 16


def comma_separated(text: str) -> list[str]:
    """Return the names in a text that has commas between them."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _as_names(value: object) -> object:
    return comma_separated(value) if isinstance(value, str) else value


def _count_or_share(value: object) -> object:
    if isinstance(value, str) and value.strip().endswith("%"):
        return float(value.strip()[:-1]) / 100
    if isinstance(value, str):
        return int(value) if value.strip().lstrip("+-").isdigit() else float(value)
    return value


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) else value


def _as_headers(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return columns' names as a manifest's header is read, in small letters."""
    return tuple(name.lower() for name in names)


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_as_names)]


_MEMORY, _TIME, _URL = r"^[0-9]+[kmgKMG]$", r"^[1-9][0-9]*[smh]$", r"^https?://[^\s]+$"
_WRITTEN = {
    _MEMORY: "a number with its unit k, m or g, such as 900m",
    _TIME: "a number with its unit s, m or h, such as 90m",
    _URL: "a URL that begins with http:// or https://",
}
"""How a text that has to match a pattern is written."""


class Settings(BaseSettings):
    """The settings of a run; each field's description is the help of its flag."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=False,
        allow_inf_nan=False,
    )

    quality: Literal["fast", "balanced", "best"] = Field(
        "fast",
        description="choose backbone, views, test views, transform and tuning together; a flag that is given wins",
    )

    # Choice of images
    limit: int | None = Field(None, ge=1, description="use only N images, with each label in proportion")
    labels: Names = Field((), description="use only images with these labels, separated by commas")
    label_level: int = Field(1, ge=1, description="take the last N folders of a path as the label: 2 gives Apple/Red")
    kind_from: Literal["folder", "words"] | None = Field(
        None,
        description="take a label's kind from the folder above it (Apple/Golden) or from its first word (Apple 11)",
    )
    label_columns: Annotated[Names, AfterValidator(_as_headers)] = Field(
        (),
        description="also learn these columns of the manifest, such as variety,ripeness; each gets its own classifier",
    )
    corrections: str | None = Field(
        None, description="CSV table that corrects labels or drops images, such as an edited suspects.csv"
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of each label that is held out for testing, if the source has no split"
    )
    group_by: str | None = Field(
        None,
        min_length=1,
        description="keep all images of a group in one split. Name a column of the manifest, a regular expression on "
        "paths whose first group is the group's name, or frames (consecutive frames, guessed from names)",
    )
    seed: int = Field(42, ge=0, description="seed of every random choice")

    # Limits on an image
    max_bytes: int = Field(64 * 2**20, ge=1, description="reject files that are larger, in bytes")
    max_pixels: int = Field(100_000_000, ge=1, description="reject images that have more pixels")
    max_decode_memory: int = Field(
        512 * 2**20, ge=1, description="reject images that need more memory to decode, in bytes"
    )
    max_decode_seconds: float = Field(
        20, gt=0, description="reject images that need more CPU time to decode, in seconds"
    )
    max_rejected: Annotated[int | float, BeforeValidator(_count_or_share)] = Field(
        0.05, ge=0, description="exit with code 1 if more images are rejected; a count, or a share such as 5%"
    )

    # Features
    backbone: str = Field(
        "EfficientNetLite0", description="pre-trained network that extracts the features; `orchard backbones` lists all"
    )
    weights: str = Field(
        "imagenet", description="weights of the backbone: imagenet, random, or a file, which may be in a bucket"
    )
    alpha: float = Field(1.0, gt=0, description="width multiplier of MobileNet and MobileNetV2")
    fit: Literal["stretch", "crop", "pad"] | None = Field(
        None, description="how an image becomes square; by default as the output was made, and stretch for a new one"
    )
    views: int | None = Field(
        None,
        ge=0,
        le=32,
        description="number of random views of each training image: the linear discriminant is fitted on them too, "
        "and the regression on its directions. By default as the output was made, and 0 for a new one",
    )
    backgrounds: str | None = Field(
        None,
        min_length=1,
        description="photos (a folder or bucket) that things on a plain background are pasted onto in half of their "
        "random views, recorded with the output; none: no longer",
    )
    test_views: Annotated[Literal["1", "3"] | None, BeforeValidator(_number_as_text)] = Field(
        None,
        description="number of views of an image whose features are averaged, in training and in answers: 1 (the whole "
        "image) or 3 (also its middle, twice). By default as the output was made, and 1 for a new one",
    )
    transform: Literal["none", "square_root"] | None = Field(
        None,
        description="what is applied to each feature; square_root separates the labels of real photos better. By "
        "default as the output was made, and none for a new one",
    )
    tune: bool = Field(
        False,
        description="fine-tune the backbone's last blocks on the training images first, and extract features with the "
        "tuned backbone",
    )
    tune_minutes: float = Field(
        20, gt=0, le=10_080, description="time limit of tuning, in minutes; it runs as many epochs as fit"
    )
    tune_epochs: int = Field(12, ge=1, le=1000, description="largest number of epochs of tuning")
    tune_branches: int = Field(
        1,
        ge=1,
        le=8,
        description="largest number of copies of the last blocks that are tuned, each with a seed of its own; together "
        "they are right more often. A further one is begun if all its epochs fit into the time limit",
    )
    tune_images: int = Field(
        5000, ge=2, le=40_000, description="number of training images to tune on, in equal parts from each label"
    )
    engine: Literal["openvino", "tensorflow"] = Field("openvino", description="library that computes the backbone")
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="number format of the backbone; auto: bfloat16 if the driver's CPU supports it, else int8 if that "
        "is known to be faster, else float32",
    )
    input_size: int | None = Field(
        None, ge=1, description="side of the square input of the backbone, in pixels; by default the backbone's own"
    )
    task_images: int | None = Field(
        None,
        ge=1,
        le=16_384,
        description="images in one task of the extraction; by default as many as take about five seconds",
    )

    # Reduction and classification
    variance: float = Field(
        0.95, gt=0, le=1, description="keep as many components as explain this share of the variance"
    )
    components: int | None = Field(None, ge=1, description="keep this number of components, instead of --variance")
    source_weight: dict[str, float] = Field(
        {},
        description="weight of the images of one source when classifiers are fitted, as PATH=0.3 (1 if not given); can "
        "be repeated",
    )
    fit_validation: bool = Field(
        False,
        description="fit scaler, PCA and classifiers again on training and validation images together, after the "
        "validation split has chosen and calibrated them; with --tune, end the backbone's training on both, too",
    )
    classifiers: Names = Field(
        ("linear_discriminant", "logistic_regression", "random_forest"),
        description="classifiers to train, separated by commas",
    )
    answer_with: str | None = Field(
        None,
        description="linear classifier of the model, instead of the one that is best on held-out images; a tuned "
        "backbone also has tuned_head",
    )
    unknown: str | None = Field(
        None,
        description="images that show none of the labels, given like SOURCE: measure how often the model is "
        "wrongly sure of them",
    )
    sure_at: float = Field(0.99, gt=0, lt=1, description="share of sure answers that must be right")
    classifier_memory: str = Field(
        "512m",
        pattern=_MEMORY,
        description="memory for fitting classifiers in the driver's Python process; Spark fits a regression that needs "
        "more",
    )
    cards: str | None = Field(None, description="CSV table with facts about labels and kinds, which answers show")

    # An output that exists already
    fresh: bool = Field(False, description="delete what the output holds and start again")
    prune: bool = Field(False, description="delete the rows of images that are no longer in the source")
    retry_rejected: bool = Field(False, description="try rejected images again")

    # Spark
    master: str | None = Field(None, description="Spark master URL; by default local, on all cores of this machine")
    driver_memory: str = Field("900m", pattern=_MEMORY, description="heap of the driver's JVM")
    executor_timeout: float = Field(
        600, gt=0, description="time to wait for the first executor on Kubernetes, in seconds"
    )
    min_executors: int = Field(
        1, ge=1, description="smallest number of executors that --finish-within scales to, on Kubernetes"
    )
    max_executors: int | None = Field(
        None, ge=1, description="largest number of executors that --finish-within scales to, on Kubernetes"
    )
    finish_within: str | None = Field(
        None,
        pattern=_TIME,
        description="scale the executors so that extraction ends within this time (90m, 2h), between --min-executors "
        "and --max-executors",
    )
    spark_conf: dict[str, str] = Field({}, description="additional Spark property; can be repeated")

    # Monitoring and prices
    metrics_port: int | None = Field(
        None, ge=0, le=65_535, description="serve Prometheus metrics on this port while the run lasts"
    )
    webhook: str | None = Field(
        None,
        pattern=_URL,
        description="URL that receives the run's result as a JSON POST when the run ends",
    )
    core_hour_price: float | None = Field(
        None, ge=0, description="price of one core-hour, in any currency; adds costs to plan and run.json"
    )
    core_watts: float | None = Field(
        None, ge=0, description="power of one core, in watts; adds energy to plan and run.json"
    )

    # Object storage (keys come from the standard AWS chain: environment, profile, role)
    s3_endpoint: str | None = Field(None, description="URL of an S3-compatible server; by default AWS")
    s3_region: str | None = Field(None, description="S3 region")
    gcs_endpoint: str | None = Field(None, description="URL of a server for gs:// addresses; by default Google's")
    azure_endpoint: str | None = Field(
        None, description="URL of a server for abfss:// addresses; by default the account's own at Azure"
    )
    allowed_regions: Names = Field(
        (),
        description="refuse buckets that are not in one of these regions of S3, such as eu-central-1,eu-west-1, before "
        "anything is read or written; gs:// and abfss:// too, as they do not tell",
    )
    s3_encryption: Literal["AES256", "aws:kms"] | None = Field(
        None, description="how S3 encrypts what is written; by default as the bucket says"
    )
    s3_kms_key: str | None = Field(
        None, min_length=1, description="key (ARN) for aws:kms; by default the bucket's or the account's"
    )
    s3_bucket_key: bool = Field(
        False, description="let the bucket make a key of its own of the KMS key, which takes fewer requests to KMS"
    )
    storage_timeout: float = Field(
        300, ge=0, le=86_400, description="time to retry while the object storage does not answer, in seconds"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in_quality(cls, given: Any) -> Any:
        """Add the settings of the quality that are not given themselves."""
        if not isinstance(given, dict):
            return given
        by_quality = dict(QUALITIES.get(given.get("quality"), {}))
        if "linear_discriminant" not in str(given.get("classifiers", "linear_discriminant")):
            by_quality.pop("answer_with", None)  # it is not fitted, nor mixed with a tuned head
        return {**by_quality, **given}

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.components is not None and "variance" in self.model_fields_set:
            raise ValueError("--variance and --components exclude each other: give one of them")
        if bad := next((name for name in self.label_columns if not _COLUMN.fullmatch(name) or name in _TAKEN), None):
            raise ValueError(
                f"--label-columns {bad} cannot be learned beside the label: a column's name has letters a to z, "
                f"digits and _, and is not {', '.join(sorted(_TAKEN)[:-1])} or {max(_TAKEN)}; rename it"
            )
        if len(set(self.label_columns)) < len(self.label_columns) or len(self.label_columns) > _MOST_COLUMNS:
            raise ValueError(f"--label-columns names a column twice, or more than {_MOST_COLUMNS}: name each once")
        if bad_weight := next((name for name, weight in self.source_weight.items() if not 0 < weight <= 1000), None):
            raise ValueError(f"--source-weight {bad_weight} needs a number above 0 and up to 1000, such as 0.3")
        if isinstance(self.max_rejected, float) and self.max_rejected > 1:
            raise ValueError("--max-rejected is a count or a share such as 5%")
        if (self.finish_within is None) != (self.max_executors is None):
            raise ValueError("--finish-within and --max-executors need each other: give both, or neither")
        if self.min_executors > 1 and self.finish_within is None:
            raise ValueError("--min-executors is for --finish-within and --max-executors: give these too, or none")
        if self.max_executors is not None and self.min_executors > self.max_executors:
            raise ValueError("--min-executors is greater than --max-executors")
        if (self.s3_kms_key or self.s3_bucket_key) and self.s3_encryption != "aws:kms":
            raise ValueError("--s3-kms-key and --s3-bucket-key are for KMS: give --s3-encryption aws:kms, too")
        return self

    def given(self) -> dict[str, Any]:
        """Return the settings that a flag, a variable or the settings file has set, in the order of the fields."""
        return {name: getattr(self, name) for name in Settings.model_fields if name in self.model_fields_set}

    def recorded(self) -> dict[str, Any]:
        """Return all settings as JSON values, without secrets."""
        recorded: dict[str, Any] = without_secrets(self.model_dump(mode="json"))
        return recorded

    def bounds(self) -> "Bounds | None":
        """Return the bounds between which the number of executors is scaled; None: it is not scaled."""
        from orchard.cluster.autoscaling import Bounds

        if self.finish_within is None or self.max_executors is None:
            return None
        seconds = int(self.finish_within[:-1]) * {"s": 1, "m": 60, "h": 3600}[self.finish_within[-1]]
        return Bounds(self.min_executors, self.max_executors, seconds)

    def s3_options(self) -> S3Options:
        """Return the options of object storage. Credentials are not among them: they come from the environment."""
        return S3Options(
            self.s3_endpoint,
            self.s3_region,
            timeout=self.storage_timeout,
            gcs_endpoint=self.gcs_endpoint,
            azure_endpoint=self.azure_endpoint,
            allowed_regions=self.allowed_regions,
            encryption=self.s3_encryption,
            kms_key=self.s3_kms_key,
            bucket_key=self.s3_bucket_key,
        ).resolved()

    def check_regions(self, *addresses: str | Sequence[str] | None) -> None:
        """Check that all buckets are in allowed regions: those of `addresses` and those that these settings name.

        Args:
            addresses: of files and folders, anywhere; None is skipped.

        Raises:
            RegionRefused: a bucket is in another region, or does not tell its region. No bucket was read or written.
            StorageError: a bucket does not answer.
        """
        if self.allowed_regions:
            from orchard.storage import check_regions

            given = [[each] if each is None or isinstance(each, str) else each for each in addresses]
            named = (
                *chain.from_iterable(given),
                self.weights,
                self.cards,
                self.corrections,
                self.unknown,
                self.backgrounds,
                *self.spark_conf.values(),
            )
            check_regions(filter(None, named), self.s3_options())

    def limits(self) -> "Limits":
        """Return the limits on an image."""
        from orchard.images.limits import Limits

        return Limits(self.max_bytes, self.max_pixels, self.max_decode_memory, self.max_decode_seconds)

    @property
    def classifier_bytes(self) -> int:
        """`classifier_memory` in bytes."""
        return _bytes(self.classifier_memory)

    @property
    def driver_bytes(self) -> int:
        """`driver_memory` in bytes."""
        return _bytes(self.driver_memory)

    def of_quality(self, quality: str) -> "Settings":
        """Return these settings with another quality; settings that were given themselves stay.

        Raises:
            UsageError: the combination is not allowed.
        """
        by_quality = QUALITIES.get(self.quality, {})
        given = {name: getattr(self, name) for name in self.model_fields_set - {"quality"}}
        given = {name: value for name, value in given.items() if name not in by_quality or by_quality[name] != value}
        try:
            return Settings(**given | {"quality": quality})
        except ValidationError as error:
            raise UsageError(_sentence(error)) from None

    def rejections_allowed(self, listed: int) -> int:
        """Return how many of `listed` images may be rejected before the run ends with exit code 1."""
        if isinstance(self.max_rejected, int):
            return self.max_rejected
        return math.floor(self.max_rejected * listed)


def _bytes(amount: str) -> int:
    return int(amount[:-1]) << {"k": 10, "m": 20, "g": 30}[amount[-1].lower()]


def load(flags: Mapping[str, object] | None = None, config: Path | None = None) -> Settings:
    """Return the settings from `flags`, the environment and the settings file, in this order.

    Raises:
        UsageError: a value is not allowed, a variable's name is close to that of a setting, or the file is missing,
            unreadable, not TOML, or has a name that is not a setting.
    """
    _check_variables(os.environ)
    file = config or SETTINGS_FILE
    written = _read(file) if config or file.exists() else {}

    class FromFile(Settings):
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
            return init_settings, env_settings, InitSettingsSource(settings_cls, written)

    try:
        return FromFile(**dict(flags or {}))  # type: ignore[arg-type]
    except (ValidationError, SettingsError) as error:
        raise UsageError(_sentence(error)) from None


def _check_variables(environment: Mapping[str, str]) -> None:
    """Refuse an unknown variable whose name is close to a known one, and warn of any other unknown one."""
    known = {name.upper() for name in Settings.model_fields} | OTHER_VARIABLES.keys()
    for variable in environment:
        name = variable.upper().removeprefix(PREFIX)
        if not variable.upper().startswith(PREFIX) or name in known or _SERVICE_LINK.search(name):
            continue
        if near := get_close_matches(name, known, 1, LIKENESS):
            raise UsageError(f"There is no variable {variable}: did you mean {PREFIX}{near[0]}?")
        log.warning("the variable %s is not used: no setting has this name", variable)


def _read(file: Path) -> dict[str, Any]:
    try:
        written = file.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"The settings file {file} does not exist: check --config.") from None
    except IsADirectoryError:
        raise UsageError(f"The settings file {file} is a folder: name a TOML file with --config.") from None
    except OSError as error:
        raise UsageError(
            f"The settings file {file} cannot be read ({error.strerror}): check its permissions."
        ) from None
    try:
        found = tomllib.loads(written.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UsageError(f"The settings file {file} is not UTF-8: save it in that encoding.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The settings file {file} is not TOML: {error}.") from None
    for name, value in found.items():
        if isinstance(value, dict) and name not in Settings.model_fields:
            raise UsageError(
                f"The settings file {file} has a table [{name}]: settings stand by themselves, in no table."
            )
    return found


def _sentence(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        found = re.search(r'field "(\w+)"', str(error))
        name = variable_of(found[1] if found else "*")
        return f'{name} cannot be read: write it as JSON, such as {{"key": "value"}}.'
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch":
        message = f"give {_WRITTEN[first['ctx']['pattern']]}"
    if not first["loc"]:
        return f"{message}."
    name, *within = map(str, first["loc"])
    if first["type"] == "extra_forbidden":
        near = get_close_matches(name.lower(), Settings.model_fields, 1, LIKENESS)
        return f"There is no setting called {name}: " + (
            f"did you mean {near[0]}?" if near else "`orchard run --help` lists them."
        )
    key = f" {within[0]}" if within else ""
    value = without_secrets(first["input"], within[0] if within else name)
    return f"{flag_of(name)}{key} (or {variable_of(name)}) cannot be {value!r}: {message[0].lower()}{message[1:]}."
