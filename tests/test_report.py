"""The exam: what is asked, what an answer is worth, what each way of answering would have made of it."""

import json
import math
from dataclasses import replace

import pytest
from rich.console import Console
from tiny_run import FULL, ITEMS, make_base, write_csv

from hoidap.bot import load_engine
from hoidap.data.items import Item
from hoidap.data.wordings import AS_WRITTEN, OTHER, split
from hoidap.evaluate.exam import examine
from hoidap.evaluate.judge import WAYS, Asked, calibrate, judge, outcome
from hoidap.evaluate.questions import BARE, FAR, NEAR, Question, questions
from hoidap.evaluate.table import show_report
from hoidap.ground.confidence import Confidence
from hoidap.ground.grounds import SIGNALS, UNTRAINED, Grounds, Said
from hoidap.recipe import Wordings
from hoidap.text import fold
from hoidap.training.job import train
from hoidap.variants.families import FAMILIES

GOODS = ("ấm trà", "chén", "bình hoa", "khay gỗ", "đèn mây", "khăn lanh", "túi cói", "nến thơm", "gối thêu", "thảm len")
SHOP = [
    Item(f"Giá {good} loại {size} bao nhiêu?", f"{good} loại {size} giá {n + 2}{at}.000đ.", (f"{good} {size} nhiêu tiền",))
    for n, good in enumerate(GOODS)
    for at, size in enumerate(("nhỏ", "vừa", "lớn", "rất lớn", "đặc biệt", "mini", "đôi", "cao cấp"))
]  # fmt: skip


@pytest.fixture(scope="module")
def shop():
    return split(SHOP, Wordings(held_out_wordings=1.0, held_out_items=0.2), 1)


@pytest.fixture(scope="module")
def grounds(shop):
    return Grounds.build(shop.items, shop.by_user())


def perfect(grounds, question):
    """Return a question as a model that knows everything would answer it; out of scope it talks."""
    if question.item is None:
        return Asked(question, Said("Tôi nghĩ là có.", 0.2), None)
    said = Said(grounds.items[question.item].answer, 0.95)
    return Asked(question, said, judge(grounds, question.item, said.text))


def test_every_way_of_asking_is_in_the_exam(shop):
    exam = questions(shop)
    assert {q.kind for q in exam} == {AS_WRITTEN, OTHER, BARE, NEAR, FAR, *FAMILIES}
    assert [q.item for q in exam if q.kind == AS_WRITTEN] == list(range(len(shop.items)))
    assert {q.text for q in exam if q.kind == NEAR} >= {item.question for item in shop.held_out}
    assert all((q.item is None) == (q.kind in (NEAR, FAR)) for q in exam)


def test_what_is_asked_without_diacritics_is_asked_with_them_too(shop, monkeypatch):
    monkeypatch.setattr("hoidap.evaluate.questions._MOST_HELD_OUT", 20)
    exam = questions(shop)
    real = [q for q in exam if q.kind == OTHER and not q.is_trained]
    assert len(real) == 20
    assert [replace(q, kind=BARE, text=fold(q.text)) for q in real] == [q for q in exam if q.kind == BARE]


def test_an_items_ways_of_asking_are_all_in_one_half(shop):
    halves = {}
    for q in questions(shop):
        if q.item is not None:
            halves.setdefault(q.item, set()).add(q.calibrates)
    assert all(len(half) == 1 for half in halves.values())
    assert 0.3 < sum(half == {True} for half in halves.values()) / len(halves) < 0.7


def test_near_questions_never_calibrate(shop):
    assert not any(q.calibrates for q in questions(shop) if q.kind == NEAR)


def test_what_was_trained_on_is_told_from_what_was_not(shop):
    trained = {w.text for w in shop.wordings if w.is_trained}
    assert all((q.text in trained) == q.is_trained for q in questions(shop) if q.item is not None and q.kind != BARE)


