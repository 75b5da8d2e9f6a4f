"""What a Vietnamese text asserts that can be checked: numbers, prices, dates, hours, phones, links, addresses, codes.

Each fact has a canonical value, so that "1,5 triệu" and "1.500.000đ" are one fact and "8h" and "9h" are two. Kinds are
looked for from the most special to plain numbers, and what one has taken no other gets. Text typed without diacritics is
read by the same rules without theirs. Number words count before a unit, a scale or a counted noun alone: "một" is an
article as well, "năm" a year. "1/2" is the first of February, though it may be a half.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import takewhile
from typing import Literal

from hoidap.notation import CURRENCIES, DIGITS, FACTORS, MONTHS, SCALES, Match, Page, number_of, page_of, strip_marks

Kind = Literal[
    "email", "link", "code", "account", "phone", "address", "date", "weekday", "time", "money", "percent", "quantity",
    "number",
]  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """One checkable statement in a text."""

    kind: Kind
    value: str  # canonical: "1500000 VND", "10%", "08:30", "2026-02-01", "--02-01", "3 ngày", "0901234567"
    text: str  # as written, in NFC
    start: int  # in the text in NFC


_Found = tuple[Kind, str, int, int]  # kind, value, start, end


def facts_of(text: str) -> tuple[Fact, ...]:
    """Return what a text asserts, in its order; no two facts overlap."""
    page = page_of(text)
    found: list[_Found] = []
    for name, read in _READERS.items():
        new = [fact for match in page.find(name) for fact in read(match, page)]
        found += new
        page = page.without(new)
    new = _amounts(page)
    found += new + _codes(page.without(new))
    found.sort(key=lambda fact: fact[2])
    return tuple(Fact(kind, value, page.text[start:end], start) for kind, value, start, end in found)


def missing_facts(said: str, wanted: str) -> tuple[Fact, ...]:
    """Return the facts of ``wanted`` that ``said`` lacks, each once."""
    there = facts_of(said)
    known = {key for fact in there for key in _keys(fact)}
    places = [fact.value for fact in there if fact.kind == "address"]
    missing: dict[str, Fact] = {}
    for fact in facts_of(wanted):
        keys = _keys(fact)
        if not (known & keys or (fact.kind == "address" and any(_is_same_place(fact.value, place) for place in places))):
            missing.setdefault(min(keys), fact)
    return tuple(missing.values())


def foreign_facts(said: str, wanted: str) -> tuple[Fact, ...]:
    """Return the facts of ``said`` that ``wanted`` lacks, each once."""
    return missing_facts(wanted, said)


def _keys(fact: Fact) -> set[str]:
    """Return what a fact is known by; two facts are the same if they share any of it.

    Two writings that differ in kind by a word that may be left out share a key: "145.000" and "145.000đ", "2026" and "năm
    2026", "2 giờ" as an hour and as a duration, a long number with "MST" before it and without.
    """
    number, _, unit = fact.value.partition(" ")
    if fact.kind in {"phone", "account"}:
        return {f"digits {fact.value}"}
    if fact.kind == "time" and ":" in fact.value:
        return {f"minutes {60 * int(fact.value[:2]) + int(fact.value[3:])}"}
    if fact.kind == "quantity" and unit == "phút":
        return {f"minutes {number}"}
    is_year = fact.kind == "date" and fact.value.isdecimal()
    plain = {f"number {number}"} if is_year or (unit == "VND" and Decimal(number) >= 1000) else set()
    return plain | {f"{fact.kind} {fact.value}"}


def _is_same_place(one: str, other: str) -> bool:
    """Return whether one address goes on where the other ends: with a ward after the street's two words or more."""
    short, long = sorted((one, other), key=len)
    return f"{long} ".startswith(f"{short} ") and short.count(" ") >= 2


def _digits(match: Match) -> str:
    return re.sub(r"\D", "", match["digits"])


