"""Which engine a run gets when the user chose none."""

import pytest

from data_bridge.config import Settings
from data_bridge.engine import drive
from data_bridge.engine.inline import InlineEngine
from data_bridge.model.plan import Generation, Partition, Plan
from data_bridge.model.source import Piece, SourceFile

MB = 1_000_000


def plan_of(uri: str, *sizes: int | None) -> Plan:
    partitions = tuple(Partition(index=i, pieces=(Piece(file=0),), bytes=size) for i, size in enumerate(sizes))
    generation = Generation(
        number=0,
        config_hash="",
        config={},
        format="jsonl",
        counted=False,
        key_digits=6,
        shard_digits=6,
        files=(SourceFile(uri=uri),),
        partitions=partitions,
    )
    return Plan(run="r", generations=(generation,))


@pytest.mark.parametrize(
    ("cores", "uri", "sizes", "slots"),
    [
        (4, "/a.jsonl", (30 * MB, 30 * MB), 0),
        (4, "/a.jsonl", (50 * MB, 50 * MB), 4),
        (4, "/a.jsonl", (None, None), 4),
        (4, "/a.jsonl", (None,), 0),
        (4, "/a.jsonl", (250 * MB,), 0),
        (4, "/a.jsonl", (400 * MB,), 4),
        (4, "/a.jsonl.gz", (60 * MB,), 0),
        (4, "/a.jsonl.gz", (100 * MB,), 4),
        (4, "/a.tar", (100 * MB,), 0),
        (1, "/a.jsonl.gz", (100 * MB,), 0),
        (1, "/a.jsonl", (100 * MB, 100 * MB), 1),
    ],
)
def test_processes_are_started_where_they_pay(
    cores: int, uri: str, sizes: tuple[int | None, ...], slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive, "usable_cores", lambda: cores)
    settings = Settings.model_validate({"pipeline": {"input_uri": uri}})

    engine, chosen = drive.engine_for(settings, plan_of(uri, *sizes), None)

    assert isinstance(engine, InlineEngine) == (slots == 0)
    assert chosen == max(1, slots)


def test_what_the_user_chose_is_what_runs() -> None:
    settings = Settings.model_validate({"pipeline": {"input_uri": "/a", "workers": 3}})

    assert drive.engine_for(settings, plan_of("/a", 1), None)[1] == 3
    assert isinstance(drive.engine_for(settings, plan_of("/a", 10**12), 0)[0], InlineEngine)
