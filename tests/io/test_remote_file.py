"""A remote file read at random is that file, however its bytes come and whatever was expected of it."""

import io
import random
import threading
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.http_server import HttpServer

from data_bridge.clients.http import HttpClient
from data_bridge.config import Settings, SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.ahead import Ranges
from data_bridge.io.ranged import Watch
from data_bridge.io.remote_file import RangedFile
from data_bridge.io.sources.parquet import Parquet
from data_bridge.io.transport import Transport
from data_bridge.model.batch import ArrowRows
from data_bridge.model.source import FilePiece
from data_bridge.utils.budget import ByteBudget
from data_bridge.utils.retry import Retry

DATA = random.Random(9).randbytes(300_000)
SMALL = Ranges(first_bytes=5_000, bytes=5_000)
WAIT_S = 20.0


def plain(start: int, end: int, watch: Watch) -> Iterator[bytes]:
    for at in range(start, end, 1_000):
        yield DATA[at : min(at + 1_000, end)]


def opened(budget: ByteBudget | None = None, read: object = plain) -> RangedFile:
    return RangedFile(read, len(DATA), budget or ByteBudget(1 << 30), split=lambda: True, parts=SMALL, ahead=SMALL)  # type: ignore[arg-type]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(0, 300_010), st.sampled_from([0, 1, 100, 4_000, 20_000, 90_000])),
            st.tuples(st.just("expect"), st.integers(0, 299_000), st.sampled_from([1, 999, 30_000])),
            st.tuples(st.just("forget"), st.integers(0, 300_000), st.just(0)),
        ),
        max_size=25,
    ),
    st.sampled_from([1, 40_000, 1 << 30]),
)
@settings(max_examples=60, deadline=None)
def test_it_reads_as_the_file_itself_whatever_is_expected(steps: list[tuple[str, int, int]], total: int) -> None:
    budget = ByteBudget(total)
    here = io.BytesIO(DATA)
    raw = opened(budget)
    with io.BufferedReader(raw, 1_000) as there:
        for what, at, size in steps:
            if what == "expect":
                raw.expect(at, min(at + size, len(DATA)))
            elif what == "forget":
                raw.forget(at)
            else:
                assert there.seek(at) == here.seek(at)
                assert there.read(size) == here.read(size)

    assert budget.held == 0


def test_what_is_expected_is_fetched_before_it_is_read_and_once() -> None:
    asked: list[tuple[int, int]] = []
    ended = threading.Semaphore(0)

    def read(start: int, end: int, watch: Watch) -> Iterator[bytes]:
        asked.append((start, end))
        yield DATA[start:end]
        ended.release()

    with opened(read=read) as file:
        file.expect(100, 4_000)
        assert ended.acquire(timeout=WAIT_S)
        assert asked == [(100, 4_000)]

        buffer = bytearray(3_900)
        file.seek(100)
        assert file.readinto(buffer) == 3_900

    assert buffer == DATA[100:4_000]
    assert asked == [(100, 4_000)]


def test_a_large_read_is_made_of_several_requests_at_once() -> None:
    together = threading.Barrier(2)

    def read(start: int, end: int, watch: Watch) -> Iterator[bytes]:
        if 5_000 <= start < 15_000:
            together.wait(WAIT_S)
        yield DATA[start:end]

    with opened(read=read) as file:
        buffer = bytearray(50_000)
        assert file.readinto(buffer) == 50_000

    assert buffer == DATA[:50_000]


def test_an_error_of_what_is_expected_is_raised_when_it_is_read() -> None:
    def read(start: int, end: int, watch: Watch) -> Iterator[bytes]:
        yield DATA[start : start + 10]
        raise SourceError("gone")

    with opened(read=read) as file:
        file.expect(0, 1_000)

        assert file.readinto(bytearray(10)) == 10
        with pytest.raises(SourceError, match="gone"):
            file.readinto(bytearray(10))


def test_closing_ends_what_is_expected_and_gives_its_memory_back() -> None:
    budget = ByteBudget(1 << 30)
    ended = threading.Event()

    def read(start: int, end: int, watch: Watch) -> Iterator[bytes]:
        watch.stopped.wait(WAIT_S)
        ended.set()
        yield b""

    for size in (1_000, 100_000):
        ended.clear()
        file = opened(budget, read)
        file.expect(0, size)
        assert budget.held >= size

        file.close()

        assert ended.wait(WAIT_S)
        assert budget.held == 0


@pytest.mark.parametrize("ranges_work", [True, False])
def test_the_next_row_group_comes_while_one_is_packed(ranges_work: bool) -> None:
    table = pa.table({"id": range(1_000), "blob": [random.Random(n).randbytes(1_000) for n in range(1_000)]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=250, compression="none")
    with HttpServer() as server:
        site = server.serve("/a.parquet", buffer.getvalue(), ranges_work=ranges_work)
        made = Settings.model_validate({"pipeline": {"input_uri": "unused"}})
        transport = Transport(made, retry=Retry(first_s=0.001), http=HttpClient())
        batches = Parquet(SourceOptions(), transport).read([FilePiece(transport.stat(site.url))], None)

        first = next(batches)
        before = len(site.requests)
        rest = list(batches)

    rows = [batch.rows.batch for batch in (first, *rest) if isinstance(batch.rows, ArrowRows)]
    assert pa.Table.from_batches(rows).equals(table)
    assert before >= 2
    asked = [r for r in site.ranges if r is not None]
    assert len(set(asked)) == len(asked)
