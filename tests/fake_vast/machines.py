"""What runs behind an instance: nothing, a container's processes, or those with a real sshd.

A container here is a pid and mount namespace of its own with a private /root; killing its first process ends all others
at once, however they detached themselves.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

SSHD = "/usr/sbin/sshd"
SSHD_CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {place}/host_key
PidFile none
AuthorizedKeysFile /root/.ssh/authorized_keys
StrictModes yes
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
Subsystem sftp internal-sftp
"""
INIT = """
set -e
place=$1; shift
for lent; do mkdir -p "$place/$lent"; mount --bind "$lent" "$place/$lent"; done
mount --rbind "$place/root" /root
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/workspace
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd; chmod 755 /run/sshd
mkdir -p /tmp/data-bridge-0; mount -t tmpfs -o mode=700 tmpfs /tmp/data-bridge-0
export HOME=/root; cd /root
if [ -e "$place/sshd_config" ]; then /usr/sbin/sshd -f "$place/sshd_config" -E "$place/sshd.log"; fi
echo up > "$place/up"
bash "$place/onstart.sh" > "$place/onstart.log" 2>&1 || true
while :; do sleep 3600 & wait $!; done
"""


def why_not(*, sshd: bool = True) -> str:
    """Why there can be no containers here; "" where there can."""
    if os.getuid() != 0:
        return "containers need root here"
    if shutil.which("unshare") is None:
        return "containers need util-linux' unshare"
    if sshd and not Path(SSHD).exists():
        return "no sshd; apt-get install openssh-server"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False, timeout=30
    )
    return "" if tried.returncode == 0 else f"no namespaces here: {tried.stderr.decode().strip()}"


class Machine(Protocol):
    """The processes of one instance."""

    port: int | None
    sshd: bool
    """Whether it lets anybody in."""

    def start(self, env: Mapping[str, str], onstart: str, keys: list[str]) -> None: ...
    def authorize(self, key: str) -> None: ...
    def log(self) -> str: ...
    def kill(self) -> None: ...


class NoMachine:
    """Nothing runs; the vendor only says so."""

    port: int | None = None
    sshd = False

    def start(self, env: Mapping[str, str], onstart: str, keys: list[str]) -> None:
        pass

    def authorize(self, key: str) -> None:
        pass

    def log(self) -> str:
        return ""

    def kill(self) -> None:
        pass


class Container:
    """Processes in namespaces of their own. `image` is the environment of the image, which its first process has and an
    ssh session has not; `lent` are folders below /root that it sees as well."""

    def __init__(self, image: Mapping[str, str] | None = None, *, sshd: bool = True, lent: Sequence[Path] = ()) -> None:
        self._image = dict(image or {})
        self._lent = [str(path) for path in lent]
        self.sshd = sshd
        self._process: subprocess.Popen[bytes] | None = None
        self.port: int | None = None
        self.place = Path(tempfile.mkdtemp(prefix="fake-vast-"))
        self.place.chmod(0o755)

    @property
    def root(self) -> Path:
        """Its /root, seen from outside."""
        return self.place / "root"

    @property
    def pid(self) -> int:
        """Of its first process, as this machine counts them."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0])

    def start(self, env: Mapping[str, str], onstart: str, keys: list[str]) -> None:
        (self.root / ".ssh").mkdir(parents=True, mode=0o700, exist_ok=True)
        self.root.chmod(0o700)
        (self.root / ".no_auto_tmux").touch()
        (self.root / ".ssh" / "authorized_keys").write_text("".join(f"{key}\n" for key in keys))
        (self.place / "onstart.sh").write_text(onstart)
        if self.sshd:
            self._configure_sshd()
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        with (self.place / "init.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--propagation", "private",
                 "bash", "-c", INIT, "init", str(self.place), *self._lent],
                env={"PATH": path, **self._image, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def _configure_sshd(self) -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            self.port = int(holder.getsockname()[1])
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.place / "host_key"], check=True)
        (self.place / "sshd_config").write_text(SSHD_CONFIG.format(port=self.port, place=self.place))

    def authorize(self, key: str) -> None:
        with (self.root / ".ssh" / "authorized_keys").open("a") as file:
            file.write(f"{key}\n")

    def log(self) -> str:
        file = self.place / "onstart.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def freeze(self) -> None:
        """The host stops answering, without a word."""
        for pid in _tree(self.pid):
            os.kill(pid, signal.SIGSTOP)

    def kill(self) -> None:
        if self._process is not None:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            with suppress(OSError):  # it may have ended of itself
                for child in children.read_text().split():
                    os.kill(int(child), signal.SIGKILL)  # `unshare` ends when all of them have
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        for _ in range(100):  # what was killed may write for a moment yet
            shutil.rmtree(self.place, ignore_errors=True)
            if not self.place.exists():
                break
            threading.Event().wait(0.05)


def _tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _tree(int(child)))]
