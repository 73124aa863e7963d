"""Answers that are paid for and never the same twice: whatever kills the run, none is bought again that was kept, and shards are
what the journal says."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from support.kill import ShootingDestination, ShootingStore, Shot, run_in_child, tree
from support.oracle import COST_USD, TOKENS, Oracle, journalled, oracle

from data_bridge.api import run_pipeline
from data_bridge.config import Settings
from data_bridge.storage import open_store

__all__ = ["oracle"]

SIGKILLED = -9
WITH_FAILURES = 3
SAMPLES = 120


def settings_for(folder: Path, oracle: Oracle, *, calls: int = 6, **options: Any) -> Settings:
    source = folder / "source.jsonl"
    if not source.exists():
        source.write_text("".join(json.dumps({"id": i, "text": "t" * (i % 40)}) + "\n" for i in range(SAMPLES)))
        oracle.refused, oracle.nonsense = {31, 77}, {40}
    pipeline = {
        "input_uri": str(source),
        "samples_per_shard": 20,
        "partition_bytes": 2_500,
        "on_error": "skip",
        "stages": [
            {"filter": {"where": {"id": {"min": 4}}}},
            {"support.oracle:Asks": {"url": oracle.url, "dies": "", **options}, "workers": calls},
            {"support.stages:Copies": {"most": 3}},
        ],
    }
    return Settings.model_validate({"pipeline": pipeline})


def settled(settings: Settings, root: Path, oracle: Oracle, place: Path) -> dict[str, bytes]:
    """The tree that an undisturbed run makes which gets the answers of another one's journal."""
    oracle.settled = journalled(root)
    run_pipeline(settings, workers=0, open_destination=ShootingDestination(str(place)))
    oracle.settled = {}
    return tree(place)


def check(settings: Settings, root: Path, oracle: Oracle, place: Path) -> None:
    """Everything that must hold of a finished run."""
    manifest = json.loads((root / "manifest.json").read_text())
    answers = SAMPLES - 4 - len(oracle.refused)
    assert set(journalled(root)) == set(range(4, SAMPLES)) - oracle.refused
    assert manifest["paid"] == {
        "asks": {
            "answers": answers,
            "cost_usd": pytest.approx(answers * COST_USD),
            "tokens_in": answers * TOKENS[0],
            "tokens_out": answers * TOKENS[1],
        }
    }
    assert not list(root.glob("_bridge/*/staging/answers/*.jsonl"))
    assert tree(root) == settled(settings, root, oracle, place)


@pytest.mark.parametrize(
    ("where", "at", "workers"), [("ask", 30, 0), ("use", 30, 1), ("use", 95, 0), ("ask", 95, 2), ("use", 95, 2)]
)
def test_a_kill_in_the_middle_of_answers_costs_only_those_that_were_not_kept(
    tmp_path: Path, oracle: Oracle, where: str, at: int, workers: int
) -> None:
    root = tmp_path / "out"
    dying = settings_for(tmp_path, oracle, dies=where, at=at, fuse=str(tmp_path / "fuse"))
    assert run_in_child(dying, ShootingDestination(str(root)), workers=workers) == SIGKILLED
    kept, before = journalled(root), len(oracle.asked)
    assert kept

    assert run_in_child(dying, ShootingDestination(str(root)), workers=workers) == WITH_FAILURES

    again = oracle.asked[before:]
    assert not set(again) & set(kept)
    assert len(again) == len(set(again))
    assert (at in kept) == (where == "use")
    assert {i: journalled(root)[i] for i in kept} == kept
    check(dying, root, oracle, tmp_path / "undisturbed")


@pytest.mark.parametrize(("part", "when"), [(0, "before"), (1, "after"), (2, "after"), (3, "before")])
def test_commit_points_of_a_run_with_paid_answers_survive_a_kill(
    tmp_path: Path, oracle: Oracle, part: int, when: Literal["before", "after"]
) -> None:
    settings = settings_for(tmp_path, oracle)
    stores: list[ShootingStore] = []

    def opener(settings: Settings) -> ShootingStore:
        stores.append(ShootingStore(open_store(str(tmp_path / "first"), settings), None))
        return stores[-1]

    assert run_pipeline(settings, workers=0, open_destination=opener).exit_code == WITH_FAILURES

    for number in range(part, max(s.count for s in stores), 4):
        root, fuse = tmp_path / str(number), tmp_path / f"fuse-{number}"
        shot = Shot(number, when, str(fuse))
        code = run_in_child(settings, ShootingDestination(str(root), shot), workers=0)
        # how many parts a journal has is not the same each time
        assert code == (SIGKILLED if fuse.exists() else WITH_FAILURES)
        kept, before = journalled(root), len(oracle.asked)
        assert run_in_child(settings, ShootingDestination(str(root)), workers=0) == WITH_FAILURES
        assert not set(oracle.asked[before:]) & set(kept)
        check(settings, root, oracle, tmp_path / f"undisturbed-{number}")


@pytest.mark.parametrize("group", [True, False], ids=["whole run", "one slot"])
def test_a_slot_that_is_killed_again_and_again_pays_for_every_answer_once(
    tmp_path: Path, oracle: Oracle, group: bool
) -> None:
    root = tmp_path / "out"
    lost = 0
    settings = settings_for(tmp_path, oracle)
    for number in (3, 4, 6):
        shot = Shot(number, "after", str(tmp_path / f"fuse-{number}"), group=group, in_slot=True)
        before = len(oracle.asked)
        kept = journalled(root)
        run_in_child(settings, ShootingDestination(str(root), shot), workers=2)
        assert not set(oracle.asked[before:]) & set(kept)
        lost = len(set(oracle.asked) - set(journalled(root)) - oracle.refused)
    assert lost <= 12, "those under way, in both slots"

    assert run_in_child(settings, ShootingDestination(str(root)), workers=2) == WITH_FAILURES

    check(settings, root, oracle, tmp_path / "undisturbed")


def test_a_torn_last_line_of_a_killed_run_is_no_answer(tmp_path: Path, oracle: Oracle) -> None:
    root = tmp_path / "out"
    dying = settings_for(tmp_path, oracle, dies="use", at=30, fuse=str(tmp_path / "fuse"))
    assert run_in_child(dying, ShootingDestination(str(root)), workers=0) == SIGKILLED
    (path,) = root.glob("_bridge/*/staging/answers/*.jsonl")
    whole = path.read_bytes()
    last = json.loads(whole.splitlines()[-1])["value"]["id"]
    path.write_bytes(whole[:-9])
    before = len(oracle.asked)

    assert run_in_child(dying, ShootingDestination(str(root)), workers=0) == WITH_FAILURES

    assert last in oracle.asked[before:]
    check(dying, root, oracle, tmp_path / "undisturbed")
