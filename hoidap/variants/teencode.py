"""Teencode: what customers write for common words ("ko", "bnhiu", "sđt"), from the hand-checked assets/teencode.tsv.

A row that writes a phrase as it is ("vé hàng không") keeps its words from being taken for others.
"""

import random
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path

from hoidap.text import fold
from hoidap.variants.keystrokes import bare, is_marked
from hoidap.variants.words import has_digit, whole

_LIST = Path(__file__).parent.parent / "assets" / "teencode.tsv"
_SHARE = 0.7  # of the words that have a shorter form: nobody shortens all of them
_LOOK_BACK = 40  # characters
_MOST_CHARACTERS = 2000  # of a question that is spelled out
_WORD = re.compile(r"\w+")


@cache
def codes() -> dict[str, tuple[str, ...]]:
    """Return the list: standard phrase in lower case → what is written for it."""
    found: dict[str, tuple[str, ...]] = {}
    for row in _LIST.read_text(encoding="utf-8").splitlines()[1:]:
        standard, code = row.split("\t")
        found[standard] = (*found.get(standard, ()), code)
    return found


@cache
def meanings() -> dict[str, str]:
    """Return the codes that mean one thing alone, folded: what is written → the standard phrase."""
    found: dict[str, set[str]] = {}
    for standard, written in codes().items():
        for code in written:
            found.setdefault(fold(code), set()).add(fold(standard))
    return {code: phrases.pop() for code, phrases in found.items() if len(phrases) == 1 and code not in phrases}


def spell_out(question: str, own_words: Collection[str]) -> str:
    """Return a question with what its codes mean behind it: "ship nhiu" → "ship nhiu giao hang bao nhieu".

    ``own_words`` are codes that the items themselves use as words: these mean what they say.
    """
    words = _WORD.findall(fold(question[:_MOST_CHARACTERS]))
    meant = [meanings()[word] for word in dict.fromkeys(words) if word in meanings() and word not in own_words]
    return " ".join([question, *meant])


@cache
def _pattern() -> re.Pattern[str]:
    return whole(codes())


def shorten(question: str, rng: random.Random) -> str | None:
    """Return a question with some of its words in teencode, at least one; None if it has none that the list knows."""
    choices = [(match, usable) for match in _pattern().finditer(question) if (usable := _usable(match))]
    if not choices:
        return None
    sure = rng.randrange(len(choices))
    with_marks = is_marked(question)
    meant: dict[str, str] = {}  # "mk" is mình or mật khẩu, not both in one question
    parts, done = [], 0
    for at, (match, usable) in enumerate(choices):
        # Drawn for each, also where it is not needed: what one word becomes does not hang on the others.
        is_taken, code = rng.random() < _SHARE, rng.choice(usable)
        standard = match.group().casefold()
        if not (is_taken or at == sure) or meant.setdefault(code, standard) != standard:
            continue
        parts += [question[done : match.start()], _cased(code if with_marks else bare(code), match)]
        done = match.end()
    return "".join([*parts, question[done:]])


def _usable(match: re.Match[str]) -> list[str]:
    """Return the codes for a phrase; behind a number no single letter, for "dưới 200 k" is a price."""
    standard = match.group().casefold()
    before = _before(match).split()
    behind_number = bool(before) and has_digit(before[-1])
    return [c for c in codes().get(standard, ()) if c != standard and not (behind_number and len(c) == 1)]


def _cased(code: str, match: re.Match[str]) -> str:
    phrase = match.group()
    if phrase.isupper() and len(phrase) > 1:
        return code.upper()
    opens = _before(match).rstrip()[-1:] in ("", ".", "!", "?", "…")
    return code[0].upper() + code[1:] if opens and phrase[0].isupper() else code


def _before(match: re.Match[str]) -> str:
    return match.string[max(0, match.start() - _LOOK_BACK) : match.start()]
