"""What stages measure of samples: kept with what is committed, in files at the end, and never twice."""

import csv
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from support.corpus import write_jsonl
from support.engine_works import wait_for
from support.kill import tree

from data_bridge import api
from data_bridge.config import Settings, stages_folder
from data_bridge.errors import ConfigError, DataError, FatalError, IntegrityError
from data_bridge.events import Event, ItemFailed, Notice, PartitionClaimed, ReportWritten, ShardCommitted
from data_bridge.pipelines.factory import PipelineFactory
from data_bridge.pipelines.reporting import Reporting
from data_bridge.storage import open_store

SAMPLES = 150
SCORED = "support.stages:Scored"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def source(tmp_path: Path) -> list[dict[str, Any]]:
    return write_jsonl(tmp_path / "source.jsonl", SAMPLES, bad_every=17)


def settings_for(folder: Path, stages: list[dict[str, Any]] | None = None, out: str = "out", **more: Any) -> Settings:
    pipeline = {
        "input_uri": str(folder / "source.jsonl"),
        "output_uri": str(folder / out),
        "samples_per_shard": 20,
        "partition_bytes": 6_000,
        "on_error": "skip",
        "workers": 0,
        "stages": stages if stages is not None else [{SCORED: {}, "report": True}],
        **more,
    }
    return Settings.model_validate({"pipeline": pipeline})


