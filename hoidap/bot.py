"""A run made answerable: engine, prompt and items together.

bot = hoidap.load("runs/shop")
bot.answer("Mấy giờ mở cửa?").text

Three modes. "model": the answer as the model writes it. "checked": the model's answer, if the items vouch for it; else the
bot says that it does not know and names the nearest questions. "verbatim": the item's answer word for word, if the question
is recognised. A corrected answer takes the place of its item's at once.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console

from hoidap.base import Base, find_base
from hoidap.data.items import Item
from hoidap.errors import EngineError, HoidapError, RequestError, RunError
from hoidap.ground.added import Added
from hoidap.ground.grounds import Decision, Grounds, Said
from hoidap.infer.engine import GREEDY, Engine, FinishReason, Request, Sampling
from hoidap.infer.recital import Recital
from hoidap.infer.torch_engine import TorchEngine
from hoidap.infer.written import Asking, Written, run, write
from hoidap.loading import load_gguf, load_weights
from hoidap.prompt import PHOGPT_4B_CHAT, Template, Turn, render
from hoidap.run import MODES, Mode, Run
from hoidap.runtime import pick_device, pick_dtype
from hoidap.text import nfc
from hoidap.tokenizer import Tokenizer

_SORRY = "Xin lỗi, tôi chưa có câu trả lời chắc chắn cho câu hỏi này."
_OFFER = "Có phải bạn muốn hỏi:"
_CONTACT = "Bạn cũng có thể liên hệ:"
_MOST_OFFERED = 2
_SPARE_TOKENS = 16
_UNFINISHED = ("cancelled", "deadline")
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Answer:
    """What the bot said."""

    text: str
    source: Item | None  # the item that it comes from; None where it comes from none, or the bot declined
    confidence: float  # 0 to 1: that it is right; without items, the geometric mean of its tokens' probabilities
    finish_reason: FinishReason
    closeness: float = 0.0  # share of its words that are its source's answer's; 1: the same, but for case and punctuation
    is_declined: bool = False
    is_corrected: bool = False  # the owner's correction, in place of the item's answer
    near: tuple[Item, ...] = ()  # the items nearest to the question, nearest first
    prompt_tokens: int = 0  # that the model read: history and question
    tokens: int = 0  # of the text


Answering = Asking[Answer]


def _keep_no_gap(_question: str, _confidence: float, _near: Sequence[str]) -> None:
    pass


class Bot:
    """Answers questions, one conversation or many at once. One thread uses it.

    Args:
        engine: what writes.
        tokenizer: of the base.
        items: what was trained on.
        template: the prompt's.
        grounds: the items' indexes; without them there is no mode but "model".
        mode: of answers whose mode is not given.
        contact: the owner's, named where the bot declines.
        corrections: the owner's answers that take the place of items', by the item's question.
        on_gap: is told each question that the bot declined, how sure it was, and the questions nearest to it.
        adapter: the run's own by name, where the engine has those of several runs.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        items: Sequence[Item],
        template: Template = PHOGPT_4B_CHAT,
        *,
        grounds: Grounds | None = None,
        mode: Mode = "model",
        contact: str = "",
        corrections: Mapping[str, str] = MappingProxyType({}),
        on_gap: Callable[[str, float, Sequence[str]], None] = _keep_no_gap,
        adapter: str = "",
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._adapter = adapter
        self.template = template
        self.items = list(items)
        self._longest: int | None = None  # tokens of the longest answer, counted when first asked for
        self._taught = {item.question for item in self.items}
        self.grounds = grounds
        self.mode = self._possible(mode)
        self.contact = contact
        self._corrections = dict(corrections)
        self._on_gap = on_gap
        self.added = Added(self.items, ())  # the owner's answers to questions that no item asks

    @property
    def engine(self) -> Engine:
        """What writes; bots of several runs may share one."""
        return self._engine

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the base."""
        return self._tokenizer

    def answer(
        self, question: str, history: Sequence[Turn] = (), sampling: Sampling = GREEDY, mode: Mode | None = None
    ) -> Answer:
        """Answer one question, after the answered turns of ``history``.

        Raises:
            RequestError: the question is empty or too long for the model; or the mode needs items that are not there.
        """
        return run(write(self._engine, self.answering(question, history, sampling, mode)))

    def answering(
        self,
        question: str,
        history: Sequence[Turn] = (),
        sampling: Sampling = GREEDY,
        mode: Mode | None = None,
        stop: Sequence[str] = (),
    ) -> Answering:
        """Answer one question as ``answer`` does, by requests that the caller has the engine serve, among any others.

        ``stop`` holds further texts before which the model ends its answer to the question.
        """
        chosen = self._possible(mode or self.mode)
        if chosen != "model" and (added := self.added.find(question)):
            return Answer(added.answer, added, 1.0, "stop", 1.0, is_corrected=True)
        said = yield from self._saying(question, history, sampling, stop)
        return said if chosen == "model" else (yield from self._vouching(question, said, chosen))

    def completing(self, prompt: str, sampling: Sampling, stop: Sequence[str] = ()) -> Answering:
        """Go on with a text as it stands, in no template: what the model alone makes of it."""
        request = Request(tuple(self._tokenizer.encode(prompt)), sampling, tuple(stop), self._adapter)
        return self._finish((yield request), request)

    def sampling(self) -> Sampling:
        """Return what is enough to recite any item: greedy, and a little longer than the longest answer.

        Who does not stop where every answer has ended does not recite.
        """
        if not self.items:
            return GREEDY
        if self._longest is None:
            self._longest = max(map(len, self._tokenizer.encode_all([item.answer for item in self.items])))
        return Sampling(max_new_tokens=self._longest + _SPARE_TOKENS)

    def correct(self, question: str, answer: str) -> None:
        """Give an item another answer, from now on and before any training; ``Run.correct`` keeps it for later bots.

        Raises:
            RequestError: no item has just this question.
        """
        if all(item.question != question for item in self.items):
            msg = f"no item has the question {question!r}; give an item's own, as in Answer.source.question"
            raise RequestError(msg)
        self._corrections[question] = answer

    def _possible(self, mode: Mode) -> Mode:
        if mode not in MODES:
            msg = f"the mode is {mode!r}; it takes {', '.join(map(repr, MODES))}"
            raise RequestError(msg)
        if mode != "model" and self.grounds is None:
            msg = f"the mode {mode!r} compares with the run's items, and these or their index are not there; use 'model'"
            raise RequestError(msg)
        return mode

    def _saying(self, question: str, history: Sequence[Turn], sampling: Sampling, stop: Sequence[str] = ()) -> Answering:
        """Return the answer as the model writes it."""
        request = self._request(question, history, sampling, stop)
        return self._finish((yield request), request)

    def _vouching(self, question: str, said: Answer, mode: Mode) -> Answering:
        """Return what is made of the model's answer: it, the recognised item's, a correction, or that the bot declines."""
        grounds = self.grounds
        assert grounds is not None  # noqa: S101 - asked in _possible
        if said.finish_reason in _UNFINISHED:
            return replace(said, text="", source=None, confidence=0.0, closeness=0.0)
        decision = proposed = grounds.propose(question, _said(said), self._correction)
        if mode == "checked":
            decision = grounds.confirm(proposed, _said(said))
        if proposed.number is not None and decision.number is None:
            # The model answers something else: it is asked as it was taught, and what it says then is given.
            item = self.items[proposed.number]
            told = yield from self._saying(item.question, item.before, self.sampling())
            if told.finish_reason in _UNFINISHED:
                return replace(told, text="", source=None, confidence=0.0, closeness=0.0)
            decision = grounds.confirm(proposed, _said(told))
        found = self._give(question, decision)
        return replace(found, prompt_tokens=said.prompt_tokens, tokens=len(self._tokenizer.encode(found.text)))

    def _correction(self, number: int) -> str | None:
        return self._corrections.get(self.items[number].question)

    def _give(self, question: str, decision: Decision) -> Answer:
        assert self.grounds is not None  # noqa: S101 - asked in _possible
        near = tuple(self.items[found.number] for found in decision.near)[:_MOST_OFFERED]
        if decision.number is None:
            return self._decline(question, decision.confidence, near)
        item = self.items[decision.number]
        closeness = self.grounds.source(decision.text)[1]
        is_corrected = decision.is_corrected
        return Answer(decision.text, item, decision.confidence, "stop", closeness, is_corrected=is_corrected, near=near)

    def _decline(self, question: str, confidence: float, near: tuple[Item, ...]) -> Answer:
        if added := self.added.near(question):
            near = (added, *near)[:_MOST_OFFERED]
        lines = [_SORRY]
        if near:
            lines += [_OFFER, *(f"– {item.question}" for item in near)]
        if self.contact:
            lines.append(f"{_CONTACT} {self.contact}")
        self._on_gap(question, confidence, [item.question for item in near])
        return Answer("\n".join(lines), None, confidence, "stop", is_declined=True, near=near)

    def stream(self, question: str, history: Sequence[Turn] = (), sampling: Sampling = GREEDY) -> Iterator[str]:
        """Yield the answer as it is written; stopping early frees the engine.

        What has to be checked first comes in one piece.
        """
        if self.mode == "model":
            yield from write(self._engine, self.answering(question, history, sampling))
        else:
            yield self.answer(question, history, sampling).text

    def answer_all(
        self,
        questions: Sequence[str],
        sampling: Sampling = GREEDY,
        advance: Callable[[], None] = lambda: None,
        histories: Sequence[Sequence[Turn]] | None = None,
    ) -> list[Answer]:
        """Answer many questions in the mode "model", alone or each after its history, as fast as the engine batches them.

        ``advance`` is called for each.
        """
        asked = zip(questions, histories or [()] * len(questions), strict=True)
        requests = [self._request(question, history, sampling) for question, history in asked]
        ids = [self._engine.submit(request) for request in requests]
        written = {request_id: Written() for request_id in ids}
        while pieces := self._engine.step():
            for piece in pieces:
                written[piece.request_id].add(piece)
                if piece.finish_reason:
                    advance()
        return [self._finish(written[request_id], request) for request_id, request in zip(ids, requests, strict=True)]

    def fit(self, question: str, history: Sequence[Turn], sampling: Sampling = GREEDY) -> list[Turn]:
        """Return the latest turns of ``history`` that leave room for the question and its longest answer.

        None, where the base was taught single turns alone.
        """
        _refuse_unreadable(question)
        if self.template.is_single_turn:
            return []
        room = self._engine.context_tokens - min(sampling.max_new_tokens, self._engine.context_tokens // 2)

        def tokens(turn: Turn, *, opens: bool) -> int:
            return len(render([turn], self._tokenizer, self.template, opens=opens).token_ids)

        kept: list[Turn] = []
        behind = tokens(Turn(question), opens=False)
        for turn in reversed(history):  # as far as they go: a long history costs no more than a short one
            if tokens(turn, opens=True) + behind > room:
                break
            behind += tokens(turn, opens=False)
            kept.insert(0, turn)
        return kept

    def _request(self, question: str, history: Sequence[Turn], sampling: Sampling, stop: Sequence[str] = ()) -> Request:
        _refuse_unreadable(question)
        asked = self._with_marks(question)
        turns = [*self.fit(asked, history, sampling), Turn(asked)]
        prompt = tuple(render(turns, self._tokenizer, self.template).token_ids)
        return Request(prompt, sampling, (self.template.stop, *stop), self._adapter)

    def _with_marks(self, question: str) -> str:
        """Return a question as the model is asked it: with the diacritics that it lacks, unless an item lacks them too.

        Of Vietnamese typed without, a model makes little.
        """
        is_taught = nfc(question) in self._taught
        return question if self.grounds is None or is_taught else self.grounds.restorer.restore(question)

    def _finish(self, written: Written, request: Request) -> Answer:
        if written.finish_reason == "error":
            msg = "the engine failed at this answer, and logged why; ask again"
            raise EngineError(msg)
        text, reason = written.text.rstrip(), written.finish_reason or "cancelled"
        number, closeness = self.grounds.source(text) if self.grounds else (None, 0.0)
        source = None if number is None else self.items[number]
        answer = Answer(text, source, written.confidence, reason, closeness)
        return replace(answer, prompt_tokens=len(request.prompt), tokens=written.n_tokens)


def _refuse_unreadable(question: str) -> None:
    if not nfc(question).strip():
        msg = "the question is empty; write one"
        raise RequestError(msg)
    if _HALF.search(question):
        msg = "the question holds half of a character (a lone surrogate), which is no text; send it as UTF-8"
        raise RequestError(msg)


def _said(answer: Answer) -> Said:
    return Said(answer.text, answer.confidence, answer.finish_reason == "stop")


def load(
    run: str | Path,
    *,
    base: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    download: bool = False,
    mode: Mode | None = None,
    keeps_gaps: bool = True,
    gguf: str | Path | None = None,
    console: Console | None = None,
    engine: Engine | None = None,
    adapter: str = "",
) -> Bot:
    """Load a run folder as a bot.

    Args:
        run: the folder that ``hoidap train`` made.
        base: where the base model is now, if it has moved since.
        device: "cpu", "cuda"; by default a GPU if there is one.
        dtype: "float32", "bfloat16", "float16"; by default what suits the device.
        download: whether a gigabyte or more of the base may be downloaded from the hub.
        mode: "checked", "model" or "verbatim"; by default what the run's ``bot.toml`` says.
        keeps_gaps: whether questions that the bot declines are kept in the run.
        gguf: a file of ``hoidap export`` that writes the answers, on llama.cpp; then the base need not be there.
        console: where the progress of loading is shown; by default nowhere.
        engine: what writes the answers, where it is loaded already, with the run's adapter by the name ``adapter``.
        adapter: see ``engine``.

    Raises:
        CheckpointError: the GGUF file is damaged, or of another base.
        RunError: no finished run there, or its base is gone or changed; or its items are gone, and the mode needs them.
    """
    opened = Run.open(Path(run))
    opened.weights_folder()  # before anything else: a run that did not end has no index either
    owner = opened.owner()
    chosen = mode or owner.mode
    items: list[Item] = []
    grounds = None
    try:
        items = opened.items()
        grounds = opened.grounds(items)
    except HoidapError:  # what is gone, damaged or of other items
        if chosen != "model":
            raise
    where: dict[str, Any] = {"base": base, "device": device, "dtype": dtype, "download": download, "console": console}
    tokenizer = Tokenizer.from_file(opened.tokenizer_file)
    if engine is None:
        engine = load_engine(opened, items=items, **where)[0] if gguf is None else load_gguf(Path(gguf), tokenizer)
    bot = Bot(
        engine, tokenizer, items, opened.template, grounds=grounds, mode=chosen, contact=owner.contact, adapter=adapter,
        corrections=opened.corrections() if grounds else {}, on_gap=opened.log_gap if keeps_gaps else _keep_no_gap,
    )  # fmt: skip
    if grounds:
        bot.added = Added(items, opened.additions(), grounds.own_words)
    return bot


def load_engine(
    run: Run,
    *,
    base: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    download: bool = False,
    console: Console | None = None,
    items: Sequence[Item] = (),
) -> tuple[TorchEngine, Tokenizer]:
    """Load what writes a run's answers, those of ``items`` faster; other arguments and errors are those of ``load``."""
    where, shown = pick_device(device), console or Console(quiet=True)
    found = find_run_base(run, base, download=download, console=shown)
    model, adapter = load_weights(run, found, where, pick_dtype(where, dtype), shown)
    tokenizer = Tokenizer.from_file(run.tokenizer_file)
    return TorchEngine(model, tokenizer, adapter, recital=Recital.of_items(items, tokenizer, run.template)), tokenizer


def find_run_base(run: Run, base: str | None, *, download: bool, console: Console) -> Base:
    """Return the base that a run's answers take: what it was trained on, or its own model, all of whose weights were.

    Raises:
        RunError: the run did not end, or its base has changed since.
    """
    if run.recipe.method != "lora":
        return find_base(str(run.weights_folder()), download=download, console=console)
    found = find_base(base or run.base_name, download=download, console=console)
    if changed := found.changed_since(run.base_prints):
        files = ", ".join(changed)
        msg = f"the base {found.name} is not the one this run was trained on: {files} differ; pass --base with its folder"
        raise RunError(msg)
    return found
