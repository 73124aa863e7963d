"""LitData's classic chunk: u32 count, u32 offsets, then per item the u32 sizes of its leaves and their bytes."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_bridge.errors import FatalError, IntegrityError
from data_bridge.pipelines.leaves import Leaf
from data_bridge.pipelines.shardfile import Buffer, ShardFile
from data_bridge.pipelines.spool import Spool
from data_bridge.rows.buffers import EMPTY, Column, bounds, lengths, numbers, pc, pieces

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FIXED_BYTES: Final = {"bool": 1, "int": 8, "float": 8}
"""Kind of leaf -> bytes of every value."""


class ClassicLayout:
    """Packs columns into items and items into one chunk. `bare`: items of one numeric leaf without the size before it,
    as LitData's `TokensLoader` reads them."""

    max_payload_bytes: ClassVar[int] = 4_000_000_000
    """Offsets are 32 bits wide: the rest up to 4 GiB is left to the offsets themselves."""

    def __init__(self, leaves: Sequence[Leaf], *, compressed: bool, bare: bool = False) -> None:
        self._leaves = tuple(leaves)
        self._bare = bare
        self._frame = SizedZstd() if compressed else None
        self._spool = Spool()

    @property
    def compressor(self) -> "SizedZstd | None":
        """What the chunk's file goes through; a new one for every chunk."""
        self._frame = SizedZstd() if self._frame is not None else None
        return self._frame

    def pack(self, arrays: Sequence[Column], count: int) -> tuple[memoryview, NDArray[np.int64]]:
        """All items in one buffer and the bytes of each, int64 of shape (count,). No column holds a null."""
        sizes = np.empty((count, len(self._leaves)), dtype="<u4")
        parts: list[Column | NDArray[np.uint8]] = []
        if not self._bare:
            parts.append(sizes.view(np.uint8).reshape(count, 4 * len(self._leaves)))
        for i, (leaf, array) in enumerate(zip(self._leaves, arrays, strict=True)):
            width = FIXED_BYTES.get(leaf.kind)
            if width is not None:
                sizes[:, i] = width
                parts.append(numbers(array).view(np.uint8).reshape(count, width))
            else:
                part = _number_bytes(array) if leaf.kind == "numpy" else array.cast(pa.large_binary())
                # a longer one makes the item too long, which is judged by the sum
                sizes[:, i] = np.minimum(lengths(part), 2**32 - 1)
                parts.append(part)
        return _joined(parts, count)

    def open(self, folder: Path) -> "ClassicChunk":
        return ClassicChunk(self._spool.open(folder), self._frame, self._number_bytes)

    def check(self, path: Path) -> int:
        """Verify the structure of a whole chunk file and return its samples. Raises IntegrityError."""
        data = _decompressed(path) if self._frame is not None else mapped(path)
        if self._number_bytes is not None:
            return check_bare(data, self._number_bytes, path.name)
        return check_items(data, self._leaves, path.name)

    @property
    def _number_bytes(self) -> int | None:
        """Bytes of a number, where items are nothing else."""
        return self._leaves[0].column.value_type.bit_width // 8 if self._bare else None


class ClassicChunk:
    """Items of the chunk in work."""

    def __init__(self, spool: Spool, frame: "SizedZstd | None", number_bytes: int | None) -> None:
        self._number_bytes = number_bytes
        self._spool = spool
        self._frame = frame
        self._sizes: list[NDArray[np.int64]] = []

    def add(self, payload: Any, ends: NDArray[np.int64], lo: int, hi: int) -> None:
        """Append items [lo, hi) of a packed payload."""
        start = int(ends[lo - 1]) if lo else 0
        self._spool.write(payload[start : int(ends[hi - 1])])
        self._sizes.append(np.diff(ends[lo:hi], prepend=start))

    def finish(self, file: ShardFile) -> tuple[int, dict[str, Any]]:
        """Write the chunk. Returns its samples and what the index needs to know."""
        sizes = np.concatenate(self._sizes) if self._sizes else np.zeros(0, np.int64)
        offsets = np.cumsum(np.concatenate(([4 + 4 * (len(sizes) + 1)], sizes)))
        total = int(offsets[-1])
        if total >= 2**32:
            raise FatalError(
                f"{file.path.name}: a chunk of {total} bytes; LitData's offsets end at 4 GiB",
                hint="lower pipeline.samples_per_shard or set pipeline.max_shard_bytes",
            )
        if self._frame is not None:
            self._frame.pledge(total)
        file.write(np.uint32(len(sizes)).astype("<u4").tobytes() + offsets.astype("<u4").tobytes())
        for block in self._spool.blocks():
            file.write(block)
        self._spool.close()
        meta = {"chunk_bytes": total}
        if self._number_bytes is not None:
            meta["numbers"] = int(sizes.sum()) // self._number_bytes
        return len(sizes), meta

    def abort(self) -> None:
        self._spool.close()


