"""The engine's interface: ``submit`` a request, ``step`` for what became ready, ``cancel``.

Chat, evaluation and the server know nothing else of how text is made.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from hoidap.errors import RequestError

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn. The default is greedy: the same question always gets the same answer.

    Raises:
        RequestError: a value out of range, by name.
    """

    max_new_tokens: int = 512  # then it ends with "length"
    temperature: float = 0.0  # 0: greedy, always the likeliest token; 1: the model's own distribution
    top_k: int = 0  # draw among this many likeliest tokens; 0: all
    top_p: float = 1.0  # draw among the fewest likeliest tokens that hold this share of the probability
    seed: int = 0  # of the draws; the same seed gives the same text

    def __post_init__(self) -> None:
        ranges = (
            ("max_new_tokens", self.max_new_tokens >= 1, "from 1"),
            ("temperature", 0 <= self.temperature <= 100, "from 0 to 100"),
            ("top_k", self.top_k >= 0, "from 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 to 1"),
            ("seed", 0 <= self.seed < 2**63, "from 0 to below 2^63"),
        )
        for name, good, allowed in ranges:
            if not good:
                msg = f"{name} is {getattr(self, name)!r}; it takes a number {allowed}"
                raise RequestError(msg)


GREEDY = Sampling()


@dataclass(frozen=True)
class Request:
    """What to generate from.

    Raises:
        RequestError: an empty prompt, or stop texts that are too many, empty or too long.
    """

    prompt: tuple[int, ...]  # token ids
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()  # texts before which an answer ends; they are not part of it

    def __post_init__(self) -> None:
        if not self.prompt:
            msg = "the prompt is empty; it takes at least one token"
            raise RequestError(msg)
        if len(self.stop) > 16 or any(not 0 < len(text) <= 1000 for text in self.stop):
            msg = f"stop holds {len(self.stop)} texts; it takes at most 16, of 1 to 1,000 characters each"
            raise RequestError(msg)


@dataclass(frozen=True)
class Piece:
    """What one step added to one answer."""

    request_id: int
    text: str  # whole characters only; empty while a character or a possible stop text is incomplete
    token_id: int | None  # None where the answer was cancelled
    logprob_nats: float  # of the token under the model's own distribution (temperature 1)
    finish_reason: FinishReason | None = None  # set on the last piece of an answer


class Engine(Protocol):
    """Makes text for many requests at once. One thread calls it."""

    @property
    def context_tokens(self) -> int:
        """Room for one prompt and its answer together."""

    def submit(self, request: Request) -> int:
        """Take a request and return its id; raises RequestError if it can never be served."""

    def step(self) -> list[Piece]:
        """Do one round of work; an empty list means that nothing is left to do."""

    def cancel(self, request_id: int) -> Piece | None:
        """End a request now; returns its last piece, or None if it had ended already."""
