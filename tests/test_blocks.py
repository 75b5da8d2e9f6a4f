"""Blocks written out for training: loss and gradients are autograd's, here in float32 on the CPU."""

import pytest
import torch
from tiny import some_tokens, tiny_adapter, tiny_config, tiny_model

from hoidap.kernels.bordered import bordered, spare
from hoidap.model import blocks
from hoidap.model.adapter import Adapter, new_adapter
from hoidap.model.linear import LowRank
from hoidap.model.loss import loss_nats
from hoidap.model.mpt import MPT

STARTS = [0, 1, 14, 15, 40]
CONFIGS = {
    "PhoGPT's": {},
    "no biases": {"no_bias": True},
    "learned positions": {"alibi": False, "learned_pos_emb": True},
    "one block": {"n_layers": 1},
    "a wide MLP": {"expansion_ratio": 6},
}


@pytest.fixture
def written_out(monkeypatch):
    """Have every pass with an adapter go through the written-out blocks, as on a GPU."""
    seen = []

    def always(model: MPT, adapter: Adapter) -> bool:
        seen.append(blocks.is_able(model, adapter))
        return seen[-1]

    return lambda: monkeypatch.setattr(MPT, "is_written_out", always) or seen


def loss_and_gradients(model: MPT, adapter: Adapter) -> tuple[float, dict[str, torch.Tensor]]:
    tokens, targets = (some_tokens(model.config, STARTS[-1], seed=seed) for seed in (1, 2))
    loss = loss_nats(model, model.hidden(tokens, STARTS, adapter=adapter), targets)
    names, tensors = zip(*adapter.trainable().items(), strict=True)
    return float(loss.detach()), dict(zip(names, torch.autograd.grad(loss, tensors), strict=True))


def assert_same(found, expected, tolerance):
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    for name, gradient in expected[1].items():
        assert gradient.abs().max() > 0, name
        assert (found[1][name] - gradient).norm() <= tolerance * gradient.norm(), name


@pytest.mark.parametrize("quantize", ["nf4", "fp4", "none"])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_gradients_are_those_of_autograd(changes, quantize, written_out):
    model = tiny_model(tiny_config(**changes), 1, quantize=quantize)
    adapter = tiny_adapter(model.config, 2)
    expected = loss_and_gradients(model, adapter)
    seen = written_out()
    assert_same(loss_and_gradients(model, adapter), expected, 2e-5)
    assert seen == [True]


@pytest.mark.parametrize("recompute", [1, 2, 3])
def test_blocks_that_run_twice_give_the_same_gradients_to_the_bit(recompute, written_out):
    written_out()
    model = tiny_model(tiny_config(n_layers=3), 1, quantize="nf4")
    adapter = tiny_adapter(model.config, 2)
    expected = loss_and_gradients(model, adapter)
    model.recompute, model.offload = recompute, True
    found = loss_and_gradients(model, adapter)
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], gradient) for name, gradient in expected[1].items())


def test_the_gradient_of_the_stream_before_the_blocks_is_autograds():
    model = tiny_model(tiny_config(), 1)
    adapter = tiny_adapter(model.config, 2)
    x = torch.randn(STARTS[-1], model.config.d_model, generator=torch.Generator().manual_seed(3)).requires_grad_()
    layout = blocks.attention.lay_out(model.attention, STARTS, model._slopes, model.dtype)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    (found,) = torch.autograd.grad((blocks.run(model, adapter, x, layout) * weight).sum(), x)
    y = x
    for layer in range(model.config.n_layers):
        y = model._block(y, layer, layout, None, None, adapter)
    (expected,) = torch.autograd.grad((y * weight).sum(), x)
    assert (found - expected).norm() < 2e-5 * expected.norm()


