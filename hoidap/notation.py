"""How numbers, prices, dates, hours, phones and addresses are written in Vietnamese, with diacritics and without.

A separator before three digits parts thousands, another one decimals: 2.000 is two thousand and 2,5 two and a half.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from typing import Any

from hoidap.text import fold, nfc

Match = re.Match[str]
_MOST_CHARACTERS = 32_768  # as in a cell; what is behind them is not read
_TAKEN = "\0"
_SIGNS = str.maketrans(dict.fromkeys("‐‑‒–—−", "-") | {"×": "x", "’": "'", "′": "'"})


def strip_marks(text: str) -> str:
    """Return text without diacritics, each character at its place."""
    return text if text.isascii() else "".join(map(_strip_one, text))


@lru_cache(maxsize=2**12)
def _strip_one(character: str) -> str:
    bare = character if character.isascii() else fold(character)
    return bare if len(bare) == 1 else character


def _both(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table whose words are found without diacritics too."""
    return {strip_marks(word): value for word, value in table.items()} | table


DIGITS = _both({
    "một": 1, "mốt": 1, "hai": 2, "ba": 3, "bốn": 4, "tư": 4, "năm": 5, "lăm": 5, "sáu": 6, "bảy": 7, "bẩy": 7, "tám": 8,
    "chín": 9,
})  # fmt: skip
_ONE = "(?:một|hai|ba|bốn|năm|sáu|bảy|bẩy|tám|chín)"
_BARE_ONE = "(?:mot|hai|ba|bon|chin)"  # the others are too often "sau" (after), "nam" (year), "bay" (fly), "tam" (about)
_TENS = rf"(?:{_ONE} mươi(?: (?:mốt|tư|lăm|{_ONE}))?|mười(?: (?:lăm|{_ONE}))?)"
_SPOKEN = rf"(?:{_ONE} trăm(?: (?:lẻ|linh) {_ONE}| {_TENS})?|{_TENS}|{_ONE})(?!\w)"
_SCALES = {
    "trăm": 100, "k": 10**3, "nghìn": 10**3, "ngàn": 10**3, "tr": 10**6, "triệu": 10**6, "tỷ": 10**9, "tỉ": 10**9,
}  # fmt: skip
SCALES = _both(_SCALES)
MONTHS = _both({"giêng": 1, "chạp": 12, "rằm": 15})  # of the lunar calendar, as is the 15th
# Each unit with the others that are counted in it, and how many of it these are.
_UNITS: dict[str, dict[str, str]] = {
    "giây": {}, "phút": {"giờ": "60", "tiếng": "60", "h": "60"}, "ngày": {"hôm": "1", "tuần": "7"}, "ngày làm việc": {},
    "đêm": {}, "tháng": {"năm": "12"}, "tuổi": {},
    "m": {"mm": "0.001", "cm": "0.01", "dm": "0.1", "mét": "1", "km": "1000"},
    "m²": {"m2": "1", "mét vuông": "1", "ha": "10000", "km2": "1000000", "km²": "1000000", "km vuông": "1000000"},
    "l": {"ml": "0.001", "lít": "1", "m3": "1000", "m³": "1000", "mét khối": "1000"},
    "g": {"mg": "0.001", "gr": "1", "gam": "1", "gram": "1", "lạng": "100", "kg": "1000", "ký": "1000", "kí": "1000",
          "tạ": "100000", "tấn": "1000000"},
    "kb": {}, "mb": {}, "gb": {}, "tb": {}, "w": {"kw": "1000"}, "kwh": {}, "mah": {}, "hz": {}, "inch": {},
    "độ": {"°c": "1", "độ c": "1"},
}  # fmt: skip
_WRITTEN = {
    word: (unit, Decimal(factor)) for unit, others in _UNITS.items() for word, factor in ({unit: "1"} | others).items()
}
FACTORS = _both(_WRITTEN)  # of each unit as written: in what it is counted, and how many of that it is
_SCALE, _UNIT = ("|".join(sorted(words, key=len, reverse=True)) for words in (_SCALES, _WRITTEN))
_COUNTED = (  # nouns before which a number word is a number
    "người|bé|khách|sinh viên|học sinh|thành viên|dân|lượt|lần|cái|chiếc|con|cây|quyển|cuốn|bản|tờ|bộ|đôi|hộp|gói|hũ|túi"
    "|chai|lon|viên|món|phần|suất|loại|mùi|màu|cỡ|size|kiểu|mẫu|cách|bước|lớp|ca|buổi|tiết|môn|khóa|khoá|khoa|trường|viện"
    "|ngành|ví|tín chỉ|học kỳ|chi nhánh|cửa hàng|cơ sở|địa điểm|phòng|tầng|lầu|khu|giường|hạng|đợt|kênh|điểm|đơn|câu|chữ"
    "|ký tự|trang"
)
_CURRENCY = r" ?(?:vnđ|vnd|đồng(?! (?:hồ|phục|bộ|nghiệp))|đ|₫)(?!\w)"
CURRENCIES = _both({"đ": "VND", "usd": "USD", "$": "USD", "đô la": "USD", "eur": "EUR", "euro": "EUR", "€": "EUR"})
_JOIN = " ?(?:-|~|đến|tới) ?"
_YEAR = r"(?:1\d|20)\d\d"
_END = r"(?![\w/]|[.,]\d)"
_NO_COUNT = rf"(?! ?(?!tháng (?:này|sau|tới|trước))(?:{_UNIT}|{_COUNTED}|%)(?!\w))"
_HOUSE = r"\d{1,4}[a-z]?(?:/\d{1,4}[a-z]?){0,4}"
_PATH = r"[^\s<>\"'“”‘’\0]"
_TLDS = "com|net|org|edu|gov|info|biz|vn|io|app|dev|shop|store|online|site|xyz|me|co|tv|asia|ly|be|gl|gle|page|link|example"
_PATTERNS = {
    "email": r"(?<![\w.+@-])[a-z0-9_.+-]{1,64}@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){1,4}(?![\w@])",
    "link": rf"(?<![\w@.-])(?:https?://{_PATH}+|(?:[a-z0-9-]{{1,63}}\.){{1,5}}(?:{_TLDS})(?![\w@-]|\.\w)(?:[:/?#]{_PATH}*)?)",
    "always": r"(?<![\w/])24(?:/7|h?/24h?)(?![\w/])",
    "document": r"(?<![\w/])\d{1,5}/(?:\d{4}/[a-zđ]{1,6}\d{0,2}|[a-zđ]{1,6}(?=-))(?:-[a-zđ0-9]{1,9}){0,3}(?![\w/])",
    "account": r"(?<!\w)(?:stk|tài khoản|mst|mã số thuế|cccd|cmnd|căn cước|số thẻ)(?!\w)[^\d\n\0]{0,30}"
    r"(?P<digits>\d(?:[ .-]?\d){5,18})(?!\w)",
    "phone": r"(?<![\w.,+(])(?:\(?(?:\+84|0084|84)\)?[ .-]?(?:\(0\)|0)?|\(?0)"
    r"(?P<digits>[12](?:[ .()-]{0,2}\d){9}|[3-9](?:[ .()-]{0,2}\d){8})(?!\w)(?![.,]\d)",
    "hotline": r"(?<![\w.,])(?P<digits>1[89]00(?:(?:[ .]?\d){6}|(?:[ .]?\d){4}|-(?!(?:1[5-9]|20)\d\d(?!\d))\d{4}))"
    r"(?!\w|[.,]\d)",
    "long": rf"(?<![\w.,])(?P<digits>\d{{9,19}})(?!\w|[.,]\d|{_CURRENCY})",
    "address": rf"(?<![\w/.,-])(?P<so>số (?:nhà )?)?(?P<house>{_HOUSE})"
    rf"(?P<alley>(?:,? (?:ngõ|ngách|hẻm|kiệt) {_HOUSE}){{0,3}}),? (?P<road>(?:đường|phố) )?(?=[^\W\d_])",
    "iso": r"(?<![\w/.,-])(?P<y>\d{4})-(?P<m>\d\d)-(?P<d>\d\d)(?![\w-])",
    "numeric": rf"(?<![\w/.,])(?:(?P<from>\d{{1,2}}){_JOIN})?(?P<d>\d{{1,2}})(?P<sign> ?[/.-] ?)"
    rf"(?P<m>\d{{1,2}})(?:(?P=sign)(?P<y>\d{{4}}|\d\d)|,? năm (?P<y2>\d{{4}}))?{_END}",
    "worded": rf"(?<!\w)(?:(?P<from>\d{{1,2}})(?:{_JOIN}| và )(?:ngày )?)?(?:(?:ngày|mùng|mồng) )?(?P<d>\d{{1,2}}|rằm) ?"
    rf"tháng (?P<m>\d{{1,2}}|giêng|chạp)(?:(?:,? năm | ?[/-] ?)(?P<y>\d{{4}}))?(?P<lunar> âm lịch| âm)?{_END}{_NO_COUNT}",
    "month": rf"(?<!\w)(?<!mỗi )(?<!một )(?<!\d )tháng (?P<m>\d{{1,2}}|giêng|chạp)(?:(?:,? năm | ?[/-] ?| )(?P<y>{_YEAR}))?"
    rf"(?P<lunar> âm lịch| âm)?{_END}{_NO_COUNT}",
    "month_year": rf"(?<![\w/.,])(?<!quý )(?P<m>\d{{1,2}}) ?[/-] ?(?P<y>(?:19|20)\d\d){_END}",
    "day": rf"(?<!\w)(?<!mỗi )(?<!một )(?<!\d )(?:(?:ngày|mùng|mồng) (?P<d>\d{{1,2}})|(?:mùng|mồng) (?P<w>{_ONE}))"
    rf"(?! ?- ?\d){_END}{_NO_COUNT}",
    "year": rf"(?<!\w)năm (?:học )?(?P<y>{_YEAR})(?:{_JOIN}(?:năm )?(?P<y2>{_YEAR}))?{_END}",
    "years": rf"(?<![\w/.,-])(?P<y>(?:19|20)\d\d) ?- ?(?P<y2>(?:19|20)\d\d){_END}(?!-)",
    "weekday": rf"(?<!\w)(?:(?:thứ (?P<d>[2-7]|hai|ba|tư|năm|sáu|bảy|bẩy)(?:{_JOIN}(?P<d2>[2-7]))?|t(?P<t>[2-7]))"
    rf"(?: ?(?:[-~,&]|và|đến|tới) ?(?P<cn>cn))?|chủ nhật){_END}",
    "time": rf"(?<![\w.,/:])(?:(?P<from>\d{{1,2}}){_JOIN})?(?P<hour>\d{{1,2}}|{_SPOKEN})(?:"
    r"(?: ?h(?:(?P<m1>\d\d)| (?P<m2>\d\d)(?= ?(?:phút|p)))?|g(?P<m3>\d\d)|:(?P<m4>\d\d)(?::\d\d)?"
    r"| ?giờ(?: (?P<half>rưỡi)| kém (?P<less>\d{1,2})| ?(?P<m5>\d{1,2})(?! ?(?:k|đ|%|người|ngày)))?)(?: ?(?:phút|p|'))?"
    r"(?: ?(?P<part>sáng|trưa|chiều|tối|đêm|khuya|am|pm)(?! ?\d))?| ?(?P<noon>am|pm))(?!\w)",
    "run": rf"(?:(?<!\w)|(?<=\dx))(?:\d+(?:[.,]\d+)*|{_SPOKEN}|nửa(?= (?!đêm)))",
    "term": rf" ?(?P<term>\d+(?:[.,]\d+)*|{_SPOKEN})",
    "scale": rf" ?(?P<scale>{_SCALE})(?![^\W\d])",
    "half": r" rưỡi(?!\w)",
    "tail": rf"(?P<tail>\d{{1,3}}){_END}| (?P<spaced>\d{{3}}{_END}{_NO_COUNT}"
    rf"|\d{{1,2}}(?={_CURRENCY}|[^\w ,.]|[,.](?!\d)|$| (?:ạ|nha|nhé)(?!\w)))",
    "suffix": rf"(?P<vnd>{_CURRENCY})| ?(?:(?P<dollars>usd|\$|đô la|euro|eur|€)|(?P<percent>%|phần trăm)"
    r"|(?:giờ|tiếng|h) (?P<minutes>\d{1,2}) ?(?:phút|p)|m(?![23](?!\d))(?P<cm>\d{1,2})"
    rf"|(?!ký (?:tự|túc|hiệu)|độ tuổi)(?P<unit>{_UNIT})(?P<half> rưỡi)?)(?!\w)",
    "counted": rf" (?:{_COUNTED})(?!\w)",
    "range": rf" ?(?:-|~|đến|tới|x|hoặc|hay) ?(?=\d|{_SPOKEN})",
    "code": r"(?<![^\W_])[^\W_]{2,40}(?![^\W_])",
    # What stands before or behind.
    "at": r"(?:^|[\n:(]|(?<!\w)(?:ở|tại|địa chỉ|ghé|là|về|đến|tới|qua)) ?$",
    "item": r"[.)] ",
    "of_years": r"(?<!\w)(?:mỗi|hàng|hằng|trong|cả|các|những) $",
    "begin": r"(?:^|[\n.:;!?]) ?$",
    "counting": "[,:]| là ",
    "weekly": r"(?:^|[\n\0,.;:(&/+-]|(?<!\w)(?:từ|đến|tới|vào|sáng|trưa|chiều|tối|đêm|ngày|mỗi|các|cả|và|hoặc|hay|trừ|lẫn"
    r"|nghỉ|mở|học|tuần|hôm)) ?$",
    "lasting": r"(?<!\w)(?:trong|vòng|giữ|mất|chờ|đợi|suốt|quá|hơn|dưới|mỗi|dài|được|thêm|cả|khung|trước|nhất)"
    r"(?: (?:khoảng|tầm|chừng|tối đa|ít nhất))? $",
    "after": r" ?(?:sau|nữa|đồng hồ|liên tục|liền|/)(?!\w)",
}  # fmt: skip


