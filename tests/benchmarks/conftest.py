import sys
from pathlib import Path

# the benchmarks are a folder beside the package, not part of what is installed
sys.path.insert(0, str(Path(__file__).parents[2]))
