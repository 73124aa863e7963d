"""One run on several rented machines: the fake's containers, a real sshd, a real S3 server over TLS."""

import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_vast.machines import why_not
from fake_vast.offers import offer
from fake_vast.server import Server, serving
from fake_vast.world import World
from support.console import data_bridge
from support.kill_remote import bucket_tree
from support.rented import STEADY, Ready, quick_client
from support.seaweed import OWNER, Seaweed

from data_bridge import api
from data_bridge.compute.choice import Need
from data_bridge.compute.fleet import Row, VastFleet
from data_bridge.compute.rentals import Rentals
from data_bridge.compute.runner import Remote
from data_bridge.config import Settings, load_settings
from data_bridge.errors import BusyError, ConfigError, RetryableError
from data_bridge.storage import open_store

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not() or "never"), pytest.mark.timeout(400)]
SAMPLES = 400
SLICE = "[{}/2]"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(World([offer() for _ in range(6)], make_machine=Ready)) as running:
        yield running


class Setting:
    """A source of several partitions in a bucket, and fleets for it."""

    def __init__(self, server: Server, seaweed: Seaweed, bucket: str, place: Path) -> None:
        self.server, self.bucket, self.place = server, bucket, place
        lines = "".join(json.dumps({"id": i, "text": "wört " * (i % 50)}) + "\n" for i in range(SAMPLES))
        seaweed.client.put_object(Bucket=bucket, Key="in/source.jsonl", Body=lines.encode())
        self.raw: dict[str, Any] = {
            "pipeline": {
                "input_uri": f"s3://{bucket}/in/source.jsonl", "samples_per_shard": 20, "partition_bytes": 9_000, "workers": 0,
            },
            "s3": {"endpoint_url": seaweed.endpoint, "region": "auto", "access_key_id": OWNER[0], "secret_access_key": "${KEY}"},
            "vast": {"api_key": server.world.account_key, "api_url": server.url},
        }  # fmt: skip
        self.logs: dict[str, io.BytesIO] = {}
        self.told: list[str] = []
        self.tables: list[list[Row]] = []
        self.rentals = Rentals(place / "rentals")

    def settings(self, destination: str) -> tuple[Settings, Path]:
        self.raw["pipeline"]["output_uri"] = f"s3://{self.bucket}/{destination}"
        path = self.place / f"{destination}.yaml"
        path.write_text(yaml.safe_dump(self.raw))
        return load_settings(path), path

    def _log(self, part: str) -> Callable[[bytes], None]:
        log = self.logs[part] = io.BytesIO()
        return lambda block: (log.write(block), None)[1]

    def fleet(
        self,
        destination: str,
        machines: int,
        *,
        step: Callable[[str], None] = lambda _: None,
        on_interrupt: Callable[[], str] = lambda: "destroy",
    ) -> VastFleet:
        settings, path = self.settings(destination)
        return VastFleet(
            quick_client(self.server.world.account_key, self.server.url), self.rentals, settings, path, Need(1e9, 1e6, 50),
            machines=machines, tell=self.told.append, log=self._log, show=lambda rows: self.tables.append(list(rows)),
            finish=partial(api.finalize, settings), patience=STEADY, step=step, on_interrupt=on_interrupt,
        )  # fmt: skip

    def run(self, destination: str, machines: int, *, step: Callable[[str], None] = lambda _: None) -> Remote:
        fleet = self.fleet(destination, machines, step=step)
        return fleet.run(fleet.candidates()[:machines])

    def here(self) -> dict[str, bytes]:
        settings, _ = self.settings("here")
        api.run_pipeline(settings)
        return self.tree("here")

    def tree(self, destination: str) -> dict[str, bytes]:
        settings, _ = self.settings(destination)
        return bucket_tree(open_store(f"s3://{self.bucket}/{destination}", settings))

    @property
    def said(self) -> str:
        return "\n".join([*self.told, *(f"{part}: {log.getvalue().decode()}" for part, log in self.logs.items())])


