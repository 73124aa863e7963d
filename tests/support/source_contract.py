"""The promises every source format keeps, as tests: subclass, give a case and a file of another format.

class TestJsonl(SourceContract):
    @pytest.fixture
    def case(self, tmp_path): return Case(Jsonl(SourceOptions(), transport), files, expected)

    @pytest.fixture
    def wrong(self, tmp_path): return SourceFile(uri=..., size=...)
"""

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from data_bridge.errors import SourceError
from data_bridge.io.sources.base import Format
from data_bridge.model.batch import ArrowRows, Batch, LineRows, Row, RowFailure, Rows
from data_bridge.model.source import Extent, FilePiece, SourceFile

CUTS = 60
"""Cut positions tried per extent: all of a small one, a fixed random choice of a larger one."""


@dataclass(frozen=True, slots=True)
class Case:
    """A format, the files it reads, and every good sample in order."""

    format: Format
    files: Sequence[SourceFile]
    expected: list[Row]
    failures: int = 0
    """Bad rows among the files."""


def to_dicts(rows: Rows) -> list[Row]:
    """Rows of any form as plain dictionaries."""
    if isinstance(rows, LineRows):
        spans = zip(rows.starts.tolist(), rows.ends.tolist(), strict=True)
        return [json.loads(rows.data[lo:hi]) for lo, hi in spans]
    if isinstance(rows, ArrowRows):
        rows.batch.validate(full=True)
        return [dict(row) for row in rows.batch.to_pylist()]
    return list(rows.rows)


def samples(batch: Batch) -> list[Row | RowFailure]:
    """Everything the batch covers, in source order: a dictionary for a good row, the failure for a bad one."""
    every: list[Row | RowFailure | None] = [None] * batch.count
    for failure in batch.failures:
        every[failure.offset] = failure
    for offset, row in zip(batch.offsets().tolist(), to_dicts(batch.rows), strict=True):
        every[offset] = row
    assert None not in every, "failures and rows together are not all samples of the batch"
    return [one for one in every if one is not None]


def content(every: Sequence[Row | RowFailure]) -> list[Any]:
    """Comparable form: a failure is told apart by its raw bytes (its offset and position depend on batches)."""
    return [("failed", one.raw) if isinstance(one, RowFailure) else one for one in every]


def good(every: Sequence[Row | RowFailure]) -> list[Row]:
    return [one for one in every if not isinstance(one, RowFailure)]


def read_all(format_: Format, pieces: Sequence[FilePiece], token: Any = None) -> list[Row | RowFailure]:
    return [one for batch in format_.read(pieces, token) for one in samples(batch)]


def pieces_of(format_: Format, files: Sequence[SourceFile]) -> list[FilePiece]:
    """Every extent of every file as one piece."""
    return [FilePiece(file, e.start, e.end) for file in files for e in format_.extents(file)]


def cut_positions(extent: Extent) -> list[int]:
    if not extent.divisible or extent.end is None:
        return []
    inside = range(extent.start + 1, extent.end)
    return list(inside) if len(inside) <= CUTS else sorted(random.Random(7).sample(inside, CUTS))


class SourceContract:
    """What a `Format` promises. Subclasses give the fixtures `case` and `wrong`."""

    @pytest.fixture
    def case(self) -> Case:
        raise NotImplementedError

    @pytest.fixture
    def wrong(self) -> SourceFile:
        """A file that is not of this format."""
        raise NotImplementedError

    def test_every_sample_comes_once_and_in_order(self, case: Case) -> None:
        every = read_all(case.format, pieces_of(case.format, case.files))

        assert good(every) == case.expected
        assert len(every) - len(case.expected) == case.failures

    def test_a_second_reading_gives_the_same(self, case: Case) -> None:
        pieces = pieces_of(case.format, case.files)

        assert content(read_all(case.format, pieces)) == content(read_all(case.format, pieces))

    def test_a_reading_given_up_halfway_leaves_no_trace(self, case: Case) -> None:
        pieces = pieces_of(case.format, case.files)
        next(iter(case.format.read(pieces, None)), None)

        assert good(read_all(case.format, pieces)) == case.expected

    def test_every_batch_start_opens_exactly_there(self, case: Case) -> None:
        pieces = pieces_of(case.format, case.files)
        batches = list(case.format.read(pieces, None))

        for number, batch in enumerate(batches):
            token = json.loads(json.dumps(batch.start))
            rest = [one for later in batches[number:] for one in samples(later)]
            assert content(read_all(case.format, pieces, token)) == content(rest)

    def test_batches_hold_samples_and_failures_come_in_ascending_order(self, case: Case) -> None:
        for batch in case.format.read(pieces_of(case.format, case.files), None):
            offsets = [failure.offset for failure in batch.failures]
            assert batch.count > 0
            assert offsets == sorted(set(offsets))
            assert all(0 <= offset < batch.count for offset in offsets)

    def test_extents_read_one_by_one_are_the_whole(self, case: Case) -> None:
        pieces = pieces_of(case.format, case.files)
        whole = content(read_all(case.format, pieces))

        assert [one for piece in pieces for one in content(read_all(case.format, [piece]))] == whole

    def test_counted_extents_know_their_samples(self, case: Case) -> None:
        for file in case.files:
            for extent in case.format.extents(file):
                assert not case.format.counted or extent.samples is not None
                if extent.samples is not None:
                    assert len(read_all(case.format, [FilePiece(file, extent.start, extent.end)])) == extent.samples

    def test_a_divisible_extent_may_be_cut_anywhere(self, case: Case) -> None:
        for file in case.files:
            for extent in case.format.extents(file):
                whole = content(read_all(case.format, [FilePiece(file, extent.start, extent.end)]))
                for cut in cut_positions(extent):
                    left, right = FilePiece(file, extent.start, cut), FilePiece(file, cut, extent.end)
                    parts = [content(read_all(case.format, [piece])) for piece in (left, right)]
                    assert parts[0] + parts[1] == whole, f"cut at {cut}"

    def test_cut_pieces_together_are_the_whole_and_resume_at_every_batch(self, case: Case) -> None:
        pieces: list[FilePiece] = []
        for file in case.files:
            for extent in case.format.extents(file):
                edges = [extent.start, *cut_positions(extent)[::7], extent.end]
                pieces += [FilePiece(file, lo or 0, hi) for lo, hi in itertools.pairwise(edges)]
        batches = list(case.format.read(pieces, None))

        assert good([one for batch in batches for one in samples(batch)]) == case.expected
        for number, batch in enumerate(batches):
            rest = [one for later in batches[number:] for one in samples(later)]
            assert content(read_all(case.format, pieces, batch.start)) == content(rest)

    def test_the_probe_shows_the_first_good_rows_and_names_their_fields(self, case: Case) -> None:
        probe = case.format.probe(case.files)

        assert probe.rows == case.expected[: len(probe.rows)]
        assert bool(probe.rows) == bool(case.expected)
        names = [field.name for field in probe.fields]
        assert len(names) == len(set(names))
        assert {key for row in probe.rows for key in row} <= set(names)

    def test_a_file_of_another_format_is_an_error_that_names_it(self, case: Case, wrong: SourceFile) -> None:
        with pytest.raises(SourceError) as caught:
            read_all(case.format, pieces_of(case.format, [wrong]))

        assert wrong.uri.rsplit("/", 1)[-1] in str(caught.value)

    def test_the_probe_refuses_a_file_of_another_format(self, case: Case, wrong: SourceFile) -> None:
        with pytest.raises(SourceError):
            case.format.probe([wrong])
