"""Which partitions a slice has: a function of the plan alone, all of them once, about the same for each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_bridge.errors import ConfigError
from data_bridge.model.partition_log import PartitionLog
from data_bridge.model.plan import Generation, Partition, Plan
from data_bridge.pipelines.slices import Slice, divided, named, ranges, slice_statuses

SIZES = st.lists(st.none() | st.integers(0, 1 << 40), max_size=40)


def generation(number: int, first: int, sizes: list[int | None]) -> Generation:
    partitions = tuple(Partition(index=first + i, pieces=(), bytes=size) for i, size in enumerate(sizes))
    return Generation(
        number=number, config_hash="", config={}, format="jsonl", counted=False, key_digits=10, shard_digits=6, files=(),
        partitions=partitions,
    )  # fmt: skip


def plan(*sizes: list[int | None]) -> Plan:
    firsts = [sum(map(len, sizes[:n])) for n in range(len(sizes))]
    return Plan(run="r", generations=tuple(generation(n, firsts[n], found) for n, found in enumerate(sizes)))


@given(SIZES, st.integers(1, 50))
def test_every_partition_is_in_exactly_one_slice(sizes: list[int | None], of: int) -> None:
    slices = [Slice(of, number).partitions(plan(sizes)) for number in range(1, of + 1)]

    assert sorted(index for found in slices for index in found) == list(range(len(sizes)))


@given(SIZES, SIZES, st.integers(1, 9))
def test_what_is_added_to_a_plan_moves_nothing(sizes: list[int | None], more: list[int | None], of: int) -> None:
    assert divided(plan(sizes, more), of)[: len(sizes)] == divided(plan(sizes), of)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(1, 9))
def test_no_slice_has_more_than_its_share_and_one_partition(sizes: list[int], of: int) -> None:
    homes = divided(plan(list(sizes)), of)

    loads = [sum(size for size, home in zip(sizes, homes, strict=True) if home == n) for n in range(1, of + 1)]
    assert max(loads) <= sum(sizes) / of + max(sizes)


def test_partitions_of_one_size_go_round() -> None:
    assert divided(plan([7] * 7), 3) == [1, 2, 3, 1, 2, 3, 1]
    assert divided(plan([None] * 4), 2) == [1, 2, 1, 2]


def test_large_and_small_ones_in_turn_are_shared_fairly() -> None:
    assert divided(plan([100, 1, 100, 1, 100, 1]), 3) == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1.0/3", "1/99999"])
def test_what_is_no_slice_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="no slice") as caught:
        Slice.parse(text)

    assert "--slice 2/3" in caught.value.hint


def test_a_slice_reads_as_it_is_written() -> None:
    assert str(Slice.parse("2/3")) == "2/3"
    assert named("0123456789abcdef", "2/3") == "0123456789abcdef-2of3"
    assert named("0123456789abcdef", None) == "0123456789abcdef"


def test_a_slice_without_partitions_is_done() -> None:
    statuses = slice_statuses(plan([1]), {0: PartitionLog()}, 3)

    assert [(s.slice, s.partitions, s.partitions_done) for s in statuses] == [
        ("1/3", 1, 0),
        ("2/3", 0, 0),
        ("3/3", 0, 0),
    ]


def test_numbers_are_told_as_ranges() -> None:
    assert ranges([0, 1, 2, 3, 7, 9, 10]) == "0-3, 7, 9-10"
    assert ranges(range(0, 40, 2), most=3) == "0, 2, 4 and 17 ranges more"
