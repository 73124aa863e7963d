"""Failed samples are tried again once what failed was mended, and nothing else changes."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.code import forget
from support.kill import tree
from support.readers import read_json_samples, read_tars
from support.retries import AWAY, NEVER, SAMPLES, TIMES, Changing, counted, mend, settings

from data_bridge import api
from data_bridge.config import Settings
from data_bridge.errors import BridgeError, ConfigError, ConflictError, DataError, IntegrityError
from data_bridge.events import Event, PartitionDone, RunPlanned
from data_bridge.pipelines.factory import PipelineFactory
from data_bridge.storage import open_store


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def manifest(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "manifest.json").read_bytes())
    return found


def ids(out: Path) -> Counter[int]:
    return Counter(int(sample["id"]) for sample in read_json_samples(out))


def failing(out: Path) -> set[int]:
    """Source indices that the manifest's failure files name; the lines of all partitions are of 200 samples."""
    lines = [line for key in manifest(out)["failures"] for line in (out / key).read_text().splitlines()]
    return {int(json.loads(line)["reason"].rpartition(" ")[2]) for line in lines}


@pytest.mark.parametrize("kind", [settings, counted])
def test_what_failed_is_added_in_shards_of_its_own_and_the_others_stay(tmp_path: Path, out: Path, kind: Any) -> None:
    chosen: Settings = kind(tmp_path, out)
    assert api.run_pipeline(chosen).failed == len(AWAY | NEVER)
    before = {s["path"]: s for s in manifest(out)["shards"]}
    shards = {path: (out / path).read_bytes() for path in before}
    mend(tmp_path)

    report = api.retry_failed(chosen)

    assert (report.samples, report.failed) == (SAMPLES - len(NEVER), len(NEVER))
    assert ids(out) == Counter(set(range(SAMPLES)) - NEVER)
    assert {path: (out / path).read_bytes() for path in before} == shards
    after = manifest(out)["shards"]
    assert [s for s in after if s["retries"] is None] == list(before.values())
    assert sum(s["samples"] for s in after if s["retries"] is not None) == len(AWAY - NEVER)
    assert {s["path"].startswith("patch-") for s in after if s["retries"] is not None} == {True}
    assert failing(out) == NEVER
    assert api.verify(str(out), chosen, deep=True).problems == ()
    status = api.status(str(out))
    assert (status.complete, status.failed) == (True, len(NEVER))


def test_a_retry_counts_no_sample_of_the_source_twice(tmp_path: Path, out: Path) -> None:
    chosen = counted(tmp_path, out)
    api.run_pipeline(chosen)
    mend(tmp_path)
    seen: list[Event] = []

    api.retry_failed(chosen)
    api.run_pipeline(chosen, observer=seen.append)

    told = [(e.samples, e.samples_done) for e in seen if isinstance(e, RunPlanned)]
    planned = api.plan(chosen)
    assert [*told, (planned.samples, planned.samples_done)] == [(SAMPLES, SAMPLES)] * 2


def test_a_sample_keeps_its_key(tmp_path: Path, out: Path) -> None:
    mend(tmp_path)
    api.run_pipeline(settings(tmp_path, tmp_path / "whole"))
    (tmp_path / "service").unlink()
    api.run_pipeline(settings(tmp_path, out))
    mend(tmp_path)

    api.retry_failed(settings(tmp_path, out))

    assert keyed(out) == keyed(tmp_path / "whole")


def keyed(out: Path) -> dict[str, int]:
    return {s["__key__"]: json.loads(s["json"])["id"] for s in read_tars(sorted(out.glob("*.tar")))}


def test_a_retry_makes_the_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    trees = []
    for workers in (0, 1, 3):
        root = tmp_path / str(workers)
        (tmp_path / "service").unlink(missing_ok=True)
        api.run_pipeline(settings(tmp_path, root))
        mend(tmp_path)
        api.retry_failed(settings(tmp_path, root), workers=workers)
        trees.append(tree(root))

    assert trees[0] == trees[1] == trees[2]


