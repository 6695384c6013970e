"""Extras: the command that a hint names is one that works here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from im2sp import installing
from im2sp.errors import Im2SpError
from im2sp.installing import install_command, require_extra


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("file:///home/a%20b/im2sp", "'/home/a b/im2sp[serve]'"),
        (None, f"'{Path(installing.__file__).parents[2]}[serve]'"),
    ],
)
def test_the_origin_is_named(url: str | None, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = None if url is None else json.dumps({"url": url})
    monkeypatch.setattr(installing, "distribution", lambda name: SimpleNamespace(read_text=lambda file: told))
    monkeypatch.setattr(installing, "find_spec", lambda name: None)
    assert install_command("serve") == f"python3 -m pip --python {sys.executable} install {wanted}"
    monkeypatch.setattr(installing, "find_spec", lambda name: "there")
    assert install_command("serve") == f"{sys.executable} -m pip install {wanted}"


@pytest.mark.parametrize(
    ("file", "tool", "receipt"),
    [
        (
            "uv-receipt.toml",
            "uv tool",
            '[tool]\nrequirements = [{ name = "im2sp", extras = ["serve"], directory = "/x" }]',
        ),
        ("pipx_metadata.json", "pipx", '{"main_package": {"package": "im2sp", "package_or_url": "/x[serve]"}}'),
    ],
)
def test_the_tool_that_made_the_environment_is_used_and_keeps_its_extras(
    file: str, tool: str, receipt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).write_text(receipt)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert install_command("play").startswith(f"{tool} install --force ")
    assert "[play,serve]" in install_command("play")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(Im2SpError, match=r"nowhere is not installed: .*\[serve\]"), require_extra("serve"):
        import nowhere  # type: ignore[import-not-found]  # noqa: F401
