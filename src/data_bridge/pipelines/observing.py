"""What the first samples look like behind the stages: each writer freezes its schema by that."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from data_bridge.errors import ConfigError
from data_bridge.io.sources.base import PROBE_ROWS
from data_bridge.io.sources.observed import observed_fields
from data_bridge.io.sources.stream import Listing, SampleStream
from data_bridge.model.batch import Batch, Row
from data_bridge.model.plan import Partition
from data_bridge.model.source import Probe
from data_bridge.rows.decoding import decode
from data_bridge.rows.picking import joined
from data_bridge.runtime.flow import Flow, Lot
from data_bridge.runtime.graph import Graph
from data_bridge.runtime.stage import Fields

FEW_ROWS = 16
"""Samples that are sent through stages that wait for others (a network) to look at them."""
BATCHES = 8


def probes(
    graph: Graph, source: Probe, stream: SampleStream, listing: Listing, partitions: Sequence[Partition]
) -> Mapping[str, Probe]:
    """A probe of what each writer gets, by output. Raises ConfigError where stages leave nothing to look at."""
    if not graph.nodes:
        return {sink.input: source for sink in graph.sinks}
    graph.fields(source.fields, defaultdict(tuple))  # what cannot go together is told before anything runs
    slow = any(node.enabled and node.stage.executor == "thread" for node in graph.nodes)
    wanted = FEW_ROWS if slow else max(PROBE_ROWS, graph.block)
    rows, unusable = _first_rows(graph, stream, listing, partitions, wanted)
    seen = {port: observed_fields(found) for port, found in rows.items()}
    told = graph.fields(source.fields, seen)
    if unusable is not None:  # what the fields say comes first: it tells all that is wrong
        raise unusable
    return {
        sink.input: Probe(
            _some(told[sink.input], rows[sink.input], sink.input, source),
            source.declared and _tell_all(graph, sink.input, source.fields),
            rows[sink.input],
        )
        for sink in graph.sinks
    }


def _tell_all(graph: Graph, port: str, fields: Fields) -> bool:
    """Whether every stage on the way tells its fields exactly."""
    for node in graph.behind(port):
        told = fields if not node.enabled else node.stage.fields(fields)
        if told is None:
            return False
        fields = told
    return True


def _some(fields: Fields, rows: Sequence[Row], port: str, source: Probe) -> Fields:
    if fields or rows or not source.rows:
        return fields
    raise ConfigError(
        f"none of the first samples arrives at {port}: what its fields are cannot be told",
        hint="look at them with the stages before switched off (enabled: false), or reorder the source",
    )


def _first_rows(
    graph: Graph, stream: SampleStream, listing: Listing, partitions: Sequence[Partition], wanted: int
) -> tuple[dict[str, list[Row]], ConfigError | None]:
    """The first samples at every output, and what to say where stages can use none of them."""
    ports = [output for node in graph.nodes for output in node.outputs] + [sink.input for sink in graph.sinks]
    batches = _batches(stream, listing, partitions, wanted)
    if not batches:
        return {port: [] for port in ports}, None
    parts = [batch.rows for batch in batches]
    rows = joined(parts) or parts[0]
    rows = rows.slice(0, min(len(rows), wanted))
    places = np.arange(len(rows), dtype=np.int64)
    flow = Flow(graph, partitions[0].key_prefix, rehearsal=True)
    flow.setup()
    try:
        passed = flow(Lot(rows, places, places), every=True)
    finally:
        flow.close()
    unusable = None
    if not any(len(passed.lots[sink.input]) for sink in graph.sinks) and passed.failures:
        first = passed.failures[0]
        unusable = ConfigError(
            f"stage {first.stage} can use none of the first {len(rows)} samples; the first: {first.reason}",
            hint="correct the stage's options, or its code",
        )
    return {port: decode(passed.lots[port].rows)[0] for port in ports}, unusable


def _batches(stream: SampleStream, listing: Listing, partitions: Sequence[Partition], wanted: int) -> list[Batch]:
    files = dict(enumerate(listing.files))
    found: list[Batch] = []
    for partition in partitions:
        read = stream.read(listing.format, files, partition, None)
        for batch in islice(read, BATCHES):
            found += [batch] if len(batch.rows) else []
            wanted -= len(batch.rows)
            if wanted <= 0:
                break
        read.close()
        if found:
            break
    return found
