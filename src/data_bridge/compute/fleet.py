"""One run on several rented machines: a slice for each, a thread here for each, and one end for all of them."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_bridge.clients.vast import VastClient
from data_bridge.compute.choice import Candidate, Need
from data_bridge.compute.rentals import Rentals
from data_bridge.compute.runner import EXTRA_BYTES, Remote, VastRemoteRunner, result
from data_bridge.compute.session import VastSession
from data_bridge.compute.settling import Patience
from data_bridge.compute.sharing import Halt, Purse
from data_bridge.compute.signals import Told, heard, unheard
from data_bridge.compute.ssh import Ssh
from data_bridge.config import Settings, VastSettings
from data_bridge.errors import BridgeError, ConfigError, RetryableError
from data_bridge.model.report import SliceStatus
from data_bridge.pipelines.looking import slices_at
from data_bridge.pipelines.slices import Slice
from data_bridge.pipelines.staging import PROBES
from data_bridge.storage import open_store

TURN_S = 0.2
SHOWN_S = 30.0
"""A table of all machines, so often."""
_STATES = {
    "intending": "renting", "noted": "starting", "running": "connecting", "reached": "sending", "submitted": "working",
    "ending": "giving back",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """How a slice stands. The ledger's figures are None before there is one."""

    slice: str
    state: str
    machine: int | None
    ledger: SliceStatus | None
    hours_usd: float


class SliceRunner(VastRemoteRunner):
    """One slice on one machine after the other; others work beside it."""

    def __init__(self, part: Slice, purse: Purse, halt: Halt, *given: Any, **more: Any) -> None:
        super().__init__(*given, **{**more, "reach": halt.heeding(more["reach"])}, on_interrupt=lambda: halt.how)
        self.slice, self._purse, self._halt = str(part), purse, halt
        self._bad = purse.bad
        self._arguments = (*self._arguments, "--slice", self.slice)
        self._told_step, self._step = self._step, self._stepped
        self._now: VastSession | None = None
        self._paid: VastSession | None = None
        self.state = "waiting"

    @property
    def stuck(self) -> bool:
        """After its end: whether its last machine could not be proved gone."""
        return self._now is not None and self._now.stuck

    def row(self, ledger: SliceStatus | None) -> Row:
        """How it stands now."""
        rental = self._now.rental if self._now is not None else None
        running = rental.cost(time.time()) if rental is not None and self._now is not self._paid else 0.0
        return Row(self.slice, self.state, rental.instance if rental else None, ledger, self._hours_usd + running)

    def alone(self, account: int, chosen: Candidate | None) -> Remote:
        """All of it, in a thread of its own. Raises as `attempt` does."""
        state = "failed"
        try:
            ended = self.attempt(account, chosen)
            state = "detached" if ended.detached else "done" if ended.complete else "not finished"
            return ended
        finally:
            self.state = state
            self._purse.leave(self.slice)

    def _pick(self) -> Candidate:
        """The cheapest that no other has. Waits for one while others work: their hosts come back, and so may offers."""
        while True:
            try:
                for candidate in self.candidates():
                    if self._purse.take(self.slice, candidate.offer.machine_id):
                        return candidate
            except RetryableError:
                if self._purse.in_vain(self.slice):
                    raise
            self.state = "waiting for an offer"
            self._halt.wait(6 * self._patience.poll_s)

    def _without(self) -> set[int]:
        return {*self._bad, *self._purse.taken(self.slice)}

    def _left(self) -> float | None:
        return self._purse.left(self.slice)

    def _pay(self, session: VastSession, candidate: Candidate) -> None:
        before = self._hours_usd + self._traffic_usd
        super()._pay(session, candidate)
        self._paid = session
        self._purse.pay(self.slice, self._hours_usd + self._traffic_usd - before)

    def _session(self, account: int) -> VastSession:
        self._now = super()._session(account)
        self._now.wait = self._halt.wait
        return self._now

    def _stepped(self, step: str) -> None:
        self.state = _STATES.get(step, self.state)
        self._told_step(step)


