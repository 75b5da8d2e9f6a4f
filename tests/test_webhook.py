"""The webhook example between platforms and a hoidap that are played here: signatures, repeats, failures, hostile input."""

import asyncio
import hashlib
import hmac
import importlib
import json
import logging
import stat
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs

import httpx2
import pytest
from fake_engine import FakeEngine, bots, echo
from hypothesis import given, settings
from hypothesis import strategies as st
from served import serving

FOLDER = Path(__file__).parent.parent / "examples" / "webhook"
sys.path.insert(0, str(FOLDER))
webhook, relay, messages, zalo = map(importlib.import_module, ("webhook", "relay", "messages", "zalo"))

NOW = 1_790_000_000.0
SECRETS = {
    "HOIDAP_KEY": "hd-0123-key-of-the-bot",
    "ZALO_APP_SECRET": "zalo-app-secret",
    "ZALO_OA_SECRET": "zalo-oa-secret",
    "ZALO_REFRESH_TOKEN": "refresh-0",
    "MESSENGER_PAGE_TOKEN": "page-token",
    "MESSENGER_APP_SECRET": "meta-app-secret",
    "MESSENGER_VERIFY_TOKEN": "my-verify-token",
}
IDS = {"HOIDAP_BOT": "shop", "ZALO_APP_ID": "4312804738889", "MESSENGER_PAGE_ID": "100200300"}


@dataclass
class World:
    """What is outside: it remembers what it was sent, and answers as a test sets it."""

    asked: list = field(default_factory=list)  # the messages of each question to hoidap
    sent: list = field(default_factory=list)  # (platform, to whom, text)
    calls: list = field(default_factory=list)  # requests, as they came
    answer: str = "Dạ, tiệm mở cửa lúc 8 giờ."
    hoidap: list = field(default_factory=list)  # statuses, or errors, of the next questions; 200 after them
    platform: list = field(default_factory=list)  # bodies, statuses or errors that the next messages get
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    n_tokens: int = 0

    async def __call__(self, request):
        self.calls.append(request)
        if request.url.path == "/v1/chat/completions":
            return await self._hoidap(request)
        if request.url.host == "oauth.zaloapp.com":
            return self._token(request)
        planned = self.platform.pop(0) if self.platform else None
        if isinstance(planned, Exception):
            raise planned
        if isinstance(planned, int):
            return httpx2.Response(planned)
        if request.url.host == "openapi.zalo.me":
            assert request.headers["access_token"] == f"access-{self.n_tokens}"
            body = json.loads(request.content)
            found = ("zalo", body["recipient"]["user_id"], body["message"]["text"])
        else:
            form = {name: values[0] for name, values in parse_qs(request.content.decode()).items()}
            found = ("messenger", json.loads(form["recipient"])["id"], json.loads(form["message"])["text"])
        if planned is None:
            self.sent.append(found)
        return httpx2.Response(200, json=planned or {"error": 0, "message_id": "m"})

    async def _hoidap(self, request):
        assert request.headers["authorization"] == f"Bearer {SECRETS['HOIDAP_KEY']}"
        await self.gate.wait()
        body = json.loads(request.content)
        assert body["model"] == "shop"
        self.asked.append(body["messages"])
        planned = self.hoidap.pop(0) if self.hoidap else 200
        if isinstance(planned, Exception):
            raise planned
        choices = [{"message": {"role": "assistant", "content": self.answer}}]
        return httpx2.Response(planned, json={"choices": choices} if planned == 200 else {"error": {}})

    def _token(self, request):
        form = parse_qs(request.content.decode())
        assert request.headers["secret_key"] == SECRETS["ZALO_APP_SECRET"]
        if form["refresh_token"] != [f"refresh-{self.n_tokens}"]:  # each is good once
            return httpx2.Response(200, json={"error": -14014, "error_name": "Invalid refresh token."})
        self.n_tokens += 1
        pair = {"access_token": f"access-{self.n_tokens}", "refresh_token": f"refresh-{self.n_tokens}"}
        return httpx2.Response(200, json={**pair, "expires_in": "90000"})

    @property
    def texts(self):
        return [text for _, _, text in self.sent]


