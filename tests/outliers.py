"""A small MPT with outliers as large models have them, made by hand so that its answers are known and sure.

Each block is a table: at a token it finds token t strongest in the residual stream and adds, three times stronger, the one
that follows t in a fixed order. After four blocks the token four places on is the first choice, with random neurons and
heads making a noise beside it. Two kinds of outliers do no more than large models' do:

- ``CHANNELS`` come out of every norm a hundred to a thousand times larger than the rest (its gains are that large), and
  few of the weights behind look at them (Dettmers et al. 2022, arXiv 2208.07339);
- at ``START``, the token that opens a document, two channels of the residual stream grow by 30,000 in each block, past
  float16's 65,504 in the third (massive activations: Sun et al. 2024, arXiv 2402.17762). No single product does.
"""

from collections.abc import Iterator

import torch
from tiny import CPU

from hoidap.model.checkpoint import assemble
from hoidap.model.config import MPTConfig
from hoidap.model.mpt import MPT
from hoidap.recipe import Embedding, Quantize

CONFIG = MPTConfig(d_model=128, n_heads=4, n_layers=4, vocab_size=64, max_seq_len=64, logit_scale=0.05)
START = 1
CHANNELS = {20: 300.0, 41: 600.0, 90: 1200.0}  # and their gains
MASSIVE = [5, 70]  # of opposite sign
STEP = 30_000.0  # by which they grow in a block
START_NEURON = 0
_TABLE = range(1, 65)  # neurons, one a token
_LOOKING = range(65, 73)  # neurons that look at the outliers
_d = CONFIG.d_model
_COLUMNS = list(CHANNELS)


def follower(tokens: torch.Tensor) -> torch.Tensor:
    """Return the token that a model of sure answers writes after each: four places on in an order of 5, 10, 15, …"""
    return (tokens + 4 * 5) % CONFIG.vocab_size


def outlier_tensors() -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the model's tensors, float32."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, std: float) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * std

    words = torch.linalg.qr(normal(_d, CONFIG.vocab_size, std=1.0)).Q.T * _d**0.5  # [V, d], at right angles
    words[:, _COLUMNS] = words[:, _COLUMNS].sign()
    words[:, MASSIVE] = 0
    embedding = words.clone()
    embedding[START] *= 0.3
    embedding[START, MASSIVE] = torch.tensor([40.0, -40.0])
    tensors = {"transformer.wte.weight": embedding}
    for layer in range(CONFIG.n_layers):
        block = f"transformer.blocks.{layer}"
        loud = 3.0 ** (layer + 1)
        tensors[f"{block}.attn.Wqkv.weight"] = qkv = normal(3 * _d, _d, std=0.05)
        qkv[: 3 * _d - 2, _COLUMNS] = 0  # the last two values alone look at the outliers
        tensors[f"{block}.attn.out_proj.weight"] = out = normal(_d, _d, std=0.02 * loud)
        out[:, -2:] *= 0.01
        up, bias, down = _table(words, loud, normal)
        tensors |= {f"{block}.ffn.up_proj.weight": up, f"{block}.ffn.up_proj.bias": bias}
        tensors[f"{block}.ffn.down_proj.weight"] = down
    for name, shape in CONFIG.shapes().items():
        yield name, tensors[name] if name in tensors else _norm_or_bias(name, shape)


def _table(words: torch.Tensor, loud: float, normal) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a block's up_proj, its bias and its down_proj."""
    up, down, bias = normal(4 * _d, _d, std=0.08), normal(_d, 4 * _d, std=0.015 * loud), torch.zeros(4 * _d)
    up[:, _COLUMNS] = 0
    up[_LOOKING.start : _LOOKING.stop] = 0
    up[_LOOKING.start : _LOOKING.stop, _COLUMNS] = normal(len(_LOOKING), len(_COLUMNS), std=0.05)
    down[:, _LOOKING.start : _LOOKING.stop] *= 0.02
    quiet = words.clone()
    quiet[:, _COLUMNS] = 0
    at = slice(_TABLE.start, _TABLE.stop)
    up[at], bias[at] = 0.1 * quiet, -0.1 * 0.6 * _d
    down[:, at] = (loud / (0.1 * 0.35 * _d)) * words.roll(-5, 0).T  # a word at full strength is 0.35 · d past its threshold
    up[START_NEURON] = 0
    up[START_NEURON, MASSIVE] = torch.tensor([10.0, -10.0])
    bias[START_NEURON] = -20.0
    down[MASSIVE, :] = 0
    down[:, START_NEURON] = 0
    down[MASSIVE, START_NEURON] = torch.tensor([STEP, -STEP]) / (2 * 10.0 * (_d / 2) ** 0.5 - 20.0)
    return up, bias, down


def _norm_or_bias(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if not name.endswith("weight"):
        return torch.zeros(shape)
    gains = torch.ones(shape)
    if "norm_f" in name:
        gains[MASSIVE] = 0
    else:
        gains[_COLUMNS] = torch.tensor(list(CHANNELS.values()))
    return gains


def outlier_model(
    dtype: torch.dtype = torch.float32,
    *,
    quantize: Quantize = "none",
    double_quant: bool = True,
    embedding: Embedding = "16-bit",
    device: torch.device = CPU,
) -> MPT:
    how = {"quantize": quantize, "double_quant": double_quant, "embedding": embedding}
    return assemble(CONFIG, outlier_tensors(), **how, device=device, dtype=dtype)


def documents(n: int = 8, length: int = 32) -> tuple[torch.Tensor, list[int]]:
    """Return tokens of ``n`` documents that begin with START, and where each begins."""
    tokens = torch.randint(2, CONFIG.vocab_size, (n, length), generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = START
    return tokens.flatten(), [length * i for i in range(n + 1)]


def logits_of(model: MPT, tokens: torch.Tensor, starts: list[int]) -> torch.Tensor:
    """Return the logits behind every token but START, on the CPU."""
    with torch.no_grad():
        logits = model.logits(model.hidden(tokens.to(model.device), starts)).cpu()
    return logits[tokens != START]


def agreement(logits: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """Return the share of equal first choices, and KL(expected ‖ logits) in nats, the mean over tokens."""
    same = (logits.argmax(-1) == expected.argmax(-1)).float().mean()
    log_p, log_q = expected.log_softmax(-1), logits.log_softmax(-1)
    return float(same), float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
