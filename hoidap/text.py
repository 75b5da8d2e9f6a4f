"""Vietnamese text: one normal form, folding without diacritics, and what counts as the same text.

NFC is applied at every entrance (data, questions, evaluation): a tokenizer gives NFD text about twice the tokens,
and two byte strings that look alike must not be two questions.
"""

import re
import unicodedata

from hoidap.tones import restyle

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


def comparable(text: str) -> str:
    """Return the key by which two answers count as the same after normalisation.

    Case, runs of white space, the place of a tone mark (hoà or hòa) and the punctuation at either end do not count;
    every letter, tone, digit and inner sign does.
    """
    folded = nfc(restyle(nfc(text), "older").casefold())  # ŉ and a few more fall apart when folded
    flat = _SPACES.sub(" ", folded)
    return flat.strip(" .,!?…;:\"'“”‘’")
