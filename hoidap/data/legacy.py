"""Vietnamese typed in an encoding older than Unicode, found by its words and named; never guessed into the data.

Read in its own encoding such a word is a Vietnamese syllable, and as it stands it is none: "Tr­êng" (TCVN3) and "Tröôøng"
(VNI) are both "Trường". viparse has the tables. Its own detection scores letters, not words: it misses every third cell of
a shop's file, and takes "5 µg · 10°" for VISCII.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from hoidap.text import nfc

NAMES = {
    "tcvn3": "TCVN3 (ABC, .Vn fonts)",
    "vni": "VNI",
    "viscii": "VISCII",
    "cp1258": "Windows-1258",
    "cp1252": "UTF-8 that was opened as Windows-1252",
}
_CONVERT = "convert it to Unicode (UniKey's toolkit, Ctrl+Shift+F6, does) and save it as UTF-8"
_OPEN_AGAIN = "open the original again, as UTF-8"
_FEWEST_WORDS = 2  # different ones in a file; one word alone may be a name or a unit
_SHARE = 4  # words of a row that read as Vietnamese for each that does not
_SHOWN = 60  # characters of a cell

# What Vietnamese in Unicode never has: a letter or sign of Latin-1 that no syllable uses, or two vowels that VNI sets so.
_SIGN = re.compile(r"[\x80-\x9f¡-¿ÄÅÆÇËÎÏÐÑÖ×ØÛÜÞßäåæçëîïðñö÷øûüþÿ]")
_PAIR = re.compile(
    r"[aAeEoOuUyYôÔ](?=[âáàãõùéèÂÁÀÃÕÙÉÈ])(?:(?<=[aA])|(?<=[eE])[âáàãõùÂÁÀÃÕÙ]|(?<=[oO])[âùõÂÙÕ]|(?<=[uUyYôÔ])[ùõÙÕ])"
)
_WORD = re.compile(r"[^\t\n\r !-/:-@\[-`{-~]+")  # parted at ASCII alone: a no-break space is a letter in VISCII
_AROUND = "“”‘’…–—«»•\u00a0\u200b\ufeff"
_FOREIGN = re.compile("[fjwzFJWZ]|.{13}")  # no Vietnamese syllable, in whatever encoding, has such a letter or length
_UNIT = re.compile("µ.*|.*[²³°]")

_TONES = "\u0300\u0301\u0303\u0309\u0323"  # huyền, sắc, ngã, hỏi, nặng
_NO_TONES = dict.fromkeys(map(ord, _TONES))
_SYLLABLE = re.compile(
    r"""(?:ngh?|nh|gh?|gi|kh|ph|th|tr|ch|qu|[bcdđhklmnrstvx])?
    (?:a(?:[iouy]|ch|nh|ng?|[cmpt])?|ă(?:ng?|[cmpt])|â(?:[uy]|ng?|[cmpt])
    |e(?:o|ng?|[cmpt])?|ê(?:u|ch|nh|ng?|[mpt])?|i(?:[au]|ch|nh|[mnpt])?|iê(?:u|ng?|[cmpt])
    |o(?:i|ng?|[cmpt])?|oo(?:ng|c)|ô(?:i|ng?|[cmpt])?|ơ(?:i|[mnpt])?
    |u(?:[ai]|ng?|[cmpt])?|uô(?:i|ng?|[cmpt])|ư(?:[aiu]|ng?|[ct])?|ươ(?:[iu]|ng?|[cmpt])|y(?:ch|nh|[nt])?|yê(?:u|ng?|[mt])
    |o(?:a(?:[ioy]|ch|nh|ng?|[cmpt])?|ă(?:ng?|[cmt])|e(?:o|[nt])?)
    |u(?:â(?:y|ng?|t)|ê(?:ch|nh)?|ơ|y(?:[aunt]|ê[nt]|ch|nh)?))""",
    re.VERBOSE,
)
_STOPPED = ("p", "t", "c", "ch")  # a syllable that ends so has the tone sắc or nặng


@dataclass
class OldText:
    """What the rows of one file say of the encoding that they were typed in."""

    _words: dict[str, set[str]] = field(default_factory=dict)  # encoding → words that it makes syllables
    _first: dict[str, tuple[int, str]] = field(default_factory=dict)  # encoding → line and cell
    _n_rows: Counter[str] = field(default_factory=Counter)
    _others: set[str] = field(default_factory=set)  # words that have such letters and read in no encoding

    def look(self, line: int, cells: Iterable[str]) -> str:
        """Note which encoding makes Vietnamese of a row, and return it; "" if none does."""
        odd = [cell for cell in cells if looks_old(cell)]
        words = {word: readings(word) for cell in odd for word in _WORD.findall(cell) if not word.isascii()}
        counted = {word: encodings for word, encodings in words.items() if encodings is not None}
        count = Counter(name for encodings in counted.values() for name in encodings)
        best = max(count, key=lambda name: count[name], default="")
        if best and count[best] >= _SHARE * (len(counted) - count[best]):
            self._first.setdefault(best, (line, odd[0]))
            self._words.setdefault(best, set()).update(w for w, encodings in counted.items() if best in encodings)
            self._n_rows[best] += 1
            return best
        self._others.update(w for w, encodings in counted.items() if not encodings and looks_old(w))
        return ""

    def found(self) -> list[str]:
        """Return the encodings that the file has enough of."""
        # A page of Norwegian has a few words that would be syllables, among hundreds that would not.
        enough = max(_FEWEST_WORDS, len(self._others))
        return [name for name, words in self._words.items() if len(words) >= enough]

    def problems(self, file: str) -> list[str]:
        """Return one problem for each encoding found: its name, where it begins, how that reads, what to do."""
        found = []
        for name in self.found():
            line, cell = self._first[name]
            sign = _SIGN.search(cell) or _PAIR.search(cell)
            start = max(0, sign.start() - _SHOWN // 2) if sign else 0
            shown = cell[start : start + _SHOWN].strip()
            rows = "1 row" if self._n_rows[name] == 1 else f"{self._n_rows[name]:,} rows"
            what = f"{shown!r} reads {read_as(shown, name)!r} once converted"
            advice = _OPEN_AGAIN if name == "cp1252" else _CONVERT
            found.append(f"{file}:{line}: {NAMES[name]}, not Unicode, in {rows}: {what}; {advice}")
        return found


def looks_old(text: str) -> bool:
    """Return whether text has any sign of an old encoding: quick, and true of foreign words and signs as well."""
    return not text.isascii() and bool(_SIGN.search(text) or _PAIR.search(text))


@lru_cache(maxsize=2**16)
def readings(word: str) -> tuple[str, ...] | None:
    """Return the encodings in which a word is a Vietnamese syllable; None if it tells nothing."""
    bare = word.strip(_AROUND)
    if bare.isascii() or not any(map(str.isalpha, bare)) or _UNIT.fullmatch(bare) or _is_syllable(bare):
        return None
    if _FOREIGN.search(word):
        return ()
    as_read = {name: read_as(word, name) for name in NAMES}
    return tuple(name for name, text in as_read.items() if text != word and _is_syllable(text.strip(_AROUND)))


def read_as(text: str, encoding: str) -> str:
    """Return text as it reads in an encoding, given as Latin-1 shows its bytes."""
    if encoding == "cp1258":
        return nfc(text.encode("latin-1", "replace").decode("cp1258", "replace"))
    if encoding == "cp1252":
        return b"".join(map(_byte, text)).decode("utf-8", "replace")
    from viparse import fix

    read: str = fix(text, encoding=encoding)
    return read


def _byte(character: str) -> bytes:
    """Return the byte that Windows-1252 shows so; it leaves five bytes undefined, which come as in Latin-1."""
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1", "replace")


def _is_syllable(word: str) -> bool:
    apart = unicodedata.normalize("NFD", word.lower().replace("ð", "đ"))  # a common look-alike
    flat = nfc(apart.translate(_NO_TONES))
    tones = [c for c in apart if c in _TONES]
    if len(tones) > 1 or not _SYLLABLE.fullmatch(flat):
        return False
    return tones in (["\u0301"], ["\u0323"]) if flat.endswith(_STOPPED) else True