def test_a_second_retry_takes_only_what_is_still_failed(tmp_path: Path, out: Path) -> None:
    chosen = settings(tmp_path, out)
    api.run_pipeline(chosen)

    first = api.retry_failed(chosen)
    mend(tmp_path)
    second = api.retry_failed(chosen)
    third = api.retry_failed(chosen)

    assert [r.failed for r in (first, second, third)] == [len(AWAY | NEVER), len(NEVER), len(NEVER)]
    assert ids(out) == Counter(set(range(SAMPLES)) - NEVER)
    tried = {
        int(folder.name): sum(file.stat().st_size // 8 for file in folder.iterdir())
        for folder in out.glob("_bridge/*/retries/*")
    }
    assert tried == {1: len(AWAY | NEVER), 2: len(AWAY | NEVER), 3: len(NEVER)}


def test_where_nothing_failed_nothing_is_done(tmp_path: Path, out: Path) -> None:
    chosen = settings(tmp_path, out, stages=[])
    api.run_pipeline(chosen)
    before = tree(out)

    assert api.retry_failed(chosen).status == "complete"
    assert tree(out) == before
    assert not list(out.glob("_bridge/*/retries"))


def test_a_run_after_a_retry_has_nothing_to_do(tmp_path: Path, out: Path) -> None:
    chosen = settings(tmp_path, out)
    api.run_pipeline(chosen)
    mend(tmp_path)
    api.retry_failed(chosen)
    before = tree(out)

    api.run_pipeline(chosen)

    assert tree(out) == before


def test_a_source_may_grow_after_a_retry(tmp_path: Path, out: Path) -> None:
    chosen = settings(tmp_path, out)
    api.run_pipeline(chosen)
    mend(tmp_path)
    api.retry_failed(chosen)
    with (tmp_path / "source.jsonl").open("a") as file:
        file.write(f'{{"id": 1000, "service": "{tmp_path}/service"}}\n')

    api.run_pipeline(chosen)

    assert ids(out) == Counter({*range(SAMPLES), 1000} - NEVER)
    assert api.verify(str(out), chosen, deep=True).problems == ()


def test_samples_that_were_mended_no_longer_count_against_max_failures(tmp_path: Path, out: Path) -> None:
    stages = [{"map": {"call": "support.stages:served"}, "max_failures": len(AWAY | NEVER)}]
    api.run_pipeline(settings(tmp_path, out, stages=stages))
    mend(tmp_path)
    api.retry_failed(settings(tmp_path, out))
    stages[0]["max_failures"] = len(NEVER)

    assert api.run_pipeline(settings(tmp_path, out, stages=stages)).failed == len(NEVER)
    stages[0]["max_failures"] = len(NEVER) - 1
    with pytest.raises(DataError, match=f"{len(NEVER)} samples failed in stage map"):
        api.run_pipeline(settings(tmp_path, out, stages=stages))


def test_the_code_of_a_stage_may_have_been_mended(tmp_path: Path, out: Path) -> None:
    code = tmp_path / "mine.py"
    chosen = settings(tmp_path, out, stages=[{"map": {"call": f"{code}:serve"}}])
    code.write_text("def serve(row):\n    assert row['id'] % 7 != 3\n    return row\n")
    api.run_pipeline(chosen)
    code.write_text("def serve(row):\n    return row\n")
    forget(code)
    with pytest.raises(ConflictError, match="libraries that make bytes"):
        api.run_pipeline(chosen)

    assert api.retry_failed(chosen).status == "complete"
    assert api.run_pipeline(chosen).status == "complete"
    assert ids(out) == Counter(range(SAMPLES))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"samples_per_shard": 11}, ConflictError, "the config differs"),
        ({"stages": []}, ConflictError, "the config differs"),
    ],
)
def test_a_changed_config_is_refused(
    tmp_path: Path, out: Path, change: dict[str, object], error: type[BridgeError], words: str
) -> None:
    api.run_pipeline(settings(tmp_path, out))

    with pytest.raises(error, match=words):
        api.retry_failed(settings(tmp_path, out, **change))


def test_a_changed_source_is_refused(tmp_path: Path, out: Path) -> None:
    chosen = settings(tmp_path, out)
    api.run_pipeline(chosen)
    (tmp_path / "source.jsonl").write_text('{"id": 1, "service": ""}\n')

    with pytest.raises(ConflictError, match="the source differs"):
        api.retry_failed(chosen)