class SizedZstd:
    """One zstd frame that states its size: readers that decompress in one go want it."""

    LEVEL = 4

    def __init__(self) -> None:
        parameter = zstd.CompressionParameter
        self._stream = zstd.ZstdCompressor(
            options={parameter.compression_level: self.LEVEL, parameter.checksum_flag: 1}
        )
        self._whole: list[bytes] | None = None

    def pledge(self, size: int) -> None:
        """Say, before the first byte, how many will come."""
        if hasattr(self._stream, "set_pledged_input_size"):
            self._stream.set_pledged_input_size(size)
        else:  # only a frame made in one call states its size then
            self._whole = []

    def compress(self, data: Buffer, /) -> bytes:
        if self._whole is None:
            return self._stream.compress(data)
        self._whole.append(bytes(data))
        return b""

    def flush(self) -> bytes:
        if self._whole is None:
            return self._stream.flush()
        return self._stream.compress(b"".join(self._whole), self._stream.FLUSH_FRAME)


def _number_bytes(array: Column) -> Column:
    """A column of lists of numbers as the bytes of the numbers."""
    items = numbers(array.flatten())
    return pieces(items, bounds(lengths(array)) * items.itemsize)


def _joined(parts: Sequence[Column | NDArray[np.uint8]], count: int) -> tuple[memoryview, NDArray[np.int64]]:
    """Piece after piece of every item; neighbours of fixed width become one piece first."""
    merged: list[Column] = []
    fixed: list[NDArray[np.uint8]] = []
    for part in [*parts, None]:
        if isinstance(part, np.ndarray):
            fixed.append(part)
            continue
        if fixed:
            block = np.ascontiguousarray(np.concatenate(fixed, axis=1))
            merged.append(pieces(block, np.arange(count + 1, dtype=np.int64) * block.shape[1]))
            fixed = []
        if part is not None:
            merged.append(part)
    items = merged[0] if len(merged) == 1 else pc.binary_join_element_wise(*merged, EMPTY)
    sizes = lengths(items)
    _, _, data = items.buffers()
    return memoryview(data if data is not None else b"")[: int(sizes.sum())], sizes


def _decompressed(path: Path) -> NDArray[np.uint8]:
    try:
        return np.frombuffer(zstd.decompress(path.read_bytes()), np.uint8)
    except zstd.ZstdError as error:
        raise IntegrityError(f"{path.name} is not a whole zstd file: {error}") from error


def mapped(path: Path) -> NDArray[np.uint8]:
    """Bytes of a file, read when they are looked at."""
    return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)


def read_offsets(data: NDArray[np.uint8], name: str) -> NDArray[np.int64]:
    """Offsets of a chunk, int64 of shape (samples + 1,). Raises IntegrityError when the header is cut or wrong."""
    count = int(data[:4].view("<u4")[0]) if len(data) >= 8 else 0
    header = 4 + 4 * (count + 1)
    if count == 0 or len(data) < header:
        raise IntegrityError(f"{name} is cut: {len(data)} bytes do not hold the header of a chunk")
    offsets = data[4:header].view("<u4").astype(np.int64)
    if offsets[0] != header or (np.diff(offsets) < 0).any() or offsets[-1] > len(data):
        raise IntegrityError(f"{name} is damaged: its offsets do not fit its {len(data)} bytes")
    return offsets


def check_bare(data: NDArray[np.uint8], number_bytes: int, name: str) -> int:
    """Verify that every item of a chunk is whole numbers. Raises IntegrityError."""
    offsets = read_offsets(data, name)
    if offsets[-1] != len(data) or (np.diff(offsets) % number_bytes).any():
        raise IntegrityError(f"{name} is damaged: its items are not numbers of {number_bytes} bytes")
    return len(offsets) - 1


def check_items(data: NDArray[np.uint8], leaves: Sequence[Leaf], name: str) -> int:
    """Verify that every item of a classic chunk holds exactly its leaves. Raises IntegrityError."""
    offsets = read_offsets(data, name)
    if offsets[-1] != len(data):
        raise IntegrityError(f"{name} is damaged: its items end at {offsets[-1]}, the file at {len(data)}")
    width = 4 * len(leaves)
    lengths = np.diff(offsets)
    if (lengths < width).any():
        raise IntegrityError(f"{name} is damaged: an item is too short for {len(leaves)} leaves")
    at = offsets[:-1, None] + np.arange(width)
    sizes = np.ascontiguousarray(data[at]).view("<u4").astype(np.int64)
    wrong = sizes.sum(axis=1) + width != lengths
    for i, leaf in enumerate(leaves):
        if leaf.kind in FIXED_BYTES:
            wrong |= sizes[:, i] != FIXED_BYTES[leaf.kind]
        elif leaf.kind == "numpy":
            bits = leaf.column.value_type.bit_width
            wrong |= sizes[:, i] % max(1, bits // 8) != 0
    if wrong.any():
        raise IntegrityError(f"{name} is damaged: the leaves of sample {int(np.flatnonzero(wrong)[0])} do not fit it")
    return len(lengths)
