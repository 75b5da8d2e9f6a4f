"""The visitor's page: answers as they come, conversations that are the visitor's alone, and what fails on the way."""

import asyncio
import contextlib
import json
import logging
import sqlite3
from dataclasses import dataclass, field

import pytest
from fake_engine import FakeEngine, bots
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from served import serving
from starlette.testclient import TestClient

from hoidap.bot import Answer
from hoidap.data.items import Item
from hoidap.errors import EngineError, QueueFullError, RequestError, StoreError, TooLongError, UnavailableError
from hoidap.prompt import Turn
from hoidap.serve import conversations as kept
from hoidap.serve import reply
from hoidap.serve.desk import Ask, Known
from hoidap.serve.store import Store
from hoidap.serve.visitors import make_visitors

LAN, MAI = "a" * 32, "b" * 32
ITEMS = [Item(f"Câu hỏi số {n}?", f"Đáp {n}.") for n in range(40)]
DONE = Answer("Dạ, từ 8h30.", ITEMS[0], 0.9, "stop", 1.0, near=(ITEMS[0], ITEMS[1]))
DECLINED = Answer("Xin lỗi, tôi chưa biết.", None, 0.1, "stop", is_declined=True, near=(ITEMS[2],))


def known(id_, contact=""):
    return Known(id_, id_, "checked", is_single_turn=False, contact=contact, answer_tokens=64, created=0)


@dataclass
class FakeDesk:
    """A desk that says what it is told to; an exception is raised, an event waited for."""

    script: list = field(default_factory=lambda: ["Dạ, ", "từ 8h30.", DONE])
    bots: dict = field(default_factory=lambda: {"shop": known("shop", "Zalo 0900 000 216"), "spa": known("spa")})
    asked: list[Ask] = field(default_factory=list)
    n_closed: int = 0

    async def ask(self, ask):
        self.asked.append(ask)
        try:
            for piece in self.script:
                if isinstance(piece, Exception):
                    raise piece
                if callable(piece):
                    await piece()
                else:
                    yield piece
        except (GeneratorExit, asyncio.CancelledError):
            self.n_closed += 1
            raise

    async def do(self, bot, what):
        if bot == "spa":
            raise UnavailableError("it is being loaded again")
        return what(type("FakeBot", (), {"items": ITEMS})())


@pytest.fixture
def store(tmp_path):
    store = Store.open(tmp_path / "hoidap.db", busy_seconds=0.05)
    yield store
    store.close()


@pytest.fixture
def desk():
    return FakeDesk()


@pytest.fixture
def lost():
    return []


@pytest.fixture
def app(desk, store, lost):
    app = FastAPI()
    app.include_router(make_visitors(desk, store, embedding=True, unstored=lambda: lost.append(1)))
    return app


@pytest.fixture
def page(app):
    """A browser: what it asks for, it asks for as Lan."""
    with TestClient(app, headers={"X-Hoidap-Visitor": LAN}) as client:
        yield client


@pytest.fixture
def other(app):
    with TestClient(app, headers={"X-Hoidap-Visitor": MAI}) as client:
        yield client


def events(response):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks[-1] == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1] if not block.startswith(":")]


def ask(page, question="Mấy giờ mở cửa?", **more):
    return events(page.post("/api/ask", json={"bot": None, "conversation": None, "question": question, **more}))


def error(response):
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.headers["cache-control"] == "no-store"
    return response.status_code, response.json()["error"]["code"]


def conversation(page, id_):
    return page.get(f"/api/conversations/{id_}").json()


