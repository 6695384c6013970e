"""The commands for published files that README.md and docs/compatibility.md print, run on tiny files of those names."""

from __future__ import annotations

import re
import shlex
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from im2sp.cli import app as im2sp
from im2sp.train.convert import im2sp as converting
from im2sp.train.convert.git import PublishedGit
from im2sp.train.convert.published import read_config
from im2sp.train.evaluate import caption_metrics
from tests.train.convert.published_files import write_published_files
from tests.train.data.tiny_corpora import coco_name, write_flickr8k_audio, write_karpathy_coco, write_spoken_coco
from tests.train.evaluate.tiny_ctc import write_tiny_ctc

ROOT = Path(__file__).parents[2]
PROGRAMS = {"im2sp": im2sp}
BLOCK = re.compile(r"^<!-- not run: the (?:published files|corpora) are not here -->\n```sh\n(.*?)^```$", re.M | re.S)
RECOGNISER = "models--facebook--wav2vec2-large-960h-lv60-self"


def commands_of(page: str) -> list[list[str]]:
    """The words of every command in the blocks that cannot be run as they stand."""
    lines = (line for block in BLOCK.findall((ROOT / page).read_text()) for line in block.splitlines())
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything has the name that the commands call it by."""
    folder = tmp_path_factory.mktemp("published")
    write_published_files(folder, layers=7)
    write_spoken_coco(folder / "SpokenCOCO")
    write_flickr8k_audio(folder / "flickr8k")
    write_karpathy_coco(folder / "dataset_coco.json", {9: "train", 25: "restval", 42: "val", 73: "test"})
    (folder / "coco" / "val2014").mkdir(parents=True)
    photo = Image.fromarray(np.random.default_rng(0).integers(256, size=(60, 80, 3), dtype=np.uint8))
    photo.save(folder / "coco" / "val2014" / coco_name(73))
    photo.save(folder / "PHOTO", "png")
    snapshot = folder / "hub" / RECOGNISER / "snapshots" / ("0" * 40)
    write_tiny_ctc(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    return folder


@pytest.mark.parametrize("page", ["README.md"])
def test_printed_commands_do_what_they_say(
    page: str, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    shutil.copytree(published, here)
    monkeypatch.chdir(here)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(here / "hub"))
    monkeypatch.setattr(converting, "GIT_LARGE", read_config(here / "GIT" / "config.json", PublishedGit))
    monkeypatch.setattr(caption_metrics, "_java", nullcontext)  # the metrics have their own tests
    monkeypatch.setattr(caption_metrics, "_tokenise", lambda sentences: sentences)
    monkeypatch.setattr(caption_metrics, "_meteor", lambda gts, res: 0.0)
    commands = commands_of(page)
    assert len(commands) >= 2
    if page != "README.md":
        needed = [words for words in commands_of("README.md") if words[1] == "convert"]
        commands = [*needed, *commands]
    for words in commands:
        if words[1:3] == ["convert", "im2sp"]:
            shutil.copy(here / ("units.ckpt" if "--codebook" in words else "raw.ckpt"), here / "last.ckpt")
        kind = {"hubert": "HUBERT", "git": "GIT"}.get(words[2])
        given = [kind if kind and word == "FOLDER" else "SEIT" if word == "CKPT" else word for word in words]
        result = CliRunner().invoke(PROGRAMS[given[0]], given[1:])
        assert result.exit_code == 0, (words, result.output, result.exception)
        if "-o" in given:
            assert Path(given[given.index("-o") + 1]).exists()
