"""The command `im2sp`: command-line arguments in; files, results on stdout and messages on stderr out."""

from im2sp.cli.commands import app, main

__all__ = ["app", "main"]
