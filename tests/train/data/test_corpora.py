"""Readers of public corpora: official layouts, and what real copies have wrong with them."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from im2sp.errors import Im2SpError
from im2sp.train.data.corpora import CorpusOptions, lists, open_corpus
from im2sp.train.data.corpora.items import Corpus, CorpusItem, Problem, consistent, path_inside
from im2sp.train.data.corpora.lists import json_entries, read_lines
from tests.train.data.tiny_corpora import (
    coco_name,
    write_coco_captions,
    write_flickr8k_audio,
    write_karpathy_coco,
    write_spoken_coco,
)


def read(corpus: Corpus) -> tuple[list[CorpusItem], list[Problem]]:
    """Items and problems of a corpus."""
    problems: list[Problem] = []
    return list(consistent(corpus, problems.append)), problems


def opened(layout: str, path: Path, **more: object) -> tuple[list[CorpusItem], list[Problem]]:
    """Items and problems of a corpus by its layout."""
    options = {name: str(value) if isinstance(value, Path) else value for name, value in more.items()}
    opened = open_corpus(Path(), CorpusOptions(layout, str(path), **options), lambda problem: None)  # type: ignore[arg-type]
    return read(opened)


def kinds(problems: list[Problem]) -> dict[str, int]:
    """{kind: how many}."""
    return dict(Counter(problem.kind for problem in problems))


def test_flickr8k_audio(tmp_path: Path) -> None:
    write_flickr8k_audio(tmp_path)
    items, problems = opened("flickr8k-audio", tmp_path)
    assert not problems
    assert [(item.caption_id, item.split) for item in items[1::2]] == [
        ("1_a_1", "train"),
        ("2_b_1", "train"),
        ("3_c_1", "dev"),
        ("4_d_1", "test"),
    ]
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
    assert len(opened("flickr8k-audio", tmp_path / "flickr_audio", photos=texts.parent)[0]) == 8
    images = [
        {"filename": f"{name}.jpg", "split": split, "sentences": [{"raw": "A dog.", "tokens": []}]}
        for name, split in (("1_a", "test"), ("2_b", "val"), ("3_c", "train"))
    ]
    karpathy = tmp_path / "dataset_flickr8k.json"
    karpathy.write_text(json.dumps({"images": images, "dataset": "flickr8k"}))
    items, problems = opened("flickr8k-audio", tmp_path, photos=texts.parent, splits=karpathy)
    assert [item.split for item in items] == ["test", "test", "dev", "dev", "train", "train"]
    assert kinds(problems) == {"no-split": 2}


def test_faults_of_flickr8k_audio_are_reported_line_by_line(tmp_path: Path) -> None:
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
        "1_\xe9.wav 1_a.jpg #4".encode("latin-1"),
    ]
    (audio / "wav2capt.txt").write_bytes(b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n") + b"\n".join(extra))
    (audio / "wav2spk.txt").write_text("alone\n1_a_0.wav  12\n")
    with (tmp_path / "Flickr_8k.trainImages.txt").open("a") as file:
        file.write("4_d.jpg\n")  # a test photo
    with (tmp_path / "Flickr8k.token.txt").open("a") as file:
        file.write("1_a.jpg without a tab\n")
    (audio / "wavs").joinpath(os.fsdecode(b"1_\xe9.wav")).write_bytes(b"")
    items, problems = opened("flickr8k-audio", tmp_path)
    assert [item.caption_id for item in items[:2]] == ["1_a_0", "1_a_1"]
    assert [item.speaker for item in items[:2]] == ["12", ""]
    assert len(items) == 9
    assert items[-1].caption_id == "1_a_4"
    assert items[-1].recording is not None
    assert items[-1].recording.is_file()  # under its Latin-1 name
    assert {item.split for item in items if item.image_id == "4_d"} == {"test"}
    wanted = {"duplicate": 1, "malformed": 2, "unsafe-path": 2, "no-split": 1, "encoding": 1, "no-speaker": 1}
    assert kinds(problems) == wanted | {"two-splits": 1, "no-text": 1}
    assert {problem.kind for problem in problems if not problem.left_out} == {
        "encoding",
        "no-speaker",
        "two-splits",
        "no-text",
    }
    assert any("wav2capt.txt, line 10: expected 'wav jpg #k'" in problem.message for problem in problems)


def test_recordings_without_texts_or_speakers_are_still_a_corpus(tmp_path: Path) -> None:
    write_flickr8k_audio(tmp_path)
    (tmp_path / "Flickr8k.token.txt").unlink()
    (tmp_path / "flickr_audio" / "wav2spk.txt").unlink()
    items, problems = opened("flickr8k-audio", tmp_path)
    assert {(item.text, item.speaker) for item in items} == {(None, "")}
    assert kinds(problems) == {"no-text": 1, "no-speaker": 1}


def test_spoken_coco(tmp_path: Path) -> None:
    write_spoken_coco(tmp_path)
    items, problems = opened("spoken-coco", tmp_path, photos=tmp_path / "coco")
    assert not problems
    assert [(item.caption_id, item.split) for item in items] == [
        ("m0-42", "dev"),
        ("m1-42", "dev"),
        ("m0-9", "train"),
        ("m1-9", "train"),
        ("m0-25", "train"),
        ("m1-25", "train"),
    ]
    assert (items[2].image_id, items[2].speaker, items[2].text) == ("9", "m0", "a cat sits number 0")
    assert items[2].image == tmp_path / "coco" / "train2014" / coco_name(9, "train2014")
    assert items[2].recording == tmp_path / "wavs/train/0/m0-9.wav"


def test_spoken_coco_with_karpathys_splits(tmp_path: Path) -> None:
    write_spoken_coco(tmp_path)
    karpathy = tmp_path / "dataset_coco.json"
    write_karpathy_coco(karpathy, {9: "test", 25: "restval", 42: "val"})
    splits = {item.image_id: item.split for item in opened("spoken-coco", tmp_path, splits=karpathy)[0]}
    assert splits == {"9": "test", "25": "restval", "42": "dev"}
    items, _ = opened("spoken-coco", tmp_path, splits=karpathy, restval_as_train=True)
    assert {item.split for item in items if item.image_id == "25"} == {"train"}


def test_faults_of_spoken_coco_are_reported_entry_by_entry(tmp_path: Path) -> None:
    write_spoken_coco(tmp_path)
    path = tmp_path / "SpokenCOCO_train.json"
    entries = json.loads(path.read_text())["data"]
    good = entries[0]["captions"][0]
    bad = [{"image": "train2014/cat.jpg", "captions": []}, 7, {"image": entries[0]["image"], "captions": "none"}]
    two_splits = {"image": f"val2014/{coco_name(42)}", "captions": [{**good, "uttid": "other"}]}
    faulty = [good, "x", {**good, "uttid": 3}, {**good, "uttid": "a", "wav": "/etc/x.wav"}, {**good, "uttid": "a\0b"}]
    textless = {"uttid": "b", "wav": "wavs/train/0/é.wav"}
    more = {"image": entries[0]["image"], "captions": [*faulty, textless]}
    path.write_text("\ufeff" + json.dumps({"version": 1, "data": [*entries, *bad, two_splits, more]}))
    items, problems = opened("spoken-coco", tmp_path)
    assert [item.caption_id for item in items][-1] == "b"
    assert items[-1].text is None
    assert len(items) == 7
    assert kinds(problems) == {"malformed": 6, "two-splits": 1, "duplicate": 1, "unsafe-path": 1, "no-text": 1}


def test_karpathy(tmp_path: Path) -> None:
    path = tmp_path / "dataset_coco.json"
    write_karpathy_coco(path, {42: "test", 73: "restval", 74: "val"})
    items, problems = opened("karpathy", path, photos=tmp_path / "coco")
    assert not problems
    assert [(item.caption_id, item.split) for item in items[::2]] == [
        ("42_0", "test"),
        ("73_0", "restval"),
        ("74_0", "dev"),
    ]
    assert items[1].text == "A cat sits 1."
    assert items[1].recording is None
    assert items[1].image == tmp_path / "coco" / "val2014" / coco_name(42)


def test_faults_of_karpathy(tmp_path: Path) -> None:
    path = tmp_path / "dataset_coco.json"
    write_karpathy_coco(path, {42: "test", 73: "train", 74: "val"})
    content = json.loads(path.read_text())
    first = content["images"][0]
    content["images"] += [
        {**first, "split": "train"},
        {**first, "cocoid": 5},
        {**first, "split": "hidden"},
        {"split": "train"},
        {**first, "filename": coco_name(80), "cocoid": 80, "filepath": "../.."},
        {**first, "filename": coco_name(81), "cocoid": 81, "sentences": [{"raw": 3}, {"raw": "A cat."}]},
    ]
    path.write_text(json.dumps(content))
    items, problems = opened("karpathy", path)
    assert [item.caption_id for item in items if item.image_id == "81"] == ["81_1"]
    assert {item.split for item in items if item.image_id == "42"} == {"test"}
    assert kinds(problems) == {"two-splits": 2, "malformed": 3, "no-split": 1, "unsafe-path": 1}


def test_coco_captions(tmp_path: Path) -> None:
    write_coco_captions(tmp_path)
    items, problems = opened("coco-captions-2014", tmp_path)
    assert not problems
    assert [(item.image_id, item.caption_id, item.text, item.split) for item in items] == [
        ("42", "770", "A cat.", "dev"),
        ("73", "771", "Two cats.", "dev"),
        ("42", "772", "One cat.", "dev"),
    ]
    assert items[0].image == tmp_path / "val2014" / coco_name(42)
    with pytest.raises(Im2SpError, match=r"captions_val2017\.json is missing"):
        opened("coco-captions-2017", tmp_path)


def test_faults_of_coco_captions(tmp_path: Path) -> None:
    write_coco_captions(tmp_path)
    path = tmp_path / "annotations" / "captions_val2014.json"
    content = json.loads(path.read_text())
    content["images"].append({"id": 5, "file_name": coco_name(6)})
    content["annotations"] += [{"image_id": 5, "id": 1, "caption": "A"}, {"image_id": 42, "id": 770, "caption": "B"}, 3]
    path.write_text(json.dumps(content))
    items, problems = opened("coco-captions-2014", tmp_path)
    assert len(items) == 3
    assert kinds(problems) == {"malformed": 3, "duplicate": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"data": [{"image": "a"}, {"ima', "is damaged"),
        ('{"data": []}'.encode("utf-16"), "is damaged"),
        (b"", "is damaged"),
        (b'{"images": []}', "has no list 'data'"),
        (b'{"data": 3}', "'data' in it is not a list"),
        (b"[1]", "is damaged"),
        (b'{"data": [' + b"[" * 100_000, "is damaged"),
    ],
)
def test_a_json_file_that_is_not_what_it_should_be_is_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "SpokenCOCO_train.json"
    path.write_bytes(content)
    with pytest.raises(Im2SpError, match=said):
        list(json_entries(path, "data", dict))


def test_entries_that_are_no_json_of_their_type_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(b'{"data": [' + b"9" * 5000 + b', "a", "\xe9", 7]}')
    assert list(json_entries(path, "data", str)) == [(1, None), (2, "a"), (3, None), (4, None)]
    monkeypatch.setattr(lists, "MAX_JSON_BYTES", 100)
    with pytest.raises(Im2SpError, match="is larger than"):
        list(json_entries(path, "data", str))


def test_lines_of_a_list(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n  two \ncaf\xe9")
    problems: list[Problem] = []
    assert list(read_lines(path, problems.append)) == [(1, "one"), (3, "two"), (4, "café")]
    assert [problem.where for problem in problems] == ["list.txt, line 4"]
    path.write_text("x" * 70_000)
    with pytest.raises(Im2SpError, match="line 1 is longer than 64 KiB"):
        list(read_lines(path, problems.append))
    path.write_text("one", encoding="utf-16")
    with pytest.raises(Im2SpError, match="is UTF-16"):
        list(read_lines(path, problems.append))
    with pytest.raises(Im2SpError, match="there is no such file"):
        list(read_lines(tmp_path / "none", problems.append))


def test_paths_stay_inside(tmp_path: Path) -> None:
    assert path_inside(tmp_path, "a/b.wav") == tmp_path / "a" / "b.wav"
    for name in ("/a", "../a", "a/../../b", "", "C:a", "a\\..\\b"):
        assert path_inside(tmp_path, name) is None
    assert path_inside(tmp_path, "é" * 300) == tmp_path / ("é" * 300)  # too long for a file system: not there


def test_flickr8k_without_recordings_and_without_a_test_split(tmp_path: Path) -> None:
    write_flickr8k_audio(tmp_path)
    (tmp_path / "Flickr_8k.testImages.txt").unlink()
    items, problems = opened("flickr8k", tmp_path)
    assert [item.caption_id for item in items] == ["1_a_0", "1_a_1", "2_b_0", "2_b_1", "3_c_0", "3_c_1"]
    assert {item.recording for item in items} == {None}
    assert kinds(problems) == {"no-split": 2}


TABLES = {
    "table.csv": """wav,image_id,text,speaker,split
