"""`data-bridge ctl`: what is typed becomes a request, what comes back becomes words and an exit code."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.console import data_bridge, started, until

from data_bridge.cli.ctl import request, value_of
from data_bridge.config import load_settings
from data_bridge.errors import ConfigError

CALLS = """
import time
from pathlib import Path

def twice(row, factor=1):
    while row["id"] == 1500 and not Path("gate").exists():
        time.sleep(0.01)
    return {**row, "id": row["id"] * factor}
"""
AMP = """
from data_bridge.runtime.stage import Stage, StageOptions

class Amp(Stage[StageOptions]):
    kind = "amp"
    commands = {"gain": "multiply by VALUE from here on"}
    questions = {"loudness": "the product of all gains"}
    loudness = 1

    def control(self, request):
        if request.command == "loudness":
            return {"loudness": self.loudness}
        if request.value == 0:
            raise ValueError("nothing would be heard")
        self.loudness *= request.value
        return {}

    def process(self, batch):
        return batch.each(lambda row: {**row, "loud": self.loudness})
"""


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["pause"], ("pause", None, None, None)),
        (["set", "lower", "width", "3"], ("set", "lower", "width", 3)),
        (["set", "lower", "names", '["a", 1]'], ("set", "lower", "names", ["a", 1])),
        (["set", "lower", "name", "plain text"], ("set", "lower", "name", "plain text")),
        (["set", "lower", "on", "true"], ("set", "lower", "on", True)),
        (["bypass", "lower"], ("bypass", "lower", None, None)),
        (["describe"], ("describe", None, None, None)),
        (["describe", "lower"], ("describe", "lower", None, None)),
        (["flush", "lower"], ("flush", "lower", None, None)),
    ],
)
def test_words_are_a_request(typed: list[str], meant: tuple[Any, ...]) -> None:
    assert request(typed[0], typed[1:]) == meant


@pytest.mark.parametrize(
    "typed", [["pause", "x"], ["set", "a", "b"], ["bypass"], ["describe", "a", "b"], ["x", *"abcd"]]
)
def test_too_few_and_too_many_words_are_refused(typed: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"`{typed[0]}` takes") as raised:
        request(typed[0], typed[1:])
    assert raised.value.hint.startswith(f"write data-bridge ctl RUN {typed[0]}")


def test_a_large_value_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "coeffs.json").write_text("[0.25, 0.5]")

    assert value_of(f"@{tmp_path}/coeffs.json") == [0.25, 0.5]


@pytest.mark.parametrize("content", ["[0.25", None])
def test_a_file_that_holds_no_value_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "c").write_text(content)

    with pytest.raises(ConfigError, match="holds no value"):
        value_of(f"@{tmp_path}/c")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """A folder where a run works, and waits at its 1500th sample for a file named `gate`."""
    pq.write_table(pa.table({"id": range(2000)}), tmp_path / "source.parquet", row_group_size=100)
    (tmp_path / "calls.py").write_text(CALLS)
    (tmp_path / "amp.py").write_text(AMP)
    pipeline = {
        "input_uri": "source.parquet",
        "output_uri": "out",
        "samples_per_shard": 50,
        "workers": 0,
        "stages": [{"map": {"call": "calls.py:twice"}, "name": "twice"}, {"amp.py:Amp": {}}],
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"pipeline": pipeline}))
    process = started("run", "c.yaml", cwd=tmp_path)
    with process:
        try:
            until(lambda: len(list((tmp_path / "out").glob("*.tar"))) > 20, process)
            yield tmp_path
        finally:
            (tmp_path / "gate").touch()
            process.communicate(timeout=60)


def ctl(here: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return data_bridge("ctl", *words, cwd=here)


def test_a_run_is_paused_looked_at_changed_and_resumed_from_another_terminal(here: Path) -> None:
    paused = ctl(here, "c.yaml", "pause")
    described = ctl(here, "out", "describe", "--json")
    told = ctl(here, "out", "describe")
    run = json.loads(described.stdout)["engine"]["run"]
    refused = ctl(here, run, "set", "twice", "arguments", "7")
    changed = ctl(here, run, "set", "twice", "arguments", '{"factor": 2}')
    exported = ctl(here, run, "export-config")
    unknown = ctl(here, run, "flush")
    resumed = ctl(here, run, "resume")

    assert paused.returncode == 0
    assert paused.stdout.startswith("paused: nothing more is read")
    assert json.loads(described.stdout)["engine"]["state"] == "paused"
    assert f"engine  run {run} is paused" in told.stdout
    assert "twice  (map)\n" in told.stdout
    assert "  arguments = {}  (live)" in told.stdout
    assert '  call = "calls.py:twice"  (fixed)' in told.stdout
    assert refused.returncode == 2
    assert "twice: arguments: Input should be an object" in refused.stderr
    assert changed.stdout == "twice: accepted, from the next packet on\n"
    (here / "exported.yaml").write_text(exported.stdout)
    assert load_settings(here / "exported.yaml").pipeline.stages[0].options["arguments"] == {"factor": 2}
    assert unknown.returncode == 2
    assert "nobody understands 'flush'" in unknown.stderr
    assert (resumed.returncode, resumed.stdout) == (0, "resumed\n")


def test_a_stage_is_told_a_command_of_its_own_from_another_terminal(here: Path) -> None:
    told = ctl(here, "c.yaml", "gain", "amp", "all", "3")
    refused = ctl(here, "c.yaml", "gain", "amp", "all", "0")
    asked = ctl(here, "c.yaml", "loudness")
    described = ctl(here, "c.yaml", "describe")
    unknown = ctl(here, "c.yaml", "gain", "twice", "all", "3")

    assert (told.returncode, told.stdout) == (0, "amp: accepted, from the next packet on\n")
    assert refused.returncode == 2
    assert "amp: nothing would be heard" in refused.stderr
    assert (asked.returncode, asked.stdout) == (0, 'amp: {"loudness": 3}\n')
    assert "  gain: multiply by VALUE from here on\n  loudness: the product of all gains\n" in described.stdout
    assert "  changed: amp: gain all 3\n" in described.stdout
    assert unknown.returncode == 2
    assert "twice does not understand 'gain'" in unknown.stderr


@pytest.mark.parametrize(
    ("run", "said"),
    [("nowhere", "no dataset at "), ("0123456789abcdef", "run 0123456789abcdef does not listen on this machine")],
)
def test_a_run_that_does_not_listen_is_an_error(tmp_path: Path, run: str, said: str) -> None:
    done = data_bridge("ctl", run, "pause", cwd=tmp_path)

    assert done.returncode == 2
    assert said in done.stderr
    assert "\nhint: " in done.stderr
