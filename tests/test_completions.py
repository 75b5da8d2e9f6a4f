"""/v1 over a real connection: OpenAI's shapes, what is refused and how, streams, and who hangs up."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_engine import TOKENS, FakeEngine, bots, echo
from served import asking, serving, until
from tiny_run import ITEMS

from hoidap.bot import Bot
from hoidap.ground.confidence import Confidence
from hoidap.ground.grounds import SIGNALS, Grounds
from hoidap.serve import bench

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SURE = Confidence(SIGNALS, (10.0, 8.0, 0.5, 0.5), -5.0, 0.5)


@pytest.fixture(scope="module")
def engine():
    return FakeEngine(rows=4)


@pytest.fixture(scope="module")
def shop(engine, tmp_path_factory):
    said = {item.question: item.answer for item in ITEMS}
    grounds = Grounds.build(ITEMS, [[] for _ in ITEMS]).with_confidence(SURE)
    checking = FakeEngine(answer=lambda question: said.get(question, "Em chưa rõ ạ."))

    def checked():
        return {"checked": Bot(checking, TOKENS, ITEMS, grounds=grounds, mode="checked", contact="Zalo 0901")}

    with serving(tmp_path_factory.mktemp("served"), [bots(engine), checked]) as served:
        yield served


def error_of(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_a_question_is_answered_in_openai_s_shape(shop):
    response = shop.chat("mấy giờ mở cửa?")
    found = response.json()
    assert response.status_code == 200
    assert set(found) == {"id", "object", "created", "model", "choices", "usage"}
    assert (found["object"], found["model"]) == ("chat.completion", "shop")
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": echo("mấy giờ mở cửa?"), "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    usage = found["usage"]
    assert usage["completion_tokens"] == len(echo("mấy giờ mở cửa?").split(" "))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert response.headers["x-request-id"] != shop.chat("mấy giờ mở cửa?").headers["x-request-id"]


def test_a_checked_answer_tells_where_it_comes_from(shop):
    body = asking("mấy giờ mở cửa vậy", model="checked")
    (choice,) = shop.post(CHAT, body).json()["choices"]
    assert choice["message"]["content"] == ITEMS[0].answer
    assert choice["hoidap"]["source"] == ITEMS[0].question
    assert choice["hoidap"]["confidence"] > 0.5
    assert not choice["hoidap"]["declined"]
    (choice,) = shop.post(CHAT, asking("Ai vô địch World Cup 2018?", model="checked")).json()["choices"]
    assert choice["hoidap"]["declined"]
    assert choice["hoidap"]["source"] is None
    assert "Zalo 0901" in choice["message"]["content"]


def test_a_stream_has_one_id_a_role_first_an_end_and_done(shop):
    *chunks, done = shop.events(CHAT, asking("kể đi?"))
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"]["content"] or "" for chunk in chunks) == echo("kể đi?")
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert chunks[-1]["choices"][0]["delta"]["content"] is None
    assert all(chunk["usage"] is None for chunk in chunks)


def test_a_stream_tells_what_it_cost_if_asked(shop):
    *chunks, last, _ = shop.events(CHAT, asking("kể đi?", stream_options={"include_usage": True}))
    assert last["choices"] == []
    assert last["usage"] == shop.chat("kể đi?").json()["usage"]
    assert all(chunk["usage"] is None for chunk in chunks)


def test_several_choices_come_each_with_its_number(shop):
    found = shop.chat("kể đi?", n=3).json()
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in found["choices"]} == {echo("kể đi?")}
    *chunks, _ = shop.events(CHAT, asking("kể đi?", n=2))
    for number in (0, 1):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == number]
        assert "".join(choice["delta"]["content"] or "" for choice in own) == echo("kể đi?")


def test_a_conversation_reaches_the_model_in_its_order(shop, engine):
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "một "}, {"type": "text", "text": "hai"}]},
        {"role": "assistant", "content": "ba", "refusal": None, "annotations": [], "tool_calls": None},
        {"role": "user", "content": "bốn"},
    ]
    submitted = []
    submit = engine.submit
    engine.submit = lambda request: submitted.append(TOKENS.decode(request.prompt)) or submit(request)
    try:
        assert shop.post(CHAT, {"model": "shop", "messages": messages}).status_code == 200
    finally:
        engine.submit = submit
    assert submitted == ["### Câu hỏi: một hai\n### Trả lời: ba\n### Câu hỏi: bốn\n### Trả lời:"]


def test_completions_go_on_with_a_prompt_as_it_stands(shop):
    found = shop.post(TEXT, {"model": "shop", "prompt": ["Ngày xưa", "Mai sau"], "max_tokens": 50}).json()
    assert [choice["text"] for choice in found["choices"]] == [echo("Ngày xưa"), echo("Mai sau")]
    *chunks, done = shop.events(TEXT, {"model": "shop", "prompt": "Ngày xưa", "max_tokens": 50})
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == echo("Ngày xưa")
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_lengths_and_stop_texts_are_kept_to(shop):
    (choice,) = shop.chat("kể đi?", max_tokens=3).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == " ".join(echo("kể đi?").split(" ")[:3])
    assert shop.chat("kể đi?", max_completion_tokens=2).json()["usage"]["completion_tokens"] == 2
    assert shop.chat("kể đi?", stop="đây").json()["choices"][0]["message"]["content"] == "Bạn hỏi kể đi? và"
    assert shop.chat("kể đi?", stop=["xyz", "đi"]).json()["choices"][0]["message"]["content"] == "Bạn hỏi kể"


def test_the_models_are_the_bots(shop):
    found = shop.client.get("/v1/models").json()
    assert found["object"] == "list"
    assert [model["id"] for model in found["data"]] == ["shop", "checked"]
    assert shop.client.get("/v1/models/shop").json() == found["data"][0]
    error = error_of(shop.client.get("/v1/models/none"), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


NOTHING = object()
USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("changed", "param", "code"),
    [
        ({"messages": NOTHING}, "messages", "missing_required_parameter"),
        ({"model": NOTHING}, "model", "missing_required_parameter"),
        ({"messages": None}, "messages", "invalid_value"),
        ({"messages": "string"}, "messages", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [123]}, "messages[0]", "invalid_value"),
        ({"messages": [{}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": 123, "content": "a"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{**USER, "hidden": 1}]}, "messages[0].hidden", "unknown_parameter"),
        ({"messages": [{"role": "system", "content": "a"}, USER]}, "messages[0].role", "unsupported_value"),
        ({"messages": [{"role": "developer", "content": "a"}, USER]}, "messages[0].role", "unsupported_value"),
        ({"messages": [USER, USER]}, "messages[1].role", "invalid_value"),
        ({"messages": [USER, {"role": "assistant", "content": "b"}]}, "messages[1].role", "invalid_value"),
        ({"messages": [USER, {"role": "assistant", "content": "b"}] * 200}, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": " \n"}]}, None, "invalid_value"),
        ({"messages": [{"role": "user", "content": "a" * 20_000}]}, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "chữ " * 2000}]}, None, "context_length_exceeded"),
        ({"tools": []}, "tools", "unsupported_parameter"),
        ({"functions": [{}]}, "functions", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format.type", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"top_logprobs": 2}, "top_logprobs", "unsupported_parameter"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
        ({"logit_bias": {"1": 2}}, "logit_bias", "unsupported_parameter"),
        ({"chat_template": "{{ 1 }}"}, "chat_template", "unknown_parameter"),
        ({"n": 5}, "n", "invalid_value"),
        ({"n": 10**30}, "n", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_value"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"max_tokens": True}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_value"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"temperature": float("nan")}, "temperature", "invalid_value"),
        ({"temperature": float("inf")}, "temperature", "invalid_value"),
        ({"temperature": 1e308}, "temperature", "invalid_value"),
        ({"temperature": "1"}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
        ({"model": "none"}, "model", "model_not_found"),
        ({"model": ""}, "model", "invalid_value"),
        ({"model": "../../etc/passwd"}, "model", "model_not_found"),
    ],
)
def test_what_is_wrong_is_refused_by_name(shop, changed, param, code):
    body = {name: value for name, value in (asking("kể đi?") | changed).items() if value is not NOTHING}
    for streams in (False, True):
        content = json.dumps(body | ({"stream": True} if streams and "stream" not in changed else {}))
        response = shop.client.post(CHAT, content=content, headers={"Content-Type": "application/json"})
        error = error_of(response, 404 if code == "model_not_found" else 400)
        assert (error["param"], error["code"]) == (param, code), error
        assert error["type"] == "invalid_request_error"
        assert error["message"]


def test_an_unsupported_parameter_that_changes_nothing_is_taken(shop):
    harmless = {
        "tools": None, "logprobs": False, "top_logprobs": 0, "logit_bias": {}, "presence_penalty": 0, "user": "u1",
        "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True, "seed": -(2**70),
        "temperature": 1, "top_p": 0.5, "response_format": {"type": "text"}, "n": 1, "stream_options": None,
    }  # fmt: skip
    assert shop.chat("kể đi?", **harmless).json()["choices"][0]["message"]["content"] == echo("kể đi?")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"5", b'"a"', b"\xff\xfe", b"[" * 50_000, b'{"model":' * 9_000, b"{}\x00",
        b'{"a":' + b"9" * 9_000 + b"}",
        b'{"model":"shop","messages":[{"role":"user","content":"\\ud800"}]}', b'{"\\ud800": 1}',
        b'{"model":"\\ud800","messages":[{"role":"user","content":"a"}]}',
    ],
)  # fmt: skip
def test_what_is_no_request_at_all_is_a_bad_request(shop, content):
    for path in (CHAT, TEXT):
        response = shop.client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert error_of(response, 400)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x", ""]
)
def test_a_body_of_another_type_is_refused(shop, kind):
    response = shop.client.post(CHAT, content=json.dumps(asking("a")), headers={"Content-Type": kind})
    assert error_of(response, 415)["code"] == "unsupported_media_type"


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/v1/models"), ("GET", CHAT), ("PUT", TEXT), ("POST", "/health")])
def test_a_wrong_method_is_told_as_json(shop, method, path):
    response = shop.client.request(method, path)
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"]


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/none", "/v1/models/", "//v1/models", "/v1/chat/completions/", "/nothing"]
)
def test_an_unknown_address_is_told_as_json(shop, path):
    assert error_of(shop.client.get(path), 404)["code"] == "not_found"


def test_an_answer_that_fails_before_its_first_text_has_a_status(shop):
    for streams in (False, True):
        response = shop.chat("lỗi riêng", stream=streams)
        assert error_of(response, 500)["code"] == "engine_failed"
        late = shop.chat("hết giờ", stream=streams)
        assert error_of(late, 503)["code"] == "unavailable"
        assert int(late.headers["retry-after"]) > 0


def test_an_answer_that_fails_later_ends_its_stream_with_an_error(shop):
    chunks = shop.events(CHAT, asking("đứt giữa chừng"))
    assert chunks[-1]["error"]["code"] == "engine_failed"
    assert "[DONE]" not in chunks
    assert any(chunk["choices"][0]["delta"]["content"] for chunk in chunks[:-1])


def test_too_many_at_once_are_sent_away_for_now(tmp_path):
    engine = FakeEngine()
    with serving(tmp_path, [bots(engine)], most=2) as served, ThreadPoolExecutor(2) as threads:
        engine.gate.clear()
        begun = [threads.submit(served.chat, "kể đi?") for _ in range(2)]
        until(lambda: served.desk.n_open == 2)
        response = served.chat("kể đi?")
        assert error_of(response, 503)["code"] == "queue_full"
        assert int(response.headers["retry-after"]) > 0
        assert error_of(served.chat("kể đi?", n=2, stream=True), 503)["code"] == "queue_full"
        engine.gate.set()
        assert [task.result().status_code for task in begun] == [200, 200]
        assert served.chat("kể đi?").status_code == 200


def _send(served, body):
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=20)
    content = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("stage", ["queued", "prefill", "decode"])
def test_who_hangs_up_is_not_answered_any_more(tmp_path, streams, stage):
    engine = FakeEngine(rows=1)
    with serving(tmp_path, [bots(engine)]) as served, ThreadPoolExecutor(1) as threads:
        other = None
        if stage == "queued":
            engine.gate.clear()
            other = threads.submit(served.chat, "người khác?")
            until(lambda: "người khác?" in engine.asked)
        if stage == "prefill":
            engine.gate.clear()
        connection = _send(served, asking("bỏ ngang mãi mãi", stream=streams))
        until(lambda: served.desk.n_open == (2 if other else 1))
        if stage == "decode":
            until(lambda: engine.running)
            if streams:
                assert b"200 OK" in connection.recv(65536)
        connection.close()
        engine.gate.set()
        until(lambda: served.desk.n_open == 0)
        if other:
            assert other.result().json()["choices"][0]["message"]["content"] == echo("người khác?")
        assert served.chat("câu sau?").status_code == 200
        until(lambda: engine.is_empty)


def test_a_hundred_who_hang_up_leave_the_server_as_it_was(tmp_path):
    engine = FakeEngine(rows=3)
    with serving(tmp_path, [bots(engine)]) as served:
        for number in range(100):
            connection = _send(served, asking(f"người {number} nói mãi mãi", stream=number % 2 == 0))
            if number % 3 == 0:
                until(lambda: served.desk.n_open)
            if number % 6 == 0:
                connection.recv(200)
            connection.close()
        until(lambda: served.desk.n_open == 0)
        until(lambda: engine.is_empty)
        until(lambda: not served.server.server_state.connections)
        assert served.chat("câu sau?").json()["choices"][0]["message"]["content"] == echo("câu sau?")


def test_many_clients_at_once_each_get_their_own_answer(tmp_path):
    engine = FakeEngine(rows=8)

    def ask(number):
        question = f"khách {number} hỏi gì?"
        if number % 2:
            *chunks, _ = served.events(CHAT, asking(question))
            return question, "".join(chunk["choices"][0]["delta"]["content"] or "" for chunk in chunks)
        return question, served.chat(question).json()["choices"][0]["message"]["content"]

    with serving(tmp_path, [bots(engine)]) as served, ThreadPoolExecutor(16) as threads:
        found = list(threads.map(ask, range(100)))
    assert all(got == echo(question) for question, got in found)


def test_a_reader_that_never_reads_keeps_nobody_waiting(tmp_path):
    engine = FakeEngine()
    with serving(tmp_path, [bots(engine)]) as served:
        slow = [_send(served, asking("nói mãi mãi", stream=True)) for _ in range(10)]
        until(lambda: served.desk.n_open == 10)
        engine.rows = 20
        assert served.chat("còn đó không?").status_code == 200
        for connection in slow:
            connection.close()
        until(lambda: served.desk.n_open == 0)


def test_health_tells_what_the_desk_does(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "_LONGEST_PAUSE_SECONDS", 0.0)
    may_load = threading.Event()
    may_load.set()

    def load():
        may_load.wait(20)
        return bots(FakeEngine())()

    with serving(tmp_path, [load]) as served, ThreadPoolExecutor(1) as threads:
        assert served.client.get("/health").json() == served.client.get("/ready").json() == {"status": "up"}
        may_load.clear()
        bad = threads.submit(served.chat, "làm hỏng máy")
        until(lambda: served.desk.state == "down")
        for path in ("/health", "/ready"):
            response = served.client.get(path)
            assert (response.status_code, response.json()) == (503, {"status": "down"})
        assert error_of(served.chat("kể đi?"), 503)["code"] == "unavailable"
        may_load.set()
        assert error_of(bad.result(), 500)["code"] == "engine_failed"
        until(lambda: served.desk.state == "up")
        assert served.chat("kể đi?").status_code == 200
        figures = served.client.get("/metrics").text
        assert "hoidap_engine_restarts 2.0" in figures
        assert 'hoidap_answers_total{outcome="stop"} 1.0' in figures
        assert 'hoidap_requests_total{method="GET",route="/health",status="503"} 1.0' in figures
        served.desk.stop_taking()
        assert served.client.get("/health").status_code == 200
        assert served.client.get("/ready").status_code == 503
        assert error_of(served.chat("kể đi?"), 503)["code"] == "unavailable"
