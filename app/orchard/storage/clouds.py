"""Buckets of Google Cloud Storage and containers of Azure Storage.

obstore finds the credentials of each cloud where the cloud keeps them: in a file, in a variable, or at the service that
gives tokens to a pod or a machine.
"""

import contextlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import obstore
from obstore.store import AzureStore, GCSStore

from orchard.storage.connection import RETRIES, Connection, client
from orchard.storage.interface import S3Options
from orchard.storage.s3_errors import Refused

_DELETING = 16


class _Cloud(Connection):
    def delete(self, keys: Iterable[str]) -> None:
        """See `Connection`. One by one, for of many at a time one that is missing may hold the others up."""

        def delete(key: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(self.store, key)

        with ThreadPoolExecutor(_DELETING) as deleting:
            list(deleting.map(delete, keys))


class GoogleConnection(_Cloud):
    """A bucket of Google Cloud Storage."""

    def __init__(self, bucket: str, options: S3Options) -> None:
        endpoint = options.gcs_endpoint
        self.store = GCSStore(
            bucket,
            config={"base_url": endpoint} if endpoint else {},
            client_options=client(endpoint),
            retry_config=RETRIES,
        )


class AzureConnection(_Cloud):
    """A container of Azure Storage, by the account's blob service, which all accounts have."""

    def __init__(self, bucket: str, options: S3Options) -> None:
        container, _, host = bucket.partition("@")
        account, _, domain = host.partition(".dfs.")
        endpoint = options.azure_endpoint or f"https://{account}.blob.{domain}"
        self.store = AzureStore(
            container,
            config={"account_name": account, "endpoint": endpoint},
            client_options=client(endpoint),
            retry_config=RETRIES,
        )

    def copy(self, source: str, target: str) -> None:
        """See `Connection`. Azure may answer before it has copied, and until then the target is empty."""
        super().copy(source, target)
        if self.head(target)[0] != self.head(source)[0]:
            raise Refused.answer(409, "Conflict", b"<Code>PendingCopyOperation</Code>")