class Site:
    """The webhook, asked as the platforms ask it."""

    def __init__(self, app, client, world):
        self.app, self.client, self.world = app, client, world

    async def post(self, path, body, headers):
        return (await self.client.post(path, content=body, headers=headers)).status_code

    async def zalo(self, **more):
        body = zalo_event(**more)
        return await self.post("/zalo", body, zalo_signature(body))

    async def messenger(self, *parts):
        body = messenger_event(*parts or (part(),))
        return await self.post("/messenger", body, messenger_signature(body))

    async def done(self):
        self.world.gate.set()
        await self.app.state.relay.idle(20)


def zalo_event(text="Mấy giờ mở cửa?", identity="m1", sender="77001", name="user_send_text", at=NOW, **more):
    message = {"msg_id": identity} | ({} if text is None else {"text": text})
    event = {"app_id": IDS["ZALO_APP_ID"], "event_name": name, "timestamp": str(int(at * 1000)), "message": message}
    return json.dumps({**event, "sender": {"id": sender}, "recipient": {"id": "5500"}, **more}, ensure_ascii=False).encode()


def zalo_signature(body, secret=SECRETS["ZALO_OA_SECRET"], stamp=None):
    stamp_signed = stamp or json.loads(body)["timestamp"]
    mac = hashlib.sha256(IDS["ZALO_APP_ID"].encode() + body + stamp_signed.encode() + secret.encode()).hexdigest()
    return {"X-ZEvent-Signature": f"mac={mac}"} | ({"X-ZEvent-Timestamp": stamp} if stamp else {})


def part(text="Mấy giờ mở cửa?", identity="m1", sender="88001", at=NOW, page=IDS["MESSENGER_PAGE_ID"], **more):
    message = {"mid": identity, **({} if text is None else {"text": text}), **more}
    return {"sender": {"id": sender}, "recipient": {"id": page}, "timestamp": int(at * 1000), "message": message}


def messenger_event(*parts):
    entries = [{"id": IDS["MESSENGER_PAGE_ID"], "time": 1, "messaging": [one]} for one in parts]
    return json.dumps({"object": "page", "entry": entries}).encode()


def messenger_signature(body, secret=SECRETS["MESSENGER_APP_SECRET"]):
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


def environment(folder):
    return {**SECRETS, **IDS, "ZALO_TOKEN_FILE": str(folder / "zalo.json"), "HOIDAP_URL": "http://hoidap.test"}


@asynccontextmanager
async def running(folder, world=None, clock=lambda: NOW, **options):
    world = world or World()
    outside = httpx2.AsyncClient(transport=httpx2.MockTransport(world))
    app = webhook.make_app(webhook.read_settings(environment(folder)), outside, clock, pauses=(0.0, 0.0), **options)
    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://webhook.test") as client,
    ):
        site = Site(app, client, world)
        yield site


def played(folder, play, world=None, **options):
    """Play a scene and return the world after it."""

    async def scene():
        async with running(folder, world, **options) as site:
            await play(site)
            await site.done()
            return site.world

    return asyncio.run(scene())


@pytest.mark.parametrize(("platform", "sender"), [("zalo", "77001"), ("messenger", "88001")])
def test_a_customer_s_question_gets_the_bot_s_answer(tmp_path, platform, sender):
    async def play(site):
        assert await getattr(site, platform)() == 200

    world = played(tmp_path, play)
    assert world.asked == [[{"role": "user", "content": "Mấy giờ mở cửa?"}]]
    assert world.sent == [(platform, sender, world.answer)]


def test_the_real_server_takes_what_is_asked_of_it(tmp_path):
    async def scene(served, key):
        world = World()
        outside = httpx2.AsyncClient(
            mounts={"all://127.0.0.1": httpx2.AsyncHTTPTransport(), "all://": httpx2.MockTransport(world)}, trust_env=False
        )
        settings = webhook.read_settings({**environment(tmp_path), "HOIDAP_URL": served.url, "HOIDAP_KEY": key})
        site_app = webhook.make_app(settings, outside, lambda: NOW, pauses=(0.0, 0.0))
        transport = httpx2.ASGITransport(app=site_app)
        async with (
            site_app.router.lifespan_context(site_app),
            httpx2.AsyncClient(transport=transport, base_url="http://webhook.test") as client,
        ):
            site = Site(site_app, client, world)
            for number, text in enumerate(["Mấy giờ mở cửa?", "Còn Chủ nhật?"]):
                assert await site.zalo(text=text, identity=f"m{number}") == 200
                await site.done()
        return world

    with serving(tmp_path, [bots(FakeEngine())], needs_key=True) as served:
        key, _ = served.keys.make("webhook", "chat")
        assert asyncio.run(scene(served, key)).texts == [echo("Mấy giờ mở cửa?"), echo("Còn Chủ nhật?")]


