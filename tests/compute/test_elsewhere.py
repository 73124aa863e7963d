"""A run on a rented machine that takes its time: commanded from here, taken away in the middle, its own modules sent."""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fake_vast.machines import Container, why_not
from fake_vast.offers import offer
from fake_vast.server import Server, serving
from fake_vast.world import World
from support.console import data_bridge
from support.git_server import git_server
from support.kill_remote import bucket_tree
from support.rented import STEADY, Ready, quick_client
from support.seaweed import OWNER, Seaweed

from data_bridge.api import run_pipeline
from data_bridge.cli.far import mirror_of
from data_bridge.compute.choice import Need
from data_bridge.compute.rentals import Rentals
from data_bridge.compute.runner import Remote, VastRemoteRunner
from data_bridge.config import load_settings
from data_bridge.storage import open_store

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not() or "never"), pytest.mark.timeout(400)]
STOPS = (230, 490, 750)
PER_SHARD = 40
SAID = logging.getLogger("elsewhere")
"""What pytest shows of a test that failed."""
LITTLE = Need(1e6, 1e6, 50)
CALLS = f"""
import time
from pathlib import Path

def slow(row):
    while row["id"] in {STOPS} and not Path(f"gate-{{row['id']}}").exists():
        time.sleep(0.01)
    return {{**row, "id": row["id"] * 2}}
"""


