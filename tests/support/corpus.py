"""Generated sources whose every sample is known."""

import json
import random
from pathlib import Path


def write_jsonl(path: Path, samples: int, *, seed: int = 0, bad_every: int = 0) -> list[dict[str, object]]:
    """A JSONL file of uneven lines; every `bad_every`-th line is broken. Returns the good samples."""
    rng = random.Random(seed)
    good: list[dict[str, object]] = []
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for number in range(samples):
            if bad_every and number % bad_every == bad_every - 1:
                file.write(f'{{"id": {number}, "text": broken}}\n')
                continue
            sample = {"id": number, "text": "wört " * rng.randint(0, 40), "score": rng.random(), "tags": [number % 3]}
            good.append(sample)
            file.write(json.dumps(sample) + "\n")
    return good
