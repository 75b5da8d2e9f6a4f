"""Batches are a pure function of seed, epoch, rank and world size, hold every item once, and predict its answer alone."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import hoidap
from hoidap.data.items import Item
from hoidap.data.pack import Batch, Packer, split
from hoidap.errors import DataError
from hoidap.prompt import PHOGPT_7B5_INSTRUCT, Turn, render
from hoidap.recipe import Schedule
from hoidap.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_file(Path(hoidap.__file__).parent / "assets" / "mini" / "tokenizer.json")
ITEMS = [
    Item(f"Câu hỏi số {n} là gì{' vậy' * (n % 4)}?", f"Trả lời số {n}: {'rất dài ' * (n % 7)}hết {n}.", (f"Cách khác {n}",))
    for n in range(101)
]
MAX_TOKENS = 300
WORLD_SIZES = [1, 2, 3]
each_world_size = pytest.mark.parametrize("world_size", WORLD_SIZES)
each_share = pytest.mark.parametrize("share", [0.0, 0.5, 1.0])


def packer(share: float = 0.5, *, items: list[Item] = ITEMS, batch_tokens: int = 200, max_tokens: int = MAX_TOKENS, seed=1):
    return Packer(items, TOKENIZER, Schedule(batch_tokens=batch_tokens, followup_share=share, seed=seed), max_tokens)


def documents(batches: list[Batch]) -> list[list[int]]:
    return [batch.tokens[a:b].tolist() for batch in batches for a, b in pairwise(batch.starts)]


def turns_of(token_ids: list[int]) -> list[Turn]:
    """Read a document's items back from its text: the questions of ITEMS are all different."""
    text = TOKENIZER._core.decode(token_ids, skip_special_tokens=False)
    by_question = {item.question: item for item in ITEMS}
    questions = [line.removeprefix("### Câu hỏi: ") for line in text.split("\n") if line.startswith("### Câu hỏi: ")]
    return [Turn(q, by_question[q].answer) for q in questions]


def same(some: list[Batch], others: list[Batch]) -> bool:
    return len(some) == len(others) and all(
        torch.equal(a.tokens, b.tokens)
        and a.starts == b.starts
        and torch.equal(a.predicting, b.predicting)
        and torch.equal(a.targets, b.targets)
        and a.n_items == b.n_items
        for a, b in zip(some, others, strict=True)
    )


@each_world_size
@pytest.mark.parametrize("epoch", [0, 1, 17])
def test_two_packers_give_the_same_batches(epoch, world_size):
    one, other = packer(), packer()
    for before in range(epoch):
        one.epoch(before)  # the other one never saw the earlier epochs, as after a resume
    for rank in range(world_size):
        assert same(one.epoch(epoch, rank, world_size), other.epoch(epoch, rank, world_size))


@each_share
def test_different_epochs_have_different_batches(share):
    epochs = [packer(share).epoch(epoch) for epoch in range(4)]
    assert not any(same(epochs[a], epochs[b]) for a in range(4) for b in range(a))


def test_different_seeds_have_different_batches():
    assert not same(packer(seed=1).epoch(0), packer(seed=2).epoch(0))


def test_seed_and_epoch_are_not_mixed_up():
    # Added or put side by side, 1 and 11 would be 11 and 1.
    assert not same(packer(seed=1).epoch(11), packer(seed=11).epoch(1))


@each_share
@each_world_size
def test_every_item_is_in_exactly_one_batch_of_all_ranks(world_size, share):
    batches = [batch for rank in range(world_size) for batch in packer(share).epoch(3, rank, world_size)]
    seen = Counter(turn.question for document in documents(batches) for turn in turns_of(document))
    assert seen == Counter(item.question for item in ITEMS)
    assert sum(batch.n_items for batch in batches) == len(ITEMS)


