"""The protocol over a real socket: one line of JSON each way, whatever clients do."""

import json
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from data_bridge.errors import BusyError, ConfigError
from data_bridge.runtime.control import LONGEST_LINE, Reply, Request, Response, RunControl, line, socket_paths
from data_bridge.runtime.control_server import MOST_CLIENTS, ControlServer

RUN = "0123456789abcdef"
FDS = Path("/proc/self/fd")


def echo(request: Request) -> Response:
    """Every part says what it was asked; `nobody` is understood by nobody."""
    if request.command == "nobody":
        return Response(request.id, {"a": None}, "nobody understands 'nobody'", "ask for something else")
    if request.command == "raise":
        raise ZeroDivisionError("a stage's own code")
    told = Reply(accepted=True, data=[request.stage, request.key, request.value])
    refused = Reply(accepted=False, reason="too wide")
    return Response(request.id, {"a": told, "b": None, **({"c": refused} if request.command == "refuse" else {})})


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        yield Path(made) / "data-bridge"


@pytest.fixture
def server(folder: Path) -> Iterator[ControlServer]:
    with ControlServer([folder], RUN, echo) as server:
        yield server


Connect = Callable[[], socket.socket]


@pytest.fixture
def connect(server: ControlServer) -> Iterator[Connect]:
    with ExitStack() as stack:

        def connected() -> socket.socket:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(30)
            connection.connect(str(server.path))
            return connection

        yield connected


def answer(connection: socket.socket) -> dict[str, Any]:
    with connection.makefile("rb") as lines:
        return dict(json.loads(lines.readline()))


def test_a_command_comes_back_with_the_replies_of_those_that_understood(server: ControlServer, folder: Path) -> None:
    control = RunControl(RUN, [folder])

    assert control.set("a", "width", [1, {"x": None}]) == {"a": ["a", "width", [1, {"x": None}]]}
    assert control.pause() == {"a": [None, None, None]}


def test_what_nobody_understands_is_an_error(server: ControlServer, folder: Path) -> None:
    with pytest.raises(ConfigError, match="nobody understands 'nobody'") as raised:
        RunControl(RUN, [folder]).ask("nobody")
    assert raised.value.hint == "ask for something else"


def test_what_is_refused_is_an_error_with_its_reason(server: ControlServer, folder: Path) -> None:
    with pytest.raises(ConfigError, match="c: too wide"):
        RunControl(RUN, [folder]).ask("refuse")


def test_an_exception_of_who_answers_ends_neither_thread_nor_connection(connect: Connect) -> None:
    connection = connect()

    connection.sendall(line(Request("raise", id="1")) + line(Request("pause", id="2")))

    with connection.makefile("rb") as lines:
        first, second = json.loads(lines.readline()), json.loads(lines.readline())
    assert first["error"] == "raise failed: ZeroDivisionError: a stage's own code"
    assert second["id"] == "2"
    assert second["replies"]["b"] is None


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"pause\n", "not a request"),
        (b"[1]\n", "not a request"),
        (b'{"v": 1}\n', "`command`"),
        (b'{"command": 7}\n', "not a request"),
        (b'{"v": 2, "command": "pause"}\n', "version 2 of the protocol is not known"),
        (b"\xff\xfe\n", "not a request"),
        (b'{"command": "set", "value": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "not a request"),
    ],
)
def test_a_line_that_is_no_request_is_told_so_and_the_next_one_is_answered(
    connect: Connect, sent: bytes, said: str
) -> None:
    connection = connect()

    connection.sendall(sent + b"\n" + line(Request("pause")))

    with connection.makefile("rb") as lines:
        assert said in json.loads(lines.readline())["error"]
        assert json.loads(lines.readline())["replies"]["a"]["accepted"] is True


def test_a_request_in_pieces_is_one(connect: Connect) -> None:
    connection = connect()

    for byte in line(Request("pause", id="x")):
        connection.sendall(bytes([byte]))

    assert answer(connection)["id"] == "x"


