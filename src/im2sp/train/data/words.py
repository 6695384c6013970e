"""Sentences -> comparable words, by sound and not by spelling; plurals -> singulars."""

from __future__ import annotations

import re
import unicodedata

_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_DIGITS = {str(number): word for number, word in enumerate(_NUMBERS)}
_ENGLISH = """
a about above across after against all along also an and another any are around as at away be been before behind
being below beneath beside between both but by can do does doing down during each for from get getting has have
having he her hers him his how i in inside into is it its just like near next no not of off on one onto or other
out outside over own past several she so some something someone than that the their them then there these they
this those through to together toward towards two three four under up upon very was we were what when where which
while who whose with within without you your
"""
FUNCTION_WORDS = frozenset(_ENGLISH.split())  # say nothing about what a photo shows
_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "mice": "mouse", "geese": "goose",
    "feet": "foot", "teeth": "tooth", "knives": "knife", "calves": "calf", "wolves": "wolf", "leaves": "leaf",
    "loaves": "loaf", "shelves": "shelf", "halves": "half", "scarves": "scarf", "buses": "bus", "shoes": "shoe",
    "canoes": "canoe", "toes": "toe", "policemen": "policeman", "firemen": "fireman", "snowmen": "snowman",
}  # fmt: skip
_T_SHIRT = re.compile(r"\b(?:t|tee)[- ]?shirt(s?)\b")


def normalise_words(text: str) -> str:
    """A sentence as words with single blanks between them, so that two ways to write the same sound compare equal.

    In this order:
    1. Compatibility forms become plain ones (NFKC) and everything lower case; accents stay.
    2. `&` becomes `and`.
    3. `T-shirt`, `t shirt`, `tee shirt` and `tee-shirt` become `tshirt`, plurals `tshirts`: one word.
    4. Apostrophes vanish (`dog's` and `dogs` sound the same; `it's` becomes `its`); all other punctuation, hyphens
       and slashes included, becomes a blank (`brown-haired` is two words).
    5. Whole numbers from 0 to 20 in digits become words: recognisers write `2`, people write `two`. Larger numbers
       and digits inside a word (`3d`, `1st`) stay.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("&", " and ")
    text = _T_SHIRT.sub(r"tshirt\1", text)
    text = re.sub("['\u2018\u2019\u02bc`]", "", text)
    text = re.sub(r"[\W_]+", " ", text)
    return " ".join(_DIGITS.get(word, word) for word in text.split())


def singular(word: str) -> str:
    """Reduce an English plural to the same form as its singular; other words stay as they are."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zzes", "oes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
