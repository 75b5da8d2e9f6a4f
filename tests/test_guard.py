"""Who may ask: by which name, from which site, with which key, how much and how often; most of it over raw connections."""

import json
import logging
import socket

import pytest
from fake_engine import FakeEngine, bots, echo
from hypothesis import given
from hypothesis import strategies as st
from served import asking, serving, until

from hoidap.errors import RecipeError, StoreError
from hoidap.serve.guard import Rate, _role_needed
from hoidap.serve.settings import Settings

CHAT = "/v1/chat/completions"
SITE = "https://shop.example.vn"


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory):
    """A server on loopback without keys, which a site may embed."""
    with serving(tmp_path_factory.mktemp("open"), [bots(FakeEngine())], allowed_origins=(SITE,)) as served:
        yield served


@pytest.fixture(scope="module")
def by_key(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("keys"), [bots(FakeEngine())], needs_key=True) as served:
        yield served


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def get(served, path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", *headers, "Connection: close", "", ""]
    return served.raw("\r\n".join(lines).encode("latin-1"))


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000"])
def test_it_answers_to_its_names(open_to_all, host):
    assert status(get(open_to_all, "/v1/models", f"Host: {host}")) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "localhost.evil.example", "localhost@evil.example", "localhost/v1/models?", "localhost:80/health?",
        "", "localhost, evil.example", "127.0.0.1.nip.io", "0.0.0.1", "[::2]", "[localhost]x", "localhost:port",
        "localhost#", "xn--localhost", "2130706433", "0x7f000001",
    ],
)  # fmt: skip
def test_it_answers_to_no_other_name(open_to_all, by_key, host):
    for served in (open_to_all, by_key):
        for path in ("/v1/models", "/health", "/", "/api/site"):
            assert status(get(served, path, f"Host: {host}")) in (400, 421)


def test_a_host_that_is_missing_or_there_twice_is_refused(open_to_all):
    assert status(get(open_to_all, "/health", "Host: localhost", "Host: evil.example")) in (400, 421)
    assert status(get(open_to_all, "/health")) == 400
    assert status(open_to_all.raw(b"GET /health HTTP/1.0\r\n\r\n")) == 421


@pytest.mark.parametrize(
    "target",
    [
        "http://localhost/v1/models",
        "/v1/models",
        "/v1%2fmodels",
        "/%76%31/models",
        "//v1/models",
        "/health/../v1/models",
        "/V1/models",
    ],
)
def test_no_way_of_writing_an_address_goes_past_the_key(by_key, target):
    assert status(get(by_key, target, "Host: localhost")) in (400, 401, 404)
    assert status(get(by_key, target, "Host: localhost/health?x=")) in (400, 421)


def test_every_route_of_the_api_and_of_the_owner_needs_a_key(by_key):
    paths = by_key.client.get("/openapi.json").json()["paths"]
    assert {path for path in paths if _role_needed(path) is None} == {"/health", "/ready"}
    for path, role in {CHAT: "chat", "/v1/models/x": "chat", "/api/owner/asked": "owner", "/metrics": "owner"}.items():
        assert _role_needed(path) == role
    for path in ("/v1/models", "/v1/none", "/api/owner/asked", "/api/owner/none", "/metrics"):
        response = by_key.client.get(path)
        assert response.status_code == 401, path
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["code"] == "invalid_api_key"


def test_a_key_opens_what_its_role_may(by_key):
    chat, _ = by_key.keys.make("the shop's page", "chat")
    owner, key = by_key.keys.make("the owner", "owner")
    for presented, metrics in ((chat, 403), (owner, 200)):
        headers = {"Authorization": f"Bearer {presented}"}
        assert by_key.client.get("/v1/models", headers=headers).status_code == 200
        assert by_key.client.get("/metrics", headers=headers).status_code == metrics
        assert by_key.client.get("/api/owner/asked", headers=headers).status_code == metrics
    by_key.keys.revoke(key.id)
    assert by_key.client.get("/v1/models", headers={"Authorization": f"Bearer {owner}"}).status_code == 401


def test_a_key_counts_in_one_header_alone(by_key):
    text, _ = by_key.keys.make("one", "chat")
    for name, value in (
        ("X-Api-Key", text), ("Api-Key", text), ("Authorization", text), ("Authorization", f"Basic {text}"),
        ("Cookie", f"key={text}"), ("Authorization", f"Bearer {text[:-1]}"), ("Authorization", f"Bearer {text}x"),
        ("Authorization", "Bearer"),
        ("Authorization", f"Bearer {text} {text}"), ("Authorization", "Bearer " + "a" * 5000),
    ):  # fmt: skip
        assert by_key.client.get("/v1/models", headers={name: value}).status_code == 401, name
    assert by_key.client.get(f"/v1/models?key={text}").status_code == 401
    twice = get(by_key, "/v1/models", "Host: localhost", f"Authorization: Bearer {text}", "Authorization: Bearer x")
    assert status(twice) == 401
    assert status(get(by_key, "/v1/models", "Host: localhost", f"authorization: bearer {text}")) == 200


