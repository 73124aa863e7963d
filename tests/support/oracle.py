"""Somebody who is paid for answers: a web server on loopback that never says the same twice, and a stage that asks it.

with Oracle() as oracle:
    ... run with {"support.oracle:Asks": {"url": oracle.url}} ...
    assert oracle.asked.count(7) == 1
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.kill import Shot

from data_bridge.model.batch import Row
from data_bridge.runtime.paid import Answer, PaidStage
from data_bridge.runtime.stage import Skip, StageOptions, option

COST_USD = 0.1
TOKENS = (7, 3)


class Oracle:
    """`asked` holds the ids in the order of the calls. What is in `refused` gets status 500, what is in `nonsense` an answer of no
    use, what is in `settled` that answer. Calls wait until `open` is set."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.began_s: list[float] = []
        self.refused: set[int] = set()
        self.nonsense: set[int] = set()
        self.settled: dict[int, Any] = {}
        self.most = 0
        """Calls at a time, at most."""
        self.open = threading.Event()
        self.open.set()
        self.heard = threading.Condition()
        self._working = 0
        oracle = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, said = oracle._answer(asked)
                body = json.dumps(said).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True  # who asked was killed

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 200

            def handle_error(self, *_: object) -> None: ...

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "Oracle":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def counts(self) -> Counter[int]:
        return Counter(self.asked)

    def wait_for(self, ready: Callable[[], bool], what: str) -> None:
        """Until this holds; it is looked at after each call."""
        with self.heard:
            assert self.heard.wait_for(ready, 60), what

    @property
    def idle(self) -> bool:
        return self._working == 0

    def _answer(self, asked: dict[str, Any]) -> tuple[int, Any]:
        number = asked["id"]
        with self.heard:
            self.asked.append(number)
            self.began_s.append(time.monotonic())
            self._working += 1
            self.most = max(self.most, self._working)
            nth = len(self.asked)
            self.heard.notify_all()
        self.open.wait(60)
        with self.heard:
            self._working -= 1
            self.heard.notify_all()
        if number in self.refused:
            return 500, {}
        said = {"id": number, "text": f"answer {nth} to {asked['prompt']}", "score": nth / 7}
        return 200, self.settled.get(number, {"id": number} if number in self.nonsense else said)


class AsksOptions(StageOptions):
    url: str = option(description="of the oracle")
    prompt: str = option("what is it", live="any", description="what is asked")
    api_key: str = option("", description="not to be kept")
    dies: str = option("", description="`ask`, `use`: where it is killed, once, at sample `at`")
    at: int = option(-1, description="the id there")
    fuse: str = option("", description="file that is there once it was killed")


class Asks(PaidStage[AsksOptions]):
    """Gives each sample what the oracle says of it."""

    kind = "asks"
    Options = AsksOptions

    def ask(self, row: Row) -> Answer:
        connection = HTTPConnection(urlsplit(self.options.url).netloc, timeout=60)
        try:
            connection.request("POST", "/", json.dumps({"id": row["id"], "prompt": self.options.prompt}))
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise ConnectionError(f"status {response.status}")
        self._die("ask", row)
        return Answer(json.loads(body), COST_USD, *TOKENS)

    def use(self, row: Row, value: Any) -> Row:
        if "text" not in value:
            raise Skip("the answer is nonsense")
        if value["id"] is not None:
            self._die("use", row)
        return {**row, "said": value["text"], "score": value["score"]}

    def example(self, row: Row) -> Any:
        return {"id": None, "text": f"something about {row['id']}", "score": 0.5}

    def _die(self, where: str, row: Row) -> None:
        if self.options.dies == where and row["id"] == self.options.at:
            Shot(0, "before", self.options.fuse).fire()


def journalled(root: Path) -> dict[int, Any]:
    """The answers that are kept below a destination, by id, wherever they are."""
    found: dict[int, Any] = {}
    for path in sorted(root.glob("_bridge/*/answers/*/*.jsonl")):
        for line in path.read_text().splitlines()[1:]:
            value = json.loads(line)["value"]
            found.setdefault(value["id"], value)
    for path in sorted(root.glob("_bridge/*/staging/answers/*.jsonl")):
        for line in path.read_text().split("\n")[:-1]:
            value = json.loads(line)["value"]
            found.setdefault(value["id"], value)
    return found


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    with Oracle() as oracle:
        yield oracle
