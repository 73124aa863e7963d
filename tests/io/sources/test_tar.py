import gzip
import random
import tarfile
from pathlib import Path

import pytest
import webdataset as wds  # type: ignore[import-untyped,unused-ignore]
from support.memory_transport import MemoryTransport
from support.source_contract import Case, SourceContract, good, read_all, samples
from support.tars import END, SQUEEZE, Entry, failures, grouped, header, make, other, pack, photos, read, rows

from data_bridge.config import PipelineSettings, Settings, SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.sources.tar import Tar
from data_bridge.io.transport import Transport
from data_bridge.model.batch import Row
from data_bridge.model.source import FilePiece, SourceFile


def webdataset_reads(path: Path) -> list[Row]:
    """Samples as its own reader groups them, undecoded."""
    with path.open("rb") as stream:
        members = wds.tariterators.tar_file_expander([{"url": "", "stream": stream}])
        every = list(wds.tariterators.group_by_keys(members))
    return [{name: value for name, value in sample.items() if name != "__url__"} for sample in every]


class TestTarContract(SourceContract):
    @pytest.fixture(params=[333, 1 << 20], ids=["tiny blocks", "large blocks"])
    def case(self, request: pytest.FixtureRequest) -> Case:
        first, second = photos(1500), photos(40, first=9000)
        stray = [("set/README", b"no extension"), *second]
        packed = {"mem/a.tar": pack(first), "mem/empty.tar": pack([]), "mem/b.tar.gz": gzip.compress(pack(stray))}
        tar, files = make(packed, request.param)
        return Case(tar, files, grouped(first) + grouped(second), failures=1)

    @pytest.fixture
    def wrong(self, case: Case) -> SourceFile:
        transport = case.format._transport  # type: ignore[attr-defined]
        transport.contents["mem/page.html"] = b"<html>not found</html>" * 40
        return SourceFile(uri="mem/page.html", size=880)


