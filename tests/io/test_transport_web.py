"""Transport over the web and the Hub: the same bytes whatever the connection does, or an error."""

import gzip
import hashlib
import io
import itertools
import os
import pickle
import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from support.http_server import FOREVER, HttpServer
from support.http_server import http_server as server
from support.reading import no_thread_is_left, reading_threads

from data_bridge.clients.http import HttpClient
from data_bridge.config import Settings
from data_bridge.errors import BridgeError, ConfigError, RetryableError, SourceError
from data_bridge.io.ahead import Ranges
from data_bridge.io.transport import Transport
from data_bridge.model.source import SourceFile
from data_bridge.utils.retry import Retry

__all__ = ["no_thread_is_left", "server"]

DATA = random.Random(7).randbytes(3_300_000)
LINES = b"".join(b'{"id": %d}\n' % n for n in range(20_000))


def transport(timeout_s: float = 10.0, ranges: Ranges | None = None, **pipeline: Any) -> Transport:
    made = Settings.model_validate({"pipeline": {"input_uri": "unused", **pipeline}})
    retry = Retry(first_s=0.001, longest_s=0.01)
    return Transport(made, retry=retry, http=HttpClient(timeout_s=timeout_s), ranges=ranges)


# ---- finding


def test_a_web_file_is_known_by_size_and_etag(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA)

    assert transport().expand([site.url]) == [SourceFile(uri=site.url, size=len(DATA), etag=site.shown_etag)]


def test_few_web_files_of_lines_have_a_tail_and_many_do_not(server: HttpServer) -> None:
    for n in range(17):
        server.serve(f"/s-{n:02}.jsonl", LINES)
    uri = server.origin + "/s-{00..%02d}.jsonl"

    few = transport().expand([uri % 15])
    assert {file.tail_sha256 for file in few} == {hashlib.sha256(LINES[-65536:]).hexdigest()}
    assert [file.tail_sha256 for file in transport().expand([uri % 16])] == [None] * 17
    assert [file.uri for file in few] == [f"{server.origin}/s-{n:02}.jsonl" for n in range(16)]


def test_missing_web_files_are_one_config_error(server: HttpServer) -> None:
    server.serve("/s-0.bin", DATA)

    with pytest.raises(ConfigError, match=r"s-1\.bin, .*s-2\.bin, .*s-3\.bin and 6 more does not exist"):
        transport().expand([server.origin + "/s-{0..9}.bin"])


