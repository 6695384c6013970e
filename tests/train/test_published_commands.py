"""The commands for published files that the tutorial prints, run on tiny files of those names."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from im2sp.cli import app
from im2sp.train.convert import im2sp as converting
from im2sp.train.convert.git import PublishedGit
from im2sp.train.convert.published import read_config
from tests.train.convert.published_files import write_published_files

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "published.md"
BLOCK = re.compile(r"^<!-- not run: needs the published checkpoints.*? -->\n```sh\n(.*?)^```$", re.M | re.S)


def test_printed_commands_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_published_files(tmp_path, layers=7)
    (tmp_path / "HUBERT").rename(tmp_path / "hubert-base")
    (tmp_path / "examples").mkdir()
    noise = np.random.default_rng(0).integers(256, size=(60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "examples" / "chelsea.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(converting, "GIT_LARGE", read_config(Path("GIT/config.json"), PublishedGit))
    lines = [line for block in BLOCK.findall(PAGE.read_text()) for line in block.splitlines()]
    assert len(lines) == 5
    for words in map(shlex.split, lines):
        shutil.copy("units.ckpt" if "--codebook" in words else "raw.ckpt", "last.ckpt")
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, (words, result.output, result.exception)
        assert Path(words[words.index("-o") + 1]).exists()
