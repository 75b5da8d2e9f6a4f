"""The flat stream: documents packed, cached or padded give what each gives alone, and that is MPT as published."""

import json
import math
import random
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CPU, some_tokens, tiny_adapter, tiny_config, tiny_model

from hoidap.model.cache import KVCache
from hoidap.model.config import MPTConfig, read_config
from hoidap.model.mpt import MPT

few = settings(max_examples=20, deadline=None, derandomize=True)

# Every option that shapes the arithmetic, in combinations that no one has tried.
configs = st.builds(
    tiny_config,
    d_model=st.sampled_from([24, 48]),
    n_heads=st.sampled_from([1, 2, 3, 6]),
    expansion_ratio=st.sampled_from([2, 4]),
    no_bias=st.booleans(),
    clip_qkv=st.sampled_from([None, 0.5]),
    qk_ln=st.booleans(),
    softmax_scale=st.sampled_from([None, 0.2]),
    logit_scale=st.sampled_from([None, 0.5]),
    alibi_bias_max=st.sampled_from([4.0, 8.0, 16.0]),
) | st.builds(
    tiny_config,
    n_heads=st.sampled_from([1, 2, 3, 6]),
    no_bias=st.booleans(),
    qk_ln=st.booleans(),
    alibi=st.just(value=False),
    learned_pos_emb=st.just(value=True),
)
lengths_of_documents = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def starts_of(lengths: list[int]) -> list[int]:
    return [0, *accumulate(lengths)]


def one_by_one(model: MPT, tokens: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
    return [model.hidden(t, [0, len(t)]) for t in tokens.split(lengths)]


def assert_equal(result: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=0)


# Packed -------------------------------------------------------------------------------------------------------------------


@few
@given(configs, lengths_of_documents)
def test_packed_documents_have_the_hidden_states_of_each_alone(config, lengths):
    model = tiny_model(config, 1)
    tokens = some_tokens(config, sum(lengths))
    with torch.no_grad():
        assert_equal(model.hidden(tokens, starts_of(lengths)), torch.cat(one_by_one(model, tokens, lengths)))


@few
@given(configs, lengths_of_documents)
def test_packed_documents_give_every_weight_the_sum_of_their_gradients(config, lengths):
    model = tiny_model(config, 1)
    tokens = some_tokens(config, sum(lengths))
    for weight in model.weights.values():
        weight.requires_grad_()
    wanted = model.trainable()
    assert wanted.keys() == config.shapes().keys()
    upstream = torch.randn(len(tokens), config.vocab_size, generator=torch.Generator().manual_seed(2))

    def gradients(hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = (model.logits(hidden) * upstream).sum()
        return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))

    packed = gradients(model.hidden(tokens, starts_of(lengths)))
    alone = gradients(torch.cat(one_by_one(model, tokens, lengths)))
    for name, expected in alone.items():
        assert (packed[name] - expected).abs().max() <= 1e-5 * max(1, expected.abs().max()), name


@pytest.mark.parametrize("lengths", [[300, 257, 5], [512, 1], [1] * 9, [16, 17, 15, 16]], ids=str)
def test_packing_holds_for_lengths_beside_the_widths_of_the_rectangles(lengths):
    model = tiny_model(tiny_config(n_layers=1), 1)
    tokens = some_tokens(model.config, sum(lengths))
    with torch.no_grad():
        assert_equal(model.hidden(tokens, starts_of(lengths)), torch.cat(one_by_one(model, tokens, lengths)))


@few
@given(configs, st.lists(st.integers(1, 40), min_size=2, max_size=6), st.data())
def test_changing_one_document_changes_no_other(config, lengths, data):
    model = tiny_model(config, 1)
    changed = data.draw(st.integers(0, len(lengths) - 1))
    starts = starts_of(lengths)
    begin, end = starts[changed], starts[changed + 1]
    tokens = some_tokens(config, sum(lengths))
    others = tokens.clone()
    others[begin:end] = (others[begin:end] + 1) % config.vocab_size
    with torch.no_grad():
        before, after = (model.hidden(t, starts) for t in (tokens, others))
    assert torch.equal(after[:begin], before[:begin])
    assert torch.equal(after[end:], before[end:])
    assert (after[begin:end] - before[begin:end]).abs().amax(1).min() > 1e-4, "the document itself changes"


