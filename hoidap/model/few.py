"""The network for up to 64 single tokens, each continuing a row of a cache: what generating runs.

It computes what ``MPT.hidden`` and ``MPT.logits`` do, with other kernels: matrices in four or eight bits are read once,
biases, GELU, residual sums and the adapter are part of their launches, and on a GPU all of a step's launches are one CUDA
graph. Tokens need not be of different rows: every token's keys are in the cache before any token looks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import embedding

from hoidap.kernels import cached, few, int8, rows
from hoidap.kernels.few import MOST_TOKENS, Cells, Operand, Scratch
from hoidap.kernels.int8 import Int8Weight
from hoidap.model.adapter import Adapter
from hoidap.model.cache import KVCache
from hoidap.model.config import LINEARS
from hoidap.model.mpt import MPT, WTE

_LEAST_SPAN = 256  # tokens of the longest row: there is a graph for this, and for each four times of it


def is_able(model: MPT) -> bool:
    """Whether a model can be run by ``FewTokens``."""
    config = model.config
    linears = [f"transformer.blocks.{layer}.{linear}.weight" for layer in range(config.n_layers) for linear in LINEARS]
    return (
        not config.qk_ln
        and not config.learned_pos_emb
        and config.head_dim in cached.WIDTHS
        and all(few.is_able(model.weights[name], model.dtype) for name in linears)
    )


@dataclass(frozen=True)
class _Block:
    """One block's matrices, made ready."""

    name: str
    qkv: Operand
    out: Operand
    up: Operand
    down: Operand


@dataclass(frozen=True)
class Started:
    """A step under way."""

    logits: torch.Tensor  # float32 [N, V], overwritten by the next step
    _likeliest: torch.Tensor  # [2, N] in the host's memory, being written
    _event: torch.cuda.Event | None

    def likeliest(self) -> tuple[list[int], list[float]]:
        """Wait for the step; return each token's likeliest successor, and its log-probability (nats)."""
        if self._event is not None:
            self._event.synchronize()
        ids, nats = self._likeliest.tolist()
        return [int(token) for token in ids], nats


