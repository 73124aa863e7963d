"""Ways in which a run could have lied, each found by trying: all are refused or mended now."""

import itertools
import json
import random
import shutil
import threading
from pathlib import Path

import pytest
from support.corpus import write_jsonl
from support.http_server import HttpServer
from support.kill import tree
from support.readers import read_json_samples
from support.runs import out, settings, source

from data_bridge import api
from data_bridge.config import Settings
from data_bridge.errors import BusyError, ConfigError, DataError, IntegrityError
from data_bridge.events import Event, Notice
from data_bridge.model.batch import Batch, DictRows
from data_bridge.model.shards import Claim, Host
from data_bridge.model.store import ObjectStore
from data_bridge.pipelines.base import Pipeline
from data_bridge.pipelines.commit import Opening
from data_bridge.pipelines.fresh import _steps
from data_bridge.storage import open_store
from data_bridge.utils.claims import Heartbeat
from data_bridge.utils.progress import dump

__all__ = ["out", "source"]


def test_two_addresses_that_only_a_secret_tells_apart_are_refused(out: Path) -> None:
    with HttpServer() as server:
        url = server.serve("/data.jsonl", b'{"a": 1}\n').url

        with pytest.raises(ConfigError, match="named twice"):
            api.run_pipeline(settings([f"{url}?token=one", f"{url}?token=two"], out))


def test_fresh_deletes_nothing_when_the_source_is_wrong(source: Path, out: Path, tmp_path: Path) -> None:
    api.run_pipeline(settings(str(source), out))
    before = tree(out)

    with pytest.raises(ConfigError, match=r"typo\.jsonl"):
        api.run_pipeline(settings(str(tmp_path / "typo.jsonl"), out), fresh=True)

    assert tree(out) == before


def test_fresh_is_refused_while_a_run_on_another_machine_lives(source: Path, out: Path) -> None:
    api.run_pipeline(settings(str(source), out))
    before = tree(out)
    store = open_store(str(out), settings(str(source), out))
    run = json.loads((out / "_bridge" / "dataset.json").read_text())["run"]
    ledger = out / "_bridge" / run / "ledger" / "p00000"
    last = max(ledger.iterdir())
    claim = Claim(token="t", host=Host(boot="elsewhere", pid=1, started=1.0, name="far"), driver="d")
    (ledger / f"{int(last.stem) + 1:06d}.json").write_bytes(dump(claim))

    with Heartbeat(store, run, "d"), pytest.raises(BusyError, match="far"):
        api.run_pipeline(settings(str(source), out), fresh=True, open_destination=Beating(out, run, "d"))

    assert tree(out) == before


class Beating:
    """Opens a destination on which another run's heartbeat changes at every look."""

    def __init__(self, root: Path, run: str, driver: str) -> None:
        self.root, self.run, self.driver = root, run, driver

    def __call__(self, settings: Settings) -> ObjectStore:
        store = open_store(str(self.root), settings)
        beating, get, beats = f"_bridge/{self.run}/heartbeats/{self.driver}.json", store.get, iter(range(10**6))
        store.get = lambda key: str(next(beats)).encode() if key == beating else get(key)  # type: ignore[method-assign]
        return store


def test_fresh_takes_shards_along_that_no_record_names(source: Path, out: Path) -> None:
    api.run_pipeline(settings(str(source), out))
    (out / "000003.tar").write_bytes(b"uploaded by an attempt that died")

    report = api.run_pipeline(settings(str(source), out, samples_per_shard=100), fresh=True)

    assert report.shards == 2
    assert sorted(p.name for p in out.glob("*.tar")) == ["000000.tar", "000001.tar"]


def test_an_interrupted_fresh_can_be_finished(source: Path, out: Path) -> None:
    api.run_pipeline(settings(str(source), out))
    left = Deleting(out, after=7)
    with pytest.raises(Stop):
        api.run_pipeline(settings(str(source), out), fresh=True, open_destination=left)

    report = api.run_pipeline(settings(str(source), out), fresh=True)

    assert report.samples == 120


