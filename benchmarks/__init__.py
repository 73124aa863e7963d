"""What data-bridge costs on the work that other tools do too: `python -m benchmarks --help`."""