def test_a_source_that_has_grown_is_packed_first(tmp_path: Path, out: Path) -> None:
    chosen = settings(tmp_path, out)
    api.run_pipeline(chosen)
    with (tmp_path / "source.jsonl").open("a") as file:
        file.write('{"id": 1000, "service": ""}\n')

    with pytest.raises(ConfigError, match="the source has grown"):
        api.retry_failed(chosen)


def test_there_must_be_a_finished_run(tmp_path: Path, out: Path) -> None:
    with pytest.raises(ConfigError, match="no dataset"):
        api.retry_failed(settings(tmp_path, out))
    with pytest.raises(DataError):
        api.run_pipeline(settings(tmp_path, out, max_failures=3))

    with pytest.raises(ConfigError, match="not finished"):
        api.retry_failed(settings(tmp_path, out))


MAP = {"map": {"call": "support.stages:is_even_too"}}


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ({"stages": [{"shuffle": {"window": 16}}]}, "shuffle: it takes samples together"),
        ({"stages": [{"dedupe": {"fields": ["id"]}}]}, "dedupe: it judges a sample by all others"),
        ({"stages": [{"support.stages:Tally": {}}]}, "tally: what it does with a sample depends on those before it"),
        ({"stages": [{"support.stages:Copies": {}}]}, "one sample of the source may become several"),
        (
            {"stages": [MAP], "writers": [{"name": "a", "input": "source"}, {"name": "b"}]},
            "writers.a and writers.b: one sample may go to both",
        ),
    ],
)
def test_what_sees_more_than_one_sample_is_refused(
    tmp_path: Path, out: Path, pipeline: dict[str, object], words: str
) -> None:
    chosen = settings(tmp_path, out, **pipeline)
    api.run_pipeline(chosen)

    with pytest.raises(ConfigError, match=words):
        api.retry_failed(chosen)
    assert not list(out.glob("_bridge/*/retries"))


def test_samples_that_are_divided_among_writers_are_retried(tmp_path: Path, out: Path) -> None:
    stages = [
        {"map": {"call": "support.stages:served"}},
        {"split": {"seed": 1}, "outputs": [{"name": "train", "weight": 3}, {"name": "test", "weight": 1}]},
    ]
    chosen = settings(tmp_path, out, stages=stages)
    api.run_pipeline(chosen)
    mend(tmp_path)

    assert api.retry_failed(chosen).failed == len(NEVER)
    assert ids(out / "train") + ids(out / "test") == Counter(set(range(SAMPLES)) - NEVER)
    assert api.verify(str(out), chosen, deep=True).problems == ()


def test_keys_that_repeat_are_not_taken_for_new_samples(tmp_path: Path, out: Path) -> None:
    (tmp_path / "source.jsonl").write_text('{"id": "a"}\n{"id": "b"}\n{"id": "a"}\n')
    chosen = settings(tmp_path, out, stages=[], key_field="id")
    assert api.run_pipeline(chosen).failed == 1

    with pytest.raises(ConfigError, match="their key occurs twice"):
        api.retry_failed(chosen)


