"""Readers of public corpora: official layouts, and what real copies have wrong with them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora import CorpusOptions, lists, read_corpus
from im2sp.train.data.corpora.items import CorpusItem, Problem, path_inside
from im2sp.train.data.corpora.lists import json_entries
from tests.train.data.tiny_corpora import (
    coco_name,
    write_coco_captions,
    write_flickr8k_audio,
    write_karpathy_coco,
    write_spoken_coco,
)


def read(layout: str, path: Path, **more: object) -> tuple[list[CorpusItem], dict[str, int]]:
    """Items of a corpus by its layout, and how many problems there are of each kind."""
    options = {name: str(value) if isinstance(value, Path) else value for name, value in more.items()}
    problems: list[Problem] = []
    items = list(read_corpus(Path(), CorpusOptions(layout, str(path), **options), problems.append))  # type: ignore[arg-type]
    return items, dict(Counter(problem.kind for problem in problems))


def named(items: list[CorpusItem]) -> list[tuple[str, str]]:
    return [(item.caption_id, item.split) for item in items]


def write_karpathy_flickr8k(path: Path, splits: dict[str, str]) -> None:
    images = [{"filename": f"{name}.jpg", "split": split, "sentences": []} for name, split in splits.items()]
    path.write_text(json.dumps({"images": images, "dataset": "flickr8k"}))


def test_flickr8k_audio(tmp_path: Path) -> None:
    write_flickr8k_audio(tmp_path)
    items, problems = read("flickr8k-audio", tmp_path)
    assert not problems
    assert named(items[1::2]) == [("1_a_1", "train"), ("2_b_1", "train"), ("3_c_1", "dev"), ("4_d_1", "test")]
    first = items[0]
    assert (first.image_id, first.text, first.speaker) == ("1_a", "A dog runs 0 .", "7")
    assert first.image == tmp_path / "Flicker8k_Dataset" / "1_a.jpg"
    assert first.recording == tmp_path / "flickr_audio" / "wavs" / "1_a_0.wav"
    assert first.recording.is_file()


def test_flickr8k_audio_apart_from_its_texts_and_with_karpathys_splits(tmp_path: Path) -> None:
    write_flickr8k_audio(tmp_path)
    texts = tmp_path / "elsewhere" / "Flickr8k_text"
    texts.mkdir(parents=True)
    for path in tmp_path.glob("Flickr*.txt"):
        path.rename(texts / path.name)
    assert len(read("flickr8k-audio", tmp_path / "flickr_audio", photos=texts.parent)[0]) == 8
    splits = tmp_path / "dataset_flickr8k.json"
    write_karpathy_flickr8k(splits, {"1_a": "test", "2_b": "val", "3_c": "train"})
    items, problems = read("flickr8k-audio", tmp_path, photos=texts.parent, splits=splits)
    assert [item.split for item in items] == ["test", "test", "dev", "dev", "train", "train"]
    assert problems == {"no-split": 2}


def test_faults_of_flickr8k_audio(tmp_path: Path) -> None:
    write_flickr8k_audio(tmp_path)
    audio = tmp_path / "flickr_audio"
    lines = (audio / "wav2capt.txt").read_bytes()
    extra = [
        b"1_a_0.wav 1_a.jpg #0",  # again
        b"no idea",
        b"1_a_9.wav 1_a.jpg #x",
        b"../../secret.wav 1_a.jpg #2",
        b"/etc/secret.wav 1_a.jpg #3",
        b"5_e_0.wav 5_e.jpg #0",  # in no split
    ]
    (audio / "wav2capt.txt").write_bytes(b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n") + b"\n".join(extra))
    (audio / "wav2spk.txt").write_text("alone\n1_a_0.wav  12\n")
    with (tmp_path / "Flickr_8k.trainImages.txt").open("a") as file:
        file.write("4_d.jpg\n")  # a test photo
    with (tmp_path / "Flickr8k.token.txt").open("a") as file:
        file.write("1_a.jpg without a tab\n")
    items, problems = read("flickr8k-audio", tmp_path)
    assert [(item.caption_id, item.speaker) for item in items[:2]] == [("1_a_0", "12"), ("1_a_1", "")]
    assert len(items) == 8
    assert {item.split for item in items if item.image_id == "4_d"} == {"test"}
    assert problems == {"duplicate": 1, "malformed": 2, "unsafe-path": 2, "no-split": 1, "no-text": 1}


def test_recordings_without_texts_or_speakers_are_still_a_corpus(tmp_path: Path) -> None:
    write_flickr8k_audio(tmp_path)
    (tmp_path / "Flickr8k.token.txt").unlink()
    (tmp_path / "flickr_audio" / "wav2spk.txt").unlink()
    items, problems = read("flickr8k-audio", tmp_path)
    assert {(item.text, item.speaker) for item in items} == {(None, "")}
    assert problems == {"no-text": 1, "no-speaker": 1}


def test_flickr8k_without_recordings_and_without_a_test_split(tmp_path: Path) -> None:
    write_flickr8k_audio(tmp_path)
    (tmp_path / "Flickr_8k.testImages.txt").unlink()
    items, problems = read("flickr8k", tmp_path)
    assert [item.caption_id for item in items] == ["1_a_0", "1_a_1", "2_b_0", "2_b_1", "3_c_0", "3_c_1"]
    assert {item.recording for item in items} == {None}
    assert problems == {"no-split": 2}


def test_flickr8k_in_the_layout_of_its_copy(tmp_path: Path) -> None:
    (tmp_path / "Images").mkdir()
    quoted = '1_a.jpg,"A dog, ""fast"", runs ."'
    rows = ["image,caption", "1_a.jpg,A dog runs .", quoted, "2_b.jpg,A cat, asleep .", "2_b"]
    (tmp_path / "captions.txt").write_text("\n".join(rows))
    splits = tmp_path / "dataset_flickr8k.json"
    write_karpathy_flickr8k(splits, {"1_a": "train", "2_b": "val"})
    items, problems = read("flickr8k", tmp_path, splits=splits)
    assert [(item.caption_id, item.text, item.split) for item in items] == [
        ("1_a_0", "A dog runs .", "train"),
        ("1_a_1", 'A dog, "fast", runs .', "train"),
        ("2_b_0", "A cat, asleep .", "dev"),
    ]
    assert items[0].image == tmp_path / "Images" / "1_a.jpg"
    assert problems == {"no-text": 1}
    with pytest.raises(Im2SpError, match="a Karpathy file for the splits"):
        read("flickr8k", tmp_path)


def test_spoken_coco(tmp_path: Path) -> None:
    write_spoken_coco(tmp_path)
    items, problems = read("spoken-coco", tmp_path, photos=tmp_path / "coco")
    assert not problems
    numbers = {"42": "dev", "9": "train", "25": "train"}
    assert named(items) == [(f"m{k}-{number}", split) for number, split in numbers.items() for k in range(2)]
    assert (items[2].image_id, items[2].speaker, items[2].text) == ("9", "m0", "a cat sits number 0")
    assert items[2].image == tmp_path / "coco" / "train2014" / coco_name(9, "train2014")
    assert items[2].recording == tmp_path / "wavs/train/0/m0-9.wav"
    splits = tmp_path / "dataset_coco.json"
    write_karpathy_coco(splits, {9: "test", 25: "restval", 42: "val"})
    items, _ = read("spoken-coco", tmp_path, splits=splits)
    assert {item.image_id: item.split for item in items} == {"9": "test", "25": "restval", "42": "dev"}


def test_spoken_coco_with_one_caption_a_row(tmp_path: Path) -> None:
    captions = [
        {"text": f"A CAT {k}", "speaker": f"m{k}", "uttid": f"m{k}-42", "wav": f"m{k}-42.wav"} for k in range(2)
    ]
    entries = [{"image": f"val2014/{coco_name(42)}", "caption": caption} for caption in captions]
    for name in ("SpokenCOCO_val_unrolled_karpathy.json", "SpokenCOCO_val_unrolled_karpathy_with_alignments.json"):
        (tmp_path / name).write_text(json.dumps({"data": entries}))
    items, problems = read("spoken-coco", tmp_path)
    assert not problems
    found = [(item.image_id, item.caption_id, item.split, item.text) for item in items]
    assert found == [("42", "m0-42", "dev", "A CAT 0"), ("42", "m1-42", "dev", "A CAT 1")]


def test_faults_of_spoken_coco(tmp_path: Path) -> None:
    write_spoken_coco(tmp_path)
    path = tmp_path / "SpokenCOCO_train.json"
    entries = json.loads(path.read_text())["data"]
    photo, good = entries[0]["image"], entries[0]["captions"][0]
    lists_of_captions = ["none", ["x"], [{**good, "uttid": 3}], [{**good, "uttid": "a\0b"}]]
    bad = [{"image": "train2014/cat.jpg", "captions": []}, 7] + [
        {"image": photo, "captions": captions} for captions in lists_of_captions
    ]
    two_splits = {"image": f"val2014/{coco_name(42)}", "captions": [{**good, "uttid": "other"}]}
    more = [good, {**good, "uttid": "a", "wav": "/etc/x.wav"}, {"uttid": "b", "wav": "wavs/train/0/é.wav"}]
    entries += [*bad, two_splits, {"image": photo, "captions": more}]
    path.write_text("\ufeff" + json.dumps({"version": 1, "data": entries}))
    items, problems = read("spoken-coco", tmp_path)
    assert (items[-1].caption_id, items[-1].text, len(items)) == ("b", None, 7)
    assert problems == {"malformed": 6, "two-splits": 1, "duplicate": 1, "unsafe-path": 1}


def test_karpathy(tmp_path: Path) -> None:
    path = tmp_path / "dataset_coco.json"
    write_karpathy_coco(path, {42: "test", 73: "restval", 74: "val"})
    items, problems = read("karpathy", path, photos=tmp_path / "coco")
    assert not problems
    assert named(items[::2]) == [("42_0", "test"), ("73_0", "restval"), ("74_0", "dev")]
    assert (items[1].text, items[1].recording) == ("A cat sits 1.", None)
    assert items[1].image == tmp_path / "coco" / "val2014" / coco_name(42)


def test_coco_captions(tmp_path: Path) -> None:
    write_coco_captions(tmp_path)
    path = tmp_path / "annotations" / "captions_val2014.json"
    content = json.loads(path.read_text())
    content["annotations"] += [{"image_id": 5, "id": 1, "caption": "A"}, {"image_id": 42, "id": 770, "caption": "B"}, 3]
    path.write_text(json.dumps(content))
    items, problems = read("coco-captions-2014", tmp_path)
    assert problems == {"malformed": 2, "duplicate": 1}
    found = [(item.image_id, item.caption_id, item.text, item.split) for item in items]
    wanted = [("42", "770", "A cat.", "dev"), ("73", "771", "Two cats.", "dev"), ("42", "772", "One cat.", "dev")]
    assert found == wanted
    assert items[0].image == tmp_path / "val2014" / coco_name(42)
    with pytest.raises(Im2SpError, match=r"captions_val2017\.json is missing"):
        read("coco-captions-2017", tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"data": [{"image": "a"}, {"ima', "is damaged"),
        ('{"data": []}'.encode("utf-16"), "is damaged"),
        (b'{"images": []}', "has no list 'data'"),
        (b'{"data": 3}', "'data' in it is not a list"),
        (b'{"data": [' + b"[" * 100_000, "is damaged"),
    ],
)
def test_a_json_file_that_is_not_what_it_should_be_is_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "SpokenCOCO_train.json"
    path.write_bytes(content)
    with pytest.raises(Im2SpError, match=said):
        list(json_entries(path, "data", dict))


def test_entries_of_another_type_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(b'{"data": [' + b"9" * 5000 + b', "a", "\xe9", 7]}')
    problems: list[Problem] = []
    assert list(json_entries(path, "data", str, problems.append)) == [("list.json, entry 2 of 'data'", "a")]
    assert [problem.where.split()[2] for problem in problems] == ["1", "3", "4"]
    monkeypatch.setattr(lists, "MAX_BYTES", 100)
    with pytest.raises(Im2SpError, match="cannot be read"):
        list(json_entries(path, "data", str))


def test_paths_stay_inside(tmp_path: Path) -> None:
    assert path_inside(tmp_path, "a/b.wav") == tmp_path / "a" / "b.wav"
    for name in ("/a", "../a", "a/../../b", "", "C:a", "a\\..\\b"):
        assert path_inside(tmp_path, name) is None


TABLES = {
    "table.csv": """wav,image_id,text,speaker,split