def test_an_answer_comes_as_events_and_is_kept(page, desk, lost):
    turn, *texts, end = ask(page)
    assert turn["stored"]
    assert texts == [{"type": "text", "text": "Dạ, "}, {"type": "text", "text": "từ 8h30."}]
    assert end == {
        "type": "end", "finish_reason": "stop", "declined": False, "corrected": False, "confidence": 0.9,
        "source": {"question": "Câu hỏi số 0?", "answer": "Đáp 0."}, "near": ["Câu hỏi số 0?", "Câu hỏi số 1?"],
        "contact": None, "stored": True,
    }  # fmt: skip
    found = conversation(page, turn["conversation"])
    assert (found["bot"], found["title"]) == ("shop", "Mấy giờ mở cửa?")
    (shown,) = found["turns"]
    assert shown["id"] == turn["turn"]
    assert (shown["answer"], shown["source"], shown["near"]) == (DONE.text, end["source"], end["near"])
    assert shown["created"].endswith("Z")
    assert lost == []
    assert desk.asked[0].bot == "shop"
    assert LAN not in desk.asked[0].client


def test_who_declines_names_the_contact(page, desk):
    desk.script = [DECLINED.text, DECLINED]
    *_, end = ask(page)
    assert (end["declined"], end["contact"], end["source"]) == (True, "Zalo 0900 000 216", None)


def test_a_conversation_goes_on_with_what_was_said(page, desk):
    first = ask(page)[0]
    second = ask(page, "Còn cuối tuần?", conversation=first["conversation"])[0]
    assert second["conversation"] == first["conversation"]
    assert desk.asked[1].history == (Turn("Mấy giờ mở cửa?", DONE.text),)
    assert len(conversation(page, first["conversation"])["turns"]) == 2


def test_an_edited_question_takes_the_place_of_its_turn_and_of_all_behind_it(page, desk):
    first = ask(page, "Một?")[0]
    in_it = {"conversation": first["conversation"]}
    second = ask(page, "Hai?", **in_it)[0]
    ask(page, "Ba?", **in_it)
    again = ask(page, "Hai, sửa?", replaces=second["turn"], **in_it)[0]
    assert desk.asked[3].history == (Turn("Một?", DONE.text),)
    assert [turn["question"] for turn in conversation(page, first["conversation"])["turns"]] == ["Một?", "Hai, sửa?"]
    assert again["turn"] != second["turn"]


def test_where_the_answer_is_refused_the_turn_that_it_would_replace_stays(page, desk):
    first = ask(page, "Một?")[0]
    desk.script = [QueueFullError("full")]
    body = {"conversation": first["conversation"], "question": "Sửa?", "replaces": first["turn"]}
    response = page.post("/api/ask", json=body)
    assert error(response) == (503, "queue_full")
    assert int(response.headers["retry-after"]) > 0
    assert [turn["question"] for turn in conversation(page, first["conversation"])["turns"]] == ["Một?"]


@pytest.mark.parametrize(
    ("raised", "wanted"),
    [
        (QueueFullError("256 wait"), (503, "queue_full")),
        (UnavailableError("loading"), (503, "unavailable")),
        (TooLongError("too long"), (400, "context_length_exceeded")),
        (RequestError("empty"), (400, "invalid_value")),
        (EngineError("failed"), (500, "engine_failed")),
        (ZeroDivisionError("a bug in /home/shop"), (500, None)),
    ],
)
def test_what_the_desk_refuses_has_a_status_of_its_own_and_is_not_kept(page, desk, raised, wanted):
    desk.script = [raised]
    response = page.post("/api/ask", json={"question": "Mấy giờ?"})
    assert error(response) == wanted
    assert "/home" not in response.text
    assert page.get("/api/conversations").json() == {"conversations": []}


def test_what_fails_on_the_way_is_told_of_and_what_was_written_is_kept(page, desk):
    desk.script = ["Dạ, ", EngineError("the engine failed")]
    turn, text, end = ask(page)
    assert text["text"] == "Dạ, "
    assert end == {
        "type": "error",
        "message": "the engine failed",
        "code": "engine_failed",
        "retry_after": None,
        "stored": True,
    }
    (shown,) = conversation(page, turn["conversation"])["turns"]
    assert (shown["answer"], shown["finish_reason"]) == ("Dạ, ", "error")
    desk.script = ["Dạ, ", UnavailableError("stopping")]
    assert ask(page)[-1]["retry_after"] > 0