def folder_of(settings: Settings, stage: str = "scored") -> Path:
    return stages_folder(api.run_id(str(settings.pipeline.output_uri))) / stage


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def grades(samples: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Score and grade of each sample that the stage can use, in source order."""
    usable = [s for s in samples if s["id"] % 23 != 5]
    return [(json.dumps(len(s["text"]) / 7), "ä, b"[: s["id"] % 5]) for s in usable]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_report_has_a_row_for_every_sample_the_stage_has_processed_in_source_order(
    tmp_path: Path, source: list[dict[str, Any]], workers: int
) -> None:
    settings = settings_for(tmp_path)
    told: list[Event] = []

    api.run_pipeline(settings, workers=workers, observer=told.append)

    folder = folder_of(settings)
    rows = table(folder / "report.csv")
    assert [(row["score"], row["grade"]) for row in rows] == grades(source)
    assert list(rows[0]) == ["index", "key", "score", "grade"]
    assert len({row["key"] for row in rows}) == len(rows)
    assert [e for e in told if isinstance(e, ReportWritten)] == [
        ReportWritten("scored", str(folder / "report.csv"), len(rows), True)
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["report.csv", "summary.json"]
    summary = json.loads((folder / "summary.json").read_text())
    scores = [float(row["score"]) for row in rows]
    assert (summary["complete"], summary["rows"]) == (True, len(rows))
    assert set(summary["columns"]) == {"score", "vowels", "cost_usd", "seconds"}
    assert summary["columns"]["score"] == {
        "count": len(scores),
        "mean": pytest.approx(sum(scores) / len(scores)),
        "min": min(scores),
        "max": max(scores),
        "p50": pytest.approx(sorted(scores)[len(scores) // 2], rel=0.05),
        "p95": pytest.approx(sorted(scores)[int(len(scores) * 0.95)], rel=0.05),
    }


def test_a_report_changes_no_byte_of_the_dataset(tmp_path: Path, source: list[dict[str, Any]]) -> None:
    with_report, without = settings_for(tmp_path), settings_for(tmp_path, [{SCORED: {}}], "plain")

    for settings in (with_report, without):
        api.run_pipeline(settings)

    assert tree(tmp_path / "out") == tree(tmp_path / "plain")
    assert not folder_of(without).exists()
    assert not list((tmp_path / "plain").rglob("*.jsonl.gz"))


def test_what_was_paid_adds_up_from_committed_samples_also_without_a_report(
    tmp_path: Path, source: list[dict[str, Any]]
) -> None:
    paid = sum(0.0001 * (s["id"] % 3) for s in source if s["id"] % 23 != 5)

    for report in (True, False):
        settings = settings_for(tmp_path, [{SCORED: {}, "report": report}], f"out-{report}")
        api.run_pipeline(settings)
        api.run_pipeline(settings)
        (stage,) = api.status(str(settings.pipeline.output_uri)).stages
        assert stage.total_cost_usd == pytest.approx(paid, abs=1e-9)


@pytest.mark.parametrize(
    "stages",
    [
        [{"shuffle": {"window": 16}}, {SCORED: {}, "report": True}],
        [{SCORED: {}, "report": True}, {"shuffle": {"window": 16}}],
        [{SCORED: {}, "report": True, "executor": "thread", "workers": 3}],
        [{"support.stages:Tally": {}}, {SCORED: {}, "report": True}],
        [
            {SCORED: {}, "report": True},
            {"split": {}, "outputs": [{"name": "a", "weight": 1}, {"name": "b", "weight": 3}]},
        ],
    ],
    ids=["behind a shuffle", "before one", "in threads", "behind one that remembers", "before several writers"],
)
def test_a_report_is_the_same_whatever_the_stages_around_it(
    tmp_path: Path, source: list[dict[str, Any]], stages: list[dict[str, Any]]
) -> None:
    settings = settings_for(tmp_path, stages, samples_per_shard=5)

    api.run_pipeline(settings)

    rows = [(row["score"], row["grade"]) for row in table(folder_of(settings) / "report.csv")]
    expected = grades(source)
    if "support.stages:Tally" in stages[0]:
        assert 0 < len(rows) < len(expected)
        assert all(row in expected for row in rows)
    else:
        assert rows == expected


def test_rows_made_of_one_sample_are_told_apart(tmp_path: Path, source: list[dict[str, Any]]) -> None:
    settings = settings_for(tmp_path, [{"support.stages:Copies": {"most": 3}}, {SCORED: {}, "report": True}])

    api.run_pipeline(settings)

    keys = [row["key"] for row in table(folder_of(settings) / "report.csv")]
    assert len(set(keys)) == len(keys)
    assert {key.rpartition("-")[2] for key in keys} == {"0", "1"}


def test_several_stages_have_a_report_each(tmp_path: Path, source: list[dict[str, Any]]) -> None:
    stages = [{SCORED: {}, "report": True, "name": "first"}, {SCORED: {}, "report": True, "name": "second"}]
    settings = settings_for(tmp_path, stages)

    api.run_pipeline(settings)

    first, second = (table(folder_of(settings, name) / "report.csv") for name in ("first", "second"))
    assert len(first) == len(grades(source))
    assert [row["key"].count("-") for row in (first[0], second[0])] == [1, 2]
    assert {row["key"].rpartition("-")[0] for row in second} < {row["key"] for row in first}


class Stopping:
    """Ends a run at the n-th shard that is committed."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, ShardCommitted):
            self.left -= 1
            if not self.left:
                raise DataError("enough")


def test_a_run_that_stops_leaves_a_partial_report_and_the_next_one_the_whole(
    tmp_path: Path, source: list[dict[str, Any]]
) -> None:
    settings = settings_for(tmp_path)

    with pytest.raises(DataError):
        api.run_pipeline(settings, observer=Stopping(3))

    folder = folder_of(settings)
    assert sorted(path.name for path in folder.iterdir()) == ["report.partial.csv", "summary.json"]
    rows = table(folder / "report.partial.csv")
    assert 0 < len(rows) < len(grades(source))
    assert [(row["score"], row["grade"]) for row in rows] == grades(source)[: len(rows)]
    assert json.loads((folder / "summary.json").read_text())["complete"] is False

    api.run_pipeline(settings)

    assert sorted(path.name for path in folder.iterdir()) == ["report.csv", "summary.json"]
    assert [(row["score"], row["grade"]) for row in table(folder / "report.csv")] == grades(source)


def test_a_partial_report_is_written_while_the_run_goes_on(tmp_path: Path, source: list[dict[str, Any]]) -> None:
    settings = settings_for(tmp_path)
    with pytest.raises(DataError):
        api.run_pipeline(settings, observer=Stopping(3))
    partial = folder_of(settings) / "report.partial.csv"
    before = partial.read_bytes()
    partial.unlink()
    pipeline = PipelineFactory.create(settings, open_store(str(tmp_path / "out"), settings))
    pipeline.prepare()

    with Reporting(pipeline, lambda _: None, pace_s=0.01) as reporting:
        assert "reports" not in {thread.name for thread in threading.enumerate()}
        reporting(PartitionClaimed(0, 0))
        wait_for(partial.exists, "the partial report")

    assert partial.read_bytes() == before


def test_a_finished_run_writes_a_report_again_only_where_it_is_gone_or_there_is_more(
    tmp_path: Path, source: list[dict[str, Any]]
) -> None:
    settings = settings_for(tmp_path)
    api.run_pipeline(settings)
    path = folder_of(settings) / "report.csv"
    before = path.read_bytes(), path.stat().st_mtime_ns

    api.run_pipeline(settings)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before

    path.unlink()
    api.run_pipeline(settings)
    assert path.read_bytes() == before[0]

    with (tmp_path / "source.jsonl").open("a") as file:
        file.write(json.dumps({"id": 1000, "text": "more", "score": 1.0, "tags": [1]}) + "\n")
    api.run_pipeline(settings)
    assert path.read_bytes().startswith(before[0])
    assert path.read_bytes().count(b"\n") == before[0].count(b"\n") + 1


def test_a_report_that_was_wanted_late_says_that_it_is_not_whole(tmp_path: Path, source: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError):
        api.run_pipeline(settings_for(tmp_path, [{SCORED: {}}]), observer=Stopping(3))
    settings = settings_for(tmp_path)

    api.run_pipeline(settings)

    folder = folder_of(settings)
    assert sorted(path.name for path in folder.iterdir()) == ["report.partial.csv", "summary.json"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["complete"] is False
    assert summary["samples_without_rows"] > 0
    rows = table(folder / "report.partial.csv")
    assert [(row["score"], row["grade"]) for row in rows] == grades(source)[-len(rows) :]


def test_a_run_in_which_all_is_dropped_behind_the_last_shard_keeps_those_rows(
    tmp_path: Path, source: list[dict[str, Any]]
) -> None:
    stages: list[dict[str, Any]] = [{SCORED: {}, "report": True}, {"filter": {"where": {"id": {"max": 30}}}}]
    settings = settings_for(tmp_path, stages, partition_bytes=1_000_000)

    api.run_pipeline(settings)

    assert [(row["score"], row["grade"]) for row in table(folder_of(settings) / "report.csv")] == grades(source)


MENDED = """
from pathlib import Path
from pydantic import BaseModel
from data_bridge.runtime.measuring import Measured
from data_bridge.runtime.stage import Stage

class Size(BaseModel):
    size: int

class Sized(Stage):
    kind = "sized"
    metrics_schema = report_schema = Size

    def process(self, batch):
        return batch.each(lambda row: Measured(row, {"size": len(row["text"])}))

def mended(row):
    if row["id"] == 7 and not (Path(__file__).parent / "ok").exists():
        raise ValueError("not yet")
    return row
"""


def test_rows_of_samples_that_are_tried_again_are_left_out(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "source.jsonl", 60)
    (tmp_path / "mend.py").write_text(MENDED)
    mended = f"{tmp_path}/mend.py"
    settings = settings_for(tmp_path, [{f"{mended}:Sized": {}, "report": True}, {"map": {"call": f"{mended}:mended"}}])
    api.run_pipeline(settings)
    path = folder_of(settings, "sized") / "report.csv"
    before = path.read_bytes()
    (tmp_path / "ok").touch()

    report = api.retry_failed(settings)

    assert (report.samples, report.failed) == (60, 0)
    assert path.read_bytes() == before
    assert [int(row["size"]) for row in table(path)] == [len(str(s["text"])) for s in source]


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([{"map": {"call": "support.stages:stamped"}, "report": True}], "pipeline.stages.map.report: map measures nothing of a sample"),
        ([{SCORED: {}, "report": True, "outputs": [{"name": "a"}, {"name": "b"}]}, {SCORED: {}, "report": True, "name": "beside"}, {"preview": {}}], "stages.beside.report: it leads to no writer"),
        ([{"tests_of_reports:Shows": {}}], "Shows.report_schema: `beauty` is none of its metrics (score)"),
    ],
)  # fmt: skip
def test_a_report_that_cannot_be_is_refused_in_the_plan(
    tmp_path: Path,
    source: list[dict[str, Any]],
    stages: list[Any],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "tests_of_reports.py").write_text(
        "import pyarrow as pa\nfrom support.stages import Scored\nclass Shows(Scored):\n"
        "    metrics_schema = pa.schema({'score': pa.float64()})\n    report_schema = pa.schema({'beauty': pa.float64()})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    more: dict[str, Any] = {"writers": [{"name": "all", "input": "scored.a"}]} if "outputs" in stages[0] else {}
    if more:
        stages[1]["input"] = "scored.b"

    with pytest.raises(ConfigError) as error:
        api.plan(settings_for(tmp_path, stages, **more))

    assert words in str(error.value)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ("{'scores': 1.0}", "stage lies measured `scores`, which its metrics_schema does not declare"),
        ("{'score': 'high'}", "stage lies measured what is wrong: `score`: Input should be a valid number"),
        ("{}", "stage lies measured what is wrong: `score`: Field required"),
        (
            "{'score': 1.0, 'cost_usd': -1}",
            "stage lies measured what is wrong: cost_usd -1, where dollars are expected",
        ),
    ],
)
def test_a_stage_that_measures_what_it_does_not_declare_ends_the_run(
    tmp_path: Path, source: list[dict[str, Any]], metrics: str, words: str
) -> None:
    (tmp_path / "lying.py").write_text(
        "from pydantic import BaseModel\nfrom data_bridge.runtime.measuring import Measured\nfrom data_bridge.runtime.stage import Stage\n"
        "class Score(BaseModel):\n    score: float\n"
        "class Lies(Stage):\n    kind = 'lies'\n    metrics_schema = report_schema = Score\n"
        f"    def process(self, batch):\n        return batch.each(lambda row: Measured(row, {metrics}))\n"
    )

    with pytest.raises(FatalError) as error:
        api.run_pipeline(settings_for(tmp_path, [{f"{tmp_path}/lying.py:Lies": {}, "report": True}]))

    assert words in str(error.value)
    if "cost" not in metrics:
        api.run_pipeline(settings_for(tmp_path, [{f"{tmp_path}/lying.py:Lies": {}}], "other"))


