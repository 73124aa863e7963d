"""Commands on another machine through the system's own `ssh`, with the host's key pinned at the first meeting."""

import select
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Protocol

from data_bridge.errors import BridgeError, ConfigError, FatalError
from data_bridge.model.rental import Address

CONNECT_S = 10
LOST = 255
"""ssh's own exit code: no connection, or one that broke."""
QUIET_S = 1.0
_BLOCK = 1 << 16


class LinkLost(BridgeError):
    """The machine cannot be reached now. `refused`: it can, and nobody listens yet."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Link(Protocol):
    """Where commands are run."""

    def run(self, script: str, stdin: bytes = b"", *, timeout_s: float = 60.0) -> bytes: ...
    def stream(self, script: str) -> Generator[bytes]: ...


def make_key(folder: Path) -> tuple[Path, str]:
    """A key pair for one rental: the private file, and the public line."""
    key = folder / "key"
    if not key.exists():
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "data-bridge", "-f", str(key)]
        try:
            subprocess.run(words, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        except FileNotFoundError:
            raise ConfigError("`--use-vast` needs ssh and ssh-keygen", hint="install OpenSSH's client") from None
    return key, key.with_suffix(".pub").read_text(encoding="utf-8").strip()


class Ssh:
    """One machine. `folder` keeps its key pair and what its host key was; another host key later is refused."""

    def __init__(self, address: Address, name: str, folder: Path) -> None:
        known = folder / "known_hosts"
        met = known.exists() and known.stat().st_size > 0
        options = {
            "IdentitiesOnly": "yes", "IdentityAgent": "none", "BatchMode": "yes", "LogLevel": "ERROR",
            "StrictHostKeyChecking": "yes" if met else "accept-new", "UserKnownHostsFile": f'"{known}"',
            "GlobalKnownHostsFile": "/dev/null", "HostKeyAlias": name, "ConnectTimeout": str(CONNECT_S),
            "ServerAliveInterval": "15", "ServerAliveCountMax": "4", "ForwardAgent": "no", "UpdateHostKeys": "no",
        }  # fmt: skip
        self._words = ["ssh", "-F", "/dev/null", "-i", str(folder / "key"), "-p", str(address.port), "-l", "root", "-T"]
        self._words += [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        self._words += ["--", address.host]

    def run(self, script: str, stdin: bytes = b"", *, timeout_s: float = 60.0) -> bytes:
        """Its standard output. Raises LinkLost, or FatalError for a command that failed."""
        try:
            # a session of its own: Ctrl-C is for us to hear
            done = subprocess.run(
                [*self._words, script],
                input=stdin,
                capture_output=True,
                timeout=timeout_s,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise LinkLost(f"no answer within {timeout_s:.0f} s") from None
        said = done.stderr.decode(errors="replace").strip()[-300:]
        if done.returncode == LOST:
            if "verification failed" in said or "IDENTIFICATION HAS CHANGED" in said:
                raise FatalError("the machine shows another host key than at first", hint="rent another one")
            raise LinkLost(said or "the connection broke", refused="refused" in said)
        if done.returncode:
            raise FatalError(f"a command on the machine failed with {done.returncode}: {said}")
        return done.stdout

    def stream(self, script: str) -> Generator[bytes]:
        """Its output as it comes, and b"" now and then while none comes. Raises LinkLost when it did not end well."""
        with subprocess.Popen(
            [*self._words, script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            try:
                while True:
                    if not select.select([process.stdout], [], [], QUIET_S)[0]:
                        yield b""
                        continue
                    block = process.stdout.read(_BLOCK)
                    if not block:
                        break
                    yield block
                if process.wait():
                    raise LinkLost("the connection broke")
            finally:
                process.kill()