def test_half_a_line_and_a_client_that_leaves_disturb_nobody(connect: Connect) -> None:
    half, gone, whole = connect(), connect(), connect()
    half.sendall(b'{"command": "pau')
    gone.sendall(line(Request("pause")))
    gone.close()

    whole.sendall(line(Request("pause", id="y")))

    assert answer(whole)["id"] == "y"
    half.shutdown(socket.SHUT_WR)
    assert half.recv(10) == b""


def test_a_line_without_end_is_refused(connect: Connect) -> None:
    huge, other = connect(), connect()

    def send() -> None:
        try:
            huge.sendall(b"x" * (LONGEST_LINE + 1_000_000))
        except OSError:
            return  # it is not read to its end

    sending = threading.Thread(target=send)
    sending.start()
    assert f"at most {LONGEST_LINE:,} bytes" in answer(huge)["error"]
    other.sendall(line(Request("pause")))
    assert "a" in answer(other)["replies"]
    huge.shutdown(socket.SHUT_RDWR)
    sending.join(30)
    assert not sending.is_alive()


def test_who_does_not_read_his_answers_keeps_nobody_waiting(connect: Connect) -> None:
    deaf, other = connect(), connect()
    request = line(Request("set", "a", "k", "v" * 1_000_000))
    deaf.setblocking(False)
    for _ in range(200):
        try:
            deaf.send(request)
        except BlockingIOError:
            break

    other.sendall(line(Request("pause")))

    assert "a" in answer(other)["replies"]


def test_a_large_value_arrives_whole(server: ControlServer, folder: Path) -> None:
    value = [i / 7 for i in range(200_000)]

    assert RunControl(RUN, [folder]).set("a", "coeffs", value)["a"][2] == value


def test_two_terminals_at_once_get_their_own_answers(server: ControlServer, folder: Path) -> None:
    wrong: list[object] = []

    def ask(number: int) -> None:
        control = RunControl(RUN, [folder])
        wrong.extend(v for v in range(100) if control.set("a", str(number), v) != {"a": ["a", str(number), v]})

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert wrong == []
    assert not any(thread.is_alive() for thread in threads)


def test_more_clients_than_it_serves_are_turned_away_and_served_later(connect: Connect) -> None:
    clients = [connect() for _ in range(MOST_CLIENTS)]
    for client in clients:
        client.sendall(line(Request("pause")))
        answer(client)
    one_more = connect()

    assert one_more.recv(10) == b""
    clients[0].close()
    clients[1].sendall(line(Request("pause")))
    assert "a" in answer(clients[1])["replies"]


def test_socket_and_folder_are_the_users_alone(server: ControlServer) -> None:
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700
    assert server.path.name == "01234567.sock"


def test_a_folder_that_others_may_enter_is_not_used(folder: Path) -> None:
    folder.mkdir(mode=0o755)

    with pytest.raises(PermissionError, match="not a folder of this user alone"), ControlServer([folder], RUN, echo):
        pass
    assert list(folder.iterdir()) == []


