"""The next token of each sequence, from its logits."""

from collections.abc import Sequence

import torch

from hoidap.infer.engine import Sampling


def choose(
    logits: torch.Tensor, samplings: Sequence[Sampling], generators: Sequence[torch.Generator]
) -> tuple[list[int], list[float]]:
    """Return a token id and its log-probability (nats, temperature 1) for each row of float32 ``logits`` [D, V].

    Each row draws from its own CPU generator, so neighbours change nothing.
    """
    tokens = logits.argmax(-1)
    for row, (sampling, generator) in enumerate(zip(samplings, generators, strict=True)):
        if sampling.temperature > 0:
            probabilities = distribution(logits[row], sampling).cpu()
            tokens[row] = torch.multinomial(probabilities, 1, generator=generator)
    nats = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    return tokens.tolist(), nats.tolist()


def distribution(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return the probabilities [V] that sampling draws from: temperature, then top-k, then top-p."""
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
    return probabilities
