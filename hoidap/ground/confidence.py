"""How sure an answer is: the probability that it is right, and the least that it is given at.

A logistic regression of a few signals (how near the question is to the item's, what the model would answer), fitted on
questions whose answers are known. The threshold is then the lowest that keeps the share of wrong answers below what the
owner allows.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hoidap.errors import RunError

_RIDGE = 1.0  # strength of the pull of the weights towards 0, in questions: a few dozen of them fit no extremes
_MOST_ROUNDS = 50

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Confidence:
    """Signals → probability of being right."""

    names: tuple[str, ...]  # of the signals
    weights: tuple[float, ...]  # of the signals, as they come
    offset: float
    threshold: float  # the least probability at which an answer is given

    def of(self, signals: Sequence[float]) -> float:
        """Return the probability that an answer with these signals is right."""
        score = self.offset + sum(w * s for w, s in zip(self.weights, signals, strict=True))
        return 1 / (1 + math.exp(-max(-40.0, min(40.0, score))))

    def save(self, path: Path) -> None:
        """Write a page of JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Confidence":
        """Read what ``save`` wrote.

        Raises:
            RunError: the file is something else.

        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            numbers = [float(w) for w in values["weights"]]
            read = cls(tuple(values["names"]), tuple(numbers), float(values["offset"]), float(values["threshold"]))
            # json writes an infinite threshold, and reads it.
            good = all(map(math.isfinite, (*numbers, read.offset))) and not math.isnan(read.threshold)
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = f"{path} cannot be read ({error!r}); `hoidap evaluate` writes it again"
            raise RunError(msg) from None
        if not good or len(read.names) != len(numbers):
            msg = f"{path} holds numbers that are none, or not one for each signal; `hoidap evaluate` writes it again"
            raise RunError(msg)
        return read

    def with_threshold(self, least: float) -> "Confidence":
        """Return this confidence with another threshold."""
        return replace(self, threshold=least)


def fit(names: Sequence[str], signals: Floats, right: npt.NDArray[np.bool_]) -> Confidence:
    """Return the confidence that fits known answers best, its threshold still 0.5.

    Args:
        names: of the signals.
        signals: float64 [N, S].
        right: bool [N], whether the answer was right.

    """
    mean, spread = signals.mean(0), signals.std(0) + 1e-9
    x = np.hstack([(signals - mean) / spread, np.ones((len(signals), 1))])
    weights = np.zeros(x.shape[1])
    ridge = np.full(x.shape[1], _RIDGE)
    ridge[-1] = 1e-3  # the offset may go where it will, but not to infinity where all are right
    for _ in range(_MOST_ROUNDS):  # Newton's method; the loss is convex
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -40, 40)))
        gradient = x.T @ (p - right) + ridge * weights
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + np.diag(ridge), gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    scaled = weights[:-1] / spread
    return Confidence(tuple(names), tuple(scaled.tolist()), float(weights[-1] - scaled @ mean), 0.5)


@dataclass(frozen=True)
class Point:
    """What comes of one threshold, as shares of all questions asked."""

    threshold: float
    right: float
    wrong: float

    @property
    def declined(self) -> float:
        """The rest."""
        return 1 - self.right - self.wrong


def curve(confidences: Sequence[float], right: Sequence[bool], shares: Sequence[float] | None = None) -> list[Point]:
    """Return what every threshold that makes a difference would give, from answering all to answering none.

    ``shares`` are what each question counts of all, together 1; by default the same.
    """
    n = len(right)
    counts = [1 / max(1, n)] * n if shares is None else shares
    points = [Point(math.inf, 0.0, 0.0)]
    of_right = of_wrong = 0.0
    order = sorted(range(n), key=lambda at: -confidences[at])
    for place, at in enumerate(order):
        of_right += counts[at] * right[at]
        of_wrong += counts[at] * (not right[at])
        # Equal confidences are answered together or not at all.
        if place + 1 == n or confidences[order[place + 1]] < confidences[at]:
            points.append(Point(confidences[at], min(1.0, of_right), min(1.0, of_wrong)))
    return points[::-1]


def threshold(points: Sequence[Point], most_wrong: float, n: int) -> float:
    """Return the threshold that answers most and keeps the expected share of wrong answers to ``most_wrong``.

    Conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814): beside ``n`` questions, or items that each have a
    share of wrong ones, one more counts as wrong.
    Where even no wrong answer among so few is no proof, the threshold is infinite: nothing is answered.
    """
    able = [point.threshold for point in points if (point.wrong * n + 1) / (n + 1) <= most_wrong + 1e-9]
    return min(able, default=math.inf)
