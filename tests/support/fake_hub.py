"""A Hugging Face Hub on loopback, real enough for `datasets` and `huggingface_hub` to run unmodified.

`session_hub()` starts one per test process and points the environment at it; call it from a conftest, before anything
imports `huggingface_hub`, which reads HF_ENDPOINT once.
"""

import hashlib
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

NOT_SERVED = ("README.md",)
"""Git keeps these itself; everything else is a large file with a hash."""


@dataclass
class Repo:
    """A dataset repository: commits by hash, branches and tags by name."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tokens: frozenset[str] = frozenset()
    """Who may read; empty = everybody."""
    gated: bool = False
    aka: str = ""
    """The name this repository has now, where it was renamed."""

    def commit(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """What to do to the next `times` requests for a path that the pattern matches, after letting `after` of them pass."""

    pattern: str
    kind: str  # "503", "429" or "cut"
    times: int = 1
    after: int = 0


class FakeHub:
    """The server. `requests` logs `METHOD path`, `sent` counts the bytes of files that went out; `cdn` answers files by
    redirect, as the real one does."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        self.sent = 0
        self.faults: list[Fault] = []
        self.cdn = True
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def push(self, name: str, files: Mapping[str, bytes], *, branch: str = "main", **options: Any) -> str:
        """Commit these files as the whole content of the branch; returns the commit's hash."""
        repo = self.repos.setdefault(name, Repo())
        for key, value in options.items():
            setattr(repo, key, value)
        digest = hashlib.sha1(name.encode(), usedforsecurity=False)
        for path in sorted(files):
            digest.update(path.encode() + b"\0" + files[path])
        repo.commits[digest.hexdigest()] = dict(files)
        repo.refs[branch] = digest.hexdigest()
        return digest.hexdigest()

    def fault(self, pattern: str, kind: str, times: int = 1, after: int = 0) -> None:
        self.faults.append(Fault(pattern, kind, times, after))

    def take_fault(self, path: str) -> str | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, path):
                    if fault.after > 0:
                        fault.after -= 1
                        return None
                    fault.times -= 1
                    return fault.kind
        return None

    def blob(self, sha256: str) -> bytes | None:
        every: Iterable[bytes] = (
            b for r in self.repos.values() for files in r.commits.values() for b in files.values()
        )
        return next((b for b in every if _sha256(b) == sha256), None)


