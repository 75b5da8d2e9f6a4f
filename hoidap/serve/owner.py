"""The owner's page asks here: what was asked, what had no answer, the items; and writes answers, which are given at once.

An answer to an item's own question corrects that item, one to another question is added. Both are kept in the run's folder
before they are given, so that a restart, and every other way to ask the run, gives them too.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from hoidap.bot import Bot
from hoidap.data.cells import Cells
from hoidap.data.items import Item
from hoidap.data.version import write_version
from hoidap.errors import HoidapError, StoreError
from hoidap.ground.added import Added
from hoidap.run import Run
from hoidap.serve import asked as kept
from hoidap.serve.desk import Desk
from hoidap.serve.keys import Key, Keys
from hoidap.serve.routes import RefusedError, Route, cleaned, download
from hoidap.serve.store import Store
from hoidap.text import comparable, fold

MOST_WORDINGS = 50  # of one addition
MOST_ANSWER = 32_768  # characters
_MOST_QUESTION = 4_000  # characters
_MOST_ITEMS = 500  # in one list
_MOST_SEARCH = 200  # characters


class Written(BaseModel):
    """An answer that the owner wrote; ``wordings`` are other ways to ask for it, beside those it has."""

    model_config = ConfigDict(extra="forbid")

    bot: str | None = Field(None, max_length=200)
    question: str
    answer: str
    wordings: list[str] = Field(default_factory=list, max_length=MOST_WORDINGS)


@dataclass(frozen=True)
class _Office:
    """What the owner's routes work with."""

    desk: Desk
    store: Store
    runs: Mapping[str, Run]
    writing: asyncio.Lock

    def run(self, bot: str | None) -> tuple[str, Run]:
        """Return a bot's id and its run; the first where none is named."""
        id_ = next(iter(self.runs), "") if bot is None else bot
        if id_ not in self.runs:
            msg = f"the bot is {id_[:100]!r}; this server has {', '.join(map(repr, self.runs))}"
            raise RefusedError(404, msg, "bot_not_found", "bot")
        return id_, self.runs[id_]

    def named(self, bot: str | None) -> str | None:
        """Return a bot's id if it is one, None for all."""
        return None if bot is None else self.run(bot)[0]


def make_owner(desk: Desk, store: Store, keys: Keys, runs: Mapping[str, Run]) -> APIRouter:
    """Return the routes of the owner's page, ``/api/owner/…``; all of them want a key of the role "owner".

    Args:
        desk: where the bots are.
        store: what was asked.
        keys: who may.
        runs: the bots' folders, by the bots' ids.
    """

    async def owner(authorization: Annotated[str, Header()] = "") -> Key:
        scheme, _, presented = authorization.partition(" ")
        key = await run_sync(keys.check, presented.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            msg = "the owner's key is missing or not known; send it as Authorization: Bearer hd-…"
            raise RefusedError(401, msg, "invalid_api_key", None, {"WWW-Authenticate": "Bearer"})
        if key.role != "owner":
            msg = f"the key is of the role {key.role!r}; this takes one of the role 'owner'"
            raise RefusedError(403, msg, "insufficient_role")
        return key

    router = APIRouter(prefix="/api/owner", route_class=Route, tags=["owner"], dependencies=[Depends(owner)])
    office = _Office(desk, store, runs, asyncio.Lock())
    _add_views(router, office)
    _add_items(router, office)

    @router.put("/answers")
    async def write(written: Written, key: Annotated[Key, Depends(owner)]) -> dict[str, Any]:
        """Correct an item, or add an answer to another question; it is given from now on."""
        id_, run = office.run(written.bot)
        item = _item(written)
        questions = (item.question, *item.wordings)
        async with office.writing:  # two at once would each keep the file without the other's
            item, is_added = await run_sync(_keep, run, item)
            is_served = await _serve(desk, id_, run, item, is_added=is_added)
        try:
            await run_sync(lambda: kept.note_answer(store, id_, questions, item.answer, key.id, added=is_added))
            is_noted = True
        except StoreError:  # what is served does not hang on it
            is_noted = False
        told = {"question": item.question, "answer": item.answer, "wordings": item.wordings}
        return told | {"added": is_added, "served": is_served, "noted": is_noted}

    return router


def _add_views(router: APIRouter, office: _Office) -> None:
    store = office.store

    @router.get("/asked")
    async def asked(
        bot: str | None = None,
        only: Annotated[kept.Filter, Query(alias="filter")] = "all",
        search: str = "",
        before: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=kept.MOST_A_PAGE)] = 50,
    ) -> dict[str, Any]:
        """Return a page of what was asked, the latest first; of the slow the slowest."""
        wanted = cleaned(search, "search", _MOST_SEARCH)
        cursor = before or None
        turns, following = await run_sync(kept.asked, store, office.named(bot), only, wanted, cursor, limit)
        return {"turns": turns, "next": following}

    @router.get("/unanswered")
    async def unanswered(bot: str | None = None) -> dict[str, Any]:
        """Return the questions that had no answer, grouped by likeness."""
        groups = await run_sync(kept.unanswered, store, office.named(bot))
        shown = [
            {
                "questions": [{"question": q, "count": n, "same": q in one.same} for q, n in one.questions],
                "near": one.near,
                "size": one.size,
            }
            for one in groups
        ]
        return {"groups": shown}

    @router.get("/summary")
    async def summary(bot: str | None = None, days: Annotated[float, Query(gt=0, le=3650)] = 30) -> dict[str, Any]:
        """Return figures of the last days."""
        return await run_sync(kept.summary, store, office.named(bot), days)


