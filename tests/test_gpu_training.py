"""The kernels of training on a CUDA device equal their references, and a run through them equals one through autograd."""

import pytest
import torch

from hoidap.kernels import attention, fourbit, rows
from hoidap.kernels.bordered import border_reference, bordered, spare
from hoidap.kernels.cross_entropy import cross_entropy, cross_entropy_reference
from hoidap.model import blocks
from hoidap.model.adapter import new_adapter
from hoidap.model.checkpoint import assemble, random_tensors
from hoidap.model.config import MPTConfig
from hoidap.model.loss import loss_nats
from hoidap.model.mpt import MPT
from hoidap.recipe import RECALL, adjusted
from hoidap.training.memory import fit_memory, keep_to

pytestmark = pytest.mark.gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BY_DTYPE = {torch.bfloat16: 1e-2, torch.float16: 2e-3}  # relative error of one rounding or two, generously
each_dtype = pytest.mark.parametrize("dtype", list(BY_DTYPE))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def error(result: torch.Tensor, expected: torch.Tensor) -> float:
    result, expected = result.detach().float().cpu(), expected.detach().float().cpu()
    assert result.isfinite().all()
    return float((result - expected).norm() / expected.norm())


def poisoned(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=dtype, device=CUDA)


DOCUMENTS = {
    "one token": [1],
    "one document": [300],
    "short ones": [1, 2, 3, 5, 64, 63, 65, 1, 128],
    "a long one between": [7, 1000, 7],
    "full blocks": [128, 64, 64, 256],
}


