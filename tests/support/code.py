"""Code of a user's own that is changed between two runs: `from support.code import forget`."""

import sys
from pathlib import Path

from data_bridge.config.calls import load


def forget(code: Path) -> None:
    """Load a file anew, as another process does."""
    load.cache_clear()
    for name in [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == str(code)]:
        del sys.modules[name]
