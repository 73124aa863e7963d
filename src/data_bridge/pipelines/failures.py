"""Failed samples of one shard range."""

import base64
from collections import Counter

import orjson

from data_bridge.model.batch import RowFailure
from data_bridge.pipelines.linelog import LineLog


class FailureLog(LineLog):
    """Failures in source order."""

    what = "writing down failed samples"

    @property
    def by_stage(self) -> Counter[str]:
        """How many, by the stage they failed in."""
        return self.sums

    @property
    def count(self) -> int:
        return self.sums.total()

    def add(self, index: int, key: str, failure: RowFailure) -> None:
        """Append one failure; `index` is the source index in the partition's key space."""
        line = {"index": index, "key": key, "stage": failure.stage, "where": failure.where, "reason": failure.reason}
        if failure.raw is not None:
            line |= _raw(failure.raw)
        self.write(orjson.dumps(line))
        self.sums[failure.stage] += 1


def _raw(raw: bytes) -> dict[str, str]:
    try:
        return {"raw": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {"raw_base64": base64.b64encode(raw).decode("ascii")}
