"""Corpora are read without what is held out; captions become words, vectors, targets and pseudo-labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from im2sp.errors import Im2SpError
from im2sp.train.data.caption_targets import caption_tokenizer, frequent_words, targets, word_targets, word_vectors
from im2sp.train.data.photo_corpora import PhotoCorpora, TextCaption, names_thing, read_photo_corpora
from im2sp.train.data.pseudo_labels import KnownPhoto, PseudoLabels, pseudo_labels
from im2sp.train.data.text_tokenizer import TextTokenizer
from im2sp.train.data.tiny_photo_corpora import write_tiny_photo_corpora


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> PhotoCorpora:
    """The generated corpora."""
    folder = tmp_path_factory.mktemp("corpora")
    write_tiny_photo_corpora(folder / "data", folder / "lists")
    return read_photo_corpora(folder / "data", folder / "lists")


def test_nothing_held_out_trains(corpora: PhotoCorpora) -> None:
    assert len(corpora.held_out) == 3 + 2 + 1
    for captions in corpora.captions.values():
        assert not corpora.held_out & captions.keys()
    assert not corpora.held_out & corpora.samples.keys()
    dev_texts = {text for texts in corpora.dev["coco"].values() for text in texts}
    assert not dev_texts & {caption.text for caption in corpora.text}


def test_missing_corpora_are_reported(tmp_path: Path) -> None:
    with pytest.raises(Im2SpError, match="missing"):
        read_photo_corpora(tmp_path, tmp_path)


def test_a_thing_is_named_in_singular_or_plural() -> None:
    assert names_thing("Two bow ties on a table", ["bow tie"])
    assert not names_thing("a tiebreak", ["tie"])


def test_targets_join_corpora_and_leave_out_held_out_photos() -> None:
    known = {"a dog": [1, 4, 5, 2], "a": [1, 4, 2], "Dog!": [1, 5, 2]}
    corpora = {"x": {"1": ["a dog", "a cat"], "2": ["a"]}, "y": {"1": ["Dog!"], "3": ["a"]}}
    found = targets(corpora, {"y": 3.0}, {"3"}, known.get)
    assert {target.photo: target.weight for target in found} == {"1": 3.0, "2": 1.0}
    assert found[0].sentences == [[1, 4, 5, 2], [1, 5, 2]]


def test_words_that_occur_alike_get_similar_vectors() -> None:
    texts = [f"a {animal} runs on grass" for animal in ("dog", "cat")] * 20 + ["the car stands in a street"] * 20
    tokenizer = TextTokenizer.of_words(sorted({word for text in texts for word in text.split()} | {"unseen"}))
    vectors = torch.nn.functional.normalize(word_vectors(texts, tokenizer, 4), dim=1)
    dog, cat, car = (vectors[tokenizer.tokens_of([word])[0]] for word in ("dog", "cat", "car"))
    assert dog @ cat > dog @ car


def test_word_targets_count_captions(corpora: PhotoCorpora) -> None:
    captions = {"1": ["a red dog", "a dog"], "2": ["one cat"]}
    assert word_targets(captions, ["red", "dog", "cat"]).tolist() == [[0.5, 1, 0], [0, 0, 1]]
    tokenizer = caption_tokenizer(corpora)
    words = frequent_words(corpora.captions["flickr8k"], tokenizer, 2)
    assert "circle" in words
    assert "a" not in words


SYNONYMS = {("dog",): "dog", ("cat",): "cat"}
WORDS = ["brown", "white", "dog", "runs", "sleeps", "cat"]


def test_pseudo_labels_fit_objects_and_words() -> None:
    text = [
        TextCaption(frozenset({"dog"}), "a brown dog runs"),
        TextCaption(frozenset({"dog"}), "a white dog sleeps"),
        TextCaption(frozenset({"dog", "cat"}), "a brown dog and a cat run"),
    ]
    photo = KnownPhoto("photo", np.array([-1, 2, 1, -1, 2, 0], np.float32), frozenset({"dog"}))
    found = pseudo_labels([photo], text, WORDS, SYNONYMS, PseudoLabels(captions=1, fit_weight=2.0))
    assert found == {"photo": ["a white dog sleeps"]}


def test_pseudo_labels_are_typical() -> None:
    texts = [
        "a dog runs on grass",
        "a brown dog runs on grass",
        "a dog runs on green grass",
        "dog sleeps in a spaceship",
    ]
    photo = KnownPhoto("photo", np.zeros(6, np.float32), frozenset({"dog"}))
    text = [TextCaption(frozenset({"dog"}), text) for text in texts]
    (found,) = pseudo_labels([photo], text, WORDS, SYNONYMS, PseudoLabels(captions=4, overlap=1.1)).values()
    assert found[-1] == "dog sleeps in a spaceship"


def test_pseudo_labels_of_a_known_thing_name_it_and_what_is_likely() -> None:
    texts = ["a brown dog runs", "a dog sleeps near a cat", "a brown cat runs"]
    photo = KnownPhoto("photo", np.zeros(6, np.float32), names=("dog",), words=frozenset({"dog", "brown", "run"}))
    text = [TextCaption(frozenset(), text) for text in texts]
    assert pseudo_labels([photo], text, WORDS, SYNONYMS, PseudoLabels()) == {"photo": ["a brown dog runs"]}
