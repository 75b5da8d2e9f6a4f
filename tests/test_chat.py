"""A conversation, as a person and as a pipe has it."""

import pytest
from rich.console import Console
from tiny_run import FULL, ITEMS, make_base, write_csv

from hoidap.bot import load
from hoidap.chat import chat
from hoidap.errors import RequestError
from hoidap.infer.engine import Sampling
from hoidap.prompt import Turn
from hoidap.training.job import train


@pytest.fixture(scope="module")
def bot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    base = make_base(folder / "base")
    data = write_csv(folder / "shop.csv", ITEMS)
    train(data, out=folder / "run", model=base.name, recipe=FULL, device="cpu", console=Console(quiet=True))
    return load(folder / "run", device="cpu", mode="model")


def talk(bot, *lines):
    written, notes = [], []
    chat(bot, lines, written.append, notes.append)
    return "".join(written), notes


def test_each_line_is_answered_on_a_line(bot):
    written, notes = talk(bot, ITEMS[0].question + "\n", "\n", "  " + ITEMS[3].question)
    assert written == f"{ITEMS[0].answer}\n{ITEMS[3].answer}\n"
    assert notes == []


def test_decomposed_text_gets_the_same_answer(bot):
    import unicodedata

    written, _ = talk(bot, unicodedata.normalize("NFD", ITEMS[0].question))
    assert written == f"{ITEMS[0].answer}\n"


def test_quit_ends_and_new_forgets(bot):
    written, notes = talk(bot, ITEMS[0].question, "/new", ITEMS[1].question, "/quit", ITEMS[2].question)
    assert written == f"{ITEMS[0].answer}\n{ITEMS[1].answer}\n"
    assert notes == ["a new conversation"]


def test_a_long_conversation_drops_its_first_turns_and_says_so(bot):
    written, notes = talk(bot, *[ITEMS[n % 3].question for n in range(12)])
    assert len(written.splitlines()) >= 12
    assert any("its first" in note and "turns are left out" in note for note in notes)


def test_a_question_too_long_is_refused_and_the_conversation_goes_on(bot):
    written, notes = talk(bot, "dài " * 400, ITEMS[0].question)
    assert written == f"{ITEMS[0].answer}\n"
    assert "prompt and answer together may have 256" in notes[0]


def test_the_stream_adds_up_to_the_answer(bot):
    pieces = list(bot.stream(ITEMS[1].question))
    assert "".join(pieces) == bot.answer(ITEMS[1].question).text == ITEMS[1].answer
    assert len(pieces) > 3


def test_a_stream_left_early_frees_the_engine(bot):
    stream = bot.stream(ITEMS[1].question)
    next(stream)
    stream.close()
    assert bot.answer(ITEMS[0].question).text == ITEMS[0].answer


def test_an_answer_tells_its_source_and_how_sure_it_is(bot):
    known = bot.answer(ITEMS[0].question)
    assert known.source == ITEMS[0]
    assert known.finish_reason == "stop"
    assert 0.5 < known.confidence <= 1
    cut = bot.answer(ITEMS[1].question, sampling=Sampling(max_new_tokens=2))
    assert cut.source is None
    assert cut.finish_reason == "length"


def test_an_interrupted_answer_is_not_remembered(bot, monkeypatch):
    def interrupted(*_):
        yield "Từ"
        raise KeyboardInterrupt

    written, notes = [], []
    with monkeypatch.context() as patch:
        patch.setattr(type(bot), "stream", interrupted)
        chat(bot, [ITEMS[0].question], written.append, notes.append)
    assert "".join(written) == "Từ\n"
    assert notes == ["stopped; this answer is not remembered"]


def test_an_empty_question_is_refused(bot):
    with pytest.raises(RequestError, match="the question is empty; write one"):
        bot.answer("  \n ")


def test_fit_keeps_the_latest_turns(bot):
    turns = [Turn(f"câu {n}", "trả lời " * 8) for n in range(20)]
    kept = bot.fit("hỏi", turns)
    assert 0 < len(kept) < 20
    assert kept == turns[-len(kept) :]


def test_half_a_character_is_refused_and_the_chat_goes_on(bot):
    notes, written = [], []
    chat(bot, ["a\ud800b", ITEMS[0].question], written.append, notes.append)
    assert notes == ["the question holds half of a character (a lone surrogate), which is no text; send it as UTF-8"]
    assert "".join(written).strip() == ITEMS[0].answer