def locked(tmp_path):
    raw = sqlite3.connect(tmp_path / "hoidap.db", isolation_level=None, check_same_thread=False)
    raw.execute("BEGIN IMMEDIATE")
    return contextlib.closing(raw)


def test_with_a_locked_file_it_answers_and_says_that_it_is_not_kept(page, tmp_path, lost, caplog):
    with locked(tmp_path), caplog.at_level(logging.WARNING):
        turn, *texts, end = ask(page)
    assert turn == {"type": "turn", "conversation": None, "turn": None, "stored": False}
    assert "".join(text["text"] for text in texts) == DONE.text
    assert (end["type"], end["stored"]) == ("end", False)
    assert lost == [1]
    assert "could not be kept" in caplog.text
    assert "Mấy giờ" not in caplog.text
    assert ask(page)[0]["stored"]


def test_with_a_locked_file_a_conversation_goes_on_with_what_was_said(page, tmp_path, desk):
    first = ask(page)[0]
    with locked(tmp_path):
        turn = ask(page, "Còn cuối tuần?", conversation=first["conversation"])[0]
    assert turn == {"type": "turn", "conversation": first["conversation"], "turn": None, "stored": False}
    assert desk.asked[1].history == (Turn("Mấy giờ mở cửa?", DONE.text),)


async def begun(store):
    """Return when a turn is kept."""
    while not kept.conversations(store, kept.hash_of(LAN)):
        await asyncio.sleep(0.005)


def test_a_file_that_fails_in_the_middle_of_an_answer_does_not_end_it(page, desk, store, tmp_path, lost):
    held = contextlib.ExitStack()

    async def lock():
        await begun(store)
        held.enter_context(locked(tmp_path))

    desk.script = ["Dạ, ", lock, "từ 8h30.", DONE]
    with held:
        turn, *texts, end = ask(page)
    assert turn["stored"]
    assert len(texts) == 2
    assert (end["type"], end["stored"]) == ("end", False)
    assert lost == [1]
    (shown,) = conversation(page, turn["conversation"])["turns"]
    assert (shown["answer"], shown["finish_reason"]) == ("", "cancelled")


def test_a_file_that_cannot_even_be_read_keeps_nobody_from_an_answer(page, monkeypatch):
    first = ask(page)[0]

    def fail(*_args):
        raise StoreError("/home/shop/hoidap.db is on fire")

    monkeypatch.setattr(kept, "past", fail)
    monkeypatch.setattr(reply, "begin", fail)
    turn, *_, end = ask(page, conversation=first["conversation"])
    assert (turn["stored"], end["stored"], end["type"]) == (False, False, "end")
    monkeypatch.setattr(kept, "conversations", fail)
    response = page.get("/api/conversations")
    assert error(response) == (503, "store_unavailable")
    assert "/home" not in response.text


def test_what_is_deleted_while_it_is_answered_stays_deleted(page, desk, store):
    async def forget():
        await begun(store)
        kept.forget(store, kept.hash_of(LAN))

    desk.script = ["Dạ, ", forget, "từ 8h30.", DONE]
    turn, *_, end = ask(page)
    assert (turn["stored"], end["stored"]) == (True, False)
    assert page.get("/api/conversations").json() == {"conversations": []}


