"""MPT, exactly as llm-foundry v0.3.0 computes it, on a flat stream of tokens.

A model is its configuration and its tensors, under the names they have in the checkpoint. Notation: T tokens in the stream,
D documents, B rows, d = d_model, H heads, V vocabulary.

    x = wte[tokens]
    for each block:                               pre-norm, one after the other
        q, k, v = Wqkv norm_1(x)                  clamped after the bias; normed over all of d where qk_ln
        x = x + out_proj attention(q, k, v)       scores + ALiBi, softmax in float32
        x = x + down_proj gelu(up_proj norm_2(x)) exact erf GELU
    logits = norm_f(x) wteᵀ
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import embedding, gelu, layer_norm
from torch.utils.checkpoint import checkpoint

from hoidap.kernels import attention
from hoidap.kernels.fourbit import FourBitWeight
from hoidap.kernels.int8 import Int8Weight
from hoidap.model import blocks
from hoidap.model.cache import CacheRows
from hoidap.model.config import MPTConfig
from hoidap.model.linear import Weight, dequantized, linear

if TYPE_CHECKING:
    from hoidap.model.adapter import Adapter

_EPSILON = 1e-5  # of every layer norm
_DECODED_BYTES = 2**29  # of matrices held decoded on the CPU
DECODED_ROWS = 16_384  # of an embedding in eight or four bits, decoded at once: 128 MB of 7B5's
WTE = "transformer.wte.weight"  # the embedding, which is the output layer too


class MPT:
    """An MPT: ``config``, and ``weights`` by checkpoint name, complete and of the right shapes (see ``checkpoint``).

    ``dtype`` is what activations are computed in; norms, scores and logits are float32 inside whatever it is, and beside
    float16 so is the residual stream. ``weights`` is kept as it is: a mapping may read its tensors when they are asked for.
    """

    def __init__(self, config: MPTConfig, weights: Mapping[str, Weight], dtype: torch.dtype) -> None:
        self.config = config
        self.weights = weights
        self.dtype = dtype
        self.recompute = 0  # blocks, from the first, that forget their activations and compute them again going back
        self.offload = False  # what such blocks still keep, their inputs, is kept in the host's memory
        self.attention = attention.pick(self.device, dtype, config.head_dim)
        self.merged: Adapter | None = None
        self._slopes = torch.tensor(config.alibi_slopes(), device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights[WTE].device

    @property
    def n_parameters(self) -> int:
        """Number of weights, however they are held."""
        return self.config.n_parameters

    @property
    def stream_dtype(self) -> torch.dtype:
        """What the residual stream is added up in.

        In large models a few of its channels grow from block to block (Sun et al. 2024, arXiv 2402.17762). Where the sum
        passes float16's largest number, 65,504, it is infinite, every norm of it NaN, and the first choice always token 0.
        """
        return torch.float32 if self.dtype == torch.float16 else self.dtype

    def hidden(
        self,
        tokens: torch.Tensor,
        doc_starts: Sequence[int],
        cache: CacheRows | None = None,
        adapter: "Adapter | None" = None,
    ) -> torch.Tensor:
        """Return what the output layer reads.

        Args:
            tokens: the documents' ids one behind another, int64 [T].
            doc_starts: where each begins, and T: [D + 1].
            cache: rows to continue, one a document; its tokens stand behind those the row holds, and are kept there.
            adapter: an update of the linear layers, in force for all documents.

        Returns:
            [T, d] after the last norm, in the model's dtype.

        Raises:
            ValueError: starts that are not the documents', a document or row that is too long, or a second adapter.

        """
        if adapter is not None and self.merged is not None:
            msg = "this model has an adapter merged into it already; call it without one"
            raise ValueError(msg)
        lengths = attention.lengths_of(doc_starts)
        if doc_starts[-1] != len(tokens):  # a shorter stream would be stretched over the tokens unseen
            msg = f"document starts must rise from 0 to the number of tokens, {len(tokens)}; got {list(doc_starts)[-20:]}"
            raise ValueError(msg)
        past = cache.past if cache else [0] * len(lengths)
        x = self._embed(tokens, lengths, past)
        # A prompt on empty rows attends to itself alone: the packed layout, which shares its bias, does.
        layout: attention.Layout | attention.Appended
        if any(past):
            layout = attention.Appended.lay_out(doc_starts, past, self._slopes)
        else:
            layout = attention.lay_out(self.attention, doc_starts, self._slopes, self.dtype)
            if adapter and not cache and self.is_written_out(adapter):
                return self._norm(blocks.run(self, adapter, x, layout), "transformer.norm_f")
        at = cache.places(lengths) if cache else None
        for layer in range(self.config.n_layers):
            if layer < self.recompute and torch.is_grad_enabled():
                x = checkpoint(self._block, x, layer, layout, cache, at, adapter, use_reentrant=False)
            else:
                x = self._block(x, layer, layout, cache, at, adapter)
        if cache:
            cache.advance(lengths)
        return self._norm(x, "transformer.norm_f")

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 logits [..., V] of ``hidden`` [..., d]; the output layer is the embedding (tied)."""
        pieces = [linear(hidden, piece, None, out_dtype=self.stream_dtype).float() for piece in self.head()]
        out = torch.cat(pieces, dim=-1) if len(pieces) > 1 else pieces[0]
        return out if self.config.logit_scale is None else out * self.config.logit_scale

    def head(self) -> Iterator[torch.Tensor]:
        """Yield the output layer, the embedding (tied), in pieces of whole rows: one, unless it has to be decoded."""
        wte = self.weights[WTE]
        if isinstance(wte, torch.Tensor):
            yield self.tensor("transformer.wte")
            return
        for begin in range(0, wte.shape[0], DECODED_ROWS):
            yield dequantized(wte.rows(slice(begin, begin + DECODED_ROWS)), self.dtype)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return float32 logits [B, T, V] of ``input_ids`` [B, T]; padding (mask 0), at either end, gets zeros.

        Raises:
            ValueError: a row is all padding, has a hole in its mask, or is longer than the model was trained for.

        """
        rows, width = input_ids.shape
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        lengths = mask.sum(1)
        edges = (mask[:, 1:] != mask[:, :-1]).sum(1) + mask[:, 0] + mask[:, -1]  # one run of ones has two ends
        if bool((lengths == 0).any()) or bool((edges > 2).any()):
            msg = "attention_mask must mark one unbroken run of tokens in every row"
            raise ValueError(msg)
        if int(lengths.max()) > self.config.max_seq_len:
            msg = f"a row has {int(lengths.max())} tokens; this model reads at most {self.config.max_seq_len}"
            raise ValueError(msg)
        starts = [0, *lengths.cumsum(0).tolist()]
        hidden = self.hidden(input_ids[mask].to(self.device), starts)
        logits = torch.zeros(rows, width, self.config.vocab_size, device=self.device)
        logits[mask.to(self.device)] = self.logits(hidden)
        return logits

    def trainable(self) -> dict[str, torch.Tensor]:
        """Return the weights whose gradients are wanted."""
        return {name: w for name, w in self.weights.items() if isinstance(w, torch.Tensor) and w.requires_grad}

    def unfreeze(self, dtype: torch.dtype) -> None:
        """Have every weight trained; weights stay as they are, float32, activations are computed in ``dtype``."""
        self.dtype = dtype
        self.attention = attention.pick(self.device, dtype, self.config.head_dim)
        for weight in self.weights.values():
            assert isinstance(weight, torch.Tensor)  # noqa: S101 - a model of quantised weights has an adapter to train
            weight.requires_grad_()

    def decoded(self) -> "MPT":
        """Return a model that holds the matrices that were in four bits: faster, and larger.

        Its products are the same. Those of int8 are not decoded: they round the activations too.
        """
        held = {name: weight for name, weight in self.weights.items() if isinstance(weight, FourBitWeight)}
        weights = {**self.weights, **{name: dequantized(weight, self.dtype) for name, weight in held.items()}}
        model = MPT(self.config, weights, self.dtype)
        model.recompute, model.offload, model.merged = self.recompute, self.offload, self.merged
        return model

    @property
    def trains_head(self) -> bool:
        """Whether the embedding's gradient is wanted."""
        wte = self.weights[WTE]
        return isinstance(wte, torch.Tensor) and wte.requires_grad

    @property
    def is_int8(self) -> bool:
        """Whether matrices are held in eight bits."""
        return any(isinstance(weight, Int8Weight) for name, weight in self.weights.items() if name != WTE)

    @property
    def is_cheap_decoded(self) -> bool:
        """Whether to decode once: on a CPU decoding for each product is half the time of a small model's step."""
        return self.device.type == "cpu" and self.n_parameters * self.dtype.itemsize <= _DECODED_BYTES

    def merge(self, adapter: "Adapter") -> "MPT":
        """Return a model with the adapter's update added to its weights: dequantised, added in float32, rounded once.

        Merging the same adapter again changes nothing. Tensors that the adapter leaves alone are shared with this model.

        Raises:
            ValueError: another adapter is merged already.

        """
        if self.merged is adapter:
            return self
        if self.merged is not None:
            msg = "another adapter is merged into this model already; merge into the base"
            raise ValueError(msg)
        weights = dict(self.weights)
        for module in adapter.deltas:
            name = f"{module}.weight"
            weights[name] = self.full(name, adapter).to(self.dtype)
        model = MPT(self.config, weights, self.dtype)
        model.merged = adapter
        return model

    def full(self, name: str, adapter: "Adapter | None" = None) -> torch.Tensor:
        """Return a weight decoded, in float32, with the adapter's update added."""
        weight = dequantized(self.weights[name], torch.float32).detach()
        delta = adapter.deltas.get(name.removesuffix(".weight")) if adapter else None
        return weight if delta is None else weight + delta.scale * (delta.B.detach() @ delta.A.detach())

    def is_written_out(self, adapter: "Adapter") -> bool:
        """Whether training goes through ``blocks``: the GPU's path for an adapter on a frozen base, in 16 bits."""
        is_here = self.device.type == "cuda" and self.dtype != torch.float32 and torch.is_grad_enabled()
        is_trained = is_here and any(matrix.requires_grad for matrix in adapter.trainable().values())
        return is_trained and blocks.is_able(self, adapter)

    def _embed(self, tokens: torch.Tensor, lengths: Sequence[int], past: Sequence[int]) -> torch.Tensor:
        wte = self.weights[WTE]
        if isinstance(wte, torch.Tensor):
            x = embedding(tokens, self.tensor("transformer.wte")).to(self.stream_dtype)  # [T, d]
        else:
            x = dequantized(wte.rows(tokens), self.dtype).to(self.stream_dtype)
        if self.config.learned_pos_emb:
            spans = zip(past, lengths, strict=True)
            positions = [place for old, new in spans for place in range(old, old + new)]
            if max(positions) >= self.config.max_seq_len:
                msg = f"a document has {max(positions) + 1} tokens; this model has {self.config.max_seq_len} positions"
                raise ValueError(msg)
            table = self.tensor("transformer.wpe")
            x = x + embedding(torch.tensor(positions, device=self.device), table).to(x.dtype)
        return x

    def _block(
        self,
        x: torch.Tensor,
        layer: int,
        layout: attention.Layout | attention.Appended,
        cache: CacheRows | None,
        at: tuple[torch.Tensor, torch.Tensor] | None,
        adapter: "Adapter | None",
    ) -> torch.Tensor:
        block = f"transformer.blocks.{layer}"
        qkv = self._qkv(self._norm(x, f"{block}.norm_1"), block, adapter)  # [T, 3, H, d/H]
        if cache and at:
            cache.store(layer, at, qkv[:, 1], qkv[:, 2])
        if isinstance(layout, attention.Appended):
            assert cache is not None  # noqa: S101 - it is made for a cache alone
            keys, values = cache.read(layer, layout.bias.shape[-1])
            attended = layout.attend(qkv[:, 0], keys, values, self.config.attention_scale)
        else:
            attended = layout.attend(qkv, self.config.attention_scale)
        x = x + self._linear(attended.flatten(1), f"{block}.attn.out_proj", adapter, x.dtype)  # [T, H, d/H] → [T, d]
        up = self._linear(self._norm(x, f"{block}.norm_2"), f"{block}.ffn.up_proj", adapter)  # [T, 4d]
        return x + self._linear(gelu(up), f"{block}.ffn.down_proj", adapter, x.dtype)

    def _qkv(self, x: torch.Tensor, block: str, adapter: "Adapter | None") -> torch.Tensor:
        qkv = self._linear(x, f"{block}.attn.Wqkv", adapter)  # [T, 3d]: all of q, all of k, all of v
        if self.config.clip_qkv is not None:
            qkv = qkv.clamp(-self.config.clip_qkv, self.config.clip_qkv)
        if self.config.qk_ln:
            q, k, v = qkv.chunk(3, dim=1)
            qkv = torch.cat([self._norm(q, f"{block}.attn.q_ln"), self._norm(k, f"{block}.attn.k_ln"), v], dim=1)
        return qkv.view(-1, 3, self.config.n_heads, self.config.head_dim)

    def _linear(
        self, x: torch.Tensor, module: str, adapter: "Adapter | None", out_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        delta = adapter.deltas.get(module) if adapter else None
        return linear(x, self.weights[f"{module}.weight"], self.bias(module), delta, out_dtype)

    def _norm(self, x: torch.Tensor, module: str) -> torch.Tensor:
        # low_precision_layernorm returns the activations' dtype; PyTorch's kernels keep mean and variance in float32.
        weight, bias = self.tensor(module).to(x.dtype), self.bias(module)
        normed = layer_norm(x, x.shape[-1:], weight, None if bias is None else bias.to(x.dtype), _EPSILON)
        return normed.to(self.dtype)

    def bias(self, module: str) -> torch.Tensor | None:
        """Return a module's bias; None in a model without."""
        return None if self.config.no_bias else self.tensor(module, "bias")

    def tensor(self, module: str, kind: str = "weight") -> torch.Tensor:
        """Return a weight that is never quantised, or a bias."""
        weight = self.weights[f"{module}.{kind}"]
        assert isinstance(weight, torch.Tensor)  # noqa: S101 - only the linears of blocks are ever quantised
        return weight
