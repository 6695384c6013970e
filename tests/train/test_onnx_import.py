"""Training goes on from the weights of an exported graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.export import TrainedVoice, export_vocoder
from im2sp.train.models.unit_vocoder import DurationPredictor, UnitVocoder, VocoderConfig
from im2sp.train.onnx_import import load_graph_weights

SIZES = VocoderConfig(units=9, width=40, feed_forward=48, slow_blocks=2, fast_blocks=1, duration_width=40)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "mixed"])
def test_a_graph_gives_its_weights_back(precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vocoder, durations = UnitVocoder(SIZES), DurationPredictor(SIZES)
    for parameter in [*vocoder.parameters(), *durations.parameters()]:
        torch.nn.init.normal_(parameter, std=0.1)  # the exporter joins tensors that are equal, as untrained ones are
    export_vocoder(TrainedVoice(vocoder, durations, None), tmp_path, precision)
    for module, name in ((vocoder, "vocoder"), (durations, "duration_predictor")):
        found = type(module)(SIZES)
        load_graph_weights(found, tmp_path / f"{name}.onnx")
        for one, other in zip(module.parameters(), found.parameters(), strict=True):
            torch.testing.assert_close(other, one, atol=float(one.detach().abs().max()) / 200, rtol=0)


def test_other_sizes_are_refused(tmp_path: Path) -> None:
    export_vocoder(TrainedVoice(UnitVocoder(SIZES), DurationPredictor(SIZES), None), tmp_path, "fp32")
    with pytest.raises(Im2SpError, match=r"has no embedding\.weight of shape \(9, 32\)"):
        load_graph_weights(UnitVocoder(VocoderConfig(units=9, width=32)), tmp_path / "vocoder.onnx")
