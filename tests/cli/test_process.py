"""What the console script does as a process: exit codes, signals, streams, secrets."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from support.console import SCRIPT, data_bridge, started, until
from support.corpus import write_jsonl
from support.http_server import HttpServer, http_server
from support.kill import tree
from support.readers import read_json_samples

from data_bridge.cli import main
from data_bridge.config import load_settings
from data_bridge.pipelines.base import Pipeline
from data_bridge.storage import open_store
from data_bridge.utils.progress import ProgressTracker

__all__ = ["http_server"]

SECRET = "s3cret-0123456789"


def config(folder: Path, name: str = "c.yaml", blocks: dict[str, object] | None = None, **pipeline: object) -> Path:
    values = {"input_uri": "source.jsonl", "output_uri": "out", "samples_per_shard": 50, "workers": 0, **pipeline}
    path = folder / name
    path.write_text(yaml.safe_dump({"pipeline": values, **(blocks or {})}))
    return path


@pytest.fixture
def here(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "source.jsonl", 120)
    config(tmp_path)
    return tmp_path


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Ended]


@pytest.fixture
def call(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command in this process, by the scripts' own entry point."""
    monkeypatch.chdir(here)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["data-bridge", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture
def running() -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes to be gone after the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        with process:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_a_finished_run_exits_0_and_says_where_and_how_to_read_it(here: Path) -> None:
    done = data_bridge("run", "c.yaml", cwd=here)

    assert done.returncode == 0, done.stderr
    assert "complete: 120 samples in 3 shards" in done.stdout
    assert f"file://{here}/out" in done.stdout
    assert "webdataset.WebDataset(" in done.stdout
    assert len(read_json_samples(here / "out")) == 120


def test_both_scripts_and_the_module_are_one_program(here: Path) -> None:
    version = data_bridge("--version", cwd=here)
    other = data_bridge("--version", cwd=here, script=SCRIPT.with_name("train-data-bridge"))
    module = subprocess.run([sys.executable, "-m", "data_bridge", "--version"], capture_output=True, text=True, check=True)  # fmt: skip

    assert version.stdout.startswith("data-bridge ")
    assert version.stdout == other.stdout == module.stdout


def test_a_bad_sample_exits_1_with_place_and_hint(here: Path) -> None:
    write_jsonl(here / "source.jsonl", 60, bad_every=55)

    done = data_bridge("run", "c.yaml", cwd=here)

    assert done.returncode == 1
    assert done.stdout == ""
    assert "source.jsonl line 55" in done.stderr
    assert "\nhint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_left_out_samples_exit_3(here: Path) -> None:
    write_jsonl(here / "source.jsonl", 60, bad_every=20)
    config(here, on_error="quarantine")

    done = data_bridge("run", "c.yaml", cwd=here)

    assert done.returncode == 3
    assert "completed with failures: 57 samples" in done.stdout
    assert "failed:      3 samples" in done.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run", "none.yaml"], "no config file at none.yaml"),
        (["run"], "name one config file"),
        (["plan", "c.yaml", "--config", "c.yaml"], "once, not twice"),
        (["run", "c.yaml", "--limit", "0"], "--limit"),
        (["run", "c.yaml", "--workers", "x"], "--workers"),
        (["rnu", "c.yaml"], "run"),
        (["run", "c.yaml", "--frehs"], "--fresh"),
        (["status", "nowhere"], "no dataset at "),
        (["verify", "nowhere"], "no manifest.json at "),
        (["status", "ftp://host/x"], "unknown kind of destination"),
    ],
)
def test_what_cannot_be_meant_exits_2_and_says_what_to_do(call: Call, here: Path, args: list[str], said: str) -> None:
    done = call(*args)

    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in here.iterdir()) == ["c.yaml", "source.jsonl"]