def test_a_token_changes_nothing_before_it():
    model = tiny_model(tiny_config(), 1)
    tokens = some_tokens(model.config, 30)
    changed = tokens.clone()
    changed[12] = (changed[12] + 1) % model.config.vocab_size
    with torch.no_grad():
        before, after = (model.hidden(t, [0, 30]) for t in (tokens, changed))
    assert_equal(after[:12], before[:12], 1e-6)
    assert (after[12:] - before[12:]).abs().amax(1).min() > 1e-4, "every later position sees it"


def test_an_adapter_is_in_force_for_every_document():
    model = tiny_model(tiny_config(), 1)
    adapter = tiny_adapter(model.config, 2)
    tokens = some_tokens(model.config, 30)
    with torch.no_grad():
        packed = model.hidden(tokens, [0, 1, 12, 30], adapter=adapter)
        alone = torch.cat([model.hidden(t, [0, len(t)], adapter=adapter) for t in tokens.split([1, 11, 18])])
    assert_equal(packed, alone)


@pytest.mark.parametrize("starts", [[], [0], [1, 5], [0, 3, 3, 5], [0, 4, 2, 5], [0, 4], [0, 1], [0, 6]], ids=str)
def test_document_starts_that_do_not_rise_from_0_to_the_number_of_tokens_are_refused(starts):
    model = tiny_model(tiny_config(), 1)
    with pytest.raises(ValueError, match="document starts must rise from 0 to the number of tokens") as caught:
        model.hidden(some_tokens(model.config, 5), starts)
    assert str(starts) in str(caught.value)


def test_a_document_longer_than_the_learned_positions_is_refused():
    model = tiny_model(tiny_config(alibi=False, learned_pos_emb=True, max_seq_len=16), 1)
    with torch.no_grad():
        assert model.hidden(some_tokens(model.config, 32), [0, 16, 32]).shape == (32, 48)
        with pytest.raises(ValueError, match="a document has 17 tokens; this model has 16 positions"):
            model.hidden(some_tokens(model.config, 18), [0, 1, 18])


# Cached -------------------------------------------------------------------------------------------------------------------


def feed_in_chunks(
    model: MPT, documents: list[torch.Tensor], cache: KVCache, rows: list[int], choose: random.Random
) -> list[torch.Tensor]:
    """Feed each document to its row in chunks: at each step some documents, in any order; return their hidden states."""
    fed = [0] * len(documents)
    found: list[list[torch.Tensor]] = [[] for _ in documents]
    while open_ := [d for d, tokens in enumerate(documents) if fed[d] < len(tokens)]:
        chosen = choose.sample(open_, choose.randint(1, len(open_)))
        sizes = [choose.randint(1, min(9, len(documents[d]) - fed[d])) for d in chosen]
        tokens = torch.cat([documents[d][fed[d] : fed[d] + size] for d, size in zip(chosen, sizes, strict=True)])
        hidden = model.hidden(tokens, starts_of(sizes), cache.rows([rows[d] for d in chosen]))
        for d, size, part in zip(chosen, sizes, hidden.split(sizes), strict=True):
            found[d].append(part)
            fed[d] += size
    return [torch.cat(parts) for parts in found]


@few
@given(configs, lengths_of_documents, st.integers(0, 2**32))
def test_documents_fed_in_chunks_to_cache_rows_in_any_order_equal_the_uncached(config, lengths, seed):
    model = tiny_model(config, 1)
    documents = list(some_tokens(config, sum(lengths)).split(lengths))
    choose = random.Random(seed)
    cache = KVCache(config, len(lengths) + 2, max(lengths), torch.float32, CPU)
    rows = choose.sample(range(len(lengths) + 2), len(lengths))
    with torch.no_grad():
        cached = feed_in_chunks(model, documents, cache, rows, choose)
        for tokens, result in zip(documents, cached, strict=True):
            assert_equal(result, model.hidden(tokens, [0, len(tokens)]))
    assert [cache.lengths[row] for row in rows] == lengths


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 1, 0], [0, 2, 4], [4, 0, 3]], ids=str)
def test_single_tokens_continue_prompts_of_different_lengths_in_whatever_rows_they_stand(rows):
    model = tiny_model(tiny_config(), 1)
    prompts = [3, 20, 9]
    documents = some_tokens(model.config, sum(prompts) + 3 * 6).split([n + 6 for n in prompts])
    cache = KVCache(model.config, 5, 32, torch.float32, CPU)
    with torch.no_grad():
        expected = [model.hidden(tokens, [0, len(tokens)]) for tokens in documents]
        first = torch.cat([d[:n] for d, n in zip(documents, prompts, strict=True)])
        hidden = model.hidden(first, starts_of(prompts), cache.rows(rows))
        assert_equal(hidden, torch.cat([e[:n] for e, n in zip(expected, prompts, strict=True)]))
        for step in range(6):
            new = torch.stack([d[n + step] for d, n in zip(documents, prompts, strict=True)])
            hidden = model.hidden(new, [0, 1, 2, 3], cache.rows(rows))
            assert_equal(hidden, torch.stack([e[n + step] for e, n in zip(expected, prompts, strict=True)]))


