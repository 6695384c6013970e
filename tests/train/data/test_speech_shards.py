"""Shards of spoken captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from im2sp.train.data.speech_shards import SpokenCaption, read_shards, write_shard


def test_shards_come_back(tmp_path: Path) -> None:
    wave = np.arange(-5, 5, dtype=np.int16)
    clips = [
        SpokenCaption(f"a_{k}", "a", "train", "joe", "text", wave[: k + 3], ["x", "y"], np.array([1, k + 2], np.int32))
        for k in range(3)
    ]
    write_shard(tmp_path / "train-0000.parquet", clips)
    (tmp_path / "train-0001.parquet.part").write_bytes(b"half")
    found = list(read_shards(tmp_path, "train"))
    assert [clip.caption_id for clip in found] == ["a_0", "a_1", "a_2"]
    assert all(np.array_equal(a.waveform, b.waveform) for a, b in zip(found, clips, strict=True))
    assert list(read_shards(tmp_path, "dev")) == []
