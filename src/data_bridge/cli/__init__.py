"""The command line: arguments in, an API call, words out. Nothing else prints or exits."""

from data_bridge.cli.app import app, main

__all__ = ["app", "main"]
