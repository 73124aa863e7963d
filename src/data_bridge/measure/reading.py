"""Reading and decoding a source, and nothing else."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from data_bridge.config import Settings
from data_bridge.io.sources.stream import SampleStream
from data_bridge.io.transport import Transport
from data_bridge.measure.forecast import Rate
from data_bridge.measure.window import Window
from data_bridge.model.batch import Batch
from data_bridge.model.plan import Partition, Plan
from data_bridge.model.source import SourceFile
from data_bridge.pipelines.planning import files_to_read


class Counting(Transport):
    """Counts the stored bytes that are streamed through it."""

    streamed = 0

    def blocks(self, file: SourceFile, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        for block in super().blocks(file, start, end):
            self.streamed += len(block)
            yield block


@dataclass(frozen=True, slots=True)
class Reading:
    """How fast the source comes in."""

    rate: Rate
    first_s: float
    """From asking for a partition to its first samples."""
    sample_bytes: float
    """Stored bytes per sample; 0 where they cannot be told."""
    samples: int
    """Read in all …"""
    whole: bool
    """… and whether that is the whole source."""


def read_alone(settings: Settings, plan: Plan, partitions: Sequence[Partition], seconds: float) -> Reading | None:
    """Read the partitions until the time is up or the rate is known; None when no sample came.

    Raises SourceError as a run would.
    """
    stream = SampleStream(settings)
    stream.transport = transport = Counting(settings)
    window, ended, weight = Window(), False, 0.0
    window.add(0, 0)
    for partition in partitions:
        for batch in _batches(stream, plan, partition):
            window.add(batch.count, 0)
            weight += batch.count * (partition.bytes or 0) / (partition.samples or 1)
            if window.seconds >= seconds or window.steady():
                ended = True
                break
        if ended:
            break
    everything = window.rate()
    if everything is None:
        return None
    first_s = window.marks[1].at - window.marks[0].at
    stored = transport.streamed or (weight if plan.first.counted else 0)
    sample_bytes = stored / everything.samples
    rate = window.behind_the_first().rate() or everything
    return Reading(
        replace(rate, bytes=round(rate.samples * sample_bytes)),
        first_s,
        sample_bytes,
        everything.samples,
        not ended and len(partitions) == len(plan.partitions),
    )


def _batches(stream: SampleStream, plan: Plan, partition: Partition) -> Iterator[Batch]:
    """The batches of a partition, up to its limit."""
    left = partition.limit
    with closing(
        stream.frames(plan.first.format, files_to_read(plan.part(partition.index), stream), partition, None)
    ) as found:
        for batch in found:
            yield batch
            left = None if left is None else left - batch.count
            if left is not None and left <= 0:
                return


def spread(partitions: Sequence[Partition], most: int) -> list[Partition]:
    """Partitions in order, evenly spaced where there are more than `most`."""
    count = min(most, len(partitions))
    return [partitions[i * len(partitions) // count] for i in range(count)]
