"""Stores that stop at a chosen moment, or refuse, so that a test can act while a run is in the middle of something."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from support.kill import ShootingDestination, ShootingStore

from data_bridge.config import Settings
from data_bridge.errors import DiskFullError
from data_bridge.model.store import ObjectInfo
from data_bridge.storage import open_store

Operation = Literal["put_file", "put_bytes", "put_if_absent", "list", "probe"]


@dataclass(frozen=True)
class Gate:
    """A place where a run waits: it says on one pipe that it is there, and goes on when the other is closed."""

    operation: Operation
    part_of_key: str
    reached: Path
    opened: Path

    @classmethod
    def at(cls, folder: Path, operation: Operation, part_of_key: str) -> "Gate":
        gate = cls(operation, part_of_key, folder / "reached", folder / "opened")
        os.mkfifo(gate.reached)
        os.mkfifo(gate.opened)
        return gate

    def wait_here(self) -> None:
        """In the run: only the first to come stops."""
        try:
            os.close(os.open(self.reached.with_suffix(".once"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        self.reached.write_text(str(os.getpid()))
        self.opened.read_bytes()

    def wait_until_reached(self) -> int:
        """In the test; returns the PID of the process that waits."""
        return int(self.reached.read_text())

    def open(self) -> None:
        """In the test: let it go on."""
        self.opened.write_bytes(b"")


class GatedStore(ShootingStore):
    """Waits at its gate before an operation."""

    gate: Gate

    def _mutate(self, name: str, *args: Any, **more: Any) -> Any:
        if name == self.gate.operation and self.gate.part_of_key in args[0]:
            self.gate.wait_here()
        return super()._mutate(name, *args, **more)

    def list(self, prefix: str = "", *, without: str = "") -> Iterator[ObjectInfo]:
        self._wait_at_list(prefix)
        return super().list(prefix, without=without)

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        self._wait_at_list(prefix)
        return super().list_keys(prefix)

    def _wait_at_list(self, prefix: str) -> None:
        if self.gate.operation == "list" and self.gate.part_of_key == prefix:
            self.gate.wait_here()

    def probe(self, scratch: str) -> None:
        if self.gate.operation == "probe":
            self.gate.wait_here()
        super().probe(scratch)


@dataclass(frozen=True)
class GatedDestination(ShootingDestination):
    gate: Gate | None = None

    def __call__(self, settings: Settings) -> GatedStore:
        assert self.gate is not None
        store = GatedStore(open_store(self.uri, settings), None)
        store.gate = self.gate
        return store


class FullStore(ShootingStore):
    """Has no room for any more shards after the first few."""

    room = 0

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        if self.room == 0:
            raise DiskFullError(f"no space left: writing {key}", hint="free some space and run the same command again")
        self.room -= 1
        super().put_file(key, path, sha256=sha256)


@dataclass(frozen=True)
class FullDestination(ShootingDestination):
    room: int = 0

    def __call__(self, settings: Settings) -> FullStore:
        store = FullStore(open_store(self.uri, settings), None)
        store.room = self.room
        return store


class RacyStore(ShootingStore):
    """Cannot put if absent: it looks, and then it puts."""

    @property
    def conditional(self) -> bool:
        return False

    def put_if_absent(self, key: str, data: bytes) -> bool:
        there = self.get(key)
        if there is None:
            self.put_bytes(key, data)
        return there is None or there == data


@dataclass(frozen=True)
class RacyDestination(ShootingDestination):
    def __call__(self, settings: Settings) -> RacyStore:
        return RacyStore(open_store(self.uri, settings), self.shot)