def test_what_is_sent_is_what_the_platforms_document(tmp_path):
    async def play(site):
        await site.zalo()
        await site.messenger()

    calls = {call.url.host: call for call in played(tmp_path, play).calls}
    oa = calls["openapi.zalo.me"]
    assert (str(oa.url), oa.headers["access_token"]) == ("https://openapi.zalo.me/v3.0/oa/message/cs", "access-1")
    page = calls["graph.facebook.com"]
    assert str(page.url) == "https://graph.facebook.com/v25.0/100200300/messages"
    form = parse_qs(page.content.decode())
    proof = hmac.new(b"meta-app-secret", b"page-token", hashlib.sha256).hexdigest()
    assert (form["messaging_type"], form["access_token"], form["appsecret_proof"]) == (
        ["RESPONSE"],
        ["page-token"],
        [proof],
    )


WRONG = {
    "missing": lambda _body, _right: {},
    "another key's": lambda body, right: (
        zalo_signature(body, "x") if "X-ZEvent-Signature" in right else messenger_signature(body, "x")
    ),
    "of another body": lambda body, right: (
        zalo_signature(body.replace(b"8", b"9"))
        if "X-ZEvent-Signature" in right
        else messenger_signature(body.replace(b"8", b"9"))
    ),
    "empty": lambda _body, right: dict.fromkeys(right, ""),
    "no hex": lambda _body, right: dict.fromkeys(right, "mac=đây là chữ ký".encode()),
    "cut short": lambda _body, right: {name: value[:-1] for name, value in right.items()},
    "in the other header": lambda _body, right: {"X-Signature": next(iter(right.values()))},
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("path", ["/zalo", "/messenger"])
def test_what_the_platform_did_not_sign_is_refused(tmp_path, path, kind):
    body = zalo_event() if path == "/zalo" else messenger_event(part())
    right = zalo_signature(body) if path == "/zalo" else messenger_signature(body)

    async def play(site):
        assert await site.post(path, body, WRONG[kind](body, right)) == 403
        [(name, value)] = right.items()
        assert await site.post(path, body, [(name, value), (name, value)]) == 403

    assert not played(tmp_path, play).calls


def test_zalo_s_timestamp_may_be_that_of_the_header_but_no_other(tmp_path):
    body = zalo_event()

    async def play(site):
        signed = zalo_signature(body, stamp=str(int(NOW * 1000) + 250))
        assert await site.post("/zalo", body, {**signed, "X-ZEvent-Timestamp": "1790000000999"}) == 403
        assert await site.post("/zalo", body, {**signed, "X-ZEvent-Timestamp": "x"}) == 403
        assert await site.post("/zalo", body, signed) == 200

    assert len(played(tmp_path, play).sent) == 1


def test_zalo_s_trial_of_an_address_passes_and_does_nothing(tmp_path):
    async def play(site):
        assert await site.post("/zalo", b"{}", {}) == 200
        assert await site.post("/messenger", b"{}", {}) == 403

    assert not played(tmp_path, play).calls


def test_meta_s_verification_returns_its_challenge_to_who_knows_the_token(tmp_path):
    good = {"hub.mode": "subscribe", "hub.verify_token": "my-verify-token", "hub.challenge": "1158201444"}
    wrong = [
        {**good, "hub.verify_token": "my-verify-toke"},
        {**good, "hub.verify_token": "chữ"},
        {**good, "hub.mode": "unsubscribe"},
        {**good, "hub.challenge": "<script>alert(1)</script>"},
        {name: value for name, value in good.items() if name != "hub.verify_token"},
        {},
    ]

    async def play(site):
        answer = await site.client.get("/messenger", params=good)
        assert (answer.status_code, answer.text) == (200, "1158201444")
        assert answer.headers["content-type"].startswith("text/plain")
        assert [(await site.client.get("/messenger", params=query)).status_code for query in wrong] == [403] * len(wrong)

    played(tmp_path, play)


def test_echoes_receipts_and_other_pages_get_no_answer(tmp_path):
    read = {"sender": {"id": "1"}, "recipient": {"id": IDS["MESSENGER_PAGE_ID"]}, "timestamp": int(NOW * 1000), "read": {}}

    async def play(site):
        assert await site.messenger(part(is_echo=True), part(identity="m2", is_deleted=True), read, part(page="9")) == 200
        for name in ("oa_send_text", "user_seen_message", "follow", "anonymous_send_text"):
            assert await site.zalo(name=name) == 200
        assert await site.zalo(app_id="1") == 200

    assert not played(tmp_path, play).calls


def test_what_comes_again_is_answered_once(tmp_path):
    async def play(site):
        for _ in range(3):
            await site.zalo()
            await site.messenger(part(), part())
        await site.done()
        await site.zalo()

    assert sorted(platform for platform, _, _ in played(tmp_path, play).sent) == ["messenger", "zalo"]


@pytest.mark.parametrize(("age", "is_answered"), [(0, True), (800, True), (1000, False), (43_200, False), (-3600, False)])
def test_old_events_and_those_of_the_future_get_no_answer(tmp_path, age, is_answered):
    async def play(site):
        assert await site.zalo(at=NOW - age) == 200
        assert await site.messenger(part(at=NOW - age)) == 200

    assert len(played(tmp_path, play).sent) == 2 * is_answered


def test_stickers_and_pictures_get_a_polite_line_and_not_five(tmp_path):
    async def play(site):
        for number, name in enumerate(["user_send_sticker", "user_send_image", "user_send_image"]):
            await site.zalo(text=None, name=name, identity=f"s{number}")
        await site.messenger(part(text=None, attachments=[{"type": "image"}]), part(text="  ", identity="m2"))
        await site.messenger(part(text="x" * 4001, identity="m3", sender="88002"))

    world = played(tmp_path, play)
    assert not world.asked
    assert sorted(world.texts) == sorted([relay.UNREADABLE, relay.UNREADABLE, relay.TOO_LONG])


def test_a_conversation_is_told_of_its_last_turns_and_nobody_else_s(tmp_path):
    async def play(site):
        site.world.gate.set()
        for number in range(5):
            await site.zalo(text=f"câu {number}?", identity=f"m{number}")
            await site.done()
        await site.zalo(text="của người khác?", identity="m9", sender="77002")

    world = played(tmp_path, play)
    users = [[one["content"] for one in asked if one["role"] == "user"] for asked in world.asked]
    assert users[4] == ["câu 1?", "câu 2?", "câu 3?", "câu 4?"]
    assert users[5] == ["của người khác?"]
    assert all([one["role"] for one in asked] == (["user", "assistant"] * 4)[: len(asked)] for asked in world.asked)


def test_after_half_an_hour_a_conversation_begins_anew(tmp_path):
    time = [NOW]

    async def play(site):
        await site.zalo()
        await site.done()
        time[0] += 1801
        await site.zalo(identity="m2", at=time[0])

    assert [len(asked) for asked in played(tmp_path, play, clock=lambda: time[0]).asked] == [1, 1]


def test_where_history_is_too_long_the_question_is_asked_alone(tmp_path):
    async def play(site):
        await site.zalo()
        await site.done()
        site.world.hoidap = [400]
        await site.zalo(text="Còn Chủ nhật?", identity="m2")

    world = played(tmp_path, play)
    assert [len(asked) for asked in world.asked] == [1, 3, 1]
    assert world.texts == [world.answer] * 2


@pytest.mark.parametrize("how", [503, 429, httpx2.ConnectError("x")])
def test_a_hoidap_that_is_busy_is_asked_again(tmp_path, how):
    async def play(site):
        await site.zalo()

    world = played(tmp_path, play, World(hoidap=[how, how]))
    assert (len(world.asked), world.texts) == (3, [world.answer])


@pytest.mark.parametrize("how", [500, 401, 404, 503, httpx2.ConnectError("x"), httpx2.ReadTimeout("x")])
def test_a_hoidap_that_is_down_gets_a_customer_one_polite_line(tmp_path, how):
    async def play(site):
        for number in range(3):
            await site.zalo(identity=f"m{number}")
            await site.done()
        site.world.hoidap = []
        await site.zalo(identity="m9")
        await site.done()
        site.world.hoidap = [how] * 3
        await site.zalo(identity="m10")

    world = played(tmp_path, play, World(hoidap=[how] * 20))
    assert world.texts == [relay.BUSY, world.answer, relay.BUSY]
    assert all(len(asked) in (1, 3) for asked in world.asked)  # the line is no part of the conversation


def test_a_slow_hoidap_does_not_delay_the_platform(tmp_path):
    async def play(site):
        assert await site.zalo() == 200
        assert await site.messenger() == 200
        assert not site.world.sent
        assert not site.world.gate.is_set()

    assert len(played(tmp_path, play).sent) == 2


def test_a_customer_who_floods_takes_no_place_of_others(tmp_path):
    async def play(site):
        for number in range(100):
            assert await site.zalo(identity=f"m{number}") == 200
        assert await site.zalo(identity="other", sender="77009") == 200

    world = played(tmp_path, play)
    assert [to for _, to, _ in world.sent].count("77001") <= 4  # three that wait, one at work
    assert ("zalo", "77009", world.answer) in world.sent


def test_more_than_the_queues_hold_is_sent_away_and_taken_later(tmp_path):
    async def play(site):
        statuses = [await site.zalo(identity=f"m{n}", sender=f"{n}") for n in range(700)]
        assert set(statuses) == {200, 503}
        await site.done()
        late = statuses.index(503)
        assert await site.zalo(identity=f"m{late}", sender=f"{late}") == 200
        await site.done()
        assert [to for _, to, _ in site.world.sent].count(f"{late}") == 1

    played(tmp_path, play)


def test_what_is_remembered_is_bounded(tmp_path, monkeypatch):
    for name in ("_MOST_IDS", "_MOST_CONVERSATIONS"):
        monkeypatch.setattr(relay, name, 5)

    async def play(site):
        for number in range(20):
            await site.zalo(identity=f"m{number}", sender=f"{number}")
            await site.done()
        inside = site.app.state.relay
        assert (len(inside._ids), len(inside._conversations), len(inside._waiting)) == (5, 5, 0)

    played(tmp_path, play)


def test_a_long_answer_comes_in_parts_in_order(tmp_path):
    sentences = [f"Chi nhánh số {number} mở cửa từ 8 giờ sáng đến 9 giờ tối, kể cả Chủ nhật." for number in range(80)]

    async def play(site):
        site.world.answer = " ".join(sentences)
        await site.messenger()

    world = played(tmp_path, play)
    assert len(world.texts) == 3
    assert all(len(text) <= 2000 and text.endswith("Chủ nhật.") for text in world.texts)
    assert " ".join(world.texts) == " ".join(sentences)


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("aữ đ.\n😀🏳\u0301\ud800"), max_size=300), st.integers(4, 40), st.integers(1, 50))
def test_parts_are_short_enough_and_lose_only_spaces(text, most, parts):
    found = messages.split(text, most, parts)
    whole = "".join(text.encode("utf-8", "replace").decode().split())
    assert len(found) <= parts
    assert all(0 < len(one.encode("utf-16-le")) <= 2 * most for one in found)
    told = "".join("".join(found).split())
    assert told == whole or (len(found) == parts and told.endswith("…") and whole.startswith(told[:-1]))


