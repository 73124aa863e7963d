"""Reading shards back with the libraries people train with."""

import gc
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import webdataset


def read_tars(paths: Sequence[Path | str]) -> list[dict[str, Any]]:
    """Raw samples of tar shards in order, by `webdataset` (`__key__`, `__url__`, and bytes per extension)."""
    with warnings.catch_warnings():
        # webdataset leaves closing its files to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        samples = list(webdataset.WebDataset([str(p) for p in paths], shardshuffle=False))
        gc.collect()
    return samples


def read_json_samples(folder: Path) -> list[dict[str, Any]]:
    """The `json` members of a folder's shards, in the order of `shards.txt`."""
    shards = [folder / name for name in (folder / "shards.txt").read_text().split()]
    return [json.loads(sample["json"]) for sample in read_tars(shards)]