class FewTokens:
    """``model`` with ``adapter`` on the rows of ``cache``; ``is_able`` has said that it can.

    The adapter is copied: what is trained afterwards is not seen.
    """

    def __init__(self, model: MPT, adapter: Adapter | None, cache: KVCache) -> None:
        config, device = model.config, model.device
        self._model = model
        self._cache = cache
        self._blocks = [self._ready(layer, adapter) for layer in range(config.n_layers)]
        self._slopes = torch.tensor(config.alibi_slopes(), device=device)
        self._scratch = Scratch.of(device, adapter.rank if adapter else 0)
        self._pieces = cached.Pieces.of(MOST_TOKENS, config.n_heads, config.head_dim, cache.max_tokens, device)
        is_gpu = device.type == "cuda"
        # Tokens, rows, positions, and what the rows held before, of a step: [4, size], its beginning alone in use. What is
        # not in one piece would be copied while the host waits.
        self._asked = torch.zeros(4 * MOST_TOKENS, dtype=torch.int32, device=device)
        self._told = torch.zeros(4 * MOST_TOKENS, dtype=torch.int32, pin_memory=is_gpu)
        self._said = [torch.zeros(2 * MOST_TOKENS, pin_memory=is_gpu) for _ in range(2)]  # by turns
        self._taken = torch.cuda.Event() if is_gpu else None  # type: ignore[no-untyped-call]
        self._pool: Any = None
        self._graphs: dict[tuple[int, int], Callable[[], tuple[torch.Tensor, torch.Tensor]]] = {}
        self._count = self._longest = 0  # of the last step: tokens, and the longest row

    def start(self, tokens: Sequence[int], cache_rows: Sequence[int], positions: Sequence[int]) -> Started:
        """Begin a step: store the tokens' keys and values, and say what comes behind each.

        Args:
            tokens: ids, 1 to 64 of them.
            cache_rows: the row that each stands in.
            positions: its place there. The caller counts the row's tokens.

        """
        self._count, self._longest = len(tokens), max(positions) + 1
        size = self._size
        settled: dict[int, int] = {}
        for row, position in zip(cache_rows, positions, strict=True):
            settled[row] = min(position, settled.get(row, position))
        told = (tokens, cache_rows, positions, [settled[row] for row in cache_rows])
        filled = [[*values, *[values[0]] * (size - len(values))] for values in told]
        if self._taken is not None:
            self._taken.synchronize()  # else what was told last would change under the copy
        self._told[: 4 * size] = torch.tensor(filled, dtype=torch.int32).flatten()  # the first token again where few ask
        self._asked[: 4 * size].copy_(self._told[: 4 * size], non_blocking=True)
        if self._taken is not None:
            self._taken.record()
        return self._go()

    def go_on(self) -> Started:
        """Begin a step with the likeliest successors of the last step's tokens, each behind its token in its row."""
        self._longest += 1
        return self._go()

    @property
    def _size(self) -> int:
        return 1 << (self._count - 1).bit_length()

    def _go(self) -> Started:
        span = _LEAST_SPAN
        while span < self._longest:
            span *= 4
        span = min(span, self._cache.max_tokens)
        if (self._size, span) not in self._graphs:
            self._graphs[self._size, span] = self._captured(self._size, span)
        logits, likeliest = self._graphs[self._size, span]()
        said = self._said[0][: likeliest.numel()].view_as(likeliest)
        self._said.reverse()
        said.copy_(likeliest, non_blocking=True)
        event = torch.cuda.Event() if self._taken is not None else None  # type: ignore[no-untyped-call]
        if event is not None:
            event.record()
        return Started(logits[: self._count], said[:, : self._count], event)

    def _captured(self, size: int, span: int) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
        """Return what makes a step, and leaves the next step's tokens and positions to be asked."""
        if self._model.device.type != "cuda":
            return lambda: self._step(size, span)
        self._pool = self._pool or torch.cuda.graph_pool_handle()  # one for all: they never run side by side
        asked = self._asked.clone()
        self._step(size, span)  # compiles what is new
        torch.cuda.synchronize(self._model.device)
        # Two by turns: to launch one that still runs waits for it.
        graphs = []
        for _ in range(2):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                results = self._step(size, span)
            graphs.append((graph, results))
        self._asked.copy_(asked)

        def replay() -> tuple[torch.Tensor, torch.Tensor]:
            graph, results = graphs[0]
            graphs.reverse()
            graph.replay()
            return results

        return replay

    def _step(self, size: int, span: int) -> tuple[torch.Tensor, torch.Tensor]:
        model, config, scratch = self._model, self._model.config, self._scratch
        tokens, cache_rows, positions, settled = self._asked[: 4 * size].view(4, size)
        x = self._embed(tokens)
        normed, queries, attended, wide = (
            torch.empty(size, times * config.d_model, dtype=model.dtype, device=x.device)
            for times in (1, 1, 1, config.expansion_ratio)
        )
        for layer, block in enumerate(self._blocks):
            cells = Cells(self._cache.keys[layer], self._cache.values[layer], cache_rows, positions, settled)
            self._norm(x, f"{block.name}.norm_1", normed)
            few.attend_product(normed, block.qkv, queries, cells, config.clip_qkv, scratch)
            cached.attend(queries, cells, self._slopes, config.attention_scale, span, self._pieces, attended)
            few.product(attended, block.out, x, scratch, "add")
            self._norm(x, f"{block.name}.norm_2", normed)
            few.product(normed, block.up, wide, scratch, "gelu")
            few.product(wide, block.down, x, scratch, "add")
        self._norm(x, "transformer.norm_f", normed)
        logits = self._logits(normed)
        largest, ids = logits.max(-1)
        tokens.copy_(ids)
        positions += 1
        settled.copy_(positions)
        return logits, torch.stack([ids.float(), largest - logits.logsumexp(-1)])  # ids are below 2²⁴

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        model = self._model
        wte = model.weights[WTE]
        if isinstance(wte, Int8Weight):
            return int8.dequantize(wte.rows(tokens.long()), model.dtype).to(model.stream_dtype)
        return embedding(tokens, model.tensor("transformer.wte")).to(model.stream_dtype)

    def _norm(self, x: torch.Tensor, module: str, out: torch.Tensor) -> None:
        rows.norm(x, self._model.tensor(module), self._model.bias(module), out)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        model = self._model
        wte = model.weights[WTE]
        if not isinstance(wte, Int8Weight) or not few.is_able(wte, model.dtype):
            return model.logits(hidden)
        logits = torch.empty(len(hidden), wte.shape[0], device=hidden.device)
        few.product(hidden, Operand.of(wte, None, model.dtype), logits, self._scratch)
        return logits if model.config.logit_scale is None else logits * model.config.logit_scale

    def _ready(self, layer: int, adapter: Adapter | None) -> _Block:
        name = f"transformer.blocks.{layer}"

        def ready(linear: str) -> Operand:
            weight = self._model.weights[f"{name}.{linear}.weight"]
            assert not isinstance(weight, torch.Tensor)  # noqa: S101 - is_able has looked
            operand = Operand.of(weight, self._model.bias(f"{name}.{linear}"), self._model.dtype)
            delta = adapter.deltas.get(f"{name}.{linear}") if adapter else None
            return operand if delta is None else operand.with_adapter(delta.A, delta.B, delta.scale, self._model.dtype)

        return _Block(name, ready("attn.Wqkv"), ready("attn.out_proj"), ready("ffn.up_proj"), ready("ffn.down_proj"))
