"""Choosing among rows and joining them, in whatever form they are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_bridge.model.batch import ArrowRows, DictRows, LineRows, Media, Row, Rows


def take(rows: Rows, positions: NDArray[np.int64]) -> Rows:
    """The rows at the positions (int64, shape (n,)), in that order; one may be taken several times."""
    if isinstance(rows, LineRows):
        return LineRows(rows.data, rows.starts[positions], rows.ends[positions])
    if isinstance(rows, ArrowRows):
        from data_bridge.rows.buffers import column

        return ArrowRows(rows.batch.take(column(positions)))
    return DictRows([rows.rows[i] for i in positions.tolist()])


def places_among(wanted: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of those places that are wanted; both ascending."""
    at = np.searchsorted(wanted, places)
    inside = at < len(wanted)
    hit = np.zeros(len(places), dtype=bool)
    hit[inside] = wanted[at[inside]] == places[inside]
    return np.flatnonzero(hit).astype(np.int64)


def joined(parts: Sequence[Rows]) -> Rows | None:
    """All rows one after another, or None where their forms do not go together: then decode them first."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, DictRows) for part in parts):
        return DictRows([row for part in parts for row in part.rows])  # type: ignore[union-attr] # all are DictRows
    if all(isinstance(part, LineRows) for part in parts):
        return _joined_lines(parts)  # type: ignore[arg-type] # all are LineRows
    if all(isinstance(part, ArrowRows) for part in parts):
        return _joined_columns(parts)  # type: ignore[arg-type] # all are ArrowRows
    return None


def _joined_lines(parts: Sequence[LineRows]) -> LineRows:
    if all(part.data is parts[0].data for part in parts):
        data = parts[0].data
        spans = [(part.starts, part.ends) for part in parts]
    else:
        spans, pieces, at = [], [], 0
        for part in parts:
            _, piece, starts, ends = part.cropped()
            spans.append((starts + at, ends + at))
            pieces.append(piece)
            at += len(piece)
        data = b"".join(pieces)
    return LineRows(data, np.concatenate([s for s, _ in spans]), np.concatenate([e for _, e in spans]))


def _joined_columns(parts: Sequence[ArrowRows]) -> ArrowRows | None:
    import pyarrow as pa

    schema = parts[0].batch.schema
    if not all(part.batch.schema.equals(schema) for part in parts):
        return None
    table: Any = pa.Table.from_batches([part.batch for part in parts], schema=schema).combine_chunks()
    batches = table.to_batches()
    if len(batches) > 1:  # a column has more bytes than one array may hold
        return None
    return ArrowRows(batches[0] if batches else parts[0].batch.slice(0, 0))


def size_of(rows: Rows) -> int:
    """Bytes of rows, about."""
    if isinstance(rows, LineRows):
        return int((rows.ends - rows.starts).sum())
    if isinstance(rows, ArrowRows):
        return int(rows.batch.nbytes)
    return sum(map(size_of_row, rows.rows))


def size_of_row(row: Row) -> int:
    """Bytes of a row, about."""
    size = 0
    for value in row.values():
        data = value.data if isinstance(value, Media) else value
        size += len(data) if isinstance(data, bytes) else 64
    return size
