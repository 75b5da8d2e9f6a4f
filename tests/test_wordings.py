"""What is asked of each item: what is trained on, what is held out, and that the two never meet."""

import json

import pytest
from tiny_run import CONFIG, ITEMS, TOKENIZER

from hoidap.data.items import Item
from hoidap.data.pack import Packer
from hoidap.data.wordings import AS_WRITTEN, OTHER, UNSEEN, Wording, from_jsonl, lot, split, to_jsonl
from hoidap.errors import DataError, RecipeError
from hoidap.recipe import Schedule, Wordings
from hoidap.tokenizer import Tokenizer
from hoidap.variants.families import FAMILIES

MANY = [
    Item(f"Sản phẩm số {n} giá bao nhiêu?", f"{n}.000đ ạ.", (f"giá món {n}", f"món {n} nhiêu tiền")) for n in range(200)
]


def texts(found, *, trained):
    return {wording.text for wording in found.wordings if wording.is_trained == trained}


def test_every_question_is_trained_on_as_written():
    found = split(MANY, Wordings(), 1)
    assert [w.text for w in found.wordings if w.kind == AS_WRITTEN] == [item.question for item in MANY]
    assert all(w.is_trained for w in found.wordings if w.kind == AS_WRITTEN)


def test_nothing_is_both_trained_on_and_held_out():
    found = split(MANY, Wordings(variants=3), 1)
    assert texts(found, trained=True).isdisjoint(texts(found, trained=False))
    assert len({(w.item, w.text) for w in found.wordings}) == len(found.wordings)


def test_a_share_of_the_users_wordings_is_held_out():
    found = split(MANY, Wordings(held_out_wordings=0.25), 1)
    held = [w for w in found.wordings if w.kind == OTHER and not w.is_trained]
    assert 0.18 < len(held) / 400 < 0.32
    assert not any(w.is_trained for w in split(MANY, Wordings(held_out_wordings=1.0), 1).wordings if w.kind == OTHER)
    assert all(w.is_trained for w in split(MANY, Wordings(held_out_wordings=0.0), 1).wordings if w.kind == OTHER)


def test_two_families_are_never_trained_on_and_all_are_examined():
    found = split(MANY, Wordings(), 1)
    trained = {w.kind for w in found.wordings if w.is_trained}
    assert trained.isdisjoint(UNSEEN)
    assert set(UNSEEN) <= {w.kind for w in found.wordings if not w.is_trained} <= {OTHER, *FAMILIES}


def test_items_held_out_are_asked_in_no_way():
    found = split(MANY, Wordings(held_out_items=0.2), 1)
    assert 25 < len(found.held_out) < 55
    assert len(found.items) + len(found.held_out) == len(MANY)
    held = {item.question for item in found.held_out}
    assert held.isdisjoint(texts(found, trained=True) | texts(found, trained=False))


def test_an_items_lot_does_not_hang_on_other_rows():
    whole, less = (split(items, Wordings(held_out_items=0.3), 7) for items in (MANY, MANY[50:]))
    assert [item for item in whole.held_out if item in MANY[50:]] == less.held_out


def test_holding_out_every_item_is_refused():
    with pytest.raises(DataError, match=r"--hold-out-items 0.99 holds out all of the 1 items; lower it"):
        split([next(item for item in MANY if lot(1, item.question) < 0.99)], Wordings(held_out_items=0.99), 1)


def test_without_variants_there_are_only_the_users_own_words():
    kinds = {w.kind for w in split(ITEMS, Wordings(variants=0), 1).wordings}
    assert kinds == {AS_WRITTEN, OTHER}


def test_a_variant_that_reads_like_another_items_question_is_left_out():
    pair = [Item("Quán có bán má không?", "Có ạ."), Item("quan co ban ma khong", "Dạ không.")]
    found = split(pair, Wordings(variants=5), 1)
    bare = {w.text.casefold().rstrip("? ") for w in found.wordings if w.item == 0}
    assert "quan co ban ma khong" not in bare
    assert any(w.item == 1 and w.kind == AS_WRITTEN for w in found.wordings)


