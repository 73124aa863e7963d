"""What a set of plain files says beyond their bytes: relative names, kinds, labels from folders, columns of a metadata file."""

import csv
import io
import posixpath
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

from data_bridge.errors import SourceError
from data_bridge.io.locations import scheme_of, shown
from data_bridge.io.transport import Transport
from data_bridge.model.source import SourceFile

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
MAX_METADATA_BYTES = 256_000_000
FILE_NAME = "file_name"

_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "image": ".png .jpg .jpeg .jpe .jfif .gif .webp .bmp .tif .tiff .ppm .pgm .pbm .pnm .avif .heic .heif .jp2 .j2k .jxl",
        "audio": ".wav .mp3 .flac .ogg .oga .opus .m4a .aac .aif .aiff .au .wma",
        "video": ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ogv .wmv .flv",
    }
)
_FIELDS = {extension: kind for kind, extensions in _KINDS.items() for extension in extensions.split()}
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?")
"""What a float holds; longer rows of digits are names, and stay text."""

Columns = dict[str, Any]


def relative_names(files: Sequence[SourceFile]) -> list[str]:
    """Names of the files below the deepest folder that holds them all, `/`-separated, without URL queries and escapes."""
    parts = [_location(file.uri).split("/") for file in files]
    if not parts:
        return []
    low, high = min(p[:-1] for p in parts), max(p[:-1] for p in parts)
    shared = 0
    while shared < min(len(low), len(high)) and low[shared] == high[shared]:
        shared += 1
    return ["/".join(p[shared:]) for p in parts]


def _location(uri: str) -> str:
    if scheme_of(uri) not in ("http", "https"):
        return uri
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{unquote(parts.path)}"


def media_field(name: str) -> str:
    """`image`, `audio`, `video` or, for any other extension, `file`."""
    return _FIELDS.get(posixpath.splitext(name)[1].lower(), "file")


def describe(files: Sequence[SourceFile], transport: Transport) -> list[SourceFile]:
    """The files that are samples, with all a reader needs to make rows of them in `extra`.

    `name`: relative path; `field`: name of the media field, one for all; `metadata`: the file's columns of the
    `metadata.jsonl` or `metadata.csv` beside or above it; without such a file `label`: the folder the file is in.
    Raises SourceError for a metadata file that is malformed or names a file that is not there.
    """
    named = list(zip(relative_names(files), files, strict=True))
    samples = [(name, file) for name, file in named if posixpath.basename(name) not in METADATA_NAMES]
    sidecars = [(name, file) for name, file in named if posixpath.basename(name) in METADATA_NAMES]
    fields = {media_field(name) for name, _ in samples}
    field = fields.pop() if len(fields) == 1 else "file"
    extras: list[dict[str, Any]] = [{"name": name, "field": field} for name, _ in samples]
    if samples and sidecars:
        rows, columns = _join(sidecars, {name for name, _ in samples}, {"path", field}, transport)
        for extra in extras:
            extra["metadata"] = dict.fromkeys(columns) | rows.get(extra["name"], {})
    elif any("/" in name for name, _ in samples):
        for extra in extras:
            extra["label"] = posixpath.basename(posixpath.dirname(extra["name"])) or None
    return [file.model_copy(update={"extra": extra}) for (_, file), extra in zip(samples, extras, strict=True)]


def _join(
    sidecars: Sequence[tuple[str, SourceFile]], names: set[str], taken: set[str], transport: Transport
) -> tuple[dict[str, Columns], list[str]]:
    """Columns by relative name of the file, and the names of all columns in the order they first appear."""
    joined: dict[str, Columns] = {}
    columns: dict[str, None] = {}
    for sidecar, file in sidecars:
        parse = _json_rows if sidecar.endswith(".jsonl") else _csv_rows
        for number, row in parse(_content(file, transport), shown(file.uri)):
            where = f"{shown(file.uri)} line {number}"
            target = row.pop(FILE_NAME, None)
            if not isinstance(target, str) or not target:
                raise _bad(
                    where, f"has no text in {FILE_NAME!r}", f"every row needs a {FILE_NAME}, relative to this file"
                )
            name = posixpath.normpath(posixpath.join(posixpath.dirname(sidecar), target))
            if name not in names:
                raise _bad(
                    where, f"names {target!r}, which is not among the source's files", "correct or remove the row"
                )
            if name in joined:
                raise _bad(where, f"describes {target!r} a second time", "keep one row for each file")
            if clash := taken & row.keys():
                raise _bad(where, f"has a column {min(clash)!r}, which every sample has already", "rename the column")
            joined[name] = row
            columns.update(dict.fromkeys(row))
    return joined, list(columns)


def _content(file: SourceFile, transport: Transport) -> bytes:
    if (file.size or 0) > MAX_METADATA_BYTES:
        raise SourceError(
            f"{shown(file.uri)} has {file.size} bytes; metadata files are kept in memory and end at {MAX_METADATA_BYTES}",
            hint="store the samples as Parquet instead",
        )
    return b"".join(transport.blocks(file))


def _json_rows(content: bytes, label: str) -> list[tuple[int, Columns]]:
    rows: list[tuple[int, Columns]] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise _bad(
                f"{label} line {number}", f"is not JSON: {error}", "write one JSON object on each line"
            ) from error
        if not isinstance(row, dict):
            raise _bad(f"{label} line {number}", "is not an object", "write one JSON object on each line")
        rows.append((number, row))
    return rows


def _csv_rows(content: bytes, label: str) -> list[tuple[int, Columns]]:
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        header = next(lines, [])
        rows = [(lines.line_num, cells) for cells in lines if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _bad(label, f"cannot be read as CSV: {error}", "store it as UTF-8 with quoted fields") from error
    if len(set(header)) != len(header):
        raise _bad(f"{label} line 1", "names a column twice", "rename one of them")
    for number, cells in rows:
        if len(cells) != len(header):
            raise _bad(f"{label} line {number}", f"has {len(cells)} fields, the header {len(header)}", "quote commas")
    typed = {name: _typed([cells[i] for _, cells in rows], keep=name == FILE_NAME) for i, name in enumerate(header)}
    return [(number, {name: typed[name][i] for name in header}) for i, (number, _) in enumerate(rows)]


def _typed(cells: Sequence[str], *, keep: bool) -> Sequence[Any]:
    """A column of text as whole numbers, or as numbers, if all of it can be; an empty cell is null."""
    filled = [cell for cell in cells if cell]
    if keep or not filled or not all(map(_NUMBER.fullmatch, filled)):
        return [cell or None for cell in cells]
    number = int if all(map(_INTEGER.fullmatch, filled)) else float
    return [number(cell) if cell else None for cell in cells]


def _bad(where: str, what: str, hint: str) -> SourceError:
    return SourceError(f"{where} {what}", hint=hint)
