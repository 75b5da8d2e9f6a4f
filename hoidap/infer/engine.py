"""The engine's interface: ``submit`` a request, ``step`` for what became ready, ``cancel``.

Chat, evaluation and the server know nothing else of how text is made.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from hoidap.errors import RequestError

# "deadline": its time was over; "error": the engine failed at this one answer, and logged why.
FinishReason = Literal["stop", "length", "cancelled", "deadline", "error"]


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
    min_p: float = 0.0  # draw among tokens at least this share as likely as the likeliest
    repetition_penalty: float = 1.0  # scores of tokens that stand there already are divided by it, below 0 multiplied
    seed: int = 0  # of the draws; the same seed gives the same text

    def __post_init__(self) -> None:
        ranges = (
            ("max_new_tokens", self.max_new_tokens >= 1, "from 1"),
            ("temperature", 0 <= self.temperature <= 100, "from 0 to 100"),
            ("top_k", self.top_k >= 0, "from 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 to 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty <= 100, "above 0 to 100"),
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
        RequestError: an empty prompt, stop texts that are too many, empty or too long, or no time.
    """

    prompt: tuple[int, ...]  # token ids
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()  # texts before which an answer ends; they are not part of it
    adapter: str = ""  # by name, of those that the engine has; "": its own
    client: str = ""  # who asks: clients are served by turns, and never share what was read
    seconds: float = math.inf  # from now on, waiting counted; then the answer ends with "deadline"

    def __post_init__(self) -> None:
        if not self.prompt:
            msg = "the prompt is empty; it takes at least one token"
            raise RequestError(msg)
        if len(self.stop) > 16 or any(not 0 < len(text) <= 1000 for text in self.stop):
            msg = f"stop holds {len(self.stop)} texts; it takes at most 16, of 1 to 1,000 characters each"
            raise RequestError(msg)
        if not self.seconds > 0:
            msg = f"seconds is {self.seconds!r}; it takes a number above 0"
            raise RequestError(msg)

    def refuse_unfit(self, context_tokens: int, vocab_size: int) -> None:
        """Raise RequestError if an engine of this context and vocabulary can never serve it."""
        if len(self.prompt) >= context_tokens:
            msg = f"the prompt has {len(self.prompt)} tokens; prompt and answer together may have {context_tokens}"
            raise RequestError(msg)
        if wrong := [token for token in self.prompt if not 0 <= token < vocab_size]:
            msg = f"the prompt holds token {wrong[0]}; this model has tokens 0 to {vocab_size - 1}"
            raise RequestError(msg)


@dataclass(frozen=True)
class Piece:
    """What one step added to one answer."""

    request_id: int
    text: str  # whole characters only; empty while a character or a possible stop text is incomplete
    token_id: int | None  # None where the answer ends without one more
    logprob_nats: float  # of the token under the model's own distribution (temperature 1)
    finish_reason: FinishReason | None = None  # set on the last piece of an answer


class Engine(Protocol):
    """Makes text for many requests at once. One thread calls it."""

    @property
    def context_tokens(self) -> int:
        """Room for one prompt and its answer together."""

    def submit(self, request: Request) -> int:
        """Take a request and return its id.

        Raises:
            RequestError: it can never be served.
            QueueFullError: too many are waiting.

        """

    def step(self) -> list[Piece]:
        """Work until something is ready; an empty list means that nothing is left to do."""

    def cancel(self, request_id: int) -> Piece | None:
        """End a request now; returns its last piece, or None if it had ended already."""
