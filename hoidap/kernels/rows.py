"""What happens to each token's row between two products: residual sum, layer norm and GELU, forward and backward.

Each is one pass over memory. What a product reads next is written with columns to spare at its right, for that product's
low-rank term and bias (see ``bordered``): the first ``rank`` are left for the caller, then comes a one, then zeros.

Every function has a plain PyTorch reference, which is what runs off the GPU, and a Triton version; inside, both compute in
float32.
"""

import torch
from torch.nn.functional import gelu as torch_gelu
from torch.nn.functional import layer_norm

EPSILON = 1e-5  # of every layer norm


def set_spare(out: torch.Tensor, width: int, rank: int) -> None:
    """Fill the spare columns of ``out``, from ``width`` on: a one behind the first ``rank``, else zeros."""
    out[:, width:] = 0
    out[:, width + rank] = 1


def add_norm(
    x: torch.Tensor, y: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, rank: int
) -> torch.Tensor:
    """Write the norm of x + y into ``out`` and return the sum.

    Args:
        x: the residual stream [T, d].
        y: what is added to it [T, d], in any dtype; None: nothing, and ``x`` itself is returned.
        weight: of the norm [d].
        bias: of the norm [d].
        out: [T, d + spare], of the dtype that products are made in.
        rank: of the spare columns, those left for the low-rank term.

    """
    if x.device.type == "cuda":
        from hoidap.kernels import rows_triton

        return rows_triton.add_norm(x, y, weight, bias, out, rank)
    return add_norm_reference(x, y, weight, bias, out, rank)


def add_norm_reference(
    x: torch.Tensor, y: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, rank: int
) -> torch.Tensor:
    """``add_norm`` in plain PyTorch."""
    total = x if y is None else (x.float() + y.float()).to(x.dtype)
    out[:, : x.shape[1]] = _norm(total, weight, bias)
    set_spare(out, x.shape[1], rank)
    return total


def norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """Write the norm of ``x`` [T, d] into ``out`` [T, d], in its dtype.

    On a GPU this may begin while the launch ahead of it ends, and what comes behind it likewise.
    """
    if x.device.type == "cuda":
        from hoidap.kernels import rows_triton

        rows_triton.norm(x, weight, bias, out)
        return
    out.copy_(_norm(x, weight, bias))


def norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    above: torch.Tensor,
    out: torch.Tensor,
    normed: torch.Tensor,
) -> torch.Tensor:
    """Go back through a norm and add the gradient that came past it.

    Args:
        grad: of the norm's result [T, d].
        x: what was normed [T, d], in the residual stream's dtype.
        weight: of the norm [d].
        bias: of the norm [d].
        above: gradient of the residual stream behind the norm [T, d], in the stream's dtype.
        out: [T, d + spare]: gets the gradient of ``x`` in the dtype that products are made in; spare columns as they are.
        normed: [T, d]: gets the norm's result once more.

    Returns:
        The gradient of ``x`` [T, d] in the residual stream's dtype: ``out``'s columns where that is its dtype.

    """
    if x.device.type == "cuda":
        from hoidap.kernels import rows_triton

        return rows_triton.norm_backward(grad, x, weight, bias, above, out, normed)
    return norm_backward_reference(grad, x, weight, bias, above, out, normed)


def norm_backward_reference(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    above: torch.Tensor,
    out: torch.Tensor,
    normed: torch.Tensor,
) -> torch.Tensor:
    """``norm_backward`` in plain PyTorch."""
    d = x.shape[1]
    wide = x.detach().float().requires_grad_()
    with torch.enable_grad():
        result = _norm(wide, weight, bias)
    normed.copy_(result.detach())
    (through,) = torch.autograd.grad(result, wide, grad.float())
    total = (above.float() + through).to(x.dtype)
    out[:, :d] = total
    return out[:, :d] if out.dtype == x.dtype else total


def gelu(u: torch.Tensor, out: torch.Tensor, rank: int) -> None:
    """Write the exact GELU of ``u`` [T, n] into ``out`` [T, n + spare], and its spare columns."""
    if u.device.type == "cuda":
        from hoidap.kernels import rows_triton

        rows_triton.gelu(u, out, rank)
        return
    out[:, : u.shape[1]] = torch_gelu(u.float())
    set_spare(out, u.shape[1], rank)


def gelu_backward(u: torch.Tensor, grad: torch.Tensor, out: torch.Tensor) -> None:
    """Write the gradient of ``u`` [T, n] into ``out`` [T, n + spare], and GELU(u) over ``grad`` [T, n].

    Spare columns stay as they are.
    """
    if u.device.type == "cuda":
        from hoidap.kernels import rows_triton

        rows_triton.gelu_backward(u, grad, out)
        return
    wide = u.detach().float().requires_grad_()
    with torch.enable_grad():
        result = torch_gelu(wide)
    out[:, : u.shape[1]] = torch.autograd.grad(result, wide, grad.float())[0]
    grad.copy_(result.detach())


def _norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    wide = None if bias is None else bias.float()
    return layer_norm(x.float(), x.shape[1:], weight.float(), wide, EPSILON)
