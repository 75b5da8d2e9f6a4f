"""What fine-tuning cost the base of its Vietnamese: its loss on ordinary prose before and after."""

import math
from itertools import pairwise
from pathlib import Path

import torch

from hoidap.model.adapter import Adapter
from hoidap.model.loss import loss_nats
from hoidap.model.mpt import MPT
from hoidap.tokenizer import Tokenizer

_PROSE = Path(__file__).parent.parent / "assets" / "general.txt"  # a dozen paragraphs, written for this


def forgetting(model: MPT, adapter: Adapter, tokenizer: Tokenizer) -> dict[str, float]:
    """Return bits a byte of UTF-8 without the adapter, and with it."""
    paragraphs = [tokenizer.encode(text) for text in _PROSE.read_text(encoding="utf-8").splitlines()]
    # The first token of each has nothing before it to be predicted from.
    n_bytes = sum(len(tokenizer.decode(ids[1:]).encode()) for ids in paragraphs)
    nats = {"before": _nats(model, None, paragraphs), "after": _nats(model, adapter, paragraphs)}
    return {name: value / math.log(2) / n_bytes for name, value in nats.items()}


@torch.no_grad()
def _nats(model: MPT, adapter: Adapter | None, paragraphs: list[list[int]]) -> float:
    tokens = torch.tensor([token for ids in paragraphs for token in ids], device=model.device)
    starts = [0]
    for ids in paragraphs:
        starts.append(starts[-1] + len(ids))
    hidden = model.hidden(tokens, starts, adapter=adapter)
    predicting = torch.tensor([at for start, end in pairwise(starts) for at in range(start, end - 1)])
    predicting = predicting.to(model.device)
    return float(loss_nats(model, hidden[predicting], tokens[predicting + 1]))
