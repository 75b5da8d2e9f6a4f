"""Where the tone mark stands in oa, oe and uy: "hoà" in the newer style, "hòa" in the older; both are one word."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

Style = Literal["older", "newer"]

_TONES = "\u0300\u0301\u0303\u0309\u0323"  # huyền, sắc, ngã, hỏi, nặng


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _toned(letter: str) -> str:
    return "".join(_composed(x + tone) for x in (letter, letter.upper()) for tone in _TONES)


# The pair ends its word: in "hoàn" and "huỳnh" the mark has one place.
_PAIR = re.compile(
    rf"(?:(?P<newer>[oO][{_toned('a')}{_toned('e')}]|[uU][{_toned('y')}])|[{_toned('o')}][aAeE]|[{_toned('u')}][yY])"
    r"(?![^\W\d_]|[\u0300-\u036f])"
)
_ONSET = re.compile(r"(?:ngh?|nh|gh?|gi|kh|ph|th|tr|ch|[bcdđhklmnrstvx])?", re.IGNORECASE)  # q: quý has one place
_LONGEST_ONSET = 3
_WORD_START = re.compile(r"[^\W\d_]*$")


def styled(text: str) -> Iterator[tuple[Style, str]]:
    """Give out the words of a text in NFC that have a style, each with it, in lower case."""
    for match in _PAIR.finditer(text):
        onset = _onset(match)
        if onset is not None:
            yield ("newer" if match["newer"] else "older"), (onset + match.group()).lower()


def restyle(text: str, style: Style) -> str:
    """Return a text in NFC with every such word in one style."""

    def turn(match: re.Match[str]) -> str:
        is_newer = match["newer"] is not None
        return match.group() if is_newer == (style == "newer") or _onset(match) is None else _moved(match.group())

    return _PAIR.sub(turn, text)


def _onset(match: re.Match[str]) -> str | None:
    """Return the consonants before a pair of vowels; None if these do not begin a Vietnamese word."""
    start = match.start()
    before = _WORD_START.search(match.string, max(0, start - _LONGEST_ONSET - 1), start)
    onset = before.group() if before else ""
    return onset if _ONSET.fullmatch(onset) else None


def _moved(pair: str) -> str:
    """Return two vowels with the tone mark moved from one to the other."""
    first, second = (unicodedata.normalize("NFD", letter) for letter in pair)
    if len(first) > 1:
        return first[0] + _composed(second + first[1])
    return _composed(first + second[1]) + second[0]
