"""`data-bridge stages`, and the package it starts."""

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support.console import data_bridge, environment
from support.readers import read_tars
from typer.testing import CliRunner

from data_bridge.cli import app
from data_bridge.cli.scaffold import scaffold
from data_bridge.errors import ConfigError
from data_bridge.stages.reference import describe
from data_bridge.stages.registry import BUILT_IN


def said(*args: str) -> str:
    done = CliRunner().invoke(app, ["stages", *args])
    assert done.exception is None, done.exception
    return done.output


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package just as `stages new` makes it."""
    done = data_bridge("stages", "new", "word-count", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / "word-count"


def test_the_list_has_a_line_for_every_kind() -> None:
    lines = said("list").splitlines()

    assert [line.split()[0] for line in lines] == sorted(BUILT_IN)
    assert all(len(line.split()) > 3 for line in lines)
    assert [kind["kind"] for kind in json.loads(said("list", "--json"))] == sorted(BUILT_IN)


@pytest.mark.parametrize("kind", sorted(BUILT_IN))
def test_what_is_shown_of_a_kind_is_all_of_its_options(kind: str) -> None:
    shown, found = said("show", kind), describe(kind)

    assert found.where in shown
    for option in found.options:
        line = next(line for line in shown.splitlines() if line.split()[:1] == [option.name])
        assert option.description.replace("`", "") in line
        assert ("live: any" in line) == (option.live == "any")
    assert json.loads(said("show", kind, "--json"))["kind"] == kind


def test_options_inside_of_options_are_shown_by_their_paths() -> None:
    assert "where.<name>.min_length" in said("show", "filter")


def test_inputs_and_outputs_that_have_names_are_shown() -> None:
    assert "\ninputs: pictures, texts; outputs: both, alone\n" in said("show", "support.stages:Captioned")


def test_commands_of_its_own_are_shown() -> None:
    assert "\ncommands:\n  restart  count from 0 on\n" in said("show", "support.live_calls:Odometer")


def test_a_kind_there_is_not_is_refused_with_the_one_that_was_meant(tmp_path: Path) -> None:
    done = data_bridge("stages", "show", "fliter", cwd=tmp_path)

    assert done.returncode == 2
    assert "did you mean `filter`?" in done.stderr


def test_the_tests_of_a_new_package_pass_at_once(package: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=package, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_its_config_runs_from_its_folder_and_from_worker_processes(package: Path) -> None:
    for workers in ("0", "2"):
        done = data_bridge("run", "example.yaml", "--workers", workers, "--fresh", "--yes", cwd=package)

        assert done.returncode == 0, done.stderr
        samples = read_tars(sorted((package / "data-bridge-out" / "example").glob("*.tar")))
        assert [json.loads(sample["json"])["words"] for sample in samples] == [7, 4]


class Installed:
    """An environment that a package was built and installed into, as a user does it, where data-bridge is as well."""

    def __init__(self, package: Path, place: Path) -> None:
        self.python = place / "bin" / "python"
        self.uv("venv", "--python", sys.executable, place)
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=package, check=True, capture_output=True
        )
        (wheel,) = (package / "dist").glob("*.whl")
        # without the network: what it depends on is lent from here
        self.uv("pip", "install", "--offline", "--no-deps", "--python", self.python, wheel)
        (self.packages,) = place.glob("lib/python*/site-packages")
        (self.packages / "lent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")

    @staticmethod
    def uv(*words: str | Path) -> None:
        subprocess.run(["uv", "-q", *words], check=True, timeout=120)

    def runs(self, *words: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
        """A module in it."""
        return subprocess.run(
            [self.python, "-m", *words], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120, check=False
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Installed, Path]:
    """A new package in an environment, and a folder with its tests and its example; what it was built from is gone."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not there: it installs the package")
    place = tmp_path_factory.mktemp("installed")
    assert data_bridge("stages", "new", "word-count", cwd=place).returncode == 0
    env, elsewhere = Installed(place / "word-count", place / "venv"), place / "elsewhere"
    shutil.copytree(place / "word-count" / "tests", elsewhere / "tests")
    shutil.copy(place / "word-count" / "example.jsonl", elsewhere)
    shutil.rmtree(place / "word-count")
    return env, elsewhere


def test_once_built_and_installed_it_passes_its_tests_and_stands_in_the_list(installed: tuple[Installed, Path]) -> None:
    env, folder = installed

    tested = env.runs("pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
    listed = env.runs("data_bridge", "stages", "list", cwd=folder)

    assert tested.returncode == 0, tested.stdout
    assert " passed" in tested.stdout
    assert "word_count " in listed.stdout


def test_once_installed_it_goes_by_its_name_by_its_module_and_by_its_file(installed: tuple[Installed, Path]) -> None:
    env, folder = installed
    shards = set[bytes]()

    for number, (kind, workers) in enumerate(
        [
            ("word_count", "0"),
            ("word_count", "2"),
            ("word_count.stage:WordCount", "2"),
            (f"{env.packages}/word_count/stage.py:WordCount", "2"),
        ]
    ):
        out = folder / f"out{number}"
        stages = [{kind: {"least": 5}}]
        pipeline = {"input_uri": "example.jsonl", "output_uri": str(out), "stages": stages, "on_error": "skip"}
        (folder / "config.json").write_text(json.dumps({"pipeline": pipeline}))

        done = env.runs("data_bridge", "run", "config.json", "--workers", workers, cwd=folder)

        assert done.returncode == 3, done.stderr  # the shorter text is a failure
        (shard,) = out.glob("*.tar")
        (sample,) = read_tars([shard])
        assert json.loads(sample["json"])["words"] == 7
        shards.add(shard.read_bytes())
    assert len(shards) == 1


def test_a_stage_goes_by_the_file_it_is_in(package: Path) -> None:
    config = package.parent / "by_file.yaml"
    config.write_text(
        "pipeline: {input_uri: word-count/example.jsonl, output_uri: out, "
        "stages: ['word-count/word_count/stage.py:WordCount': {}]}"
    )

    done = data_bridge("run", config, "--workers", "0", cwd=package.parent)

    assert done.returncode == 0, done.stderr


def test_a_run_does_not_go_on_with_other_code_of_a_stage(package: Path) -> None:
    assert data_bridge("run", "example.yaml", "--workers", "0", cwd=package).returncode == 0
    stage = package / "word_count" / "stage.py"
    stage.write_text(stage.read_text().replace("len(text.split())", "len(text)"))

    again = data_bridge("run", "example.yaml", "--workers", "0", cwd=package)

    assert again.returncode == 2
    assert "word_count.stage:WordCount" in again.stderr


@pytest.mark.parametrize("name", ["", "Word", "1st", "a b", "a/b", "class", "-a", "a--b"])
def test_what_cannot_be_the_name_of_a_package_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name"):
        scaffold(name)


@pytest.mark.parametrize("name", ["json", "data-bridge", "numpy"])
def test_a_package_that_would_stand_before_another_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="already"):
        scaffold(name)


def test_a_folder_that_holds_something_is_left_alone(package: Path) -> None:
    again = data_bridge("stages", "new", "word-count", cwd=package.parent)

    assert again.returncode == 2
    assert "exists already" in again.stderr
