"""The same run on a rented machine: rent, send, follow, and another machine when this one fails."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_bridge.clients.vast import OfferGone, VastClient
from data_bridge.compute.choice import Candidate, Need, allowed_hours, filters, ranked
from data_bridge.compute.credentials import Keys, keys_for
from data_bridge.compute.following import Following, TimeOver, submit_to
from data_bridge.compute.job import NOT_READY, Job, Repository
from data_bridge.compute.links import Links
from data_bridge.compute.reaping import end, held
from data_bridge.compute.rentals import Rentals
from data_bridge.compute.session import BadMachine, Order, Reach, VastSession, fate
from data_bridge.compute.settling import Patience
from data_bridge.compute.signals import Told, heard
from data_bridge.compute.ssh import Ssh
from data_bridge.config import Portable, Settings, VastSettings, portable
from data_bridge.errors import BusyError, ConfigError, RetryableError
from data_bridge.model.rental import Offer, Rental
from data_bridge.model.report import SliceStatus, StatusReport
from data_bridge.pipelines.destination import output_uri
from data_bridge.pipelines.fresh import begin_anew
from data_bridge.pipelines.looking import committed, slices_at, status_report
from data_bridge.pipelines.slices import Slice
from data_bridge.storage import open_store

EXTRA_BYTES = 0.5e9
"""What installing takes."""
_WELL = (0, 3)
"""Exit codes of a run that came to its end, 3 = with samples that failed."""
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
    repeated_samples: int = 0
    """Packed on machines that went before these samples were in a finished shard, and packed again on the next, as far as
    was heard of them."""
    repeated_shards: int = 0
    """Shards that were open then, and were begun again."""


class VastRemoteRunner:
    """One command's worth of rented machines.

    `tell` hears of what happens here, `log` gets what the run writes there, `hear` lines of what it says of itself. `on_interrupt` decides, on Ctrl-C while the
    run works, between "destroy" and "detach". `fresh` deletes, from here, what an earlier run made. Raises ConfigError for
    what cannot run elsewhere, before any rental.
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
        fresh: bool = False,
        tell: Callable[[str], None],
        log: Callable[[bytes], None],
        hear: Callable[[bytes], None] = lambda _: None,
        on_interrupt: Callable[[], str] = lambda: "destroy",
        patience: Patience | None = None,
        reach: Reach = Ssh,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.destination = output_uri(settings, prefix)
        self._sources = _uris(settings)
        _refuse_local(self._sources, self.destination)
        self.exclusive = partial(rentals.exclusive, self.destination)
        self._client, self._rentals, self._settings, self._config = client, rentals, settings, config
        self._vast = settings.vast or VastSettings()
        self._need = need
        self._arguments = arguments
        self._prefix = prefix
        self._tell, self._log, self._hear, self._on_interrupt = tell, log, hear, on_interrupt
        self._patience = patience or Patience()
        self._reach = reach
        self._step = step
        self._repository = Repository.at(self._vast.repo_url, self._vast.repo_ref) if self._vast.repo_url else None
        self._fresh = fresh
        self._hours_usd = self._traffic_usd = 0.0
        self._bad: set[int] = set()
        self._steal = False
        self.slice = ""
        self._repeated: list[int] = []
        self._links = Links(need)
        self._tried = 0
        self._was_whole = False

    def candidates(self) -> list[Candidate]:
        """What may be rented now, the cheapest run first. Raises RetryableError when nothing may."""
        vast, bid = self._vast, self._vast.bid_usd_hour is not None
        if vast.offer_id is not None:
            found = self._client.offer(vast.offer_id, bid=bid, disk_gb=vast.storage_gb)
            offers: tuple[Offer, ...] = (found,) if found is not None else ()
        else:
            offers = self._client.offers(filters(vast), bid=bid, disk_gb=vast.storage_gb)
        best = ranked(offers, vast, self._need, left_usd=self._left(), without=self._without())
        if not best:
            raise RetryableError(
                f"none of {len(offers)} offers keeps within the limits of the config",
                hint="raise vast.max_price_usd_hour, budget_usd or max_hours, loosen vast.search, or try again later",
            )
        return best

    def _pick(self) -> Candidate:
        """What to rent now. Raises RetryableError when nothing may be."""
        return self.candidates()[0]

    def _without(self) -> Collection[int]:
        """Hosts that are not to be had."""
        return self._bad

    def _left(self) -> float | None:
        return None if self._vast.budget_usd is None else self._vast.budget_usd - self._hours_usd - self._traffic_usd

    def keys(self, hours: float | None = None) -> Keys:
        """The storage keys that go along, for so long. Raises ConfigError when there are none to give."""
        lasting = self._vast.max_hours if hours is None else hours
        keys = keys_for(self._settings, [*self._sources, self.destination], now=time.time(), hours=lasting)
        for scheme, block in keys.blocks.items():
            if "access_key_id" not in block:
                raise ConfigError(
                    f"the machine has no keys for {scheme}://", hint=f"name them in the `{scheme}` block of the config"
                )
        return keys

    def run(self, chosen: Candidate | None = None) -> Remote:
        """Rent, run, give back; with `chosen` tried first. Raises KeyboardInterrupt when it was stopped, BusyError while a
        machine of an earlier command works on the same destination, or another command rents for it."""
        with heard(), self.exclusive():
            return self.attempt(self.prepare(), chosen)

    def prepare(self) -> int:
        """See to what there is of earlier commands; the number of the account. Raises BusyError while a machine of one works,
        ConfigError without keys."""
        account = self._client.account()
        self.keys()
        self._settle_earlier()
        if self._fresh:
            begin_anew(open_store(self.destination, self._settings), steal="--steal" in self._arguments)
        return account

    def attempt(self, account: int, chosen: Candidate | None) -> Remote:
        """One machine after the other until the work is done. Raises as `run` does."""
        offers = [chosen] if chosen is not None else []
        before = result(self._settings, self.destination, 1, self.slice)
        tried, in_vain, samples, self._was_whole = 0, 0, before.samples, before.complete
        while tried < self._vast.max_machines:
            candidate = offers.pop(0) if offers else self._pick()
            session = self._session(account)
            tried += 1
            self._tried = tried
            try:
                try:
                    code = self._on(session, candidate)
                finally:  # whatever ended it, its hours are paid for
                    self._pay(session, candidate)
            except OfferGone:
                self._bad.add(candidate.offer.machine_id)
                tried -= 1
                continue
            except (BadMachine, TimeOver) as error:
                ended = self._ended(1, tried)
                if ended.complete:  # it was over before the machine was
                    return ended
                if isinstance(error, TimeOver):
                    raise
                said = error.message
            else:
                ended = self._ended(code, tried, session)
                gave_up = code == RetryableError.exit_code
                in_vain += gave_up and ended.samples == samples
                samples = ended.samples
                if ended.complete or not (gave_up or code == NOT_READY) or in_vain > 1:
                    return ended
                said = f"the run {'gave up' if gave_up else 'could not be installed'} on machine {session.id}"
            self._bad.add(candidate.offer.machine_id)
            self._tell(f"{said}; taking another machine")
        raise RetryableError(
            f"{tried} machines failed, which is as many as vast.max_machines allows",
            hint="run the same command again: finished shards are kept",
        )

    def _session(self, account: int) -> VastSession:
        return VastSession(
            self._client, self._rentals, account, tell=self._tell, patience=self._patience, reach=self._reach, step=self._step,
        )  # fmt: skip

    def _settle_earlier(self) -> None:
        for one in held(self._client, self._rentals):
            if one.rental is None or one.rental.destination != self.destination:
                continue
            if not one.overdue and not (one.instance is not None and fate(one.instance)):
                raise BusyError(
                    f"machine {one.name}, which an earlier command rented, works on {self.destination}",
                    hint=f"`data-bridge vast attach {one.name}` follows it, `data-bridge vast destroy {one.name} --yes` ends it",
                )
            end(self._client, self._rentals, one, self._patience)

    def _pay(self, session: VastSession, candidate: Candidate) -> None:
        rental = session.rental
        if rental is not None and rental.state != "never":
            until = max(time.time(), rental.deadline) if session.stuck else time.time()
            self._hours_usd += rental.cost(until)
            self._traffic_usd += candidate.traffic_within((until - rental.created) / 3600)

    def _on(self, session: VastSession, chosen: Candidate) -> int:
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
            max_usd_hour=vast.max_price_usd_hour,
            slice=self.slice,
        )
        with session.machine(chosen, order) as link:
            keys = self.keys(hours)
            config = self._portable(keys)
            arguments = [*self._arguments, *(["--prefix", self._prefix] if self._prefix else [])]
            # who held partitions before was proved to be gone
            arguments += ["--steal"] if self._steal and "--steal" not in arguments else []
            work = Job(
                config, {**config.variables, **keys.variables}, arguments, vast.workdir, self._repository,
                prefix=self._prefix or "", measure=self._links.matter(chosen),
            )  # fmt: skip
            submit_to(session, link, work)
            self._step("submitted")
            following = Following(session, self._log, self._hear, partial(self._judge, session, chosen))
            try:
                return following.to_the_end(link)
            except Told:
                raise
            except KeyboardInterrupt:
                if self._on_interrupt() != "detach":
                    raise
                session.detach()
                return 130
            except BadMachine:
                self._steal = True
                done = committed(open_store(self.destination, self._settings))
                leads = [packed - done.get(partition, 0) for partition, packed in following.positions.items()]
                self._repeated += [lead for lead in leads if lead > 0]
                raise

    def _judge(self, session: VastSession, chosen: Candidate, down: float, up: float) -> None:
        """Raises BadMachine for links that are too slow, where another machine can be had instead."""
        why = self._links.too_slow(chosen, down, up)
        self._tell(f"link of machine {session.id}: {down:.0f} Mbit/s down, {up:.0f} up{why and f'; {why}'}")
        others = False
        if why and self._tried < self._vast.max_machines:
            self._bad.add(chosen.offer.machine_id)
            with suppress(RetryableError):
                others = bool(self.candidates())
        if others:
            raise BadMachine(f"machine {session.id} has too slow a link")

    def _portable(self, keys: Keys) -> Portable:
        return portable(self._config, {**keys.blocks, "pipeline": {"staging_dir": f"{self._vast.workdir}/staging"}})

    def _ended(self, code: int, tried: int, session: VastSession | None = None) -> Remote:
        label = session.rental.label if session is not None and session.detached and session.rental else None
        made = result(self._settings, self.destination, code, self.slice)
        if self._was_whole and code not in _WELL:  # as far as it knew: a source that grew is found out by the run
            made = replace(made, complete=False, exit_code=code)
        return replace(
            made, machines=tried, hours_usd=self._hours_usd, detached=label,
            repeated_samples=sum(self._repeated), repeated_shards=len(self._repeated),
        )  # fmt: skip


