"""What is known of a source before it is read: files, pieces of them, fields."""

from collections.abc import Mapping
from typing import Any, Self

import msgspec
from msgspec.structs import replace


class Document(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of the documents we store as JSON: frozen, checked when read, tolerant of keys a later version adds.

    There may be a hundred thousand of each in memory: they are structs, a fraction of the size of the settings' models,
    and share with those only the names of what they can do.
    """

    def model_copy(self, *, update: Mapping[str, Any]) -> Self:
        """The same with other values in some fields."""
        return replace(self, **update)

    def model_dump(self) -> dict[str, Any]:
        """The fields as plain dictionaries, lists, text and numbers."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields

    def model_dump_json(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def model_validate(cls, fields: Any) -> Self:
        """Raises ValueError for fields that are missing or of another type."""
        return msgspec.convert(fields, cls)

    @classmethod
    def model_validate_json(cls, data: bytes | str) -> Self:
        """Raises ValueError for what is no JSON, and for fields that are missing or of another type."""
        return msgspec.json.decode(data, type=cls)


class SourceFile(Document, frozen=True, kw_only=True):
    """One file or object of the source with the identity it had at plan time."""

    uri: str
    size: int | None = None
    """Bytes; None where the server does not say."""
    etag: str | None = None
    """Strong ETag, version id or content hash from a remote store."""
    mtime_ns: int | None = None
    """Local files only."""
    sha256: str | None = None
    """Of the whole content, where it was cheap to have."""
    tail_sha256: str | None = None
    """Of the last 64 KiB, for files of lines that may grow."""
    complete_tail: bool = True
    """Whether the last line ends in a newline, for files of lines that may grow."""
    extra: dict[str, Any] = {}
    """What the format needs to read the file later without asking again."""


class Extent(Document, frozen=True, kw_only=True):
    """An indivisible (or divisible) run of one file, in the unit of its format: bytes, rows or entries."""

    start: int = 0
    end: int | None = None
    """Exclusive; None = to the end of the file, wherever that is."""
    samples: int | None = None
    bytes: int | None = None
    divisible: bool = False
    """Whether any cut of the byte range is a legal boundary (lines), or any row (row-counted formats)."""


class Piece(Document, frozen=True, kw_only=True):
    """A run of one file of the plan's file table."""

    file: int
    start: int = 0
    end: int | None = None


class FilePiece(msgspec.Struct, frozen=True):
    """A piece with its file resolved: what a format reads."""

    file: SourceFile
    start: int = 0
    end: int | None = None


class Field(Document, frozen=True, kw_only=True):
    """One column. `type` is an Arrow type as text (`int64`, `list<int32>`, …), `media` for encoded
    image or audio structs `{bytes, path}`, or `json` for anything."""

    name: str
    type: str
    nullable: bool = True


class Probe(msgspec.Struct, frozen=True):
    """A look at the first rows of a source, to freeze the schema and to estimate.

    `declared` is true when the fields come from a footer or a feature declaration and bind fully.
    `rows` are the first good samples as dictionaries (at most 1,000 rows or 4 MB).
    """

    fields: tuple[Field, ...]
    declared: bool
    rows: list[dict[str, Any]] = msgspec.field(default_factory=list)
    mean_sample_bytes: float | None = None
    """Source bytes per sample in the probe (compressed bytes are not known: None)."""
