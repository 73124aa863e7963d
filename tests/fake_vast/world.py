"""The vendor's side: offers, accounts, instances, what was asked and what it costs. No HTTP here."""

import itertools
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fake_vast.faults import Faults, Knobs
from fake_vast.instances import HALTED, Instance
from fake_vast.machines import Machine, NoMachine
from fake_vast.offers import Row

PAGE = 25
LABEL = 256
ONSTART = 4048
LEAST_DISK = 8


class Refusal(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, error: str, message: str = "", **more: Any) -> None:
        super().__init__(error)
        self.status = status
        self.body = {"success": False, "error": error, "msg": message or error, **more}


@dataclass(frozen=True)
class Call:
    """One line of the journal."""

    at: float
    method: str
    path: str
    operation: str
    who: str
    """`account`, `instance <id>` or `nobody`."""
    body: Any
    status: int
    """0: no answer was given."""
    instance: int | None = None


@dataclass
class World:
    """Everything the vendor knows."""

    offers: list[Row] = field(default_factory=list)
    make_machine: Callable[[], Machine] = NoMachine
    knobs: Knobs = field(default_factory=Knobs)
    faults: Faults = field(default_factory=Faults)
    account_key: str = field(default_factory=lambda: f"account-{secrets.token_hex(24)}")
    account_id: int = 4711
    credit: float = 25.0

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.instances: dict[int, Instance] = {}
        self.journal: list[Call] = []
        self._numbers = itertools.count(9_000_001)
        self._refusals = itertools.count()
        self._taken: set[int] = set()
        self._over = threading.Event()
        self._walks: list[threading.Thread] = []

    def who(self, key: str | None) -> str:
        if key == self.account_key:
            return "account"
        owner = next((i for i in self.instances.values() if i.key == key), None)
        return f"instance {owner.id}" if owner is not None and key else "nobody"

    def create(self, offer_id: int, request: dict[str, Any]) -> Instance:
        """Accept an offer. Raises Refusal; one that carries `new_contract` has rented all the same."""
        with self.lock:
            row = next((o for o in self.offers if o["id"] == offer_id and offer_id not in self._taken), None)
            if row is None:
                raise self._no_such_ask()
            self._check(request)
            self._taken.add(offer_id)
            number = next(self._numbers)
            boots = self.knobs.boots
            request = {**request, "_container_key": self.knobs.container_key}
            made = Instance(
                number, row, request, secrets.token_hex(32), self.make_machine(),
                boots[len(self.instances)] if len(self.instances) < len(boots) else self.knobs.boot, time.time(),
                self.knobs.dearer,
            )  # fmt: skip
            made.label = None if self.knobs.label_lost else request.get("label")
            self.instances[number] = made
            if request.get("price") and float(request["price"]) < row["min_bid"]:
                made.halt("exited", outbid=True)
                raise Refusal(400, "invalid_price", "bid too low", new_contract=number)
            walk = threading.Thread(target=made.walk, args=(self.knobs.boot_s, self._over.wait), daemon=True)
            self._walks.append(walk)
            walk.start()
            return made

    def _check(self, request: dict[str, Any]) -> None:
        if not request.get("image"):
            raise Refusal(400, "invalid_args", "image is required")
        if float(request.get("disk") or 0) < LEAST_DISK:
            raise Refusal(400, "invalid_args", "disk must be at least 8")
        if len(request.get("label") or "") > LABEL:
            raise Refusal(400, "label_too_long")
        if len(request.get("onstart") or "") > ONSTART:
            raise Refusal(400, "invalid_args", "onstart too long")
        if not isinstance(request.get("env") or {}, dict):
            raise Refusal(400, "invalid_args", "env must be an object")
        if self.credit <= 0:
            raise Refusal(400, "insufficient_credit", "insufficient_credit")

    def _no_such_ask(self) -> Refusal:
        """It has been seen in all of these forms."""
        status, error = [(404, "invalid_args"), (410, "no_such_ask"), (400, "no_such_ask")][next(self._refusals) % 3]
        return Refusal(status, error, "error 404/3603: no_such_ask Instance type by id is not available.")

    def known(self, number: int) -> Instance | None:
        """What the service says is there."""
        found = self.instances.get(number)
        old_enough = found is not None and time.time() - found.born >= self.knobs.unknown_for_s
        return found if found is not None and found.alive and old_enough else None

    def lost(self, number: int) -> Instance:
        """Raises Refusal where there is no such instance."""
        found = self.known(number)
        if found is None:
            raise Refusal(404, "no_such_instance", f"Instance {number} not found.")
        return found

    def outbid(self, number: int) -> None:
        """Somebody bids more: it stops, and goes on costing the disk."""
        self.lost(number).halt("exited", outbid=True)

    def vanish(self, number: int) -> None:
        """The host takes it away."""
        self.lost(number).destroy()

    def listed(self) -> list[Row]:
        """What the list shows now."""
        now = time.time()
        shown = []
        for instance in list(self.instances.values()):
            old_enough = now - instance.born >= self.knobs.listed_after_s
            lingers = instance.gone_at is not None and now - instance.gone_at < self.knobs.still_listed_s
            if old_enough and (instance.alive or lingers):
                shown.append(instance.record())
        return shown

    @property
    def living(self) -> list[Instance]:
        """What costs money now."""
        return [i for i in self.instances.values() if i.alive]

    @property
    def running(self) -> list[Instance]:
        return [i for i in self.living if i.actual not in HALTED]

    def bill(self, at: float | None = None) -> float:
        """Dollars until then."""
        return sum(i.cost(time.time() if at is None else at) for i in self.instances.values())

    def grows_by(self, hours: float = 1000.0) -> float:
        """What the bill would have grown by after so many hours of nobody doing anything: money that leaks."""
        now = time.time()
        return self.bill(now + hours * 3600) - self.bill(now)

    def calls(self, operation: str, who: str = "") -> list[Call]:
        """Lines of the journal."""
        return [c for c in list(self.journal) if c.operation == operation and c.who.startswith(who)]

    def close(self) -> None:
        """End all there is, as no vendor ever would."""
        self._over.set()
        for walk in self._walks:
            walk.join()
        for instance in self.instances.values():
            instance.destroy()
