"""What the programmatic face promises, on real files."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.corpus import write_jsonl
from support.kill import tree
from support.programs import ENVIRONMENT
from support.readers import read_json_samples
from support.runs import out, settings, source

import data_bridge.errors
from data_bridge import api
from data_bridge.config import Settings
from data_bridge.errors import BusyError, ConfigError, ConflictError, DataError, FatalError, IntegrityError
from data_bridge.events import Event, Notice, RunFinalized, RunPlanned, ShardCommitted
from data_bridge.model.report import PlanReport
from data_bridge.model.shards import Claim
from data_bridge.pipelines.fresh import made_here
from data_bridge.storage import open_store
from data_bridge.storage.local import LocalStore
from data_bridge.utils.claims import _started, process_mark, this_host
from data_bridge.utils.files import partial_path
from data_bridge.utils.progress import dump

__all__ = ["out", "source"]


def snapshot(out: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*") if p.is_file()}


def test_every_sample_is_in_a_shard_in_order(source: Path, out: Path) -> None:
    report = data_bridge.run_pipeline(settings(source, out))

    expected = [json.loads(line) for line in source.read_text().splitlines()]
    assert read_json_samples(out) == expected
    assert (report.status, report.exit_code, report.samples, report.shards) == ("complete", 0, 120, 3)


def test_lines_that_no_stage_touches_are_packed_without_arrow(source: Path, out: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from support.runs import settings; from data_bridge import api;"
        f"api.run_pipeline(settings({str(source)!r}, Path({str(out)!r})), workers=0); print('pyarrow' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENVIRONMENT)

    assert done.stdout.split() == ["False"]


def test_a_config_file_and_settings_run_alike(source: Path, out: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text(settings(source, out).model_dump_json(by_alias=True, exclude_none=True))

    report = data_bridge.run_from_file(config, workers=0)

    assert report.samples == 120


def test_the_observer_hears_the_run_in_order(source: Path, out: Path) -> None:
    heard: list[Event] = []

    api.run_pipeline(settings(source, out), observer=heard.append)

    assert isinstance(heard[0], RunPlanned)
    assert isinstance(heard[-1], RunFinalized)
    assert [e.key for e in heard if isinstance(e, ShardCommitted)] == ["000000.tar", "000001.tar", "000002.tar"]


def test_a_second_run_changes_nothing(source: Path, out: Path) -> None:
    api.run_pipeline(settings(source, out))
    before = snapshot(out)

    report = api.run_pipeline(settings(source, out))

    assert report.resumed
    assert snapshot(out) == before


def test_a_changed_config_is_refused_with_the_difference_and_nothing_is_written(source: Path, out: Path) -> None:
    api.run_pipeline(settings(source, out))
    before = snapshot(out)

    with pytest.raises(ConflictError, match=r"(?s)-samples_per_shard: 50\n\+samples_per_shard: 60"):
        api.run_pipeline(settings(source, out, samples_per_shard=60))

    assert snapshot(out) == before


def test_settings_that_change_no_bytes_may_change(source: Path, out: Path) -> None:
    api.run_pipeline(settings(source, out))

    assert api.run_pipeline(settings(source, out, upload_concurrency=4, hang_timeout_s=9.0)).status == "complete"


def test_a_changed_source_is_refused_by_name_and_nothing_is_written(source: Path, out: Path) -> None:
    api.run_pipeline(settings(source, out))
    before = snapshot(out)
    source.write_text(source.read_text().replace("tags", "togs"))

    with pytest.raises(ConflictError, match=r"source\.jsonl"):
        api.run_pipeline(settings(source, out))

    assert snapshot(out) == before


def test_a_source_that_was_only_touched_is_the_same_source(source: Path, out: Path) -> None:
    api.run_pipeline(settings(source, out))
    os.utime(source)

    assert api.run_pipeline(settings(source, out)).status == "complete"


def test_a_vanished_file_is_refused(source: Path, out: Path, tmp_path: Path) -> None:
    other = tmp_path / "source2.jsonl"
    write_jsonl(other, 10)
    pattern = str(tmp_path / "source*.jsonl")
    api.run_pipeline(settings(pattern, out))
    other.unlink()

    with pytest.raises(ConflictError, match=r"source2\.jsonl: gone"):
        api.run_pipeline(settings(pattern, out))


def test_new_files_are_added_and_old_shards_stay(source: Path, out: Path, tmp_path: Path) -> None:
    pattern = str(tmp_path / "source*.jsonl")
    api.run_pipeline(settings(pattern, out))
    before = tree(out)
    new = write_jsonl(tmp_path / "source2.jsonl", 70, seed=2)

    report = api.run_pipeline(settings(pattern, out))

    after = tree(out)
    assert report.samples == 190
    assert {k: after[k] for k in before if k.endswith(".tar")} == {
        k: v for k, v in before.items() if k.endswith(".tar")
    }
    assert read_json_samples(out)[120:] == new
    assert api.verify(str(out), deep=True).problems == ()


def test_lines_appended_to_a_file_are_added_and_old_shards_stay(source: Path, out: Path, tmp_path: Path) -> None:
    api.run_pipeline(settings(source, out))
    before = tree(out)
    write_jsonl(tmp_path / "more", 30, seed=3)
    with source.open("a") as file:
        file.write((tmp_path / "more").read_text())

    report = api.run_pipeline(settings(source, out))

    after = tree(out)
    assert report.samples == 150
    assert all(after[k] == v for k, v in before.items() if k.endswith(".tar"))
    assert read_json_samples(out) == [json.loads(line) for line in source.read_text().splitlines()]


def test_a_bad_sample_stops_the_run_by_default_and_says_where(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    write_jsonl(source, 60, bad_every=55)

    with pytest.raises(DataError, match=r"bad\.jsonl line 55") as caught:
        api.run_pipeline(settings(source, out))

    assert "on_error" in caught.value.hint
    assert not (out / "manifest.json").exists()


@pytest.mark.parametrize(("policy", "keeps_raw"), [("skip", False), ("quarantine", True)])
def test_bad_samples_are_left_out_and_listed(out: Path, tmp_path: Path, policy: str, keeps_raw: bool) -> None:
    source = tmp_path / "bad.jsonl"
    good = write_jsonl(source, 60, bad_every=20)

    report = api.run_pipeline(settings(source, out, on_error=policy))

    manifest = json.loads((out / "manifest.json").read_text())
    failures = [json.loads(line) for key in manifest["failures"] for line in (out / key).read_text().splitlines()]
    assert (report.status, report.exit_code, report.failed) == ("completed_with_failures", 3, 3)
    assert read_json_samples(out) == good
    assert [f["index"] for f in failures] == [19, 39, 59]
    assert all(("raw" in f) is keeps_raw for f in failures)


def test_too_many_failures_stop_the_run(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    write_jsonl(source, 400, bad_every=10)

    with pytest.raises(DataError, match="max_failures = 5"):
        api.run_pipeline(settings(source, out, on_error="skip", max_failures=5))


def test_fresh_starts_over(source: Path, out: Path) -> None:
    api.run_pipeline(settings(source, out))

    report = api.run_pipeline(settings(source, out, samples_per_shard=40), fresh=True)

    assert report.shards == 3
    assert not report.resumed
    assert sorted(p.name for p in out.glob("*.tar")) == ["000000.tar", "000001.tar", "000002.tar"]


def test_a_plan_to_start_over_is_that_of_a_dataset_that_is_not_there(source: Path, out: Path) -> None:
    api.run_pipeline(settings(source, out))
    changed = settings(source, out, samples_per_shard=40)
    before = sorted(out.rglob("*"))

    with pytest.raises(ConflictError):
        api.plan(changed)
    anew = api.plan(changed, fresh=True)

    assert (anew.run, anew.complete, anew.partitions_done, anew.samples_done) == (None, False, 0, 0)
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("webdataset", {}),
        ("webdataset", {"output_format": "tar.zst"}),
        ("litdata", {}),
        ("litdata", {"compression": "zstd"}),
    ],
)
@pytest.mark.parametrize("partition_bytes", [1_000, 10_000_000])
def test_fresh_deletes_the_shards_of_every_format(
    source: Path, out: Path, name: str, more: dict[str, Any], partition_bytes: int
) -> None:
    before = settings(source, out, name=name, partition_bytes=partition_bytes, **more)
    api.run_pipeline(before)
    shards = {s["path"] for s in json.loads((out / "manifest.json").read_text())["shards"]}
    assert shards <= set(made_here(open_store(str(out), before)))

    api.run_pipeline(settings(source, out, name=name, samples_per_shard=1_000, **more), fresh=True)

    assert len([p for p in out.iterdir() if p.suffix not in (".json", ".txt") and p.is_file()]) == 1


def test_a_finished_run_sweeps_up_what_a_killed_one_left_half_written(source: Path, out: Path) -> None:
    api.run_pipeline(settings(source, out))
    left = [partial_path(out / "manifest.json", "dead"), partial_path(out / "_bridge" / "x.json", "dead")]
    with subprocess.Popen(["true"]) as ended:  # a process that was here
        pass
    left_now = partial_path(out / "x.json", process_mark().replace(f"-{os.getpid()}", f"-{ended.pid}") + "-ab")
    young = partial_path(out / "shards.txt", f"{process_mark()}-cd")
    elsewhere = partial_path(out / "y.json", f"0123456789ab-{ended.pid}-ef")
    for path in (*left, left_now, young, elsewhere):
        path.write_bytes(b"half")
    for path in left:
        os.utime(path, (1_000_000, 1_000_000))

    api.run_pipeline(settings(source, out))

    assert not any(path.exists() for path in (*left, left_now))
    assert young.exists()
    assert elsewhere.exists()


def test_fresh_deletes_nothing_that_is_not_ours(source: Path, out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")

    with pytest.raises(ConflictError, match=r"thesis\.tex"):
        api.run_pipeline(settings(source, out), fresh=True)
    with pytest.raises(ConflictError, match=r"thesis\.tex"):
        api.plan(settings(source, out), fresh=True)

    assert (out / "thesis.tex").exists()


def test_a_destination_with_other_things_in_it_is_refused(source: Path, out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")

    with pytest.raises(ConflictError, match=r"thesis\.tex"):
        api.run_pipeline(settings(source, out))


def test_a_limit_takes_the_first_samples(source: Path, out: Path) -> None:
    report = api.run_pipeline(settings(source, out, limit=70))

    assert report.samples == 70
    assert read_json_samples(out) == [json.loads(line) for line in source.read_text().splitlines()[:70]]


def test_an_empty_source_is_an_error_unless_it_is_allowed(out: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()

    with pytest.raises(ConfigError, match=r"empty\.jsonl"):
        api.run_pipeline(settings(empty, out))
    assert not out.exists() or not any(p.is_file() for p in out.rglob("*"))

    report = api.run_pipeline(settings(empty, out, allow_empty=True))
    assert (report.status, report.samples, report.shards) == ("complete", 0, 0)


def test_a_missing_source_is_an_error_before_anything_is_written(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.jsonl"):
        api.run_pipeline(settings(tmp_path / "nothing.jsonl", out))

    assert not out.exists() or not any(p.is_file() for p in out.rglob("*"))


def test_a_pipe_is_refused(out: Path) -> None:
    with pytest.raises(ConfigError, match="pipe:"):
        api.run_pipeline(settings("pipe:cat secrets", out))


def test_planning_writes_nothing_and_tells_what_is_done(source: Path, out: Path) -> None:
    first = api.plan(settings(source, out))
    assert not out.exists()
    assert (first.complete, first.samples, first.partitions_done) == (False, None, 0)
    assert first.samples_estimated == pytest.approx(120, rel=0.1)

    api.run_pipeline(settings(source, out))
    before = snapshot(out)
    second = api.plan(settings(source, out))

    assert second.complete
    assert snapshot(out) == before


def test_planning_tells_how_large_shards_will_be_and_not_how_large_their_samples_are_in_the_source(
    out: Path, tmp_path: Path
) -> None:
    source = tmp_path / "small.jsonl"
    source.write_text("".join(f'{{"n": {n}, "text": "ab"}}\n' for n in range(1000)))
    given = settings(source, out, samples_per_shard=100)

    planned = api.plan(given)
    api.run_pipeline(given)
    again = api.plan(given)

    made = [path.stat().st_size for path in sorted(out.glob("*.tar"))]
    assert planned.samples_estimated == pytest.approx(1000, rel=0.05)
    assert planned.shard_bytes_estimated == pytest.approx(sum(made) / len(made), rel=0.1)
    assert again.shard_bytes_estimated == pytest.approx(sum(made) / len(made), rel=0.1)
    assert (again.samples, again.samples_estimated) == (1000, None)


def test_planning_names_the_format_of_every_writer_and_counts_the_shards_of_all(out: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": range(100)}), tmp_path / "ids.parquet")
    keep, some = (
        {"name": "keep", "select": {"fields": ["id"]}},
        {"name": "some", "filter": {"where": {"id": {"max": 9}}}},
    )
    tars, chunks = (
        {"name": "tars", "input": "keep"},
        {"name": "chunks", "input": "keep", "format": "litdata", "samples_per_shard": 50},
    )

    def planned(**more: Any) -> PlanReport:
        return api.plan(settings(tmp_path / "ids.parquet", out, samples_per_shard=30, **more))

    both = planned(stages=[keep], writers=[tars, chunks])
    one = planned(stages=[keep], writers=[chunks])
    fewer = planned(stages=[keep, some])

    assert both.writers == {"tars": "webdataset", "chunks": "litdata"}
    assert (one.format, one.writers, one.shards_estimated) == ("litdata", {}, 2)
    assert both.shards_estimated == 4 + 2
    assert (planned().format, planned().shards) == ("webdataset", 4)
    assert (fewer.shards, fewer.shards_estimated) == (None, 4)  # who leaves samples out makes fewer


def test_planning_warns_when_a_file_of_unknown_kind_would_be_one_sample(out: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl.bak").write_text('{"a": 1}\n{"a": 2}\n')

    report = api.plan(settings(tmp_path / "data.jsonl.bak", out))

    assert report.samples == 1
    assert any("data.jsonl.bak would be one sample" in warning for warning in report.warnings)


def test_status_of_a_destination_without_a_dataset_is_an_error(out: Path) -> None:
    with pytest.raises(ConfigError, match="no dataset"):
        api.status(str(out))


@pytest.mark.parametrize("damage", ["missing", "short", "flipped"])
def test_verify_finds_damage(source: Path, out: Path, damage: str) -> None:
    api.run_pipeline(settings(source, out))
    shard = out / "000001.tar"
    content = bytearray(shard.read_bytes())
    shard.unlink()
    if damage == "short":
        shard.write_bytes(content[:-512])
    if damage == "flipped":
        content[700] ^= 1
        shard.write_bytes(content)

    (problem,) = api.verify(str(out), deep=True).problems

    assert problem.startswith("000001.tar: ")


def test_a_shard_lost_after_the_run_is_not_published_again(source: Path, out: Path) -> None:
    api.run_pipeline(settings(source, out))
    (out / "000001.tar").unlink()

    with pytest.raises(data_bridge.errors.IntegrityError, match=r"000001\.tar is missing"):
        api.run_pipeline(settings(source, out))


def test_no_progress_is_kept_in_the_staging_folder_of_a_finished_run(source: Path, out: Path) -> None:
    api.run_pipeline(settings(source, out))

    assert not list(out.rglob("staging"))


def test_max_shard_bytes_closes_shards_early(source: Path, out: Path) -> None:
    api.run_pipeline(settings(source, out, max_shard_bytes="20kB"))

    assert read_json_samples(out) == [json.loads(line) for line in source.read_text().splitlines()]
    assert all(p.stat().st_size <= 31_000 for p in out.glob("*.tar"))


def write_lines(path: Path, samples: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(s) + "\n" for s in samples))


def test_a_key_twice_in_one_shard_is_a_failure_wherever_batches_end(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "keyed.jsonl"
    # 2,500 samples are several batches; the repeats lie in one shard, across shards, and across batches
    samples: list[dict[str, object]] = [{"id": f"k{n}", "n": n} for n in range(2500)]
    samples[30]["id"] = "k10"
    samples[60]["id"] = "k10"
    samples[1020]["id"] = "k990"
    write_lines(source, samples)

    report = api.run_pipeline(settings(source, out, key_field="id", samples_per_shard=50, on_error="skip"))

    kept = [s["n"] for s in read_json_samples(out)]
    # 30 repeats its own shard; 60 and 1020 lie in other shards than what they repeat
    assert kept == [n for n in range(2500) if n != 30]
    assert report.failed == 1


def test_a_deep_verify_finds_a_key_that_stands_in_two_shards(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "keyed.jsonl"
    write_lines(source, [{"id": f"k{n % 80}"} for n in range(100)])
    api.run_pipeline(settings(source, out, key_field="id", samples_per_shard=50))

    problems = api.verify(str(out), deep=True).problems

    assert len(problems) == 20
    assert problems[0] == "the key 'k0' occurs in several shards: 000000.tar, 000001.tar"
    assert api.verify(str(out)).problems == ()


def test_a_key_twice_in_one_shard_across_two_batches_is_a_failure(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "keyed.jsonl"
    samples: list[dict[str, object]] = [{"id": f"k{n}", "n": n} for n in range(2500)]
    samples[2400]["id"] = "k10"
    write_lines(source, samples)

    report = api.run_pipeline(settings(source, out, key_field="id", samples_per_shard=5000, on_error="skip"))

    assert [s["n"] for s in read_json_samples(out)] == [n for n in range(2500) if n != 2400]
    assert report.failed == 1


def test_status_tells_why_a_partition_was_given_up_and_a_rerun_tries_it_again(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    write_jsonl(source, 60, bad_every=55)
    with pytest.raises(DataError):
        api.run_pipeline(settings(source, out))

    report = api.status(str(out))

    assert (report.complete, report.partitions_failed, report.samples) == (False, 1, 50)
    assert "bad.jsonl line 55" in report.errors[0]
    with pytest.raises(DataError, match=r"line 55"):
        api.run_pipeline(settings(source, out))


def test_a_store_without_put_if_absent_gets_one_writer_and_says_so(source: Path, out: Path) -> None:
    heard: list[Event] = []

    report = api.run_pipeline(settings(source, out), observer=heard.append, open_destination=Unconditional(out))

    assert report.samples == 120
    assert any(isinstance(e, Notice) and "put-if-absent" in e.message for e in heard)
    assert not (out / "_bridge" / "writer.json").exists()


def test_a_second_writer_on_such_a_store_is_refused_while_the_first_lives(source: Path, out: Path) -> None:
    other = this_host()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = _started(process.pid)
        claim = Claim(token="t", host=other.model_copy(update={"pid": process.pid, "started": started}), driver="t")
        api.run_pipeline(settings(source, out, limit=10), open_destination=Unconditional(out))
        (out / "_bridge" / "writer.json").write_bytes(dump(claim))
        (out / "manifest.json").unlink()
        for done in (out / "_bridge").rglob("ledger/*/00000*.json"):
            done.unlink()

        with pytest.raises(BusyError, match=f"process {process.pid}"):
            api.run_pipeline(settings(source, out, limit=10), open_destination=Unconditional(out))
        process.communicate(b"\n")


def test_quarantine_keeps_the_row_of_a_sample_that_cannot_be_written(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"image": [b"\xff\xd8\xffa", None, b"\xff\xd8\xffb"], "n": [1, 2, 3]}), source)

    api.run_pipeline(settings(source, out, on_error="quarantine"))

    (key,) = json.loads((out / "manifest.json").read_text())["failures"]
    failure = json.loads((out / key).read_text())
    assert (failure["index"], failure["where"]) == (1, f"{source} row 1")
    assert json.loads(failure["raw"]) == {"image": None, "n": 2}


class Unconditional:
    """A folder on a filesystem without hard links."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, settings: Settings) -> LocalStore:
        return LocalStore(self._root, link=no_links)