@pytest.mark.parametrize("busy", [{"error": -32}, 503, 429, httpx2.ConnectError("x")])
def test_sending_is_tried_again_and_not_for_ever(tmp_path, busy):
    async def play(site):
        await site.zalo()
        await site.done()
        site.world.platform = [busy] * 50
        await site.zalo(identity="m2")

    world = played(tmp_path, play, World(platform=[busy, busy]))
    assert world.texts == [world.answer]
    assert len(world.platform) == 47


@pytest.mark.parametrize("refused", [{"error": -230}, 404, httpx2.ReadTimeout("x")])
def test_what_is_refused_or_may_have_arrived_is_not_sent_again(tmp_path, refused):
    async def play(site):
        await site.zalo()
        await site.done()
        await site.zalo(identity="m2")

    world = played(tmp_path, play, World(platform=[refused]))
    assert world.texts == [world.answer]


def test_meta_s_passing_errors_are_tried_again_and_others_are_not(tmp_path):
    async def play(site):
        await site.messenger()
        await site.done()
        site.world.platform = [{"error": {"code": 10, "message": "outside of the window"}}]
        await site.messenger(part(identity="m2"))

    world = played(tmp_path, play, World(platform=[{"error": {"code": 613}}]))
    assert world.texts == [world.answer]


