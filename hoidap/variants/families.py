"""Variants of a question as customers type it: without marks, in teencode, with slips, in another order, more politely.

Each is a function of question, seed and family. What has a digit, and addresses and codes, no family touches: a question
about "iPhone 15" stays about 15.

A family makes one kind of change. To see how a bot copes with what it never saw, keep whole families from its training
(``families=``) and ask it in those alone. Another seed in the same families only shows other draws, and where a question
leaves no choice the same one. Kin are best kept or left together: no-diacritics and partly-bare; telex, vni and marks.
Two families can meet in one text, so a test leaves out what was trained on.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from hoidap.errors import RecipeError
from hoidap.text import nfc
from hoidap.variants.keystrokes import Method, bare, is_marked, misplaced, mistyped, off
from hoidap.variants.phrasing import rephrased
from hoidap.variants.politeness import capital, more_or_less_polite
from hoidap.variants.teencode import shorten
from hoidap.variants.words import Word, has_digit, rewrite, words

Family = Literal[
    "no-diacritics", "partly-bare", "telex", "vni", "marks", "teencode", "particles", "phrasing", "case", "typo"
]
FAMILIES: tuple[Family, ...] = get_args(Family)

_MOST_ADDED = 60  # characters
_LONG = 6  # words: from here on a hasty hand slips twice
_LONGEST_WORD = 20  # letters; what is longer is no word of a question, and has as many slips as letters
# A slip in one of these could make it another number, and behind a figure another price.
_NUMBERS = frozenset(
    ("một", "hai", "ba", "bốn", "tư", "năm", "sáu", "bảy", "bẩy", "tám", "chín", "mười", "mươi", "chục", "trăm", "nghìn")
).union(("ngàn", "triệu", "tỷ", "tỉ", "rưỡi"))


@dataclass(frozen=True)
class Variant:
    """A question as somebody might type it."""

    family: Family
    text: str


def variants(question: str, seed: int = 1, families: Sequence[Family] = FAMILIES) -> list[Variant]:
    """Return variants of a question, at most one a family, in the order of ``FAMILIES``.

    None is the question itself or another's text; a family that cannot change the question gives none. Texts are NFC.

    Args:
        question: as it stands in the data.
        seed: another seed draws others where there is a choice.
        families: which to make.

    Raises:
        RecipeError: a family that does not exist.

    """
    unknown = [family for family in families if family not in FAMILIES]
    if unknown:
        raise RecipeError(f"families of variants: {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    question = nfc(question)
    found: dict[str, Family] = {}
    for family in FAMILIES:
        if family not in families:
            continue
        # A generator a family: what one draws does not hang on which others are made.
        seeded = f"{seed}/{family}/{question}".encode("utf-8", "surrogatepass")
        text = nfc(_MAKERS[family](question, random.Random(seeded)) or "")  # noqa: S311 - no cryptography
        if text.strip() and text != question and len(text) <= len(question) + _MOST_ADDED:
            found.setdefault(text, family)
    return [Variant(family, text) for text, family in found.items()]


def _without_marks(question: str, rng: random.Random) -> str | None:
    without = _each(question, bare)
    if without == question:
        return None
    # Who leaves the marks out seldom presses Shift, and leaves out the question mark half the time.
    typed = _each(without, str.lower) if rng.random() < 0.8 else without
    return typed.rstrip(" ?") if rng.random() < 0.5 else typed


def _partly_without_marks(question: str, rng: random.Random) -> str | None:
    marked = [word for word in words(question) if not word.is_fixed and is_marked(word.text)]
    if len(marked) < 2:
        return None
    chosen = rng.sample(marked, rng.randrange(1, len(marked)))
    return rewrite(question, {word: bare(word.text) for word in chosen})


def _method_off(method: Method) -> Callable[[str, random.Random], str | None]:
    def make(question: str, rng: random.Random) -> str | None:
        """Write one word, or two next to each other, as the keys that were pressed."""
        marked = [word for word in _slippery(question) if is_marked(word.text)]
        if not marked:
            return None
        first = rng.randrange(len(marked))
        chosen = marked[first : first + _count_slips(marked, rng)]
        return rewrite(question, {word: rng.choice(off(word.text, method)) for word in chosen})

    return make


def _with_wrong_marks(question: str, rng: random.Random) -> str | None:
    ways = {word: found for word in _slippery(question) if (found := misplaced(word.text))}
    if not ways:
        return None
    chosen = rng.sample(list(ways), _count_slips(list(ways), rng))
    return rewrite(question, {word: rng.choice(ways[word]) for word in chosen})


def _mistyped(question: str, rng: random.Random) -> str | None:
    slippery = _slippery(question)
    rng.shuffle(slippery)
    for word in slippery:
        kinds = mistyped(word.text)
        if kinds:
            return rewrite(question, {word: rng.choice(rng.choice(kinds))})
    return None


def _in_other_case(question: str, rng: random.Random) -> str | None:
    lower = _each(question, str.lower)
    found = [lower, lower.rstrip(" ?"), lower.rstrip(" ?"), _each(question, str.upper), _without_spaces(question)]
    if question.endswith("?"):
        found += [question + "?", question + "??", question[:-1].rstrip() + " ?"]
    elif question[-1:].isalpha():
        found.append(capital(question) + "?")
    others = [text for text in found if text != question]
    return rng.choice(others) if others else None


def _without_spaces(question: str) -> str:
    """Return a question without the space behind its commas, but where numbers would run together."""
    parts, done = [], 0
    for word, following in pairwise(words(question)):
        if question[word.end : following.start] == ", " and not (word.is_fixed or following.is_fixed):
            parts += [question[done : word.end], ","]
            done = following.start
    return "".join([*parts, question[done:]])


def _each(question: str, change: Callable[[str], str]) -> str:
    return rewrite(question, {word: change(word.text) for word in words(question) if not word.is_fixed})


def _slippery(question: str) -> list[Word]:
    """Return the words that a slip leaves what they mean: no numbers, no unit behind one, no abbreviation."""
    found = []
    behind_number = False
    for word in words(question):
        is_number = has_digit(word.text) or word.text.lower() in _NUMBERS
        is_abbreviation = word.text.isupper() and not question.isupper()
        if not (word.is_fixed or is_number or behind_number or is_abbreviation) and len(word.text) <= _LONGEST_WORD:
            found.append(word)
        behind_number = is_number
    return found


def _count_slips(slippery: Sequence[Word], rng: random.Random) -> int:
    return 2 if len(slippery) >= _LONG and rng.random() < 0.5 else 1


_MAKERS: dict[Family, Callable[[str, random.Random], str | None]] = {
    "no-diacritics": _without_marks,
    "partly-bare": _partly_without_marks,
    "telex": _method_off("telex"),
    "vni": _method_off("vni"),
    "marks": _with_wrong_marks,
    "teencode": shorten,
    "particles": more_or_less_polite,
    "phrasing": rephrased,
    "case": _in_other_case,
    "typo": _mistyped,
}
