"""What a run's answers are written with: its weights on its base, one engine for several runs, a file of llama.cpp."""

from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console

from hoidap.base import Base
from hoidap.errors import CheckpointError
from hoidap.infer.engine import Engine
from hoidap.infer.recital import Recital
from hoidap.infer.torch_engine import TorchEngine
from hoidap.model.adapter import Adapter, load_adapter
from hoidap.model.mpt import MPT
from hoidap.progress import bar
from hoidap.run import Run
from hoidap.tokenizer import Tokenizer


def load_weights(
    run: Run, found: Base, device: torch.device, dtype: torch.dtype, console: Console
) -> tuple[MPT, Adapter | None]:
    """Load a run's model and, where it trained one, its adapter on the base."""
    folder = run.weights_folder()
    is_adapter = run.recipe.method == "lora"
    with bar(console, "loading", len(found.config.shapes())) as advance:
        model = found.load(
            quantize=run.recipe.quantize if is_adapter else "none", double_quant=run.recipe.double_quant,
            embedding=run.recipe.embedding, device=device, dtype=dtype, watch=lambda *_: advance(1),
        )  # fmt: skip
    return model, load_adapter(folder, model.config, device) if is_adapter else None


def share_base(one: Run, other: Run) -> bool:
    """Return whether the adapters of two runs can be served on one base, loaded once."""
    kept = [
        (r.base_name, r.base_prints, r.recipe.quantize, r.recipe.double_quant, r.recipe.embedding) for r in (one, other)
    ]
    return one.recipe.method == other.recipe.method == "lora" and kept[0] == kept[1]


def load_together(
    runs: Mapping[str, Run], found: Base, device: torch.device, dtype: torch.dtype, console: Console
) -> TorchEngine:
    """Load one engine for runs that share a base: it has each one's adapter by the run's name."""
    first = next(iter(runs.values()))
    model, _ = load_weights(first, found, device, dtype, console)
    adapters = {name: load_adapter(run.weights_folder(), model.config, device) for name, run in runs.items()}
    tokenizer = Tokenizer.from_file(first.tokenizer_file)
    items = [item for run in runs.values() for item in run.items()]
    recital = Recital.of_items(items, tokenizer, first.template)
    return TorchEngine(model, tokenizer, adapters=adapters, recital=recital)


def load_gguf(path: Path, tokenizer: Tokenizer) -> Engine:
    """Load a file of llama.cpp as an engine.

    Raises:
        CheckpointError: it is damaged, or its vocabulary is another than the tokenizer's.

    """
    from hoidap.infer.gguf_engine import GgufEngine
    from hoidap.infer.gguf_file import examine_gguf

    # A file may have more tokens: a base's embedding may have more rows than its tokenizer has tokens.
    if sum(tokenizer.id_of(token) == n for n, token in enumerate(examine_gguf(path).tokens)) < tokenizer.vocab_size:
        msg = f"{path} has another vocabulary than the run, so it is of another base; `hoidap export` writes this run's"
        raise CheckpointError(msg)
    return GgufEngine(path)