def result(settings: Settings, destination: str, code: int, part: str = "") -> Remote:
    """How a run, or the slice `part` of one, ended by what the destination's ledger says; the machine's exit code only tells
    why when it did not."""
    store = open_store(destination, settings)
    try:
        report = status_report(store)
    except ConfigError:
        return Remote(code or 1, destination, 0, 0, complete=False, machines=1, hours_usd=0.0)
    made: StatusReport | SliceStatus = report
    complete = report.complete
    if part:
        mine = Slice.parse(part)
        made = (slices_at(store, mine.of) or ())[mine.number - 1]
        complete = made.partitions_done == made.partitions
    ended = (3 if report.failed else 0) if complete else (code or 1)
    return Remote(ended, destination, made.samples, made.shards, complete, machines=1, hours_usd=0.0)


def attached(
    client: VastClient,
    rentals: Rentals,
    rental: Rental,
    settings: Settings,
    *,
    tell: Callable[[str], None],
    log: Callable[[bytes], None],
    hear: Callable[[bytes], None] = lambda _: None,
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
            found = session.look() if rental.instance is not None else None
            link = session.link(found) if found is not None and not fate(found) else None
            if link is not None:
                code = Following(session, log, hear).to_the_end(link)
        except Told:
            raise
        except KeyboardInterrupt:
            if on_interrupt() == "detach":
                session.detach()
                return replace(result(settings, rental.destination, 130, rental.slice), detached=rental.label)
            raise
        except (BadMachine, TimeOver) as error:
            tell(error.message)
        finally:
            if not session.detached:
                session.end()
    return result(settings, rental.destination, code, rental.slice)


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