@lru_cache(maxsize=1)
def session_hub() -> FakeHub:
    """The hub of this process; HF_ENDPOINT and HF_HOME point at it and at an empty folder from now on."""
    assert "huggingface_hub" not in sys.modules, "call session_hub() before huggingface_hub is imported"
    hub = FakeHub()
    os.environ["HF_ENDPOINT"] = hub.endpoint
    os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-home-")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ.pop(name, None)
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    return hub


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # headers and body in one packet: two would wait for each other's acknowledgement
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        form = (self.headers.get("Content-Type") or "").startswith("application/x-www-form-urlencoded")
        self._answer(parse_qs(body.decode()) if form else json.loads(body))

    def _answer(self, body: Any = None) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        kind = self.hub.take_fault(path)
        if kind in ("503", "429"):
            self._send(int(kind), b"busy", {"Retry-After": "0"})
            return
        routes: list[tuple[str, Callable[..., None]]] = [
            (r"/cdn/(?P<sha>[0-9a-f]{64})", self._cdn),
            (
                r"/datasets/(?P<name>[^/]+(?:/[^/]+)?)/resolve/(?P<rev>refs/[^/]+/[^/]+|[^/]+)/(?P<file>.+)",
                self._resolve,
            ),
            (r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<rev>refs/[^/]+/[^/]+|[^/]+)/(?P<file>.+)", self._resolve),
            (
                r"/api/datasets/(?P<name>[^/]+/[^/]+)/tree/(?P<rev>refs/[^/]+/[^/]+|[^/]+)(?:/(?P<folder>.*))?",
                self._tree,
            ),
            (r"/api/datasets/(?P<name>[^/]+/[^/]+)/paths-info/(?P<rev>refs/[^/]+/[^/]+|[^/]+)", self._paths(body)),
            (r"/api/(?:datasets|models)/(?P<name>.+?)(?:/revision/(?P<rev>.+))?", self._info),
        ]
        for pattern, route in routes:
            match = re.fullmatch(pattern, path)
            if match:
                route(**match.groupdict(), **({"cut": kind == "cut"} if route in (self._cdn, self._resolve) else {}))
                return
        self._fail(404, "EntryNotFound", "no such route")

    # ---- routes

    def _info(self, name: str, rev: str | None) -> None:
        found = self._found(name, rev or "main")
        if found:
            repo, sha = found
            files = [{"rfilename": path} for path in sorted(repo.commits[sha])]
            self._json(
                {"id": repo.aka or name, "_id": "0" * 24, "author": name.split("/", maxsplit=1)[0], "sha": sha,
                 "siblings": files, "tags": [], "cardData": {}, "private": bool(repo.tokens and not repo.gated),
                 "gated": "manual" if repo.gated else False, "disabled": False, "downloads": 0, "likes": 0,
                 "lastModified": "2024-01-01T00:00:00.000Z", "createdAt": "2024-01-01T00:00:00.000Z"}
            )  # fmt: skip

    def _tree(self, name: str, rev: str, folder: str | None) -> None:
        found = self._found(name, rev)
        if not found:
            return
        repo, sha = found
        prefix = f"{folder.strip('/')}/" if folder else ""
        inside = {p: b for p, b in repo.commits[sha].items() if p.startswith(prefix)}
        if prefix and not inside:
            self._fail(404, "EntryNotFound", f"{folder} does not exist")
            return
        recursive = "recursive=true" in self.path.lower()
        entries: dict[str, dict[str, Any]] = {}
        for path, content in sorted(inside.items()):
            parts = path[len(prefix) :].split("/")
            folders = [prefix + "/".join(parts[: i + 1]) for i in range(len(parts) - 1)]
            for name_ in folders if recursive else folders[:1]:
                entries[name_] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": name_}
            if recursive or len(parts) == 1:
                entries[path] = _entry(path, content)
        self._json(list(entries.values()))

    def _paths(self, body: Any) -> Callable[..., None]:
        def answer(name: str, rev: str) -> None:
            found = self._found(name, rev)
            if found:
                repo, sha = found
                self._json([_entry(p, repo.commits[sha][p]) for p in body["paths"] if p in repo.commits[sha]])

        return answer

    def _resolve(self, name: str, rev: str, file: str, *, cut: bool) -> None:
        found = self._found(name, rev)
        if not found:
            return
        repo, sha = found
        content = repo.commits[sha].get(file)
        if content is None:
            self._fail(404, "EntryNotFound", f"{file} does not exist", {"X-Repo-Commit": sha})
            return
        etag = _sha256(content)
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if self.hub.cdn and file not in NOT_SERVED:
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{etag}"'}
            self._send(302, b"", {**headers, "ETag": f'"{etag[:40]}"', "Location": f"{self.hub.endpoint}/cdn/{etag}"})
        else:
            self._file(content, {**headers, "ETag": f'"{etag[:40]}"'}, cut=cut)

    def _cdn(self, sha: str, *, cut: bool) -> None:
        content = self.hub.blob(sha)
        if content is None:
            self._fail(404, "EntryNotFound", "gone")
        else:
            self._file(content, {"ETag": f'"cdn-{sha[:16]}"', "Accept-Ranges": "bytes"}, cut=cut)

    # ---- answers

    def _found(self, name: str, revision: str) -> tuple[Repo, str] | None:
        repo = self.hub.repos.get(name)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repo is not None and repo.tokens and token not in repo.tokens:
            if repo.gated:
                self._fail(403 if token else 401, "GatedRepo", "access is restricted")
                return None
            repo = None
        if repo is None:
            self._fail(404 if token else 401, "RepoNotFound", "Repository not found")
            return None
        sha = repo.commit(revision)
        if sha is None:
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repo, sha

    def _file(self, content: bytes, headers: dict[str, str], *, cut: bool) -> None:
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        status, part = 200, content
        if match and (match[1] or match[2]):
            first = int(match[1]) if match[1] else max(0, len(content) - int(match[2]))
            last = min(int(match[2]), len(content) - 1) if match[1] and match[2] else len(content) - 1
            if first >= len(content):
                self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            status, part = 206, content[first : last + 1]
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"}
        with self.hub.lock:
            self.hub.sent += len(part) if self.command == "GET" else 0
        self._send(status, part, headers, cut=cut)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _fail(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        text = json.dumps({"error": message}).encode()
        self._send(status, text, {**(headers or {}), "X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.wfile.flush()
            self.close_connection = True


@lru_cache(maxsize=1_000)
def _sha256(content: bytes) -> str:
    """Hashed once: a repository may be large, and every request asks."""
    return hashlib.sha256(content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
    entry["oid"] = _sha256(content)[:40]
    if path not in NOT_SERVED:
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
    return entry
