"""Listens for commands on a Unix socket of the user, in a thread of its own that waits for nothing else."""

import errno
import fcntl
import os
import selectors
import socket
import stat
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from data_bridge.runtime.control import LONGEST_LINE, Request, Response, is_ours, line, request_from, socket_paths

CHUNK = 1 << 16
MOST_CLIENTS = 64
MOST_UNREAD = 64 << 20
"""Bytes of answers that a client may leave unread."""

Handle = Callable[[Request], Response]


class ControlServer:
    """Answers requests while the block lasts. `path` is the socket: mode 0600, in a folder of mode 0700, and gone
    afterwards.

    Clients that send halves, too much or nothing, or do not read what they are told, keep nobody else waiting. Entering
    raises OSError where no socket can be had, among it that of another process listening for the same run.
    """

    def __init__(self, folders: Sequence[Path], run: str, handle: Handle) -> None:
        self._paths = socket_paths(folders, run)
        self._handle = handle
        self._clients: set[_Client] = set()
        self._thread = threading.Thread(target=self._loop, name="control", daemon=True)
        self.path: Path

    def __enter__(self) -> "ControlServer":
        self._listening, self.path = _listening(self._paths)
        self._inode = self.path.stat().st_ino
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.send(b".")
        self._thread.join()
        with _locked(self.path.parent), suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        for client in self._clients:
            client.connection.close()
        self._selector.close()
        for own in (self._listening, self._wake, self._woken):
            own.close()

    def _loop(self) -> None:
        while True:
            for key, events in self._selector.select():
                if key.fileobj is self._woken:
                    return
                if key.fileobj is self._listening:
                    self._accept()
                else:
                    self._serve(key.data, events)

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except OSError:
            threading.Event().wait(0.1)  # it has gone already, or there are no descriptors left, and select would spin
            return
        if not is_ours(connection) or len(self._clients) >= MOST_CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        client = _Client(connection, self._answer)
        self._clients.add(client)
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _serve(self, client: "_Client", events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                client.read()
            client.write()
        except Exception:  # noqa: BLE001 - it has gone, or there is no answer to what it sent: the others are served on
            client.unread.clear()
            client.over = True
        if client.over and not client.unread:
            self._selector.unregister(client.connection)
            self._clients.remove(client)
            client.connection.close()
        else:
            reading = 0 if client.over else selectors.EVENT_READ
            writing = selectors.EVENT_WRITE if client.unread else 0
            self._selector.modify(client.connection, reading | writing, client)

    def _answer(self, data: bytes) -> Response:
        request = request_from(data)
        if isinstance(request, Response):
            return request
        try:
            return self._handle(request)
        except Exception as error:  # noqa: BLE001 - a stage's own code may be asked; the run goes on
            return Response(request.id, error=f"{request.command} failed: {type(error).__name__}: {error}")


class _Client:
    """One that is connected. `over` = it is not listened to any more."""

    def __init__(self, connection: socket.socket, answer: Callable[[bytes], Response]) -> None:
        self.connection = connection
        self._answer = answer
        self._received = bytearray()
        self.unread = bytearray()
        self.over = False

    def read(self) -> None:
        data = self.connection.recv(CHUNK)
        self.over = not data
        self._received += data
        while not self.over and (end := self._received.find(b"\n")) >= 0:
            request = bytes(self._received[:end])
            del self._received[: end + 1]
            if request.strip():
                self.unread += line(self._answer(request))
            self.over = len(self.unread) > MOST_UNREAD
        if len(self._received) > LONGEST_LINE:
            self._received.clear()
            self.unread += line(Response(error=f"a request has at most {LONGEST_LINE:,} bytes"))
            self.over = True

    def write(self) -> None:
        """As much as the client takes now."""
        if self.unread:
            try:
                sent = self.connection.send(self.unread)
            except BlockingIOError:
                return
            del self.unread[:sent]


def _listening(paths: Sequence[Path]) -> tuple[socket.socket, Path]:
    """A socket in the first folder that takes one. Raises what the last one says, or that there is one already."""
    error = OSError("no folder for its socket has a short enough path")
    for path in paths:
        try:
            return _bound(path), path
        except FileExistsError:
            raise
        except OSError as raised:
            error = raised
    raise error


def _bound(path: Path) -> socket.socket:
    folder = path.parent
    folder.mkdir(mode=0o700, exist_ok=True)  # not its parents: a session's folder is there or not
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{folder} is not a folder of this user alone (mode 0700)")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _locked(folder):
            if path.exists() and _answers(path):
                raise FileExistsError(f"another process listens at {path}")
            for left in folder.glob("*.sock"):  # of runs that were killed
                if left == path or not _answers(left):
                    left.unlink(missing_ok=True)
            listening.bind(str(path))
            path.chmod(0o600)
            listening.listen(MOST_CLIENTS)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def _answers(path: Path) -> bool:
    """Whether anybody listens there, be it that he is slow."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(str(path)) != errno.ECONNREFUSED


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Runs that start or end at the same time look at the sockets of a folder one after the other."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
