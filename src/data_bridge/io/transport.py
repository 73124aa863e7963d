"""Bytes of a source over any scheme: list, stat, stream from an offset, read at random.

Every read is checked against the size and ETag the file had at plan time; a cut connection resumes from the
byte where it stopped; a body that stays short is a SourceError, never a shorter file.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO, cast

from data_bridge.clients.http import HttpClient
from data_bridge.config import Settings, public_uri
from data_bridge.errors import ConfigError, SourceError
from data_bridge.io import codecs, listing, local, locations
from data_bridge.io.ahead import Ranges, read_ahead, read_in_ranges
from data_bridge.io.locations import scheme_of, shown
from data_bridge.io.ranged import Body, RangesIgnored, Watch, exactly, gathered
from data_bridge.io.remote_file import RangedFile
from data_bridge.io.remotes import BucketRemote, OtherRemote, OwnRemote, Remote, WebRemote, other_schemes
from data_bridge.model.source import SourceFile
from data_bridge.utils.budget import ByteBudget
from data_bridge.utils.retry import Retry

REMOTE_TAILS = 16
"""Remote files of lines have their tail hashed only where there are no more than this many of them."""
_STATS_AT_ONCE = 16
_BUFFER_BYTES = 256 << 10
_BUDGET_BYTES = 512 << 20
_LINE_FORMATS = frozenset({"jsonl", "csv", "tsv", "text"})


class Transport:
    """Opens source files by URI with the credentials of the settings. Cheap to make, picklable."""

    def __init__(
        self,
        settings: Settings,
        *,
        retry: Retry | None = None,
        http: HttpClient | None = None,
        budget: ByteBudget | None = None,
        ranges: Ranges | None = None,
    ) -> None:
        """`budget` bounds the bytes read ahead, over all readers; `ranges` says how large remote files are read."""
        self.settings = settings
        self._budget = budget or ByteBudget(_BUDGET_BYTES)
        self._ranges = ranges or Ranges()
        self._whole: set[str] = set()
        self._retry = retry or Retry()
        self._http = http or HttpClient()
        self._made: dict[str, Remote] = {}
        self._accepted: set[tuple[str, int | None, int | None]] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}

    def expand(self, uris: Sequence[str]) -> list[SourceFile]:
        """Globs, braces, folders and lists -> files with their identity, each URI's matches sorted, in the order given.

        Names in braces keep the order they are written in; what a glob or folder matches is sorted bytewise.
        Raises ConfigError naming the URI for a missing file, an empty match, `pipe:`, a file named twice or no access.
        """
        found: list[SourceFile] = []
        if not all(uri.strip() for uri in uris):
            raise ConfigError("pipeline.input_uri is empty", hint="write `.` for the current folder")
        for uri in uris:
            found.extend(self._local(uri) if scheme_of(uri) == "file" else self._remote_files(uri))
        seen: set[str] = set()
        for file in found:
            kept = public_uri(file.uri)
            if kept in seen:
                raise ConfigError(
                    f"{shown(file.uri)} is named twice, so its samples would be too (what signs a web address does not count)",
                    hint="remove one of the names or patterns",
                )
            seen.add(kept)
        return self._identified(found)

    def stat(self, uri: str) -> SourceFile:
        """Identity of one file as it is now. Raises ConfigError when there is none, or the URI stands for several."""
        files = self.expand([uri])
        if len(files) != 1:
            raise ConfigError(f"{shown(uri)} stands for {len(files)} files, not one", hint="name one file")
        return files[0]

    def changed(self, file: SourceFile) -> str | None:
        """How the file differs from its record, in words; None = it is the same.

        A local file with its recorded size and time is taken for the same; where only the time differs, the
        recorded SHA-256 decides.
        """
        now = self._now(file)
        if now is None:
            return "it does not exist any more"
        if None not in (file.size, now.size) and file.size != now.size:
            return f"it had {file.size} bytes and has {now.size}"
        if scheme_of(file.uri) != "file":
            same = file.etag is None or now.etag is None or _bare(file.etag) == _bare(now.etag)
            return None if same else f"its ETag was {file.etag} and is {now.etag}"
        if file.mtime_ns in (None, now.mtime_ns):
            return None
        if file.sha256 is not None:
            same = local.sha256_of(file.uri) == file.sha256
            return None if same else "its content differs at the same size (SHA-256)"
        return (
            "only its modification time differs: its size is the same, but sources of more than 64 MiB are not hashed, "
            "so whether its content is the same cannot be told cheaply"
        )

    def grew(self, file: SourceFile) -> SourceFile | None:
        """The file as it is now if lines were appended to it since it was recorded, else None.

        That is: it is longer, the last 64 KiB before the old end hash as recorded, and the old end was the end of a line.
        """
        if file.size is None or file.tail_sha256 is None or not file.complete_tail:
            return None
        now = self._now(file)
        if now is None or now.size is None or now.size <= file.size:
            return None
        if self._tail(now, file.size)[0] != file.tail_sha256:
            return None
        return self._identified([now])[0]

    def blocks(self, file: SourceFile, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Stored bytes [start, end) in blocks of about 1 MB; `end` past the file's end means its end.

        Raises SourceError when `start` lies beyond the file's end.
        """
        if scheme_of(file.uri) == "file":
            size = self._size_of_local(file)
            stop = _clipped(file, start, end, size)
            return local.blocks(file.uri, start, cast("int", stop))
        stop = _clipped(file, start, end, file.size)
        if stop is not None and stop - start <= min(codecs.BLOCK_BYTES, self._ranges.first_bytes):
            return gathered(self._exact(file, start, stop, Watch()))
        return self._ahead(file, start, stop)

    def decoded(self, file: SourceFile, start: int = 0) -> Iterator[bytes]:
        """Content with .gz/.zst/.bz2/.xz undone, from byte `start` of the decoded content, in blocks of about 1 MB.

        A cut or corrupt compressed stream is a SourceError. Uncompressed files are as in `blocks`.
        """
        codec = codecs.codec_of(file.uri)
        if codec is None:
            return self.blocks(file, start)
        return codecs.skipped(codecs.decompressed(self.blocks(file), codec, shown(file.uri)), start, shown(file.uri))

    def open(self, file: SourceFile) -> BinaryIO:
        """A seekable binary reader of the stored bytes (for Parquet and Arrow footers)."""
        if scheme_of(file.uri) == "file":
            self._size_of_local(file)
            return local.open_source(file.uri)
        if file.size is None:
            raise SourceError(
                f"{shown(file.uri)}: the server does not tell its size, so it cannot be read at random",
                hint="download the file and read it from disk",
            )
        server = _server_of(file.uri)

        def read(start: int, end: int, watch: Watch) -> Iterator[bytes]:
            return self._exact(file, start, end, watch, note)

        def note(body: Body) -> Body:
            if not body.ranged:
                self._whole.add(server)
            return body

        # a file read at random begins with a small read, of its head or its end: then it is known what the server does
        splits = self._remote(file.uri).ranges
        raw = RangedFile(read, file.size, self._budget, split=lambda: splits and server not in self._whole)
        return cast("BinaryIO", io.BufferedReader(raw, _BUFFER_BYTES))

    # -- finding files ------------------------------------------------------------------------------------------------

    def _local(self, uri: str) -> list[SourceFile]:
        files = []
        for path in listing.local_files(uri):
            local.check_usable(path)
            file = local.look(path)
            if file is None:
                raise locations.missing_names(uri, [path])
            files.append(file)
        return files

    def _remote_files(self, uri: str) -> list[SourceFile]:
        remote = self._remote(uri)
        names = locations.braces(uri)

        def find(name: str) -> list[SourceFile] | None:
            return remote.find(name, self._retry)

        found = [find(names[0])]  # a refusal is met here, once, and not for every name
        if len(names) > 1:
            with ThreadPoolExecutor(_STATS_AT_ONCE, thread_name_prefix="data-bridge-stat") as pool:
                found += pool.map(find, names[1:])
        missing = [name for name, files in zip(names, found, strict=True) if files is None]
        if missing:
            raise locations.missing_names(uri, missing)
        return [file for files in found if files is not None for file in files]

    def _identified(self, files: list[SourceFile]) -> list[SourceFile]:
        """The files with the hashes that are cheap to have."""
        here = [file for file in files if scheme_of(file.uri) == "file"]
        hashed = sum(file.size or 0 for file in here) <= local.HASHED_BYTES
        away = len(files) - len(here) <= REMOTE_TAILS
        return [self._with_hashes(file, whole=hashed, away=away) for file in files]

    def _with_hashes(self, file: SourceFile, *, whole: bool, away: bool) -> SourceFile:
        is_local = scheme_of(file.uri) == "file"
        found: dict[str, Any] = {}
        if is_local and whole:
            found["sha256"] = local.sha256_of(file.uri)
        if file.size is not None and (is_local or away) and self._is_lines(file.uri):
            found["tail_sha256"], found["complete_tail"] = self._tail(file, file.size)
        return file.model_copy(update=found) if found else file

    def _is_lines(self, uri: str) -> bool:
        if self.settings.pipeline.input_format in _LINE_FORMATS:
            return not codecs.is_compressed(uri)
        return codecs.looks_like_lines(uri)

    def _tail(self, file: SourceFile, end: int) -> tuple[str, bool]:
        """SHA-256 of the last 64 KiB before `end`, and whether they end in a newline."""
        tail = b"".join(self.blocks(file, max(0, end - local.TAIL_BYTES), end))
        return hashlib.sha256(tail).hexdigest(), not tail or tail.endswith(b"\n")

    # -- reading ------------------------------------------------------------------------------------------------------

    def _ahead(self, file: SourceFile, start: int, stop: int | None) -> Iterator[bytes]:
        """Bytes [start, stop) read ahead: in several ranges at once where that is worthwhile and the server plays along."""
        at, server = start, _server_of(file.uri)
        if (
            stop is not None
            and file.etag is not None  # else a file replaced between two ranges would be a mixture, unnoticed
            and self._ranges.worthwhile(stop - start)
            and server not in self._whole
            and self._remote(file.uri).ranges
        ):
            read = partial(self._range, file)
            try:
                for block in read_in_ranges(read, start, stop, self._budget.account("read"), self._ranges):
                    at += len(block)
                    yield block
            except RangesIgnored:
                self._whole.add(server)
            else:
                return
        yield from read_ahead(lambda watch: gathered(self._exact(file, at, stop, watch)), self._budget.account("read"))

    def _range(self, file: SourceFile, start: int, end: int, watch: Watch) -> Iterator[bytes]:
        """One range of several. Raises RangesIgnored where the server would send the whole file for it."""
        return gathered(self._exact(file, start, end, watch, _demand_range))

    def _exact(
        self,
        file: SourceFile,
        start: int,
        end: int | None,
        watch: Watch,
        check: Callable[[Body], Body] = lambda body: body,
    ) -> Iterator[bytes]:
        remote = self._remote(file.uri)
        return exactly(
            lambda offset: check(remote.read(file, offset, end)),
            start,
            end,
            name=shown(file.uri),
            retry=self._retry,
            watch=watch,
        )

    def _size_of_local(self, file: SourceFile) -> int:
        """The recorded size of a file that is as recorded, or longer by appended lines only.

        Raises SourceError for any other change.
        """
        now = local.look(file.uri)
        if now is None or now.size is None:
            raise SourceError(f"{file.uri} does not exist any more", hint="restore the file; a rerun resumes")
        size = now.size if file.size is None else file.size
        key = (file.uri, size, now.mtime_ns)
        as_recorded = size == now.size and file.mtime_ns in (None, now.mtime_ns)
        if not as_recorded and key not in self._accepted:
            how = self.changed(file)
            if how is not None and self.grew(file) is None:
                raise SourceError(
                    f"{file.uri} changed since the plan was made: {how}",
                    hint="restore the file, or start over with a new destination or --fresh",
                )
            self._accepted.add(key)
        return size

    def _now(self, file: SourceFile) -> SourceFile | None:
        if scheme_of(file.uri) == "file":
            return local.look(file.uri)
        remote = self._remote(file.uri)
        return self._retry(lambda: remote.stat(file.uri))

    def _remote(self, uri: str) -> Remote:
        """The remote of a URI's scheme, made once. Raises ConfigError for a scheme that nobody serves."""
        scheme = scheme_of(uri)
        kinds: dict[str, Callable[[], Remote]] = {
            "bucket": lambda: BucketRemote(self.settings),
            "web": lambda: WebRemote(self.settings, self._http),
            "own": lambda: OwnRemote(self.settings.pipeline.source_options),
            "other": OtherRemote,
        }
        kind = {"s3": "bucket", "r2": "bucket", "https": "web", "http": "web", "hf": "web", "python": "own"}.get(
            scheme, "other"
        )
        if kind not in self._made:
            if kind == "other" and scheme not in (others := other_schemes()):
                known = ", ".join(f"{name}://" for name in (*locations.OWN_SCHEMES, *sorted(others)))
                raise ConfigError(
                    f"{shown(uri)}: unknown scheme {scheme}://", hint=f"known are {known} and plain paths"
                )
            self._made[kind] = kinds[kind]()
        return self._made[kind]


def _demand_range(body: Body) -> Body:
    if not body.ranged:
        body.close()
        raise RangesIgnored
    return body


def _server_of(uri: str) -> str:
    """What is to be remembered of the server of one file for its other files."""
    return uri.partition("://")[2].partition("/")[0]


def _bare(etag: str) -> str:
    """An ETag without quotes and weakness: listings and servers differ in how they write the same one."""
    return etag.removeprefix("W/").strip('"')


def _clipped(file: SourceFile, start: int, end: int | None, size: int | None) -> int | None:
    """The end of a read: the asked one or that of the file, whichever comes first; None = wherever the file ends."""
    if size is not None and start > size:
        raise SourceError(
            f"{shown(file.uri)}: reading should go on at byte {start}, but it has {size}",
            hint="the file is not the one the run began with; start over with a new destination or --fresh",
        )
    if size is None or end is None:
        return size if end is None else end
    return max(start, min(end, size))
