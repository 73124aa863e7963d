"""`run --detach`: the run goes on in a process without a terminal, and the command says where to find it."""

import atexit
import os
import select
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from data_bridge.cli import words
from data_bridge.config.places import run_folder, runs_folder
from data_bridge.errors import BridgeError, ConfigError
from data_bridge.events import Event, Observer, PartitionClaimed, RunPlanned

LOOK_S = 0.1
BEGUN_S = 2.0
"""How long a run that is planned may take to begin, or to refuse that, before it is left alone."""
INTERRUPTED = 130
ENDED_WELL = (0, 3)

Telling = Callable[[Observer], Observer]


@contextmanager
def attached(*, as_json: bool) -> Generator[Telling]:  # noqa: ARG001 - as the other one
    """The block goes on where it is."""
    yield lambda observer: observer


@contextmanager
def detached(*, as_json: bool) -> Generator[Telling]:
    """The block goes on in another process, in a session of its own; this one waits until that has begun, says so, and exits.

    What is yielded stands in front of the run's observer.
    """
    log = _log()
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        raise typer.Exit(_followed(pid, read, log, as_json=as_json))
    _leave_the_terminal(log, write)
    run = _Run(log, write)
    atexit.register(run.over)  # behind the last word: who reads how it ended reads why
    try:
        yield run.telling
        run.exit_code = 0
    except typer.Exit as end:
        run.exit_code = end.exit_code
        raise
    except BridgeError as error:
        run.exit_code = error.exit_code
        raise
    except KeyboardInterrupt:
        run.exit_code = INTERRUPTED
        raise


class _Run:
    """The process in the background, as it tells the one that started it."""

    def __init__(self, log: Path, pipe: int) -> None:
        self._log = log
        self._pipe: int | None = pipe
        self._folder: Path | None = None
        self.exit_code = 1

    def telling(self, observer: Observer) -> Observer:
        def tell(event: Event, /) -> None:
            if isinstance(event, RunPlanned) and self._folder is None:
                self._planned(event.run)
            if isinstance(event, PartitionClaimed):
                self._say(b"begun\n")
            observer(event)

        return tell

    def over(self) -> None:
        """Note how it ended."""
        from data_bridge.monitor.detached import end

        if self._folder is not None:
            end(self._folder, self._note, self.exit_code)

    def _planned(self, run: str) -> None:
        from data_bridge.monitor.detached import begin

        self._folder = run_folder(run)
        self._note = begin(self._folder, self._log)
        self._say(f"{run}\n".encode(), more=True)

    def _say(self, line: bytes, *, more: bool = False) -> None:
        if self._pipe is None:
            return
        with suppress(BrokenPipeError):  # who started it did not wait
            os.write(self._pipe, line)
        if not more:
            os.close(self._pipe)
            self._pipe = None


def _log() -> Path:
    """Where the run writes what it says until it has an id."""
    try:
        folder = runs_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
        raise ConfigError(
            f"a run in the background needs a place for its log: {error}",
            hint="set HOME to a folder that can be written",
        ) from None
    return folder / f".detached-{os.getpid()}.log"


def _leave_the_terminal(log: Path, keep: int) -> None:
    """Be the leader of a session of one's own that has no terminal; no descriptor of whoever started the run stays open."""
    os.setsid()
    sys.stdout.flush()
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_RDONLY)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    for descriptor, place in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(descriptor, place)
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))


def _followed(pid: int, pipe: int, log: Path, *, as_json: bool) -> int:
    """Wait until the run has begun, or has ended before, and say so; the exit code of this command."""
    said = b""
    left_s: float | None = None
    try:
        while b"begun" not in said and (left_s is None or left_s > 0):
            if select.select([pipe], [], [], LOOK_S)[0]:
                said += os.read(pipe, 64)
            elif left_s is not None:
                left_s -= LOOK_S
            if left_s is None and b"\n" in said:
                left_s = BEGUN_S
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return _over(said, pid, os.waitstatus_to_exitcode(status), log, as_json=as_json)
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        log.unlink(missing_ok=True)
        raise
    run = said.split(b"\n")[0].decode()
    words.say(words.json_of({"run": run, "pid": pid, "log": str(_run_log(run, pid))}) if as_json else _where(run, pid))
    return 0


def _over(said: bytes, pid: int, code: int, log: Path, *, as_json: bool) -> int:
    """It ended before anybody left it alone: pass on what it said."""
    from data_bridge.monitor.detached import LOG

    run = said.split(b"\n")[0].decode()
    path = _run_log(run, pid) if run else log
    if path.exists():
        (words.say if code in ENDED_WELL and not as_json else words.tell)(
            path.read_text(encoding="utf-8", errors="replace").rstrip()
        )
        if path.name != LOG:  # nobody would look for it
            path.unlink()
    code = code if code >= 0 else 128 - code
    if as_json:
        words.say(words.json_of({"run": run or None, "exit_code": code, "log": str(path) if path.exists() else None}))
    return code


def _run_log(run: str, pid: int) -> Path:
    from data_bridge.monitor.detached import log_of

    return log_of(run_folder(run), pid)


def _where(run: str, pid: int) -> str:
    lines = [
        ("run", f"{run}  works in the background, process {pid}"),
        ("watch it", f"data-bridge watch {run}"),
        ("how it is", f"data-bridge status {run}"),
        ("control it", f"data-bridge ctl {run} pause"),
        ("stop it", f"data-bridge ctl {run} stop"),
        ("its words", str(_run_log(run, pid))),
    ]
    return "\n".join(f"{name:<12} {text}" for name, text in lines)