def _link(match: Match, page: Page) -> Iterator[_Found]:
    """Yield a link without scheme, www. and the sign that ends the sentence; "hết ạ.Shop" is none."""
    start = match.start()
    written = page.text[start : match.end()].rstrip(".,;:!?…)]}*")
    bare = re.sub(r"^(?:https?://)?(?:www\.)?", "", written, flags=re.IGNORECASE)
    host = re.split("[/?#]", bare, maxsplit=1)[0]
    if "." in host and not (written == host and host.rpartition(".")[2].istitle()):
        yield "link", host.lower() + bare[len(host) :].rstrip("/"), start, start + len(written)


def _address(match: Match, page: Page) -> Iterator[_Found]:
    """Yield house, alleys and the street, with what is named behind it before a comma."""
    words = re.match(r"[^\W\d_]+(?: [^\W\d_]+){0,4}", page.text[match.end() : match.end() + 80])
    names = words.group().split() if words else []
    proper = list(takewhile(lambda name: name[0].isupper(), names))
    house = match["house"]
    if match["road"] or match["alley"] or match["so"]:
        proper = proper or (names[:2] if match["road"] and (match["alley"] or match["so"]) else [])
    else:  # "46B/9 Tú Xương", and "02 Nguyễn Đình Chiểu" after "ở"; not "2/9 Quốc Khánh", "8 GIỜ SÁNG", "3 Ngày Vàng"
        numbers = house.split("/")
        is_date = len(numbers) == 2 and all(map(str.isdecimal, numbers)) and int(numbers[0]) < 32 and int(numbers[1]) < 13
        sure = not (house.isdecimal() or is_date) or (page.follows("at", match.start()) and all(map(str.istitle, proper)))
        counts = any(page.match(name, match.end("house")) for name in ("suffix", "scale", "counted"))
        if counts or len(proper) < 2 or not sure:
            return
    if proper:
        alley = re.sub("[, ]+", " ", match["alley"])
        end = match.end() + len(" ".join(proper))
        yield "address", strip_marks(f"{house.lstrip('0')}{alley} {' '.join(proper).lower()}"), match.start(), end


def _date(match: Match, _: Page) -> Iterator[_Found]:
    """Yield a date as ISO 8601 writes it, what is not said left out: 2026-02-01, --02-01, ---05, 2026-02, --02."""
    part = match.groupdict()
    year, month, day = part.get("y") or part.get("y2") or "", part.get("m") or "", part.get("d") or part.get("w") or ""
    if part.get("sign", "/").strip() != "/" and len(year) != 4:
        return  # 2.5 and 3-5 are numbers
    month_number, day_number, first = (
        MONTHS.get(text) or DIGITS.get(text) or int(text or 0) for text in (month, day, part.get("from") or "")
    )
    if month_number > 12 or max(day_number, first) > 31 or (month and not month_number) or (day and not day_number):
        return
    year = f"20{year}" if len(year) == 2 else year or "-"
    head = f"{year}-{month_number:02}" if month else "--"
    tail = " âm" if part.get("lunar") or {month, day} & MONTHS.keys() else ""
    start = match.start()
    if first:
        yield "date", f"{head}-{first:02}{tail}", start, match.end("from")
        start = match.start("d")
    yield "date", f"{head}-{day_number:02}{tail}" if day else head + tail, start, match.end()


def _years(match: Match, _: Page) -> Iterator[_Found]:
    yield "date", match["y"], match.start(), match.end("y")
    if match["y2"]:
        yield "date", match["y2"], *match.span("y2")


def _weekday(match: Match, page: Page) -> Iterator[_Found]:
    """Yield days of the week, but for "lần thứ hai" and "Thứ hai, …", which count; typed bare, "thu ba" may be anything."""
    day, (start, end) = match["d"], match.span()
    if not (day or match["t"]):
        yield "weekday", "chủ nhật", start, end
        return
    if day:
        named = page.text[match.start("d")].isupper() or page.follows("weekly", start)
        counts = page.follows("begin", start) and page.match("counting", end)
        if not named or not (day.isdecimal() or not (page.bare or counts)):
            return
    yield "weekday", f"thứ {DIGITS.get(day, day) if day else match['t']}", start, match.end("d" if day else "t")
    if match["d2"]:
        yield "weekday", f"thứ {match['d2']}", *match.span("d2")
    if match["cn"]:
        yield "weekday", "chủ nhật", *match.span("cn")