@lru_cache
def _pattern(name: str, *, bare: bool) -> re.Pattern[str]:
    source = _PATTERNS[name]
    return re.compile(strip_marks(source.replace(_ONE, _BARE_ONE)) if bare else source)


@dataclass(frozen=True)
class Page:
    """A text while it is read; each form has its characters at the same places."""

    text: str  # NFC
    flat: str  # lower case, one kind of dash and space; what belongs to a fact already is _TAKEN
    bare: bool  # typed without diacritics

    def find(self, name: str) -> Iterator[Match]:
        """Yield all that is written so."""
        return _pattern(name, bare=self.bare).finditer(self.flat)

    def match(self, name: str, start: int) -> Match | None:
        """Return what is written so at a place."""
        return _pattern(name, bare=self.bare).match(self.flat, start)

    def follows(self, name: str, end: int) -> bool:
        """Return whether what stands right before ``end`` is written so."""
        return bool(_pattern(name, bare=self.bare).search(self.flat[max(0, end - 30) : end]))

    def without(self, found: Sequence[tuple[str, str, int, int]]) -> "Page":
        """Return the page with the characters of some facts taken; a fact ends with its start and end."""
        if not found:
            return self
        flat = list(self.flat)
        for *_, start, end in found:
            flat[start:end] = _TAKEN * (end - start)
        return replace(self, flat="".join(flat))


