"""Memory that a run took and did not give back, by what its slots count."""

from data_bridge.events import Event, Flushed
from data_bridge.model.metrics import Gauge


class LeakDetector:
    """An observer; `assert_none` when the run is over."""

    def __init__(self) -> None:
        self._levels: dict[tuple[int, str, str], float] = {}
        self._peaks: dict[str, float] = {}

    def __call__(self, event: Event, /) -> None:
        if not isinstance(event, Flushed):
            return
        for record in event.records:
            for metric in record.metrics:
                if isinstance(metric, Gauge) and metric.name in ("memory_bytes", "pool_bytes", "pool_leaked"):
                    self._levels[event.partition, record.stage, metric.name] = metric.value
                    self._peaks[record.stage] = max(self._peaks.get(record.stage, 0.0), metric.value)

    def assert_none(self, *pools: str) -> None:
        """Nothing is out at the end of any partition, and each of the pools was seen."""
        assert {stage for _, stage, _ in self._levels} >= {"memory", *pools}
        left = {key: value for key, value in self._levels.items() if value}
        assert left == {}, f"still taken at the end, by partition, part and gauge: {left}"

    def peak(self, pool: str) -> float:
        """Most bytes of a pool that were seen to be taken."""
        return self._peaks[pool]
