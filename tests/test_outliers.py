"""Outliers as large models have them break plain float16 and plain int8; hoidap's keep the answers of float32."""

import re

import pytest
import torch
from outliers import CONFIG, START, agreement, documents, follower, logits_of, outlier_model, outlier_tensors
from tiny import CPU, tiny_adapter

from hoidap.data.pack import Batch
from hoidap.kernels import fourbit, int8
from hoidap.model.adapter import new_adapter
from hoidap.model.cache import KVCache
from hoidap.model.checkpoint import LazyWeights, assemble, save_checkpoint
from hoidap.model.loss import loss_nats
from hoidap.model.mpt import MPT
from hoidap.model.overflow import first_overflow, magnitudes
from hoidap.recipe import Optimizer, Quantize, Recipe
from hoidap.training.step import Stepper

TOKENS, STARTS = documents()
OTHERS = TOKENS != START
LARGEST_FLOAT16 = 65_504


class PlainFloat16(MPT):
    """Adds the residual stream up in float16, as transformers does with a model in float16."""

    stream_dtype = torch.float16


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return logits_of(outlier_model(), TOKENS, STARTS)


def overflowing_model(dtype: torch.dtype, quantize: Quantize = "none") -> MPT:
    """Return a model in which one product is too large for float16: block 1's up_proj, at START."""
    tensors = dict(outlier_tensors())
    tensors["transformer.blocks.1.ffn.up_proj.weight"][0] *= 450
    tensors["transformer.blocks.1.ffn.down_proj.weight"][:, 0] /= 450
    return assemble(CONFIG, tensors.items(), quantize=quantize, device=CPU, dtype=dtype)


# The fixture --------------------------------------------------------------------------------------------------------------


def test_in_float32_the_models_answers_are_sharp_and_sensible(expected):
    assert expected.softmax(-1).amax(-1).mean() > 0.7
    assert (expected.argmax(-1) == follower(TOKENS[OTHERS])).float().mean() > 0.95


def test_the_model_has_the_outliers_of_large_ones():
    found = {(m.block, m.tensor): m for m in magnitudes(outlier_model(), TOKENS, STARTS)}
    assert len(found) == 1 + 9 * CONFIG.n_layers
    for block in range(CONFIG.n_layers):
        for tensor in ("attn.Wqkv input", "ffn.up_proj input"):
            assert found[block, tensor].n_outliers == 3
            assert 400 < found[block, tensor].largest / found[block, tensor].median < 1000
        assert 70 < found[block, "ffn.down_proj input"].largest / found[block, "ffn.down_proj input"].median < 200
        products = [m.largest for (b, tensor), m in found.items() if b == block and tensor.endswith("output")]
        assert max(products) < LARGEST_FLOAT16 / 2, "no single product overflows"
    stream = [found[block, "residual stream"].largest for block in range(CONFIG.n_layers)]
    assert stream[1] < LARGEST_FLOAT16 < stream[2]


# float16 ------------------------------------------------------------------------------------------------------------------


def test_a_residual_stream_in_float16_overflows_and_every_first_choice_is_token_0(expected):
    half = outlier_model(torch.float16)
    logits = logits_of(PlainFloat16(CONFIG, half.weights, torch.float16), TOKENS, STARTS)
    assert logits.isnan().all()
    assert not logits.argmax(-1).any()
    assert agreement(logits, expected)[0] < 0.05


def test_float16_beside_a_float32_stream_answers_as_float32(expected):
    model = outlier_model(torch.float16)
    with torch.no_grad():
        hidden = model.hidden(TOKENS, STARTS)
    assert hidden.dtype == torch.float16
    assert model.logits(hidden).dtype == torch.float32
    same, nats = agreement(logits_of(model, TOKENS, STARTS), expected)
    assert same == 1
    assert nats < 1e-5


