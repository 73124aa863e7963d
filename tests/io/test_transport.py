"""Transport over local files and in general: expansion, identity, change and growth."""

import gzip
import hashlib
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from support.ftp_server import FtpServer

from data_bridge.config import Settings
from data_bridge.errors import ConfigError, SourceError
from data_bridge.io.transport import Transport
from data_bridge.model.source import SourceFile
from data_bridge.utils.retry import Retry

LINES = b"".join(b'{"id": %d}\n' % n for n in range(20_000))


def transport(**pipeline: Any) -> Transport:
    settings = Settings.model_validate({"pipeline": {"input_uri": "unused", **pipeline}})
    return Transport(settings, retry=Retry(first_s=0.001))


def write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def later(path: str | Path) -> None:
    """Give the file another modification time, as any write does."""
    status = Path(path).stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def tail_hash(content: bytes) -> str:
    return hashlib.sha256(content[-65536:]).hexdigest()


# ---- identity


def test_a_local_file_is_known_by_path_size_time_and_hash(tmp_path: Path) -> None:
    path = write(tmp_path / "a b%.jsonl", LINES)

    for uri in (path, f"file://{path}"):
        assert transport().expand([uri]) == [
            SourceFile(
                uri=path,
                size=len(LINES),
                mtime_ns=Path(path).stat().st_mtime_ns,
                sha256=hashlib.sha256(LINES).hexdigest(),
                tail_sha256=tail_hash(LINES),
                complete_tail=True,
            )
        ]


def test_only_lines_have_a_tail(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", b'{"a": 1}\n{"a"')
    write(tmp_path / "b.jsonl.gz", gzip.compress(LINES))
    write(tmp_path / "c.data", LINES)
    write(tmp_path / "d.csv", b"")

    by_name = {Path(file.uri).name: file for file in transport().expand([str(tmp_path)])}
    assert by_name["a.jsonl"].complete_tail is False
    assert by_name["a.jsonl"].tail_sha256 == tail_hash(b'{"a": 1}\n{"a"')
    assert by_name["b.jsonl.gz"].tail_sha256 is None
    assert by_name["c.data"].tail_sha256 is None
    assert by_name["d.csv"].complete_tail is True

    (said,) = transport(input_format="jsonl").expand([str(tmp_path / "c.data")])
    assert said.tail_sha256 == tail_hash(LINES)


def test_sources_over_64_mib_are_not_hashed_whole(tmp_path: Path) -> None:
    for name in ("a.bin", "b.bin"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(33 << 20)

    assert [file.sha256 for file in transport().expand([str(tmp_path)])] == [None, None]
    assert transport().stat(str(tmp_path / "a.bin")).sha256 is not None


def test_a_list_keeps_its_order(tmp_path: Path) -> None:
    b, a = write(tmp_path / "b.txt", b"b"), write(tmp_path / "x/a.txt", b"a")

    assert [file.uri for file in transport().expand([b, f"{tmp_path}/x/"])] == [b, a]


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"a")

    with pytest.raises(ConfigError, match=r"a\.txt is named twice"):
        transport().expand([path, f"{tmp_path}/*.txt"])


def test_a_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"x")

    with pytest.raises(ConfigError, match="not valid UTF-8") as caught:
        transport().expand([str(tmp_path)])
    str(caught.value).encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"a")
    Path(path).chmod(0)

    with pytest.raises(ConfigError, match="may not be read"):
        transport().expand([path])


@pytest.mark.parametrize("uri", ["pipe:cat /etc/passwd", "pipe://x"])
def test_pipes_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="shell"):
        transport().expand([uri])


@pytest.mark.parametrize("uri", ["htps://host/a", "s3a://bucket/a", "foo+bar://a/b"])
def test_an_unknown_scheme_is_refused_with_the_known_ones(uri: str) -> None:
    with pytest.raises(ConfigError, match="unknown scheme") as caught:
        transport().expand([uri])
    assert all(f"{name}://" in caught.value.hint for name in ("file", "s3", "r2", "https", "hf", "ftp"))


def test_a_stat_of_several_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", b"")
    write(tmp_path / "b", b"")

    with pytest.raises(ConfigError, match="2 files"):
        transport().stat(str(tmp_path))


# ---- reading


