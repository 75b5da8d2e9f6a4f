"""Logits and greedy answers equal llm-foundry v0.3.0's on the three golden checkpoints."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hoidap.errors import CheckpointError
from hoidap.model.cache import KVCache
from hoidap.model.checkpoint import load_checkpoint
from hoidap.model.loss import loss_nats
from hoidap.model.mpt import MPT

GOLDEN = Path(__file__).parent / "golden"
SHAPES = ("phogpt-4b-shape", "phogpt-7b5-shape", "mpt-7b-shape")
CPU = torch.device("cpu")


def load(shape: str) -> tuple[MPT, dict[str, torch.Tensor]]:
    model = load_checkpoint(GOLDEN / shape, quantize="none", device=CPU, dtype=torch.float32)
    return model, load_file(GOLDEN / shape / "expected.safetensors")


def logits_error(model: MPT, expected: dict[str, torch.Tensor]) -> float:
    mask = expected["attention_mask"].bool()
    logits = model.forward(expected["input_ids"], mask)
    return float((logits - expected["logits"])[mask].abs().max())


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_the_reference_padded_row_too(shape):
    model, expected = load(shape)
    assert not expected["attention_mask"].bool().all(), "the golden file has a padded row"
    with torch.no_grad():
        assert logits_error(model, expected) < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_of_the_first_row_equals_the_reference(shape):
    model, expected = load(shape)
    row = expected["input_ids"][0]
    with torch.no_grad():
        hidden = model.hidden(row, [0, len(row)])
        loss = loss_nats(model, hidden[:-1], row[1:]) / (len(row) - 1)
    assert float(loss) == pytest.approx(float(expected["loss_first_row"]), abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_24_greedy_steps_are_identical_with_and_without_a_cache(shape):
    model, expected = load(shape)
    answer = expected["greedy_from_16"][0]
    cache = KVCache(model.config, 1, 64, torch.float32, CPU)
    tokens = answer[:16]
    new = tokens
    with torch.no_grad():
        for step in range(24):
            cached = model.logits(model.hidden(new, [0, len(new)], cache.rows([0]))[-1])
            plain = model.logits(model.hidden(tokens, [0, len(tokens)])[-1])
            for logits in (cached, plain):
                torch.testing.assert_close(logits, expected["greedy_logits"][step], atol=1e-4, rtol=0)
                assert logits.argmax() == answer[16 + step]
            new = logits.argmax()[None]
            tokens = torch.cat([tokens, new])
    assert tokens.tolist() == answer.tolist()


@pytest.mark.parametrize("shape", ["phogpt-4b-shape", "phogpt-7b5-shape"])
def test_perturbing_any_one_bias_breaks_the_equality(shape):
    model, expected = load(shape)
    biases = [name for name in model.weights if name.endswith(".bias")]
    assert len(biases) == 6 * model.config.n_layers + 1
    with torch.no_grad():
        for name in biases:
            kept = model.weights[name]
            if name.endswith("Wqkv.bias"):
                # A key bias common to all keys shifts every score of a query alike, which softmax ignores: perturb q, v.
                d = model.config.d_model
                kick = torch.cat([torch.full((d,), 0.1), torch.zeros(d), torch.full((d,), 0.1)])
            else:
                # A norm that follows would take a constant away again.
                kick = torch.linspace(-0.1, 0.1, kept.numel())
            model.weights[name] = kept + kick
            assert logits_error(model, expected) > 1e-3, name
            model.weights[name] = kept


def test_a_missing_bias_is_named(tmp_path):
    folder = tmp_path / "phogpt"
    shutil.copytree(GOLDEN / "phogpt-4b-shape", folder)
    tensors = dict(torch.load(folder / "pytorch_model.bin", weights_only=True))
    del tensors["transformer.blocks.1.attn.out_proj.bias"]
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"missing transformer\.blocks\.1\.attn\.out_proj\.bias \(192,\)"):
        load_checkpoint(folder, quantize="none", device=CPU, dtype=torch.float32)


def test_everything_that_does_not_fit_is_listed_in_one_error(tmp_path):
    folder = tmp_path / "phogpt"
    shutil.copytree(GOLDEN / "phogpt-4b-shape", folder)
    tensors = dict(torch.load(folder / "pytorch_model.bin", weights_only=True))
    (folder / "pytorch_model.bin").unlink()
    del tensors["transformer.norm_f.bias"]
    tensors["transformer.wpe.weight"] = torch.zeros(256, 192)
    tensors["transformer.wte.weight"] = torch.zeros(100, 192)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, quantize="none", device=CPU, dtype=torch.float32)
    message = str(caught.value)
    assert "3 tensors do not fit config.json" in message
    assert "missing transformer.norm_f.bias (192,)" in message
    assert "unexpected transformer.wpe.weight (256, 192)" in message
    assert "transformer.wte.weight is (100, 192), wanted (512, 192)" in message


def test_biases_beside_no_bias_are_refused_not_dropped(tmp_path):
    folder = tmp_path / "phogpt"
    shutil.copytree(GOLDEN / "phogpt-4b-shape", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "no_bias": True}))
    with pytest.raises(CheckpointError, match=r"config\.json says no_bias, but these are biases"):
        load_checkpoint(folder, quantize="none", device=CPU, dtype=torch.float32)
