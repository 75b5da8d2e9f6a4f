"""An engine without a model: it writes what its prompts ask for, word by word, and fails where they say so."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tiny_run import TOKENIZER

from hoidap.bot import Bot
from hoidap.infer.engine import Piece, Request
from hoidap.prompt import PHOGPT_4B_CHAT
from hoidap.tokenizer import Tokenizer

TOKENS = Tokenizer.from_file(TOKENIZER)


def echo(question: str) -> str:
    """Return an answer that only this question has."""
    return f"Bạn hỏi {question} và đây là câu trả lời của câu đó."


@dataclass
class _Written:
    id: int
    request: Request
    left: deque[str]
    question: str
    n_written: int = 0


@dataclass
class FakeEngine:
    """Gives each running request a word a step; behind the first, which reads the prompt.

    ``gate`` holds steps back until it is set; ``written`` is told of each word before it is handed on.
    """

    answer: Callable[[str], str] = echo
    rows: int = 4
    context_tokens: int = 512
    gate: threading.Event = field(default_factory=threading.Event)
    stepped: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    asked: list[str] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    waiting: deque = field(default_factory=deque)
    running: dict = field(default_factory=dict)
    threads: set = field(default_factory=set)
    n_ids: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def submit(self, request: Request) -> int:
        self.threads.add(threading.current_thread())
        text = TOKENS.decode(list(request.prompt))
        question = text.rsplit("### Câu hỏi: ", 1)[-1].split("\n### Trả lời:")[0]
        if "không nhận" in question:
            raise MemoryError("cannot be submitted")
        self.asked.append(question)
        self.clients.append(request.client)
        self.n_ids += 1
        self.waiting.append(_Written(self.n_ids, request, deque(self.answer(question).split(" ")), question))
        return self.n_ids

    def step(self) -> list[Piece]:
        self.threads.add(threading.current_thread())
        self.gate.wait(20)
        self.stepped.release()
        while self.waiting and len(self.running) < self.rows:
            one = self.waiting.popleft()
            self.running[one.id] = one
        pieces = []
        for one in list(self.running.values()):
            if "làm hỏng máy" in one.question:
                raise RuntimeError("the device is gone, said " + one.question)
            if "thoát" in one.question:
                raise SystemExit(3)
            if "lỗi riêng" in one.question or ("đứt giữa chừng" in one.question and one.n_written == 3):
                pieces.append(self._end(one, Piece(one.id, "", None, 0.0, "error")))
            elif "hết giờ" in one.question:
                pieces.append(self._end(one, Piece(one.id, "", None, 0.0, "deadline")))
            else:
                pieces.append(self._word(one))
        return pieces

    def _word(self, one: _Written) -> Piece:
        word = f"từ{one.n_written}" if "mãi mãi" in one.question else one.left.popleft()
        text = word if one.n_written == 0 else f" {word}"
        one.n_written += 1
        stops = [stop for stop in one.request.stop if stop in text]
        if stops:
            return self._end(one, Piece(one.id, text.split(stops[0])[0], 5, -0.1, "stop"))
        if "mãi mãi" in one.question:  # until it is cancelled
            return Piece(one.id, text, 5, -0.1)
        if one.n_written >= one.request.sampling.max_new_tokens:
            return self._end(one, Piece(one.id, text, 5, -0.1, "length"))
        return Piece(one.id, text, 5, -0.1) if one.left else self._end(one, Piece(one.id, text, 5, -0.1, "stop"))

    def _end(self, one: _Written, piece: Piece) -> Piece:
        del self.running[one.id]
        return piece

    def cancel(self, request_id: int) -> Piece | None:
        self.threads.add(threading.current_thread())
        for one in [*self.waiting, *self.running.values()]:
            if one.id == request_id:
                self.cancelled.append(one.question)
                self.running.pop(request_id, None)
                self.waiting = deque(other for other in self.waiting if other is not one)
                return Piece(request_id, "", None, 0.0, "cancelled")
        return None

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing of anybody."""
        return not self.waiting and not self.running


def bots(engine: FakeEngine, *names: str) -> Callable[[], Mapping[str, Bot]]:
    """Return what loads bots on an engine, as a desk has it."""
    return lambda: {name: Bot(engine, TOKENS, [], PHOGPT_4B_CHAT) for name in names or ("shop",)}
