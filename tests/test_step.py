"""One step: the same however it is split, careful with float16, and clear about what ran out."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from tiny_run import CONFIG, FULL, ITEMS, LORA, make_base, write_csv

from hoidap.data.pack import Packer
from hoidap.errors import RecipeError, TrainError
from hoidap.model.adapter import new_adapter
from hoidap.recipe import adjusted
from hoidap.training import optimizer, step
from hoidap.training.job import load_for_training, train
from hoidap.training.probe import probe_rates
from hoidap.training.step import Stepper, memory_advice

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


def stepper_of(base, recipe, dtype=torch.float32, total=10):
    model, adapter = load_for_training(base, recipe, CPU, dtype)
    if adapter:  # B of a new adapter is zero, and then A has no gradient
        for delta in adapter.deltas.values():
            delta.B.detach().normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
    trained = adapter.trainable() if adapter else model.trainable()
    return Stepper(model, adapter, trained, recipe, total), trained


def gradients(base, recipe):
    packer = Packer(ITEMS * 3, base.tokenizer(), recipe.schedule, CONFIG.max_seq_len)
    stepper, trained = stepper_of(base, recipe)
    kept = {}

    def keep():
        kept.update({name: tensor.grad.clone() for name, tensor in trained.items()})

    stepper._move = keep
    row = stepper.step(packer.epoch(1)[0])
    return row["loss_nats"], kept


@pytest.mark.parametrize("recipe", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("passes", [2, 3, 50])
def test_accumulated_gradients_are_the_large_batch_s(recipe, passes, base):
    whole = adjusted(recipe, {"batch_tokens": 600})
    loss, wanted = gradients(base, whole)
    split_loss, found = gradients(base, adjusted(whole, {"accumulation": passes}))
    assert split_loss == pytest.approx(loss, rel=1e-6)
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_accumulated_training_ends_where_the_large_batch_s_does(base, tmp_path):
    data = write_csv(tmp_path / "shop.csv", ITEMS)
    recipe = adjusted(FULL, {"max_epochs": 5, "recall_every": 5})
    losses = []
    for passes in (1, 3):
        asked = adjusted(recipe, {"accumulation": passes})
        run = train(
            data, out=tmp_path / str(passes), model=base.name, recipe=asked, device="cpu", console=Console(quiet=True)
        )
        losses.append((run.folder / "metrics.jsonl").read_text().splitlines()[-2])
    rows = [json.loads(line) for line in losses]
    assert rows[0]["loss_nats"] == pytest.approx(rows[1]["loss_nats"], rel=1e-3)


def spoil_gradients(monkeypatch, trained, value):
    """Put one bad number among the gradients of every pass."""
    whole = Stepper._backward

    def spoiled(self, part, n_labels):
        loss = whole(self, part, n_labels)
        next(iter(trained.values())).grad[0, 0] = value
        return loss

    monkeypatch.setattr(Stepper, "_backward", spoiled)


def test_float16_that_overflows_skips_the_step_and_halves_the_scale(base):
    packer = Packer(ITEMS, base.tokenizer(), LORA.schedule, CONFIG.max_seq_len)
    stepper, trained = stepper_of(base, LORA, torch.float16)
    stepper._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    before = {name: tensor.detach().clone() for name, tensor in trained.items()}
    stepper.step(packer.epoch(1)[0])
    assert stepper._scaler.get_scale() == 2.0**29
    assert stepper.state.skipped == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.items())
    for n in range(40):
        stepper.step(packer.epoch(n + 2)[0])
        if stepper.state.skipped == 0:
            break
    assert stepper.state.skipped == 0, "it finds a scale at which it can go on"
    assert any(not torch.equal(tensor, before[name]) for name, tensor in trained.items())


def test_float16_that_overflows_whatever_the_scale_stops(base, monkeypatch):
    packer = Packer(ITEMS, base.tokenizer(), LORA.schedule, CONFIG.max_seq_len)
    stepper, trained = stepper_of(base, LORA, torch.float16)
    spoil_gradients(monkeypatch, trained, float("inf"))
    for n in range(19):
        stepper.step(packer.epoch(n + 1)[0])
    said = r"float16 overflowed in each of the last 20 steps.* or --dtype bfloat16 or float32"
    with pytest.raises(TrainError, match=said):
        stepper.step(packer.epoch(20)[0])
    assert stepper.state.step == 20


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(base, monkeypatch):
    packer = Packer(ITEMS, base.tokenizer(), LORA.schedule, CONFIG.max_seq_len)
    stepper, trained = stepper_of(base, LORA)
    before = {name: tensor.detach().clone() for name, tensor in trained.items()}
    spoil_gradients(monkeypatch, trained, float("nan"))
    with pytest.raises(TrainError, match="the gradient's norm became nan at step 1"):
        stepper.step(packer.epoch(1)[0])
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.items())


def test_memory_that_runs_out_says_what_to_lower():
    recipe = adjusted(LORA, {"quantize": "int8", "batch_tokens": 512})
    with pytest.raises(TrainError) as caught, memory_advice(recipe):
        torch.empty(2**60, dtype=torch.uint8)
    said = str(caught.value)
    wanted = [
        "with the same --out and --resume", "--accumulation 2", "--recompute", "with another --out", "--quantize nf4",
        "--batch-tokens 256", "--max-tokens with --too-long",
    ]  # fmt: skip
    assert [said.index(word) for word in wanted] == sorted(said.index(word) for word in wanted)
    with pytest.raises(TrainError, match="the memory ran out"), memory_advice(recipe):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    one_by_one = adjusted(recipe, {"batch_items": 1, "recompute": 2})
    with pytest.raises(TrainError) as caught, memory_advice(one_by_one):
        torch.empty(2**60, dtype=torch.uint8)
    assert "--accumulation" not in str(caught.value), "a step of one conversation cannot be split"
    with pytest.raises(RuntimeError, match="something else"), memory_advice(recipe):
        raise RuntimeError("something else")


def test_dropout_hides_a_share_of_the_input_in_training_alone(base):
    model, adapter = load_for_training(base, LORA, CPU, torch.float32)
    for delta in adapter.deltas.values():
        delta.B.detach().normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    tokens, starts = torch.arange(40), [0, 40]
    plain = model.hidden(tokens, starts, adapter=adapter)
    assert torch.equal(plain, model.hidden(tokens, starts, adapter=adapter))
    blind = adapter.with_dropout(0.5)
    assert blind.trainable().keys() == adapter.trainable().keys()
    assert all(blind.trainable()[name] is tensor for name, tensor in adapter.trainable().items())
    drawn = [model.hidden(tokens, starts, adapter=blind) for _ in range(2)]
    assert not torch.allclose(drawn[0], plain)
    assert not torch.allclose(drawn[0], drawn[1])


@pytest.mark.parametrize("kind", ["adamw", "paged_adamw_32bit", "adamw_8bit", "paged_adamw_8bit"])
def test_every_optimiser_lowers_the_loss_and_is_put_back_to_the_bit(kind, base):
    recipe = adjusted(LORA, {"algorithm": kind, "rank": 32})
    packer = Packer(ITEMS, base.tokenizer(), recipe.schedule, CONFIG.max_seq_len)
    batch = packer.alone()[0]
    stepper, trained = stepper_of(base, recipe)
    losses = [stepper.step(batch)["loss_nats"] for _ in range(6)]
    assert losses[-1] < losses[0] - 0.1
    tensors, numbers, _ = stepper.snapshot()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}  # as the optimiser goes on, it changes its own
    weights = {name: tensor.detach().clone() for name, tensor in trained.items()}
    held = {t.dtype for t in tensors.values()}
    assert (torch.uint8 in held) == ("8bit" in kind)
    wanted = [stepper.step(batch)["loss_nats"] for _ in range(3)]
    again, _ = stepper_of(base, recipe)
    again.state.step, again.state.optimizer = 6, numbers
    again.restore(weights, tensors)
    assert [again.step(batch)["loss_nats"] for _ in range(3)] == wanted


def test_paged_is_plain_adamw_on_a_cpu():
    adapter = new_adapter(CONFIG, 4, 8, CPU)
    built = optimizer.build(adapter.trainable(), replace(LORA.optimizer, algorithm="paged_adamw_32bit"))
    assert isinstance(built, torch.optim.AdamW)


def test_an_optimiser_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    adapter = new_adapter(CONFIG, 4, 8, CPU)
    with pytest.raises(
        RecipeError, match=r'needs bitsandbytes: pip install "hoidap\[bitsandbytes\]", or use --optimizer adamw'
    ):
        optimizer.build(adapter.trainable(), replace(LORA.optimizer, algorithm="adamw_8bit"))


def test_the_probe_takes_the_rate_whose_loss_ends_lowest_and_puts_the_weights_back(base, tmp_path):
    recipe = adjusted(LORA, {"learning_rate": 1e-4, "max_epochs": 30})
    packer = Packer(ITEMS, base.tokenizer(), recipe.schedule, CONFIG.max_seq_len)
    model, adapter = load_for_training(base, recipe, CPU, torch.float32)
    before = {name: tensor.detach().clone() for name, tensor in adapter.trainable().items()}
    with (tmp_path / "log").open("w") as log:
        found = probe_rates(model, adapter, packer, recipe, Console(file=log))
    assert found.optimizer.learning_rate == 2e-4, "this base learns slower than any of the three"
    said = (tmp_path / "log").read_text()
    assert [f"rate {rate:g}: loss" in said for rate in (5e-5, 1e-4, 2e-4)] == [True] * 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.trainable().items())


def test_a_probed_rate_is_the_run_s_and_is_not_probed_again_on_resuming(base, tmp_path):
    data = write_csv(tmp_path / "shop.csv", ITEMS)
    recipe = adjusted(LORA, {"learning_rate": 1e-3, "max_epochs": 2})
    asked = {"model": base.name, "recipe": recipe, "device": "cpu", "probe_lr": True, "console": Console(quiet=True)}
    run = train(data, out=tmp_path / "run", **asked)
    assert run.recipe.optimizer.learning_rate == 2e-3
    again = train(data, out=tmp_path / "run", model=base.name, device="cpu", resume=True, console=Console(quiet=True))
    assert again.recipe == run.recipe


def test_a_rate_that_overflows_in_the_probe_leaves_nothing_behind(base, monkeypatch):
    recipe = adjusted(LORA, {"learning_rate": 1e-4, "max_epochs": 30})
    packer = Packer(ITEMS, base.tokenizer(), recipe.schedule, CONFIG.max_seq_len)
    model, adapter = load_for_training(base, recipe, CPU, torch.float32)
    whole = step.loss_nats

    def overflowing(model, hidden, targets):
        return whole(model, hidden, targets) * (float("nan") if rates[-1] == 2e-4 else 1.0)

    rates = []
    monkeypatch.setattr(step.optimizer, "learning_rate", lambda *_: rates.append(_[2].learning_rate) or 1e-4)
    monkeypatch.setattr(step, "loss_nats", overflowing)
    probe_rates(model, adapter, packer, recipe, Console(quiet=True))
    assert 2e-4 in rates
    rates.append(0)
    row = Stepper(model, adapter, adapter.trainable(), recipe, 5).step(packer.epoch(1)[0])
    assert row["gradient_norm"] < float("inf")
