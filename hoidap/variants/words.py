"""The words of a question: where each stands, and which must stay as they are because a number or an address is in them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_CHUNK = re.compile(r"\S+")
_AROUND = ".,!?…;:\"'“”‘’()[]{}«»"
# An address or a code: mocnhien.example, a@b, C/O, ma_don, #hashtag.
_CODE = re.compile(r"[@/\\_#&=]|[A-Za-z0-9-]\.[A-Za-z]")
# Where a whole word or phrase begins and ends; the dot of an address is inside a word, that of a sentence is not.
BEGIN, END = r"(?<![\w@./\\#&=-])", r"(?![\w@/\\#&=-]|\.\w)"


@dataclass(frozen=True)
class Word:
    """A word without the punctuation around it."""

    start: int
    text: str
    is_fixed: bool  # it has a digit, or is an address or a code: no variant changes it

    @property
    def end(self) -> int:
        """The place behind it."""
        return self.start + len(self.text)


def words(text: str) -> list[Word]:
    """Return the words of a text; what is punctuation alone is none."""
    found = []
    for match in _CHUNK.finditer(text):
        left = match.group().lstrip(_AROUND)
        core = left.rstrip(_AROUND)
        if core:
            found.append(Word(match.end() - len(left), core, has_digit(core) or bool(_CODE.search(core))))
    return found


def digits(text: str) -> str:
    """Return the digits of a text, which no variant may change or move."""
    return "".join(filter(str.isnumeric, text))


def has_digit(text: str) -> bool:
    """Return whether a text has a digit or number sign of any script: 15, ², ½."""
    return any(map(str.isnumeric, text))


def rewrite(text: str, new: Mapping[Word, str]) -> str:
    """Return a text with some of its words replaced."""
    parts, done = [], 0
    for word in sorted(new, key=lambda word: word.start):
        parts += [text[done : word.start], new[word]]
        done = word.end
    return "".join([*parts, text[done:]])


def whole(phrases: Iterable[str]) -> re.Pattern[str]:
    """Return the pattern of any of these as whole words, whatever their case; the longest counts."""
    longest_first = sorted(phrases, key=len, reverse=True)
    return re.compile(f"{BEGIN}(?:{'|'.join(map(re.escape, longest_first))}){END}", re.IGNORECASE)
