"""Which samples repeat an earlier one: found on disk, as a dictionary would find it."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.memory_store import MemoryStore

from data_bridge.model.plan import Partition
from data_bridge.pipelines import survey
from data_bridge.pipelines.survey import Survey
from data_bridge.runtime.stage import identities

RECORD = np.dtype([("hi", "<u8"), ("lo", "<u8"), ("sample", "<i8")])

samples = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), max_size=3)
partitions = st.lists(st.lists(samples, max_size=8), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(partitions, st.sampled_from([1, 50, 10**9]))
def test_a_sample_is_marked_when_one_of_its_digests_stands_at_an_earlier_one(
    tmp_path: Path, found: list[list[list[tuple[int, int]]]], bucket_bytes: int
) -> None:
    store = MemoryStore()
    one = Survey(store, "run", "dedupe")
    plan = [Partition(index=index, pieces=()) for index in range(len(found))]
    for partition, contents in zip(plan, found, strict=True):
        records = [(hi, lo, at << 20) for at, digests in enumerate(contents) for hi, lo in digests]
        store.put_bytes(one.digests_key(partition), np.array(records, dtype=RECORD).tobytes())
    seen: dict[tuple[int, int], tuple[int, int]] = {}
    marked: list[set[int]] = [set() for _ in found]
    for index, contents in enumerate(found):
        for at, digests in enumerate(contents):
            if any([seen.setdefault(digest, (index, at)) != (index, at) for digest in digests]):  # noqa: C419 - all are seen
                marked[index].add(at << 20)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey, "BUCKET_BYTES", bucket_bytes)
        patch.setattr(survey, "LEAST_BUCKET_BYTES", 1)
        result = one.resolve(plan, tmp_path, 10**9)

    assert [one.marked(p).tolist() for p in plan] == [sorted(m) for m in marked]
    assert result.marked == sum(map(len, marked))
    assert one.result(len(plan)) == result
    assert one.result(len(plan) + 1) is None
    assert list(tmp_path.iterdir()) == []


def test_sorting_stays_within_the_memory_it_was_given(tmp_path: Path) -> None:
    store, budget = MemoryStore(), 10_000_000
    one = Survey(store, "run", "dedupe")
    plan = [Partition(index=index, pieces=()) for index in range(100)]
    drawn = np.random.default_rng(0)
    for partition in plan:
        records = np.zeros(10_000, dtype=RECORD)
        records["hi"] = drawn.integers(0, 2**63, len(records))
        records["sample"] = np.arange(len(records)) << 20
        store.put_bytes(one.digests_key(partition), records.tobytes())

    tracemalloc.start()
    try:
        assert one.resolve(plan, tmp_path, budget).marked == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < budget < 24_000_000  # bytes of all digests


@given(st.lists(st.integers(0, 9), max_size=30))
def test_rows_of_one_sample_have_identities_of_their_own(indices: list[int]) -> None:
    found = identities(np.array(indices, dtype=np.int64)).tolist()

    assert len(set(found)) == len(indices)
    assert [number >> 20 for number in found] == indices
    assert [number & 0xFFFFF for number in found] == [indices[:at].count(index) for at, index in enumerate(indices)]
