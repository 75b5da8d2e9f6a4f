"""The network for a few tokens computes what the network for many does; its references here, its kernels in test_gpu.py."""

import itertools
from dataclasses import replace

import pytest
import torch
from tiny_run import CONFIG, TOKENIZER

from hoidap.infer import torch_engine
from hoidap.infer.engine import Request, Sampling
from hoidap.infer.recital import Recital
from hoidap.infer.torch_engine import TorchEngine
from hoidap.kernels import few
from hoidap.kernels.few_tiling import MOST_SUMS, tiling
from hoidap.kernels.fourbit import LEVELS
from hoidap.model.adapter import new_adapter
from hoidap.model.cache import KVCache
from hoidap.model.checkpoint import assemble, random_tensors
from hoidap.model.few import FewTokens, most_tokens
from hoidap.model.mpt import MPT
from hoidap.tokenizer import Tokenizer

CPU = torch.device("cpu")
SMALL = replace(CONFIG, d_model=64, n_heads=4, n_layers=2)


def build(config=SMALL, quantize="nf4", embedding="16-bit", dtype=torch.float32):
    tensors = random_tensors(config, CPU, torch.float32, 3)
    return assemble(config, tensors, quantize=quantize, embedding=embedding, device=CPU, dtype=dtype)


def shifted(config, rank=5):
    generator = torch.Generator().manual_seed(1)
    adapter = new_adapter(config, rank, 2.0 * rank, CPU, generator)
    for delta in adapter.deltas.values():
        with torch.no_grad():
            delta.B.copy_(torch.randn(delta.B.shape, generator=generator) * 0.05)
    return adapter


