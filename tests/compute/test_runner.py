"""Whole runs on rented machines: the fake's containers, a real sshd, a real S3 server over TLS."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from fake_vast.faults import Fault
from fake_vast.machines import why_not
from fake_vast.offers import offer
from fake_vast.server import Server, serving
from fake_vast.world import World
from support.fake_hub import session_hub
from support.kill_remote import bucket_tree
from support.rented import STEADY, Ready, quick_client
from support.seaweed import OWNER, Seaweed

from data_bridge.api import run_pipeline
from data_bridge.compute.choice import Need
from data_bridge.compute.rentals import Rentals
from data_bridge.compute.runner import Remote, VastRemoteRunner
from data_bridge.config import load_settings
from data_bridge.storage import open_store

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not() or "never"), pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]

LITTLE = Need(1e6, 1e6, 50)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(World([offer() for _ in range(5)], make_machine=Ready)) as running:
        yield running


class Setting:
    """A config whose source and destination are in a bucket, and a runner for it."""

    def __init__(self, server: Server, seaweed: Seaweed, bucket: str, place: Path) -> None:
        self.server, self.bucket, self.place = server, bucket, place
        photos = (ROOT / "configs" / "data" / "photos.parquet").read_bytes()
        seaweed.client.put_object(Bucket=bucket, Key="in/photos.parquet", Body=photos)
        quickstart = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
        quickstart["pipeline"] |= {"input_uri": f"s3://{bucket}/in/photos.parquet", "samples_per_shard": 4}
        self.raw = quickstart | {
            "s3": {"endpoint_url": seaweed.endpoint, "region": "auto", "access_key_id": OWNER[0], "secret_access_key": "${KEY}"},
            "vast": {"api_key": server.world.account_key, "api_url": server.url},
        }  # fmt: skip
        self.log = io.BytesIO()
        self.told: list[str] = []
        self.rentals = Rentals(place / "rentals")

    def config(self, destination: str) -> Path:
        self.raw["pipeline"]["output_uri"] = f"s3://{self.bucket}/{destination}"
        path = self.place / f"{destination}.yaml"
        path.write_text(yaml.safe_dump(self.raw))
        return path

    def remotely(self, destination: str, *, step: Callable[[str], None] = lambda _: None) -> Remote:
        path = self.config(destination)
        runner = VastRemoteRunner(
            quick_client(self.server.world.account_key, self.server.url), self.rentals, load_settings(path), path,
            LITTLE, tell=self.told.append, log=lambda block: (self.log.write(block), None)[1], patience=STEADY, step=step,
        )  # fmt: skip
        return runner.run()

    def here(self) -> dict[str, bytes]:
        settings = load_settings(self.config("here"))
        run_pipeline(settings, workers=0)
        return self.tree("here")

    def tree(self, destination: str) -> dict[str, bytes]:
        settings = load_settings(self.config(destination))
        return bucket_tree(open_store(f"s3://{self.bucket}/{destination}", settings))

    def everything(self, destination: str) -> dict[str, bytes]:
        """Every object but the shards, the ledger too."""
        store = open_store(f"s3://{self.bucket}/{destination}", load_settings(self.config(destination)))
        return {i.key: b"".join(store.read(i.key)) for i in store.list() if not i.key.endswith(".tar")}


@pytest.fixture
def setting(server: Server, seaweed: Seaweed, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setenv("KEY", OWNER[1])
    return Setting(server, seaweed, bucket, tmp_path)


def test_a_run_on_a_rented_machine_makes_the_same_tree_tells_no_secret_and_leaves_nothing_behind(
    setting: Setting,
) -> None:
    world = setting.server.world
    seen: dict[str, bytes] = {}

    def look(step: str) -> None:
        if step == "submitted":
            (machine,) = world.living
            seen["record"] = str(machine.record()).encode()
            for line in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    seen[str(line)] = line.read_bytes()

    ended = setting.remotely("there", step=look)

    assert ended.exit_code == 0, setting.log.getvalue().decode()
    assert (ended.complete, ended.samples, ended.machines) == (True, 40, 1)
    assert setting.tree("there") == setting.here()
    assert b"complete: 40 samples" in setting.log.getvalue()
    assert world.living == []
    assert world.grows_by() == 0
    assert [r.state for r in setting.rentals.all()] == ["gone"]
    said = {"log": setting.log.getvalue(), "told": "\n".join(setting.told).encode(), **seen}
    said |= {f"call {n}": str((c.path, c.body)).encode() for n, c in enumerate(world.journal)}
    said |= {str(p): p.read_bytes() for p in setting.place.rglob("rentals/**/*") if p.is_file()}
    said |= setting.everything("there")
    for secret in (OWNER[1], world.account_key, *(i.key for i in world.instances.values())):
        assert [where for where, text in said.items() if secret.encode() in text] == []
    assert len(seen) > 10


def test_machines_that_are_taken_away_are_replaced_and_the_bytes_are_the_same(setting: Setting) -> None:
    world = setting.server.world
    ways = iter([world.outbid, world.vanish])
    submitted: list[int] = []

    def take_away(step: str) -> None:
        if step == "submitted":
            number = world.living[-1].id
            submitted.append(number)
            way = next(ways, None)
            if way is not None:  # at once: what is lost in the middle of work is in test_elsewhere
                way(number)

    ended = setting.remotely("there", step=take_away)

    assert ended.exit_code == 0, (setting.told, setting.log.getvalue().decode())
    # one that would not start or answer is one more, and is known
    assert ended.machines == len(world.instances) >= len(submitted) >= 3
    assert setting.tree("there") == setting.here()
    assert world.living == []


def test_bad_hosts_are_given_back_and_the_next_is_taken(setting: Setting) -> None:
    world = setting.server.world
    world.knobs.boots = ("pull_failed", "container_failed", "exits")
    world.faults.plan(Fault("create", "drop_after"))
    setting.raw["vast"]["max_machines"] = 6
    world.offers += [offer(), offer()]

    ended = setting.remotely("there")

    assert ended.exit_code == 0, setting.told
    assert world.living == []
    assert len({i.offer["machine_id"] for i in world.instances.values()}) == len(world.instances)


HUB_TOKEN = "hf_token_that_nobody_may_see"


class Everywhere:
    """Every place where a secret might come to light while a run goes on elsewhere."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._over = threading.Event()
        self.seen: dict[str, bytes] = {}
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Everywhere":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.03):  # the machines' processes are among those of this one
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    self.seen.setdefault(f"{place} {hash(line := place.read_bytes())}", line)

    def __call__(self, step: str) -> None:
        """Before the machine is destroyed: its own files, those of its sshd and what the vendor tells of it."""
        if step != "ending":
            return
        for instance in self._world.living:
            self.seen["record"] = str(instance.record()).encode()
            assert isinstance(instance.machine, Ready)
            for file in instance.machine.place.rglob("*"):
                if file.is_file() and not {"venv", "uv", ".local"} & set(
                    file.parts[len(instance.machine.place.parts) :]
                ):
                    self.seen[str(file)] = file.read_bytes()


