"""Where a run works: on a machine that is rented for it, and given back whatever happens."""