def test_a_prompt_joins_rows_that_are_under_way():
    model = tiny_model(tiny_config(), 1)
    old, new = some_tokens(model.config, 30).split([12, 18])
    cache = KVCache(model.config, 2, 32, torch.float32, CPU)
    with torch.no_grad():
        model.hidden(old[:-1], [0, 11], cache.rows([1]))
        hidden = model.hidden(torch.cat([new, old[-1:]]), [0, 18, 19], cache.rows([0, 1]))
        assert_equal(hidden[:-1], model.hidden(new, [0, 18]))
        assert_equal(hidden[-1], model.hidden(old, [0, 12])[-1])


def test_what_a_row_held_before_it_was_emptied_is_not_seen():
    model = tiny_model(tiny_config(), 1)
    tokens = some_tokens(model.config, 12)
    cache = KVCache(model.config, 2, 32, torch.float32, CPU)
    cache.keys.normal_(0, 100)
    cache.values.normal_(0, 100)
    with torch.no_grad():
        model.hidden(torch.cat([tokens[:5], tokens]), [0, 5, 17], cache.rows([0, 1]))
        hidden = model.hidden(torch.cat([tokens[5:7], tokens[:1]]), [0, 2, 3], cache.rows([0, 1]))
        assert_equal(hidden[:2], model.hidden(tokens, [0, 12])[5:7])


def test_rows_that_are_not_called_keep_what_they_hold():
    model = tiny_model(tiny_config(), 1)
    cache = KVCache(model.config, 3, 32, torch.float32, CPU)
    tokens = some_tokens(model.config, 12)
    with torch.no_grad():
        model.hidden(tokens, [0, 4, 8, 12], cache.rows([0, 1, 2]))
        keys, values = cache.keys.clone(), cache.values.clone()
        model.hidden(tokens[:3], [0, 2, 3], cache.rows([2, 0]))
    assert cache.lengths == [5, 4, 6]
    for before, after in ((keys, cache.keys), (values, cache.values)):
        assert torch.equal(after[:, 1], before[:, 1])
        assert torch.equal(after[:, 0, :, :4], before[:, 0, :, :4])
        assert not torch.equal(after[:, 0, :, 4], before[:, 0, :, 4])


def test_a_row_without_room_is_refused_and_nothing_is_stored():
    model = tiny_model(tiny_config(), 1)
    cache = KVCache(model.config, 2, 8, torch.float32, CPU)
    tokens = some_tokens(model.config, 9)
    with torch.no_grad():
        model.hidden(tokens[:6], [0, 6], cache.rows([1]))
        keys = cache.keys.clone()
        with pytest.raises(ValueError, match="row 1 of the cache holds 6 tokens and has no room for 3 of 8"):
            model.hidden(tokens[:4], [0, 1, 4], cache.rows([0, 1]))
    assert cache.lengths == [0, 6]
    assert torch.equal(cache.keys, keys)


def test_a_row_that_outgrows_the_learned_positions_is_refused():
    model = tiny_model(tiny_config(alibi=False, learned_pos_emb=True, max_seq_len=16), 1)
    cache = KVCache(model.config, 1, 32, torch.float32, CPU)
    with torch.no_grad():
        model.hidden(some_tokens(model.config, 16), [0, 16], cache.rows([0]))
        with pytest.raises(ValueError, match="a document has 17 tokens; this model has 16 positions"):
            model.hidden(some_tokens(model.config, 1), [0, 1], cache.rows([0]))


# Padded -------------------------------------------------------------------------------------------------------------------


