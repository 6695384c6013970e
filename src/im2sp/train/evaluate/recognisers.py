"""The name of a recogniser -> the recogniser. Nothing is ever downloaded: what is named must be on this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from im2sp.errors import Im2SpError, require_extra
from im2sp.train.evaluate.asr import DEFAULT_BEAM, Recogniser, SpeechRecogniser

_MAX_CONFIG_BYTES = 2**20


def open_recogniser(name: str, threads: int = 1) -> SpeechRecogniser:
    """A recogniser by its name.

    Args:
        name: "tiny" or "base" (Whisper from installed packages), a folder of a faster-whisper model or of a CTC model
            in transformers' layout, a name that faster-whisper knows ("large-v3"), or a hub id such as
            "facebook/wav2vec2-large-960h-lv60-self", the paper's; the last two from the hub's local cache.
        threads: CPU threads.

    Raises:
        Im2SpError: there is no such recogniser here, or it cannot be loaded.
    """
    if name in DEFAULT_BEAM:
        return Recogniser(name, threads=threads)
    given = Path(name)
    folder = given if given.is_dir() else _cached(name)
    recogniser: SpeechRecogniser
    if _is_ctc(folder):
        from im2sp.train.evaluate.ctc import CtcRecogniser

        recogniser = CtcRecogniser(folder, threads=threads)
    else:
        recogniser = Recogniser(folder, threads=threads)
    if folder != given:  # a folder of the cache is called after a commit
        recogniser.info = replace(recogniser.info, name=name)
    return recogniser


def _cached(name: str) -> Path:
    """The hub's local copy of a model."""
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
    path = folder / "config.json"
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            return False
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    kinds = config.get("architectures") if isinstance(config, dict) else None
    return isinstance(kinds, list) and any(isinstance(kind, str) and kind.endswith("ForCTC") for kind in kinds)
