"""The main job, top to bottom: a file of questions and answers becomes a run folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hoidap.base import MINI, Base, FilePrint, find_base
from hoidap.data import items as item_file
from hoidap.data.fit import fit
from hoidap.data.pack import Packer
from hoidap.data.read import read_items
from hoidap.data.wordings import Split, split
from hoidap.errors import CheckpointError, Interrupted, RunError, TrainError
from hoidap.evaluate.exam import examine
from hoidap.evaluate.questions import questions
from hoidap.folder import is_there, refuse_existing
from hoidap.infer.recital import Recital
from hoidap.infer.torch_engine import TorchEngine
from hoidap.model.adapter import Adapter, load_adapter, new_adapter, save_adapter
from hoidap.model.checkpoint import Watch, quantization_error, save_checkpoint, unwatched
from hoidap.model.linear import Weight
from hoidap.model.mpt import MPT, WTE
from hoidap.progress import bar
from hoidap.prompt import Template, find_template
from hoidap.recipe import Recipe, adjusted, differences, preset
from hoidap.run import Owner, Run
from hoidap.runtime import pick_device, pick_dtype
from hoidap.tokenizer import Tokenizer
from hoidap.training.card import card
from hoidap.training.checkpoint import Checkpoints
from hoidap.training.exam import RecallExam
from hoidap.training.loop import Outcome
from hoidap.training.loop import train as train_weights
from hoidap.training.memory import fit_memory, keep_to
from hoidap.training.probe import probe_rates
from hoidap.training.step import memory_advice
from hoidap.training.watcher import RunWatcher, go_back

_BYTES_FOR_4B = (
    6 * 2**30
)  # it can do with 3.4 (benchmarks/results/train.json: memory-4b), slower and with an 8-bit optimiser
_LEAST_STEPS = 100  # 17 items in 48 steps lost one of their answers


def train(
    file: str | Path | None = None,
    *,
    out: str | Path,
    start: str | Path | None = None,
    model: str | None = None,
    preset: str | None = None,
    recipe: Recipe | None = None,
    template: str | None = None,
    device: str | None = None,
    resume: bool = False,
    probe_lr: bool = False,
    download: bool = False,
    contact: str = "",
    console: Console | None = None,
    **changes: Any,
) -> Run:
    """Fine-tune a base on a file of questions and answers, ask it every question, and leave a run folder.

    Args:
        file: questions and answers, as ``data.read`` has it; without one, those of ``start`` as its owner has left them.
        out: the run folder to make; without ``resume`` it must not exist.
        start: a finished run to begin from: its adapter and settings, for data that has changed since.
        model: the base: a hub id, a model folder, or "mini" (small, comes with the package, the default).
        preset: "recall" (the default; settings by the size of the base) or "seed" (a well-known run's, to the letter).
        recipe: all settings, instead of a preset's.
        template: the prompt's, by name; by default that of the base.
        device: "cpu", "cuda"; by default a GPU if there is one.
        resume: go on with the run in ``out``, or begin it if it is not there; what else is given must be as it was.
        probe_lr: try half, once and twice the rate for a few steps, and train with the best.
        download: allow gigabytes to be fetched from the hub.
        contact: whom the bot names where it does not know; ``bot.toml`` in the run changes it later.
        console: where progress is shown; by default standard error.
        **changes: single settings, named as in the recipe: ``learning_rate=1e-4, max_epochs=5, rank=8``.

    Raises:
        DataError: rows that cannot be used, all at once, before a model is loaded.
        CheckpointError: a base that cannot be loaded exactly.
        RecipeError: a setting out of range.
        RunError: ``out`` exists; ``start`` did not end, or cannot be begun from; or ``out``, to be resumed, was another
            run's, or has no whole checkpoint left.
        TrainError: the loss is not finite, or the memory ran out.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was kept.
    """
    console = console or Console(stderr=True)
    folder = Path(out)
    kept = Run.open(folder) if resume and is_there(folder) else None
    if not kept:
        refuse_existing(folder)
    earlier = None if start is None else Run.open(Path(start))
    source = _source(file, earlier)
    begun = kept or earlier  # whose settings are the defaults
    plan = _plan(
        source, begun, model, preset, recipe, template, device, is_kept=kept is not None, download=download,
        console=console, changes=changes,
    )  # fmt: skip
    if begun and not kept:
        _refuse_start(begun, plan)
    if kept:
        _refuse_changes(kept, plan, is_probed=probe_lr)
        if kept.has_weights and kept.has_report:
            console.print(f"{folder} is trained and evaluated already; nothing is left to do", soft_wrap=True)
            return kept
    owner = Owner(contact=contact) if contact or kept or not begun else begun.owner()
    return _carry_out(plan, kept, begun, folder, owner, console, probe_lr=probe_lr)


def _source(file: str | Path | None, earlier: Run | None) -> Path | Run:
    """Return what the items come from."""
    if file is not None:
        return Path(file)
    if earlier is None:
        msg = "there is nothing to train on; give FILE, or --from RUN for its items with what was corrected and added since"
        raise RunError(msg)
    return earlier


@dataclass(frozen=True)
class _Plan:
    """Everything that is known before a model is loaded."""

    base: Base
    recipe: Recipe
    template: Template
    split: Split
    notes: list[str]
    tokenizer: Tokenizer
    packer: Packer
    device: torch.device
    fixed: frozenset[str]  # what fitting the memory must leave as it is

    @property
    def dtype(self) -> torch.dtype:
        return pick_dtype(self.device, self.recipe.dtype)


def _plan(
    source: Path | Run,
    begun: Run | None,
    model: str | None,
    preset_name: str | None,
    recipe: Recipe | None,
    template_name: str | None,
    device: str | None,
    *,
    is_kept: bool,
    download: bool,
    console: Console,
    changes: dict[str, Any],
) -> _Plan:
    notes: list[str] = []
    items = source.next_version() if isinstance(source, Run) else read_items(source, notes.append)
    try:
        base = find_base(model or (begun.base_name if begun else MINI), download=download, console=console)
    except CheckpointError as error:
        if model or not begun:
            raise
        msg = f"{begun.folder} was trained on {begun.base_name!r}: {error}; to train anew, take another --out"
        raise RunError(msg) from error
    is_preset = False
    if recipe is None and begun and preset_name is None:
        recipe = begun.recipe
    elif recipe is None:
        recipe, is_preset = preset(preset_name or "recall", base.config.n_parameters), True
    if begun and is_kept:  # as the run began, whatever was chosen to fit its memory then
        recipe = adjusted(recipe, {"algorithm": begun.recipe.optimizer.algorithm, "embedding": begun.recipe.embedding})
    recipe = adjusted(recipe, changes)
    dials = {"algorithm", "embedding"}
    fixed = frozenset(dials if is_kept else {name for name in dials if changes.get(name) is not None})
    where = pick_device(device)
    if recipe.dtype == "auto":
        recipe = adjusted(recipe, {"dtype": str(pick_dtype(where)).removeprefix("torch.")})
    template = find_template(template_name) if template_name else begun.template if begun else base.template
    tokenizer = base.tokenizer()
    max_tokens = min(recipe.text.max_tokens or base.config.max_seq_len, base.config.max_seq_len)
    items = fit(items, tokenizer, template, max_tokens, recipe.text.too_long, notes.append)
    parts = split(items, recipe.wordings, recipe.schedule.seed)
    if begun and is_kept and item_file.hash_of(begun.items()) == item_file.hash_of(parts.items):
        parts = begun.split()  # as they were drawn then, whatever this version would draw
    packer = Packer(parts.items, tokenizer, recipe.schedule, max_tokens, template, recipe.text.loss_on, parts.others())
    if is_preset and changes.get("max_epochs") is None:
        recipe = _with_enough_passes(recipe, packer)
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    return _Plan(base, recipe, template, parts, notes, tokenizer, packer, where, fixed)


def _refuse_start(start: Run, plan: _Plan) -> None:
    """Raise RunError unless training can begin from a run's adapter."""
    start.weights_folder()
    then, now = start.recipe, plan.recipe
    wrong = [f"its base's {file} is another" for file in plan.base.changed_since(start.base_prints)]
    for name, was, is_now in (
        ("method", then.method, now.method),
        ("rank", then.adapter.rank, now.adapter.rank),
        ("alpha", then.adapter.alpha, now.adapter.alpha),
    ):
        if was != is_now:
            wrong.append(f"its {name} is {was}, this one's {is_now}")
    if then.method != "lora":
        wrong.append(f"it has all weights trained (method {then.method}), and only an adapter can be gone on from")
    if wrong:
        msg = f"training cannot begin from {start.folder}: {'; '.join(wrong)}; leave out --from to begin anew"
        raise RunError(msg)


def _with_enough_passes(recipe: Recipe, packer: Packer) -> Recipe:
    """Return a recipe of a hundred steps at least: a few items make a step or two a pass, and take more passes."""
    if recipe.schedule.max_steps:
        return recipe
    epochs = -(-_LEAST_STEPS // packer.count_batches(1))
    return adjusted(recipe, {"max_epochs": max(recipe.schedule.max_epochs, epochs)})


def _refuse_changes(kept: Run, plan: _Plan, *, is_probed: bool) -> None:
    """Raise RunError unless the plan is the kept run's: going on with anything else would end elsewhere."""
    changed = differences(kept.recipe, plan.recipe)
    if is_probed:  # the rate was found when the run began
        changed = [difference for difference in changed if not difference.startswith("learning_rate ")]
    if item_file.hash_of(kept.items()) != item_file.hash_of(plan.split.items):
        changed.append(f"the data has {len(plan.split.items)} items, was {len(kept.items())}, or other text in them")
    if plan.template != kept.template:
        changed.append(f"the template is {plan.template.name!r}, was {kept.template.name!r}")
    if files := plan.base.changed_since(kept.base_prints):
        changed.append(f"files of the base {plan.base.name} are not those that the run began with: {', '.join(files)}")
    if changed:
        msg = f"{kept.folder} cannot go on as it began; train anew with another --out, or undo the changes:\n"
        raise RunError(msg + "\n".join(changed))


def _carry_out(
    plan: _Plan, kept: Run | None, begun: Run | None, folder: Path, owner: Owner, console: Console, *, probe_lr: bool
) -> Run:
    """Load, train, save, evaluate; ``begun`` is ``kept``, or the run to begin from."""
    base, recipe, packer = plan.base, plan.recipe, plan.packer
    first = kept.start_adapter if kept else begun.weights_folder() if begun else None
    if kept and probe_lr:
        recipe = adjusted(recipe, {"learning_rate": kept.recipe.optimizer.learning_rate})
    prints = kept.base_prints if kept else _file_prints(base, console)
    facts = f"{len(plan.split.items)} items, {packer.n_tokens:,} tokens an epoch"
    console.print(f"{facts}; base {base.name} on {plan.device} in {plan.dtype}", soft_wrap=True, highlight=False)
    if base.name == MINI and (advice := larger_base(plan.device)):
        console.print(advice, soft_wrap=True, highlight=False)
    errors: dict[str, float] = {}
    longest = packer.longest_conversation
    dialled, chosen = fit_memory(recipe, base.config, plan.device, plan.dtype, longest, plan.fixed)
    if chosen:
        console.print(chosen, soft_wrap=True, highlight=False)
    # What else was chosen changes no result, and is chosen anew when the run goes on.
    recipe = adjusted(recipe, {"algorithm": dialled.optimizer.algorithm, "embedding": dialled.embedding})
    with keep_to(dialled, plan.device), memory_advice(dialled):
        with bar(console, "loading the base", len(base.config.shapes())) as advance:
            network, adapter = load_for_training(base, recipe, plan.device, plan.dtype, _loading(advance, errors), first)
        if chosen:
            seen = adapter.with_dropout(recipe.adapter.dropout) if adapter else None
            how = "written out" if seen and network.is_written_out(seen) else "through autograd"
            console.print(f"attention {network.attention}, blocks {how}", highlight=False)
        if probe_lr and not kept:
            rate = probe_rates(network, adapter, packer, dialled, console).optimizer.learning_rate
            recipe, dialled = (adjusted(r, {"learning_rate": rate}) for r in (recipe, dialled))
        run = kept or Run.create(
            folder,
            base,
            prints,
            recipe,
            plan.template,
            plan.split,
            plan.notes,
            owner,
            _cost(errors, recipe, console),
            begun,
        )
        write = _writer(network, adapter, base)
        with run.lock():
            outcome = _train(run, dialled, network, adapter, packer, write, console)
            run.save_weights(write)
        longest = max(len(plan.tokenizer.encode(question.text)) for question in questions(plan.split))
        room = 2 * packer.longest_tokens + longest + 64
        recital = Recital.of_items(plan.split.items, plan.tokenizer, plan.template)
        engine = TorchEngine(network, plan.tokenizer, adapter, recital=recital, context_tokens=room)
        report = examine(run, engine, plan.tokenizer, console)
    run.save_card(card(run, report, outcome))
    return run


def _cost(errors: dict[str, float], recipe: Recipe, console: Console) -> list[dict[str, Any]]:
    """Show what quantisation costs the weights, and return it as the first lines of the metrics."""
    if not errors:
        return []
    mean, name = sum(errors.values()) / len(errors), recipe.quantize
    console.print(f"{name} changes a weight matrix by {mean:.1%} (‖W − {name}(W)‖ / ‖W‖, mean)", highlight=False)
    return [{f"{name}_relative_error": {"mean": mean, "worst": max(errors.values())}}]


def larger_base(device: torch.device) -> str:
    """Return how to ask for PhoGPT-4B-Chat, if it would fit on the device."""
    if device.type != "cuda":
        return ""
    n_bytes = torch.cuda.get_device_properties(device).total_memory
    if n_bytes < _BYTES_FOR_4B:
        return ""
    has = f"this GPU has {n_bytes / 2**30:.0f} GiB, PhoGPT-4B-Chat trains in {_BYTES_FOR_4B / 2**30:.0f}"
    return f"{has}: it knows far more Vietnamese than this base; --model vinai/PhoGPT-4B-Chat --download (7.4 GB)"


def _train(
    run: Run,
    recipe: Recipe,
    network: MPT,
    adapter: Adapter | None,
    packer: Packer,
    write: Callable[[Path], None],
    console: Console,
) -> Outcome:
    """Train from the newest checkpoint, if there is one."""
    checkpoints = Checkpoints(run.checkpoints_folder)
    found = go_back(run, checkpoints, console)
    try:
        with RunWatcher(run, console) as watcher:
            # Without gradients a batch could be four times a step's; on a GPU a pass's is what the memory was reckoned for.
            schedule = recipe.schedule
            is_gpu = network.device.type == "cuda"
            most = schedule.batch_tokens // schedule.accumulation if is_gpu else 4 * schedule.batch_tokens
            exam = RecallExam(packer, schedule.followup_share, most)
            return train_weights(network, adapter, packer, exam, recipe, watcher, checkpoints, found)
    except Interrupted:
        raise
    except TrainError as error:
        kept, _ = checkpoints.newest()
        if kept is None or not kept.state.best_epoch:
            raise
        run.save_weights(write)  # the loop has put the best back
        what = f"the weights of epoch {kept.state.best_epoch}, the best until then, are the run's"
        msg = f"{error}\n{what}: hoidap evaluate {run.folder}"
        raise TrainError(msg) from error


def load_for_training(
    base: Base,
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype,
    watch: Watch = unwatched,
    first: Path | None = None,
) -> tuple[MPT, Adapter | None]:
    """Load the base and what is trained on it: an adapter, or, for the method "full", float32 weights themselves.

    The adapter is a new one, or begins as that in the folder ``first``.
    """
    seed = recipe.schedule.seed
    if recipe.method == "lora":
        model = base.load(
            quantize=recipe.quantize, double_quant=recipe.double_quant, embedding=recipe.embedding, device=device,
            dtype=dtype, watch=watch,
        )  # fmt: skip
        if model.is_cheap_decoded:
            model = model.decoded()
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what loading took is the run's again
        if first:
            adapter = load_adapter(first, base.config, device)
            for matrix in adapter.trainable().values():
                matrix.requires_grad_()
            return model, adapter
        generator = torch.Generator().manual_seed(seed)
        return model, new_adapter(base.config, recipe.adapter.rank, recipe.adapter.alpha, device, generator)
    model = base.load(quantize="none", device=device, dtype=torch.float32, watch=watch)
    model.unfreeze(dtype)
    return model, None


def _loading(advance: Callable[[int], None], errors: dict[str, float]) -> Watch:
    """Return a watch that moves the bar and notes what quantisation costs each matrix."""

    def watch(name: str, original: torch.Tensor, held: Weight) -> None:
        advance(1)
        error = quantization_error(original, held)
        if error is not None and name != WTE:
            errors[name] = error

    return watch


def _writer(model: MPT, adapter: Adapter | None, base: Base) -> Callable[[Path], None]:
    if adapter:
        return lambda folder: save_adapter(adapter, folder, base.name)
    return lambda folder: save_checkpoint(model, folder)


def _file_prints(base: Base, console: Console) -> dict[str, FilePrint]:
    with bar(console, "reading the base's files", sum(file.stat().st_size for file in base.files())) as advance:
        return base.prints(advance)