def test_config_problems_exit_2_all_at_once(call: Call, here: Path) -> None:
    config(here, sampels_per_shard=3, on_error="explode")

    done = call("run", "--config", "c.yaml")

    assert done.returncode == 2
    assert "sampels_per_shard: unknown key, did you mean `samples_per_shard`?" in done.stderr
    assert "pipeline.on_error: " in done.stderr


def test_work_that_another_process_holds_exits_75_and_names_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    pipeline = Pipeline(load_settings(here / "c.yaml"), open_store(str(here / "out"), load_settings(here / "c.yaml")))
    plan = pipeline.prepare()
    tracker = ProgressTracker(pipeline.ledger, plan.partitions[0])
    tracker.claim()

    done = data_bridge("run", "c.yaml", cwd=here)

    tracker.release()
    assert done.returncode == 75, done.stderr
    assert f"process {os.getpid()}" in done.stderr
    assert "\nhint: " in done.stderr
    assert list(here.glob("out/*.tar")) == []


@pytest.mark.parametrize("workers", ["0", "2"])
def test_one_interrupt_exits_130_and_the_same_command_goes_on(
    call: Call, here: Path, workers: str, running: list["subprocess.Popen[str]"]
) -> None:
    expected = write_jsonl(here / "source.jsonl", 400)
    config(here, samples_per_shard=2, partition_bytes="40kB")
    process = started("run", "c.yaml", "--workers", workers, cwd=here)
    running.append(process)
    until(lambda: any(here.glob("out/*.tar")), process)

    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)

    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "stopped: " in stdout
    assert f"to go on: data-bridge run c.yaml --workers {workers}" in stdout
    assert not (here / "out" / "manifest.json").exists()

    again = data_bridge("run", "c.yaml", "--workers", workers, cwd=here)

    assert again.returncode == 0, again.stderr
    assert read_json_samples(here / "out") == expected
    config(here, samples_per_shard=2, partition_bytes="40kB", output_uri="undisturbed")
    assert call("run", "c.yaml").returncode == 0
    assert tree(here / "out") == tree(here / "undisturbed")


@pytest.mark.parametrize(
    "args",
    [
        ("plan", "c.yaml"),
        ("run", "c.yaml"),
        ("run", "c.yaml", "--dry-run"),
        ("status", "c.yaml"),
        ("status", "out"),
        ("verify", "out", "--deep"),
    ],
)
def test_json_is_all_that_stands_on_standard_output(call: Call, here: Path, args: tuple[str, ...]) -> None:
    if args[0] in ("status", "verify"):
        call("run", "c.yaml")

    done = call(*args, "--json")

    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert report["destination"] == f"file://{here}/out"


def test_json_of_a_run_tells_its_exit_code(call: Call, here: Path) -> None:
    write_jsonl(here / "source.jsonl", 60, bad_every=20)
    config(here, on_error="skip")

    done = call("run", "c.yaml", "--json")

    report = json.loads(done.stdout)
    assert done.returncode == report["exit_code"] == 3
    assert (report["status"], report["samples"], report["failed"]) == ("completed_with_failures", 57, 3)


def test_an_error_leaves_standard_output_empty_with_json_too(call: Call, here: Path) -> None:
    write_jsonl(here / "source.jsonl", 60, bad_every=20)

    done = call("run", "c.yaml", "--json")

    assert done.returncode == 1
    assert done.stdout == ""
    assert "error: " in done.stderr


def test_a_dry_run_writes_nothing(call: Call, here: Path) -> None:
    before = sorted(here.rglob("*"))

    done = call("run", "c.yaml", "--dry-run")

    assert done.returncode == 0
    assert "samples      about" in done.stdout
    assert sorted(here.rglob("*")) == before


def test_fresh_does_not_delete_unasked(call: Call, here: Path) -> None:
    call("run", "c.yaml")
    before = tree(here / "out")

    refused = call("run", "c.yaml", "--fresh")

    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert tree(here / "out") == before

    config(here, samples_per_shard=60)
    assert call("run", "c.yaml", "--fresh", "--dry-run").returncode == 0
    assert tree(here / "out") == before
    assert call("run", "c.yaml", "--fresh", "--yes").returncode == 0
    assert len(list((here / "out").glob("*.tar"))) == 2


