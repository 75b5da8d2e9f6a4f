"""How much of an item's question a customer's has, by the rarity of its words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoidap.errors import RunError
from hoidap.ground.cover import Rarity

TEXTS = [
    "Phí giao hàng nội thành bao nhiêu? 25.000đ.",
    "Phí giao hàng đi Đà Nẵng bao nhiêu? 40.000đ.",
    "Phí đổi hàng bao nhiêu? Miễn phí.",
    "Giá ấm trà bao nhiêu? 300.000đ.",
]
RARITY = Rarity.build(TEXTS)


def test_what_was_not_mentioned_is_missed_the_more_the_rarer_it_is():
    asked = "phí giao hàng"
    near, far = (RARITY.covered(f"Phí giao hàng {more}?", asked) for more in ("bao nhiêu", "đi Đà Nẵng"))
    assert near == 1.0  # all items have "bao nhiêu": it says nothing
    assert 0 < far < 0.5


def test_more_in_the_question_takes_nothing_away():
    assert RARITY.covered("Phí đổi hàng?", "cho hỏi phí đổi hàng là bao nhiêu vậy shop") == 1.0


def test_case_the_place_of_a_tone_mark_and_the_form_do_not_count():
    assert RARITY.covered("ĐỒ HOÀ BÌNH", "đồ hòa bình") == 1.0


@pytest.mark.parametrize("wanted", ["", "?!", "🙂", "bao nhiêu"])
def test_a_question_of_no_word_that_says_anything_is_not_covered(wanted):
    assert RARITY.covered(wanted, wanted) == 0.0


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_share_is_a_share(wanted, asked):
    assert 0 <= RARITY.covered(wanted, asked) <= 1


def test_what_was_written_says_the_same(tmp_path):
    RARITY.save(tmp_path / "rarity.json")
    assert Rarity.load(tmp_path / "rarity.json") == RARITY


@pytest.mark.parametrize(
    "content", ["", "[]", '{"items": 3}', '{"items": "3", "words": {}}', '{"items": 3, "words": {"a": -1}}']
)
def test_another_file_is_refused(content, tmp_path):
    (tmp_path / "rarity.json").write_text(content)
    with pytest.raises(RunError, match="`hoidap evaluate` writes it again"):
        Rarity.load(tmp_path / "rarity.json")


def test_a_file_too_large_is_refused(tmp_path, monkeypatch):
    RARITY.save(tmp_path / "rarity.json")
    monkeypatch.setattr("hoidap.ground.counts._MOST_BYTES", 10)
    with pytest.raises(RunError, match="of 10 allowed"):
        Rarity.load(tmp_path / "rarity.json")
