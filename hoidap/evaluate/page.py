"""The answer report as one page for the owner of a bot: what it gets right, and what to correct first.

Vietnamese and English, without scripts, and without anything that is fetched. What is counted stands here, the prose in
assets/report.html.j2.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from difflib import SequenceMatcher
from typing import Any, Literal

from hoidap.data.wordings import AS_WRITTEN, OTHER
from hoidap.evaluate.judge import EMBEDDED, RIGHT, WAYS
from hoidap.evaluate.questions import BARE
from hoidap.language import Both, Language
from hoidap.page import render
from hoidap.text import comparable

Row = Mapping[str, Any]
_MOST_ITEMS = 100
_MOST_WORDINGS = 200
_MOST_PAIRS = 20
_MOST_ANSWERED = 50  # questions out of scope
_MOST_CHARS = 300  # of a question
_MOST_WORDS = 250  # of an answer
_MOST_WORD = 60  # characters of each
_CERTAINTY = 1.96  # standard errors either side: 95 times of 100


KINDS = {
    AS_WRITTEN: Both("đúng như trong tệp", "as written in the file"),
    OTHER: Both("cách hỏi khác trong tệp", "other wordings in the file"),
    BARE: Both("cách hỏi khác, gõ không dấu", "other wordings without diacritics"),
    "no-diacritics": Both("gõ không dấu", "without diacritics"),
    "partly-bare": Both("vài chữ thiếu dấu", "some words without diacritics"),
    "telex": Both("lỗi gõ Telex (“nôij thành”)", "slips of Telex typing (“nôij thành”)"),
    "vni": Both("lỗi gõ VNI (“noi65 thành”)", "slips of VNI typing (“noi65 thành”)"),
    "marks": Both("đặt sai dấu", "wrong diacritics"),
    "teencode": Both("viết tắt kiểu chat (“ko”, “bn”)", "chat abbreviations (“ko”, “bn”)"),
    "particles": Both("thêm bớt “dạ”, “ạ”, “shop ơi”", "more or less polite"),
    "phrasing": Both("đổi cách nói", "rephrased"),
    "case": Both("đổi chữ hoa, chữ thường, dấu câu", "other capitals and punctuation"),
    "typo": Both("gõ nhầm phím", "typing mistakes"),
}


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """From 0 to 1."""
        return self.count / self.of if self.of else 0.0

    @property
    def percent(self) -> Both:
        """The share in per cent."""
        return percent(self.value) if self.of else Both("—", "—")

    @property
    def range(self) -> tuple[Both, Both]:
        """Where the share of all such questions lies, 95 times of 100 (Wilson 1927)."""
        n, z = max(1, self.of), _CERTAINTY**2
        middle, spread = self.value + z / (2 * n), math.sqrt(z * self.value * (1 - self.value) / n + (z / (2 * n)) ** 2)
        low, high = ((middle + sign * spread) / (1 + z / n) for sign in (-1, 1))
        return percent(max(0.0, round(low, 2))), percent(min(1.0, round(high, 2)))


@dataclass(frozen=True)
class Rates:
    """What came of some questions."""

    right: Share
    wrong: Share
    declined: Share

    @property
    def answered(self) -> Share:
        """Of questions out of scope: those that should have been declined."""
        return Share(self.declined.of - self.declined.count, self.declined.of)


@dataclass(frozen=True)
class Piece:
    """Some words of an answer."""

    text: str
    is_marked: bool  # the other answer has others here


@dataclass(frozen=True)
class Miss:
    """An item that the bot does not give to the letter."""

    question: str
    verdict: str
    once: int | None  # the epoch at whose end it was first recited
    taken_for: str | None  # the question of the item whose answer came
    wanted: list[Piece]
    got: list[Piece]
    is_cut: bool


@dataclass(frozen=True)
class Failed:
    """A way of asking that was answered wrongly or declined."""

    text: str
    kind: Both
    outcome: str
    taken_for: str | None
    hint: str  # what to do: a name that the template knows


@dataclass(frozen=True)
class Group:
    """The ways of asking one item that failed."""

    question: str
    wrong: int
    declined: int
    failed: list[Failed]


@dataclass
class Pair:
    """Two items that are taken for each other."""

    one: str
    other: str
    count: int = 0  # questions: of these
    nearer: int = 0  # lie nearer to the other item
    said: int = 0  # got its answer from the model


@dataclass(frozen=True)
class Items:
    """The items as the rows asked as written show them, by their place."""

    rows: dict[int, Row]
    answers: dict[int, str]  # comparable

    @classmethod
    def of(cls, asked: Sequence[Row]) -> "Items":
        """Gather the items."""
        rows = {row["item"]: row for row in asked if row["kind"] == AS_WRITTEN}
        return cls(rows, {number: comparable(row["wanted"]) for number, row in rows.items()})

    def name(self, number: int | None) -> str | None:
        """Return an item's question, shortened."""
        return None if number is None else short(self.rows[number]["question"])

    def other(self, row: Row, key: Literal["nearest", "source", "recognised"]) -> int | None:
        """Return the item that a question in scope is near to, or whose answer the model gave, if that is wrong."""
        number: int | None = row[key]
        return None if number is None or self.answers[number] == self.answers[row["item"]] else number


