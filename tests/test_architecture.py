"""Ratchets: limits that may be tightened, not loosened."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import data_bridge

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "data_bridge"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE = 400
LONGEST_FUNCTION = 70
CATCH_ALL: dict[str, int] = {
    "io/own.py": 1,  # a source of the user's own, while a run is planned
    "io/sources/registry.py": 1,  # an entry point of another package
    "runtime/nursery.py": 1,  # raised again
    "clients/http.py": 1,
    "clients/hub_errors.py": 1,
    "engine/base.py": 3,
    "engine/slot.py": 1,
    "io/ahead.py": 1,
    "io/remote_file.py": 1,
    "io/sources/own.py": 1,
    "io/remotes.py": 1,
    "pipelines/answers.py": 2,
    "pipelines/commit.py": 1,
    "pipelines/hooks.py": 1,
    "pipelines/shardfile.py": 1,
    "pipelines/webdataset.py": 1,
    "runtime/commands.py": 1,
    "runtime/control_server.py": 2,
    "runtime/lane.py": 2,
    "runtime/lanes.py": 2,
    "runtime/side.py": 1,
    "runtime/stage.py": 1,
    "runtime/flights.py": 2,
    "runtime/threaded.py": 1,
    "runtime/threads.py": 2,
    "config/calls.py": 2,
    "stages/tokenize.py": 2,
    "stages/tokenizing.py": 1,
    "storage/multipart.py": 1,
    "utils/files.py": 1,
    "utils/progress.py": 1,
}
"""Files that may catch everything, and in how many places. Each is a boundary to foreign code or to another thread."""
WRITES_TO_STREAMS = {"cli/words.py"}


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in FILES:
        yield name_of(path), ast.parse(path.read_text(encoding="utf-8"))


def test_no_file_is_too_long() -> None:
    assert {name_of(p): n for p in FILES if (n := len(p.read_text().splitlines())) > LONGEST_FILE} == {}


def test_no_function_is_too_long() -> None:
    assert {
        f"{name}:{node.name}": length
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (length := (node.end_lineno or 0) - node.lineno) > LONGEST_FUNCTION
    } == {}


def catches_everything(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(k is None or (isinstance(k, ast.Name) and k.id in ("Exception", "BaseException")) for k in kinds)


def test_everything_is_caught_only_at_known_boundaries() -> None:
    found: dict[str, int] = {}
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler) and catches_everything(node):
                found[name] = found.get(name, 0) + 1

    assert {n: c for n, c in found.items() if c > CATCH_ALL.get(n, 0)} == {}, "a new catch-all: name what can happen"
    assert {n for n in CATCH_ALL if CATCH_ALL[n] > found.get(n, 0)} == set(), "fewer than allowed: tighten the list"


def test_only_the_command_line_prints() -> None:
    assert {
        name
        for name, tree in trees()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
        or (isinstance(node, ast.Attribute) and node.attr == "write" and ast.unparse(node.value) in ("sys.stdout", "sys.stderr"))
    } <= WRITES_TO_STREAMS  # fmt: skip


def test_only_the_command_line_exits() -> None:
    assert {
        name
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.exit", "exit", "quit")
    } <= {"cli/app.py"}


def test_only_config_reads_the_environment() -> None:
    assert {
        name
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.environb")
        if not name.startswith("config/")
    } == {"runtime/process.py"}, "it sets how many threads a library starts, and decides nothing by what it reads"


def test_imports_go_down() -> None:
    linter = Path(sys.executable).with_name("lint-imports")

    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", data_bridge.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(data_bridge, name) is not None


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        data_bridge.nothing_of_the_kind  # noqa: B018


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, data_bridge; sys.exit(any(m in sys.modules for m in ('pydantic', 'pyarrow', 'yaml', 'typer')))"

    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_says_that_it_is_typed() -> None:
    assert (SOURCE / "py.typed").is_file()