def _add_items(router: APIRouter, office: _Office) -> None:
    @router.get("/items")
    async def items(
        bot: str | None = None, search: str = "", limit: Annotated[int, Query(ge=1, le=_MOST_ITEMS)] = _MOST_ITEMS
    ) -> dict[str, Any]:
        """Return the items and the additions in which all words of the search are, as they are answered now."""
        words = fold(cleaned(search, "search", _MOST_SEARCH)).split()
        found = [row for row in await run_sync(_rows, office.run(bot)[1]) if _has(row, words)]
        return {"items": found[:limit], "total": len(found)}

    @router.get("/export", response_class=Response)
    async def export(bot: str | None = None) -> Response:
        """Return the next version of the data: the items with all corrections and additions."""
        id_, run = office.run(bot)
        suffix, content = await run_sync(_version, run)
        kind = "text/csv; charset=utf-8" if suffix == ".csv" else "application/jsonl"
        return download(id_ + suffix, content, kind)


def _rows(run: Run) -> list[dict[str, Any]]:
    corrections = run.corrections()
    rows: list[dict[str, Any]] = [
        {"question": item.question, "answer": item.answer, "corrected": False, "added": True} for item in run.additions()
    ]
    for item in run.items():
        corrected = corrections.get(item.question)
        answer = item.answer if corrected is None else corrected
        rows.append({"question": item.question, "answer": answer, "corrected": corrected is not None, "added": False})
    return rows


def _has(row: Mapping[str, Any], words: list[str]) -> bool:
    text = fold(f"{row['question']} {row['answer']}") if words else ""
    return all(word in text for word in words)


def _version(run: Run) -> tuple[str, bytes]:
    return write_version(run.next_version())


def _item(written: Written) -> Item:
    """Return what was written, as the data's own reader would take it: then the next version can be read back."""
    question = cleaned(written.question, "question", _MOST_QUESTION)
    answer = cleaned(written.answer, "answer", MOST_ANSWER)
    wordings = [cleaned(w.replace("|", " "), "wordings", _MOST_QUESTION, lines=False) for w in written.wordings]
    cells = Cells("what was written")
    for text, name in ((question, "the question"), (answer, "the answer")):
        cells.text(text, 1, name)
    cells.wordings(list(filter(None, wordings)), 1)
    cells.end_row(1)
    if problems := cells.all_problems():
        raise RefusedError(400, "; ".join(problems), "invalid_value")
    others = {comparable(w): w for w in reversed(wordings) if w and comparable(w) != comparable(question)}
    return Item(question, answer, tuple(others[key] for key in reversed(others)))


def _keep(run: Run, item: Item) -> tuple[Item, bool]:
    """Keep an answer in the run; return it as it is given now, and whether its question is an addition.

    An item's own wordings are what the model learned: others that its answer is for are an addition of their own.
    """
    key = comparable(item.question)
    same = [other for other in run.items() if comparable(other.question) == key]
    if len({comparable(other.answer) for other in same}) > 1:
        msg = f"{len(same)} items have this question with different answers; which is meant cannot be told: change the data"
        raise RefusedError(400, msg, "ambiguous_question", "question")
    if same:
        if item.wordings:
            _add(run, Item(item.wordings[0], item.answer, item.wordings[1:]))
        return replace(item, question=run.correct(same[0].question, item.answer).question), False
    return _add(run, item), True


def _add(run: Run, item: Item) -> Item:
    """Add an answer to a run; in the place of an earlier one it keeps that one's wordings."""
    key = comparable(item.question)
    earlier = next((other for other in run.additions() if comparable(other.question) == key), None)
    if earlier is not None:
        wordings = {comparable(wording): wording for wording in (*earlier.wordings, *item.wordings)}
        item = replace(item, wordings=tuple(wordings.values()))
    return run.add(item)


async def _serve(desk: Desk, id_: str, run: Run, item: Item, *, is_added: bool) -> bool:
    """Have the bot give an answer from now on; return False where it will only after a restart, or in another mode."""
    if desk.bots[id_].mode == "model":
        return False
    try:
        if not is_added:
            await desk.do(id_, lambda bot: bot.correct(item.question, item.answer))
        if not is_added and not item.wordings:
            return True
        grounds = await desk.do(id_, lambda bot: bot.grounds)
        own_words = grounds.own_words if grounds else frozenset()
        added = await run_sync(lambda: Added(run.items(), run.additions(), own_words))

        def teach(bot: Bot) -> None:
            bot.added = added

        await desk.do(id_, teach)
    except HoidapError:  # it is being loaded again, and reads the run's folder
        return False
    return True
