"""How much memory a run takes, reckoned before anything is loaded, and the dials that make it fit.

Cheapest first: a step in several passes; blocks that keep their input alone and run forward twice; those inputs in the
host's memory. Where none of that is enough: the embedding in 8 bits, and an optimiser with its state in 8. Only the
last two change what is computed, so they are written into the recipe; the others are chosen anew at each start.

All of it is arithmetic on shapes, for adapters on a GPU; what PyTorch's allocator may then take is capped, so that a run
that needs more than was reckoned stops with advice instead of taking it.
"""

import gc
import importlib.util
import itertools
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch

from hoidap.errors import RecipeError
from hoidap.model import blocks
from hoidap.model.config import MPTConfig
from hoidap.model.loss import CHUNK_BYTES
from hoidap.model.mpt import DECODED_ROWS
from hoidap.recipe import Algorithm, Embedding, Recipe, adjusted

_CONTEXT_BYTES = 0.75 * 2**30  # CUDA, cuBLAS and kernels, outside PyTorch's allocator (H200, measured: 0.75 GiB)
_SPARE_SHARE = 0.04  # of what is allowed, left for gaps between tensors of differing size
_PASS_TOKENS = 600  # what a pass costs beyond its tokens, in tokens: matrices are decoded anew
_SMALL_PARAMETERS = 100_000_000  # a base below needs no dial on a CPU
_WEIGHT_BYTES = {"nf4": 0.5, "fp4": 0.5, "int8": 1.0}
_STATE_BYTES = {"adamw": 8, "adamw_8bit": 2.1, "paged_adamw_32bit": 8, "paged_adamw_8bit": 2.1}  # pages count


@dataclass(frozen=True)
class Need:
    """What a run takes of the GPU, in bytes."""

    weights: float
    adapter: float  # with its gradients and the optimiser's state
    activations: float
    work: float  # of the block at hand, of the output layer, decoded matrices

    @property
    def total(self) -> float:
        """All of it, but for CUDA's own."""
        return self.weights + self.adapter + self.activations + self.work


