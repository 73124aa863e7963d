"""Concrete transforms, one file each. Adding one: a class, a line in `registry.py`, a page in `docs/stages.md`."""