@each_world_size
def test_the_answers_predicted_on_all_ranks_are_every_items_once(world_size):
    predicted = Counter()
    for rank in range(world_size):
        for batch in packer().epoch(0, rank, world_size):
            predicted.update(
                text for text in TOKENIZER._core.decode(batch.targets.tolist(), skip_special_tokens=False).split("</s>")
            )
    del predicted[""]  # what follows the last end token of a batch
    assert predicted == Counter(f" {item.answer}" for item in ITEMS)


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_ranks_share_out_the_batches_of_one_process(world_size):
    whole = packer().epoch(2)
    parts = [packer().epoch(2, rank, world_size) for rank in range(world_size)]
    assert sum(len(part) for part in parts) == len(whole)
    assert all(same(part, whole[rank::world_size]) for rank, part in enumerate(parts))


def test_the_count_of_batches_is_that_of_all_ranks_together():
    packed = packer()
    assert packed.count_batches(5) == len(packed.epoch(5)) == sum(len(packed.epoch(5, rank, 3)) for rank in range(3))


@each_share
def test_targets_are_exactly_the_answers_and_end_tokens_of_the_documents(share):
    for batch in packer(share).epoch(0):
        targets = []
        for document in documents([batch]):
            rendered = render(turns_of(document), TOKENIZER)
            targets += [t for t, in_answer in zip(rendered.token_ids, rendered.in_answer, strict=True) if in_answer]
        assert batch.targets.tolist() == targets


@each_share
def test_each_target_follows_its_position_inside_one_document(share):
    for batch in packer(share).epoch(0):
        assert torch.equal(batch.tokens[batch.predicting + 1], batch.targets)
        assert not set((batch.predicting + 1).tolist()) & set(batch.starts), (
            "no document predicts its neighbour's first token"
        )


def test_starts_are_the_edges_of_the_documents():
    for batch in packer().epoch(0):
        assert batch.starts[0] == 0
        assert batch.starts[-1] == len(batch.tokens)
        assert all(a < b for a, b in pairwise(batch.starts))


@each_share
@pytest.mark.parametrize("batch_tokens", [16, 60, 200, 5000])
def test_no_batch_is_larger_than_asked_but_for_a_single_document(batch_tokens, share):
    batches = packer(share, batch_tokens=batch_tokens).epoch(0)
    assert all(len(batch.tokens) <= batch_tokens or len(batch.starts) == 2 for batch in batches)


@each_share
def test_a_batch_is_filled_while_the_next_document_fits(share):
    batches = packer(share).epoch(0)
    for batch, following in pairwise(batches):
        assert len(batch.tokens) + following.starts[1] > 200


@each_share
def test_no_document_is_longer_than_the_model_reads(share):
    packed = packer(share, max_tokens=90, batch_tokens=1000)
    assert max(len(document) for document in documents(packed.epoch(0))) <= 90


def test_without_follow_ups_each_document_is_one_rendered_item():
    rendered = {tuple(render([Turn(item.question, item.answer)], TOKENIZER).token_ids) for item in ITEMS}
    assert {tuple(document) for document in documents(packer(0.0).epoch(0))} == rendered


def test_with_follow_ups_each_document_is_a_rendered_conversation():
    for document in documents(packer(1.0).epoch(0)):
        assert document == render(turns_of(document), TOKENIZER).token_ids


def test_with_follow_ups_alone_every_conversation_has_two_or_three_turns():
    turns = Counter(len(turns_of(document)) for document in documents(packer(1.0).epoch(0)))
    assert turns[2] > 5
    assert turns[3] > 5
    assert sum(turns.values()) - turns[2] - turns[3] <= 1, "the last item may be left without another"


def test_a_share_of_follow_ups_mixes_single_turns_and_conversations():
    turns = Counter(len(turns_of(document)) for document in documents(packer(0.5).epoch(0)))
    assert all(turns[n] > 5 for n in (1, 2, 3))


