"""The engine on llama.cpp: a GGUF file on the CPU, through xllamacpp's server in this process.

Each request at work has a slot of the server and a thread that waits for it; what comes is handed over in a queue, so that
one thread, the caller of ``step``, sees requests join and leave as with the engine on PyTorch. Token ids go in, and come
out; stop texts are looked for here, so that both engines end an answer at the same character.
"""

import logging
import math
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any

import torch

from hoidap.errors import CheckpointError, RequestError
from hoidap.infer.engine import FinishReason, Piece, Request
from hoidap.infer.gguf_file import examine_gguf
from hoidap.infer.stop import StopText
from hoidap.infer.waiting import Entry, Waiting

_PROMPT_TOKENS_A_STEP = 128  # of prompts read between two tokens of the answers at work, and before a cancel is seen
_OWN_SEED = 2**32 - 1  # llama.cpp draws a seed of its own for this one

_log = logging.getLogger(__name__)


@dataclass
class _Slot:
    """A place of the server's, and whose tokens it holds."""

    number: int
    client: str | None = None
    prompt: tuple[int, ...] = ()


@dataclass(eq=False)
class _Running:
    """A request at work."""

    id: int
    request: Request
    slot: _Slot
    ends_at: float
    stop: StopText
    is_reused: bool  # what the slot holds is the same client's
    gone: Event = field(default_factory=Event)  # nobody waits for it any more


class GgufEngine:
    """Serves the model of a GGUF file, up to ``max_batch`` requests at a time, each of up to ``context_tokens``.

    The cache, float16, holds fewer requests where ``cache_bytes`` has no room for more, but one at least. More than
    ``max_waiting`` behind them are refused. It has no adapters by name: what was trained is in the file. llama.cpp tells
    nothing of a token that ends within a character: it is part of the next piece's text.

    Raises:
        CheckpointError: the file is damaged or incomplete, or llama.cpp does not take it.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_batch: int = 8,
        max_waiting: int = 100_000,
        context_tokens: int = 2048,
        cache_bytes: int = 2**30,
    ) -> None:
        self.facts = examine_gguf(path)
        config = self.facts.config
        self.context_tokens = min(context_tokens, config.max_seq_len)
        row_bytes = self.context_tokens * 2 * config.n_layers * config.d_model * 2
        slots = max(1, min(max_batch, cache_bytes // row_bytes))
        self._server = open_server(path, slots, self.context_tokens, secrets.token_hex(32))
        self._free = [_Slot(number) for number in range(slots)]
        self._threads = ThreadPoolExecutor(slots, "gguf")
        self._came: SimpleQueue[tuple[_Running, dict[str, Any] | None]] = SimpleQueue()
        self._waiting = Waiting(max_waiting)
        self._running: dict[int, _Running] = {}
        self._next_id = 0

    def submit(self, request: Request) -> int:
        """See ``Engine``."""
        request.refuse_unfit(self.context_tokens, self.facts.config.vocab_size)
        if request.adapter:
            msg = f"the adapter is {request.adapter!r}; a GGUF file has none by name: export each run to a file of its own"
            raise RequestError(msg)
        self._waiting.push(Entry(self._next_id, request, time.monotonic() + request.seconds))
        self._next_id += 1
        return self._next_id - 1

    def step(self) -> list[Piece]:
        """See ``Engine``."""
        while True:
            pieces = self._there() + self._end_expired()
            self._admit()
            if pieces or not (self._running or self._waiting):
                return pieces
            if pieces := self._take():
                return pieces

    def cancel(self, request_id: int) -> Piece | None:
        """End a request now; returns its last piece, or None if it had ended already.

        The server stops working at it with its next token, or piece of its prompt.
        """
        if request_id in self._running:
            self._running.pop(request_id).gone.set()
        elif not self._waiting.remove(request_id):
            return None
        return Piece(request_id, "", None, 0.0, "cancelled")

    def close(self) -> None:
        """End every request and give the model's memory back; the engine is of no use after it."""
        for request_id in list(self._running):
            self.cancel(request_id)
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._server = None

    def _end_expired(self) -> list[Piece]:
        now = time.monotonic()
        pieces = [Piece(gone, "", None, 0.0, "deadline") for gone in self._waiting.expired(now)]
        for piece in pieces:
            self._waiting.remove(piece.request_id)
        late = [running for running in self._running.values() if running.ends_at <= now]
        return pieces + [self._end(running, "deadline") for running in late]

    def _end(self, running: _Running, reason: FinishReason, text: str = "") -> Piece:
        del self._running[running.id]
        running.gone.set()
        return Piece(running.id, text + running.stop.flush(), None, 0.0, reason)

    def _admit(self) -> None:
        """Give waiting requests a slot each, that of a prompt that begins alike if it is the same client's."""
        while self._waiting and self._free:
            entry = self._waiting.pop()
            request = entry.request
            slot = max(self._free, key=lambda s: _shared(s, request))
            self._free.remove(slot)
            is_reused = slot.client == request.client
            slot.client, slot.prompt = request.client, request.prompt
            running = _Running(entry.id, request, slot, entry.ends_at, StopText(request.stop), is_reused)
            self._running[entry.id] = running
            self._threads.submit(self._work, running)

    def _work(self, running: _Running) -> None:
        """Have the server write one answer; in a thread of its own, which hands on what comes."""

        def take(chunk: dict[str, Any]) -> bool:
            self._came.put((running, chunk))
            return running.gone.is_set()  # true: the server drops the request

        try:
            if not running.gone.is_set():
                self._server.handle_completions(self._body(running), take)
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends this request alone
            self._came.put((running, {"error": repr(error)}))
        self._came.put((running, None))

    def _body(self, running: _Running) -> dict[str, Any]:
        request, sampling = running.request, running.request.sampling
        return {
            "prompt": list(request.prompt), "id_slot": running.slot.number, "cache_prompt": running.is_reused,
            "max_tokens": min(sampling.max_new_tokens, self.context_tokens - len(request.prompt)),
            # In the order of ours: its own would cut by top-k and top-p before the temperature.
            "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"], "temperature": sampling.temperature,
            "top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p, "repeat_last_n": self.context_tokens,
            "repeat_penalty": sampling.repetition_penalty, "seed": sampling.seed % _OWN_SEED,
            "stream": True, "return_progress": True, "logprobs": 1,
        }  # fmt: skip

    def _take(self) -> list[Piece]:
        """Wait for what comes next, no longer than the next deadline, and return what else is there already."""
        wait = min((r.ends_at for r in self._running.values()), default=math.inf) - time.monotonic()
        try:
            came = self._came.get(timeout=None if math.isinf(wait) else max(0.0, wait))
        except Empty:
            return []
        return self._pieces(*came) + self._there()

    def _there(self) -> list[Piece]:
        """Take what came already, places given back too."""
        pieces = []
        while not self._came.empty():
            pieces += self._pieces(*self._came.get())
        return pieces

    def _pieces(self, running: _Running, chunk: dict[str, Any] | None) -> list[Piece]:
        if chunk is None:
            self._free.append(running.slot)
        if running.id not in self._running:  # cancelled, or at its end
            return []
        if chunk is None or "error" in chunk:
            _log.error("request %d failed: %s", running.id, chunk and chunk["error"])
            return [self._end(running, "error")]
        choice = chunk["choices"][0]
        tokens = (choice["logprobs"] or {}).get("content", ())
        text = running.stop.push(choice["text"])
        pieces = [Piece(running.id, "", token["id"], token["logprob"]) for token in tokens]
        if running.stop.stopped:
            return [*pieces, self._end(running, "stop", text)]
        if reason := choice["finish_reason"]:
            return [*pieces, self._end(running, reason, text)]
        if pieces:
            pieces[-1] = Piece(running.id, text, pieces[-1].token_id, pieces[-1].logprob_nats)
        return pieces


