"""Runs inside a reader environment: answers requests on stdin, one JSON object a line, with litdata's own code."""

import base64
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """The value as JSON that tells its type where Python's own would not."""
    name = type(value).__name__
    if name in ("ndarray", "Tensor"):
        return {name: str(value.dtype), "items": value.tolist()}
    if isinstance(value, (bytes, memoryview)):
        return {name: base64.b64encode(bytes(value)).decode()}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "dtype"):  # old readers hand out numpy scalars
        value = value.item()
    return {"float": str(value)} if isinstance(value, float) and math.isnan(value) else value


def read(
    input_dir: str, *, by_index: bool = False, batch_size: int = 0, workers: int = 0, block_size: int = 0, **extra: Any
) -> list[Any]:
    """Every sample, in the order the reader gives them; or every batch its loader makes of them."""
    from litdata import StreamingDataLoader, StreamingDataset

    if block_size:
        from litdata import TokensLoader

        extra["item_loader"] = TokensLoader(block_size=block_size)
    dataset = StreamingDataset(input_dir, shuffle=False, **extra)
    if batch_size:
        return [plain(batch) for batch in StreamingDataLoader(dataset, batch_size=batch_size, num_workers=workers)]
    samples = [plain(dataset[i]) for i in range(len(dataset))] if by_index else [plain(sample) for sample in dataset]
    assert len(samples) == len(dataset)
    return samples


def write_tokens(rows: list[list[int]], dtype: str, **options: Any) -> dict[str, Any]:
    """As `write`, of arrays alone, for `TokensLoader`."""
    import numpy as np
    from litdata.streaming.item_loader import TokensLoader
    from litdata.streaming.writer import BinaryWriter

    with tempfile.TemporaryDirectory() as folder:
        writer = BinaryWriter(folder, item_loader=TokensLoader(), **options)
        for i, row in enumerate(rows):
            writer[i] = np.array(row, dtype)
        writer.done()
        writer.merge(1)
        files = {path.name: base64.b64encode(path.read_bytes()).decode() for path in Path(folder).glob("*.bin")}
        return {"chunks": files, "index": json.loads((Path(folder) / "index.json").read_text())}


def write(rows: list[dict[str, Any]], dtypes: dict[str, str], **options: Any) -> dict[str, Any]:
    """The chunks litdata's writer makes of the rows, base64 by file name, and its index."""
    import numpy as np
    from litdata.streaming.writer import BinaryWriter

    with tempfile.TemporaryDirectory() as folder:
        writer = BinaryWriter(folder, **options)
        for i, row in enumerate(rows):
            writer[i] = {name: np.array(item, dtypes[name]) if name in dtypes else item for name, item in row.items()}
        writer.done()
        writer.merge(1)
        files = {path.name: base64.b64encode(path.read_bytes()).decode() for path in Path(folder).glob("*.bin")}
        return {"chunks": files, "index": json.loads((Path(folder) / "index.json").read_text())}


DO: dict[str, Callable[..., Any]] = {"read": read, "write": write, "write_tokens": write_tokens}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # litdata prints
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: dict[str, Any] = {"answer": DO[request.pop("do")](**request)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
