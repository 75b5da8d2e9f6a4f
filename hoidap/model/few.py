"""The network for up to 64 single tokens, each continuing a row of a cache: what generating runs.

It computes what ``MPT.hidden`` and ``MPT.logits`` do, with other kernels: matrices in four or eight bits are read once,
biases, GELU, residual sums and the adapter are part of their launches, and on a GPU all of a step's launches are one CUDA
graph. Tokens need not be of different rows: every token's keys are in the cache before any token looks.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.nn.functional import embedding

from hoidap.kernels import cached, few, rows
from hoidap.kernels.few import MOST_TOKENS, Cells, Operand, Scratch
from hoidap.kernels.few_tiling import SIZES, size_of
from hoidap.model.adapter import Adapter
from hoidap.model.cache import KVCache
from hoidap.model.config import LINEARS
from hoidap.model.linear import dequantized
from hoidap.model.mpt import MPT, WTE

_LEAST_SPAN = 256  # tokens of the longest row: there is a graph for this, and for each four times of it


def most_tokens(model: MPT, rank: int = 0) -> int:
    """Return how many tokens at a time ``FewTokens`` can run a model with, and adapters up to ``rank``; 0 if it cannot."""
    config = model.config
    if config.qk_ln or config.learned_pos_emb or config.head_dim not in cached.WIDTHS:
        return 0
    linears = [f"transformer.blocks.{layer}.{linear}.weight" for layer in range(config.n_layers) for linear in LINEARS]
    return min(few.most_tokens(model.weights[name], model.dtype, rank) for name in linears)


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


class Workspace:
    """What the steps of one cache share, whichever adapter they take: one step runs at a time."""

    def __init__(self, model: MPT, cache: KVCache, rank: int) -> None:
        config, device = model.config, model.device
        is_gpu = device.type == "cuda"
        self.slopes = torch.tensor(config.alibi_slopes(), device=device)
        self.scratch = Scratch.of(device, rank)
        self.pieces = cached.Pieces.of(MOST_TOKENS, config.n_heads, config.head_dim, cache.max_tokens, device)
        self.logits = torch.empty(MOST_TOKENS, config.vocab_size, device=device)
        # Tokens, rows, positions, and what the rows held before, of a step: [4, size], its beginning alone in use. What is
        # not in one piece would be copied while the host waits.
        self.asked = torch.zeros(4 * MOST_TOKENS, dtype=torch.int32, device=device)
        self.told = torch.zeros(4 * MOST_TOKENS, dtype=torch.int32, pin_memory=is_gpu)
        self.said = [torch.zeros(2 * MOST_TOKENS, pin_memory=is_gpu) for _ in range(2)]  # by turns
        self.taken = torch.cuda.Event() if is_gpu else None  # type: ignore[no-untyped-call]

    @cached_property
    def pool(self) -> Any:
        """Of the graphs' memory: one for all."""
        return torch.cuda.graph_pool_handle()


