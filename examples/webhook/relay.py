"""Takes customers' messages, asks the bot, sends its answers; all in bounded queues and a bounded memory."""  # noqa: INP001

import asyncio
import contextlib
import logging
import zlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import httpx2
from messages import Incoming, Platform, at, deliver, loads

BUSY = "Dạ, trợ lý tự động đang bận. Anh/chị nhắn lại sau ít phút, hoặc chờ nhân viên trả lời giúp em ạ."
UNREADABLE = "Dạ, em là trợ lý tự động, chỉ đọc được tin nhắn chữ. Anh/chị viết câu hỏi bằng chữ giúp em nhé."
TOO_LONG = "Dạ, tin nhắn dài quá, em chưa đọc hết được. Anh/chị viết ngắn lại giúp em nhé."

_MOST_QUESTION = 4000  # characters
_MOST_TURNS = 3  # of a conversation, that the bot is told of
_IDLE_SECONDS = 1800.0  # after which a conversation begins anew
_MOST_CONVERSATIONS = 2000
_MOST_IDS = 20_000  # of messages, by which those that come again are known
_OLD_SECONDS = 900.0  # a message that comes later than this gets no answer
_AHEAD_SECONDS = 300.0  # that a platform's clock may go before ours
_LANES, _LANE_MOST = 8, 50
_MOST_WAITING = 3  # messages of one customer
_ASK_SECONDS = httpx2.Timeout(130.0, connect=5.0)  # hoidap itself gives up after 120
_STOP_SECONDS = 20.0  # for what is queued when this is told to stop
_ROLES = ("user", "assistant")
_log = logging.getLogger("webhook")


@dataclass(frozen=True)
class Bot:
    """A bot of ``hoidap serve``, and the key to ask it."""

    url: str
    key: str
    id: str


@dataclass
class Conversation:
    """The last turns with a customer."""

    at: float
    turns: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=_MOST_TURNS))
    line: str = ""  # the line that stood for an answer last, not to be said twice running


class Relay:
    """Takes messages, asks the bot, sends its answers: those of one customer in turn, those of others beside them."""

    def __init__(
        self, bot: Bot, client: httpx2.AsyncClient, clock: Callable[[], float], pauses: tuple[float, ...] = (1.0, 4.0)
    ) -> None:
        self._bot, self._client, self._clock, self._pauses = bot, client, clock, pauses
        self._lanes: list[asyncio.Queue[tuple[Platform, Incoming]]] = [asyncio.Queue(_LANE_MOST) for _ in range(_LANES)]
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._waiting: Counter[str] = Counter()

    def take(self, platform: Platform, message: Incoming) -> bool:
        """Queue a message; return False if all is full.

        One that is old, came before, or whose sender has too many waiting gets no answer.
        """
        now, sender, identity = self._clock(), f"{platform.name} {message.sender}", f"{platform.name} {message.id}"
        if not now - _OLD_SECONDS <= message.at <= now + _AHEAD_SECONDS or identity in self._ids:
            return True
        if self._waiting[sender] < _MOST_WAITING:
            lane = self._lanes[zlib.crc32(sender.encode()) % _LANES]
            if lane.full():
                return False
            lane.put_nowait((platform, message))
            self._waiting[sender] += 1
        self._ids[identity] = None
        if len(self._ids) > _MOST_IDS:
            self._ids.popitem(last=False)
        return True

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Answer what is queued; at the end, what is still there for a while."""
        tasks = [asyncio.create_task(self._work(lane)) for lane in self._lanes]
        try:
            yield
            await self.idle(_STOP_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def idle(self, seconds: float) -> None:
        """Wait until all is answered, or so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(lane.join() for lane in self._lanes)), seconds)

    async def _work(self, lane: asyncio.Queue[tuple[Platform, Incoming]]) -> None:
        while True:
            platform, message = await lane.get()
            sender = f"{platform.name} {message.sender}"
            try:
                await self._answer(platform, message, self._conversation(sender))
            except Exception as error:  # noqa: BLE001 - one message's fault is no other's; its text may hold what was written
                _log.error("%s: answering failed: %s", platform.name, type(error).__name__)
            finally:
                self._waiting[sender] -= 1
                self._waiting += Counter()  # forgets those at 0
                lane.task_done()

    def _conversation(self, sender: str) -> Conversation:
        now = self._clock()
        kept = self._conversations.pop(sender, None)
        if kept is None or now - kept.at > _IDLE_SECONDS:
            kept = Conversation(now)
        kept.at = now
        self._conversations[sender] = kept
        if len(self._conversations) > _MOST_CONVERSATIONS:
            self._conversations.popitem(last=False)
        return kept

    async def _answer(self, platform: Platform, message: Incoming, conversation: Conversation) -> None:
        question = message.text or ""
        line = UNREADABLE if not question else TOO_LONG if len(question) > _MOST_QUESTION else ""
        answer = "" if line else await self._ask(question, conversation)
        if answer:
            conversation.turns.append((question, answer))
            conversation.line = ""
        else:
            answer = line or BUSY
            if conversation.line == answer:
                return
            conversation.line = answer
        await deliver(platform, self._client, message.sender, answer, self._pauses)

    async def _ask(self, question: str, conversation: Conversation) -> str:
        """Return the bot's answer, "" if there is none."""
        said = [
            {"role": role, "content": text} for turn in conversation.turns for role, text in zip(_ROLES, turn, strict=True)
        ]
        bot = self._bot
        for pause in (*self._pauses, None):
            asked = {"model": bot.id, "messages": [*said, {"role": "user", "content": question}]}
            headers = {"Authorization": f"Bearer {bot.key}"}
            try:
                response = await self._client.post(
                    f"{bot.url}/v1/chat/completions", json=asked, headers=headers, timeout=_ASK_SECONDS
                )
            except httpx2.HTTPError as error:
                _log.warning("hoidap: %s", type(error).__name__)
                if not isinstance(error, httpx2.ConnectError):
                    return ""
            else:
                body = loads(response.content) if response.status_code == 200 else None
                choices = at(body, "choices")
                if isinstance(choices, list) and choices:
                    return str(at(choices[0], "message", "content") or "")
                _log.warning("hoidap: status %d", response.status_code)
                if response.status_code == 400 and said:
                    said = []  # what came before may have made it too long
                    continue
                if response.status_code not in (429, 503):
                    return ""
            if pause is not None:
                await asyncio.sleep(pause)
        return ""
