"""Bytes of a source over any scheme: list, stat, stream from an offset, read at random.

Every read is checked against the size and ETag the file had at plan time; a cut connection resumes from the
byte where it stopped; a body that stays short is a SourceError, never a shorter file.
"""

from collections.abc import Iterator, Sequence
from typing import BinaryIO

from data_bridge.config import Settings
from data_bridge.model.source import SourceFile


class Transport:
    """Opens source files by URI with the credentials of the settings. Cheap to make, picklable."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def expand(self, uris: Sequence[str]) -> list[SourceFile]:
        """Globs, braces, folders and lists -> files with their identity, each URI's matches sorted, in the order given.

        Raises ConfigError naming the URI for a missing file, an empty match, `pipe:`, or no access.
        """
        raise NotImplementedError

    def stat(self, uri: str) -> SourceFile:
        """Identity of one file as it is now."""
        raise NotImplementedError

    def blocks(self, file: SourceFile, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Stored bytes [start, end) in blocks of about 1 MB."""
        raise NotImplementedError

    def decoded(self, file: SourceFile, start: int = 0) -> Iterator[bytes]:
        """Content with .gz/.zst/.bz2/.xz undone, from byte `start` of the decoded content, in blocks of about 1 MB.

        A cut or corrupt compressed stream is a SourceError. Uncompressed files are as in `blocks`.
        """
        raise NotImplementedError

    def open(self, file: SourceFile) -> BinaryIO:
        """A seekable binary reader of the stored bytes (for Parquet and Arrow footers)."""
        raise NotImplementedError
