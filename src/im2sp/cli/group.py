"""The click group of `im2sp`: imports commands of an extra when they are called, turns exceptions into messages."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NoReturn

import click

from im2sp.errors import Im2SpError, debugging, reason, unexpected
from im2sp.installing import install_command

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it
_LIBRARY_OF = {"hub": "huggingface_hub", "serve": "fastapi", "train": "torch"}  # extra -> a library that it brings


@dataclass(frozen=True)
class LazyCommand:
    """A command whose module is imported when the command is called."""

    target: str  # "module:attribute" of a click command or group
    help: str  # one line, for the list of commands
    extra: str  # optional dependencies that it needs: see `im2sp.installing`


# Named by strings, so that nothing of im2sp.train and im2sp.server is imported before it is asked for.
LAZY_COMMANDS: dict[str, LazyCommand] = {
    "serve": LazyCommand("im2sp.server.command:serve", "Serve a page and an HTTP interface.", "serve"),
    "train": LazyCommand("im2sp.train.cli:train", "Train a voice or a captioner.", "train"),
    "evaluate": LazyCommand("im2sp.train.evaluate.commands:evaluate", "Measure the quality of a bundle.", "train"),
    "convert": LazyCommand("im2sp.train.convert.commands:convert", "Convert published checkpoints.", "train"),
    "push": LazyCommand("im2sp.train.publishing:push", "Upload a bundle to the hub.", "hub"),
}


class Group(click.Group):
    """A click group with lazy commands. Every exception becomes one sentence on stderr and an exit code."""

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand] | None = None, **kwargs: Any) -> None:
        """`lazy`: {name: command}, listed beside the commands that are defined in place."""
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})
        for name, command in self._lazy.items():  # stands in for it in the list of commands
            self.add_command(click.Command(name, short_help=command.help))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Import the command if it is lazy. Raises Im2SpError when its extra is not installed."""
        name, command, rest = super().resolve_command(ctx, args)
        if (lazy := self._lazy.get(name or "")) is not None:
            library = _LIBRARY_OF[lazy.extra]
            if find_spec(library) is not None:
                module, _, attribute = lazy.target.partition(":")
                command = getattr(importlib.import_module(module), attribute)
            elif not ctx.resilient_parsing:  # as when the shell completes
                needed = f"im2sp {name} needs {library}, which is not installed"
                raise Im2SpError(f"{needed}: {install_command(lazy.extra)}")
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        if not sys.warnoptions and not debugging():
            warnings.simplefilter("ignore")  # of libraries about odd files, which say nothing to the user
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException, BrokenPipeError):  # click handles these
            raise
        except KeyboardInterrupt:
            fail("stopped", INTERRUPTED)
        except Im2SpError as error:
            fail(str(error))
        except OSError as error:
            fail(f"{error.filename}: {reason(error)}" if error.filename else reason(error))
        except Exception as error:
            fail(unexpected(error))


def fail(sentence: str, code: int = 1) -> NoReturn:
    """Print a sentence on stderr and end with an exit code."""
    click.echo(sentence, err=True)
    raise click.exceptions.Exit(code)
