"""What goes over the wire under /v1: OpenAI's shapes, as far as a bot that answers with text has a use for them.

What would change the meaning of a request and is not there is refused by name, and so is a field that nobody knows.
Accepted and of no effect are ``user``, ``metadata``, ``store``, ``service_tier``, ``parallel_tool_calls`` and the like.
Ours alone is the field ``hoidap`` of a choice, which tells where the answer comes from.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from hoidap.bot import Answer
from hoidap.errors import EngineError, HoidapError, QueueFullError, RequestError, TooLongError, UnavailableError
from hoidap.prompt import Turn

MOST_CHOICES = 4
_MOST_MESSAGES = 256
_RETRY_SECONDS = 5  # after which one that was sent away may come again
_SHOWN = 80  # characters of a name that a client made up


class BadRequestError(RequestError):
    """A request that cannot be served as it is; ``param`` names the field."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class UnknownModelError(BadRequestError):
    """A model that is not here."""


# The first that fits counts.
_STATUSES: tuple[tuple[type[Exception], int, str | None], ...] = (
    (QueueFullError, 503, "queue_full"),
    (UnavailableError, 503, "unavailable"),
    (UnknownModelError, 404, None),
    (TooLongError, 400, "context_length_exceeded"),
    (RequestError, 400, "invalid_value"),
    (EngineError, 500, "engine_failed"),
)


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, str_strip_whitespace=False)


class _Out(BaseModel):
    pass


class TextPart(_In):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(_In):
    """One message. What an assistant's message of this server carries beside its text may be sent back with it."""

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="The models have no place for instructions: `system` and `developer` are refused."
    )
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=64)]
    name: str | None = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(_In):
    """How a stream is sent."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="No effect: texts go out by time, not token by token.")


class TextFormat(_In):
    """The one format that answers have."""

    type: Literal["text"]


_Stop = Annotated[str, Field(min_length=1, max_length=200)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Zero = Annotated[float, Field(ge=0, le=0)]
_Ignored = Annotated[Any, Field(description="Accepted, of no effect.")]
_Refused = Annotated[None, Field(description="Not supported: refused unless null.")]


class _Sampled(_In):
    model: str = Field(min_length=1, max_length=200, description="A bot's id: see /v1/models.")
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    temperature: Annotated[_Number, Field(ge=0, le=2)] | None = Field(
        None, description="Unlike OpenAI's, 0 by default: the same question gets the same answer."
    )
    top_p: Annotated[_Number, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: _Zero | None = Field(None, description="Not supported: refused unless 0.")
    presence_penalty: _Zero | None = Field(None, description="Not supported: refused unless 0.")
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = Field(
        None, description="Not supported: refused unless empty."
    )
    user: Annotated[str, Field(max_length=1000)] | None = Field(None, description="Accepted, of no effect.")

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before which an answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with what it cost."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(_Sampled):
    """A conversation to go on with: user and assistant by turns, the user last."""

    messages: list[Message] = Field(min_length=1, max_length=_MOST_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000)
    response_format: TextFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    logprobs: Literal[False] | None = Field(None, description="Not supported: refused unless false.")
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = Field(None, description="Not supported: refused unless 0.")
    audio: _Refused = None
    function_call: _Refused = None
    functions: _Refused = None
    moderation: _Refused = None
    prediction: _Refused = None
    reasoning_effort: _Refused = None
    tool_choice: _Refused = None
    tools: _Refused = None
    verbosity: _Refused = None
    web_search_options: _Refused = None
    metadata: _Ignored = None
    parallel_tool_calls: _Ignored = None
    prompt_cache_key: _Ignored = None
    prompt_cache_options: _Ignored = None
    prompt_cache_retention: _Ignored = None
    safety_identifier: _Ignored = None
    service_tier: _Ignored = None
    store: _Ignored = None


class CompletionRequest(_Sampled):
    """A text to go on with, in no template: what the model alone makes of it, unchecked."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MOST_CHOICES)]
    best_of: Annotated[int, Field(ge=1, le=1)] | None = Field(None, description="Not supported: refused unless 1.")
    echo: Literal[False] | None = Field(None, description="Not supported: refused unless false.")
    logprobs: _Refused = None
    suffix: _Refused = None


class Origin(_Out):
    """Where an answer comes from: this server's own."""

    source: str | None = Field(description="The question of the item that the answer is from.")
    confidence: float = Field(description="0 to 1: that it is right.")
    declined: bool = Field(description="The bot does not know, and says so.")
    corrected: bool = Field(description="The owner's answer, in place of the item's.")
    near: list[str] = Field(description="The items' questions nearest to this one, nearest first.")
    finish_reason: str = Field(description="stop, length, or deadline: its time was over.")

    @classmethod
    def of(cls, answer: Answer) -> "Origin":
        """Take it from an answer."""
        return cls(
            source=answer.source.question if answer.source else None, confidence=round(answer.confidence, 4),
            declined=answer.is_declined, corrected=answer.is_corrected, near=[item.question for item in answer.near],
            finish_reason=answer.finish_reason,
        )  # fmt: skip


