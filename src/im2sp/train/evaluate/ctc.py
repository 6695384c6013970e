"""A CTC recogniser in transformers' layout, such as the paper's wav2vec 2.0: waveform -> words, greedily.

Runs where torch runs by default, the CPU. Reference formats, section 8.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from im2sp.arrays import FloatArray
from im2sp.errors import Im2SpError, reason, require_extra
from im2sp.files import sha256_of
from im2sp.speech.audio import SAMPLE_RATE, mono_float32
from im2sp.train.convert.checkpoints import read_checkpoint
from im2sp.train.convert.state_dicts import state_dict_of
from im2sp.train.convert.weights import weights_file
from im2sp.train.evaluate.asr import RecogniserInfo, SpeechRecogniser

_TRAINING_ONLY = "masked_spec_embed"  # a weight that recognising does not use and some files lack


class CtcRecogniser(SpeechRecogniser):
    """Wav2vec 2.0, HuBERT and the like with a CTC head; each clip on its own, in float32."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """`folder`: config.json, preprocessor_config.json, vocab.json and model.safetensors or pytorch_model.bin. That
        is read as all published checkpoints are: nothing in it is run.

        `threads`: CPU threads of torch, for the whole process.
        Raises Im2SpError: something is missing, does not belong together, or wants another rate than 16 kHz.
        """
        with require_extra("train"):
            import torch
            import transformers
        weights = weights_file(folder)
        state = state_dict_of(read_checkpoint(weights), weights)
        torch.set_num_threads(threads)
        try:
            local = {"local_files_only": True, "trust_remote_code": False}
            self._features = transformers.AutoFeatureExtractor.from_pretrained(folder, **local)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
            config = transformers.AutoConfig.from_pretrained(folder, **local)
            model, found = transformers.MODEL_FOR_CTC_MAPPING[type(config)].from_pretrained(
                None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # transformers, safetensors and json have no exception in common
            raise Im2SpError(f"the recogniser in {folder} cannot be loaded ({reason(error)[:200]})") from error
        if missing := sorted(key for key in found["missing_keys"] if not key.endswith(_TRAINING_ONLY)):
            raise Im2SpError(f"the recogniser in {folder} lacks {missing[0]}: is it a CTC model that was trained?")
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
        """Waveform float32 [samples], 16 kHz -> what was said ("" for less than one frame).

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