def page(report: Mapping[str, Any], name: str, language: Language = "vi", day: date | None = None) -> str:
    """Return a report as a page that opens in one language and can be switched to the other.

    Args:
        report: as ``evaluate`` returns it; with "learned" and "forgetting", where they are known.
        name: of the run.
        language: in which the page opens.
        day: of the exam; today unless given.

    """
    values = {
        "name": name,
        "language": language,
        "day": day or datetime.now(UTC).astimezone().date(),
        "most_wrong": report["most_wrong"],
        "threshold": report["threshold"],
        "is_sure_of_some": report["threshold"] is not None,
        "set_by": report["set_by"],
        "n_needed": _needed(report["most_wrong"]),
        "forgetting": report.get("forgetting"),
        "compared": report.get("compared"),
        "far": _rates(report["out_of_scope"]["far"]),
        "near": _rates(report["out_of_scope"]["near"]),
        "scope": _rates(report["in_scope"]),
        "is_of_wordings": report["in_scope"]["kinds"] == [OTHER],
        "kinds": [(KINDS[row["kind"]], row["trained"], _rates(row)) for row in report["kinds"]],
        "picture": picture(report),
        "none_asked": Share(0, 0),
        **_learning(report),
        **_failures(report),
    }
    filters = {"percent": percent, "decimal": lambda value: decimal(f"{value:.2f}")}
    return render("report.html.j2", values, filters)


def percent(value: float) -> Both:
    """Return a share in per cent, without decimals unless it would read as none or all."""
    digits = next((n for n in range(3) if value in (0, 1) or round(value, n + 2) not in (0, 1)), 2)
    return decimal(f"{value:.{digits}%}")


def decimal(text: str) -> Both:
    """Return a number as either language writes it."""
    return Both(text.replace(".", ","), text)


def short(text: str) -> str:
    """Return a question, or the beginning of a long one."""
    return text if len(text) <= _MOST_CHARS else text[:_MOST_CHARS] + "…"


def _rates(found: Mapping[str, Any] | None) -> dict[str, Rates] | None:
    n = found["count"] if found else 0
    if not found or not n:
        return None
    ways = [way for way in (*WAYS, EMBEDDED) if way in found]
    return {way: Rates(**{what: Share(round(share * n), n) for what, share in found[way].items()}) for way in ways}


def _needed(most_wrong: float) -> int | None:
    """Return how many questions it takes to prove a limit if none of them is answered wrongly; None: no number does."""
    return math.ceil(round(1 / most_wrong, 6)) - 1 if most_wrong > 0 else None