def factors(out: Path, retries: bool) -> dict[int, int]:
    """By packet of 20 rows, what the numbers of its samples were multiplied by, in shards of the first run or of a retry."""
    shards = [out / s["path"] for s in manifest(out)["shards"] if (s["retries"] is not None) is retries]
    rows = [json.loads(sample["json"]) for sample in read_tars(shards)]
    found = {(row["id"] // 20, row["number"] // row["id"]) for row in rows if row["id"]}
    assert len(found) == len(dict(found))
    return dict(found)


def test_live_changes_hold_for_the_samples_they_held_for_at_first(tmp_path: Path, out: Path) -> None:
    chosen = counted(tmp_path, out, stages=TIMES)
    api.run_pipeline(chosen, observer=Changing(out, 3))
    before = factors(out, retries=False)
    mend(tmp_path)

    api.retry_failed(chosen)

    assert set(before.values()) == {1, 3}
    assert factors(out, retries=True) == before


def test_commands_of_stages_hold_for_the_samples_they_held_for_at_first(tmp_path: Path, out: Path) -> None:
    stages = [TIMES[0], {"support.live_calls:Amplifier": {}, "name": "amp"}]
    chosen = counted(tmp_path, out, stages=stages)
    done: list[Event] = []

    def amplifying(event: Event, /) -> None:
        if isinstance(event, PartitionDone) and not done:
            done.append(event)
            api.control(str(out)).ask("gain", "amp", "all", 3)

    api.run_pipeline(chosen, observer=amplifying)
    before = factors(out, retries=False)
    mend(tmp_path)

    api.retry_failed(chosen)

    assert set(before.values()) == {1, 3}
    assert factors(out, retries=True) == before


def test_a_live_change_in_a_retry_comes_behind_those_there_were(tmp_path: Path, out: Path) -> None:
    chosen = counted(tmp_path, out, stages=TIMES)
    api.run_pipeline(chosen, observer=Changing(out, 3))
    mend(tmp_path)

    api.retry_failed(chosen, observer=Changing(out, 5))

    before, after = factors(out, retries=False), factors(out, retries=True)
    assert after == {packet: 1 if factor == 1 else 5 for packet, factor in before.items()}
    changes = [json.loads(line) for ledger in out.glob("_bridge/*/ledger/*/*.json") for line in [ledger.read_bytes()]]
    assert {c["number"]: c["value"]["factor"] for c in changes if c["kind"] == "change"} == {0: 3, 1: 5}


def test_a_source_that_gives_fewer_samples_than_before_is_refused(tmp_path: Path, out: Path) -> None:
    code, rows = tmp_path / "mine.py", tmp_path / "rows"
    code.write_text(
        "import pathlib\n"
        f"def rows():\n    for i in range(int(pathlib.Path({str(rows)!r}).read_text())):\n"
        f"        yield {{'id': i, 'service': {str(tmp_path / 'service')!r}}}\n"
    )
    rows.write_text("100")
    settings(tmp_path, out)
    chosen = settings(tmp_path, out, input_uri=f"python://{code}:rows")
    api.run_pipeline(chosen)
    mend(tmp_path)
    rows.write_text("50")

    with pytest.raises(BridgeError, match="gave 50 samples where the plan has 95"):
        api.retry_failed(chosen)


@pytest.mark.parametrize("cut", [1, 8])
def test_a_list_of_samples_that_lost_some_is_refused(tmp_path: Path, out: Path, cut: int) -> None:
    chosen = settings(tmp_path, out)
    api.run_pipeline(chosen)
    PipelineFactory.create(chosen, open_store(str(out), chosen)).prepare_retry()
    listed = next(out.glob("_bridge/*/retries/*/*"))
    listed.write_bytes(listed.read_bytes()[:-cut])

    with pytest.raises(IntegrityError, match="bytes instead of"):
        api.retry_failed(chosen)


def test_another_tokenizer_is_no_mended_code(tmp_path: Path, out: Path) -> None:
    tokenizer = Path(shutil.copy(Path(__file__).parents[2] / "configs" / "data" / "tokenizer.json", tmp_path))
    source = tmp_path / "texts.jsonl"
    source.write_text('{"text": "one"}\n{"text": 2}\n')
    chosen = settings(tmp_path, out, input_uri=str(source), stages=[{"tokenize": {"tokenizer": str(tokenizer)}}])
    assert api.run_pipeline(chosen).failed == 1
    tokenizer.write_text(tokenizer.read_text() + " ")

    with pytest.raises(ConflictError, match=r"tokenize: tokenizer.json"):
        api.retry_failed(chosen)


def test_a_stage_may_be_mended_by_taking_its_schema_away(tmp_path: Path, out: Path) -> None:
    code = tmp_path / "mine.py"
    chosen = settings(tmp_path, out, stages=[{f"{code}:Mine": {}}])
    stage = (
        "import pyarrow as pa\nfrom data_bridge.runtime.stage import Stage, StageOptions\n"
        "class Mine(Stage[StageOptions]):\n    kind = 'mine'\n"
        "    def process(self, batch):\n        return batch.same(batch.rows)\n"
    )
    code.write_text(stage + "    input_schema = pa.schema([pa.field('name', pa.string(), nullable=False)])\n")
    (tmp_path / "source.jsonl").write_text('{"id": 1, "name": null}\n{"id": 2, "name": "b"}\n')
    assert api.run_pipeline(chosen).failed == 1
    code.write_text(stage)
    forget(code)

    assert api.retry_failed(chosen).status == "complete"
