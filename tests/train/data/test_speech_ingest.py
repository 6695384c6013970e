"""Corpora -> speech shards: what is read, what is left out, and going on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from im2sp.errors import Im2SpError
from im2sp.manifest import locked
from im2sp.train.cli import app
from im2sp.train.data import speech_ingest
from im2sp.train.data.corpora.flickr8k_audio import Flickr8kAudio
from im2sp.train.data.speech_ingest import PLAN, PROBLEMS, Ingested, IngestOptions, ingest
from im2sp.train.data.speech_shards import SpokenCaption, read_shards
from im2sp.train.data.unit_table import read_unit_tables
from im2sp.train.stages.hubert import HubertStage, train_speech_encoder
from im2sp.train.stages.units import extract_units, trained_hearing
from tests.train.data.tiny_corpora import write_flickr8k_audio, write_karpathy_coco, write_spoken_coco, write_wav

OPTIONS = IngestOptions(shard_size=3)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Flickr8k Audio: eight recordings, half a second each."""
    write_flickr8k_audio(tmp_path / "corpus")
    return tmp_path / "corpus"


def run(corpus: Path, out: Path, options: IngestOptions = OPTIONS) -> Ingested:
    """Ingest Flickr8k Audio."""
    return ingest(Flickr8kAudio(corpus, corpus), out, options, {"layout": "flickr8k-audio"})


def problems(out: Path) -> list[dict[str, object]]:
    """Lines of problems.jsonl."""
    return [json.loads(line) for line in (out / PROBLEMS).read_text().splitlines()]


def test_a_corpus_becomes_shards_of_each_split(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "speech"
    result = run(corpus, out)
    assert (result.recordings, result.seconds, result.shards, result.written) == (8, 4.0, 4, 4)
    assert (result.left_out, result.noted) == ({}, {})
    assert sorted(path.name for path in out.glob("*.parquet")) == [
        "dev-00000.parquet",
        "test-00000.parquet",
        "train-00000.parquet",
        "train-00001.parquet",
    ]
    clips = list(read_shards(out, "train"))
    assert [clip.caption_id for clip in clips] == ["1_a_0", "1_a_1", "2_b_0", "2_b_1"]
    first = clips[0]
    assert (first.image_id, first.split, first.speaker, first.text) == ("1_a", "train", "7", "A dog runs 0 .")
    assert first.waveform.dtype == np.int16
    assert first.waveform.shape == (8000,)
    assert first.phones == []
    assert problems(out) == []


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
    out = tmp_path / "speech"
    result = run(corpus, out, IngestOptions(shard_size=3, longest=2.0))
    assert result.recordings == 3
    assert result.left_out == {"unreadable": 2, "missing": 1, "too-short": 1, "too-long": 1}
    assert {(line["kind"], line["where"], line["shard"]) for line in problems(out)} == {
        ("unreadable", "2_b_1", "train-00001"),
        ("missing", "3_c_0", "dev-00000"),
        ("unreadable", "3_c_1", "dev-00000"),
        ("too-short", "4_d_0", "test-00000"),
        ("too-long", "4_d_1", "test-00000"),
    }
    clips = {clip.caption_id: clip for clip in read_shards(out)}
    for name in ("1_a_0", "1_a_1", "2_b_0"):
        samples = clips[name].waveform.astype(float)
        assert abs(len(samples) - 8000) <= 1
        assert np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples) == pytest.approx(440, abs=3)
        assert np.abs(samples[1000:-1000]).max() == pytest.approx(16_384, rel=0.03)
    assert list(read_shards(out, "dev")) == []  # a shard of nothing, so that it is not looked at again
    assert run(corpus, out, IngestOptions(shard_size=3, longest=2.0)).written == 0


