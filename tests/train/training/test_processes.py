"""Training in two processes (gloo, on the CPU): the same as in one; and a process that is killed costs nothing.

Two processes that compute a part each do the arithmetic of one process that computes both parts one after the other:
the same dropout, and sums of two numbers, which have no order. What one process does with the undivided batch is the
same but for rounding, where there is no dropout.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.cli import _run
from im2sp.train.recipe import Recipe
from im2sp.train.training.processes import GONE, WHOLE, Part, Processes
from im2sp.train.training.translator import PhotoBatches
from tests.train.training import tiny_runs

ROOT = Path(__file__).parents[3]
SAME = 1e-6  # of the loss [nats] and of a weight, where the arithmetic is the same
ROUNDED = 1e-5  # where the order of sums differs, in float32


def _start(folder: Path, number: int, port: int, *names: str, **more: str) -> subprocess.Popen[str]:
    """Process `number` of two, started as a launcher does it."""
    told = {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.train.training.tiny_runs", str(folder), "1", *names],
        cwd=ROOT,
        env=os.environ | told | more,
        stderr=subprocess.PIPE,
        text=True,
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _run_two(folder: Path, *names: str, **more: str) -> list[tuple[int, str]]:
    """(Exit status, what it said) of both."""
    port = _free_port()
    both = [_start(folder, number, port, *names, **more) for number in (0, 1)]
    told = [process.communicate()[1] for process in both]
    return [(process.returncode, text) for process, text in zip(both, told, strict=True)]


def _prepared(folder: Path) -> Path:
    tiny_runs.photo_features(folder / "features")
    tiny_runs.write_tables(folder)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the translators that two processes trained."""
    folder = _prepared(tmp_path_factory.mktemp("two"))
    done = _run_two(folder, "translator", "undivided", "sharded", "sharded_undivided", "from_tables")
    assert [status for status, _ in done] == [0, 0], done
    return folder


def _assert_same(name: str, first: Path, second: Path, tolerance: float) -> None:
    assert tiny_runs.losses(first / name) == pytest.approx(tiny_runs.losses(second / name), abs=tolerance)
    _assert_weights(tiny_runs.weights(name, first), tiny_runs.weights(name, second), tolerance)


def _assert_weights(first: dict[str, torch.Tensor], others: dict[str, torch.Tensor], tolerance: float) -> None:
    assert first.keys() == others.keys()
    for key, value in first.items():
        torch.testing.assert_close(
            value, others[key], atol=tolerance, rtol=0, msg=lambda text, key=key: f"{key} {text}"
        )


@pytest.mark.parametrize("name", ["translator", "from_tables"])
def test_two_processes_do_what_one_does_in_two_parts(name: str, two: Path, tmp_path: Path) -> None:
    tiny_runs.RUNS[name](_prepared(tmp_path) / name, 2)
    _assert_same(name, two, tmp_path, SAME)


def test_the_loss_curve_is_that_of_one_process_with_the_undivided_batch(two: Path, tmp_path: Path) -> None:
    tiny_runs.RUNS["undivided"](_prepared(tmp_path) / "undivided", 1)
    assert len(tiny_runs.losses(two / "undivided")) == tiny_runs.OPTIONS.steps
    _assert_same("undivided", two, tmp_path, ROUNDED)


@pytest.mark.parametrize(("sharded", "plain"), [("sharded", "translator"), ("sharded_undivided", "undivided")])
def test_a_run_in_shards_is_that_of_whole_models(sharded: str, plain: str, two: Path) -> None:
    assert tiny_runs.losses(two / sharded) == pytest.approx(tiny_runs.losses(two / plain), abs=SAME)
    _assert_weights(tiny_runs.weights(sharded, two), tiny_runs.weights(plain, two), SAME)


def _run_until_killed(folder: Path, name: str) -> None:
    """One of two is killed two steps after the first checkpoint, of the third step, in the middle of an epoch."""
    (status, told), (killed, _) = _run_two(folder, name, KILL_AT="5")
    assert killed == -signal.SIGKILL
    if name == "sharded" and status == -signal.SIGABRT:
        pass  # a thread of torch's own, which gathers shards, met the loss first and ended the process
    else:
        assert status == 1
        assert told.strip() == f"another process of this run has ended or does not answer: {GONE}"
    left = torch.load(folder / name / "checkpoint.pt", weights_only=True)
    assert left["step"] == tiny_runs.SAVED_EVERY