def test_on_loopback_the_first_key_closes_the_api(tmp_path):
    with serving(tmp_path, [bots(FakeEngine())]) as served:
        assert served.client.get("/v1/models").status_code == 200
        assert served.client.get("/metrics").status_code == 200
        assert served.client.get("/api/owner/asked").status_code == 401
        for name in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):  # a proxy on this machine
            assert served.client.get("/v1/models", headers={name: "127.0.0.1"}).status_code == 401
        served.keys.make("one", "chat")
        assert served.client.get("/v1/models").status_code == 401
        assert served.client.get("/metrics").status_code == 401


def test_where_browsers_reach_it_by_another_name_its_api_needs_a_key(tmp_path):
    with serving(tmp_path, [bots(FakeEngine())], allowed_hosts=("chat.example.vn",)) as served:
        assert served.client.get("/v1/models").status_code == 401
        assert served.client.get("/").status_code == 200
        for host in ("chat.example.vn", "Chat.Example.VN:443"):
            assert status(get(served, "/api/site", f"Host: {host}")) == 200


def test_keys_that_cannot_be_looked_up_open_nothing(tmp_path, monkeypatch):
    def broken(*_):
        raise StoreError("locked")

    with serving(tmp_path, [bots(FakeEngine())]) as served:
        monkeypatch.setattr("hoidap.serve.keys.Keys.exist", broken)
        monkeypatch.setattr("hoidap.serve.keys.Keys.check", broken)
        response = served.client.get("/v1/models")
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert served.client.get("/v1/models", headers={"Authorization": "Bearer x"}).status_code == 503
        assert served.client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example", "https://shop.example.vn.evil", "x", ""]
)
def test_pages_of_other_sites_may_not_ask(open_to_all, origin):
    for method, path in (
        ("POST", CHAT),
        ("GET", "/v1/models"),
        ("OPTIONS", CHAT),
        ("GET", "/health"),
        ("POST", "/api/ask"),
    ):
        headers = {"Origin": origin, "Cookie": "a=b", "Access-Control-Request-Method": "POST"}
        response = open_to_all.client.request(method, path, headers=headers)
        assert response.status_code == 403, path
        assert response.json()["error"]["code"] == "origin_not_allowed"
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_its_own_page_and_listed_sites_may_ask(open_to_all):
    own = open_to_all.client.get("/v1/models", headers={"Origin": open_to_all.url})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers
    listed = open_to_all.client.get("/v1/models", headers={"Origin": SITE})
    assert listed.status_code == 200
    assert listed.headers["access-control-allow-origin"] == SITE
    assert "Origin" in listed.headers["vary"]
    assert "access-control-allow-credentials" not in listed.headers
    asked = {"Origin": SITE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    before = open_to_all.client.request("OPTIONS", CHAT, headers=asked)
    assert (before.status_code, before.headers["access-control-allow-origin"]) == (204, SITE)
    assert "POST" in before.headers["access-control-allow-methods"]
    assert "access-control-allow-origin" not in open_to_all.client.get("/v1/models").headers


def test_what_is_no_page_is_never_shown_as_one(open_to_all):
    for path in ("/v1/models", "/nothing", "/health", "/openapi.json"):
        headers = open_to_all.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["x-request-id"].startswith("req_")
        assert "server" not in headers
    page = open_to_all.client.get("/")
    assert page.headers.get_list("content-security-policy") == [page.headers["content-security-policy"]]
    assert "script-src 'self'" in page.headers["content-security-policy"]


def test_a_large_body_is_refused_before_it_was_read(tmp_path):
    with serving(tmp_path, [bots(FakeEngine())], body_bytes=2000) as served:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for length in ("2001", "99999999999", "9" * 30):
            answer = served.raw(f"{head}Content-Length: {length}\r\n\r\n".encode())  # nothing of it is sent
            assert status(answer) in (400, 413)
        assert status(served.raw(f"{head}Content-Length: 5000\r\nExpect: 100-continue\r\n\r\n".encode())) == 413
        chunk = b"7d0\r\n" + b"a" * 2000 + b"\r\n"
        answer = served.raw(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk + b"1\r\na\r\n")
        assert status(answer) == 413
        for length in ("-1", "abc", "1, 2"):
            assert status(served.raw(f"{head}Content-Length: {length}\r\n\r\n".encode())) == 400
        assert served.chat("a" * 100).status_code == 200


def test_what_takes_too_long_to_come_is_given_up(tmp_path):
    with serving(tmp_path, [bots(FakeEngine())], read_seconds=0.1) as served:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        assert status(served.raw(head.encode() + b'{"model"')) == 408
        assert served.raw(b"GET /health HTTP/1.1\r\nHost: loc") == b""  # headers that never end
        assert served.raw(b"") == b""
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            got = b""
            while not got.endswith(b"}"):
                got += connection.recv(65536)
            assert status(got) == 200
            connection.sendall(b"GET /health HT")  # the second request of a connection
            assert connection.recv(65536) == b""
        until(lambda: not served.server.server_state.connections)


def test_an_answer_that_takes_too_long_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("hoidap.serve.guard._GRACE_SECONDS", 0.0)
    engine = FakeEngine()
    with serving(tmp_path, [bots(engine)], read_seconds=0.1, answer_seconds=0.1) as served:
        engine.gate.clear()
        response = served.chat("kể đi?")
        engine.gate.set()
        assert response.status_code == 503
        until(lambda: served.desk.n_open == 0)
        assert engine.is_empty


def test_headers_that_are_too_many_or_too_long_are_refused(open_to_all):
    assert status(get(open_to_all, "/health", "Host: localhost", *(f"X-{n}: 1" for n in range(100)))) == 431
    assert status(get(open_to_all, "/health", "Host: localhost", "X: " + "a" * 40_000)) in (400, 431)
    assert status(get(open_to_all, "/" + "a" * 40_000, "Host: localhost")) in (400, 431)
    assert status(get(open_to_all, "/health?" + "a" * 40_000, "Host: localhost")) in (400, 431)


def test_who_asks_too_often_is_sent_away_and_told_for_how_long(tmp_path):
    with serving(tmp_path, [bots(FakeEngine())], requests_a_minute=4) as served:
        assert [served.client.get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]
        response = served.chat("kể đi?")
        assert response.status_code == 429
        assert 0 < int(response.headers["retry-after"]) <= 15
        assert response.json()["error"]["type"] == "rate_limit_error"
        assert served.client.get("/health").status_code == 200
        assert served.client.get("/api/site").status_code == 429


def test_a_rate_gives_back_what_time_has_passed():
    now = [0.0]
    rate = Rate(60, clock=lambda: now[0])
    assert [rate.wait("a") for _ in range(30)] == [0.0] * 30
    assert rate.wait("a") == 1.0
    assert rate.wait("b") == 0.0
    now[0] = 1.0
    assert rate.wait("a") == 0.0
    assert rate.wait("a") == 1.0
    now[0] = 1000.0
    assert [rate.wait("a") for _ in range(31)] == [0.0] * 30 + [1.0]


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 5)), max_size=200), st.integers(1, 120))
def test_no_name_gets_more_than_its_rate_and_the_table_is_bounded(asked, a_minute):
    now = [0.0]
    rate, passed = Rate(a_minute, most=8, clock=lambda: now[0]), []
    for name, pause in asked:
        now[0] += pause
        if name == 0:
            passed += [0] if rate.wait("one") == 0 else []
        else:
            rate.wait(f"other {name % 5}")
        assert len(rate._left) <= 8
    assert len(passed) <= max(1, a_minute / 2) + now[0] * a_minute / 60 + 1


