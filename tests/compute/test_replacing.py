"""What a runner does when a machine ends in whatever way, told by machines that run nothing."""

import base64
import json
import shlex
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_vast.offers import offer
from fake_vast.server import Server, serving
from fake_vast.world import World
from support.rented import QUICK, quick_client
from support.scripted_link import Machines
from support.seaweed import OWNER, Seaweed

from data_bridge.api import run_pipeline
from data_bridge.compute.choice import Need
from data_bridge.compute.job import NOT_READY
from data_bridge.compute.rentals import Rentals
from data_bridge.compute.runner import VastRemoteRunner
from data_bridge.compute.session import Reach
from data_bridge.compute.ssh import LinkLost
from data_bridge.config import load_settings
from data_bridge.errors import BusyError, ConfigError, RetryableError
from data_bridge.model.rental import Address
from data_bridge.storage import open_store

LITTLE = Need(1e6, 1e6, 50)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(World([offer() for _ in range(6)])) as running:
        yield running


class Setting:
    """A small source and a destination in a bucket, and runners for them."""

    def __init__(self, server: Server, seaweed: Seaweed, bucket: str, place: Path) -> None:
        self.world, self._server, self._place = server.world, server, place
        rows = "".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(20))
        seaweed.client.put_object(Bucket=bucket, Key="in/a.jsonl", Body=rows.encode())
        self.raw: dict[str, Any] = {
            "pipeline": {"input_uri": f"r2://{bucket}/in/a.jsonl", "output_uri": f"r2://{bucket}/out", "samples_per_shard": 5},
            "r2": {"account_id": "abc", "endpoint_url": seaweed.endpoint, "region": "auto", "access_key_id": OWNER[0],
                   "secret_access_key": OWNER[1], "bucket": bucket},
            "vast": {"api_key": server.world.account_key, "api_url": server.url},
        }  # fmt: skip
        self.told: list[str] = []
        self.rentals = Rentals(place / "rentals")

    def config(self) -> Path:
        path = self._place / "c.yaml"
        path.write_text(yaml.safe_dump(self.raw))
        return path

    def runner(self, machines: Reach, *, fresh: bool = False, need: Need = LITTLE) -> VastRemoteRunner:
        settings = load_settings(self.config())
        return VastRemoteRunner(
            quick_client(self.world.account_key, self._server.url), self.rentals, settings, self.config(), need,
            fresh=fresh, tell=self.told.append, log=lambda _: None, patience=QUICK, reach=machines,
        )  # fmt: skip

    def run_here(self) -> int:
        return run_pipeline(load_settings(self.config()), workers=0).exit_code

    def keys(self) -> list[str]:
        settings = load_settings(self.config())
        return [item.key for item in open_store(str(settings.pipeline.output_uri), settings).list()]

    def vanish(self) -> None:
        """The host takes away the machine that works."""
        self.world.vanish(self.world.living[-1].id)


@pytest.fixture
def setting(server: Server, seaweed: Seaweed, bucket: str, tmp_path: Path) -> Setting:
    return Setting(server, seaweed, bucket, tmp_path)


def test_a_machine_that_goes_after_the_last_shard_is_not_replaced(setting: Setting) -> None:
    def work() -> None:
        assert setting.run_here() == 0
        setting.vanish()

    ended = setting.runner(Machines(work)).run()

    assert (ended.exit_code, ended.complete, ended.samples, ended.machines) == (0, True, 20, 1)
    assert len(setting.world.instances) == 1


def test_each_machine_gets_keys_of_its_own_that_last_as_long_as_it_does(setting: Setting) -> None:
    setting.raw["vast"]["max_hours"] = 2
    machines = Machines(setting.vanish, setting.run_here)

    ended = setting.runner(machines).run()

    assert ended.exit_code == 0
    said = [claims(files["variables"]) for files in machines.files]
    assert len({each["jti"] for each in said}) == len(said) == 2
    for each, rental in zip(said, setting.rentals.all(), strict=True):
        assert rental.deadline - 1 <= each["exp"] <= rental.deadline + 30


def claims(variables: bytes) -> dict[str, float]:
    lines = dict(line.split("=", 1) for line in variables.decode().splitlines())
    (token,) = shlex.split(lines["DATA_BRIDGE_R2_SESSION_TOKEN"])
    part = base64.b64decode(token).decode().split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def test_a_machine_that_cannot_be_prepared_or_gives_up_is_replaced_and_nothing_is_stolen_from_it(
    setting: Setting,
) -> None:
    machines = Machines(lambda: NOT_READY, lambda: RetryableError.exit_code, setting.run_here)

    ended = setting.runner(machines).run()

    assert (ended.exit_code, ended.machines) == (0, 3)
    assert ["--steal" in start for start in machines.starts] == [False, False, False]
    assert len({i.offer["machine_id"] for i in setting.world.instances.values()}) == 3


def test_a_run_that_gives_up_twice_without_a_sample_more_is_not_tried_for_ever(setting: Setting) -> None:
    ended = setting.runner(Machines(*[lambda: RetryableError.exit_code] * 5)).run()

    assert (ended.exit_code, ended.complete, ended.machines) == (75, False, 2)