def _time(match: Match, page: Page) -> Iterator[_Found]:
    """Yield hours of the day; how long something lasts is left to the quantities."""
    hour, (start, end) = int(number_of(match["hour"]) or 0), match.span()
    written = next((match[name] for name in ("m1", "m2", "m3", "m4", "m5") if match[name]), "30" if match["half"] else "")
    minute, part = int(written or 0), match["part"] or match["noon"] or ""
    lasts = page.follows("lasting", start) or page.match("after", end) or hour == 24
    if hour > 24 or minute > 59 or (lasts and not (part or written or match["less"])):
        return
    if match["from"] and int(match["from"]) <= 24:
        first = int(match["from"])
        yield "time", _clock(first, 0, part if first <= hour else ""), start, match.end("from")
        start = match.start("hour")
    yield "time", _clock(hour, minute - int(match["less"] or 0), part), start, end


def _clock(hour: int, minute: int, part: str) -> str:
    """Return an hour of 24: twelve at night is 0, one at noon 13."""
    part = strip_marks(part)
    if part in {"dem", "khuya"}:
        hour = hour + 12 if 6 <= hour < 12 else hour % 12 if hour == 12 else hour
    elif (part in {"chieu", "toi", "pm"} and hour < 12) or (part == "trua" and hour < 4):
        hour += 12
    elif part == "am":
        hour %= 12
    minutes = (60 * hour + minute) % (24 * 60)
    return f"{minutes // 60:02}:{minutes % 60:02}"


_READERS: dict[str, Callable[[Match, Page], Iterable[_Found]]] = {
    "email": lambda match, _: [("email", match.group(), *match.span())],
    "link": _link,
    "always": lambda match, _: [("time", match.group().replace("h", ""), *match.span())],
    "document": lambda match, _: [("code", match.group().upper(), *match.span())],
    "account": lambda match, _: [("account", _digits(match), *match.span("digits"))],
    "phone": lambda match, _: [("phone", "0" + _digits(match), *match.span())],
    "hotline": lambda match, _: [("phone", _digits(match), *match.span())],
    "long": lambda match, _: [("account", _digits(match), *match.span())],
    "address": _address,
    **dict.fromkeys(("iso", "numeric", "worded", "month", "month_year", "day"), _date),
    **dict.fromkeys(("year", "years"), _years),
    "weekday": _weekday,
    "time": _time,
}


@dataclass(frozen=True)
class _Amount:
    """A number with what follows it."""

    start: int
    end: int
    number: Decimal
    scale: int  # thousand, million …
    kind: Kind | None  # None: a number word with nothing behind it
    unit: str = ""
    factor: Decimal = Decimal(1)  # of the unit as written in the canonical one

    def found(self) -> list[_Found]:
        if not self.kind:
            return []
        amount = format((self.number * self.scale * self.factor).normalize(), "f")
        value = f"{amount}%" if self.kind == "percent" else f"{amount} {self.unit}".strip()
        return [(self.kind, value, self.start, self.end)]


def _amounts(page: Page) -> list[_Found]:
    """Return numbers, prices, percentages and quantities; in "3–5 ngày" and "4 đến 5 triệu" both have what follows."""
    amounts: list[_Amount] = []
    for match in page.find("run"):
        if not amounts or amounts[-1].end <= match.start():  # not the 500 of "1 triệu 500 nghìn"
            amounts += _amounts_at(match, page)
    for place in range(len(amounts) - 2, -1, -1):
        one, other = amounts[place : place + 2]
        joined = page.match("range", one.end)
        if joined and joined.end() == other.start and one.kind in {None, "number"} and one.scale == 1:
            scale = other.scale if one.number < other.number else 1
            amounts[place] = replace(one, scale=scale, kind=other.kind, unit=other.unit, factor=other.factor)
    return [fact for amount in amounts for fact in amount.found()]


