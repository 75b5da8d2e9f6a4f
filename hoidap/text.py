"""Vietnamese text: one normal form, folding without diacritics, and what counts as the same text.

NFC is applied at every entrance (data, questions, evaluation): a tokenizer gives NFD text about twice the tokens,
and two byte strings that look alike must not be two questions.
"""

import re
import unicodedata

# Two accepted places for the tone mark (hoà and hòa, thuý and thúy); NFC does not unify them. The older style is the key.
_NEW_STYLE = re.compile(r"([oOuU])([àáảãạèéẻẽẹỳýỷỹỵÀÁẢÃẠÈÉẺẼẸỲÝỶỸỴ])(?![^\W\d_]|[\u0300-\u036f])")
_MARKS = {"\u0300", "\u0301", "\u0303", "\u0309", "\u0323"}  # huyền, sắc, ngã, hỏi, nặng
_SPACES = re.compile(r"\s+")


def nfc(text: str) -> str:
    """Return the composed form (NFC), the form all of hoidap works in."""
    return unicodedata.normalize("NFC", text)


def fold(text: str) -> str:
    """Return lower-case text without any diacritics: "Đặt hàng" → "dat hang".

    đ has no decomposition in Unicode and Ð (U+00D0) is a common look-alike, so both are mapped by hand.
    """
    decomposed = unicodedata.normalize("NFD", text.lower())
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    return bare.replace("đ", "d").replace("ð", "d")


def _older_style(match: re.Match[str]) -> str:
    first, second = match.groups()
    start = match.start()
    glide = first in "uU"
    if glide and (match.string[start - 1 : start] in ("q", "Q") or not fold(second).startswith("y")):
        return match.group()  # quý keeps its mark on y; uè and uà are not the pairs whose mark moves
    if not glide and fold(second).startswith("y"):
        return match.group()
    base = unicodedata.normalize("NFD", second)
    tone = next(c for c in base if c in _MARKS)
    return nfc(first + tone) + base.replace(tone, "")


def comparable(text: str) -> str:
    """Return the key by which two answers count as the same after normalisation.

    Case, runs of white space, the place of a tone mark (hoà or hòa) and the punctuation at either end do not count;
    every letter, tone, digit and inner sign does.
    """
    folded = nfc(_NEW_STYLE.sub(_older_style, nfc(text)).casefold())  # ŉ and a few more fall apart when folded
    flat = _SPACES.sub(" ", folded)
    return flat.strip(" .,!?…;:\"'“”‘’")