def test_bfloat16_and_float32_streams_are_in_the_models_own_dtype(expected):
    for dtype in (torch.bfloat16, torch.float32):
        assert outlier_model(dtype).stream_dtype == dtype
    same, nats = agreement(logits_of(outlier_model(torch.bfloat16), TOKENS, STARTS), expected)
    assert same > 0.98
    assert nats < 1e-3


def test_a_cache_in_float16_gives_what_no_cache_gives():
    model = outlier_model(torch.float16)
    cache = KVCache(CONFIG, 1, 32, torch.float16, CPU)
    tokens = TOKENS[:32]
    with torch.no_grad():
        parts = [model.hidden(tokens[:20], [0, 20], cache.rows([0]))]
        parts += [model.hidden(tokens[n : n + 1], [0, 1], cache.rows([0])) for n in range(20, 32)]
        whole = model.hidden(tokens, [0, 32])
    assert cache.keys.isfinite().all()
    torch.testing.assert_close(torch.cat(parts), whole, atol=0.02, rtol=2e-3)


def test_padded_rows_in_float16_give_the_streams_logits(expected):
    with torch.no_grad():
        rows = outlier_model(torch.float16).forward(TOKENS.view(-1, 32)).flatten(0, 1)[OTHERS]
    assert agreement(rows, expected)[0] == 1


# Quantised ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "double_quant", "least_same", "most_nats"),
    [
        ("nf4", True, 0.98, 0.01),
        ("nf4", False, 0.98, 0.01),
        ("fp4", True, 0.97, 0.04),
        ("fp4", False, 0.97, 0.04),
        ("int8", True, 0.99, 0.002),
    ],
)
def test_quantised_weights_in_float16_are_as_near_to_float32_as_in_float32_themselves(
    kind, double_quant, least_same, most_nats, expected
):
    in_float16, in_float32 = (
        logits_of(outlier_model(dtype, quantize=kind, double_quant=double_quant), TOKENS, STARTS)
        for dtype in (torch.float16, torch.float32)
    )
    same, nats = agreement(in_float16, expected)
    assert same >= least_same
    assert nats < most_nats
    if kind != "int8":  # whose activations round to other codes
        assert agreement(in_float16, in_float32)[0] == 1
        assert agreement(in_float16, in_float32)[1] < 1e-5


def test_fp4_is_farther_from_float32_than_nf4(expected):
    nf4, fp4 = (
        agreement(logits_of(outlier_model(torch.float16, quantize=kind), TOKENS, STARTS), expected)[1]
        for kind in ("nf4", "fp4")
    )
    assert 2 * nf4 < fp4


def test_int8_without_its_outlier_columns_loses_the_answers(expected, monkeypatch):
    model = outlier_model(quantize="int8")
    kept = agreement(logits_of(model, TOKENS, STARTS), expected)
    monkeypatch.setattr(int8, "THRESHOLD", float("inf"))
    lost = agreement(logits_of(model, TOKENS, STARTS), expected)
    assert kept[0] >= 0.99
    assert kept[1] < 0.002
    assert lost[0] < 0.1
    assert lost[1] > 1


# Naming what overflows ----------------------------------------------------------------------------------------------------


def test_nothing_overflows_where_the_stream_is_float32():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert first_overflow(outlier_model(dtype), TOKENS, STARTS) is None


@pytest.mark.parametrize("kind", ["none", "nf4", "int8"])
def test_a_product_too_large_for_float16_is_named_with_its_size(kind):
    found = first_overflow(overflowing_model(torch.float16, kind), TOKENS, STARTS)
    assert found is not None
    assert re.fullmatch(r"block 1, ffn\.up_proj output: 7\d,\d\d\d exceeds float16's 65,504", found)
    assert first_overflow(overflowing_model(torch.bfloat16, kind), TOKENS, STARTS) is None