def test_zalo_s_token_is_renewed_kept_and_used_by_the_next_process(tmp_path):
    async def play(site):
        await site.zalo()
        await site.done()
        site.world.platform = [{"error": -216, "message": "Access token is invalid"}]
        await site.zalo(identity="m2")

    world = played(tmp_path, play)
    assert (world.n_tokens, len(world.sent)) == (2, 2)
    kept = tmp_path / "zalo.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    played(tmp_path, lambda site: site.zalo(identity="m3"), world)
    assert (world.n_tokens, len(world.sent)) == (2, 3)
    assert world.calls[-1].headers["access_token"].endswith("-2")


def test_a_new_authorisation_counts_more_than_what_was_kept(tmp_path):
    kept = {"began": "another", "access": "old", "refresh": "old", "ends_at": NOW * 2}
    for text in (json.dumps(kept), "{", "[]", '{"began": 1}'):
        (tmp_path / "zalo.json").write_text(text, encoding="utf-8")
        assert len(played(tmp_path, lambda site: site.zalo()).sent) == 1


def test_a_refresh_token_whose_time_is_over_is_told_in_the_log(tmp_path, caplog):
    world = World(n_tokens=3)
    played(tmp_path, lambda site: site.zalo(), world)
    assert not world.sent
    assert "authorise the app anew" in caplog.text


