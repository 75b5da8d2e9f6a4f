"""The next token of each sequence, from its logits."""

from collections.abc import Sequence

import torch

from hoidap.infer.engine import Sampling

_LEAST_TEMPERATURE = 1e-30  # less is 0 in float32


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
    """Return the probabilities [R, V] that sampling draws from: temperature, then top-k, then top-p, then min-p.

    A row's are the same whatever its neighbours ask for.
    """
    temperatures = _column([max(sampling.temperature, _LEAST_TEMPERATURE) for sampling in samplings], logits)
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperatures  # of a small temperature exp would overflow
    probabilities = scaled.softmax(-1)
    some = [row for row, sampling in enumerate(samplings) if 0 < sampling.top_k < logits.shape[1] or sampling.top_p < 1]
    if some:
        probabilities[some] = _likeliest(scaled[some], [samplings[row] for row in some])
    some = [row for row, sampling in enumerate(samplings) if sampling.min_p > 0]
    if some:
        kept = probabilities[some]
        least = _column([samplings[row].min_p for row in some], logits) * kept.amax(-1, keepdim=True)
        kept = kept.masked_fill(kept < least, 0.0)
        probabilities[some] = kept / kept.sum(-1, keepdim=True)
    return probabilities


def _likeliest(scaled: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """Return the probabilities [R, V] of what top-k and top-p leave."""
    width = scaled.shape[1]
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
    kept = _column([sampling.top_k if 0 < sampling.top_k < width else width for sampling in samplings], scaled)
    least = ordered.gather(1, kept.long() - 1)
    ordered = ordered.masked_fill(ordered < least, float("-inf")).softmax(-1)
    # A token stays if the likelier ones before it hold less than top_p: [0.5, 0.3, 0.2] at 0.6 keeps two.
    before = ordered.cumsum(-1) - ordered
    most = _column([sampling.top_p if sampling.top_p < 1 else float("inf") for sampling in samplings], scaled)
    ordered = ordered.masked_fill(before >= most, 0.0)
    return torch.empty_like(ordered).scatter_(1, order, ordered / ordered.sum(-1, keepdim=True))


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, device=like.device)[:, None]


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
