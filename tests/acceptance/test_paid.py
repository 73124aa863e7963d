"""A stage whose answers are paid for: how many calls at a time and a second, what it costs, and who is not asked."""

import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from support.kill import ShootingDestination, run_in_child, tree
from support.oracle import COST_USD, TOKENS, Oracle, journalled, oracle
from support.readers import read_json_samples
from typer.testing import CliRunner

from data_bridge import api
from data_bridge.cli import app, words
from data_bridge.config import Settings
from data_bridge.errors import ConfigError, DataError
from data_bridge.model.report import RunReport
from data_bridge.runtime.control import RunControl
from data_bridge.runtime.pace import LOOK_S

__all__ = ["oracle"]


def settings(
    folder: Path, oracle: Oracle, samples: int = 60, *, asks: dict[str, Any] | None = None, **pipeline: Any
) -> Settings:
    source = folder / "source.jsonl"
    source.write_text("".join(json.dumps({"id": i, "text": "x" * (i % 10)}) + "\n" for i in range(samples)))
    stage = {"support.oracle:Asks": {"url": oracle.url, **(asks or {}).pop("options", {})}, **(asks or {})}
    values = {
        "input_uri": str(source),
        "output_uri": str(folder / "out"),
        "samples_per_shard": 10,
        "stages": [stage],
        "workers": 0,
        **pipeline,
    }
    return Settings.model_validate({"pipeline": values})


class Running:
    """A run beside the test."""

    def __init__(self, made: Settings) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._run = self._pool.submit(api.run_pipeline, made)
        self._made = made

    def tell(self, what: Callable[[RunControl], Any]) -> Any:
        """Say something to it, from another terminal as it were."""
        return what(api.control(str(self._made.pipeline.output_uri)))

    def end(self) -> RunReport:
        report = self._run.result(60)
        self._pool.shutdown()
        return report


def test_samples_get_the_answers_and_are_in_order(tmp_path: Path, oracle: Oracle) -> None:
    report = api.run_pipeline(settings(tmp_path, oracle))

    said = journalled(tmp_path / "out")
    found = list(read_json_samples(tmp_path / "out"))
    assert [row["id"] for row in found] == list(range(60))
    assert all((row["said"], row["score"]) == (said[row["id"]]["text"], said[row["id"]]["score"]) for row in found)
    assert oracle.counts == dict.fromkeys(range(60), 1)
    assert report.samples == 60


@pytest.mark.parametrize(("workers", "calls", "most"), [(0, None, 30), (0, 7, 7), (2, 7, 6), (2, 12, 12)])
def test_calls_at_a_time_are_those_of_the_whole_run(
    tmp_path: Path, oracle: Oracle, workers: int, calls: int | None, most: int
) -> None:
    oracle.open.clear()
    asks = {"workers": calls} if calls else {}
    made = settings(tmp_path, oracle, 200, asks=asks, partition_bytes=1_500, workers=workers)
    running = Running(made)

    oracle.wait_for(lambda: oracle.most >= most, f"{most} calls at a time")
    oracle.open.set()
    running.end()

    assert oracle.most == most


def test_calls_begin_no_faster_than_the_rate(tmp_path: Path, oracle: Oracle) -> None:
    api.run_pipeline(settings(tmp_path, oracle, 30, asks={"rate": 40}))

    took_s = max(oracle.began_s) - min(oracle.began_s)
    assert took_s >= 29 / 40 - LOOK_S


def test_how_many_calls_and_how_fast_can_be_told_while_it_waits(tmp_path: Path, oracle: Oracle) -> None:
    oracle.open.clear()
    running = Running(settings(tmp_path, oracle, 120, asks={"workers": 2, "rate": 1000}))
    oracle.wait_for(lambda: oracle.most == 2, "two calls at a time")

    running.tell(lambda run: run.set("asks", "workers", 11))
    oracle.wait_for(lambda: oracle.most == 11, "eleven calls at a time")
    running.tell(lambda run: run.set("asks", "rate", 0.001))
    oracle.open.set()
    oracle.wait_for(lambda: oracle.idle, "the calls under way")
    before = len(oracle.asked)
    running.tell(lambda run: run.set("asks", "rate", None))
    running.end()

    assert before < 30
    assert oracle.most == 11
    assert len(oracle.asked) == 120


