"""The engine on PyTorch: requests join and leave a batch over one KV cache between steps.

A step either reads the prompts of waiting requests, as one flat stream, or makes a token for every running one; of greedy
ones more, as far as a guess at what follows was right. Greedy answers do not depend on neighbours or guesses but for the
order in which a matrix product of another height adds its floats.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from hoidap.errors import RequestError
from hoidap.infer.engine import FinishReason, Piece, Request
from hoidap.infer.recital import Recital
from hoidap.infer.sample import choose
from hoidap.infer.stop import StopText
from hoidap.model.adapter import Adapter
from hoidap.model.cache import KVCache, cache_bytes_a_token
from hoidap.model.mpt import MPT
from hoidap.tokenizer import TextStream, Tokenizer

_PROMPT_TOKENS_A_STEP = 8192
_GUESSED_BYTES_A_STEP = 2**28  # of the guesses' logits: 268 tokens of a vocabulary of 250,880


@dataclass
class _Running:
    """A request at work: where its keys are, how its text comes out, its last token."""

    id: int
    request: Request
    row: int
    text: TextStream
    stop: StopText
    generator: torch.Generator
    said: list[int] = field(default_factory=list)


class TorchEngine:
    """Serves ``model`` with ``adapter``, up to ``max_batch`` requests at a time, each of up to ``context_tokens``.

    What the model recites of ``recital`` comes several tokens a step. The cache holds fewer requests where ``cache_bytes``
    has no room for more, but one at least. By default it may take half of a GPU's free memory, or 1 GiB of a CPU's; a token
    of PhoGPT-4B takes 384 KiB in 16 bits, one of 7B5 512 KiB.
    """

    def __init__(
        self,
        model: MPT,
        tokenizer: Tokenizer,
        adapter: Adapter | None = None,
        *,
        recital: Recital | None = None,
        max_batch: int = 32,
        context_tokens: int = 2048,
        cache_bytes: int | None = None,
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self.adapter = adapter
        self._network, self._delta = _light(model, adapter)
        # Products of int8 pick outlier columns by all tokens of a call: a wrong guess would change the rounding of others.
        self._recital = recital if recital and not model.is_int8 else Recital()
        self.context_tokens = min(context_tokens, model.config.max_seq_len)
        row_bytes = self.context_tokens * cache_bytes_a_token(model.config, model.dtype)
        rows = max(1, min(max_batch, (cache_bytes or _spare_bytes(model.device)) // row_bytes))
        self._cache = KVCache(model.config, rows, self.context_tokens, model.dtype, model.device)
        self._free = deque(range(rows))
        self._waiting: deque[tuple[int, Request]] = deque()
        self._running: dict[int, _Running] = {}
        self._next_id = 0

    def submit(self, request: Request) -> int:
        """Take a request and return its id; raises RequestError if it can never be served."""
        if len(request.prompt) >= self.context_tokens:
            msg = f"the prompt has {len(request.prompt)} tokens; prompt and answer together may have {self.context_tokens}"
            raise RequestError(msg)
        wrong = [t for t in request.prompt if not 0 <= t < self.model.config.vocab_size]
        if wrong:
            msg = f"the prompt holds token {wrong[0]}; this model has tokens 0 to {self.model.config.vocab_size - 1}"
            raise RequestError(msg)
        request_id = self._next_id
        self._next_id += 1
        self._waiting.append((request_id, request))
        return request_id

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """Do one round of work; an empty list means that nothing is left to do."""
        joining = self._admit()
        if joining:
            return self._extend(joining, [list(r.request.prompt) for r in joining])
        running = sorted(self._running.values(), key=lambda r: r.row)
        most = _GUESSED_BYTES_A_STEP // (4 * self.model.config.vocab_size * max(1, len(running)))
        return self._extend(running, [[r.said[-1], *self._guess(r, most)] for r in running]) if running else []

    def cancel(self, request_id: int) -> Piece | None:
        """End a request now; returns its last piece, or None if it had ended already."""
        waiting = next((entry for entry in self._waiting if entry[0] == request_id), None)
        if waiting:
            self._waiting.remove(waiting)
        elif request_id in self._running:
            self._release(self._running[request_id])
        else:
            return None
        return Piece(request_id, "", None, 0.0, "cancelled")

    def _admit(self) -> list[_Running]:
        """Give waiting requests a row each, first come first served, as far as rows and one step's tokens go."""
        joining: list[_Running] = []
        room = _PROMPT_TOKENS_A_STEP
        while self._waiting and self._free and (not joining or len(self._waiting[0][1].prompt) <= room):
            request_id, request = self._waiting.popleft()
            room -= len(request.prompt)
            running = _Running(
                id=request_id,
                request=request,
                row=self._free.popleft(),
                text=self._tokenizer.stream(),
                stop=StopText(request.stop),
                generator=torch.Generator().manual_seed(request.sampling.seed),
            )
            self._running[request_id] = running
            joining.append(running)
        return joining

    def _guess(self, running: _Running, most: int) -> tuple[int, ...]:
        """Return tokens that may follow; none where they are drawn, or where no room is left for them."""
        if running.request.sampling.temperature > 0:
            return ()
        room = self.context_tokens - len(running.request.prompt) - len(running.said)
        return self._recital.after(running.said, min(most, room))

    def _extend(self, running: Sequence[_Running], new_tokens: Sequence[Sequence[int]]) -> list[Piece]:
        """Run the model over each sequence's new tokens, and take what it says to them.

        Those of a sequence that is running are its last token and guesses at those that follow.
        """
        starts = [0, *accumulate(map(len, new_tokens))]
        stream = torch.tensor([t for tokens in new_tokens for t in tokens], device=self.model.device)
        rows = self._cache.rows([r.row for r in running])
        hidden = self._network.hidden(stream, starts, rows, self._delta)
        guesses = [tokens[1:] if r.said else () for r, tokens in zip(running, new_tokens, strict=True)]
        # The model is asked behind the last token that is known, and behind each guess.
        asked = [at for end, guess in zip(starts[1:], guesses, strict=True) for at in range(end - 1 - len(guess), end)]
        owners = [r for r, guess in zip(running, guesses, strict=True) for _ in range(1 + len(guess))]
        logits = self._network.logits(hidden[torch.tensor(asked, device=self.model.device)])  # [N, V]
        chosen = choose(logits, [r.request.sampling for r in owners], [r.generator for r in owners])
        said = list(zip(*chosen, strict=True))
        pieces = []
        for r, guess in zip(running, guesses, strict=True):
            pieces += self._take(r, said[: 1 + len(guess)], guess)
            del said[: 1 + len(guess)]
        return pieces

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
        self._cache.lengths[running.row] = 0
        self._free.append(running.row)


def _light(model: MPT, adapter: Adapter | None) -> tuple[MPT, Adapter | None]:
    """Return what answers fastest: a small model on the CPU decoded, its adapter merged in, where float32 loses nothing."""
    if not model.is_cheap_decoded:
        return model, adapter
    decoded = model.decoded()
    if adapter and decoded.dtype == torch.float32 and not decoded.is_int8:
        return decoded.merge(adapter), None
    return decoded, adapter


def _spare_bytes(device: torch.device) -> int:
    """Return what a cache may take where nobody said: half of a GPU's free memory, 1 GiB on the CPU."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's own, and free too
        return (free + kept) // 2
    return 2**30
