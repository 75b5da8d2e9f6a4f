"""Many questions at one desk: each gets its own answer, whatever becomes of the others."""

import asyncio
import logging
import random
import threading
from contextlib import aclosing, contextmanager

import pytest
from fake_engine import TOKENS, FakeEngine, bots, echo
from tiny_run import ITEMS

from hoidap.bot import Answer, Bot
from hoidap.errors import EngineError, QueueFullError, RequestError, TooLongError, UnavailableError
from hoidap.ground.confidence import Confidence
from hoidap.ground.grounds import SIGNALS, Grounds
from hoidap.infer.engine import Sampling
from hoidap.serve import bench, desk
from hoidap.serve.desk import Ask, Desk

SURE = Confidence(SIGNALS, (10.0, 8.0, 0.5, 0.5), -5.0, 0.5)


@contextmanager
def at_work(*loads, **options):
    one = Desk(loads, **options)
    one.start()
    try:
        yield one
    finally:
        one.close()


def run(work):
    """Run what is asynchronous, and fail where it hangs."""
    return asyncio.run(asyncio.wait_for(work, 20))


async def pieces(one, question, **options):
    """Return an answer's texts, and the answer."""
    texts = []
    async with aclosing(one.ask(Ask("shop", question, **options))) as answering:
        async for item in answering:
            if isinstance(item, Answer):
                return texts, item
            texts.append(item)
    raise AssertionError("no answer came")


async def answer(one, question, **options):
    return (await pieces(one, question, **options))[1]