def test_the_exam_is_bounded():
    many = [Item(f"Câu hỏi thứ {n} là gì?", f"{n}.", (f"câu {n} là sao", f"cau {n}")) for n in range(3000)]
    exam = questions(split(many, Wordings(held_out_wordings=0.5), 1))
    counts = {}
    for q in exam:
        counts[q.kind, q.is_trained] = counts.get((q.kind, q.is_trained), 0) + 1
    assert counts.pop((AS_WRITTEN, True)) == 3000
    assert max(counts.values()) <= 500


@pytest.mark.parametrize(
    ("got", "verdict"),
    [
        ("Nội thành 25.000đ, từ 500.000đ được miễn phí.", "exact"),
        ("NỘI THÀNH 25.000đ,  từ 500.000đ được miễn phí", "same"),
        ("Dạ nội thành 25.000đ, từ 500.000đ được miễn phí.", "facts"),
        ("Từ 8h30 đến 20h30 ạ.", "other"),
        ("Nội thành 35.000đ, từ 500.000đ được miễn phí.", "wrong"),
        ("Tôi không biết.", "wrong"),
        ("", "wrong"),
    ],
)
def test_what_an_answer_is_worth(got, verdict):
    assert judge(Grounds.build(ITEMS, [[] for _ in ITEMS]), 1, got) == verdict


def test_a_perfect_model_is_believed(shop, grounds):
    asked = [perfect(grounds, q) for q in questions(shop)]
    confidence, n = calibrate(grounds, asked, 0.05)
    assert n == sum(q.calibrates and q.kind == OTHER for q in questions(shop))
    sure = grounds.with_confidence(confidence)
    reported = [a for a in asked if a.question.kind == OTHER and not a.question.calibrates]
    found = [outcome(sure, a, "checked", lambda number: Said(sure.items[number].answer, 0.9), 0.5) for a in reported]
    assert found.count("right") > 0.9 * len(found)
    far = [a for a in asked if a.question.kind == FAR and not a.question.calibrates]
    assert [outcome(sure, a, "checked", lambda _n: Said("", 0.1), 0.5) for a in far].count("declined") > 0.9 * len(far)


def test_the_owners_limit_is_kept(shop, grounds):
    """A model that gives a wrong item's answer to every third question, as surely as any other."""
    wrong = [
        Asked(q, Said(grounds.items[(q.item + 1) % len(grounds.items)].answer, 0.95), "other")
        if q.item is not None and q.item % 3 == 0 and not q.is_trained
        else perfect(grounds, q)
        for q in questions(shop)
    ]
    for limit in (0.1, 0.05):
        confidence, _ = calibrate(grounds, wrong, limit)
        sure = grounds.with_confidence(confidence)
        half = [a for a in wrong if a.question.kind == OTHER and a.question.calibrates]
        found = [outcome(sure, a, "verbatim", lambda _n: Said("", 0.1), 0.5) for a in half]
        assert found.count("wrong") / len(found) <= limit


def test_too_few_questions_set_no_threshold():
    few = Grounds.build(ITEMS, [[] for _ in ITEMS])
    exam = questions(split(ITEMS, Wordings(variants=0, held_out_wordings=1.0), 1))
    assert calibrate(few, [perfect(few, q) for q in exam], 0.05) == (UNTRAINED, 0)


def test_ways_of_answering():
    grounds = Grounds.build(ITEMS, [[] for _ in ITEMS]).with_confidence(
        Confidence(SIGNALS, (10.0, 8.0, 0.5, 0.5), -5.0, 0.5)
    )
    question = Question(OTHER, "phi giao hang bao nhieu vay", 1, (), is_trained=False, calibrates=False)
    mumbled = Asked(question, Said("Dạ mình ạ.", 0.2), "wrong")
    ways = {way: outcome(grounds, mumbled, way, lambda number: Said(ITEMS[number].answer, 0.9), 0.3) for way in WAYS}
    assert ways == {
        "model": "wrong", "checked": "right", "verbatim": "right", "lookup": "right", "decline-all": "declined",
    }  # fmt: skip
    assert outcome(grounds, mumbled, "checked", lambda _n: mumbled.said, 0.3) == "declined"
    assert outcome(grounds, mumbled, "lookup", lambda _n: Said("", 0.1), 0.99) == "declined"
    stranger = Asked(Question(FAR, "phí giao hàng", None, (), is_trained=False, calibrates=False), mumbled.said, None)
    assert (
        outcome(grounds, stranger, "verbatim", lambda _n: Said("", 0.1), 0.3) == "wrong"
    )  # out of scope no answer is right


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    base = make_base(folder / "base")
    data = write_csv(folder / "shop.csv", ITEMS)
    return train(data, out=folder / "run", model=base.name, recipe=FULL, device="cpu", console=Console(quiet=True))


