"""What a shard format promises."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from data_bridge.config import PipelineSettings
from data_bridge.model.batch import Rows
from data_bridge.model.shards import Encoded, Packed, ShardRecord
from data_bridge.model.source import Probe


class ShardWriter(Protocol):
    """Packs samples into shard files, one file at a time; the same samples always give the same bytes.

    Made in every slot from the settings and the schema that `freeze` fixed at plan time.
    """

    name: ClassVar[str]
    shard_names: ClassVar[re.Pattern[str]]
    """Every name that `shard_name` gives, whatever the settings."""

    def __init__(self, settings: PipelineSettings, frozen: Mapping[str, Any]) -> None: ...

    @classmethod
    def freeze(cls, settings: PipelineSettings, probe: Probe) -> dict[str, Any]:
        """Fix, once per dataset, all that depends on the data: a JSON-able dict kept in the plan.

        Raises ConfigError naming the field for a schema this format cannot hold or a `members` entry that does not exist.
        `warnings` in the dict, if any, is a list of sentences for the user.
        """
        ...

    @property
    def suffix(self) -> str:
        """File extension of a shard with its dot."""
        ...

    def shard_name(self, prefix: str, number: int, part: int, digits: int) -> str:
        """File name of a shard: `000007.tar`, `00012-000007.tar`, `000007_1.tar` for the second part of a range."""
        ...

    def encode(self, rows: Rows, keys: Sequence[str]) -> Encoded:
        """Turn rows into this format's bytes; `keys[i]` is the key of row i (ignored by formats without keys).

        Pure: no file is touched and no state kept. A row that does not fit the frozen schema is a failure.
        """
        ...

    def begin(self, path: Path, *, behind: bool = False) -> None:
        """Start a shard in a new file (opened exclusively), written by a thread `behind` where a core is free for it."""
        ...

    def write(self, encoded: Encoded, lo: int, hi: int) -> None:
        """Append samples [lo, hi) of an encoded run."""
        ...

    def finish(self) -> Packed:
        """Complete and close the shard; the store that takes it makes it durable."""
        ...

    def abort(self) -> None:
        """Close and remove the shard in work, if any."""
        ...

    def indexes(self, shards: Sequence[ShardRecord]) -> dict[str, bytes]:
        """Files the format's readers want beside the shards (name -> content), made from the ledger; deterministic."""
        ...

    def check(self, path: Path, keys: list[str] | None = None) -> int:
        """Read a shard file whole and return its samples; formats with keys add them to `keys` where it is given.

        Raises IntegrityError saying what is wrong with the file.
        """
        ...