def test_after_a_fresh_cut_off_anywhere_a_run_is_whole_or_refused(source: Path, out: Path, tmp_path: Path) -> None:
    """Keys of one step go in any order: whatever subset of them is left."""
    api.run_pipeline(settings(source, out))
    write_jsonl(source, 170)
    api.run_pipeline(settings(source, out))
    expected = read_json_samples(out)
    made = out.rename(tmp_path / "made")
    steps = _steps(open_store(str(made), settings(source, made)))
    assert sum("/plan/" in key for step in steps for key in step) == 2
    chance = random.Random(4)
    whole = refused = 0

    for number, step in enumerate(steps):
        for _ in range(4):
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(made, out)
            gone = chance.sample(step, chance.randint(0, len(step)))
            for key in [*itertools.chain(*steps[:number]), *gone]:
                (out / key).unlink()
            try:
                api.run_pipeline(settings(source, out))
            except IntegrityError:
                refused += 1
            else:
                whole += 1
                assert read_json_samples(out) == expected

    assert whole
    assert refused


class Stop(Exception):
    pass


class Deleting:
    """Opens a destination that stops the run after some deletions."""

    def __init__(self, root: Path, after: int) -> None:
        self.root, self.left = root, after

    def __call__(self, settings: Settings) -> ObjectStore:
        store = open_store(str(self.root), settings)
        delete = store.delete

        def counted(key: str) -> None:
            if "probe" not in key:
                self.left -= 1
            if self.left < 0:
                raise Stop
            delete(key)

        store.delete = counted  # type: ignore[method-assign]
        return store


def test_a_late_finalize_does_not_publish_the_past(source: Path, out: Path) -> None:
    chosen = settings(str(source), out)
    early = Pipeline(chosen, open_store(str(out), chosen))
    api.run_pipeline(chosen)
    early.prepare()
    with source.open("a") as file:
        file.write('{"id": "late"}\n')
    api.run_pipeline(chosen)
    (out / "manifest.json").unlink()

    with pytest.raises(BusyError, match="changed the plan"):
        early.finalize(early.logs())

    assert not (out / "manifest.json").exists()


def test_what_was_started_over_meanwhile_is_not_published_by_the_run_before(source: Path, out: Path) -> None:
    chosen = settings(str(source), out)
    early = Pipeline(chosen, open_store(str(out), chosen))
    api.run_pipeline(chosen)
    early.prepare()
    logs = early.logs()
    api.run_pipeline(chosen, fresh=True)
    before = tree(out)

    with pytest.raises(BusyError, match="started over"):
        early.finalize(logs)

    assert tree(out) == before


def test_giving_a_partition_up_does_not_fence_whoever_holds_it_now(source: Path, out: Path) -> None:
    chosen = settings(str(source), out)
    pipeline = Pipeline(chosen, open_store(str(out), chosen))
    pipeline.prepare()
    owner = Claim(token="owner", host=Host(boot="b", pid=1, started=1.0), driver="another run")
    pipeline.store.put_if_absent(f"{pipeline.ledger.prefix}p00000/000000.json", dump(owner))

    pipeline.give_up(0, DataError("bad sample"), driver="this run")

    log = pipeline.ledger.load(pipeline.plan.partitions[0])
    assert log.claim == owner
    assert log.failed is None


def test_failures_of_stages_that_lead_to_no_writer_cannot_be_limited(source: Path, out: Path) -> None:
    stages = [{"preview": {}, "max_failures": 3}]

    with pytest.raises(ConfigError, match=r"preview.max_failures: it leads to no writer"):
        api.plan(settings(str(source), out, stages=stages))


def test_a_run_killed_while_it_asked_the_store_is_no_stranger_to_the_next(source: Path, out: Path) -> None:
    store = open_store(str(out), settings(str(source), out))
    for left in ("_bridge/probe/probe-0123456789abcdef", "_bridge/probe-0123456789abcdef-wrong"):
        store.put_bytes(left, b"first")

    report = api.run_pipeline(settings(str(source), out))

    assert report.status == "complete"


