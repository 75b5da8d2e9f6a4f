"""The answer report as a page: what an owner reads there is what the exam found."""

import json
import re
from collections import Counter
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from hoidap.data.items import Item
from hoidap.data.wordings import AS_WRITTEN, OTHER, Split, Wording, split
from hoidap.evaluate.judge import WAYS
from hoidap.evaluate.page import KINDS, Share, difference, page, percent, picture
from hoidap.evaluate.questions import BARE
from hoidap.evaluate.report import evaluate
from hoidap.ground.grounds import Grounds
from hoidap.prompt import PHOGPT_4B_CHAT
from hoidap.recipe import Recipe, Wordings
from hoidap.run import Run
from hoidap.variants.families import FAMILIES

HOSTILE = "<script>alert('x')</script>&amp;"
GOODS = (
    *("bánh mì", "cà phê sữa", "áo dài", "gốm Bát Tràng", "xe đạp", "nước mắm"),
    *("cặp sách", "đèn lồng", "giày da", "tranh Đông Hồ", "mật ong", "trà sen"),
)
DAY = date(2025, 11, 3)


def shop(n=12):
    """Items that name each its goods, with two other wordings."""
    return [
        Item(
            f"Tiệm bán {goods} giá bao nhiêu?",
            f"Dạ, {goods} giá {25 + n}.000đ, giao trong {n + 1} ngày ạ.",
            (f"{goods} nhiêu tiền vậy shop", f"cho hỏi mua {goods} hết mấy đồng"),
        )
        for n, goods in enumerate(GOODS[:n])
    ]


class Scripted:
    """Stands for a bot: says what a function of the question says."""

    def __init__(self, items, say):
        self.grounds = Grounds.build(items, [()] * len(items))
        self._say = say

    def answer_all(self, questions, _sampling, advance, _befores):
        for _ in questions:
            advance()
        return [SimpleNamespace(text=self._say(question), confidence=0.9, finish_reason="stop") for question in questions]

    def sampling(self):
        return None


def report_of(exam, say=None, **more):
    """Return what the exam of a bot finds, as report.json gives it back."""
    answers = {wording.text: exam.items[wording.item].answer for wording in exam.wordings}
    bot = Scripted(exam.items, say or (lambda question: answers.get(question, "Em không biết ạ.")))
    report, _ = evaluate(bot, exam, **more)
    report |= {"learned": {n: 3 + n % 2 for n in range(len(exam.items))}, "forgetting": None}
    return json.loads(json.dumps(report))


@pytest.fixture(scope="module")
def perfect():
    return report_of(split(shop(), Wordings(), 1))


@pytest.fixture(scope="module")
def mixed():
    """A bot that knows most, takes two items for each other, and lost one."""
    items = shop()
    answers = {item.question: item.answer for item in items}
    answers[items[0].question] = items[1].answer
    answers[items[2].question] = items[2].answer.replace("27.000đ", "72.000đ")
    answers[items[3].question] = items[3].answer.removesuffix(" ạ.") + " nha."
    answers[items[4].question] = items[4].answer.upper()
    answers[items[5].question] = ""
    exam = split(items, Wordings(held_out_wordings=0.5, held_out_items=0.0), 1)
    report = report_of(exam, lambda question: answers.get(question, items[1].answer), most_wrong=0.2)
    del report["learned"]["5"]
    return report | {"forgetting": {"before": 1.81, "after": 2.43}}


class Parsed(HTMLParser):
    """The elements of a page, and the text that it shows in one language."""

    VOID = ("meta", "input", "br", "path", "circle", "polyline")

    def __init__(self, text, language="vi"):
        super().__init__()
        self.elements, self.shown, self.open = [], "", []
        self.hidden = {"vi": "en", "en": "vi"}[language]
        self.feed(text)
        assert self.open == []
        self.shown = re.sub(r"\s+", " ", self.shown)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs).get("lang") if tag != "html" else None))
        elif tag == "br":
            self.shown += " "

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if all(tag != "style" and language != self.hidden for tag, language in self.open):
            self.shown += data


def shown(report, language="vi", name="tiem-gom"):
    return Parsed(page(report, name, day=DAY), language).shown


# What the owner reads


