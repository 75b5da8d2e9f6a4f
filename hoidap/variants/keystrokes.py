"""What comes of a Vietnamese word that is typed in Telex or VNI: with the input method off, a mark missed, a key slipped.

Telex sets marks by letters (aa â, aw ă, ow ơ, uw ư, dd đ; s f r x j for the tones), VNI by digits (6 7 8 9; 1 to 5).
"""

import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from hoidap.text import nfc

Method = Literal["telex", "vni"]

_TONES = "\u0301\u0300\u0309\u0303\u0323"  # sắc, huyền, hỏi, ngã, nặng: the order of VNI's digits
_CIRCUMFLEX, _BREVE, _HORN = "\u0302", "\u0306", "\u031b"
_SHAPES = {"a": _CIRCUMFLEX + _BREVE, "e": _CIRCUMFLEX, "o": _CIRCUMFLEX + _HORN, "u": _HORN}
_TONE_KEYS: dict[Method, str] = {"telex": "sfrxj", "vni": "12345"}
_VNI_SHAPE_KEYS = {_CIRCUMFLEX: "6", _HORN: "7", _BREVE: "8"}
# Tones whose keys lie side by side: S and X, F and R. VNI's lie in a row, but who misses one there sees a digit.
_NEAR_TONES = {"\u0301": "\u0303", "\u0303": "\u0301", "\u0300": "\u0309", "\u0309": "\u0300"}
_STOPS = ("c", "ch", "p", "t")  # behind them is no other tone than sắc and nặng, and input methods know it
# Two vowels of which the second bears the tone; on the first it is a slip, or for oa, oe, uy at the end the other style.
_PAIRS = {("i", "e"), ("y", "e"), ("u", "o"), ("o", "a"), ("o", "e"), ("u", "y")}
_BOTH_STYLES = {("o", "a"), ("o", "e"), ("u", "y")}

# The keys beside a key; those that Telex takes for marks (s f r x j w, z, d behind a d) are left out.
_NEAR_KEYS = {
    "a": "q", "b": "vnh", "c": "vx", "d": "c", "g": "hvt", "h": "gnb", "i": "uok", "k": "lim", "l": "kp",
    "m": "nk", "n": "mbh", "o": "ipl", "p": "ol", "q": "a", "r": "t", "s": "a", "t": "yg", "u": "iyh", "v": "cbg",
    "x": "c", "y": "tuh",
}  # fmt: skip
_SHORTEST_MISTYPED = 3  # letters: of "mở" nothing would be left to know it by
# A tone or letter beside the right one must not make a customer's question rude.
_RUDE = frozenset(("buồi", "lồn", "cặc", "đĩ", "địt", "đù", "đụ", "đéo", "cứt", "đít"))


@dataclass(frozen=True)
class _Letter:
    base: str  # d for đ
    shape: str  # circumflex, breve, horn, "-" of đ, or none
    tone: str

    def __str__(self) -> str:
        if self.shape == "-":
            return "Đ" if self.base.isupper() else "đ"
        return nfc(self.base + self.shape + self.tone)


def is_marked(text: str) -> bool:
    """Return whether a text has any Vietnamese mark."""
    return any(letter.shape or letter.tone for letter in map(_letter, text))


def bare(text: str) -> str:
    """Return a text without its Vietnamese marks, case and all else kept: "Đặt hàng" → "Dat hang"."""
    return "".join(_letter(c).base for c in text)


def typed(word: str, method: Method, *, tone_last: bool = True, horn_once: bool = False) -> str:
    """Return the keys of a word as they stand when the input method is off: "trường" → "truwowngf" or "tru7o7ng2".

    Args:
        word: in NFC.
        method: Telex or VNI.
        tone_last: the tone's key comes at the end of the word, else behind its vowel.
        horn_once: ươ is typed with one horn, as every input method allows: "truowngf".

    """
    letters = _letters(word)
    shout = word.isupper() and len(word) > 1
    keys, last = [], ""
    for at, letter in enumerate(letters):
        key = _shape_key(letter, method)
        following = letters[at + 1] if at + 1 < len(letters) else None
        if horn_once and letter.shape == _HORN and following and (following.base + following.shape).lower() == "o" + _HORN:
            key = ""
        tone = _TONE_KEYS[method][_TONES.index(letter.tone)] if letter.tone else ""
        if tone_last:
            last, tone = last + tone, ""
        keys.append(letter.base + (key + tone).upper() if shout else letter.base + key + tone)
    return "".join(keys) + (last.upper() if shout else last)


def off(word: str, method: Method) -> list[str]:
    """Return what a word can look like when the input method is off or one key of it was pressed once too often."""
    ways = [typed(word, method, tone_last=last, horn_once=once) for last in (True, False) for once in (True, False)]
    toneless, tone = _without_tone(word)
    # The same tone's key twice takes the tone away again and leaves the key: "trươngf".
    doubled = [toneless + _TONE_KEYS[method][_TONES.index(tone)]] if tone and not word.isupper() else []
    return _others(word, [*ways, *doubled])