async def until(condition):
    """Wait for what another thread does."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_hundred_at_once_get_each_their_own_answer():
    engine = FakeEngine(rows=8)
    questions = [f"câu số {n} của khách {n * 7}?" for n in range(100)]

    async def ask_all(one):
        return await asyncio.gather(*(pieces(one, question, client=f"khách {question}") for question in questions))

    with at_work(bots(engine)) as one:
        found = run(ask_all(one))
        assert one.n_open == 0
    for question, (texts, end) in zip(questions, found, strict=True):
        assert "".join(texts) == end.text == echo(question)
        assert (end.finish_reason, end.tokens) == ("stop", len(echo(question).split(" ")))
        assert end.prompt_tokens > 0
    assert engine.clients == [f"khách {question}" for question in engine.asked]
    assert engine.threads == {one._thread}
    assert engine.is_empty


def test_texts_come_as_they_are_written():
    engine = FakeEngine()

    async def ask(one):
        async with aclosing(one.ask(Ask("shop", "nói mãi mãi"))) as answering:
            first = await anext(answering)
            second = await anext(answering)
            assert first.startswith("từ0")
            return first + second

    with at_work(bots(engine)) as one:
        assert "từ1" in run(ask(one))


async def _begun(one, question):
    """Begin to ask; return the task, which waits for an answer."""
    task = asyncio.create_task(answer(one, question))
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("stage", ["before", "queued", "prefill", "decode", "last"])
def test_who_hangs_up_at_any_stage_leaves_nothing_behind_and_stops_nobody_else(stage):
    engine = FakeEngine(rows=1)

    async def ask(one):
        engine.gate.clear()
        other = await _begun(one, "câu của người khác?")
        await until(lambda: engine.asked)
        question = "bỏ ngang mãi mãi" if stage != "last" else "bỏ ngang?"
        mine = one.ask(Ask("shop", question))
        waiting = asyncio.create_task(anext(mine))
        if stage != "before":  # else the desk has not seen it when it is cancelled
            engine.gate.set()
            await until(lambda: question in engine.asked)
        if stage in ("prefill", "decode", "last"):
            await other
        if stage in ("decode", "last"):
            await waiting
        if stage == "last":
            await until(lambda: engine.is_empty)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await mine.aclose()
        engine.gate.set()
        assert (await other).text == echo("câu của người khác?")
        assert (await answer(one, "câu sau?")).text == echo("câu sau?")
        await until(lambda: one.n_open == 0)

    with at_work(bots(engine)) as one:
        run(ask(one))
    assert engine.is_empty
    assert "câu của người khác?" not in engine.cancelled


def test_a_hundred_who_hang_up_leave_no_slot_taken():
    engine = FakeEngine(rows=3)
    chance = random.Random(5)

    async def hang_up(one, number):
        asking = one.ask(Ask("shop", f"người {number} hỏi mãi mãi"))
        reading = asyncio.create_task(anext(asking))
        await asyncio.sleep(chance.random() / 20)
        if chance.random() < 0.5:
            reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await asking.aclose()

    async def ask_all(one):
        staying = [asyncio.create_task(answer(one, f"người ở lại {n}?")) for n in range(20)]
        await asyncio.gather(*(hang_up(one, n) for n in range(100)))
        for number, task in enumerate(staying):
            assert (await task).text == echo(f"người ở lại {number}?")
        await until(lambda: one.n_open == 0)

    with at_work(bots(engine)) as one:
        run(ask_all(one))
    assert engine.is_empty


@pytest.mark.parametrize(
    ("question", "error", "message"),
    [
        ("   ", RequestError, "the question is empty"),
        ("rất dài " * 600, TooLongError, "prompt and answer together may have 512"),
        ("lỗi riêng", EngineError, "the engine failed at this answer"),
        ("máy không nhận câu này", EngineError, "this answer failed, and the log has why"),
        ("hết giờ", UnavailableError, "the time for this answer was over"),
    ],
)
def test_a_question_that_fails_fails_alone(question, error, message):
    async def ask(one):
        others = [asyncio.create_task(answer(one, f"câu {n}?")) for n in range(6)]
        with pytest.raises(error, match=message):
            await answer(one, question)
        return [(await other).text for other in others]

    with at_work(bots(FakeEngine(rows=2))) as one:
        assert run(ask(one)) == [echo(f"câu {n}?") for n in range(6)]
        assert one.n_restarts == 0


def test_a_bot_that_raises_fails_at_its_question_alone_and_the_log_does_not_tell_what_was_asked(caplog):
    def load():
        found = bots(FakeEngine())()
        answering = found["shop"].answering

        def broken(question, *arguments):
            if "bí mật" in question:
                msg = f"a bug at {question}"
                raise ZeroDivisionError(msg)
            return answering(question, *arguments)

        found["shop"].answering = broken
        return found

    async def ask(one):
        other = asyncio.create_task(answer(one, "câu khác?"))
        with pytest.raises(EngineError, match="this answer failed"):
            await answer(one, "chuyện bí mật của tôi")
        return (await other).text

    with at_work(load) as one:
        assert run(ask(one)) == echo("câu khác?")
    assert "ZeroDivisionError" in caplog.text
    assert "bí mật" not in caplog.text


@pytest.mark.parametrize("poison", ["làm hỏng máy", "thoát"])
def test_an_engine_that_breaks_is_reported_and_loaded_again_and_who_only_waited_is_answered(poison, caplog):
    engines, may_load = [], threading.Event()

    def load():
        if engines:
            may_load.wait(20)
        engines.append(FakeEngine(rows=2))
        return bots(engines[-1])()

    async def ask(one):
        begun = asyncio.create_task(answer(one, "đang nói mãi mãi"))
        await until(lambda: engines[0].running)
        engines[0].gate.clear()
        await asyncio.sleep(0.01)
        bad = asyncio.create_task(answer(one, poison))
        others = [asyncio.create_task(answer(one, f"câu chờ {n}?")) for n in range(4)]
        await until(lambda: one.n_open == 6)
        engines[0].gate.set()
        with pytest.raises(EngineError, match="the engine broke at this answer"):
            await begun
        assert one.state == "down"
        with pytest.raises(UnavailableError, match="ask again in a moment"):
            await answer(one, "trong lúc hỏng?")
        bad.cancel()  # else it would break the next one too
        await asyncio.gather(bad, return_exceptions=True)
        may_load.set()
        return [(await other).text for other in others]

    with at_work(load) as one:
        assert run(ask(one)) == [echo(f"câu chờ {n}?") for n in range(4)]
        assert one.n_restarts == 1
        assert one.state == "up"
        assert one.n_open == 0
    assert engines[1].is_empty
    assert "an engine broke with" in caplog.text
    assert "an engine is there again" in caplog.text
    assert "hỏng" not in caplog.text


def test_a_question_that_breaks_every_engine_is_given_up_after_the_second(monkeypatch):
    monkeypatch.setattr(bench, "_LONGEST_PAUSE_SECONDS", 0.0)
    engines = []

    def load():
        engines.append(FakeEngine())
        return bots(engines[-1])()

    async def ask(one):
        with pytest.raises(EngineError, match="the engine broke at this answer"):
            await answer(one, "làm hỏng máy")
        await until(lambda: one.state == "up")
        return (await answer(one, "câu sau?")).text

    with at_work(load) as one:
        assert run(ask(one)) == echo("câu sau?")
        assert len(engines) == 3


def test_an_engine_that_cannot_be_loaded_again_at_once_is_tried_until_it_can(monkeypatch, caplog):
    monkeypatch.setattr(bench, "_LONGEST_PAUSE_SECONDS", 0.0)
    n_loads = []

    def load():
        n_loads.append(1)
        if 1 < len(n_loads) < 4:
            raise OSError(5, "the disk is gone")
        return bots(FakeEngine())()

    async def ask(one):
        with pytest.raises(EngineError):
            await answer(one, "làm hỏng máy")
        await until(lambda: one.state == "up")
        return (await answer(one, "còn đó không?")).text

    with at_work(load) as one:
        assert run(ask(one)) == echo("còn đó không?")
    assert "could not be loaded again" in caplog.text


def test_what_loading_raises_at_first_start_raises():
    one = Desk([lambda: 1 / 0])
    with pytest.raises(ZeroDivisionError):
        one.start()


def test_one_engine_breaks_and_the_other_goes_on():
    healthy = FakeEngine()

    async def ask(one):
        async with aclosing(one.ask(Ask("school", "nói mãi mãi"))) as answering:
            first = await anext(answering)
            with pytest.raises(EngineError):
                await answer(one, "làm hỏng máy")
            return first + await anext(answering)

    with at_work(bots(FakeEngine()), bots(healthy, "school")) as one:
        assert set(one.bots) == {"shop", "school"}
        assert run(ask(one)).startswith("từ0 từ1")
        assert one.n_restarts >= 1


def test_more_than_may_wait_are_refused_and_come_again_later():
    engine = FakeEngine()

    async def ask(one):
        engine.gate.clear()
        tasks = [asyncio.create_task(answer(one, f"câu {n}?")) for n in range(3)]
        await until(lambda: one.n_open == 3)
        with pytest.raises(QueueFullError, match="3 questions are at work or waiting already"):
            await answer(one, "một câu nữa?")
        engine.gate.set()
        assert len(await asyncio.gather(*tasks)) == 3
        return (await answer(one, "một câu nữa?")).text

    with at_work(bots(engine), most=3) as one:
        assert run(ask(one)) == echo("một câu nữa?")


def test_a_slow_reader_keeps_nobody_waiting_and_finds_the_rest_in_one_piece():
    engine = FakeEngine(answer=lambda q: " ".join(f"từ{n}" for n in range(800)) if "dài" in q else echo(q))

    async def ask(one):
        async with aclosing(one.ask(Ask("shop", "câu dài", sampling=Sampling(max_new_tokens=2000)))) as slow:
            texts = [await anext(slow)]
            assert (await answer(one, "người khác?")).text == echo("người khác?")
            await until(lambda: engine.is_empty)
            await asyncio.sleep(0.01)
            rest = [item async for item in slow]
        assert len(rest) <= 3
        assert "".join(texts + rest[:-1]) == rest[-1].text == " ".join(f"từ{n}" for n in range(800))

    with at_work(bots(engine)) as one:
        run(ask(one))


def test_texts_go_out_by_time_and_not_word_by_word(monkeypatch):
    monkeypatch.setattr(desk, "_FLUSH_SECONDS", 15.0)
    engine = FakeEngine(answer=lambda _: " ".join(f"từ{n}" for n in range(3000)))
    with at_work(bots(engine)) as one:
        texts, end = run(pieces(one, "dài", sampling=Sampling(max_new_tokens=5000)))
    assert "".join(texts) == end.text
    assert end.tokens == 3000
    assert len(texts) <= 3  # the first at once, the rest when it ends


def checking(engine):
    def load():
        grounds = Grounds.build(ITEMS, [[] for _ in ITEMS]).with_confidence(SURE)
        return {"shop": Bot(engine, TOKENS, ITEMS, grounds=grounds, mode="checked", contact="Zalo 0901")}

    return load


def test_a_checked_answer_takes_a_second_request_and_comes_in_one_text():
    said = {ITEMS[0].question: ITEMS[0].answer}
    engine = FakeEngine(answer=lambda question: said.get(question, "Em chưa rõ ạ."))
    with at_work(checking(engine)) as one:
        texts, end = run(pieces(one, "mấy giờ mở cửa vậy"))
    assert len(engine.asked) == 2
    assert engine.asked[1] == ITEMS[0].question
    assert texts == [ITEMS[0].answer] == [end.text]
    assert end.source == ITEMS[0]
    assert end.tokens == len(TOKENS.encode(end.text))


def test_many_checked_answers_at_once_are_not_mixed():
    said = {item.question: item.answer for item in ITEMS}
    engine = FakeEngine(answer=lambda question: said.get(question, "Em chưa rõ ạ."), rows=3)

    async def ask_all(one):
        asked = [ITEMS[n % len(ITEMS)] for n in range(48)]
        found = await asyncio.gather(*(answer(one, item.question.rstrip("?") + " vậy shop") for item in asked))
        return [(item.answer, end.text) for item, end in zip(asked, found, strict=True) if not end.is_declined]

    with at_work(checking(engine)) as one:
        pairs = run(ask_all(one))
    assert len(pairs) > 24
    assert all(wanted == got for wanted, got in pairs)


def test_what_a_client_limits_is_cut_from_a_checked_answer():
    said = {item.question: item.answer for item in ITEMS}
    engine = FakeEngine(answer=lambda question: said.get(question, "?"))
    with at_work(checking(engine)) as one:
        cut = run(answer(one, ITEMS[1].question, sampling=Sampling(max_new_tokens=3)))
        stopped = run(answer(one, ITEMS[1].question, sampling=Sampling(max_new_tokens=99), stop=("25.000đ",)))
    assert cut.finish_reason == "length"
    assert cut.tokens == 3
    assert ITEMS[1].answer.startswith(cut.text)
    assert stopped.text == "Nội thành "
    assert stopped.finish_reason == "stop"


def test_a_time_that_is_over_before_it_began_is_no_answer():
    with at_work(bots(FakeEngine())) as one, pytest.raises(UnavailableError, match="the time for this answer was over"):
        run(answer(one, "câu?", seconds=0.0))


def test_stop_texts_end_what_the_model_writes():
    with at_work(bots(FakeEngine())) as one:
        assert run(answer(one, "alpha beta", stop=("beta",))).text == "Bạn hỏi alpha"


def test_a_prompt_is_gone_on_with_as_it_stands():
    engine = FakeEngine(answer=lambda text: f"tiếp {text}")

    async def complete(one):
        return [item async for item in one.complete("shop", "Ngày xưa", Sampling(max_new_tokens=50))]

    with at_work(bots(engine)) as one:
        *texts, end = run(complete(one))
    assert engine.asked == ["Ngày xưa"]
    assert "".join(texts) == end.text == "tiếp Ngày xưa"


def test_work_with_a_bot_is_done_where_bots_live():
    async def do(one):
        with pytest.raises(ZeroDivisionError):
            await one.do("shop", lambda _bot: 1 / 0)
        with pytest.raises(RequestError, match="the bot is 'x'; this server has 'shop'"):
            await one.do("x", len)
        return await one.do("shop", lambda bot: (bot.mode, threading.current_thread()))

    with at_work(bots(FakeEngine())) as one:
        assert run(do(one)) == ("model", one._thread)


def test_an_unknown_bot_is_refused():
    async def ask(one):
        async with aclosing(one.ask(Ask("khác", "câu?"))) as asking:
            await anext(asking)

    with at_work(bots(FakeEngine())) as one, pytest.raises(RequestError, match="the bot is 'khác'"):
        run(ask(one))


def test_told_to_stop_it_finishes_what_is_there_and_takes_nothing_more():
    engine = FakeEngine()

    async def stop(one):
        engine.gate.clear()
        begun = asyncio.create_task(answer(one, "câu đang trả lời?"))
        await until(lambda: one.n_open == 1)
        one.stop_taking()
        assert one.state == "stopping"
        with pytest.raises(UnavailableError, match="the server is stopping"):
            await answer(one, "câu mới?")
        assert not await one.drained(0.01)
        engine.gate.set()
        assert await one.drained(20)
        return (await begun).text

    with at_work(bots(engine)) as one:
        assert run(stop(one)) == echo("câu đang trả lời?")


def test_what_is_not_finished_when_it_closes_is_told_so():
    engine = FakeEngine()

    async def close(one):
        begun = asyncio.create_task(answer(one, "nói mãi mãi"))
        await until(lambda: engine.running)
        await asyncio.to_thread(one.close)
        with pytest.raises(UnavailableError, match="stopped before the answer was whole"):
            await begun
        with pytest.raises(UnavailableError):
            await one.do("shop", len)

    one = Desk([bots(engine)])
    one.start()
    run(close(one))
    assert engine.is_empty
    assert one.n_open == 0


def test_how_questions_ended_is_reported():
    reports = []
    with at_work(bots(FakeEngine()), watch=reports.append) as one:
        run(answer(one, "câu?"))
        with pytest.raises(EngineError):
            run(answer(one, "lỗi riêng"))
    assert [report.outcome for report in reports] == ["stop", "error"]
    assert reports[0].first_seconds is not None
    assert reports[1].first_seconds is None


def test_a_step_that_never_ends_is_seen(monkeypatch):
    monkeypatch.setattr(desk, "_STALLED_SECONDS", 0.0)
    engine = FakeEngine()

    async def ask(one):
        engine.gate.clear()
        task = asyncio.create_task(answer(one, "câu?"))
        await until(lambda: one.state == "down")
        engine.gate.set()
        await task
        await until(lambda: one.state == "up")

    with at_work(bots(engine)) as one:
        run(ask(one))


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.INFO)
