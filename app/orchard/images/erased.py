"""Images that were erased from an output and must not come back. Only digests of their paths are kept."""

import dataclasses
import json
import logging
from collections.abc import Iterable

import pyarrow as pa

from orchard.errors import InputError, OutputDamaged
from orchard.files import digest_of
from orchard.images.sources import Listing
from orchard.layout import ERASED
from orchard.storage import Storage

log = logging.getLogger(__name__)


def known(storage: Storage) -> set[str]:
    """The digests of the paths that were erased from an output.

    Raises:
        OutputDamaged: They cannot be read; which images are to stay away is not known then.
    """
    try:
        found = json.loads(storage.read(ERASED))["paths"]
        if not isinstance(found, list):
            raise TypeError
        return set(map(str, found))
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError):
        raise OutputDamaged(
            f"{storage.url}/{ERASED}, which says what was erased, is damaged: bring it back from a copy, or delete it "
            "and erase again what the source still has."
        ) from None


def changed(before: set[str], paths: Iterable[str], *, allow_again: bool) -> bytes:
    """The new content of `ERASED`: digests of these paths are added, or removed if the images may come again."""
    named = {digest(path) for path in paths}
    return json.dumps({"paths": sorted(before - named if allow_again else before | named)}).encode()


def without_erased(listing: Listing, storage: Storage) -> Listing:
    """A listing without what was erased from an output; a warning says how many images that are.

    Raises:
        InputError: Nothing else is listed.
        OutputDamaged: See `known`.
    """
    erased = known(storage)
    if not erased:
        return listing
    kept = pa.array([digest(path) not in erased for path in listing.table["path"].to_pylist()], pa.bool_())
    table = listing.table.filter(kept)
    if (n := listing.table.num_rows - table.num_rows) == 0:
        return listing
    if not table.num_rows:
        raise InputError(
            f"all {n} images that the source lists were erased from {storage.url}: give others, or allow them again "
            "with orchard erase --allow-again."
        )
    said = (
        f"{n} image{'s' if n > 1 else ''} that the source still has {'were' if n > 1 else 'was'} erased from this "
        "output and left out: delete them at the source, too."
    )
    log.warning("%s", said)
    return dataclasses.replace(listing, table=table.combine_chunks(), warnings=[*listing.warnings, said])


def digest(path: str) -> str:
    """What is kept of an erased path."""
    return digest_of(path.encode(errors="surrogatepass"))
