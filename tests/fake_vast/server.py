"""The vendor's HTTP interface over a `World`, on the loopback."""

import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fake_vast.faults import Kind
from fake_vast.offers import found
from fake_vast.world import PAGE, Call, Refusal, World

LEAST_BETWEEN_S = {"create": 4.5, "destroy": 3.0, "show": 2.0, "list": 1.0, "manage": 1.0, "attach": 1.0, "search": 6.0}
STORED = {"id", "label", "actual_status", "gpu_name", "verification"}
LOG_AFTER_TRIES = 2


class _Dropped(Exception):
    """The connection ends without an answer."""


class Server(ThreadingHTTPServer):
    """Serves while the block of `serving` lasts."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, world: World) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.world = world
        self.logs: dict[str, tuple[str, int]] = {}
        self.last: dict[tuple[str, str], float] = {}

    @property
    def url(self) -> str:
        """What clients take for https://console.vast.ai."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed hangs up; that is no news."""


@contextmanager
def serving(world: World) -> Iterator[Server]:
    server = Server(world)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        world.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        world = self.server.world
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        body = json.loads(raw) if raw else None
        parts = urlsplit(self.path)
        key = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        key = key or next(iter(parse_qs(parts.query).get("api_key", ())), None)
        who = world.who(key)
        operation, work, number = _route(self.command, parts.path)
        if who == "account" and world.knobs.cut_off:
            status, answer = 0, None
        else:
            status, answer = self._answer(operation, work, who, body, parse_qs(parts.query), number)
        made = answer.get("new_contract") if isinstance(answer, dict) else None
        world.journal.append(
            Call(time.time(), self.command, parts.path, operation, who, body, status, number if made is None else made)
        )
        if status == 0:
            self.close_connection = True
            return
        data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        if operation == "search" and status == 429:
            self.send_header("X-RateLimit-Reset", str(int(time.time()) + 3600))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815 - their names are the interface

    def _answer(
        self, operation: str, work: str, who: str, body: Any, query: dict[str, list[str]], number: int | None
    ) -> tuple[int, Any]:
        world = self.server.world
        if operation == "log":
            return self._log(work)
        if not operation:
            return 404, "<html>Not Found</html>"
        if who == "nobody":
            return 401, {"success": False, "error": "auth_error", "msg": "Invalid user key"}
        if who != "account" and (operation not in ("show", "manage", "destroy") or who != f"instance {number}"):
            return 401, {"success": False, "error": "auth_error", "msg": "Invalid user key"}
        if world.knobs.paced and self._too_soon(operation, who):
            return 429, "API requests too frequent: endpoint threshold=" + str(LEAST_BETWEEN_S[operation])
        fault = world.faults.take(operation) if who == "account" else world.faults.take(f"{operation} by itself")
        try:
            _before(fault, world.knobs.slow_s)
            answer = _DEEDS[operation](self.server, number or 0, body or {}, query)
            return _after(fault, answer)
        except Refusal as refusal:
            return refusal.status, refusal.body
        except _Dropped:
            return 0, None

    def _too_soon(self, operation: str, who: str) -> bool:
        now, least = time.monotonic(), LEAST_BETWEEN_S.get(operation)
        before = self.server.last.get((operation, who))
        if least is None:
            return False
        if before is not None and now - before < least:
            return True
        self.server.last[operation, who] = now
        return False

    def _log(self, name: str) -> tuple[int, Any]:
        text, tries = self.server.logs.get(name, ("", -1))
        if tries < 0:
            return 403, "<Error><Code>AccessDenied</Code></Error>"
        self.server.logs[name] = (text, tries + 1)
        return (200, text) if tries >= LOG_AFTER_TRIES else (404, "<Error><Code>NoSuchKey</Code></Error>")


def _before(fault: Kind | None, slow_s: float) -> None:
    match fault:
        case "drop_before":
            raise _Dropped
        case "error_before":
            raise Refusal(502, "bad_gateway")
        case "refused":
            raise Refusal(200, "refused", "the request was refused")
        case "auth_as_404":
            raise Refusal(404, "auth_error", "Session expired. Please log in again.")
        case "too_often_text":
            raise Refusal(429, "too_many", "API requests too frequent")
        case "too_often_json":
            refusal = Refusal(429, "")
            refusal.body = {"detail": "API requests too frequent: endpoint threshold=4.5"}
            raise refusal
        case "quota":
            raise Refusal(429, "search_quota_exceeded")
        case "taken":
            raise Refusal(410, "no_such_ask", "error 404/3603: no_such_ask")
        case "no_credit":
            raise Refusal(
                400, "insufficient_credit", "Your account lacks credit; see the billing page. insufficient_credit"
            )
        case "slow":
            threading.Event().wait(slow_s)
        case _:
            pass