def test_a_link_to_a_folder_is_not_used(folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    folder.symlink_to(tmp_path)

    with pytest.raises(PermissionError), ControlServer([folder], RUN, echo):
        pass


def test_the_next_folder_is_taken_where_the_first_cannot_be_had(folder: Path) -> None:
    absent = folder / "no-session" / "data-bridge"

    with ControlServer([absent, folder], RUN, echo) as server:
        assert server.path.parent == folder
        assert RunControl(RUN, [absent, folder]).pause()


def test_paths_too_long_for_a_socket_are_left_out(folder: Path) -> None:
    assert socket_paths([Path("/tmp") / ("x" * 100), folder], RUN) == [folder / "01234567.sock"]


def test_what_a_killed_run_left_is_replaced(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    for name in (RUN, "other"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(socket_paths([folder], name)[0]))

    with ControlServer([folder], "another", echo), ControlServer([folder], RUN, echo):
        assert RunControl(RUN, [folder]).pause()
        assert sorted(path.name for path in folder.iterdir()) == ["01234567.sock", "another.sock"]


def test_a_run_that_listens_keeps_its_socket(server: ControlServer, folder: Path) -> None:
    with (
        pytest.raises(FileExistsError, match="another process listens"),
        ControlServer([folder, folder.with_name("other")], RUN, echo),
    ):
        pass
    assert RunControl(RUN, [folder]).pause()


def test_nothing_is_left_behind_whatever_ends_the_block(folder: Path) -> None:
    before = set(FDS.iterdir()) if FDS.is_dir() else set()
    with pytest.raises(ZeroDivisionError), ControlServer([folder], RUN, echo):
        RunControl(RUN, [folder]).pause()
        raise ZeroDivisionError

    assert list(folder.iterdir()) == []
    assert not any(thread.name == "control" for thread in threading.enumerate())
    if before:
        assert set(FDS.iterdir()) == before
    with pytest.raises(ConfigError, match="does not listen"):
        RunControl(RUN, [folder]).pause()


def test_a_run_that_ends_instead_of_answering_is_busy(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "01234567.sock"))
        listening.listen()

        def accept() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)

        ending = threading.Thread(target=accept)
        ending.start()
        with pytest.raises(BusyError, match="ended before it answered"):
            RunControl(RUN, [folder]).pause()
        ending.join(30)


def test_an_answer_that_cannot_be_sent_costs_its_client_alone(folder: Path) -> None:
    def answers(request: Request) -> Response:
        return Response(request.id, {"a": Reply(accepted=True, data=object() if request.command == "odd" else 1)})

    with ControlServer([folder], RUN, answers):
        with pytest.raises(BusyError, match="ended before it answered"):
            RunControl(RUN, [folder]).ask("odd")
        assert RunControl(RUN, [folder]).pause() == {"a": 1}


class Peer:
    """Somebody at the socket of the run who takes one connection and does something with it."""

    def __init__(self, folder: Path, does: Callable[[socket.socket], object]) -> None:
        folder.mkdir(mode=0o700)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / "01234567.sock"))
        self._listening.listen()
        self._does = does
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        self._listening.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection:
            self._does(connection)


def test_a_run_that_cuts_the_connection_is_busy(folder: Path) -> None:
    # what was sent is not read: the client gets a reset instead of an end
    with (
        Peer(folder, lambda connection: connection.recv(1)),
        pytest.raises(BusyError, match="ended before it answered"),
    ):
        RunControl(RUN, [folder]).set("a", "k", "v" * 1_000_000)


def test_a_run_that_is_silent_is_busy(folder: Path) -> None:
    asked = threading.Event()
    with Peer(folder, lambda _: asked.wait(30)):
        with pytest.raises(BusyError, match="did not answer within 0 s"):
            RunControl(RUN, [folder], patience_s=0.01).pause()
        asked.set()


@pytest.mark.parametrize("answer", [b"hello\n", b"[1]\n", b"\xff\n", b'{"replies": 7}\n', b"[" * 100_000 + b"\n"])
def test_an_answer_that_is_no_response_is_an_error_in_words(folder: Path, answer: bytes) -> None:
    def does(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(answer)

    with Peer(folder, does), pytest.raises(BusyError, match="answered what is no response"):
        RunControl(RUN, [folder]).pause()


@pytest.mark.skipif(os.getuid() != 0 or not hasattr(socket, "SO_PEERCRED"), reason="takes a second user")
def test_a_socket_of_another_user_is_told_nothing(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    path = folder / "01234567.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        os.seteuid(65534)  # whose it is for the other end is whose it was when it began to listen
        try:
            listening.listen()
        finally:
            os.seteuid(0)

        with pytest.raises(ConfigError, match="belongs to another user") as raised:
            RunControl(RUN, [folder]).pause()

        assert str(path) in raised.value.message
        connection, _ = listening.accept()
        with connection:
            assert connection.recv(1000) == b""
