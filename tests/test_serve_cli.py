"""The commands of a server, and a server of real runs: what it refuses to begin with, what it shares, how it stops."""

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import httpx2
import pytest
from fake_engine import FakeEngine, bots, echo
from rich.console import Console
from served import asking, serving, until
from tiny_run import ITEMS, LORA, make_base, write_csv
from typer.testing import CliRunner

from hoidap.bot import Answer, load
from hoidap.cli import app
from hoidap.data.items import Item
from hoidap.errors import RecipeError, RunError
from hoidap.prompt import Turn
from hoidap.serve.desk import Ask, Desk
from hoidap.serve.fleet import open_runs, plan
from hoidap.serve.keys import Keys
from hoidap.serve.settings import Settings
from hoidap.serve.store import Store
from hoidap.training.job import train

QUIET = Console(quiet=True)
WHERE = {"base": None, "device": "cpu", "dtype": None, "download": False, "console": QUIET}
OTHER = [Item(item.question, f"{item.answer} Trường xin báo.") for item in ITEMS]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on one base, which answer the same questions differently."""
    folder = tmp_path_factory.mktemp("fleet")
    base = make_base(folder / "base")
    for name, items in (("shop", ITEMS), ("school", OTHER)):
        data = write_csv(folder / f"{name}.csv", items)
        train(data, out=folder / name, model=base.name, recipe=LORA, device="cpu", console=QUIET)
        (folder / name / "bot.toml").write_text('mode = "model"\n', encoding="utf-8")
    return folder


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_keys_are_made_listed_and_revoked(tmp_path):
    store = tmp_path / "kept.sqlite3"
    made = invoke("keys", "--store", store, "--add", "trang web", "--role", "owner")
    text = made.stdout.strip()
    assert re.fullmatch(r"hd-[0-9a-f]{12}-[\w-]{43}", text)
    kept = Store.open(store)
    key = Keys(kept).check(text)
    assert (key.name, key.role) == ("trang web", "owner")
    assert invoke("keys", "--store", store).stdout.split() == [key.id, "owner", "trang", "web"]
    assert invoke("keys", "--store", store, "--revoke", key.id).exit_code == 0
    assert Keys(kept).check(text) is None
    kept.close()
    again = invoke("keys", "--store", store, "--revoke", key.id)
    assert "there is no key of the id" in str(again.exception)


def test_without_a_key_it_is_not_reached_from_elsewhere(tmp_path, runs):
    store = tmp_path / "kept.sqlite3"
    refused = invoke("serve", runs / "shop", "--host", "192.0.2.1", "--store", store)
    assert isinstance(refused.exception, RecipeError)
    assert f"hoidap keys --store {store} --add NAME" in str(refused.exception)
    invoke("keys", "--store", store, "--add", "a")
    refused = invoke("serve", runs / "shop", "--host", "0.0.0.0", "--store", store)  # noqa: S104 - refused
    assert "--allowed-host chat.shop.vn" in str(refused.exception)
    refused = invoke("serve", runs / "shop", "--host", "192.0.2.1", "--store", store)
    assert "cannot be taken" in str(refused.exception)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_this_machine_s_own_addresses_need_none(host):
    Settings(host).refuse_open(has_key=False, store=Path("x"))


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(tmp_path, runs):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = invoke("serve", runs / "shop", "--port", port, "--store", tmp_path / "kept.sqlite3")
    assert f"--port {port} cannot be taken" in str(refused.exception)


def test_what_is_no_run_or_has_another_s_name_is_refused(tmp_path, runs):
    with pytest.raises(RunError, match="is not a run folder"):
        open_runs([tmp_path])
    with pytest.raises(RunError, match="two runs are named 'shop'"):
        open_runs([runs / "shop", runs / "base" / ".." / "shop"])
    with pytest.raises(RunError, match="--gguf is one run's, and 2 runs were given"):
        plan(open_runs([runs / "shop", runs / "school"]), gguf=tmp_path / "x.gguf", **WHERE)


def test_runs_on_one_base_share_an_engine_and_answer_as_alone(runs):
    opened = open_runs([runs / "shop", runs / "school"])
    loads = plan(opened, **WHERE)
    assert len(loads) == 1
    loaded = loads[0]()
    assert loaded["shop"].engine is loaded["school"].engine
    alone = {name: load(runs / name, device="cpu") for name in loaded}

    async def ask(desk, name, question):
        async with aclosing(desk.ask(Ask(name, question))) as answering:
            return [item async for item in answering][-1]

    async def ask_all(desk):
        pairs = [(name, item.question) for item in ITEMS for name in loaded]
        return pairs, await asyncio.gather(*(ask(desk, *pair) for pair in pairs))

    desk = Desk([lambda: loaded])
    desk.start()
    try:
        pairs, answers = asyncio.run(asyncio.wait_for(ask_all(desk), 60))
    finally:
        desk.close()
    assert all(isinstance(answer, Answer) for answer in answers)
    assert [a.text for a in answers] == [alone[n].answer(q, sampling=alone[n].sampling()).text for n, q in pairs]
    assert {a.text for a in answers} >= {item.answer for item in (ITEMS[0], OTHER[0])}


def test_who_hangs_up_on_a_real_engine_changes_nobody_s_answer(runs):
    bot = load(runs / "shop", device="cpu")
    wanted = {item.question: bot.answer(item.question, sampling=bot.sampling()).text for item in ITEMS}
    chance = random.Random(3)

    async def ask(desk, number):
        item = ITEMS[number % len(ITEMS)]
        history = (Turn(ITEMS[0].question, ITEMS[0].answer),) if number % 7 == 0 else ()
        asking = desk.ask(Ask("shop", item.question, history, client=f"khách {number % 5}"))
        async with aclosing(asking):
            if number % 3 == 0:  # at any stage
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(chance.random() / 5):
                        await anext(asking)
                return None
            last = [piece async for piece in asking][-1]
        return None if history else (item.question, last.text)

    async def ask_all(desk):
        answers = await asyncio.gather(*(ask(desk, number) for number in range(150)))
        while desk.n_open:
            await asyncio.sleep(0.001)
        return answers

    desk = Desk([lambda: {"shop": bot}])
    desk.start()
    try:
        found = [pair for pair in asyncio.run(asyncio.wait_for(ask_all(desk), 60)) if pair]
        assert bot.engine.step() == []
    finally:
        desk.close()
    assert len(found) > 60
    assert all(text == wanted[question] for question, text in found)


def test_a_real_run_is_served_to_programs_visitors_and_its_owner(runs, tmp_path):
    shutil.copytree(runs / "shop", tmp_path / "shop")
    (tmp_path / "shop" / "bot.toml").write_text('mode = "verbatim"\n', encoding="utf-8")
    opened = open_runs([tmp_path / "shop"])
    question = ITEMS[0].question

    def ask(served):
        asked = {"bot": None, "conversation": None, "question": question, "replaces": None}
        response = served.post("/api/ask", asked, **{"X-Hoidap-Visitor": "0" * 32})
        assert response.status_code == 200, response.text
        events = [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: ")]
        return "".join(event["text"] for event in events if event["type"] == "text"), events[-1]

    with serving(tmp_path, plan(opened, **WHERE), opened) as served:
        text, end = ask(served)
        assert (text, end["type"], end["source"]["question"]) == (ITEMS[0].answer, "end", question)
        assert served.chat(question).json()["choices"][0]["message"]["content"] == ITEMS[0].answer
        assert "<html" in served.client.get("/").text
        headers = {"Authorization": f"Bearer {served.keys.make('owner', 'owner')[0]}"}
        written = {"bot": "shop", "question": question, "answer": "Từ 9h ạ."}
        assert served.client.put("/api/owner/answers", json=written, headers=headers).json()["served"]
        text, end = ask(served)
        assert (text, end["corrected"]) == ("Từ 9h ạ.", True)
        body = asking(question)
        (choice,) = served.post("/v1/chat/completions", body, **headers).json()["choices"]
        assert (choice["message"]["content"], choice["hoidap"]["corrected"]) == ("Từ 9h ạ.", True)


def read(served, question):
    """Return the events of an answer up to where it ends."""
    return served.events("/v1/chat/completions", asking(question))


@pytest.mark.parametrize("is_finished", [True, False])
def test_what_is_being_answered_is_finished_or_told_that_it_is_not(tmp_path, is_finished):
    engine = FakeEngine()
    with serving(tmp_path, [bots(engine)], drain_seconds=5.0 if is_finished else 0.05) as served:
        with ThreadPoolExecutor(1) as threads:
            engine.gate.clear()
            begun = threads.submit(read, served, "kể đi?" if is_finished else "nói mãi mãi")
            until(lambda: served.desk.n_open == 1)
            served.server.stop()
            assert served.client.get("/ready").status_code == 503
            assert served.chat("câu mới?").status_code == 503
            engine.gate.set()
            chunks = begun.result()
        until(lambda: served.server.should_exit)
    if is_finished:
        assert chunks[-1] == "[DONE]"
        assert "".join(chunk["choices"][0]["delta"]["content"] or "" for chunk in chunks[:-1]) == echo("kể đi?")
    else:
        assert chunks[-1]["error"]["code"] == "unavailable"
    assert engine.is_empty


@pytest.mark.slow
def test_told_to_stop_it_finishes_the_answer_that_it_is_at(runs, tmp_path):
    command = [sys.executable, "-c", "from hoidap.cli import main; main()", "serve", str(runs / "shop"), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    options = {"cwd": tmp_path, "env": environment, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **options) as process:
        try:
            told = ""
            while "to sign in as the owner" not in told:
                line = process.stderr.readline()
                assert line, told
                told += line
            address = re.search(r"http://127\.0\.0\.1:\d+", told)[0]
            body = {**asking("Kể một câu chuyện thật dài"), "stream": True, "max_tokens": 1000, "temperature": 2, "seed": 3}
            with httpx2.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=20, trust_env=False) as answer:
                lines = answer.iter_lines()
                first = json.loads(next(lines)[6:])
                process.send_signal(signal.SIGTERM)
                rest = [line for line in lines if line]
            assert first["choices"][0]["delta"]["role"] == "assistant"
            assert rest[-1] == "data: [DONE]"
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert (tmp_path / "hoidap.sqlite3").stat().st_mode & 0o077 == 0
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{address}/health", trust_env=False)
