"""A bundle goes up to a stand-in of the hub, and comes down as the same bundle."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from im2sp.bundle import Bundle, find_bundle, write_checksums
from im2sp.errors import BundleError, Im2SpError
from im2sp.files import MODEL_CARD as CARD
from im2sp.train.publishing import parse_repository, prepare
from tests.hub_stand_in import TOKEN, Hub, serving_hub
from tests.test_hub import environment, find


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving_hub() as served:
        yield served


def push(*arguments: object, hub: Hub, cache: Path, **more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "im2sp", "push", *map(str, arguments)]
    own = environment(hub.url, cache, **more)
    return subprocess.run(words, capture_output=True, text=True, timeout=120, env=own)


def metadata(card: bytes) -> tuple[dict[str, object], str]:
    match = re.fullmatch(r"---\n(.*?)\n---\n\n(.*)", card.decode(), re.S)
    assert match is not None
    return yaml.safe_load(match[1]), match[2]


def test_up_and_down(hub: Hub, tmp_path: Path, tiny_bundle: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "mine")
    (bundle / "notes.txt").write_text("for me alone")  # in the folder, but not of the bundle
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    cache = tmp_path / "cache"
    done = push(bundle, "me/tiny", "--private", "--message", "First words", hub=hub, cache=cache, HF_TOKEN=TOKEN)
    assert (done.returncode, done.stderr) == (0, "")
    repository = hub.repositories["me/tiny"]
    newest = repository.resolve("main")
    assert repository.private
    assert done.stdout.splitlines()[-1].endswith(f"uploaded: me/tiny@{newest}")
    assert newest is not None
    up = repository.commits[newest]
    assert set(up) == {".gitattributes", *before} - {"notes.txt"}
    assert {name for name in before if up.get(name) != before[name]} == {CARD, "notes.txt"}
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    facts, text = metadata(up[CARD])
    assert text.encode() == before[CARD]
    assert facts["license"] == "apache-2.0"
    assert "image-to-speech" in facts["tags"]  # type: ignore[operator]

    # What the repository had beside it stays, but for files that would pass for a part of the bundle.
    repository.commit(up | {"old.onnx": b"left over", "LICENSE": b"of theirs"})
    assert push(bundle, "me/tiny", hub=hub, cache=cache, HF_TOKEN=TOKEN).returncode == 0
    again = repository.commits[repository.resolve("main") or ""]
    assert again == up | {"LICENSE": b"of theirs"}
    (folder,) = find(["me/tiny"], environment(hub.url, cache, HF_TOKEN=TOKEN))
    assert Bundle.load(Path(folder)).config == Bundle.load(tiny_bundle).config


def test_what_is_not_uploaded(hub: Hub, tmp_path: Path, tiny_bundle: Path) -> None:
    hub.requests.clear()
    dry = push(tiny_bundle, "me/dry", "--dry-run", hub=hub, cache=tmp_path)
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "vocoder.onnx\n" in dry.stdout
    assert dry.stdout.endswith("not uploaded (--dry-run)\n")
    assert not hub.requests
    stranger = push(tiny_bundle, "me/dry", hub=hub, cache=tmp_path)
    assert stranger.returncode == 1
    assert stranger.stderr.startswith("the hub ")
    assert "HF_TOKEN" in stranger.stderr
    assert stranger.stderr.count("\n") == 1
    assert not hub.repositories.get("me/dry")

    broken = shutil.copytree(tiny_bundle, tmp_path / "broken")
    (broken / "vocoder.onnx").write_bytes((broken / "decoder.onnx").read_bytes())
    with pytest.raises(BundleError, match="has changed since it was exported"):
        prepare(broken)
    write_checksums(broken)
    with pytest.raises(BundleError, match="export it again"):
        prepare(broken)
    more = shutil.copytree(tiny_bundle, tmp_path / "more")
    (more / "train.py").write_text("print()")
    write_checksums(more)
    with pytest.raises(BundleError, match=r"lists train\.py, which is not fetched from the hub"):
        prepare(more)
    for other in ("me", "me/tiny@v1", "../tiny"):
        with pytest.raises(Im2SpError, match="give owner/name"):
            parse_repository(other)


def test_the_card_of_the_embedded_bundle(tmp_path: Path) -> None:
    bundle = shutil.copytree(find_bundle("default"), tmp_path / "default", copy_function=os.link)
    facts, text = metadata(bytes(prepare(bundle)[CARD]))  # type: ignore[arg-type]
    assert (facts["language"], facts["license"], facts["library_name"]) == ("en", "other", "im2sp")
    assert facts["license_name"] == "see-model-card"
    assert text == (bundle / CARD).read_text()

    (bundle / CARD).unlink()
    (bundle / CARD).write_text(f"---\nlicense: mit\n---\n\n{text}")
    write_checksums_of(bundle)
    assert metadata(bytes(prepare(bundle)[CARD])) == (facts, text)  # type: ignore[arg-type]


def write_checksums_of(bundle: Path) -> None:
    """As `write_checksums`, into a file of its own: the others are links to the embedded bundle."""
    (bundle / "SHA256SUMS").unlink()
    write_checksums(bundle)
