"""What the documents say is so: every example loads, plans or runs, and every command and setting is told."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.commands import COMMANDS
from support.console import data_bridge, environment
from support.readers import read_tars

import data_bridge as package
from data_bridge import api
from data_bridge.config import Settings, load_settings
from data_bridge.config.reference import markdown

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGS = sorted(p for p in (ROOT / "configs").iterdir() if p.suffix in (".yaml", ".toml", ".json"))
README = DOCUMENTS[0].read_text(encoding="utf-8")
PRODUCTS = [*DOCUMENTS, ROOT / "CHANGELOG.md", *CONFIGS]


def blocks(document: Path, *languages: str) -> Iterator[tuple[str, str]]:
    for language, text in re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", document.read_text(encoding="utf-8")):
        if language in languages:
            yield language, text


EXAMPLES = [
    pytest.param(language, text, id=f"{document.name}-{number}")
    for document in DOCUMENTS
    for number, (language, text) in enumerate(blocks(document, "yaml", "toml"))
]


def every_variable(text: str) -> dict[str, str]:
    return dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "xxxx")


def is_local(settings: Settings) -> bool:
    given = settings.pipeline.input_uri
    return all("://" not in uri for uri in ([given] if isinstance(given, str) else given))


def into(settings: Settings, out: Path) -> Settings:
    pipeline = settings.pipeline.model_copy(update={"output_uri": str(out), "workers": 0})
    return settings.model_copy(update={"pipeline": pipeline})


def raw_config(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    return dict(tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text))


@pytest.mark.parametrize(("language", "text"), EXAMPLES)
def test_every_config_in_the_documents_loads_and_a_local_one_is_planned(
    language: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / f"example.{language}"
    config.write_text(text, encoding="utf-8")
    monkeypatch.chdir(ROOT)

    settings = load_settings(config, every_variable(text))

    if is_local(settings):
        report = api.plan(into(settings, tmp_path / "out"))
        assert (report.samples or report.samples_estimated or 0) > 0


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5
    assert len(CONFIGS) >= 6


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_example_config_loads_and_a_local_one_runs_and_reads_back(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(path, every_variable(path.read_text()))
    assert settings.pipeline.input_uri
    if not is_local(settings):
        return
    monkeypatch.chdir(ROOT)
    out = tmp_path / "out"

    report = api.run_pipeline(into(settings, out))

    assert report.status == "complete"
    assert report.samples in (40, 1692)
    assert api.verify(str(out), deep=True).problems == ()
    if settings.pipeline.name == "webdataset":
        samples = read_tars([out / name for name in (out / "shards.txt").read_text().split()])
        assert len(samples) == len({s["__key__"] for s in samples}) == report.samples
        assert set(settings.pipeline.members.values() if settings.pipeline.members else ()) <= set(samples[0])


def test_a_second_step_reads_what_the_first_one_left_and_each_has_a_ledger_of_its_own(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    first, second = (f"configs/steps/{name}.yaml" for name in ("1-clean", "2-train"))
    out = tmp_path / "data-bridge-out"

    early = data_bridge("run", second, cwd=tmp_path)
    done = [data_bridge("run", config, "--json", cwd=tmp_path) for config in (first, second, first, second)]

    assert early.returncode == 2
    assert str(Path("data-bridge-out") / "cleaned") in early.stderr
    assert [each.returncode for each in done] == [0] * 4, done
    cleaned, train = (json.loads(each.stdout) for each in done[:2])
    assert 0 < cleaned["samples"] < 1692
    assert train["samples"] == cleaned["samples"]
    assert cleaned["run"] != train["run"]
    assert (out / "train" / "val" / "index.json").is_file()

    # another first step makes another source, and the second one does not go on with it
    (tmp_path / first).write_text((tmp_path / first).read_text().replace("min_length: 40", "min_length: 50"))
    assert data_bridge("run", first, "--fresh", "--yes", cwd=tmp_path).returncode == 0
    other = data_bridge("run", second, cwd=tmp_path)
    assert other.returncode == 2
    assert "000000.tar" in other.stderr


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_examples_name_their_variables_and_hold_no_keys(path: Path) -> None:
    for block in ("r2", "s3"):
        keys = {k: v for k, v in raw_config(path).get(block, {}).items() if "key" in k}
        assert all(str(v).startswith("${") for v in keys.values())


def test_the_readme_opens_with_two_commands() -> None:
    first = next(blocks(DOCUMENTS[0], "sh"))[1]

    commands = [line.partition("#")[0].strip() for line in first.splitlines()]

    assert commands == ["uv run data-bridge run configs/quickstart.yaml", "uv run poe check"]
    assert README.index(first) < 500


def test_the_quickstart_says_where_the_dataset_is_and_how_to_read_it(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")

    done = data_bridge("run", "configs/quickstart.yaml", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "data-bridge-out" / "photos") in done.stdout
    how = [line.strip() for line in done.stdout.splitlines() if "(" in line and line.startswith("  ")]
    assert len(how) == 2
    # what it prints is what one may type
    read = "\n".join(["import glob, webdataset, datasets", *(f"assert next(iter({line}))['json']" for line in how)])
    subprocess.run([sys.executable, "-c", read], env=environment(), cwd=tmp_path, check=True, timeout=120)


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    found = [text for _, text in blocks(DOCUMENTS[0], "python")]
    able = importlib.util.find_spec("litdata") is not None
    run = [text for text in found if able or "import litdata" not in text]
    assert len(run) >= 3

    done = subprocess.run(
        [sys.executable, "-c", "\n".join(run)],
        env=environment({"HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "40"


def test_every_public_name_is_in_the_readme() -> None:
    assert [name for name in package.__all__ if not re.search(rf"\b{name}\b", README)] == []


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_option_is_documented(command: str) -> None:
    sections = re.split(r"(?m)^## ", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"))
    section = next((s for s in sections if s.startswith(f"`data-bridge {command}`")), "")
    options = {o for p in COMMANDS[command].params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}

    assert section, f"docs/cli.md has no section on {command}"
    assert {o for o in options - {"--help", "-h"} if f"`{o}`" not in section} == set()
    told = {o for row in re.findall(r"(?m)^\| (`-[^|]*)\|", section) for o in re.findall(r"`(-[-a-z]+)`", row)}
    assert told <= options, "told, but not there"
    assert f"`{command}` " in README


def test_the_settings_reference_is_the_settings() -> None:
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == markdown(), "run `uv run poe docs`"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in t]

    assert [t for t in targets if not (document.parent / t).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_of_the_source_that_is_named_exists(document: Path) -> None:
    names = re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+\.py)", document.read_text(encoding="utf-8"))

    assert [n for n in names if not ((ROOT / "src/data_bridge" / n).exists() or (ROOT / n).exists())] == []


def test_every_exit_code_is_told() -> None:
    from data_bridge import errors
    from data_bridge.model.report import COMPLETED_WITH_FAILURES, INTERRUPTED

    codes = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.BridgeError)}
    for document in (README, (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")):
        for code in codes | {0, COMPLETED_WITH_FAILURES, INTERRUPTED}:
            assert f"| {code} |" in document


def test_decisions_are_short() -> None:
    assert all(len(p.read_text().splitlines()) <= 20 for p in (ROOT / "docs" / "decisions").glob("*.md"))
