"""What a run says of itself while it works: to files on this machine, to Prometheus, to `status` and `watch`."""
