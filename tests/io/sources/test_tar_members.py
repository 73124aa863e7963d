import gzip
import io
import tarfile

import pytest
from support.source_contract import read_all, to_dicts
from support.tars import END, header, make, other, pack, photos, read, rows

from data_bridge.errors import SourceError
from data_bridge.model.source import FilePiece


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
        with pytest.raises(SourceError, match=r"size of 'a\.bin' in the header at byte 0"):
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

        with pytest.raises(SourceError, match=r"from byte 1536$"):
            read(one + bytes(512) + one + END)

    def test_an_archive_that_ends_after_an_extended_header_is_an_error(self) -> None:
        content = header(b"L", b"00000000002", b"L") + b"a\0".ljust(512, b"\0") + END

        with pytest.raises(SourceError, match="ends after the extended header at byte 0"):
            read(content)

    def test_a_sample_too_large_for_memory_is_an_error_before_it_is_read(self) -> None:
        with pytest.raises(SourceError, match=r"'huge\.bin' at byte 0 has 8000000000 bytes") as caught:
            read(header(b"huge.bin", b"\x80" + (8_000_000_000).to_bytes(11, "big")) + bytes(4096))

        assert "memory" in caught.value.hint

    def test_many_members_of_one_key_are_bounded_too(self) -> None:
        tar, files = make({"mem/a.tar": pack([(f"a.{n}", bytes(1000)) for n in range(50)])})
        tar.max_sample_bytes = 20_000

        with pytest.raises(SourceError, match="sample 'a' at byte 0 has more than 20000 bytes"):
            read_all(tar, [FilePiece(files[0])])
