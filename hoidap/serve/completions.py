"""/v1: chat completions, completions and models, as OpenAI's clients expect them."""

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from hoidap.bot import Answer
from hoidap.errors import HoidapError
from hoidap.infer.engine import Sampling
from hoidap.serve.desk import Ask, Desk, Known
from hoidap.serve.events import EventStream, gathered, until_gone
from hoidap.serve.settings import Settings
from hoidap.serve.wire import (
    MOST_CHOICES,
    BadRequestError,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    ChunkChoice,
    Completion,
    CompletionRequest,
    Delta,
    Error,
    Model,
    Models,
    Origin,
    Said,
    TextChoice,
    UnknownModelError,
    Usage,
    event,
    finish_of,
    status_of,
    turns_of,
)

_COMPLETION_TOKENS = 16  # where a completion does not say how many; OpenAI's
Texts = AsyncGenerator[str | Answer, None]
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": Error, "description": text}
    for code, text in {
        400: "The request cannot be served; `param` names what is wrong with it.",
        401: "A key is needed, and none or a wrong one came.",
        404: "There is no such model.",
        413: "The body is too large.",
        415: "The body is not application/json.",
        429: "Too many requests; Retry-After says when to come again.",
        500: "The answer failed.",
        503: "Not now: too many wait, or the engine is being loaded; Retry-After says when to come again.",
    }.items()
}