def reckon(config: MPTConfig, recipe: Recipe, dtype: torch.dtype, longest: int, passes: int) -> Need:
    """Reckon what a run takes whose longest document has ``longest`` tokens and whose steps are made in ``passes``."""
    d, layers, rank, size = config.d_model, config.n_layers, recipe.adapter.rank, dtype.itemsize
    whole = max(longest, recipe.schedule.batch_tokens)
    tokens = whole if passes == 1 else min(whole, -(-whole // passes) + longest)  # a pass is of whole documents
    stream = 2 if dtype == torch.bfloat16 else 4
    linear, sides = _matrices(config)
    scales = (0.127 if recipe.double_quant else 0.5) / 8 if recipe.quantize in ("nf4", "fp4") else 0
    four_bit = (4 + (0.127 if recipe.double_quant else 0.5)) / 8  # bytes a weight
    embedding = config.vocab_size * {"16-bit": size * d, "8-bit": d + 4, "4-bit": four_bit * d}[recipe.embedding]
    weights = linear * (_WEIGHT_BYTES.get(recipe.quantize, size) + scales) + embedding
    adapter = rank * sides * (4 + 4 + (4 if passes > 1 else 0) + _STATE_BYTES[recipe.optimizer.algorithm])
    kept = blocks.bytes_kept(config, rank, stream) * size / 2 * _kept_by_autograd(config, recipe, dtype)
    twice = min(max(recipe.recompute, 0), layers)
    activations = tokens * ((layers - twice) * kept + (0 if recipe.offload else twice * stream * d))
    work = blocks.bytes_at_work(config, rank, stream) * size / 2 + (kept if twice else 0)
    # Chips without bfloat16 attend over padded documents, at lengths of the baselines' twice the tokens.
    padded = size * (2.2 * tokens * 7 * d + 3 * config.n_heads * longest**2) if dtype != torch.bfloat16 else 0
    logits = min(CHUNK_BYTES, 4 * tokens * config.vocab_size) * 2 + 3 * 4 * tokens * d
    if recipe.embedding != "16-bit":
        logits += size * min(config.vocab_size, DECODED_ROWS) * d
    decoded = 1.5 * blocks.bytes_decoded(config, rank) * size / 2
    return Need(weights, adapter, activations, max(tokens * work + padded + decoded, logits))


@lru_cache
def _matrices(config: MPTConfig) -> tuple[int, int]:
    """Return the weights of all blocks' matrices, and the sum of all their rows and columns."""
    shapes = [shape for name, shape in config.shapes().items() if ".blocks." in name and len(shape) == 2]
    return sum(outs * ins for outs, ins in shapes), sum(outs + ins for outs, ins in shapes)


def _kept_by_autograd(config: MPTConfig, recipe: Recipe, dtype: torch.dtype) -> float:
    """Return how many times what the written-out blocks keep is kept of a run that they do not carry out."""
    if recipe.adapter.dropout:
        return 2.7
    plain = config.clip_qkv is None and not config.qk_ln and recipe.quantize != "int8" and dtype != torch.float32
    return 1 if plain else 1.8


def fit_memory(
    recipe: Recipe,
    config: MPTConfig,
    device: torch.device,
    dtype: torch.dtype,
    longest: int,
    fixed: Collection[str] = (),
) -> tuple[Recipe, str]:
    """Return the recipe with every dial set, and what was chosen, in words.

    Args:
        recipe: as asked for.
        config: of the base.
        device: where it will be trained.
        dtype: of the activations.
        longest: tokens of the longest document.
        fixed: of "algorithm" and "embedding", what must stay as it is.

    Raises:
        RecipeError: more is asked for than is free, or nothing makes the run fit; says what it needs.

    """
    if device.type != "cuda" or recipe.method != "lora":
        if recipe.memory_gb:
            msg = f"--memory is for adapters trained on a GPU; this run is {recipe.method} on {device}: leave it out"
            raise RecipeError(msg)
        is_large = config.n_parameters >= _SMALL_PARAMETERS
        return adjusted(
            recipe, {"recompute": recipe.recompute if recipe.recompute >= 0 else is_large * config.n_layers}
        ), ""
    allowed = _allowed(recipe, device)
    chosen = choose(recipe, config, dtype, longest, allowed * (1 - _SPARE_SHARE), fixed)
    need = reckon(config, chosen, dtype, longest, chosen.schedule.accumulation).total + _CONTEXT_BYTES
    most = recipe.memory_gb or (allowed + _CONTEXT_BYTES) / 1e9
    return chosen, f"memory: {need / 1e9:.1f} of {most:.1f} GB reckoned; {_in_words(chosen, config)}"


@contextmanager
def keep_to(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Hold what PyTorch takes of a GPU to what the recipe allows, beside what this process has there already."""
    if device.type != "cuda" or recipe.method != "lora":
        yield
        return
    index = torch.cuda.current_device() if device.index is None else device.index
    before, (_, total) = torch.cuda.get_per_process_memory_fraction(index), torch.cuda.mem_get_info(device)
    most = _allowed(recipe, device) + torch.cuda.memory_reserved(device)
    torch.cuda.set_per_process_memory_fraction(max(0.0, min(before, most / total)), index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, index)


def _allowed(recipe: Recipe, device: torch.device) -> float:
    """Return the bytes that a run may allocate on a GPU."""
    gc.collect()
    torch.cuda.empty_cache()  # what an earlier run of this process left is free
    free, total = torch.cuda.mem_get_info(device)
    allowed = recipe.memory_gb * 1e9 - _CONTEXT_BYTES if recipe.memory_gb else float(free)
    if allowed > free:
        msg = f"--memory is {recipe.memory_gb:g} GB, but {free / 1e9:.1f} GB of this GPU's {total / 1e9:.1f} are free"
        raise RecipeError(msg)
    return allowed


def choose(
    recipe: Recipe, config: MPTConfig, dtype: torch.dtype, longest: int, allowed: float, fixed: Collection[str] = ()
) -> Recipe:
    """Return the recipe with the cheapest dials under which it takes no more than ``allowed`` bytes.

    Raises:
        RecipeError: there are none.

    """
    layers = config.n_layers
    twice = range(layers + 1) if recipe.recompute < 0 else [min(recipe.recompute, layers)]
    most = max(1, recipe.schedule.batch_tokens // max(1, longest))
    first = recipe.schedule.accumulation
    passes = sorted({first, *(n for n in (2, 4, 8, 16, 32) if first < n <= most)})
    if recipe.adapter.dropout:  # other passes would draw other masks
        passes = [first]
    ways = _fallbacks(recipe, fixed)
    for algorithm, embedding in ways:
        found: list[tuple[float, bool, int, Recipe]] = []
        for offload, n_passes, n_twice in itertools.product(sorted({recipe.offload, True}), passes, twice):
            changes = {"recompute": n_twice, "offload": offload, "algorithm": algorithm, "embedding": embedding}
            tried = adjusted(recipe, {**changes, "accumulation": n_passes})
            if reckon(config, tried, dtype, longest, n_passes).total <= allowed:
                share = n_twice / layers * (1.0 if offload else 0.5)  # forward is half of a step; a way to the host as much
                cost = recipe.schedule.batch_tokens * (1 + share) + n_passes * _PASS_TOKENS
                found.append((cost, offload, len(found), tried))
        if found:
            return min(found)[-1]
    changes = {"recompute": max(twice), "offload": True, "algorithm": ways[-1][0], "embedding": ways[-1][1]}
    raise RecipeError(_too_much(config, adjusted(recipe, changes), dtype, longest, max(passes), allowed))


def _too_much(config: MPTConfig, least: Recipe, dtype: torch.dtype, longest: int, passes: int, allowed: float) -> str:
    need, rank = reckon(config, least, dtype, longest, passes), least.adapter.rank
    parts = f"{need.weights / 1e9:.1f} for the weights, {need.adapter / 1e9:.1f} for the adapter of rank {rank}"
    given = allowed / (1 - _SPARE_SHARE) + _CONTEXT_BYTES
    more = (
        ""
        if importlib.util.find_spec("bitsandbytes")
        else 'install bitsandbytes for an 8-bit optimiser (pip install "hoidap[bitsandbytes]"), '
    )
    return (
        f"this run needs {(need.total / (1 - _SPARE_SHARE) + _CONTEXT_BYTES) / 1e9:.1f} GB of GPU memory with every saving "
        f"on ({parts}), and {given / 1e9:.1f} are allowed; {more}lower --rank, or --max-tokens with --too-long cut "
        f"(the longest document has {longest} tokens), or take a smaller base"
    )


def _fallbacks(recipe: Recipe, fixed: Collection[str]) -> list[tuple[Algorithm, Embedding]]:
    """Return optimiser and embedding as asked for, and what to try if that does not fit."""
    asked = recipe.optimizer.algorithm
    algorithms: list[Algorithm] = [asked]
    if asked == "adamw" and "algorithm" not in fixed and importlib.util.find_spec("bitsandbytes"):
        algorithms.append("adamw_8bit")
    embeddings: list[Embedding] = [recipe.embedding]
    if recipe.embedding == "16-bit" and "embedding" not in fixed:
        embeddings.append("8-bit")
    return [(algorithm, embedding) for algorithm in algorithms for embedding in embeddings]


def _in_words(chosen: Recipe, config: MPTConfig) -> str:
    words = [f"{chosen.recompute or 'none'} of {config.n_layers} blocks computed twice"]
    if chosen.offload and chosen.recompute:
        words.append("their inputs in the host's memory")
    if chosen.schedule.accumulation > 1:
        words.append(f"{chosen.schedule.accumulation} passes a step")
    words += [f"optimiser {chosen.optimizer.algorithm}", f"embedding in {chosen.embedding.replace('-bit', ' bits')}"]
    return ", ".join(words)
