"""Text and pairs become batches that cover every token once, keep documents apart and depend on seed and epoch alone."""

import lzma
from itertools import pairwise

import pytest
import torch

from hoidap.base import MINI_FOLDER
from hoidap.data.corpus import Corpus, hold_out, read_articles
from hoidap.data.items import Item
from hoidap.errors import DataError
from hoidap.prompt import PHOGPT_4B_CHAT, Turn, render
from hoidap.recipe import Schedule
from hoidap.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_file(MINI_FOLDER / "tokenizer.json")
ARTICLES = [f"Bài {n}: sông Hồng chảy qua Hà Nội. " * (n + 1) for n in range(9)]
PAIRS = [Item(f"Mấy giờ mở cửa {n}?", f"Dạ, {n} giờ ạ.", (f"may gio mo {n}", f"cho hỏi giờ mở cửa {n}")) for n in range(4)]


def corpus(articles=ARTICLES, pairs=PAIRS, max_tokens=32, batch_tokens=100, seed=1):
    schedule = Schedule(batch_tokens=batch_tokens, seed=seed)
    return Corpus(articles, pairs, TOKENIZER, schedule, max_tokens, PHOGPT_4B_CHAT)


def every(batches):
    return [batches[n] for n in range(len(batches))]


def documents(batches):
    found = []
    for batch in every(batches):
        tokens, starts = batch.tokens.tolist(), batch.starts
        labelled = set(batch.predicting.tolist())
        for begin, end in pairwise(starts):
            found.append((tuple(tokens[begin:end]), tuple(p - begin for p in range(begin, end) if p in labelled)))
    return found


def test_every_token_of_an_article_is_predicted_exactly_once():
    eos = TOKENIZER.eos_id
    for article in ARTICLES:
        chunks = documents(corpus([article], []).in_order())
        assert max(len(tokens) for tokens, _ in chunks) <= 32
        predicted = [tokens[at + 1] for tokens, predicting in chunks for at in predicting]
        assert predicted == [*TOKENIZER.encode(article), eos]
        assert chunks[0][0][0] == eos
        for (before, _), (behind, _) in pairwise(chunks):
            assert behind[0] == before[-1]


def test_an_article_as_long_as_a_chunk_leaves_no_empty_rest():
    n_tokens = len(TOKENIZER.encode(ARTICLES[3])) + 2
    for max_tokens in (n_tokens - 1, n_tokens, n_tokens + 1):
        chunks = documents(corpus([ARTICLES[3]], [], max_tokens=max_tokens).in_order())
        assert all(predicting for _, predicting in chunks)
        assert len(chunks) == (2 if max_tokens < n_tokens else 1)


def test_an_epoch_has_every_chunk_and_one_wording_of_each_pair():
    whole = corpus()
    text = sorted(documents(corpus(pairs=[]).in_order()))
    for epoch in (1, 2, 3):
        seen = documents(whole.epoch(epoch))
        asked = []
        for item in PAIRS:
            wordings = [render([Turn(w, item.answer)], TOKENIZER) for w in (item.question, *item.wordings)]
            forms = [
                (tuple(r.token_ids), tuple(at - 1 for at, inside in enumerate(r.in_answer) if inside)) for r in wordings
            ]
            asked.append([form for form in forms if form in seen])
        assert [len(forms) for forms in asked] == [1] * len(PAIRS)
        assert sorted(d for d in seen if [d] not in asked) == text


def test_in_as_many_epochs_as_there_are_wordings_each_is_asked_once():
    asked = [sorted(documents(corpus([], PAIRS[:1]).epoch(epoch))) for epoch in (1, 2, 3, 4)]
    assert len({tuple(a) for a in asked[:3]}) == 3
    assert asked[3] == asked[0]


def test_batches_are_a_function_of_seed_and_epoch():
    def tokens(seed, epoch):
        return [tuple(b.tokens.tolist()) for b in every(corpus(seed=seed).epoch(epoch))]

    assert tokens(1, 2) == tokens(1, 2)
    assert tokens(1, 2) != tokens(1, 3)
    assert tokens(1, 2) != tokens(2, 2)


def test_a_batch_is_as_large_as_allowed_and_no_larger():
    batches = every(corpus(batch_tokens=100).epoch(1))
    sizes = [len(b.tokens) for b in batches]
    assert max(sizes) <= 100
    assert all(
        size + len(behind.tokens[: behind.starts[1]]) > 100 for size, behind in zip(sizes, batches[1:], strict=False)
    )
    assert corpus(batch_tokens=100).count_batches(1) == len(batches)
    # One document that is longer than a batch is a batch of its own.
    assert all(len(b.starts) == 2 for b in every(corpus(pairs=[], batch_tokens=16).epoch(1)) if len(b.tokens) > 16)


def test_labels_are_the_next_tokens():
    for batch in every(corpus().epoch(1)):
        assert torch.equal(batch.tokens[batch.predicting + 1], batch.targets)
        assert not set(batch.predicting.tolist()) & {end - 1 for end in batch.starts[1:]}


def test_tokens_of_an_epoch_are_counted():
    counted = corpus().n_tokens
    seen = [sum(len(b.tokens) for b in every(corpus().epoch(epoch))) for epoch in (1, 2, 3)]
    assert counted == pytest.approx(sum(seen) / 3, abs=1)
    assert corpus([], []).n_tokens == 0


def test_pairs_that_do_not_fit_are_all_named():
    long = [Item("Câu hỏi dài", "dài " * 50), Item("ngắn", "ạ"), Item("Câu khác", "rất " * 60, ("câu nữa",))]
    with pytest.raises(DataError) as caught:
        corpus(ARTICLES, long)
    assert len(caught.value.problems) == 3
    assert "pair 1, 'Câu hỏi dài'" in str(caught.value)
    assert "pair 3, 'câu nữa'" in str(caught.value)


def test_articles_are_read_from_plain_and_compressed_files(tmp_path):
    (tmp_path / "a.txt").write_text("Một.\nHai.\n\n\n\nBa.\n", encoding="utf-8")
    with lzma.open(tmp_path / "b.txt.xz", "wt", encoding="utf-8") as file:
        file.write("Bốn: e\u0302\u0301.\n")
    assert read_articles([tmp_path / "a.txt", tmp_path / "b.txt.xz"]) == ["Một.\nHai.", "Ba.", "Bốn: ế."]


def test_files_that_cannot_be_read_are_all_named(tmp_path):
    (tmp_path / "legacy.txt").write_bytes("Hà Nội".encode("utf-16"))
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "cut.xz").write_bytes(lzma.compress(b"text " * 99)[:40])
    with pytest.raises(DataError) as caught:
        read_articles([tmp_path / name for name in ("legacy.txt", "empty.txt", "cut.xz", "none.txt")])
    assert len(caught.value.problems) == 4


def test_what_is_held_out_does_not_depend_on_place_or_company():
    articles = [f"Bài viết {n}" for n in range(2000)]
    kept, held = hold_out(articles, 0.05)
    assert 60 < len(held) < 140
    assert sorted(kept + held) == sorted(articles)
    assert hold_out(articles[::-1], 0.05)[1] == held[::-1]
    assert set(hold_out(articles[500:], 0.05)[1]) <= set(held)