class Setting:
    """A run whose only stage is a module of a repository, which waits at some samples until it is let through."""

    def __init__(self, server: Server, seaweed: Seaweed, bucket: str, repository: str, place: Path) -> None:
        self.server, self.place, self.world = server, place, server.world
        pq.write_table(pa.table({"id": range(1000)}), place / "in.parquet", row_group_size=25)
        seaweed.client.put_object(Bucket=bucket, Key="in.parquet", Body=(place / "in.parquet").read_bytes())
        self.bucket = bucket
        self.raw: dict[str, Any] = {
            "pipeline": {"input_uri": f"s3://{bucket}/in.parquet", "samples_per_shard": PER_SHARD, "workers": 1,
                         "stages": [{"map": {"call": "calls.py:slow"}, "name": "slow"}]},
            "s3": {"endpoint_url": seaweed.endpoint, "region": "auto", "access_key_id": OWNER[0], "secret_access_key": "${KEY}"},
            "vast": {"api_key": server.world.account_key, "api_url": server.url, "repo_url": repository, "repo_ref": "v0"},
        }  # fmt: skip
        self.rentals = Rentals(place / ".local" / "state" / "data-bridge" / "rentals")
        self.log = b""
        self.told: list[str] = []
        self.packed = 0

    def config(self, destination: str) -> Path:
        self.raw["pipeline"]["output_uri"] = f"s3://{self.bucket}/{destination}"
        path = self.place / f"{destination}.yaml"
        path.write_text(yaml.safe_dump(self.raw))
        return path

    def remotely(self, step: Callable[[str], None], need: Need = LITTLE) -> Remote:
        path = self.config("there")
        mirror = mirror_of(f"s3://{self.bucket}/there", path)

        def hear(line: bytes) -> None:
            mirror(line)
            told = json.loads(line)
            if isinstance(told, dict) and told.get("slots"):
                self.packed = told["slots"][0]["samples"]

        def tell(line: str) -> None:
            SAID.warning("%s", line)
            self.told.append(line)

        def log(block: bytes) -> None:
            SAID.warning("%s", block.decode(errors="replace"))
            self.log += block

        runner = VastRemoteRunner(
            quick_client(self.world.account_key, self.server.url), self.rentals, load_settings(path), path,
            need, tell=tell, log=log, hear=hear, patience=STEADY, step=step,
        )  # fmt: skip
        return runner.run()

    def here(self) -> dict[str, bytes]:
        (self.place / "calls.py").write_text(CALLS)
        for stop in STOPS:
            (self.place / f"gate-{stop}").touch()
        run_pipeline(load_settings(self.config("here")), workers=0)
        return self.tree("here")

    def tree(self, destination: str) -> dict[str, bytes]:
        return bucket_tree(open_store(f"s3://{self.bucket}/{destination}", load_settings(self.config(destination))))

    def let_through(self, *stops: int) -> None:
        """As soon as the machine that works has the module."""
        machine = self.world.living[-1].machine
        assert isinstance(machine, Container)
        folder = machine.root / ".data-bridge" / "repository"
        until((folder / "calls.py").exists, self.state)
        for stop in stops:
            (folder / f"gate-{stop}").touch()

    def wait_at(self, stop: int) -> None:
        """Until everything before that sample is packed, the batch it is in aside, and it was heard here."""
        until(lambda: stop - 25 <= self.packed <= stop, self.state)

    def state(self) -> str:
        living = [(i.id, i.actual) for i in self.world.living]
        return f"packed {self.packed}, machines {living}, told {self.told}, log:\n{self.log.decode(errors='replace')}"

    def cli(self, *words: str) -> str:
        env = {"HOME": str(self.place), "KEY": OWNER[1], "AWS_CA_BUNDLE": os.environ.get("AWS_CA_BUNDLE", "")}
        done = data_bridge(*words, cwd=self.place, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout


def until(what: Callable[[], bool], state: Callable[[], str], within_s: float = 120.0) -> None:
    end = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end, f"it never came to that: {state()}"
        threading.Event().wait(0.02)


@pytest.fixture
def setting(seaweed: Seaweed, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    monkeypatch.setenv("KEY", OWNER[1])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    world = World([offer() for _ in range(5)], make_machine=Ready)
    newer = {"calls.py": "raise SystemExit('this is not v0')\n"}
    with serving(world) as server, git_server(tmp_path / "git", {"calls.py": CALLS}, newer) as (url, _):
        yield Setting(server, seaweed, bucket, url, tmp_path)


class Meanwhile:
    """Things done, in a thread, to each machine that got the run. Where one fails the run is let through to its end."""

    def __init__(self, setting: Setting, *deeds: Callable[[], None]) -> None:
        self._setting = setting
        self._deeds = iter(deeds)
        self._threads: list[threading.Thread] = []
        self.failed: list[BaseException] = []

    def __call__(self, step: str) -> None:
        deed = next(self._deeds, None) if step == "submitted" else None
        if deed is not None:
            self._threads.append(threading.Thread(target=self._do, args=(deed,)))
            self._threads[-1].start()

    def _do(self, deed: Callable[[], None]) -> None:
        try:
            deed()
        except BaseException as error:
            self.failed.append(error)
            with suppress(IndexError, AssertionError):  # there may be no machine to let it through on
                self._setting.let_through(*STOPS)

    def over(self) -> None:
        for thread in self._threads:
            thread.join()
        if self.failed:
            raise self.failed[0]


@pytest.mark.parametrize("times", [*(pytest.param(n, marks=pytest.mark.long) for n in (1, 2)), 3])
def test_a_run_that_is_taken_away_in_the_middle_ends_elsewhere_and_tells_what_was_done_again(
    setting: Setting, times: int
) -> None:
    world = setting.world

    def taken_away(number: int) -> Callable[[], None]:
        def deed() -> None:
            setting.let_through(*STOPS[:number])
            setting.wait_at(STOPS[number])
            (world.outbid if number % 2 else world.vanish)(world.living[-1].id)

        return deed

    meanwhile = Meanwhile(setting, *map(taken_away, range(times)), lambda: setting.let_through(*STOPS))
    ended = setting.remotely(meanwhile)
    meanwhile.over()

    assert ended.exit_code == 0, (setting.told, setting.log.decode())
    assert (ended.samples, ended.machines) == (1000, times + 1)
    assert setting.tree("there") == setting.here()
    assert world.living == []
    assert ended.repeated_shards == times
    assert 0 < ended.repeated_samples <= times * PER_SHARD


def test_a_machine_whose_link_is_not_what_was_offered_is_replaced_early_in_the_run(setting: Setting) -> None:
    world = setting.world
    boast = offer(inet_down=1e6, inet_up=1e6)
    honest = [offer(inet_down=150.0, inet_up=150.0) for _ in range(2)]
    world.offers[:] = [boast, *honest]

    # nothing is let through on the first: its run would wait for ever
    meanwhile = Meanwhile(setting, lambda: None, lambda: setting.let_through(*STOPS))
    ended = setting.remotely(meanwhile, Need(4e11, 4e11, 50))
    meanwhile.over()

    assert (ended.exit_code, ended.machines) == (0, 2), (setting.told, setting.log.decode())
    assert [i.offer["id"] for i in world.instances.values()] == [boast["id"], honest[0]["id"]]
    assert [line for line in setting.told if "1000000 and 1000000 were offered" in line]
    assert world.living == []
    assert setting.tree("there") == setting.here()
    store = open_store(f"s3://{setting.bucket}/there", load_settings(setting.config("there")))
    assert not [item.key for item in store.list() if "bench-" in item.key]


def test_a_run_elsewhere_is_told_what_to_do_and_looked_at_as_one_that_works_here(setting: Setting) -> None:
    said: dict[str, str] = {}

    def commanded() -> None:
        setting.wait_at(STOPS[0])
        machine = str(setting.world.living[-1].id)
        said["paused"] = setting.cli("ctl", str(setting.config("there")), "pause")
        said["described"] = setting.cli("ctl", machine, "describe")
        run = said["described"].split("run ")[1].split()[0]
        said["sockets"] = str(list(Path("/tmp").glob(f"data-bridge-*/{run[:8]}*")))
        said["status"] = setting.cli("status", machine, "--json")
        said["resumed"] = setting.cli("ctl", run, "resume")
        setting.let_through(*STOPS)

    meanwhile = Meanwhile(setting, commanded)
    ended = setting.remotely(meanwhile)
    meanwhile.over()

    assert ended.exit_code == 0, (setting.told, setting.log.decode())
    assert said["paused"].startswith("paused: nothing more is read")
    assert "is paused" in said["described"]
    assert "slow  (map)" in said["described"]
    assert said["resumed"] == "resumed\n"
    now = json.loads(said["status"])["now"]
    assert now["slots"][0]["samples"] >= STOPS[0] - 25
    assert said["sockets"] == "[]", "it was not reached over ssh"
