"""An FTP server on loopback with just enough to be read from: passive mode, RETR, and bodies cut on demand."""

import socket
import socketserver
import threading
from typing import Self


class FtpServer:
    """Serves `files` by path to anybody; a path in `cut` is sent only up to that many bytes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Session)
        self._server.daemon_threads = True
        self._server.owner = self  # type: ignore[attr-defined]
        self.origin = f"ftp://anonymous@127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        owner: FtpServer = self.server.owner  # type: ignore[attr-defined]
        listener = socket.create_server(("127.0.0.1", 0))
        self._say("220 ready")
        with listener:
            for line in self.rfile:
                command, _, argument = line.decode().strip().partition(" ")
                match command.upper():
                    case "USER":
                        self._say("331 password")
                    case "PASS":
                        self._say("230 welcome")
                    case "TYPE":
                        self._say("200 fine")
                    case "EPSV":
                        self._say(f"229 Entering Extended Passive Mode (|||{listener.getsockname()[1]}|)")
                    case "PASV":
                        port = listener.getsockname()[1]
                        self._say(f"227 Entering Passive Mode (127,0,0,1,{port >> 8},{port & 255})")
                    case "RETR" if argument in owner.files:
                        self._say("150 here it comes")
                        connection, _peer = listener.accept()
                        with connection:
                            connection.sendall(owner.files[argument][: owner.cut.get(argument)])
                        self._say("226 done")
                    case "RETR":
                        self._say("550 no such file")
                    case "QUIT":
                        self._say("221 bye")
                        return
                    case _:
                        self._say("502 not here")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())