a.wav,one.jpg,A  cat,zoe,val
b/c.wav,two,A dog,,
d.wav,two,Two,,
""",
    "table.jsonl": """{"wav": "a.wav", "image_id": "one", "text": "A cat", "speaker": "zoe", "split": "dev"}

{"wav": "b/c.wav", "image_id": "two.jpg", "text": "A dog"}
{"wav": "d.wav", "image_id": "two", "text": "Two"}""",
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_own_recordings(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TABLES[name])
    items, problems = opened("table", tmp_path / name, dev_percent=0, photos=tmp_path / "photos")
    assert not problems
    assert [(item.caption_id, item.split, item.text, item.speaker) for item in items] == [
        ("one_0", "dev", "A cat", "zoe"),
        ("two_0", "dev", "A dog", ""),  # of those without a split, one at least is held out
        ("two_1", "dev", "Two", ""),
    ]
    assert items[1].recording == tmp_path / "b" / "c.wav"
    assert items[1].image == tmp_path / "photos" / "two.jpg"


def test_a_folder_of_recordings(tmp_path: Path) -> None:
    for name in ("zoe/1.wav", "zoe/2.WAV", "adam/1.flac", "3.mp3", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    items, problems = opened("folder", tmp_path, dev_percent=25)
    assert not problems
    found = {item.image_id: (item.speaker, item.recording) for item in items}
    assert found["zoe_1"] == ("zoe", tmp_path / "zoe" / "1.wav")
    assert set(found) == {"zoe_1", "zoe_2", "adam_1", "3"}
    assert sorted(item.split for item in items) == ["dev", "train", "train", "train"]
    assert opened("folder", tmp_path, dev_percent=25)[0] == items


def test_faults_of_a_table_are_reported_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("wav,image_id,split\n../a.wav,one,\n,two,\na.wav,a/b,\na.wav,c,hidden\na.wav,d,train\n")
    items, problems = opened("table", path)
    assert [item.image_id for item in items] == ["d"]
    assert kinds(problems) == {"unsafe-path": 1, "malformed": 2, "no-split": 1}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.txt", "", "is a .csv or a .jsonl file"),
        ("t.csv", "wav,colour\na.wav,red\n", "line 2: the column 'colour' is not known"),
        ("t.csv", "wav\na.wav,b\n", "the column 'None' is not known"),
        ("t.csv", 'wav\n"a', "is not CSV"),
        ("t.jsonl", "{", "line 1: is not JSON"),
        ("t.jsonl", "[]", "line 1: is not a JSON object"),
    ],
)
def test_wrong_tables_are_one_sentence(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(Im2SpError, match=message):
        opened("table", tmp_path / name)


def test_missing_folders_and_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(Im2SpError, match="of the layout spoken-coco is a folder"):
        opened("spoken-coco", tmp_path / "none")
    with pytest.raises(Im2SpError, match="of the layout karpathy is a file"):
        opened("karpathy", tmp_path)
    for layout, missing in (("spoken-coco", "SpokenCOCO_train.json"), ("flickr8k-audio", "wav2capt.txt")):
        with pytest.raises(Im2SpError, match=f"{missing} is missing"):
            opened(layout, tmp_path)


def test_spoken_coco_with_one_caption_a_row(tmp_path: Path) -> None:
    entries = [
        {
            "image": f"val2014/{coco_name(42)}",
            "caption": {
                "text": f"A CAT {k}",
                "speaker": f"m{k}",
                "uttid": f"m{k}-42",
                "wav": f"wavs/val/0/m{k}-42.wav",
            },
        }
        for k in range(2)
    ]
    for name in ("SpokenCOCO_val_unrolled_karpathy.json", "SpokenCOCO_val_unrolled_karpathy_with_alignments.json"):
        (tmp_path / name).write_text(json.dumps({"data": entries}))
    items, problems = opened("spoken-coco", tmp_path)
    assert not problems
    found = [(item.image_id, item.caption_id, item.split, item.text) for item in items]
    assert found == [("42", "m0-42", "dev", "A CAT 0"), ("42", "m1-42", "dev", "A CAT 1")]


def test_flickr8k_in_the_layout_of_its_copy(tmp_path: Path) -> None:
    (tmp_path / "Images").mkdir()
    rows = [
        "image,caption",
        "1_a.jpg,A dog runs .",
        '1_a.jpg,"A dog, ""fast"", runs ."',
        "2_b.jpg,A cat, asleep .",
        "2_b",
    ]
    (tmp_path / "captions.txt").write_text("\n".join(rows))
    karpathy = tmp_path / "dataset_flickr8k.json"
    images = [{"filename": f"{name}.jpg", "split": split} for name, split in (("1_a", "train"), ("2_b", "val"))]
    karpathy.write_text(json.dumps({"images": images}))
    items, problems = opened("flickr8k", tmp_path, splits=karpathy)
    assert [(item.caption_id, item.text, item.split) for item in items] == [
        ("1_a_0", "A dog runs .", "train"),
        ("1_a_1", 'A dog, "fast", runs .', "train"),
        ("2_b_0", "A cat, asleep .", "dev"),
    ]
    assert items[0].image == tmp_path / "Images" / "1_a.jpg"
    assert [problem.where for problem in problems] == ["captions.txt, line 5"]
    with pytest.raises(Im2SpError, match="a Karpathy file for the splits"):
        opened("flickr8k", tmp_path)
