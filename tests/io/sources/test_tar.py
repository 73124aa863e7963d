import bz2
import gzip
import io
import lzma
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import webdataset as wds  # type: ignore[import-untyped,unused-ignore]
from support.memory_transport import MemoryTransport
from support.source_contract import Case, SourceContract, good, read_all, samples, to_dicts

from data_bridge.config import SourceOptions
from data_bridge.errors import SourceError
from data_bridge.io.sources.tar import Tar
from data_bridge.model.batch import Row, RowFailure
from data_bridge.model.source import FilePiece, SourceFile

END = bytes(1024)
Entry = tuple[str, bytes]


def pack(entries: Sequence[Entry | tarfile.TarInfo], format_: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar of files (name, content) and of other members as TarInfo, with the usual 10 KiB blocking."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry, io.BytesIO(bytes(entry.size)) if entry.isreg() else None)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return out.getvalue()


def other(name: str, kind: bytes, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def header(name: bytes, size_field: bytes, kind: bytes = b"0") -> bytes:
    """A hand-made header with a right checksum."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size_field)] = size_field
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def make(contents: dict[str, bytes], block: int = 1 << 20) -> tuple[Tar, list[SourceFile]]:
    transport = MemoryTransport(contents, block)
    return Tar(SourceOptions(), transport), transport.files()


def read(content: bytes, name: str = "mem/a.tar", block: int = 1 << 20) -> list[Row | RowFailure]:
    tar, files = make({name: content}, block)
    return read_all(tar, [FilePiece(file) for file in files])


def rows(content: bytes) -> list[Row]:
    every = read(content)
    assert good(every) == every, "unexpected failures"
    return good(every)


def failures(every: Sequence[Row | RowFailure]) -> list[RowFailure]:
    return [one for one in every if isinstance(one, RowFailure)]


def photos(count: int, first: int = 0, size: int = 700) -> list[Entry]:
    rng = random.Random(first)
    return [
        entry
        for n in range(first, first + count)
        for entry in ((f"set/{n:05d}.jpg", rng.randbytes(rng.randrange(size))), (f"set/{n:05d}.seg.png", b"%d" % n))
    ]


def grouped(entries: Sequence[Entry]) -> list[Row]:
    """Jpg and seg.png pairs as rows."""
    pairs = zip(entries[::2], entries[1::2], strict=True)
    return [{"__key__": a[0].partition(".")[0], "jpg": a[1], "seg.png": b[1]} for a, b in pairs]


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
        theirs = list(wds.WebDataset(str(path), shardshuffle=False, empty_check=False))

        ours = rows(gzip.decompress(path.read_bytes()) if suffix.endswith("gz") else path.read_bytes())

        for sample in theirs:
            for name in ("__url__", "__local_path__"):
                sample.pop(name, None)
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

        theirs = list(wds.WebDataset(str(path), shardshuffle=False, empty_check=False))

        for sample in theirs:
            for name in ("__url__", "__local_path__"):
                sample.pop(name, None)
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


class TestHeaders:
    @pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_long_names_of_every_dialect_are_whole(self, format_: int) -> None:
        name = "/".join(["folder" * 4] * 9) + "/image"
        entries = [(f"{name}.jpg", b"j" * 600), (f"{name}.json", b"{}")]

        assert rows(pack(entries, format_)) == [{"__key__": name, "jpg": b"j" * 600, "json": b"{}"}]

    def test_a_resume_at_a_long_name_starts_with_its_extended_header(self) -> None:
        for format_ in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            entries = [(f"{n}-{'x' * 150}.bin", bytes([n]) * 1_500_000) for n in range(4)]
            tar, files = make({"mem/a.tar": pack(entries, format_)})
            batches = list(tar.read([FilePiece(files[0])], None))

            again = [next(iter(tar.read([FilePiece(files[0])], batch.start))) for batch in batches]

            assert len(batches) == 2
            assert [to_dicts(b.rows) for b in again] == [to_dicts(b.rows) for b in batches]

    def test_a_global_pax_header_with_a_comment_does_not_matter(self) -> None:
        out = io.BytesIO()
        with tarfile.open(
            fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "c0ffee"}
        ) as archive:
            archive.addfile(other("a.txt", tarfile.REGTYPE))

        assert rows(out.getvalue()) == [{"__key__": "a", "txt": b""}]

    def test_a_global_pax_header_that_names_all_members_is_refused(self) -> None:
        record = b"14 path=a.txt\n"
        content = header(b"g", b"%011o" % len(record), b"g") + record.ljust(512, b"\0") + pack([("b.txt", b"1")])

        with pytest.raises(SourceError, match="global PAX header"):
            read(content)

    def test_sizes_in_base_256_and_in_pax_records_are_understood(self) -> None:
        body = b"b" * 700
        binary = header(b"a.bin", b"\x80" + len(body).to_bytes(11, "big")) + body.ljust(1024, b"\0")
        record = b"12 size=700\n"
        pax = header(b"x", b"%011o" % len(record), b"x") + record.ljust(512, b"\0")
        pax += header(b"c.bin", b"00000000001") + body.ljust(1024, b"\0")

        assert rows(binary + pax + END) == [{"__key__": "a", "bin": body}, {"__key__": "c", "bin": body}]

    def test_a_v7_header_without_magic_is_a_tar(self) -> None:
        content = bytearray(pack([("a.txt", b"1")]))
        content[257:265] = bytes(8)
        content[148:156] = b" " * 8
        content[148:156] = b"%06o\0 " % sum(content[:512])

        assert rows(bytes(content)) == [{"__key__": "a", "txt": b"1"}]

    def test_a_checksum_of_signed_bytes_is_accepted(self) -> None:
        content = bytearray(pack([("ä.txt", b"1")], tarfile.GNU_FORMAT))
        content[148:156] = b" " * 8
        content[148:156] = b"%06o\0 " % sum(b - 256 if b > 127 else b for b in content[:512])

        assert rows(bytes(content)) == [{"__key__": "ä", "txt": b"1"}]

    @pytest.mark.parametrize("size", [b"\xff" + b"\xfe" * 11, b"00000000009", b"-0000000001", b"0000_000001"])
    def test_a_size_that_is_no_number_is_an_error(self, size: bytes) -> None:
        with pytest.raises(SourceError, match="size of 'a.bin' in the header at byte 0"):
            read(header(b"a.bin", size) + END)

    @pytest.mark.parametrize("body", [b"99 path=a\n", b"path=a\n", b"9 path=a", b"0 path=a\n", b"8 path\n"])
    def test_a_malformed_pax_header_is_an_error(self, body: bytes) -> None:
        content = header(b"x", b"%011o" % len(body), b"x") + body.ljust(512, b"\0") + pack([("a.txt", b"1")])

        with pytest.raises(SourceError, match="PAX header at byte 0"):
            read(content)

    def test_an_extended_header_of_impossible_size_is_not_read(self) -> None:
        with pytest.raises(SourceError, match="impossible size"):
            read(header(b"L", b"77777777777", b"L") + bytes(4096))


class TestDamage:
    def content(self) -> bytes:
        return pack(photos(6))

    def test_a_cut_at_every_byte_is_an_error_that_names_file_and_byte(self) -> None:
        content = self.content()
        used = len(content.rstrip(b"\0"))
        needed = used + -used % 512 + 1024
        for cut in {*range(0, needed, 101), *range(0, needed, 512), *range(1, needed, 512), needed - 1}:
            with pytest.raises(SourceError, match=r"mem/a\.tar.* byte \d+"):
                read(content[:cut])

        assert len(read(content[:needed])) == 6

    def test_samples_before_the_damage_still_come(self) -> None:
        entries = [(f"{n}.bin", bytes(1_000_000)) for n in range(8)]
        tar, files = make({"mem/a.tar": pack(entries)[:6_000_000]})
        seen: list[str] = []

        with pytest.raises(SourceError, match=r"cut in the body of '5.bin'"):
            seen.extend(
                row["__key__"] for batch in tar.read([FilePiece(files[0])], None) for row in to_dicts(batch.rows)
            )

        assert seen == ["0", "1", "2", "3"]

    def test_one_flipped_bit_in_any_header_is_an_error(self) -> None:
        content = self.content()
        for position in (0, 99, 124, 130, 148, 156, 257, 345):
            broken = bytearray(content)
            broken[position] ^= 0x01
            with pytest.raises(SourceError, match="checksum at byte 0"):
                read(bytes(broken))

    def test_joined_tars_are_an_error_that_says_where_the_second_begins(self) -> None:
        first = self.content()

        with pytest.raises(SourceError, match=f"from byte {len(first)}$") as caught:
            read(first + pack(photos(3)))

        assert "tar --concatenate" in caught.value.hint

    def test_a_second_tar_behind_megabytes_of_zeros_is_found(self) -> None:
        padded = self.content() + bytes(3_000_000)

        assert len(read(padded)) == 6
        with pytest.raises(SourceError, match=f"from byte {len(padded)}$"):
            read(padded + b"x")

    def test_joined_gzip_members_with_a_tar_each_are_an_error_too(self) -> None:
        one = gzip.compress(self.content())

        with pytest.raises(SourceError, match="data follows the end"):
            read(one + one, "mem/a.tar.gz")

    def test_a_lone_zero_block_between_members_is_an_error(self) -> None:
        one = pack([("a.txt", b"1")])[:1024]

        with pytest.raises(SourceError, match="from byte 1536$"):
            read(one + bytes(512) + one + END)

    def test_an_archive_that_ends_after_an_extended_header_is_an_error(self) -> None:
        content = header(b"L", b"00000000002", b"L") + b"a\0".ljust(512, b"\0") + END

        with pytest.raises(SourceError, match="ends after the extended header at byte 0"):
            read(content)

    def test_a_sample_too_large_for_memory_is_an_error_before_it_is_read(self) -> None:
        with pytest.raises(SourceError, match="'huge.bin' at byte 0 has 8000000000 bytes") as caught:
            read(header(b"huge.bin", b"\x80" + (8_000_000_000).to_bytes(11, "big")) + bytes(4096))

        assert "memory" in caught.value.hint

    def test_many_members_of_one_key_are_bounded_too(self) -> None:
        tar, files = make({"mem/a.tar": pack([(f"a.{n}", bytes(1000)) for n in range(50)])})
        tar.max_sample_bytes = 20_000

        with pytest.raises(SourceError, match="sample 'a' at byte 0 has more than 20000 bytes"):
            read_all(tar, [FilePiece(files[0])])


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
    @pytest.mark.parametrize(
        ("suffix", "squeeze"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)]
    )
    def test_a_compressed_tar_resumes_at_the_same_positions(self, suffix: str, squeeze: type[bytes]) -> None:
        content = pack([(f"{n}.bin", random.Random(n).randbytes(900_000)) for n in range(6)])
        tar, files = make({"mem/a.tar": content, f"mem/a.tar.{suffix}": squeeze(content)})
        plain, squeezed = ([*tar.read([FilePiece(file)], None)] for file in files)

        assert [batch.start for batch in plain] == [batch.start for batch in squeezed]
        assert read_all(tar, [FilePiece(files[1])], squeezed[1].start) == [row for b in plain[1:] for row in samples(b)]

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