@pytest.mark.parametrize("changed", [
    {}, {"no_bias": True}, {"clip_qkv": 0.5}, {"logit_scale": 0.3}, {"alibi": False}, {"softmax_scale": 0.2},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("has_adapter", [False, True])
@pytest.mark.parametrize("embedding", ["16-bit", "8-bit", "4-bit"])
@torch.no_grad()
def test_few_tokens_have_the_logits_of_many(changed, has_adapter, embedding):
    config = replace(SMALL, **changed)
    model = build(config, embedding=embedding)
    adapter = shifted(config) if has_adapter else None
    cache, other = (KVCache(config, 4, 90, torch.float32, CPU) for _ in range(2))
    network = FewTokens(model, adapter, cache)
    generator = torch.Generator().manual_seed(0)
    for lengths in ([70, 3, 1], [1, 1, 1], [2, 5, 1], [1, 9, 4]):
        rows = [2, 0, 3]
        stream = torch.randint(4, config.vocab_size, (sum(lengths),), generator=generator)
        starts = [0, lengths[0], lengths[0] + lengths[1], sum(lengths)]
        places = [(row, other.lengths[row] + n) for row, new in zip(rows, lengths, strict=True) for n in range(new)]
        wanted = model.logits(model.hidden(stream, starts, other.rows(rows), adapter))
        for at in range(0, len(stream), few.MOST_TOKENS):
            some = places[at : at + few.MOST_TOKENS]
            ids = stream[at : at + few.MOST_TOKENS].tolist()
            step = network.start(ids, [row for row, _ in some], [place for _, place in some])
            logits, (tokens, nats) = step.logits, step.likeliest()
            expected = wanted[at : at + few.MOST_TOKENS]
            assert torch.allclose(logits, expected, atol=2e-5, rtol=1e-5)
            assert tokens == logits.argmax(-1).tolist()
            assert torch.allclose(torch.tensor(nats), expected.log_softmax(-1).amax(-1), atol=2e-5)


def test_models_without_quantised_matrices_or_with_other_layers_are_left_to_the_general_network():
    assert most_tokens(build()) == few.MOST_TOKENS
    assert not most_tokens(build(quantize="none"))
    assert not most_tokens(build(replace(SMALL, qk_ln=True)))
    assert not most_tokens(build(replace(SMALL, alibi=False, learned_pos_emb=True)))
    assert not most_tokens(build(replace(SMALL, d_model=60, n_heads=3), quantize="int8")), "rows of 60 are no whole blocks"
    assert not most_tokens(build(replace(SMALL, d_model=192, n_heads=2))), "heads of 96"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_levels_in_16_bits_are_nearer_than_weights_rounded_one_by_one(kind, dtype):
    exact = torch.tensor(LEVELS[kind])
    bits, unscale = few.levels_16(tuple(exact.tolist()), dtype)
    near = torch.tensor(bits).to(torch.int16).view(dtype).double() * unscale
    error = ((near - exact)[exact != 0] / exact[exact != 0]).square().mean().sqrt()
    weights = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    rounding = ((weights.to(dtype).double() - weights) / weights).square().mean().sqrt()
    assert error < 0.95 * rounding
    assert error < (9e-4 if dtype == torch.bfloat16 else 3e-4)
    assert near[exact == 0].abs().sum() == 0


@pytest.mark.parametrize("count", [1, 3, 8, 70])
@pytest.mark.parametrize("has_adapter", [False, True])
def test_the_engine_answers_the_same_through_it(count, has_adapter, monkeypatch):
    model, tokenizer = build(), Tokenizer.from_file(TOKENIZER)
    adapter = shifted(SMALL) if has_adapter else None
    generator = torch.Generator().manual_seed(count)
    prompts = [
        tuple(torch.randint(4, SMALL.vocab_size, (1 + 7 * n % 80,), generator=generator).tolist()) for n in range(count)
    ]
    answers = []
    monkeypatch.setattr(MPT, "is_cheap_decoded", False)
    for runs_few in (False, True):
        monkeypatch.setattr(torch_engine, "_most_few", lambda *_, most=64 * runs_few: most)
        engine = TorchEngine(model, tokenizer, adapter, context_tokens=100, max_batch=count)
        for n, prompt in enumerate(prompts):
            drawn = Sampling(max_new_tokens=9, temperature=0.8 if n % 3 == 2 else 0.0, top_p=0.9, seed=n)
            engine.submit(Request(prompt, drawn))
        found = {}
        while pieces := engine.step():
            for piece in pieces:
                found.setdefault(piece.request_id, []).append((piece.token_id, piece.logprob_nats))
        answers.append(found)
    assert answers[0].keys() == answers[1].keys()
    for n, answer in answers[0].items():
        assert [token for token, _ in answer] == [token for token, _ in answers[1][n]]
        assert [nats for _, nats in answer] == pytest.approx([nats for _, nats in answers[1][n]], abs=1e-4)


@pytest.mark.parametrize("most", [64 * 1024, 99 * 1024, 227 * 1024], ids=["T4", "RTX 30 and 40", "H200"])
@pytest.mark.parametrize("is_four", [False, True])
def test_a_division_fits_shared_memory_and_covers_the_tokens(most, is_four):
    for tokens in range(1, few.MOST_TOKENS + 1):
        for ins, rank in itertools.product((64, 448, 3072, 4096, 16_384), (0, 32, 64)):
            found = tiling(tokens=tokens, ins=ins, rank=rank, is_four=is_four, most_shared=most)
            if found is None:
                assert most == 64 * 1024
                assert tokens > 32 if rank <= 32 else tokens > 16
                continue
            assert found.shared_bytes(tokens=tokens, rank=rank, is_four=is_four) <= most
            assert 8 * found.token_tiles >= tokens * found.token_slots
            assert 128 <= found.threads <= 1024
            assert found.blocks_at_once % found.token_slots == 0 or found.token_slots == 1
            assert found.tokens * found.rows <= MOST_SUMS or not found.stages


def test_what_can_never_fit_has_no_division():
    assert tiling(tokens=64, ins=4096, rank=4096, is_four=True, most_shared=65_536) is None
    assert tiling(tokens=1, ins=4096, rank=4096, is_four=True, most_shared=65_536)


@pytest.mark.parametrize("outs", [64, 1000, 12_288, 250_880])
@pytest.mark.parametrize("tokens", [8, 16, 64])
def test_every_program_has_work(tokens, outs):
    for ins, most in itertools.product((64, 448, 4096, 16_384), (1, 7, 124, 132)):
        found = tiling(tokens=tokens, ins=ins, rank=32, is_four=True, most_shared=227 * 1024)
        programs = found.programs_for(outs, ins, most)
        assert 1 <= programs <= most
        if found.stages:  # as few_staged.cu divides them
            steps = -(-outs // found.rows) * -(-ins // 64 // (found.warps_columns * found.blocks_at_once))
            each = -(-steps // programs)
            assert (programs - 1) * each < steps


@pytest.fixture
def few_engine(monkeypatch):
    """Return what makes an engine whose steps of few tokens are ``FewTokens``'."""
    monkeypatch.setattr(torch_engine, "_most_few", lambda *_: few.MOST_TOKENS)
    monkeypatch.setattr(MPT, "is_cheap_decoded", False)
    tokenizer = Tokenizer.from_file(TOKENIZER)
    return lambda **options: TorchEngine(build(), tokenizer, context_tokens=64, **options)


def answer(engine, prompt=(5, 6, 7), length=8):
    engine.submit(Request(prompt, Sampling(max_new_tokens=length)))
    pieces = []
    while found := engine.step():
        pieces += found
    return [piece.token_id for piece in pieces], pieces[-1].finish_reason


def steps_begun(monkeypatch):
    """Return a list that holds, for each step, whether it began ahead of its turn."""
    begun = []
    start, go_on = FewTokens.start, FewTokens.go_on
    monkeypatch.setattr(FewTokens, "start", lambda self, *told: begun.append(False) or start(self, *told))
    monkeypatch.setattr(FewTokens, "go_on", lambda self: begun.append(True) or go_on(self))
    return begun


def test_steps_begin_ahead_but_for_one_behind_the_last_token(few_engine, monkeypatch):
    begun = steps_begun(monkeypatch)
    assert len(answer(few_engine())[0]) == 8
    assert begun == [False] * 2 + [True] * 6, "the prompt, its first successor, and none behind the eighth token"


def test_steps_begin_ahead_again_where_nothing_can_be_guessed_any_more(few_engine, monkeypatch):
    plain, _ = answer(few_engine())
    begun = steps_begun(monkeypatch)
    wrong = (*plain[:2], plain[2] + 1, 9, 9)
    assert answer(few_engine(recital=Recital([wrong])))[0] == plain
    assert True not in begun[:3], "a guess might come"
    assert begun[-3:] == [True] * 3


def test_a_step_that_cannot_begin_ahead_costs_no_answer(few_engine, monkeypatch, caplog):
    wanted = answer(few_engine())

    def fail(_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(FewTokens, "go_on", fail)
    assert answer(few_engine()) == wanted
    assert "could not begin ahead" in caplog.text


def test_kernels_that_are_wrong_are_left_out(few_engine, monkeypatch, caplog):
    wanted = answer(few_engine())
    begun = steps_begun(monkeypatch)
    monkeypatch.setattr(few, "product", lambda *given: given[2].fill_(1.0))
    engine = few_engine()
    assert "is wrong on this GPU" in caplog.text
    assert answer(engine) == wanted
    assert begun == []


def test_scores_that_are_no_numbers_end_a_request_with_an_error(few_engine, caplog):
    for temperature in (0.0, 1.0):
        engine = few_engine()
        engine.model.weights["transformer.norm_f.weight"].fill_(float("nan"))
        engine.submit(Request((5, 6, 7), Sampling(temperature=temperature)))
        assert [piece.finish_reason for piece in engine.step()] == ["error"]
    assert "scores are not numbers" in caplog.text


def test_warming_up_changes_no_answer(few_engine):
    wanted = answer(few_engine())
    engine = few_engine()
    engine.warm_up()
    assert answer(engine) == wanted


def test_adapters_of_one_engine_share_their_workspace(few_engine):
    engine = few_engine(adapters={"a": shifted(SMALL), "b": shifted(SMALL, rank=9)})
    for name in ("a", "b", ""):
        engine.submit(Request((5, 6), Sampling(max_new_tokens=2), adapter=name))
    while engine.step():
        pass
    assert len({id(network._shared) for network in engine._few.values()}) == 1
    assert engine._workspace.scratch.low.numel() >= few.PARTS * few.MOST_TOKENS * 9
