"""The network for up to 64 single tokens, each continuing a row of a cache: what generating runs.

It computes what ``MPT.hidden`` and ``MPT.logits`` do, with other kernels: matrices in four or eight bits are read once, norms,
biases, GELU, residual sums and the adapter are part of the launches beside them, and on a GPU all of a step's launches are
one CUDA graph. Tokens need not be of different rows: every token's keys are in the cache before any token looks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import embedding

from hoidap.kernels import cached, few, int8, rows
from hoidap.kernels.few import MOST_TOKENS, Cells, Operand, Scratch
from hoidap.kernels.int8 import Int8Weight
from hoidap.model.adapter import Adapter
from hoidap.model.cache import KVCache
from hoidap.model.config import LINEARS
from hoidap.model.mpt import MPT, WTE

_LEAST_SPAN = 256  # of a graph: there is one for each power of two from here on


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
        self._asked = torch.zeros(3, MOST_TOKENS, dtype=torch.int32, device=device)  # tokens, rows, positions
        self._pool: tuple[int, int] | None = None
        self._graphs: dict[tuple[int, int], Callable[[], tuple[torch.Tensor, torch.Tensor]]] = {}

    def run(
        self, tokens: Sequence[int], cache_rows: Sequence[int], positions: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the tokens' keys and values; return logits and the likeliest tokens.

        Args:
            tokens: ids, 1 to 64 of them.
            cache_rows: the row that each stands in.
            positions: its place there. The caller counts the row's tokens.

        Returns:
            float32 [N, V], and float32 [2, N]: the likeliest token's id and its log-probability (nats). Both are
            overwritten by the next call.

        """
        count = len(tokens)
        size = 1 << (count - 1).bit_length()
        asked = torch.tensor([tokens, cache_rows, positions], dtype=torch.int32)
        if size > count:  # the first token again: it writes what is there
            asked = torch.cat([asked, asked[:, :1].expand(-1, size - count)], dim=1)
        self._asked[:, :size].copy_(asked)
        span = min(self._cache.max_tokens, max(_LEAST_SPAN, 1 << max(positions).bit_length()))
        if (size, span) not in self._graphs:
            self._graphs[size, span] = self._captured(size, span)
        logits, likeliest = self._graphs[size, span]()
        return logits[:count], likeliest[:, :count]

    def _captured(self, size: int, span: int) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
        if self._model.device.type != "cuda":
            return lambda: self._step(size, span)
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()  # one for all: they never run side by side
        self._step(size, span)  # compiles what is new
        torch.cuda.synchronize(self._model.device)
        with torch.cuda.graph(graph, pool=self._pool):
            results = self._step(size, span)

        def replay() -> tuple[torch.Tensor, torch.Tensor]:
            graph.replay()
            return results

        return replay

    def _step(self, size: int, span: int) -> tuple[torch.Tensor, torch.Tensor]:
        model, config, scratch = self._model, self._model.config, self._scratch
        tokens, cache_rows, positions = self._asked[:, :size]
        x = self._embed(tokens)
        normed, queries, attended = (torch.empty(size, config.d_model, dtype=model.dtype, device=x.device) for _ in range(3))
        wide = torch.empty(size, config.expansion_ratio * config.d_model, dtype=model.dtype, device=x.device)
        for layer, block in enumerate(self._blocks):
            cells = Cells(self._cache.keys[layer], self._cache.values[layer], cache_rows, positions)
            self._norm(x, f"{block.name}.norm_1", normed)
            few.attend_product(normed, block.qkv, queries, cells, config.clip_qkv, scratch)
            cached.attend(queries, cells, self._slopes, config.attention_scale, span, self._pieces, attended)
            few.product(attended, block.out, x, scratch, "add")
            self._norm(x, f"{block.name}.norm_2", normed)
            few.product(normed, block.up, wide, scratch, "gelu")
            few.product(wide, block.down, x, scratch, "add")
        self._norm(x, "transformer.norm_f", normed)
        logits = self._logits(normed)
        nats, ids = logits.log_softmax(-1).max(-1)
        return logits, torch.stack([ids.float(), nats])  # ids are below 2²⁴

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        model = self._model
        wte = model.weights[WTE]
        x = int8.dequantize(wte.rows(tokens.long()), model.dtype) if isinstance(wte, Int8Weight) else embedding(tokens, wte)  # type: ignore[arg-type]
        return x.to(model.stream_dtype)

    def _norm(self, x: torch.Tensor, module: str, out: torch.Tensor) -> None:
        rows.add_norm(x, None, self._model.tensor(module), self._model.bias(module), out, 0)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        model = self._model
        wte = model.weights[WTE]
        if not isinstance(wte, Int8Weight) or not few.is_able(wte, model.dtype):
            return model.logits(hidden)
        logits = torch.empty(len(hidden), wte.shape[0], device=hidden.device)
        few.product(hidden, Operand(wte, None), logits, self._scratch)
        return logits if model.config.logit_scale is None else logits * model.config.logit_scale

    def _ready(self, layer: int, adapter: Adapter | None) -> _Block:
        name = f"transformer.blocks.{layer}"

        def ready(linear: str) -> Operand:
            weight = self._model.weights[f"{name}.{linear}.weight"]
            assert not isinstance(weight, torch.Tensor)  # noqa: S101 - is_able has looked
            bias = self._model.bias(f"{name}.{linear}")
            operand = Operand(weight, None if bias is None else bias.to(self._model.dtype))
            delta = adapter.deltas.get(f"{name}.{linear}") if adapter else None
            return operand if delta is None else operand.with_adapter(delta.A, delta.B, delta.scale, self._model.dtype)

        return _Block(name, ready("attn.Wqkv"), ready("attn.out_proj"), ready("ffn.up_proj"), ready("ffn.down_proj"))