class Usage(_Out):
    """Tokens, those of every choice together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> "Usage":
        """Add up what answers cost; a prompt that several answer counts once."""
        read, written = max((a.prompt_tokens for a in answers), default=0), sum(a.tokens for a in answers)
        return cls(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


Finish = Literal["stop", "length"]


class Said(_Out):
    """The assistant's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(_Out):
    """One answer."""

    index: int
    message: Said
    finish_reason: Finish
    logprobs: None = None
    hoidap: Origin


class ChatCompletion(_Out):
    """Answers to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(_Out):
    """What an event adds to a message."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(_Out):
    """What an event adds to a choice."""

    index: int
    delta: Delta
    finish_reason: Finish | None = None
    logprobs: None = None
    hoidap: Origin | None = Field(default=None, description="With the end of the choice.")


class ChatChunk(_Out):
    """An event of a stream; behind the last comes `[DONE]`."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class TextChoice(_Out):
    """One text, or in a stream a piece of it."""

    index: int
    text: str
    finish_reason: Finish | None
    logprobs: None = None


class Completion(_Out):
    """Texts that go on with a prompt, whole or an event of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class Model(_Out):
    """A bot."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["hoidap"] = "hoidap"


class Models(_Out):
    """The bots."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorBody(_Out):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(_Out):
    """Any answer that is none."""

    error: ErrorBody


def finish_of(answer: Answer) -> Finish:
    """Return an answer's end in OpenAI's words, which know no deadline."""
    return "stop" if answer.finish_reason == "stop" else "length"


def turns_of(messages: Sequence[Message]) -> tuple[tuple[Turn, ...], str]:
    """Return the turns before the last question, and that question.

    Raises:
        BadRequestError: a message where none of its role can stand.

    """
    for number, message in enumerate(messages):
        at, wanted = f"messages[{number}].role", ("user", "assistant")[number % 2]
        if message.role in ("system", "developer"):
            msg = f"the models were trained on questions and answers and have no role {message.role!r}; leave it out"
            raise BadRequestError(msg, at, "unsupported_value")
        if message.role != wanted:
            msg = f"{at} is {message.role!r}, and {wanted!r} is due: user and assistant take turns, the user first"
            raise BadRequestError(msg, at, "invalid_value")
    if messages[-1].role != "user":
        msg = "the last message is the assistant's; it has to be the user's question"
        raise BadRequestError(msg, f"messages[{len(messages) - 1}].role", "invalid_value")
    texts = [message.text for message in messages]
    history = tuple(Turn(asked, said) for asked, said in zip(texts[:-1:2], texts[1::2], strict=True))
    return history, texts[-1]


def status_of(error: Exception) -> tuple[int, ErrorBody]:
    """Return how an error is answered."""
    status, code = next(((status, code) for kind, status, code in _STATUSES if isinstance(error, kind)), (500, None))
    param = error.param if isinstance(error, BadRequestError) else None
    if isinstance(error, BadRequestError):
        code = error.code
    message = readable(str(error)) if isinstance(error, HoidapError) else "the server failed at this; its log has why"
    kind = "invalid_request_error" if status < 500 else "server_error"
    return status, ErrorBody(message=message, type=kind, param=param, code=code)


def error_response(status: int, body: ErrorBody, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as a response; who is sent away for now is told when to come again."""
    sent = {"Retry-After": str(_RETRY_SECONDS), **(headers or {})} if status in (429, 503) else dict(headers or {})
    return Response(Error(error=body).model_dump_json(), status, sent, "application/json")


def validation_error(error: RequestValidationError) -> ErrorBody:
    """Return what is wrong with a body, the first thing of it."""
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    path = [
        part for part in first["loc"][1:] if isinstance(part, int) or part in _NAMES or first["type"] == "extra_forbidden"
    ]
    param = readable("".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip("."))[:_SHOWN] or None
    message, code = readable(first["msg"]), "invalid_value"
    if first["type"] == "json_invalid":
        return ErrorBody(message="the body is not JSON", type="invalid_request_error", param=None, code="invalid_json")
    if first["type"] == "extra_forbidden":
        message, code = f"unrecognised request argument: {param}", "unknown_parameter"
    elif first["type"] == "missing":
        message, code = f"{param or 'the body, as application/json,'} is missing", "missing_required_parameter"
    elif path and path[0] in _UNSUPPORTED:
        message, code = f"{param} is not supported here; leave it out", "unsupported_parameter"
    elif param:
        message = f"{param}: {message}"
    return ErrorBody(message=message, type="invalid_request_error", param=param, code=code)


_UNSUPPORTED = frozenset(
    name
    for model in (ChatRequest, CompletionRequest)
    for name, field in model.model_fields.items()
    if "Not supported" in str(field.description)
) | {"response_format", "modalities"}
_NAMES = frozenset(
    name for model in (ChatRequest, CompletionRequest, Message, TextPart, StreamOptions) for name in model.model_fields
)


def readable(text: str) -> str:
    """Return a text that can be sent: halves of characters and controls are replaced."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in whole)


def event(data: BaseModel | Mapping[str, Any]) -> bytes:
    """Return an event of a stream."""
    text = data.model_dump_json() if isinstance(data, BaseModel) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n".encode()
