"""Bundles on the hub, fetched by real clients in processes of their own from a stand-in on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from im2sp.errors import BundleError
from im2sp.hub import SIZE_LIMIT, HubId
from im2sp.installing import install_command
from tests.hub_stand_in import TOKEN, Hub, serving_hub
from tests.tiny_bundle import write_tiny_bundle

ABSENT = "http://127.0.0.1:9"  # the port "discard", where nobody answers


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving_hub() as served:
        yield served


def environment(endpoint: str, cache: Path, **more: str) -> dict[str, str]:
    """Of a machine whose hub that is, and which has fetched to that cache only."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return own | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | more


def find(names: list[str | list[str]], environment: dict[str, str]) -> list[str]:
    """What a fresh process answers to each name (or name and revision): the folder of the verified bundle, or the
    sentence why there is none."""
    script = """
import json, sys
from im2sp.bundle import Bundle, find_bundle
from im2sp.errors import BundleError
for name in json.loads(sys.argv[1]):
    try:
        answer = str(Bundle.load(find_bundle(*([name] if isinstance(name, str) else name))).folder)
    except BundleError as error:
        answer = str(error)
    print(json.dumps(answer))
"""
    words = [sys.executable, "-c", script, json.dumps(names)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert all("\n" not in answer for answer in answers)
    return answers


def files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_bundle_and_its_revisions(hub: Hub, tmp_path: Path) -> None:
    old, new = (write_tiny_bundle(tmp_path / str(seed), seed) for seed in (0, 1))
    beside = {"pytorch_model.bin": b"never fetched", "more/decoder.onnx": b"never fetched", "setup.py": b"nor this"}
    repository = hub.add("someone/tiny", old)
    first = next(iter(repository.commits))
    repository.tags["v1"] = first
    second = repository.commit(files(str(new)) | beside)

    online = environment(hub.url, tmp_path / "cache")
    names: list[str | list[str]] = [
        "someone/tiny",
        "someone/tiny@v1",
        ["someone/tiny", first],
        f"someone/tiny@{second}",
    ]
    newest, tagged, pinned, named = find(names, online)
    assert files(newest) == files(str(new))
    assert files(tagged) == files(str(old))
    assert (pinned, named) == (tagged, newest)
    asked = [request for request in hub.requests if "resolve" in request]
    assert asked
    assert not [request for request in asked if any(name in request for name in beside)]

    # Without the hub: by the switch, all that was fetched is there; with no one answering, it is said what to do.
    there, also, never = find(
        [*names[:2], "someone/other"], environment(ABSENT, tmp_path / "cache", HF_HUB_OFFLINE="1")
    )
    assert (there, also) == (newest, tagged)
    assert never.startswith("someone/other has not been fetched to this machine")
    (unanswered,) = find(["someone/tiny"], environment(ABSENT, tmp_path / "cache"))
    assert unanswered.startswith("the hub does not answer about someone/tiny")
    assert "HF_HUB_OFFLINE=1" in unanswered


def test_what_cannot_be_had(hub: Hub, tmp_path: Path, tiny_bundle: Path) -> None:
    changed = shutil.copytree(tiny_bundle, tmp_path / "changed")
    (changed / "decoder.onnx").write_bytes(b"something else")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    hub.add("a/private", tiny_bundle, private=True)
    hub.add("a/gated", tiny_bundle, gated=True)
    hub.add("a/changed", changed)
    hub.add("a/bare", bare)
    hub.add("a/huge", tiny_bundle, claimed={"vocoder.onnx": SIZE_LIMIT})
    hub.add("a/unsized", tiny_bundle, claimed={"vocoder.onnx": None})
    hub.add("a/good", tiny_bundle)
    hub.requests.clear()
    wrong = {
        "a/nothing": "there is no folder 'a/nothing', and the hub has no repository a/nothing, or not for you",
        "a/private": "set HF_TOKEN",
        "a/gated": "those only whom its owner admits",
        "a/changed": "decoder.onnx of the bundle",
        "a/bare": "a/bare is not an im2sp bundle: it has no SHA256SUMS",
        "a/huge": "a/huge has 8.0 GB, where im2sp moves 8 GB at most",
        "a/unsized": "the hub does not say how large vocoder.onnx of a/unsized is",
        "a/good@v9": "a/good has no revision 'v9' on the hub",
        "a/b--c": "a/b--c cannot be a repository",
        "a/b/c": "there is no bundle 'a/b/c': give a bundle folder",
    }
    answers = find([*wrong, ["a/good@v9", "v8"]], environment(hub.url, tmp_path / "cache"))
    for answer, expected in zip(answers, [*wrong.values(), "name a revision each"], strict=True):
        assert expected in answer
    assert not [
        request for request in hub.requests if "resolve" in request and ("huge" in request or "bare" in request)
    ]
    (mine,) = find(["a/private"], environment(hub.url, tmp_path / "cache", HF_TOKEN=TOKEN))
    assert files(mine) == files(str(tiny_bundle))


def test_without_the_library() -> None:
    script = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from im2sp import Captioner\ntry: Captioner.from_pretrained('someone/model')\nexcept Exception as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == (
        "there is no folder 'someone/model', and huggingface_hub, which asks the hub for someone/model, is not "
        f"installed: {install_command('hub')}\n"
    )


def test_names() -> None:
    assert HubId.parse("owner/name") == HubId("owner/name")
    assert HubId.parse("owner/na.me-1@refs/pr/2") == HubId("owner/na.me-1", "refs/pr/2")
    assert HubId.parse("owner/name", "v1") == HubId.parse("owner/name@v1") == HubId("owner/name", "v1")
    assert str(HubId("owner/name", "v1")) == "owner/name@v1"
    for other in ("", "name", "name@main", "../name", "./name", "a/b/c", "/a/b", "a/b@", "a/b@../c", "a /b", "a/b\n"):
        assert HubId.parse(other) is None
    with pytest.raises(BundleError, match="a revision each"):
        HubId.parse("owner/name@v1", "v2")
