"""data-bridge: any training dataset to verified, training-ready shards, exactly once."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_bridge.api import (
        bench,
        bench_from_file,
        control,
        finalize,
        plan,
        retry_failed,
        run_from_file,
        run_pipeline,
        status,
        verify,
    )
    from data_bridge.config import Settings, load_settings
    from data_bridge.model.bench import BenchReport
    from data_bridge.model.report import RunReport

__all__ = [
    "BenchReport",
    "RunReport",
    "Settings",
    "bench",
    "bench_from_file",
    "control",
    "finalize",
    "load_settings",
    "plan",
    "retry_failed",
    "run_from_file",
    "run_pipeline",
    "status",
    "verify",
]

_HOMES = {
    "BenchReport": "data_bridge.model.bench",
    "RunReport": "data_bridge.model.report",
    "Settings": "data_bridge.config",
    "load_settings": "data_bridge.config",
}


def __getattr__(name: str) -> Any:
    # importing the package must stay cheap: the command line's help is built from its submodules
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "data_bridge.api")), name)
