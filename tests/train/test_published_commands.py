"""The commands for published files that the docs print, run on tiny files of those names."""

from __future__ import annotations

import json
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
from im2sp.train.evaluate import caption_metrics, recognisers
from tests.train.convert.published_files import write_published_files
from tests.train.evaluate.tiny_ctc import write_tiny_ctc

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^<!-- not run: needs (?:the )?published .*? -->\n```sh\n(.*?)^```$", re.M | re.S)


def write_photos(folder: Path) -> None:
    """examples/chelsea.jpg, and photos of COCO with Karpathy's splits."""
    images = [{"filepath": "val2014", "filename": f"COCO_val2014_{n:012d}.jpg", "split": "test"} for n in range(2)]
    noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(60, 80, 3), dtype=np.uint8))
    for path in ("examples/chelsea.jpg", *(f"coco/val2014/{image['filename']}" for image in images)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        noise.save(folder / path)
    listed = {"images": [image | {"sentences": [{"raw": "A dog runs."}]} for image in images]}
    (folder / "dataset_coco.json").write_text(json.dumps(listed))


@pytest.mark.parametrize(("page", "count"), [("tutorials/published.md", 5), ("compatibility.md", 2)])
def test_printed_commands_do_what_they_say(
    page: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_published_files(tmp_path, layers=7)
    (tmp_path / "HUBERT").rename(tmp_path / "hubert-base")
    write_photos(tmp_path)
    ctc = write_tiny_ctc(tmp_path / "ctc")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(converting, "GIT_LARGE", read_config(Path("GIT/config.json"), PublishedGit))
    monkeypatch.setattr(recognisers, "_cached", lambda name: ctc)
    monkeypatch.setattr(caption_metrics, "_meteor", lambda gts, res: 0.0)  # takes most of the time
    lines = [line for block in BLOCK.findall((DOCS / page).read_text()) for line in block.splitlines()]
    assert len(lines) == count
    for words in map(shlex.split, lines):
        shutil.copy("units.ckpt" if "--codebook" in words else "raw.ckpt", "last.ckpt")
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, (words, result.output, result.exception)
        assert Path(words[words.index("-o") + 1]).exists()