def test_the_verdict_gives_both_rates_with_their_counts(mixed):
    text = shown(mixed)
    scope, far = mixed["in_scope"], mixed["out_of_scope"]["far"]
    n = scope["count"]
    right, wrong, declined = (round(scope["checked"][what] * n) for what in ("right", "wrong", "declined"))
    assert "Ngày 03/11/2025 · 12 mục" in text
    assert "Bot thuộc 7/12 câu trả lời." in text
    said = f"đúng {right / n:.0%}, sai {wrong / n:.0%}, xin lỗi vì chưa biết {declined / n:.0%} (trong {n} câu)"
    assert said in text
    assert f"({wrong}/{n} câu)" in text
    answered = far["count"] - round(far["checked"]["declined"] * far["count"])
    assert f"({answered}/{far['count']} câu)" in text


def test_near_questions_that_were_not_asked_are_not_passed_over(mixed):
    assert "hoidap train … --hold-out-items 0.2" in shown(mixed)
    near = report_of(split(shop(), Wordings(held_out_items=0.4), 1))
    n = near["out_of_scope"]["near"]["count"]
    assert n > 0
    assert f"/{n} câu)" in shown(near)
    assert "--hold-out-items" not in shown(near)


def test_what_was_said_stands_beside_what_was_wanted_with_the_difference_marked(mixed):
    text = page(mixed, "tiem-gom")
    assert "<del>27.000đ,</del>" in text
    assert "<ins>72.000đ,</ins>" in text
    assert "(không nói gì)" in shown(mixed)


def test_the_worst_items_come_first_each_with_its_status(mixed):
    text = shown(mixed)
    section = text[text.index("Câu trả lời chưa thuộc (5)") : text.index("Cách hỏi mà bot trả lời sai")]
    entries = [section.index(f"Tiệm bán {GOODS[n]} giá bao nhiêu? ") for n in (0, 5, 2, 3, 4)]
    assert entries == sorted(entries)
    parts = [section[start:end] for start, end in pairwise([*entries, None])]
    assert [("chưa thuộc" in part, "gần đúng" in part) for part in parts] == [(True, False)] * 3 + [(False, True)] * 2
    assert f"bot đưa câu trả lời của “Tiệm bán {GOODS[1]} giá bao nhiêu?”: hai mục này dễ lẫn nhau" in parts[0]
    assert "đọc thuộc lần đầu ở lượt học 3" in parts[0]
    assert [n for n, part in enumerate(parts) if "chưa lượt học nào đọc thuộc" in part] == [1]
    assert "7/12 mục thuộc từng chữ, 2 gần đúng, 3 chưa thuộc" in section
    assert "Đến lượt học 3: 6/12 mục đã có lần đọc thuộc; đến lượt học 4: 11/12 mục" in section


def test_ways_of_asking_stand_under_their_item_with_a_hint(mixed):
    rows = [row for row in mixed["asked"] if row["item"] is not None and row["kind"] != AS_WRITTEN]
    taken = next(row for row in rows if row["ways"]["checked"] == "right")
    confused = taken | {
        "nearest": (taken["item"] + 1) % 12,
        "ways": taken["ways"] | {"checked": "wrong", "verbatim": "wrong"},
    }
    mixed = mixed | {"asked": [confused if row is taken else row for row in mixed["asked"]]}
    rows = [confused if row is taken else row for row in rows]
    wrong, declined = ([row for row in rows if row["ways"]["checked"] == what] for what in ("wrong", "declined"))
    assert wrong
    text = shown(mixed)
    assert f"Cách hỏi mà bot trả lời sai hoặc xin lỗi ({len(wrong) + len(declined)})" in text
    for row in (*wrong, *declined):
        assert f"“{row['question']}” {KINDS[row['kind']].vi}" in text
    assert "Hai mục này dễ lẫn nhau: mục trên / “" in text
    assert "Bot nhận ra đúng mục nhưng chưa nói được câu trả lời" in text


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({}, "Thêm cách hỏi này vào cột “cách hỏi khác”."),
        ({"kind": OTHER}, "Thêm vài cách hỏi giống vậy vào cột “cách hỏi khác” (câu này để dành cho phần thi)."),
        ({"trained": True}, "Cách hỏi này bot đã học mà vẫn chưa chắc: thêm vài cách hỏi giống vậy."),
        ({"nearest": 1}, f"Bot thấy gần mục “Tiệm bán {GOODS[1]} giá bao nhiêu?” hơn, nhưng chưa chắc. Thêm cách hỏi này"),
        ({"ways": {"checked": "declined", "verbatim": "right"}}, "Bot nhận ra đúng mục nhưng chưa nói được câu trả lời"),
        (
            {"nearest": 1, "recognised": 1, "ways": {"checked": "wrong", "verbatim": "wrong"}},
            f"Hai mục này dễ lẫn nhau: mục trên / “Tiệm bán {GOODS[1]} giá bao nhiêu?”.",
        ),
    ],
)
def test_a_hint_says_what_to_do(changes, hint, perfect):
    row = next(row for row in perfect["asked"] if row["kind"] == "typo" and row["item"] == 0)
    declined = {"checked": "declined", "verbatim": "declined"}
    failed = row | {"question": "hỏi thử", "nearest": 0, "source": 0, "ways": declined} | changes
    others = [row for row in perfect["asked"] if row["item"] is None or row["ways"]["checked"] == "right"]
    text = shown(perfect | {"asked": [*others, failed]})
    part = text[text.index("“hỏi thử”") :]
    assert part[: part.index("Theo từng kiểu hỏi")].count(hint) == 1


