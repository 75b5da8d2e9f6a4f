"""The main job, top to bottom: a file of questions and answers becomes a run folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hoidap.base import Base, FilePrint, find_base
from hoidap.bot import Bot
from hoidap.data.pack import Packer
from hoidap.data.read import read_items
from hoidap.evaluate.recall import ask_items
from hoidap.infer.torch_engine import TorchEngine
from hoidap.model.adapter import Adapter, new_adapter, save_adapter
from hoidap.model.checkpoint import Watch, quantization_error, save_checkpoint, unwatched
from hoidap.model.linear import Weight
from hoidap.model.mpt import MPT
from hoidap.progress import bar
from hoidap.recipe import LORA, SCRATCH, Recipe, adjusted
from hoidap.run import Run, refuse_existing
from hoidap.runtime import pick_device, pick_dtype
from hoidap.training.card import card
from hoidap.training.loop import train as train_weights
from hoidap.training.watcher import RunWatcher


def train(
    file: str | Path,
    *,
    out: str | Path,
    model: str = "scratch",
    recipe: Recipe | None = None,
    device: str | None = None,
    dtype: str | None = None,
    console: Console | None = None,
    **changes: Any,
) -> Run:
    """Fine-tune a base on a file of questions and answers, ask it every question, and leave a run folder.

    Args:
        file: CSV, XLSX or JSONL with a question and an answer a row.
        out: the run folder to make; it must not exist.
        model: the base: a model folder, or "scratch" (a small MPT of random weights).
        recipe: all settings; by default those that suit the base.
        device: "cpu", "cuda"; by default a GPU if there is one.
        dtype: what activations are computed in; by default what suits the device.
        console: where progress is shown; by default standard error.
        **changes: single settings, named as in the recipe: ``learning_rate=1e-4, max_epochs=5, rank=8``.

    Raises:
        DataError: rows that cannot be used, all at once, before a model is loaded.
        CheckpointError: a base that cannot be loaded exactly.
        RecipeError: a setting out of range.
        RunError: ``out`` exists.
        TrainError: the loss is not finite.
    """
    console = console or Console(stderr=True)
    folder = Path(out)
    refuse_existing(folder)
    items = read_items(Path(file))
    base = find_base(model)
    recipe = adjusted(recipe or (SCRATCH if base.is_scratch else LORA), changes)
    tokenizer = base.tokenizer()
    packer = Packer(items, tokenizer, recipe.schedule, base.config.max_seq_len)
    where = pick_device(device)
    compute = pick_dtype(where, dtype)
    prints = _file_prints(base, console)
    facts = f"{len(items)} items, {packer.n_tokens:,} tokens an epoch; base {base.name} on {where} in {compute}"
    console.print(facts, soft_wrap=True, highlight=False)
    errors: dict[str, float] = {}
    with bar(console, "loading the base", len(base.config.shapes())) as advance:
        network, adapter = load_for_training(base, recipe, where, compute, _loading(advance, errors))
    run = Run.create(folder, base, prints, recipe, items)
    if errors:
        mean = sum(errors.values()) / len(errors)
        run.log({"nf4_relative_error": {"mean": mean, "worst": max(errors.values())}})
        console.print(f"NF4 changes a weight matrix by {mean:.1%} (‖W − NF4(W)‖ / ‖W‖, mean)", highlight=False)
    with RunWatcher(run, console) as watcher:
        outcome = train_weights(network, adapter, packer, recipe, watcher)
    run.save_weights(_writer(network, adapter, base))
    engine = TorchEngine(network, tokenizer, adapter, context_tokens=2 * packer.longest_tokens + 64)
    report = _evaluate(Bot(engine, tokenizer, items), console)
    run.save_report(report)
    run.save_card(card(run, report, outcome))
    return run


def load_for_training(
    base: Base, recipe: Recipe, device: torch.device, dtype: torch.dtype, watch: Watch = unwatched
) -> tuple[MPT, Adapter | None]:
    """Load the base and what is trained on it: a new adapter, or, for the method "full", float32 weights themselves."""
    seed = recipe.schedule.seed
    if recipe.method == "lora":
        model = base.load(quantize=recipe.quantize == "nf4", device=device, dtype=dtype, seed=seed, watch=watch)
        generator = torch.Generator().manual_seed(seed)
        return model, new_adapter(base.config, recipe.adapter.rank, recipe.adapter.alpha, device, generator)
    model = base.load(quantize=False, device=device, dtype=torch.float32, seed=seed, watch=watch)
    model.dtype = dtype  # weights stay float32, activations need not
    for weight in model.weights.values():
        assert isinstance(weight, torch.Tensor)  # noqa: S101 - nothing was quantised
        weight.requires_grad_()
    return model, None


def _loading(advance: Callable[[int], None], errors: dict[str, float]) -> Watch:
    """Return a watch that moves the bar and notes what quantisation costs each matrix."""

    def watch(name: str, original: torch.Tensor, held: Weight) -> None:
        advance(1)
        error = quantization_error(original, held)
        if error is not None:
            errors[name] = error

    return watch


def _writer(model: MPT, adapter: Adapter | None, base: Base) -> Callable[[Path], None]:
    if adapter:
        return lambda folder: save_adapter(adapter, folder, base.name)
    return lambda folder: save_checkpoint(model, folder)


def _file_prints(base: Base, console: Console) -> dict[str, FilePrint]:
    with bar(console, "reading the base's files", sum(file.stat().st_size for file in base.files())) as advance:
        return base.prints(advance)


def _evaluate(bot: Bot, console: Console) -> dict[str, Any]:
    total = sum(1 + len(item.wordings) for item in bot.items)
    with bar(console, "asking every question", total) as advance:
        return ask_items(bot, lambda: advance(1))