def _learning(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return which items the bot gives to the letter, almost, or not, the worst first, and by when it recited them."""
    items = Items.of(report["asked"])
    rows, n = items.rows.values(), len(items.rows)
    learned = {int(number): epoch for number, epoch in report.get("learned", {}).items()}  # JSON has names for numbers
    worst = ("other", "wrong", "facts", "same")
    missed = sorted(
        (row for row in rows if row["verdict"] != "exact"),
        key=lambda row: (worst.index(row["verdict"]), row["closeness"], row["item"]),
    )
    epochs = sorted(learned.values())
    reached = sorted({epochs[at] for at in (-(-n // 2) - 1, len(epochs) - 1) if 0 <= at < len(epochs)})
    return {
        "learned": Share(sum(row["verdict"] == "exact" for row in rows), n),
        "almost": Share(sum(row["verdict"] in ("same", "facts") for row in rows), n),
        "not_learned": Share(sum(row["verdict"] not in RIGHT for row in rows), n),
        "reached": [(epoch, Share(sum(e <= epoch for e in epochs), n)) for epoch in reached],
        "is_watched": bool(learned),
        "misses": [_miss(row, items, learned) for row in missed[:_MOST_ITEMS]],
        "more_misses": max(0, len(missed) - _MOST_ITEMS),
    }


def _miss(row: Row, items: Items, learned: Mapping[int, int]) -> Miss:
    source = items.other(row, "source") if row["verdict"] == "other" else None
    wanted, got = difference(row["wanted"], row["got"])
    is_cut = any(len(row[key].split()) > _MOST_WORDS for key in ("wanted", "got"))
    question = short(row["question"])
    return Miss(question, row["verdict"], learned.get(row["item"]), items.name(source), wanted, got, is_cut)


def difference(wanted: str, got: str) -> tuple[list[Piece], list[Piece]]:
    """Return the words of two answers, marked where the other has others; what is long in both is shortened."""
    words, others = wanted.split()[:_MOST_WORDS], got.split()[:_MOST_WORDS]
    left: list[Piece] = []
    right: list[Piece] = []
    for tag, i, i_end, j, j_end in SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        is_marked = tag != "equal"
        for side, run in ((left, words[i:i_end]), (right, others[j:j_end])):
            if run:
                side.append(Piece(_joined(run, is_whole=is_marked), is_marked))
    return left, right


def _joined(words: Sequence[str], *, is_whole: bool) -> str:
    shown = list(words) if is_whole or len(words) <= 30 else [*words[:12], "…", *words[-12:]]
    return " ".join(word if len(word) <= _MOST_WORD else word[:_MOST_WORD] + "…" for word in shown)


def _failures(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ways of asking that failed, item by item, the pairs of items behind that, and what was out of scope."""
    asked = report["asked"]
    items = Items.of(asked)
    in_scope = [row for row in asked if row["item"] is not None]
    # An item that is not learned stands among these already.
    rows = [row for row in in_scope if row["kind"] != AS_WRITTEN or row["verdict"] in RIGHT]
    failed = [row for row in rows if row["ways"]["checked"] != "right"]
    if report["threshold"] is None:  # everything is declined, which says nothing of the questions
        failed = [row for row in failed if items.other(row, "nearest") is not None]
    answered = [row for row in asked if row["item"] is None and row["ways"]["checked"] != "declined"]
    pairs = _pairs(in_scope, items)
    return {
        "groups": list(_groups(failed, items)),
        "n_failed": len(failed),
        "more_failed": max(0, len(failed) - _MOST_WORDINGS),
        "pairs": pairs[:_MOST_PAIRS],
        "more_pairs": max(0, len(pairs) - _MOST_PAIRS),
        "n_in_scope": len(in_scope),
        "answered": [(short(row["question"]), items.name(row["nearest"])) for row in answered[:_MOST_ANSWERED]],
        "n_answered": Share(len(answered), len(asked) - len(in_scope)),
        "more_answered": max(0, len(answered) - _MOST_ANSWERED),
    }


def _groups(failed: Sequence[Row], items: Items) -> Iterator[Group]:
    """Give out the items whose ways of asking failed, those with most wrong answers first, up to 200 ways."""
    by_item: dict[int, list[Row]] = defaultdict(list)
    for row in failed:
        by_item[row["item"]].append(row)
    count = {n: sum(row["ways"]["checked"] == "wrong" for row in rows) for n, rows in by_item.items()}
    left = _MOST_WORDINGS
    for n in sorted(by_item, key=lambda n: (-count[n], -len(by_item[n]), n)):
        rows = sorted(by_item[n], key=lambda row: row["ways"]["checked"] == "declined")
        if left <= 0:
            return
        shown = [_failed(row, items) for row in rows[:left]]
        left -= len(shown)
        yield Group(items.name(n) or "", count[n], len(rows) - count[n], shown)


def _failed(row: Row, items: Items) -> Failed:
    outcome = row["ways"]["checked"]
    # What was answered is the recognised item's; of a question that was declined, the nearest tells most.
    other = items.other(row, "recognised" if outcome == "wrong" else "nearest")
    if row["ways"]["verbatim"] == "right":
        hint = "not learned"  # recognised, but the model does not say the item's answer
    elif row["trained"]:
        hint = "again"
    else:
        hint = "similar" if row["kind"] in (OTHER, BARE) else "add"
    return Failed(short(row["question"]), KINDS[row["kind"]], outcome, items.name(other), hint)


def _pairs(in_scope: Sequence[Row], items: Items) -> list[Pair]:
    """Return the pairs of items that questions were taken for each other's, the most frequent first."""
    found: dict[tuple[int, int], Pair] = {}
    for row in in_scope:
        nearest, source = items.other(row, "nearest"), items.other(row, "source")
        for other in {nearest, source} - {None}:
            one, two = sorted((row["item"], other))
            pair = found.setdefault((one, two), Pair(items.name(one) or "", items.name(two) or ""))
            pair.count += 1
            pair.nearer += other == nearest
            pair.said += other == source
    return [pair for _, pair in sorted(found.items(), key=lambda entry: (-entry[1].nearer - entry[1].said, entry[0]))]


@dataclass(frozen=True)
class Picture:
    """The curve of right against wrong, in the units of a drawing of 420 × 330."""

    line: str
    limit: float | None  # where the owner's limit is, if the drawing reaches it
    is_limit_named_below: bool
    marks: dict[str, tuple[float, float]]  # of the ways of answering
    beyond: set[str]  # of these, what would lie to the right of the drawing; its mark stands at the edge
    x_ticks: list[tuple[float, Both]]
    y_ticks: list[tuple[float, Both]]
    all_right: Share  # where everything is answered
    all_wrong: Share


_LEFT, _TOP, _WIDTH, _HEIGHT = 72, 12, 316, 262


def picture(report: Mapping[str, Any]) -> Picture | None:
    """Return the drawing of a report; None where nothing in scope was asked."""
    scope, curve = report["in_scope"], report["curve"]
    if not scope["count"]:
        return None
    # The model alone may be wrong so often that what matters would be squeezed into a corner.
    shown = [point["wrong"] for point in curve] + [scope[way]["wrong"] for way in WAYS if way != "model"]
    most = max(0.05, min(1.0, report["most_wrong"]), *shown)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if most / step <= 5.001)
    n_steps = math.ceil(most / step - 0.001)

    def place(wrong: float, right: float) -> tuple[float, float]:
        x, y = _LEFT + min(1.0, wrong / (step * n_steps)) * _WIDTH, _TOP + (1 - right) * _HEIGHT
        return round(x, 1), round(y, 1)

    first = curve[0]
    return Picture(
        line=" ".join("{},{}".format(*place(point["wrong"], point["right"])) for point in curve),
        limit=place(report["most_wrong"], 0)[0] if report["most_wrong"] <= step * n_steps else None,
        is_limit_named_below=max(point["right"] for point in curve) > 0.5,
        marks={way: place(scope[way]["wrong"], scope[way]["right"]) for way in WAYS},
        beyond={way for way in WAYS if scope[way]["wrong"] > step * n_steps},
        x_ticks=[(place(step * n, 0)[0], percent(round(step * n, 2))) for n in range(n_steps + 1)],
        y_ticks=[(place(0, n / 4)[1], percent(n / 4)) for n in range(5)],
        all_right=Share(round(first["right"] * scope["count"]), scope["count"]),
        all_wrong=Share(round(first["wrong"] * scope["count"]), scope["count"]),
    )