def test_items_that_are_confused_are_counted_over_all_questions(mixed):
    counts = Counter()
    answers = {row["item"]: row["wanted"] for row in mixed["asked"] if row["kind"] == AS_WRITTEN}
    for row in mixed["asked"]:
        if row["item"] is not None:
            others = {n for n in (row["nearest"], row["source"]) if n is not None and answers[n] != row["wanted"]}
            counts.update(tuple(sorted((row["item"], other))) for other in others)
    (one, two), most = counts.most_common(1)[0]
    text = shown(mixed)
    named = f"“Tiệm bán {GOODS[one]} giá bao nhiêu?” / “Tiệm bán {GOODS[two]} giá bao nhiêu?” lẫn ở {most} câu"
    assert named in text


def test_the_tables_hold_every_kind_and_every_way_with_their_counts(mixed):
    text = shown(mixed)
    for row in mixed["kinds"]:
        shares = [percent(round(row["checked"][what] * row["count"]) / row["count"]).vi for what in row["checked"]]
        learned = "đã học" if row["trained"] else "chưa học"
        assert f"{KINDS[row['kind']].vi} {learned} {row['count']} {' '.join(shares)}" in text
    n = mixed["in_scope"]["count"]
    for way in WAYS:
        part = text[text.index("So các cách trả lời", text.index("Theo từng kiểu hỏi ")) :]
        right = round(mixed["in_scope"][way]["right"] * n)
        assert re.search(rf"{way} [^%]*{percent(right / n).vi} \({right}/{n}\)", part)


def test_every_kind_of_question_has_a_name():
    assert set(KINDS) == {AS_WRITTEN, OTHER, BARE, *FAMILIES}


def test_what_forgetting_cost_is_told_where_it_is_known(mixed, perfect):
    assert "1,81 bit cho mỗi byte trước khi học tệp này và 2,43 sau khi học (+34%)" in shown(mixed)
    assert "1.81 bits a byte" in shown(mixed, "en")
    assert "bit cho mỗi byte" not in shown(perfect)


def test_questions_out_of_scope_that_were_answered_are_listed(perfect):
    row = next(row for row in perfect["asked"] if row["kind"] == "far")
    answered = row | {"question": "Mấy giờ tàu chạy?", "nearest": 3, "ways": row["ways"] | {"checked": "wrong"}}
    text = shown(perfect | {"asked": [*perfect["asked"], answered]})
    assert f"“Mấy giờ tàu chạy?” Gần nhất trong tệp: “Tiệm bán {GOODS[3]} giá bao nhiêu?”" in text


# Both languages, without scripts


@pytest.mark.parametrize(("language", "other"), [("vi", "en"), ("en", "vi")])
def test_a_page_holds_both_languages_and_opens_in_one(language, other, mixed):
    parsed = Parsed(page(mixed, "tiem-gom", language), language)
    checked = {a["id"] for tag, a in parsed.elements if tag == "input" and "checked" in a}
    assert checked == {language}
    n = [sum(a.get("lang") == one for tag, a in parsed.elements if tag in ("span", "text")) for one in (language, other)]
    assert n[0] == n[1] > 50
    assert parsed.elements[0] == ("html", {"lang": language})