async def call(app, body, *, leave_after):
    """Ask as a browser does that goes away once it has so many bytes of the answer; return what came."""
    came, left = [], asyncio.Event()
    sent = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive():
        if sent:
            return sent.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        came.append(message)
        if sum(len(part.get("body", b"")) for part in came) > leave_after:
            left.set()

    headers = [(b"content-type", b"application/json"), (b"x-hoidap-visitor", LAN.encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "POST",
        "path": "/api/ask", "raw_path": b"/api/ask", "query_string": b"", "root_path": "", "scheme": "http",
        "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip
    if leave_after < 0:
        left.set()
    async with asyncio.timeout(20):
        await app(scope, receive, send)
    return came


@pytest.mark.parametrize("leave_after", [-1, 0, 150])
def test_who_goes_away_stops_the_answer_and_what_was_written_is_kept(app, page, desk, leave_after):
    forever = asyncio.Event()
    desk.script = ["Dạ, ", "từ ", forever.wait, "8h30.", DONE] if leave_after >= 0 else [forever.wait, DONE]
    asyncio.run(call(app, {"question": "Mấy giờ?"}, leave_after=leave_after))
    assert desk.n_closed == 1
    (listed,) = page.get("/api/conversations").json()["conversations"]
    (shown,) = conversation(page, listed["id"])["turns"]
    assert shown["finish_reason"] == "cancelled"
    assert shown["answer"] in {-1: ("",), 0: ("", "Dạ, ", "Dạ, từ "), 150: ("Dạ, ", "Dạ, từ ")}[leave_after]


def test_a_server_that_gives_up_on_a_request_keeps_what_was_written(app, page, desk):
    desk.script = ["Dạ, ", asyncio.Event().wait, DONE]

    async def give_up():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await call(app, {"question": "Mấy giờ?"}, leave_after=10**9)

    asyncio.run(give_up())
    assert desk.n_closed == 1
    (listed,) = page.get("/api/conversations").json()["conversations"]
    (shown,) = conversation(page, listed["id"])["turns"]
    assert (shown["answer"], shown["finish_reason"]) == ("Dạ, ", "cancelled")


def test_a_connection_that_breaks_while_it_is_sent_to_keeps_what_was_written(desk, store):
    desk.script = ["Dạ, ", "từ ", DONE]
    asked = reply.Asked(store, kept.hash_of(LAN), "shop", "Mấy giờ?", None, None, "", lambda: None)
    response = reply.Reply(desk.ask(Ask("shop", "Mấy giờ?")), asked)

    async def send(message):
        if b"text" in message.get("body", b""):
            raise OSError("broken pipe")

    asyncio.run(response({}, asyncio.Event().wait, send))
    (listed,) = kept.conversations(store, kept.hash_of(LAN))
    (shown,) = kept.conversation(store, kept.hash_of(LAN), listed["id"])["turns"]
    assert (shown["answer"], shown["finish_reason"]) == ("Dạ, ", "cancelled")


def test_a_connection_that_breaks_behind_the_answer_leaves_it_as_it_was_kept(desk, store, lost):
    asked = reply.Asked(store, kept.hash_of(LAN), "shop", "Mấy giờ?", None, None, "", lambda: lost.append(1))

    async def send(message):
        if b'"end"' in message.get("body", b""):
            raise OSError("broken pipe")

    asyncio.run(reply.Reply(desk.ask(Ask("shop", "Mấy giờ?")), asked)({}, asyncio.Event().wait, send))
    (listed,) = kept.conversations(store, kept.hash_of(LAN), "8h30")
    (shown,) = kept.conversation(store, kept.hash_of(LAN), listed["id"])["turns"]
    assert (shown["answer"], shown["finish_reason"], lost) == (DONE.text, "stop", [])


def test_who_does_not_read_is_given_up_in_the_end_and_what_was_written_is_kept(desk, store, monkeypatch):
    monkeypatch.setattr(reply, "_PATIENCE_SECONDS", 0.05)
    asked = reply.Asked(store, kept.hash_of(LAN), "shop", "Mấy giờ?", None, None, "", lambda: None)

    async def send(message):
        if b"text" in message.get("body", b""):
            await asyncio.Event().wait()

    async def give_up():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await reply.Reply(desk.ask(Ask("shop", "Mấy giờ?")), asked)({}, asyncio.Event().wait, send)

    asyncio.run(give_up())
    (listed,) = kept.conversations(store, kept.hash_of(LAN))
    (shown,) = kept.conversation(store, kept.hash_of(LAN), listed["id"])["turns"]
    assert (shown["answer"], shown["finish_reason"]) == ("Dạ, ", "cancelled")


def read_until(desk, store, kind, seconds=10.0):
    """Ask, and go away when an event of a kind has come; return what came."""
    asked = reply.Asked(store, kept.hash_of(LAN), "shop", "Mấy giờ?", None, None, "", lambda: None)
    came, left = [], asyncio.Event()

    async def send(message):
        came.append(message)
        if f'"{kind}"'.encode() in message.get("body", b""):
            left.set()

    async def receive():
        await left.wait()
        return {"type": "http.disconnect"}

    async def read():
        async with asyncio.timeout(seconds):
            await reply.Reply(desk.ask(Ask("shop", "Mấy giờ?")), asked, pulse=600)({}, receive, send)

    asyncio.run(read())
    return [json.loads(part["body"][6:]) for part in came if part.get("body", b"").startswith(b"data")]


def test_who_asks_knows_the_turn_before_there_is_a_word_of_the_answer(desk, store):
    desk.script = [asyncio.Event().wait, DONE]
    (turn,) = read_until(desk, store, "turn")
    assert turn["type"] == "turn"
    (shown,) = kept.conversation(store, kept.hash_of(LAN), turn["conversation"])["turns"]
    assert (shown["id"], shown["answer"], shown["finish_reason"]) == (turn["turn"], "", "cancelled")


def test_a_desk_at_work_names_the_turn_at_once_and_refuses_with_a_status(tmp_path):
    engine, headers = FakeEngine(), {"X-Hoidap-Visitor": LAN}
    with serving(tmp_path, [bots(engine)], most=1) as served:
        too_long = served.post("/api/ask", {"question": "dài " * 900}, **headers)
        assert (too_long.status_code, too_long.json()["error"]["code"]) == (400, "context_length_exceeded")
        engine.gate.clear()
        with served.client.stream("POST", "/api/ask", json={"question": "Mấy giờ?"}, headers=headers) as response:
            lines = filter(None, response.iter_lines())
            assert json.loads(next(lines)[6:])["type"] == "turn"
            assert served.post("/api/ask", {"question": "Mấy giờ?"}, **headers).status_code == 503
            engine.gate.set()
            assert json.loads([*lines][-1][6:])["type"] == "end"


def test_what_is_refused_late_is_told_of_as_an_event_and_kept_as_failed(desk, store, monkeypatch):
    monkeypatch.setattr(reply, "_REFUSED_SECONDS", 0.01)

    async def pause():
        await asyncio.sleep(0.1)

    desk.script = [pause, TooLongError("too long")]
    turn, error_ = read_until(desk, store, "error")
    assert (error_["type"], error_["code"], error_["retry_after"]) == ("error", "context_length_exceeded", None)
    (shown,) = kept.conversation(store, kept.hash_of(LAN), turn["conversation"])["turns"]
    assert (shown["id"], shown["finish_reason"]) == (turn["turn"], "error")


def test_a_long_silence_is_filled_and_then_the_answer_comes(desk, store):
    async def pause():
        await asyncio.sleep(0.2)

    desk.script = [pause, "Dạ.", UnavailableError("stopping")]
    asked = reply.Asked(store, kept.hash_of(LAN), "shop", "Mấy giờ?", None, None, "", lambda: None)
    sent = []

    async def send(message):
        sent.append(message.get("body", b""))

    asyncio.run(reply.Reply(desk.ask(Ask("shop", "Mấy giờ?")), asked, pulse=0.02)({}, asyncio.Event().wait, send))
    assert sent.count(b": \n\n") > 1
    assert sent.index(b": \n\n") == 2  # behind the status and the turn
    assert [json.loads(part[6:])["type"] for part in sent if part.startswith(b"data")] == ["turn", "text", "error"]


@pytest.mark.parametrize("visitor", [None, "", "a" * 31, "a" * 33, "A" * 32, "g" * 32, "a" * 31 + "\n", "١" * 32])
def test_who_sends_no_proper_visitor_is_refused_everywhere(app, visitor):
    headers = {} if visitor is None else {"X-Hoidap-Visitor": visitor.encode()}
    with TestClient(app) as client:
        for method, path in (("GET", "conversations"), ("DELETE", "me"), ("GET", f"conversations/{'c' * 32}")):
            assert error(client.request(method, f"/api/{path}", headers=headers)) == (400, "invalid_visitor")
        assert error(client.post("/api/ask", json={"question": "x"}, headers=headers)) == (400, "invalid_visitor")


def test_another_visitor_s_ids_are_unknown(page, other):
    turn = ask(page)[0]
    id_ = turn["conversation"]
    assert error(other.get(f"/api/conversations/{id_}")) == (404, "not_found")
    assert error(other.get(f"/api/conversations/{id_}/export")) == (404, "not_found")
    assert error(other.patch(f"/api/conversations/{id_}", json={"title": "x"})) == (404, "not_found")
    assert error(other.delete(f"/api/conversations/{id_}")) == (404, "not_found")
    assert error(other.put(f"/api/turns/{turn['turn']}/rating", json={"rating": 1})) == (404, "not_found")
    assert error(other.post("/api/ask", json={"question": "x", "conversation": id_})) == (404, "not_found")
    replaces = {"question": "x", "conversation": id_, "replaces": turn["turn"]}
    assert error(other.post("/api/ask", json=replaces)) == (404, "not_found")
    own = ask(other)[0]
    replaces = {"question": "x", "conversation": own["conversation"], "replaces": turn["turn"]}
    assert error(other.post("/api/ask", json=replaces)) == (404, "not_found")
    assert other.delete("/api/me").status_code == 204
    assert [turn["rating"] for turn in conversation(page, id_)["turns"]] == [0]


def test_what_is_unknown_is_told_of_in_the_same_words_as_another_s(page, other):
    theirs = other.get(f"/api/conversations/{ask(page)[0]['conversation']}")
    nobodys = other.get(f"/api/conversations/{'0' * 32}")
    assert theirs.json() == nobodys.json()
    assert theirs.headers.items() == nobodys.headers.items()


BAD_IDS = ["0", "A" * 32, "0" * 33, "g" * 32, "..%2f..%2fetc%2fpasswd", "%00" * 32, "a" * 5000, "'; DROP TABLE turns; --"]


@pytest.mark.parametrize("bad", BAD_IDS)
def test_what_is_no_id_is_unknown(page, bad):
    for method, path, body in (
        ("GET", f"conversations/{bad}", None),
        ("GET", f"conversations/{bad}/export", None),
        ("PATCH", f"conversations/{bad}", {"title": "x"}),
        ("DELETE", f"conversations/{bad}", None),
        ("PUT", f"turns/{bad}/rating", {"rating": 1}),
    ):
        response = page.request(method, f"/api/{path}", json=body)
        assert response.status_code == 404, (method, path)


def test_what_is_no_id_in_a_question_is_unknown(page, desk):
    assert error(page.post("/api/ask", json={"question": "x", "conversation": "0" * 31})) == (404, "not_found")
    body = {"question": "x", "conversation": "0" * 32, "replaces": "../../x"}
    assert error(page.post("/api/ask", json=body)) == (404, "not_found")
    assert error(page.post("/api/ask", json={"question": "x", "replaces": "0" * 32})) == (400, "invalid_value")
    assert desk.asked == []


def test_a_bot_is_asked_by_its_id_and_a_conversation_stays_with_it(page, desk):
    turn = ask(page, bot="spa")[0]
    ask(page, conversation=turn["conversation"])
    assert [asked.bot for asked in desk.asked] == ["spa", "spa"]
    for body in ({"bot": "casino"}, {"bot": "shop", "conversation": turn["conversation"]}):
        assert error(page.post("/api/ask", json={"question": "x", **body})) == (404, "bot_not_found")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"x"', b'{"question": 1}', b'{"question": null}', b"{}", b'{"question": ""}',
        b'{"question": " \\n\\u00a0 "}', b'{"question": "\\u0000"}', b'{"question": "x", "admin": true}',
        b'{"question": "\\ud800"}', b'{"question": "x", "conversation": {"$ne": null}}', b'\xff\xfe{"question": "x"}',
        b'{"question": "x", "bot": 5}', b'{"question": "' + b"a" * 4001 + b'"}', b"[" * 5000,
        b'{"question": "x", "conversation": "\\ud800"}', b'{"qu\\ud800estion": "x"}',
    ],
)  # fmt: skip
def test_a_body_that_asks_nothing_is_refused_and_nothing_is_kept(page, desk, body):
    response = page.post("/api/ask", content=body, headers={"Content-Type": "application/json"})
    assert error(response)[0] in {400, 404}
    assert desk.asked == []
    assert page.get("/api/conversations").json() == {"conversations": []}


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=30, deadline=None)
def test_whatever_is_typed_is_answered_or_refused(shared, question, search):
    client = shared
    response = client.post("/api/ask", content=json.dumps({"question": question}))
    assert response.status_code in {200, 400}
    if response.status_code == 200:
        assert events(response)[0]["stored"]
    assert client.get("/api/conversations", params={"search": search.encode("utf-8", "replace")}).status_code == 200


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    store = Store.open(tmp_path_factory.mktemp("shared") / "hoidap.db")
    app = FastAPI()
    app.include_router(make_visitors(FakeDesk(), store))
    headers = {"X-Hoidap-Visitor": LAN, "Content-Type": "application/json"}
    with TestClient(app, headers=headers) as client:
        yield client
    store.close()


