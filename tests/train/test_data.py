"""Readers, tables, shards and tokenisers of the lab."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from im2sp.errors import Im2SpError
from im2sp.train.data.flickr8k import clean_text, read_captions, read_split
from im2sp.train.data.speech_shards import SpokenCaption, read_shards, write_shard
from im2sp.train.data.text_tokenizer import BOS, EOS, TextTokenizer
from im2sp.train.data.tiny_flickr8k import write_tiny_flickr8k
from im2sp.train.data.unit_table import UnitRow, read_unit_tables, write_unit_table
from im2sp.train.evaluate.unit_quality import frame_phones, unit_quality
from im2sp.train.speech_units import mfcc_features


def test_tiny_data_set_has_the_official_layout(tmp_path: Path) -> None:
    write_tiny_flickr8k(tmp_path)
    captions = read_captions(tmp_path)
    assert len(captions) == 60
    assert len(read_split(tmp_path, "train")) == 9
    assert captions[0].caption_id == "red_circle_0"
    assert {caption.split for caption in captions} == {"train", "dev"}


def test_captions_of_other_splits_are_left_out(tmp_path: Path) -> None:
    write_tiny_flickr8k(tmp_path)
    assert len(read_captions(tmp_path, ("dev",))) == 15


def test_missing_and_broken_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(Im2SpError, match="official split files"):
        read_captions(tmp_path)
    write_tiny_flickr8k(tmp_path)
    (tmp_path / "Flickr8k.token.txt").write_text("red_circle.jpg A red circle\n")
    with pytest.raises(Im2SpError, match="line 1: expected"):
        read_captions(tmp_path)


@pytest.mark.parametrize(
    ("raw", "spoken"),
    [
        ('A dog " runs " , and it \'s fast .', "A dog runs, and it's fast."),
        ("Two men & a dog", "Two men and a dog."),
        ("Is it a bird ?", "Is it a bird?"),
        ("  A child .", "A child."),
    ],
)
def test_clean_text(raw: str, spoken: str) -> None:
    assert clean_text(raw) == spoken


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


def test_unit_tables_come_back_and_do_not_mix(tmp_path: Path) -> None:
    rows = [UnitRow("a", "a_0", np.array([3, 3, 5], np.uint16), "train", "joe", 0.06, "hello")]
    write_unit_table(tmp_path / "train-0000.parquet", rows, {"speech_encoder": "one"})
    (found,) = read_unit_tables(tmp_path)
    assert found.speech_units.tolist() == [3, 3, 5]
    assert read_unit_tables(tmp_path, "dev") == []
    write_unit_table(tmp_path / "train-0001.parquet", rows, {"speech_encoder": "two"})
    with pytest.raises(Im2SpError, match="mixes units"):
        read_unit_tables(tmp_path)


def test_datasets_reads_the_unit_table(tmp_path: Path) -> None:
    import datasets

    rows = [UnitRow("a", f"a_{k}", np.arange(k + 1, dtype=np.uint16), "train", "joe", 0.1, "hi") for k in range(4)]
    write_unit_table(tmp_path / "t.parquet", rows, {"speech_encoder": "one"})
    table = datasets.Dataset.from_parquet(str(tmp_path / "t.parquet"), cache_dir=str(tmp_path / "cache"))
    assert table[3]["speech_units"] == [0, 1, 2, 3]


def test_text_tokenizer_round_trip(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.train(["A dog's ball .", "a dog runs"] * 4, min_count=4)
    tokenizer.save(tmp_path / "t.json")
    tokens = TextTokenizer.load(tmp_path / "t.json").encode("A DOG runs, zebra")
    assert (tokens[0], tokens[-1]) == (BOS, EOS)
    assert tokenizer.decode(tokens) == "a dog runs"


def test_mfcc_has_a_row_for_every_frame() -> None:
    wave = np.sin(np.arange(3200) / 7).astype(np.float32)
    assert mfcc_features(wave).shape == (10, 39)
    assert np.isfinite(mfcc_features(np.zeros(320, np.float32))).all()


def test_frame_phones_joins_marks_to_their_phone() -> None:
    names = frame_phones(["w", "ˈ", "ɔ", "ː", "k"], np.array([320, 160, 320, 160, 320]), 4)  # noqa: RUF001
    assert names.tolist() == ["w", "ɔ", "ɔ", "k"]


def test_unit_quality_of_a_perfect_and_a_useless_set() -> None:
    phones = np.array(list("aabbcc"), dtype=object)
    perfect = unit_quality([(np.array([0, 0, 1, 1, 2, 2]), phones)])
    assert perfect.phone_purity == perfect.cluster_purity == pytest.approx(1)
    assert perfect.phone_information == pytest.approx(1)
    assert perfect.rate == pytest.approx(25)
    useless = unit_quality([(np.zeros(6, int), phones)])
    assert useless.phone_information == pytest.approx(0, abs=1e-9)
    assert useless.phone_purity == pytest.approx(1 / 3)