HOSTILE = [
    b"", b"null", b"[]", b"{", b'"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5000, b"NaN",
    b'{"object":"page","entry":{}}', b'{"object":"page","entry":[1,null,{"messaging":{"a":1}},{"messaging":[[],3]}]}',
    b'{"event_name":["user_send_text"],"app_id":"4312804738889"}', b'{"event_name":"user_send_text","timestamp":',
]  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:24]))
def test_hostile_json_does_no_harm_signed_or_not(tmp_path, body):
    async def play(site):
        assert await site.post("/zalo", body, {"X-ZEvent-Signature": "mac=00"}) == 403
        assert await site.post("/messenger", body, {}) == 403
        assert await site.post("/messenger", body, messenger_signature(body)) == 200
        stamp = str(int(NOW * 1000))
        assert await site.post("/zalo", body, zalo_signature(body, stamp=stamp)) == 200

    assert not played(tmp_path, play).calls


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "text", "msg_id", "mid"]), inner),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(["sender", "recipient", "timestamp", "message", "app_id"], anything))
)
def test_events_of_any_shape_are_read_or_left_out(event):
    oa = zalo.Zalo(IDS["ZALO_APP_ID"], "secret", None)
    page = importlib.import_module("messenger").Messenger(IDS["MESSENGER_PAGE_ID"], "token", "secret", "verify")
    found = oa.messages({"event_name": "user_send_text", **event})
    found += page.messages({"object": "page", "entry": [{"messaging": [event]}]})
    assert all(isinstance(one.sender, str) and isinstance(one.at, float) for one in found)


def test_halves_of_characters_do_not_stop_an_answer(tmp_path):
    async def play(site):
        body = zalo_event().replace("Mấy giờ".encode(), b"\\ud83d M\\u1ea5y gi\\u1edd")
        assert await site.post("/zalo", body, zalo_signature(body)) == 200

    world = played(tmp_path, play)
    assert world.asked[0][0]["content"] == "? Mấy giờ mở cửa?"
    assert world.sent


def test_huge_bodies_are_not_read_to_their_end(tmp_path):
    given_out = []

    async def endless():
        for _ in range(10_000):
            given_out.append(1)
            yield b"x" * 65_536

    async def play(site):
        assert await site.post("/zalo", b"x" * (1024 * 1024 + 1), {}) == 413
        body = messenger_event(part(text="x" * 2000)) + b" " * 900_000
        assert await site.post("/messenger", body, messenger_signature(body)) == 200

    async def stream():
        sent = []
        app = webhook.make_app(webhook.read_settings(environment(tmp_path)))
        chunks = endless()

        async def receive():
            return {"type": "http.request", "body": await anext(chunks), "more_body": True}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/zalo", "headers": [], "query_string": b"", "root_path": ""}
        await app(scope, receive, send)
        return sent[0]["status"]

    played(tmp_path, play)
    assert asyncio.run(stream()) == 413
    assert len(given_out) == 17


