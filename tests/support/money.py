"""One client that rents a machine and may die at any step of it, and what is left of the money afterwards."""

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from fake_vast.faults import Boot, Fault
from fake_vast.machines import Container
from fake_vast.offers import offer
from fake_vast.server import serving
from fake_vast.world import World
from support.rented import QUICK, quick_client

from data_bridge.compute.choice import Need, ranked
from data_bridge.compute.reaping import end, held
from data_bridge.compute.rentals import Rentals
from data_bridge.compute.session import Order, VastSession
from data_bridge.compute.signals import heard
from data_bridge.config import VastSettings
from data_bridge.errors import BridgeError

STEPS = ("intending", "renting", "answered", "noted", "key sent", "running", "reached", "submitted", "ending")
Death = Literal["none", "SIGKILL", "SIGINT", "SIGTERM", "network"]
JOB = """S="$HOME/.data-bridge"; cd "$S"; setsid nohup sh -c 'echo $$ > pid; sleep 0.5; echo 0 > rc' </dev/null >/dev/null 2>&1 &"""
PATIENCE = replace(QUICK, ssh_s=20.0, idle_s=8.0)
"""Many of them at a time: a busy computer must not look like a client that submits nothing."""
WATCHED_S = 30.0
"""By then a watchdog has done its work: idle or lingering, a tick, and a busy machine."""


@dataclass(frozen=True)
class Case:
    """What goes wrong, and how and where the client dies."""

    name: str
    death: Death = "none"
    step: str = ""
    faults: tuple[Fault, ...] = ()
    boot: Boot = "runs"
    knobs: tuple[tuple[str, Any], ...] = ()

    @property
    def watched(self) -> bool:
        """Whether the machine itself can end what the client left."""
        return self.boot in ("runs", "no_ports", "proxy_only") and ("container_key", False) not in self.knobs

    def __str__(self) -> str:
        return f"{self.name}, {self.death} at {self.step}" if self.death != "none" else self.name


@dataclass
class Outcome:
    """What was left."""

    happened: bool
    """Whether the client came to the step at which it was to die."""
    left: int
    """Machines alive when all watchdogs had had their time."""
    leaked: float = -1.0
    unmatched: list[int] = field(default_factory=list)
    open: int = -1
    rented: int = 0
    loud: bool = False


def client(url: str, key: str, folder: str, pipe: Connection) -> None:
    """The process that may die: rents the cheapest, works, gives back."""
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def step(name: str) -> None:
        pipe.send(name)
        pipe.recv()

    vast, rentals = quick_client(key, url), Rentals(Path(folder))
    session = VastSession(vast, rentals, vast.account(), tell=lambda _: None, patience=PATIENCE, step=step)
    settings = VastSettings()
    try:
        with heard():
            best = ranked(vast.offers({}, bid=False, disk_gb=50), settings, Need(1e6, 1e6, 50), left_usd=None)[0]
            with session.machine(best, Order("money", "python:3.12", 50, 1.0, "c.yaml", "s3://b/p")) as link:
                link.run(JOB)
                step("submitted")
    except BridgeError as error:
        pipe.send(f"error: {error.message}")
    except KeyboardInterrupt:
        os._exit(130)


def play(case: Case, folder: Path, client: Callable[..., None] = client) -> Outcome:
    """All of a case, to the end of the last machine."""
    world = World([offer() for _ in range(6)], make_machine=Container)
    world.knobs.boot = case.boot
    for name, value in case.knobs:
        setattr(world.knobs, name, value)
    world.faults.plan(*case.faults)
    with serving(world) as server:
        happened, loud = _lived(case, world, server.url, folder, client)
        world.knobs.cut_off = False
        born = time.monotonic()
        while world.living and case.watched and time.monotonic() - born < WATCHED_S:
            threading.Event().wait(0.05)
        outcome = Outcome(happened, len(world.living), rented=len(world.instances), loud=loud)
        vast, rentals = quick_client(world.account_key, server.url), Rentals(folder)
        for one in held(vast, rentals):
            with suppress(BridgeError):
                end(vast, rentals, one, QUICK)
        labels = {r.label for r in rentals.all()}
        outcome.unmatched = [i.id for i in world.instances.values() if i.request["label"] not in labels]
        outcome.open = sum(r.open for r in rentals.all())
        outcome.leaked = world.grows_by(hours=1000)
        return outcome


def _lived(case: Case, world: World, url: str, folder: Path, client: Callable[..., None]) -> tuple[bool, bool]:
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=client, args=(url, world.account_key, str(folder), theirs), daemon=True)
    process.start()
    theirs.close()
    happened, loud = False, False
    with suppress(EOFError, OSError):
        for step in _steps(ours):
            loud = loud or step.startswith("error: MACHINE")
            if step == case.step and not happened:
                happened = True
                if case.death == "network":
                    world.knobs.cut_off = True
                else:
                    assert process.pid is not None
                    os.kill(process.pid, signal.Signals[case.death])
            if not step.startswith("error"):
                ours.send("go on")
    process.join(60)
    assert process.exitcode is not None, f"{case}: the client hangs"
    return happened, loud


def _steps(pipe: Connection) -> Iterator[str]:
    for _ in itertools.count():
        yield str(pipe.recv())