class TestSameAsWebdataset:
    @pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
    def test_a_shard_of_its_own_writer_gives_its_own_reading(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"shard.{suffix}"
        with wds.TarWriter(str(path)) as writer:  # PAX headers, for its times are floats
            for n in range(50):
                writer.write({"__key__": f"dir.v1/{n:04d}", "txt": f"t{n}", "json": {"n": n}, "left.JPG": b"x" * n})
        theirs = webdataset_reads(path)

        ours = rows(gzip.decompress(path.read_bytes()) if suffix.endswith("gz") else path.read_bytes())

        assert ours == theirs
        assert ours[3] == {"__key__": "dir.v1/0003", "txt": b"t3", "json": b'{"n": 3}', "left.jpg": b"xxx"}

    def test_awkward_names_are_read_as_it_reads_them(self, tmp_path: Path) -> None:
        names = [
            "img.0.png",
            "img.1.png",
            "a.b/c.TXT",
            "../up.txt",
            "/abs.txt",
            "ä/ü.txt",
            "n" * 180 + ".txt",
            "s/" * 60 + "deep.txt",
        ]
        path = tmp_path / "a.tar"
        path.write_bytes(pack([(name, name.encode()) for name in names], tarfile.GNU_FORMAT))

        theirs = webdataset_reads(path)

        assert rows(path.read_bytes()) == theirs

    def test_metadata_folders_hidden_files_and_directories_are_passed_over(self) -> None:
        entries: list[Entry | tarfile.TarInfo] = [
            ("__meta__", b"m"),
            ("__index__/x.json", b"{}"),
            other("set", tarfile.DIRTYPE),
            other("set/", tarfile.AREGTYPE),
            ("set/.DS_Store", b"d"),
            ("a.txt", b"1"),
            ("._a.txt", b"apple"),
            ("__MACOSX/._a.txt", b"apple"),
            ("sub/__MACOSX/a.txt", b"apple"),
            ("a.json", b"2"),
        ]

        assert rows(pack(entries)) == [{"__key__": "a", "txt": b"1", "json": b"2"}]

    def test_a_key_that_comes_back_later_is_a_second_sample(self) -> None:
        every = rows(pack([("a.txt", b"1"), ("b.txt", b"2"), ("a.json", b"3")]))

        assert [row["__key__"] for row in every] == ["a", "b", "a"]

    def test_samples_of_two_files_do_not_mix(self) -> None:
        tar, files = make({"mem/a.tar": pack([("x.txt", b"1")]), "mem/b.tar": pack([("x.json", b"2")])})

        every = read_all(tar, [FilePiece(file) for file in files])

        assert every == [{"__key__": "x", "txt": b"1"}, {"__key__": "x", "json": b"2"}]

    def test_a_leading_dot_slash_is_not_part_of_the_key(self) -> None:
        assert rows(pack([("./a.txt", b"1"), ("./a.json", b"2")])) == [{"__key__": "a", "txt": b"1", "json": b"2"}]


class TestBadSamples:
    def test_a_field_twice_fails_that_sample_alone_and_keeps_its_bytes(self) -> None:
        content = pack([("a.txt", b"1"), ("b.txt", b"2"), ("b.TXT", b"3"), ("c.txt", b"4")])

        every = read(content)

        assert [row["__key__"] for row in good(every)] == ["a", "c"]
        (failure,) = failures(every)
        assert (failure.offset, failure.where) == (1, "a.tar member 'b.txt' at byte 1024")
        assert "'txt' twice" in failure.reason
        assert failure.raw == content[1024:3072]

    @pytest.mark.parametrize(
        ("kind", "word"),
        [
            (tarfile.LNKTYPE, "hard link"),
            (tarfile.SYMTYPE, "symbolic link"),
            (tarfile.CHRTYPE, "character device"),
            (tarfile.BLKTYPE, "block device"),
            (tarfile.FIFOTYPE, "named pipe"),
            (b"Q", "unknown type 'Q'"),
        ],
    )
    def test_a_member_that_is_no_plain_file_fails_its_sample(self, kind: bytes, word: str) -> None:
        every = read(pack([("a.txt", b"1"), ("b.txt", b"2"), other("b.jpg", kind, "a.txt"), ("c.txt", b"3")]))

        assert [row["__key__"] for row in good(every)] == ["a", "c"]
        assert [word in failure.reason for failure in failures(every)] == [True]

    def test_a_member_of_unknown_type_is_passed_over_with_its_body(self) -> None:
        odd = header(b"b.bin", b"00000001000", b"Q") + bytes(512)

        every = read(pack([("a.txt", b"1")])[:1024] + odd + pack([("c.txt", b"3")]))

        assert [row["__key__"] for row in good(every)] == ["a", "c"]
        assert len(failures(every)) == 1

    def test_a_sparse_file_fails_its_sample(self) -> None:
        old = bytearray(header(b"b.bin", b"00000000010", b"S"))
        old[482] = 1  # one more header block of its map follows
        old[148:156] = b" " * 8
        old[148:156] = b"%06o\0 " % sum(old)
        record = b"22 GNU.sparse.major=1\n30 GNU.sparse.name=real.c.bin\n"
        new = header(b"x", b"%011o" % len(record), b"x") + record.ljust(512, b"\0")
        new += header(b"GNUSparseFile.0/c.bin", b"00000000010") + bytes(512)

        every = read(bytes(old) + bytes(512) + b"sparse--".ljust(512, b"\0") + new + pack([("d.txt", b"3")]))

        assert [row["__key__"] for row in good(every)] == ["d"]
        assert ["sparse" in failure.reason for failure in failures(every)] == [True, True]
        assert "real.c.bin" in failures(every)[1].where

    def test_members_without_extension_fail_and_cut_no_sample(self) -> None:
        entries = [
            ("README", b"r"),
            ("a.txt", b"1"),
            ("LICENSE", b"l"),
            ("a.json", b"2"),
            ("end.", b"e"),
            ("b.txt", b"3"),
        ]

        every = read(pack(entries))

        assert good(every) == [{"__key__": "a", "txt": b"1", "json": b"2"}, {"__key__": "b", "txt": b"3"}]
        assert [failure.offset for failure in failures(every)] == [0, 2, 3]
        assert all("no extension" in failure.reason for failure in failures(every))

    def test_a_batch_never_starts_inside_a_sample_with_a_stray_member(self) -> None:
        body = bytes(1_100_000)
        entries = [("a.bin", body), ("NOTES", body), ("a.json", b"{}"), ("b.bin", body), ("c.bin", body)]
        tar, files = make({"mem/a.tar": pack(entries)})
        batches = list(tar.read([FilePiece(files[0])], None))

        whole = [one for batch in batches for one in samples(batch)]

        assert [sorted(row) for row in good(whole)] == [
            ["__key__", "bin", "json"],
            ["__key__", "bin"],
            ["__key__", "bin"],
        ]
        assert len(batches) == 2
        assert read_all(tar, [FilePiece(files[0])], batches[1].start) == samples(batches[1])

    def test_a_name_that_is_not_utf8_fails_its_sample(self) -> None:
        every = read(header(b"\xff\xfe.txt", b"00000000000") + header(b"b.txt", b"00000000000") + END)

        assert [row["__key__"] for row in good(every)] == ["b"]
        assert "not UTF-8" in failures(every)[0].reason
        failures(every)[0].where.encode()

    def test_a_field_may_not_take_the_name_of_the_key(self) -> None:
        assert "'__key__' twice" in failures(read(pack([("a.__key__", b"1")])))[0].reason


class TestReading:
    @pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "tar.zst"])
    def test_a_file_on_disk_is_read_and_resumed_whatever_its_compression(self, tmp_path: Path, suffix: str) -> None:
        entries = [(f"{n}.bin", bytes([n]) * 1_200_000) for n in range(5)]
        path = tmp_path / f"shard.{suffix}"
        path.write_bytes(SQUEEZE[suffix.rpartition(".")[2]](pack(entries)))
        transport = Transport(Settings(pipeline=PipelineSettings(input_uri=str(path))))
        pieces = [FilePiece(transport.stat(str(path)))]
        tar = Tar(SourceOptions(), transport)

        batches = list(tar.read(pieces, None))

        assert [row for b in batches for row in samples(b)] == [{"__key__": n[0], "bin": data} for n, data in entries]
        assert len(batches) == 3
        assert read_all(tar, pieces, batches[1].start) == [row for b in batches[1:] for row in samples(b)]

    @pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
    def test_a_cut_file_on_disk_is_an_error_that_names_it(self, tmp_path: Path, suffix: str) -> None:
        whole = SQUEEZE[suffix.rpartition(".")[2]](pack(photos(20)))
        path = tmp_path / f"shard.{suffix}"
        path.write_bytes(whole[: len(whole) * 2 // 3])
        transport = Transport(Settings(pipeline=PipelineSettings(input_uri=str(path))))

        with pytest.raises(SourceError, match=f"shard.{suffix}"):
            read_all(Tar(SourceOptions(), transport), [FilePiece(transport.stat(str(path)))])

    def test_positions_do_not_depend_on_the_compression(self) -> None:
        content = pack([(f"{n}.bin", random.Random(n).randbytes(900_000)) for n in range(6)])
        tar, files = make({"mem/a.tar": content, "mem/a.tar.gz": gzip.compress(content)})

        plain, squeezed = ([batch.start for batch in tar.read([FilePiece(file)], None)] for file in files)

        assert plain == squeezed == [[0, 0], [0, 3 * (512 + 900_096)]]

    def test_a_resume_in_a_plain_tar_reads_only_the_rest(self) -> None:
        content = pack([(f"{n}.bin", bytes(1_000_000)) for n in range(10)])
        tar, files = make({"mem/a.tar": content})
        last = list(tar.read([FilePiece(files[0])], None))[-1]
        transport = tar._transport
        assert isinstance(transport, MemoryTransport)
        transport.served = 0

        read_all(tar, [FilePiece(files[0])], last.start)

        assert transport.served < 2_100_000

    def test_batches_are_small_in_bytes_and_in_samples(self) -> None:
        tar, files = make(
            {
                "mem/small.tar": pack([(f"{n}.t", b"") for n in range(2500)]),
                "mem/large.tar": pack(photos(9, size=900_000)),
            }
        )

        small, large = ([*tar.read([FilePiece(file)], None)] for file in files)

        assert [batch.count for batch in small] == [1000, 1000, 500]
        assert len(large) > 1
        assert sum(batch.count for batch in large) == 9

    def test_the_probe_names_every_extension_and_which_may_be_missing(self) -> None:
        tar, files = make({"mem/a.tar": pack([("a.jpg", b"1"), ("a.json", b"{}"), ("b.jpg", b"2"), ("c", b"bad")])})

        probe = tar.probe(files)

        assert [(f.name, f.type, f.nullable) for f in probe.fields] == [
            ("__key__", "string", False),
            ("jpg", "binary", False),
            ("json", "binary", True),
        ]
        assert not probe.declared
        assert probe.mean_sample_bytes == pytest.approx((4 * 1024) / 3)

    def test_the_probe_of_a_large_source_reads_little(self) -> None:
        content = pack([(f"{n}.bin", bytes(1_000_000)) for n in range(20)])
        tar, files = make({"mem/a.tar": content, "mem/b.tar": content})

        probe = tar.probe(files)

        assert isinstance(tar._transport, MemoryTransport)
        assert tar._transport.served < 6_500_000
        assert probe.mean_sample_bytes == pytest.approx(1_000_448 + 512, rel=0.01)

    def test_the_probe_of_a_compressed_source_does_not_know_the_size_of_a_sample(self) -> None:
        tar, files = make({"mem/a.tar.gz": gzip.compress(pack(photos(3)))})

        assert tar.probe(files).mean_sample_bytes is None
