"""For the other scripts: PhoGPT's shapes, items of the baselines' lengths, how far a GPU's gradients are from float32's.

Items are log-normal (4.7, 0.6) tokens clipped to 16 … 1,024, mean 133, of which the last 60 % are labelled.
"""

import torch

from hoidap.data.pack import Batch, pack
from hoidap.model.adapter import new_adapter
from hoidap.model.checkpoint import assemble, random_tensors
from hoidap.model.config import MPTConfig
from hoidap.model.loss import loss_nats
from hoidap.prompt import Rendered

SHAPES = {
    "4b": MPTConfig(d_model=3072, n_heads=24, n_layers=32, vocab_size=20_480, max_seq_len=8192),
    "7b5": MPTConfig(d_model=4096, n_heads=32, n_layers=32, vocab_size=250_880, max_seq_len=2048),
}
RANK, ALPHA = 32, 32


def items(count: int, vocab_size: int, seed: int = 0) -> list[Rendered]:
    """Draw items of the baselines' lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (4.7 + 0.6 * torch.randn(count, generator=generator)).exp().clamp(16, 1024).int().tolist()
    drawn = []
    for n in lengths:
        ids = torch.randint(4, vocab_size, (n,), generator=generator).tolist()
        drawn.append(Rendered(ids, [at >= n * 0.4 for at in range(n)]))
    return drawn


def batches(documents: list[Rendered], tokens: int) -> list[Batch]:
    """Fill batches of up to ``tokens`` in order."""
    groups: list[list[Rendered]] = [[]]
    for document in documents:
        if sum(len(d.token_ids) for d in groups[-1]) + len(document.token_ids) > tokens:
            groups.append([])
        groups[-1].append(document)
    return [pack(group) for group in groups]


def gradient_error(device: torch.device, dtype: torch.dtype) -> float:
    """Return ‖g − g₃₂‖ / ‖g₃₂‖ of all adapter gradients of a small model against float32 on the CPU, same weights."""
    config = MPTConfig(d_model=256, n_heads=8, n_layers=4, vocab_size=1024, max_seq_len=1024)
    batch = pack(items(8, config.vocab_size, seed=1))
    grads = []
    cpu = torch.device("cpu")
    for where, kind in ((cpu, torch.float32), (device, dtype)):
        model = assemble(config, random_tensors(config, cpu, torch.float32, 0), quantize="nf4", device=where, dtype=kind)
        generator = torch.Generator().manual_seed(0)
        adapter = new_adapter(config, 8, 16, where, generator)
        for delta in adapter.deltas.values():
            with torch.no_grad():
                delta.B.copy_(torch.randn(delta.B.shape, generator=generator) * 0.02)
        moved = batch.to(where)
        hidden = model.hidden(moved.tokens, moved.starts, adapter=adapter)
        (loss_nats(model, hidden[moved.predicting], moved.targets) / len(moved.targets) * 1024).backward()
        grads.append(torch.cat([t.grad.flatten().cpu() for t in adapter.trainable().values() if t.grad is not None]))
    return float((grads[1] - grads[0]).norm() / grads[0].norm())


def memory_gib() -> float:
    """Return what the driver reports in use on the device."""
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**30


def context_gib() -> float:
    """Return what the driver reported when the process held its context and nothing else."""
    return _CONTEXT_GIB[0]


def note_context() -> None:
    """Open the device and note what that takes."""
    torch.zeros(1, device="cuda")
    _CONTEXT_GIB[0] = memory_gib()


_CONTEXT_GIB = [0.0]
