"""The engine on PyTorch: requests join and leave a batch over one KV cache between steps.

A step reads a piece of the prompts that joined, as one flat stream, and makes a token for every running request; of greedy
ones more, as far as a guess at what follows was right. Greedy answers do not depend on neighbours, on guesses, on where a
prompt was cut or on what of it a row held already, but for the order in which a matrix product of another height adds its
floats.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from types import MappingProxyType

import torch

from hoidap.errors import EngineError, RequestError
from hoidap.infer.engine import FinishReason, Piece, Request
from hoidap.infer.recital import Recital
from hoidap.infer.rows import Rows
from hoidap.infer.sample import choose
from hoidap.infer.stop import StopText
from hoidap.infer.waiting import Entry, Waiting
from hoidap.model.adapter import Adapter
from hoidap.model.cache import KVCache, cache_bytes_a_token
from hoidap.model.few import FewTokens, Started, Workspace, most_tokens
from hoidap.model.mpt import MPT
from hoidap.tokenizer import TextStream, Tokenizer

_PROMPT_TOKENS_A_STEP = 2048  # where nobody is kept waiting for the next token
_PAUSE_TOKENS = {"cuda": 512, "cpu": 128}  # of prompts read between two tokens of the answers at work
_BESIDE_AT_LEAST, _BESIDE_AT_MOST = 16, 256  # tokens of prompts a step that are read beside the answers, and in all
_GUESSED_BYTES_A_STEP = 2**28  # of the guesses' logits: 268 tokens of a vocabulary of 250,880

_log = logging.getLogger(__name__)


@dataclass
class _Running:
    """A request at work: where its keys are, how its text comes out, its last token."""

    id: int
    request: Request
    row: int
    read: int  # tokens of the prompt that the row holds
    ends_at: float
    text: TextStream
    stop: StopText
    generator: torch.Generator
    said: list[int] = field(default_factory=list)

    @property
    def unread(self) -> int:
        return len(self.request.prompt) - self.read


@dataclass(frozen=True)
class _Ahead:
    """A step begun before the one ahead of it was looked at, on the likeliest tokens, which the host has not seen yet."""

    network: FewTokens
    started: Started
    at: Mapping[tuple[int, int], int]  # (request, tokens that its row held) → its place in the step


class TorchEngine:
    """Serves ``model`` with ``adapter``, up to ``max_batch`` requests at a time, each of up to ``context_tokens``.

    ``adapters`` are others on the same base, chosen by name for each request. What the model recites of ``recital`` comes
    several tokens a step. The cache holds fewer requests where ``cache_bytes`` has no room for more, but one at least. By
    default it may take half of a GPU's free memory, or 1 GiB of a CPU's; a token of PhoGPT-4B takes 384 KiB in 16 bits, one
    of 7B5 512 KiB. More than ``max_waiting`` requests behind them are refused.
    """

    def __init__(
        self,
        model: MPT,
        tokenizer: Tokenizer,
        adapter: Adapter | None = None,
        *,
        adapters: Mapping[str, Adapter] = MappingProxyType({}),
        recital: Recital | None = None,
        max_batch: int = 32,
        max_waiting: int = 100_000,
        context_tokens: int = 2048,
        cache_bytes: int | None = None,
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self.adapter = adapter
        base, _ = _light(model, None)
        self._paths = {"": _light(model, adapter), **{name: (base, other) for name, other in adapters.items()}}
        # Products of int8 pick outlier columns by all tokens of a call: a wrong guess would change the rounding of others.
        self._recital = recital if recital and not model.is_int8 else Recital()
        self.context_tokens = min(context_tokens, model.config.max_seq_len)
        row_bytes = self.context_tokens * cache_bytes_a_token(model.config, model.dtype)
        rows = max(1, min(max_batch, (cache_bytes or _spare_bytes(model.device)) // row_bytes))
        self._cache = KVCache(model.config, rows, self.context_tokens, model.dtype, model.device)
        self._rank = max((delta.rank for _, delta in self._paths.values() if delta), default=0)
        self._few: dict[str, FewTokens] = {}
        self._workspace: Workspace | None = None  # theirs
        self._most_few = _most_few(base, self._rank)  # tokens of a step of theirs
        self._most_few *= self._most_few > 0 and self._few_work()
        self._ahead: _Ahead | None = None
        self._free = Rows(self._cache)
        self._waiting = Waiting(max_waiting)
        self._running: dict[int, _Running] = {}
        self._next_id = 0

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Prepare what the first answers would wait for, before any: on a GPU kernels and graphs, else nothing."""
        for name in self._paths if self._most_few else ():
            self._network(name).warm_up(min(self._most_few, len(self._cache.lengths)))

    def _network(self, adapter: str) -> FewTokens:
        if adapter not in self._few:
            self._workspace = self._workspace or Workspace(self._paths[adapter][0], self._cache, self._rank)
            self._few[adapter] = FewTokens(*self._paths[adapter], self._cache, self._workspace)
        return self._few[adapter]

    def _few_work(self) -> bool:
        """Whether the kernels for few tokens compile here and are right."""
        try:
            self._network("").check()
        except Exception as error:  # noqa: BLE001 - whatever it is, the network for many tokens does without
            _log.warning("steps of few tokens are made the slower way, as their kernels fail here", exc_info=error)
            self._few, self._workspace = {}, None
            return False
        return True

    def submit(self, request: Request) -> int:
        """See ``Engine``."""
        request.refuse_unfit(self.context_tokens, self.model.config.vocab_size)
        if request.adapter not in self._paths:
            known = ", ".join(map(repr, self._paths))
            msg = f"the adapter is {request.adapter!r}; this engine has {known}"
            raise RequestError(msg)
        ends_at = time.monotonic() + request.seconds
        self._waiting.push(Entry(self._next_id, request, ends_at))
        self._next_id += 1
        return self._next_id - 1

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """See ``Engine``."""
        pieces = self._end_expired()
        while True:
            self._admit()
            pieces += self._read()
            pieces += self._write()
            if pieces or not self._running:
                return pieces

    def cancel(self, request_id: int) -> Piece | None:
        """End a request now; returns its last piece, or None if it had ended already."""
        if request_id in self._running:
            self._release(self._running[request_id])
        elif not self._waiting.remove(request_id):
            return None
        return Piece(request_id, "", None, 0.0, "cancelled")

    def _end_expired(self) -> list[Piece]:
        now = time.monotonic()
        pieces = [Piece(gone, "", None, 0.0, "deadline") for gone in self._waiting.expired(now)]
        for piece in pieces:
            self._waiting.remove(piece.request_id)
        for running in [r for r in self._running.values() if r.ends_at <= now]:
            self._release(running)
            pieces.append(Piece(running.id, running.stop.flush(), None, 0.0, "deadline"))
        return pieces

    def _admit(self) -> None:
        """Give waiting requests a row each, as far as rows go."""
        while self._waiting and self._free:
            entry = self._waiting.pop()
            request = entry.request
            row, held = self._free.take(request.prompt, (request.adapter, request.client))
            self._running[entry.id] = _Running(
                entry.id, request, row, held, entry.ends_at, self._tokenizer.stream(), StopText(request.stop),
                torch.Generator().manual_seed(request.sampling.seed),
            )  # fmt: skip

    def _read(self) -> list[Piece]:
        """Read prompts, first come first read, a piece of them if answers are at work that would wait."""
        if self._reads_beside():
            return []
        is_writing = any(not r.unread for r in self._running.values())
        room = _PAUSE_TOKENS.get(self.model.device.type, 128) if is_writing else _PROMPT_TOKENS_A_STEP
        chosen = self._unread(room)
        # A prompt on an empty row attends to itself alone, which needs no padding: those apart from the others.
        fresh, going_on = [[pair for pair in chosen if bool(pair[0].read) == has_read] for has_read in (False, True)]
        return self._by_adapter(fresh) + self._by_adapter(going_on)

    def _unread(self, room: int) -> list[tuple[_Running, list[int]]]:
        """Return what is to be read of prompts, up to ``room`` tokens."""
        chosen: list[tuple[_Running, list[int]]] = []
        for running in self._running.values():
            if running.unread and room > 0:
                chosen.append((running, list(running.request.prompt[running.read : running.read + room])))
                room -= len(chosen[-1][1])
        return chosen

    def _reads_beside(self) -> bool:
        """Whether prompts are read in the steps that write, which have room for them; long ones are read faster alone."""
        writing = sum(not r.unread for r in self._running.values())
        unread = sum(r.unread for r in self._running.values())
        has_room = 0 < writing <= self._most_few - _BESIDE_AT_LEAST
        return self._most_few > 0 and has_room and 0 < unread <= _BESIDE_AT_MOST

    def _write(self) -> list[Piece]:
        """Make a token for every request whose prompt is read, and more where a guess was right."""
        writing = sorted((r for r in self._running.values() if r.said), key=lambda r: r.row)
        if self._ahead:  # what joined meanwhile waits for the next step
            begun = self._ahead.at
            if covered := [r for r in writing if (r.id, self._cache.lengths[r.row]) in begun]:
                return self._by_adapter([(r, [r.said[-1]]) for r in covered])
        each = max(1, len(writing))
        most = _GUESSED_BYTES_A_STEP // (4 * self.model.config.vocab_size * each)
        reads_beside = self._reads_beside()
        if self._most_few:
            room = self._most_few - _BESIDE_AT_LEAST if reads_beside else self._most_few
            most = min(most, max(0, room // each - 1))
        chosen = [(r, [r.said[-1], *self._guess(r, most)]) for r in writing]
        if reads_beside:
            chosen += self._unread(self._most_few - sum(len(tokens) for _, tokens in chosen))
        return self._by_adapter(chosen)

    def _guess(self, running: _Running, most: int) -> tuple[int, ...]:
        """Return tokens that may follow; none where they are drawn, or where no room is left for them."""
        sampling = running.request.sampling
        if sampling.temperature > 0 or sampling.repetition_penalty != 1:
            return ()
        room = self.context_tokens - len(running.request.prompt) - len(running.said)
        return self._recital.after(running.said, min(most, room))

    def _by_adapter(self, chosen: Sequence[tuple[_Running, list[int]]]) -> list[Piece]:
        pieces = []
        for name in dict.fromkeys(running.request.adapter for running, _ in chosen):
            of_name = [pair for pair in chosen if pair[0].request.adapter == name]
            is_single = self._most_few > 0 and all(len(tokens) == 1 for _, tokens in of_name)
            most = self._most_few if is_single else len(of_name)
            for at in range(0, len(of_name), most):
                pieces += self._advance(of_name[at : at + most], name)
        return pieces

    def _advance(self, chosen: Sequence[tuple[_Running, list[int]]], adapter: str) -> list[Piece]:
        """Run the model; if that fails, each request alone, so that it fails for the one that is at fault."""
        before = [self._cache.lengths[r.row] for r, _ in chosen]
        try:
            said = self._ask(chosen, adapter)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other requests are to be served
            self._ahead = None
            for (r, _), length in zip(chosen, before, strict=True):
                self._cache.lengths[r.row] = length
            if len(chosen) > 1:
                return [piece for pair in chosen for piece in self._advance([pair], adapter)]
            return [self._fail(chosen[0][0], error)]
        pieces = []
        for (r, tokens), found in zip(chosen, said, strict=True):
            guess = tokens[1:] if r.said else []
            r.read += 0 if r.said else len(tokens)
            try:
                pieces += self._take(r, found, guess)
            except Exception as error:  # noqa: BLE001 - the same
                pieces.append(self._fail(r, error))
        return pieces

    def _fail(self, running: _Running, error: Exception) -> Piece:
        _log.error("request %d failed", running.id, exc_info=error)
        self._cache.lengths[running.row] = 0  # what the row holds is not to be trusted
        self._release(running)
        return Piece(running.id, "", None, 0.0, "error")

    def _ask(self, chosen: Sequence[tuple[_Running, list[int]]], adapter: str) -> list[list[tuple[int, float]]]:
        """Run the model over each request's new tokens; return what it says to them, with its log-probability.

        New to a request at work are its last token and guesses at those that follow: the model is asked behind each of
        them. To a prompt it is asked behind the last token alone, and behind none while some are unread.
        """
        starts = [0, *accumulate(len(tokens) for _, tokens in chosen)]
        counts = [len(tokens) if r.said else int(r.unread == len(tokens)) for r, tokens in chosen]
        asked = [at for end, count in zip(starts[1:], counts, strict=True) for at in range(end - count, end)]
        owners = [(r, tokens[1 : 1 + n]) for (r, tokens), count in zip(chosen, counts, strict=True) for n in range(count)]
        samplings = [r.request.sampling for r, _ in owners]
        is_greedy = all(s.temperature == 0 and s.repetition_penalty == 1 for s in samplings)
        if starts[-1] <= self._most_few:
            ids, nats, logits = self._run_few(chosen, adapter, asked, is_greedy=is_greedy)
        else:
            network, delta = self._paths[adapter]
            stream = torch.tensor([t for _, tokens in chosen for t in tokens], device=self.model.device)
            hidden = network.hidden(stream, starts, self._cache.rows([r.row for r, _ in chosen]), delta)
            logits = network.logits(hidden[torch.tensor(asked, device=stream.device)]) if asked else None
            ids, nats = [], []
        if logits is not None:
            befores = [
                ()
                if r.request.sampling.repetition_penalty == 1
                else (*r.request.prompt, *r.said, *(guess if r.said else ()))
                for r, guess in owners
            ]
            ids, nats = choose(logits, samplings, [r.generator for r, _ in owners], befores)
        if not all(map(math.isfinite, nats)):
            msg = "the model's scores are not numbers: its weights are damaged, or float16 overflowed"
            raise EngineError(msg)
        said = iter(zip(ids, nats, strict=True))
        return [list(islice(said, count)) for count in counts]

    def _run_few(
        self, chosen: Sequence[tuple[_Running, list[int]]], adapter: str, asked: Sequence[int], *, is_greedy: bool
    ) -> tuple[list[int], list[float], torch.Tensor | None]:
        """Return what is likeliest behind the tokens ``asked``, or the logits there if that is not what is wanted.

        Where every token is the likeliest there is, the next step begins before this one is looked at.
        """
        network, rows, lengths = self._network(adapter), [r.row for r, _ in chosen], [len(tokens) for _, tokens in chosen]
        past = self._cache.rows(rows).past
        keys = [(r.id, held) for (r, _), held in zip(chosen, past, strict=True)]
        ahead, self._ahead = self._ahead, None
        if ahead and ahead.network is network and all(key in ahead.at for key in keys) and max(lengths) == 1:
            started, places = ahead.started, [ahead.at[key] for key in keys]
            is_whole = len(keys) == len(ahead.at)
        else:
            spans = zip(rows, past, lengths, strict=True)
            cells = [(row, place) for row, held, new in spans for place in range(held, held + new)]
            started = network.start([t for _, tokens in chosen for t in tokens], *zip(*cells, strict=True))
            places, is_whole = list(asked), len(asked) == len(chosen) == len(cells)
        self._cache.rows(rows).advance(lengths)
        if not is_greedy:
            return [], [], started.logits[places] if asked else None
        if is_whole and self._may_go_on([r for r, _ in chosen], max(past)):
            at = {(request, held + 1): place for (request, held), place in zip(keys, places, strict=True)}
            try:
                self._ahead = _Ahead(network, network.go_on(), at)
            except Exception as error:  # noqa: BLE001 - this step is good; if it is the GPU, the next one says so
                _log.warning("a step could not begin ahead", exc_info=error)
        ids, nats = started.likeliest()
        return [ids[place] for place in places], [nats[place] for place in places], None

    def _may_go_on(self, chosen: Sequence[_Running], longest: int) -> bool:
        """Whether the next step may begin unseen: all run in it, there is room, one at least goes on, and none is guessed.

        A guess is worth more than a step that begins early.
        """
        return (
            len(chosen) == len(self._running)
            and longest + 2 <= self.context_tokens
            and any(len(r.said) + 1 < r.request.sampling.max_new_tokens for r in chosen)
            and not any(self._recital.is_begun(r.said) for r in chosen)
        )

    def _take(self, running: _Running, said: Sequence[tuple[int, float]], guess: Sequence[int]) -> list[Piece]:
        """Take what the model says, up to its end or behind the first wrong guess; the cache forgets what stands there."""
        pieces = []
        for n, (token, logprob_nats) in enumerate(said):
            pieces.append(self._take_one(running, token, logprob_nats))
            if pieces[-1].finish_reason:
                break
            if n < len(guess) and guess[n] != token:
                self._cache.lengths[running.row] -= len(guess) - n
                break
        return pieces

    def _take_one(self, running: _Running, token: int, logprob_nats: float) -> Piece:
        """Add a token to an answer and see whether it ends there."""
        running.said.append(token)
        reason: FinishReason | None = None
        if token == self._tokenizer.eos_id:
            text = running.stop.flush()
            reason = "stop"
        else:
            text = running.stop.push(running.text.push(token))
            if running.stop.stopped:
                reason = "stop"
            elif len(running.said) >= running.request.sampling.max_new_tokens or self._is_full(running):
                text += running.stop.flush()
                reason = "length"
        if reason:
            self._release(running)
        return Piece(running.id, text, token, logprob_nats, reason)

    def _is_full(self, running: _Running) -> bool:
        return len(running.request.prompt) + len(running.said) >= self.context_tokens

    def _release(self, running: _Running) -> None:
        del self._running[running.id]
        request = running.request
        # The keys of its last token are not there, or are a wrong guess's.
        held = (*request.prompt, *running.said[:-1])
        self._free.give_back(running.row, held, (request.adapter, request.client))


def _light(model: MPT, adapter: Adapter | None) -> tuple[MPT, Adapter | None]:
    """Return what answers fastest: a small model on the CPU decoded, its adapter merged in, where float32 loses nothing."""
    if not model.is_cheap_decoded:
        return model, adapter
    decoded = model.decoded()
    if adapter and decoded.dtype == torch.float32 and not decoded.is_int8:
        return decoded.merge(adapter), None
    return decoded, adapter


def _most_few(model: MPT, rank: int) -> int:
    """Return how many tokens ``FewTokens`` takes a step; 0 on the CPU, where its reference is the slower."""
    return most_tokens(model, rank) if model.device.type == "cuda" else 0


def _spare_bytes(device: torch.device) -> int:
    """Return what a cache may take where nobody said: half of what a GPU has to spare, 1 GiB on the CPU."""
    if device.type != "cuda":
        return 2**30
    free, total = torch.cuda.mem_get_info(device)
    reserved, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    allowed = torch.cuda.get_per_process_memory_fraction(device) * total - reserved  # training may have set a limit
    return int(min(free, allowed) + reserved - used) // 2  # what PyTorch holds and does not use is free too
