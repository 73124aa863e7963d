"""What all destinations agree on: which keys are legal."""

from data_bridge.errors import StoreError
from data_bridge.utils.files import is_partial

LONGEST_KEY_BYTES = 1024


def checked_key(key: str) -> str:
    """The key, if it is relative, printable ASCII and stays under the root. Raises StoreError."""
    parts = key.split("/")
    if not key or any(part in ("", ".", "..") for part in parts):
        raise StoreError(f"{key!r} is not a key: it must be a relative path without empty, '.' or '..' parts")
    if is_partial(parts[-1]):
        raise StoreError(f"{key!r} is not a key: such names are for files being written")
    _check_characters(key)
    return key


def checked_prefix(prefix: str) -> str:
    """The prefix of keys, if it stays under the root. Raises StoreError."""
    *folders, _ = prefix.split("/")
    if any(part in ("", ".", "..") for part in folders):
        raise StoreError(f"{prefix!r} is not a prefix of keys")
    _check_characters(prefix)
    return prefix


def _check_characters(key: str) -> None:
    if not (key.isascii() and (key.isprintable() or not key)) or "\\" in key or len(key) > LONGEST_KEY_BYTES:
        raise StoreError(
            f"{key!r} is not a key: it must be at most {LONGEST_KEY_BYTES} printable ASCII characters, no backslash"
        )
