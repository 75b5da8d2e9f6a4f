"""A question on its way between an event loop, which waits for the answer, and the desk's thread, which has it written."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hoidap.bot import Answer, Answering, Bot
from hoidap.infer.engine import Sampling
from hoidap.infer.written import Written
from hoidap.prompt import Turn
from hoidap.run import Mode


@dataclass(frozen=True)
class Ask:
    """What is to be answered."""

    bot: str  # by id
    question: str
    history: tuple[Turn, ...] = ()
    sampling: Sampling | None = None  # None: greedy, enough for any item
    mode: Mode | None = None  # None: the bot's own
    client: str = ""  # who asks: clients are served by turns, and never share what was read
    seconds: float = 120.0  # until the answer has to end, waiting counted
    stop: tuple[str, ...] = ()  # further texts before which an answer ends


@dataclass(frozen=True)
class Report:
    """How a question ended."""

    outcome: str  # a finish reason, "declined", "corrected", or what kept it from an answer
    first_seconds: float | None  # until the first text; None: there was none
    seconds: float


@dataclass(eq=False)
class Job:
    """A question on its way; the desk's thread writes, and posts to the event loop's."""

    bot: str
    begin: Callable[[Bot], tuple[Answering, bool]]  # and whether its texts may be shown as they come
    client: str
    ends_at: float
    loop: asyncio.AbstractEventLoop
    asked_at: float = field(default_factory=time.monotonic)
    first_at: float | None = None
    # The desk's:
    asking: Answering | None = None
    is_shown: bool = False
    written: Written = field(default_factory=Written)
    request_id: int | None = None
    has_begun: bool = False  # something was written to it
    is_again: bool = False  # its engine broke before, when nothing was
    is_over: bool = False
    # The loop's: what has come and was not read yet; a slow reader finds it in one piece.
    texts: list[str] = field(default_factory=list)
    end: Answer | Exception | None = None
    came: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def show(self, text: str) -> None:
        """Hand over a text."""
        if self.first_at is None:
            self.first_at = time.monotonic()
        self._post(text, None)

    def settle(self, end: Answer | Exception) -> None:
        """End it; a text that was checked first is handed over whole."""
        self.is_over, self.asking = True, None
        if isinstance(end, Answer) and not self.is_shown and end.text:
            self.show(end.text)

    def tell(self, end: Answer | Exception) -> None:
        """Hand over how it ended."""
        self._post("", end)

    def report(self, outcome: str) -> Report:
        """Return how long it took."""
        first = None if self.first_at is None else self.first_at - self.asked_at
        return Report(outcome, first, time.monotonic() - self.asked_at)

    def _post(self, text: str, end: Answer | Exception | None) -> None:
        with contextlib.suppress(RuntimeError):  # a loop that has gone has no reader either
            self.loop.call_soon_threadsafe(self._take, text, end)

    def _take(self, text: str, end: Answer | Exception | None) -> None:
        if text:
            self.texts.append(text)
        if end is not None:
            self.end = end
            self.ended.set()
        self.came.set()


def begin(bot: Bot, ask: Ask) -> tuple[Answering, bool]:
    """Begin to answer, and tell whether texts may be shown as they come: what has to be checked first may not."""
    mode = ask.mode or bot.mode
    sampling = ask.sampling or bot.sampling()
    if mode == "model":
        return bot.answering(ask.question, ask.history, sampling, mode, ask.stop), True
    return _checked(bot, ask, sampling, mode), False


def _checked(bot: Bot, ask: Ask, sampling: Sampling, mode: Mode) -> Answering:
    """Answer as the bot does, whole, so that it can be checked; what the client limits is cut off afterwards."""
    whole = replace(sampling, max_new_tokens=max(sampling.max_new_tokens, bot.sampling().max_new_tokens))
    answer = yield from bot.answering(ask.question, ask.history, whole, mode)
    ends = [at for stop in ask.stop if (at := answer.text.find(stop)) >= 0]
    if ends:
        text = answer.text[: min(ends)]
        answer = replace(answer, text=text, tokens=len(bot.tokenizer.encode(text)))
    if ask.sampling is None or answer.tokens <= sampling.max_new_tokens:
        return answer
    stream = bot.tokenizer.stream()
    kept = bot.tokenizer.encode(answer.text)[: sampling.max_new_tokens]
    return replace(answer, text="".join(map(stream.push, kept)), tokens=len(kept), finish_reason="length")