def _amounts_at(match: Match, page: Page) -> Iterator[_Amount]:
    text, start = match.group(), match.start()
    number = number_of(text)
    if number is None:  # sizes 38,39,40
        for part in re.finditer(r"\d+", text):
            yield _Amount(start + part.start(), start + part.end(), Decimal(part.group()), 1, "number")
        return
    number, scale, end = _scaled(number, match.end(), page)
    plain = _Amount(start, end, number, scale, "number")
    suffixed = _with_suffix(plain, page)
    if suffixed:
        yield suffixed
    elif scale >= 1000 and (page.bare or not page.match("counted", end)):
        yield replace(plain, kind="money", unit="VND")
    elif scale == 1 and not text[0].isdecimal():
        is_word = text in {"một", "mot"} or (text == "năm" and page.follows("of_years", start))  # an article; "each year"
        yield plain if page.match("counted", end) and not is_word else replace(plain, kind=None)
    elif not page.flat[end : end + 1].isalnum() or page.match("range", end):
        is_item = end - start <= 2 and page.match("item", end) and page.follows("begin", start)  # "1. …", "2) …"
        yield replace(plain, kind=None) if is_item else plain


def _with_suffix(amount: _Amount, page: Page) -> _Amount | None:
    """Return an amount with the currency, the sign of percent or the unit at it; None if there is none."""
    match = page.match("suffix", amount.end)
    sign = CURRENCIES.get(page.flat[max(0, amount.start - 1)])
    if not match:
        return replace(amount, start=amount.start - 1, kind="money", unit=sign) if sign else None
    amount = replace(amount, end=match.end(), kind="quantity")
    if match["vnd"] or match["dollars"]:
        return replace(amount, kind="money", unit=CURRENCIES[match["dollars"] or "đ"])
    if match["percent"]:
        return replace(amount, kind="percent")
    if match["minutes"]:
        return replace(amount, number=amount.number * 60 + int(match["minutes"]), unit="phút")
    if match["cm"]:
        return replace(amount, number=amount.number + Decimal(match["cm"]).scaleb(-len(match["cm"])), unit="m")
    unit, factor = FACTORS[match["unit"]]
    return replace(amount, number=amount.number + (Decimal("0.5") if match["half"] else 0), unit=unit, factor=factor)


def _scaled(number: Decimal, end: int, page: Page) -> tuple[Decimal, int, int]:
    """Return a number with the scales behind it, "1 triệu 500 nghìn", "1tr5", "3 trăm nghìn", "2 tỷ rưỡi", and its end."""
    total, term, scale, n_scales = Decimal(0), number, 1, 0
    while n_scales < 6:
        if match := page.match("scale", end):
            scale *= SCALES[match["scale"]]
            end, n_scales = match.end(), n_scales + 1
            continue
        more = page.match("term", end) if scale >= 1000 else None
        next_scale = page.match("scale", more.end()) if more else None
        following = number_of(more["term"]) if more else None
        if not more or following is None or not next_scale or SCALES[next_scale["scale"]] >= scale:
            break
        total, term, scale, end = total + term * scale, following, 1, more.end()
    if scale >= 1000:
        if match := page.match("half", end):
            term, end = term + Decimal("0.5"), match.end()
        elif match := page.match("tail", end):
            digits = match["tail"] or match["spaced"]
            term, end = term + Decimal(digits).scaleb(-len(digits)), match.end()
    return ((total + term * scale) / 1000, 1000, end) if total else (term, scale, end)


def _codes(page: Page) -> list[_Found]:
    """Return words of letters and digits: of a voucher, a form, a product."""
    words = [
        match for match in page.find("code") if re.search(r"\d", match.group()) and re.search(r"[^\W\d]", match.group())
    ]
    return [("code", match.group().upper(), *match.span()) for match in words if match.group() not in FACTORS]