@pytest.mark.parametrize(
    ("start", "end"), [(0, None), (0, 0), (5, 10), (1 << 20, None), (3_000_000, None), (2_999_999, 9_999_999), (10, 5)]
)
def test_local_blocks_are_the_asked_bytes(tmp_path: Path, start: int, end: int | None) -> None:
    data = os.urandom(3_000_000)
    file = transport().stat(write(tmp_path / "a.bin", data))

    blocks = list(transport().blocks(file, start, end))

    assert b"".join(blocks) == data[start:end]
    assert all(len(block) <= 1 << 20 for block in blocks)


def test_a_start_past_the_end_is_an_error(tmp_path: Path) -> None:
    file = transport().stat(write(tmp_path / "a.bin", b"0123"))

    with pytest.raises(SourceError, match="byte 5, but it has 4"):
        transport().blocks(file, 5)


def test_a_file_recorded_by_path_and_size_alone_can_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", LINES)

    assert b"".join(transport().blocks(SourceFile(uri=path, size=len(LINES)))) == LINES
    assert b"".join(transport().blocks(SourceFile(uri=path))) == LINES


def test_a_local_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    file = transport().stat(path)
    write(tmp_path / "a.jsonl", LINES[:-100])

    for call in (transport().blocks, transport().decoded, transport().open):
        with pytest.raises(SourceError, match=f"had {len(LINES)} bytes and has {len(LINES) - 100}"):
            call(file)


def test_a_local_file_that_is_cut_while_being_read_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", os.urandom(3_000_000))
    blocks = transport().blocks(transport().stat(path))
    next(blocks)
    os.truncate(path, 1_500_000)

    with pytest.raises(SourceError, match="ends at byte 1500000"):
        list(blocks)


def test_a_local_file_written_to_while_being_read_is_an_error(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    path = write(tmp_path / "a.bin", data)
    blocks = transport().blocks(transport().stat(path))
    next(blocks)
    with Path(path).open("r+b") as stream:
        stream.write(b"x")
    later(path)

    with pytest.raises(SourceError, match="changed while being read"):
        list(blocks)


def test_lines_appended_while_reading_change_nothing(tmp_path: Path) -> None:
    data = LINES * 10
    path = write(tmp_path / "a.jsonl", data)
    file = transport().stat(path)
    blocks = transport().blocks(file)
    first = next(blocks)
    with Path(path).open("ab") as stream:
        stream.write(LINES)
    later(path)

    assert first + b"".join(blocks) == data
    assert b"".join(transport().blocks(file)) == data


def test_a_local_file_that_vanished_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    file = transport().stat(path)
    Path(path).unlink()

    with pytest.raises(SourceError, match="does not exist"):
        transport().blocks(file)


def test_a_local_reader_is_a_plain_file(tmp_path: Path) -> None:
    file = transport().stat(write(tmp_path / "a.bin", LINES))

    with transport().open(file) as stream:
        stream.seek(-5, os.SEEK_END)
        assert stream.read() == LINES[-5:]


@pytest.mark.parametrize("start", [0, 1, 1 << 20, len(LINES) * 9, len(LINES) * 10])
def test_decoded_content_starts_where_asked(tmp_path: Path, start: int) -> None:
    data = LINES * 10
    plain = transport().stat(write(tmp_path / "a.jsonl", data))
    packed = transport().stat(write(tmp_path / "a.jsonl.gz", gzip.compress(data[:50]) + gzip.compress(data[50:])))

    assert b"".join(transport().decoded(plain, start)) == data[start:]
    assert b"".join(transport().decoded(packed, start)) == data[start:]


def test_a_truncated_compressed_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    file = transport().stat(write(tmp_path / "a.jsonl.gz", gzip.compress(LINES)[:-1]))

    with pytest.raises(SourceError, match=r"a\.jsonl\.gz: the gzip data ends too early"):
        list(transport().decoded(file))


# ---- change and growth


def test_the_same_file_has_not_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    file = transport().stat(path)
    assert transport().changed(file) is None

    later(path)
    assert transport().changed(file) is None
    assert b"".join(transport().blocks(file)) == LINES


def test_another_content_of_the_same_size_has_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", LINES)
    file = transport().stat(path)
    write(tmp_path / "a.bin", LINES[::-1])
    later(path)

    assert "content differs" in str(transport().changed(file))
    with pytest.raises(SourceError, match="changed since the plan"):
        transport().blocks(file)


def test_another_time_of_a_file_without_hash_is_a_change_that_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", LINES)
    file = transport().stat(path).model_copy(update={"sha256": None})
    later(path)

    how = str(transport().changed(file))
    assert "only its modification time differs" in how
    assert "64 MiB" in how
    with pytest.raises(SourceError, match="modification time"):
        transport().open(file)


def test_another_size_and_absence_are_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", b"1234")
    file = transport().stat(path)

    write(tmp_path / "a.bin", b"12345")
    assert transport().changed(file) == "it had 4 bytes and has 5"
    Path(path).unlink()
    assert transport().changed(file) == "it does not exist any more"


def test_appended_lines_are_growth(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    file = transport().stat(path)
    assert transport().grew(file) is None

    write(tmp_path / "a.jsonl", LINES + b'{"id": -1}\n{"half')
    later(path)

    grown = transport().grew(file)
    assert grown == transport().stat(path)
    assert grown is not None
    assert grown.size == len(LINES) + 17
    assert grown.complete_tail is False
    assert transport().grew(grown) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (LINES, b"#" + LINES + b"{}\n"),
        (LINES, LINES[:-100]),
        (LINES + b'{"half', LINES + b'{"half": 1}\n{}\n'),
        (b"1\n2\n", b"1\n3\n4\n"),
    ],
    ids=["rewritten", "shorter", "last line was incomplete", "small and rewritten"],
)
def test_any_other_change_is_not_growth(tmp_path: Path, before: bytes, after: bytes) -> None:
    file = transport().stat(write(tmp_path / "a.jsonl", before))
    later(write(tmp_path / "a.jsonl", after))

    assert transport().grew(file) is None
    with pytest.raises(SourceError, match="changed since the plan"):
        transport().blocks(file)


