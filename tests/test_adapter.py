"""Adapters: fresh, merged, saved and loaded, and refused where their arithmetic would not be plain LoRA."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CPU, some_tokens, tiny_adapter, tiny_config, tiny_model

from hoidap.errors import CheckpointError
from hoidap.model.adapter import Adapter, load_adapter, new_adapter, save_adapter
from hoidap.model.linear import LowRank, dequantized
from hoidap.model.mpt import MPT

CONFIG = tiny_config()
FIRST = "base_model.model.transformer.blocks.0.attn.Wqkv"
either_weight = pytest.mark.parametrize("quantize", ["none", "nf4"])
any_weight = pytest.mark.parametrize("quantize", ["none", "nf4", "fp4", "int8"])


def hidden(model: MPT, adapter: Adapter | None = None) -> torch.Tensor:
    with torch.no_grad():
        return model.hidden(some_tokens(model.config, 20), [0, 13, 20], adapter=adapter)


@either_weight
def test_a_fresh_adapter_changes_nothing(quantize):
    model = tiny_model(CONFIG, 1, quantize=quantize)
    fresh = new_adapter(CONFIG, 4, 8.0, CPU, torch.Generator().manual_seed(0))
    assert torch.equal(hidden(model, fresh), hidden(model))


def test_a_fresh_adapter_has_both_matrices_of_every_linear_in_float32_and_trainable():
    matrices = new_adapter(CONFIG, 4, 8.0, CPU).trainable()
    shapes = CONFIG.shapes()
    linears = [name.removesuffix(".weight") for name, shape in shapes.items() if "blocks" in name and len(shape) == 2]
    assert len(linears) == 4 * CONFIG.n_layers
    expected = {}
    for module in linears:
        out, in_ = shapes[f"{module}.weight"]
        expected[f"base_model.model.{module}.lora_A.weight"] = (4, in_)
        expected[f"base_model.model.{module}.lora_B.weight"] = (out, 4)
    assert {name: tuple(t.shape) for name, t in matrices.items()} == expected
    assert all(t.dtype == torch.float32 and t.requires_grad and t.is_leaf for t in matrices.values())


def test_a_fresh_adapters_down_projection_is_uniform_within_one_over_the_root_of_its_inputs():
    adapter = new_adapter(tiny_config(d_model=192), 16, 16.0, CPU, torch.Generator().manual_seed(0))
    A = adapter.trainable()[f"{FIRST}.lora_A.weight"]
    bound = 1 / math.sqrt(192)
    assert 0.99 * bound < A.abs().max() <= bound
    assert A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_a_seed_gives_the_same_fresh_adapter_and_another_seed_another():
    first, again, other = (
        new_adapter(CONFIG, 4, 8.0, CPU, torch.Generator().manual_seed(seed)).trainable()[f"{FIRST}.lora_A.weight"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("module", tiny_adapter(CONFIG, 0).deltas)
def test_the_update_of_every_single_linear_is_in_force(module):
    model = tiny_model(CONFIG, 1)
    alone = Adapter(3, 5.0, {module: tiny_adapter(CONFIG, 2).deltas[module]})
    assert (hidden(model, alone) - hidden(model)).abs().max() > 1e-2


def test_an_update_is_scaled_by_alpha_over_rank():
    model = tiny_model(CONFIG, 1)
    module, delta = next(iter(tiny_adapter(CONFIG, 2).deltas.items()))
    assert delta.scale == pytest.approx(5 / 3)
    by_scale = Adapter(3, 5.0, {module: delta})
    by_hand = Adapter(3, 3.0, {module: LowRank(delta.A, delta.B * (5 / 3), 1.0)})
    torch.testing.assert_close(hidden(model, by_scale), hidden(model, by_hand), atol=1e-5, rtol=0)


@either_weight
def test_a_merged_model_answers_as_the_unmerged_one(quantize):
    model = tiny_model(CONFIG, 1, quantize=quantize)
    adapter = tiny_adapter(CONFIG, 2)
    expected = hidden(model, adapter)
    assert (expected - hidden(model)).abs().max() > 0.1, "the adapter changes the answers"
    torch.testing.assert_close(hidden(model.merge(adapter)), expected, atol=1e-5, rtol=0)


@any_weight
def test_a_merged_weight_is_the_base_and_the_scaled_product_of_the_matrices(quantize):
    model = tiny_model(CONFIG, 1, quantize=quantize)
    adapter = tiny_adapter(CONFIG, 2)
    merged = model.merge(adapter)
    for module, delta in adapter.deltas.items():
        base = dequantized(model.weights[f"{module}.weight"], torch.float32)
        expected = base + 5 / 3 * torch.einsum("or,ri->oi", delta.B, delta.A)
        torch.testing.assert_close(merged.weights[f"{module}.weight"], expected.detach(), atol=1e-6, rtol=1e-6)


@any_weight
def test_merging_leaves_the_base_as_it_was_and_shares_what_the_adapter_leaves_alone(quantize):
    model = tiny_model(CONFIG, 1, quantize=quantize)
    weights, before = dict(model.weights), hidden(model)
    merged = model.merge(tiny_adapter(CONFIG, 2))
    assert model.merged is None
    assert all(model.weights[name] is weight for name, weight in weights.items())
    assert torch.equal(hidden(model), before)
    assert merged.weights["transformer.wte.weight"] is model.weights["transformer.wte.weight"]
    assert all(isinstance(weight, torch.Tensor) for weight in merged.weights.values())


def test_merging_a_16_bit_model_adds_in_float32_and_rounds_once():
    model = tiny_model(CONFIG, 1, dtype=torch.bfloat16)
    adapter = tiny_adapter(CONFIG, 2)
    merged = model.merge(adapter)
    for module, delta in adapter.deltas.items():
        exact = model.weights[f"{module}.weight"].float() + delta.scale * (delta.B @ delta.A)
        assert torch.equal(merged.weights[f"{module}.weight"], exact.bfloat16())


def test_merging_the_same_adapter_twice_equals_merging_it_once():
    adapter = tiny_adapter(CONFIG, 2)
    once = tiny_model(CONFIG, 1).merge(adapter)
    weights = dict(once.weights)
    twice = once.merge(adapter)
    assert twice is once
    assert all(twice.weights[name] is weight for name, weight in weights.items())


def test_merging_a_second_adapter_is_refused():
    merged = tiny_model(CONFIG, 1).merge(tiny_adapter(CONFIG, 2))
    with pytest.raises(ValueError, match="another adapter is merged into this model already; merge into the base"):
        merged.merge(tiny_adapter(CONFIG, 3))


@pytest.mark.parametrize("seed", [2, 3], ids=["the same", "another"])
def test_calling_a_merged_model_with_an_adapter_is_refused(seed):
    adapter = tiny_adapter(CONFIG, 2)
    merged = tiny_model(CONFIG, 1).merge(adapter)
    with pytest.raises(ValueError, match="has an adapter merged into it already; call it without one"):
        hidden(merged, adapter if seed == 2 else tiny_adapter(CONFIG, seed))


@pytest.fixture
def saved(tmp_path) -> Path:
    save_adapter(tiny_adapter(CONFIG, 2), tmp_path, "vinai/PhoGPT-4B-Chat")
    return tmp_path


def change_options(folder: Path, **options) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


def test_a_saved_adapter_loads_bit_by_bit(saved):
    adapter, loaded = tiny_adapter(CONFIG, 2), load_adapter(saved, CONFIG, CPU)
    assert (loaded.rank, loaded.alpha) == (adapter.rank, adapter.alpha)
    expected, result = adapter.trainable(), loaded.trainable()
    assert list(result) == list(expected)
    assert all(
        torch.equal(result[name], tensor) and result[name].dtype == tensor.dtype for name, tensor in expected.items()
    )
    assert [d.scale for d in loaded.deltas.values()] == [d.scale for d in adapter.deltas.values()]


def test_a_saved_adapter_names_its_base(saved):
    assert json.loads((saved / "adapter_config.json").read_text())["base_model_name_or_path"] == "vinai/PhoGPT-4B-Chat"


def test_an_adapter_of_some_linears_alone_loads_with_just_these(tmp_path):
    adapter = tiny_adapter(CONFIG, 2)
    some = Adapter(3, 5.0, {m: d for m, d in adapter.deltas.items() if m.endswith("attn.Wqkv")})
    save_adapter(some, tmp_path, "base")
    model = tiny_model(CONFIG, 1)
    loaded = load_adapter(tmp_path, CONFIG, CPU)
    assert list(loaded.deltas) == [f"transformer.blocks.{layer}.attn.Wqkv" for layer in range(CONFIG.n_layers)]
    assert torch.equal(hidden(model, loaded), hidden(model, some))


def test_a_16_bit_adapter_file_loads_in_float32(saved):
    path = saved / "adapter_model.safetensors"
    save_file({name: t.bfloat16() for name, t in load_file(path).items()}, path)
    loaded = load_adapter(saved, CONFIG, CPU).trainable()
    for name, tensor in tiny_adapter(CONFIG, 2).trainable().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor.bfloat16().float())


def test_everything_that_does_not_fit_is_listed_in_one_error(saved):
    path = saved / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors[f"{FIRST}.lora_B.weight"]
    tensors["base_model.model.transformer.wte.lora_embedding_A"] = torch.zeros(3, 48)
    tensors["base_model.model.transformer.blocks.1.ffn.up_proj.lora_A.weight"] = torch.zeros(4, 48)
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        load_adapter(saved, CONFIG, CPU)
    message = str(caught.value)
    assert str(path) in message
    assert f"missing {FIRST}.lora_B.weight" in message
    assert "unexpected base_model.model.transformer.wte.lora_embedding_A" in message
    assert "transformer.blocks.1.ffn.up_proj.lora_A.weight is (4, 48), wanted (3, 48)" in message
    assert message.count("; ") == 2, "nothing else is listed"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"n_layers": 1}, r"unexpected base_model\.model\.transformer\.blocks\.1\.attn\.Wqkv\.lora_A\.weight"),
        ({"d_model": 96}, r"blocks\.0\.attn\.Wqkv\.lora_A\.weight is \(3, 48\), wanted \(3, 96\)"),
        ({"expansion_ratio": 2}, r"blocks\.0\.ffn\.up_proj\.lora_B\.weight is \(192, 3\), wanted \(96, 3\)"),
    ],
    ids=["fewer layers", "another width", "another feed-forward width"],
)
def test_an_adapter_of_another_model_is_refused(saved, changes, problem):
    with pytest.raises(CheckpointError, match=problem):
        load_adapter(saved, tiny_config(**changes), CPU)


def test_a_file_without_any_tensor_of_an_adapter_is_refused(saved):
    save_file({}, saved / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="no tensor of an adapter"):
        load_adapter(saved, CONFIG, CPU)


REFUSED = {
    "peft_type": "IA3",
    "bias": "all",
    "use_rslora": True,
    "use_dora": True,
    "fan_in_fan_out": True,
    "rank_pattern": {"Wqkv": 8},
    "alpha_pattern": {"Wqkv": 8},
    "modules_to_save": ["wte"],
    "layer_replication": [[0, 2]],
    "alora_invocation_tokens": [1, 2],
    "lora_bias": True,
    "trainable_token_indices": [5],
    "target_parameters": ["wte.weight"],
    # These change the base model's own weights, or pick among adapters by token.
    "init_lora_weights": "pissa",
    "kasa_config": {"beta": 1e-4},
    "arrow_config": {"top_k": 3},
    "use_qalora": True,
    "use_bdlora": {"nblocks": 2},
}


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_that_changes_the_arithmetic_is_refused_by_name(saved, option):
    change_options(saved, **{option: REFUSED[option]})
    with pytest.raises(CheckpointError) as caught:
        load_adapter(saved, CONFIG, CPU)
    assert f"{option} is {REFUSED[option]!r}" in str(caught.value)


@pytest.mark.parametrize("start", ["pissa_niter_16", "olora", "corda", "loftq", "lora_ga"])
def test_an_adapter_that_started_by_changing_the_base_is_refused(saved, start):
    change_options(saved, init_lora_weights=start)
    with pytest.raises(CheckpointError, match=f"init_lora_weights is '{start}'"):
        load_adapter(saved, CONFIG, CPU)


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_an_adapter_that_started_without_changing_the_base_is_read(saved, start):
    change_options(saved, init_lora_weights=start)
    assert load_adapter(saved, CONFIG, CPU).rank == 3


def test_several_refused_options_are_all_named(saved):
    change_options(saved, use_rslora=True, use_dora=True)
    with pytest.raises(CheckpointError, match="use_rslora is True; use_dora is True"):
        load_adapter(saved, CONFIG, CPU)


def test_a_rank_below_one_is_refused(saved):
    change_options(saved, r=0)
    with pytest.raises(CheckpointError, match="r is 0"):
        load_adapter(saved, CONFIG, CPU)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"r": "many", "lora_alpha": 8}', '{"r": 3, "lora_alpha": null}'])
def test_a_configuration_that_is_none_of_peft_is_refused(saved, text):
    (saved / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is not a LoRA configuration of PEFT"):
        load_adapter(saved, CONFIG, CPU)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_adapter(saved, CONFIG, CPU)


@pytest.mark.parametrize("n_bytes", [0, 7, 2000])
def test_a_truncated_file_is_named(saved, n_bytes):
    path = saved / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is not a whole safetensors file"):
        load_adapter(saved, CONFIG, CPU)
