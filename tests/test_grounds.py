"""Which item a question asks for, which item an answer comes from, and what is then given."""

import math

import pytest

from hoidap.data.items import Item
from hoidap.errors import RunError
from hoidap.ground import grounds as grounds_module
from hoidap.ground.confidence import Confidence
from hoidap.ground.grounds import SIGNALS, Grounds, Said

ITEMS = [
    Item("Mấy giờ cửa hàng mở cửa?", "Dạ, tiệm mở từ 8h30 đến 20h30 mỗi ngày ạ."),
    Item("Phí giao hàng nội thành bao nhiêu?", "Nội thành 25.000đ, đơn từ 500.000đ được miễn phí giao hàng."),
    Item("Cửa hàng có nhận thẻ không?", "Dạ có, tiệm nhận Visa và Mastercard."),
    Item("Địa chỉ cửa hàng ở đâu?", "Tiệm ở số 38/12 Xuân Thủy, phường An Khánh."),
    Item("Tiệm nằm chỗ nào?", "Tiệm ở số 38/12 Xuân Thủy, phường An Khánh"),
]
NOTHING = Said("Hôm nay trời đẹp quá.", 0.3)


@pytest.fixture(scope="module")
def grounds():
    return Grounds.build(ITEMS, [["shop mở lúc nào"], [], [], [], []])


def sure_of(threshold):
    return Confidence(SIGNALS, (4.0, 4.0, 2.0, 2.0), -3.0, threshold)


def never(_number):
    pytest.fail("there is no need to ask the model again")


@pytest.mark.parametrize(
    ("question", "number"),
    [
        ("may gio cua hang mo cua", 0),
        ("PHÍ GIAO HÀNG NỘI THÀNH", 1),
        ("nhận thẻ ko shop", 2),
        ("shop mở lúc nào", 0),
        ("ship nhiu", 1),  # teencode, spelled out: giao hàng, bao nhiêu
        ("trả bằng visa được không", 2),  # a word of the answer alone
    ],
)
def test_a_question_is_found(grounds, question, number):
    assert grounds.near(question)[0].number == number


def test_of_items_with_the_same_answer_the_nearest_alone_is_near(grounds):
    numbers = [found.number for found in grounds.near("Tiệm nằm chỗ nào vậy?")]
    assert numbers[0] == 4
    assert 3 not in numbers


def test_a_question_that_shares_nothing_is_near_nothing(grounds):
    assert grounds.near("xyz") == []
    decision = grounds.decide("xyz", NOTHING, never)
    assert (decision.number, decision.text, decision.confidence, decision.near) == (None, "", 0.0, ())


@pytest.mark.parametrize(
    ("answer", "number", "closeness"),
    [
        (ITEMS[1].answer, 1, 1.0),
        (ITEMS[1].answer.upper().rstrip("."), 1, 1.0),
        ("Nội thành 25.000đ, đơn từ 500.000đ được miễn phí.", 1, 0.9),
        ("Hôm nay trời đẹp quá.", None, 0.0),
        ("", None, 0.0),
    ],
)
def test_an_answer_is_traced_to_its_item(grounds, answer, number, closeness):
    found, close = grounds.source(answer)
    assert found == number
    assert close == pytest.approx(closeness, abs=0.1)


@pytest.mark.parametrize(
    ("text", "is_answer"),
    [
        ("Nội thành 25.000đ, đơn từ 500.000đ được miễn phí giao hàng.", True),
        ("Nội thành 25k, đơn từ 500.000đ được miễn phí giao hàng ạ.", True),  # the same facts in other words
        ("Nội thành 35.000đ, đơn từ 500.000đ được miễn phí giao hàng.", False),  # another price
        ("Nội thành 25.000đ, đơn hàng lớn được miễn phí giao hàng.", False),  # a fact is missing
        ("Nội thành 25.000đ, đơn từ 500.000đ được miễn phí giao hàng, gọi 0901234567.", False),  # one too many
        ("Nội thành 25.000đ, đơn từ 500.000đ gốm sứ gỗ tre.", False),  # the facts, and nonsense around them
        (ITEMS[0].answer, False),
    ],
)
def test_an_answer_must_state_the_facts_and_no_others(grounds, text, is_answer):
    assert grounds.is_answer(1, text) == is_answer


