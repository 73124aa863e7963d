"""Who runs: our command line, other tools, and the floors below which nobody gets."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workloads import Workload


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to do the work. `makes_shards` says whether there is an output to check."""

    name: str
    kind: str
    """`ours`, `peer` or `floor`."""
    title: str
    workers: int = 0
    makes_shards: bool = True

    def command(self, work: Workload, out: Path) -> list[str]:
        if self.kind != "ours":
            way = [sys.executable, "-m", "benchmarks.peers", self.name]
            return [*way, str(work.source), str(out), str(work.per_shard)]
        config = out.with_suffix(".json")
        pipeline = {
            "name": "webdataset",
            "input_uri": str(work.source),
            "output_uri": str(out),
            "samples_per_shard": work.per_shard,
        }
        config.write_text(json.dumps({"pipeline": pipeline}))
        return [data_bridge(), "run", str(config), "--workers", str(self.workers)]


def data_bridge() -> str:
    """The console script beside this interpreter."""
    return str(Path(sys.executable).with_name("data-bridge"))


ALL: Sequence[Contestant] = (
    Contestant("ours-0", "ours", "data-bridge run, in one process", workers=0),
    Contestant("ours-2", "ours", "data-bridge run, 2 slots", workers=2),
    Contestant("datasets", "peer", "datasets streaming + ShardWriter"),
    Contestant("loop", "peer", "plain loop + ShardWriter"),
    Contestant("tuned", "peer", "tuned loop + ShardWriter (mtime=0, orjson)"),
    Contestant("floor", "floor", "headers and payload, no check, no hash"),
    Contestant("sha256", "floor", "SHA-256 of the source", makes_shards=False),
    Contestant("cat", "floor", "copy of the source", makes_shards=False),
)
