"""A run on a rented machine, from sending it to its end, over as many connections as it takes."""

import time
from collections.abc import Callable, Mapping

from data_bridge.compute import job
from data_bridge.compute.said import Said
from data_bridge.compute.session import AWAY, BadMachine, VastSession, fate
from data_bridge.compute.ssh import Link, LinkLost
from data_bridge.errors import FatalError, RetryableError
from data_bridge.model.rental import Instance


class TimeOver(FatalError):
    """The machine had to go: `max_hours` or `budget_usd` is used up."""

    def __init__(self) -> None:
        super().__init__(
            "the machine's time is over: vast.max_hours or budget_usd is used up",
            hint="run the same command again to go on: finished shards are kept",
        )


def submit_to(session: VastSession, link: Link, work: job.Job) -> None:
    """Send the run; a machine that cannot take it is a bad one."""
    for left in (2, 1, 0):
        try:
            job.submit(link, work)
            return
        except (LinkLost, FatalError) as error:
            if not left:
                raise BadMachine(f"machine {session.id} does not take the run: {error.message}") from error
            session.wait(session.patience.poll_s)


class Following:
    """The log of a job, over as many connections as it takes. `judge` hears once how fast the links are, down and up in
    Mbit/s, where that is measured, and may raise BadMachine."""

    def __init__(
        self,
        session: VastSession,
        log: Callable[[bytes], None],
        hear: Callable[[bytes], None] = lambda _: None,
        judge: Callable[[float, float], None] = lambda _down, _up: None,
    ) -> None:
        self._session, self._log, self._hear, self._judge = session, log, hear, judge
        self._judged = False
        self._offset = 0
        self.positions: Mapping[int, int] = {}
        """Samples that were packed of each partition in work, as far as was heard."""

    def to_the_end(self, link: Link) -> int:
        """The run's exit code, or NOT_READY. Raises BadMachine when the machine is lost, TimeOver when its time was over."""
        with Said(link, self._hear) as said:
            try:
                return self._followed(link, said)
            finally:
                self.positions = said.positions

    def _followed(self, link: Link, heard: Said) -> int:
        lost_since: float | None = None
        lines = 0
        while True:
            try:
                for block in job.follow(link, self._offset):
                    self._refuse_late()
                    if heard.speed is not None and not self._judged:
                        self._judged = True
                        self._judge(*heard.speed)
                    if block:
                        self._offset += len(block)
                        self._log(block)
                    if block or heard.lines > lines:  # a run may have nothing to log for hours
                        lost_since = None
                code = job.exit_code(link)
            except (LinkLost, FatalError) as error:
                if isinstance(error, TimeOver):
                    raise
                lost_since, lines = lost_since or time.monotonic(), heard.lines
                heard.link = link = self._found_again(link, lost_since, error.message)
            else:
                if code is None:
                    raise BadMachine(f"machine {self._session.id} has no run any more, and none has ended there")
                return code

    def _refuse_late(self) -> None:
        """The machine ends itself at its deadline; where it does not, we do."""
        rental = self._session.rental
        assert rental is not None
        if time.time() >= rental.deadline + 2 * self._session.patience.tick_s:
            raise TimeOver

    def _found_again(self, link: Link, lost_since: float, said: str) -> Link:
        session, patience = self._session, self._session.patience
        self._refuse_late()
        try:
            found: Instance | None = session.look()
        except RetryableError:  # nobody answers us at all; the machine and its watchdog go on
            session.wait(patience.poll_s)
            return link
        rental = session.rental
        assert rental is not None
        why = fate(found)
        if why and time.time() >= rental.deadline - 2 * patience.tick_s:
            raise TimeOver
        if why or found is None:
            raise BadMachine(f"machine {session.id} {why}")
        if time.monotonic() - lost_since > (patience.away_s if found.status in AWAY else patience.ssh_s):
            raise BadMachine(f"machine {session.id} cannot be reached any more: {said}")
        session.wait(patience.poll_s / 5)
        return session.link(found) or link