def test_the_english_page_shows_no_vietnamese_of_its_own(mixed):
    text = shown(mixed, "en")
    assert "The bot knows 7 of 12 answers by heart." in text
    for kind in KINDS.values():
        assert kind.vi not in text


def test_a_page_asks_for_nothing_and_runs_nothing(mixed):
    text = page(mixed, "tiem-gom")
    parsed = Parsed(text)
    links = [a[name] for _, a in parsed.elements for name in ("src", "href", "action", "srcset", "xlink:href") if name in a]
    assert links
    assert {link[1:] for link in links if link.startswith("#")} <= {a.get("id") for _, a in parsed.elements}
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"@import|url\(|javascript:|<script", text)
    assert "default-src 'none'; style-src 'unsafe-inline'" in text
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_hostile_text_is_text(mixed):
    rows = [dict(row) for row in mixed["asked"]]
    for row in rows:
        row["question"] = HOSTILE + row["question"]
        row["wanted"], row["got"] = (row["wanted"] or "") + HOSTILE, row["got"] + "<img src=x onerror=alert(1)>"
    text = page(mixed | {"asked": rows}, HOSTILE)
    parsed = Parsed(text)
    assert not {tag for tag, _ in parsed.elements} & {"script", "img", "iframe", "object", "a:href"}
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    assert f"{HOSTILE} · hoidap" in parsed.shown
    assert f"{HOSTILE}Tiệm bán {GOODS[0]}" in parsed.shown
    assert "onerror=alert(1)>" in parsed.shown


# Reports of every sort


def without_in_scope(report):
    none = {way: dict.fromkeys(("right", "wrong", "declined"), 0.0) for way in WAYS}
    return report | {
        "in_scope": {"kinds": [], "count": 0, **none},
        "curve": [{"threshold": None, "right": 0.0, "wrong": 0.0}],
    }


def test_a_page_without_questions_in_other_words_says_how_to_measure_them(perfect):
    text = shown(without_in_scope(perfect))
    assert "Khách hỏi bằng lời khác: chưa đo được (0 câu)." in text
    assert "viết thêm vào cột “cách hỏi khác”" in text
    assert "Trả lời nhiều hơn thì sai nhiều hơn" not in text


def test_an_exam_of_variants_alone_says_so():
    items = [replace(item, wordings=()) for item in shop(5)]
    report = report_of(split(items, Wordings(), 1), most_wrong=0.5)
    assert report["in_scope"]["count"] > 0
    assert "Khách gõ câu hỏi khác đi: trả lời đúng" in shown(report)
    assert "do máy biến đổi" in shown(report)


def test_one_item_makes_a_page():
    item = shop()[0]
    exam = Split([item], [], [Wording(0, AS_WRITTEN, item.question, is_trained=True)])
    report = report_of(exam)
    assert (report["threshold"], report["set_by"]) == (0.5, 0)
    text = shown(report)
    assert "Bot thuộc 1/1 câu trả lời." in text
    assert "Chưa đủ mục để đặt ngưỡng" in text
    assert "(giới hạn 5% cần câu hỏi của ít nhất 19 mục): bot dùng ngưỡng định sẵn" in text
    assert shown(report, "en")


def test_no_questions_out_of_scope_make_a_page(perfect):
    far = perfect | {"out_of_scope": {"near": None, "far": None}}
    assert "Ngoài phạm vi, chuyện khác hẳn: bot vẫn trả lời Chưa đo được (0 câu)." in shown(far)


def test_nothing_to_correct_is_said(perfect):
    rows = [
        row | {"ways": row["ways"] | {"checked": "declined" if row["item"] is None else "right"}}
        for row in perfect["asked"]
    ]
    text = shown(perfect | {"asked": rows})
    assert "Không có gì phải sửa: 12/12 mục thuộc từng chữ" in text
    assert "Cách hỏi mà bot trả lời sai" not in text
    assert "Câu trả lời: thuộc hết" in text


