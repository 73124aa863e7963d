"""What a run keeps on this machine: whole lines, bounded, without secrets, for whoever looks meanwhile."""

import json
import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from data_bridge.config import redacted
from data_bridge.events import Notice, SamplesPacked, ShardCommitted
from data_bridge.model.metrics import Count, MetricRecord
from data_bridge.monitor.folder import EVENTS, METRICS, MOST_RUNS, STALE_S, STATUS, RunFolder, Tail, is_running, latest
from data_bridge.monitor.snapshot import SlotView, Snapshot

NOW = Snapshot(
    "0123456789abcdef",
    "file:///out",
    "running",
    os.getpid(),
    1e9,
    3.0,
    1.0,
    (MetricRecord("tidy", "map", (Count("rows_in", 3),)),),
    (MetricRecord("tidy", "map", (Count("rows_in", 9),)),),
    (SlotView(0, 5, 2.5, "tidy"),),
)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_status_is_what_the_run_said_last(tmp_path: Path) -> None:
    assert latest(tmp_path / "none") is None
    folder = RunFolder(tmp_path / "run", str)
    folder.write(NOW)

    assert latest(tmp_path / "run") == NOW
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [METRICS, STATUS]


def test_a_status_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / STATUS).write_text('{"run": 5}')

    assert latest(tmp_path) is None


def test_a_run_that_said_nothing_for_a_while_is_not_running() -> None:
    assert is_running(NOW, NOW.at + STALE_S - 1)
    assert not is_running(NOW, NOW.at + STALE_S + 1)


def test_events_are_told_one_by_one_but_not_what_the_metrics_hold(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, str, now=lambda: 5.0)
    for event in (Notice("hello"), SamplesPacked(0, 1, 1), ShardCommitted(0, "a.tar", 1, 0, 9)):
        folder.event(event)
    folder.write(NOW)
    folder.write(NOW)

    assert lines(tmp_path / EVENTS) == [
        {"at": 5.0, "event": "Notice", "message": "hello"},
        {
            "at": 5.0,
            "event": "ShardCommitted",
            "partition": 0,
            "key": "a.tar",
            "samples": 1,
            "failed": 0,
            "bytes": 9,
            "failed_by": {},
        },
    ]
    assert len(lines(tmp_path / METRICS)) == 2


def test_no_text_is_written_that_was_not_redacted(tmp_path: Path) -> None:
    secret = 'quote " and \\ and ü'
    folder = RunFolder(tmp_path, lambda text: text.replace(secret, "***"))
    folder.event(Notice(f"it says {secret}"))
    folder.write(Snapshot(**{f: getattr(NOW, f) for f in NOW.__struct_fields__} | {"destination": f"s3://{secret}/x"}))

    everything = " ".join(path.read_text() for path in tmp_path.iterdir())
    assert everything.count("***") == 2
    assert "quote" not in everything


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(st.sampled_from('ab"\\\n:/@?=& é,{}[]'), max_size=12), max_size=4),
    st.sampled_from(["a", "ab", 'a"', '","', "é", "b\\", "s3://a:b@b"]),
)
def test_what_is_written_is_what_is_left_of_each_text_by_itself(texts: list[str], secret: str) -> None:
    def redact(text: str) -> str:
        return redacted(text, [secret])

    words = [*texts, "s3://user:word@host/b", f"https://h/x?sig={secret}&b=1"]
    with TemporaryDirectory() as place:
        folder = RunFolder(Path(place), redact)
        for word in words:
            folder.event(Notice(word))
        folder.event(Notice("plain"))
        folder.write(NOW)

        assert [line["message"] for line in lines(Path(place) / EVENTS)] == [*map(redact, words), redact("plain")]


def test_files_that_grow_are_bounded(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, str, most_bytes=2000)
    for number in range(400):
        folder.event(Notice(f"number {number}"))
        folder.write(NOW)

    sizes = {p.name: p.stat().st_size for p in tmp_path.iterdir()}
    assert set(sizes) == {STATUS, METRICS, f"{METRICS}.1", EVENTS, f"{EVENTS}.1"}
    assert max(sizes.values()) < 2300
    kept = [line["message"] for name in (f"{EVENTS}.1", EVENTS) for line in lines(tmp_path / name)]
    assert kept == [f"number {n}" for n in range(400 - len(kept), 400)]


def test_the_folders_of_the_newest_runs_are_kept(tmp_path: Path) -> None:
    for number in range(MOST_RUNS + 5):
        (tmp_path / f"{number:016x}").mkdir()
        os.utime(tmp_path / f"{number:016x}", (number, number))
    (tmp_path / "note.json").write_text("{}")

    RunFolder(tmp_path / "new", str)

    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == [*(f"{n:016x}" for n in range(6, MOST_RUNS + 5)), "new", "note.json"]


def test_a_tail_gives_whole_lines_once_and_begins_with_the_last_ones(tmp_path: Path) -> None:
    path = tmp_path / EVENTS
    tail = Tail(path, most=30)
    assert list(tail.new()) == []
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(10)))
    assert [line["n"] for line in tail.new()] == [7, 8, 9]
    with path.open("a") as file:
        file.write('{"n": 10}\n{"n"')
        file.flush()
        assert [line["n"] for line in tail.new()] == [10]
        assert list(tail.new()) == []
        file.write(": 11}\n")
    assert [line["n"] for line in tail.new()] == [11]


def test_a_tail_follows_into_the_next_file(tmp_path: Path) -> None:
    path = tmp_path / EVENTS
    path.write_text('{"n": 1}\n')
    tail = Tail(path)
    assert [line["n"] for line in tail.new()] == [1]
    path.rename(tmp_path / "old")
    path.write_text('{"n": 2}\n')

    assert [line["n"] for line in tail.new()] == [2]


def test_a_tail_leaves_out_what_is_no_line_of_it(tmp_path: Path) -> None:
    path = tmp_path / EVENTS
    path.write_bytes(b'{"n": 1}\n\x00\x00\x00\n[2]\n{"n": \n\n{"n": 3, "s": "a\xe2\x80\xa8b"}\n')

    assert [line["n"] for line in Tail(path).new()] == [1, 3]


def test_what_a_run_says_is_the_users_alone(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir(mode=0o755)

    for name in ("old", "new"):
        RunFolder(tmp_path / name, str)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700
