"""Pretraining, top to bottom: plain text and question–answer pairs become a base model."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hoidap.base import MINI_FOLDER, Base, file_print, find_base
from hoidap.data.corpus import Corpus, hold_out, read_articles
from hoidap.data.items import Item
from hoidap.data.read import read_items
from hoidap.errors import DataError, RunError
from hoidap.folder import is_there, refuse_existing
from hoidap.model.checkpoint import assemble, random_tensors, save_checkpoint
from hoidap.model.config import MPTConfig
from hoidap.model.mpt import MPT
from hoidap.progress import bar
from hoidap.prompt import PHOGPT_4B_CHAT
from hoidap.recipe import PRETRAIN, Recipe, adjusted, differences
from hoidap.run import Pretraining
from hoidap.runtime import pick_device, pick_dtype
from hoidap.tokenizer import Tokenizer
from hoidap.training.checkpoint import Checkpoints
from hoidap.training.exam import HeldOutExam
from hoidap.training.loop import Outcome
from hoidap.training.loop import train as train_weights
from hoidap.training.step import memory_advice
from hoidap.training.watcher import RunWatcher, go_back

HELD_OUT_SHARE = 0.01  # of the articles, where no file is given


@dataclass(frozen=True)
class Shape:
    """The size of a model that begins with random weights, in PhoGPT's layout."""

    d_model: int = 448
    n_layers: int = 6
    n_heads: int = 7
    max_seq_len: int = 1024

    def config(self, vocab_size: int) -> MPTConfig:
        """Return the configuration with as many embeddings as the tokenizer has tokens, a multiple of 64 of them."""
        return MPTConfig(
            d_model=self.d_model, n_heads=self.n_heads, n_layers=self.n_layers, vocab_size=-(-vocab_size // 64) * 64,
            max_seq_len=self.max_seq_len,
        )  # fmt: skip


def pretrain(
    texts: Sequence[str | Path],
    *,
    out: str | Path,
    pairs: str | Path | None = None,
    held_out: str | Path | None = None,
    model: str | None = None,
    shape: Shape | None = None,
    tokenizer: str | Path | None = None,
    device: str | None = None,
    resume: bool = False,
    download: bool = False,
    console: Console | None = None,
    **changes: Any,
) -> Path:
    """Train a base on plain text, and leave it in ``out``/model.

    Args:
        texts: UTF-8 files (.xz too): a paragraph a line, a blank line between articles.
        out: the folder to make; without ``resume`` it must not exist.
        pairs: questions and answers to mix in, every wording of them trained on; formats are ``data.read``'s.
        held_out: text to measure on, not to train on; by default a hundredth of the articles, chosen by hash.
        model: a base to go on from, instead of random weights.
        shape: of a model that begins with random weights.
        tokenizer: its tokenizer.json; by default the shipped one.
        device: "cpu", "cuda"; by default a GPU if there is one.
        resume: go on with the training in ``out``, or begin it if it is not there; all else must be as it was.
        download: allow gigabytes of ``model`` to be fetched from the hub.
        console: where progress is shown; by default standard error.
        **changes: single settings, named as in the recipe.

    Returns:
        The model folder: config.json, model.safetensors, tokenizer.json.

    Raises:
        DataError: text or pairs that cannot be used, all at once.
        CheckpointError: a base that cannot be loaded exactly.
        RecipeError: a setting out of range.
        RunError: ``out`` exists; or, to be resumed, was another training's.
        TrainError: the loss is not finite, or the memory ran out.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was kept.

    """
    console = console or Console(stderr=True)
    folder = Path(out)
    kept = Pretraining.open(folder) if resume and is_there(folder) else None
    if not kept:
        refuse_existing(folder)
    start = _begin(model, shape, tokenizer, console, download=download)
    where = pick_device(device)
    recipe = adjusted(PRETRAIN, changes)
    if recipe.dtype == "auto":
        recipe = adjusted(recipe, {"dtype": str(pick_dtype(where)).removeprefix("torch.")})
    given = {"text": texts, "pairs": [pairs] if pairs else [], "held_out": [held_out] if held_out else []}
    sources = {kind: [Path(file) for file in files] for kind, files in given.items()}
    data = _Data.read(sources, start, recipe, console)
    facts = {"start": start.facts(), **{kind: _prints(files) for kind, files in sources.items()}}
    if kept:
        _refuse_changes(kept, recipe, facts)
        if kept.has_weights:
            console.print(f"{folder} is trained already; nothing is left to do", soft_wrap=True, highlight=False)
            return folder / "model"
    return _carry_out(kept or Pretraining.create(folder, recipe, facts), start, data, where, console)


@dataclass(frozen=True)
class _Start:
    """What training begins with: a base, or a shape of random weights."""

    base: Base | None
    config: MPTConfig
    tokenizer_file: Path

    def facts(self) -> dict[str, Any]:
        """Return what names the start exactly."""
        begins = self.base.name if self.base else "random weights"
        prints = {name: p.sha256 for name, p in self.base.prints().items()} if self.base else {}
        tokenizer = file_print(self.tokenizer_file).sha256
        return {"model": begins, "files": prints, "config": self.config.to_json(), "tokenizer": tokenizer}

    def load(self, device: torch.device, dtype: torch.dtype, seed: int) -> MPT:
        """Return the model: float32 weights that are all trained, activations in ``dtype``."""
        kind: dict[str, Any] = {"quantize": "none", "device": device, "dtype": torch.float32}
        if self.base:
            model = self.base.load(**kind)
        else:
            # Drawn on the CPU, so that a seed gives the same weights everywhere.
            tensors = random_tensors(self.config, torch.device("cpu"), torch.float32, seed)
            model = assemble(self.config, tensors, **kind)
        model.unfreeze(dtype)
        return model


def _begin(
    model: str | None, shape: Shape | None, tokenizer: str | Path | None, console: Console, *, download: bool
) -> _Start:
    if not model:
        file = Path(tokenizer) if tokenizer else MINI_FOLDER / "tokenizer.json"
        return _Start(None, (shape or Shape()).config(Tokenizer.from_file(file).vocab_size), file)
    if shape or tokenizer:
        msg = "a base to go on from (--model) has its own shape and tokenizer; leave out those that are given too"
        raise RunError(msg)
    base = find_base(model, download=download, console=console)
    return _Start(base, base.config, base.tokenizer_file)


@dataclass(frozen=True)
class _Data:
    text: Corpus
    exam: HeldOutExam

    @classmethod
    def read(cls, sources: Mapping[str, list[Path]], start: _Start, recipe: Recipe, console: Console) -> "_Data":
        articles = read_articles(sources["text"])
        if sources["held_out"]:
            held = read_articles(sources["held_out"])
        else:
            articles, held = hold_out(articles, HELD_OUT_SHARE)
        if not articles or not held:
            msg = f"{len(articles)} articles to train on and {len(held)} held out; give more text, or a held-out file"
            raise DataError([msg])
        pairs: list[Item] = [pair for file in sources["pairs"] for pair in read_items(file)]
        tokenizer = Tokenizer.from_file(start.tokenizer_file)
        longest = start.config.max_seq_len
        max_tokens = min(recipe.text.max_tokens or longest, longest)
        given = (tokenizer, recipe.schedule, max_tokens, PHOGPT_4B_CHAT)
        with bar(console, "tokenising", len(articles) + len(pairs) + len(held)) as advance:
            text = Corpus(articles, pairs, *given, advance)
            exam = HeldOutExam(Corpus(held, [], *given, advance), sum(len(article.encode()) for article in held))
        return cls(text, exam)


def _carry_out(run: Pretraining, start: _Start, data: _Data, device: torch.device, console: Console) -> Path:
    """Load, train, save, measure."""
    recipe = run.recipe
    about = f"{data.text.n_tokens:,} tokens an epoch; {start.config.n_parameters:,} weights on {device} in {recipe.dtype}"
    console.print(about, soft_wrap=True, highlight=False)
    with memory_advice(recipe, shorter="--max-tokens"), run.lock():
        network = start.load(device, pick_dtype(device, recipe.dtype), recipe.schedule.seed)
        outcome = _train(run, network, data, recipe, console)
        run.save_card(_card(run, data.exam.measure(network, None), outcome))
        run.save_weights(lambda new: _write(network, start.tokenizer_file, new))
    return run.folder / "model"


def _train(run: Pretraining, network: MPT, data: _Data, recipe: Recipe, console: Console) -> Outcome:
    """Train from the newest checkpoint, if there is one."""
    checkpoints = Checkpoints(run.checkpoints_folder)
    found = go_back(run, checkpoints, console)
    with RunWatcher(run, console) as watcher:
        return train_weights(network, None, data.text, data.exam, recipe, watcher, checkpoints, found)


def _refuse_changes(kept: Pretraining, recipe: Recipe, facts: Mapping[str, Any]) -> None:
    changed = differences(kept.recipe, recipe)
    changed += [f"{kind} is not what it was" for kind in facts if facts[kind] != kept.facts.get(kind)]
    if changed:
        msg = f"{kept.folder} cannot go on as it began; train anew with another --out, or undo the changes:\n"
        raise RunError(msg + "\n".join(changed))


def _prints(files: Sequence[Path]) -> list[dict[str, str]]:
    """Return name and hash of each: two files of one name in two folders are two files."""
    return [{"name": file.name, "sha256": file_print(file).sha256} for file in files]


def _write(network: MPT, tokenizer_file: Path, folder: Path) -> None:
    save_checkpoint(network, folder)
    shutil.copyfile(tokenizer_file, folder / "tokenizer.json")


def _card(run: Pretraining, measured: Mapping[str, float], outcome: Outcome) -> str:
    """Return the README.md of the training's folder."""
    facts = run.facts
    files = ", ".join(file["name"] for kind in ("text", "pairs", "held_out") for file in facts[kind])
    lines = [
        f"# {run.folder.name}",
        "",
        f"A base model that hoidap pretrained from {facts['start']['model']} on {files}.",
        "",
        f"- {outcome.epochs} epochs, {outcome.steps} steps, {outcome.seconds:.0f} s; kept: epoch {outcome.best_epoch}.",
        f"- Held out: {measured['held_out_nats']:.4f} nats a token, {measured['held_out_bits_per_byte']:.4f} bits a byte.",
        "",
        f"    hoidap train FILE --model {run.folder / 'model'} --out RUN",
        "",
    ]
    return "\n".join(lines)