@pytest.mark.parametrize(
    ("most_wrong", "set_by", "said"),
    [
        (0.05, 7, "Mới có 7 mục có câu để đặt ngưỡng, mà giới hạn này cần ít nhất 19 mục"),
        (0.1, 9, "Ở 9 mục dùng để đặt ngưỡng, ngay cả những câu bot chắc nhất cũng sai quá nhiều"),
        (0.0, 500, "Giới hạn 0% thì bao nhiêu câu cũng không chứng minh được."),
    ],
)
def test_no_threshold_is_said_with_its_reason(most_wrong, set_by, said, mixed):
    rows = [row | {"ways": dict.fromkeys(WAYS, "declined")} for row in mixed["asked"]]
    report = mixed | {"asked": rows, "threshold": None, "most_wrong": most_wrong, "set_by": set_by}
    text = shown(report)
    assert "bot xin lỗi với mọi câu hỏi" in text
    assert said in text
    right = next(row["question"] for row in rows if row["kind"] == "typo" and row["nearest"] == row["item"])
    assert f"“{right}”" not in text  # declined like everything: it says nothing of the question


def test_a_bot_that_is_wrong_more_often_than_allowed_is_warned_of(mixed):
    n = mixed["in_scope"]["count"]
    scope = mixed["in_scope"] | {"checked": {"right": (n - 2) / n, "wrong": 2 / n, "declined": 0.0}}
    assert f"Sai 2/{n} câu là trên giới hạn 20% của bạn." in shown(mixed | {"in_scope": scope})
    assert "trên giới hạn" not in shown(mixed)


def test_a_long_report_is_cut_with_the_count_of_the_rest(mixed):
    lost = next(row for row in mixed["asked"] if row["kind"] == AS_WRITTEN and row["item"] == 5)
    failed = next(row for row in mixed["asked"] if row["kind"] == "typo" and row["item"] == 5)
    items = [
        {**lost, "item": n, "question": f"Mục {n}?", "wanted": f"Dạ {n} ạ.", "got": "x " * 9000} for n in range(12, 1012)
    ]
    wordings = [
        {**failed, "item": n, "question": f"{n} đâu", "nearest": n, "ways": dict.fromkeys(WAYS, "declined")}
        for n in range(12, 1012)
    ]
    text = page(mixed | {"asked": [*mixed["asked"], *items, *wordings]}, "tiem-gom")
    parsed = Parsed(text)
    n_failed = int(re.search(r"trả lời sai hoặc xin lỗi \((\d+)\)", parsed.shown)[1])
    assert "… và 905 chỗ nữa, có trong report.json" in parsed.shown
    assert f"… và {n_failed - 200} chỗ nữa, có trong report.json" in parsed.shown
    assert len(text) < 1_000_000


def test_items_known_by_number_are_those_known_by_name(mixed):
    numbered = mixed | {"learned": {int(n): epoch for n, epoch in mixed["learned"].items()}}
    assert page(numbered, "a", day=DAY) == page(mixed, "a", day=DAY)


# The picture


def test_the_picture_shows_what_the_report_holds(mixed):
    scope = {"kinds": [OTHER], "count": 100, **{way: {"right": 0.0, "wrong": 0.0, "declined": 1.0} for way in WAYS}}
    scope |= {
        "checked": {"right": 0.5, "wrong": 0.1, "declined": 0.4},
        "model": {"right": 0.2, "wrong": 0.8, "declined": 0.0},
    }
    curve = [(0.1, 0.75, 0.2), (0.6, 0.5, 0.1), (None, 0.0, 0.0)]
    points = [dict(zip(("threshold", "right", "wrong"), point, strict=True)) for point in curve]
    drawn = picture(mixed | {"in_scope": scope, "curve": points, "most_wrong": 0.05})
    line = [tuple(map(float, pair.split(","))) for pair in drawn.line.split()]
    (right_edge, high), (middle, half), (left, bottom) = line
    assert right_edge > middle > left == drawn.x_ticks[0][0]
    assert high < half < bottom == drawn.y_ticks[0][0]
    assert middle - left == pytest.approx((right_edge - left) / 2, abs=0.2)
    assert drawn.limit - left == pytest.approx((right_edge - left) / 4, abs=0.2)
    assert drawn.marks["checked"] == (middle, half)
    assert drawn.marks["decline-all"] == (left, bottom)
    assert drawn.beyond == {"model"}
    assert drawn.marks["model"][0] == drawn.x_ticks[-1][0]
    assert [tick.vi for _, tick in drawn.x_ticks] == ["0%", "5%", "10%", "15%", "20%"]
    assert (drawn.all_right, drawn.all_wrong) == (Share(75, 100), Share(20, 100))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20), st.floats(0, 3))
