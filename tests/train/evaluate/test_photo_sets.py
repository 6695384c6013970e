"""Photos with references, from every layout of captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from im2sp.errors import Im2SpError
from im2sp.train.evaluate.photo_sets import PhotoSet, read_photo_set

KARPATHY = {
    "images": [
        {"filepath": "val2014", "filename": "a.jpg", "split": "test", "sentences": [{"raw": "A cat."}, {"raw": "Cat"}]},
        {"filename": "b.jpg", "split": "val", "sentences": [{"raw": "A dog."}]},
    ]
}
PLAIN = {"a.jpg": ["A cat.", ""], "b.jpg": [" A dog. "], "c.jpg": []}


@pytest.fixture
def flickr8k(tmp_path: Path) -> Path:
    root = tmp_path / "flickr8k"
    root.mkdir()
    (root / "Flickr_8k.devImages.txt").write_text("a.jpg\nb.jpg\n")
    (root / "Flickr_8k.trainImages.txt").write_text("c.jpg\n")
    (root / "Flickr8k.token.txt").write_text("a.jpg#0\tA cat .\na.jpg#1\tCat\nb.jpg#0\tA dog .\nc.jpg#0\tA car .\n")
    return root


def _written(tmp_path: Path, value: Any) -> Path:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(value))
    return path


def test_file_names_and_their_captions(tmp_path: Path) -> None:
    found = read_photo_set(_written(tmp_path, PLAIN), tmp_path / "photos")
    assert found.references == {"a.jpg": ["A cat."], "b.jpg": ["A dog."]}
    assert found.photos["b.jpg"] == tmp_path / "photos" / "b.jpg"
    (tmp_path / "dev.txt").write_text("b.jpg\n\nother.jpg\n")
    assert list(read_photo_set(tmp_path / "captions.json", split=str(tmp_path / "dev.txt")).photos) == ["b.jpg"]
    with pytest.raises(Im2SpError, match="has no splits"):
        read_photo_set(tmp_path / "captions.json", split="dev")


@pytest.mark.parametrize(("name", "folder"), [("COCO_val2014_000000000007.jpg", "val2014"), ("dog.png", ".")])
def test_coco_file(name: str, folder: str, tmp_path: Path) -> None:
    """COCO's own, or one of other photos; what belongs to no photo is left out."""
    listed = {
        "images": [{"id": 7, "file_name": name}],
        "annotations": [{"id": i, "image_id": i, "caption": f"A dog {i}."} for i in (7, 8)] + [{"id": 9}],
    }
    found = read_photo_set(_written(tmp_path, listed), tmp_path / "photos")
    assert found == PhotoSet({name: tmp_path / "photos" / folder / name}, {name: ["A dog 7."]})
    listed["images"] = [{"id": 7, "file_name": "../secret.jpg"}]
    with pytest.raises(Im2SpError, match="outside the folder of photos"):
        read_photo_set(_written(tmp_path, listed), tmp_path / "photos")


def test_coco_folder(tmp_path: Path) -> None:
    names = {part: f"COCO_{part}2014_00000000000{number}.jpg" for number, part in ((1, "val"), (2, "train"))}
    (tmp_path / "annotations").mkdir()
    for number, (part, name) in enumerate(names.items(), start=1):
        listed = {
            "images": [{"id": number, "file_name": name}],
            "annotations": [{"id": number, "image_id": number, "caption": f"A {part}."}],
        }
        (tmp_path / "annotations" / f"captions_{part}2014.json").write_text(json.dumps(listed))
    (tmp_path / names["val"]).touch()
    found = read_photo_set(tmp_path, tmp_path)
    assert found == PhotoSet({names["val"]: tmp_path / names["val"]}, {names["val"]: ["A val."]})
    assert read_photo_set(tmp_path, split="train").photos == {names["train"]: tmp_path / "train2014" / names["train"]}


def test_karpathy_splits_and_folders(tmp_path: Path) -> None:
    path = _written(tmp_path, KARPATHY)
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "a.jpg").touch()
    found = read_photo_set(path, split="test")
    assert found == PhotoSet({"a.jpg": tmp_path / "val2014" / "a.jpg"}, {"a.jpg": ["A cat.", "Cat"]})
    assert list(read_photo_set(path).photos) == ["b.jpg"]
    with pytest.raises(Im2SpError, match="no captions in the split train"):
        read_photo_set(path, split="train")


def test_flickr8k_folder(flickr8k: Path, tmp_path: Path) -> None:
    found = read_photo_set(flickr8k)
    assert found.references == {"a.jpg": ["A cat .", "Cat"], "b.jpg": ["A dog ."]}
    assert found.photos["a.jpg"] == flickr8k / "Flicker8k_Dataset" / "a.jpg"
    (tmp_path / "c.jpg").touch()
    assert list(read_photo_set(flickr8k, tmp_path, "train").photos.values()) == [tmp_path / "c.jpg"]


def test_things(tmp_path: Path) -> None:
    listed = tmp_path / "things.txt"
    listed.write_text("# photos of one thing\na.jpg\tbow tie, tie\n")
    found = read_photo_set(listed, tmp_path / "photos")
    assert found == PhotoSet({"a.jpg": tmp_path / "photos" / "a.jpg"}, {}, {"a.jpg": ["bow tie", "tie"]})
    assert found.sample(1) == found
    for line in ("a.jpg", "../a.jpg\ta"):
        listed.write_text(line)
        with pytest.raises(Im2SpError, match=r"things\.txt"):
            read_photo_set(listed)


def test_sample_is_drawn_by_the_seed() -> None:
    names = [f"{number}.jpg" for number in range(20)]
    data = PhotoSet({name: Path(name) for name in names}, {name: ["a"] for name in names})
    assert len(data.sample(0).photos) == 20
    drawn = data.sample(5, seed=1)
    assert drawn == data.sample(5, seed=1) != data.sample(5, seed=2)
    assert list(drawn.photos) == list(drawn.references)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"../a.jpg": ["A cat."]}, "outside the folder"),
        ({"a.jpg": "A cat."}, "holds no captions"),
        ([1], "holds no captions"),
        ({"images": [{"filename": "a.jpg", "split": "val", "sentences": 3}]}, "has no captions"),
        ({}, "has no captions"),
    ],
)
def test_what_cannot_be_read(value: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(Im2SpError, match=sentence):
        read_photo_set(_written(tmp_path, value))
    with pytest.raises(Im2SpError, match="there are no captions"):
        read_photo_set(tmp_path / "missing.json")
