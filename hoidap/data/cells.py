"""A cell becomes text in NFC, or a problem with its line."""

import re
import reprlib
from dataclasses import dataclass, field

from hoidap.data.legacy import OldText, looks_old
from hoidap.text import nfc

_MOST_CHARACTERS = 32_768  # in one cell, as in Excel
_SEPARATOR = "|"  # between wordings in one cell; a new line does as well
# Control characters but tab and line ends, halves of surrogate pairs, and the sign of a failed conversion.
_STRANGE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")
_EXCEL_ERRORS = ("#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NULL!", "#NUM!", "#SPILL!", "#CALC!")


@dataclass
class Cells:
    """Checks the cells of one file and keeps all that is wrong with them."""

    file: str
    problems: list[str] = field(default_factory=list)
    n_system_messages: int = 0  # left out: no template has a place for them
    _old: OldText = field(default_factory=OldText)
    _odd: list[str] = field(default_factory=list)  # of this row, perhaps typed in an old encoding

    def report(self, line: int, problem: str) -> None:
        """Keep a problem."""
        self.problems.append(f"{self.file}:{line}: {problem}")

    def text(self, value: object, line: int, name: str) -> str:
        """Return a cell's text, or keep what is wrong with it and return ""."""
        if not isinstance(value, str) and not is_empty(value):
            self.report(line, f"{name} is {reprlib.repr(value)}; it takes text")
            return ""
        text = nfc(value).strip() if isinstance(value, str) else ""
        if not text:
            self.report(line, f"{name} is empty")
            return ""
        return text if _is_plain(text) or self._is_usable(text, line, name) else ""

    def wordings(self, value: object, line: int) -> tuple[str, ...]:
        """Return the wordings in a cell; none if any of them is wrong."""
        if is_empty(value):
            return ()
        if isinstance(value, str):
            texts = value.replace("\n", _SEPARATOR).split(_SEPARATOR)
        elif isinstance(value, list) and all(isinstance(w, str) for w in value):
            texts = value
        else:
            what = f"the wordings are {reprlib.repr(value)}; they take a list of texts, or one text with | between"
            self.report(line, what)
            return ()
        wordings = [w for w in [nfc(w).strip() for w in texts] if w]
        # A list, not a generator: each flaw is kept, not the first alone.
        usable = [_is_plain(w) or self._is_usable(w, line, "a wording") for w in wordings]
        return tuple(wordings) if all(usable) else ()

    def end_row(self, line: int) -> str:
        """Judge together what a row's cells may have been typed in, and return it: a word alone says little."""
        encoding = self._old.look(line, self._odd) if self._odd else ""
        self._odd.clear()
        return encoding

    def all_problems(self) -> list[str]:
        """Return the problems in the file's order; an old encoding comes first, being the cause of others."""
        return self._old.problems(self.file) + self.problems

    def old_encodings(self) -> list[str]:
        """Return the encodings older than Unicode that the file has enough of."""
        return self._old.found()

    def _is_usable(self, text: str, line: int, name: str) -> bool:
        if looks_old(text):
            self._odd.append(text)
        flaw = _flaw(text)
        if flaw:
            self.report(line, f"{name} {flaw}")
        return not flaw


def _is_plain(text: str) -> bool:
    """Return whether a text is surely in order: nearly every cell is, and this tells it quickly."""
    return (
        text.isprintable()
        and len(text) <= _MOST_CHARACTERS
        and text[0] != "#"
        and "\ufffd" not in text
        and not looks_old(text)
    )


def _flaw(text: str) -> str:
    """Return what makes a cell's text unusable, or ""."""
    if len(text) > _MOST_CHARACTERS:
        return f"has {len(text):,} characters; at most {_MOST_CHARACTERS:,}"
    if text in _EXCEL_ERRORS:
        return f"is {text}, an error value of Excel; correct its formula"
    strange = _STRANGE.search(text)
    return f"holds U+{ord(strange.group()):04X}, which no keyboard types; was it converted?" if strange else ""


def is_empty(value: object) -> bool:
    """Return whether a cell holds nothing."""
    return value is None or (isinstance(value, str) and not value.strip()) or value == []
