"""The values of further label columns, such as variety and ripeness, stored as one JSON text for each image."""

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc


def as_text(columns: Mapping[str, Sequence[str | None]], rows: int) -> pa.Array:
    """Encode further columns as one JSON text for each row, string, shape (rows,); null for a row without values.

    Equal values give equal texts, so texts can be compared and grouped.
    """
    names = sorted(columns)
    if not names:
        return pa.nulls(rows, pa.string())
    texts: dict[tuple[str | None, ...], str | None] = {}  # values repeat
    for values in zip(*(columns[name] for name in names), strict=True):
        if values not in texts:
            found = {name: value for name, value in zip(names, values, strict=True) if value is not None}
            texts[values] = json.dumps(found, ensure_ascii=False, separators=(",", ":")) if found else None
    every = zip(*(columns[name] for name in names), strict=True)
    return pa.array([texts[values] for values in every], pa.string())


def names_in(texts: pa.Array | pa.ChunkedArray) -> tuple[str, ...]:
    """The names of the columns for which any of the texts has a value, sorted."""
    return tuple(sorted({name for text in pc.unique(texts).drop_null().to_pylist() for name in json.loads(text)}))


def values_of(texts: pa.Array | pa.ChunkedArray, name: str) -> pa.Array:
    """The values of one column, string, shape (n,), of texts (n,); null where there is none."""
    distinct = pc.unique(texts).drop_null()
    values = pa.array([json.loads(text).get(name) for text in distinct.to_pylist()], pa.string())
    found = values.take(pc.index_in(texts, distinct))
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