def test_an_equal_answer_of_another_item_is_right_too(grounds):
    assert grounds.is_answer(3, ITEMS[4].answer)
    assert grounds.has_same_answer(3, 4)
    assert not grounds.has_same_answer(0, 4)


def test_what_the_model_says_is_given_where_the_items_vouch_for_it(grounds):
    said = Said("Nội thành 25k, đơn từ 500.000đ được miễn phí giao hàng ạ.", 0.9)
    decision = grounds.with_confidence(sure_of(0.5)).decide("phí giao hàng nội thành", said, never)
    assert (decision.number, decision.text) == (1, said.text)


def test_where_the_model_says_something_else_it_is_asked_as_it_was_taught(grounds):
    asked = []
    decision = grounds.with_confidence(sure_of(0.5)).decide(
        "phí giao hàng nội thành bao nhiêu", NOTHING, lambda number: asked.append(number) or Said(ITEMS[number].answer, 0.9)
    )
    assert asked == [1]
    assert (decision.number, decision.text) == (1, ITEMS[1].answer)


def test_what_the_model_cannot_recite_is_not_given(grounds):
    wrong_price = ITEMS[1].answer.replace("25", "35")
    for told in (wrong_price, "", ITEMS[0].answer):
        said = Said(told, 0.9)
        decision = grounds.with_confidence(sure_of(0.5)).decide(ITEMS[1].question, said, lambda _n, said=said: said)
        assert decision.number is None or decision.number == 0  # its vote may win, its own answer then stands


def test_below_the_threshold_nothing_is_given(grounds):
    decision = grounds.with_confidence(sure_of(0.99)).decide(ITEMS[1].question, NOTHING, never)
    assert decision.number is None
    assert 0 < decision.confidence < 0.99
    assert decision.near[0].number == 1


def test_an_infinite_threshold_declines_everything(grounds):
    said = Said(ITEMS[1].answer, 1.0)
    assert grounds.with_confidence(sure_of(math.inf)).decide(ITEMS[1].question, said, never).number is None


def test_verbatim_gives_the_items_words_without_asking_the_model(grounds):
    decision = grounds.with_confidence(sure_of(0.5)).decide(ITEMS[0].question, NOTHING, None)
    assert (decision.number, decision.text) == (0, ITEMS[0].answer)


def test_the_models_vote_counts(grounds):
    confident = grounds.with_confidence(sure_of(0.5))
    _, alone, _ = confident.recognise("giá giao tới nhà", NOTHING)
    number, voted, _ = confident.recognise("giá giao tới nhà", Said(ITEMS[1].answer, 0.9))
    assert number == 1
    assert voted > alone


def test_grounds_are_written_and_read(grounds, tmp_path):
    kept = grounds.with_confidence(sure_of(0.7))
    kept.save(tmp_path)
    read = Grounds.load(tmp_path, ITEMS)
    assert read.confidence == kept.confidence
    for question in ("mở lúc nào", "visa", "địa chỉ"):
        assert read.near(question) == kept.near(question)
    assert read.restorer == kept.restorer


def test_diacritics_are_restored_from_questions_wordings_and_answers(grounds):
    assert grounds.restorer.restore("mo luc nao, dia chi, xuan thuy") == "mở lúc nào, địa chỉ, xuân thủy"


@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff" * 64, b'{"a": {"b": -1}}'])
def test_damaged_words_say_what_to_do(grounds, content, tmp_path):
    grounds.save(tmp_path)
    (tmp_path / "words.json").unlink()
    if content is not None:
        (tmp_path / "words.json").write_bytes(content)
    with pytest.raises(RunError, match="`hoidap evaluate` writes it again"):
        Grounds.load(tmp_path, ITEMS)


def test_an_index_of_other_items_is_refused(grounds, tmp_path):
    grounds.save(tmp_path)
    with pytest.raises(RunError, match="indexes 5 items, the run has 2"):
        Grounds.load(tmp_path, ITEMS[:2])


