"""The installed command line as a user starts it: a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

SCRIPT = Path(sys.executable).with_name("data-bridge")
WITHIN_S = 150.0


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The test's environment with text as UTF-8 and a wide terminal, so that no line is folded."""
    return {**os.environ, "PYTHONUTF8": "1", "COLUMNS": "200", "NO_COLOR": "1", **(extra or {})}


def data_bridge(
    *args: str | Path, cwd: Path, env: Mapping[str, str] | None = None, script: Path = SCRIPT
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without a terminal."""
    return subprocess.run(
        [script, *map(str, args)],
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


def started(*args: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """A command in the background, in a process group of its own."""
    return subprocess.Popen(
        [SCRIPT, *map(str, args)],
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def until(ready: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Return when something is so; AssertionError when the process ends before."""
    me = psutil.Process(process.pid)
    for _ in range(int(WITHIN_S / 0.01)):
        if ready():
            return
        try:
            me.wait(0.01)
        except psutil.TimeoutExpired:
            continue
        break
    assert ready(), f"did not come about; exit code {process.poll()}"