def test_control_characters_are_not_asked_and_lines_are(page, desk):
    ask(page, "  Mấy\x00 giờ\x1b[31m\r\nmở cửa?\u0085 ")
    assert desk.asked[0].question == "Mấy  giờ [31m\nmở cửa?"


HOSTILE = (
    "<script>alert(1)</script>",
    "'; DROP TABLE conversations; --",
    "{{7*7}}",
    "../../etc/passwd",
    "\u202egnp.exe",
    "=1+1",
)


@pytest.mark.parametrize("title", HOSTILE)
def test_a_hostile_title_is_kept_as_it_is(page, title):
    id_ = ask(page)[0]["conversation"]
    assert page.patch(f"/api/conversations/{id_}", json={"title": title}).status_code == 204
    response = page.get("/api/conversations")
    assert response.json()["conversations"][0]["title"] == title
    assert response.headers["content-type"] == "application/json"
    assert page.get("/api/conversations", params={"search": title}).status_code == 200


def test_a_title_is_one_line_of_some_length(page):
    id_ = ask(page)[0]["conversation"]
    path = f"/api/conversations/{id_}"
    assert page.patch(path, json={"title": "  Giờ\n\tmở \x00 cửa "}).status_code == 204
    assert conversation(page, id_)["title"] == "Giờ mở cửa"
    assert error(page.patch(path, json={"title": "x" * 201})) == (400, "too_long")
    assert error(page.patch(path, json={"title": " \x00 "})) == (400, "invalid_value")
    assert error(page.patch(path, json={})) == (400, "invalid_value")
    assert conversation(page, id_)["title"] == "Giờ mở cửa"