def no_links(source: Path, target: Path) -> None:
    raise OSError(errno.EPERM, "no hard links here")


@pytest.mark.parametrize("executor", ["inline", "thread", "process"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_function_that_exits_for_a_sample_has_failed_for_it(
    source: Path, out: Path, executor: str, workers: int
) -> None:
    stage = {"map": {"call": "support.stages:leaving_at_37"}, "executor": executor, "on_error": "skip"}

    report = api.run_pipeline(settings(source, out, stages=[stage]), workers=workers)

    assert (report.samples, report.failed) == (119, 1)


def test_a_stage_that_exits_does_not_pass_for_the_end_of_the_command(source: Path, out: Path) -> None:
    with pytest.raises(FatalError, match=r"ended the process \(exit code 0\)"):
        api.run_pipeline(settings(source, out, stages=[{"support.stages:Leaving": {}}]))


def test_a_script_that_exits_when_it_is_imported_is_refused(source: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("def same(row):\n    return row\nraise SystemExit(0)\n")

    with pytest.raises(ConfigError, match="cannot be loaded: SystemExit"):
        api.run_pipeline(settings(source, out, stages=[{"map": {"call": f"{tmp_path}/script.py:same"}}]))


@pytest.mark.parametrize("run", ["../../precious", "/precious", "", "0123456789ABCDEF", "0123456789abcdef/.."])
def test_a_run_id_that_somebody_else_has_written_is_no_path_of_this_machine(source: Path, out: Path, run: str) -> None:
    api.run_pipeline(settings(source, out))
    identity = out / "_bridge" / "dataset.json"
    identity.write_text(json.dumps(json.loads(identity.read_bytes()) | {"run": run}))

    for looking in (
        lambda: api.status(str(out)),
        lambda: api.run_id(str(out)),
        lambda: api.run_pipeline(settings(source, out)),
    ):
        with pytest.raises(IntegrityError, match="is no id of a run"):
            looking()
