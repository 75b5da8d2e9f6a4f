"""The blocks of a model whose adapter is trained, forward and backward written out.

Of the 36 d bytes a token that autograd would keep of a block, little more than half is kept here: the stream before each
half, queries, keys and values, what attention made of them, and the MLP's pre-activation, 10 d numbers of 16 bits. Norms
and GELU are computed again, frozen matrices decoded again, and a product brings its bias and low-rank term with it
(``kernels.bordered``). Where even that is too much, a block keeps its input alone and runs forward twice.

    qkv = Wqkv norm_1(x)    x' = x + out_proj attention(qkv)    u = up_proj norm_2(x')    x'' = x' + down_proj gelu(u)

The gradient of the stream is carried beside its 16-bit copy, which has columns to spare for the low-rank products.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hoidap.kernels import attention, rows
from hoidap.kernels.bordered import bordered, spare
from hoidap.kernels.fourbit import FourBitWeight
from hoidap.kernels.product import product
from hoidap.model.config import LINEARS, MPTConfig
from hoidap.model.linear import LowRank

if TYPE_CHECKING:
    from hoidap.model.adapter import Adapter
    from hoidap.model.mpt import MPT


def bytes_kept(config: MPTConfig, rank: int, stream_bytes: int) -> int:
    """Return how many bytes a block keeps of each token; computed twice, ``d_model · stream_bytes`` of them."""
    d, wide = config.d_model, config.expansion_ratio * config.d_model
    return 2 * stream_bytes * d + 2 * (3 * d + d + spare(rank) + wide) + 3 * 2 * rank + 4 * config.n_heads


def bytes_at_work(config: MPTConfig, rank: int, stream_bytes: int) -> int:
    """Return how many bytes a token takes, beyond what is kept, while its block goes back."""
    d, wide, room = config.d_model, config.expansion_ratio * config.d_model, spare(rank)
    return 2 * (2 * wide + room) + 2 * 3 * (d + room) + stream_bytes * d


def bytes_decoded(config: MPTConfig, rank: int) -> int:
    """Return how many bytes the largest matrix takes with its borders."""
    d, wide, room = config.d_model, config.expansion_ratio * config.d_model, spare(rank)
    return 2 * (wide + room) * (d + room)


def is_able(model: "MPT", adapter: "Adapter") -> bool:
    """Whether a model and an adapter are of the plain kind that is written out here; others go through autograd."""
    config = model.config
    if config.qk_ln or config.clip_qkv is not None:
        return False
    for layer in range(config.n_layers):
        for target in LINEARS:
            module = f"transformer.blocks.{layer}.{target}"
            weight, delta = model.weights[f"{module}.weight"], adapter.deltas.get(module)
            is_frozen = isinstance(weight, FourBitWeight) or (isinstance(weight, torch.Tensor) and not weight.requires_grad)
            if delta is None or delta.dropout or not is_frozen:
                return False
    return True


def run(model: "MPT", adapter: "Adapter", x: torch.Tensor, layout: attention.Layout) -> torch.Tensor:
    """Return what the last block makes of ``x`` [T, d]; gradients flow to ``x`` and to the adapter's matrices."""
    blocks = _Blocks(model, adapter, layout)
    matrices = [matrix for linear in blocks.linears for matrix in (linear.delta.A, linear.delta.B)]
    result: torch.Tensor = _Run.apply(x, blocks, *matrices)  # type: ignore[no-untyped-call]
    return result


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, blocks: "_Blocks", *matrices: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        ctx.blocks, ctx.kept = blocks, []
        added = None  # what the block before adds to x; the next norm makes the sum on its way
        for layer in range(blocks.n_layers):
            kept, after = blocks.forward(layer, x, added)
            ctx.kept.append(blocks.put_away(kept.x) if layer < blocks.recompute else kept)
            x, added = kept.middle, after
        return x if added is None else (x.float() + added.float()).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        blocks: _Blocks = ctx.blocks
        if not ctx.kept:
            msg = "a second backward pass through the same blocks; what they kept is gone with the first"
            raise RuntimeError(msg)
        narrow, above = blocks.with_spare(grads[0])
        matrices = []
        for layer in reversed(range(blocks.n_layers)):
            kept = ctx.kept.pop()
            if isinstance(kept, torch.Tensor):
                kept, _ = blocks.forward(layer, kept.to(grads[0].device, non_blocking=True), None, is_again=True)
            is_wanted = layer > 0 or ctx.needs_input_grad[0]
            narrow, above, found = blocks.backward(layer, kept, narrow, above, is_wanted=is_wanted)
            matrices.append(found)
        flat = [matrix for found in reversed(matrices) for matrix in found]
        return (above if ctx.needs_input_grad[0] else None, None, *flat)


