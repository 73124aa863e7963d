"""One field's value as the content of its own member, by the member's extension."""

import io
import re
from typing import Any, Final

import numpy as np

from data_bridge.model.batch import Media
from data_bridge.rows.decoding import BadRow
from data_bridge.rows.values import dump, text

INTEGER_EXTENSIONS: Final = frozenset(("cls", "cls2", "index", "inx", "id"))
"""Members that readers decode with `int()`."""
JSON_EXTENSIONS: Final = frozenset(("json", "jsn"))
BINARY_EXTENSIONS: Final = frozenset(
    (
        *("jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "jp2", "avif", "heic"),
        *("wav", "flac", "mp3", "ogg", "opus", "m4a", "mp4", "avi", "mov", "mkv", "webm", "mpg", "mpeg"),
        *("npz", "pth", "pyd", "pickle", "pkl", "pdf", "zip", "gz", "ten", "tb", "mp", "msg", "cbor"),
    )
)
"""Members whose content no text can be."""

_WHOLE_NUMBER = re.compile(rb"\s*[+-]?[0-9]{1,100}\s*")


def kind_of(extension: str) -> str:
    """The part readers choose a decoder by: what follows the last dot."""
    return extension.rpartition(".")[2]


def file_bytes(value: Any) -> bytes | None:
    """The bytes of a value that is a file; None for any other value."""
    if isinstance(value, Media):
        return value.data
    if isinstance(value, bytes):
        return value
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else None


def member_bytes(value: Any, extension: str) -> bytes:
    """Content of a member. Bytes stand as they are; text is UTF-8; `json` holds JSON and `npy` an array.

    Raises BadRow where the extension promises readers something the value is not.
    """
    kind = kind_of(extension)
    content = file_bytes(value)
    if kind in INTEGER_EXTENSIONS:
        return _whole_number(value, content, extension)
    if content is not None:
        return content
    if kind in JSON_EXTENSIONS:
        return dump(value)
    if kind == "npy":
        return _npy(value)
    if kind in BINARY_EXTENSIONS:
        raise BadRow(f"a {extension!r} member holds the bytes of a file, not a value of type {type(value).__name__}")
    try:
        return text(value).encode()
    except UnicodeEncodeError:
        raise BadRow("the text holds half of a surrogate pair, which is not valid Unicode") from None


def _whole_number(value: Any, content: bytes | None, extension: str) -> bytes:
    if isinstance(value, (bool, np.bool_)):
        content = b"1" if value else b"0"
    elif isinstance(value, (int, np.integer)):
        content = dump(value)
    elif isinstance(value, str):
        content = value.encode(errors="replace")
    if content is None or not _WHOLE_NUMBER.fullmatch(content):
        shown = repr(value) if isinstance(value, (str, float)) else f"a value of type {type(value).__name__}"
        raise BadRow(f"readers take {extension!r} members for whole numbers, and {shown[:60]} is none")
    return content


def _npy(value: Any) -> bytes:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise BadRow(f"the value is no array: {error}") from None
    if array.dtype.kind not in "biufc":
        raise BadRow(f"a value of type {type(value).__name__} is no array of numbers")
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return out.getvalue()