def test_it_goes_on_where_it_stopped(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (corpus / "flickr_audio" / "wavs" / "1_a_1.wav").unlink()
    (corpus / "flickr_audio" / "wavs" / "2_b_1.wav").unlink()
    with (corpus / "flickr_audio" / "wav2capt.txt").open("a") as file:
        file.write("nonsense\n")
    whole, out = tmp_path / "whole", tmp_path / "speech"
    run(corpus, whole)
    real, written = speech_ingest.write_shard, []

    def dies_at_the_third(path: Path, captions: list[SpokenCaption]) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, captions)

    monkeypatch.setattr(speech_ingest, "write_shard", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(corpus, out)
    monkeypatch.undo()
    (out / ".train-00000.parquet.x.part").write_bytes(b"torn")
    with (out / PROBLEMS).open("ab") as file:
        file.write(b'{"kind": "missi')
    result = run(corpus, out)
    assert result.written == 2
    assert result.left_out == {"missing": 2, "malformed": 1}
    assert sorted(map(str, problems(out))) == sorted(map(str, problems(whole)))
    for path in whole.glob("*.parquet"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert not list(out.glob(".*.part"))
    assert run(corpus, out).left_out == {"missing": 2, "malformed": 1}


def test_a_folder_holds_one_corpus_with_one_set_of_options(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "speech"
    run(corpus, out)
    with pytest.raises(Im2SpError, match="was begun with another shard_size"):
        run(corpus, out, IngestOptions(shard_size=4))
    with (corpus / "flickr_audio" / "wav2capt.txt").open("a") as file:
        file.write("1_a_2.wav 1_a.jpg #2\n")
    before = (out / PROBLEMS).read_bytes()
    with pytest.raises(Im2SpError, match="was begun with another captions"):
        run(corpus, out)
    assert (out / PROBLEMS).read_bytes() == before
    (out / PLAN).write_text("{")
    with pytest.raises(Im2SpError, match=r"ingest\.json is damaged"):
        run(corpus, out)
    (out / PLAN).unlink()
    with pytest.raises(Im2SpError, match="holds shards of something else"):
        run(corpus, out)
    with locked(tmp_path / "busy"), pytest.raises(Im2SpError, match="another im2sp is writing there"):
        run(corpus, tmp_path / "busy")


def test_nothing_to_read_is_an_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(Im2SpError, match="no captions of the splits restval"):
        run(corpus, tmp_path / "none", IngestOptions(splits=("restval",)))
    for path in (corpus / "flickr_audio" / "wavs").iterdir():
        path.write_bytes(b"")
    with pytest.raises(Im2SpError, match="not one recording could be used"):
        run(corpus, tmp_path / "speech")


def test_options_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(Im2SpError, match="at least one caption"):
        IngestOptions(shard_size=0)
    with pytest.raises(Im2SpError, match="at least one caption"):
        IngestOptions(longest=float("nan"))
    with pytest.raises(Im2SpError, match="more than a gigabyte"):
        IngestOptions(shard_size=100_000)


def test_command_line(tmp_path: Path) -> None:
    corpus, out = tmp_path / "spoken coco", tmp_path / "speech"
    write_spoken_coco(corpus)
    karpathy = tmp_path / "dataset_coco.json"
    write_karpathy_coco(karpathy, {9: "restval", 42: "test"})
    (corpus / "wavs/val/0/m1-42.wav").unlink()
    arguments = ["ingest", str(corpus), "--layout", "spoken-coco", "-o", str(out), "--splits", str(karpathy)]
    result = CliRunner().invoke(app, [*arguments, "--restval-as-train", "--split", "train", "--split", "test"])
    assert result.exit_code == 0, result.output
    assert "3 recordings, 0.00 hours, in 2 shards" in result.output
    assert "left out: 1 missing, 1 no-split" in result.output
    assert [clip.split for clip in read_shards(out)] == ["test", "train", "train"]
    for wrong in (["--layout", "karpathy"], ["--layout", "spoken-coco", "--split", "all"]):
        failed = CliRunner().invoke(app, ["ingest", str(corpus), *wrong, "-o", str(out)])
        assert isinstance(failed.exception, Im2SpError)


def test_the_later_stages_read_it(corpus: Path, tmp_path: Path) -> None:
    (corpus / "flickr_audio" / "wavs" / "4_d_0.wav").unlink()
    (corpus / "flickr_audio" / "wavs" / "4_d_1.wav").unlink()  # the test shard is empty
    speech = tmp_path / "speech"
    run(corpus, speech)
    tiny = {"layers": 2, "width": 64, "first_clusters": 4, "clusters": 4, "iterations": (1,), "batch_seconds": 1.0}
    with pytest.raises(Im2SpError, match=r"is 3: name one of 1 to 2, or 0"):
        train_speech_encoder(speech, tmp_path / "hubert", HubertStage(**tiny, layer=3))
    train_speech_encoder(speech, tmp_path / "hubert", HubertStage(**tiny, layer=1))
    extract_units(speech, trained_hearing(tmp_path / "hubert" / "speech_encoder"), tmp_path / "units")
    rows = read_unit_tables(tmp_path / "units")
    assert [row.split for row in rows] == ["dev"] * 2 + ["train"] * 4
    assert {(len(row.speech_units), row.duration_s) for row in rows} == {(25, 0.5)}
    assert rows[0].text == "A dog runs 0 ."