def misplaced(word: str) -> list[str]:
    """Return a word with one mark missed, on the wrong vowel, or of the neighbouring key: "trường" → "truờng", "trừơng"."""
    letters = _letters(word)
    found = [_without_tone(word)[0]]
    for at, letter in enumerate(letters):
        if letter.shape:
            found.append(_join(letters, {at: replace(letter, shape="")}))
        if letter.tone in _NEAR_TONES and not word.lower().endswith(_STOPS):
            found.append(_join(letters, {at: replace(letter, tone=_NEAR_TONES[letter.tone])}))
    horns = {at: replace(letter, shape="") for at, letter in enumerate(letters) if letter.shape == _HORN}
    found.append(_join(letters, horns))  # both of ươ are one key
    found += _moved_tones(letters)
    return _others(word, found)


def mistyped(word: str) -> list[list[str]]:
    """Return a word with one slip of the fingers, by kind: letters swapped, one doubled, dropped, the key beside it.

    None for words under three letters, nor where the doubled or neighbouring key would be a mark in Telex.
    """
    if len(word) < _SHORTEST_MISTYPED or not all(map(_is_key, word)):
        return []
    places = range(len(word))
    swapped = [
        _as_cased(word, word[:at] + word[at + 1] + word[at] + word[at + 2 :])
        for at in places[:-1]
        if not set(word[at : at + 2]) & set("đĐ")  # which is two keys
    ]
    doubled = [_as_cased(word, word[: at + 1] + word[at:]) for at in places if word[at].lower() in "bcghklmnpqtv"]
    dropped = [_as_cased(word, word[:at] + word[at + 1 :]) for at in places[1:]]  # the first letter is what one looks at
    beside = [
        word[:at] + (key.upper() if word[at].isupper() else key) + word[at + 1 :]
        for at in places
        for key in _NEAR_KEYS.get(word[at].lower(), "")
    ]
    kinds = [_others(word, found) for found in (swapped, doubled, dropped, beside)]
    return [found for found in kinds if found]


def _as_cased(word: str, slip: str) -> str:
    """Return a slip with its capital where the word has it: Shift was pressed in time."""
    return slip[0].upper() + slip[1:].lower() if word.istitle() else slip


@lru_cache(maxsize=2048)
def _letter(character: str) -> _Letter:
    """Return a letter apart from its marks; what is no letter of Vietnamese is its own base."""
    if character in "đĐðÐ":  # U+00D0 is a common look-alike
        return _Letter("D" if character.isupper() else "d", "-", "")
    base, marks = (apart := unicodedata.normalize("NFD", character))[0], apart[1:]
    shape = "".join(m for m in marks if m not in _TONES)
    tone = "".join(m for m in marks if m in _TONES)
    known = base.lower() in "aeiouy" and base.isascii() and len(tone) <= 1
    if not known or (shape and (len(shape) > 1 or shape not in _SHAPES.get(base.lower(), ""))):
        return _Letter(character, "", "")
    return _Letter(base, shape, tone)


def _letters(word: str) -> list[_Letter]:
    return [_letter(c) for c in word]


def _is_key(character: str) -> bool:
    return _letter(character).base.isascii() and character.isalpha()


def _shape_key(letter: _Letter, method: Method) -> str:
    if not letter.shape:
        return ""
    if letter.shape == "-":
        return "d" if method == "telex" else "9"
    if method == "vni":
        return _VNI_SHAPE_KEYS[letter.shape]
    return letter.base.lower() if letter.shape == _CIRCUMFLEX else "w"


def _join(letters: list[_Letter], new: dict[int, _Letter]) -> str:
    return "".join(str(new.get(at, letter)) for at, letter in enumerate(letters))


def _without_tone(word: str) -> tuple[str, str]:
    letters = _letters(word)
    tone = "".join(letter.tone for letter in letters)[:1]
    return "".join(str(replace(letter, tone="")) for letter in letters), tone


def _moved_tones(letters: list[_Letter]) -> list[str]:
    """Return a word with its tone on the other vowel of a pair: "đựơc", "khỏan"; "hòa" ↔ "hoà" at the end of a word."""
    found = []
    for at in range(len(letters) - 1):
        first, second = letters[at], letters[at + 1]
        pair = (first.base.lower(), second.base.lower())
        if pair not in _PAIRS or (at and letters[at - 1].base in "qQ"):
            continue
        is_last = at + 2 == len(letters)
        if second.tone or (first.tone and is_last and pair in _BOTH_STYLES):
            moved = {at: replace(first, tone=second.tone), at + 1: replace(second, tone=first.tone)}
            found.append(_join(letters, moved))
    return found


def _others(word: str, found: list[str]) -> list[str]:
    """Return each once, without the word itself and what would be rude."""
    return [w for w in dict.fromkeys(found) if w != word and w.lower() not in _RUDE]