def test_an_empty_file_of_lines_may_grow(tmp_path: Path) -> None:
    file = transport().stat(write(tmp_path / "a.jsonl", b""))
    write(tmp_path / "a.jsonl", b"{}\n")

    grown = transport().grew(file)
    assert grown is not None
    assert grown.size == 3


def test_growth_of_binary_files_is_unknown(tmp_path: Path) -> None:
    file = transport().stat(write(tmp_path / "a.bin", LINES))
    write(tmp_path / "a.bin", LINES + LINES)

    assert transport().grew(file) is None


# ---- the object itself


def test_a_transport_crosses_processes_after_use(tmp_path: Path) -> None:
    used = transport()
    file = used.stat(write(tmp_path / "a.bin", LINES))
    list(used.blocks(file))

    copy = pickle.loads(pickle.dumps(used))

    assert b"".join(copy.blocks(file)) == LINES


def test_a_local_source_loads_no_network_library(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    code = textwrap.dedent("""
        import sys
        from data_bridge.config import Settings
        from data_bridge.io.transport import Transport
        t = Transport(Settings.model_validate({"pipeline": {"input_uri": "x"}}))
        assert sum(map(len, t.blocks(t.stat(sys.argv[1])))) > 0
        print([m for m in ("urllib3", "botocore", "boto3", "smart_open", "datasets", "pyarrow") if m in sys.modules])
    """)

    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- the long tail of schemes


def test_a_compressed_file_over_ftp_is_read_and_a_cut_one_refused() -> None:
    with FtpServer() as server:
        server.files["/data/a.jsonl.gz"] = packed = gzip.compress(LINES)
        file = transport().stat(f"{server.origin}/data/a.jsonl.gz")
        assert file.size is None
        assert b"".join(transport().decoded(file)) == LINES

        server.cut["/data/a.jsonl.gz"] = len(packed) - 20
        with pytest.raises(SourceError, match="ends too early"):
            list(transport().decoded(file))


def test_a_file_whose_end_cannot_be_told_is_refused() -> None:
    with FtpServer() as server:
        server.files["/a.jsonl"] = LINES
        with pytest.raises(ConfigError, match="size cannot be had") as caught:
            transport().expand([f"{server.origin}/a.jsonl"])
        assert "download" in caught.value.hint


def test_other_schemes_refuse_globs_passwords_and_missing_files() -> None:
    with FtpServer() as server:
        with pytest.raises(ConfigError, match="cannot be listed"):
            transport().expand([f"{server.origin}/*.gz"])
        with pytest.raises(ConfigError, match="password") as caught:
            transport().expand(["ftp://me:secret@host/a.gz"])
        assert "secret" not in str(caught.value)
        with pytest.raises(ConfigError, match=r"none\.gz"):
            transport().expand([f"{server.origin}/none.gz"])
