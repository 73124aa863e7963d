"""Large remote files come in several ranges at once, in order, whole, and never more of them than memory allows."""

import itertools
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fault_proxy import Fault, FaultProxy
from support.http_server import HttpServer
from support.http_server import http_server as server
from support.reading import no_thread_is_left, reading_threads, wait_for_readers
from support.seaweed import Seaweed, seaweed

from data_bridge.clients.http import HttpClient
from data_bridge.config import Settings
from data_bridge.errors import BridgeError, SourceError
from data_bridge.io.ahead import Ranges, read_in_ranges
from data_bridge.io.ranged import Watch
from data_bridge.io.transport import Transport
from data_bridge.utils.budget import ByteBudget
from data_bridge.utils.retry import Retry

__all__ = ["no_thread_is_left", "seaweed", "server"]

DATA = random.Random(8).randbytes(600_000)
SMALL = Ranges(first_bytes=10_000, bytes=100_000, at_once=4)
WAIT_S = 20.0


def transport(timeout_s: float = 10.0, **options: Any) -> Transport:
    made = Settings.model_validate({"pipeline": {"input_uri": "unused"}, **options})
    retry = Retry(first_s=0.001, longest_s=0.01)
    return Transport(made, retry=retry, http=HttpClient(timeout_s=timeout_s), ranges=SMALL)


# ---- ranges


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 300), st.integers(1, 2_000))
def test_ranges_cover_every_byte_once_in_order(start: int, size: int, first: int, usual: int) -> None:
    ranges = Ranges(first, usual)

    spans = list(ranges.cut(start, start + size))

    assert [low for low, _ in spans] == [start, *(high for _, high in spans[:-1])][: len(spans)]
    assert sum(high - low for low, high in spans) == size
    assert all(high - low <= 1.5 * usual for low, high in spans[1:])


