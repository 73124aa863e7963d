"""How a running run is told what to do from elsewhere: one request, one response, a line of JSON each.

Whoever is addressed answers for itself; None = it does not understand the command. The answer of a response is by name.
"""

import os
import socket
import struct
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from data_bridge.errors import BusyError, ConfigError

VERSION = 1
"""Of the protocol."""
LONGEST_LINE = 8 << 20
"""Bytes of a request. Coefficients of a filter are the largest thing anybody sends."""
PATIENCE_S = 60.0
"""How long a client waits: a stage may look for a file or a model before it takes an option."""
ID_DIGITS = 16
"""Of a run's id; what stands behind them names a slice of it."""
LONGEST_PATH = 100
"""Bytes that the path of a Unix socket may have on every system, with some to spare."""


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """A command. `stage` is whom it addresses; None = everybody."""

    command: str
    stage: str | None = None
    key: str | None = None
    value: Any = None
    id: str = ""
    """The response repeats it."""
    v: int = msgspec.field(default=VERSION)


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one that was addressed says."""

    accepted: bool
    reason: str = ""
    """Why not; or what to know of what was accepted."""
    data: Any = None


class Response(msgspec.Struct, frozen=True, omit_defaults=True):
    """The replies by name, or why there are none."""

    id: str = ""
    replies: dict[str, Reply | None] = {}
    error: str = ""
    hint: str = ""
    v: int = msgspec.field(default=VERSION)


def line(message: Request | Response) -> bytes:
    """A message as it travels."""
    return msgspec.json.encode({"v": message.v, **msgspec.to_builtins(message)}) + b"\n"


def request_from(data: bytes) -> Request | Response:
    """The request in a line, or what to answer where it holds none."""
    try:
        request = msgspec.json.decode(data, type=Request)
    except (ValueError, RecursionError) as error:  # nested ever so deeply
        return Response(error=f"not a request: {error}", hint='send one line of JSON: {"v": 1, "command": "describe"}')
    if request.v != VERSION:
        return Response(request.id, error=f"version {request.v} of the protocol is not known: this is {VERSION}")
    return request


class RunControl:
    """Sends commands to a run of this machine. Each method returns the replies of those that understood.

    All raise ConfigError when there is nobody, nobody understands, or somebody refuses (then nothing of it has changed
    there, and the run goes on).
    """

    def __init__(self, run: str, folders: Sequence[Path], *, patience_s: float = PATIENCE_S) -> None:
        self.run = run
        self._folders = folders
        self._patience_s = patience_s

    def pause(self) -> Mapping[str, Any]:
        """Stop reading. What has been read goes its way, uploads too."""
        return self.ask("pause")

    def resume(self) -> Mapping[str, Any]:
        return self.ask("resume")

    def drain(self) -> Mapping[str, Any]:
        """Stop reading for good: finish and commit what has been read as far as shards are full, then end as interrupted."""
        return self.ask("drain")

    def stop(self) -> Mapping[str, Any]:
        """As the first SIGINT."""
        return self.ask("stop")

    def set(self, stage: str, key: str, value: Any) -> Mapping[str, Any]:
        """Give an option of a stage another value, from the next packet of each slot on."""
        return self.ask("set", stage, key, value)

    def bypass(self, stage: str) -> Mapping[str, Any]:
        """Let samples pass a stage unchanged."""
        return self.ask("bypass", stage)

    def enable(self, stage: str) -> Mapping[str, Any]:
        return self.ask("enable", stage)

    def describe(self, stage: str | None = None) -> Mapping[str, Any]:
        """What there is: the state of the run, stages, their options and which of them may change, commands."""
        return self.ask("describe", stage)

    def export_config(self) -> Mapping[str, Any]:
        """The config that has the present values, without secrets."""
        found: Mapping[str, Any] = self.ask("export-config")["engine"]
        return found

    def ask(
        self, command: str, stage: str | None = None, key: str | None = None, value: Any = None
    ) -> Mapping[str, Any]:
        """Any command; what was said by name, of those that understood."""
        response = self.send(Request(command, stage, key, value, uuid.uuid4().hex[:8]))
        if response.error:
            raise ConfigError(response.error, hint=response.hint)
        understood = {name: reply for name, reply in response.replies.items() if reply is not None}
        refused = [f"{name}: {reply.reason}" for name, reply in understood.items() if not reply.accepted]
        if refused:
            raise ConfigError("\n".join(refused), hint="nothing was changed there; `describe` shows what may be")
        return {name: reply.data for name, reply in understood.items()}

    def send(self, request: Request) -> Response:
        """The response to a request, as it came. Raises ConfigError when the run does not listen on this machine, and
        BusyError when it does not answer."""
        with self._connected() as connection:
            try:
                connection.sendall(line(request))
                with connection.makefile("rb") as answers:
                    answer = answers.readline()
            except TimeoutError:
                raise BusyError(
                    f"run {self.run} did not answer within {self._patience_s:.0f} s",
                    hint="it may be doing it still: ask again, or look at what it says in its own terminal",
                ) from None
            except OSError:  # the connection was cut
                answer = b""
        if not answer.endswith(b"\n"):
            raise BusyError(f"run {self.run} ended before it answered", hint="look at what it says in its own terminal")
        try:
            return msgspec.json.decode(answer, type=Response)
        except (ValueError, RecursionError) as error:
            raise BusyError(
                f"run {self.run} answered what is no response: {error}",
                hint="it may be of another version: use the data-bridge with which it was started",
            ) from None

    def _connected(self) -> socket.socket:
        for path in socket_paths(self._folders, self.run):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(self._patience_s)
            try:
                connection.connect(str(path))
            except OSError:
                connection.close()
                continue
            if is_ours(connection):
                return connection
            connection.close()
            raise ConfigError(
                f"{path} belongs to another user: nothing was sent there",
                hint="remove that socket, or have its owner do it; it is not that of a run of yours",
            )
        raise ConfigError(
            f"run {self.run} does not listen on this machine",
            hint="it takes commands of its own user while it works; start it with `data-bridge run`",
        )


def socket_paths(folders: Sequence[Path], run: str) -> list[Path]:
    """Where the socket of a run, or of a slice of it, may be; paths that are too long for one are left out."""
    paths = [folder / f"{run[:8]}{run[ID_DIGITS:]}.sock" for folder in folders]
    return [path for path in paths if len(str(path).encode()) <= LONGEST_PATH]


def is_ours(connection: socket.socket) -> bool:
    """Whether the other end belongs to this user or to root, where the system tells; elsewhere modes alone decide."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return user in (0, os.getuid())
