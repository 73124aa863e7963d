"""Progress for people, from made-up events."""

import io
import os
import pty
import re
from collections.abc import Sequence
from contextlib import suppress

import pytest
from rich.console import Console

from data_bridge.cli import progress, words
from data_bridge.cli.progress import Tally, observer_for
from data_bridge.config import Settings
from data_bridge.events import (
    Event,
    ItemFailed,
    Notice,
    PartitionClaimed,
    PartitionDone,
    PartitionFailed,
    RunPlanned,
    SamplesPacked,
    ShardCommitted,
    SlotLost,
)

PLANNED = RunPlanned(
    run="0123456789abcdef",
    destination="file:///out",
    partitions=4,
    done=1,
    samples=1000,
    bytes=10_000,
    samples_done=100,
    bytes_done=1000,
)
STORY: Sequence[Event] = (
    PLANNED,
    PartitionClaimed(1, 0),
    PartitionClaimed(2, 0),
    SamplesPacked(1, 300, 3000),
    SamplesPacked(2, 100, 1000),
    ShardCommitted(1, "000001.tar", 250, 2, 2_500_000),
    ItemFailed(1, 17, "read", "a.jsonl line 17", "not JSON"),
    PartitionDone(1, 250, 1),
)


def told(events: Sequence[Event]) -> Tally:
    tally = Tally()
    for event in events:
        tally(event)
    return tally


def rendered(tally: Tally, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    console.print(progress._display(tally))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_tally_adds_up_what_happened() -> None:
    tally = told(STORY)

    assert (tally.samples, tally.committed, tally.shards, tally.bytes) == (400, 250, 1, 2_500_000)
    assert (tally.failed, tally.done, tally.working) == (3, 2, {2})


def test_samples_packed_again_after_a_lost_worker_count_once() -> None:
    events: list[Event] = [
        PartitionClaimed(1, 50),
        SamplesPacked(1, 300, 3000),
        SlotLost(0, 1, "died"),
        PartitionClaimed(1, 150),
        SamplesPacked(1, 20, 200),
    ]

    tally = told([PLANNED, *events])

    assert (tally.samples, tally.packed(1)) == (120, 170)


def test_a_range_without_good_samples_is_no_shard() -> None:
    assert told([PLANNED, ShardCommitted(1, None, 0, 50, 0)]).shards == 0


@pytest.mark.parametrize("end", [PartitionFailed(2, "no"), SlotLost(0, 2, "died")])
def test_a_partition_that_is_given_up_is_no_longer_shown_as_worked_on(end: Event) -> None:
    assert told([*STORY, end]).working == set()


def test_the_display_shows_totals_and_every_partition_in_work() -> None:
    shown = rendered(told(STORY))

    assert "400 samples packed" in shown
    assert "1 shard committed (2.5 MB)" in shown
    assert "2 of 4 partitions done" in shown
    assert "3 samples failed" in shown
    assert "50 %" in shown
    assert re.search(r"partition 2 +100 samples", shown)
    assert "partition 1" not in shown


def test_the_display_of_a_source_of_unknown_length_has_no_time_left() -> None:
    unknown = RunPlanned(
        run="r", destination="d", partitions=1, done=0, samples=None, bytes=None, samples_done=0, bytes_done=0
    )

    shown = rendered(told([unknown, SamplesPacked(0, 5, 50)]))

    assert "5 samples packed" in shown
    assert "left" not in shown
    assert "left" in rendered(told(STORY))


def test_the_display_of_many_partitions_stays_short() -> None:
    shown = rendered(told([PLANNED, *(PartitionClaimed(i, 0) for i in range(200))]))

    assert len(shown.splitlines()) <= 20
    assert "and 184 more" in shown


def test_nothing_is_shown_before_there_is_something_to_show() -> None:
    assert "0 samples packed" in rendered(Tally())


def test_without_a_terminal_there_are_lines_about_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    with observer_for(io.StringIO(), quiet=False) as observer:
        for event in STORY:
            observer(event)
        observer(SlotLost(0, 2, "died"))
        observer(Notice("take care"))

    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "run 0123456789abcdef: 1,000 samples in 4 partitions, 1 done before -> file:///out",
        "bad sample at a.jsonl line 17: not JSON",
        "worker 0 died; its partition is handed out again",
        "take care",
    ]


def test_only_the_first_bad_samples_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    with observer_for(io.StringIO(), quiet=False) as observer:
        for number in range(50):
            observer(ItemFailed(0, number, "read", f"line {number}", "bad"))

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[-1].endswith("(further ones are only counted)")


def test_a_line_of_totals_comes_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    with observer_for(io.StringIO(), quiet=False) as observer:
        observer(PLANNED)
        observer(SamplesPacked(1, 300, 3000))

    assert "300 samples packed" in capsys.readouterr().err


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with observer_for(io.StringIO(), quiet=True) as observer:
        for event in STORY:
            observer(event)

    assert capsys.readouterr() == ("", "")


def test_secrets_are_taken_out_of_what_events_say(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "_hidden", set())
    words.hide_secrets_of(
        Settings.model_validate({"pipeline": {"input_uri": "a"}, "r2": {"secret_access_key": "very-secret"}})
    )
    with observer_for(io.StringIO(), quiet=False) as observer:
        observer(Notice("the key very-secret at https://user:pw@host/a?sig=abcdef&x=1"))

    assert capsys.readouterr().err == "the key *** at https://host/a?x=1\n"


def test_on_a_terminal_there_is_a_live_display() -> None:
    main, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream, observer_for(stream, quiet=False) as observer:
        for event in STORY:
            observer(event)
    shown = b""
    with suppress(OSError):  # how the end of a closed terminal is told
        while piece := os.read(main, 4096):
            shown += piece
    os.close(main)

    assert b"400 samples packed" in shown
    assert b"bad sample at a.jsonl line 17" in shown
