"""A run as a detached job on the machine: sent, started once, followed by byte offset from any number of connections."""

import io
import shlex
import tarfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import unquote, urlsplit

from data_bridge.clients.addresses import is_open
from data_bridge.compute.ssh import Link
from data_bridge.compute.wheel import wheel
from data_bridge.config import Portable
from data_bridge.errors import ConfigError

NOT_READY = 74
"""Exit code of a machine on which the run could not even be installed."""
PLACE = '"$HOME/.data-bridge"'
CONFIG = "config.json"
_RUN = r"""umask 077
S="$HOME/.data-bridge"
trap 'exit 74' EXIT
# where memory is short, this ends, and not what lets us in or destroys the machine
{ echo 500 > /proc/self/oom_score_adj; } 2>/dev/null || :
. "$S/settings"
# an ssh session has nothing of the image's environment; the first process has
tr '\0' '\n' < /proc/1/environ | grep -E '^[A-Za-z_][A-Za-z0-9_]*=' | grep -vE '^(CONTAINER_|DATA_BRIDGE_|JUPYTER_|SSH_|HOME=|PWD=|SHLVL=|_=)' > "$S/image.env"
while IFS= read -r line; do export "$line"; done < "$S/image.env"
rm -f "$S/image.env"
export PATH="/venv/main/bin:/opt/conda/bin:$HOME/.local/bin:$PATH:/usr/local/bin:/usr/bin:/bin"
mkdir -p "$WORKDIR" && cd "$WORKDIR" || exit 74
set -e
if [ ! -e "$S/installed" ]; then
  echo "installing on $(uname -m), $(nproc 2>/dev/null || echo 1) cores"
  if ! command -v uv >/dev/null; then
    python3 -m pip install -q --no-input --disable-pip-version-check --root-user-action=ignore --target "$S/boot" uv
    PATH="$S/boot/bin:$PATH"
  fi
  uv venv -q --allow-existing --python '>=3.11' "$S/venv"
  uv pip install -q --python "$S/venv/bin/python" --require-hashes -r "$S/requirements.txt"
  uv pip install -q --python "$S/venv/bin/python" --no-deps "$S/$WHEEL"
  if [ -n "$REPOSITORY" ]; then
    export GIT_TERMINAL_PROMPT=0 GIT_ASKPASS="$S/askpass"
    git clone -q "$REPOSITORY" "$S/repository"
    if [ -n "$REF" ]; then git -C "$S/repository" checkout -q "$REF" --; fi
    echo "installing $(git -C "$S/repository" rev-parse HEAD) of the repository"
    rm -f "$S/askpass"; unset GIT_ASKPASS
    if [ -e "$S/repository/uv.lock" ]; then
      UV_PROJECT_ENVIRONMENT="$S/venv" uv sync -q --frozen --no-dev --inexact --project "$S/repository"
    elif [ -e "$S/repository/pyproject.toml" ]; then
      uv pip install -q --python "$S/venv/bin/python" --no-deps "$S/repository"
    fi
  fi
  touch "$S/installed"
fi
if [ -e "$S/repository" ]; then cd "$S/repository"; fi
set -a; . "$S/variables"; set +a
rm -f "$S/variables"
if [ -n "$MEASURE" ]; then
  "$S/venv/bin/python" -m data_bridge.measure.link "$S/config.json" "$PREFIX" "$S/link" 2>/dev/null || :
fi
trap - EXIT
exec "$S/venv/bin/python" -m data_bridge run "$S/config.json" "$@"
"""
_WRAP = r"""S="$HOME/.data-bridge"; cd "$S" || exit 1
echo $$ > pid.new && mv pid.new pid
sh "$S/run.sh" "$@" > "$S/log" 2>&1 < /dev/null
echo $? > rc.new && mv rc.new rc
"""
_START = r"""S="$HOME/.data-bridge"; cd "$S" || exit 1
mkdir started 2>/dev/null || exit 0
setsid nohup sh "$S/wrap.sh" {arguments} </dev/null >/dev/null 2>&1 &
until [ -e "$S/pid" ]; do sleep 0.05; done
"""
_FOLLOW = r"""S="$HOME/.data-bridge"; at={offset}
while :; do
  over=
  if [ ! -e "$S/started" ] || [ -e "$S/restarted" ]; then over=1
  elif [ -e "$S/pid" ] && ! kill -0 "$(cat "$S/pid")" 2>/dev/null; then over=1
  fi
  size=$(wc -c < "$S/log" 2>/dev/null || echo 0)
  if [ "$size" -gt "$at" ]; then tail -c +$((at + 1)) "$S/log" | head -c $((size - at)); at=$size
  elif [ -n "$over" ]; then exit 0
  else sleep 0.5
  fi
done
"""


