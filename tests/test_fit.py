"""What is too long is left out or cut on request, each item by name; nothing is ever silent."""

from dataclasses import replace
from pathlib import Path

import pytest

import hoidap
from hoidap.data.fit import fit
from hoidap.data.items import Item
from hoidap.data.pack import Packer, render_item
from hoidap.errors import DataError
from hoidap.prompt import PHOGPT_4B_CHAT, PHOGPT_7B5_INSTRUCT, Turn
from hoidap.recipe import Schedule
from hoidap.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_file(Path(hoidap.__file__).parent / "assets" / "mini" / "tokenizer.json")
SHORT = Item("Mấy giờ mở cửa?", "8 giờ ạ.", ("mấy giờ mở",))
LONG = Item("Kể hết đi?", "Dạ, tiệm có chậu gốm, ghế mây, đèn 🏮 và khăn trải bàn thêu tay. " * 6, ("kể đi",))
MOST = 80


def fitted(items, too_long, template=PHOGPT_4B_CHAT, most=MOST):
    notes: list[str] = []
    return fit(items, TOKENIZER, template, most, too_long, notes.append), notes


def test_raise_leaves_all_items_to_the_packer():
    assert fitted([SHORT, LONG], "raise") == ([SHORT, LONG], [])
    with pytest.raises(DataError, match=r"item 2: \d+ tokens with its question; at most 80"):
        Packer([SHORT, LONG], TOKENIZER, Schedule(), MOST)


def test_drop_leaves_out_and_names_what_does_not_fit():
    items, notes = fitted([LONG, SHORT, LONG], "drop")
    assert items == [SHORT]
    assert [note.split(":")[0] for note in notes] == ["item 1, 'Kể hết đi?'", "item 3, 'Kể hết đi?'"]
    assert all(note.endswith("at most 80: left out") for note in notes)


@pytest.mark.parametrize("most", range(24, 90))
def test_cut_keeps_the_longest_beginning_of_the_answer_that_fits(most):
    (cut,), notes = fitted([LONG], "cut", most=most)
    assert LONG.answer.startswith(cut.answer)
    assert "\ufffd" not in cut.answer
    assert replace(cut, answer=LONG.answer) == LONG
    assert notes[0].endswith(f"its answer now ends with {cut.answer[-30:]!r}")
    packer = Packer([cut], TOKENIZER, Schedule(), most)
    assert most - 6 <= packer.longest_tokens <= most, "a character or a space may take a few tokens"
    assert render_item(cut, TOKENIZER, PHOGPT_4B_CHAT).token_ids[-1] == TOKENIZER.eos_id


def test_a_question_without_room_for_an_answer_cannot_be_cut():
    item = Item("Một câu hỏi rất dài. " * 30, "Dạ.")
    with pytest.raises(DataError, match=r"item 2, .*: \d+ tokens, at most 80; its question leaves no room for an answer"):
        fitted([SHORT, item], "cut")


def test_nothing_left_is_an_error():
    with pytest.raises(DataError, match="every one of 2 items is longer than 80 tokens; raise --max-tokens"):
        fitted([LONG, LONG], "drop")


def test_earlier_turns_and_single_turn_templates_count_as_they_are_rendered():
    turned = replace(SHORT, before=(Turn("Có ship không?", "Dạ có. " * 40),))
    assert fitted([SHORT, turned], "drop")[0] == [SHORT]
    exact = len(render_item(SHORT, TOKENIZER, PHOGPT_7B5_INSTRUCT).token_ids)
    assert fitted([SHORT], "drop", PHOGPT_7B5_INSTRUCT, exact)[0] == [SHORT]
    with pytest.raises(DataError, match="every one of 1 items"):
        fitted([SHORT], "drop", PHOGPT_7B5_INSTRUCT, exact - 1)
