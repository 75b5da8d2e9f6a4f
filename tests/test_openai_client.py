"""OpenAI's own client in its strict mode, which refuses a response that its schema does not know; and our own schema."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import schemathesis
from fake_engine import FakeEngine, bots, echo
from hypothesis import HealthCheck, settings
from openai.types import completion_create_params as text_params
from openai.types.chat import completion_create_params as chat_params
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from served import serving

from hoidap.serve.app import make_routes
from hoidap.serve.desk import Desk
from hoidap.serve.health import Metrics
from hoidap.serve.settings import Settings
from hoidap.serve.wire import ChatRequest, CompletionRequest


@pytest.fixture(scope="module")
def engine():
    return FakeEngine()


@pytest.fixture(scope="module")
def served(engine, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("openai"), [bots(engine)], needs_key=True) as one:
        yield one


@pytest.fixture(scope="module")
def client(served):
    text, _ = served.keys.make("strict", "chat")
    with openai.OpenAI(
        base_url=f"{served.url}/v1", api_key=text, _strict_response_validation=True, max_retries=0, timeout=20
    ) as one:
        yield one


def asked(question):
    return {"model": "shop", "messages": [{"role": "user", "content": question}]}


def test_a_chat_is_read_strictly(client):
    found = client.chat.completions.create(**asked("kể đi?"), temperature=0, max_tokens=100, seed=1, user="u")
    assert found.choices[0].message.content == echo("kể đi?")
    assert found.choices[0].hoidap["declined"] is False
    assert found.usage.total_tokens > found.usage.completion_tokens > 0


def test_what_came_may_be_sent_back_as_it_came(client):
    first = client.chat.completions.create(**asked("kể đi?"))
    messages = [
        *asked("kể đi?")["messages"],
        first.choices[0].message.model_dump(),
        {"role": "user", "content": "rồi sao?"},
    ]
    second = client.chat.completions.create(model="shop", messages=messages)
    assert second.choices[0].message.content == echo("rồi sao?")


def test_a_stream_is_read_strictly(client):
    with client.chat.completions.create(**asked("kể đi?"), stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == echo("kể đi?")
    assert chunks[-1].usage.total_tokens > 0
    with client.chat.completions.stream(**asked("kể đi?")) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == echo("kể đi?")


def test_completions_and_models_are_read_strictly(client):
    found = client.completions.create(model="shop", prompt="Ngày xưa", max_tokens=60)
    assert found.choices[0].text == echo("Ngày xưa")
    # The client's schema has no piece without an end, though OpenAI sends such.
    lenient = openai.OpenAI(base_url=client.base_url, api_key=client.api_key, timeout=20)
    with lenient, lenient.completions.create(model="shop", prompt="Ngày xưa", max_tokens=60, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == echo("Ngày xưa")
    assert [model.id for model in client.models.list()] == ["shop"]
    assert client.models.retrieve("shop").owned_by == "hoidap"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (chat_params.CompletionCreateParamsStreaming, ChatRequest),
        (text_params.CompletionCreateParamsStreaming, CompletionRequest),
    ],
)
def test_every_parameter_that_the_client_knows_is_taken_or_refused_by_name(theirs, ours):
    assert set(theirs.__annotations__) | set(theirs.__mro__[0].__annotations__) <= set(ours.model_fields)
    known = {name for kind in theirs.__orig_bases__ for name in getattr(kind, "__annotations__", {})}
    assert known <= set(ours.model_fields)


def test_what_goes_wrong_is_the_exception_that_it_is_elsewhere(client, served):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked("kể đi?"), tools=[])
    assert (refused.value.param, refused.value.code) == ("tools", "unsupported_parameter")
    assert refused.value.request_id.startswith("req_")
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="gpt-6", messages=asked("a")["messages"])
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError) as refused:
        client.with_options(api_key="hd-wrong").models.list()
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**asked("lỗi riêng"))
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked("chữ " * 2000))
    assert refused.value.code == "context_length_exceeded"
    stream = client.chat.completions.create(**asked("đứt giữa chừng"), stream=True)
    with pytest.raises(openai.APIError, match="the engine failed at this answer"):
        list(stream)
    with pytest.raises(openai.PermissionDeniedError):
        client.with_options(default_headers={"Origin": "https://evil.example"}).models.list()
    assert served.desk.n_open == 0


def test_a_client_that_is_sent_away_comes_again_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("hoidap.serve.wire._RETRY_SECONDS", 0.01)
    engine = FakeEngine()
    with serving(tmp_path, [bots(engine)], most=1) as one, ThreadPoolExecutor(1) as threads:
        engine.gate.clear()
        first = threads.submit(one.chat, "câu dài?")
        while not one.desk.n_open:
            pass
        with openai.OpenAI(base_url=f"{one.url}/v1", api_key="none", max_retries=5, timeout=20) as patient:
            asking = ThreadPoolExecutor(1).submit(patient.chat.completions.create, **asked("kể đi?"))
            engine.gate.set()
            assert asking.result().choices[0].message.content == echo("kể đi?")
        assert first.result().status_code == 200


DESK = Desk([bots(FakeEngine())])
schema = schemathesis.openapi.from_asgi("/openapi.json", make_routes(Settings(answer_seconds=20.0), DESK, Metrics()))


@pytest.fixture(scope="module")
def _at_work():
    DESK.start()
    yield
    DESK.close()


@pytest.mark.usefixtures("_at_work")
@schema.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_answer_is_as_the_schema_says(case):
    case.call_and_validate()


@pytest.mark.usefixtures("_at_work")
@schema.include(method="POST").parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_so_is_every_answer_of_a_bot_that_is_there(case):
    if isinstance(case.body, dict):
        case.body["model"] = "shop"
    # A conversation whose roles are out of turn fits the schema, and is refused.
    case.call_and_validate(excluded_checks=[positive_data_acceptance, negative_data_rejection])
