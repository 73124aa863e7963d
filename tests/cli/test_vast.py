"""`--use-vast` and `vast` from the command line, against the fake."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fake_vast.offers import offer
from fake_vast.server import Server, serving
from fake_vast.world import World
from support.console import data_bridge
from support.rented import quick_client

from data_bridge.cli import words

REQUEST = {"image": "python:3.12", "disk": 20, "label": "data-bridge:x:1"}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(World([offer(), offer(dph_base=0.35, inet_up_cost=0.05), offer(dph_base=9.0)])) as running:
        yield running


@pytest.fixture
def config(server: Server, tmp_path: Path) -> Path:
    (tmp_path / "in.jsonl").write_text('{"a": 1}\n' * 10)
    values = {
        "pipeline": {"input_uri": str(tmp_path / "in.jsonl"), "output_uri": "s3://b/out"},
        "s3": {"endpoint_url": "https://127.0.0.1:9", "access_key_id": "KEY", "secret_access_key": "storage-secret"},
        "vast": {"api_key": "${VAST_API_KEY}", "api_url": server.url},
    }
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def env(server: Server, home: Path) -> dict[str, str]:
    return {"VAST_API_KEY": server.world.account_key, "HOME": str(home)}


def test_what_is_rented_is_listed_and_destroyed_only_with_yes(server: Server, config: Path, tmp_path: Path) -> None:
    world, vast = server.world, quick_client(server.world.account_key, server.url)
    mine = vast.rent(world.offers[0]["id"], REQUEST).id
    other = vast.rent(world.offers[1]["id"], {**REQUEST, "label": "somebody else's"}).id
    words = ("--config", config)

    listed = data_bridge("vast", "list", *words, cwd=tmp_path, env=env(server, tmp_path))
    shown = data_bridge("vast", "reap", *words, cwd=tmp_path, env=env(server, tmp_path))
    alive = [i.id for i in world.living]
    done = data_bridge("vast", "reap", "--yes", *words, cwd=tmp_path, env=env(server, tmp_path))

    assert listed.returncode == 0, listed.stderr
    assert str(mine) in listed.stdout
    assert str(other) not in listed.stdout
    assert f"would destroy  {mine}" in shown.stdout
    assert alive == [mine, other]
    assert done.returncode == 0, done.stderr
    assert [i.id for i in world.living] == [other]


def test_a_list_that_fails_is_not_an_empty_one(server: Server, config: Path, tmp_path: Path) -> None:
    wrong = {**env(server, tmp_path), "VAST_API_KEY": "wrong-key-wrong"}

    done = data_bridge("vast", "list", "--config", config, cwd=tmp_path, env=wrong)

    assert done.returncode == 2
    assert "refuses the key" in done.stderr
    assert "nothing is rented" not in done.stdout


def test_a_source_on_this_machine_is_refused_before_anything_is_asked_or_rented(
    server: Server, config: Path, tmp_path: Path
) -> None:
    raw = yaml.safe_load(config.read_text())
    raw["pipeline"]["output_uri"] = str(tmp_path / "out")
    config.write_text(yaml.safe_dump(raw))

    done = data_bridge("run", config, "--use-vast", "--yes", cwd=tmp_path, env=env(server, tmp_path))

    assert done.returncode == 2
    assert "is on this machine" in done.stderr
    assert server.world.journal == []


def test_without_a_key_it_says_where_to_put_one(tmp_path: Path) -> None:
    done = data_bridge("vast", "list", cwd=tmp_path, env={"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)})

    assert done.returncode == 2
    assert "VAST_API_KEY" in done.stderr


def test_the_vendors_own_key_file_is_found(server: Server, config: Path, tmp_path: Path) -> None:
    raw = yaml.safe_load(config.read_text())
    del raw["vast"]["api_key"]
    config.write_text(yaml.safe_dump(raw))
    (tmp_path / "vastai").mkdir()
    (tmp_path / "vastai" / "vast_api_key").write_text(server.world.account_key + "\n")

    done = data_bridge(
        "vast", "list", "-c", config, cwd=tmp_path, env={"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    )

    assert (done.returncode, done.stdout) == (0, "nothing is rented\n"), done.stderr


def test_what_a_run_elsewhere_writes_comes_in_whole_lines_without_secrets_or_commands_to_the_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "_hidden", {"storage-secret"})
    relay = words.Relay()

    for part in (b"caf\xc3", b"\xa9 stor", b"age-secret\r\n\x1b]0;owned\x07", b"last"):
        relay(part)
    first = capfd.readouterr().err
    relay.flush()

    assert first == "caf\u00e9 ***\n"
    assert capfd.readouterr().err == "?]0;owned?last\n"
