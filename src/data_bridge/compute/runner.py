"""The same run on a rented machine: rent, send, follow, and another machine when this one fails."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from data_bridge.clients.vast import OfferGone, VastClient
from data_bridge.compute import job
from data_bridge.compute.choice import Candidate, Need, allowed_hours, filters, ranked
from data_bridge.compute.credentials import Keys, keys_for
from data_bridge.compute.rentals import Rentals
from data_bridge.compute.session import AWAY, BadMachine, Order, Reach, VastSession, fate
from data_bridge.compute.settling import Patience
from data_bridge.compute.signals import Told, heard
from data_bridge.compute.ssh import Link, LinkLost, Ssh
from data_bridge.config import Portable, Settings, VastSettings, portable
from data_bridge.errors import ConfigError, FatalError, RetryableError
from data_bridge.model.rental import Instance, Offer, Rental
from data_bridge.pipelines.destination import output_uri
from data_bridge.pipelines.looking import status_report
from data_bridge.storage import open_store

EXTRA_BYTES = 0.5e9
"""What installing takes."""
_REMOTE = ("hf://", "s3://", "r2://", "http://", "https://")


@dataclass(frozen=True, slots=True)
class Remote:
    """How a run on a rented machine ended. `machines` are all that it took."""

    exit_code: int
    destination: str
    samples: int
    shards: int
    complete: bool
    machines: int
    hours_usd: float
    detached: str | None = None
    """The label of the machine that was left to itself."""


class VastRemoteRunner:
    """One command's worth of rented machines.

    `tell` hears of what happens here, `log` gets what the run writes there. `on_interrupt` decides, on Ctrl-C while the
    run works, between "destroy" and "detach". Raises ConfigError for what cannot run elsewhere, before any rental.
    """

    def __init__(
        self,
        client: VastClient,
        rentals: Rentals,
        settings: Settings,
        config: Path,
        need: Need,
        *,
        prefix: str | None = None,
        arguments: tuple[str, ...] = (),
        tell: Callable[[str], None],
        log: Callable[[bytes], None],
        on_interrupt: Callable[[], str] = lambda: "destroy",
        patience: Patience | None = None,
        reach: Reach = Ssh,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.destination = output_uri(settings, prefix)
        self._sources = _uris(settings)
        _refuse_local(self._sources, self.destination)
        self._client, self._rentals, self._settings, self._config = client, rentals, settings, config
        self._vast = settings.vast or VastSettings()
        self._need = need
        self._arguments = arguments
        self._prefix = prefix
        self._tell, self._log, self._on_interrupt = tell, log, on_interrupt
        self._patience = patience or Patience()
        self._reach = reach
        self._step = step
        self._wait = threading.Event().wait
        self._spent = 0.0
        self._bad: set[int] = set()

    def candidates(self) -> list[Candidate]:
        """What may be rented now, the cheapest run first. Raises RetryableError when nothing may."""
        vast, bid = self._vast, self._vast.bid_usd_hour is not None
        if vast.offer_id is not None:
            found = self._client.offer(vast.offer_id, bid=bid, disk_gb=vast.storage_gb)
            offers: tuple[Offer, ...] = (found,) if found is not None else ()
        else:
            offers = self._client.offers(filters(vast), bid=bid, disk_gb=vast.storage_gb)
        best = ranked(offers, vast, self._need, left_usd=self._left(), without=self._bad)
        if not best:
            raise RetryableError(
                f"none of {len(offers)} offers keeps within the limits of the config",
                hint="raise vast.max_price_usd_hour, budget_usd or max_hours, loosen vast.search, or try again later",
            )
        return best

    def _left(self) -> float | None:
        return None if self._vast.budget_usd is None else self._vast.budget_usd - self._spent

    def keys(self) -> Keys:
        """The storage keys that go along. Raises ConfigError when there are none to give."""
        keys = keys_for(self._settings, [*self._sources, self.destination], now=time.time(), hours=self._vast.max_hours)
        for scheme, block in keys.blocks.items():
            if "access_key_id" not in block:
                raise ConfigError(
                    f"the machine has no keys for {scheme}://", hint=f"name them in the `{scheme}` block of the config"
                )
        return keys

    def run(self, chosen: Candidate | None = None) -> Remote:
        """Rent, run, give back; with `chosen` tried first. Raises KeyboardInterrupt when it was stopped."""
        account = self._client.account()
        keys = self.keys()
        tried = 0
        offers = [chosen] if chosen is not None else []
        with heard():
            while tried < self._vast.max_machines:
                candidate = offers.pop(0) if offers else next(iter(self.candidates()))
                session = VastSession(
                    self._client, self._rentals, account, tell=self._tell, patience=self._patience, reach=self._reach, step=self._step
                )  # fmt: skip
                tried += 1
                try:
                    code = self._on(session, candidate, keys, again=tried > 1)
                except OfferGone:
                    self._bad.add(candidate.offer.machine_id)
                    tried -= 1
                except BadMachine as error:
                    self._bad.add(candidate.offer.machine_id)
                    self._tell(f"{error.message}; taking another machine")
                else:
                    self._pay(session)
                    return self._result(code, tried, session)
                self._pay(session)
        raise RetryableError(
            f"{tried} machines failed, which is as many as vast.max_machines allows",
            hint="run the same command again: finished shards are kept",
        )

    def _pay(self, session: VastSession) -> None:
        if session.rental is not None:
            self._spent += session.rental.cost(time.time())

    def _on(self, session: VastSession, chosen: Candidate, keys: Keys, *, again: bool) -> int:
        vast = self._vast
        hours = allowed_hours(chosen, vast, self._left())
        order = Order(
            name=self.destination.rpartition("/")[2],
            image=vast.image,
            disk_gb=vast.storage_gb,
            hours=hours,
            config=str(self._config.absolute()),
            destination=self.destination,
            bid=vast.bid_usd_hour,
        )
        with session.machine(chosen, order) as link:
            config = self._portable(keys)
            arguments = [*self._arguments, *(["--prefix", self._prefix] if self._prefix else [])]
            # who held partitions before was proved to be gone
            arguments += ["--steal"] if again and "--steal" not in arguments else []
            submit_to(session, link, config, {**config.variables, **keys.variables}, arguments, vast)
            self._step("submitted")
            following = Following(session, self._tell, self._log, self._wait)
            try:
                return following.to_the_end(link)
            except Told:
                raise
            except KeyboardInterrupt:
                if self._on_interrupt() != "detach":
                    raise
                session.detach()
                return 130

    def _portable(self, keys: Keys) -> Portable:
        return portable(self._config, {**keys.blocks, "pipeline": {"staging_dir": f"{self._vast.workdir}/staging"}})

    def _result(self, code: int, tried: int, session: VastSession) -> Remote:
        label = session.rental.label if session.detached and session.rental else None
        return replace(
            result(self._settings, self.destination, code), machines=tried, hours_usd=self._spent, detached=label
        )


def result(settings: Settings, destination: str, code: int) -> Remote:
    """How a run ended by what the destination's ledger says; the machine's exit code only tells why when it did not."""
    try:
        report = status_report(open_store(destination, settings))
    except ConfigError:
        return Remote(code or 1, destination, 0, 0, complete=False, machines=1, hours_usd=0.0)
    ended = (3 if report.failed else 0) if report.complete else (code or 1)
    return Remote(ended, destination, report.samples, report.shards, report.complete, machines=1, hours_usd=0.0)


def submit_to(
    session: VastSession,
    link: Link,
    config: Portable,
    variables: dict[str, str],
    arguments: list[str],
    vast: VastSettings,
) -> None:
    """Send the run; a machine that cannot take it is a bad one."""
    ref = f"@{vast.repo_ref}" if vast.repo_ref else ""
    package = f"git+{vast.repo_url}{ref}" if vast.repo_url else None
    for left in (2, 1, 0):
        try:
            job.submit(link, config, variables, arguments, workdir=vast.workdir, package=package)
            return
        except (LinkLost, FatalError) as error:
            if not left:
                raise BadMachine(f"machine {session.id} does not take the run: {error.message}") from error


class Following:
    """The log of a job, over as many connections as it takes."""

    def __init__(
        self,
        session: VastSession,
        tell: Callable[[str], None],
        log: Callable[[bytes], None],
        wait: Callable[[float], object],
    ) -> None:
        self._session, self._tell, self._log, self._wait = session, tell, log, wait
        self._offset = 0

    def to_the_end(self, link: Link) -> int:
        """The run's exit code. Raises BadMachine when the machine is lost, FatalError when its time was over."""
        lost_since: float | None = None
        while True:
            try:
                for block in job.follow(link, self._offset):
                    self._offset += len(block)
                    self._log(block)
                    lost_since = None
                code = job.exit_code(link)
                if code is not None:
                    return code
            except (LinkLost, FatalError) as error:
                lost_since = lost_since or time.monotonic()
                said = error.message
            else:
                said = "the job said nothing"
            link = self._found_again(link, lost_since, said)

    def _found_again(self, link: Link, lost_since: float | None, said: str) -> Link:
        session, patience = self._session, self._session.patience
        try:
            found: Instance | None = session.look()
        except RetryableError:  # nobody answers us at all; the machine and its watchdog go on
            self._wait(patience.poll_s)
            return link
        rental = session.rental
        assert rental is not None
        why = fate(found)
        if why and time.time() >= rental.deadline - 2 * patience.tick_s:
            raise FatalError(
                "the machine's time is over: vast.max_hours or budget_usd is used up",
                hint="run the same command again to go on: finished shards are kept",
            )
        if why or found is None:
            raise BadMachine(f"machine {session.id} {why}")
        dark = time.monotonic() - lost_since if lost_since else 0.0
        if dark > (patience.away_s if found.status in AWAY else patience.ssh_s):
            raise BadMachine(f"machine {session.id} cannot be reached any more: {said}")
        self._wait(patience.poll_s / 5)
        return session.link(found) or link