class Source:
    """Bytes whose ranges come when the test lets them."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.blocks = 0
        self.begun = threading.Semaphore(0)
        self.let: dict[int, threading.Event] = {}

    def __call__(self, start: int, end: int, watch: Watch) -> Iterator[bytes]:
        self.asked.append(start)
        event = self.let.setdefault(start, threading.Event())
        self.begun.release()
        while not event.wait(0.01):
            if watch.stopped.is_set():
                return
        yield DATA[start : (start + end) // 2]
        yield DATA[(start + end) // 2 : end]


def test_the_first_bytes_are_not_held_up_by_other_requests() -> None:
    source = Source()
    blocks = read_in_ranges(source, 0, len(DATA), ByteBudget(1 << 30).account("read"), SMALL)
    source.let[0] = threading.Event()
    reader = threading.Thread(target=lambda: next(blocks))
    reader.start()

    assert source.begun.acquire(timeout=WAIT_S)
    assert source.asked == [0]
    source.let[0].set()
    reader.join()

    assert source.begun.acquire(timeout=WAIT_S)
    assert source.asked == [0, 10_000]
    blocks.close()  # type: ignore[attr-defined]


def test_more_ranges_are_read_at_once_while_the_reader_waits_and_fewer_when_it_does_not() -> None:
    asked: list[int] = []
    ended = threading.Semaphore(0)
    paced = threading.Semaphore(0)
    waiting = True

    def source(start: int, end: int, watch: Watch) -> Iterator[bytes]:
        asked.append(start)
        if waiting:
            paced.acquire(timeout=WAIT_S)
        yield bytes(end - start)
        ended.release()

    blocks = read_in_ranges(source, 0, 30_000_000, ByteBudget(1 << 30).account("read"), SMALL)
    most = 0
    for read in range(40):
        later = threading.Timer(0.02, paced.release)  # by then the reader waits
        later.start()
        next(blocks)
        later.join()
        most = max(most, len(asked) - read)
    assert most == 4

    waiting = False
    paced.release(1000)
    settled = 0
    for _ in range(40):
        while settled < len(asked):  # all that was asked for is there before any of it is needed
            assert ended.acquire(timeout=WAIT_S)
            settled += 1
        next(blocks)
    assert len(asked) - 80 <= 2
    blocks.close()  # type: ignore[attr-defined]


def test_ranges_come_in_order_whichever_is_first_to_arrive() -> None:
    source = Source()
    for start in range(110_000, 600_000, 100_000):
        source.let[start] = threading.Event()
        source.let[start].set()
    for start in (0, 10_000):
        source.let[start] = threading.Event()
    source.let[0].set()
    blocks = read_in_ranges(source, 0, len(DATA), ByteBudget(1 << 30).account("read"), SMALL)

    got = next(blocks) + next(blocks)
    reader = threading.Thread(target=lambda: rest.append(b"".join(blocks)))
    rest: list[bytes] = []
    reader.start()
    for _ in range(3):
        assert source.begun.acquire(timeout=WAIT_S)
    assert source.asked[-1] == 110_000  # and comes at once
    source.let[10_000].set()
    reader.join()

    assert got + rest[0] == DATA


def test_a_small_budget_means_fewer_requests_at_once_and_the_same_bytes() -> None:
    most = 0
    running = 0
    lock = threading.Lock()

    def source(start: int, end: int, watch: Watch) -> Iterator[bytes]:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        yield from (DATA[at : min(at + 20_000, end)] for at in range(start, end, 20_000))
        with lock:
            running -= 1

    for total, at_once in ((1, 1), (210_000, 2)):
        most = 0
        budget = ByteBudget(total)

        assert b"".join(read_in_ranges(source, 0, len(DATA), budget.account("read"), SMALL)) == DATA
        assert most <= at_once
        assert budget.held == 0
        (usage,) = budget.usage()
        assert usage.peak_bytes <= max(total, 150_000)
        assert (usage.waits > 0) is (total == 1)


def test_an_error_is_raised_where_its_range_stands() -> None:
    def source(start: int, end: int, watch: Watch) -> Iterator[bytes]:
        if start >= 210_000:
            raise SourceError(f"gone at {start}")
        yield DATA[start:end]

    got = b""
    with pytest.raises(SourceError, match="gone at 210000"):
        for block in read_in_ranges(source, 0, len(DATA), ByteBudget(1 << 30).account("read"), SMALL):
            got += block

    assert got == DATA[:210_000]


def test_a_reader_given_up_gives_back_its_memory() -> None:
    budget = ByteBudget(1 << 30)
    source = Source()
    source.let[0] = threading.Event()
    source.let[0].set()
    blocks = read_in_ranges(source, 0, len(DATA), budget.account("read"), SMALL)
    next(blocks)
    assert budget.held > 100_000

    blocks.close()  # type: ignore[attr-defined]

    assert budget.held == 0


# ---- over HTTP


def test_a_large_file_is_asked_for_in_ranges_of_the_recorded_content(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA)
    reader = transport()

    assert b"".join(reader.blocks(reader.stat(site.url))) == DATA

    starts = [0, *range(10_000, 600_000, 100_000), len(DATA)]
    asked = [f"bytes={low}-{high - 1}" for low, high in itertools.pairwise(starts)]
    assert sorted(map(str, site.ranges)) == sorted(asked)
    assert {headers["if-match"] for method, headers in site.requests if method == "GET"} == {site.shown_etag}


def test_a_file_that_one_request_fetches_as_fast_is_asked_for_once(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA[:110_000])
    reader = transport()

    assert b"".join(reader.blocks(reader.stat(site.url))) == DATA[:110_000]
    assert site.ranges == [None]


def test_a_file_that_its_server_does_not_identify_is_read_in_one_request(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA, etag=None)
    reader = transport()
    blocks = reader.blocks(reader.stat(site.url))

    first = next(blocks)
    site.replace(DATA[::-1])

    assert first + b"".join(blocks) == DATA  # several ranges would have been a mixture, and nobody could tell
    assert site.ranges == [None]


def test_a_server_without_ranges_is_asked_for_one_and_then_for_whole_files(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA, ranges_work=False)
    other = server.serve("/b.bin", DATA[::-1], ranges_work=False)
    reader = transport()

    assert b"".join(reader.blocks(reader.stat(site.url))) == DATA
    assert b"".join(reader.blocks(reader.stat(other.url))) == DATA[::-1]

    assert site.ranges == ["bytes=0-9999", None]
    assert other.ranges == [None]


def test_every_range_is_resumed_where_it_was_cut(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA, cut_after=70_000)
    reader = transport()

    assert b"".join(reader.blocks(reader.stat(site.url))) == DATA
    assert "bytes=80000-109999" in site.ranges


def test_a_range_that_stays_short_is_an_error(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA)
    reader = transport()
    file = reader.stat(site.url)
    site.cut_after = 0

    with pytest.raises(SourceError, match="5 tries"):
        list(reader.blocks(file))


def test_a_file_replaced_between_two_ranges_is_an_error_not_a_mixture(server: HttpServer) -> None:
    for if_match_works in (True, False):
        site = server.serve("/a.bin", DATA, if_match_works=if_match_works)
        reader = transport()
        file = reader.stat(site.url)
        blocks = reader.blocks(file)
        next(blocks)
        site.replace(DATA[::-1])

        with pytest.raises(SourceError, match="changed while being read"):
            list(blocks)


def test_a_reader_given_up_ends_at_once_though_the_server_stalls(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA, stall_after=50_000)
    reader = transport(timeout_s=60)
    blocks = reader.blocks(reader.stat(site.url))
    next(blocks)
    began = time.monotonic()

    del blocks

    wait_for_readers()
    assert time.monotonic() - began < 5


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    """How a hostile server behaves."""
    return {
        "framing": draw(st.sampled_from(["length", "chunked", "close"])),
        "ranges_work": draw(st.sampled_from([True, True, True, False])),
        "range_status": draw(st.sampled_from([206, 206, 200])),
        "etag": draw(st.sampled_from(["auto", "auto", None, 'W/"weak"'])),
        "cut_after": draw(st.one_of(st.none(), st.integers(0, 120_000))),
        "cuts": draw(st.sampled_from([1, 3, 9])),
        "reset": draw(st.booleans()),
        "busy": draw(st.integers(0, 4)),
        "busy_status": draw(st.sampled_from([429, 500, 503])),
    }


@given(plan=plans(), start=st.integers(0, 600_000), size=st.integers(110_000, 600_000), replaced=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_server_does_the_bytes_are_right_or_there_is_an_error(
    server: HttpServer, plan: dict[str, Any], start: int, size: int, replaced: bool
) -> None:
    site = server.serve("/h.bin", DATA[:size], **plan)
    reader = transport()
    start = min(start, size)

    try:
        file = reader.stat(site.url)
        if replaced and site.etag == "auto":
            site.replace(DATA[-size:])
        got = b"".join(reader.blocks(file, start))
    except BridgeError:
        return
    assert got == DATA[:size][start:]


# ---- over S3


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[FaultProxy]:
    with FaultProxy("localhost", seaweed.port) as proxy:
        yield proxy


@pytest.mark.parametrize(
    "faults",
    [
        [],
        [Fault("cut_response", after=30_000, times=3, method="GET")],
        [Fault("status", status=503, times=3, method="GET")],
        [Fault("cut_response", after=5_000, times=2, method="GET"), Fault("status", status=500, times=2, method="GET")],
    ],
)
def test_an_object_comes_whole_over_bad_connections(seaweed: Seaweed, proxy: FaultProxy, faults: list[Fault]) -> None:
    bucket = seaweed.new_bucket()
    seaweed.client.put_object(Bucket=bucket, Key="a.bin", Body=DATA)
    reader = transport(s3=seaweed.settings_at(proxy.url))
    file = reader.stat(f"s3://{bucket}/a.bin")
    for fault in faults:
        proxy.add(fault)

    assert b"".join(reader.blocks(file)) == DATA
    assert len(proxy.seen("GET")) >= 7


def test_an_object_replaced_between_two_ranges_is_an_error(seaweed: Seaweed) -> None:
    bucket = seaweed.new_bucket()
    seaweed.client.put_object(Bucket=bucket, Key="a.bin", Body=DATA)
    reader = transport(s3=seaweed.settings)
    blocks = reader.blocks(reader.stat(f"s3://{bucket}/a.bin"))
    next(blocks)
    seaweed.client.put_object(Bucket=bucket, Key="a.bin", Body=DATA[::-1])

    with pytest.raises(SourceError, match="changed while being read"):
        list(blocks)


def test_a_reader_of_an_object_given_up_ends_at_once_though_the_store_stalls(
    seaweed: Seaweed, proxy: FaultProxy
) -> None:
    bucket = seaweed.new_bucket()
    seaweed.client.put_object(Bucket=bucket, Key="a.bin", Body=DATA)
    reader = transport(s3=seaweed.settings_at(proxy.url))
    file = reader.stat(f"s3://{bucket}/a.bin")
    proxy.add(Fault("stall_response", after=50_000, times=100, method="GET"))
    blocks = reader.blocks(file)
    next(blocks)
    began = time.monotonic()

    del blocks

    wait_for_readers()
    assert time.monotonic() - began < 5
    assert reading_threads() == []
