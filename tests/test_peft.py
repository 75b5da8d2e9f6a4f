"""Adapters pass between hoidap and the real PEFT, on transformers' MPT, in both directions and merged.

transformers' MPT has no biases and would drop PhoGPT's; a subclass registers them again, and is then the same model.
"""

import socket
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tiny import CPU, some_tokens, tiny_adapter, tiny_config, tiny_model
from torch import nn
from transformers import MptConfig, MptForCausalLM

from hoidap.errors import CheckpointError
from hoidap.model.adapter import Adapter, load_adapter, save_adapter
from hoidap.model.config import MPTConfig
from hoidap.model.loss import loss_nats
from hoidap.model.mpt import MPT

# PEFT 0.21.2 asks transformers 5.23 by a name that transformers is giving up; neither is ours to change.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

# transformers' MPT knows no other alibi_bias_max, expansion_ratio, qk_ln or logit_scale.
CONFIGS = {
    "biases": tiny_config(),
    "no biases, 8 heads": tiny_config(no_bias=True, n_heads=8),
    "3 heads, clipped": tiny_config(n_heads=3, clip_qkv=0.5),
    "one head, softmax scale": tiny_config(n_heads=1, softmax_scale=0.3),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
TARGETS = ["Wqkv", "out_proj", "up_proj", "down_proj"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """PEFT may ask the hub about a base model's vocabulary; here that fails the test."""

    def refuse(*_: Any) -> None:
        pytest.fail("a test reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class BiasedMpt(MptForCausalLM):
    def __init__(self, config: MptConfig) -> None:
        super().__init__(config)
        if not config.no_bias:
            for module in self.transformer.modules():
                if isinstance(module, nn.Linear | nn.LayerNorm):
                    module.register_parameter("bias", nn.Parameter(torch.zeros(module.weight.shape[0])))


def in_transformers(model: MPT) -> BiasedMpt:
    """Return transformers' model with a copy of the weights, none missing and none left over."""
    c = model.config
    attention = {"alibi": c.alibi, "clip_qkv": c.clip_qkv, "softmax_scale": c.softmax_scale}
    hf = BiasedMpt(
        MptConfig(
            d_model=c.d_model, n_heads=c.n_heads, n_layers=c.n_layers, vocab_size=c.vocab_size, max_seq_len=c.max_seq_len,
            no_bias=c.no_bias, learned_pos_emb=False, attn_config=attention,
        )
    ).eval()  # fmt: skip
    found = hf.load_state_dict(model.weights, strict=False)
    assert found.missing_keys == ["lm_head.weight"]  # tied to the embedding, as in PhoGPT
    assert found.unexpected_keys == []
    assert hf.lm_head.weight is hf.transformer.wte.weight
    return hf


def tokens_of(config: MPTConfig) -> torch.Tensor:
    return some_tokens(config, 2 * 19).view(2, 19)


def our_logits(model: MPT, adapter: Adapter | None = None) -> torch.Tensor:
    tokens = tokens_of(model.config)
    with torch.no_grad():
        return model.logits(model.hidden(tokens.flatten(), [0, 19, 38], adapter=adapter)).view(2, 19, -1)


def their_logits(model: nn.Module, config: MPTConfig) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tokens_of(config)).logits


def assert_equal(result: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


def save_ours(folder: Path, adapter: Adapter) -> Path:
    # An empty name: PEFT would look a name up on the hub.
    save_adapter(adapter, folder, "")
    return folder


def made_by_peft(base: BiasedMpt, targets: list[str] = TARGETS) -> peft.PeftModel:
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.detach().normal_(0, 0.3, generator=generator)
    return model.eval()


@each_config
def test_the_base_model_equals_transformers_with_its_biases_back(config):
    model = tiny_model(config, 1)
    assert_equal(their_logits(in_transformers(model), config), our_logits(model))


def test_without_its_biases_transformers_is_another_model():
    config = CONFIGS["biases"]
    model = tiny_model(config, 1)
    hf = in_transformers(model)
    for name, parameter in hf.named_parameters():
        if name.endswith(".bias"):
            parameter.detach().zero_()
    assert (their_logits(hf, config) - our_logits(model)).abs().max() > 0.1


@each_config
def test_an_adapter_saved_by_hoidap_answers_alike_in_peft(config, tmp_path):
    model, adapter = tiny_model(config, 1), tiny_adapter(config, 2)
    expected = our_logits(model, adapter)
    assert (expected - our_logits(model)).abs().max() > 0.1, "the adapter changes the answers"
    theirs = peft.PeftModel.from_pretrained(in_transformers(model), save_ours(tmp_path, adapter)).eval()
    assert_equal(their_logits(theirs, config), expected)


@each_config
@pytest.mark.parametrize("targets", [TARGETS, ["Wqkv"], ["out_proj", "down_proj"]], ids=" ".join)
def test_an_adapter_saved_by_peft_answers_alike_in_hoidap(config, targets, tmp_path):
    model = tiny_model(config, 1)
    theirs = made_by_peft(in_transformers(model), targets)
    theirs.save_pretrained(tmp_path)
    adapter = load_adapter(tmp_path, config, CPU)
    assert (adapter.rank, adapter.alpha) == (4, 8)
    assert len(adapter.deltas) == config.n_layers * len(targets)
    result = our_logits(model, adapter)
    assert (result - our_logits(model)).abs().max() > 0.1, "the adapter changes the answers"
    assert_equal(result, their_logits(theirs, config))


@each_config
def test_merging_in_peft_equals_merging_in_hoidap(config, tmp_path):
    model, adapter = tiny_model(config, 1), tiny_adapter(config, 2)
    theirs = peft.PeftModel.from_pretrained(in_transformers(model), save_ours(tmp_path, adapter)).merge_and_unload()
    ours = model.merge(adapter)
    tensors = theirs.state_dict()
    for name, weight in ours.weights.items():
        torch.testing.assert_close(tensors[name], weight, atol=1e-6, rtol=1e-6)
    assert_equal(their_logits(theirs, config), our_logits(ours))


def test_an_adapter_that_went_to_peft_and_back_is_the_same_to_the_bit(tmp_path):
    config = CONFIGS["biases"]
    adapter = tiny_adapter(config, 2)
    (tmp_path / "ours").mkdir()
    theirs = peft.PeftModel.from_pretrained(in_transformers(tiny_model(config, 1)), save_ours(tmp_path / "ours", adapter))
    theirs.save_pretrained(tmp_path / "theirs")
    back = load_adapter(tmp_path / "theirs", config, CPU)
    assert (back.rank, back.alpha) == (adapter.rank, adapter.alpha)
    assert back.trainable().keys() == adapter.trainable().keys()
    assert all(torch.equal(back.trainable()[name], tensor) for name, tensor in adapter.trainable().items())


def test_gradients_of_a_training_step_equal_pefts(tmp_path):
    config = CONFIGS["biases"]
    model, adapter = tiny_model(config, 1), tiny_adapter(config, 2)
    tokens = tokens_of(config)[0]
    wanted = adapter.trainable()
    hidden = model.hidden(tokens, [0, len(tokens)], adapter=adapter)
    loss = loss_nats(model, hidden[:-1], tokens[1:]) / (len(tokens) - 1)
    gradients = dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))
    theirs = peft.PeftModel.from_pretrained(in_transformers(model), save_ours(tmp_path, adapter), is_trainable=True)
    output = theirs(input_ids=tokens[None], labels=tokens[None])
    output.loss.backward()
    assert output.loss.item() == pytest.approx(loss.item(), abs=1e-4)
    found = {n.replace(".default", ""): p.grad for n, p in theirs.named_parameters() if p.requires_grad}
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"Wqkv": 2}},
        {"init_lora_weights": "pissa"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_peft_saves_of_another_kind_is_refused_by_name(changes, tmp_path):
    base = in_transformers(tiny_model(CONFIGS["biases"], 1))
    options = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **changes}
    peft.get_peft_model(base, peft.LoraConfig(**options)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"{next(iter(changes))} is "):
        load_adapter(tmp_path, CONFIGS["biases"], CPU)
