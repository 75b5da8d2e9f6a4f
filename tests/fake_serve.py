"""The whole server but for its desk: instead of a model, what a question begins with chooses the answer.

The words that choose are in ``ScriptedDesk``; other questions are looked up in the example shop, and declined if they are
not there.
"""

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hoidap.bot import Answer
from hoidap.data.items import Item, to_jsonl
from hoidap.data.read import read_items
from hoidap.errors import EngineError, QueueFullError
from hoidap.prompt import PHOGPT_4B_CHAT
from hoidap.recipe import Recipe
from hoidap.run import Run
from hoidap.serve.app import make_app
from hoidap.serve.job import Ask
from hoidap.serve.keys import Keys
from hoidap.serve.settings import Settings
from hoidap.serve.store import Store
from hoidap.text import comparable, fold

CONTACT = "Zalo 0900 000 216, tiem@mocnhien.example hoặc https://mocnhien.example/lien-he"
SHOP = Path(__file__).parent.parent / "examples" / "cua-hang.csv"
BOT = "Tiệm gốm Mộc Nhiên"
RICH = (
    "Dạ, tiệm có **ba chi nhánh**:\n\n1. Tú Xương, quận 3\n2. Thảo Điền\n3. Phan Xích Long\n\n"
    "Mình cần gì thì:\n- gọi 0900 000 216\n- viết tới tiem@mocnhien.example\n- xem https://mocnhien.example/cua-hang."
)
HOSTILE = (
    "<script>document.title='hacked'</script>",
    "<img src=x onerror=\"document.title='hacked'\">",
    "<svg/onload=document.title='hacked'>",
    "[bấm vào đây](javascript:document.title='hacked')",
    "![ảnh](https://evil.example/leak?q=1)",
    "**<b onmouseover=alert(1)>đậm</b>** `</code><script>alert(2)</script>`",
    "<iframe src='https://evil.example'></iframe>&lt;script&gt;",
    "[x](data:text/html,<script>alert(3)</script>) {{constructor}} ${alert(4)}",
    '<a href="https://evil.example" onclick=alert(5)>a</a><style>*{display:none}</style>',
)
HOSTILE_TEXT = "\n\n".join(HOSTILE)
SAMPLE = """<!doctype html><html lang="vi"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,"><title>Mộc Nhiên</title>
<body style="font: 17px/1.6 Georgia, serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem">
<h1>Tiệm gốm Mộc Nhiên</h1><p>Gốm men ngọc, trà sen, quà tặng; ba chi nhánh ở TP.HCM.</p>
<p>Ngày thường tiệm mở cửa từ 8h30 đến 20h30. Đặt hàng trên mạng giao toàn quốc.</p><p><a href="#">Giỏ hàng</a></p>
<script src="{}/widget.js" async></script></body></html>"""


