"""How several machines of one command end when one of them goes wrong, told by machines that run nothing."""

import _thread
import json
import re
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_vast.faults import Fault
from fake_vast.offers import offer
from fake_vast.server import Server, serving
from fake_vast.world import World
from support.console import data_bridge
from support.rented import QUICK, quick_client
from support.seaweed import OWNER, Seaweed

from data_bridge import api
from data_bridge.compute.choice import Candidate, Need
from data_bridge.compute.fleet import VastFleet
from data_bridge.compute.rentals import Rentals
from data_bridge.compute.ssh import Link
from data_bridge.config import load_settings
from data_bridge.errors import ConfigError, FatalError, RetryableError
from data_bridge.model.rental import Address

pytestmark = pytest.mark.timeout(60)
Work = Callable[[], int]
IMPATIENT = replace(QUICK, destroy_s=0.3)


class Far:
    """Ways to machines on which a slice's run is what the test says: an exit code, or an error on the way to it."""

    def __init__(self, **works: Work) -> None:
        self._works = works

    def __call__(self, address: Address, name: str, folder: Path) -> Link:
        return _Way(self._works)


class _Way:
    def __init__(self, works: dict[str, Work]) -> None:
        self._works, self._slice, self._code = works, "", b""

    def run(self, script: str, stdin: bytes = b"", *, timeout_s: float = 60.0) -> bytes:
        if match := re.search(r"--slice (\d)/\d", script):
            self._slice = f"s{match[1]}"
        return self._code

    def stream(self, script: str) -> Generator[bytes]:
        yield b""
        if "events.jsonl" in script:
            return
        self._code = str(self._works[self._slice]()).encode()
        yield b""


class Setting:
    """A source of several partitions, and fleets of two for it."""

    def __init__(self, server: Server, seaweed: Seaweed, bucket: str, place: Path) -> None:
        self.world, self._server, self.place = server.world, server, place
        lines = "".join(json.dumps({"id": i, "text": "word " * 40}) + "\n" for i in range(100))
        seaweed.client.put_object(Bucket=bucket, Key="in/a.jsonl", Body=lines.encode())
        self.raw: dict[str, Any] = {
            "pipeline": {"input_uri": f"s3://{bucket}/in/*.jsonl", "output_uri": f"s3://{bucket}/out", "partition_bytes": 9_000},
            "s3": {"endpoint_url": seaweed.endpoint, "region": "auto", "access_key_id": OWNER[0], "secret_access_key": OWNER[1]},
            "vast": {"api_key": server.world.account_key, "api_url": server.url},
        }  # fmt: skip
        self.told: list[str] = []
        self.rentals = Rentals(place / "rentals")

    def config(self) -> Path:
        path = self.place / "c.yaml"
        path.write_text(yaml.safe_dump(self.raw))
        return path

    def work(self, part: str) -> int:
        """The slice, done as a machine would."""
        done = data_bridge("run", self.config(), "--slice", part, "--workers", "0", cwd=self.place)
        assert done.returncode == 0, done.stderr
        return 0

    def fleet(self, far: Far) -> VastFleet:
        settings = load_settings(self.config())
        return VastFleet(
            quick_client(self.world.account_key, self._server.url), self.rentals, settings, self.config(),
            Need(1e6, 1e6, 50), machines=2, tell=self.told.append, log=lambda _: lambda _: None, reach=far,
            partitions=api.plan(settings).partitions, finish=partial(api.finalize, settings), patience=IMPATIENT,
        )  # fmt: skip


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(World([offer() for _ in range(6)])) as running:
        yield running


@pytest.fixture
def setting(server: Server, seaweed: Seaweed, bucket: str, tmp_path: Path) -> Setting:
    return Setting(server, seaweed, bucket, tmp_path)


def test_a_machine_that_cannot_be_destroyed_is_told_although_the_dataset_is_whole(setting: Setting) -> None:
    setting.world.faults.plan(Fault("destroy", "refused", 10_000))
    fleet = setting.fleet(Far(s1=partial(setting.work, "1/2"), s2=partial(setting.work, "2/2")))

    with pytest.raises(FatalError, match="MAY STILL COST MONEY"):
        fleet.run(fleet.candidates())

    assert sum("MAY STILL COST MONEY" in line for line in setting.told) == 2, "each machine has to be named"
    assert api.status(fleet.destination, load_settings(setting.config())).complete


