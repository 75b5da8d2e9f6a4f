"""The visitor's page asks here: questions, whose answers come as they are written, and the visitor's own conversations.

A visitor is whoever sends the same 128 random bits; nothing else tells who it is, and no cookie is set.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Response
from pydantic import BaseModel, ConfigDict, Field

from hoidap.bot import Bot
from hoidap.errors import HoidapError, StoreError
from hoidap.serve import conversations as kept
from hoidap.serve.desk import Ask, Desk
from hoidap.serve.reply import Asked, Reply
from hoidap.serve.routes import RefusedError, Route, cleaned, download, known_id
from hoidap.serve.store import Store

_VISITOR = re.compile(r"[0-9a-f]{32}")
_MOST_SEARCH = 200  # characters
_MOST_STARTERS = 4
_LONGEST_STARTER = 90  # characters
_log = logging.getLogger(__name__)


class Question(BaseModel):
    """A question."""

    model_config = ConfigDict(extra="forbid")

    bot: str | None = Field(None, max_length=200)
    conversation: str | None = Field(None, max_length=64)
    question: str
    replaces: str | None = Field(None, max_length=64)


class Title(BaseModel):
    """What a conversation is called."""

    model_config = ConfigDict(extra="forbid")

    title: str


class Rating(BaseModel):
    """What a visitor thinks of an answer."""

    model_config = ConfigDict(extra="forbid")

    rating: Annotated[int, Field(strict=True, ge=-1, le=1)]
    comment: str = ""


def _visitor(x_hoidap_visitor: Annotated[str, Header()] = "") -> str:
    """Return what the visitor is kept under."""
    if not _VISITOR.fullmatch(x_hoidap_visitor):
        msg = "the header X-Hoidap-Visitor is missing or none; it takes 32 hexadecimal digits, drawn at random once"
        raise RefusedError(400, msg, "invalid_visitor", "X-Hoidap-Visitor")
    return kept.hash_of(x_hoidap_visitor)


Visitor = Annotated[str, Depends(_visitor)]


def _tell_nobody() -> None:
    pass


def make_visitors(
    desk: Desk,
    store: Store,
    *,
    embedding: bool = False,
    seconds: float = 120.0,
    unstored: Callable[[], None] = _tell_nobody,
) -> APIRouter:
    """Return the routes of the visitor's page, ``/api/…``.

    Args:
        desk: who answers.
        store: where it is kept.
        embedding: whether other sites may embed the page.
        seconds: until an answer has to end.
        unstored: is told of each turn that could not be kept.
    """
    router = APIRouter(prefix="/api", route_class=Route, tags=["page"])
    _add_asking(router, desk, store, seconds, unstored)
    _add_conversations(router, store)
    starters: dict[str, list[str]] = {}

    @router.get("/site")
    async def site() -> dict[str, Any]:
        """Tell what the page shows before anything was asked."""
        for bot in desk.bots:
            if bot not in starters:
                try:
                    starters[bot] = await desk.do(bot, _starters)
                except HoidapError:  # it is being loaded again
                    continue
        bots = [
            {"id": id_, "name": bot.name, "contact": bot.contact, "starters": starters.get(id_, [])}
            for id_, bot in desk.bots.items()
        ]
        first: dict[str, Any] = bots[0] if bots else {"contact": "", "starters": []}
        return {"bots": bots, "contact": first["contact"], "starters": first["starters"], "embedding": embedding}

    return router


def _add_asking(router: APIRouter, desk: Desk, store: Store, seconds: float, unstored: Callable[[], None]) -> None:
    @router.post("/ask", response_class=Response)
    async def ask(asked: Question, visitor: Visitor) -> Response:
        """Answer a question, as server-sent events."""
        question = cleaned(asked.question, "question", kept.MOST_QUESTION)
        if not question:
            msg = "the question is empty; write one"
            raise RefusedError(400, msg, "invalid_value", "question")
        conversation, replaces = asked.conversation, asked.replaces
        if conversation is not None:
            known_id(conversation, "conversation")
        if replaces is not None:
            known_id(replaces, "turn")
            if conversation is None:
                msg = "a turn is to be replaced, and its conversation is not named; name both"
                raise RefusedError(400, msg, "invalid_value", "conversation")
        past = None
        if conversation is not None:
            try:
                past = await run_sync(kept.past, store, visitor, conversation, replaces)
            except StoreError as error:  # it answers without what was said before
                _log.warning("a conversation could not be read: %s", error)
        bot = asked.bot or (past.bot if past else next(iter(desk.bots), ""))
        if bot not in desk.bots or (past is not None and bot != past.bot):
            msg = "this bot is not served here, or the conversation is with another; begin a new one"
            raise RefusedError(404, msg, "bot_not_found", "bot")
        client = "visitor " + hashlib.sha256(visitor.encode()).hexdigest()[:16]
        question_asked = Ask(bot, question, past.turns if past else (), client=client, seconds=seconds)
        place = Asked(store, visitor, bot, question, conversation, replaces, desk.bots[bot].contact, unstored)
        return Reply(desk.ask(question_asked), place)


def _add_conversations(router: APIRouter, store: Store) -> None:
    @router.get("/conversations")
    async def conversations(visitor: Visitor, search: str = "") -> dict[str, Any]:
        """List the visitor's conversations, the latest first."""
        wanted = cleaned(search, "search", _MOST_SEARCH)
        return {"conversations": await run_sync(kept.conversations, store, visitor, wanted)}

    @router.get("/conversations/{id_}")
    async def conversation(id_: str, visitor: Visitor) -> dict[str, Any]:
        """Return a conversation with its turns."""
        return await run_sync(kept.conversation, store, visitor, known_id(id_, "conversation"))

    @router.get("/conversations/{id_}/export", response_class=Response)
    async def export(id_: str, visitor: Visitor) -> Response:
        """Return a conversation as a file."""
        found = await run_sync(kept.conversation, store, visitor, known_id(id_, "conversation"))
        content = json.dumps(found, ensure_ascii=False, indent=2).encode()
        return download(f"hoi-thoai-{id_[:8]}.json", content, "application/json")

    @router.patch("/conversations/{id_}", status_code=204, response_class=Response)
    async def rename(id_: str, body: Title, visitor: Visitor) -> Response:
        """Give a conversation another title."""
        title = cleaned(body.title, "title", kept.MOST_TITLE, lines=False)
        if not title:
            msg = "the title is empty; write one"
            raise RefusedError(400, msg, "invalid_value", "title")
        await run_sync(kept.rename, store, visitor, known_id(id_, "conversation"), title)
        return Response(status_code=204)

    @router.delete("/conversations/{id_}", status_code=204, response_class=Response)
    async def remove(id_: str, visitor: Visitor) -> Response:
        """Delete a conversation."""
        await run_sync(kept.remove, store, visitor, known_id(id_, "conversation"))
        return Response(status_code=204)

    @router.put("/turns/{id_}/rating", status_code=204, response_class=Response)
    async def rate(id_: str, body: Rating, visitor: Visitor) -> Response:
        """Keep what the visitor thinks of an answer."""
        comment = cleaned(body.comment, "comment", kept.MOST_COMMENT)
        await run_sync(kept.rate, store, visitor, known_id(id_, "turn"), body.rating, comment)
        return Response(status_code=204)

    @router.delete("/me", status_code=204, response_class=Response)
    async def forget(visitor: Visitor) -> Response:
        """Delete all that is kept of the visitor."""
        await run_sync(kept.forget, store, visitor)
        return Response(status_code=204)


def _starters(bot: Bot) -> list[str]:
    """Return a few questions to start with, from all over the data: its beginning is often of one thing."""
    short = [item.question for item in bot.items if not item.before and len(item.question) <= _LONGEST_STARTER]
    count = min(_MOST_STARTERS, len(short))
    return [short[at * len(short) // count] for at in range(count)]