class ScriptedDesk:
    """Answers as a desk does."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.items = run.items()
        self.cancelled: list[str] = []  # questions whose reader went away
        self.asked: list[Ask] = []
        self.state, self.n_open, self.n_restarts = "up", 0, 0
        self.bots = {"moc-nhien": SimpleNamespace(id="moc-nhien", name=BOT, contact=CONTACT, mode="checked")}

    async def do(self, _bot: str, what: Callable[[Any], Any]) -> Any:
        """Run a function with something like a bot."""
        return what(SimpleNamespace(items=self.items, grounds=None, correct=lambda *_: None))

    async def ask(self, ask: Ask) -> AsyncGenerator[str | Answer, None]:
        """Answer as the first words of the question say."""
        self.asked.append(ask)
        folded = fold(ask.question)
        if folded.startswith("qua tai"):
            msg = "too many are waiting"
            raise QueueFullError(msg)
        if folded.startswith("may hong"):
            msg = "the engine failed"
            raise EngineError(msg)
        if folded.startswith("im lang"):
            await asyncio.sleep(60)
        answer, pause = self._answer(ask.question)
        step = len(answer.text) if answer.is_declined else 9
        try:
            for at in range(0, len(answer.text), step):
                await asyncio.sleep(pause)
                yield answer.text[at : at + step]
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled.append(ask.question)
            raise
        yield answer

    def _answer(self, question: str) -> tuple[Answer, float]:
        folded = fold(question)
        if folded.startswith("that cham"):
            return Answer(" ".join(f"chữ-{n}" for n in range(400)), None, 0.9, "stop"), 0.03
        if folded.startswith("trinh bay"):
            return Answer(RICH, None, 0.9, "stop"), 0.003
        if folded.startswith("dai dong"):
            text = "\n\n".join(f"Đoạn {n}: " + "bát gốm men lam " * 12 for n in range(30))
            return Answer(text, None, 0.9, "length"), 0.0005
        if folded.startswith("tu choi doc hai"):
            near = (Item(HOSTILE[1], "a"), Item(HOSTILE[2], "b"))
            return Answer(HOSTILE_TEXT, None, 0.2, "stop", is_declined=True, near=near), 0
        if folded.startswith("doc hai") or question.startswith("<"):
            source = Item(HOSTILE[0] + HOSTILE[1], HOSTILE_TEXT)
            return Answer(HOSTILE_TEXT, source, 0.9, "stop", is_corrected=True), 0.0005
        return self._from_shop(question), 0.003

    def _from_shop(self, question: str) -> Answer:
        corrections, key = self.run.corrections(), fold(comparable(question))
        for item in (*self.items, *self.run.additions()):
            if key in (fold(comparable(text)) for text in (item.question, *item.wordings)):
                text = corrections.get(item.question, item.answer)
                return Answer(text, item, 0.97, "stop", is_corrected=item.question in corrections)
        words = set(fold(question).split())
        near = tuple(sorted(self.items, key=lambda item: -len(words & set(fold(item.question).split())))[:2])
        lines = ["Xin lỗi, tôi chưa có câu trả lời chắc chắn cho câu hỏi này.", "Có phải bạn muốn hỏi:"]
        text = "\n".join([*lines, *(f"– {item.question}" for item in near), f"Bạn cũng có thể liên hệ: {CONTACT}"])
        return Answer(text, None, 0.31, "stop", is_declined=True, near=near)


def make_run(folder: Path) -> Run:
    """Write what of a run the owner's page reads: the example shop's items."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "items.jsonl").write_text(to_jsonl(read_items(SHOP)), encoding="utf-8")
    (folder / "data" / "wordings.jsonl").write_text("", encoding="utf-8")
    return Run(folder, Recipe(), "none", {}, PHOGPT_4B_CHAT)


def with_sample(app: ASGIApp, home: str) -> ASGIApp:
    """Add the sample of an owner's site, which is no part of the server."""
    sample = HTMLResponse(SAMPLE.format(home))

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await (sample if scope.get("path") == "/sample" else app)(scope, receive, send)

    return answer


@contextmanager
def serving(folder: Path) -> Iterator[SimpleNamespace]:
    """Serve on a free port: the pages as http://localhost:…, the sample of an owner's site as http://127.0.0.1:…."""
    desk = ScriptedDesk(make_run(folder / "run"))
    store = Store.open(folder / "asked.sqlite")
    keys = Keys(store)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        home, elsewhere = f"http://localhost:{port}", f"http://127.0.0.1:{port}"
        settings = Settings(port=port, allowed_origins=(elsewhere,), requests_a_minute=100_000)
        app = with_sample(make_app(settings, desk, store, {"moc-nhien": desk.run}), home)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        try:
            key = keys.make("chủ tiệm", "owner")[0]
            yield SimpleNamespace(home=home, elsewhere=elsewhere, desk=desk, key=key, chat_key=keys.make("web", "chat")[0])
        finally:
            server.should_exit = True
            thread.join(timeout=10)
            store.close()
