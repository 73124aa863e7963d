"""Programs that a test writes and starts."""

import os
import sys

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
"""For programs that import what this test run imports, not what happens to be installed."""