def test_the_report_says_what_the_run_knows(trained):
    report = trained.report()
    assert report["format"] == 2
    assert report["items"]["score"] == {"count": 6, "exact": 1.0, "normalised": 1.0, "chrf": 100.0}
    assert report["other_wordings"]["score"]["count"] == 2
    assert report["out_of_scope"]["near"] is None
    assert report["out_of_scope"]["far"]["decline-all"] == {"right": 0.0, "wrong": 0.0, "declined": 1.0}
    assert report["set_by"] == 0
    assert report["forgetting"] is None  # all weights were trained: there is no adapter to take off
    assert set(report["learned"]) == {str(n) for n in range(6)}
    for row in report["asked"]:
        if row["kind"] == AS_WRITTEN:
            assert row["got"] == row["wanted"] == ITEMS[row["item"]].answer
            assert row["verdict"] == "exact"
    for name in ("right", "wrong", "declined"):
        counted = sum(
            row["ways"]["checked"] == name for row in report["asked"] if row["kind"] == FAR and not row["calibrates"]
        )
        assert report["out_of_scope"]["far"]["checked"][name] == pytest.approx(
            counted / report["out_of_scope"]["far"]["count"]
        )


def test_the_report_is_json_that_any_reader_takes(trained):
    text = (trained.folder / "report.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_an_exam_taken_again_gives_the_same_report_and_index(trained):
    before = trained.report()
    engine, tokenizer = load_engine(trained, device="cpu")
    examine(trained, engine, tokenizer, Console(quiet=True))
    after = trained.report()
    for report in (before, after):
        for row in report["asked"]:
            row["likelihood"] = row["confidence"] = 0.0  # a batch of another size adds its floats in another order
        report.pop("curve")
    assert after == before


def test_both_rates_are_shown(trained, capsys):
    show_report(trained.report(), Console(width=140))
    shown = capsys.readouterr().out
    for column in ("right", "wrong", "declined", "far out of scope", "near out of scope", "not measured"):
        assert column in shown
    for way in WAYS:
        assert way in shown


def test_an_adapter_is_charged_with_what_the_base_forgot(tmp_path):
    from tiny_run import LORA

    base = make_base(tmp_path / "base")
    data = write_csv(tmp_path / "shop.csv", ITEMS)
    run = train(data, out=tmp_path / "run", model=base.name, recipe=LORA, device="cpu", console=Console(quiet=True))
    found = run.report()["forgetting"]
    assert found["before"] == pytest.approx(math.log2(8192) / 4.5, rel=0.3)  # random weights: any token is as likely
    assert found["after"] > found["before"]


def test_near_questions_whose_answer_is_trained_are_not_near():
    items = [Item(f"Hỏi cách {n}?", f"Trả lời {n % 5}.") for n in range(40)]
    assert not [q for q in questions(split(items, Wordings(held_out_items=0.3), 1)) if q.kind == NEAR]


def test_a_wording_that_is_the_question_but_for_its_capitals_examines_nothing():
    found = split([Item("Giá bao nhiêu?", "5đ.", ("GIÁ BAO NHIÊU", "nhiêu tiền"))], Wordings(held_out_wordings=1.0), 1)
    assert [w.is_trained for w in found.wordings if w.kind == OTHER] == [True, False]


def test_no_wrong_answer_allowed_is_no_answer(shop, grounds):
    asked = [perfect(grounds, q) for q in questions(shop)]
    assert calibrate(grounds, asked, 0.0)[0].threshold == math.inf
