"""Measuring the parts of a run on the user's own source, machine and store, and telling which of them limits it."""