def _after(fault: Kind | None, answer: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    match fault:
        case "drop_after":
            raise _Dropped
        case "error_after":
            raise Refusal(502, "bad_gateway")
        case "no_id":
            return 200, {"success": True}
        case "error_with_contract":
            return 400, {
                "success": False,
                "error": "invalid_price",
                "msg": "bid",
                "new_contract": answer["new_contract"],
            }
        case _:
            return 200, answer


def _create(server: Server, number: int, body: dict[str, Any], query: object) -> dict[str, Any]:
    made = server.world.create(number, body)
    return {"success": True, "new_contract": made.id, "instance_api_key": made.key}


def _search(server: Server, number: int, body: dict[str, Any], query: object) -> dict[str, Any]:
    world = server.world
    return {"offers": found([o for o in world.offers if o["id"] not in world._taken], body.get("q", body))}


def _show(server: Server, number: int, body: object, query: object) -> dict[str, Any]:
    instance = server.world.known(number)
    return {"instances": instance.record() if instance is not None else None}


def _list(server: Server, number: int, body: object, query: dict[str, list[str]]) -> dict[str, Any]:
    filters = json.loads((query.get("select_filters") or ["{}"])[0])
    if set(filters) - STORED:
        raise Refusal(400, "invalid_args", "cannot filter by a computed column")
    rows = sorted(server.world.listed(), key=lambda row: row["id"])
    for column, tests in filters.items():
        wanted = tests.get("in", [tests.get("eq")])
        rows = [row for row in rows if row[column] in wanted]
    after = int((query.get("after_token") or ["0"])[0])
    limit = min(int((query.get("limit") or [str(PAGE)])[0]), PAGE)
    left = [row for row in rows if row["id"] > after]
    page = left[:limit]
    token = str(page[-1]["id"]) if len(left) > limit else None
    return {"success": True, "instances_found": len(page), "total_instances": len(rows), "label_counts": {},
            "next_token": token, "instances": page}  # fmt: skip


def _list_v0(server: Server, number: int, body: object, query: object) -> dict[str, Any]:
    raise Refusal(410, "deprecated_endpoint", "Use /api/v1/instances/ instead")


def _destroy(server: Server, number: int, body: object, query: object) -> dict[str, Any]:
    server.world.lost(number).destroy()
    return {"success": True}


def _manage(server: Server, number: int, body: dict[str, Any], query: object) -> dict[str, Any]:
    instance = server.world.lost(number)
    if "label" in body:
        instance.label = body["label"]
    if body.get("state") == "stopped":
        instance.halt("exited")
        instance.intended = instance.next = "stopped"
    return {"success": True}


def _attach(server: Server, number: int, body: dict[str, Any], query: object) -> dict[str, Any]:
    instance = server.world.lost(number)
    with instance.lock:
        instance.keys.append(body["ssh_key"])
        if instance.actual == "running":
            instance.machine.authorize(body["ssh_key"])
    return {"success": True, "msg": "SSH key added"}


def _keys(server: Server, number: int, body: object, query: object) -> dict[str, Any]:
    keys = server.world.lost(number).keys
    return {"success": True, "ssh_keys": json.dumps([{"id": i, "public_key": k} for i, k in enumerate(keys)])}


def _request_logs(server: Server, number: int, body: object, query: object) -> dict[str, Any]:
    name = secrets.token_hex(8)
    server.logs[name] = (server.world.lost(number).machine.log(), 0)
    return {"success": True, "result_url": f"{server.url}/stored-logs/{name}"}


def _user(server: Server, number: int, body: object, query: object) -> dict[str, Any]:
    world = server.world
    return {"id": world.account_id, "key_id": 1, "email": "me@example.com", "balance": 0.0, "credit": world.credit,
            "ssh_key": None, "sid": "s", "api_key": world.account_key}  # fmt: skip


def _nothing(server: Server, number: int, body: object, query: object) -> dict[str, Any]:
    return {"success": True}


_DEEDS: dict[str, Callable[[Server, int, dict[str, Any], dict[str, list[str]]], dict[str, Any]]] = {
    "create": _create, "search": _search, "show": _show, "list": _list, "list_v0": _list_v0, "destroy": _destroy,
    "manage": _manage, "attach": _attach, "keys": _keys, "logs": _request_logs, "user": _user, "reboot": _nothing,
}  # fmt: skip
_ROUTES = [
    ("PUT", r"/api/v0/asks/(\d+)/", "create"),
    ("POST", r"/api/v0/bundles/", "search"),
    ("PUT", r"/api/v0/search/asks/", "search"),
    ("GET", r"/api/v1/instances/", "list"),
    ("GET", r"/api/v0/instances/", "list_v0"),
    ("GET", r"/api/v0/instances/(\d+)/", "show"),
    ("PUT", r"/api/v0/instances/(\d+)/", "manage"),
    ("DELETE", r"/api/v0/instances/(\d+)/", "destroy"),
    ("PUT", r"/api/v0/instances/(?:reboot|recycle)/(\d+)/", "reboot"),
    ("PUT", r"/api/v0/instances/request_logs/(\d+)/", "logs"),
    ("POST", r"/api/v0/instances/(\d+)/ssh/", "attach"),
    ("GET", r"/api/v0/instances/(\d+)/ssh/", "keys"),
    ("GET", r"/api/v0/users/current/?", "user"),
]


def _route(method: str, path: str) -> tuple[str, str, int | None]:
    """Operation, the rest of the path, and the number in it; the trailing slash is part of the path."""
    if method == "GET" and path.startswith("/stored-logs/"):
        return "log", path.rpartition("/")[2], None
    for wanted, pattern, operation in _ROUTES:
        match = re.fullmatch(pattern, path)
        if match and wanted == method:
            return operation, "", int(match[1]) if match.groups() else None
    return "", "", None