def test_a_body_that_does_not_come_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(webhook, "_BODY_SECONDS", 0.01)

    async def never():
        yield b"{"
        await asyncio.sleep(60)

    async def play(site):
        assert await site.post("/zalo", never(), {}) == 413

    played(tmp_path, play)


def test_neither_texts_nor_secrets_nor_senders_come_into_the_log(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, logger="webhook")
    trouble = [{"error": -230, "message": "Mấy giờ"}, 503, {"error": {"code": 10}}, httpx2.ReadTimeout("Mấy giờ")]

    async def play(site):
        for number in range(6):
            await site.zalo(identity=f"m{number}")
            await site.messenger(part(identity=f"m{number}"))
            await site.done()
        await site.post("/zalo", zalo_event(), {"X-ZEvent-Signature": "mac=page-token"})

    world = played(tmp_path, play, World(platform=trouble, hoidap=[500, httpx2.ReadError("Mấy giờ"), 400]))
    lines = [record.getMessage() for record in caplog.records if record.name == "webhook"]
    assert len(lines) > 5
    words = [*SECRETS.values(), "Mấy giờ", world.answer, "77001", "88001", "access-1", "refresh-1"]
    assert not [word for word in words if word in "\n".join(lines)]


def test_one_message_s_fault_is_no_other_s(tmp_path):
    async def play(site):
        await site.zalo()
        await site.done()
        await site.zalo(identity="m2")

    world = played(tmp_path, play, World(platform=[RuntimeError("a fault of ours")]))
    assert world.texts == [world.answer]


def test_every_missing_variable_is_named_at_the_start(tmp_path, monkeypatch):
    whole = environment(tmp_path)
    assert webhook.read_settings(whole).zalo is not None
    for name in set(whole) - {"HOIDAP_URL"}:
        with pytest.raises(ValueError, match=f"missing in the environment: {name}$"):
            webhook.read_settings({**whole, name: " "})
    with pytest.raises(ValueError, match="HOIDAP_KEY, HOIDAP_BOT, ZALO_APP_SECRET, ZALO_OA_SECRET, ZALO_REFRESH_TOKEN"):
        webhook.read_settings({"ZALO_APP_ID": "1"})
    with pytest.raises(ValueError, match=r"those of a platform: ZALO_APP_ID.*; or MESSENGER_PAGE_ID"):
        webhook.read_settings({"HOIDAP_KEY": "k", "HOIDAP_BOT": "b"})
    with pytest.raises(ValueError, match="its folder has to be there"):
        webhook.read_settings({**whole, "ZALO_TOKEN_FILE": str(tmp_path / "none" / "zalo.json")})
    for name in whole:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match="missing in the environment: HOIDAP_KEY"):
        webhook.main()


def test_one_platform_alone_can_be_set_up(tmp_path):
    whole = environment(tmp_path)
    settings = webhook.read_settings({name: value for name, value in whole.items() if not name.startswith("ZALO")})
    assert settings.zalo is None

    async def play():
        transport = httpx2.ASGITransport(app=webhook.make_app(settings))
        async with httpx2.AsyncClient(transport=transport, base_url="http://webhook.test") as client:
            return [(await client.post(path, content=b"{}")).status_code for path in ("/zalo", "/messenger")]

    assert asyncio.run(play()) == [404, 403]


def test_it_listens_on_loopback_and_keeps_no_access_log(tmp_path, monkeypatch):
    begun = []
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(webhook.uvicorn, "run", lambda _app, **options: begun.append(options))
    webhook.main()
    assert begun[0]["access_log"] is False
    assert begun[0].get("host", "127.0.0.1") == "127.0.0.1"


def test_what_is_queued_is_answered_before_it_stops(tmp_path):
    async def scene():
        async with running(tmp_path) as site:
            await site.zalo()
            site.world.gate.set()
        return site.world

    assert len(asyncio.run(scene()).sent) == 1


def test_the_files_are_short_and_the_readme_names_every_variable(tmp_path):
    for file in FOLDER.glob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) < 250, file.name
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert not [name for name in environment(tmp_path) if name not in readme]
    assert f":{webhook.PORT}" in readme
