"""A run made answerable: engine, prompt and items together.

bot = hoidap.load("runs/shop")
bot.answer("Mấy giờ mở cửa?").text
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from hoidap.base import Base, find_base
from hoidap.data.items import Item
from hoidap.errors import RequestError, RunError
from hoidap.infer.engine import GREEDY, Engine, FinishReason, Piece, Request, Sampling
from hoidap.infer.torch_engine import TorchEngine
from hoidap.model.adapter import Adapter, load_adapter
from hoidap.model.mpt import MPT
from hoidap.progress import bar
from hoidap.prompt import PHOGPT_4B_CHAT, Template, Turn, render
from hoidap.run import Run
from hoidap.runtime import pick_device, pick_dtype
from hoidap.text import nfc
from hoidap.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answer:
    """What the bot said."""

    text: str
    source: Item | None  # the item whose answer this is, word for word; None where it is none's
    confidence: float  # 0 to 1: the geometric mean of its tokens' probabilities
    finish_reason: FinishReason


class Bot:
    """Answers questions, one conversation or many at once. One thread uses it."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, items: Sequence[Item], template: Template = PHOGPT_4B_CHAT
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self.template = template
        self.items = list(items)
        self._by_answer = {item.answer: item for item in reversed(self.items)}

    def answer(self, question: str, history: Sequence[Turn] = (), sampling: Sampling = GREEDY) -> Answer:
        """Answer one question, after the answered turns of ``history``.

        Raises:
            RequestError: the question is empty or too long for the model.
        """
        writer = _Writer()
        for piece in self._pieces(question, history, sampling):
            writer.add(piece)
        return self._finish(writer)

    def stream(self, question: str, history: Sequence[Turn] = (), sampling: Sampling = GREEDY) -> Iterator[str]:
        """Yield the answer as it is written; stopping early frees the engine."""
        writer = _Writer()
        for piece in self._pieces(question, history, sampling):
            text = writer.add(piece)
            if text:
                yield text

    def answer_all(
        self,
        questions: Sequence[str],
        sampling: Sampling = GREEDY,
        advance: Callable[[], None] = lambda: None,
        histories: Sequence[Sequence[Turn]] | None = None,
    ) -> list[Answer]:
        """Answer many questions, each on its own or after its history, as fast as the engine batches them.

        ``advance`` is called for each.
        """
        asked = zip(questions, histories or [()] * len(questions), strict=True)
        ids = [self._engine.submit(self._request(question, history, sampling)) for question, history in asked]
        writers = {request_id: _Writer() for request_id in ids}
        while pieces := self._engine.step():
            for piece in pieces:
                writers[piece.request_id].add(piece)
                if piece.finish_reason:
                    advance()
        return [self._finish(writers[request_id]) for request_id in ids]

    def fit(self, question: str, history: Sequence[Turn], sampling: Sampling = GREEDY) -> list[Turn]:
        """Return the latest turns of ``history`` that leave room for the question and its longest answer.

        None, where the base was taught single turns alone.
        """
        turns = [] if self.template.is_single_turn else list(history)
        room = self._engine.context_tokens - min(sampling.max_new_tokens, self._engine.context_tokens // 2)
        while turns and len(render([*turns, Turn(question)], self._tokenizer, self.template).token_ids) > room:
            turns.pop(0)
        return turns

    def _request(self, question: str, history: Sequence[Turn], sampling: Sampling) -> Request:
        if not nfc(question).strip():
            msg = "the question is empty; write one"
            raise RequestError(msg)
        turns = [*self.fit(question, history, sampling), Turn(question)]
        prompt = tuple(render(turns, self._tokenizer, self.template).token_ids)
        return Request(prompt, sampling, (self.template.stop,))

    def _pieces(self, question: str, history: Sequence[Turn], sampling: Sampling) -> Iterator[Piece]:
        request_id = self._engine.submit(self._request(question, history, sampling))
        try:
            while pieces := self._engine.step():
                yield from (piece for piece in pieces if piece.request_id == request_id)
        finally:
            self._engine.cancel(request_id)

    def _finish(self, writer: "_Writer") -> Answer:
        text = writer.text.rstrip()
        return Answer(text, self._by_answer.get(text), writer.confidence, writer.finish_reason or "cancelled")


class _Writer:
    """Puts one answer together; the space that opens an answer in the prompt's template is not part of it."""

    def __init__(self) -> None:
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self._nats = 0.0
        self._n_tokens = 0

    def add(self, piece: Piece) -> str:
        """Take a piece and return what it adds to the text."""
        shown = piece.text if self.text else piece.text.lstrip()
        self.text += shown
        self._nats += piece.logprob_nats
        self._n_tokens += piece.token_id is not None
        self.finish_reason = piece.finish_reason
        return shown

    @property
    def confidence(self) -> float:
        """Geometric mean of the tokens' probabilities."""
        return math.exp(self._nats / max(1, self._n_tokens))


def load(
    run: str | Path,
    *,
    base: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    download: bool = False,
    console: Console | None = None,
) -> Bot:
    """Load a run folder as a bot.

    Args:
        run: the folder that ``hoidap train`` made.
        base: where the base model is now, if it has moved since.
        device: "cpu", "cuda"; by default a GPU if there is one.
        dtype: "float32", "bfloat16", "float16"; by default what suits the device.
        download: whether a gigabyte or more of the base may be downloaded from the hub.
        console: where the progress of loading is shown; by default nowhere.

    Raises:
        RunError: no finished run there, or its base is gone or changed.
    """
    opened = Run.open(Path(run))
    where = pick_device(device)
    shown = console or Console(quiet=True)
    is_adapter = opened.recipe.method == "lora"
    found = find_base(
        (base or opened.base_name) if is_adapter else str(opened.weights_folder()), download=download, console=shown
    )
    model, adapter = _load_weights(opened, found, where, pick_dtype(where, dtype), shown)
    tokenizer = Tokenizer.from_file(opened.tokenizer_file)
    return Bot(TorchEngine(model, tokenizer, adapter), tokenizer, opened.items(), opened.template)


def _load_weights(
    run: Run, found: Base, device: torch.device, dtype: torch.dtype, console: Console
) -> tuple[MPT, Adapter | None]:
    """Load a run's model and, where it trained one, its adapter on the base."""
    folder = run.weights_folder()
    is_adapter = run.recipe.method == "lora"
    if is_adapter and (changed := found.changed_since(run.base_prints)):
        files = ", ".join(changed)
        msg = f"the base {found.name} is not the one this run was trained on: {files} differ; pass --base with its folder"
        raise RunError(msg)
    with bar(console, "loading", len(found.config.shapes())) as advance:
        model = found.load(
            quantize=run.recipe.quantize if is_adapter else "none", double_quant=run.recipe.double_quant,
            device=device, dtype=dtype, seed=run.recipe.schedule.seed, watch=lambda *_: advance(1),
        )  # fmt: skip
    return model, load_adapter(folder, model.config, device) if is_adapter else None