def test_fresh_asks_nothing_where_nothing_is(call: Call, here: Path) -> None:
    assert call("run", "c.yaml", "--fresh").returncode == 0


def test_a_changed_config_exits_2_with_the_difference(call: Call, here: Path) -> None:
    call("run", "c.yaml")
    config(here, samples_per_shard=60)

    done = call("run", "c.yaml")

    assert done.returncode == 2
    assert "-samples_per_shard: 50" in done.stderr
    assert "+samples_per_shard: 60" in done.stderr


@pytest.mark.parametrize("run", ["c.yaml", "out", "file://{here}/out"])
def test_status_and_verify_take_a_config_or_a_destination(call: Call, here: Path, run: str) -> None:
    call("run", "c.yaml")
    run = run.format(here=here)

    status = call("status", run)
    verify = call("verify", run, "--deep")

    assert status.returncode == verify.returncode == 0
    assert "complete" in status.stdout
    assert "120" in status.stdout
    assert verify.stdout.rstrip().endswith("sound")


def test_damage_makes_verify_exit_1_and_name_the_shard(call: Call, here: Path) -> None:
    call("run", "c.yaml")
    (here / "out" / "000001.tar").unlink()

    done = call("verify", "out")

    assert done.returncode == 1
    assert "000001.tar: missing" in done.stdout


def test_a_prefix_and_a_limit_name_a_dataset_of_their_own(call: Call, here: Path) -> None:
    done = call("run", "c.yaml", "--prefix", "small", "--limit", "70")

    assert done.returncode == 0, done.stderr
    assert len(read_json_samples(here / "out" / "small")) == 70
    assert call("verify", "c.yaml", "--prefix", "small").returncode == 0


def test_no_secret_is_printed_stored_or_visible_in_the_process_list(
    here: Path, http_server: HttpServer, running: list["subprocess.Popen[str]"]
) -> None:
    site = http_server.serve("/source.jsonl", (here / "source.jsonl").read_bytes())
    config(
        here,
        blocks={"s3": {"secret_access_key": "${KEY}", "access_key_id": SECRET}, "vast": {"api_key": SECRET}},
        input_uri=f"{site.url}?X-Amz-Signature=${{KEY}}",
        samples_per_shard=1,
        partition_bytes="10kB",
    )
    process = started("run", "c.yaml", "--workers", "2", cwd=here, env={"KEY": SECRET})
    running.append(process)
    until(lambda: any(here.glob("out/*.tar")), process)

    seen = [arg for p in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)] for arg in p.cmdline()]  # fmt: skip
    stdout, stderr = process.communicate(timeout=60)

    assert process.returncode == 0, stderr
    assert SECRET not in " ".join(seen)
    assert SECRET not in stdout + stderr
    assert [p for p in (here / "out").rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()] == []


@pytest.mark.parametrize("command", ["plan", "run"])
def test_no_secret_is_in_an_error(call: Call, here: Path, http_server: HttpServer, command: str) -> None:
    gone = http_server.origin + "/gone.jsonl"
    config(here, input_uri=f"{gone}?X-Amz-Signature={SECRET}&sig={SECRET}")
    missing = call(command, "c.yaml")
    keys = {"endpoint_url": http_server.origin, "region": "auto", "access_key_id": SECRET, "secret_access_key": SECRET}
    http_server.serve("/bucket", b"", status=403)
    http_server.serve("/bucket/out", b"", status=403)
    config(here, blocks={"s3": keys}, output_uri="s3://bucket/out")
    refused = call(command, "c.yaml")

    assert missing.returncode == 2
    assert gone in missing.stderr
    assert SECRET not in missing.stdout + missing.stderr
    assert refused.returncode in (1, 2)
    assert "error: " in refused.stderr
    assert SECRET not in refused.stdout + refused.stderr