def test_a_missing_index_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match="is missing"):
        Grounds.load(tmp_path, ITEMS)


def test_teencode_that_the_items_use_means_what_it_says():
    items = [Item("Bao giờ ship?", "Trong ngày ạ."), Item("Giao hàng tận nơi?", "Có ạ.")]
    grounds = Grounds.build(items, [[], []])
    assert grounds.own_words == {"ship"}
    assert grounds.near("ship ko")[0].number == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("answers.npy", b""),
        ("answers.npy", b"\x93NUMPY"),
        ("answers.npy", None),
        ("own-words.txt", None),
        ("own-words.txt", b"\xff"),
    ],
)
def test_a_damaged_file_says_what_to_do(name, content, grounds, tmp_path):
    grounds.save(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match="`hoidap evaluate` writes it again"):
        Grounds.load(tmp_path, ITEMS)


def test_a_pickle_in_place_of_the_answers_is_not_opened(grounds, tmp_path):
    import numpy as np

    grounds.save(tmp_path)
    np.save(tmp_path / "answers.npy", np.array([{"a": 1}] * len(ITEMS), dtype=object), allow_pickle=True)
    with pytest.raises(RunError, match="`hoidap evaluate` writes it again"):
        Grounds.load(tmp_path, ITEMS)


def test_an_answer_turned_round_is_no_answer():
    grounds = Grounds.build([Item("Có giao tận nơi?", "Dạ tiệm có nhận giao hàng tận nơi trong nội thành ạ.")], [[]])
    assert grounds.is_answer(0, "Dạ tiệm có nhận giao hàng tận nơi trong nội thành nha.")
    assert not grounds.is_answer(0, "Dạ tiệm không nhận giao hàng tận nơi trong nội thành ạ.")


def test_an_answer_cut_off_is_not_given(grounds):
    cut = Said(ITEMS[1].answer, 0.9, is_whole=False)
    sure = grounds.with_confidence(sure_of(0.5))
    assert sure.decide(ITEMS[1].question, cut, lambda _n: cut).number is None
    assert sure.decide(ITEMS[1].question, cut, lambda _n: Said(ITEMS[1].answer, 0.9)).number == 1


def test_a_correction_needs_no_model_to_confirm_it(grounds):
    sure = grounds.with_confidence(sure_of(0.5))
    decision = sure.decide(ITEMS[1].question, NOTHING, never, {1: "Nội thành 30.000đ."}.get)
    assert (decision.number, decision.text, decision.is_corrected) == (1, "Nội thành 30.000đ.", True)


def test_an_answer_is_traced_however_many_wordings_its_item_has():
    wordings = [[f"cách hỏi thứ {n} về món hàng này của cửa tiệm" for n in range(60)] for _ in ITEMS]
    grounds = Grounds.build(ITEMS, wordings)
    assert grounds.source("Dạ, tiệm mở từ 8h30 đến 20h30 mỗi ngày nha.")[0] == 0


def test_a_confidence_of_other_signals_is_refused(grounds, tmp_path):
    grounds.with_confidence(Confidence(("a", "b"), (1.0, 2.0), 0.0, 0.5)).save(tmp_path)
    with pytest.raises(RunError, match="is of the signals a, b, not nearness"):
        Grounds.load(tmp_path, ITEMS)


def test_what_is_near_is_kept_for_the_latest_questions(grounds, monkeypatch):
    monkeypatch.setattr(grounds_module, "_KEPT", 2)
    texts = ["phí giao hàng nội thành", "mấy giờ mở cửa", "đổi trả thế nào", "phí giao hàng nội thành"]
    first = [grounds.near(text) for text in texts]
    assert len(grounds._known) <= 2
    assert [grounds.near(text) for text in texts] == first
    assert first[0] == first[3] != first[1]


def test_a_text_of_nothing_comes_from_no_item_and_no_mark_is_another():
    grounds = Grounds.build([Item("Vui không?", "…"), Item("Buồn không?", "!"), ITEMS[0]], [[], [], []])
    assert grounds.source("") == grounds.source(" ") == (None, 0.0)
    assert not grounds.has_same_answer(0, 1)
    assert grounds.source("…") == (0, 1.0)