def test_a_machine_that_cannot_be_destroyed_is_told_when_the_run_was_stopped(setting: Setting) -> None:
    setting.world.faults.plan(Fault("destroy", "refused", 10_000))
    working = threading.Barrier(2, action=_thread.interrupt_main)

    def work() -> int:
        working.wait(20)
        raise KeyboardInterrupt

    fleet = setting.fleet(Far(s1=work, s2=work))

    with pytest.raises(KeyboardInterrupt):
        fleet.run(fleet.candidates())

    assert sum("MAY STILL COST MONEY" in line for line in setting.told) == 2


def test_slices_that_all_wait_for_an_offer_do_not_wait_for_each_other(setting: Setting) -> None:
    setting.world.offers[2:] = []
    both = threading.Barrier(2)

    def vanish() -> int:
        if both.wait(20) == 0:
            for one in list(setting.world.living):
                setting.world.vanish(one.id)
        both.wait(20)
        raise FatalError("it is gone")

    fleet = setting.fleet(Far(s1=vanish, s2=vanish))

    with pytest.raises(RetryableError, match=r"none of \d offers"):
        fleet.run(fleet.candidates())


@pytest.mark.parametrize("destroyed", [True, False])
def test_what_a_slice_that_failed_has_spent_or_may_yet_spend_is_not_there_for_the_others(
    setting: Setting, *, destroyed: bool
) -> None:
    for row in setting.world.offers:
        row["dph_base"] = row["dph_total"] = 36_000.0  # ten dollars a second
    setting.raw["vast"] |= {"budget_usd": 20_000.0, "max_price_usd_hour": 40_000.0}
    if not destroyed:
        setting.world.faults.plan(Fault("destroy", "refused", 10_000))

    def fail() -> int:
        threading.Event().wait(0.3)
        raise ConfigError("the key is refused")

    fleet = setting.fleet(Far(s1=fail, s2=lambda: 1))

    with pytest.raises((ConfigError, FatalError)):
        fleet.run(fleet.candidates())

    left = sum(fleet._purse.left(part) or 0.0 for part in ("1/2", "2/2"))
    spent = [r.usd_hour * ((r.ended or r.deadline) - r.created) / 3600 for r in setting.rentals.all()]
    assert len(spent) == 2
    assert left <= 20_000.0 - sum(spent) + 1.0


def test_stopped_while_the_slices_are_handed_out_those_at_work_are_ended(setting: Setting) -> None:
    begun = threading.Event()

    class Interrupted(list[Candidate]):
        asked = 0

        def __iter__(self) -> Iterator[Candidate]:
            self.asked += 1
            one, *_ = list(super().__iter__())
            yield one
            if self.asked > 1:
                begun.wait(20)
                raise KeyboardInterrupt

    def for_ever() -> int:
        begun.set()
        return 1

    class Endless(Far):
        def __call__(self, address: Address, name: str, folder: Path) -> Link:
            return _Endless(self._works)

    class _Endless(_Way):
        def stream(self, script: str) -> Generator[bytes]:
            begun.set()
            while True:
                threading.Event().wait(0.05)
                yield b""

    fleet = setting.fleet(Endless(s1=for_ever, s2=for_ever))
    chosen: Sequence[Candidate] = Interrupted(fleet.candidates())

    with pytest.raises(KeyboardInterrupt):
        fleet.run(chosen)

    assert setting.world.living == []


@pytest.mark.parametrize("code", [0, 65])
def test_slices_that_are_done_have_work_again_when_the_source_has_grown(
    setting: Setting, seaweed: Seaweed, bucket: str, code: int
) -> None:
    for part in ("1/2", "2/2"):
        setting.work(part)
    settings = load_settings(setting.config())
    assert api.finalize(settings).samples == 100
    more = "".join(json.dumps({"id": i, "text": "word " * 40}) + "\n" for i in range(100, 200))
    seaweed.client.put_object(Bucket=bucket, Key="in/b.jsonl", Body=more.encode())

    def work(part: str) -> int:
        return setting.work(part) if code == 0 else code

    fleet = setting.fleet(Far(s1=partial(work, "1/2"), s2=partial(work, "2/2")))
    ended = fleet.run(fleet.candidates())

    assert (ended.exit_code, ended.complete, ended.samples) == ((0, True, 200) if code == 0 else (65, False, 100))
