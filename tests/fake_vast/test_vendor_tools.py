"""The fake is taken for the service by the vendor's own command line, and its containers are real."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_vast.machines import Container, why_not
from fake_vast.offers import offer
from fake_vast.server import Server, serving
from fake_vast.world import World

ROOT = Path(__file__).parents[2]
VASTAI = ROOT / ".venv-vastai" / "bin" / "vastai"
needs_vastai = pytest.mark.skipif(not VASTAI.exists(), reason="`.ci/vastai` makes the vendor's environment")
needs_containers = pytest.mark.skipif(bool(why_not()), reason=why_not() or "never")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(World([offer(), offer(dph_base=0.3)])) as running:
        yield running


def vastai(server: Server, *words: str, home: Path) -> str:
    env = {**os.environ, "VAST_URL": server.url, "VAST_API_KEY": server.world.account_key, "HOME": str(home),
           "VASTAI_NO_UPDATE_CHECK": "1"}  # fmt: skip
    done = subprocess.run([VASTAI, *words], env=env, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


@needs_vastai
def test_the_vendors_command_line_lists_rents_and_destroys(server: Server, tmp_path: Path) -> None:
    world = server.world

    offers = json.loads(vastai(server, "search", "offers", "num_gpus=1", "--raw", home=tmp_path))
    assert {o["id"] for o in offers} == {o["id"] for o in world.offers}

    words = ["create", "instance", str(offers[0]["id"]), "--image", "python:3.12", "--disk", "20", "--raw"]
    made = json.loads(vastai(server, *words, home=tmp_path))["new_contract"]
    assert [i.id for i in world.living] == [made]
    assert [i["id"] for i in json.loads(vastai(server, "show", "instances", "--raw", home=tmp_path))] == [made]

    vastai(server, "destroy", "instance", str(made), "-y", home=tmp_path)
    assert world.living == []
    assert world.grows_by(hours=1000) == 0


@needs_containers
def test_a_container_hides_the_owners_home_and_dies_with_all_it_started() -> None:
    container = Container()
    try:
        marker = container.root / "survivor"
        onstart = 'ls -A /root > /root/seen; setsid nohup sh -c "echo $CONTAINER_ID > /root/survivor; sleep 600" &'
        container.start({"CONTAINER_ID": "7"}, onstart, [])
        until = subprocess.run(
            ["timeout", "20", "sh", "-c", f"until [ -s {marker} ]; do sleep 0.02; done"], check=False
        )
        assert until.returncode == 0, container.log()
        pid = container.pid
        assert marker.read_text().strip() == "7"
        assert set((container.root / "seen").read_text().split()) <= {".ssh", ".no_auto_tmux", "seen"}
    finally:
        container.kill()
    assert not Path(f"/proc/{pid}").exists()


def test_an_offer_is_gone_once_it_is_taken_and_the_bill_ends_with_the_instance(server: Server) -> None:
    world = server.world
    made = world.create(world.offers[0]["id"], {"image": "python:3.12", "disk": 20})

    assert world.grows_by(hours=1) > 0
    made.destroy()

    assert world.grows_by(hours=1000) == 0
    with pytest.raises(Exception, match=r"invalid_args|no_such_ask"):
        world.create(world.offers[0]["id"], {"image": "python:3.12", "disk": 20})
