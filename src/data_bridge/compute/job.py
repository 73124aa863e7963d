"""A run as a detached job on the machine: sent, started once, followed by byte offset from any number of connections."""

import io
import shlex
import tarfile
from collections.abc import Generator, Mapping
from importlib.resources import files

from data_bridge.compute.ssh import Link
from data_bridge.compute.wheel import wheel
from data_bridge.config import Portable

PLACE = '"$HOME/.data-bridge"'
CONFIG = "config.json"
_RUN = r"""umask 077
S="$HOME/.data-bridge"
# an ssh session has nothing of the image's environment; the first process has
tr '\0' '\n' < /proc/1/environ | grep -E '^[A-Za-z_][A-Za-z0-9_]*=' | grep -vE '^(CONTAINER_|DATA_BRIDGE_|JUPYTER_|SSH_|HOME=|PWD=|SHLVL=|_=)' > "$S/image.env"
while IFS= read -r line; do export "$line"; done < "$S/image.env"
rm -f "$S/image.env"
export PATH="/venv/main/bin:/opt/conda/bin:$HOME/.local/bin:$PATH:/usr/local/bin:/usr/bin:/bin"
mkdir -p "$WORKDIR" && cd "$WORKDIR" || exit 75
set -e
if [ ! -e "$S/installed" ]; then
  echo "installing on $(uname -m), $(nproc 2>/dev/null || echo 1) cores"
  if ! command -v uv >/dev/null; then
    python3 -m pip install -q --no-input --disable-pip-version-check --root-user-action=ignore --target "$S/boot" uv
    PATH="$S/boot/bin:$PATH"
  fi
  uv venv -q --allow-existing --python '>=3.11' "$S/venv"
  uv pip install -q --python "$S/venv/bin/python" --require-hashes -r "$S/requirements.txt"
  uv pip install -q --python "$S/venv/bin/python" --no-deps "$PACKAGE"
  touch "$S/installed"
fi
set -a; . "$S/variables"; set +a
rm -f "$S/variables"
exec "$S/venv/bin/python" -m data_bridge run "$S/config.json" "$@"
"""
_WRAP = r"""S="$HOME/.data-bridge"; cd "$S" || exit 1
echo $$ > pid.new && mv pid.new pid
sh "$S/run.sh" "$@" > "$S/log" 2>&1 < /dev/null
echo $? > rc.new && mv rc.new rc
"""
_START = r"""S="$HOME/.data-bridge"; cd "$S" || exit 1
mkdir started 2>/dev/null || exit 0
{settings} setsid nohup sh "$S/wrap.sh" {arguments} </dev/null >/dev/null 2>&1 &
until [ -e "$S/pid" ]; do sleep 0.05; done
"""
_FOLLOW = r"""S="$HOME/.data-bridge"; at={offset}
while :; do
  over=; [ -e "$S/rc" ] && over=1
  size=$(wc -c < "$S/log" 2>/dev/null || echo 0)
  if [ "$size" -gt "$at" ]; then tail -c +$((at + 1)) "$S/log" | head -c $((size - at)); at=$size
  elif [ -n "$over" ]; then exit 0
  else sleep 0.5
  fi
done
"""


def submit(
    link: Link,
    config: Portable,
    variables: Mapping[str, str],
    arguments: list[str],
    *,
    workdir: str,
    package: str | None,
) -> None:
    """Send everything and start it. Called again after a lost answer, it starts nothing twice."""
    name, built = wheel()
    requirements = files("data_bridge.compute").joinpath("requirements.txt").read_bytes()
    secrets = "".join(f"{key}={shlex.quote(value)}\n" for key, value in variables.items())
    parts = {
        name: built,
        "requirements.txt": requirements,
        CONFIG: config.text.encode(),
        "variables": secrets.encode(),
        "run.sh": _RUN.encode(),
        "wrap.sh": _WRAP.encode(),
    }
    link.run(
        f"umask 077; mkdir -p {PLACE} && test -e {PLACE}/started || tar -x -C {PLACE}", _packed(parts), timeout_s=600
    )
    settings = f"WORKDIR={shlex.quote(workdir)} PACKAGE={shlex.quote(package) if package else f'$S/{name}'}"
    link.run(_START.format(settings=settings, arguments=shlex.join(arguments)))


def _packed(parts: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in parts.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o600
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def follow(link: Link, offset: int) -> Generator[bytes]:
    """The log from a byte on, until the job is over. Raises LinkLost when the connection is."""
    return link.stream(_FOLLOW.format(offset=offset))


def exit_code(link: Link) -> int | None:
    """That of the run; None while it works."""
    said = link.run(f"cat {PLACE}/rc 2>/dev/null || true").strip()
    return int(said) if said else None


def control(link: Link, arguments: list[str]) -> bytes:
    """`data-bridge ctl` on the machine, about the run there."""
    words = shlex.join(arguments)
    return link.run(f"cd {PLACE} && ./venv/bin/python -m data_bridge ctl config.json {words}")
