"""The next token of each sequence, from its logits."""

from collections.abc import Sequence

import torch

from hoidap.infer.engine import Sampling


def choose(
    logits: torch.Tensor,
    samplings: Sequence[Sampling],
    generators: Sequence[torch.Generator],
    befores: Sequence[Sequence[int]],
) -> tuple[list[int], list[float]]:
    """Return a token id and its log-probability (nats, temperature 1) for each row of float32 ``logits`` [D, V].

    Each row draws from its own CPU generator, so neighbours change nothing. ``befores`` are the tokens that stand before
    each row's; they matter to a repetition penalty alone, and the log-probability knows nothing of it.
    """
    tokens = logits.argmax(-1)
    for row, (sampling, generator, before) in enumerate(zip(samplings, generators, befores, strict=True)):
        scores = penalised(logits[row], before, sampling.repetition_penalty)
        if sampling.temperature > 0:
            tokens[row] = torch.multinomial(distribution(scores, sampling).cpu(), 1, generator=generator)
        elif sampling.repetition_penalty != 1:
            tokens[row] = scores.argmax()
    nats = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    return tokens.tolist(), nats.tolist()


def distribution(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return the probabilities [V] that sampling draws from: temperature, then top-k, then top-p, then min-p."""
    scaled = logits / sampling.temperature
    if 0 < sampling.top_k < len(scaled):
        scaled = scaled.masked_fill(scaled < scaled.topk(sampling.top_k).values[-1], float("-inf"))
    probabilities = scaled.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        # A token stays if the likelier ones before it hold less than top_p: [0.5, 0.3, 0.2] at 0.6 keeps two.
        dropped = ordered.cumsum(-1) - ordered >= sampling.top_p
        probabilities = probabilities.index_fill(0, order[dropped], 0.0)
        probabilities = probabilities / probabilities.sum()
    if sampling.min_p > 0:
        probabilities = probabilities.masked_fill(probabilities < sampling.min_p * probabilities.max(), 0.0)
        probabilities = probabilities / probabilities.sum()
    return probabilities


def penalised(logits: torch.Tensor, before: Sequence[int], penalty: float) -> torch.Tensor:
    """Return logits [V] with those of earlier tokens made less (Keskar et al. 2019, CTRL, arXiv 1909.05858)."""
    if penalty == 1 or not before:
        return logits
    seen = torch.tensor(sorted(set(before)), device=logits.device)
    scores = logits[seen]
    return logits.index_copy(0, seen, torch.where(scores > 0, scores / penalty, scores * penalty))
