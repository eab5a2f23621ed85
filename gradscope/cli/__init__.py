"""The command line, one file per command."""

from gradscope.cli.program import main

__all__ = ["main"]