def test_what_answers_cost_is_told_everywhere_and_counted_once(tmp_path: Path, oracle: Oracle) -> None:
    oracle.refused = {25}
    made = settings(tmp_path, oracle, asks={"workers": 1})
    with pytest.raises(DataError, match=r"stage asks\): ConnectionError: status 500"):
        api.run_pipeline(made)
    first = api.status(str(tmp_path / "out"))
    paid = api.stage_statuses(first)[0].paid
    known = len(journalled(tmp_path / "out"))
    assert 25 <= known < 60
    assert paid == {
        "answers": known,
        "cost_usd": pytest.approx(known * COST_USD),
        "tokens_in": known * TOKENS[0],
        "tokens_out": known * TOKENS[1],
    }

    oracle.refused = set()
    ended = api.run_pipeline(made)

    totals = {"answers": 60, "cost_usd": 6.0, "tokens_in": 60 * TOKENS[0], "tokens_out": 60 * TOKENS[1]}
    assert (ended.samples, ended.paid) == (60, {"asks": totals})
    assert "paid:        $6.0000 for 60 answers, 420 tokens in, 180 tokens out (stage asks)" in words.result(ended, "")
    report = api.status(str(tmp_path / "out"))
    assert api.stage_statuses(report)[0].paid == totals
    assert json.loads((tmp_path / "out/manifest.json").read_text())["paid"] == {"asks": totals}
    assert {number: count for number, count in oracle.counts.items() if count > 1} == {25: 2}


def test_a_stop_waits_for_answers_that_are_paid_for_and_keeps_them(tmp_path: Path, oracle: Oracle) -> None:
    oracle.open.clear()
    made = settings(tmp_path, oracle, asks={"workers": 5})
    running = Running(made)
    oracle.wait_for(lambda: oracle.most == 5, "five calls at a time")

    running.tell(lambda run: run.stop())
    oracle.open.set()
    ended = running.end()

    kept = len(journalled(tmp_path / "out"))
    assert (ended.status, ended.paid["asks"]["answers"]) == ("interrupted", kept)

    assert oracle.counts == dict.fromkeys(journalled(tmp_path / "out"), 1)
    assert f"asks paid    ${kept * COST_USD:.4f} for {kept} answers" in words.status(api.status(str(tmp_path / "out")))
    api.run_pipeline(made)
    assert oracle.counts == dict.fromkeys(range(60), 1)


def test_a_plan_asks_nobody_and_knows_what_samples_will_look_like(tmp_path: Path, oracle: Oracle) -> None:
    asks = {"support.oracle:Asks": {"url": oracle.url}}

    with pytest.raises(ConfigError, match=r"stages\.filter: where: there is no field 'sayd' here") as refused:
        api.plan(settings(tmp_path, oracle, stages=[asks, {"filter": {"where": {"sayd": {"min_length": 1}}}}]))

    assert "did you mean 'said'?" in refused.value.hint
    assert oracle.asked == []


def test_a_measurement_of_paid_answers_is_refused(tmp_path: Path, oracle: Oracle) -> None:
    with pytest.raises(ConfigError, match=r"stages\.asks: its answers are paid for, and a measurement would buy some"):
        api.bench(settings(tmp_path, oracle), seconds=1)

    assert oracle.asked == []


def test_failed_samples_are_asked_again_and_no_others(tmp_path: Path, oracle: Oracle) -> None:
    oracle.refused, oracle.nonsense = {7, 33}, {50}
    made = settings(tmp_path, oracle, on_error="skip")
    assert api.run_pipeline(made).failed == 3
    before = len(oracle.asked)
    oracle.refused, oracle.nonsense = set(), set()

    assert api.retry_failed(made).failed == 0

    assert sorted(oracle.asked[before:]) == [7, 33, 50]
    assert json.loads((tmp_path / "out/manifest.json").read_text())["paid"]["asks"]["answers"] == 61


def test_a_prompt_that_changes_while_it_runs_is_asked_from_the_next_packet_on(tmp_path: Path, oracle: Oracle) -> None:
    oracle.open.clear()
    running = Running(settings(tmp_path, oracle, 400, asks={"workers": 3}))
    oracle.wait_for(lambda: oracle.most == 3, "three calls at a time")

    running.tell(lambda run: run.set("asks", "prompt", "how so"))
    oracle.open.set()
    running.end()

    (change,) = json.loads((tmp_path / "out/manifest.json").read_text())["provenance"]["live_changes"]
    said = {row["id"]: row["said"] for row in read_json_samples(tmp_path / "out")}
    assert all(("how so" in text) == (number >= change["from"]) for number, text in said.items())
    assert oracle.counts == dict.fromkeys(range(400), 1)


