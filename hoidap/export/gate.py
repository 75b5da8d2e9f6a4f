"""The gate: an export is kept if it answers as its run does, each asked the run's own questions.

Beside the file stands ``FILE.json``: what was asked, how many answers are the same to the letter, and where the first
character of each other answer differs.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hoidap.base import file_print
from hoidap.bot import Bot, find_run_base, load_engine
from hoidap.data.items import Item
from hoidap.errors import RunError
from hoidap.export.gguf import Kind, layout, write_gguf
from hoidap.folder import LEFTOVER, is_there, naming_failure, write_whole
from hoidap.infer.engine import Engine
from hoidap.infer.gguf_engine import GgufEngine
from hoidap.infer.gguf_file import need_gguf
from hoidap.model.adapter import load_adapter
from hoidap.model.checkpoint import LazyWeights
from hoidap.model.mpt import MPT
from hoidap.progress import bar
from hoidap.run import Run
from hoidap.tokenizer import Tokenizer

MOST_QUESTIONS = 200
# Least share of answers that are the run's to the letter. See docs/export.md for what was measured.
THRESHOLDS: dict[Kind, float] = {"f16": 0.99, "q8_0": 0.98, "q4_0": 0.9, "q4_k_m": 0.9}


@dataclass(frozen=True)
class Difference:
    """An answer of the export that is not the run's."""

    question: str
    run: str
    export: str
    first: int  # the first character that differs, from 0


@dataclass(frozen=True)
class Comparison:
    """What came of asking both."""

    asked: int
    exact: float  # share of the answers that are the same to the letter
    differences: tuple[Difference, ...]


def export_gguf(
    run: Run,
    out: Path,
    kind: Kind,
    *,
    accept_below: str = "",
    base: str | None = None,
    download: bool = False,
    console: Console | None = None,
) -> Comparison:
    """Write a run as a GGUF file, and its comparison beside it as ``FILE.json``.

    Args:
        run: a finished run.
        out: the file.
        kind: how its matrices are held.
        accept_below: why a file is kept whose answers are the run's less often than ``THRESHOLDS`` says.
        base: where the base model is now, if it has moved since.
        download: whether a gigabyte or more of the base may be downloaded from the hub.
        console: where progress is shown; by default nowhere.

    Raises:
        RunError: the file exists, or answers otherwise too often; the comparison is left, the file is not.
        CheckpointError: the base cannot be exported.
    """
    need_gguf()
    if is_there(out):
        msg = f"{out} exists already; choose another --out, or delete it first"
        raise RunError(msg)
    shown = console or Console(quiet=True)
    items = spread(run.items(), MOST_QUESTIONS)
    made = out.with_name(f"{LEFTOVER}{os.getpid()}.{out.name}")
    try:
        _write(run, made, kind, base=base, download=download, console=shown)
        where: dict[str, Any] = {"base": base, "device": None, "dtype": None, "download": download, "console": shown}
        with bar(shown, "asking run and file", 2 * len(items)) as advance:
            of_run = _answers(run, load_engine(run, items=items, **where)[0], items, lambda: advance(1))
            engine = GgufEngine(made)
            of_file = _answers(run, engine, items, lambda: advance(1))
            engine.close()
        compared = compare([item.question for item in items], of_run, of_file)
        _save(made, out, kind, compared, accept_below)
        if compared.exact < THRESHOLDS[kind] and not accept_below:
            share = f"{compared.exact:.1%} of {compared.asked} answers are the run's; {kind} takes {THRESHOLDS[kind]:.0%}"
            advice = "take a kind of more bits, or give --accept-below a reason, which is kept"
            msg = f"{share}. The file was not kept; {out}.json says what differs: {advice}"
            raise RunError(msg)
        with naming_failure(out):
            made.replace(out)
    finally:
        made.unlink(missing_ok=True)
    return compared


def _write(run: Run, path: Path, kind: Kind, *, base: str | None, download: bool, console: Console) -> None:
    """Write a run's model, read from its base one matrix at a time."""
    found = find_run_base(run, base, download=download, console=console)
    layout(found.config, kind)
    folder, cpu = run.weights_folder(), torch.device("cpu")
    is_adapter = run.recipe.method == "lora"
    weights = LazyWeights(
        found.folder, quantize=run.recipe.quantize if is_adapter else "none",
        double_quant=run.recipe.double_quant, device=cpu, dtype=torch.float32,
    )  # fmt: skip
    adapter = load_adapter(folder, found.config, cpu) if is_adapter else None
    model, tokenizer = MPT(found.config, weights, torch.float32), Tokenizer.from_file(run.tokenizer_file)
    samples = [text for item in spread(run.items(), MOST_QUESTIONS) for text in (item.question, item.answer)]
    with bar(console, "writing", len(found.config.shapes())) as advance:
        write_gguf(model, adapter, tokenizer, path, kind, name=run.folder.resolve().name, samples=samples, advance=advance)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many of the items, evenly from first to last."""
    if len(items) <= most:
        return list(items)
    return [items[number * len(items) // most] for number in range(most)]


def _answers(run: Run, engine: Engine, items: Sequence[Item], advance: Callable[[], None]) -> list[str]:
    bot = Bot(engine, Tokenizer.from_file(run.tokenizer_file), items, run.template)
    questions, histories = [item.question for item in items], [item.before for item in items]
    answers = bot.answer_all(questions, bot.sampling(), advance, histories)
    return [answer.text for answer in answers]


def compare(questions: Sequence[str], of_run: Sequence[str], of_export: Sequence[str]) -> Comparison:
    """Return how far two bots' answers to the same questions are the same."""
    both = list(zip(questions, of_run, of_export, strict=True))
    differences = tuple(Difference(question, a, b, _first(a, b)) for question, a, b in both if a != b)
    return Comparison(len(both), 1 - len(differences) / max(1, len(both)), differences)


def _first(a: str, b: str) -> int:
    """Return where two texts begin to differ."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((n for n, (one, other) in pairs if one != other), min(len(a), len(b)))


def _save(made: Path, out: Path, kind: Kind, compared: Comparison, accept_below: str) -> None:
    written = file_print(made)
    table = {
        "file": out.name, "kind": kind, "n_bytes": written.n_bytes, "sha256": written.sha256,
        "threshold": THRESHOLDS[kind], **asdict(compared),
    }  # fmt: skip
    if accept_below and compared.exact < THRESHOLDS[kind]:
        table["accepted_below_because"] = accept_below
    write_whole(Path(f"{out}.json"), json.dumps(table, ensure_ascii=False, indent=2) + "\n")
