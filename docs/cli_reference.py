"""Write docs/cli.md and docs/cli-training.md, the reference of the command line, from the commands themselves.

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

HERE = Path(__file__).parent
SHARED = 2  # commands of a page that must have an option before it is described once for all
TRAINING = ("convert", "evaluate", "push", "train")
MADE = "<!-- made by docs/cli_reference.py -->\n"
HEADS = {
    "cli.md": f"""# The command line

{MADE}What `im2sp COMMAND --help` says; [training](cli-training.md): `convert`, `evaluate`, `push`, `train`. Each
ends with 0, or with 1 and a sentence on stderr, 2 for wrong usage, 130 after Ctrl-C.
[Work on the command line](howto/command-line.md) shows it in use.
""",
    "cli-training.md": f"""# The command line of training

{MADE}Commands of the extra `train`, and `push` of the extra `hub`; [the others](cli.md).
""",
}


def commands(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield a command and its subcommands at any depth, each with its context."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            _, child, _ = command.resolve_command(context, [name])
            assert child is not None
            yield from commands(child, click.Context(child, info_name=name, parent=context))


def section(command: click.Command, context: click.Context, shared: set[str]) -> str:
    """Return the section of a command; options that many share are named only."""
    usage = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    rows = list(options(command, context))
    also = ", ".join(re.findall(r"--[a-z-]+", row)[0] for row in rows if row in shared)
    made = f"## {escaped(' '.join([context.command_path, *usage]))}\n\n{paragraphs(command)}"
    made += "".join(row for row in rows if row not in shared)
    return made + (f"- also `{also}`\n" if also else "") + "\n"


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


def page(head: str, found: list[tuple[click.Command, click.Context]]) -> str:
    """Return a page: its head, the options that commands share, and a section for each command."""
    counts = Counter(row for command in found for row in options(*command))
    shared = [row for row, count in counts.items() if count >= SHARED]
    made = head + "\n## Shared options\n\n" + "".join(shared) + "\n"
    return made + "".join(section(*command, set(shared)) for command in found).rstrip() + "\n"


def main() -> None:
    """Rewrite the pages, or with --check fail where one is not up to date."""
    context = click.Context(app, info_name="im2sp", **app.context_settings)
    found: dict[str, list[tuple[click.Command, click.Context]]] = {name: [] for name in HEADS}
    for command, its in commands(app, context):
        trains = its.command_path.split()[1:2] and its.command_path.split()[1] in TRAINING
        if not isinstance(command, click.Group) or not its.parent:
            found["cli-training.md" if trains else "cli.md"].append((command, its))
    for name, head in HEADS.items():
        made, path = page(head, found[name]), HERE / name
        if "--check" in sys.argv:
            if made != path.read_text(encoding="utf-8"):
                raise SystemExit(f"{path}: run python docs/cli_reference.py")
        else:
            path.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
