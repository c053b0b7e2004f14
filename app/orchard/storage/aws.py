"""Keys, region and endpoint from the standard AWS chain of botocore, for every kind of profile and role."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from orchard.errors import AccessDenied, StorageError, first_line

if TYPE_CHECKING:
    from obstore.store import S3Credential

# Keys are asked for again after so long, even if they do not expire: a file may have been changed.
_KEYS_SECONDS = 900.0
# obstore asks for new ones so long before the old ones expire.
_OBSTORE_SECONDS = 300.0


class Unreachable(Exception):
    """The service that gives out credentials does not answer."""


def region() -> str | None:
    """The region of the profile."""
    return _configured(lambda session: session.get_config_variable("region"))


def endpoint() -> str | None:
    """The endpoint for S3 of the environment or the profile; ``AWS_IGNORE_CONFIGURED_ENDPOINT_URLS`` turns it off."""
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    from_environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return from_environment or _configured(_profile_endpoint)


def certificates() -> bytes | None:
    """Further certificate authorities: what the file ``AWS_CA_BUNDLE`` or the profile's ``ca_bundle`` holds.

    Raises StorageError if it cannot be read.
    """
    file = os.environ.get("AWS_CA_BUNDLE") or _configured(lambda session: session.get_config_variable("ca_bundle"))
    if file is None:
        return None
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise StorageError(f"AWS_CA_BUNDLE names {file}, which cannot be read ({error.strerror}): check it.") from error


def _profile_endpoint(session: Any) -> str | None:
    from botocore.configprovider import ConfiguredEndpointProvider

    provider = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), "s3")
    found: str | None = provider.provide()
    return found


def _configured(ask: Callable[[Any], str | None]) -> str | None:
    """Return the result of `ask` for the profile; None if there is no file of profiles, or no such profile."""
    files = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
    if not any(Path(os.environ.get(name) or file).expanduser().is_file() for name, file in files.items()):
        return None  # botocore takes longer to import than a small command to run
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        return ask(Session()) or None
    except BotoCoreError:  # whoever needs credentials is told
        return None


class Credentials:
    """Keys for obstore, which calls this again before they expire. Each process has its own.

    Raises AccessDenied if there are none, and Unreachable.
    """

    def __init__(self, region: str) -> None:
        self._region = region
        self._lock = Lock()
        self._keys: S3Credential | None = None
        self._until = 0.0

    def __call__(self) -> "S3Credential":
        """Return the keys of this moment."""
        with self._lock:
            if self._keys is None or time.monotonic() >= self._until:
                self._keys, seconds = self._find()
                self._until = time.monotonic() + seconds
            return self._keys

    def _find(self) -> "tuple[S3Credential, float]":
        """The keys, and for how many seconds to use them."""
        key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if key and secret:  # the chain's first link, without its import of 0.2 s
            token = os.environ.get("AWS_SESSION_TOKEN")
            return {
                "access_key_id": key,
                "secret_access_key": secret,
                "token": token,
                "expires_at": None,
            }, _KEYS_SECONDS
        from botocore.session import Session

        with _explained():
            session = Session()
            session.set_config_variable("region", self._region)
            if "AWS_METADATA_SERVICE_NUM_ATTEMPTS" not in os.environ:  # botocore tries once, for a second
                session.set_config_variable("metadata_service_num_attempts", 3)
            found = session.get_credentials()
            if found is None:
                raise AccessDenied(
                    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE,"
                    " or give the pod or machine a role."
                )
            keys = found.get_frozen_credentials()
            expiry = getattr(found, "_expiry_time", None)
        seconds = _KEYS_SECONDS
        if expiry is not None:  # half of what is left, so that short-lived keys are not asked for all the time
            seconds = max(1.0, min(seconds, (expiry - datetime.now(UTC)).total_seconds() / 2))
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=seconds + _OBSTORE_SECONDS),
        }, seconds


@contextmanager
def _explained() -> Iterator[None]:
    from botocore import exceptions

    try:
        yield
    except (exceptions.HTTPClientError, exceptions.MetadataRetrievalError) as error:
        raise Unreachable(first_line(error)) from error
    except exceptions.ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            raise Unreachable(first_line(error)) from error
        raise AccessDenied(_told(error)) from error
    except (exceptions.BotoCoreError, OSError, EOFError) as error:
        raise AccessDenied(_told(error)) from error


def _told(error: Exception) -> str:
    return f"{first_line(error).rstrip('.')}: check the AWS profile or role, or log in (aws sso login)."
