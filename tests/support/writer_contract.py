"""What every ShardWriter must do, as tests to inherit."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from data_bridge.config import PipelineSettings
from data_bridge.errors import FatalError, IntegrityError
from data_bridge.model.batch import ArrowRows, DictRows, LineRows, Row, Rows
from data_bridge.model.shards import Cursor, Encoded, Packed, ShardRecord
from data_bridge.model.source import Field, Probe
from data_bridge.pipelines.writer import ShardWriter


def line_rows(rows: Sequence[Row]) -> LineRows:
    """Rows as compact JSON lines."""
    return raw_lines([orjson.dumps(row) for row in rows])


def raw_lines(lines: Sequence[bytes]) -> LineRows:
    lengths = np.array([len(line) for line in lines], dtype=np.int64)
    ends = np.cumsum(lengths + 1) - 1
    return LineRows(b"".join(line + b"\n" for line in lines), ends - lengths, ends)


def arrow_rows(rows: Sequence[Row], schema: pa.Schema | None = None) -> ArrowRows:
    return ArrowRows(pa.RecordBatch.from_pylist(list(rows), schema=schema))


def index_keys(count: int, first: int = 0) -> list[str]:
    return [f"{n:06d}" for n in range(first, first + count)]


def pack_shard(writer: ShardWriter, path: Path, runs: Sequence[Encoded]) -> Packed:
    """One shard of whole encoded runs."""
    writer.begin(path)
    for run in runs:
        writer.write(run, 0, len(run))
    return writer.finish()


class ShardWriterContract:
    """Inherit, and say how to make the writer; `rows` and `bad_row` may be overridden."""

    def writer_class(self) -> type[ShardWriter]:
        raise NotImplementedError

    def settings(self) -> PipelineSettings:
        raise NotImplementedError

    def rows(self, count: int) -> list[Row]:
        """Good rows of several sizes, the same in every form."""
        return [{"id": i, "text": f"räksmörgås {i} " * (i % 7), "score": i / 8} for i in range(count)]

    def bad_row(self) -> Row:
        """A row that fits the schema by its types but cannot be written."""
        return {"id": 0, "text": "half \ud800 pair", "score": 1.0}

    def fields(self) -> tuple[Field, ...]:
        return (
            Field(name="id", type="int64", nullable=False),
            Field(name="text", type="string", nullable=False),
            Field(name="score", type="double", nullable=False),
        )

    def frozen(self) -> dict[str, Any]:
        probe = Probe(self.fields(), declared=True, rows=self.rows(20))
        found: dict[str, Any] = json.loads(json.dumps(self.writer_class().freeze(self.settings(), probe)))
        return found

    @pytest.fixture
    def writer(self) -> Iterator[ShardWriter]:
        made = self.writer_class()(self.settings(), self.frozen())
        yield made
        made.abort()

    def encode(self, writer: ShardWriter, rows: Sequence[Row], first: int = 0) -> Encoded:
        return writer.encode(DictRows(rows), index_keys(len(rows), first))

    @pytest.mark.parametrize("prefix", ["", "00012-", "patch-00012-"])
    @pytest.mark.parametrize("part", [0, 3])
    def test_its_shards_are_known_by_their_names(self, writer: ShardWriter, prefix: str, part: int) -> None:
        name = writer.shard_name(prefix, 1_234_567, part, 6)

        assert writer.shard_names.fullmatch(name)
        for other in ("manifest.json", "shards.txt", "notes.tar", f"my-{name}", f"{name}.partial"):
            assert not writer.shard_names.fullmatch(other)

    def test_bytes_do_not_depend_on_the_batches(self, writer: ShardWriter, tmp_path: Path) -> None:
        rows, results = self.rows(700), set()
        for number, size in enumerate((700, 1, 7, 256, 300)):
            starts = range(0, len(rows), size)
            runs = [self.encode(writer, rows[start : start + size], start) for start in starts]
            packed = pack_shard(writer, tmp_path / str(number), runs)
            results.add((packed.bytes, packed.sha256, packed.samples))

        assert len(results) == 1
        assert packed.samples == 700

    def test_bytes_do_not_depend_on_how_runs_are_cut(self, writer: ShardWriter, tmp_path: Path) -> None:
        run = self.encode(writer, self.rows(300))
        whole = pack_shard(writer, tmp_path / "whole", [run])

        writer.begin(tmp_path / "cut")
        for lo, hi in ((0, 1), (1, 1), (1, 250), (250, 299), (299, 300)):
            writer.write(run, lo, hi)

        assert writer.finish() == whole

    def test_a_shard_in_the_middle_of_a_run_is_that_of_its_samples_alone(
        self, writer: ShardWriter, tmp_path: Path
    ) -> None:
        rows = self.rows(300)
        run = self.encode(writer, rows)
        writer.begin(tmp_path / "middle")
        writer.write(run, 100, 200)
        middle = writer.finish()

        alone = pack_shard(writer, tmp_path / "alone", [self.encode(writer, rows[100:200], 100)])

        assert middle == alone

    def test_two_writers_of_one_dataset_write_the_same(self, tmp_path: Path) -> None:
        found = []
        for name in "ab":
            writer = self.writer_class()(self.settings(), self.frozen())
            found.append(pack_shard(writer, tmp_path / name, [self.encode(writer, self.rows(50))]))

        assert found[0] == found[1]
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_every_form_of_the_rows_gives_the_same_bytes(self, writer: ShardWriter, tmp_path: Path) -> None:
        rows = self.rows(300)
        forms: list[Rows] = [DictRows(rows), line_rows(rows), arrow_rows(rows)]
        forms += [line_rows(self.rows(310)).slice(0, 300), arrow_rows(rows[:1] + rows).slice(1, 301)]
        results = {
            pack_shard(writer, tmp_path / str(i), [writer.encode(form, index_keys(300))]).sha256
            for i, form in enumerate(forms)
        }

        assert len(results) == 1

    def test_finish_tells_exact_bytes_hash_and_samples(self, writer: ShardWriter, tmp_path: Path) -> None:
        packed = pack_shard(writer, tmp_path / "shard", [self.encode(writer, self.rows(33))])

        content = (tmp_path / "shard").read_bytes()
        assert (packed.bytes, packed.samples) == (len(content), 33)
        assert packed.sha256 == hashlib.sha256(content).hexdigest()
        assert json.loads(json.dumps(packed.meta)) == packed.meta

    def test_ends_and_rows_describe_the_samples(self, writer: ShardWriter) -> None:
        run = self.encode(writer, self.rows(40))

        assert run.ends.dtype == run.rows.dtype == np.int64
        assert run.rows.tolist() == list(range(40))
        assert (np.diff(run.ends, prepend=0) > 0).all()
        assert len(run) == 40

    def test_failures_tell_their_rows_and_the_rest_is_as_without_them(
        self, writer: ShardWriter, tmp_path: Path
    ) -> None:
        rows, bad = self.rows(20), {0, 5, 6, 19}
        mixed = [self.bad_row() if i in bad else row for i, row in enumerate(rows)]
        keys = index_keys(20)

        run = writer.encode(DictRows(mixed), keys)

        good = [i for i in range(20) if i not in bad]
        assert [failure.offset for failure in run.failures] == sorted(bad)
        assert all(failure.reason for failure in run.failures)
        assert run.rows.tolist() == good
        clean = writer.encode(DictRows([rows[i] for i in good]), [keys[i] for i in good])
        assert pack_shard(writer, tmp_path / "a", [run]) == pack_shard(writer, tmp_path / "b", [clean])

    def test_rows_that_all_fail_give_no_sample(self, writer: ShardWriter) -> None:
        run = self.encode(writer, [self.bad_row()] * 3)

        assert len(run) == 0
        assert [failure.offset for failure in run.failures] == [0, 1, 2]

    def test_no_rows_give_no_sample(self, writer: ShardWriter) -> None:
        for rows in (DictRows([]), line_rows([]), arrow_rows(self.rows(3)).slice(0, 0)):
            run = writer.encode(rows, [])

            assert (len(run), run.failures) == (0, ())

    def test_abort_leaves_nothing_and_the_writer_usable(self, writer: ShardWriter, tmp_path: Path) -> None:
        run = self.encode(writer, self.rows(100))
        writer.abort()
        writer.begin(tmp_path / "shard")
        writer.write(run, 0, 60)
        writer.abort()
        writer.abort()
        assert list(tmp_path.iterdir()) == []

        packed = pack_shard(writer, tmp_path / "shard", [run])

        assert packed.samples == 100

    def test_a_shard_without_samples_is_refused_and_leaves_nothing(self, writer: ShardWriter, tmp_path: Path) -> None:
        writer.begin(tmp_path / "shard")

        with pytest.raises(ValueError, match="sample"):
            writer.finish()

        assert list(tmp_path.iterdir()) == []

    def test_a_file_of_another_attempt_is_left_alone(self, writer: ShardWriter, tmp_path: Path) -> None:
        (tmp_path / "shard").write_bytes(b"not ours")

        with pytest.raises(FatalError, match="shard"):
            pack_shard(writer, tmp_path / "shard", [self.encode(writer, self.rows(3))])
        writer.abort()

        assert (tmp_path / "shard").read_bytes() == b"not ours"

    def test_check_counts_the_samples_of_a_whole_shard(self, writer: ShardWriter, tmp_path: Path) -> None:
        for count in (1, 2, 257):
            pack_shard(writer, tmp_path / str(count), [self.encode(writer, self.rows(count))])

            assert writer.check(tmp_path / str(count)) == count

    def test_check_refuses_a_cut_shard(self, writer: ShardWriter, tmp_path: Path) -> None:
        pack_shard(writer, tmp_path / "shard", [self.encode(writer, self.rows(50))])
        content = (tmp_path / "shard").read_bytes()
        for length in (0, 1, 512, 1024, len(content) // 2, len(content) - 512, len(content) - 1):
            (tmp_path / "cut").write_bytes(content[: min(length, len(content) - 1)])

            with pytest.raises(IntegrityError, match="cut"):
                writer.check(tmp_path / "cut")

    def test_check_refuses_data_behind_the_end(self, writer: ShardWriter, tmp_path: Path) -> None:
        pack_shard(writer, tmp_path / "shard", [self.encode(writer, self.rows(50))])
        content = (tmp_path / "shard").read_bytes()
        for more in (b"x", content):
            (tmp_path / "longer").write_bytes(content + more)

            with pytest.raises(IntegrityError, match="longer"):
                writer.check(tmp_path / "longer")

    def test_names_sort_as_the_numbers_do_and_never_repeat(self, writer: ShardWriter) -> None:
        names = [writer.shard_name("", n, part, 6) for n in (0, 1, 10, 999_999) for part in (0, 1, 2)]

        assert len(set(names)) == len(names)
        assert all(name.endswith(writer.suffix) for name in names)
        whole = [writer.shard_name("00012-", n, 0, 6) for n in (0, 9, 10, 123_456)]
        assert whole == sorted(whole)
        assert all("00012-" in name for name in whole)

    def test_indexes_follow_from_the_records_alone(self, writer: ShardWriter, tmp_path: Path) -> None:
        records = []
        for number in range(3):
            name = writer.shard_name("", number, 0, 6)
            packed = pack_shard(writer, tmp_path / name, [self.encode(writer, self.rows(5), number * 5)])
            records.append(shard_record(name, packed))
        again = self.writer_class()(self.settings(), self.frozen())

        files = writer.indexes(records)

        assert files
        assert files == again.indexes(records)


def shard_record(name: str, packed: Packed) -> ShardRecord:
    return ShardRecord(
        token="t", key=name, bytes=packed.bytes, sha256=packed.sha256, samples=packed.samples, cursor=Cursor(),
        meta=packed.meta,
    )  # fmt: skip
