"""The manifest: what a finished dataset is and where it came from."""

from typing import Any, Literal

from data_bridge.model.answers import Paid
from data_bridge.model.source import Document

MANIFEST_KEY = "manifest.json"


class Totals(Document, frozen=True, kw_only=True):
    samples: int
    failed: int
    bytes: int
    shards: int


class IndexRange(Document, frozen=True, kw_only=True):
    """Source indices [start, end) in the key space, less failures."""

    start: int
    end: int


class ManifestShard(Document, frozen=True, kw_only=True):
    path: str
    sha256: str
    bytes: int
    samples: int
    partition: int
    source: IndexRange
    split: str | None = None
    """The writer it belongs to, where there are several."""
    retries: int | None = None
    """The partition whose samples it holds that failed there and were tried again; `source` is the range they are from."""


class WriterInfo(Document, frozen=True, kw_only=True):
    """One of several writers: its format, its frozen schema, and what it wrote."""

    format: str
    writer: dict[str, Any]
    samples: int
    shards: int
    bytes: int


class Manifest(Document, frozen=True, kw_only=True):
    """Written last and whole: a dataset without one is not finished."""

    version: int = 1
    run: str
    created: str
    status: Literal["complete", "completed_with_failures"]
    format: str
    totals: Totals
    shards: tuple[ManifestShard, ...]
    indexes: dict[str, str] = {}
    """Files for the format's readers, by name, with their SHA-256."""
    fields: tuple[dict[str, Any], ...] = ()
    writer: dict[str, Any] = {}
    """The frozen schema in the writer's terms (members, leaves); of the only writer."""
    writers: dict[str, WriterInfo] = {}
    """Several writers by name, which is also the folder of their shards."""
    provenance: dict[str, Any] = {}
    failures: tuple[str, ...] = ()
    """Keys of the failure files."""
    warnings: dict[str, int] = {}
    paid: dict[str, Paid] = {}
    """What was paid for, by stage, over all runs and crashes."""
    drops: int = 0
