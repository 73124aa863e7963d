"""The watchdog in a container by itself: it counts only when it can destroy, and no clock and no restart outwits it."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from fake_vast.machines import Container, why_not
from fake_vast.offers import offer
from fake_vast.server import Server, serving
from fake_vast.world import World

from data_bridge.compute import watchdog

pytestmark = pytest.mark.skipif(bool(why_not(sshd=False)), reason=why_not(sshd=False) or "never")
TOOLS = (
    "sh",
    "bash",
    "cat",
    "date",
    "sleep",
    "setsid",
    "nohup",
    "grep",
    "mkdir",
    "touch",
    "rm",
    "mount",
    "chmod",
    "env",
    "head",
)


class Bare(Container):
    """A container whose image has only these programs."""

    def __init__(self, *tools: str, date: str = "") -> None:
        super().__init__(sshd=False)
        bin_ = self.root / "bin"
        bin_.mkdir(parents=True)
        for tool in (*TOOLS, *tools):
            (bin_ / tool).symlink_to(_where(tool))
        if date:
            (bin_ / "date").unlink()
            (bin_ / "date").write_text(f"#!/bin/sh\n{date}\n")
            (bin_ / "date").chmod(0o755)
        # first for what `onstart` starts; namespaces are made with the machine's own programs
        self._image["BASH_ENV"] = "/root/bin/env.sh"
        (bin_ / "env.sh").write_text("case $0 in */onstart.sh) PATH=/root/bin;; esac\n")


def _where(tool: str) -> str:
    done = subprocess.run(
        ["sh", "-c", f"PATH=/usr/bin:/bin:/usr/sbin:/sbin; command -v {tool}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return os.path.realpath(done.stdout.strip())


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(World([offer(), offer()])) as running:
        yield running


def told(server: Server, **changes: float) -> dict[str, str]:
    now = time.time()
    values = {"now": now, "deadline": now + 600, "idle_s": 600, "linger_s": 600, "tick_s": 1, **changes}
    return watchdog.environment(api_url=server.url, login="ssh-ed25519 A", **values)


def rent(server: Server, machine: Container, env: dict[str, str]) -> int:
    server.world.make_machine = lambda: machine
    request = {"image": "python:3.12", "disk": 20, "env": env, "onstart": watchdog.ONSTART}
    return server.world.create(server.world.offers[0]["id"], request).id


def soon(what: Callable[[], bool], within_s: float = 15.0) -> bool:
    end = time.monotonic() + within_s
    while not what() and time.monotonic() < end:
        threading.Event().wait(0.05)
    return what()


@pytest.mark.parametrize("tool", ["curl", "python3", "wget"])
def test_it_destroys_at_the_deadline_with_whatever_the_image_has(server: Server, tool: str) -> None:
    machine = Bare(tool)

    rent(server, machine, told(server, deadline=time.time() + 3))

    assert soon(lambda: bool(server.world.calls("destroy", "instance")))  # noted once it is done
    (own,) = server.world.calls("destroy", "instance")
    assert own.status == 200
    assert server.world.living == []
    asked = [call.who for call in server.world.journal if call.method == "GET"]
    assert set(asked) == {"nobody"}, "the key was sent before it had to be"


def test_where_nothing_could_destroy_it_does_not_say_that_it_watches(server: Server) -> None:
    machine = Bare()

    rent(server, machine, told(server))

    assert soon((machine.root / ".data-bridge" / "born").exists)
    threading.Event().wait(2.5)
    assert not (machine.root / ".data-bridge" / "watchdog").exists()


def test_where_the_service_cannot_be_reached_it_does_not_say_that_it_watches(server: Server) -> None:
    machine = Bare("curl")

    rent(server, machine, {**told(server), "DATA_BRIDGE_API": "http://127.0.0.1:9"})

    assert soon((machine.root / ".data-bridge" / "born").exists)
    threading.Event().wait(2.5)
    assert not (machine.root / ".data-bridge" / "watchdog").exists()


def test_a_clock_that_is_days_behind_does_not_put_off_the_deadline(server: Server) -> None:
    machine = Bare("curl", date=f"echo $(($({_where('date')} +%s) - 864000))")

    rent(server, machine, told(server, deadline=time.time() + 3))

    assert soon(lambda: not server.world.living)


def test_a_container_that_was_started_again_has_lost_its_work_and_ends_even_if_the_old_number_lives(
    server: Server,
) -> None:
    machine = Bare("curl")
    state = machine.root / ".data-bridge"
    state.mkdir()
    (state / "started").mkdir()
    (state / "pid").write_text("1")  # some process has this number again

    rent(server, machine, told(server, linger_s=1))

    assert soon(lambda: not server.world.living)
