"""Questions without an answer, grouped by likeness."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hoidap.serve.gaps import Asked, group

ROOMS = ["Có phòng gia đình không?", "có phòng cho gia đình không ạ", "co phong gia dinh khong", "Phòng gia đình có không?"]
PETS = ["Được mang chó mèo vào không?", "Có được mang chó mèo vào không ạ?"]
POOL = "Hồ bơi nước mặn hay nước ngọt?"


def asked(questions, near=(), created=1.0):
    return [Asked(question, tuple(near), created) for question in questions]


def members(groups):
    return [{question for question, _ in one.questions} for one in groups]


def test_like_questions_are_one_group_and_the_largest_comes_first():
    groups = group(asked([POOL, *PETS, *ROOMS]))
    assert [one.size for one in groups] == [4, 2, 1]
    assert members(groups)[1:] == [set(PETS), {POOL}]
    # The one without marks is the same as the first.
    assert members(groups)[0] in ({*ROOMS} - {ROOMS[0]}, {*ROOMS} - {ROOMS[2]})


def test_the_same_question_counts_each_time_whatever_its_case_marks_and_signs():
    (one,) = group(asked(["Hồ bơi?", "hồ bơi", "HO BOI ?", "hồ bơi"]))
    assert one.questions == (("hồ bơi", 4),)
    assert one.size == 4


def test_a_question_asked_often_stands_before_others_of_its_group():
    groups = group(asked([PETS[1], *[PETS[0]] * 5]))
    assert groups[0].questions == ((PETS[0], 5), (PETS[1], 1))


def test_a_chain_of_questions_is_not_one_group():
    chain = [
        "thuê xe máy theo ngày",
        "thuê xe máy theo ngày ở sân bay",
        "đón khách ở sân bay theo ngày",
        "đón khách ở sân bay",
    ]
    assert all({chain[0], chain[3]} - one for one in members(group(asked(chain))))


def test_the_items_that_were_near_are_named_the_most_frequent_first():
    turns = [Asked("Hồ bơi?", ("Giá phòng?", "Giờ nhận phòng?"), 1.0), Asked("Hồ bơi?", ("Giờ nhận phòng?",), 1.0)]
    assert group(turns)[0].near == ("Giờ nhận phòng?", "Giá phòng?")


def test_what_the_owner_answered_since_is_left_out_and_what_was_declined_again_is_not():
    turns = [*asked([POOL], created=30.0), *asked([PETS[0]], created=10.0)]
    assert members(group(turns, [(PETS[0], 20.0)])) == [{POOL}]
    assert members(group(turns, [(PETS[0], 5.0)])) == [{POOL}, {PETS[0]}]
    assert group(turns, [(POOL, 31.0), (PETS[0], 11.0), (PETS[0], 5.0)]) == []


def test_what_is_like_an_answered_question_stays_unless_it_is_the_same():
    groups = group(asked([*PETS, "shop ơi cho hỏi dc mang chó mèo vào ko ạ"]), [(PETS[0], 20.0)])
    assert members(groups) == [{PETS[1]}]


SAME = ["Ship tới Đà Nẵng có được không?", "dạ ship tới Đà Nẵng có được ko ạ", "ship toi da nang co dc khong"]
OTHER = ["Ship tới Đà Lạt có được không?", "Ship tới Đà Nẵng có mất phí không?"]


def test_the_same_question_in_marks_politeness_and_teencode_is_told_from_one_that_is_like_it():
    groups = group(asked([SAME[0], *SAME, *OTHER]))
    assert groups[0].questions[0][0] == SAME[0]
    assert {question for question, _ in groups[0].questions} >= {*SAME, OTHER[0]}
    assert groups[0].same == frozenset(SAME)


def test_an_answer_to_another_question_leaves_a_group_there():
    assert members(group(asked(PETS), [("Giá phòng bao nhiêu?", 20.0)])) == [set(PETS)]


def test_nothing_comes_of_nothing():
    assert group([]) == group([], [("Hồ bơi?", 1.0)]) == group(asked(["?!", "…"])) == []


def test_questions_without_letters_stand_alone():
    assert members(group(asked(["🙂", "🙁"]))) == [{"🙂"}, {"🙁"}]


def test_the_latest_questions_are_looked_at_and_no_more_groups_than_can_be_read():
    words = [f"{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}" for n in range(4000)]
    groups = group(asked([f"{word * 3} {word[::-1] * 4}" for word in words]))
    assert len(groups) <= 200
    assert sum(len(one.questions) for one in groups) <= 3000


@given(st.lists(st.text(alphabet="abđ hôi?🙂\x00\ud800", max_size=12), max_size=25))
@settings(max_examples=60, deadline=None)
def test_each_question_is_in_one_group_at_most(questions):
    groups = group(asked(questions))
    shown = [question for one in groups for question, _ in one.questions]
    assert len(shown) == len(set(shown))
    assert set(shown) <= set(questions)
    assert sum(one.size for one in groups) <= len(questions)
