"""Remote bytes exactly: counted, resumed where a connection was cut, and never short in silence."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from msgspec.structs import replace

from data_bridge.clients.http import CutError
from data_bridge.errors import SourceError
from data_bridge.io.codecs import BLOCK_BYTES
from data_bridge.utils.retry import Retry


class RangesIgnored(Exception):
    """The server sends whole files only: what was asked for in parts must be read in one piece."""


class Body(Protocol):
    """Bytes of one answer, iterated once."""

    @property
    def ranged(self) -> bool:
        """False when the server was asked for a part and sends everything."""

    def __iter__(self) -> Iterator[bytes]: ...
    def close(self) -> None: ...
    def abort(self) -> None:
        """End a read that blocks in another thread, if that can be done."""


class Watch:
    """Lets the owner of a reader stop it from another thread, in the middle of a read or of a wait."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._body: Body | None = None
        self._then: Callable[[], object] | None = None

    @contextmanager
    def on(self, body: Body) -> Generator[None]:
        self._body = body
        try:
            if self.stopped.is_set():
                body.abort()  # told to stop while the body was being opened
            yield
        finally:
            self._body = None
            body.close()

    def stop(self) -> None:
        self.stopped.set()
        body, then = self._body, self._then
        if body is not None:
            body.abort()
        if then is not None:
            then()

    def whenever_stopped(self, call: Callable[[], object]) -> None:
        """Have `call` called when this is stopped, from the thread that stops it."""
        self._then = call
        if self.stopped.is_set():
            call()

    def waking(self, retry: Retry) -> Retry:
        """The same patience, whose waits end when stopped."""

        def sleep(seconds: float) -> None:
            self.stopped.wait(seconds)

        return replace(retry, sleep=sleep)


def exactly(
    read: Callable[[int], Body], start: int, end: int | None, *, name: str, retry: Retry, watch: Watch | None = None
) -> Iterator[bytes]:
    """Bytes [start, end) of `read(offset)`, which opens the file at an offset, resumed after every cut.

    With `end` None the body itself must know its end. Raises SourceError when the body stays short or is too
    long, and whatever `read` raises for good.
    """
    watch = watch or Watch()

    def once(offset: int) -> Iterator[bytes]:
        if offset == end or watch.stopped.is_set():
            return
        body = read(offset)
        with watch.on(body):
            for block in body:
                offset += len(block)
                if end is not None and offset > end:
                    raise SourceError(f"{name}: more bytes came than were asked for", hint="the server is at fault")
                yield block
        if end is not None and offset < end and not watch.stopped.is_set():
            raise CutError(f"{name}: the body ended at byte {offset} of {end}")

    try:
        yield from watch.waking(retry).resuming(once, start)
    except CutError as error:
        raise SourceError(
            f"{error.message}; {retry.tries} tries brought nothing more",
            hint="the file may be shorter on the server than it says, or the network drops long answers; a rerun resumes",
        ) from error


def gathered(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of about 1 MB."""
    ready: list[bytes] = []
    size = 0
    for block in blocks:
        ready.append(block)
        size += len(block)
        if size >= BLOCK_BYTES:
            yield ready[0] if len(ready) == 1 else b"".join(ready)
            ready, size = [], 0
    if size:
        yield b"".join(ready)