def test_a_damaged_part_is_told_and_no_report_is_made_of_it(tmp_path: Path, source: list[dict[str, Any]]) -> None:
    settings = settings_for(tmp_path)
    api.run_pipeline(settings)
    (folder_of(settings) / "report.csv").unlink()
    part = next((tmp_path / "out").rglob("reports/*.jsonl.gz"))
    part.write_bytes(part.read_bytes()[:-9])

    with pytest.raises(IntegrityError, match="is not as it was recorded"):
        api.run_pipeline(settings)

    assert not (folder_of(settings) / "report.csv").exists()


def test_a_secret_in_what_is_measured_is_not_stored(
    tmp_path: Path, source: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "telling.py").write_text(
        "from pydantic import BaseModel\nfrom data_bridge.runtime.measuring import Measured\nfrom data_bridge.runtime.stage import Stage, StageOptions, option\n"
        "class Said(BaseModel):\n    said: str\n    pair: tuple[str, str]\n    by_name: dict[str, int]\n"
        "class Options(StageOptions):\n    token: str = option(description='t')\n"
        "class Tells(Stage):\n    kind = 'tells'\n    Options = Options\n    metrics_schema = report_schema = Said\n"
        "    def process(self, batch):\n        token = self.options.token\n"
        "        told = {'said': 'I am ' + token, 'pair': ('I', token), 'by_name': {token: 1}}\n"
        "        return batch.each(lambda row: Measured(row, told))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = settings_for(tmp_path, [{"telling:Tells": {"token": "tk-secret-17"}, "report": True}])

    api.run_pipeline(settings)

    assert {
        (row["said"], row["pair"], row["by_name"]) for row in table(folder_of(settings, "tells") / "report.csv")
    } == {("I am ***", '["I","***"]', '{"***":1}')}


def test_whole_numbers_of_any_size_keep_their_digits_and_a_measure_may_be_of_some_samples_only(
    tmp_path: Path, source: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "marking.py").write_text(
        "from pydantic import BaseModel\nfrom data_bridge.runtime.measuring import Measured\nfrom data_bridge.runtime.stage import Stage\n"
        "class Mark(BaseModel):\n    mark: int\n    some: int | None = None\n"
        "class Marks(Stage):\n    kind = 'marks'\n    metrics_schema = report_schema = Mark\n"
        "    def process(self, batch):\n        return batch.each(self.marked)\n"
        "    def marked(self, row):\n        n = row['id']\n        mark = 10**400 if n == 7 else 2**70 + n\n"
        "        return Measured(row, {'mark': mark, 'some': n} if n > 99 else {'mark': mark})\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = settings_for(tmp_path, [{"marking:Marks": {}, "report": True}])

    api.run_pipeline(settings)

    marks = {str(10**400 if s["id"] == 7 else 2**70 + s["id"]) for s in source}
    assert {row["mark"] for row in table(folder_of(settings, "marks") / "report.csv")} == marks
    summary = json.loads((folder_of(settings, "marks") / "summary.json").read_text())
    assert summary["columns"]["mark"]["min"] == pytest.approx(2**70)
    found = api.report(str(tmp_path / "out"), "marks", settings, filters=["some>=140"])
    assert [row["some"] for row in found.rows] == [s["id"] for s in source if s["id"] >= 140]


def test_a_stage_does_not_say_of_which_sample_a_row_is(
    tmp_path: Path, source: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "naming.py").write_text(
        "from pydantic import BaseModel\nfrom data_bridge.runtime.measuring import Measured\nfrom data_bridge.runtime.stage import Stage\n"
        "class Named(BaseModel):\n    index: int\n    key: str\n    size: int\n"
        "class Names(Stage):\n    kind = 'names'\n    metrics_schema = report_schema = Named\n"
        "    def process(self, batch):\n"
        "        return batch.each(lambda row: Measured(row, {'index': 0, 'key': 'mine', 'size': row['id']}))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = settings_for(tmp_path, [{"naming:Names": {}, "report": True}])

    api.run_pipeline(settings)

    rows = table(folder_of(settings, "names") / "report.csv")
    assert len({row["key"] for row in rows}) == len(rows) == len(source)
    assert [int(row["key"].rpartition("-")[2]) for row in rows] == [int(row["index"]) for row in rows]


def test_partial_reports_that_cannot_be_written_are_told_once_and_stop_nothing(
    tmp_path: Path, source: list[dict[str, Any]]
) -> None:
    settings = settings_for(tmp_path)
    told: list[Event] = []

    def observer(event: Event) -> None:
        told.append(event)
        if isinstance(event, PartitionClaimed):
            folder = stages_folder(api.run_id(str(tmp_path / "out")))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "scored").touch()
        if isinstance(event, ItemFailed):
            raise DataError("enough")

    with pytest.raises(DataError):
        api.run_pipeline(settings, observer=observer)

    assert len([e for e in told if isinstance(e, Notice) and "partial reports could not be written" in e.message]) == 1
