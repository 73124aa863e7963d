"""Where this machine keeps what a run says (notes, metrics and events, each run in a folder of its own) and rents."""

from pathlib import Path


def runs_folder() -> Path:
    """The folder of all of them, under the user's cache."""
    return Path.home() / ".cache" / "data-bridge" / "runs"


def run_folder(run: str) -> Path:
    """The folder of one run, or by `<id>-2of3` of one slice of it. It need not exist, and nothing in it decides what is
    done: that is the ledger's."""
    return runs_folder() / run


def stages_folder(run: str) -> Path:
    """Where the stages of a run leave what is for a person, each in a folder of its own name."""
    return run_folder(run) / "stages"


def rentals_folder() -> Path:
    """The ledger of rented machines and the keys to them. Not under the cache: what it says may cost money."""
    return Path.home() / ".local" / "state" / "data-bridge" / "rentals"