@dataclass(frozen=True)
class _Linear:
    weight: torch.Tensor | FourBitWeight
    bias: torch.Tensor | None
    delta: LowRank


@dataclass
class _Kept:
    """What a block keeps for its backward pass."""

    x: torch.Tensor  # the stream before the block [T, d]
    qkv: torch.Tensor  # [T, 3, H, d / H]
    attended: torch.Tensor  # [T, d + spare], the low-rank product in its spare columns
    softmax: torch.Tensor | None  # what attention keeps of it
    middle: torch.Tensor  # the stream between the block's halves [T, d]
    up: torch.Tensor  # before the GELU [T, 4d]
    lows: tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # x Aᵀ [T, r] of Wqkv, up_proj and down_proj


class _Blocks:
    """All blocks of one pass."""

    def __init__(self, model: "MPT", adapter: "Adapter", layout: attention.Layout) -> None:
        self._model, self._layout, self._config = model, layout, model.config
        self.n_layers, self.recompute = model.config.n_layers, model.recompute
        self._rank, self._spare = adapter.rank, spare(adapter.rank)
        names = [f"transformer.blocks.{layer}.{target}" for layer in range(self.n_layers) for target in LINEARS]
        self.linears = [self._find(name, adapter.deltas[name]) for name in names]

    def forward(
        self, layer: int, x: torch.Tensor, added: torch.Tensor | None, *, is_again: bool = False
    ) -> tuple[_Kept, torch.Tensor | None]:
        """Run a block on the stream x + added.

        Returns:
            What the backward pass needs; and what is to be added to its ``middle``, unless the block only runs again.

        """
        into, out, up, down = self._of(layer)
        d = x.shape[1]
        normed = self._room(x, d)
        x = rows.add_norm(x, added, *self._norm(layer, 1), normed, self._rank)
        qkv = self._multiply(normed, into).view(len(x), 3, self._config.n_heads, -1)
        low_into = self._low(normed).clone()
        attended = self._room(x, d)
        softmax = self._layout.forward(qkv, self._config.attention_scale, attended)
        rows.set_spare(attended, d, self._rank)
        middle = rows.add_norm(x, self._multiply(attended, out, is_wide=True), *self._norm(layer, 2), normed, self._rank)
        before_gelu = self._multiply(normed, up)
        low_up = self._low(normed).clone()
        del normed
        active = self._room(x, before_gelu.shape[1])
        rows.gelu(before_gelu, active, self._rank)
        result = None
        if is_again:
            torch.mm(active[:, : before_gelu.shape[1]], down.delta.A.to(active.dtype).T, out=self._low(active))
        else:
            result = self._multiply(active, down, is_wide=True)
        lows = (low_into, low_up, self._low(active).clone())
        return _Kept(x, qkv, attended, softmax, middle, before_gelu, lows), result

    def backward(
        self, layer: int, kept: _Kept, narrow: torch.Tensor, above: torch.Tensor, *, is_wanted: bool
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Go back through a block.

        Args:
            layer: its number.
            kept: what it kept; is emptied on the way.
            narrow: gradient of the stream behind it, 16-bit, [T, d + spare].
            above: the same in the stream's dtype [T, d].
            is_wanted: whether the gradient of the stream before it is.

        Returns:
            The last two before the block, and the gradients of its adapter's matrices, A and B by turns.

        """
        into, out, up, down = self._of(layer)
        d, rank = kept.x.shape[1], self._rank
        low_into, low_up, low_down = kept.lows
        active = self._multiply_back(narrow, down)  # the gradient of GELU(u); then GELU(u) itself
        grad = self._room(narrow, active.shape[1])
        rows.gelu_backward(kept.up, active, grad)
        del kept.up
        of_down = self._of_matrices(narrow, active, low_down, down)
        del active
        narrow, above, normed = self._norm_back(self._multiply_back(grad, up), kept.middle, layer, 2, above)
        of_up = self._of_matrices(grad, normed, low_up, up)
        del grad, normed
        attended = kept.attended
        of_attended = self._multiply_back(narrow, out)
        of_out = self._of_matrices(narrow, attended[:, :d], attended[:, d : d + rank], out)
        grad = self._room(narrow, 3 * d)
        self._layout.backward(kept.qkv, self._config.attention_scale, attended, kept.softmax, of_attended, grad)
        del of_attended, attended, kept.attended, kept.qkv
        if is_wanted:
            narrow, above, normed = self._norm_back(self._multiply_back(grad, into), kept.x, layer, 1, above)
        else:
            self._low_back(grad, into)
            normed = self._room(narrow, d)
            rows.add_norm(kept.x, None, *self._norm(layer, 1), normed, rank)
        of_into = self._of_matrices(grad, normed[:, :d], low_into, into)
        return narrow, above, [*of_into, *of_out, *of_up, *of_down]

    def put_away(self, x: torch.Tensor) -> torch.Tensor:
        """Return the stream before a block that will run again: as it is, or a copy in the host's memory."""
        if not self._model.offload or x.device.type != "cuda":
            return x
        return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)

    def with_spare(self, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a 16-bit copy of ``grad`` [T, d] with columns to spare, and ``grad`` in the stream's dtype."""
        result = self._room(grad, grad.shape[1])
        narrow = result[:, : grad.shape[1]]
        narrow.copy_(grad)
        return result, narrow if narrow.dtype == grad.dtype else grad

    def _multiply(self, x: torch.Tensor, linear: _Linear, *, is_wide: bool = False) -> torch.Tensor:
        """Return [T, out] of ``x`` [T, in + spare], whose spare columns get x Aᵀ; in the stream's dtype if ``is_wide``."""
        (outs, ins), rank = linear.weight.shape, self._rank
        W = self._bordered(linear)
        torch.mm(x[:, :ins], W[outs : outs + rank, :ins].T, out=x[:, ins : ins + rank])
        is_wide = is_wide and self._model.stream_dtype != x.dtype
        return product(x, W[:outs].T) if is_wide else x @ W[:outs].T

    def _multiply_back(self, grad: torch.Tensor, linear: _Linear) -> torch.Tensor:
        """Return the gradient of x [T, in] given that of y [T, out + spare], whose spare columns get that of x Aᵀ."""
        W, (outs, ins) = self._low_back(grad, linear), linear.weight.shape
        return grad[:, : outs + self._rank] @ W[: outs + self._rank, :ins]

    def _low_back(self, grad: torch.Tensor, linear: _Linear) -> torch.Tensor:
        (outs, ins), rank = linear.weight.shape, self._rank
        W = self._bordered(linear)
        torch.mm(grad[:, :outs], W[:outs, ins : ins + rank], out=grad[:, outs : outs + rank])
        return W

    def _of_matrices(
        self, grad: torch.Tensor, x: torch.Tensor, low: torch.Tensor, linear: _Linear
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of A and B, float32."""
        outs, rank = linear.weight.shape[0], self._rank
        of_A = product(grad[:, outs : outs + rank].T, x)
        return of_A, product(grad[:, :outs].T, low).mul_(linear.delta.scale)

    def _norm_back(
        self, grad: torch.Tensor, x: torch.Tensor, layer: int, number: int, above: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        narrow, normed = self._room(grad, x.shape[1]), torch.empty_like(grad)
        above = rows.norm_backward(grad, x, *self._norm(layer, number), above, narrow, normed)
        return narrow, above, normed

    def _bordered(self, linear: _Linear) -> torch.Tensor:
        delta = linear.delta
        return bordered(linear.weight, delta.A, delta.B, delta.scale, linear.bias, self._model.dtype)

    def _room(self, like: torch.Tensor, width: int) -> torch.Tensor:
        return torch.empty(len(like), width + self._spare, dtype=self._model.dtype, device=like.device)

    def _low(self, x: torch.Tensor) -> torch.Tensor:
        begin = x.shape[1] - self._spare
        return x[:, begin : begin + self._rank]

    def _of(self, layer: int) -> Sequence[_Linear]:
        return self.linears[4 * layer : 4 * layer + 4]

    def _norm(self, layer: int, number: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        name = f"transformer.blocks.{layer}.norm_{number}"
        return self._model.tensor(name), None if self._config.no_bias else self._model.tensor(name, "bias")

    def _find(self, name: str, delta: LowRank) -> _Linear:
        weight = self._model.weights[f"{name}.weight"]
        assert isinstance(weight, torch.Tensor | FourBitWeight)  # noqa: S101 - see is_able
        return _Linear(weight, None if self._config.no_bias else self._model.tensor(name, "bias"), delta)
