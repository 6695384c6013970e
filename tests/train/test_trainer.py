"""The training loop: resume, gradient accumulation and several processes give the result of one uninterrupted run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from im2sp.errors import Im2SpError
from im2sp.train.trainer import CHECKPOINT, MicroBatch, Task, TrainConfig, Update, adamw, ema_update, train

ROOT = Path(__file__).parents[2]
CONFIG = TrainConfig(steps=6, learning_rate=0.05, warm_up=2, log_every=2, grad_accum_steps=2, checkpoint_minutes=0)


class Adversarial(Task):
    """Generator with dropout and a discriminator: two optimizers, of which the second step uses the first's result."""

    def __init__(self, config: TrainConfig, steps_until_error: int = 1000) -> None:
        torch.manual_seed(0)
        generator = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        discriminator = nn.Linear(3, 1)
        super().__init__(config, generator, discriminator=discriminator)
        self.optimizers = {"model": adamw([generator], config), "discriminator": adamw([discriminator], config)}
        self.seen, self.fails_at = 0, steps_until_error

    def updates(self, step: int) -> list[Update]:
        return [Update("discriminator", self.discriminate), *super().updates(step)]

    def batch(self, step: int, part: MicroBatch) -> Tensor:
        batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return batch[part.rows(8)].to(self.device)

    def discriminate(self, step: int, part: MicroBatch) -> Tensor:
        batch = self.batch(step, part)
        with torch.no_grad():
            made = self.model(batch)
        discriminator = self.modules["discriminator"]
        return (discriminator(batch) - 1).square().sum() / 8 + discriminator(made).square().sum() / 8

    def loss(self, step: int, part: MicroBatch) -> dict[str, Tensor]:
        if step == self.fails_at:
            raise InterruptedError
        self.seen += 1
        batch = self.batch(step, part)
        made = self.model(batch)
        error = (made - batch).square().mean() * part.share(8)
        return {"loss": error - self.modules["discriminator"](made).sum() / 80, "error": error}

    def evaluate(self) -> dict[str, float]:
        assert not self.model.training
        return {"held_out": float(self.model(torch.ones(1, 3)).square().mean())}

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


def _weights(folder: Path, **changes: object) -> dict[str, Tensor]:
    task = Adversarial(TrainConfig(**(CONFIG.__dict__ | changes)))
    train(task, folder)
    return task.model.state_dict()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights that one process trains."""
    return _weights(tmp_path_factory.mktemp("one"))


def test_a_resumed_run_gives_the_result_of_an_uninterrupted_one(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    with pytest.raises(InterruptedError):
        train(Adversarial(CONFIG, steps_until_error=5), tmp_path)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 4
    resumed = Adversarial(CONFIG)
    train(resumed, tmp_path)
    torch.testing.assert_close(resumed.model.state_dict(), weights, rtol=0, atol=0)
    assert resumed.seen == 12
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6]


def test_two_processes_compute_what_one_does_and_resume(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    launched = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.test_trainer", str(tmp_path)],
            cwd=ROOT,
            env=os.environ | launched | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"weights{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, weights, rtol=0, atol=1e-6)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_ema_of_weights() -> None:
    ema, weights = {"w": torch.zeros(1), "count": torch.tensor(0)}, {"w": torch.ones(1), "count": torch.tensor(7)}
    ema_update(ema, weights, 0.9, 1)
    assert ema["w"].item() == pytest.approx(1 - 2 / 11)
    ema_update(ema, weights, 0.9, 1000)
    assert ema["w"].item() == pytest.approx(1 - 0.9 * 2 / 11)
    assert ema["count"].item() == 7
    ema_update(ema, {"w": torch.full((1,), 5.0)}, 0.0, 1001)
    assert ema["w"].item() == 5


def test_the_ema_is_what_is_kept(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    last = _weights(tmp_path, ema_decay=0.0)
    assert not torch.equal(last["0.weight"], weights["0.weight"])
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)["modules"]["model"]
    assert torch.equal(last["0.weight"], saved["0.weight"])


def test_a_loss_that_is_not_finite_stops_the_training_before_a_checkpoint(tmp_path: Path) -> None:
    task = Adversarial(CONFIG)
    task.loss = lambda step, part: task.model(torch.ones(1, 3)).sum() * torch.inf  # type: ignore[method-assign]
    with pytest.raises(Im2SpError, match="lower learning_rate"):
        train(task, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_batch_needs_a_row_for_each_micro_batch() -> None:
    assert [MicroBatch(i, 3).rows(8) for i in range(3)] == [slice(0, 2), slice(2, 5), slice(5, 8)]
    with pytest.raises(Im2SpError, match="micro-batches"):
        MicroBatch(0, 3).rows(2)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    config = TrainConfig(**(CONFIG.__dict__ | {"grad_accum_steps": 1}))
    with suppress(InterruptedError):
        train(Adversarial(config, steps_until_error=5), folder)
    task = Adversarial(config)
    train(task, folder)
    torch.save(task.model.state_dict(), folder / f"weights{os.environ['RANK']}.pt")
