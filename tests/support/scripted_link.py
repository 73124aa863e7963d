"""A way to machines that run nothing: it keeps what was sent, and each machine's work is a function of the test."""

import io
import tarfile
from collections.abc import Callable, Generator
from pathlib import Path

from data_bridge.compute.ssh import LinkLost
from data_bridge.model.rental import Address

Work = Callable[[], int | None]
"""What happens where the run would; its exit code, None = the connection breaks."""


class Machines:
    """`reach` of a runner; `files` and `starts` are what each machine that got work was sent and told."""

    def __init__(self, *works: Work) -> None:
        self._works = list(works)
        self.says: dict[int, bytes] = {}
        """Lines that the run on a machine, 1 being the first, says of itself."""
        self.files: list[dict[str, bytes]] = []
        self.starts: list[str] = []

    def __call__(self, address: Address, name: str, folder: Path) -> "_Link":
        return _Link(self)

    def work(self) -> int | None:
        """That of the machine that was told last."""
        return self._works[len(self.starts) - 1]()


class _Link:
    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._code: int | None = None

    def run(self, script: str, stdin: bytes = b"", *, timeout_s: float = 60.0) -> bytes:
        if stdin:
            with tarfile.open(fileobj=io.BytesIO(stdin)) as archive:
                members = {m.name: archive.extractfile(m) for m in archive}
                self._machines.files.append({name: file.read() for name, file in members.items() if file})
        if "setsid nohup" in script:
            self._machines.starts.append(script)
        return b"" if self._code is None else str(self._code).encode()

    def stream(self, script: str) -> Generator[bytes]:
        if "events.jsonl" in script:
            yield self._machines.says.get(len(self._machines.starts), b"")
            return
        yield b""
        self._code = self._machines.work()
        if self._code is None:
            raise LinkLost("it broke")
