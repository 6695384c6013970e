"""Clips for vocoders: recordings and their units, from shards and tables to a mapped file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from im2sp.errors import Im2SpError
from im2sp.train.data.clips import store_clips
from im2sp.train.data.speech_shards import SpokenCaption, write_shard
from im2sp.train.data.unit_table import UnitRow, write_unit_table


def write(folder: Path, name: str, speakers: dict[str, str], without_units: tuple[str, ...] = ()) -> None:
    """A shard and its table: caption ids and who speaks them."""
    random = np.random.default_rng(len(name))
    clips, rows = [], []
    for caption_id, speaker in speakers.items():
        frames = int(random.integers(3, 9))
        waveform = random.integers(-9000, 9000, size=frames * 320 + 80).astype(np.int16)
        split = name.partition("-")[0]
        clips.append(SpokenCaption(caption_id, caption_id[0], split, speaker, "", waveform))
        if caption_id not in without_units:
            units = random.integers(200, size=frames).astype(np.uint16)
            rows.append(UnitRow(caption_id, caption_id, units, split, speaker, 0.1, ""))
    write_shard(folder / "speech" / f"{name}.parquet", clips)
    write_unit_table(folder / "units" / f"{name}.parquet", rows, {"units": 200})


def test_clips_are_what_shards_and_tables_say(tmp_path: Path) -> None:
    write(tmp_path, "train-0000", {"a_0": "zoe", "a_1": "adam", "b_0": "zoe"}, without_units=("a_1",))
    write(tmp_path, "train-0001", {"c_0": "mia"})
    write(tmp_path, "dev-0000", {"d_0": "ben"})
    clips = store_clips(tmp_path / "speech", tmp_path / "units", "train", tmp_path / "out")
    assert clips.speakers == ["mia", "zoe"]
    assert [clips[number].speaker for number in range(3)] == [1, 1, 0]
    assert len(clips) == 3
    random = np.random.default_rng(len("train-0001"))
    frames = int(random.integers(3, 9))
    assert np.array_equal(clips[2].waveform, random.integers(-9000, 9000, size=frames * 320 + 80))
    assert np.array_equal(clips[2].units, random.integers(200, size=frames))


def test_recordings_without_units_are_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, "train-0000", {"a_0": "zoe"}, without_units=("a_0",))
    with pytest.raises(Im2SpError, match="no recording of the split train has units"):
        store_clips(tmp_path / "speech", tmp_path / "units", "train", tmp_path / "out")
    assert not (tmp_path / "out").exists()