@each_dtype
@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("lengths", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_attention_of_the_kernels_equals_the_rectangles_forward_and_backward(lengths, head_dim, dtype):
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    T, H, scale = starts[-1], 3, head_dim**-0.5
    slopes = torch.tensor([0.84, 0.1, 0.004])
    qkv, grad = normal(T, 3, H, head_dim), normal(T, H * head_dim, seed=1)
    wanted = qkv.to(dtype).float().requires_grad_()
    expected = attention.Packed.lay_out(starts, slopes).attend(wanted, scale).flatten(1)
    (expected_grad,) = torch.autograd.grad(expected, wanted, grad.to(dtype).float())
    stream = attention.Stream.lay_out(starts, slopes.to(CUDA))
    width = H * head_dim
    moved, out, found = qkv.to(CUDA, dtype), poisoned(T, width + 16, dtype=dtype), poisoned(T, 3 * width + 16, dtype=dtype)
    softmax = stream.forward(moved, scale, out)
    stream.backward(moved, scale, out, softmax, grad.to(CUDA, dtype), found)
    assert error(out[:, :width], expected) < BY_DTYPE[dtype]
    assert error(found[:, : 3 * width], expected_grad.flatten(1)) < BY_DTYPE[dtype]
    assert out[:, width:].isnan().all()
    assert found[:, 3 * width :].isnan().all(), "nothing else was written"
    asked = moved.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(stream.attend(asked, scale).flatten(1), asked, grad.to(CUDA, dtype))
    assert torch.equal(by_autograd.flatten(1), found[:, : 3 * width])


@each_dtype
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("T", [1, 37])
@pytest.mark.parametrize("d", [96, 448, 3072, 4096])
def test_row_kernels_equal_their_references(d, T, has_bias, dtype):
    rank, stream = 4, torch.float32 if dtype == torch.float16 else dtype
    room = spare(rank)
    x, y, above = (normal(T, d, seed=seed).to(stream) for seed in (1, 2, 3))
    weight, bias, grad = normal(d).to(dtype), normal(d, seed=4).to(dtype), normal(T, d, seed=5).to(dtype)
    bias = bias if has_bias else None
    on_gpu = [None if t is None else t.to(CUDA) for t in (x, y, weight, bias, above, grad)]
    for added in (True, False):
        expected, out = torch.empty(T, d + room, dtype=dtype), poisoned(T, d + room, dtype=dtype)
        total = rows.add_norm_reference(x, y if added else None, weight, bias, expected, rank)
        found = rows.add_norm(on_gpu[0], on_gpu[1] if added else None, on_gpu[2], on_gpu[3], out, rank)
        assert error(found, total) < BY_DTYPE[dtype]
        assert error(out, expected) < BY_DTYPE[dtype]
        assert torch.equal(out[:, d:].cpu(), expected[:, d:])
    expected, normed = torch.empty(T, d + room, dtype=dtype), torch.empty(T, d, dtype=dtype)
    total = rows.norm_backward_reference(grad, x, weight, bias, above, expected, normed)
    out, found_normed = poisoned(T, d + room, dtype=dtype), poisoned(T, d, dtype=dtype)
    found = rows.norm_backward(on_gpu[5], on_gpu[0], on_gpu[2], on_gpu[3], on_gpu[4], out, found_normed)
    assert found.dtype == stream
    assert error(found, total) < BY_DTYPE[dtype]
    assert error(out[:, :d], expected[:, :d]) < BY_DTYPE[dtype]
    assert error(found_normed, normed) < BY_DTYPE[dtype]


@each_dtype
@pytest.mark.parametrize(("T", "n"), [(1, 64), (5, 1792), (37, 12288)])
def test_gelu_and_its_gradient_equal_the_reference(T, n, dtype):
    rank = 8
    u, grad = (normal(T, n) * 3).to(dtype), normal(T, n, seed=1).to(dtype)
    expected, expected_grad = torch.empty(T, n + spare(rank), dtype=dtype), torch.empty(T, n + spare(rank), dtype=dtype)
    active = grad.clone()
    rows.gelu(u, expected, rank)
    rows.gelu_backward(u, active, expected_grad)
    out, found = poisoned(T, n + spare(rank), dtype=dtype), poisoned(T, n + spare(rank), dtype=dtype)
    moved = grad.to(CUDA)
    rows.gelu(u.to(CUDA), out, rank)
    rows.gelu_backward(u.to(CUDA), moved, found)
    assert error(out, expected) < BY_DTYPE[dtype]
    assert torch.equal(out[:, n:].cpu(), expected[:, n:])
    assert error(found[:, :n], expected_grad[:, :n]) < BY_DTYPE[dtype]
    assert error(moved, active) < BY_DTYPE[dtype]


@each_dtype
@pytest.mark.parametrize("held", ["nf4", "16 bits"])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("shape", "rank"), [((192, 320), 4), ((64, 4096), 32), ((1000, 448), 16)], ids=str)
def test_a_bordered_matrix_equals_the_reference_to_the_bit(shape, rank, has_bias, held, dtype):
    (outs, ins), weight = shape, normal(*shape).to(CUDA, dtype)
    A, B, bias = (t.to(CUDA) for t in (normal(rank, ins), normal(outs, rank), normal(outs).to(dtype)))
    quantised = fourbit.quantize(weight) if held == "nf4" else weight
    found = bordered(quantised, A, B, 1.5, bias if has_bias else None, dtype)
    assert found.shape == (outs + spare(rank), ins + spare(rank))
    plain = fourbit.dequantize_reference(quantised, dtype) if held == "nf4" else weight
    assert torch.equal(found[:outs, :ins], plain)
    expected = torch.empty_like(found)
    border_reference(expected, A, B, 1.5, bias if has_bias else None)
    assert torch.equal(found[:outs, ins:], expected[:outs, ins:])
    assert torch.equal(found[outs : outs + rank, :ins], expected[outs : outs + rank, :ins])


@each_dtype
@pytest.mark.parametrize(("N", "V"), [(1, 17), (9, 4096), (33, 20_480), (5, 250_880)])
def test_cross_entropy_and_its_gradient_equal_the_reference(N, V, dtype):
    logits, targets = normal(N, V) * 4, torch.randint(0, V, (N,), generator=torch.Generator().manual_seed(0))
    expected_grad, grad = torch.empty(N, V, dtype=dtype), poisoned(N, V, dtype=dtype)
    expected = cross_entropy_reference(logits, targets, expected_grad, 1024.0)
    found = cross_entropy(logits.to(CUDA), targets.to(CUDA), grad, 1024.0)
    assert torch.allclose(found.cpu(), expected, rtol=1e-5, atol=1e-5)
    assert error(grad, expected_grad) < BY_DTYPE[dtype]