def test_an_answer_is_rated_and_rated_again(page):
    turn = ask(page)[0]
    path = f"/api/turns/{turn['turn']}/rating"
    assert page.put(path, json={"rating": -1, "comment": "sai\x00 giá"}).status_code == 204
    (shown,) = conversation(page, turn["conversation"])["turns"]
    assert (shown["rating"], shown["comment"]) == (-1, "sai  giá")
    assert page.put(path, json={"rating": 1}).status_code == 204
    assert conversation(page, turn["conversation"])["turns"][0]["comment"] == ""
    for rating in (2, -2, 0.5, "1", True, None, 1e308):
        assert error(page.put(path, json={"rating": rating}))[0] == 400, rating
    assert error(page.put(path, json={"rating": 0, "comment": "x" * 2001})) == (400, "too_long")


def test_a_search_finds_what_was_said_without_its_marks(page, other):
    id_ = ask(page, "Học phí bao nhiêu?")[0]["conversation"]
    ask(page, "Có đông không?")
    for search in ("hoc phi", "HỌC"):
        assert [one["id"] for one in page.get("/api/conversations", params={"search": search}).json()["conversations"]] == [
            id_
        ]
    assert other.get("/api/conversations", params={"search": "hoc phi"}).json() == {"conversations": []}
    assert error(page.get("/api/conversations", params={"search": "x" * 201})) == (400, "too_long")