def test_fresh_deletes_once_and_not_again_on_the_next_machine(setting: Setting) -> None:
    assert setting.run_here() == 0
    before: list[list[str]] = []

    def first() -> None:
        before.append(setting.keys())
        setting.run_here()  # what the first machine did is kept by the second
        setting.world.outbid(setting.world.living[-1].id)

    machines = Machines(first)
    ended = setting.runner(machines, fresh=True).run()

    assert before == [["_bridge/dataset.json"]]
    assert (ended.complete, ended.machines) == (True, 1)
    assert "--fresh" not in "".join(machines.starts)


def test_the_same_command_again_does_not_rent_a_second_machine_while_the_first_works(setting: Setting) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    first = setting.runner(Machines(interrupted))
    first._on_interrupt = lambda: "detach"
    assert first.run().detached

    with pytest.raises(BusyError, match="earlier command"):
        setting.runner(Machines(setting.run_here)).run()
    assert len(setting.world.instances) == 1

    setting.vanish()
    (rental,) = setting.rentals.all()
    setting.rentals.put(replace(rental, created=rental.created - 600))
    assert setting.runner(Machines(setting.run_here)).run().exit_code == 0
    assert [r.open for r in setting.rentals.all()] == [False, False]


def test_of_two_commands_at_the_same_moment_one_rents(setting: Setting) -> None:
    refused: list[BusyError] = []

    def meanwhile(step: str) -> None:
        if step == "intending":  # nothing is in the ledger yet
            with pytest.raises(BusyError, match="another command") as caught:
                setting.runner(Machines(setting.run_here)).run()
            refused.append(caught.value)

    first = setting.runner(Machines(setting.run_here))
    first._step = meanwhile

    assert first.run().exit_code == 0
    assert len(refused) == len(setting.world.instances) == 1


def test_a_repository_that_could_be_changed_on_the_way_is_refused_before_anything_is_rented(setting: Setting) -> None:
    setting.raw["vast"]["repo_url"] = "http://git.example.com/stages"

    with pytest.raises(ConfigError, match="changed on the way"):
        setting.runner(Machines())


def test_a_password_of_the_repository_is_on_no_command_line(setting: Setting) -> None:
    setting.raw["vast"] |= {"repo_url": "https://me:pass%20word@git.example.com/stages", "repo_ref": "v1"}
    machines = Machines(setting.run_here)

    setting.runner(machines).run()

    (files,) = machines.files
    assert b"REPOSITORY=https://git.example.com/stages\nREF=v1\n" in files["settings"]
    assert b"'pass word'" in files.pop("askpass")
    assert b"pass" not in b"".join(v for k, v in files.items() if not k.endswith((".whl", ".txt")) and k != "run.sh")
    assert "pass" not in "".join(machines.starts)


def test_a_slow_link_is_kept_where_there_is_no_other_machine(setting: Setting) -> None:
    setting.world.offers[1:] = []
    machines = Machines(setting.run_here)
    machines.says[1] = b'{"down_mbit": 20, "up_mbit": 20}\n'

    ended = setting.runner(machines, need=Need(1e11, 1e11, 50)).run()

    assert (ended.exit_code, ended.machines) == (0, 1)


class Blinking:
    """A way to a machine whose log is quiet, which is lost twice, and is fine for longer than a loss may last between."""

    def __init__(self, setting: Setting, fine_s: float) -> None:
        self._setting, self._fine_s = setting, fine_s
        self.followed, self._over = 0, threading.Event()

    def __call__(self, address: Address, name: str, folder: Path) -> "Blinking":
        return self

    def run(self, script: str, stdin: bytes = b"", *, timeout_s: float = 60.0) -> bytes:
        return b"0" if self._over.is_set() else b""

    def stream(self, script: str) -> Generator[bytes]:
        if "events.jsonl" in script:
            while not self._over.wait(0.05):
                yield b'{"slots": []}\n'
            return
        self.followed += 1
        if self.followed == 2:
            end = time.monotonic() + self._fine_s
            while time.monotonic() < end:
                self._over.wait(0.05)
                yield b""
        yield b""
        if self.followed < 3:
            raise LinkLost("it broke")
        self._setting.run_here()
        self._over.set()


def test_a_quiet_run_whose_machine_is_lost_for_a_moment_now_and_then_is_not_given_up(setting: Setting) -> None:
    machine = Blinking(setting, fine_s=1.0)
    runner = setting.runner(machine)
    runner._patience = replace(QUICK, ssh_s=0.6)

    ended = runner.run()

    assert (ended.complete, ended.machines, machine.followed) == (True, 1, 3)


@pytest.mark.parametrize("code", [NOT_READY, 65])
def test_a_dataset_that_was_whole_before_its_source_grew_is_not_whole_because_a_machine_failed(
    setting: Setting, seaweed: Seaweed, bucket: str, code: int
) -> None:
    setting.raw["pipeline"]["input_uri"] = f"r2://{bucket}/in/*.jsonl"
    assert setting.run_here() == 0
    seaweed.client.put_object(Bucket=bucket, Key="in/b.jsonl", Body=b'{"text": "new"}\n')

    ended = setting.runner(Machines(lambda: code, setting.run_here)).run()

    if code == NOT_READY:
        assert (ended.exit_code, ended.complete, ended.samples, ended.machines) == (0, True, 21, 2)
    else:
        assert (ended.exit_code, ended.complete, ended.samples) == (65, False, 20)
