"""The desk: one thread that owns engines and bots, and has them answer many questions at once.

Questions come in from an event loop through a queue, texts go back as they are written. An engine is asked for one step at
a time, and a step works at all that it was given, so that many are answered in the time of a few. Between steps come new
questions, cancelled ones, and whatever else has to be done where the bots are (``do``). Who reads slowly finds the texts
in one piece, and keeps nobody waiting.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Literal, TypeVar

from hoidap.bot import Answer, Answering, Bot
from hoidap.errors import QueueFullError, RequestError, UnavailableError
from hoidap.infer.engine import Sampling
from hoidap.run import Mode
from hoidap.serve.bench import Bench, Load
from hoidap.serve.job import Ask, Job, Report, begin

__all__ = ["Ask", "Desk", "Known", "Report"]
T = TypeVar("T")
State = Literal["loading", "up", "down", "stopping"]
_FLUSH_SECONDS = 0.05  # between two texts of an answer: the sizes of what is sent do not tell its tokens
_STALLED_SECONDS = 600.0  # in one step, after which an engine is taken for stuck


@dataclass(frozen=True)
class Known:
    """What is to be known of a bot without asking the desk's thread."""

    id: str
    name: str
    mode: Mode
    is_single_turn: bool
    contact: str
    answer_tokens: int  # enough for any item's
    created: int  # Unix time


def _tell_nobody(_report: Report) -> None:
    pass