def test_an_export_is_a_download_of_the_conversation(page):
    id_ = ask(page, "<script>alert(1)</script>")[0]["conversation"]
    response = page.get(f"/api/conversations/{id_}/export")
    assert response.json() == conversation(page, id_)
    assert response.headers["content-disposition"].startswith('attachment; filename="hoi-thoai-')
    assert response.headers["x-content-type-options"] == "nosniff"


def test_what_is_deleted_is_gone(page, tmp_path):
    id_ = ask(page, "Bí mật 0912 345 678?")[0]["conversation"]
    stays = ask(page, "Còn lại?")[0]["conversation"]
    assert page.delete(f"/api/conversations/{id_}").status_code == 204
    assert error(page.get(f"/api/conversations/{id_}")) == (404, "not_found")
    assert [one["id"] for one in page.get("/api/conversations").json()["conversations"]] == [stays]
    assert page.delete("/api/me").status_code == 204
    assert page.get("/api/conversations").json() == {"conversations": []}
    assert b"0912" not in b"".join(part.read_bytes() for part in tmp_path.iterdir())


def test_the_visitor_s_number_is_in_no_byte_of_the_file(page, tmp_path):
    ask(page)
    held = b"".join(part.read_bytes() for part in tmp_path.iterdir())
    assert LAN.encode() not in held
    assert bytes.fromhex(LAN) not in held