@pytest.mark.parametrize("name", ["translator", "sharded"])
def test_a_killed_process_ends_the_run_which_then_goes_on_to_the_same_weights(
    name: str, two: Path, tmp_path: Path
) -> None:
    folder = _prepared(tmp_path / "two")
    _run_until_killed(folder, name)
    shutil.copytree(folder, tmp_path / "one")
    assert [status for status, _ in _run_two(folder, name)] == [0, 0]
    unbroken = tiny_runs.weights(name, two)
    for key, value in tiny_runs.weights(name, folder).items():
        assert torch.equal(value, unbroken[key]), key
    assert not list(folder.rglob("*.part"))
    one = tiny_runs.RUNS[name](tmp_path / "one" / name, 2)  # and one process may go on where two stopped
    _assert_weights(one.state_dict(), unbroken, SAME)


def test_a_process_that_does_not_come_ends_the_run(tmp_path: Path) -> None:
    alone = _start(tmp_path, 0, _free_port(), "translator", PATIENCE="0.02")
    told = alone.communicate()[1]
    assert alone.returncode == 1
    assert told.strip().splitlines()[-1] == f"not all processes of this run came within 0.02 minutes: {GONE}"
    assert "Traceback" not in told


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vocoder", "hifigan", "hubert"])
def test_speech_networks_in_two_processes_are_those_of_one_in_two_parts(name: str, tmp_path: Path) -> None:
    assert [status for status, _ in _run_two(tmp_path / "two", name)] == [0, 0]
    tiny_runs.RUNS[name](tmp_path / "one" / name, 2)
    _assert_same(name, tmp_path / "two", tmp_path / "one", SAME)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vocoder", "hifigan", "hubert"])
def test_speech_networks_go_on_to_the_same_weights_after_a_kill(name: str, tmp_path: Path) -> None:
    _run_until_killed(tmp_path / "broken", name)
    for folder in ("broken", "whole"):
        assert [status for status, _ in _run_two(tmp_path / folder, name)] == [0, 0]
    unbroken = tiny_runs.weights(name, tmp_path / "whole")
    for key, value in tiny_runs.weights(name, tmp_path / "broken").items():
        assert torch.equal(value, unbroken[key]), key
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_the_stage_hubert_prepares_in_one_process_and_trains_in_two(tmp_path: Path) -> None:
    for folder in ("two", "one"):
        tiny_runs.write_speech(tmp_path / folder / "speech")
    assert [status for status, _ in _run_two(tmp_path / "two", "speech_encoder")] == [0, 0]
    one = tiny_runs.RUNS["speech_encoder"](tmp_path / "one" / "speech_encoder", 2).state_dict()
    two = tiny_runs.weights("speech_encoder", tmp_path / "two")
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], atol=SAME, rtol=0)


@pytest.mark.parametrize(("rows", "of"), [(2, 2), (7, 3), (24, 5), (9, 1)])
def test_parts_are_the_whole(rows: int, of: int) -> None:
    parts = [Part(number, of) for number in range(of)]
    assert [row for part in parts for row in range(rows)[part.rows(rows)]] == list(range(rows))
    assert all(part.share(rows) > 0 for part in parts)
    assert sum(part.share(rows) for part in parts) == pytest.approx(1)
    assert len({part.seed(7) for part in parts}) == of
    assert WHOLE.seed(7) == 7


def test_parts_of_photos_have_all_captions_and_tokens_of_the_step() -> None:
    batch = PhotoBatches(tiny_runs.sentences(), tiny_runs.OPTIONS, 4, 2).at(3)
    pieces = [batch.part(Part(number, 3)) for number in range(3)]
    assert [name for piece in pieces for name in piece.ids] == batch.ids
    assert [caption for piece in pieces for caption in piece.captions] == batch.captions
    assert sum(piece.targets for piece in pieces) == batch.targets
    assert all(int((piece.tensors()[0][:, 1:] != 0).sum()) == piece.targets for piece in pieces)


def test_more_parts_than_photos_is_one_sentence() -> None:
    with pytest.raises(Im2SpError, match="`photos` makes steps of 2 that cannot be cut into 3 parts"):
        Processes().parts(3, 2, "photos")


def test_other_ways_to_share_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(Im2SpError, match=r"launch it without FSDP: .* `sharded = true`"):
        Processes()


def test_stages_that_cannot_be_shared_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Im2SpError, match="the stage speak runs in one process"):
        _run("speak", Recipe(Path("data"), Path("runs")))
