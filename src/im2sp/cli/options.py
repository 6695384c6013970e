"""Options of the command line that more than one command has, and what they say."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ParamSpec

import click

P = ParamSpec("P")

ANY_PATH = click.Path(path_type=Path)  # what it leads to is looked at by those who use it

model_option = click.option(
    "--model",
    default="default",
    show_default=True,
    metavar="NAME|DIR|ID",
    help="Name of a packaged bundle, a bundle folder, or owner/name[@revision] on the hub.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(0, 1024),
    default=0,
    show_default=True,
    help="CPU threads of each process; 0 takes what is there.",
)
beam_option = click.option("--beam", type=click.IntRange(1, 64), help="Hypotheses side by side; 1 is fastest.")
workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Processes, each with its own copy of the model.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def out_option(help: str, *, required: bool = True) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """`--out`, with what goes there."""
    return click.option("--out", "-o", type=ANY_PATH, required=required, help=help)


def photos_argument(metavar: str = "PHOTO...") -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Photos and folders to look through."""
    return click.argument("photos", type=ANY_PATH, nargs=-1, required=True, metavar=metavar)


@dataclass(frozen=True)
class Wishes:
    """What the options of `caption` and `watch` say about the speech."""

    out: Path | None
    play: bool
    model: str
    threads: int
    beam: int | None
    temperature: float
    seed: int
    min_confidence: float


def speaking_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that speaks about photos; it gets them as its first argument, `Wishes`."""

    @out_option("Folder for the speech and captions.jsonl.", required=False)
    @click.option("--play", is_flag=True, help="Speak aloud, while it decodes; greedily unless --beam says else.")
    @model_option
    @beam_option
    @click.option(
        "--temperature",
        type=click.FloatRange(0, 100),
        default=0.0,
        show_default=True,
        help="Above 0: sample, without a beam.",
    )
    @click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the sampling.")
    @click.option(
        "--min-confidence",
        type=click.FloatRange(0, 1),
        default=0.0,
        show_default=True,
        help="Say that it is not sure where a caption is less likely to be right; 0: never.",
    )
    @threads_option
    @functools.wraps(command)
    def wrapped(**options: Any) -> None:
        wishes = Wishes(**{field.name: options.pop(field.name) for field in fields(Wishes)})
        command(wishes, **options)

    return wrapped


@dataclass(frozen=True)
class Collection:
    """What the options of `caption` and `tokenize` say about work on Ray; `ray`: whether it is wanted at all."""

    ray: bool
    shard: int | None
    object_store: int | None
    fetch_urls: bool
    private_addresses: bool

    def check(self) -> None:
        """Raises BadParameter for options that have no meaning without others."""
        given = {
            "--shard": self.shard is not None,
            "--object-store": self.object_store is not None,
            "--fetch-urls": self.fetch_urls,
            "--private-addresses": self.private_addresses,
        }
        for name, is_given in given.items():
            if is_given and not self.ray:
                raise click.BadParameter("only has a meaning with --ray; give both", param_hint=name)
        if self.private_addresses and not self.fetch_urls:
            raise click.BadParameter(
                "only has a meaning with --fetch-urls; give both", param_hint="--private-addresses"
            )


def collection_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that can work on Ray; it gets them as `collection`, and `workers` beside."""

    @workers_option
    @click.option(
        "--ray", is_flag=True, help="For very many photos, also in tars and Parquet: shards, by workers on Ray."
    )
    @click.option("--shard", type=click.IntRange(1, 100_000), help="With --ray: photos of a shard.")
    @click.option("--object-store", type=click.IntRange(80, 2**20), help="With --ray: MB that its processes share.")
    @click.option("--fetch-urls", is_flag=True, help="With --ray: fetch the photos that Parquet tables name by URL.")
    @click.option(
        "--private-addresses", is_flag=True, help="With --fetch-urls: also from private networks and this machine."
    )
    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        collection = Collection(**{field.name: options.pop(field.name) for field in fields(Collection)})
        collection.check()
        command(*arguments, **options, collection=collection)

    return wrapped
