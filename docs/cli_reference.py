"""Write docs/cli.md, the reference of the command line, from the commands themselves.

Usage: python docs/cli_reference.py [--check]    Needs the extras `serve` and `train`.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from im2sp.cli import app

PAGE = Path(__file__).with_name("cli.md")
SHARED = 3  # commands that must have an option before it is listed once for all
HEAD = """# The command line

<!-- made by docs/cli_reference.py -->
What `im2sp COMMAND --help` says. Every command ends with 0, or with 1 and a sentence on stderr, 2 for wrong usage, 130
after Ctrl-C. [Work on the command line](howto/command-line.md) shows it in use.
"""


def commands(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield a command and its subcommands at any depth, each with its context."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            _, child, _ = command.resolve_command(context, [name])
            assert child is not None
            yield from commands(child, click.Context(child, info_name=name, parent=context))


def section(command: click.Command, context: click.Context, shared: set[str]) -> str:
    """Return the section of a command, without the options that many share."""
    path, usage = context.command_path, " ".join(command.collect_usage_pieces(context))
    level = min(4, 2 + path.count(" "))
    rows = [row for row in options(command, context) if row not in shared]
    return f"{'#' * level} {path}\n\n`{path} {usage}`\n\n{paragraphs(command)}{''.join(rows)}\n"


def paragraphs(command: click.Command) -> str:
    """Return the help text, one line a paragraph, safe as Markdown."""
    texts = (command.help or "").split("\n\n")
    return "".join(f"{escaped(' '.join(text.split()))}\n\n" for text in texts if text.strip())


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield a line for each option but --help."""
    for option in command.params:
        if not isinstance(option, click.Option) or option.hidden:
            continue
        names, help = option.get_help_record(context) or ("", "")
        names = re.sub(r" (?:INTEGER|FLOAT|PATH|TEXT)( RANGE)?$", "", names).replace("|", ", ")
        yield f"- `{names}`: {escaped(' '.join(help.split()))}\n"


def escaped(text: str) -> str:
    """Escape what Markdown would take for markup."""
    return text.replace("<", "&lt;").replace("*", "\\*").replace("|", "\\|").replace("[", "\\[")


def main() -> None:
    """Rewrite the page, or with --check fail where it is not up to date."""
    context = click.Context(app, info_name="im2sp", **app.context_settings)
    found = list(commands(app, context))
    counts = Counter(row for command in found for row in options(*command))
    shared = [row for row, count in counts.items() if count >= SHARED]
    made = HEAD + "\nOptions that many commands have:\n\n" + "".join(shared) + "\n"
    made += "".join(section(*command, set(shared)) for command in found).rstrip() + "\n"
    if "--check" in sys.argv:
        raise SystemExit(0 if made == PAGE.read_text(encoding="utf-8") else f"{PAGE}: run python docs/cli_reference.py")
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
