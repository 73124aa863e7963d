"""Members of a tar stream: USTAR, GNU long names, PAX, base-256 sizes; every header's checksum is verified.

The standard library's reader is not used because it takes a cut archive for a complete one and stops at the
first end-of-archive blocks whatever follows.
"""

from collections.abc import Iterator

import msgspec

from data_bridge.errors import SourceError

BLOCK = 512
MAX_META_BYTES = 1 << 20
"""No long name or PAX header is larger than this; a claim beyond it is damage."""

_ZEROS = bytes(BLOCK)
_FILES = frozenset(b"\0" + b"07")
_BODILESS = {
    ord("1"): "a hard link",
    ord("2"): "a symbolic link",
    ord("3"): "a character device",
    ord("4"): "a block device",
    ord("6"): "a named pipe",
}


class Member(msgspec.Struct, frozen=True):
    """One member that is not a directory. `start` is the byte of its first header in the decoded stream."""

    start: int
    name: str
    data: bytes
    header: bytes
    """All its header blocks, as they stand in the stream."""
    problem: str = ""
    """Why this is no plain file (`data` is empty then), or nothing."""

    @property
    def raw(self) -> bytes:
        """The member as it stands in the stream; a link's or device's header alone."""
        return self.header + self.data + bytes(-len(self.data) % BLOCK)


def read_members(blocks: Iterator[bytes], start: int, label: str, max_bytes: int) -> Iterator[Member]:
    """Members from byte `start` of the decoded stream, which must be the first header of a member.

    Raises SourceError naming `label` and the byte for damage of any kind: a bad checksum, a cut header or
    body, missing end-of-archive blocks, data behind them, a member larger than `max_bytes`.
    """
    stream = _Stream(blocks, start, label)
    while (first := stream.header()) is not None:
        began = stream.offset - BLOCK
        yield from _member(stream, first, began, max_bytes)


def _member(stream: "_Stream", header: bytes, began: int, max_bytes: int) -> Iterator[Member]:
    """The member whose first header is given, unless it is a directory or stands for no member at all."""
    headers, overrides, alone = header, dict[str, bytes](), True
    while (kind := header[156]) in b"LKxXgV":
        meta = b"" if kind == ord("V") else stream.meta(header)
        headers += meta
        overrides |= _overrides(kind, meta, stream, began)
        alone &= kind in b"gV"
        if alone:  # belongs to no member: the next header may be any, the end included
            return
        following = stream.header()
        if following is None:
            raise stream.damaged(f"the archive ends after the extended header at byte {began}")
        header, headers = following, headers + following
    name = _name(header, overrides)
    if header[156] == ord("5") or (name.endswith("/") and header[156] in _FILES and not _size(header, overrides)):
        return
    problem = _BODILESS.get(header[156], "")
    if problem:
        yield Member(began, name, b"", headers, f"{problem}, not a plain file")
        return
    size = _size(header, overrides)
    if size is None:
        raise stream.damaged(f"the size of {name!r} in the header at byte {stream.offset - BLOCK} is no number")
    if header[156] not in _FILES or any(key.startswith("GNU.sparse.") for key in overrides):
        stream.skip_body(header, size, name)
        yield Member(began, name, b"", headers, _oddity(header[156]))
        return
    if size > max_bytes:
        raise SourceError(
            f"{stream.label}: member {name!r} at byte {began} has {size} bytes, more than the {max_bytes} a sample may have",
            hint="samples are held in memory: store the file as smaller pieces, or leave it out of the tar",
        )
    yield Member(began, name, stream.body(size, name), headers)


def _oddity(kind: int) -> str:
    if kind in _FILES or kind == ord("S"):
        return "a sparse file, not a plain one: pack it with tar without --sparse"
    return f"of the unknown type {chr(kind)!r}, not a plain file"


def _overrides(kind: int, meta: bytes, stream: "_Stream", began: int) -> dict[str, bytes]:
    """What an extended header says of the member that follows: `path`, `size`, `GNU.sparse.*`."""
    if kind in b"LK":
        return {"path": meta.split(b"\0", 1)[0]} if kind == ord("L") else {}
    if kind == ord("V"):
        return {}
    records = _pax_records(meta)
    if records is None:
        raise stream.damaged(f"the PAX header at byte {began} cannot be parsed")
    if kind == ord("g") and records.keys() & {"path", "size"}:
        raise SourceError(
            f"{stream.label}: the global PAX header at byte {began} sets the name or size of all members",
            hint="repack the archive, for example with `tar --format=ustar`",
        )
    return {} if kind == ord("g") else records


