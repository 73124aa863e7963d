import multiprocessing
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from support.engine_works import Shards

from data_bridge.engine.orders import Standing
from data_bridge.engine.slot import Finished, Message, Quit, Take
from data_bridge.engine.worker import Worker, pickled
from data_bridge.model.changes import Change


def _answer(worker: Worker, kind: type[Message]) -> Message:
    while (message := worker.hear()) is not None:
        if isinstance(message, kind):
            return message
    raise AssertionError(worker.ended())


def test_signals_that_come_while_a_worker_is_born_do_not_kill_it(tmp_path: Path) -> None:
    worker = Worker(0, pickled(Shards(tmp_path)))
    (child,) = multiprocessing.active_children()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGINT)
    os.kill(child.pid, signal.SIGTERM)

    worker.tell(Take(4))

    answer = _answer(worker, Finished)
    assert isinstance(answer, Finished)
    assert answer.outcome.kind == "done"
    worker.tell(Quit())
    worker.join(10)
    assert worker.ended() == "ended with exit code 0"
    worker.bury()


def test_starting_a_worker_changes_nothing_in_this_process(tmp_path: Path) -> None:
    main = dict(vars(sys.modules["__main__"]))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    worker = Worker(0, pickled(Shards(tmp_path)))
    worker.kill()
    worker.bury()

    assert vars(sys.modules["__main__"]) == main
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


def test_a_killed_worker_is_gone_when_kill_returns(tmp_path: Path) -> None:
    worker = Worker(0, pickled(Shards(tmp_path)))
    (child,) = multiprocessing.active_children()
    assert child.pid is not None

    worker.kill()

    assert worker.ended() == "was killed by SIGKILL"
    assert not psutil.pid_exists(child.pid)
    worker.tell(Take(1))
    worker.bury()


def test_a_worker_that_takes_no_orders_holds_up_nobody_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_bridge.engine.worker.TAKEN_S", 1.0)
    worker = Worker(0, pickled(Shards(tmp_path)))
    (child,) = multiprocessing.active_children()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGSTOP)
    large = Change(number=0, id="c", stage="s", key="k", value="x" * (8 << 20))

    worker.keep_to(Standing(changes=(large,)))

    assert worker.ended() == "was killed by SIGKILL"
    worker.bury()
