"""Arrow record batches as batches of samples: plain columns, checked text, a few MB each."""

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_bridge.io.sources.arrow_schema import MEDIA
from data_bridge.io.sources.base import PROBE_BYTES, PROBE_ROWS, TARGET_BATCH_ROWS
from data_bridge.model.batch import ArrowRows, Batch, Media, Row, RowFailure
from data_bridge.model.source import Field

COLUMN_BATCH_BYTES = 4_000_000
"""Batches of columns end at about this many bytes: each costs dozens of calls, however few images it holds."""


def path_of(stream: Any) -> str | None:
    """Path of an open local file, which Arrow then reads itself, without the interpreter; None for any other reader."""
    raw = stream.raw if isinstance(stream, io.BufferedReader) else stream
    return raw.name if isinstance(raw, io.FileIO) and isinstance(raw.name, str) else None


def plain_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with the plain columns of `schema`, picked by name, in its order. Raises pa.ArrowInvalid when one does not fit."""
    if batch.schema.equals(schema):
        return batch
    return pa.RecordBatch.from_arrays([plain_array(batch.column(f.name), f.type) for f in schema], schema=schema)


def plain_array(array: "pa.Array[Any]", kind: pa.DataType) -> "pa.Array[Any]":
    """The array as `kind`, its own plain type."""
    if array.type.equals(kind):
        return array
    if isinstance(array, pa.ExtensionArray):
        return plain_array(array.storage, kind)
    if isinstance(array, pa.DictionaryArray):
        return plain_array(array.dictionary_decode(), kind)
    if pa.types.is_run_end_encoded(array.type):
        return plain_array(pc.call_function("run_end_decode", [array]), kind)
    if isinstance(array, pa.StructArray):
        columns = [plain_array(array.field(i), kind.field(i).type) for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays(
            columns, fields=[kind.field(i) for i in range(kind.num_fields)], mask=array.is_null()
        )
    if pa.types.is_list(kind) and pa.types.is_nested(array.type) and not pa.types.is_fixed_size_list(array.type):
        return _plain_list(array, kind)
    return array.cast(kind)


def _plain_list(array: "pa.Array[Any]", kind: Any) -> "pa.Array[Any]":
    lengths = pc.fill_null(pc.list_value_length(array), 0).cast(pa.int32())
    ends = pc.cumulative_sum(lengths)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    values = plain_array(pc.list_flatten(array), kind.value_type)
    return pa.ListArray.from_arrays(offsets, values, type=kind, mask=array.is_null())


def _is_sound(batch: pa.RecordBatch) -> bool:
    """Whether all text is UTF-8, which Arrow files do not promise. Raises pa.ArrowInvalid for a batch broken in any other way."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise
        return False
    return True


def _sifted(batch: pa.RecordBatch, first_row: int, where: str) -> Batch:
    """The rows whose text is UTF-8; the others are failures."""
    # taken, not sliced: of a nested column Arrow validates the values of all rows, whatever the slice
    rows = (batch.take(pa.array([i], pa.int64())) for i in range(batch.num_rows))
    reasons = [(i, _why_bad(row)) for i, row in enumerate(rows)]
    failures = tuple(
        RowFailure(offset=i, reason=reason, where=f"{where} row {first_row + i}") for i, reason in reasons if reason
    )
    good = pa.array([i for i, reason in reasons if not reason], pa.int64())
    return Batch(first_row, ArrowRows(batch.take(good)), failures)


def _why_bad(row: pa.RecordBatch) -> str:
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            return f"field {name!r} holds text that is not UTF-8"
    return ""


def cut(batch: pa.RecordBatch, first_row: int, where: str) -> Iterator[Batch]:
    """The batch as Batches of about COLUMN_BATCH_BYTES; `start` is the row number of the first row.

    A row whose text is not UTF-8 is a failure. `where` and `first_row` name rows as people count them:
    `part-0.parquet row 12`, from 0. Raises pa.ArrowInvalid for a batch that is broken in any other way.
    """
    parts = max(1, -(-batch.nbytes // (2 * COLUMN_BATCH_BYTES)))
    size = max(1, min(batch.num_rows // parts, TARGET_BATCH_ROWS))
    nested = [pa.types.is_nested(kind) for kind in batch.schema.types]
    # once for all slices: in each, Arrow would look at the values of all rows again
    sound = _is_sound(batch.select([i for i, is_nested in enumerate(nested) if is_nested]))
    flat = [i for i, is_nested in enumerate(nested) if not is_nested]
    for lo in range(0, batch.num_rows, size):
        part = batch.slice(lo, size)
        if _is_sound(part.select(flat)) and sound:
            yield Batch(first_row + lo, ArrowRows(part))
        else:
            yield _sifted(part, first_row + lo, where)


def to_rows(batch: pa.RecordBatch, fields: Sequence[Field]) -> list[Row]:
    """Rows as dictionaries, media columns as Media. Slow: for probes."""
    media = [f.name for f in fields if f.type == MEDIA]
    try:
        rows: list[Row] = batch.to_pylist()
    except (ValueError, OverflowError):  # a time that Python has no form for
        columns = [[_readable(value) for value in column] for column in batch.columns]
        rows = [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]
    for row in rows:
        for name in media:
            value = row[name]
            if isinstance(value, bytes):
                row[name] = Media(value)
            elif value is not None:
                row[name] = None if value["bytes"] is None else Media(value["bytes"], value["path"] or "")
    return rows


def _readable(value: "pa.Scalar[Any]") -> Any:
    """The value in Python, or as Arrow writes it."""
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return str(pa.array([value], value.type))


def probe_rows(batches: Iterable[Batch], fields: Sequence[Field]) -> list[Row]:
    """First rows of an iterator of Batches with ArrowRows, at most PROBE_ROWS or about PROBE_BYTES."""
    rows: list[Row] = []
    size = 0
    for batch in batches:
        if not isinstance(batch.rows, ArrowRows):
            continue
        table = batch.rows.batch
        fits = max(1, int(table.num_rows * min(1.0, (PROBE_BYTES - size) / max(1, table.nbytes))))
        rows += to_rows(table.slice(0, min(fits, PROBE_ROWS - len(rows))), fields)
        size += table.nbytes
        if len(rows) >= PROBE_ROWS or size >= PROBE_BYTES:
            break
    return rows