def test_a_weight_that_is_not_finite_is_named_by_its_output():
    model = outlier_model()
    model.weights["transformer.blocks.2.attn.out_proj.weight"][3, 4] = float("nan")
    assert first_overflow(model, TOKENS, STARTS) == "block 2, attn.out_proj output is not finite"
    model = outlier_model()
    model.weights["transformer.norm_f.weight"][3] = float("inf")
    assert first_overflow(model, TOKENS, STARTS) == "the output of norm_f is not finite"
    model = outlier_model()
    model.weights["transformer.blocks.1.norm_2.bias"][3] = float("nan")
    assert first_overflow(model, TOKENS, STARTS) == "block 1, ffn.up_proj input is not finite"


def test_an_adapter_that_overflows_is_seen():
    model, adapter = outlier_model(torch.float16), tiny_adapter(CONFIG, 0)
    with torch.no_grad():
        adapter.deltas["transformer.blocks.2.attn.Wqkv"].B.mul_(1e4)
    assert first_overflow(model, TOKENS, STARTS) is None
    found = first_overflow(model, TOKENS, STARTS, adapter)
    assert found is not None
    assert found.startswith("block 2, attn.Wqkv output: ")


def test_looking_changes_nothing_that_is_computed():
    for dtype in (torch.float32, torch.float16):
        model = outlier_model(dtype, quantize="nf4")
        before = logits_of(model, TOKENS, STARTS)
        magnitudes(model, TOKENS, STARTS)
        assert torch.equal(logits_of(model, TOKENS, STARTS), before)


def test_weights_read_when_they_are_asked_for_are_measured_a_matrix_at_a_time(tmp_path):
    asked: list[str] = []

    class Counted(LazyWeights):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

    save_checkpoint(outlier_model(), tmp_path)
    weights = Counted(tmp_path, quantize="nf4", device=CPU, dtype=torch.float16)
    model = MPT(weights.config, weights, torch.float16)
    assert model.weights is weights
    found = magnitudes(model, TOKENS, STARTS)
    matrices = [name for name in asked if name.endswith(("proj.weight", "Wqkv.weight"))]
    assert len(matrices) == len(set(matrices)) == 4 * CONFIG.n_layers
    whole = outlier_model(torch.float16, quantize="nf4")
    assert found == magnitudes(whole, TOKENS, STARTS)
    assert list(weights) == list(CONFIG.shapes())


# Training -----------------------------------------------------------------------------------------------------------------


def batch() -> Batch:
    """Return documents whose every token is followed by the one the model is sure of, to be predicted where it is."""
    predicting = OTHERS.nonzero()[:, 0]
    return Batch(TOKENS, STARTS, predicting, follower(TOKENS[predicting]), len(STARTS) - 1)


@pytest.mark.parametrize("recompute", [0, 2], ids=["kept", "recomputed"])
@pytest.mark.parametrize("kind", ["none", "nf4", "int8"])
def test_gradients_in_float16_are_near_those_in_float32(kind, recompute):
    gradients = []
    for dtype in (torch.float32, torch.float16):
        model, adapter = outlier_model(dtype, quantize=kind), tiny_adapter(CONFIG, 0)
        for delta in adapter.deltas.values():
            delta.B.detach().mul_(1e-3)
        model.recompute = recompute
        part = batch()
        loss = loss_nats(model, model.hidden(part.tokens, part.starts, adapter=adapter)[part.predicting], part.targets)
        tensors = list(adapter.trainable().values())
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss * 16, tensors)]))
    assert gradients[1].isfinite().all()
    assert (gradients[1] - gradients[0]).norm() < (0.2 if kind == "int8" else 0.01) * gradients[0].norm()


def test_steps_in_float16_have_finite_gradients_and_lower_the_loss():
    model = outlier_model(torch.float16, quantize="nf4")
    adapter = new_adapter(CONFIG, 4, 4.0, CPU, torch.Generator().manual_seed(0))
    stepper = Stepper(model, adapter, adapter.trainable(), Recipe(), 30)
    rows = [stepper.step(batch()) for _ in range(30)]
    assert sum(row["gradient_norm"] < float("inf") for row in rows) >= 20, "the scaler has found its scale"
    assert all(tensor.isfinite().all() for tensor in adapter.trainable().values())
    assert rows[-1]["loss_nats"] < 0.8 * rows[0]["loss_nats"]