def test_a_private_dataset_of_the_hub_comes_out_as_at_home_and_no_secret_is_anywhere(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = setting.server.world
    monkeypatch.setenv("HUB_TOKEN", HUB_TOKEN)
    rows = "".join(json.dumps({"id": n, "text": f"row {n} " * 20}) + "\n" for n in range(500)).encode()
    files = {"data/train-0.jsonl": rows, "data/train-1.jsonl": rows.replace(b"row", b"line")}
    session_hub().push("org/private", files, tokens=frozenset({HUB_TOKEN}))
    setting.raw["pipeline"] = {
        "input_uri": "hf://org/private", "samples_per_shard": 100, "source_options": {"load_kwargs": {"token": "${HUB_TOKEN}"}},
    }  # fmt: skip

    with Everywhere(world) as everywhere:
        ended = setting.remotely("there", step=everywhere)

    assert (ended.exit_code, ended.samples) == (0, 1000), (setting.told, setting.log.getvalue().decode())
    assert setting.tree("there") == setting.here()
    said = {"log": setting.log.getvalue(), "told": "\n".join(setting.told).encode(), **everywhere.seen}
    said |= {f"call {n}": str((c.path, c.body)).encode() for n, c in enumerate(world.journal)}
    said |= {str(p): p.read_bytes() for p in setting.place.rglob("rentals/**/*") if p.is_file()}
    said |= setting.everything("there")
    assert any(place.endswith("/.data-bridge/config.json") for place in said)
    assert any(place.endswith("/status.json") for place in said)
    assert [where for where, line in said.items() if "cmdline" in where and b"data_bridge" in line]
    own = [instance.key for instance in world.instances.values()]
    for secret in (OWNER[1], HUB_TOKEN, world.account_key, *own):
        assert [where for where, text in said.items() if secret.encode() in text] == []
    for instance in world.instances.values():
        assert isinstance(instance.machine, Ready)
        assert not instance.machine.place.exists()