def padded(lengths: list[int], sides: list[str], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids with a padding id of 7, and the mask."""
    ids, mask = torch.full((len(lengths), width), 7), torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, (length, side) in enumerate(zip(lengths, sides, strict=True)):
        begin = {"right": 0, "left": width - length, "both": (width - length) // 2}[side]
        ids[row, begin : begin + length] = some_tokens(tiny_config(), length, seed=row)
        mask[row, begin : begin + length] = 1
    return ids, mask


@pytest.mark.parametrize("sides", [["right"] * 3, ["left"] * 3, ["both"] * 3, ["left", "right", "both"]], ids=" ".join)
def test_rows_padded_at_either_end_equal_rows_alone_without_a_mask(sides):
    model = tiny_model(tiny_config(), 1)
    lengths = [9, 1, 14]
    ids, mask = padded(lengths, sides, 14)
    with torch.no_grad():
        logits = model.forward(ids, mask)
        for row, length in enumerate(lengths):
            alone = model.forward(some_tokens(model.config, length, seed=row)[None])
            assert alone.shape == (1, length, model.config.vocab_size)
            assert_equal(logits[row, mask[row].bool()], alone[0])
    assert not logits[~mask.bool()].any(), "padding gets zeros"


def test_a_mask_of_ones_is_no_mask():
    model = tiny_model(tiny_config(), 1)
    ids = some_tokens(model.config, 24).view(2, 12)
    with torch.no_grad():
        assert torch.equal(model.forward(ids, torch.ones(2, 12)), model.forward(ids))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32], ids=str)
def test_a_mask_may_be_of_any_number_type(dtype):
    model = tiny_model(tiny_config(), 1)
    ids, mask = padded([3, 5], ["left", "right"], 5)
    with torch.no_grad():
        assert torch.equal(model.forward(ids, mask.to(dtype)), model.forward(ids, mask))


@pytest.mark.parametrize(
    "row",
    [[1, 0, 1, 1], [0, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 1], [0, 0, 0, 0]],
    ids=["a hole", "two holes", "a wide hole", "a hole near the end", "empty"],
)
def test_a_mask_that_is_not_one_run_of_tokens_is_refused(row):
    model = tiny_model(tiny_config(), 1)
    mask = torch.tensor([[1, 1, 1, 1], row])
    with pytest.raises(ValueError, match="attention_mask must mark one unbroken run of tokens in every row"):
        model.forward(torch.zeros(2, 4, dtype=torch.int64), mask)


def test_a_row_longer_than_the_model_reads_is_refused_but_its_padding_does_not_count():
    model = tiny_model(tiny_config(max_seq_len=8), 1)
    ids = some_tokens(model.config, 24).view(2, 12)
    mask = torch.tensor([[0] * 4 + [1] * 8, [1] * 8 + [0] * 4])
    with torch.no_grad():
        assert model.forward(ids, mask).shape == (2, 12, model.config.vocab_size)
        mask[0, 3] = 1
        with pytest.raises(ValueError, match="a row has 9 tokens; this model reads at most 8"):
            model.forward(ids, mask)


# MPT as published ---------------------------------------------------------------------------------------------------------


def slope(config: MPTConfig, head: int) -> float:
    """Return ALiBi's slope as llama.cpp counts it, which is not how hoidap does."""
    floor = 2 ** math.floor(math.log2(config.n_heads))
    if head < floor:
        return 2 ** (-config.alibi_bias_max / floor * (head + 1))
    return 2 ** (-config.alibi_bias_max / 2 / floor * (2 * (head - floor) + 1))


class Naive:
    """MPT in float64, one document, head and query at a time."""

    def __init__(self, model: MPT) -> None:
        self.config = model.config
        self.weights = {name: weight.double() for name, weight in model.weights.items()}

    def affine(self, x: torch.Tensor, module: str) -> torch.Tensor:
        y = torch.einsum("ti,oi->to", x, self.weights[f"{module}.weight"])
        return y if self.config.no_bias else y + self.weights[f"{module}.bias"]

    def norm(self, x: torch.Tensor, module: str) -> torch.Tensor:
        centred = x - x.mean(1, keepdim=True)
        y = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * self.weights[f"{module}.weight"]
        return y if self.config.no_bias else y + self.weights[f"{module}.bias"]

    def attention(self, x: torch.Tensor, module: str) -> torch.Tensor:
        d, width = self.config.d_model, self.config.d_model // self.config.n_heads
        qkv = self.affine(x, f"{module}.Wqkv")
        if self.config.clip_qkv is not None:
            assert qkv.abs().max() > self.config.clip_qkv, "something is clipped"
            qkv = qkv.clamp(-self.config.clip_qkv, self.config.clip_qkv)
        q, k, v = qkv[:, :d], qkv[:, d : 2 * d], qkv[:, 2 * d :]
        if self.config.qk_ln:
            q, k = self.norm(q, f"{module}.q_ln"), self.norm(k, f"{module}.k_ln")
        out = torch.empty_like(q)
        for head in range(self.config.n_heads):
            part = slice(head * width, (head + 1) * width)
            for i in range(len(x)):
                scores = k[: i + 1, part] @ q[i, part] * (self.config.softmax_scale or 1 / math.sqrt(width))
                if self.config.alibi:
                    scores = scores - slope(self.config, head) * torch.arange(i, -1, -1)
                weights = scores.exp() / scores.exp().sum()
                out[i, part] = weights @ v[: i + 1, part]
        return self.affine(out, f"{module}.out_proj")

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.weights["transformer.wte.weight"][tokens]
        if self.config.learned_pos_emb:
            x = x + self.weights["transformer.wpe.weight"][: len(tokens)]
        for layer in range(self.config.n_layers):
            block = f"transformer.blocks.{layer}"
            x = x + self.attention(self.norm(x, f"{block}.norm_1"), f"{block}.attn")
            up = self.affine(self.norm(x, f"{block}.norm_2"), f"{block}.ffn.up_proj")
            x = x + self.affine(up * (1 + torch.erf(up / math.sqrt(2))) / 2, f"{block}.ffn.down_proj")
        return self.norm(x, "transformer.norm_f")

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.einsum("td,vd->tv", hidden, self.weights["transformer.wte.weight"])
        return logits if self.config.logit_scale is None else logits * self.config.logit_scale


VARIANTS = {
    "as PhoGPT": {},
    "3 heads": {"n_heads": 3},
    "24 heads": {"n_heads": 24},
    "8 heads": {"n_heads": 8},
    "no biases": {"no_bias": True},
    "qk_ln": {"qk_ln": True},
    "qk_ln without biases": {"qk_ln": True, "no_bias": True},
    "clip_qkv": {"clip_qkv": 0.5},
    "clip_qkv before qk_ln": {"clip_qkv": 0.5, "qk_ln": True},
    "logit_scale": {"logit_scale": 1 / math.sqrt(48)},
    "softmax_scale": {"softmax_scale": 0.7},
    "alibi_bias_max 16": {"alibi_bias_max": 16.0},
    "narrow feed-forward": {"expansion_ratio": 2},
    "learned positions": {"alibi": False, "learned_pos_emb": True},
    "no positions": {"alibi": False},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_float64_mpt_of_plain_loops_agrees(changes):
    model = tiny_model(tiny_config(**changes), 1)
    naive = Naive(model)
    lengths = [1, 13, 6]
    tokens = some_tokens(model.config, sum(lengths))
    with torch.no_grad():
        hidden = model.hidden(tokens, starts_of(lengths))
        expected = torch.cat([naive.hidden(document) for document in tokens.split(lengths)])
        assert_equal(hidden, expected.float())
        assert_equal(model.logits(hidden), naive.logits(expected).float())


OPTIONS = [name for name, changes in VARIANTS.items() if changes.keys() - {"logit_scale", "no_bias", "expansion_ratio"}]


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_attention_changes_the_hidden_states(name):
    """Two programs that both dropped an option would agree: here its effect is seen."""
    plain, changed = (tiny_model(tiny_config(**changes), 1) for changes in ({}, VARIANTS[name]))
    tokens = some_tokens(plain.config, 20)
    shared = {name: plain.weights.get(name, weight) for name, weight in changed.weights.items()}
    with torch.no_grad():
        result = MPT(changed.config, shared, torch.float32).hidden(tokens, [0, 20])
        assert (result - plain.hidden(tokens, [0, 20])).abs().max() > 1e-2


def test_a_logit_scale_of_inv_sqrt_d_model_divides_the_logits_by_the_root_of_the_width(tmp_path):
    plain = tiny_model(tiny_config(), 1)
    values = {**json.loads(plain.config.to_json()), "logit_scale": "inv_sqrt_d_model"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    scaled = MPT(read_config(tmp_path / "config.json"), plain.weights, torch.float32)
    tokens = some_tokens(plain.config, 10)[None]
    with torch.no_grad():
        assert_equal(scaled.forward(tokens), plain.forward(tokens) / math.sqrt(48), 1e-6)


def test_the_slopes_of_phogpts_head_counts_are_the_published_ones():
    for n_heads, exponents in {
        32: [(i + 1) / 4 for i in range(32)],  # PhoGPT-7B5
        24: [(i + 1) / 2 for i in range(16)] + [i / 2 + 0.25 for i in range(8)],  # PhoGPT-4B
    }.items():
        slopes = tiny_config(d_model=96, n_heads=n_heads).alibi_slopes()
        assert slopes == pytest.approx([2**-exponent for exponent in exponents], rel=1e-12)
