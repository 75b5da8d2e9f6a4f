"""How a bot answers: as the model writes, checked against the items, or in the items' own words."""

import json
import shutil

import pytest
from rich.console import Console
from tiny_run import FULL, ITEMS, make_base, write_csv

from hoidap.bot import Bot, load
from hoidap.data.items import Item, to_jsonl
from hoidap.errors import RequestError, RunError
from hoidap.ground.confidence import Confidence
from hoidap.ground.grounds import SIGNALS
from hoidap.prompt import Turn
from hoidap.training.job import train

SURE = Confidence(SIGNALS, (10.0, 8.0, 0.5, 0.5), -5.0, 0.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    base = make_base(folder / "base")
    data = write_csv(folder / "shop.csv", ITEMS)
    run = train(
        data, out=folder / "run", model=base.name, recipe=FULL, device="cpu", console=Console(quiet=True),
        contact="Zalo 0901 234 567",
    )  # fmt: skip
    run.save_grounds(run.grounds(run.items()).with_confidence(SURE))
    return run


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "run")
    return type(trained).open(tmp_path / "run")


def gaps(run):
    path = run.folder / "gaps.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def test_checked_is_the_default_and_tells_the_source(run):
    answer = load(run.folder, device="cpu").answer("may gio mo cua")
    assert answer.text == ITEMS[0].answer
    assert answer.source == ITEMS[0]
    assert answer.closeness == 1.0
    assert 0.5 <= answer.confidence <= 1
    assert not answer.is_declined
    assert gaps(run) == []


def test_out_of_scope_it_declines_offers_two_questions_and_the_contact_and_keeps_the_gap(run):
    answer = load(run.folder, device="cpu").answer("Đội nào vô địch World Cup 2018 ở đâu?")
    assert answer.is_declined
    assert answer.source is None
    assert answer.text.startswith("Xin lỗi, tôi chưa có câu trả lời chắc chắn")
    assert f"– {answer.near[0].question}" in answer.text
    assert len(answer.near) == 2
    assert "Zalo 0901 234 567" in answer.text
    (gap,) = gaps(run)
    assert gap["question"] == "Đội nào vô địch World Cup 2018 ở đâu?"
    assert gap["near"] == [item.question for item in answer.near]
    assert gap["time"].endswith("+00:00")


def test_a_model_that_states_another_price_is_not_believed(run):
    items = run.items()
    changed = [items[0], type(items[1])(items[1].question, items[1].answer.replace("25", "35")), *items[2:]]
    bot = load(run.folder, device="cpu")
    bot.items = changed
    bot.grounds = type(bot.grounds).build(changed, [[] for _ in changed]).with_confidence(SURE)
    assert bot.answer(items[1].question, mode="model").text == items[1].answer  # what it was taught
    answer = bot.answer(items[1].question)
    assert answer.is_declined
    assert "25.000" not in answer.text


def test_a_correction_is_served_at_once_and_marked(run):
    assert run.correct("phí giao hàng bao nhiêu", "  Nội thành 30.000đ.  ") == ITEMS[1]
    answer = load(run.folder, device="cpu").answer("phi giao hang bao nhieu")
    assert (answer.text, answer.is_corrected, answer.source) == ("Nội thành 30.000đ.", True, ITEMS[1])
    run.correct(ITEMS[1].question, "Nội thành 35.000đ.")  # the latest counts
    bot = load(run.folder, device="cpu", mode="verbatim")
    assert bot.answer(ITEMS[1].question).text == "Nội thành 35.000đ."
    assert not bot.answer(ITEMS[0].question).is_corrected


def test_a_running_bot_takes_a_correction(run):
    bot = load(run.folder, device="cpu")
    bot.correct(ITEMS[0].question, "Từ 9h ạ.")
    assert bot.answer(ITEMS[0].question).text == "Từ 9h ạ."


def test_a_correction_of_no_item_names_what_is_near(run):
    with pytest.raises(RunError, match=r"no item of .* has the question 'giao hàng'; near it: 'Phí giao hàng bao nhiêu\?'"):
        run.correct("giao hàng", "x")
    with pytest.raises(RunError, match="the answer is empty"):
        run.correct(ITEMS[0].question, " ")
    assert run.corrections() == {}


def test_verbatim_gives_the_items_words(run):
    answer = load(run.folder, device="cpu", mode="verbatim").answer("có nhận thẻ ko shop")
    assert (answer.text, answer.source) == (ITEMS[2].answer, ITEMS[2])


class Listener:
    """Hears what the model is asked."""

    def __init__(self, bot):
        self._engine, self.heard = bot._engine, []
        self._decode = bot._tokenizer.decode

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def submit(self, request):
        self.heard.append(self._decode(list(request.prompt)))
        return self._engine.submit(request)


@pytest.mark.parametrize("mode", ["model", "checked", "verbatim"])
def test_the_model_is_asked_with_the_diacritics_that_a_question_lacks(run, mode):
    bot = load(run.folder, device="cpu", mode=mode)
    bot._engine = listener = Listener(bot)
    bot.answer("phi giao hang bao nhieu")
    bot.answer_all(["gio mo cua"])
    "".join(bot.stream("nhan the khong"))
    heard = [text for text in listener.heard if all(item.question not in text for item in ITEMS)]  # asked once more
    first, second, third = heard
    assert "phí giao hàng bao nhiêu" in first
    assert "giờ mở cửa" in second
    assert "nhận thẻ không" in third


