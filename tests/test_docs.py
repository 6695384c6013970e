"""The blocks of README.md and docs/ are true: each is run, page by page, in the order in which a reader meets them.

Python blocks are run as they stand, each with names of its own. Of shell blocks, the commands of this project are run;
programs of others (OTHERS) are not. A page has a folder for itself, with `examples/` and `photo.jpg` in it. In front of
a block may stand

    <!-- not run: why -->     for what goes on for ever or needs what no test has
    <!-- file: NAME -->       for a file: the block is written under this name

A block that asks http://127.0.0.1:8000 is run against a service that the test starts.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from im2sp.bundle import FORMAT_VERSION
from im2sp.captioner import Captioner
from im2sp.cli import app
from im2sp.server.settings import Settings
from tests.server.conftest import serving
from tests.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "history"),
]
OURS: dict[str, Any] = {"im2sp": app}
OTHERS = {".", "curl", "docker", "ffplay", "mkdocs", "openssl", "pip", "pytest", "python3", "systemctl"}
RUN = {"python", "sh"}  # languages of blocks
SHOWN = {"csv", "toml"}  # files, which have a name in front of them
SERVICE = "127.0.0.1:8000"

_BLOCK = re.compile(
    r"^(?:<!-- (?P<what>not run|file): (?P<words>.+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    place: str  # page and line, for messages
    language: str
    text: str
    what: str  # "not run", "file" or nothing
    words: str  # the reason, or the name of the file


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("text"))
        yield Block(
            f"{page.relative_to(ROOT)}, line {line}",
            found["language"],
            found["text"],
            found["what"] or "",
            found["words"] or "",
        )


def commands_of(script: str) -> Iterator[list[str]]:
    """The words of every command of a shell block."""
    for line in script.replace("\\\n", " ").splitlines():
        for command in re.split(r"&&|\|", line):
            if words := shlex.split(command, comments=True):
                yield words


def run_shell(block: Block) -> None:
    for program, *words in commands_of(block.text):
        name = program if program == "." else Path(program).name
        assert name in OURS or name in OTHERS, f"{block.place}: {name} is neither ours nor known to be another's"
        if name in OURS:
            result = CliRunner().invoke(OURS[name], words)
            assert result.exit_code == 0, f"{block.place}: {name} {words} ended in {result.exit_code}: {result.output}"


def run_python(block: Block, tiny_bundle: Path) -> None:
    def run(text: str) -> None:
        with redirect_stdout(io.StringIO()):
            exec(compile(text, block.place, "exec"), {"__name__": "__main__"})

    if SERVICE not in block.text:
        run(block.text)
        return
    with serving(Captioner.from_pretrained(tiny_bundle, threads=1), Settings()) as served:
        run(block.text.replace(SERVICE, f"127.0.0.1:{served.port}"))


def lay_out_recordings(folder: Path) -> None:
    """What docs/tutorials/own-recordings.md asks its reader to have."""
    photos, recordings = folder / "my-data" / "photos", folder / "my-data" / "recordings" / "anna"
    photos.mkdir(parents=True)
    recordings.mkdir(parents=True)
    for name, example in (("beach", "china.jpg"), ("cat", "chelsea.jpg")):
        shutil.copy(ROOT / "examples" / example, photos / f"{name}.jpg")
    for number in (1, 2, 3):
        tone = 0.3 * np.sin(np.arange(22_050) * 0.02 * number)
        soundfile.write(recordings / f"{number:04d}.wav", tone, 22_050)


def lay_out_unit_bundle(folder: Path) -> None:
    """What docs/image-units.md asks its reader to have."""
    write_tiny_bundle(folder / "bundle", image_units=True)


PREPARE: dict[str, Callable[[Path], None]] = {
    "image-units.md": lay_out_unit_bundle,
    "own-recordings.md": lay_out_recordings,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_do_what_they_say(
    page: Path, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(ROOT / "examples" / "coffee.jpg", tmp_path / "photo.jpg")
    PREPARE.get(page.name, lambda folder: None)(tmp_path)
    for block in blocks_of(page):
        if block.what == "not run":
            continue
        assert block.language in RUN | SHOWN, f"{block.place}: say in which language it is"
        if block.what == "file":
            (tmp_path / block.words).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            run_python(block, tiny_bundle)
        elif block.language == "sh":
            run_shell(block)


def test_every_fence_is_seen() -> None:
    for page in PAGES:
        fences = sum(line.startswith("```") for line in page.read_text(encoding="utf-8").splitlines())
        assert fences == 2 * sum(1 for _ in blocks_of(page)), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        assert target.startswith(("https://", "http://127.0.0.1")) or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_are_there(page: Path) -> None:
    for name, test in _TEST.findall(page.read_text(encoding="utf-8")):
        files = [place / name for place in (ROOT / "tests" / "train", ROOT / "tests") if (place / name).is_file()]
        assert any(f"def {test}(" in file.read_text(encoding="utf-8") for file in files), f"{page.name}: {name}::{test}"


def test_the_page_of_the_bundle_is_about_the_format_that_is_read() -> None:
    assert f"format version {FORMAT_VERSION}\n" in (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")


def test_the_reference_of_the_command_line_is_up_to_date() -> None:
    script = ROOT / "docs" / "cli_reference.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
