"""A server as its own process under hundreds of visitors, some of whom hang up: nothing is lost, mixed up or left over.

The visitors are those of benchmarks/serve.py, which measures with more of them; here nothing depends on how long it takes.
"""

import asyncio
import importlib
import socket
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console
from tiny_run import ITEMS, LORA, make_base, write_csv

from hoidap.training.job import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="its visitors have addresses of their own, and /proc tells of it"),
]
COUNT = 400


@pytest.fixture(scope="module")
def visitors():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
        yield importlib.import_module("serve")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("load")
    base = make_base(folder / "base")
    data = write_csv(folder / "shop.csv", ITEMS)
    train(data, out=folder / "shop", model=base.name, recipe=LORA, device="cpu", console=Console(quiet=True))
    return folder / "shop"


@pytest.fixture
def server(visitors, run, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with visitors.serving(run, tmp_path) as one:
        yield one
    log = one.log.read_text(encoding="utf-8")
    assert "Traceback" not in log, log


def questions(visitors, run):
    return [visitors.Asked(route, text) for text in visitors.questions_of(run, 12) for route in visitors.PATHS]


async def ask_many(visitors, server, asked):
    """Ask each alone, then many at once, twice; return what came of it and how much the server held each time."""
    answers = await visitors.ask_alone(server, asked)
    held, tallies, figures = [], [], [await visitors.rested(server)]
    for count in (COUNT, COUNT + 1):  # each draws other moments
        tallies.append(await visitors.storm(server, answers, count, users=24, leaving=0.25, most_wait_s=0.2))
        figures.append(await visitors.rested(server))
        held.append({"threads": server.threads(), "files": server.files()})
    return answers, tallies, figures, held


def test_of_hundreds_of_whom_a_quarter_hang_up_nothing_is_lost_mixed_up_or_left_over(visitors, run, server):
    asked = questions(visitors, run)
    answers, tallies, figures, held = asyncio.run(ask_many(visitors, server, asked))
    assert len(set(answers.values())) >= len(ITEMS)  # else a mixed answer would not be seen
    for tally, before, after in zip(tallies, figures, figures[1:], strict=False):
        assert tally.lost == []
        assert tally.mixed == []
        assert visitors.compare(server, tally, before, after) == []
        assert set(tally.left) == set(visitors.MOMENTS)
        assert tally.whole.total() + tally.left.total() == tally.count
    left_over = Counter(held[1])
    left_over.subtract(held[0])
    assert max(left_over.values()) < 20, held  # some hundred hung up in between
    assert figures[-1]["open_questions"] == 0
    with closing(sqlite3.connect(server.store)) as file:
        n_turns = file.execute("SELECT count(*) FROM turns").fetchone()[0]
    # None was refused, so each was kept, one that was given up while it waited too.
    assert n_turns == sum(n for name, n in figures[-1].items() if name.startswith("requests_total POST /api/ask "))


async def ask_at_once(visitors, server, asked, count):
    answers = await visitors.ask_alone(server, asked)
    tolds = await asyncio.gather(*(visitors.ask(server, asked[n % len(asked)]) for n in range(count)))
    return answers, tolds, await visitors.rested(server)


def test_of_more_than_may_wait_some_are_told_when_to_come_again_and_the_others_answered(visitors, run, server):
    asked = questions(visitors, run)
    answers, tolds, figures = asyncio.run(ask_at_once(visitors, server, asked, 2 * visitors.MOST_WAITING))
    away = [told for told in tolds if told.is_turned_away]
    assert len(away) <= visitors.MOST_WAITING
    assert all(told.retry_s > 0 for told in away)
    others = [told for told in tolds if not told.is_turned_away]
    assert [told for told in others if told.fault or told.end_s is None or told.text != answers[told.asked]] == []
    assert figures["open_questions"] == 0


async def ask_beside_who_does_not_read(visitors, server, asked):
    answers = await visitors.ask_alone(server, asked)
    files = server.files()
    idle = []
    for n in range(100):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least that the system gives
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(b"".join(visitors.request_of(asked[n % len(asked)], server)))
        idle.append(connection)
    others = [await visitors.ask(server, one) for one in asked]
    for connection in idle:
        connection.close()
    return answers, others, await visitors.rested(server), server.files() - files


def test_a_hundred_who_do_not_read_keep_nobody_waiting_and_leave_nothing_behind(visitors, run, server):
    found = ask_beside_who_does_not_read(visitors, server, questions(visitors, run))
    answers, others, figures, more_files = asyncio.run(found)
    assert [told.text for told in others] == [answers[told.asked] for told in others]
    assert figures["open_questions"] == 0
    assert more_files < 20
