"""Everything that can be made to go wrong, by name."""

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "drop_before",
    "drop_after",
    "error_before",
    "error_after",
    "slow",
    "refused",
    "auth_as_404",
    "too_often_text",
    "too_often_json",
    "quota",
    "taken",
    "no_credit",
    "no_id",
    "error_with_contract",
]
"""`drop_*`: the connection is closed without an answer, before or after the deed. `error_*`: 502 likewise. `refused`: 200
with `success: false`. `quota`: the day's searches are used up. `taken`, `no_credit`, `no_id` and
`error_with_contract` belong to `create`: the last two have rented the machine all the same."""

Boot = Literal[
    "runs",
    "loads_for_ever",
    "pull_failed",
    "container_failed",
    "exits",
    "goes_offline",
    "no_ports",
    "no_sshd",
    "proxy_only",
]
"""What becomes of a machine that was rented."""


@dataclass(frozen=True)
class Fault:
    """The next `times` calls of one operation go wrong."""

    operation: str
    kind: Kind
    times: int = 1


class Faults:
    """What is to go wrong, counted down by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[list[object]] = []
        self.happened: Counter[str] = Counter()

    def plan(self, *faults: Fault) -> None:
        with self._lock:
            self._planned += [[fault, fault.times] for fault in faults]

    def take(self, operation: str) -> Kind | None:
        """What goes wrong with this call."""
        with self._lock:
            for entry in self._planned:
                fault, left = entry
                assert isinstance(fault, Fault)
                assert isinstance(left, int)
                if fault.operation == operation and left:
                    entry[1] = left - 1
                    self.happened[f"{operation}:{fault.kind}"] += 1
                    return fault.kind
        return None


@dataclass
class Knobs:
    """What goes wrong for as long as it is set."""

    boot: Boot = "runs"
    boots: tuple[Boot, ...] = ()
    """Of the first machines, one after the other; the others boot as `boot` says."""
    boot_s: float = 0.0
    container_key: bool = True
    label_lost: bool = False
    listed_after_s: float = 0.0
    still_listed_s: float = 0.0
    unknown_for_s: float = 0.0
    """A new machine may not be known by its number at first."""
    dearer: float = 1.0
    """What a machine costs, as a multiple of what was offered."""
    paced: bool = False
    """Whether the documented least times between calls are asked for."""
    cut_off: bool = False
    """The owner's network is gone: no call with the account's key gets an answer. The machines' own calls do."""
    slow_s: float = 0.2
