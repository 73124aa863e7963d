"""Goals are judged by medians, and what was not measured is said to be so."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.__main__ import WORKS
from benchmarks.goals import GOALS, judged
from benchmarks.report import MARKS

ROOT = Path(__file__).parents[2]


def way(
    kind: str, *cpu: float, wall: float = 1, memory: float = 10, size: int = 0, skipped: str = ""
) -> dict[str, Any]:
    costs = [{"cpu_s": each, "wall_s": wall, "memory_mb": memory} for each in cpu]
    return {"kind": kind, "title": f"the {kind}", "size": size, "skipped": skipped, "costs": costs}


def judgement(results: dict[str, Any], goal: str) -> tuple[str | None, bool | None, str]:
    (row,) = [row for row in judged(results) if goal in f"{row['work']} {row['goal']}"]
    return row["measured"], row["holds"], row["why"]


def test_a_goal_divides_medians_and_says_whether_the_bound_holds() -> None:
    ways = {"ours-0": way("ours", 1, 2, 90), "datasets": way("peer", 36, 1, 99), "loop": way("peer", 21)}
    works = {"W2": {"title": "", "ways": ways}}

    assert judgement(works, "W2 ≥ 18×") == ("18.0×", True, "")
    assert judgement(works, "W2 ≥ 11×") == ("10.5×", False, "")


def test_what_was_not_measured_is_named_and_neither_holds_nor_fails() -> None:
    ways = {"ours-0": way("ours", 1), "mds": way("peer", skipped="no environment")}
    works = {"W3": {"title": "", "ways": ways}}

    assert judgement(works, "W3 ≥ 5×") == (None, None, "mds: no environment")
    assert not [row for row in judged(works) if row["work"] == "W2"]


def test_hashing_is_taken_off_where_the_goal_says_so() -> None:
    ways = {"ours-0": way("ours", 3), "sha256": way("floor", 1), "datasets": way("peer", 10)}

    assert judgement({"W1": {"title": "", "ways": ways}}, "SHA-256 taken off") == ("5.00×", True, "")


def test_the_fastest_of_several_peers_is_the_measure_and_missing_ones_do_not_hide_it() -> None:
    ways = {"ours": way("ours", 1, wall=2.1), "obstore": way("peer", 1, wall=2), "rclone": way("peer", 1, wall=3)}

    assert judgement({"W4": {"title": "", "ways": ways}}, "fastest") == ("1.05×", True, "")


def test_work_on_a_ledger_is_added_up_and_what_starting_costs_is_taken_off_each_part() -> None:
    ways = {
        f"{what}-{size}": way("ours", cpu, size=shards)
        for what, started in (("resume", 0.5), ("finalize", 0.4), ("status", 0.3), ("verify", 0.2))
        for size, shards, cpu in (("one", 1, started), ("few", 10, started + 1), ("many", 100, started + 11))
    }

    assert judgement({"ledger": {"title": "", "ways": ways}}, "all of it") == ("1.10×", True, "")
    del ways["verify-few"]
    assert judgement({"ledger": {"title": "", "ways": ways}}, "all of it")[1] is None


def test_what_a_way_measured_itself_and_what_a_sample_costs_more_are_told_in_their_units() -> None:
    own = {**way("ours", 1), "costs": [{"cpu_s": 1, "answer_ms": ms} for ms in (3, 120, 4)]}
    hop = {"none": way("ours", 1, size=1_000_000), "branch": way("ours", 2.5, size=1_000_000)}
    works = {"answers": {"title": "", "ways": {"asked": own}}, "hop": {"title": "", "ways": hop}}

    assert judgement(works, "answers ≤ 100 ms") == ("4.00 ms", True, "")
    assert judgement(works, "hop ≤ 2 µs") == ("1.50 µs", True, "")


def test_every_goal_of_the_issue_s_table_is_there() -> None:
    works = [goal.work for goal in GOALS]

    assert {work: works.count(work) for work in dict.fromkeys(works)} == {
        "W2": 5, "W2g": 3, "W1": 4, "W3": 4, "W4": 2, "W5a": 2, "W5b": 2, "W1u": 1, "W6": 5,
        "start": 2, "memory": 5, "ledger": 5, "chain": 2, "hop": 1, "answers": 1,
        "metrics": 1,
    }  # fmt: skip


def test_the_document_has_a_place_for_figures_and_names_all_the_work() -> None:
    document = (ROOT / "docs" / "performance.md").read_text()

    assert document.index(MARKS[0]) < document.index(MARKS[1])
    for name in WORKS:
        assert re.search(rf"^\|.*\b{name}\b.*\|", document, re.MULTILINE), name


def test_the_report_replaces_what_stands_between_the_marks_of_a_document(tmp_path: Path) -> None:
    facts = {
        "cores": 2,
        "processor": "p",
        "memory_gb": 4,
        "system": "s",
        "python": "3",
        "load_before": 0,
        "versions": {"a": "1"},
    }
    ways = {"ours-0": way("ours", 2), "loop": way("peer", 24), "floor": way("floor")}
    works = {"W2": {"title": "the work", "ways": ways, "scale": 0.5}}
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"facts": facts, "scale": 1, "rounds": 1, "works": works}))
    document = tmp_path / "document.md"
    document.write_text(f"before\n{MARKS[0]}\nstale\n{MARKS[1]}\nafter\n")

    command = [sys.executable, "-m", "benchmarks.report", str(results), "--into", str(document)]
    for _ in range(2):
        subprocess.run(command, cwd=ROOT, check=True)

    text = document.read_text()
    assert text.startswith(f"before\n{MARKS[0]}\n")
    assert text.endswith(f"{MARKS[1]}\nafter\n")
    assert "stale" not in text
    assert "Scale 1 (W2: 0.5), 1 interleaved rounds" in text
    assert text.count("| W2 | ≥ 11× less CPU than a json loop + ShardWriter | 12.0× | yes |") == 1
    assert text.count("| the peer | 24.00 | 12.00 |") == 1
    assert "skipped: not run" in text
