"""Objects that captions name, against those of their photos."""

from pathlib import Path

import pytest

from im2sp.errors import Im2SpError
from im2sp.train.data.object_names import Synonyms, named_objects, read_synonyms
from im2sp.train.evaluate.chair import ChairScores, chair

SYNONYMS = (
    "person, man, woman, child, people, passenger\ndog, puppy\ntrain\nhot dog\ntoilet\nchair, seat\norange\nknife"
)


@pytest.fixture
def synonyms(tmp_path: Path) -> Synonyms:
    (tmp_path / "synonyms.txt").write_text(SYNONYMS)
    return read_synonyms(tmp_path / "synonyms.txt")


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("Two women and their puppies.", ["person", "dog"]),
        ("A hot dog beside knives", ["hot dog", "knife"]),
        ("a baby dog on the train tracks", ["dog"]),
        ("A passenger train", ["train"]),
        ("a toilet seat", ["toilet"]),
        ("oranges, an orange and a peeled orange", ["orange", "orange", "orange"]),
        ("an orange train; a dog, orange and white", ["train", "dog"]),
        ("nothing at all", []),
    ],
)
def test_objects_of_a_caption(caption: str, objects: list[str], synonyms: Synonyms) -> None:
    assert named_objects(caption, synonyms) == objects


def test_scores(synonyms: Synonyms) -> None:
    captions = {"a": "A man and a dog.", "b": "A child on a chair.", "c": "A dog.", "unknown": "A dog."}
    objects = {"a": ["person", "dog"], "b": ["person", "toilet"], "c": ["chair"]}
    assert chair(captions, objects, synonyms) == ChairScores(
        hit=pytest.approx(200 / 3), chair_i=pytest.approx(40), chair_s=pytest.approx(200 / 3), recall=60, captions=3
    )


def test_refuses_what_cannot_be_scored(tmp_path: Path, synonyms: Synonyms) -> None:
    with pytest.raises(Im2SpError, match="objects of none"):
        chair({"a": "A dog."}, {}, synonyms)
    with pytest.raises(Im2SpError, match="cannot be read"):
        read_synonyms(tmp_path / "missing.txt")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(Im2SpError, match="names no object"):
        read_synonyms(tmp_path / "empty.txt")
