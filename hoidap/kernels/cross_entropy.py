"""Cross-entropy and its gradient in one go, so that logits are held for a chunk of tokens and never made twice."""

import torch


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, grad: torch.Tensor, factor: float) -> torch.Tensor:
    """Return the loss of each row in nats, float32 [N], and write ``factor`` times the gradient of ``logits``.

    Args:
        logits: float32 [N, V].
        targets: int64 [N], from 0 to V - 1.
        grad: [N, V], in the dtype that products are made in; gets (softmax(logits) − one-hot(targets)) · factor.
        factor: keeps small probabilities within a 16-bit dtype's range.

    """
    if logits.device.type == "cuda":
        from hoidap.kernels import cross_entropy_triton

        return cross_entropy_triton.cross_entropy(logits, targets, grad, factor)
    return cross_entropy_reference(logits, targets, grad, factor)


def cross_entropy_reference(logits: torch.Tensor, targets: torch.Tensor, grad: torch.Tensor, factor: float) -> torch.Tensor:
    """``cross_entropy`` in plain PyTorch."""
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    p[torch.arange(len(targets)), targets] -= 1
    grad.copy_(p * factor)
    return -log_p.gather(1, targets[:, None])[:, 0]
