"""The ustar layout, many members at a time: byte for byte what `webdataset.TarWriter(mtime=0)` writes."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from data_bridge.model.keys import IndexKeys
from data_bridge.pipelines.shardfile import Buffer

BLOCK = 512
RECORD = 10_240
"""An archive's length is a multiple of this."""
NAME_BYTES = 100
MAX_MEMBER_BYTES = 8**11 - 1
"""What the eleven octal digits of a header can say."""

_NAME, _SIZE, _CHECKSUM = slice(0, NAME_BYTES), slice(124, 135), slice(148, 154)
_SIZE_SHIFTS = np.arange(30, -1, -3, dtype=np.int64)
_CHECKSUM_SHIFTS = np.arange(15, -1, -3, dtype=np.int64)


def _template() -> NDArray[np.uint8]:
    """A regular file of owner `bigdata` (0:0), mode 0444, time 0; name, size and checksum digits are zero bytes."""
    header = bytearray(BLOCK)
    for start, content in (
        (100, b"0000444\0"),
        (108, b"0000000\0"),
        (116, b"0000000\0"),
        (136, b"00000000000\0"),
        (154, b"\0 "),
        (156, b"0"),
        (257, b"ustar\x0000"),
        (265, b"bigdata"),
        (297, b"bigdata"),
    ):
        header[start : start + len(content)] = content
    return np.frombuffer(bytes(header), dtype=np.uint8)


_TEMPLATE = _template()
_TEMPLATE_SUM = int(_TEMPLATE.sum()) - ord(" ") + 8 * ord(" ")
"""A header is summed with eight spaces where its checksum stands."""


class MemberColumn(msgspec.Struct, frozen=True):
    """One member of each of n samples: extension, contents, and their sizes (int64, shape (n,))."""

    extension: str
    contents: Sequence[Buffer]
    sizes: NDArray[np.int64]


def column(extension: str, contents: Sequence[Buffer]) -> MemberColumn:
    return MemberColumn(extension, contents, np.fromiter(map(len, contents), dtype=np.int64, count=len(contents)))


class Names:
    """Keys as the characters of names; all members of a sample share them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys
        self._characters = _characters(keys)

    def put(self, found: NDArray[np.uint8], suffix: str) -> int:
        """Write the names into headers; returns how many bytes the longest may have."""
        if self._characters is None:
            texts = np.array([key + suffix for key in self._keys], dtype=f"S{NAME_BYTES}")
            found[:, _NAME] = texts.view(np.uint8).reshape(len(self._keys), NAME_BYTES)
            return NAME_BYTES
        width = int(self._characters.shape[1])
        found[:, :width] = self._characters
        found[:, width : width + len(suffix)] = np.frombuffer(suffix.encode("ascii"), dtype=np.uint8)
        return width + len(suffix)


def _characters(keys: Sequence[str]) -> NDArray[np.uint8] | None:
    """Keys of one length in ASCII, one a row; None where their lengths differ."""
    if isinstance(keys, IndexKeys):
        return keys.characters()
    if not keys or len(set(map(len, keys))) > 1:
        return None
    return np.frombuffer("".join(keys).encode("ascii"), dtype=np.uint8).reshape(len(keys), len(keys[0]))


def put_headers(found: NDArray[np.uint8], names: Names, extension: str, sizes: NDArray[np.int64]) -> None:
    """Write the headers of the members `<key>.<extension>` into `found`, uint8 of shape (n, 512).

    Names must be ASCII of at most 100 bytes and sizes at most MAX_MEMBER_BYTES: the caller has checked.
    """
    found[:] = _TEMPLATE
    width = names.put(found, f".{extension}")
    digits = ((sizes[:, None] >> _SIZE_SHIFTS) & 7).astype(np.uint8) + ord("0")
    found[:, _SIZE] = digits
    sums = _TEMPLATE_SUM + found[:, :width].sum(axis=1, dtype=np.int64) + digits.sum(axis=1, dtype=np.int64)
    found[:, _CHECKSUM] = ((sums[:, None] >> _CHECKSUM_SHIFTS) & 7).astype(np.uint8) + ord("0")


def pack(keys: Sequence[str], columns: Sequence[MemberColumn]) -> tuple[bytes, NDArray[np.int64]]:
    """Samples as one run of tar blocks, members in the order of `columns`, and the end of each sample in it."""
    count, width = len(keys), len(columns)
    total = count * width
    # what stands between two contents is one piece: the padding of the one before and the header of the next
    between = np.empty((total + 1, 2 * BLOCK), dtype=np.uint8)
    between[:, :BLOCK] = 0
    padding = np.zeros(total + 1, dtype=np.int64)
    parts: list[Buffer] = [b""] * (2 * total + 1)
    lengths = np.zeros(count, dtype=np.int64)
    names = Names(keys)
    for place, member in enumerate(columns):
        put_headers(between[place:total:width, BLOCK:], names, member.extension, member.sizes)
        padding[place + 1 :: width] = padded = -member.sizes % BLOCK
        parts[2 * place + 1 :: 2 * width] = member.contents
        lengths += BLOCK + member.sizes + padded
    frames = np.arange(total + 1, dtype=np.int64) * (2 * BLOCK)
    starts = (frames + BLOCK - padding).tolist()
    frames += 2 * BLOCK
    frames[-1] -= BLOCK  # no header follows the last content
    view = between.reshape(-1).data
    parts[::2] = [view[start:end] for start, end in zip(starts, frames.tolist(), strict=True)]
    return b"".join(parts), np.cumsum(lengths)


def end_of_archive(size: int) -> bytes:
    """What closes an archive whose members take `size` bytes: two zero blocks, filled up to a whole record."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD)