def test_a_question_that_an_item_has_is_asked_as_it_was_taught(run):
    items = run.items()
    items[0] = Item("May gio mo cua hang?", items[0].answer)  # other items write "cửa hàng"
    loaded = load(run.folder, device="cpu")
    grounds = type(loaded.grounds).build(items, [[] for _ in items])
    bot = Bot(loaded._engine, loaded._tokenizer, items, loaded.template, grounds=grounds)
    bot._engine = listener = Listener(bot)
    bot.answer(items[0].question)
    bot.answer("may gio mo cua hang vay")
    assert items[0].question in listener.heard[0]
    assert "cửa hàng" in listener.heard[1]


def test_without_an_index_the_model_is_asked_as_typed(run):
    shutil.rmtree(run.folder / "index")
    bot = load(run.folder, device="cpu", mode="model")
    bot._engine = listener = Listener(bot)
    bot.answer("phi giao hang")
    assert "phi giao hang" in listener.heard[0]


def test_model_needs_neither_index_nor_data(run):
    shutil.rmtree(run.folder / "index")
    shutil.rmtree(run.folder / "data")
    bot = load(run.folder, device="cpu", mode="model")
    assert [bot.answer(item.question).text for item in ITEMS] == [item.answer for item in ITEMS]
    assert bot.answer(ITEMS[0].question).source is None
    with pytest.raises(RequestError, match=r"the mode 'checked' compares with the run's items.*use 'model'"):
        bot.answer(ITEMS[0].question, mode="checked")
    with pytest.raises(Exception, match=r"items\.jsonl|index"):
        load(run.folder, device="cpu")


def test_an_unknown_mode_is_refused(run):
    with pytest.raises(RequestError, match=r"the mode is 'best'; it takes 'checked', 'model', 'verbatim'"):
        load(run.folder, device="cpu").answer("a", mode="best")


def test_the_owner_edits_bot_toml(run):
    (run.folder / "bot.toml").write_text('mode = "model"\ncontact = "1900 1234"\n', encoding="utf-8")
    bot = load(run.folder, device="cpu")
    assert bot.mode == "model"
    (run.folder / "bot.toml").write_text('mode = "modell"\n', encoding="utf-8")
    with pytest.raises(RunError, match=r"bot\.toml cannot be read .*; it takes mode = \"checked\""):
        load(run.folder, device="cpu")


def test_a_checked_answer_streams_whole(run):
    assert list(load(run.folder, device="cpu").stream(ITEMS[3].question)) == [ITEMS[3].answer]
    pieces = list(load(run.folder, device="cpu", mode="model").stream(ITEMS[3].question))
    assert len(pieces) > 1
    assert "".join(pieces).strip() == ITEMS[3].answer


def test_a_later_turn_is_checked_too(run):
    bot = load(run.folder, device="cpu")
    history = [Turn(ITEMS[0].question, ITEMS[0].answer)]
    assert bot.answer(ITEMS[4].question, history).text == ITEMS[4].answer


def test_a_full_disk_stops_no_answer(run, monkeypatch, caplog):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    bot = load(run.folder, device="cpu")
    monkeypatch.setattr("pathlib.Path.open", full)
    assert bot.answer("Ai viết Truyện Kiều?").is_declined
    assert "a question could not be kept" in caplog.text


def test_gaps_are_bounded(run, monkeypatch):
    monkeypatch.setattr("hoidap.run._MOST_GAPS_BYTES", 300)
    bot = load(run.folder, device="cpu")
    for n in range(20):
        bot.answer(f"Ai viết Truyện Kiều {n}?")
    assert (run.folder / "gaps.jsonl").stat().st_size < 1000


def test_an_index_of_other_items_is_refused(run):
    path = run.folder / "data" / "items.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(reversed(lines)) + "\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"was made of other items than data/items\.jsonl holds"):
        load(run.folder, device="cpu")
    assert load(run.folder, device="cpu", mode="model").answer(ITEMS[0].question).text == ITEMS[0].answer


def test_a_question_with_two_answers_cannot_be_corrected(run):
    path = run.folder / "data" / "items.jsonl"
    path.write_text(to_jsonl([*ITEMS, Item(ITEMS[0].question, "Khác hẳn.")]), encoding="utf-8")
    with pytest.raises(RunError, match=r"2 items have the question .* with different answers; which is meant"):
        run.correct(ITEMS[0].question, "Từ 9h.")


def test_a_line_left_open_costs_no_other_line(run):
    path = run.folder / "corrections.jsonl"
    path.write_text(json.dumps({"question": ITEMS[0].question, "answer": "Từ 9h."}), encoding="utf-8")
    run.correct(ITEMS[1].question, "Miễn phí.")
    assert run.corrections() == {ITEMS[0].question: "Từ 9h.", ITEMS[1].question: "Miễn phí."}


@pytest.mark.parametrize("line", ['{"question": "a', '{"question": "a", "answer": 5}', "[]"])
def test_corrections_that_cannot_be_read_are_named_and_not_written_to(line, run):
    path = run.folder / "corrections.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"corrections\.jsonl cannot be read"):
        run.correct(ITEMS[0].question, "Từ 9h.")
    assert path.read_text(encoding="utf-8") == line + "\n"


def test_a_cut_line_of_the_metrics_costs_nothing(run):
    before = run.learned()
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "rec')
    assert run.learned() == before


def test_the_questions_of_a_file_are_no_gaps(run):
    load(run.folder, device="cpu", keeps_gaps=False).answer("Ai viết Truyện Kiều?")
    assert gaps(run) == []


def test_a_running_bot_takes_no_correction_of_an_item_it_has_not(run):
    with pytest.raises(RequestError, match=r"no item has the question 'x'; give an item's own"):
        load(run.folder, device="cpu").correct("x", "y")