def test_a_bad_sample_under_fail_stops_all_partitions(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    write_jsonl(source, 2000, bad_every=20)
    with pytest.raises(DataError, match="line 20:"):
        api.run_pipeline(settings(str(source), out, partition_bytes=20_000))

    report = api.status(str(out))

    assert report.partitions > 10
    assert report.partitions_done == 0


def test_a_rerun_mends_a_lost_index(source: Path, out: Path) -> None:
    api.run_pipeline(settings(str(source), out))
    before = tree(out)
    (out / "shards.txt").unlink()

    api.run_pipeline(settings(str(source), out))

    assert tree(out) == before


@pytest.mark.parametrize("name", ["manifest.json", "dataset.json", "plan", "ledger"])
def test_damaged_bookkeeping_is_named_and_can_be_started_over(source: Path, out: Path, name: str) -> None:
    api.run_pipeline(settings(str(source), out))
    bookkeeping = out / "_bridge"
    damaged = {
        "manifest.json": out / name,
        "dataset.json": bookkeeping / name,
        "plan": next(bookkeeping.rglob("plan/000000.json")),
        "ledger": max(bookkeeping.rglob("ledger/p00000/*.json")),
    }[name]
    damaged.write_bytes(b'{"kind": ')

    with pytest.raises(IntegrityError, match="damaged"):
        api.run_pipeline(settings(str(source), out))

    assert api.run_pipeline(settings(str(source), out), fresh=True).samples == 120


def test_a_stale_manifest_is_not_complete(source: Path, out: Path) -> None:
    api.run_pipeline(settings(str(source), out))
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["totals"]["samples"] -= 50
    (out / "manifest.json").write_text(json.dumps(manifest))

    assert not api.status(str(out)).complete
    assert not api.plan(settings(str(source), out)).complete


@pytest.mark.parametrize("uri", ["file:///", "file://{out}/", "{out}//"])
def test_slashes_at_the_end_of_a_destination_do_not_eat_its_scheme(uri: str, tmp_path: Path) -> None:
    from data_bridge.pipelines.destination import output_uri

    chosen = settings("x.jsonl", uri.format(out=tmp_path))

    assert output_uri(chosen) in ("file:///", f"file://{tmp_path}", str(tmp_path))
    assert output_uri(chosen, "p").endswith("/p")


@pytest.mark.parametrize("stranger", ["extra.tar", "notes/readme.md"])
def test_verify_names_what_does_not_belong_to_the_dataset(source: Path, out: Path, stranger: str) -> None:
    api.run_pipeline(settings(str(source), out))
    (out / stranger).parent.mkdir(exist_ok=True)
    (out / stranger).write_bytes(b"x")

    assert api.verify(str(out)).problems == (f"{stranger}: not part of the dataset",)


def test_verify_finds_a_manifest_that_hides_a_shard_and_a_lost_failures_file(out: Path, tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    write_jsonl(source, 120, bad_every=50)
    api.run_pipeline(settings(str(source), out, on_error="quarantine"))
    manifest = json.loads((out / "manifest.json").read_text())
    hidden = manifest["shards"].pop()
    manifest["totals"]["samples"] -= hidden["samples"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    (out / manifest["failures"][0]).unlink()

    problems = api.verify(str(out)).problems

    assert f"{hidden['path']}: in the ledger, not in manifest.json" in problems
    assert f"{manifest['failures'][0]}: missing" in problems


class Listening:
    """A control that tells when it heard three signs of life."""

    stopping = draining = paused = False
    uploads = 0
    changes = ()
    cores = 1

    def __init__(self) -> None:
        self.beats = 0
        self.thrice = threading.Event()

    def emit(self, event: Event) -> None: ...

    def beat(self) -> None:
        self.beats += 1
        if self.beats == 3:
            self.thrice.set()

    def rest(self) -> None: ...

    def threads(self, stage: str) -> int:
        return 0

    def rate(self, stage: str) -> float | None: ...


def test_opening_a_source_gives_signs_of_life_until_the_first_batch() -> None:
    control = Listening()

    with Opening(control, every_s=0.001) as opening:
        assert control.thrice.wait(30)
        assert list(opening.through(iter([Batch(None, DictRows([]))])))
        opening._thread.join(30)
        heard = control.beats

    assert not opening._thread.is_alive()
    assert control.beats == heard


def test_a_second_run_that_finds_everything_done_finishes(source: Path, out: Path) -> None:
    heard: list[Event] = []
    api.run_pipeline(settings(str(source), out))
    (out / "manifest.json").unlink()

    report = api.run_pipeline(settings(str(source), out), observer=heard.append)

    assert report.status == "complete"
    assert not any(isinstance(e, Notice) for e in heard)
    assert read_json_samples(out) == [json.loads(line) for line in source.read_text().splitlines()]
