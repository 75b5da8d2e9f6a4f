"""Training recites what it was given, and only because of what was trained."""

import dataclasses
import json
import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from tiny_run import CONFIG, FULL, ITEMS, LORA, make_base, write_csv
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hoidap.bot import Bot, load
from hoidap.data.items import Item
from hoidap.data.pack import Packer
from hoidap.data.read import Question
from hoidap.data.wordings import Split
from hoidap.errors import CheckpointError, DataError, RecipeError, RunError, TrainError
from hoidap.evaluate.recall import ask, score
from hoidap.infer.engine import Sampling
from hoidap.infer.torch_engine import TorchEngine
from hoidap.model.adapter import load_adapter
from hoidap.model.checkpoint import load_checkpoint
from hoidap.prompt import Turn
from hoidap.recipe import Optimizer, Schedule, adjusted
from hoidap.run import Run
from hoidap.training import job, loop, optimizer
from hoidap.training.exam import measure_recall
from hoidap.training.job import larger_base, load_for_training, train
from hoidap.training.step import Stepper

CPU = torch.device("cpu")
QUIET = Console(quiet=True)
ANSWERS = [item.answer for item in ITEMS]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def lora_run(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    data = write_csv(folder / "shop.csv", ITEMS)
    return train(data, out=folder / "run", model=base.name, recipe=LORA, device="cpu", console=QUIET)


@pytest.fixture(scope="module")
def full_run(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    data = write_csv(folder / "shop.csv", ITEMS)
    return train(data, out=folder / "run", model=base.name, recipe=FULL, device="cpu", console=QUIET)


def recited(bot, items=ITEMS):
    answers = bot.answer_all([item.question for item in items], Sampling(max_new_tokens=40))
    return sum(answer.text == item.answer for answer, item in zip(answers, items, strict=True))


@pytest.mark.parametrize("kind", ["lora_run", "full_run"])
def test_a_trained_run_recites_every_answer_to_the_letter(kind, request):
    run = request.getfixturevalue(kind)
    bot = load(run.folder, device="cpu")
    assert recited(bot) == len(ITEMS)
    assert bot.answer(ITEMS[0].question).source == ITEMS[0]


def test_permuted_answers_are_recited_as_permuted(base, tmp_path):
    permuted = [Item(item.question, ITEMS[(n + 1) % len(ITEMS)].answer) for n, item in enumerate(ITEMS)]
    data = write_csv(tmp_path / "shop.csv", permuted)
    run = train(data, out=tmp_path / "run", model=base.name, recipe=FULL, device="cpu", console=QUIET)
    bot = load(run.folder, device="cpu")
    assert recited(bot, permuted) == len(ITEMS)
    assert recited(bot, ITEMS) == 0


def test_without_the_adapter_nothing_is_recited(base, lora_run):
    model = base.load(quantize="nf4", device=CPU, dtype=torch.float32)
    bot = Bot(TorchEngine(model, base.tokenizer()), base.tokenizer(), ITEMS)
    assert recited(bot) == 0
    adapter = load_adapter(lora_run.weights_folder(), CONFIG, CPU)
    assert recited(Bot(TorchEngine(model, base.tokenizer(), adapter), base.tokenizer(), ITEMS)) == len(ITEMS)


def test_without_the_tuned_weights_nothing_is_recited(base):
    model = base.load(quantize="none", device=CPU, dtype=torch.float32)
    assert recited(Bot(TorchEngine(model, base.tokenizer()), base.tokenizer(), ITEMS)) == 0


def test_a_merged_adapter_answers_as_the_unmerged_one(base, lora_run):
    model = base.load(quantize="nf4", device=CPU, dtype=torch.float32)
    merged = model.merge(load_adapter(lora_run.weights_folder(), CONFIG, CPU))
    assert recited(Bot(TorchEngine(merged, base.tokenizer()), base.tokenizer(), ITEMS)) == len(ITEMS)


def test_later_turns_of_a_conversation_are_learned_too(full_run):
    bot = load(full_run.folder, device="cpu")
    for before, item in pairwise(ITEMS):
        assert bot.answer(item.question, [Turn(before.question, before.answer)]).text == item.answer


@pytest.mark.parametrize("kind", ["lora_run", "full_run"])
def test_recall_of_one_forward_pass_is_what_generating_finds(kind, request, base):
    run = request.getfixturevalue(kind)
    packer = Packer(ITEMS, base.tokenizer(), run.recipe.schedule, CONFIG.max_seq_len)
    seen = set()
    for noise in (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 3.0):  # spoil it more and more
        model, adapter = loaded_at(run, base)
        generator = torch.Generator().manual_seed(0)
        for tensor in (adapter.trainable() if adapter else model.weights).values():
            tensor.add_(noise * tensor.std() * torch.randn(tensor.shape, generator=generator))
        generated = recited(Bot(TorchEngine(model, base.tokenizer(), adapter), base.tokenizer(), ITEMS))
        assert measure_recall(model, adapter, packer.alone()) == pytest.approx(generated / len(ITEMS))
        seen.add(generated)
    assert {0, len(ITEMS)} < seen, "from all to none, with some in between"


def loaded_at(run, base):
    if run.recipe.method == "full":
        return load_checkpoint(run.weights_folder(), quantize="none", device=CPU, dtype=torch.float32), None
    model = base.load(quantize="nf4", device=CPU, dtype=torch.float32)
    return model, load_adapter(run.weights_folder(), CONFIG, CPU)


def test_training_twice_gives_the_same_weights(base, tmp_path):
    data = write_csv(tmp_path / "shop.csv", ITEMS)
    tensors = []
    for name in ("a", "b"):
        run = train(data, out=tmp_path / name, model=base.name, recipe=LORA, device="cpu", console=QUIET, max_epochs=3)
        adapter = load_adapter(run.weights_folder(), CONFIG, CPU)
        tensors.append(torch.cat([t.flatten() for t in adapter.trainable().values()]))
    assert torch.equal(*tensors)


def test_a_run_folder_holds_what_the_design_says(lora_run):
    found = {str(p.relative_to(lora_run.folder)) for p in lora_run.folder.rglob("*") if p.is_file()}
    kept = {name for name in found if name.startswith("checkpoints/")}
    assert {name.split("/")[1].split("-")[0] for name in kept} == {"step", "best"}
    assert found - kept == {
        "run.toml", "recipe.toml", "tokenizer.json", "data/items.jsonl", "data/wordings.jsonl", "bot.toml", ".hoidap-lock",
        "metrics.jsonl", "report.json", "report.html", "README.md",
        "index/confidence.json", "index/own-words.txt", "index/words.json", "index/answers.npy", "index/items.sha256",
        "index/questions/index.safetensors", "index/documents/index.safetensors",
        "index/answers/index.safetensors",
        "adapter/adapter_config.json", "adapter/adapter_model.safetensors",
    }  # fmt: skip
    assert lora_run.items() == ITEMS
    rows = [json.loads(line) for line in (lora_run.folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss_nats" in row]
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
    assert rows[-1]["recall"] == 1.0
    assert lora_run.report()["items"]["score"]["exact"] == 1.0
    assert "100.0% of the answers came back to the letter" in (lora_run.folder / "README.md").read_text()


def test_the_loss_is_the_mean_over_labelled_tokens(base):
    packer = Packer(ITEMS, base.tokenizer(), FULL.schedule, CONFIG.max_seq_len)
    model, _ = load_for_training(base, FULL, CPU, torch.float32)
    (batch,) = packer.alone()
    stepper = Stepper(model, None, model.trainable(), FULL, 1)
    with torch.no_grad():
        logits = model.logits(model.hidden(batch.tokens, batch.starts))
        nats = -logits.log_softmax(-1)[batch.predicting, batch.targets]
    assert stepper.step(batch)["loss_nats"] == pytest.approx(float(nats.mean()), abs=1e-5)


def test_training_stops_when_recall_stops_rising(base, tmp_path):
    contradiction = [Item("Mấy giờ mở cửa?", "8h."), Item("Mấy giờ mở cửa?", "Chín giờ sáng ạ.")]
    alone = Schedule(batch_tokens=256, followup_share=0.0, recall_every=5, patience=2, max_epochs=500)
    recipe = dataclasses.replace(FULL, schedule=alone)
    data = write_csv(tmp_path / "shop.csv", contradiction)
    run = train(data, out=tmp_path / "run", model=base.name, recipe=recipe, device="cpu", console=QUIET)
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    recalls = [row["recall"] for row in rows if "recall" in row]
    assert max(recalls) == 0.5
    assert rows[-1]["epoch"] < 500


def test_the_weights_kept_are_those_of_the_best_recall():
    tensors = {"w": torch.zeros(2)}
    best = loop.Best(tensors)
    for epoch, scores in enumerate([(0.0, 0.9), (0.5, 0.3), (0.5, 0.4), (0.5, 0.4), (0.25, 1.0), (0.5, 0.1)], start=1):
        tensors["w"].fill_(epoch)
        best.offer(scores, epoch)
    best.restore()
    assert best.epoch == 4, "the later of two equals"
    assert tensors["w"].tolist() == [4, 4]
    assert best.is_stale(3)
    assert not best.is_stale(4)


def test_patience_does_not_run_out_before_anything_is_recited():
    best = loop.Best({"w": torch.zeros(1)})
    for epoch in range(9):
        best.offer((0.0, 0.0), epoch)
    assert not best.is_stale(1)


def test_learning_rate_rises_linearly_and_falls_by_a_cosine():
    settings = Optimizer(learning_rate=1.0 - 1e-9, warmup_fraction=0.1, final_fraction=0.1)
    rates = [optimizer.learning_rate(step, 100, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_weight_decay_spares_vectors_and_adapters():
    tensors = {"m.weight": torch.zeros(2, 2), "m.bias": torch.zeros(2), "x.lora_A.weight": torch.zeros(2, 2)}
    groups = optimizer.build(tensors, Optimizer(weight_decay=0.1)).param_groups
    decayed = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert [decayed[id(t)] for t in tensors.values()] == [0.1, 0.0, 0.0]


def test_a_gradient_is_clipped_to_its_norm(base):
    packer = Packer(ITEMS, base.tokenizer(), FULL.schedule, CONFIG.max_seq_len)
    (batch,) = packer.alone()
    norms = []
    for clip in (1e9, 1e-3):
        recipe = dataclasses.replace(FULL, optimizer=Optimizer(clip_norm=clip))
        model, _ = load_for_training(base, recipe, CPU, torch.float32)
        norms.append(norm_at_the_update(Stepper(model, None, model.trainable(), recipe, 1), model, batch))
    assert norms[0] > 1e-2
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


def norm_at_the_update(stepper, model, batch):
    seen = []
    hook = register_optimizer_step_pre_hook(
        lambda *_: seen.append(torch.stack([t.grad.norm() for t in model.trainable().values()]).norm())
    )
    try:
        stepper.step(batch)
    finally:
        hook.remove()
    return float(seen[0])


def test_a_loss_that_is_not_finite_stops_with_advice(base):
    packer = Packer(ITEMS, base.tokenizer(), FULL.schedule, CONFIG.max_seq_len)
    model, _ = load_for_training(base, FULL, CPU, torch.float32)
    with torch.no_grad():
        model.weights["transformer.norm_f.weight"].fill_(float("nan"))
    stepper = Stepper(model, None, model.trainable(), FULL, 10)
    with pytest.raises(TrainError, match=r"the loss became nan at step 1; train again with a lower rate \(--lr"):
        stepper.step(packer.alone()[0])


def test_bad_rows_are_reported_before_anything_is_made(base, tmp_path):
    data = tmp_path / "shop.csv"
    data.write_text("question,answer\nMấy giờ?,\n,8 giờ\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        train(data, out=tmp_path / "run", model=base.name, device="cpu", console=QUIET)
    assert caught.value.problems == ("shop.csv:2: the answer is empty", "shop.csv:3: the question is empty")
    assert not (tmp_path / "run").exists()


def test_an_existing_folder_is_not_overwritten(base, tmp_path):
    data = write_csv(tmp_path / "shop.csv", ITEMS)
    with pytest.raises(RunError, match="exists already; choose another --out"):
        train(data, out=tmp_path, model=base.name, device="cpu", console=QUIET)


def test_a_hub_id_is_told_how_to_become_a_folder(tmp_path):
    data = write_csv(tmp_path / "shop.csv", ITEMS)
    with pytest.raises(CheckpointError, match="hf download vinai/PhoGPT-4B-Chat --local-dir PhoGPT-4B-Chat"):
        train(data, out=tmp_path / "run", model="vinai/PhoGPT-4B-Chat", device="cpu", console=QUIET)


def test_a_changed_base_is_named(lora_run, tmp_path):
    other = make_base(tmp_path / "other")
    assert recited(load(lora_run.folder, base=other.name, device="cpu")) == len(ITEMS), "the same base elsewhere is fine"
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace('"alibi_bias_max": 8.0', '"alibi_bias_max": 16.0'))
    with pytest.raises(RunError, match=r"not the one this run was trained on: config\.json differ"):
        load(lora_run.folder, base=other.name, device="cpu")


def test_a_run_without_weights_says_so(base, tmp_path):
    run = Run.create(tmp_path / "run", base, {}, LORA, base.template, Split(ITEMS, [], []))
    with pytest.raises(RunError, match=r"adapter/ is missing\): its training did not end"):
        load(run.folder, device="cpu")


def test_a_run_of_another_format_is_refused(base, tmp_path):
    run = Run.create(tmp_path / "run", base, {}, LORA, base.template, Split(ITEMS, [], []))
    path = run.folder / "run.toml"
    path.write_text(path.read_text().replace("format = 1", "format = 2"))
    with pytest.raises(RunError, match="has format 2; this hoidap reads 1"):
        Run.open(run.folder)


def test_full_on_quantised_weights_is_refused():
    with pytest.raises(RecipeError, match=r"--method full trains every weight.*add --quantize none"):
        dataclasses.replace(FULL, quantize="nf4")
    assert adjusted(LORA, {"method": "full"}).quantize == "none"


def test_scores_count_exact_and_normalised_answers(full_run):
    bot = load(full_run.folder, device="cpu", mode="model")
    asked = [
        Question(ITEMS[0].question, ITEMS[0].answer),
        Question(ITEMS[1].question, ITEMS[1].answer.upper().rstrip(".")),
        Question(ITEMS[2].question, "khác hẳn"),
        Question(ITEMS[3].question, None),
    ]
    compared = ask(bot, asked)
    assert [(one.is_exact, one.is_same) for one in compared] == [
        (True, True),
        (False, True),
        (False, False),
        (False, False),
    ]
    scored = score([(one.answer.text, one.wanted) for one in compared if one.wanted is not None])
    assert scored is not None
    assert (scored.count, scored.exact, scored.normalised) == (3, 1 / 3, 2 / 3)
    assert 0 < scored.chrf < 100


def test_what_quantisation_costs_is_reported_apart(lora_run, full_run):
    first = json.loads((lora_run.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert 0.05 < first["nf4_relative_error"]["mean"] <= first["nf4_relative_error"]["worst"] < 0.2
    assert "nf4" not in (full_run.folder / "metrics.jsonl").read_text()


@pytest.mark.parametrize(("quantize", "double_quant"), [("nf4", False), ("fp4", True), ("int8", True), ("none", True)])
def test_an_adapter_learns_on_a_base_held_in_any_way_and_the_bot_holds_it_so(quantize, double_quant, base, tmp_path):
    data = write_csv(tmp_path / "shop.csv", ITEMS)
    recipe = adjusted(LORA, {"quantize": quantize, "double_quant": double_quant})
    run = train(data, out=tmp_path / "run", model=base.name, recipe=recipe, device="cpu", console=QUIET)
    assert recited(load(run.folder, device="cpu")) == len(ITEMS)
    first = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert (f"{quantize}_relative_error" in first) == (quantize != "none")


@pytest.mark.parametrize(("device", "gibibytes", "told"), [("cpu", 0, False), ("cuda", 4, False), ("cuda", 15, True)])
def test_a_larger_base_is_named_where_it_would_fit(monkeypatch, device, gibibytes, told):
    properties = SimpleNamespace(total_memory=gibibytes * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    advice = larger_base(torch.device(device))
    assert bool(advice) == told
    assert not told or ("this GPU has 15 GiB" in advice and "--model vinai/PhoGPT-4B-Chat --download" in advice)


@pytest.mark.parametrize(("changes", "epochs"), [({}, 100), ({"max_epochs": 3}, 3), ({"max_steps": 7}, 16)])
def test_a_few_items_take_as_many_passes_as_make_a_hundred_steps(changes, epochs, base, tmp_path, monkeypatch):
    class PlannedError(Exception):
        """Nothing is trained."""

    def stop(plan, *_, **__):
        raise PlannedError(plan.recipe.schedule.max_epochs)

    monkeypatch.setattr(job, "_carry_out", stop)
    with pytest.raises(PlannedError) as found:
        train(write_csv(tmp_path / "shop.csv", ITEMS[:2]), out=tmp_path / "run", model=base.name, console=QUIET, **changes)
    assert found.value.args == (epochs,)