def test_a_question_that_stands_twice_is_kept_twice():
    twice = [Item("Giá?", "1đ"), Item("Giá?", "2đ")]
    assert [(w.item, w.text) for w in split(twice, Wordings(variants=0), 1).wordings] == [(0, "Giá?"), (1, "Giá?")]


def test_what_is_drawn_is_drawn_again_and_another_seed_draws_other():
    assert split(MANY, Wordings(), 1) == split(MANY, Wordings(), 1)
    assert split(MANY, Wordings(), 1).wordings != split(MANY, Wordings(), 2).wordings


def test_wordings_are_written_and_read(tmp_path):
    wordings = split(ITEMS, Wordings(), 1).wordings
    path = tmp_path / "wordings.jsonl"
    path.write_text(to_jsonl(wordings), encoding="utf-8")
    assert from_jsonl(path) == wordings
    path.write_text(json.dumps({"item": 0}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="not the wordings of a run"):
        from_jsonl(path)


def test_settings_out_of_range_name_their_flag():
    with pytest.raises(RecipeError, match="--hold-out-wordings is 2"):
        Wordings(held_out_wordings=2)
    with pytest.raises(RecipeError, match="--hold-out-items is 1"):
        Wordings(held_out_items=1)
    with pytest.raises(RecipeError, match="--variants is -1"):
        Wordings(variants=-1)


def asked_in(packer, epochs):
    """Return for each epoch the questions that its batches hold."""
    tokenizer = Tokenizer.from_file(TOKENIZER)
    for epoch in epochs:
        text = "".join(tokenizer.decode(batch.tokens.tolist()) for batch in packer.epoch(epoch))
        yield [part.split("\n### Trả lời:")[0].strip() for part in text.split("### Câu hỏi:")[1:]]


def packer(items, others, **schedule):
    tokenizer = Tokenizer.from_file(TOKENIZER)
    return Packer(items, tokenizer, Schedule(batch_tokens=256, **schedule), CONFIG.max_seq_len, others=others)


def test_every_second_epoch_asks_as_written_and_the_others_take_turns():
    others = [["một", "hai", "ba"]]
    seen = [asked[0] for asked in asked_in(packer(ITEMS[:1], others), range(1, 13))]
    assert seen[1::2] == [ITEMS[0].question] * 6
    assert sorted(seen[0::2]) == ["ba", "ba", "hai", "hai", "một", "một"]


def test_an_epoch_has_some_items_as_written_and_some_otherwise():
    others = [[f"cách {n}"] for n in range(len(ITEMS))]
    for asked in asked_in(packer(ITEMS, others), (1, 2)):
        assert sum(question.startswith("cách") for question in asked) == len(ITEMS) // 2


def test_recall_is_measured_as_written():
    with_others = packer(ITEMS, [["khác"]] * len(ITEMS))
    assert [b.tokens.tolist() for b in with_others.alone()] == [b.tokens.tolist() for b in packer(ITEMS, ()).alone()]


def test_another_wording_that_does_not_fit_is_left_out():
    long = "dài " * 400
    seen = [asked[0] for asked in asked_in(packer(ITEMS[:1], [[long, "ngắn"]]), range(1, 9))]
    assert set(seen) == {ITEMS[0].question, "ngắn"}


def test_an_item_behind_earlier_turns_keeps_them_in_every_wording():
    from hoidap.prompt import Turn

    item = Item("Còn chủ nhật?", "Nghỉ ạ.", (), (Turn("Mấy giờ mở?", "8h."),))
    (asked,) = asked_in(packer([item], [["cn thi sao"]]), [1])
    assert asked == ["Mấy giờ mở?", "cn thi sao"]


def test_a_wording_is_a_line_that_a_person_can_read():
    assert to_jsonl([Wording(3, "teencode", "ship nhiu z", is_trained=True)]) == (
        '{"item": 3, "kind": "teencode", "text": "ship nhiu z", "is_trained": true}\n'
    )
