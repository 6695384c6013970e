"""Stage `pronounce`: tables of regular units from tables as they were heard, and what is not understood left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from im2sp.arrays import FloatArray
from im2sp.errors import Im2SpError
from im2sp.train.data.flickr8k import Caption
from im2sp.train.data.pronunciations import Pronunciations, RecordedWays, SpokenWord
from im2sp.train.data.speech_shards import SpokenCaption, write_shard
from im2sp.train.data.unit_table import UnitRow, description_of, read_unit_tables, write_unit_table
from im2sp.train.evaluate.recogniser import Recogniser, RecogniserInfo
from im2sp.train.stages.mend import Mending, Sentence, mend
from im2sp.train.stages.pronounce import PronunciationOptions, pronounce

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


def _nothing(table: Pronunciations, recorded: RecordedWays, sentences: object) -> None:
    """Leave the table as it is."""


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
    how = {"minimum": 3, "heard": 0, "times": 2, "ways": 3, "missed": 0.5, "seed": 0}
    described = {"units": 20} | {f"pronounced_{name}": value for name, value in how.items()}
    assert description_of(run / "out" / tables[0]) == described

    before = {path: path.stat().st_mtime_ns for path in (run / "out").iterdir()}
    pronounce(run / "speech", run / "units", unspoken, _phones, _nothing, PronunciationOptions(), run / "out")
    assert {path: path.stat().st_mtime_ns for path in (run / "out").iterdir()} == before


def test_sentences_are_said_by_the_mended_table(run: Path) -> None:
    def mended(table: Pronunciations, recorded: RecordedWays, sentences: Sequence[Sentence]) -> None:
        assert sentences[0] == Sentence("a dog runs", ("^", "a", "dog", "runs.", "$"))
        entries = table.entries(sentences[0].words) or []
        table.change(entries[1], (11, 12, 13))

    pronounce(run / "speech", run / "units", [], _phones, mended, PronunciationOptions(), run / "out")
    rows = {row.caption_id: row for row in read_unit_tables(run / "out")}
    assert rows["train1_0"].speech_units.tolist()[:4] == [0, 11, 12, 13]


def test_recordings_of_people_are_refused(run: Path) -> None:
    spoken, _ = _spoken(0, "a dog runs", "train")
    bare = SpokenCaption.recorded("x_0", "x", "train", "person", "a dog", np.zeros(400, np.float32))
    write_shard(run / "speech" / "train-0001.parquet", [spoken, bare])
    with pytest.raises(Im2SpError, match="do not tell their phones: leave \\[pronunciations\\] out"):
        pronounce(run / "speech", run / "units", [], _phones, _nothing, PronunciationOptions(), run / "out")


class _Hears(Recogniser):
    """Understands units by their first one, but for 7, which sounds like another word."""

    info = RecogniserInfo("stand-in", "", "", 1, "", "")

    def transcribe(self, waveform: FloatArray) -> str:
        words = {1: "a", 3: "dog", 6: "cat", 7: "cap", 8: "runs"}
        return " ".join(words[unit] for unit in waveform.astype(int) if unit in words)


def _table(ways_of_cat: dict[int, int]) -> tuple[Pronunciations, RecordedWays, list[Sentence]]:
    """Of "a cat runs" with the cat said in each way (its unit) so many times, and "a dog runs"."""
    recordings = []
    for text, cat in [("a dog runs", 3)] * 4 + [
        ("a cat runs", way) for way, n in ways_of_cat.items() for _ in range(n)
    ]:
        first, second, third = text.split()
        recordings.append(
            [
                SpokenWord("^", (0,)),
                SpokenWord(first, (1, 1)),
                SpokenWord(second, (cat, cat)),
                SpokenWord(f"{third}.", (8,)),
                SpokenWord("$", (10,)),
            ]
        )
    recorded = RecordedWays.of(recordings)
    table = recorded.usual()
    return (
        table,
        recorded,
        [Sentence(text, ("^", *text.split()[:2], "runs.", "$")) for text in ("a dog runs", "a cat runs") * 4],
    )


def _speak(units: np.ndarray) -> FloatArray:
    return np.asarray(units, np.float32)


def test_an_entry_that_is_missed_is_said_in_the_way_that_is_understood(tmp_path: Path) -> None:
    table, recorded, sentences = _table({7: 6, 6: 3})
    assert mend(table, recorded, sentences, Mending(100), _speak, _Hears(), tmp_path / "heard.jsonl") == 1
    said = {sentence.text: table.say(sentence.words) for sentence in sentences}
    assert said["a cat runs"].tolist() == [0, 1, 1, 6, 6, 8, 10]  # type: ignore[union-attr]
    assert said["a dog runs"].tolist() == [0, 1, 1, 3, 3, 8, 10]  # type: ignore[union-attr]
    assert len((tmp_path / "heard.jsonl").read_text().splitlines()) == 3  # what sounds alike is heard once


def test_an_entry_that_is_missed_in_every_way_stays_as_it_is(tmp_path: Path) -> None:
    table, recorded, sentences = _table({7: 6, 9: 3})
    assert mend(table, recorded, sentences, Mending(100), _speak, _Hears(), tmp_path / "heard.jsonl") == 0
    assert table.way(("a", "cat", "runs.")) == (7, 7)
    assert mend(*_table({7: 6, 6: 3}), Mending(0), _speak, _Hears(), tmp_path / "none.jsonl") == 0


def test_a_way_that_spoils_the_next_word_is_not_taken(tmp_path: Path) -> None:
    class Spoiled(_Hears):
        """With the other way of "cat" what runs is not heard."""

        def transcribe(self, waveform: FloatArray) -> str:
            heard = super().transcribe(waveform)
            return heard.replace("runs", "rung") if 6 in waveform.astype(int) else heard

    table, recorded, sentences = _table({7: 6, 6: 3})
    assert mend(table, recorded, sentences, Mending(100), _speak, Spoiled(), tmp_path / "heard.jsonl") == 0
    assert table.way(("a", "cat", "runs.")) == (7, 7)


def test_sentences_with_the_most_used_entries_are_heard_first(tmp_path: Path) -> None:
    table, recorded, sentences = _table({7: 6, 6: 3})
    rare = [sentence for sentence in sentences if "dog" in sentence.text][:1]
    often = [sentence for sentence in sentences if "cat" in sentence.text]
    assert mend(table, recorded, [*rare, *often], Mending(1), _speak, _Hears(), tmp_path / "heard.jsonl") == 1


def test_what_is_said_often_is_heard_first(tmp_path: Path) -> None:
    table, recorded, sentences = _table({7: 6, 6: 3})
    dogs = [sentence for sentence in sentences if "dog" in sentence.text]
    cat = next(sentence for sentence in sentences if "cat" in sentence.text)
    cache = tmp_path / "heard.jsonl"
    assert mend(table, recorded, [*dogs, cat], Mending(1), _speak, _Hears(), cache) == 0
    assert mend(table, recorded, [*dogs, replace(cat, count=9)], Mending(1), _speak, _Hears(), cache) == 1


def test_an_entry_that_is_seldom_missed_stays_unless_that_is_asked_for(tmp_path: Path) -> None:
    class Guesses(_Hears):
        """A cat, where the sentence goes on."""

        def transcribe(self, waveform: FloatArray) -> str:
            heard = super().transcribe(waveform)
            return heard.replace("cap", "cat") + " now" if 2 in waveform.astype(int) else heard

    for missed, changed in ((0.5, 0), (0.25, 1)):
        table, recorded, sentences = _table({7: 6, 6: 3})
        cat = next(sentence for sentence in sentences if "cat" in sentence.text)
        longer = Sentence("a cat runs now", (*cat.words[:-1], "now", "$"))
        table.change((None, "now", None), (2,))
        options = Mending(9, times=4, missed=missed)
        cache = tmp_path / f"{missed}.jsonl"
        assert mend(table, recorded, [cat, *[longer] * 3], options, _speak, Guesses(), cache) == changed
