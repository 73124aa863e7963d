"""Shards for WebDataset readers: tar files whose bytes depend on the samples alone."""

import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from data_bridge.config import PipelineSettings
from data_bridge.errors import DataError, IntegrityError
from data_bridge.model.batch import Rows
from data_bridge.model.shards import Encoded, Packed, ShardRecord
from data_bridge.model.source import Probe
from data_bridge.pipelines import members
from data_bridge.pipelines.members import Layout
from data_bridge.pipelines.samples import encode_samples
from data_bridge.pipelines.shardfile import Compressor, Gzip, ShardFile, Zstd
from data_bridge.pipelines.tarfmt import end_of_archive, pack

SHARD_LIST = "shards.txt"
_COMPRESSORS: Mapping[str, Callable[[], Compressor] | None] = {"tar": None, "tar.gz": Gzip, "tar.zst": Zstd}
_FORMAT_WARNINGS: Mapping[str, str] = {
    "tar.zst": "readers on Python before 3.14 cannot open .tar.zst shards: choose `tar` to be read everywhere",
}


class WebDatasetWriter:
    """Packs samples into `.tar`, `.tar.gz` or `.tar.zst` shards.

    Each field of bytes, image or audio is a member `<key>.<extension>`, the other fields together are
    `<key>.json`; `pipeline.members` changes that. Every sample has the same members. Layout, order and
    metadata of members are those of `webdataset.TarWriter` with mtime 0.
    """

    name: ClassVar[str] = "webdataset"
    shard_names: ClassVar[re.Pattern[str]] = re.compile(r"((patch-)?\d+-)?\d+(_\d+)?\.tar(\.gz|\.zst)?")

    def __init__(self, settings: PipelineSettings, frozen: Mapping[str, Any]) -> None:
        self._format = settings.output_format
        self._key_field = settings.key_field
        self._layout = Layout.load(frozen)
        self._file: ShardFile | None = None
        self._size = self._samples = 0
        self._keys: set[str] = set()

    @classmethod
    def freeze(cls, settings: PipelineSettings, probe: Probe) -> dict[str, Any]:
        frozen = members.freeze(settings, probe)
        warning = _FORMAT_WARNINGS.get(settings.output_format)
        return {**frozen, "warnings": [*frozen.get("warnings", []), warning]} if warning else frozen

    @property
    def suffix(self) -> str:
        return f".{self._format}"

    def shard_name(self, prefix: str, number: int, part: int, digits: int) -> str:
        return f"{prefix}{number:0{digits}d}{f'_{part}' if part else ''}{self.suffix}"

    def encode(self, rows: Rows, keys: Sequence[str]) -> Encoded:
        """Samples as tar blocks, headers and padding included. With `key_field` the keys are taken from the rows
        instead, and an unfit one is a failure."""
        samples = encode_samples(self._layout, self._key_field, rows, keys)
        data, ends = pack(samples.keys, samples.columns)
        keys_found = samples.keys if self._key_field is not None else None
        return Encoded(data, ends, samples.rows, samples.failures, keys_found, samples.warnings)

    def begin(self, path: Path, *, behind: bool = False) -> None:
        if self._file is not None:
            raise ValueError("the shard before is still open")
        self._file = ShardFile(path, _COMPRESSORS[self._format], behind=behind)
        self._size = self._samples = 0
        self._keys = set()

    def write(self, encoded: Encoded, lo: int, hi: int) -> None:
        """Append samples [lo, hi). Raises DataError for a key the shard holds already: readers would merge the two."""
        if hi <= lo:
            return
        if encoded.keys is not None:
            self._remember(encoded.keys[lo:hi])
        start, end = int(encoded.ends[lo - 1]) if lo else 0, int(encoded.ends[hi - 1])
        self._open_file().write(memoryview(encoded.payload)[start:end])
        self._size += end - start
        self._samples += hi - lo

    def finish(self) -> Packed:
        """Complete the shard. ValueError when it holds no sample: an empty shard stops readers."""
        file = self._open_file()
        if not self._samples:
            self.abort()
            raise ValueError("a shard must hold a sample")
        self._file = None
        try:
            file.write(end_of_archive(self._size))
            size, sha256 = file.close()
        except BaseException:
            file.abort()
            raise
        return Packed(size, sha256, self._samples)

    def abort(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.abort()

    def indexes(self, shards: Sequence[ShardRecord]) -> dict[str, bytes]:
        """`shards.txt`: names of the shards in order, one a line."""
        names = [shard.key.rpartition("/")[2] for shard in shards if shard.key is not None]
        return {SHARD_LIST: "".join(f"{name}\n" for name in names).encode()}

    def check(self, path: Path, keys: list[str] | None = None) -> int:
        from data_bridge.pipelines.tarcheck import check_tar

        samples = check_tar(path, self._format, keys)
        if self._format != "tar.zst" and (read := _read_by_library(path)) != samples:
            raise IntegrityError(f"{path.name}: webdataset reads {read} samples where {samples} are written")
        return samples

    def _open_file(self) -> ShardFile:
        if self._file is None:
            raise ValueError("no shard is open")
        return self._file

    def _remember(self, keys: Sequence[str]) -> None:
        again = next((key for key in keys if key in self._keys), None)
        if again is not None:
            raise DataError(
                f"the key {again!r} (field {self._key_field!r}) occurs twice in one shard",
                hint="readers would merge the two samples: choose a key_field whose values are unique, or none",
            )
        self._keys.update(keys)


def _read_by_library(path: Path) -> int:
    """How many samples `webdataset` itself finds in a shard (it cannot open tar.zst before Python 3.14)."""
    from webdataset import tariterators

    with path.open("rb") as file:
        try:
            members = tariterators.tar_file_expander([{"url": path.name, "stream": file}])
            return sum(1 for _ in tariterators.group_by_keys(members))
        except (ValueError, tarfile.TarError) as error:
            raise IntegrityError(f"{path.name}: webdataset cannot read it: {error}") from error