def test_the_log_holds_neither_keys_nor_questions_nor_lines_that_a_client_made(by_key, caplog):
    caplog.set_level(logging.DEBUG)
    text, _ = by_key.keys.make("one", "chat")
    headers = {"Authorization": f"Bearer {text}"}
    question = "số điện thoại của tôi là 0901234567"
    for body in (
        asking(question),
        asking(question, n=9),
        asking("lỗi riêng " + question),
        asking("máy không nhận " + question),
    ):
        by_key.client.post(CHAT, json=body, headers=headers)
    by_key.client.get(f"/v1/{question}?key={text}", headers=headers)
    get(by_key, "/%0d%0aERROR%20forged%1b[31m", "Host: localhost", "User-Agent: \x1b[31m")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith(("hoidap", "uvicorn"))]
    assert any("401" in line or "200" in line for line in lines)
    assert not any(
        part in line for line in lines for part in (text, text[-20:], question, "0901234567", "\x1b", "\r", "\n")
    )


def test_an_error_that_nobody_foresaw_is_scrubbed(by_key, monkeypatch, caplog):
    def broken(*_):
        raise ZeroDivisionError("a secret of the file system")

    monkeypatch.setattr("hoidap.serve.completions.turns_of", broken)
    text, _ = by_key.keys.make("one", "chat")
    response = by_key.client.post(CHAT, json=asking("kể đi?"), headers={"Authorization": f"Bearer {text}"})
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "the server failed at this; its log has why"
    until(lambda: "ZeroDivisionError at" in caplog.text)
    assert "secret" not in response.text + caplog.text


def test_bytes_that_are_no_request_end_their_own_connection(open_to_all):
    for noise in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"\x00" * 100,
        "GET /đ HTTP/1.1\r\n\r\n".encode(),
    ):
        answer = open_to_all.raw(noise + b"\r\n\r\n")
        assert not answer or status(answer) in (400, 421)
    assert json.loads(open_to_all.chat("kể đi?").text)["choices"][0]["message"]["content"] == echo("kể đi?")


@pytest.mark.parametrize(
    "origin", ["shop.vn", "https://", "ftp://shop.vn", "https://shop.vn/", "https://*", "https://a b", "*", "null"]
)
def test_an_origin_that_is_none_is_refused_at_the_start(origin):
    with pytest.raises(RecipeError, match="the origin is"):
        Settings(allowed_origins=(origin,))
