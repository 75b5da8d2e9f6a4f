"""One engine with its bots, and the questions that it is at; all in the desk's thread.

What fails, fails alone: a question that makes its bot raise is answered with an error. An engine that raises in a step is
broken: what it was writing ends with an error, it is loaded again, and what had not begun yet is asked once more.
"""

import gc
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from hoidap.bot import Answer, Bot
from hoidap.errors import EngineError, HoidapError, RequestError, TooLongError, UnavailableError
from hoidap.infer.engine import Engine, Request
from hoidap.infer.written import Written
from hoidap.serve.job import Job

Load = Callable[[], Mapping[str, Bot]]  # loads the bots of one engine, by their ids
_LONGEST_PAUSE_SECONDS = 60.0  # between two attempts at loading an engine again
_LATE = "the time for this answer was over before it could be given; ask again in a moment"
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Bench:
    """An engine and its questions.

    Args:
        load: loads it and its bots.
        over: is told each question that ended, and how.
    """

    load: Load
    over: Callable[[Job, str], None]
    bots: Mapping[str, Bot] = field(default_factory=dict)
    retry_at: float = 0.0  # when it is to be loaded again
    _jobs: dict[int, Job] = field(default_factory=dict)  # by the engine's request
    _waiting: list[Job] = field(default_factory=list)  # until it is loaded again
    _n_failures: int = 0  # in a row

    @property
    def is_up(self) -> bool:
        """Whether its bots can be asked."""
        return bool(self.bots)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._jobs)

    @property
    def _engine(self) -> Engine:
        return next(iter(self.bots.values())).engine

    def begin(self, job: Job) -> None:
        """Take a question."""
        if job.is_over:
            return
        if not self.is_up:
            self._waiting.append(job)
            return
        try:
            job.asking, job.is_shown = job.begin(self.bots[job.bot])
        except Exception as error:  # noqa: BLE001 - it ends this question alone
            self._end(job, _as_own(error))
        else:
            self._go_on(job, None)

    def step(self) -> None:
        """Have the engine write a little for every question, and hand on what it wrote."""
        pieces = self._engine.step()
        if not pieces:
            msg = f"the engine has nothing to do, and owes {len(self._jobs)} answers"
            raise EngineError(msg)
        self._n_failures = 0
        for piece in pieces:
            job = self._jobs.get(piece.request_id)
            if job is None:  # cancelled
                continue
            job.has_begun = True
            text = job.written.add(piece)
            if text and job.is_shown:
                job.show(text)
            if piece.finish_reason:
                del self._jobs[piece.request_id]
                self._go_on(job, job.written)

    def cancel(self, job: Job, end: Answer | Exception) -> None:
        """Stop at a question, wherever it is."""
        if job.is_over:
            return
        if job in self._waiting:
            self._waiting.remove(job)
        elif job.request_id is not None and self._jobs.pop(job.request_id, None) is job:
            self._engine.cancel(job.request_id)
        self._end(job, end)

    def bury(self, error: BaseException) -> None:
        """Report an engine that broke, end what it was writing, and have it loaded again."""
        _log.error("an engine broke with %d questions and is loaded again: %s", len(self._jobs), traced(error))
        jobs = list(self._jobs.values())
        self._jobs, self.bots = {}, {}
        self._pause()
        for job in jobs:
            job.asking = None  # it holds the broken engine
            if job.has_begun or job.is_again:
                self._end(job, EngineError("the engine broke at this answer, and the log has why; ask again"))
            else:
                job.is_again = True
                self._waiting.append(job)

    def revive(self) -> bool:
        """Load the engine again, if it is time; return whether it is there."""
        for job in [job for job in self._waiting if job.ends_at <= time.monotonic()]:
            self._waiting.remove(job)
            self._end(job, UnavailableError(_LATE))
        if time.monotonic() < self.retry_at:
            return False
        gc.collect()  # the broken engine's memory, before another takes as much
        try:
            self.bots = self.load()
        except BaseException as error:  # noqa: BLE001 - tried again, later and later
            _log.error("an engine could not be loaded again: %s", traced(error))
            self._pause()
            return False
        _log.warning("an engine is there again")
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            self.begin(job)
        return True

    def _pause(self) -> None:
        """Wait before the next attempt at loading: not at all at first, then twice as long each time."""
        self.retry_at = time.monotonic() + (min(_LONGEST_PAUSE_SECONDS, 2.0**self._n_failures) if self._n_failures else 0.0)
        self._n_failures += 1

    def _go_on(self, job: Job, written: Written | None) -> None:
        """Give a question what was written to its last request, and the engine its next; or end it."""
        assert job.asking is not None  # noqa: S101 - begun
        try:
            request = next(job.asking) if written is None else job.asking.send(written)
            job.request_id = self._submit(job, request)
        except StopIteration as end:
            self._end(job, end.value)
        except Exception as error:  # noqa: BLE001 - it ends this question alone
            self._end(job, _as_own(error))
        else:
            job.written = Written()
            self._jobs[job.request_id] = job

    def _submit(self, job: Job, request: Request) -> int:
        room, left = self._engine.context_tokens, job.ends_at - time.monotonic()
        if len(request.prompt) >= room:
            msg = f"the prompt has {len(request.prompt)} tokens; prompt and answer together may have {room}"
            raise TooLongError(msg)
        if left <= 0:
            raise UnavailableError(_LATE)
        return self._engine.submit(replace(request, client=job.client, seconds=left))

    def _end(self, job: Job, end: Answer | Exception) -> None:
        if isinstance(end, Answer) and end.finish_reason == "deadline" and not end.text:
            end = UnavailableError(_LATE)
        job.settle(end)
        self.over(job, _outcome(end))  # before it is told: who has an answer takes no place any more
        job.tell(end)


def _as_own(error: Exception) -> Exception:
    """Return what a client may be told: what hoidap raises on purpose, or that it failed."""
    if isinstance(error, HoidapError):
        return error
    _log.error("a question failed: %s", traced(error))
    return EngineError("this answer failed, and the log has why; ask again")


def _outcome(end: Answer | Exception) -> str:
    if isinstance(end, Answer):
        return "declined" if end.is_declined else "corrected" if end.is_corrected else end.finish_reason
    return "unavailable" if isinstance(end, UnavailableError) else "refused" if isinstance(end, RequestError) else "error"


def traced(error: BaseException) -> str:
    """Return where an error was raised, and its kind, but not its message: it may hold what somebody asked."""
    frames = traceback.extract_tb(error.__traceback__)[-12:]
    where = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__} at {where}"
