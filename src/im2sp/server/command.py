"""The command `im2sp serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from im2sp.captioner import Captioner
from im2sp.cli.options import ANY_PATH, model_option, threads_option
from im2sp.server.run import run
from im2sp.server.settings import Settings, read_token


def _limit(name: str, most: int | None, default: int, help: str, least: int = 1) -> Any:
    return click.option(name, type=click.IntRange(least, most), default=default, show_default=True, help=help)


@click.command(short_help="Serve a page and an HTTP interface.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; other machines get in only with a token.",
)
@_limit("--port", 65535, 8000, "0 takes a free one.", least=0)
@click.option("--token-file", type=ANY_PATH, help="File with the token that clients must send; or set IM2SP_TOKEN.")
@click.option("--allow-host", "allowed_hosts", multiple=True, help="A name by which clients call it; may be repeated.")
@click.option("--certificate", type=ANY_PATH, help="For https: the certificate, PEM.")
@click.option("--key", type=ANY_PATH, help="For https: its key, PEM.")
@_limit("--queue", 1024, 16, "Photos accepted at a time.")
@_limit("--max-per-client", 1024, 8, "Of them, by one client.")
@_limit("--rate", None, 120, "Requests a minute by one client; 0: no limit.", least=0)
@_limit("--batch", 64, 1, "Photos that the image encoder sees at once.")
@model_option
@threads_option
def serve(
    model: str, threads: int, token_file: Path | None, certificate: Path | None, key: Path | None, **settings: Any
) -> None:
    """Serve a page and an HTTP interface that speak about photos, until Ctrl-C."""
    checked = Settings(token=read_token(token_file), **settings)
    captioner = Captioner.from_pretrained(model, threads=threads)

    def announce(address: str) -> None:
        click.echo(f"im2sp speaks at {address} (Ctrl-C ends it)")

    run(captioner, checked, announce, certificate=certificate, key=key)