def test_keys_of_the_api_are_kept_nowhere_and_may_change(tmp_path: Path, oracle: Oracle) -> None:
    oracle.refused = {30}
    with pytest.raises(DataError):
        api.run_pipeline(settings(tmp_path, oracle, asks={"options": {"api_key": "first-secret"}}))
    kept, before = journalled(tmp_path / "out"), len(oracle.asked)
    oracle.refused = set()

    api.run_pipeline(settings(tmp_path, oracle, asks={"options": {"api_key": "second-secret"}}))

    assert kept
    assert not set(kept) & set(oracle.asked[before:])
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"-secret" not in everything


def test_of_two_runs_at_once_the_one_that_was_overtaken_changes_nothing_any_more(
    tmp_path: Path, oracle: Oracle
) -> None:
    made = settings(tmp_path, oracle, asks={"workers": 5})
    slow = oracle.open = Event()
    overtaken = Running(made)
    oracle.wait_for(lambda: oracle.most == 5, "five calls of the first run")
    oracle.open = Event()
    oracle.open.set()

    assert api.run_pipeline(made, steal=True).samples == 60
    before = tree(tmp_path / "out")
    slow.set()
    assert overtaken.end().samples == 60, "it finds that all is done"

    assert tree(tmp_path / "out") == before
    assert api.verify(str(tmp_path / "out"), deep=True).problems == ()
    assert [row["said"] for row in read_json_samples(tmp_path / "out")] == [
        journalled(tmp_path / "out")[number]["text"] for number in range(60)
    ]


def test_starting_afresh_says_what_the_answers_cost_that_it_throws_away(tmp_path: Path, oracle: Oracle) -> None:
    made = settings(tmp_path, oracle, 20)
    api.run_pipeline(made)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"pipeline": made.model_dump(mode="json", exclude_defaults=True)["pipeline"]}))

    refused = CliRunner().invoke(app, ["run", str(config), "--fresh"])

    assert isinstance(refused.exception, ConfigError)
    assert "objects, and answers that cost $2.00" in refused.exception.message
    assert len(oracle.asked) == 20


def test_rows_that_one_sample_became_have_an_answer_each(tmp_path: Path, oracle: Oracle) -> None:
    asks = {"url": oracle.url, "dies": "use", "at": 17, "fuse": str(tmp_path / "fuse")}
    made = settings(
        tmp_path, oracle, 30, stages=[{"support.stages:Copies": {"most": 4}}, {"support.oracle:Asks": asks}]
    )
    rows = sum(number % 4 for number in range(30))

    assert run_in_child(made, ShootingDestination(str(tmp_path / "out")), workers=0) == -signal.SIGKILL
    assert run_in_child(made, ShootingDestination(str(tmp_path / "out")), workers=0) == 0

    said = [row["said"] for row in read_json_samples(tmp_path / "out")]
    assert len(set(said)) == len(said) == rows
    assert json.loads((tmp_path / "out/manifest.json").read_text())["paid"]["asks"]["answers"] == rows
    assert len(oracle.asked) <= rows + 30, "those under way at the kill"


PAID = {"support.oracle:Asks": {"url": "http://127.0.0.1:9/"}}


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (
            [{"map": {"call": "support.stages:own_key"}, "executor": "llm"}],
            r"stages\.map\.executor: `llm` keeps the answers of a stage that has an `ask` and a `use`",
        ),
        ([{**PAID, "executor": "thread"}], r"stages\.asks\.executor: its answers are paid for, and only `llm`"),
        ([{"map": {"call": "support.stages:own_key"}, "rate": 3}], r"stages\.map\.rate: it is for stages whose"),
        ([PAID, {"dedupe": {}}], r"stages\.dedupe: looks at all samples first, so that asks would wait"),
        (
            [{**PAID, "input": "source"}, {"support.stages:Look": {}, "input": "asks"}],
            r"stages\.asks: it leads to no writer, and what a branch sees again after a crash would be paid for again",
        ),
    ],
    ids=["no ask", "threads", "rate", "dedupe", "beside"],
)
def test_ways_to_pay_twice_are_refused(tmp_path: Path, oracle: Oracle, stages: list[Any], said: str) -> None:
    writers = [{"name": "w", "input": "source"}] if "branch" in said else []

    with pytest.raises(ConfigError, match=said):
        api.plan(settings(tmp_path, oracle, stages=stages, writers=writers))