def make_completions(desk: Desk, settings: Settings) -> APIRouter:
    """Return the routes under /v1."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.get("/models", responses=_only(401, 429, 503))
    async def models() -> Models:
        """List the bots."""
        return Models(data=[_model(known) for known in desk.bots.values()])

    @router.get("/models/{model}", responses=_only(401, 404, 429, 503))
    async def model(model: str) -> Model:
        """Tell of one bot."""
        return _model(_known(desk, model))

    @router.post("/chat/completions", response_model=ChatCompletion, responses=_streaming(ChatChunk))
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer the last question of a conversation, as the bot is set to: checked against its items by default."""
        known = _known(desk, body.model)
        history, question = turns_of(body.messages)
        _refuse_long("messages", [message.text for message in body.messages], settings)
        most = body.max_completion_tokens or body.max_tokens or max(known.answer_tokens, settings.answer_tokens)
        limit = max(known.answer_tokens, settings.answer_tokens)
        samplings = _samplings(body, min(most, limit))
        asks = [
            Ask(known.id, question, history, s, client=_client(request), seconds=settings.answer_seconds, stop=body.stops)
            for s in samplings
        ]
        shape = _ChatShape(_Head("chatcmpl", known.id), wants_usage=body.wants_usage)
        return await _respond(request, [desk.ask(ask) for ask in asks], shape, streams=bool(body.stream))

    @router.post("/completions", response_model=Completion, responses=_streaming(Completion))
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Go on with a text: the model alone, in no template, unchecked."""
        known = _known(desk, body.model)
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        _refuse_long("prompt", prompts, settings)
        samplings = _samplings(body, min(body.max_tokens or _COMPLETION_TOKENS, settings.answer_tokens))
        if len(prompts) * len(samplings) > MOST_CHOICES:
            msg = f"{len(prompts)} prompts with n {len(samplings)} make more than {MOST_CHOICES} choices; ask for fewer"
            raise BadRequestError(msg, "n", "invalid_value")
        if not all(prompts):
            msg = "the prompt is empty; it takes at least one character"
            raise BadRequestError(msg, "prompt", "invalid_value")
        client, seconds = _client(request), settings.answer_seconds
        sources = [
            desk.complete(known.id, prompt, s, stop=body.stops, client=client, seconds=seconds)
            for prompt in prompts
            for s in samplings
        ]
        shape = _TextShape(_Head("cmpl", known.id), wants_usage=body.wants_usage)
        return await _respond(request, sources, shape, streams=bool(body.stream))

    return router


class _Head:
    """What all events of an answer share."""

    def __init__(self, kind: str, model: str) -> None:
        self.fields: dict[str, Any] = {
            "id": f"{kind}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model,
        }  # fmt: skip


class _ChatShape:
    """The answers of a chat as OpenAI shapes them."""

    def __init__(self, head: _Head, *, wants_usage: bool) -> None:
        self._head, self.wants_usage = head.fields, wants_usage

    def whole(self, answers: Sequence[Answer]) -> BaseModel:
        choices = [
            ChatChoice(index=n, message=Said(content=a.text), finish_reason=finish_of(a), hoidap=Origin.of(a))
            for n, a in enumerate(answers)
        ]
        return ChatCompletion(**self._head, choices=choices, usage=Usage.of(answers))

    def opening(self, number: int) -> BaseModel | None:
        return self._chunk(ChunkChoice(index=number, delta=Delta(role="assistant", content="")))

    def text(self, number: int, text: str) -> BaseModel:
        return self._chunk(ChunkChoice(index=number, delta=Delta(content=text)))

    def end(self, number: int, answer: Answer) -> BaseModel:
        return self._chunk(
            ChunkChoice(index=number, delta=Delta(), finish_reason=finish_of(answer), hoidap=Origin.of(answer))
        )

    def usage(self, answers: Sequence[Answer]) -> BaseModel:
        return ChatChunk(**self._head, choices=[], usage=Usage.of(answers))

    def _chunk(self, choice: ChunkChoice) -> BaseModel:
        return ChatChunk(**self._head, choices=[choice])


class _TextShape:
    """Completions as OpenAI shapes them."""

    def __init__(self, head: _Head, *, wants_usage: bool) -> None:
        self._head, self.wants_usage = head.fields, wants_usage

    def whole(self, answers: Sequence[Answer]) -> BaseModel:
        choices = [TextChoice(index=n, text=a.text, finish_reason=finish_of(a)) for n, a in enumerate(answers)]
        return Completion(**self._head, choices=choices, usage=Usage.of(answers))

    def opening(self, _number: int) -> BaseModel | None:
        return None

    def text(self, number: int, text: str) -> BaseModel:
        return Completion(**self._head, choices=[TextChoice(index=number, text=text, finish_reason=None)])

    def end(self, number: int, answer: Answer) -> BaseModel:
        return Completion(**self._head, choices=[TextChoice(index=number, text="", finish_reason=finish_of(answer))])

    def usage(self, answers: Sequence[Answer]) -> BaseModel:
        return Completion(**self._head, choices=[], usage=Usage.of(answers))


async def _respond(
    request: Request, sources: Sequence[Texts], shape: _ChatShape | _TextShape, *, streams: bool
) -> Response:
    items = gathered(sources)
    if not streams:
        answers = await until_gone(request.receive, _collect(items, len(sources)))
        return Response(shape.whole(answers).model_dump_json(), media_type="application/json")

    async def first() -> tuple[int, str | Answer] | None:
        return await anext(items)

    # The first is waited for, up to a pulse, so that what is wrong gets a status of its own.
    try:
        begun = await until_gone(request.receive, first())
    except BaseException:
        await items.aclose()
        raise
    return EventStream(_events(begun, items, len(sources), shape))


async def _collect(items: AsyncGenerator[tuple[int, str | Answer] | None, None], count: int) -> list[Answer]:
    answers: dict[int, Answer] = {}
    async with aclosing(items):
        async for item in items:
            if item and isinstance(item[1], Answer):
                answers[item[0]] = item[1]
    return [answers[number] for number in range(count)]


async def _events(
    begun: tuple[int, str | Answer] | None,
    items: AsyncGenerator[tuple[int, str | Answer] | None, None],
    count: int,
    shape: _ChatShape | _TextShape,
) -> AsyncGenerator[bytes, None]:
    answers: list[Answer] = []
    async with aclosing(items):
        for number in range(count):
            if opening := shape.opening(number):
                yield event(opening)
        item = begun
        try:
            while True:
                if item is None:
                    yield b": still at work\n\n"
                elif isinstance(item[1], str):
                    yield event(shape.text(item[0], item[1]))
                else:
                    answers.append(item[1])
                    yield event(shape.end(item[0], item[1]))
                item = await anext(items)
        except StopAsyncIteration:
            pass
        except HoidapError as error:  # the status is sent already
            yield event({"error": status_of(error)[1].model_dump()})
            return
        if shape.wants_usage:
            yield event(shape.usage(answers))
        yield b"data: [DONE]\n\n"


def _known(desk: Desk, model: str) -> Known:
    if model not in desk.bots:
        msg = f"the model {model!r} is not here; /v1/models lists those that are"
        raise UnknownModelError(msg, "model", "model_not_found")
    return desk.bots[model]


def _model(known: Known) -> Model:
    return Model(id=known.id, created=known.created)


def _samplings(body: ChatRequest | CompletionRequest, most: int) -> list[Sampling]:
    seed = secrets.randbits(62) if body.seed is None else body.seed % 2**63
    top_p = 1.0 if body.top_p is None else float(body.top_p)
    return [
        Sampling(most, float(body.temperature or 0.0), top_p=top_p, seed=(seed + n) % 2**63) for n in range(body.n or 1)
    ]


def _refuse_long(param: str, texts: Sequence[str], settings: Settings) -> None:
    longest = max(map(len, texts))
    if longest > settings.question_characters:
        msg = f"{param} holds a text of {longest:,} characters; each may have {settings.question_characters:,}"
        raise BadRequestError(msg, param, "context_length_exceeded")


def _client(request: Request) -> str:
    client: str = request.scope["state"].get("client", "")
    return client


def _only(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: _ERRORS[code] for code in codes}


def _streaming(chunk: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    kinds = [{"$ref": f"#/components/schemas/{name}"} for name in (chunk.__name__, "Error")]
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": kinds}}
    schema = {
        "type": "object",
        "description": "Where `stream` is true: events, the last of which is `[DONE]`, or an error in place of it.",
        "required": ["data"],
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, data]}},
    }
    return {200: {"content": {"text/event-stream": {"schema": schema}}}, **_ERRORS}
