"""What an engine writes to requests, put together from its pieces; and work that takes one request after another.

Such work is a generator: it yields requests, takes what was written to each, and returns what it makes of it. ``write`` has
an engine do one; who serves many runs many of them, each as its requests end.
"""

import math
from collections.abc import Generator
from typing import TypeVar

from hoidap.infer.engine import Engine, FinishReason, Piece, Request

T = TypeVar("T")


class Written:
    """What came of a request; the space that opens an answer in the prompt's template is not part of it."""

    def __init__(self) -> None:
        self.text = ""
        self.n_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._nats = 0.0

    def add(self, piece: Piece) -> str:
        """Take a piece and return what it adds to the text."""
        shown = piece.text if self.text else piece.text.lstrip()
        self.text += shown
        self._nats += piece.logprob_nats
        self.n_tokens += piece.token_id is not None
        self.finish_reason = piece.finish_reason
        return shown

    @property
    def confidence(self) -> float:
        """Geometric mean of the tokens' probabilities."""
        return math.exp(self._nats / max(1, self.n_tokens))


Asking = Generator[Request, Written, T]


def write(engine: Engine, asking: Asking[T]) -> Generator[str, None, T]:
    """Have an engine serve these requests, and no others; yield each text as it is written, and return the result.

    Stopping early frees the engine.
    """
    try:
        request = next(asking)
        while True:
            written = Written()
            request_id = engine.submit(request)
            try:
                while written.finish_reason is None and (pieces := engine.step()):
                    for piece in pieces:
                        if piece.request_id == request_id and (text := written.add(piece)):
                            yield text
            finally:
                engine.cancel(request_id)
            request = asking.send(written)
    except StopIteration as end:
        result: T = end.value
        return result


def run(texts: Generator[str, None, T]) -> T:
    """Return what is behind the texts."""
    while True:
        try:
            next(texts)
        except StopIteration as end:
            result: T = end.value
            return result