def test_a_full_conversation_is_told_of_before_anything_is_asked(page, desk, monkeypatch):
    monkeypatch.setattr(kept, "MOST_TURNS", 1)
    turn = ask(page)[0]
    in_it = {"conversation": turn["conversation"]}
    assert error(page.post("/api/ask", json={"question": "x", **in_it})) == (400, "conversation_full")
    assert len(desk.asked) == 1
    assert ask(page, replaces=turn["turn"], **in_it)[0]["stored"]


def test_the_site_tells_bots_contact_and_questions_from_all_over_the_data(app):
    with TestClient(app) as client:
        site = client.get("/api/site").json()
    assert [bot["id"] for bot in site["bots"]] == ["shop", "spa"]
    assert (site["contact"], site["embedding"]) == ("Zalo 0900 000 216", True)
    assert site["starters"] == [ITEMS[n].question for n in (0, 10, 20, 30)]
    assert site["bots"][1]["starters"] == []  # it is being loaded


def test_many_at_once_get_an_answer_each(desk, tmp_path):
    store = Store.open(tmp_path / "many.db", busy_seconds=30)
    app = FastAPI()
    app.include_router(make_visitors(desk, store))

    async def ask_all():
        return await asyncio.gather(*(call(app, {"question": f"Câu {n}?"}, leave_after=10**9) for n in range(20)))

    bodies = [b"".join(part.get("body", b"") for part in came) for came in asyncio.run(ask_all())]
    assert len({json.loads(body.split(b"\n\n")[0][6:])["turn"] for body in bodies}) == 20
    assert sorted(asked.question for asked in desk.asked) == sorted(f"Câu {n}?" for n in range(20))
    found = {one["title"] for one in kept.conversations(store, kept.hash_of(LAN))}
    assert found == {f"Câu {n}?" for n in range(20)}
    store.close()