def test_what_is_kept_for_the_backward_pass_is_what_the_reckoning_says():
    config = tiny_config(d_model=64, n_heads=2, n_layers=6)
    model, adapter = tiny_model(config, 1, quantize="nf4"), tiny_adapter(config, 2)
    kept = []
    for model.recompute in (0, 6):
        layout = blocks.attention.lay_out(model.attention, STARTS, model._slopes, model.dtype)
        x = torch.randn(STARTS[-1], 64)
        result = blocks.run(model, adapter, x, layout)
        kept.append(sum(bytes_of(block) for block in result.grad_fn.kept))
    # In float32 everything takes twice what it takes in 16 bits; the softmax of these rectangles is not kept.
    reckoned = 2 * blocks.bytes_kept(config, adapter.rank, 2) - 2 * 4 * config.n_heads
    assert kept[0] == config.n_layers * STARTS[-1] * reckoned
    assert kept[1] == config.n_layers * STARTS[-1] * 4 * config.d_model


def bytes_of(kept) -> int:
    if isinstance(kept, torch.Tensor):
        return kept.nbytes
    tensors = [*(t for t in vars(kept).values() if isinstance(t, torch.Tensor)), *kept.lows]
    return sum(t.nbytes for t in tensors)


def test_what_is_not_plain_goes_through_autograd():
    plain = tiny_config()
    adapter = tiny_adapter(plain, 2)
    assert blocks.is_able(tiny_model(plain, 1, quantize="nf4"), adapter)
    assert not blocks.is_able(tiny_model(plain, 1, quantize="int8"), adapter), "int8 rounds the activations too"
    assert not blocks.is_able(tiny_model(plain, 1), adapter.with_dropout(0.1))
    for changes in ({"clip_qkv": 3.0}, {"qk_ln": True}):
        config = tiny_config(**changes)
        assert not blocks.is_able(tiny_model(config, 1), tiny_adapter(config, 2))
    deltas = dict(adapter.deltas)
    deltas.pop("transformer.blocks.1.attn.Wqkv")
    assert not blocks.is_able(tiny_model(plain, 1), Adapter(adapter.rank, adapter.alpha, deltas))
    trained = tiny_model(plain, 1)
    trained.unfreeze(torch.float32)
    assert not blocks.is_able(trained, adapter)
    assert not tiny_model(plain, 1).is_written_out(adapter), "a CPU's path is autograd"


@pytest.mark.parametrize("rank", [1, 3, 15, 16, 32, 63, 64])
def test_a_bordered_matrix_makes_the_product_the_low_rank_term_and_the_bias_at_once(rank):
    outs, ins, scale = 6, 10, 5 / 3
    generator = torch.Generator().manual_seed(rank)
    W, A, B, b, x, dy = (
        torch.randn(*shape, generator=generator)
        for shape in ((outs, ins), (rank, ins), (outs, rank), (outs,), (4, ins), (4, outs))
    )
    whole = bordered(W, A, B, scale, b, torch.float32)
    assert whole.shape == (outs + spare(rank), ins + spare(rank))
    assert spare(rank) >= rank + 1
    wide = torch.zeros(4, ins + spare(rank))
    wide[:, :ins], wide[:, ins : ins + rank], wide[:, ins + rank] = x, x @ A.T, 1
    expected = x @ W.T + b + scale * (x @ A.T) @ B.T
    torch.testing.assert_close(wide @ whole[:outs].T, expected, rtol=1e-5, atol=1e-4)
    back = torch.cat([dy, dy @ whole[:outs, ins : ins + rank]], 1) @ whole[: outs + rank, :ins]
    torch.testing.assert_close(back, dy @ (W + scale * B @ A), rtol=1e-5, atol=1e-4)


def test_a_new_adapter_leaves_the_base_as_it_is(written_out):
    model = tiny_model(tiny_config(), 1, quantize="nf4")
    tokens = some_tokens(model.config, STARTS[-1])
    expected = model.hidden(tokens, STARTS)
    written_out()
    adapter = new_adapter(model.config, 4, 8, model.device)
    torch.testing.assert_close(model.hidden(tokens, STARTS, adapter=adapter), expected, rtol=1e-5, atol=1e-5)
    assert all(isinstance(delta, LowRank) for delta in adapter.deltas.values())


def test_a_second_backward_pass_is_refused(written_out):
    written_out()
    model, adapter = tiny_model(tiny_config(), 1), tiny_adapter(tiny_config(), 2)
    loss = model.hidden(some_tokens(model.config, STARTS[-1]), STARTS, adapter=adapter).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a second backward pass through the same blocks"):
        loss.backward()