@dataclass(frozen=True, slots=True)
class Repository:
    """What is installed besides this version. `ref` is a commit, a tag, a branch, or "" for the default branch."""

    url: str
    """Without the name and the password that it may have been given with."""
    ref: str
    askpass: str
    """A program that tells git these two."""

    @classmethod
    def at(cls, url: str, ref: str | None) -> "Repository":
        """Of an address that may hold a password. Raises ConfigError for one that could be changed on the way."""
        parts = urlsplit(url)
        if is_open(url):
            raise ConfigError(
                f"vast.repo_url: what {parts.scheme or 'this'}:// brings could be changed on the way",
                hint="use https://",
            )
        user, password = (shlex.quote(unquote(word or "")) for word in (parts.username, parts.password))
        asked = f'#!/bin/sh\ncase "$1" in Username*) echo {user};; *) echo {password};; esac\n'
        return cls(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), ref or "", asked)


@dataclass(frozen=True, slots=True)
class Job:
    """What a machine is to do. `variables` are secrets; `arguments` those of `data-bridge run`. With `measure` the links are
    measured first, on what the run reads and writes."""

    config: Portable
    variables: Mapping[str, str]
    arguments: list[str]
    workdir: str
    repository: Repository | None = None
    prefix: str = ""
    measure: bool = False


def submit(link: Link, job: Job) -> None:
    """Send everything and start it. Called again after a lost answer, it starts nothing twice."""
    name, built = wheel()
    repository = job.repository
    settings = {"WORKDIR": job.workdir, "WHEEL": name, "PREFIX": job.prefix, "MEASURE": "1" if job.measure else ""}
    settings |= {"REPOSITORY": repository.url if repository else "", "REF": repository.ref if repository else ""}
    requirements = files("data_bridge.compute").joinpath("requirements.txt").read_bytes()
    parts = {
        name: built,
        "requirements.txt": requirements,
        CONFIG: job.config.text.encode(),
        "variables": _assignments(job.variables),
        "settings": _assignments(settings),
        "askpass": (repository.askpass if repository is not None else "").encode(),
        "run.sh": _RUN.encode(),
        "wrap.sh": _WRAP.encode(),
    }
    link.run(
        f"umask 077; mkdir -p {PLACE} && test -e {PLACE}/started || tar -x -C {PLACE}", _packed(parts), timeout_s=600
    )
    link.run(_START.format(arguments=shlex.join(job.arguments)))


def _assignments(values: Mapping[str, str]) -> bytes:
    """For `.` of a shell; nothing of it stands on a command line."""
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items()).encode()


def _packed(parts: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in parts.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o700 if name == "askpass" else 0o600
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def follow(link: Link, offset: int) -> Generator[bytes]:
    """The log from a byte on, until the job is over. Raises LinkLost when the connection is."""
    return link.stream(_FOLLOW.format(offset=offset))


def exit_code(link: Link) -> int | None:
    """That of the run; None while it works, and when it came to no end of its own."""
    said = link.run(f"cat {PLACE}/rc 2>/dev/null || true").strip()
    return int(said) if said.isdigit() else None