def test_an_item_stands_in_different_company_in_different_epochs():
    def company(epoch: int) -> set[tuple[str, ...]]:
        return {tuple(turn.question for turn in turns_of(d)) for d in documents(packer(1.0).epoch(epoch))}

    assert len(company(0) & company(1)) < 5


def test_wordings_are_never_trained_on():
    text = "".join(TOKENIZER.decode(document) for document in documents(packer().epoch(0)))
    assert "Cách khác" not in text


def test_the_same_item_twice_is_trained_on_twice():
    batches = packer(0.0, items=[ITEMS[0], ITEMS[0]]).epoch(0)
    assert documents(batches) == [render([Turn(ITEMS[0].question, ITEMS[0].answer)], TOKENIZER).token_ids] * 2


def test_one_item_alone_is_one_batch():
    (batch,) = packer(1.0, items=ITEMS[:1]).epoch(0)
    assert (batch.starts, batch.n_items) == ([0, len(batch.tokens)], 1)


def test_items_alone_are_each_rendered_in_order_whatever_the_share():
    rendered = [render([Turn(item.question, item.answer)], TOKENIZER).token_ids for item in ITEMS]
    packed = packer(1.0)
    assert documents(packed.alone()) == rendered
    assert packed.n_tokens == sum(len(token_ids) for token_ids in rendered)


@pytest.mark.parametrize(("count", "stride"), [(1, 1), (5, 1), (64, 1), (65, 2), (101, 2)])
def test_followups_are_a_sample_of_items_behind_another_with_the_second_answer_alone_in_the_loss(count, stride):
    batches = packer(items=ITEMS[:count]).followups()
    chosen = range(0, count, stride)
    pairs = [(ITEMS[n - 1] if n else ITEMS[count - 1], ITEMS[n]) for n in chosen]
    conversations = [[Turn(i.question, i.answer) for i in pair] for pair in pairs]
    assert documents(batches) == [render(turns, TOKENIZER).token_ids for turns in conversations]
    answers = [[*TOKENIZER.encode(" " + second.answer), TOKENIZER.eos_id] for _, second in pairs]
    assert [t for batch in batches for t in batch.targets.tolist()] == [t for answer in answers for t in answer]


def test_followups_that_do_not_fit_are_left_out_of_the_sample():
    every = documents(packer().followups())
    room = sorted(map(len, every))[len(every) // 2]
    fitting = [d for d in every if len(d) <= room]
    assert 0 < len(fitting) < len(every)
    assert documents(packer(max_tokens=room).followups()) == fitting


def test_a_moved_batch_is_the_same_batch():
    batch = packer().epoch(0)[0]
    assert same([batch.to(torch.device("cpu"))], [batch])


@each_share
def test_items_that_do_not_fit_are_all_listed_and_nothing_is_cut(share):
    long = Item("Kể hết đi?", "một hai ba bốn " * 100)
    n_tokens = len(render([Turn("", ""), Turn(long.question, long.answer)], TOKENIZER).token_ids) - len(
        render([Turn("", "")], TOKENIZER).token_ids
    )
    with pytest.raises(DataError) as caught:
        packer(share, items=[*ITEMS[:2], long, ITEMS[3], long])
    reason = f"{n_tokens} tokens with its question; at most {MAX_TOKENS}; shorten or split the answer to"
    assert caught.value.problems == tuple(f"item {n}: {reason} 'Kể hết đi?' (or see --too-long)" for n in (3, 5))


def test_an_item_that_just_fits_is_taken_whole():
    rendered = render([Turn("", ""), Turn(ITEMS[6].question, ITEMS[6].answer)], TOKENIZER).token_ids
    length = len(rendered) - len(render([Turn("", "")], TOKENIZER).token_ids)
    (batch,) = packer(items=[ITEMS[6]], max_tokens=length).epoch(0)
    assert turns_of(batch.tokens.tolist()) == [Turn(ITEMS[6].question, ITEMS[6].answer)]
    with pytest.raises(DataError, match=f"item 1: {length} tokens with its question; at most {length - 1};"):
        packer(items=[ITEMS[6]], max_tokens=length - 1)


@each_share
@pytest.mark.parametrize("passes", [1, 2, 3, 7, 100])
def test_a_split_batch_holds_the_same_documents_and_labels(passes, share):
    for batch in packer(share, batch_tokens=400).epoch(1)[:6]:
        parts = split(batch, passes)
        assert len(parts) <= min(passes, len(batch.starts) - 1)
        assert documents(parts) == documents([batch])
        labels = [pair for part in parts for pair in zip(part.tokens[part.predicting + 1], part.targets, strict=True)]
        assert all(seen == wanted for seen, wanted in labels)
        assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)