class FewTokens:
    """``model`` with ``adapter`` on the rows of ``cache``; ``most_tokens`` has said that it can.

    The adapter is copied: what is trained afterwards is not seen. A workspace may be shared by the adapters of one cache.
    """

    def __init__(self, model: MPT, adapter: Adapter | None, cache: KVCache, workspace: Workspace | None = None) -> None:
        self._model = model
        self._cache = cache
        self._blocks = [self._ready(layer, adapter) for layer in range(model.config.n_layers)]
        wte = model.weights[WTE]
        self._head = None if isinstance(wte, torch.Tensor) else Operand.of(wte, None, model.dtype)
        self._shared = workspace or Workspace(model, cache, adapter.rank if adapter else 0)
        self._graphs: dict[tuple[int, int], Callable[[], torch.Tensor]] = {}
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
        shared = self._shared
        with self._on_device():
            if shared.taken is not None:
                shared.taken.synchronize()  # else what was told last would change under the copy
            shared.told[: 4 * size] = torch.tensor(filled, dtype=torch.int32).flatten()  # the first again where few ask
            shared.asked[: 4 * size].copy_(shared.told[: 4 * size], non_blocking=True)
            if shared.taken is not None:
                shared.taken.record()
            return self._go()

    def go_on(self) -> Started:
        """Begin a step with the likeliest successors of the last step's tokens, each behind its token in its row."""
        self._longest += 1
        with self._on_device():
            return self._go()

    def check(self) -> None:
        """Raise RuntimeError if the kernels do not compile, or are wrong on this GPU."""
        with self._on_device():
            few.check(self._blocks[0].out, self._model.dtype, self._shared.scratch)

    def warm_up(self, most: int) -> None:
        """Compile and capture the steps of up to ``most`` tokens in rows of the shortest span, so that no answer waits.

        It writes to the cache's first cells: nothing may be there.
        """
        with self._on_device():
            for size in SIZES[: SIZES.index(size_of(most)) + 1]:
                self._graph(size, min(_LEAST_SPAN, self._cache.max_tokens))

    def _on_device(self) -> AbstractContextManager[Any]:
        device = self._model.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    @property
    def _size(self) -> int:
        return size_of(self._count)

    def _go(self) -> Started:
        span = _LEAST_SPAN
        while span < self._longest:
            span *= 4
        span = min(span, self._cache.max_tokens)
        likeliest = self._graph(self._size, span)()
        said = self._shared.said[0][: likeliest.numel()].view_as(likeliest)
        self._shared.said.reverse()
        said.copy_(likeliest, non_blocking=True)
        event = torch.cuda.Event() if self._shared.taken is not None else None  # type: ignore[no-untyped-call]
        if event is not None:
            event.record()
        return Started(self._shared.logits[: self._count], said[:, : self._count], event)

    def _graph(self, size: int, span: int) -> Callable[[], torch.Tensor]:
        if (size, span) not in self._graphs:
            self._graphs[size, span] = self._captured(size, span)
        return self._graphs[size, span]

    def _captured(self, size: int, span: int) -> Callable[[], torch.Tensor]:
        """Return what makes a step, and leaves the next step's tokens and positions to be asked."""
        if self._model.device.type != "cuda":
            return lambda: self._step(size, span)
        asked = self._shared.asked.clone()
        self._step(size, span)  # compiles what is new
        torch.cuda.synchronize(self._model.device)
        # Two by turns: to launch one that still runs waits for it.
        graphs = []
        for _ in range(2):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._shared.pool, capture_error_mode="thread_local"):
                likeliest = self._step(size, span)
            graphs.append((graph, likeliest))
        self._shared.asked.copy_(asked)

        def replay() -> torch.Tensor:
            graph, likeliest = graphs[0]
            graphs.reverse()
            graph.replay()
            return likeliest

        return replay

    def _step(self, size: int, span: int) -> torch.Tensor:
        model, config, shared = self._model, self._model.config, self._shared
        tokens, cache_rows, positions, settled = shared.asked[: 4 * size].view(4, size)
        x = self._embed(tokens)
        normed, queries, attended, wide = (
            torch.empty(size, times * config.d_model, dtype=model.dtype, device=x.device)
            for times in (1, 1, 1, config.expansion_ratio)
        )
        for layer, block in enumerate(self._blocks):
            cells = Cells(self._cache.keys[layer], self._cache.values[layer], cache_rows, positions, settled)
            self._norm(x, f"{block.name}.norm_1", normed)
            few.attend_product(normed, block.qkv, queries, cells, config.clip_qkv, shared.scratch)
            cached.attend(queries, cells, shared.slopes, config.attention_scale, span, shared.pieces, attended)
            few.product(attended, block.out, x, shared.scratch, "add")
            self._norm(x, f"{block.name}.norm_2", normed)
            few.product(normed, block.up, wide, shared.scratch, "gelu")
            few.product(wide, block.down, x, shared.scratch, "add")
        self._norm(x, "transformer.norm_f", normed)
        logits = self._logits(normed)
        largest, ids = logits.max(-1)
        tokens.copy_(ids)
        positions += 1
        settled.copy_(positions)
        return torch.stack([ids.float(), largest - logits.logsumexp(-1)])  # ids are below 2²⁴

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        model = self._model
        wte = model.weights[WTE]
        if isinstance(wte, torch.Tensor):
            return embedding(tokens, wte).to(model.stream_dtype)
        return dequantized(wte.rows(tokens.long()), model.dtype).to(model.stream_dtype)

    def _norm(self, x: torch.Tensor, module: str, out: torch.Tensor) -> None:
        rows.norm(x, self._model.tensor(module), self._model.bias(module), out)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        model, head = self._model, self._head
        logits = self._shared.logits[: len(hidden)]
        if head is None or few.most_tokens(head.weight, model.dtype) < len(hidden):
            return logits.copy_(model.logits(hidden))
        few.product(hidden, head, logits, self._shared.scratch)
        return logits if model.config.logit_scale is None else logits.mul_(model.config.logit_scale)

    def _ready(self, layer: int, adapter: Adapter | None) -> _Block:
        name = f"transformer.blocks.{layer}"

        def ready(linear: str) -> Operand:
            weight = self._model.weights[f"{name}.{linear}.weight"]
            assert not isinstance(weight, torch.Tensor)  # noqa: S101 - most_tokens has looked
            operand = Operand.of(weight, self._model.bias(f"{name}.{linear}"), self._model.dtype)
            delta = adapter.deltas.get(f"{name}.{linear}") if adapter else None
            return operand if delta is None else operand.with_adapter(delta.A, delta.B, delta.scale, self._model.dtype)

        return _Block(name, ready("attn.Wqkv"), ready("attn.out_proj"), ready("ffn.up_proj"), ready("ffn.down_proj"))