def test_steps_of_all_weights_in_float16_have_finite_gradients_and_lower_the_loss():
    model = outlier_model()
    model.dtype = torch.float16
    for weight in model.weights.values():
        weight.requires_grad_()
    recipe = Recipe(optimizer=Optimizer(learning_rate=2e-5))
    stepper = Stepper(model, None, model.trainable(), recipe, 30)
    rows = [stepper.step(batch()) for _ in range(30)]
    assert sum(row["gradient_norm"] < float("inf") for row in rows) >= 20
    assert all(weight.isfinite().all() for weight in model.weights.values())
    assert rows[-1]["loss_nats"] < rows[0]["loss_nats"]


def test_an_embedding_in_eight_bits_changes_little_even_beside_outliers():
    tokens, starts = documents()
    expected = logits_of(outlier_model(), tokens, starts)
    for quantize in ("none", "nf4"):
        held = outlier_model(quantize=quantize)
        small = outlier_model(quantize=quantize, embedding="8-bit")
        wte, original = small.weights["transformer.wte.weight"], held.tensor("transformer.wte")
        assert isinstance(wte, int8.Int8Weight)
        relative = (int8.dequantize(wte, torch.float32) - original).norm() / original.norm()
        assert 0.001 < relative < 0.015, "a 127th of a row's largest, rounded"
        same, kl = agreement(logits_of(small, tokens, starts), logits_of(held, tokens, starts))
        assert same > 0.99
        assert kl < 1e-4
    assert agreement(logits_of(outlier_model(embedding="8-bit"), tokens, starts), expected)[0] > 0.99


def test_an_embedding_in_four_bits_changes_a_few_times_as_much():
    tokens, starts = documents()
    held, small = outlier_model(), outlier_model(embedding="4-bit")
    wte, original = small.weights["transformer.wte.weight"], held.tensor("transformer.wte")
    assert isinstance(wte, fourbit.FourBitWeight)
    relative = (fourbit.dequantize(wte, torch.float32) - original).norm() / original.norm()
    assert 0.03 < relative < 0.12
    same, kl = agreement(logits_of(small, tokens, starts), logits_of(held, tokens, starts))
    assert same > 0.9
    assert kl < 0.02


@pytest.mark.parametrize("double_quant", [False, True])
def test_rows_of_a_matrix_in_four_bits_are_what_they_are_in_the_whole(double_quant):
    weight = torch.randn(40, 448, generator=torch.Generator().manual_seed(0))  # seven blocks a row, 280 in all
    held = fourbit.quantize(weight, double_quant=double_quant)
    whole = fourbit.dequantize(held, torch.float32)
    for chosen in (torch.tensor([3, 39, 3], dtype=torch.int32), slice(5, 20), slice(36, 99)):
        assert torch.equal(fourbit.dequantize(held.rows(chosen), torch.float32), whole[chosen])


def test_the_loss_through_an_embedding_in_eight_bits_is_that_of_what_it_stands_for():
    tensors = dict(outlier_tensors())
    small = outlier_model(embedding="8-bit")
    decoded = int8.dequantize(small.weights["transformer.wte.weight"], torch.float32)
    plain = assemble(
        CONFIG, {**tensors, "transformer.wte.weight": decoded}.items(), quantize="none", device=CPU, dtype=torch.float32
    )
    found = []
    for model in (small, plain):
        adapter = tiny_adapter(CONFIG, 0)
        part = batch()
        hidden = model.hidden(part.tokens, part.starts, adapter=adapter)
        loss = loss_nats(model, hidden[part.predicting], part.targets)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(adapter.trainable().values()))]))
    assert (found[0] - found[1]).norm() < 1e-4 * found[1].norm()
