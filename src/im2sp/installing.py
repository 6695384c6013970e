"""Extras: the name of one in, the command that installs it here out."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from im2sp.errors import Im2SpError

_SOURCE = Path(__file__).parents[2]  # the checkout, where im2sp runs from one


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this im2sp: from where it came, with the tool that made its place."""
    wanted = shlex.quote(f"{_origin()}[{extra}]")
    for receipt, tool in (("uv-receipt.toml", "uv tool"), ("pipx_metadata.json", "pipx")):
        path = Path(sys.prefix) / receipt
        if path.is_file():  # the tool makes the environment anew: what it has already is named, too
            extras = sorted({extra, *_extras(path.read_text(encoding="utf-8"))})
            return f"{tool} install --force " + shlex.quote(f"{_origin()}[{','.join(extras)}]")
    python = shlex.quote(sys.executable)
    if find_spec("pip") is None:  # an environment without pip of its own
        return f"python3 -m pip --python {python} install {wanted}"
    return f"{python} -m pip install {wanted}"


def _extras(receipt: str) -> list[str]:
    """Extras of im2sp that a receipt of uv or pipx names."""
    found = re.search(r"im2sp[^\n]*?extras = \[([^\]]*)\]", receipt) or re.search(
        r'"package_or_url": "[^"]*\[([^\]]*)\]"', receipt
    )
    return re.findall(r"[\w-]+", found[1]) if found else []


@contextmanager
def require_extra(extra: str) -> Iterator[None]:
    """Around imports: a missing library raises Im2SpError, with the command that brings it."""
    try:
        yield
    except ImportError as error:
        missing = error.name or str(error)
        raise Im2SpError(f"{missing} is not installed: {install_command(extra)}") from error


def _origin() -> str:
    """Return the folder, file or address that this im2sp was installed from. Its name is not on an index."""
    try:
        told = distribution("im2sp").read_text("direct_url.json")
    except PackageNotFoundError:
        told = None
    if told is None:
        return str(_SOURCE) if (_SOURCE / "pyproject.toml").is_file() else "im2sp"
    url = str(json.loads(told)["url"])
    parts = urlsplit(url)
    return url2pathname(parts.path) if parts.scheme == "file" else f"im2sp @ {url}"
