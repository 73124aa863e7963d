"""Where partitions run on this machine."""
