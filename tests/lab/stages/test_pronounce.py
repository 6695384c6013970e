"""Stage `pronounce`: tables of regular units from tables as they were heard, and what is not understood left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from im2sp.arrays import FloatArray
from im2sp.errors import Im2SpError
from im2sp.lab.data.flickr8k import Caption
from im2sp.lab.data.pronunciations import SpokenWord
from im2sp.lab.data.speech_shards import SpokenCaption, write_shard
from im2sp.lab.data.unit_table import UnitRow, description_of, read_unit_tables, write_unit_table
from im2sp.lab.evaluation.asr import RecogniserInfo, SpeechRecogniser
from im2sp.lab.stages.misheard import COMMON, Place, Recording, misheard
from im2sp.lab.stages.pronounce import PronunciationOptions, pronounce

FRAME = 320  # samples
WAYS = {"a": (1, 2), "dog": (3, 4, 4, 5), "cat": (6, 7), "runs": (8, 8, 9)}


def _phones(text: str) -> list[str]:
    """Letters stand for phones."""
    return ["^", *text.rstrip("."), ".", "$"]


def _spoken(number: int, text: str, split: str, odd: bool = False) -> tuple[SpokenCaption, UnitRow]:
    """A recording in which each word is said in its way, and its row; an odd one begins otherwise."""
    phones, counts, units = ["^"], [1], [0]
    for place, word in enumerate(text.split()):
        way = (11, 12, 13) if odd and place == 0 else WAYS[word]
        letters = [*word, " "] if place + 1 < len(text.split()) else [*word, "."]
        phones += letters
        counts += [len(way), *[0] * (len(letters) - 1)]
        units += way
    phones, counts, units = [*phones, "$"], [*counts, 1], [*units, 10]
    samples = np.array(counts, np.int32) * FRAME
    wave = np.zeros(len(units) * FRAME, np.int16)
    name = f"{split}{number}"
    return (
        SpokenCaption(f"{name}_0", name, split, "voice", text, wave, phones, samples),
        UnitRow(name, f"{name}_0", np.array(units, np.uint16), split, "voice", 0.0, text),
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    said = [_spoken(n, "a dog runs", "train", odd=n == 0) for n in range(4)] + [_spoken(4, "a cat runs", "train")]
    held_out = [_spoken(0, "a dog runs", "dev", odd=True)]
    for name, pairs in (("train-0000", said), ("dev-0000", held_out)):
        (tmp_path / "speech").mkdir(exist_ok=True)
        write_shard(tmp_path / "speech" / f"{name}.parquet", [spoken for spoken, _ in pairs])
        write_unit_table(tmp_path / "units" / f"{name}.parquet", [row for _, row in pairs], {"units": 20})
    return tmp_path


def _nothing(recordings: object) -> set[Place]:
    return set()


def test_recorded_and_unspoken_sentences_are_said_alike(run: Path) -> None:
    unspoken = [Caption("new", 5, text, "train") for text in ("a cat runs", "a dog runs", "a bird runs")]
    pronounce(run / "speech", run / "units", unspoken, _phones, _nothing, PronunciationOptions(), run / "out")

    rows = {row.caption_id: row for row in read_unit_tables(run / "out")}
    usual = [0, 1, 2, 3, 4, 4, 5, 8, 8, 9, 10]
    for name in ("train0_0", "train1_0", "dev0_0"):  # odd ones, too, and what is held out
        assert rows[name].speech_units.tolist() == usual
        assert rows[name].duration_s == pytest.approx(len(usual) / 50)
    tables = sorted(path.name for path in (run / "out").glob("*.parquet"))
    assert tables == ["dev-0000.parquet", "distilled-unspoken-0000.parquet", "train-0000.parquet"]
    listed = read_unit_tables(run / "out", tables="distilled-*")
    assert [row.text for row in listed] == ["a cat runs", "a dog runs"]  # nobody ever said "bird"
    assert listed[1].speech_units.tolist() == usual
    how = {"pronounced_minimum": 3, "pronounced_heard": 0, "pronounced_seed": 0}
    assert description_of(run / "out" / tables[0]) == {"units": 20} | how

    before = {path: path.stat().st_mtime_ns for path in (run / "out").iterdir()}
    pronounce(run / "speech", run / "units", unspoken, _phones, _nothing, PronunciationOptions(), run / "out")
    assert {path: path.stat().st_mtime_ns for path in (run / "out").iterdir()} == before


def test_what_was_rejected_is_not_repeated(run: Path) -> None:
    def all_but_the_odd_one(recordings: object) -> set[Place]:
        return {(number, 1) for number in range(1, 5)}  # word 0 is the silence before

    pronounce(run / "speech", run / "units", [], _phones, all_but_the_odd_one, PronunciationOptions(), run / "out")
    rows = {row.caption_id: row for row in read_unit_tables(run / "out")}
    assert rows["train1_0"].speech_units.tolist()[:4] == [0, 11, 12, 13]


def test_recordings_of_people_are_refused(run: Path) -> None:
    spoken, _ = _spoken(0, "a dog runs", "train")
    bare = SpokenCaption.recorded("x_0", "x", "train", "person", "a dog", np.zeros(400, np.float32))
    write_shard(run / "speech" / "train-0001.parquet", [spoken, bare])
    with pytest.raises(Im2SpError, match="do not tell their phones: leave \\[pronunciations\\] out"):
        pronounce(run / "speech", run / "units", [], _phones, _nothing, PronunciationOptions(), run / "out")


class _Hears(SpeechRecogniser):
    """Understands units by their first one, but for 7, which sounds like another word."""

    info = RecogniserInfo("stand-in", "", "", 1, "", "")

    def transcribe(self, waveform: FloatArray) -> str:
        words = {1: "a", 3: "dog", 6: "cat", 7: "cap", 8: "runs"}
        return " ".join(words[unit] for unit in waveform.astype(int) if unit in words)


def _recording(*words: tuple[str, int], text: str) -> Recording:
    said = [SpokenWord(phones, (unit, unit)) for phones, unit in words]
    return Recording(text, [SpokenWord("^", (0,)), *said, SpokenWord("$", (10,))])


def test_a_word_that_is_often_missed_is_not_said_in_the_ways_that_are(tmp_path: Path) -> None:
    good = [_recording(("a", 1), ("cat", 6), ("runs.", 8), text="a cat runs") for _ in range(COMMON)]
    bad = [_recording(("a", 1), ("cat", 7), ("runs.", 8), text="a cat runs") for _ in range(COMMON)]
    other = [_recording(("a", 1), ("dog", 3), ("runs.", 8), text="a dog runs") for _ in range(COMMON)]
    recordings = [*good, *bad, *other]

    def speak(units: np.ndarray) -> FloatArray:
        return np.asarray(units, np.float32)

    found: set[Place] = set()
    for seed in range(6):  # four sentences with the word are heard; some of these draws hold both ways
        cache = tmp_path / f"{seed}.jsonl"
        found |= misheard(recordings, 100, speak, _Hears(), seed, cache)
        assert 1 <= len(cache.read_text().splitlines()) <= 3  # sentences that sound alike are heard once
    assert found == {(number, 2) for number in range(COMMON, 2 * COMMON)}
    assert misheard(recordings, 0, speak, _Hears(), 0, tmp_path / "none.jsonl") == set()