def open_server(path: Path, slots: int, context_tokens: int, key: str) -> Any:
    """Load a file that was examined into llama.cpp.

    Its server listens on the machine's own address, wanted or not, so it has a ``key`` that nobody else knows.

    Raises:
        CheckpointError: llama.cpp does not take it.

    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.kv_unified = slots * context_tokens, slots, False
    params.n_batch = params.n_ubatch = _PROMPT_TOKENS_A_STEP
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    params.api_keys = [key]
    params.ui = params.fit_params = params.warmup = False
    params.endpoint_metrics = True
    params.cache_ram_mib = 0  # prompts of others, kept to be used again
    params.verbosity = -1
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        msg = f"llama.cpp does not take {path}: {error}; is there memory enough?"
        raise CheckpointError(msg) from None
    server.handle_metrics()  # returns once its loop runs: a server that is let go before that waits for ever
    return server


def tokenize(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts as llama.cpp makes them with the vocabulary of a file.

    Nothing is added, special tokens spelled out are text, and the text is taken as it is: llama.cpp knows no NFC.
    """
    import httpx2

    key = secrets.token_hex(32)
    server = open_server(path, 1, 256, key)
    ids = []
    headers = {"Authorization": f"Bearer {key}"}
    # The one thing of it that xllamacpp has no call for.
    with httpx2.Client(base_url=server.listening_address, headers=headers, trust_env=False, timeout=60) as client:
        for text in texts:
            asked = {"content": text, "add_special": False, "parse_special": False}
            ids.append(client.post("/tokenize", json=asked).raise_for_status().json()["tokens"])
    return ids


def _shared(slot: _Slot, request: Request) -> int:
    """Return how many tokens at the beginning of a prompt a slot holds already; none of another client's."""
    if slot.client != request.client:
        return 0 if slot.client is None else -1
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(slot.prompt, request.prompt, strict=False)))
