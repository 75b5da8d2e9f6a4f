"""One thing with two values in the answers: two hotlines, two addresses, two prices of the same goods.

A value counts only if a label stands right before it ("hotline của tiệm là …"), and neither the question nor the
sentence says of which branch, town or person it is: two things may well have two values. Values that one answer gives
together agree.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hoidap.check.finding import Finding
from hoidap.check.personal import find_personal, hidden
from hoidap.check.sameness import Placed
from hoidap.data.items import Item
from hoidap.facts import Fact, facts_of
from hoidap.language import Both
from hoidap.text import fold

_BEFORE = 60  # characters in which a label stands
_MOST_SUBJECT = 80  # characters of what has a price
_MOST_VALUES = 6  # shown
_MOST_LINES = 5  # shown of each
_MOST_CHECKED = 4000  # characters of an answer

# Folded: what may stand between a label and its value.
_BETWEEN = (
    r"(?:[\s:–-]|\b(?:la|so|cua|ben|tiem|shop|quan|cua hang|cong ty|truong|nha truong|minh|em|chung toi|toi|hien tai|"
    r"hien nay|ve|qua|tai|o|duy nhat|moi|nay|nhe|nha|a|theo|tai khoan|dien thoai|dia chi)\b)*$"
)
_ACCOUNT = "number of an account"  # no kind of fact: a number is one by what stands before it
_LABELS = (
    ("zalo", "phone", re.compile(r"\bzalo" + _BETWEEN), Both("Zalo", "Zalo")),
    ("hotline", "phone", re.compile(r"\b(?:hotline|duong day nong|tong dai)" + _BETWEEN), Both("hotline", "hotline")),
    ("phone", "phone", re.compile(r"\b(?:so dien thoai|sdt|dien thoai)" + _BETWEEN), Both("số điện thoại", "phone number")),
    ("e-mail", "email", re.compile(r"\b(?:e-?mail|thu dien tu|hop thu)" + _BETWEEN), Both("e-mail", "e-mail")),
    ("account", _ACCOUNT, re.compile(r"\b(?:stk|so tai khoan|so tk)" + _BETWEEN), Both("số tài khoản", "bank account")),
    ("address", "address", re.compile(r"\bdia chi" + _BETWEEN), Both("địa chỉ", "address")),
)
_MAYBE = re.compile("zalo|hotline|đường dây nóng|tổng đài|điện thoại|sđt|mail|thư|stk|số t|địa chỉ|giá", re.IGNORECASE)
# What has a price, from the beginning of its clause on.
_PRICED = re.compile(
    r"(?:^|[.,;:!?\n(])\s*([^.,;:!?\n()]{4,80}?)\s+(?:có\s+)?giá(?:\s+(?:là|bán|lẻ|bán lẻ|chỉ|hiện tại))*\s+$",
    re.IGNORECASE,
)
_EACH = re.compile(r"\s*/\s*(\w+)")
_SUBJECT_FILLERS = re.compile(r"^(?:(?:dạ|vâng|có|thì|món|hiện|hiện tại|bên em|tiệm|shop|ạ)\s+)+", re.IGNORECASE)
# Folded words that say too little of what has a price: "một cái giá 5.000đ" says elsewhere of what.
_VAGUE = {
    "mot", "hai", "ba", "bon", "cai", "chiec", "moi", "hop", "goi", "bo", "loai", "nay", "do", "mon", "hang", "san", "pham",
    "size", "combo", "le", "si", "ban", "dat", "hien", "dang", "thi", "la",
}  # fmt: skip
_FEWEST_WORDS = 2  # others
# Whose or which it is, so that another value may be right as well.
_WHOSE = re.compile(
    r"\b(?:chi nhánh|cơ sở|cửa hàng số|phòng|bộ phận|đại lý|khu vực|quận|huyện|tỉnh|thành phố|hà nội|hn|sài gòn|tp\.? ?hcm|"
    r"hcm|đà nẵng|cần thơ|hải phòng|huế|nha trang|đà lạt|vũng tàu|biên hòa|miền|kỹ thuật|khiếu nại|góp ý|"
    r"bảo hành|sỉ|tuyển dụng|kế toán|khẩn cấp|cứu hộ|ngoài giờ|ban đêm|quốc tế|nước ngoài|dự phòng|giám đốc|quản lý)\b",
    re.IGNORECASE,
)
_WHO = re.compile(r"\b(?:[Aa]nh|[Cc]hị|[Ôô]ng|[Bb]à|[Cc]ô|[Tt]hầy|[Cc]hú|[Bb]ạn|[Ee]m)\s+[A-ZĐÀ-Ỹ]\w*")


@dataclass(frozen=True)
class _Told:
    """A labelled value in an answer."""

    label: str
    name: Both
    value: str  # as it is compared
    shown: str
    line: int


def disagreements(placed: Placed) -> Iterator[Finding]:
    """Give out what has several values in the answers, each value with its lines."""
    by_label: dict[str, list[list[_Told]]] = defaultdict(list)
    for item, line in zip(placed.items, placed.lines, strict=True):
        in_answer: dict[str, list[_Told]] = defaultdict(list)
        for told in _told(item, line):
            in_answer[told.label].append(told)
        for label, together in in_answer.items():
            by_label[label].append(together)
    for answers in by_label.values():
        groups = _agreeing(answers)
        if len(groups) > 1:
            name = answers[0][0].name
            values = "; ".join(_shown(group) for group in groups[:_MOST_VALUES]) + (
                "; …" if len(groups) > _MOST_VALUES else ""
            )
            where = tuple(dict.fromkeys(told.line for group in groups for told in group))
            yield Finding("label-differs", where, (name, values))


def _told(item: Item, line: int) -> Iterator[_Told]:
    """Give out the labelled values of an answer."""
    answer = item.answer[:_MOST_CHECKED]
    if not _MAYBE.search(answer):
        return
    is_somebodys = _is_somebodys(item.question)
    accounts = [Fact("number", one.key, one.text, one.start) for one in find_personal(answer) if one.kind == "account"]
    facts = [(str(fact.kind), fact) for fact in facts_of(answer)]
    places = Counter(fact.start for _, fact in facts)
    for kind, fact in [*facts, *((_ACCOUNT, account) for account in accounts)]:
        before = _sentence(answer, fact.start)
        if kind == "money":
            if places[fact.start] == 1:  # two in one place are a range
                yield from _price(before, answer[fact.start + len(fact.text) :], fact, line)
        elif not is_somebodys and not _is_somebodys(before):
            flat = fold(before[-_BEFORE:])
            label = next((label for label in _LABELS if label[1] == kind and label[2].search(flat)), None)
            if label:
                shown = fact.text if kind == "address" else hidden(fact.text)
                yield _Told(label[0], label[3], fact.value, shown, line)


def _price(before: str, behind: str, fact: Fact, line: int) -> Iterator[_Told]:
    """Give out a price, if its clause says right before it what has it."""
    priced, each = _PRICED.search(before[-2 * _MOST_SUBJECT :]), _EACH.match(behind)
    if not priced:
        return
    subject = priced[1].strip() + (f"/{each[1]}" if each else "")
    thing = fold(_SUBJECT_FILLERS.sub("", subject))
    if len([word for word in thing.split("/")[0].split() if word not in _VAGUE and word.isalpha()]) >= _FEWEST_WORDS:
        yield _Told(f"price {thing}", Both(f"giá “{subject}”", f"price of “{subject}”"), fact.value, fact.text, line)


def _is_somebodys(text: str) -> bool:
    return bool(_WHOSE.search(text) or _WHO.search(text))


def _sentence(text: str, end: int) -> str:
    """Return what stands before a place in its sentence."""
    return re.split(r"[.!?\n]\s", text[:end])[-1]


def _agreeing(answers: Sequence[Sequence[_Told]]) -> list[list[_Told]]:
    """Return the values in groups: those that one answer gives together, directly or by way of a third, are one."""
    parents: dict[str, str] = {}

    def first(value: str) -> str:
        while parents.setdefault(value, value) != value:
            parents[value] = parents[parents[value]]
            value = parents[value]
        return value

    for together in answers:
        for one in together:
            parents[first(one.value)] = first(together[0].value)
    groups: dict[str, list[_Told]] = defaultdict(list)
    for together in answers:
        groups[first(together[0].value)] += together
    return list(groups.values())


def _shown(group: Sequence[_Told]) -> str:
    lines = list(dict.fromkeys(told.line for told in group))
    more = ", …" if len(lines) > _MOST_LINES else ""
    values = " = ".join(dict.fromkeys(told.shown for told in group))
    return f"{values} ({', '.join(map(str, lines[:_MOST_LINES]))}{more})"
