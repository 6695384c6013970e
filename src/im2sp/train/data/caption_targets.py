"""Captions of corpora -> vocabulary, word vectors, token sentences to train with, and word targets of the tagger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from im2sp.train.data.photo_corpora import Captions, PhotoCorpora, caption_words
from im2sp.train.data.text_tokenizer import UNKNOWN, TextTokenizer
from im2sp.train.data.words import FUNCTION_WORDS

WINDOW = 4  # words beside a word that count as near it
MAX_WORDS = 22  # of a caption


@dataclass(frozen=True)
class Target:
    """One photo to train with."""

    photo: str
    sentences: list[list[int]]  # tokens with BOS and EOS
    weight: float  # how often it is drawn, compared with others


def content_words(text: str) -> list[str]:
    """Words of a caption that are no function words."""
    return [word for word in caption_words(text) if word not in FUNCTION_WORDS]


def caption_tokenizer(corpora: PhotoCorpora, min_count: int = 4, min_text_count: int = 12) -> TextTokenizer:
    """Make a tokenizer of words, the most frequent first.

    Args:
        min_count: a word is known that stands this often in captions of photos that train,
        min_text_count: or this often in captions of other photos. Words of class names are always known.
    """
    seen = Counter(word for said in corpora.captions.values() for word in _words(said))
    read = Counter(word for caption in corpora.text for word in caption_words(caption.text))
    names = {word for name in corpora.class_names for word in caption_words(name)}
    both = seen + read
    known = {word for word in both if seen[word] >= min_count or read[word] >= min_text_count} | names
    return TextTokenizer.of_words(sorted(known, key=lambda word: (-both[word], word)))


def _words(captions: Captions) -> Iterable[str]:
    return (word for texts in captions.values() for text in texts for word in caption_words(text))


def targets(
    corpora: Mapping[str, Captions],
    weights: Mapping[str, float],
    held_out: set[str],
    encode: Callable[[str], list[int] | None],
) -> list[Target]:
    """Join the captions of corpora by photo; a photo has the largest weight of its corpora, 1 where none is given.

    Captions that `encode` has no tokens for are left out.
    """
    found: dict[str, Target] = {}
    for name, captions in corpora.items():
        for photo, texts in captions.items():
            if photo not in held_out:
                sentences = [sentence for sentence in map(encode, texts) if sentence]
                before = found.get(photo, Target(photo, [], 0.0))
                weight = max(before.weight, weights.get(name, 1.0))
                found[photo] = Target(photo, before.sentences + sentences, weight)
    return list(found.values())


def encode(text: str, tokenizer: TextTokenizer) -> list[int]:
    """Tokens of a caption, cut after `MAX_WORDS`."""
    return tokenizer.encode(" ".join(caption_words(text)[:MAX_WORDS]))


def word_vectors(texts: Iterable[str], tokenizer: TextTokenizer, width: int, seed: int = 0) -> Tensor:
    """Factorise the positive pointwise mutual information of near words -> float32 [vocabulary_size, width].

    The vectors have the length that random ones of the decoder have (standard deviation 0.02), in which words that
    are never seen stay.
    """
    size = tokenizer.size
    counts = scipy.sparse.csr_matrix((size, size))
    sentences = [np.array(encode(text, tokenizer)) for text in texts]
    for distance in range(1, WINDOW + 1):
        left = np.concatenate([sentence[:-distance] for sentence in sentences])
        right = np.concatenate([sentence[distance:] for sentence in sentences])
        near = np.full(len(left), 1 / distance)
        counts = counts + scipy.sparse.coo_matrix((near, (left, right)), (size, size)).tocsr()
    pmi = _positive_pmi(counts + counts.T)
    left, strength, _ = randomized_svd(pmi, width, n_iter=3, random_state=seed)
    vectors = left * strength**0.5
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    random = np.random.default_rng(seed).normal(0, 0.02, vectors.shape)
    scaled = vectors / np.maximum(length, 1e-6) * 0.02 * width**0.5
    return torch.from_numpy(np.where(length > 1e-6, scaled, random).astype(np.float32))


def _positive_pmi(counts: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    """PMI with contexts smoothed by the power of 0.75 (Levy et al., 2015), negative values as 0."""
    frequency = np.asarray(counts.sum(0)).ravel() + 1e-9
    context = frequency**0.75 / (frequency**0.75).sum()
    cells = counts.tocoo()
    values = np.log(cells.data / (frequency[cells.row] * context[cells.col]))
    kept = values > 0
    return scipy.sparse.csr_matrix((values[kept], (cells.row[kept], cells.col[kept])), counts.shape)


def word_targets(captions: Mapping[str, list[str]], words: list[str]) -> npt.NDArray[np.float32]:
    """How surely each word belongs to each photo: 1 where two captions (or the only one) hold it, [photos, words]."""
    column = {word: number for number, word in enumerate(words)}
    found = np.zeros((len(captions), len(words)), np.float32)
    for row, texts in enumerate(captions.values()):
        for word, count in Counter(word for text in texts for word in set(caption_words(text))).items():
            if word in column:
                found[row, column[word]] = min(1.0, count / min(2, len(texts)))
    return found


def frequent_words(captions: Mapping[str, list[str]], tokenizer: TextTokenizer, min_photos: int) -> list[str]:
    """Content words in captions of at least so many photos that the tokenizer knows, the most frequent first."""
    photos = Counter(word for texts in captions.values() for word in {w for text in texts for w in content_words(text)})
    return [
        word
        for word, count in photos.most_common()
        if count >= min_photos and tokenizer.tokens_of([word])[:1] > [UNKNOWN]
    ]
