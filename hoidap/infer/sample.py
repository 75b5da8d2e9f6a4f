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

    Each row draws one number from its own CPU generator, so neighbours change nothing; all else is done where the logits
    are, for all rows at once. ``befores`` are the tokens that stand before each row's; they matter to a repetition penalty
    alone, and the log-probability knows nothing of it.
    """
    scores = penalised(logits, samplings, befores)
    tokens = scores.argmax(-1)
    drawn = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if drawn:
        uniform = [float(torch.rand((), dtype=torch.float64, generator=generators[row])) for row in drawn]
        probabilities = distribution(scores[drawn], [samplings[row] for row in drawn])
        tokens[drawn] = draw(probabilities, torch.tensor(uniform, dtype=torch.float64, device=logits.device))
    nats = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    return tokens.tolist(), nats.tolist()


def draw(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the id [R] at which each row's sum of ``probabilities`` [R, V] passes ``uniform`` [R], of its total."""
    sums = probabilities.double().cumsum(-1)
    tokens = torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True)[:, 0]
    # Rounding may carry a number near 1 past the last id that has a probability.
    last = probabilities.shape[1] - 1 - (probabilities.flip(-1) > 0).int().argmax(-1)
    return tokens.minimum(last)


def distribution(logits: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """Return the probabilities [R, V] that sampling draws from: temperature, then top-k, then top-p, then min-p."""

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, device=logits.device)[:, None]

    width = logits.shape[1]
    scaled = logits / column([sampling.temperature for sampling in samplings])
    if any(0 < sampling.top_k < width or sampling.top_p < 1 for sampling in samplings):
        ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
        kept = column([sampling.top_k if 0 < sampling.top_k < width else width for sampling in samplings])
        least = ordered.gather(1, kept.long() - 1)
        ordered = ordered.masked_fill(ordered < least, float("-inf")).softmax(-1)
        # A token stays if the likelier ones before it hold less than top_p: [0.5, 0.3, 0.2] at 0.6 keeps two.
        before = ordered.cumsum(-1) - ordered
        most = column([sampling.top_p if sampling.top_p < 1 else float("inf") for sampling in samplings])
        ordered = ordered.masked_fill(before >= most, 0.0)
        probabilities = torch.empty_like(ordered).scatter_(1, order, ordered / ordered.sum(-1, keepdim=True))
    else:
        probabilities = scaled.softmax(-1)
    if any(sampling.min_p > 0 for sampling in samplings):
        least = column([sampling.min_p for sampling in samplings]) * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


def penalised(logits: torch.Tensor, samplings: Sequence[Sampling], befores: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return logits [D, V] with those of earlier tokens made less (Keskar et al. 2019, CTRL, arXiv 1909.05858)."""
    scores = logits
    for row, (sampling, before) in enumerate(zip(samplings, befores, strict=True)):
        if sampling.repetition_penalty != 1 and before:
            scores = scores.clone() if scores is logits else scores
            seen = torch.tensor(sorted(set(before)), device=logits.device)
            old = scores[row, seen]
            scores[row, seen] = torch.where(old > 0, old / sampling.repetition_penalty, old * sampling.repetition_penalty)
    return scores
