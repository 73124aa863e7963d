"""Stages that look at the run as a whole, before any work and at its end."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import retries
from support.code import forget
from support.runs import out, settings, source

from data_bridge import api
from data_bridge.config import stages_folder
from data_bridge.errors import ConfigError, ConflictError, FatalError
from data_bridge.events import Event, Notice

__all__ = ["out", "source"]

MINDING = "support.stages:Minding"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def stages(**options: Any) -> list[dict[str, Any]]:
    return [{"map": {"call": "support.stages:stamped"}, "on_error": "skip"}, {MINDING: options, "name": "mine"}]


def told(run: str) -> Any:
    return json.loads((stages_folder(run) / "mine" / "told.json").read_bytes())


def test_a_stage_is_asked_before_and_told_once_at_the_end_with_what_the_ledger_counted(source: Path, out: Path) -> None:
    heard: list[Event] = []
    report = api.run_pipeline(settings(source, out, stages=stages()), observer=heard.append)

    assert report.failed == 4
    assert told(report.run) == ["before", ["mine", 116, 4, 0]]
    assert Notice(f"mine: ready for {report.destination}") in heard

    api.run_pipeline(settings(source, out, stages=stages()))
    assert told(report.run) == ["before", ["mine", 116, 4, 0]], "a run that is complete is not made again"


def test_what_fails_before_is_told_of_all_stages_together_and_nothing_is_begun(
    tmp_path: Path, source: Path, out: Path
) -> None:
    wanted = tmp_path / "list"
    more = [*stages(wants=str(wanted)), {MINDING: {"wants": ""}, "name": "other"}]
    with pytest.raises(ConfigError) as refused:
        api.run_pipeline(settings(source, out, stages=more))

    assert refused.value.message.splitlines() == [
        f"stages.mine: {wanted} is missing",
        "stages.other: ZeroDivisionError: no list",
    ]
    assert refused.value.hint == "make the list first"
    assert not list(out.glob("*.tar"))
    assert not list(out.glob("_bridge/*/ledger/*/*"))
    api.plan(settings(source, out, stages=more))  # asks nobody: it starts nothing


def test_what_goes_wrong_at_the_end_leaves_a_complete_dataset_and_is_done_by_the_next_run(
    tmp_path: Path, source: Path, out: Path
) -> None:
    (tmp_path / "broken").touch()
    made = settings(source, out, stages=stages(breaks=str(tmp_path / "broken")))
    with pytest.raises(FatalError, match="the dataset is complete, but") as ended:
        api.run_pipeline(made)
    assert "stages.mine: OSError: no report" in ended.value.message
    assert not api.verify(str(out), deep=True).problems

    (tmp_path / "broken").unlink()
    report = api.run_pipeline(made)

    assert told(report.run) == ["before", ["mine", 116, 4, 0]]


def test_what_fails_before_a_dataset_is_made_anew_leaves_the_old_one(tmp_path: Path, source: Path, out: Path) -> None:
    (tmp_path / "list").touch()
    made = settings(source, out, stages=stages(wants=str(tmp_path / "list")))
    old = api.run_pipeline(made).run
    (tmp_path / "list").unlink()

    with pytest.raises(ConfigError, match="list is missing"):
        api.run_pipeline(made, fresh=True)

    assert not api.verify(str(out), deep=True).problems
    assert api.run_id(str(out)) == old
    (tmp_path / "list").touch()
    new = api.run_pipeline(made, fresh=True).run
    assert new != old
    assert told(new) == ["before", ["mine", 116, 4, 0]], "asked once, for the run that it is"


def test_a_stage_that_is_switched_off_is_not_asked(source: Path, out: Path) -> None:
    off = [{MINDING: {"wants": ""}, "name": "mine", "enabled": False}]

    assert api.run_pipeline(settings(source, out, stages=off)).status == "complete"


def test_when_the_source_grew_the_end_is_told_again(tmp_path: Path, out: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n')
    made = settings(f"{tmp_path}/*.jsonl", out, stages=[{MINDING: {}, "name": "mine"}])
    api.run_pipeline(made)
    (tmp_path / "b.jsonl").write_text('{"n": 2}\n')

    report = api.run_pipeline(made)

    assert told(report.run) == ["before", ["mine", 1, 0, 0], "before", ["mine", 2, 0, 0]]


def test_an_exit_before_the_run_is_an_error_and_nothing_is_begun(source: Path, out: Path) -> None:
    with pytest.raises(ConfigError, match=r"stages\.mine: SystemExit: 0"):
        api.run_pipeline(settings(source, out, stages=stages(exits="before")))
    assert not list(out.glob("*.tar"))


def test_an_exit_at_the_end_is_an_error(source: Path, out: Path) -> None:
    with pytest.raises(FatalError, match=r"stages\.mine: SystemExit: 0"):
        api.run_pipeline(settings(source, out, stages=stages(exits="after")))


REPORTING = """
from data_bridge.runtime.stage import Stage, StageOptions
class Reporting(Stage[StageOptions]):
    kind = "reporting"
    def process(self, batch):
        return batch.same(batch.rows)
    def after(self, context, totals):
        {body}
"""


def test_code_that_went_wrong_at_the_end_may_be_mended_for_the_run_that_does_that_part(
    tmp_path: Path, source: Path, out: Path
) -> None:
    code = tmp_path / "mine.py"
    made = settings(source, out, stages=[{f"{code}:Reporting": {}}])
    code.write_text(REPORTING.format(body="1 / 0"))
    with pytest.raises(FatalError, match="ZeroDivisionError"):
        api.run_pipeline(made)
    code.write_text(REPORTING.format(body="context.save_json('told.json', totals.samples)"))
    forget(code)

    report = api.run_pipeline(made)

    assert json.loads((stages_folder(report.run) / "reporting" / "told.json").read_bytes()) == 120


def test_what_a_source_gained_meanwhile_is_not_made_with_other_code(tmp_path: Path, source: Path, out: Path) -> None:
    code = tmp_path / "mine.py"
    made = settings(source, out, stages=[{f"{code}:Reporting": {}}])
    code.write_text(REPORTING.format(body="1 / 0"))
    with pytest.raises(FatalError, match="ZeroDivisionError"):
        api.run_pipeline(made)
    code.write_text(REPORTING.format(body="pass"))
    forget(code)
    with source.open("a") as file:
        file.write(source.read_text().splitlines()[0] + "\n")

    with pytest.raises(ConflictError, match="libraries that make bytes"):
        api.run_pipeline(made)


def test_samples_that_were_retried_are_told_as_they_ended(tmp_path: Path, out: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        REPORTING.replace("batch.same(batch.rows)", "batch.each(served)").format(
            body="context.save_json('told.json', [totals.failed, totals.failed_here])"
        )
        + "from support.stages import served\n"
    )
    chosen = retries.settings(tmp_path, out, stages=[{f"{code}:Reporting": {}}])
    run = api.run_pipeline(chosen).run
    retries.mend(tmp_path)

    api.retry_failed(chosen)

    told = json.loads((stages_folder(run) / "reporting" / "told.json").read_bytes())
    assert told == [len(retries.NEVER)] * 2