def test_nothing_is_drawn_outside_the_picture(shares, most_wrong):
    points = [{"threshold": 0.5, "right": right, "wrong": (1 - right) * part} for right, part in shares]
    ways = {way: {"right": p["right"], "wrong": p["wrong"]} for way, p in zip(WAYS, points * len(WAYS), strict=False)}
    drawn = picture({"in_scope": {"count": 9, **ways}, "curve": points, "most_wrong": most_wrong})
    places = [*drawn.marks.values(), *(tuple(map(float, pair.split(","))) for pair in drawn.line.split())]
    places += [(x, 0) for x, _ in drawn.x_ticks] + [(drawn.limit or 60, 0)]
    assert all(60 <= x <= 400 and 0 <= y <= 280 for x, y in places)
    assert 2 <= len(drawn.x_ticks) <= 7


def test_the_picture_has_words_for_who_does_not_see_it(mixed):
    parsed = Parsed(page(mixed, "tiem-gom"))
    drawing = next(a for tag, a in parsed.elements if tag == "svg")
    assert drawing["role"] == "img"
    assert drawing["aria-labelledby"] in {a.get("id") for _, a in parsed.elements}
    n = mixed["in_scope"]["count"]
    assert f"Đường cong: kết quả trên {n} câu hỏi" in parsed.shown
    assert "trả lời đúng" in parsed.shown


# Numbers and differences


@pytest.mark.parametrize(
    ("share", "vi", "en"),
    [
        (0.0, "0%", "0%"),
        (1.0, "100%", "100%"),
        (0.712, "71%", "71%"),
        (0.004, "0,4%", "0.4%"),
        (0.998, "99,8%", "99.8%"),
        (0.0003, "0,03%", "0.03%"),
        (0.99, "99%", "99%"),
    ],
)
def test_a_share_reads_as_none_or_all_only_if_it_is(share, vi, en):
    assert (percent(share).vi, percent(share).en) == (vi, en)


@given(st.integers(1, 500).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_the_range_of_a_share_is_wilsons(pair):
    interval = binomtest(*pair).proportion_ci(0.95, method="wilson")
    low, high = (float(end.en.rstrip("%")) / 100 for end in Share(*pair).range)
    assert low == pytest.approx(interval.low, abs=0.0051)
    assert high == pytest.approx(interval.high, abs=0.0051)


WORDS = st.lists(st.sampled_from(("dạ", "bán", "25.000đ", "26.000đ", "ạ", ".", "hoà", "hòa", "😀", "\u202e")), max_size=25)


@given(WORDS, WORDS)
def test_a_difference_marks_all_that_differs_and_nothing_else(wanted, got):
    left, right = difference(" ".join(wanted), "\n".join(got))
    assert " ".join(piece.text for piece in left).split() == wanted
    assert " ".join(piece.text for piece in right).split() == got
    kept = [" ".join(piece.text for piece in side if not piece.is_marked) for side in (left, right)]
    assert kept[0] == kept[1]
    assert wanted != got or not any(piece.is_marked for piece in (*left, *right))


def test_a_long_difference_is_bounded():
    left, right = difference("dạ " * 50_000, "x" * 100_000)
    assert sum(len(piece.text) for piece in (*left, *right)) < 2000


def test_a_long_answer_is_shown_where_it_differs():
    words = [f"từ{n}" for n in range(200)]
    left, right = difference(" ".join(words), " ".join([*words[:150], "khác", *words[151:]]))
    assert [piece.text for piece in left if piece.is_marked] == ["từ150"]
    assert [piece.text for piece in right if piece.is_marked] == ["khác"]
    assert left[0].text == right[0].text
    assert len(left[0].text.split()) == 25


# The run


def test_a_run_keeps_its_page(tmp_path, mixed):
    run = Run(tmp_path, Recipe(), "mini", {}, PHOGPT_4B_CHAT)
    path = run.save_page(page(mixed, "tiệm-gốm"))
    assert path == tmp_path / "report.html"
    assert "tiệm-gốm · hoidap" in path.read_text(encoding="utf-8")
