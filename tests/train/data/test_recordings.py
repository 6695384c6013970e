"""Importer of recordings: what is read, what is left out, and how it goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from im2sp.errors import Im2SpError
from im2sp.train.data import recordings
from im2sp.train.data.recordings import PROBLEMS, RecordingOptions, import_recordings
from im2sp.train.data.speech_shards import read_shards
from im2sp.train.data.synthesis import SynthesisConfig
from tests.train.data.tiny_corpora import write_flickr8k_audio, write_wav

OPTIONS = RecordingOptions("flickr8k-audio", splits_taken=("dev", "test", "train"))
VOICE = SynthesisConfig()


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Flickr8k Audio: eight recordings, half a second each, and shards of three."""
    monkeypatch.setattr(recordings, "SHARD_SIZE", 3)
    write_flickr8k_audio(tmp_path / "corpus")
    return tmp_path / "corpus"


def run(corpus: Path, out: Path, options: RecordingOptions = OPTIONS) -> None:
    import_recordings(corpus, options, VOICE, out)


def problems(out: Path) -> set[tuple[str, str, str]]:
    """(kind, where, shard) of all problems."""
    rows = [(path.stem, json.loads(line)) for path in (out / PROBLEMS).glob("*.jsonl") for line in path.open()]
    return {(row["kind"], row["where"], shard) for shard, row in rows}


def test_a_corpus_becomes_shards_of_each_split(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(corpus, out)
    names = ["dev-00000.parquet", "test-00000.parquet", "train-00000.parquet", "train-00001.parquet"]
    assert sorted(path.name for path in out.glob("*.parquet")) == names
    clips = list(read_shards(out, "train"))
    assert [clip.caption_id for clip in clips] == ["1_a_0", "1_a_1", "2_b_0", "2_b_1"]
    first = clips[0]
    assert (first.image_id, first.split, first.speaker, first.text) == ("1_a", "train", "7", "A dog runs 0 .")
    assert (first.waveform.dtype, first.waveform.shape, first.phones) == (np.int16, (8000,), [])
    assert [clip.caption_id for clip in read_shards(out, "train", 3)] == ["1_a_0", "1_a_1", "2_b_0"]
    assert problems(out) == set()


def test_odd_recordings_are_read_and_bad_ones_left_out(corpus: Path, tmp_path: Path) -> None:
    wavs = corpus / "flickr_audio" / "wavs"
    write_wav(wavs / "1_a_0.wav", rate=44_100, channels=2)
    write_wav(wavs / "1_a_1.wav", rate=8_000, subtype="PCM_U8")
    write_wav(wavs / "2_b_0.wav", format="FLAC")
    (wavs / "2_b_1.wav").write_bytes(b"RIFF and so on")
    (wavs / "3_c_0.wav").unlink()
    write_wav(wavs / "3_c_1.wav", seconds=0)
    write_wav(wavs / "4_d_0.wav", seconds=0.01)
    write_wav(wavs / "4_d_1.wav", seconds=3)
    out = tmp_path / "out"
    run(corpus, out, replace(OPTIONS, longest=2.0))
    assert problems(out) == {
        ("unreadable", "2_b_1", "train-00001"),
        ("missing", "3_c_0", "dev-00000"),
        ("unreadable", "3_c_1", "dev-00000"),
        ("too-short", "4_d_0", "test-00000"),
        ("too-long", "4_d_1", "test-00000"),
    }
    clips = {clip.caption_id: clip for clip in read_shards(out)}
    assert set(clips) == {"1_a_0", "1_a_1", "2_b_0"}
    for clip in clips.values():
        samples = clip.waveform.astype(float)
        assert abs(len(samples) - 8000) <= 1
        assert np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples) == pytest.approx(440, abs=3)
        assert np.abs(samples[1000:-1000]).max() == pytest.approx(16_384, rel=0.03)


def test_it_goes_on_where_it_stopped(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (corpus / "flickr_audio" / "wavs" / "1_a_1.wav").unlink()
    with (corpus / "flickr_audio" / "wav2capt.txt").open("a") as file:
        file.write("nonsense\n")
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(corpus, whole)
    real = recordings.read_audio

    def dies_at_the_third_shard(path: Path) -> np.ndarray:
        if path.name == "1_a_0.wav":
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(recordings, "read_audio", dies_at_the_third_shard)
        with pytest.raises(KeyboardInterrupt):
            run(corpus, out)
    done = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert len(done) == 2
    run(corpus, out)
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert problems(out) == problems(whole)
    for path in whole.glob("*.parquet"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_a_folder_holds_one_corpus_with_one_set_of_options(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(corpus, out)
    with pytest.raises(Im2SpError, match="begun with another corpus or other options"):
        run(corpus, out, replace(OPTIONS, longest=4.0))


def test_nothing_to_read_is_an_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(Im2SpError, match="no captions of restval"):
        run(corpus, tmp_path / "none", replace(OPTIONS, splits_taken=("restval",)))
    for path in (corpus / "flickr_audio" / "wavs").iterdir():
        path.write_bytes(b"")
    with pytest.raises(Im2SpError, match="not one caption could be used"):
        run(corpus, tmp_path / "out")


def test_captions_may_be_spoken_by_a_synthetic_voice(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("piper")
    options = RecordingOptions("flickr8k", spoken_by="piper", splits_taken=("dev",))
    run(corpus, tmp_path / "out", options)
    clips = list(read_shards(tmp_path / "out"))
    assert [clip.caption_id for clip in clips] == ["3_c_0", "3_c_1"]
    assert clips[0].speaker == VOICE.speaker
    assert sum(clips[0].phone_samples) == pytest.approx(len(clips[0].waveform), rel=0.05)