def trained(
    device: torch.device,
    dtype: torch.dtype,
    held: str,
    *,
    recompute: int = 0,
    offload: bool = False,
    attended: str | None = None,
):
    """Return the loss and all gradients of the adapter after one pass, and whether the blocks were written out."""
    config = MPTConfig(d_model=256, n_heads=4, n_layers=3, vocab_size=8192, max_seq_len=512)
    model = assemble(config, random_tensors(config, CPU, torch.float32, 0), quantize=held, device=device, dtype=dtype)
    model.recompute, model.offload, model.attention = recompute, offload, attended or model.attention
    generator = torch.Generator().manual_seed(0)
    adapter = new_adapter(config, 8, 16, device, generator)
    for delta in adapter.deltas.values():
        with torch.no_grad():
            delta.B.copy_(torch.randn(delta.B.shape, generator=generator) * 0.02)
    tokens = torch.randint(0, config.vocab_size, (400,), generator=generator).to(device)
    targets = torch.randint(0, config.vocab_size, (400,), generator=generator).to(device)
    hidden = model.hidden(tokens, [0, 1, 90, 290, 400], adapter=adapter)
    loss = loss_nats(model, hidden, targets)
    loss.backward()
    grads = [t.grad.flatten().cpu() for t in adapter.trainable().values() if t.grad is not None]
    return float(loss.detach()), torch.cat(grads), model.is_written_out(adapter)


@pytest.mark.parametrize("attended", ["triton", "sdpa"])
@pytest.mark.parametrize("held", ["nf4", "none"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 5e-3)])
def test_gradients_through_the_written_out_blocks_equal_float32s_on_the_cpu(dtype, tolerance, held, attended):
    loss, grads, is_written_out = trained(CUDA, dtype, held, attended=attended)
    expected_loss, expected, by_hand = trained(CPU, torch.float32, held)
    assert is_written_out
    assert not by_hand
    assert abs(loss / expected_loss - 1) < 2e-3
    assert error(grads, expected) < tolerance


@each_dtype
def test_blocks_computed_twice_give_the_same_gradients_to_the_bit(dtype):
    once = trained(CUDA, dtype, "nf4")
    for recompute, offload in ((1, False), (3, False), (3, True)):
        again = trained(CUDA, dtype, "nf4", recompute=recompute, offload=offload)
        assert torch.equal(once[1], again[1])


@each_dtype
def test_autograd_and_the_written_out_blocks_agree(dtype, monkeypatch):
    written_out = trained(CUDA, dtype, "nf4")
    monkeypatch.setattr(MPT, "is_written_out", lambda *_: False)
    by_autograd = trained(CUDA, dtype, "nf4")
    assert error(written_out[1], by_autograd[1]) < 4 * BY_DTYPE[dtype]


def test_what_is_not_plain_goes_through_autograd():
    config = MPTConfig(d_model=64, n_heads=2, n_layers=1, vocab_size=128, max_seq_len=64)
    held = list(random_tensors(config, CPU, torch.float32, 0))
    model = assemble(config, held, quantize="nf4", device=CUDA, dtype=torch.bfloat16)
    adapter = new_adapter(config, 4, 8, CUDA)
    assert blocks.is_able(model, adapter)
    assert not blocks.is_able(model, adapter.with_dropout(0.1))
    assert not blocks.is_able(assemble(config, held, quantize="int8", device=CUDA, dtype=torch.bfloat16), adapter)


def test_a_run_takes_no_more_memory_than_it_was_given():
    config = MPTConfig(d_model=64, n_heads=2, n_layers=2, vocab_size=128, max_seq_len=64)
    recipe, words = fit_memory(adjusted(RECALL, {"memory_gb": 2.0}), config, CUDA, torch.bfloat16, 64)
    assert recipe.recompute == 0
    assert "of 2.0 GB reckoned" in words
    with keep_to(recipe, CUDA):
        torch.empty(2**30, dtype=torch.uint8, device=CUDA)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(2 * 10**9, dtype=torch.uint8, device=CUDA)
    torch.empty(2 * 10**9, dtype=torch.uint8, device=CUDA)
