"""Loss and recall: equal to the plain ones however the rows are chunked, and to what greedy decoding does."""

import pytest
import torch
from tiny import some_tokens, tiny_adapter, tiny_config, tiny_model
from torch.nn.functional import cross_entropy

from hoidap.model import loss as loss_module
from hoidap.model.loss import is_first_choice, loss_nats
from hoidap.model.mpt import MPT

N = 23
CONFIGS = {"tied embedding": tiny_config(), "logit scale": tiny_config(logit_scale=0.4)}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
# Rows a chunk: one, some with a rest, all but one, all, more than all, and bytes for less than one.
each_chunk = pytest.mark.parametrize("rows", [1, 4, 22, 23, 1000, 0.3])


def chunk(monkeypatch: pytest.MonkeyPatch, model: MPT, rows: float) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", int(rows * 4 * model.config.vocab_size))


def rows_and_targets(model: MPT) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = torch.randn(N, model.config.d_model, generator=torch.Generator().manual_seed(3))
    return hidden.requires_grad_(), some_tokens(model.config, N, seed=4)


def plain_logits(model: MPT, hidden: torch.Tensor) -> torch.Tensor:
    return hidden @ model.weights["transformer.wte.weight"].T * (model.config.logit_scale or 1)


@each_config
@each_chunk
def test_the_loss_is_the_summed_cross_entropy_however_it_is_chunked(config, rows, monkeypatch):
    model = tiny_model(config, 1)
    hidden, targets = rows_and_targets(model)
    expected = cross_entropy(plain_logits(model, hidden), targets, reduction="sum")
    chunk(monkeypatch, model, rows)
    torch.testing.assert_close(loss_nats(model, hidden, targets), expected, atol=1e-4, rtol=1e-6)


@each_config
@each_chunk
def test_the_losss_gradients_are_those_of_the_plain_one_however_it_is_chunked(config, rows, monkeypatch):
    model = tiny_model(config, 1)
    embedding = model.weights["transformer.wte.weight"].requires_grad_()
    hidden, targets = rows_and_targets(model)
    plain = cross_entropy(plain_logits(model, hidden), targets, reduction="sum")
    expected = torch.autograd.grad(plain, [hidden, embedding])
    chunk(monkeypatch, model, rows)
    result = torch.autograd.grad(loss_nats(model, hidden, targets), [hidden, embedding])
    for gradient, wanted in zip(result, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-5)


def test_a_tied_embedding_gets_the_gradients_of_both_its_uses():
    model = tiny_model(tiny_config(), 1)
    embedding = model.weights["transformer.wte.weight"].requires_grad_()
    tokens = some_tokens(model.config, 12)

    def gradient(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Return the gradient where input and output layer have a matrix each, both trainable and equal."""
        model.weights["transformer.wte.weight"] = inputs
        hidden = model.hidden(tokens, [0, 12])[:-1]
        model.weights["transformer.wte.weight"] = outputs
        return torch.autograd.grad(loss_nats(model, hidden, tokens[1:]), embedding)[0]

    both = gradient(embedding, embedding)
    apart = gradient(embedding, embedding.detach()), gradient(embedding.detach(), embedding)
    assert all(part.abs().max() > 1e-3 for part in apart)
    torch.testing.assert_close(both, sum(apart), atol=1e-4, rtol=1e-5)


def test_the_logits_of_several_chunks_are_not_kept_for_the_backward_pass(monkeypatch):
    model = tiny_model(tiny_config(), 1)
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", 4 * model.config.vocab_size * (N // 2))
    hidden, targets = rows_and_targets(model)
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        cross_entropy(plain_logits(model, hidden), targets, reduction="sum")
        assert N * model.config.vocab_size in sizes, "plain logits are kept: the test can see it"
        sizes.clear()
        loss_nats(model, hidden, targets)
    assert N // 2 * model.config.vocab_size not in sizes
    assert N * model.config.vocab_size not in sizes


def test_no_labels_give_a_loss_of_zero_and_no_choices():
    model = tiny_model(tiny_config(), 1)
    hidden, targets = rows_and_targets(model)
    loss = loss_nats(model, hidden[:0], targets[:0])
    assert loss.item() == 0
    loss.backward()
    assert not hidden.grad.any()
    assert is_first_choice(model, hidden[:0], targets[:0]).tolist() == []


def test_the_loss_of_a_16_bit_model_is_added_up_in_float32():
    model = tiny_model(tiny_config(), 1, dtype=torch.bfloat16)
    hidden, targets = rows_and_targets(model)
    loss = loss_nats(model, hidden.bfloat16(), targets)
    assert loss.dtype == torch.float32
    logits = (hidden.bfloat16() @ model.weights["transformer.wte.weight"].T).float()
    assert loss.item() == pytest.approx(cross_entropy(logits, targets, reduction="sum").item(), rel=1e-5)


@each_chunk
def test_first_choices_are_the_same_however_they_are_chunked(rows, monkeypatch):
    model = tiny_model(tiny_config(), 1)
    hidden, targets = rows_and_targets(model)
    best = plain_logits(model, hidden).argmax(1)
    targets = torch.where(torch.arange(N) % 3 == 0, best, targets)
    expected = best == targets
    assert 0 < expected.sum() < N
    chunk(monkeypatch, model, rows)
    result = is_first_choice(model, hidden, targets)
    assert result.dtype == torch.bool
    assert torch.equal(result, expected)


def decode_greedily(model: MPT, prompt: torch.Tensor, n: int, adapter) -> torch.Tensor:
    tokens = prompt
    for _ in range(n):
        logits = model.logits(model.hidden(tokens, [0, len(tokens)], adapter=adapter)[-1])
        tokens = torch.cat([tokens, logits.argmax()[None]])
    return tokens[len(prompt) :]


def first_choices(model: MPT, prompt: torch.Tensor, answer: torch.Tensor, adapter) -> list[bool]:
    tokens = torch.cat([prompt, answer])
    hidden = model.hidden(tokens, [0, len(tokens)], adapter=adapter)
    return is_first_choice(model, hidden[len(prompt) - 1 : -1], answer).tolist()


@torch.no_grad()
@pytest.mark.parametrize("seed", range(8))
def test_greedy_decoding_recites_an_answer_exactly_when_every_token_is_a_first_choice(seed):
    n = 10
    # Random biases would make one token the first choice everywhere.
    model = tiny_model(tiny_config(no_bias=True), seed, quantize="none" if seed % 2 else "nf4")
    adapter = tiny_adapter(model.config, seed)
    prompt = some_tokens(model.config, 7, seed)
    decoded = decode_greedily(model, prompt, n, adapter)
    assert len(set(decoded.tolist())) > 1, "not one token over and over"
    assert first_choices(model, prompt, decoded, adapter) == [True] * n
    for place in range(n):
        answer = decoded.clone()
        answer[place] = (answer[place] + 1 + seed) % model.config.vocab_size
        chosen = first_choices(model, prompt, answer, adapter)
        assert chosen[: place + 1] == [True] * place + [False], "up to the first miss both see the same prefix"
