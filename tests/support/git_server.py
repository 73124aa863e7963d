"""A git repository on loopback, served as plain files over HTTP."""

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_WHO = {f"GIT_{who}_{what}": "x@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def git(folder: Path, *words: str) -> str:
    env = {**os.environ, **_WHO, "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(folder)}
    return subprocess.run(
        ["git", *words], cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


@contextmanager
def git_server(place: Path, *commits: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Its address and the hashes of its commits, one after the other, while the block lasts. `main` has the last one, and
    each has a tag: `v0`, `v1`…"""
    work = place / "work"
    work.mkdir(parents=True)
    git(work, "init", "-q", "-b", "main")
    made = []
    for number, files in enumerate(commits):
        for name, text in files.items():
            (work / name).write_text(text)
        git(work, "add", "-A")
        git(work, "commit", "-q", "-m", f"commit {number}")
        git(work, "tag", f"v{number}")
        made.append(git(work, "rev-parse", "HEAD"))
    git(place, "clone", "-q", "--bare", "work", "served.git")
    git(place / "served.git", "update-server-info")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(place)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/served.git", made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