a.wav,one.jpg,A  cat,zoe,val
b/c.wav,2,A dog,,
d.wav,2,Two,,
""",
    "table.jsonl": """{"wav": "a.wav", "image_id": "one", "text": "A cat", "speaker": "zoe", "split": "dev"}

{"wav": "b/c.wav", "image_id": "2.jpg", "text": "A dog"}
{"wav": "d.wav", "image_id": "2", "text": "Two"}""",
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_own_recordings(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TABLES[name])
    items, problems = read("table", tmp_path / name, dev_percent=0, photos=tmp_path / "photos")
    assert not problems
    assert [(item.caption_id, item.split, item.text, item.speaker) for item in items] == [
        ("one_0", "dev", "A cat", "zoe"),
        ("2_0", "dev", "A dog", ""),  # of those without a split, one at least is held out
        ("2_1", "dev", "Two", ""),
    ]
    assert items[1].recording == tmp_path / "b" / "c.wav"
    assert items[1].image == tmp_path / "photos" / "2.jpg"


def test_a_folder_of_recordings(tmp_path: Path) -> None:
    for name in ("zoe/1.wav", "zoe/2.WAV", "adam/1.flac", "3.mp3", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    items, problems = read("folder", tmp_path, dev_percent=25)
    assert not problems
    found = {item.image_id: (item.speaker, item.recording) for item in items}
    assert found["zoe_1"] == ("zoe", tmp_path / "zoe" / "1.wav")
    assert set(found) == {"zoe_1", "zoe_2", "adam_1", "3"}
    assert sorted(item.split for item in items) == ["dev", "train", "train", "train"]


def test_faults_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("wav,image_id,split\n../a.wav,one,\n,two,\na.wav,a/b,\na.wav,c,hidden\na.wav,d,train\n")
    items, problems = read("table", path)
    assert [item.image_id for item in items] == ["d"]
    assert problems == {"unsafe-path": 1, "malformed": 2, "no-split": 1}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.txt", "", "is a .csv or a .jsonl file"),
        ("t.csv", "wav,colour\na.wav,red\n", "the column 'colour' is not known"),
        ("t.csv", "wav\na.wav,b\n", "cannot be read"),
        ("t.csv", "", "cannot be read"),
        ("t.jsonl", "{", "cannot be read"),
        ("t.jsonl", "[]", "cannot be read"),
    ],
)
def test_wrong_tables_are_one_sentence(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(Im2SpError, match=message):
        read("table", tmp_path / name)


def test_missing_folders_and_files_are_said(tmp_path: Path) -> None:
    for layout, missing in (
        ("spoken-coco", "SpokenCOCO_train.json is missing"),
        ("flickr8k-audio", "wav2capt.txt is missing"),
        ("karpathy", "the layout karpathy is a file"),
    ):
        with pytest.raises(Im2SpError, match=missing):
            read(layout, tmp_path)
    with pytest.raises(Im2SpError, match="the layout spoken-coco is a folder"):
        read("spoken-coco", tmp_path / "none")
