"""Corpora of a few captions in the official layouts, with the faults that real copies have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000


def tone(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """A tone of 440 Hz: float64 [samples] or [samples, channels]."""
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return wave if channels == 1 else np.stack([wave] * channels, axis=1)


def write_wav(path: Path, seconds: float = 0.5, rate: int = RATE, channels: int = 1, **kind: str) -> None:
    """Write a tone; `kind` is soundfile's format and subtype."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        soundfile.write(file, tone(seconds, rate, channels), rate, **({"format": "WAV", "subtype": "PCM_16"} | kind))


def write_flickr8k_audio(root: Path) -> None:
    """Four photos (two train, one dev, one test) with two recordings each, without a fault."""
    root.mkdir(exist_ok=True)
    splits = {"train": ["1_a", "2_b"], "dev": ["3_c"], "test": ["4_d"]}
    for split, names in splits.items():
        (root / f"Flickr_8k.{split}Images.txt").write_text("".join(f"{name}.jpg\n" for name in names))
    pairs = [(name, k) for names in splits.values() for name in names for k in range(2)]
    (root / "Flickr8k.token.txt").write_text("".join(f"{n}.jpg#{k}\tA dog runs {k} .\n" for n, k in pairs))
    audio = root / "flickr_audio"
    for name, k in pairs:
        write_wav(audio / "wavs" / f"{name}_{k}.wav")
    (audio / "wav2capt.txt").write_text("".join(f"{n}_{k}.wav {n}.jpg #{k}\n" for n, k in pairs))
    (audio / "wav2spk.txt").write_text("".join(f"{n}_{k}.wav {k + 7}\n" for n, k in pairs))


def coco_name(number: int, part: str = "val2014") -> str:
    """COCO's name of a photo."""
    return f"COCO_{part}_{number:012d}.jpg"


def write_spoken_coco(root: Path) -> None:
    """Two train photos and one val photo with two recordings each, without a fault."""
    for split, numbers in (("train", [9, 25]), ("val", [42])):
        part = f"{split}2014"
        entries = [
            {
                "image": f"{part}/{coco_name(number, part)}",
                "captions": [
                    {
                        "text": f"a cat sits number {k}",
                        "speaker": f"m{k}",
                        "uttid": f"m{k}-{number}",
                        "wav": f"wavs/{split}/0/m{k}-{number}.wav",
                    }
                    for k in range(2)
                ],
            }
            for number in numbers
        ]
        for number in numbers:
            for k in range(2):
                write_wav(root / f"wavs/{split}/0/m{k}-{number}.wav")
        (root / f"SpokenCOCO_{split}.json").write_text(json.dumps({"data": entries}))


def write_karpathy_coco(path: Path, splits: dict[int, str]) -> None:
    """dataset_coco.json: {number: split}, two sentences a photo."""
    images = [
        {
            "filepath": "val2014",
            "filename": coco_name(number),
            "cocoid": number,
            "imgid": k,
            "sentids": [2 * k, 2 * k + 1],
            "split": split,
            "sentences": [{"raw": f"A cat sits {i}.", "tokens": ["a", "cat", "sits", str(i)]} for i in range(2)],
        }
        for k, (number, split) in enumerate(splits.items())
    ]
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))


def write_coco_captions(root: Path) -> None:
    """annotations/captions_val2014.json: two photos, three captions; sections in the official order."""
    (root / "annotations").mkdir(parents=True)
    numbers = (42, 73)
    content = {
        "info": {"year": 2014},
        "images": [{"id": number, "file_name": coco_name(number), "license": 1} for number in numbers],
        "licenses": [],
        "annotations": [
            {"image_id": number, "id": identity, "caption": text}
            for number, identity, text in ((42, 770, "A cat.\n"), (73, 771, "Two cats."), (42, 772, "One cat."))
        ],
    }
    (root / "annotations" / "captions_val2014.json").write_text(json.dumps(content))