class Desk:
    """Answers questions that come from an event loop.

    Args:
        loads: each loads one engine and its bots; called again when that engine breaks.
        most: questions at work and waiting; more are refused.
        watch: is told how each question ended; called in the desk's thread.
    """

    def __init__(self, loads: Sequence[Load], *, most: int = 256, watch: Callable[[Report], None] = _tell_nobody) -> None:
        self._benches = [Bench(load, self._over) for load in loads]
        self._of: dict[str, Bench] = {}
        self._most = most
        self.watch = watch
        self.bots: Mapping[str, Known] = MappingProxyType({})
        self.n_restarts = 0
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._open: set[Job] = set()
        self._lock = threading.Lock()
        self._state: State = "loading"
        self._in_step_since: float | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="desk", daemon=True)
        self._loaded: Future[None] = Future()

    def start(self) -> None:
        """Load the bots, and return when they are there; raises what loading them raises."""
        self._thread.start()
        self._loaded.result()

    @property
    def state(self) -> State:
        """What may be asked of it: everything where it is "up"."""
        if self._state != "up":
            return self._state
        since = self._in_step_since
        is_stuck = since is not None and time.monotonic() - since > _STALLED_SECONDS
        return "up" if self._thread.is_alive() and not is_stuck and all(b.is_up for b in self._benches) else "down"

    @property
    def n_open(self) -> int:
        """How many questions are at work or wait."""
        return len(self._open)

    def ask(self, ask: Ask) -> AsyncGenerator[str | Answer, None]:
        """Yield an answer's texts as they come, and last the answer; closing it early (``aclosing``) cancels.

        What has to be checked first comes in one text.

        Raises:
            QueueFullError: too many are waiting.
            RequestError: the question cannot be answered by this bot.
            UnavailableError: the bot is being loaded again, or the server stops.
            EngineError: the engine failed at it.
        """
        return self._serve(ask.bot, lambda bot: begin(bot, ask), ask.client, ask.seconds)

    def complete(
        self,
        bot: str,
        prompt: str,
        sampling: Sampling,
        *,
        stop: Sequence[str] = (),
        client: str = "",
        seconds: float = 120.0,
    ) -> AsyncGenerator[str | Answer, None]:
        """Have the model go on with a text as it stands; yields and raises as ``ask``."""
        return self._serve(bot, lambda b: (b.completing(prompt, sampling, stop), True), client, seconds)

    async def do(self, bot: str, what: Callable[[Bot], T]) -> T:
        """Run a short function with a bot where bots live, between two steps; return what it returns.

        Raises:
            UnavailableError: the bot is being loaded again, or the server stops.
            RequestError: there is no such bot.
        """
        done: Future[T] = Future()

        def work() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(what(self._bench(bot).bots[bot]))
            except Exception as error:  # noqa: BLE001 - it is the caller's
                done.set_exception(error)

        self._bench(bot)
        self._inbox.put(work)
        return await asyncio.wrap_future(done)

    def stop_taking(self) -> None:
        """Refuse questions from now on; those that are here are answered."""
        self._state = "stopping"

    async def drained(self, seconds: float) -> bool:
        """Wait until no question is left, at most so long; return whether none is."""
        ends_at = time.monotonic() + seconds
        while self._open and time.monotonic() < ends_at:
            await asyncio.sleep(0.02)
        return not self._open

    def close(self) -> None:
        """End every question with an error, and the thread."""
        self._state = "stopping"
        self._is_closed = True
        self._inbox.put(lambda: None)
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    # In the event loop's thread

    def _bench(self, bot: str) -> Bench:
        if bot not in self._of:
            msg = f"the bot is {bot!r}; this server has {', '.join(map(repr, self.bots))}"
            raise RequestError(msg)
        if self._is_closed or not self._of[bot].is_up:
            msg = "the bot is not there at present: it is loaded again after a failure, or stops; ask again in a moment"
            raise UnavailableError(msg)
        return self._of[bot]

    def _admit(self, job: Job) -> None:
        if self._state != "up":
            msg = f"the server is {self._state}; ask again in a moment"
            raise UnavailableError(msg)
        bench = self._bench(job.bot)
        with self._lock:
            if len(self._open) >= self._most:
                msg = f"{self._most} questions are at work or waiting already, as many as may; ask again in a moment"
                raise QueueFullError(msg)
            self._open.add(job)
        self._inbox.put(lambda: bench.begin(job))

    async def _serve(
        self, bot: str, begin: Callable[[Bot], tuple[Answering, bool]], client: str, seconds: float
    ) -> AsyncGenerator[str | Answer, None]:
        job = Job(bot, begin, client, time.monotonic() + seconds, asyncio.get_running_loop())
        self._admit(job)
        try:
            while True:
                await job.came.wait()
                job.came.clear()
                text = "".join(job.texts)
                job.texts.clear()
                if text:
                    yield text
                if isinstance(job.end, Exception):
                    raise job.end
                if job.end is not None and not job.texts:
                    yield job.end
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_FLUSH_SECONDS):
                        await job.ended.wait()
        finally:
            if job.end is None:
                self._inbox.put(lambda: self._cancel(job))

    # In the desk's thread

    def _run(self) -> None:
        try:
            for bench in self._benches:
                bench.bots = bench.load()
                self._know(bench)
        except BaseException as error:  # noqa: BLE001 - it is start()'s
            self._loaded.set_exception(error)
            return
        self._state = "up"
        self._loaded.set_result(None)
        while not self._is_closed:
            try:
                self._turn()
            except BaseException as error:  # noqa: BLE001 - without this thread nobody is answered
                for bench in self._benches:
                    self._bury(bench, error)
        for job in list(self._open):
            self._stop(job, UnavailableError("the server stopped before the answer was whole; ask again in a moment"))
        with contextlib.suppress(Empty):
            while True:
                self._inbox.get_nowait()()

    def _know(self, bench: Bench) -> None:
        now = int(time.time())
        known = {
            name: Known(name, name, bot.mode, bot.template.is_single_turn, bot.contact, bot.sampling().max_new_tokens, now)
            for name, bot in bench.bots.items()
        }
        self._of.update(dict.fromkeys(known, bench))
        self.bots = MappingProxyType({**self.bots, **known})

    def _turn(self) -> None:
        """Load what broke, do what was asked of the desk, then one step of each engine that has work."""
        for bench in self._benches:
            if not bench.is_up and bench.revive():
                self._know(bench)
        down = [bench.retry_at for bench in self._benches if not bench.is_up]
        with contextlib.suppress(Empty):
            if not any(bench.has_work for bench in self._benches):
                pause = min(down, default=0.0) - time.monotonic()
                self._inbox.get(timeout=min(1.0, max(0.001, pause)) if down else None)()
            while True:
                self._inbox.get_nowait()()
        for bench in self._benches:
            if bench.has_work:
                self._in_step_since = time.monotonic()
                try:
                    bench.step()
                except BaseException as error:  # noqa: BLE001 - the other engines go on
                    self._bury(bench, error)
                self._in_step_since = None

    def _bury(self, bench: Bench, error: BaseException) -> None:
        self.n_restarts += 1
        bench.bury(error)

    def _cancel(self, job: Job) -> None:
        self._stop(job, Answer(job.written.text, None, 0.0, "cancelled"))

    def _stop(self, job: Job, end: Answer | Exception) -> None:
        bench = self._of[job.bot]
        try:
            bench.cancel(job, end)
        except BaseException as error:  # noqa: BLE001 - an engine that cannot let go is broken
            self._bury(bench, error)
            bench.cancel(job, end)

    def _over(self, job: Job, outcome: str) -> None:
        with self._lock:
            self._open.discard(job)
        with contextlib.suppress(Exception):
            self.watch(job.report(outcome))
