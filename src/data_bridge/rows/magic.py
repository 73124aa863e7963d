"""Which kind of file some bytes are, by their first bytes."""

import orjson

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"ID3", "mp3"),
    (b"\x93NUMPY", "npy"),
    (b"%PDF-", "pdf"),
    (b"PK\x03\x04", "zip"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
)
_RIFF = {b"WAVE": "wav", b"WEBP": "webp", b"AVI ": "avi"}
_BRANDS = {b"M4A ": "m4a", b"qt  ": "mov", b"avif": "avif", b"heic": "heic", b"heix": "heic", b"mif1": "heic"}
_EBML = b"\x1aE\xdf\xa3"
_MOST_JSON = 1_000_000


def file_kind(data: bytes) -> str | None:
    """The usual extension of the file these bytes are (`jpg`, `wav`, `npy`, …), or None when nothing tells."""
    for start, kind in _STARTS:
        if data.startswith(start):
            return kind
    if data.startswith(b"RIFF"):
        return _RIFF.get(data[8:12])
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "mp4")
    if data.startswith(_EBML):
        return "webm" if b"webm" in data[:64] else "mkv"
    if data.startswith(b"BM") and data[6:10] == bytes(4):
        return "bmp"
    if len(data) > 3 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2:  # MPEG audio frame, layer III
        return "mp3"
    return "json" if _is_json(data) else None


def _is_json(data: bytes) -> bool:
    if data[:1] not in (b"{", b"[") or len(data) > _MOST_JSON:
        return False
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True
