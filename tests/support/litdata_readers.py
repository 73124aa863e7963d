"""litdata's own readers, each a process of an environment that holds torch (made by `.ci/readers`)."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.tls import authority

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = {"current": ".venv-readers", "oldest": ".venv-readers-0250"}
SCRIPT = ROOT / "tests" / "readers" / "serve.py"


class ReaderError(Exception):
    """What litdata raised."""


@dataclass
class Reader:
    """A process of a reader environment with litdata loaded."""

    process: "subprocess.Popen[str]"

    def ask(self, do: str, **request: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the reader process died"
        answer = json.loads(line)
        if "error" in answer:
            raise ReaderError(answer["error"])
        return answer["answer"]

    def read(self, source: Path | str, **options: Any) -> list[Any]:
        """Samples, or batches with `batch_size`, of a folder or URL. Raises ReaderError."""
        found: list[Any] = self.ask("read", input_dir=str(source), **options)
        return found

    def write(self, rows: Sequence[Any], dtypes: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
        """Chunks and index that litdata's own writer makes."""
        found: dict[str, Any] = self.ask("write", rows=rows, dtypes=dtypes or {}, **options)
        return found


def start(name: str, folder: Path) -> Iterator[Reader]:
    """The reader of one environment, until the iterator goes on; skips the test where there is no such environment."""
    environment = ROOT / ENVIRONMENTS[name]
    if not (environment / ".complete").exists():
        pytest.skip(f"{environment.name} is not there: run .ci/readers")
    ca_file = str(authority().ca_file)
    env = {
        **os.environ,
        "LITDATA_CACHE_DIR": str(folder),
        "HOME": str(folder),
        "MAX_WAIT_TIME": "5",
        "AWS_CA_BUNDLE": ca_file,
        "SSL_CERT_FILE": ca_file,
        "PYTHONWARNINGS": "ignore",
    }
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [str(environment / "bin" / "python"), str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=env,
            cwd=folder,
        ) as process,
    ):
        yield Reader(process)
