"""A slot is sent each partition with its files, and nothing that grows with the plan."""

import pickle
import subprocess
import sys

import pytest

from data_bridge.engine import partitions
from data_bridge.engine.partitions import Parts
from data_bridge.model.plan import Generation, Partition, Plan
from data_bridge.model.source import Piece, SourceFile


def generation(number: int, files: tuple[SourceFile, ...], parts: tuple[Partition, ...]) -> Generation:
    return Generation(
        number=number, config_hash="", config={"samples_per_shard": 7}, libraries={}, format="jsonl", counted=False,
        key_digits=10, shard_digits=6, files=files, partitions=parts, writer={"members": ["json"]},
    )  # fmt: skip


def plan_of(count: int) -> Plan:
    files = tuple(SourceFile(uri=f"s3://bucket/some/prefix/{i:06d}.jsonl", size=i) for i in range(count))
    pieces = [(Piece(file=i, end=i), Piece(file=max(0, i - 1))) for i in range(count)]
    return Plan(
        run="r",
        generations=(generation(0, files, tuple(Partition(index=i, pieces=p) for i, p in enumerate(pieces))),),
    )


@pytest.mark.parametrize("page_bytes", [1, 1_000, 1 << 20])
def test_every_partition_arrives_with_its_files(monkeypatch: pytest.MonkeyPatch, page_bytes: int) -> None:
    monkeypatch.setattr(partitions, "PAGE_BYTES", page_bytes)
    plan = plan_of(50)

    sent: Parts = pickle.loads(pickle.dumps(Parts(plan)))

    assert [sent[i] for i in reversed(range(50))] == [plan.part(i) for i in reversed(range(50))]
    assert sent.outline == plan.outline


def test_what_a_slot_was_sent_can_be_sent_on() -> None:
    plan = plan_of(3)

    sent_on: Parts = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(Parts(plan)))))

    assert [sent_on[i] for i in range(3)] == [plan.part(i) for i in range(3)]


def test_a_file_that_grew_is_sent_as_it_was_last_planned() -> None:
    first = plan_of(2).first
    longer = SourceFile(uri=first.files[1].uri, size=900)
    grown = generation(1, (longer,), (Partition(index=2, pieces=(Piece(file=2, start=1, end=900),)),))

    sent: Parts = pickle.loads(pickle.dumps(Parts(Plan(run="r", generations=(first, grown)))))

    assert sent[1].files == {1: longer, 0: first.files[0]}
    assert sent[2].files == {2: longer}


def test_what_is_sent_hardly_grows_with_the_plan() -> None:
    small, large = (len(pickle.dumps(Parts(plan_of(count)))) for count in (10, 20_000))

    assert large < small + 20_000 * 40


def test_a_slot_loads_only_what_packing_takes() -> None:
    code = (
        "import sys, data_bridge.engine.slot, data_bridge.engine.partitions, data_bridge.storage.local;"
        "import data_bridge.pipelines.webdataset, data_bridge.io.sources.jsonl;"
        "print([m for m in ('yaml', 'typer', 'rich', 'boto3', 'datasets', 'pyarrow', 'data_bridge.measure', 'data_bridge.api') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
