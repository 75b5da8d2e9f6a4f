"""What an answer asserts that can be checked: prices, numbers with units, dates, times, phones, addresses, links.

Each fact has a canonical value, so that "1,5 triệu" and "1.500.000đ" are one fact, and 8h and 8h30 are two. A place in a
text belongs to one kind: the most special kind is looked for first, and what it took no other kind sees.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Literal

from hoidap.text import fold, nfc

Kind = Literal["email", "link", "phone", "address", "date", "time", "money", "percent", "number"]
_MOST_CHARACTERS = 32_768


@dataclass(frozen=True)
class Fact:
    """One thing that a text asserts."""

    kind: Kind
    value: str  # canonical: equal for the same fact however it is written
    text: str  # as written; "3-5 ngày" is two facts of one text
    start: int  # where it begins, in the text's NFC form


def facts_of(text: str) -> tuple[Fact, ...]:
    """Return the facts of a text (of its first 32,768 characters, in NFC), in its order."""
    text = nfc(text)[:_MOST_CHARACTERS]
    cased, flat = _plain(text)
    found: list[Fact] = []
    for kind, pattern, values in _KINDS:
        spans = []
        for match in pattern.finditer(cased if kind == "address" else flat):
            start, end = match.span()
            canonical = values(match)
            if canonical:
                found += [Fact(kind, value, text[start:end], start) for value in canonical]
                spans.append((start, end))
        cased, flat = _without(cased, spans), _without(flat, spans)
    return tuple(sorted(found, key=lambda fact: fact.start))


def missing_facts(said: str, wanted: str) -> tuple[Fact, ...]:
    """Return the facts of ``wanted`` that ``said`` lacks."""
    known = {(fact.kind, fact.value) for fact in facts_of(said)}
    return tuple(fact for fact in facts_of(wanted) if (fact.kind, fact.value) not in known)


def foreign_facts(said: str, wanted: str) -> tuple[Fact, ...]:
    """Return the facts of ``said`` that ``wanted`` lacks."""
    return missing_facts(wanted, said)


# Words that without their marks would be read as another word; "tới" between two numbers is "đến", not the evening.
_MISREAD = re.compile(
    r"(?<!\w)(?:tới|tôi|tỏi|phở|phó|sau|sâu|tạm|tâm|bà|bá|bã|bay|bày|hải|hài|hại|bón|mọt|đem|đếm|ngân|ngăn|ngắn|lẫn|đối|đổi|đợi"
    r"|th[ứu] (?:hai|ba|tư|tu|năm|nam|sáu|sau|bảy|bay)|(?:mỗi|hằng|hàng|cuối|đầu|cả|nhiều|vài|mấy|sang|qua) năm)(?!\w)"
)
_MISREAD_IF_MARKED = re.compile(r"(?<!\w)(?:ngay|nam|toi)(?!\w)")  # in a text with marks not ngày, năm, tối
_LIKE_ASCII = str.maketrans({"₫": "đ", "²": "2", "³": "3", **dict.fromkeys("‐‑‒–—−~", "-")})


def _plain(text: str) -> tuple[str, str]:
    """Return a text without marks, with its capitals and without them: each letter stays at its place."""
    low = "".join(character.lower()[:1] for character in text.translate(_LIKE_ASCII))
    bare = "".join(map(_bare, low))
    read = _MISREAD.sub(lambda match: "den" if match.group() == "tới" else "_" * len(match.group()), low)
    if bare != low:
        read = _MISREAD_IF_MARKED.sub(lambda match: "_" * len(match.group()), read)
    flat = "".join(map(_bare, read))
    one_case = not any(character.isupper() for character in text)  # then every word may begin a name
    cased = [a.upper()[:1] if one_case or b.isupper() else a for a, b in zip(flat, text, strict=True)]
    return "".join(cased), flat


@lru_cache(maxsize=4096)
def _bare(character: str) -> str:
    return " " if character.isspace() else fold(character)[:1] or "_"


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """Return a text in which some places are unreadable."""
    parts, end = [], 0
    for start, stop in spans:
        parts += [text[end:start], "\0" * (stop - start)]
        end = stop
    return "".join([*parts, text[end:]])


_DIGITS = r"(?:\d{1,3}(?:\.\d{3}){1,4}(?!\d)(?:,\d{1,3}(?!\d))?|\d{1,3}(?:,\d{3}){2,4}(?!\d)|\d{1,3}(?: \d{3}){1,4}(?!\d)"
_DIGITS += r"|\d{1,15}(?:[.,]\d{1,3})?(?!\d))"
# "một" is an article as often and "năm" a year: words are numbers only directly before a unit.
_ONES = {"mot": 1, "hai": 2, "ba": 3, "bon": 4, "tu": 4, "nam": 5, "lam": 5, "sau": 6, "bay": 7, "tam": 8, "chin": 9}
_ONE = "mot|hai|ba|bon|nam|sau|bay|tam|chin"
_WORDS = rf"(?:(?:{_ONE}) )?muoi(?: (?:{_ONE}|tu|lam))?|{_ONE}"
_NUMBER = rf"(?:(?<![\w.,]){_DIGITS}|(?<!\w)(?<!\d )(?:{_WORDS})(?= ))"
_TO = r"(?: ?- ?| (?:den|toi|hoac) )"
_RANGE = rf"(?:(?P<first>(?<![\w.,]){_DIGITS}|(?<!\w)(?:{_ONE})(?= )){_TO})?(?P<number>{_NUMBER})"
_SCALE = {"k": 10**3, "nghin": 10**3, "ngan": 10**3, "trieu": 10**6, "tr": 10**6, "ty": 10**9, "ti": 10**9}
_SCALES = r"(?:nghin|ngan|trieu|tr|k|t[yi](?! (?:le|so|gia|trong|vi)\b))"
_LASTING = r"giay|phut|gio|tieng|ngay|tuan|thang(?! (?:chap|gieng|am|duong)\b)|quy|nam|hoc k[iy]|k[iy](?! tu\b)"
_THINGS = (
    r"nguoi|khach|be|sinh vien|hoc sinh|cai|chiec|bo|mon|phan(?! tram\b)|ly|chen|to|dia|am(?! lich\b)|goi|hop|hu|doi|lan"
    r"|chi nhanh|co so|cua hang|loai|mau|mui|hang|buoi|tiet|tin chi|ban|ho so|km|m2|m3|met|cm|mm|m|kg|gam|gr|g|tan|lit|ml"
    r"|gb|mb|tuoi|diem|cau|tang|lau|phong|lop|ca|chu|ky tu|khoa|nganh|truong|trang|dot|xe|chuyen|luot"
)
_UNITS = rf"(?:{_LASTING}|{_THINGS}|h|(?<=\d)p|l)"
_LABEL = r"(?<!lau )(?<!tang )(?<!quan )(?<!phong )(?<!phuong )(?<!so )"  # lầu 1 chi nhánh A is no one branch
_ALIKE = {"h": "gio", "p": "phut", "l": "lit", "hoc ki": "hoc ky", "ki": "ky", "gam": "g", "gr": "g", "met": "m"}


def _amount(number: str) -> Decimal:
    """Read a number as Vietnamese writes it: a full stop or a space between thousands, a comma before decimals."""
    if number[0].isalpha():
        tens, _, ones = number.rpartition("muoi")
        return Decimal((10 * _ONES.get(tens.strip(), 1) if "muoi" in number else 0) + _ONES.get(ones.strip(), 0))
    if re.fullmatch(r"\d+(?:[. ]\d{3})+(?:,\d+)?|\d+(?:,\d{3}){2,}", number):
        separators = "," if number.count(",") > 1 else ". "
        number = "".join(sign for sign in number if sign not in separators)
    return Decimal(number.replace(",", "."))


def _shown(amount: Decimal) -> str:
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _email(match: re.Match[str]) -> list[str]:
    return [match.group()]


def _link(match: re.Match[str]) -> list[str]:
    return [re.sub(r"^(?:https?://)?(?:www\.)?", "", match.group()).rstrip("/")]


def _phone(match: re.Match[str]) -> list[str]:
    digits = re.sub(r"\D", "", match.group())
    if "+" in match.group():
        digits = "0" + digits.removeprefix("84").removeprefix("0")
    return [digits]


def _address(match: re.Match[str]) -> list[str]:
    """Write the lane before the house, as in 5/12 Láng for "số 12 ngõ 5 đường Láng"."""
    house, lanes = match.group("house"), re.findall(r"\d[\w/]*", match.group("lanes"))
    dated = re.fullmatch(r"(?:0?[1-9]|[12]\d|3[01])/(?:0?[1-9]|1[0-2])", house)
    if not (match.group("sign") or lanes or match.group("road") or ("/" in house and not dated)):
        return []
    street = re.sub(r"^so ", "", (match.group("street") or match.group("numbered")).lower()).replace(" thang ", "/")
    return ["/".join([*reversed(lanes), house.lstrip("0") or "0"]).lower() + " " + street]


def _date(match: re.Match[str]) -> list[str]:
    first, day, month, year = (match.groupdict().get(name) or "" for name in ("first", "day", "month", "year"))
    days = [part for part in (first, day) if part]
    if not (1 <= int(month) <= 12 and all(1 <= int(part) <= 31 for part in days)):
        return []
    year = f"20{year}" if len(year) == 2 else year
    return [
        "/".join([*([str(int(part))] if part else []), str(int(month)), *([year] if year else [])]) for part in days or [""]
    ]


def _time(match: re.Match[str]) -> list[str]:
    minute = int(
        match.group("colon") or match.group("minute") or match.group("minutes") or (30 if match.group("half") else 0)
    )
    hours = [_hour(int(_amount(part)), match.group("part")) for part in (match.group("first"), match.group("hour")) if part]
    if minute > 59 or any(hour + minute / 60 > 24 for hour in hours):
        return []
    return [f"{hour}:{part:02}" for hour, part in zip(hours, [0, minute][-len(hours) :], strict=True)]


def _hour(hour: int, part: str | None) -> int:
    late = part in {"chieu", "toi", "pm"} or (part in {"dem", "khuya"} and hour > 5) or (part == "trua" and hour < 4)
    if hour == 12:
        return 0 if part in {"toi", "dem", "khuya", "am"} else 12
    return hour + 12 if late and hour < 12 else hour


def _money(match: re.Match[str]) -> list[str]:
    scale, first, number = match.group("scale"), match.group("first"), match.group("number")
    if not scale:
        # 150,000đ: no price in đồng has three decimals.
        amount = _amount(re.sub(r"^(\d{1,3}),(\d{3})$", r"\1.\2", number))
        factor = Decimal(1000 if amount >= 1000 else 1)  # 30-70.000đ
    else:
        factor = Decimal(_SCALE[scale])
        amount = _amount(number) * factor
        rest, more = (match.group("rest") or "").strip(), match.group("more")
        if match.group("half"):
            amount += factor / 2
        elif more:
            amount += _amount(more) * _SCALE[match.group("more_scale")]
        elif rest:
            amount += int(rest) * factor / 10 ** len(rest)
    amounts = [amount]
    if first:
        low = _amount(first)
        amounts.insert(0, low * factor if low < 1000 else low)
    foreign = match.group("foreign") or match.group("foreign2") or ""
    return [_shown(value) + (" " + foreign[:3] if foreign else "") for value in amounts]


def _percent(match: re.Match[str]) -> list[str]:
    return [_shown(_amount(number)) for number in (match.group("first"), match.group("number")) if number]


def _counted(match: re.Match[str]) -> list[str]:
    unit, factor = match.group("unit"), _SCALE.get(match.group("scale") or "", 1)
    if unit == "phan" and match.group("number") == "mot":
        return []  # "một phần" is "partly"
    numbers = [number for number in (match.group("first"), match.group("number")) if number]
    return [f"{_shown(_amount(number) * factor)} {_ALIKE.get(unit, unit)}" for number in numbers]


def _number(match: re.Match[str]) -> list[str]:
    number, long = match.group("number"), match.group("long")
    if long:  # an account or an identity number: its zeros count
        return [long.replace(" ", "")]
    return [match.group("code") + _shown(_amount(number))]


_HOUSE = r"\d{1,4}[A-Fa-f]?(?:/\d{1,3}[A-Fa-f]?){0,4}(?![\w/])"
# A street's name ends where a ward, a district or the sentence goes on.
_AFTER = r"(?:phuong|quan|huyen|xa|thi|thanh pho|tp|tinh|p|q|va|gan|a|nha|nhe|o|tai|la|thuoc|de|so|co)"
_NAME = rf"(?!(?i:{_AFTER})\b)[A-Z][A-Za-z]{{0,20}}\b"
_DATE_END = r"(?![\d/]|[.,-]\d)"
_KINDS: tuple[tuple[Kind, re.Pattern[str], Callable[[re.Match[str]], list[str]]], ...] = (
    ("email", re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}", re.ASCII), _email),
    (
        "link",
        re.compile(
            r"(?:https?://[^\s<>\"'()\0]{1,400}|(?<![\w@.-])(?:[a-z0-9][a-z0-9-]{0,62}\.){1,4}"
            r"(?:vn|com|net|org|info|io|gov|edu|shop|store|app|me|example)(?![\w-])(?:[/?#][^\s<>\"'()\0]{0,300})?)"
            r"(?<![.,;:!?…”’])",
            re.ASCII,
        ),
        _link,
    ),
    (
        "phone",
        re.compile(
            r"(?<![\w.,/+])(?:(?:\+84 ?(?:\(0\) ?)?\d\d|0\d\d|\(0\d{2,3}\))(?:[ .-]?\d){6,8}"
            r"|1[89]00(?:[ .]?\d){4,6})(?!\w|[.,]\d)",
            re.ASCII,
        ),
        _phone,
    ),
    (
        "address",  # a house number by itself is a number: it takes a stroke, "số", a lane or a word for street
        re.compile(
            rf"(?<![\w/.,-])(?:(?P<sign>(?i:so)(?: (?i:nha))?) )?(?P<house>{_HOUSE})"
            rf"(?P<lanes>(?:,? (?i:ngo|hem|ngach|kiet) {_HOUSE}){{0,3}})(?:,? (?P<road>(?i:duong|pho)))?,? "
            rf"(?:(?P<street>{_NAME}(?: {_NAME}){{0,3}})"
            rf"|(?<=(?i:ng) )(?P<numbered>(?i:so )?\d{{1,3}}(?:(?:/|(?i: thang ))\d{{1,2}})?(?!\w)))",
            re.ASCII,
        ),
        _address,
    ),
    (
        "date",
        re.compile(
            rf"(?<![\w/.,-])(?P<day>\d{{1,2}})(?:(?P<sign>[/.-])(?P<month>\d{{1,2}})(?P=sign)(?P<year>\d{{4}}|(?<=/)\d{{2}})){_DATE_END}",
            re.ASCII,
        ),
        _date,
    ),
    (
        "date",
        re.compile(r"(?<![\w/.,-])(?P<year>[12]\d{3})-(?P<month>\d\d)-(?P<day>\d\d)" + _DATE_END, re.ASCII),
        _date,
    ),
    (
        "date",
        re.compile(
            rf"(?<![\w/.,])(?:ngay )?(?:(?P<first>\d{{1,2}}){_TO})?(?P<day>\d{{1,2}})(?:/| thang )(?P<month>\d{{1,2}})"
            rf"(?:(?:/| nam |, nam )(?P<year>\d{{4}}))?{_DATE_END}(?! ?(?:{_UNITS}|{_SCALES})\b)",
            re.ASCII,
        ),
        _date,
    ),
    (
        "date",
        re.compile(r"(?<![\w/.,-])(?:thang )?(?P<month>\d{1,2})(?:/| nam )(?P<year>[12]\d{3})" + _DATE_END, re.ASCII),
        _date,
    ),
    (
        "time",
        re.compile(
            rf"(?<![\w.,:])(?:(?P<first>\d{{1,2}}){_TO})?(?P<hour>\d{{1,2}}|(?<!\d )(?:{_WORDS})(?= ))"
            r"(?::(?P<colon>\d\d)(?![\d:])|(?: ?h(?![a-z])| ?gio\b|g(?=\d\d\b))"
            r"(?: ?(?P<minutes>\d{1,2}) ?(?:phut|p)\b| ?(?P<minute>\d\d)(?!\w|[.,]\d| ?%|(?<= \d\d)/\d)"
            r"| ?(?P<half>ruoi)\b)?)"
            r"(?: (?P<part>sang|trua|chieu|toi|dem|khuya|am|pm)\b(?! \d))?",
            re.ASCII,
        ),
        _time,
    ),
    (
        "money",
        re.compile(
            rf"{_RANGE}(?: ?(?P<scale>{_SCALES})(?![a-z])(?: ?(?P<more>\d{{1,3}}) ?(?P<more_scale>nghin|ngan|trieu|k)\b"
            rf"|(?P<rest>(?<=[a-z])\d{{1,3}}\b|(?<=[a-z]) \d{{3}}\b(?![.,/]\d| ?{_UNITS}\b))| (?P<half>ruoi)\b)?"
            rf"(?:(?: ?(?P<foreign>usd|do la|euro?))\b| ?(?:dong|vnd|d)\b|(?! (?:{_THINGS})\b))"
            r"| ?(?:dong(?! (?:phuc|ho|nghiep|gia|thoi)\b)|vnd|d|(?P<foreign2>usd))\b)",
            re.ASCII,
        ),
        _money,
    ),
    ("percent", re.compile(rf"{_RANGE} ?(?:%|phan tram\b)", re.ASCII), _percent),
    ("number", re.compile(rf"{_LABEL}{_RANGE}(?: ?(?P<scale>{_SCALES})\b)? ?(?P<unit>{_UNITS})\b", re.ASCII), _counted),
    (
        "number",
        re.compile(
            rf"(?P<code>\b[a-z]{{1,8}}(?=\d)|)"
            rf"(?:(?P<long>\d{{3,}}(?: \d{{3,}}){{2,5}}|\d{{16,}}|0\d{{5,}})|(?P<number>{_DIGITS}))",
            re.ASCII,
        ),
        _number,
    ),
)