def _pax_records(body: bytes) -> dict[str, bytes] | None:
    """`"<length> <key>=<value>\\n"` records of a PAX header, those we use; None if it is malformed."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 20)
        digits = body[at:space]
        if space < 0 or not digits.isdigit():
            return None
        end = at + int(digits)
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not equals or body[end - 1 : end] != b"\n":
            return None
        if key in {b"path", b"size"} or key.startswith(b"GNU.sparse."):
            records[key.decode("ascii", "replace")] = value
        at = end
    return records


def _name(header: bytes, overrides: dict[str, bytes]) -> str:
    name = overrides.get("GNU.sparse.name") or overrides.get("path")
    if not name:
        name = header[:100].split(b"\0", 1)[0]
        if header[257:263] == b"ustar\0":  # GNU's own magic ends in a blank and uses the prefix for other things
            prefix = header[345:500].split(b"\0", 1)[0]
            name = prefix + b"/" + name if prefix else name
    return name.decode("utf-8", "surrogateescape")


def _size(header: bytes, overrides: dict[str, bytes]) -> int | None:
    stated = overrides.get("size")
    if stated:
        return int(stated) if stated.isdigit() else None
    return _number(header[124:136])


def _number(field: bytes) -> int | None:
    """An octal or base-256 number; None for anything else, negative ones included."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & ~(0x80 << (8 * len(field) - 8)) if field[0] == 0x80 else None
    digits = field.split(b"\0", 1)[0].strip(b" ")
    return None if digits.translate(None, b"01234567") else int(digits or b"0", 8)


def _checksum_holds(header: bytes) -> bool:
    stated = _number(header[148:156])
    plain = header[:148] + header[156:]
    total = sum(plain) + 8 * ord(" ")
    if total == stated:
        return True
    return total - 256 * sum(byte > 127 for byte in plain) == stated  # old tars summed signed bytes


class _Stream:
    """Exact reads from blocks of any size, counting bytes."""

    def __init__(self, blocks: Iterator[bytes], start: int, label: str) -> None:
        self.label = label
        self.offset = start
        self._blocks = blocks
        self._block = b""
        self._at = 0

    def damaged(self, what: str) -> SourceError:
        return SourceError(
            f"{self.label}: {what}", hint="fetch or pack the file again; `tar` itself may not notice such damage"
        )

    def header(self) -> bytes | None:
        """The next header block, or None at a proper end of the archive."""
        began = self.offset
        block = self._take(BLOCK)
        if not block:
            raise self.damaged(f"the archive ends at byte {began} without end-of-archive blocks")
        if len(block) < BLOCK:
            raise self.damaged(f"the archive is cut in the header at byte {began}")
        if block == _ZEROS:
            self._demand_end(began)
            return None
        if not _checksum_holds(block):
            raise self.damaged(f"no tar header with a right checksum at byte {began}")
        return block

    def meta(self, header: bytes) -> bytes:
        """The body, without padding, of the long name or PAX header `header`."""
        size = _number(header[124:136])
        if size is None or size > MAX_META_BYTES:
            raise self.damaged(f"the extended header at byte {self.offset - BLOCK} has an impossible size")
        return self.body(size, "an extended header")

    def body(self, size: int, name: str) -> bytes:
        began = self.offset
        data = self._take(size)
        padding = -size % BLOCK
        if len(data) < size or len(self._take(padding)) < padding:
            raise self._cut(name, began, size)
        return data

    def skip_body(self, header: bytes, size: int, name: str) -> None:
        """Pass over a body without keeping it, with the extra headers of an old GNU sparse file."""
        extended = header[156] == ord("S") and header[482]
        while extended:
            extended = self.body(BLOCK, name)[504]
        began, left = self.offset, size + -size % BLOCK
        while left:
            taken = len(self._take(min(left, MAX_META_BYTES)))
            if not taken:
                raise self._cut(name, began, size)
            left -= taken

    def _cut(self, name: str, began: int, size: int) -> SourceError:
        return self.damaged(
            f"the archive is cut in the body of {name!r}, which begins at byte {began} and has {size} bytes;"
            f" the file ends at byte {self.offset}"
        )

    def _demand_end(self, began: int) -> None:
        """After a first zero block: a second one, and nothing but zeros behind it."""
        second = self._take(BLOCK)
        if len(second) < BLOCK and not second.strip(b"\0"):
            raise self.damaged(f"the archive ends at byte {self.offset} with half of its end-of-archive blocks")
        if second != _ZEROS:
            raise self._appended(began + BLOCK, second)
        while rest := self._take(MAX_META_BYTES):
            if rest.count(0) != len(rest):
                raise self._appended(self.offset - len(rest), rest)

    def _appended(self, began: int, data: bytes) -> SourceError:
        at = began + len(data) - len(data.lstrip(b"\0"))
        return SourceError(
            f"{self.label}: data follows the end of the archive, from byte {at}",
            hint="several tars in one file? Readers see only the first: split them, or join them with `tar --concatenate`",
        )

    def _take(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end of the stream."""
        end = self._at + size
        if end <= len(self._block):
            data = self._block[self._at : end]
            self._at = end
            self.offset += size
            return data
        parts = [self._block[self._at :]]
        missing = size - len(parts[0])
        self._block, self._at = b"", 0
        while missing and (block := next(self._blocks, None)) is not None:
            parts.append(block[:missing])
            if len(block) > missing:
                self._block, self._at = block, missing
            missing -= len(parts[-1])
        self.offset += size - missing
        return b"".join(parts)