class VastFleet:
    """One command's worth of several machines at a time.

    `partitions` are those that the source has now. `log` and `hear` are asked for what takes the words of a slice. `show` gets
    how all of them stand, now and then; `finish` publishes the dataset, from here, when all slices are done. Everything else is
    as in `VastRemoteRunner`.
    """

    def __init__(
        self,
        client: VastClient,
        rentals: Rentals,
        settings: Settings,
        config: Path,
        need: Need,
        *,
        machines: int,
        partitions: int = 0,
        prefix: str | None = None,
        arguments: tuple[str, ...] = (),
        fresh: bool = False,
        tell: Callable[[str], None],
        log: Callable[[str], Callable[[bytes], None]],
        hear: Callable[[str], Callable[[bytes], None]] = lambda _: lambda _: None,
        show: Callable[[Sequence[Row]], None] = lambda _: None,
        finish: Callable[[], object] = lambda: None,
        on_interrupt: Callable[[], str] = lambda: "destroy",
        patience: Patience | None = None,
        **more: Any,
    ) -> None:
        vast = settings.vast or VastSettings()
        if vast.offer_id is not None:
            raise ConfigError("vast.offer_id names one machine", hint="leave it out, or rent without --machines")
        self._settings, self._tell, self._show, self._finish = settings, tell, show, finish
        self._on_interrupt, self._shown_at = on_interrupt, 0.0
        self._slices = [Slice(machines, number) for number in range(1, machines + 1)]
        self._partitions, self._outgrown = partitions, -1
        self._halt = Halt()
        self._purse = Purse(vast.budget_usd, [str(part) for part in self._slices])
        share = Need((need.bytes_in - EXTRA_BYTES) / machines + EXTRA_BYTES, need.bytes_out / machines, need.disk_gb)
        more = {"reach": Ssh, **more}
        self._runners = [
            SliceRunner(
                part, self._purse, self._halt, client, rentals, settings, config, share,
                prefix=prefix, arguments=arguments, fresh=fresh, tell=lambda text, part=part: tell(f"[{part}] {text}"),
                log=log(str(part)), hear=hear(str(part)), patience=patience, **more,
            )
            for part in self._slices
        ]  # fmt: skip
        self.destination = self._runners[0].destination
        self.keys = self._runners[0].keys

    def candidates(self) -> list[Candidate]:
        """A machine for each slice, on hosts of their own, the cheapest first, and then what else may be had. Raises
        RetryableError where there are not as many."""
        every = self._runners[0].candidates()
        hosts: dict[int, Candidate] = {}
        for candidate in every:
            hosts.setdefault(candidate.offer.machine_id, candidate)
        chosen = list(hosts.values())[: len(self._slices)]
        if len(chosen) < len(self._slices):
            raise RetryableError(
                f"{len(self._slices)} machines are wanted, and the offers that keep within the limits are on {len(chosen)} hosts",
                hint="rent fewer (--machines), loosen vast.search, raise the limits (each machine has its share of "
                "vast.budget_usd), or try again later",
            )
        return [*chosen, *(each for each in every if each not in chosen)]

    def run(self, chosen: Sequence[Candidate]) -> Remote:
        """Rent for every slice that is not done, run, give all back, publish. Raises BusyError as `VastRemoteRunner.run` does,
        KeyboardInterrupt when it was stopped, FatalError, also of a dataset that is whole, when a machine could not be proved
        gone, else the error of the first slice that was not finished."""
        with heard(), self._runners[0].exclusive():
            self._refuse_single_writer()
            account = self._runners[0].prepare()
            recorded = sum(s.partitions for s in self._there() or ())
            # a source that grew is planned by the machines: what is recorded now is then not all
            self._outgrown = recorded if 0 < recorded < self._partitions else -1
            todo = [runner for runner, left in zip(self._runners, self._unfinished(), strict=True) if left]
            for runner, candidate in zip(todo, chosen, strict=False):
                self._purse.take(runner.slice, candidate.offer.machine_id)
            for runner in self._runners:
                if runner not in todo:
                    runner.state = "done"
                    self._purse.leave(runner.slice)
            with ThreadPoolExecutor(max(1, len(todo))) as pool:
                futures = self._work(pool, account, todo, chosen)
            self._table(now=True)
            return self._result(futures)

    def _refuse_single_writer(self) -> None:
        store = open_store(self.destination, self._settings)
        store.probe(PROBES)
        if not store.conditional:
            raise ConfigError(
                f"{self.destination} does not support put-if-absent: one machine at a time may write there",
                hint="rent one, without --machines",
            )

    def _there(self) -> tuple[SliceStatus, ...] | None:
        return slices_at(open_store(self.destination, self._settings), len(self._slices))

    def _unfinished(self) -> list[bool]:
        there = self._there()
        if there is None or sum(s.partitions for s in there) <= self._outgrown:
            return [True] * len(self._slices)
        return [s.partitions_done < s.partitions for s in there]

    def _work(
        self, pool: ThreadPoolExecutor, account: int, todo: Sequence[SliceRunner], chosen: Sequence[Candidate]
    ) -> "dict[SliceRunner, Future[Remote]]":
        """Until all have ended, or somebody wants them to. Whatever goes wrong here, none works on; what went wrong there is
        told, also where nobody asks any more."""
        futures: dict[SliceRunner, Future[Remote]] = {}
        try:
            for runner, candidate in zip(todo, chosen, strict=False):
                futures[runner] = pool.submit(runner.alone, account, candidate)
            while wait(futures.values(), timeout=TURN_S).not_done:
                self._table()
        except KeyboardInterrupt as asked:
            how = "destroy" if isinstance(asked, Told) else self._on_interrupt()
            with unheard(self._tell):
                self._halt.ask(how)
                wait(futures.values())
            if how != "detach":
                raise
        finally:
            self._halt.ask(self._halt.how)
            with unheard(self._tell):
                wait(futures.values())
            for runner, future in futures.items():
                error = future.exception()
                if error is not None and not isinstance(error, KeyboardInterrupt):
                    self._tell(f"[{runner.slice}] {error}")
        return futures

    def _table(self, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._shown_at < SHOWN_S:
            return
        self._shown_at = time.monotonic()
        there: Sequence[SliceStatus | None] | None = None
        with suppress(BridgeError):  # the machines go on, whatever we see of them
            there = self._there()
        found = there or [None] * len(self._slices)
        self._show([runner.row(ledger) for runner, ledger in zip(self._runners, found, strict=True)])

    def _result(self, futures: "dict[SliceRunner, Future[Remote]]") -> Remote:
        errors = {runner: error for runner, f in futures.items() if (error := f.exception()) is not None}
        ended = [f.result() for f in futures.values() if f.exception() is None]
        stuck = [error for runner, error in errors.items() if runner.stuck]
        labels = [one.detached for one in ended if one.detached]
        whole = not any(self._unfinished())
        if whole:
            self._finish()
        elif not labels and errors and not stuck:
            raise next(iter(errors.values()))
        if stuck:  # money goes on, whatever became of the dataset
            raise stuck[0]
        code = next((one.exit_code for one in ended if not one.complete), 0)
        made = result(self._settings, self.destination, 130 if labels else code)
        if not whole:  # the manifest that is there may be of before the source grew
            made = replace(made, complete=False, exit_code=130 if labels else code or 1)
        return replace(
            made,
            machines=sum(one.machines for one in ended),
            hours_usd=sum(runner.row(None).hours_usd for runner in self._runners),
            detached=" ".join(labels) or None,
            repeated_samples=sum(one.repeated_samples for one in ended),
            repeated_shards=sum(one.repeated_shards for one in ended),
        )
