"""The destination as everything above storage sees it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

BOOKKEEPING = "_bridge/"
"""The folder at a destination's root that has all that is not the dataset itself: plan, ledger, claims and the like."""


class ObjectInfo(msgspec.Struct, frozen=True, gc=False):
    """What a store says of one object."""

    key: str
    size: int


class ObjectStore(Protocol):
    """Objects by key under one root. Keys are relative, `/`-separated, ASCII.

    Every write is whole or absent: a reader never sees part of an object. Transient faults are retried
    inside; what gets out is `RetryableError` (store down), `StoreError` (refused) or `DiskFullError`.
    """

    @property
    def uri(self) -> str:
        """Where the root is, as the user would write it (`file:///…`, `s3://bucket/prefix`, `r2://…`)."""
        ...

    @property
    def local_root(self) -> Path | None:
        """The folder behind the store, if it is one: shards are then written beside their final name."""
        ...

    @property
    def conditional(self) -> bool:
        """Whether put-if-absent is atomic here; False means single-writer mode. Decided by `probe`."""
        ...

    def probe(self, scratch: str) -> None:
        """Check access and put-if-absent, using keys under `scratch` (left behind clean).

        Raises ConfigError once, with what to do, for a missing bucket, bad credentials or no permission.
        """
        ...

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        """Store a local file under `key`, replacing what is there, and verify it before returning.

        `sha256` is the hex digest of the content; the store must have checked size and content.
        The local file is consumed where the store is a folder (rename), kept otherwise.
        """
        ...

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store a small object, replacing what is there."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store a small object unless the key exists. False = it existed; True = ours is there, atomically.

        A lost answer is resolved here: when the object there has exactly our bytes, that is True.
        """
        ...

    def get(self, key: str) -> bytes | None:
        """The whole object, or None when there is none. For small objects."""
        ...

    def read(self, key: str) -> Iterator[bytes]:
        """The object in blocks. Raises StoreError when it is missing or the body is cut."""
        ...

    def head(self, key: str) -> ObjectInfo | None: ...

    def list(self, prefix: str = "", *, without: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix` (a plain string prefix), sorted by key; partial files never.

        `without` names a folder of the root, with its slash, that is not even looked into; the prefix lies outside it.
        """
        ...

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """The keys of what `list` gives, without looking each of them up: one that has just gone may be among them."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; no error when it is absent."""
        ...

    def presign(self, key: str, expires_s: int) -> str:
        """A URL anyone may GET for `expires_s` seconds (a file:// URL for a folder)."""
        ...
