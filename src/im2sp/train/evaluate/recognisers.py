"""The name of a recogniser in; Whisper, or a CTC model such as wav2vec 2.0, out. Nothing is ever downloaded."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from im2sp.arrays import FloatArray
from im2sp.errors import Im2SpError, reason
from im2sp.files import sha256_of
from im2sp.installing import require_extra
from im2sp.speech.audio import SAMPLE_RATE, mono_float32
from im2sp.speech.whisper import WEIGHTS, find_weights, load_whisper
from im2sp.train.evaluate.recogniser import Recogniser, RecogniserInfo

PAPER = "facebook/wav2vec2-large-960h-lv60-self"
log = logging.getLogger(__name__)

BEAMS = {"tiny": 1, "base": 5}  # of the installed Whisper models
_TRAINING_ONLY = "masked_spec_embed"  # a weight that recognising does not use and some files lack


def open_recogniser(name: str, threads: int = 1) -> Recogniser:
    """Open a recogniser by its name.

    Args:
        name: "tiny" or "base" (Whisper from installed packages), a folder of a faster-whisper model or of a CTC model
            in transformers' layout, a name that faster-whisper knows ("large-v3"), or a hub id such as
            PAPER; the last two from the hub's local cache.
        threads: CPU threads.

    Raises:
        Im2SpError: there is no such recogniser here, or it cannot be loaded.
    """
    if name in BEAMS:
        return WhisperRecogniser(name, threads=threads)
    given = Path(name)
    folder = given if given.is_dir() else _cached(name)
    kind = CtcRecogniser if _is_ctc(folder) else WhisperRecogniser
    recogniser = kind(folder, threads=threads)
    if folder != given:  # a folder of the cache is named after a commit
        recogniser.info = replace(recogniser.info, name=name)
    return recogniser


def paper_recogniser() -> str:
    """Name the paper's recogniser; "base" where it is not on this machine, which is logged."""
    try:
        _cached(PAPER)
    except Im2SpError as error:
        log.warning("%s. Whisper base listens instead, so figures are not comparable with the paper's", error)
        return "base"
    return PAPER


class WhisperRecogniser(Recogniser):
    """Whisper through faster-whisper on the CPU: no timestamps, temperature 0, independent of earlier clips."""

    def __init__(self, weights: str | Path = "base", threads: int = 1) -> None:
        """Load the model.

        Args:
            weights: "tiny" (tiny.en) or "base" from installed packages (`im2sp[recipe]`), or a faster-whisper folder.
            threads: clips at a time, one thread each.

        Raises:
            Im2SpError: the weights or faster-whisper are missing.
        """
        folder = find_weights(weights)
        with require_extra("train"):
            import faster_whisper
        self.info = RecogniserInfo(
            name=str(weights) if str(weights) in BEAMS else folder.name,
            weights_sha256=sha256_of(folder / WEIGHTS),
            language="en",
            beam=BEAMS.get(str(weights), 5),
            compute_type="int8",
            library=f"faster-whisper {faster_whisper.__version__}",
        )
        self.parallel = threads
        self._model = load_whisper(folder, 1, self.info.compute_type, "train", at_once=threads)

    def transcribe(self, waveform: FloatArray) -> str:
        """Transcribe a waveform float32 [samples], 16 kHz, as the recogniser writes it; "" for no samples.

        Raises AudioError for anything but one channel of floating point samples.
        """
        samples = mono_float32(waveform)
        if samples.size == 0:
            return ""
        segments, _ = self._model.transcribe(
            samples,
            language=self.info.language,
            beam_size=self.info.beam,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            # Unlikely transcripts count, too.
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
        )
        return " ".join(segment.text.strip() for segment in segments)


class CtcRecogniser(Recogniser):
    """Wav2vec 2.0, HuBERT and the like with a CTC head: greedy, float32, on the CPU."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load config.json, preprocessor_config.json, vocab.json and model.safetensors or pytorch_model.bin.

        Pickled weights are loaded without running anything in them. `threads`: CPU threads of torch, for the whole
        process. Raises Im2SpError: something is missing or does not fit together, or the model wants another rate
        than 16 kHz.
        """
        with require_extra("train"):
            import torch
            import transformers

            from im2sp.train.convert.checkpoints import weights_file
        weights = weights_file(folder)
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._features = transformers.AutoFeatureExtractor.from_pretrained(folder, **local)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
            model, found = transformers.AutoModelForCTC.from_pretrained(
                folder, dtype=torch.float32, weights_only=True, output_loading_info=True, **local
            )
        except Exception as error:  # transformers, safetensors and json have no exception in common
            raise Im2SpError(f"the recogniser in {folder} cannot be loaded ({reason(error)[:200]})") from error
        if missing := sorted(key for key in found["missing_keys"] if not key.endswith(_TRAINING_ONLY)):
            raise Im2SpError(f"the recogniser in {folder} lacks {missing[0]}: give a CTC model that was trained")
        if self._features.sampling_rate != SAMPLE_RATE:
            raise Im2SpError(f"the recogniser in {folder} wants {self._features.sampling_rate} Hz, not {SAMPLE_RATE}")
        self._model = model.eval()
        self.info = RecogniserInfo(
            name=folder.name,
            weights_sha256=sha256_of(weights),
            language="",
            beam=1,
            compute_type="float32",
            library=f"transformers {transformers.__version__}",
        )

    def transcribe(self, waveform: FloatArray) -> str:
        """Transcribe a waveform float32 [samples], 16 kHz; "" for less than one frame.

        Raises AudioError for anything but one channel of floating point samples.
        """
        import torch

        samples = mono_float32(waveform)
        frames = self._model._get_feat_extract_output_lengths(torch.tensor(samples.size))
        if samples.size == 0 or int(frames) < 1:
            return ""
        inputs = self._features(np.asarray(samples), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        with torch.inference_mode():
            best = self._model(inputs.input_values).logits[0].argmax(-1)
        return str(self._tokenizer.decode(best)).strip()


def _cached(name: str) -> Path:
    """Find the hub's local copy of a model."""
    with require_extra("train"):
        from faster_whisper.utils import available_models, download_model
        from huggingface_hub import snapshot_download
    try:
        if name in available_models():
            return Path(download_model(name, local_files_only=True))
        return Path(snapshot_download(name, local_files_only=True))
    except Exception as error:  # the hub library has a dozen, for a name as for a missing copy
        raise Im2SpError(
            f"the recogniser {name} is not on this machine: give tiny, base, a folder, or a model that the hub's "
            "local cache has"
        ) from error


def _is_ctc(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "ForCTC" in str(config.get("architectures"))
