"""The commands' texts and files, in this process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.commands import COMMANDS
from typer.testing import CliRunner

from data_bridge.cli import app
from data_bridge.cli.named import command_line
from data_bridge.cli.runs import Remembering, recalled
from data_bridge.cli.template import TEMPLATE
from data_bridge.config import Settings, load_settings
from data_bridge.errors import ConfigError
from data_bridge.events import Event, Notice, RunPlanned

HEAVY = ("boto3", "botocore", "datasets", "pyarrow", "litdata", "torch", "pydantic", "numpy", "yaml", "webdataset")


def test_there_are_commands() -> None:
    assert sorted(COMMANDS) == [
        "bench",
        "ctl",
        "finalize",
        "graph",
        "init",
        "plan",
        "report",
        "retry-failed",
        "run",
        "schema",
        "stages list",
        "stages new",
        "stages show",
        "status",
        "vast attach",
        "vast destroy",
        "vast list",
        "vast logs",
        "vast offers",
        "vast reap",
        "verify",
        "watch",
    ]


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], *([*c.split(), "--help"] for c in sorted(COMMANDS))], ids=" ".join
)
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print('loaded:', [m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr))\n"
        f"sys.argv = ['data-bridge', *{args!r}]\n"
        "from data_bridge.cli import main\n"
        "main()\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    # typer itself takes pydantic to check the values of a command
    assert done.stderr.strip() in ("loaded: []", "loaded: ['pydantic']" if args != ["--help"] else "")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_help_text_has_an_example_and_describes_every_option(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"]).output

    assert f"Example: data-bridge {command}" in shown
    undescribed = [p.name for p in COMMANDS[command].params if not getattr(p, "help", "")]
    assert undescribed == []


def test_no_arguments_show_the_help() -> None:
    shown = CliRunner().invoke(app, [])

    assert "Commands:" in shown.output


def test_init_writes_a_config_that_loads(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mine.yaml"

    shown = CliRunner().invoke(app, ["init", "--config", str(path)])

    assert shown.exit_code == 0, shown.output
    assert load_settings(path, {}).pipeline.samples_per_shard == 2048
    assert f"data-bridge plan {path}" in shown.output


def test_init_replaces_a_file_only_when_forced(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("mine")

    refused = CliRunner().invoke(app, ["init", "-c", str(path)])
    assert isinstance(refused.exception, ConfigError)
    assert path.read_text() == "mine"

    assert CliRunner().invoke(app, ["init", "-c", str(path), "--force"]).exit_code == 0
    assert path.read_text() == TEMPLATE


def test_init_where_nothing_can_be_written_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    shown = CliRunner().invoke(app, ["init", "-c", str(tmp_path / "file" / "c.yaml")])

    assert isinstance(shown.exception, ConfigError)


def test_the_command_to_go_on_with_deletes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["data-bridge", "run", "c.yaml", "--fresh", "--yes"])

    assert command_line() == "data-bridge run c.yaml"


def test_two_configs_for_one_destination_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"pipeline: {{input_uri: a, output_uri: {tmp_path}/out}}")

    shown = CliRunner().invoke(app, ["status", str(config), "--config", str(tmp_path / "none.yaml")])

    assert isinstance(shown.exception, ConfigError)
    assert "no dataset" not in shown.exception.message


def test_every_line_of_the_template_loads_when_it_is_uncommented() -> None:
    lines = []
    for line in TEMPLATE.splitlines():
        bare = line.lstrip().removeprefix("# ")
        is_setting = (
            line.lstrip().startswith("# ") and bare.split(":")[0].strip().replace("_", "").isalnum() and ":" in bare
        )
        lines.append(line.replace("# ", "", 1) if is_setting and bare.split(":")[0].strip() in KEYS else line)
    values = yaml.safe_load("\n".join(lines))

    assert set(values) >= {"pipeline", "r2", "s3"}
    assert {"input_format", "source_options", "members"} <= set(values["pipeline"])
    assert Settings.model_validate(values)


KEYS = {
    "input_format", "source_options", "split", "load_kwargs", "members", "r2", "account_id", "access_key_id",
    "secret_access_key", "bucket", "s3", "endpoint_url", "region",
}  # fmt: skip


def test_schema_is_a_json_schema_of_every_key() -> None:
    schema = json.loads(CliRunner().invoke(app, ["schema"]).output)

    assert set(schema["properties"]) == {"metrics", "pipeline", "r2", "s3", "vast"}
    pipeline = schema["$defs"]["PipelineSettings"]
    assert pipeline["additionalProperties"] is False
    assert {"input_uri", "samples_per_shard", "schema", "source_options"} <= set(pipeline["properties"])
    assert pipeline["required"] == ["input_uri"]


def test_a_plan_shows_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,two\n")
    config = tmp_path / "c.json"
    config.write_text(
        json.dumps({"pipeline": {"input_uri": str(tmp_path / "a.csv"), "output_uri": str(tmp_path / "o")}})
    )

    shown = CliRunner().invoke(app, ["plan", str(config)])

    assert shown.exit_code == 0, shown.exception
    lines = {line.split()[0]: line for line in shown.output.splitlines()}
    assert "(csv, 1 files, 20 B)" in lines["source"]
    assert "id: string, text: string" in lines["fields"]
    assert lines["done"].endswith("nothing yet")
    assert not (tmp_path / "o").exists()


def test_a_plan_shows_the_folder_and_the_format_of_every_writer(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,two\n")
    writers = [{"name": "tars"}, {"name": "chunks", "format": "litdata"}]
    pipeline = {"input_uri": str(tmp_path / "a.csv"), "output_uri": str(tmp_path / "o"), "writers": writers}
    config = tmp_path / "c.json"
    config.write_text(json.dumps({"pipeline": pipeline}))

    shown = CliRunner().invoke(app, ["plan", str(config)])

    assert shown.exit_code == 0, shown.exception
    (where,) = [line for line in shown.output.splitlines() if line.startswith("destination")]
    assert where.endswith("/o  (tars/: webdataset, chunks/: litdata)")


def test_a_run_id_names_its_destination_and_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    config = tmp_path / "c.yaml"
    config.write_text(f"pipeline: {{input_uri: {tmp_path}/a.jsonl, output_uri: {tmp_path}/out}}")
    runner = CliRunner()
    run = json.loads(runner.invoke(app, ["run", str(config), "--json"]).stdout)["run"]

    status = json.loads(runner.invoke(app, ["status", run, "--json"]).stdout)

    assert (status["run"], status["destination"]) == (run, (tmp_path / "out").as_uri())
    assert runner.invoke(app, ["verify", run]).exit_code == 0


def test_a_home_that_cannot_be_written_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    config = tmp_path / "c.yaml"
    config.write_text(f"pipeline: {{input_uri: {tmp_path}/a.jsonl, output_uri: {tmp_path}/out}}")

    shown = CliRunner().invoke(app, ["run", str(config)])

    assert shown.exit_code == 0, shown.exception
    assert "will not be known by its id on this machine" in shown.stderr
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_a_user_without_a_home_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_001)
    told: list[Event] = []
    planned = RunPlanned("0123456789abcdef", "file:///out", 1, 0, None, None, 0, 0)

    Remembering(told.append, Path("c.yaml"))(planned)

    assert [type(event) for event in told] == [Notice, RunPlanned]
    assert recalled("file:///out") is None


def test_an_unknown_run_id_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    shown = CliRunner().invoke(app, ["status", "0123456789abcdef"])

    assert isinstance(shown.exception, ConfigError)
    assert "no run 0123456789abcdef" in shown.exception.message