def page_of(text: str) -> Page:
    """Return a text to be read."""
    text = nfc(text[: 4 * _MOST_CHARACTERS])[:_MOST_CHARACTERS]
    flat = "".join(map(_flat, text))
    marked = re.sub(r"(?<=\d) ?đ(?!\w)", "", flat)  # the sign of the currency says nothing about the words
    bare = strip_marks(marked) == marked
    return Page(text, strip_marks(flat) if bare else flat, bare)


@lru_cache(maxsize=2**12)
def _flat(character: str) -> str:
    if character.isspace():
        return "\n" if character == "\n" else " "
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    lower = character.lower()
    return (lower if len(lower) == 1 else character).translate(_SIGNS)


def number_of(text: str) -> Decimal | None:
    """Return what digits or number words say: a separator before three digits parts thousands, another decimals."""
    if not text[0].isdecimal():
        return _spoken(text)
    parts, signs = re.split("[.,]", text), re.findall("[.,]", text)
    whole = parts[:-1] if len(set(signs)) == 2 else parts
    is_grouped = len(whole[0]) <= 3 and whole[0][0] != "0" and all(len(part) == 3 for part in whole[1:])
    if len(set(signs[: len(whole) - 1])) <= 1 and is_grouped:
        return Decimal("".join(whole) + ("." + parts[-1] if whole is not parts else ""))
    return Decimal(".".join(parts)) if len(parts) <= 2 else None


def _spoken(text: str) -> Decimal:
    if text in {"nửa", "nua"}:
        return Decimal("0.5")
    total = last = 0
    for word in text.split():
        if strip_marks(word) == "tram":
            total, last = 100 * last, 0
        elif strip_marks(word) == "muoi":
            total, last = total + 10 * (last or 1), 0
        else:
            last = DIGITS.get(word, 0)
    return Decimal(total + last)
