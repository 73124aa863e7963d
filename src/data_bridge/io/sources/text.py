"""Plain text: every line is one sample with one field."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from msgspec.structs import replace
from numpy.typing import NDArray

from data_bridge.config import SourceOptions
from data_bridge.io.sources.lines import (
    Buffer,
    LineFormat,
    cuts,
    invalid_utf8,
    line_spans,
    place,
    position,
    refuse_binary,
)
from data_bridge.io.sources.spans import string_column
from data_bridge.io.transport import Transport
from data_bridge.model.batch import ArrowRows, Batch, RowFailure
from data_bridge.model.source import Field, Probe, SourceFile

_SPACES = np.frombuffer(b" \t\r\x0b\x0c", np.uint8)


class Text(LineFormat):
    """Reads lines of UTF-8 as `{text_field: line}`; blank ones only with `keep_empty_lines`."""

    name = "text"
    wanted = "plain text"

    def __init__(self, options: SourceOptions, transport: Transport, **sizes: int) -> None:
        super().__init__(options, transport, **sizes)
        self._field = options.text_field
        self._keep_empty = options.keep_empty_lines

    def probe(self, files: Sequence[SourceFile]) -> Probe:
        probe = super().probe(files)
        return probe if probe.fields else replace(probe, fields=(Field(name=self._field, type="string"),))

    def _refuse_wrong(self, head: bytes, file: SourceFile) -> None:
        refuse_binary(head, file, self.wanted)

    def _batches(self, buffer: Buffer, file: SourceFile) -> Iterator[Batch]:
        data = buffer.data
        starts, ends = line_spans(buffer)
        numbers = np.arange(len(starts)) if self._keep_empty else np.flatnonzero(_not_blank(data, starts, ends))
        starts, ends = starts[numbers], ends[numbers]
        valid = invalid_utf8(data) is None
        for lo, hi in cuts(starts, ends):
            reasons = {} if valid else _bad_lines(data, starts[lo:hi].tolist(), ends[lo:hi].tolist())
            failures = tuple(
                RowFailure(
                    offset=i,
                    reason=reason,
                    where=place(buffer, file, int(starts[lo + i]), int(numbers[lo + i])),
                    raw=data[starts[lo + i] : ends[lo + i]],
                )
                for i, reason in reasons.items()
            )
            good_starts, good_ends = (np.delete(each[lo:hi], list(reasons)) for each in (starts, ends))
            column = string_column(data, good_starts, good_ends)
            rows = ArrowRows(pa.RecordBatch.from_arrays([column], names=[self._field]))
            yield Batch(position(buffer, int(starts[lo])), rows, failures)


def _not_blank(data: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which lines hold anything but ASCII white space."""
    kept = ends > starts
    candidates = np.flatnonzero(kept)
    first_bytes = np.frombuffer(data, np.uint8)[starts[candidates]] if len(candidates) else candidates
    for i in candidates[np.isin(first_bytes, _SPACES)].tolist():
        kept[i] = not data[starts[i] : ends[i]].isspace()
    return kept


def _bad_lines(data: bytes, starts: list[int], ends: list[int]) -> dict[int, str]:
    reasons = ((i, invalid_utf8(data[lo:hi])) for i, (lo, hi) in enumerate(zip(starts, ends, strict=True)))
    return {i: reason for i, reason in reasons if reason}
