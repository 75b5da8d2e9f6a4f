"""Phone numbers, e-mail addresses, numbers of identity cards, bank accounts and bank cards: found, and masked when shown.

A number is taken for what a word before it says ("STK", "CCCD"); without one only for what its own form proves: a phone
number of Vietnam by its first digits, a card by its issuer's digits and its check digit.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hoidap.text import fold

Secret = Literal["card", "identity", "account", "phone", "e-mail"]

_LAST = 3  # characters that are shown
_BEFORE = 40  # characters in which the word stands that names a number
_MAYBE = re.compile(r"@|\d(?:[ .()-]{0,2}\d){7}")
_NUMBER = re.compile(r"(?<!\w)(?<!\w[.,/-])\d(?:[ .-]?\d){7,21}(?![\w])(?![.,-]\d)")
_MONEY = re.compile(r"\d{1,3}(?:\.\d{3})+")
_CURRENCY = re.compile(r"[ \u00a0]?(?:đ|₫|d\b|k\b|vnd|vnđ|đồng|dong|usd|triệu|trieu|%)(?!\w)", re.IGNORECASE)
_PHONE = re.compile(
    r"(?<!\w)(?<!\d[.,])(?:"
    r"(?:(?:\+|00)?84\)?[ .-]?(?:\(0\)[ .-]?)?|\(?0)(?:[35789](?:[ .()-]{0,2}\d){8}|2(?:[ .()-]{0,2}\d){9})"
    r"|1[89]00(?:[ .-]?\d){4,6}"
    r")(?!\w)"
)
_E_MAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}")
# Folded, as they stand before a number; what is between may not be another number.
_IDENTITY = re.compile(r"\b(?:cccd|cmnd|cmt|cmtnd|can cuoc|chung minh|dinh danh|ho chieu|passport)\b[^\d]*$")
_ACCOUNT = re.compile(r"\b(?:stk|so tai khoan|so tk|tai khoan|account(?: number| no)?|acc)\b[^\d]*$")
_TAX = re.compile(r"\b(?:mst|ma so thue|tax(?: code)?|ma so doanh nghiep|ma don|ma van don)\b[^\d]*$")
_ISSUERS = re.compile(r"4\d{15}|5[1-5]\d{14}|2[2-7]\d{14}|35\d{14}|3[47]\d{13}|62\d{14,17}|9704(?:\d{12}|\d{15})")


@dataclass(frozen=True, slots=True)
class Personal:
    """A piece of personal data in a text."""

    kind: Secret
    start: int
    text: str

    @property
    def key(self) -> str:
        """What is the same however it is written."""
        if self.kind == "e-mail":
            return self.text.lower()
        digits = re.sub(r"\D", "", self.text)
        return (
            "0" + re.sub(r"^(?:00)?84(?:0(?=\d{9}))?", "", digits)
            if self.kind == "phone" and _is_abroad(digits)
            else digits
        )


def find_personal(text: str) -> list[Personal]:
    """Return the personal data of a text in NFC, in its order."""
    if not _MAYBE.search(text):
        return []
    found = list(_numbers(text))
    taken = [(one.start, one.start + len(one.text)) for one in found]
    for kind, pattern in (("phone", _PHONE), ("e-mail", _E_MAIL)):
        for match in pattern.finditer(text):
            if any(match.start() < end and start < match.end() for start, end in taken):
                continue
            if kind == "e-mail" or not _TAX.search(_before(text, match.start())):
                found.append(Personal(kind, match.start(), match.group()))  # type: ignore[arg-type]
    return sorted(found, key=lambda one: one.start)


def hidden(text: str) -> str:
    """Return text with a dot for all of its letters and digits but the last three characters."""
    return re.sub(r"\w", "•", text[:-_LAST]) + text[-_LAST:]


def mask(text: str) -> str:
    """Return text with its personal data hidden; its length stays."""
    last = ""
    while text != last:  # hiding one may part it from another that it was grown together with
        last = text
        for one in find_personal(text):
            text = text[: one.start] + hidden(one.text) + text[one.start + len(one.text) :]
    return text


def _numbers(text: str) -> Iterator[Personal]:
    """Give out the numbers that a word before them, or their check digit, says what they are."""
    for match in _NUMBER.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        before = _before(text, match.start())
        if _is_card(digits):
            yield Personal("card", match.start(), match.group())
        elif len(digits) in (8, 9, 12) and _IDENTITY.search(before):
            yield Personal("identity", match.start(), match.group())
        elif _ACCOUNT.search(before) and not _is_money(text, match):
            yield Personal("account", match.start(), match.group())


def _before(text: str, start: int) -> str:
    return fold(text[max(0, start - _BEFORE) : start])


def _is_money(text: str, match: re.Match[str]) -> bool:
    return bool(_MONEY.fullmatch(match.group()) or _CURRENCY.match(text, match.end()))


def _is_abroad(digits: str) -> bool:
    """Return whether a phone number begins with Vietnam's code."""
    return digits.startswith(("84", "0084")) and len(digits) > 10


def _is_card(digits: str) -> bool:
    """Return whether an issuer of cards has such numbers, and the check digit (Luhn) is right."""
    if not _ISSUERS.fullmatch(digits):
        return False
    doubled = [int(d) * (1 + place % 2) for place, d in enumerate(reversed(digits))]
    return sum(d - 9 * (d > 9) for d in doubled) % 10 == 0
