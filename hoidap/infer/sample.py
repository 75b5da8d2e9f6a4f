"""The next token of each sequence, from its logits."""

from collections.abc import Sequence

import torch

from hoidap.infer.engine import Request


def choose(
    logits: torch.Tensor, requests: Sequence[Request], generators: Sequence[torch.Generator]
) -> tuple[list[int], list[float]]:
    """Return a token id and its log-probability (nats, temperature 1) for each row of float32 ``logits`` [D, V].

    Each request draws from its own CPU generator, so neighbours change nothing.
    """
    tokens = logits.argmax(-1)
    for row, (request, generator) in enumerate(zip(requests, generators, strict=True)):
        if request.temperature > 0:
            probabilities = distribution(logits[row], request).cpu()
            tokens[row] = torch.multinomial(probabilities, 1, generator=generator)
    nats = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    return tokens.tolist(), nats.tolist()


def distribution(logits: torch.Tensor, request: Request) -> torch.Tensor:
    """Return the probabilities [V] that a sampling request draws from: temperature, then top-k, then top-p."""
    scaled = logits / request.temperature
    if 0 < request.top_k < len(scaled):
        scaled = scaled.masked_fill(scaled < scaled.topk(request.top_k).values[-1], float("-inf"))
    probabilities = scaled.softmax(-1)
    if request.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        # A token stays if the likelier ones before it hold less than top_p: [0.5, 0.3, 0.2] at 0.6 keeps two.
        dropped = ordered.cumsum(-1) - ordered >= request.top_p
        probabilities = probabilities.index_fill(0, order[dropped], 0.0)
        probabilities = probabilities / probabilities.sum()
    return probabilities