@pytest.fixture
def setting(server: Server, seaweed: Seaweed, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setenv("KEY", OWNER[1])
    return Setting(server, seaweed, bucket, tmp_path)


def test_a_run_on_several_machines_makes_the_tree_of_one_at_home_and_leaves_nothing_behind(setting: Setting) -> None:
    world = setting.server.world

    ended = setting.run("there", 2)

    assert ended.exit_code == 0, setting.said
    assert (ended.complete, ended.samples, ended.machines) == (True, SAMPLES, 2)
    assert setting.tree("there") == setting.here()
    assert len({i.offer["machine_id"] for i in world.instances.values()}) == 2
    assert world.living == []
    assert world.grows_by() == 0
    assert sorted((r.state, r.slice) for r in setting.rentals.all()) == [("gone", "1/2"), ("gone", "2/2")]
    assert all(b"slice" in log.getvalue() for log in setting.logs.values())
    last = setting.tables[-1]
    assert [(row.slice, row.state) for row in last] == [("1/2", "done"), ("2/2", "done")]
    assert sum(row.ledger.samples for row in last if row.ledger) == SAMPLES
    again = setting.run("there", 2)
    assert (again.complete, again.machines) == (True, 0), "there is nothing left to rent for"
    assert len(world.instances) == 2


def test_a_machine_that_dies_is_replaced_by_one_on_another_host_while_the_others_go_on(setting: Setting) -> None:
    world = setting.server.world
    submitted: list[int] = []
    lock = threading.Lock()

    def take_one_away(step: str) -> None:
        if step == "submitted":
            with lock:
                number = next(i.id for i in world.living if i.id not in submitted)
                submitted.append(number)
                first = len(submitted) == 1
            if first:
                world.vanish(number)

    ended = setting.run("there", 2, step=take_one_away)

    assert ended.exit_code == 0, setting.said
    assert ended.machines == len(world.instances) >= 3  # on a busy computer one more may be lost
    assert setting.tree("there") == setting.here()
    assert world.living == []
    hosts = [i.offer["machine_id"] for i in world.instances.values()]
    assert len(set(hosts)) >= 3
    assert hosts.count(world.instances[submitted[0]].offer["machine_id"]) == 1
    assert any("taking another machine" in line for line in setting.told)


@pytest.mark.parametrize("how", ["destroy", "detach"])
def test_stopped_all_machines_are_destroyed_or_all_left_to_themselves(setting: Setting, how: str) -> None:
    import _thread

    world = setting.server.world
    submitted = threading.Barrier(2, action=_thread.interrupt_main)

    def both(step: str) -> None:
        if step == "submitted":
            submitted.wait(120)

    fleet = setting.fleet("there", 2, step=both, on_interrupt=lambda: how)
    if how == "destroy":
        with pytest.raises(KeyboardInterrupt):
            fleet.run(fleet.candidates())
    else:
        ended = fleet.run(fleet.candidates())
        assert len((ended.detached or "").split()) == 2
        end = time.monotonic() + 120
        while world.living and time.monotonic() < end:
            threading.Event().wait(0.1)
        settings, _ = setting.settings("there")
        assert api.finalize(settings).samples == SAMPLES
        assert setting.tree("there") == setting.here()

    assert world.living == []
    assert world.grows_by() == 0


def test_the_budget_is_that_of_all_machines_together(setting: Setting) -> None:
    setting.raw["vast"]["budget_usd"] = 1.0
    setting.server.world.knobs.dearer = 1.04
    fleet = setting.fleet("there", 4)
    one = setting.fleet("there", 1)

    assert all(candidate.total <= 0.25 for candidate in fleet.candidates()[:4])
    assert one.candidates()[0].total > 0.02

    ended = setting.run("there", 2)

    assert ended.exit_code == 0, setting.said
    # what their watchdogs were told, and not what they used
    most = [r.usd_hour * (r.deadline - r.created) / 3600 + r.traffic_usd for r in setting.rentals.all()]
    assert len(most) == 2
    assert sum(most) <= 1.0 + 1e-6
    assert min(most) > 0.4


def test_a_second_command_for_the_same_destination_rents_nothing(setting: Setting) -> None:
    fleet = setting.fleet("there", 2)

    with setting.rentals.exclusive(fleet.destination), pytest.raises(BusyError, match="another command"):
        fleet.run(fleet.candidates())

    assert setting.server.world.instances == {}


def test_more_machines_than_offers_are_refused_before_anything_is_rented(setting: Setting) -> None:
    fleet = setting.fleet("there", 7)

    with pytest.raises(RetryableError, match="7 machines are wanted"):
        fleet.candidates()
    setting.raw["vast"]["offer_id"] = 4401
    with pytest.raises(ConfigError, match="names one machine"):
        setting.fleet("there", 2)
    assert setting.server.world.instances == {}


def test_the_command_line_shows_prices_rents_and_tells_how_every_slice_stands(setting: Setting, tmp_path: Path) -> None:
    _, config = setting.settings("there")
    env = {"KEY": OWNER[1], "HOME": str(tmp_path)}
    command = partial(data_bridge, cwd=tmp_path, env=env)

    planned = command("plan", config, "--use-vast", "--machines", "3")
    unasked = command("run", config, "--use-vast", "--machines", "2")
    rented_before = len(setting.server.world.instances)
    done = command("run", config, "--use-vast", "--machines", "2", "--yes")

    assert planned.returncode == 0, planned.stderr
    assert re.search(
        r"to rent: offers \d+, \d+, \d+, about \$\d+\.\d\d for the whole run on 3 machines", planned.stdout
    )
    assert (unasked.returncode, rented_before) == (2, 0)
    assert done.returncode == 0, done.stderr
    assert f"complete: {SAMPLES} samples" in done.stdout
    assert re.search(r"(?m)^\[1/2\] slice 1/2 complete", done.stderr)
    assert re.search(r"(?m)^ +2/2 +\d+ +\d of \d +\d+ +\d+ +0\.0\d  done$", done.stderr)
    assert setting.tree("there") == setting.here()
    assert setting.server.world.living == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--machines", "2"), "--machines is for rented machines"),
        (("--use-vast", "--slice", "1/2"), "--slice is for this machine"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    setting: Setting, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    _, config = setting.settings("there")

    refused = data_bridge("run", config, *options, cwd=tmp_path, env={"KEY": OWNER[1], "HOME": str(tmp_path)})

    assert refused.returncode == 2
    assert said in refused.stderr
