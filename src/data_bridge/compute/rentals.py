"""The local ledger of rentals: a file for each, written before the call that costs money."""

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from data_bridge.errors import BusyError, FatalError
from data_bridge.model.rental import Rental
from data_bridge.utils.files import replacing

PREFIX = "data-bridge:"
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def new_label(name: str) -> str:
    """A label that no other rental has; it says whose the machine is."""
    short = "".join(c if c.isalnum() else "-" for c in name)[:30]
    return f"{PREFIX}{short}:{secrets.token_hex(5)}"


class Rentals:
    """One folder of them. Every `put` is on the disk when it returns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place(self, label: str) -> Path:
        """Where the keys of a rental are kept; made when it is not there."""
        folder = self._folder / label.removeprefix(PREFIX).replace(":", "-")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def put(self, rental: Rental) -> Rental:
        with replacing(self.place(rental.label) / "rental.json", secrets.token_hex(4)) as file:
            file.write(msgspec.json.encode(rental))
        return rental

    def all(self) -> list[Rental]:
        """Oldest first. Raises FatalError for one that cannot be read: it may stand for a machine that costs money."""
        found = []
        for path in self._folder.glob("*/rental.json"):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Rental))
            except msgspec.DecodeError as error:
                raise FatalError(
                    f"{path}: not a rental: {error}", hint="look at it; it may stand for a machine"
                ) from error
        return sorted(found, key=lambda r: r.created)

    @contextmanager
    def exclusive(self, destination: str) -> Generator[None]:
        """Only one command of this computer rents for a destination at a time. Raises BusyError while another does."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = hashlib.sha256(destination.encode()).hexdigest()[:16]
        handle = os.open(self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in NO_LOCKS:  # in a home without locks nothing is known of other commands
                    raise BusyError(
                        f"another command rents for {destination} now", hint="let it end, or stop it with Ctrl-C"
                    ) from error
            yield
        finally:
            os.close(handle)

    def open(self, api_url: str, account: int) -> list[Rental]:
        """Those of an account that may still cost money."""
        return [r for r in self.all() if r.open and r.api_url == api_url and r.account == account]