def attached(
    client: VastClient,
    rentals: Rentals,
    rental: Rental,
    settings: Settings,
    *,
    tell: Callable[[str], None],
    log: Callable[[bytes], None],
    on_interrupt: Callable[[], str],
    patience: Patience | None = None,
    reach: Reach = Ssh,
) -> Remote:
    """Go on following the run of an earlier command, and give its machine back at the end."""
    session = VastSession(client, rentals, rental.account, tell=tell, patience=patience, reach=reach)
    session.adopt(rental)
    code = 1
    with heard():
        try:
            found = session.look()
            link = session.link(found) if found is not None and not fate(found) else None
            if link is not None:
                code = Following(session, tell, log, threading.Event().wait).to_the_end(link)
        except Told:
            raise
        except KeyboardInterrupt:
            if on_interrupt() == "detach":
                session.detach()
                return replace(result(settings, rental.destination, 130), detached=rental.label)
            raise
        except BadMachine as error:
            tell(error.message)
        finally:
            if not session.detached:
                session.end()
    return result(settings, rental.destination, code)


def _uris(settings: Settings) -> list[str]:
    given = settings.pipeline.input_uri
    return [given] if isinstance(given, str) else list(given)


def _refuse_local(sources: list[str], destination: str) -> None:
    for uri, what in (*((uri, "the source") for uri in sources), (destination, "the destination")):
        if not uri.startswith(_REMOTE):
            raise ConfigError(
                f"{what} {uri} is on this machine: a rented one cannot reach it",
                hint="put it into a bucket (s3://, r2://), or run without --use-vast",
            )