def test_two_halves_of_a_batch_are_of_like_size():
    batch = packer(0.0, batch_tokens=2000).epoch(1)[0]
    one, other = (len(part.tokens) for part in split(batch, 2))
    assert abs(one - other) <= 2 * max(len(d) for d in documents([batch]))


@pytest.mark.parametrize("most", [1, 3])
def test_a_batch_holds_at_most_so_many_conversations(most):
    limited = Packer(ITEMS, TOKENIZER, Schedule(batch_items=most, followup_share=0.0), MAX_TOKENS)
    sizes = [len(batch.starts) - 1 for batch in limited.epoch(1)]
    assert max(sizes) == most
    assert sum(sizes) == len(ITEMS)
    assert limited.count_batches(1) == -(-len(ITEMS) // most)


def test_loss_on_text_labels_every_token_but_each_conversation_s_first():
    whole = Packer(ITEMS, TOKENIZER, Schedule(followup_share=0.5), MAX_TOKENS, loss_on="text")
    for batch in whole.epoch(1):
        unlabelled = set(range(len(batch.tokens))) - set((batch.predicting + 1).tolist())
        assert unlabelled == set(batch.starts[:-1])
        assert (batch.targets == TOKENIZER.eos_id).sum() == batch.n_items, "</s> is always trained"
    assert same(whole.alone(), packer(batch_tokens=2048).alone()), "recall is of the answers, whatever was trained on"


def test_an_item_with_earlier_turns_stands_behind_them_alone():
    before = (Turn("Có ghế không?", "Dạ có ghế mây."), Turn("Giá bao nhiêu?", "450.000 đ."))
    items = [Item("Còn màu nào?", "Màu nâu ạ.", before=before), *ITEMS[:20]]
    batches = packer(1.0, items=items).epoch(1)
    with_turns = [d for d in documents(batches) if "Có ghế không?" in TOKENIZER.decode(d)]
    wanted = render([*before, Turn("Còn màu nào?", "Màu nâu ạ.")], TOKENIZER)
    assert with_turns == [wanted.token_ids]
    answers = TOKENIZER.decode([t for batch in packer(1.0, items=items[:1]).epoch(1) for t in batch.targets.tolist()])
    assert answers.strip() == "Màu nâu ạ.", "the earlier answers are items of their own"
    asked_behind = documents(packer(1.0, items=items).followups())
    assert not [d for d in asked_behind if "Có ghế không?" in TOKENIZER.decode(d)]


def test_a_single_turn_template_makes_no_followups_and_takes_no_earlier_turns():
    single = Packer(ITEMS, TOKENIZER, Schedule(followup_share=1.0), MAX_TOKENS, PHOGPT_7B5_INSTRUCT)
    assert single.followups() == []
    assert sum(len(batch.starts) - 1 for batch in single.epoch(1)) == len(ITEMS)
    turned = [ITEMS[0], Item("Còn nữa không?", "Dạ còn.", before=(Turn("Có ghế không?", "Dạ có."),))]
    with pytest.raises(DataError, match="items 2: have earlier turns; the template phogpt-7b5-instruct holds one question"):
        Packer(turned, TOKENIZER, Schedule(), MAX_TOKENS, PHOGPT_7B5_INSTRUCT)