@pytest.mark.parametrize("path", ["/*.bin", "/folder/"])
def test_a_web_server_cannot_be_listed(server: HttpServer, path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be listed"):
        transport().expand([server.origin + path])


def test_finding_survives_passing_faults(server: HttpServer) -> None:
    site = server.serve("/a.jsonl", LINES, busy=3, retry_after="0")

    assert transport().stat(site.url).size == len(LINES)


def test_a_server_that_stays_down_is_a_retryable_error(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA, busy=FOREVER)

    with pytest.raises(RetryableError, match="503"):
        transport().stat(site.url)
    assert len(site.requests) == 5


def test_changes_on_the_web_are_told(server: HttpServer) -> None:
    site = server.serve("/a.jsonl", LINES)
    file = transport().stat(site.url)
    assert transport().changed(file) is None

    site.replace(LINES[::-1])
    assert "ETag was" in str(transport().changed(file))
    site.replace(LINES + b"{}\n")
    assert transport().changed(file) == f"it had {len(LINES)} bytes and has {len(LINES) + 3}"
    grown = transport().grew(file)
    assert grown is not None
    assert grown.size == len(LINES) + 3
    site.replace(b"#" + LINES + b"{}\n")
    assert transport().grew(file) is None
    del server.sites["/a.jsonl"]
    assert transport().changed(file) == "it does not exist any more"
    assert transport().grew(file) is None


# ---- reading


@pytest.mark.parametrize(
    ("start", "end"), [(0, None), (0, 0), (7, 8), (1 << 20, None), (3_300_000, None), (2_000_000, 9_999_999)]
)
def test_blocks_are_the_asked_bytes(server: HttpServer, start: int, end: int | None) -> None:
    file = transport().stat(server.serve("/a.bin", DATA).url)

    blocks = list(transport().blocks(file, start, end))

    assert b"".join(blocks) == DATA[start:end]
    assert all(len(block) >= 1 << 20 for block in blocks[:-1])


def test_a_cut_body_is_resumed_from_the_byte_where_it_stopped(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA, cut_after=1_234_567, cuts=1)
    file = transport().stat(site.url)

    assert b"".join(transport().blocks(file)) == DATA
    assert site.ranges == [None, "bytes=1234567-3299999"]
    assert site.requests[-1][1]["if-match"] == site.shown_etag


def test_progress_renews_patience(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA, cut_after=100_000)

    assert b"".join(transport().blocks(transport().stat(site.url))) == DATA
    assert site.asked("GET") == 33


def test_a_body_that_stays_short_is_an_error_after_five_tries(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA)
    file = transport().stat(site.url)
    site.cut_after = 0

    with pytest.raises(SourceError, match="5 tries"):
        list(transport().blocks(file))
    assert site.asked("GET") == 5


def test_a_file_replaced_between_two_pieces_is_an_error_not_a_mixture(server: HttpServer) -> None:
    for if_match_works in (True, False):
        site = server.serve("/a.bin", DATA, cut_after=1_500_000, cuts=1, if_match_works=if_match_works)
        file = transport().stat(site.url)
        blocks = transport().blocks(file)
        next(blocks)
        site.replace(DATA[::-1])

        with pytest.raises(SourceError, match="changed while being read"):
            list(itertools.chain(blocks, transport().blocks(file)))


@pytest.mark.parametrize("status", [403, 404])
def test_a_file_that_vanishes_while_being_read_is_an_error(server: HttpServer, status: int) -> None:
    site = server.serve("/a.bin", DATA, cut_after=2_000_000, cuts=1)
    blocks = transport().blocks(transport().stat(site.url))
    next(blocks)
    site.status = status

    with pytest.raises(SourceError, match=str(status)):
        list(blocks)


def test_a_stall_is_resumed(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA, stall_after=2_000_000, stalls=1)
    patient = transport(timeout_s=0.2)

    assert b"".join(patient.blocks(patient.stat(site.url))) == DATA


def test_a_server_without_lengths_gives_whole_files_or_errors(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA, framing="chunked", head_says_length=False, ranges_work=False)
    file = transport().stat(site.url)
    assert file.size is None
    assert b"".join(transport().blocks(file)) == DATA

    site.cut_after, site.cuts = 2_000_000, 1
    assert b"".join(transport().blocks(file)) == DATA
    site.etag = None
    unidentified = transport().stat(site.url)
    site.cuts = 1
    with pytest.raises(SourceError, match="ignores ranges"):
        list(transport().blocks(unidentified))


def test_no_length_and_an_early_close_is_never_a_shorter_file(server: HttpServer) -> None:
    site = server.serve(
        "/a.jsonl", LINES, framing="close", head_says_length=False, ranges_work=False, cut_after=100_000
    )

    with pytest.raises(SourceError, match="cut connection would look like the end"):
        transport().stat(site.url)
    with pytest.raises(SourceError, match="where the file ends"):
        list(transport().blocks(SourceFile(uri=site.url)))


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    """How a hostile server behaves."""
    return {
        "framing": draw(st.sampled_from(["length", "chunked", "close"])),
        "ranges_work": draw(st.sampled_from([True, True, True, False])),
        "range_status": draw(st.sampled_from([206, 206, 200])),
        "etag": draw(st.sampled_from(["auto", "auto", None, 'W/"weak"'])),
        "head_status": draw(st.sampled_from([200, 200, 403])),
        "head_says_length": draw(st.booleans()),
        "cut_after": draw(st.one_of(st.none(), st.integers(0, 400_000))),
        "cuts": draw(st.sampled_from([1, 3, FOREVER])),
        "reset": draw(st.booleans()),
        "busy": draw(st.integers(0, 4)),
        "busy_status": draw(st.sampled_from([429, 500, 503])),
    }


@given(
    plan=plans(),
    size=st.integers(0, 600_000),
    start=st.integers(0, 600_000),
    end=st.one_of(st.none(), st.integers(0, 700_000)),
    replaced=st.booleans(),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_server_does_the_bytes_are_right_or_there_is_an_error(
    server: HttpServer, plan: dict[str, Any], size: int, start: int, end: int | None, replaced: bool
) -> None:
    content = DATA[:size]
    site = server.serve("/h.bin", content, **plan)
    reader = transport()
    start = min(start, size)

    try:
        file = reader.stat(site.url)
        if replaced and site.etag == "auto":
            site.replace(DATA[size : 2 * size])
        got = b"".join(reader.blocks(file, start, end))
    except BridgeError:
        return
    assert got == content[start:end]


@given(cut=st.integers(0, 40_000), cuts=st.integers(0, 4), reset=st.booleans(), start=st.integers(0, 250_000))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_compressed_web_files_survive_cuts(server: HttpServer, cut: int, cuts: int, reset: bool, start: int) -> None:
    site = server.serve("/a.jsonl.gz", gzip.compress(LINES), cut_after=cut, cuts=cuts, reset=reset)
    site.url += "?signature=1"
    file = transport().stat(site.url)

    assert b"".join(transport().decoded(file, min(start, len(LINES)))) == LINES[min(start, len(LINES)) :]


# ---- reading ahead


def test_an_abandoned_reader_leaves_no_thread_even_when_the_server_stalls(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA, stall_after=1_500_000)
    blocks = transport(timeout_s=60).blocks(transport().stat(site.url))
    assert DATA.startswith(next(blocks))
    (thread,) = reading_threads()

    del blocks

    thread.join(5)
    assert not thread.is_alive()


def test_a_thread_reads_only_a_few_blocks_ahead(server: HttpServer) -> None:
    big = bytes(30_000_000)
    site = server.serve("/big.bin", big)
    blocks = transport(ranges=Ranges(first_bytes=len(big))).blocks(transport().stat(site.url))
    first = next(blocks)
    (thread,) = reading_threads()

    thread.join(0.3)  # it has all the time it wants
    assert thread.is_alive()
    assert len(first) + sum(map(len, blocks)) == len(big)
    assert not thread.is_alive()


def test_a_reader_that_never_starts_asks_nothing(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA)
    file = transport().stat(site.url)

    blocks = transport().blocks(file)

    assert site.asked("GET") == 0
    del blocks


# ---- random access


def test_parquet_is_read_by_ranges(server: HttpServer) -> None:
    table = pa.table({"id": range(200_000), "text": [f"row {n}" for n in range(200_000)]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=20_000, compression="none")
    site = server.serve("/a.parquet", buffer.getvalue(), cut_after=150_000, cuts=3)
    reader = transport()

    with reader.open(reader.stat(site.url)) as stream:
        parquet = pq.ParquetFile(stream)
        assert parquet.metadata.num_rows == 200_000
        assert parquet.read_row_group(7).equals(table.slice(140_000, 20_000))
    assert None not in site.ranges


def test_a_random_reader_reads_seeks_and_ends_like_a_file(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA)
    reader = transport()
    there, here = reader.open(reader.stat(site.url)), io.BytesIO(DATA)
    rng = random.Random(3)

    with there:
        for _ in range(60):
            position, amount = rng.randrange(len(DATA) + 10), rng.choice([0, 1, 100, 70_000, 500_000])
            assert there.seek(position) == here.seek(position)
            assert there.read(amount) == here.read(amount)
            assert there.tell() == here.tell()
        assert there.seek(-10, os.SEEK_END) == len(DATA) - 10
        assert there.read() == DATA[-10:]
        assert there.read(1) == b""


def test_a_random_reader_refuses_a_replaced_file(server: HttpServer) -> None:
    site = server.serve("/a.bin", DATA)
    stream = transport().open(transport().stat(site.url))
    site.replace(DATA[::-1])

    with stream, pytest.raises(SourceError, match="changed"):
        stream.read(10)


def test_a_file_of_unknown_size_cannot_be_read_at_random(server: HttpServer) -> None:
    with pytest.raises(SourceError, match="at random"):
        transport().open(SourceFile(uri=server.origin + "/a.parquet"))


def test_a_transport_crosses_processes_after_use(server: HttpServer) -> None:
    used = transport()
    file = used.stat(server.serve("/a.bin", DATA).url)
    list(used.blocks(file))

    assert b"".join(pickle.loads(pickle.dumps(used)).blocks(file)) == DATA


# ---- the Hub


@pytest.fixture
def hub(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> HttpServer:
    monkeypatch.setenv("HF_ENDPOINT", server.origin + "/")
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    monkeypatch.delenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", raising=False)
    return server


def test_hub_files_are_read_through_redirects_with_a_token_for_the_hub(hub: HttpServer) -> None:
    with HttpServer() as elsewhere:
        cdn = elsewhere.serve("/x", DATA, etag='"cdn"', cut_after=2_000_000, cuts=1)
        headers = {"X-Linked-Size": str(len(DATA)), "X-Linked-ETag": '"sha"'}
        site = hub.serve("/datasets/org/name/resolve/c0ffee/data/a.bin", b"", location=cdn.url, headers=headers)
        reader = transport()

        (file,) = reader.expand(["hf://datasets/org/name@c0ffee/data/a.bin"])
        assert file == SourceFile(uri="hf://datasets/org/name@c0ffee/data/a.bin", size=len(DATA), etag="sha")
        assert b"".join(reader.blocks(file)) == DATA
        assert reader.changed(file) is None
        assert {headers["authorization"] for _, headers in site.requests} == {"Bearer hf_environment"}
        assert [headers for _, headers in cdn.requests if "authorization" in headers] == []


@pytest.mark.parametrize(
    ("given_token", "sent"),
    [
        (SecretStr("hf_config"), "Bearer hf_config"),
        ("hf_text", "Bearer hf_text"),
        (True, "Bearer hf_environment"),
        (False, None),
    ],
)
def test_the_token_of_the_config_goes_first(hub: HttpServer, given_token: object, sent: str | None) -> None:
    site = hub.serve("/datasets/org/name/resolve/main/a.bin", DATA)

    transport(source_options={"load_kwargs": {"token": given_token}}).stat("hf://org/name/a.bin")

    assert site.requests[0][1].get("authorization") == sent


def test_the_token_file_of_a_login_is_used(hub: HttpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    (tmp_path / "token").write_text("hf_file\n")
    site = hub.serve("/datasets/org/name/resolve/main/a.bin", DATA)

    transport().stat("hf://org/name/a.bin")

    assert site.requests[0][1]["authorization"] == "Bearer hf_file"


def test_a_hub_token_goes_to_no_other_site(hub: HttpServer) -> None:
    site = hub.serve("/a.bin", DATA)

    transport(source_options={"load_kwargs": {"token": "hf_text"}}).stat(site.url)

    assert "authorization" not in site.requests[0][1]


def test_a_gated_dataset_is_a_config_error_that_names_the_reason(hub: HttpServer) -> None:
    hub.serve("/datasets/org/name/resolve/main/a.bin", DATA, status=403, headers={"X-Error-Code": "GatedRepo"})

    with pytest.raises(ConfigError, match="GatedRepo") as caught:
        transport().stat("hf://org/name/a.bin")
    assert "hf_environment" not in str(caught.value) + caught.value.hint


def test_strange_names_on_the_hub_can_be_read(hub: HttpServer) -> None:
    hub.serve("/datasets/org/name/resolve/main/a%20%5B1%5D%23%3F%25.bin", DATA)

    file = SourceFile(uri="hf://org/name@main/a [1]#?%.bin", size=len(DATA))
    assert b"".join(transport().blocks(file)) == DATA
