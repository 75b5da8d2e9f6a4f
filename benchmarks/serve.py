"""How many visitors a server holds, what happens past that, and whether an answer is ever lost or mixed up.

    python benchmarks/serve.py --run RUN --out benchmarks/results/serve.json

``hoidap serve RUN`` is started as a process of its own, with its defaults; this script is its visitors. Server and visitors
share the machine's cores, and the result says how much of them each took; where other processes took some too, it is
measured again. Every question comes over a connection and from an address of its own (127.x.y.z: so it runs on Linux), as
from another visitor; so the limit of requests a minute stays on.

Questions are the run's items', as written and in one other way, half asked as the page does (``/api/ask``), half through
``/v1/chat/completions`` with ``stream``. The run's mode is its own: "checked" by default, whose texts come whole.

Rows ``users…``: visitors who ask, wait for the answer, and ask again at once (``users``) or after a pause as people make it
(``users-pausing``); more and more of them, until of 100 questions more than 5 wait over a second for their first text. The
value is the most that are held below that. Then twice and four times as many, and twice as many as may wait: who is turned
away with 503 comes again when Retry-After says so.

Row ``requests``: so many questions, of which one in ten hangs up at a random moment: in the midst of its own request, while
it waits, behind the first text, at the end. Every answer that comes is compared with the one that its question got when it
was asked alone. A fifth goes to ``/v1/completions``, where the model's text comes as it is written. At the end the server's
own figures, its file, its memory, threads and open files are compared with what was there before, and with what was asked.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import resource
import secrets
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import environment
from prometheus_client.parser import text_string_to_metric_families

Route = Literal["page", "chat", "model"]
PATHS: dict[Route, str] = {"page": "/api/ask", "chat": "/v1/chat/completions", "model": "/v1/completions"}
Moment = Literal["in the head", "in the body", "waiting", "behind the first text", "at the end"]
MOMENTS: tuple[Moment, ...] = ("in the head", "in the body", "waiting", "behind the first text", "at the end")
MOST_FIRST_S = 1.0
PAUSE_S = 10.0
MODEL_TOKENS = 64
MOST_OTHERS = 0.1  # cores that other processes may take
MOST_TRIES, QUIET_TRIES = 5, 150
PATIENCE_S = 150.0  # longer than an answer may take
FINISHED = ("stop", "length", "declined", "corrected")
MOST_WAITING = 256  # by default, those at work counted


@dataclass(frozen=True)
class Asked:
    """A question, and where it is asked."""

    route: Route
    question: str


@dataclass
class Told:
    """What came of a question; moments in seconds since it was asked."""

    asked: Asked
    status: int = 0
    text: str = ""
    first_s: float | None = None
    end_s: float | None = None  # None: it did not come whole
    retry_s: float = 0.0
    turn: str = ""  # its id in the server's file
    left: Moment | None = None
    fault: str = ""
    is_turned_away: bool = False  # by its status, or where that was sent already by an event


def _addresses() -> Iterator[str]:
    """Yield addresses of this machine, each another, in an order of their own in every process."""
    number = secrets.randbits(22)
    while True:
        number = (number + 1) % 2**22
        yield f"127.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


@dataclass
class Server:
    """A running server."""

    pid: int
    port: int
    bot: str
    store: Path
    log: Path
    addresses: Iterator[str] = field(default_factory=_addresses)

    def memory_mib(self) -> float:
        return self._status("VmRSS") / 1024

    def threads(self) -> int:
        return self._status("Threads")

    def files(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def cpu_s(self) -> float:
        used = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[11:13]
        return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return int(re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]


@contextlib.contextmanager
def serving(run: Path, folder: Path, *options: str) -> Iterator[Server]:
    """Start a server, and have it stop as it is told to; what it writes goes to a file."""
    store, log = folder / "asked.sqlite3", folder / "server.log"
    command = [sys.executable, "-c", "from hoidap.cli import main; main()", "serve", str(run), "--port", "0"]
    command += ["--store", str(store), *options]
    paths = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(  # noqa: S603
            command, stderr=file, stdout=file, env={**os.environ, **paths}
        ) as process,
    ):
        try:
            while (found := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8"))) is None:
                assert process.poll() is None, log.read_text(encoding="utf-8")
                time.sleep(0.05)
            yield Server(process.pid, int(found[1]), run.resolve().name, store, log)
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
            assert code == 0, f"told to stop, the server ended with {code}: {log.read_text(encoding='utf-8')}"
        finally:
            process.kill()


def request_of(asked: Asked, server: Server) -> tuple[bytes, bytes]:
    """Return head and body of a request."""
    body: dict[str, Any]
    if asked.route == "page":
        body = {"bot": server.bot, "question": asked.question}
    elif asked.route == "chat":
        body = {"model": server.bot, "messages": [{"role": "user", "content": asked.question}], "stream": True}
    else:
        prompt = f"### Câu hỏi: {asked.question}\n### Trả lời:"
        body = {"model": server.bot, "prompt": prompt, "max_tokens": MODEL_TOKENS, "stream": True}
    content = json.dumps(body).encode()
    lines = [
        f"POST {PATHS[asked.route]} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Content-Type: application/json",
        f"Content-Length: {len(content)}", f"X-Hoidap-Visitor: {secrets.token_hex(16)}", "Connection: close", "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode(), content


async def ask(server: Server, asked: Asked, leave: Moment | None = None, after_s: float = 0.0) -> Told:
    """Ask, and read what comes; or hang up at a moment."""
    told = Told(asked, left=leave)
    head, body = request_of(asked, server)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, local_addr=(next(server.addresses), 0))
    except OSError as error:
        told.fault = f"no connection: {error}"
        return told
    try:
        began = time.perf_counter()
        writer.write({"in the head": head[: len(head) // 2], "in the body": head + body[: len(body) // 2]}.get(
            leave or "", head + body
        ))  # fmt: skip
        await writer.drain()
        if leave in ("in the head", "in the body", "waiting"):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(after_s):
                    await _read(reader, told, began, leave)
        else:
            async with asyncio.timeout(PATIENCE_S):
                await _read(reader, told, began, leave)
    except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError) as error:
        told.fault = f"{type(error).__name__} {error}"
    finally:
        writer.close()
    return told


async def _read(reader: asyncio.StreamReader, told: Told, began: float, leave: Moment | None) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    told.status = int(head.split()[1])
    if told.status != 200:
        told.retry_s = float((re.search(r"retry-after: (\d+)", head) or [0, 0])[1])
        told.is_turned_away = told.status == 503
        told.end_s = time.perf_counter() - began
        return
    is_ended = False
    async for data in _events(reader):
        is_ended = _take(data, told)
        if told.text and told.first_s is None:
            told.first_s = time.perf_counter() - began
        if (is_ended and leave == "at the end") or (told.text and leave == "behind the first text"):
            return
    if is_ended:
        told.end_s = time.perf_counter() - began


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the data of server-sent events, until the response is whole."""
    rest = b""
    while size := int(await reader.readline(), 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        *whole, rest = rest.split(b"\n\n")
        for one in whole:
            if one.startswith(b"data: "):
                yield one[6:]
    await reader.readexactly(2)


def _take(data: bytes, told: Told) -> bool:
    """Add an event to what came; return whether it is the last."""
    if data == b"[DONE]":
        return True
    event = json.loads(data)
    if "error" in event or event.get("type") == "error":
        told.fault = data.decode()
        told.retry_s = event.get("retry_after") or 0.0
        told.is_turned_away = event.get("code") == "queue_full"
    elif "choices" in event:
        for choice in event["choices"]:
            told.text += choice["text"] if told.asked.route == "model" else choice["delta"]["content"] or ""
    elif event["type"] == "turn":
        told.turn = event["turn"] or ""
    elif event["type"] == "text":
        told.text += event["text"]
    return bool(event.get("type") == "end")


async def figures(server: Server) -> Counter[str]:
    """Return the server's own figures, by name and label values."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n\r\n".encode())
    text = (await reader.read()).decode().split("\r\n\r\n", 1)[1]
    writer.close()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return Counter({" ".join([one.name.removeprefix("hoidap_"), *one.labels.values()]): one.value for one in samples})


async def rested(server: Server) -> Counter[str]:
    """Wait until the server has nothing at work, and return its figures."""
    for _ in range(600):
        found = await figures(server)
        if not found["open_questions"]:
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)  # for what is kept behind an answer
    return await figures(server)


def questions_of(run: Path, count: int) -> list[str]:
    """Return the run's questions, as written and each in one other way, from all over the data."""
    rows = [json.loads(line) for line in (run / "data" / "wordings.jsonl").read_text(encoding="utf-8").splitlines()]
    chance = random.Random(5)  # noqa: S311 - nothing is kept secret
    found: dict[str, None] = {}
    for item in sorted({row["item"] for row in rows}):
        own = [row["text"] for row in rows if row["item"] == item]
        found |= dict.fromkeys([own[0], chance.choice(own)])
    texts = list(found)
    return [texts[at * len(texts) // count] for at in range(min(count, len(texts)))]


async def ask_alone(server: Server, asked: Sequence[Asked]) -> dict[Asked, str]:
    """Return the answers of questions that are asked one after the other."""
    answers = {}
    for one in asked:
        told = await ask(server, one)
        assert told.end_s is not None, told
        assert told.status == 200, told
        answers[one] = told.text
    return answers


async def crowd(
    server: Server, asked: Sequence[Asked], users: int, seconds: float, pause_s: float = 0.0, warm_s: float = 3.0
) -> dict[str, Any]:
    """Have users ask for so many seconds, and return how they fared; the first seconds do not count."""
    chance = random.Random(users)  # noqa: S311
    began, cpu, own, busy = time.perf_counter(), server.cpu_s(), _own_cpu_s(), _busy_s()
    came: list[Told] = []
    in_time = 0

    async def user() -> None:
        nonlocal in_time
        await asyncio.sleep(chance.uniform(0, pause_s or min(1.0, warm_s)))
        while (at := time.perf_counter() - began) < warm_s + seconds:
            told = await ask(server, chance.choice(asked))
            in_time += told.status == 200 and not told.fault and warm_s <= time.perf_counter() - began < warm_s + seconds
            if at >= warm_s:
                came.append(told)
            await asyncio.sleep(told.retry_s or chance.uniform(0.5, 1.5) * pause_s)

    await asyncio.gather(*(user() for _ in range(users)))
    took = time.perf_counter() - began
    cpu, own, busy = server.cpu_s() - cpu, _own_cpu_s() - own, _busy_s() - busy
    answered = [one for one in came if one.status == 200 and one.end_s is not None and not one.fault]
    away = [one for one in came if one.is_turned_away]
    failed = [f"{one.asked.route} {one.status} {one.fault}" for one in came if one not in answered and one not in away]
    return {
        "users": users, "asked": len(came), "answered": len(answered), "answers_a_second": round(in_time / seconds, 2),
        "turned_away": len(away), "told_when_to_come_again": sum(one.retry_s > 0 for one in away),
        "turned_away_by_an_event": sum(one.status == 200 for one in away),
        "failed": len(failed), "failures": failed[:5],
        "first_text_s": _spread(one.first_s for one in answered), "end_s": _spread(one.end_s for one in answered),
        "first_text_s_by_route": {
            route: _spread(one.first_s for one in answered if one.asked.route == route) for route in ("page", "chat")
        },
        "turned_away_s": _spread(one.end_s for one in away),
        "cores": {
            name: round(used / took, 2) for name, used in (("server", cpu), ("visitors", own), ("others", busy - cpu - own))
        },
        "memory_mib": round(server.memory_mib()),
    }  # fmt: skip


async def undisturbed(*arguments: Any, **more: Any) -> dict[str, Any]:
    """Do as ``crowd``, again where other processes took much of the machine in the meantime; a few times at most."""
    for _ in range(MOST_TRIES):
        for _ in range(QUIET_TRIES):  # until the machine is quiet
            began, busy = time.perf_counter(), _busy_s()
            await asyncio.sleep(2)
            if (_busy_s() - busy) / (time.perf_counter() - began) < MOST_OTHERS:
                break
        level = await crowd(*arguments, **more)
        print(json.dumps(level), flush=True)
        if level["cores"]["others"] < MOST_OTHERS:
            break
    return level


def _busy_s() -> float:
    """Return for how long the machine's cores were busy, all together."""
    user, nice, system, _, _, *interrupts = Path("/proc/stat").read_text(encoding="utf-8").split()[1:8]
    return sum(map(int, (user, nice, system, *interrupts))) / os.sysconf("SC_CLK_TCK")


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _spread(moments: Iterable[float | None]) -> dict[str, float] | None:
    seconds = [moment for moment in moments if moment is not None]
    if not seconds:
        return None
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else seconds * 99
    return {"p50": round(cuts[49], 3), "p95": round(cuts[94], 3), "most": round(max(seconds), 3)}


def _is_held(level: Mapping[str, Any]) -> bool:
    spread = level["first_text_s"]
    return bool(spread) and spread["p95"] <= MOST_FIRST_S and not level["failed"] and not level["turned_away"]


async def find_held(
    server: Server, asked: Sequence[Asked], seconds: float, pause_s: float, start: int
) -> list[dict[str, Any]]:
    """Double the users until they are no longer held, then halve the gap three times; return all levels."""
    levels: list[dict[str, Any]] = []
    low, high, users = 0, 0, start
    while not high or high - low > max(1, low // 8):
        levels.append(await undisturbed(server, asked, users, seconds, pause_s))
        low, high = (users, high) if _is_held(levels[-1]) else (low, users)
        users = (low + high) // 2 if high else 2 * users
    return levels


async def measure_users(server: Server, asked: Sequence[Asked], seconds: float, pause_s: float) -> list[dict[str, Any]]:
    """Return the rows of users held, and of what happens past that."""
    key = "users-pausing" if pause_s else "users"
    levels = await find_held(server, asked, seconds, pause_s, 32 if pause_s else 1)
    held = max((level["users"] for level in levels if _is_held(level)), default=1)
    pause = f"{pause_s:g} s on average between an answer and the next question" if pause_s else "no pause at all"
    shared: dict[str, Any] = {"target": None, "baseline": None}
    rows = [{
        "key": key, "value": held, "unit": "users", **shared, "met": None, "detail": {"levels": levels},
        "note": f"the most of whose first texts 95 of 100 come within {MOST_FIRST_S:g} s; {pause}",
    }]  # fmt: skip
    past = [("twice", 2 * held), ("four-times", 4 * held)]
    past += [] if pause_s else [("twice-as-many-as-may-wait", 2 * MOST_WAITING), ("held-again", held)]
    for name, users in past:
        level = await undisturbed(server, asked, users, seconds, pause_s)
        is_well = not level["failed"] and level["told_when_to_come_again"] == level["turned_away"]
        rows.append({
            "key": f"{key}.{name}", "value": level["answers_a_second"], "unit": "answers/s", **shared, "met": is_well,
            "note": f"{users} users; nothing fails, and who is turned away is told when to come again", "detail": level,
        })  # fmt: skip
    return rows


@dataclass
class Tally:
    """What came of many questions."""

    count: int = 0
    whole: Counter[str] = field(default_factory=Counter)  # by route
    left: Counter[str] = field(default_factory=Counter)  # by moment
    turned_away: int = 0
    lost: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    turns: dict[str, tuple[str, str]] = field(default_factory=dict)  # that came whole: question and answer
    memory: dict[int, float] = field(default_factory=dict)  # MiB, by how many questions were over
    seconds: float = 0.0


async def storm(
    server: Server, answers: Mapping[Asked, str], count: int, users: int, leaving: float = 0.1, most_wait_s: float = 2.0
) -> Tally:
    """Ask so many questions, so many at a time; some hang up, the others' answers are compared.

    ``most_wait_s``: who hangs up waiting does so within these seconds.
    """
    chance = random.Random(count)  # noqa: S311
    by_route = {route: [one for one in answers if one.route == route] for route in PATHS}
    routes: list[Route] = ["page", "page", "chat", "chat", "model"]
    tally, left, began = Tally(), iter(range(count)), time.perf_counter()

    async def user() -> None:
        for _ in left:
            asked = chance.choice(by_route[chance.choice(routes)])
            moment = chance.choice(MOMENTS) if chance.random() < leaving else None
            told = await ask(server, asked, moment, chance.uniform(0, most_wait_s))
            while told.is_turned_away and told.left is None:
                tally.turned_away += 1
                await asyncio.sleep(told.retry_s)
                told = await ask(server, asked)
            _count(tally, told, answers[asked])
            if tally.count % 500 == 0:
                print(
                    f"{tally.count:,} questions, {time.perf_counter() - began:.0f} s, {server.memory_mib():.0f} MiB",
                    flush=True,
                )
                tally.memory[tally.count] = round(server.memory_mib(), 1)

    await asyncio.gather(*(user() for _ in range(users)))
    tally.seconds = time.perf_counter() - began
    return tally


def _count(tally: Tally, told: Told, answer: str) -> None:
    tally.count += 1
    if told.left is not None:
        tally.left[told.left] += 1
        is_right = answer.startswith(told.text)
    elif told.end_s is None or told.status != 200 or told.fault:
        tally.lost.append(f"{told.asked.route} {told.status}: {told.asked.question}: {told.fault}")
        return
    else:
        tally.whole[told.asked.route] += 1
        is_right = told.text == answer
        if told.asked.route == "page":
            tally.turns[told.turn] = (told.asked.question, told.text)
    if not is_right:
        tally.mixed.append(f"{told.asked.route}: {told.asked.question}: {told.text} (alone: {answer})")


def compare(server: Server, tally: Tally, before: Counter[str], after: Counter[str]) -> list[str]:
    """Return where the server's figures and its file are at odds with what its visitors saw."""
    grown, odds = Counter(after), []
    grown.subtract(before)
    ends = {name.split()[1]: int(n) for name, n in grown.items() if name.startswith("answers_total ") and n}
    finished = sum(ends.get(outcome, 0) for outcome in FINISHED)
    n_whole, n_left = tally.whole.total(), tally.left.total()
    if not n_whole <= finished <= n_whole + n_left:
        odds.append(f"{n_whole} answers came whole, {n_left} hung up, and the server finished {finished}")
    if set(ends) - {*FINISHED, "cancelled"} or sum(ends.values()) > n_whole + n_left:
        odds.append(f"the server ended questions as {ends}; {n_whole} came whole, {n_left} hung up")
    asked = sum(int(n) for name, n in grown.items() if name.startswith("requests_total POST"))
    sent = n_whole + n_left - tally.left["in the head"] + tally.turned_away
    if asked != sent:
        odds.append(f"the server counted {asked} requests, and {sent} were sent")
    odds += [
        f"{name} is {after[name]}" for name in ("open_questions", "engine_restarts", "not_stored_total") if after[name]
    ]
    with contextlib.closing(sqlite3.connect(server.store)) as file:
        kept = {id_: (question, answer) for id_, question, answer in file.execute("SELECT id, question, answer FROM turns")}
        unended = file.execute("SELECT count(*) FROM turns WHERE finish_reason IS NULL").fetchone()[0]
    if wrong := [turn for turn, what in tally.turns.items() if kept.get(turn) != what]:
        odds.append(f"{len(wrong)} of {len(tally.turns)} turns are not in the file as they were answered")
    if unended:
        odds.append(f"{unended} turns in the file have no end")
    if problems := [
        line for line in server.log.read_text(encoding="utf-8").splitlines() if "rror" in line or "Trace" in line
    ]:
        odds.append(f"the log has {problems[:5]}")
    return odds


async def measure_requests(server: Server, answers: Mapping[Asked, str], count: int, users: int) -> list[dict[str, Any]]:
    """Return the rows of many questions, of which some hang up."""
    before = await rested(server)
    held = {"threads": server.threads(), "files": server.files(), "memory_mib": round(server.memory_mib(), 1)}
    tally = await storm(server, answers, count, users)
    after = await rested(server)
    odds = compare(server, tally, before, after)
    then = {"threads": server.threads(), "files": server.files(), "memory_mib": round(server.memory_mib(), 1)}
    early = tally.memory.get(1000, held["memory_mib"])
    note = f"{count:,} questions, {users} at a time, {tally.left.total():,} of which hung up; {tally.seconds:.0f} s"
    shared = {"baseline": None, "target": 0}
    return [
        {
            "key": "requests.lost", "value": len(tally.lost), "unit": "answers", **shared, "met": not tally.lost,
            "note": note, "detail": {"whole": tally.whole, "left": tally.left, "lost": tally.lost[:20]},
        },
        {
            "key": "requests.mixed", "value": len(tally.mixed), "unit": "answers", **shared, "met": not tally.mixed,
            "note": f"not the answer that the question got alone; {len(answers)} distinct questions",
            "detail": {"mixed": tally.mixed[:20]},
        },
        {
            "key": "requests.odds", "value": len(odds), "unit": "differences", **shared, "met": not odds,
            "note": "between the server's figures, its file and its log, and what its visitors saw",
            "detail": {"odds": odds, "turned_away": tally.turned_away, "turns_compared": len(tally.turns), "figures": {
                name: n for name, n in sorted(after.items()) if name.split("_")[-1].split()[0] not in ("bucket", "created")
            }},
        },
        {
            "key": "requests.memory", "value": round(then["memory_mib"] - early, 1), "unit": "MiB", "baseline": None,
            "target": None, "met": None, "note": "more at the end than after 1,000 questions, by VmRSS",
            "detail": {"before": held, "after": then, "by_questions": tally.memory},
        },
    ]  # fmt: skip


async def measure(options: argparse.Namespace, run: Path) -> list[dict[str, Any]]:
    questions = questions_of(run, options.questions)
    rows: list[dict[str, Any]] = []
    for part in options.parts:
        with tempfile.TemporaryDirectory() as folder, serving(run, Path(folder)) as server:
            if part == "users":
                asked = [Asked(route, question) for question in questions for route in ("page", "chat")]
                rows += await measure_users(server, asked, options.seconds, 0.0)
                rows += await measure_users(server, asked, 2 * options.seconds, PAUSE_S)
            else:
                answers = await ask_alone(server, [Asked(route, question) for question in questions for route in PATHS])
                rows += await measure_requests(server, answers, options.requests, options.users)
        if options.out:
            environment.write(options.out, rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a trained run; it is served from a copy")
    parser.add_argument("--parts", nargs="+", choices=["users", "requests"], default=["users", "requests"])
    parser.add_argument("--questions", type=int, default=120, help="distinct questions")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each number of users")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=48, help="at a time, of the requests")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(shutil.copytree(options.run, Path(folder) / options.run.resolve().name))
        rows = asyncio.run(measure(options, run))
    for row in rows:
        print(json.dumps({name: value for name, value in row.items() if name != "detail"}, ensure_ascii=False))


if __name__ == "__main__":
    main()
