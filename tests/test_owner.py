"""The owner's page: what was asked, and answers that are given at once, after a restart and in the next version."""

import contextlib
import csv
import io
import itertools
import json
import shutil
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tiny_run import TOKENIZER, make_base

from hoidap.bot import Bot, load
from hoidap.data.items import Item
from hoidap.data.read import read_items
from hoidap.data.version import next_version, write_version
from hoidap.data.wordings import Split
from hoidap.errors import DataError, RunError, StoreError
from hoidap.ground.added import Added
from hoidap.ground.confidence import Confidence
from hoidap.ground.grounds import SIGNALS, Grounds
from hoidap.infer.engine import Piece
from hoidap.prompt import PHOGPT_4B_CHAT, Turn
from hoidap.recipe import Recipe
from hoidap.run import Run
from hoidap.serve import asked as asked_module
from hoidap.serve import conversations as kept
from hoidap.serve.app import make_app
from hoidap.serve.desk import Desk
from hoidap.serve.keys import Keys
from hoidap.serve.settings import Settings
from hoidap.serve.store import Store
from hoidap.tokenizer import Tokenizer

SURE = Confidence(SIGNALS, (10.0, 8.0, 0.5, 0.5), -9.0, 0.5)
ITEMS = [
    Item("Mấy giờ mở cửa?", "Từ 8h30 đến 20h30 ạ.", ("may gio mo cua vay",)),
    Item("Phí giao hàng nội thành bao nhiêu?", "Nội thành 25.000đ."),
    Item("Có nhận thẻ không?", "Dạ có, Visa và Mastercard."),
    Item("Giá ghế 120 cm bao nhiêu?", "Ghế 120 cm giá 900.000đ."),
]
HELD_OUT = [Item("Cửa hàng ở đâu?", "38/12 Xuân Thủy.", ("dia chi o dau",))]
VISITOR = "a" * 32
ROOM = "Tiệm có phòng vẽ cho trẻ em không?"


class Silent:
    """An engine that writes nothing, so that whatever is answered stands in the data or is the owner's."""

    context_tokens = 256

    def __init__(self):
        self._ids, self._open = itertools.count(), []

    def submit(self, _request):
        self._open.append(next(self._ids))
        return self._open[-1]

    def step(self):
        pieces = [Piece(id_, "", None, 0.0, "stop") for id_ in self._open]
        self._open = []
        return pieces

    def cancel(self, _id):
        return None


def make_bot(run, mode="verbatim"):
    """Load a run as ``hoidap.load`` does, but for its model."""
    items = run.items()
    grounds = Grounds.build(items, [item.wordings for item in items]).with_confidence(SURE)
    bot = Bot(
        Silent(), Tokenizer.from_file(TOKENIZER), items, grounds=grounds, mode=mode, contact="Zalo 0900",
        corrections=MappingProxyType(run.corrections()),
    )  # fmt: skip
    bot.added = Added(items, run.additions(), grounds.own_words)
    return bot


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "base")


def make_run(folder, base, items=tuple(ITEMS), held_out=tuple(HELD_OUT)):
    recipe = Recipe(method="full", quantize="none")
    return Run.create(folder, base, {}, recipe, PHOGPT_4B_CHAT, Split(list(items), list(held_out), []))


@pytest.fixture
def run(tmp_path, base):
    return make_run(tmp_path / "shop", base)


@pytest.fixture
def store(tmp_path):
    store = Store.open(tmp_path / "hoidap.db", busy_seconds=0.05)
    yield store
    store.close()


@contextlib.contextmanager
def served(run, store, mode="verbatim"):
    """Serve a run, and give what asks as the owner."""
    desk = Desk([lambda: {"shop": make_bot(run, mode)}])
    desk.start()
    keys = Keys(store)
    text, _ = keys.make("Chủ tiệm", "owner")
    app = make_app(Settings(requests_a_minute=10_000), desk, store, {"shop": run})
    headers = {"Authorization": f"Bearer {text}", "X-Hoidap-Visitor": VISITOR}
    try:
        with TestClient(app, "http://127.0.0.1", headers=headers) as client:
            yield client
    finally:
        desk.close()


@pytest.fixture
def owner(run, store):
    with served(run, store) as client:
        yield client


@pytest.fixture(scope="module")
def shop(tmp_path_factory, base):
    """A server that several tests ask, and none changes."""
    folder = tmp_path_factory.mktemp("shared")
    store, run = Store.open(folder / "hoidap.db"), make_run(folder / "shop", base)
    with served(run, store) as client:
        yield client, run, store
    store.close()


def ask(client, question):
    """Return the last event of an answer, with its text."""
    response = client.post("/api/ask", json={"question": question})
    assert response.status_code == 200, response.text
    told = [json.loads(block[6:]) for block in response.text.split("\n\n") if block.startswith("data: ")]
    return told[-1] | {"text": "".join(one["text"] for one in told if one["type"] == "text")}


def write(client, question, answer, **more):
    response = client.put("/api/owner/answers", json={"bot": "shop", "question": question, "answer": answer, **more})
    assert response.status_code == 200, response.text
    return response.json()


ROUTES = [
    ("GET", "asked"),
    ("GET", "unanswered"),
    ("GET", "items"),
    ("GET", "export"),
    ("GET", "summary"),
    ("PUT", "answers"),
]


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_without_an_owner_s_key_nothing_is_told(shop, method, route):
    owner, run, store = shop
    chat, _ = Keys(store).make("Trang", "chat")
    body = {"json": {"bot": "shop", "question": "x", "answer": "y"}} if method == "PUT" else {}
    known = owner.headers["Authorization"]
    for sent, status in (
        ("", 401),
        (f"Bearer {chat}", 403),
        (known + "x", 401),
        (known.replace("Bearer ", ""), 401),
        (known.replace("Bearer", "Basic"), 401),
        ("Bearer", 401),
        ("Bearer ' OR 1=1 --", 401),
    ):
        response = owner.request(method, f"/api/owner/{route}", headers={"Authorization": sent}, **body)
        assert response.status_code == status, sent
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert status != 401 or response.headers["www-authenticate"] == "Bearer"
    for header in ("X-API-Key", "Api-Key", "Cookie"):
        response = owner.request(method, f"/api/owner/{route}", headers={"Authorization": "", header: known[7:]}, **body)
        assert response.status_code == 401
    assert (
        owner.request(method, f"/api/owner/{route}?key={known[7:]}", headers={"Authorization": ""}, **body).status_code
        == 401
    )
    assert run.additions() == []


def test_a_revoked_key_opens_nothing_more(owner, store):
    assert owner.get("/api/owner/asked").status_code == 200
    Keys(store).revoke(Keys(store).all()[0].id)
    assert owner.get("/api/owner/asked").status_code == 401


def test_a_new_answer_is_given_at_once_word_for_word_and_after_a_restart(owner, run, store):
    assert ask(owner, ROOM)["declined"]
    told = write(owner, f"  {ROOM} ", "Dạ có,\r\ntầng 2 ạ — **miễn phí**. ")
    answer = "Dạ có,\ntầng 2 ạ — **miễn phí**."
    assert told == {
        "question": ROOM, "answer": answer, "wordings": [], "added": True, "served": True, "noted": True,
    }  # fmt: skip
    for question in (ROOM, ROOM.lower(), "tiem co phong ve cho tre em khong", "Tiệm có phòng vẽ cho trẻ em không ạ"):
        end = ask(owner, question)
        assert (end["text"], end["corrected"], end["declined"]) == (answer, True, False), question
        assert end["source"] == {"question": ROOM, "answer": answer}
    with served(run, store) as later:
        assert ask(later, ROOM)["text"] == answer


def test_a_bot_that_is_loaded_from_the_folder_gives_what_was_added(run, base):
    shutil.copytree(base.folder, run.folder / "model")
    run.save_grounds(Grounds.build(ITEMS, [[] for _ in ITEMS]))
    run.add(Item(ROOM, "Dạ có.", ("chỗ cho con nít tô màu",)))
    bot = load(run.folder, device="cpu")
    for mode in ("checked", "verbatim"):
        for question in (ROOM, "cho cho con nit to mau"):
            answer = bot.answer(question, mode=mode)
            assert (answer.text, answer.is_corrected) == ("Dạ có.", True)
    assert bot.answer(ROOM, mode="model").text != "Dạ có."
    assert "".join(bot.stream(ROOM)) == "Dạ có."


def test_a_new_answer_takes_the_place_of_an_earlier_one_to_the_same_question(owner, run):
    write(owner, ROOM, "Dạ có.", wordings=["phòng vẽ trẻ em"])
    write(owner, ROOM.upper(), "Dạ hết rồi.")
    assert ask(owner, ROOM)["text"] == "Dạ hết rồi."
    assert ask(owner, "phong ve tre em?")["text"] == "Dạ hết rồi."
    assert len(run.additions()) == 1


def test_other_ways_to_ask_are_taught_with_the_answer(owner):
    wordings = ["bé nhà mình vẽ tranh được ko", "chỗ cho con nít | tô màu", " ", ROOM]
    told = write(owner, ROOM, "Dạ có.", wordings=wordings)
    assert told["wordings"] == ["bé nhà mình vẽ tranh được ko", "chỗ cho con nít tô màu"]
    assert ask(owner, "be nha minh ve tranh duoc ko")["text"] == "Dạ có."
    assert ask(owner, "chỗ cho con nít tô màu?")["text"] == "Dạ có."


def test_an_item_s_answer_can_be_for_other_questions_too(owner, run, store):
    wordings = ["bé nhà mình vẽ tranh được ko", "chỗ cho con nít tô màu"]
    told = write(owner, ITEMS[1].question, "Nội thành 30.000đ.", wordings=wordings)
    assert (told["question"], told["wordings"], told["added"], told["served"]) == (ITEMS[1].question, wordings, False, True)
    for question in (ITEMS[1].question, *wordings):
        assert ask(owner, question)["text"] == "Nội thành 30.000đ."
    with served(run, store) as later:
        assert ask(later, wordings[1])["text"] == "Nội thành 30.000đ."


def test_what_was_taught_with_an_earlier_answer_is_given_the_later_one(owner, run):
    write(owner, ROOM, "Dạ có.", wordings=["chỗ cho con nít tô màu"])
    write(owner, ROOM, "Dạ hết rồi.", wordings=["bé nhà mình vẽ tranh được ko", "Chỗ cho con nít tô màu?"])
    assert len(run.additions()) == 1
    assert len(run.additions()[0].wordings) == 2
    for question in ("chỗ cho con nít tô màu", "bé nhà mình vẽ tranh được ko"):
        assert ask(owner, question)["text"] == "Dạ hết rồi."


def test_an_answer_to_an_item_s_question_corrects_that_item(owner, run, store):
    assert ask(owner, ITEMS[1].question)["text"] == ITEMS[1].answer
    told = write(owner, "phí giao hàng nội thành bao nhiêu", "Nội thành 30.000đ.")
    assert (told["question"], told["added"], told["served"]) == (ITEMS[1].question, False, True)
    end = ask(owner, "phi giao hang noi thanh bao nhieu")
    assert (end["text"], end["corrected"]) == ("Nội thành 30.000đ.", True)
    assert run.corrections() == {ITEMS[1].question: "Nội thành 30.000đ."}
    assert run.additions() == []
    with served(run, store) as later:
        assert ask(later, ITEMS[1].question)["text"] == "Nội thành 30.000đ."


def test_other_questions_are_answered_as_before(owner):
    before = {item.question: ask(owner, item.question)["text"] for item in ITEMS}
    write(owner, "Giá ghế 140 cm bao nhiêu?", "Ghế 140 cm giá 1.200.000đ.")
    write(owner, "Có nhận chuyển khoản không?", "Dạ có, Vietcombank.")
    assert {item.question: ask(owner, item.question)["text"] for item in ITEMS} == before
    assert ask(owner, "gia ghe 140 cm bao nhieu")["text"] == "Ghế 140 cm giá 1.200.000đ."
    assert "1.200.000" not in ask(owner, "Giá ghế 160 cm bao nhiêu?")["text"]


def test_a_question_near_an_addition_is_offered_it(owner):
    write(owner, ROOM, "Dạ có.")
    end = ask(owner, "phòng vẽ trẻ em có mấy phòng?")
    assert end["declined"]
    assert end["near"][0] == ROOM
    assert f"– {ROOM}" in end["text"]


def test_in_the_mode_model_it_says_that_the_answer_is_not_served(run, store):
    with served(run, store, "model") as owner:
        told = write(owner, ROOM, "Dạ có.")
        assert (told["added"], told["served"]) == (True, False)
    assert [item.answer for item in run.additions()] == ["Dạ có."]


BAD = [
    {"question": "", "answer": "x"}, {"question": "x", "answer": " \n "}, {"question": "\x00", "answer": "x"},
    {"question": "x", "answer": "#N/A"}, {"question": "x", "answer": "x\ufffd"}, {"question": "x" * 4001, "answer": "x"},
    {"question": "x", "answer": "x" * 32_769}, {"question": "x"}, {"answer": "x"}, {"question": 1, "answer": "x"},
    {"question": "x", "answer": ["x"]}, {"question": "x", "answer": "x", "path": "/etc"},
    {"question": "x", "answer": "x", "wordings": ["w"] * 51}, {"question": "x", "answer": "x", "wordings": ["#REF!"]},
    {"question": "Tr­êng", "answer": "häc phÝ lµ bao nhiªu, tr­êng"},
]  # fmt: skip


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
def test_what_the_data_s_reader_would_refuse_is_refused(shop, body):
    owner, run, _ = shop
    response = owner.put("/api/owner/answers", json={"bot": "shop", **body})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]
    assert (run.additions(), run.corrections()) == ([], {})


def test_a_lone_surrogate_is_refused(shop):
    owner, run, _ = shop
    body = b'{"bot": "shop", "question": "\\ud800", "answer": "x"}'
    response = owner.put("/api/owner/answers", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert run.additions() == []


@pytest.mark.parametrize("bot", ["casino", "../shop", "", "x" * 300])
def test_a_bot_that_is_not_here_is_refused(shop, bot):
    owner = shop[0]
    for route in ("asked", "unanswered", "items", "export", "summary"):
        assert owner.get(f"/api/owner/{route}", params={"bot": bot}).status_code == 404
    assert owner.put("/api/owner/answers", json={"bot": bot, "question": "x", "answer": "y"}).status_code in {400, 404}


def test_where_two_items_have_the_question_it_is_told_which_cannot_be_meant(tmp_path, base, store):
    twins = [ITEMS[0], Item("Còn cuối tuần?", "Đến 21h."), Item("Còn cuối tuần?", "Có ship.", (), (Turn("Ship?", "Có."),))]
    run = make_run(tmp_path / "twins", base, twins)
    with served(run, store) as owner:
        response = owner.put("/api/owner/answers", json={"bot": "shop", "question": "còn cuối tuần", "answer": "x"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "ambiguous_question"
    assert run.corrections() == {}


def test_with_a_folder_that_cannot_be_written_nothing_is_served_that_would_not_last(owner, monkeypatch):
    def fail(*_args):
        raise RunError("no room")

    monkeypatch.setattr(Run, "add", fail)
    response = owner.put("/api/owner/answers", json={"bot": "shop", "question": ROOM, "answer": "Dạ có."})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "cannot_be_kept")
    assert ask(owner, ROOM)["declined"]


def test_with_a_store_that_fails_an_answer_is_served_all_the_same(owner, monkeypatch):
    def fail(*_args, **_more):
        raise StoreError("locked")

    monkeypatch.setattr(asked_module, "note_answer", fail)
    told = write(owner, ROOM, "Dạ có.")
    assert (told["served"], told["noted"]) == (True, False)
    assert ask(owner, ROOM)["text"] == "Dạ có."


def test_the_owner_sees_what_was_asked(owner):
    ask(owner, "Mấy giờ mở cửa?")
    ask(owner, "Đội nào vô địch World Cup?")
    (declined,) = owner.get("/api/owner/asked", params={"filter": "declined", "bot": "shop"}).json()["turns"]
    assert (declined["question"], declined["declined"], declined["source"]) == ("Đội nào vô địch World Cup?", True, None)
    page = owner.get("/api/owner/asked", params={"limit": 1}).json()
    assert [turn["question"] for turn in page["turns"]] == ["Đội nào vô địch World Cup?"]
    page = owner.get("/api/owner/asked", params={"limit": 1, "before": page["next"]}).json()
    assert [turn["question"] for turn in page["turns"]] == ["Mấy giờ mở cửa?"]
    assert page["next"] is None
    assert page["turns"][0]["seconds"] >= page["turns"][0]["first_seconds"] >= 0
    found = owner.get("/api/owner/asked", params={"search": "vo dich"}).json()["turns"]
    assert [turn["question"] for turn in found] == ["Đội nào vô địch World Cup?"]
    summary = owner.get("/api/owner/summary", params={"days": 1}).json()
    assert (summary["asked"], summary["answered"], summary["declined"]) == (2, 1, 1)
    assert VISITOR not in owner.get("/api/owner/asked").text
    assert kept.hash_of(VISITOR) not in owner.get("/api/owner/asked").text


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "filter=all'", "before=x", "before=-1", "search=" + "x" * 201, "limit=1e9"]
)
def test_a_page_that_cannot_be_is_refused(shop, query):
    assert shop[0].get(f"/api/owner/asked?{query}").status_code == 400


@pytest.mark.parametrize("days", ["0", "-1", "nan", "inf", "1e308", "x"])
def test_days_that_cannot_be_are_refused(shop, days):
    assert shop[0].get(f"/api/owner/summary?days={days}").status_code == 400


def test_what_had_no_answer_is_grouped_until_it_has_one(owner):
    for question in (
        ROOM,
        "tiem co phong ve cho tre em khong",
        "Tiệm có phòng vẽ cho bé không?",
        "Đội nào vô địch World Cup?",
    ):
        assert ask(owner, question)["declined"]
    groups = owner.get("/api/owner/unanswered", params={"bot": "shop"}).json()["groups"]
    assert [group["size"] for group in groups] == [3, 1]
    assert sum(one["count"] for one in groups[0]["questions"]) == 3
    assert groups[0]["near"]
    assert [one["same"] for one in groups[0]["questions"]] == [True, False]
    write(owner, ROOM, "Dạ có.")
    left = [group["questions"] for group in owner.get("/api/owner/unanswered").json()["groups"]]
    cup, other = "Đội nào vô địch World Cup?", "Tiệm có phòng vẽ cho bé không?"
    assert left == [[{"question": question, "count": 1, "same": True}] for question in (cup, other)]
    write(owner, "Phòng vẽ cho trẻ em ở tầng mấy?", "Tầng 2 ạ.", wordings=[other])
    assert ask(owner, other)["text"] == "Tầng 2 ạ."
    left = [group["questions"] for group in owner.get("/api/owner/unanswered").json()["groups"]]
    assert left == [[{"question": cup, "count": 1, "same": True}]]


def test_the_items_are_shown_as_they_are_answered_now(owner):
    write(owner, ITEMS[1].question, "Nội thành 30.000đ.")
    write(owner, ROOM, "Dạ có.")
    found = owner.get("/api/owner/items").json()
    assert found["total"] == len(ITEMS) + 1
    by_question = {row["question"]: row for row in found["items"]}
    assert by_question[ROOM] == {"question": ROOM, "answer": "Dạ có.", "corrected": False, "added": True}
    assert by_question[ITEMS[1].question]["answer"] == "Nội thành 30.000đ."
    assert by_question[ITEMS[1].question]["corrected"]
    assert not by_question[ITEMS[0].question]["corrected"]
    found = owner.get("/api/owner/items", params={"search": "PHI giao"}).json()
    assert [row["question"] for row in found["items"]] == [ITEMS[1].question]
    assert owner.get("/api/owner/items", params={"search": "%"}).json()["total"] == 0
    assert len(owner.get("/api/owner/items", params={"limit": 2}).json()["items"]) == 2


def read_back(response, tmp_path):
    suffix = response.headers["content-disposition"].rpartition(".")[2]
    path = tmp_path / f"next.{suffix}"
    path.write_bytes(response.content)
    return read_items(path)


def test_the_next_version_is_read_back_as_the_corrected_and_added_items(owner, tmp_path):
    write(owner, ITEMS[1].question, "Nội thành 30.000đ,\nngoại thành 40.000đ.")
    write(owner, '=HYPERLINK("https://evil.example";"x")', '+84 900 "số" mới; gọi nhé')
    write(owner, "- Có gạch đầu dòng không?", "@tiem trên Zalo", wordings=["=1+1 bằng mấy", "gạch ngang"])
    write(owner, HELD_OUT[0].question, "Dời về 12 Thảo Điền.")
    response = owner.get("/api/owner/export")
    assert response.headers["content-disposition"].startswith('attachment; filename="shop.csv"')
    assert response.content.startswith("\ufeffcâu hỏi,trả lời,cách hỏi khác\r\n".encode())
    assert read_back(response, tmp_path) == [
        ITEMS[0],
        replace(ITEMS[1], answer="Nội thành 30.000đ,\nngoại thành 40.000đ."),
        *ITEMS[2:],
        Item('=HYPERLINK("https://evil.example";"x")', '+84 900 "số" mới; gọi nhé'),
        Item("- Có gạch đầu dòng không?", "@tiem trên Zalo", ("=1+1 bằng mấy", "gạch ngang")),
        Item(HELD_OUT[0].question, "Dời về 12 Thảo Điền."),
    ]


def test_no_cell_of_the_next_version_begins_as_a_formula(owner):
    for n, sign in enumerate("=+-@＝＋－＠"):
        write(owner, f"{sign}{n} câu hỏi", f"{sign}cmd|' /C calc'!A{n}", wordings=[f"{sign}cách khác {n}"])
    rows = list(csv.reader(io.StringIO(owner.get("/api/owner/export").content.decode("utf-8-sig"), newline="")))
    assert len(rows) == 1 + len(ITEMS) + len(HELD_OUT) + 8
    assert not [cell for row in rows for cell in row if cell[:1] in set("=+-@\t\r＝＋－＠") - {""}]


def test_held_out_items_stay_in_the_next_version(owner, tmp_path):
    assert read_back(owner.get("/api/owner/export"), tmp_path) == [*ITEMS, *HELD_OUT]


def test_data_that_csv_has_no_place_for_becomes_json_lines(tmp_path, base, store):
    items = [
        ITEMS[0],
        Item("Còn cuối tuần?", "Đến 21h.", (), (Turn("Mấy giờ?", "8h."),)),
        Item("Ghép?", "Có.", ("a | b\nc",)),
    ]
    run = make_run(tmp_path / "talks", base, items, [])
    with served(run, store) as owner:
        write(owner, ROOM, "Dạ có.")
        response = owner.get("/api/owner/export")
    assert 'filename="shop.jsonl"' in response.headers["content-disposition"]
    assert read_back(response, tmp_path) == [*items, Item(ROOM, "Dạ có.")]


CELL = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from('\n",;=+-@|'), min_size=1, max_size=30)


@given(st.lists(st.tuples(CELL, CELL, st.lists(CELL, max_size=2)), min_size=1, max_size=4))
@settings(max_examples=80, deadline=None)
def test_whatever_can_be_read_comes_back_from_a_version(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("version")
    first = folder / "first.jsonl"
    lines = [json.dumps({"question": q, "answer": a, "wordings": w}) for q, a, w in rows]
    first.write_text("\n".join(lines), encoding="utf-8")
    try:
        items = read_items(first)
    except DataError:
        return
    suffix, content = write_version(items)
    (folder / f"next{suffix}").write_bytes(content)
    assert read_items(folder / f"next{suffix}") == items


def test_corrections_of_an_item_that_is_gone_are_left_out():
    assert next_version(ITEMS[:1], [], {"Câu cũ?": "x"}, []) == ITEMS[:1]


def test_a_folder_s_name_in_any_script_makes_a_file_name(tmp_path, base, store):
    run = make_run(tmp_path / "shop", base)
    desk = Desk([lambda: {'tiệm "Mộc"\n': make_bot(run)}])
    desk.start()
    text, _ = Keys(store).make("Chủ", "owner")
    app = make_app(Settings(), desk, store, {'tiệm "Mộc"\n': run})
    with TestClient(app, "http://127.0.0.1", headers={"Authorization": f"Bearer {text}"}) as owner:
        shown = owner.get("/api/owner/export").headers["content-disposition"]
    desk.close()
    assert shown == "attachment; filename=\"ti-m-M-c-.csv\"; filename*=UTF-8''ti%E1%BB%87m%20%22M%E1%BB%99c%22%0A.csv"


def test_additions_are_kept_whole_and_bounded(run, monkeypatch):
    run.add(Item(ROOM, "Dạ có.", ("phòng vẽ",)))
    run.add(Item("Câu hai?", "Hai."))
    run.add(Item(ROOM.upper(), "Dạ hết."))
    assert run.additions() == [Item("Câu hai?", "Hai."), Item(ROOM.upper(), "Dạ hết.")]
    monkeypatch.setattr("hoidap.run._MOST_ADDITIONS", 2)
    run.add(Item("Câu hai?", "Hai mới."))
    with pytest.raises(RunError, match="it takes 2"):
        run.add(Item("Câu ba?", "Ba."))
    with pytest.raises(RunError, match="correct that one"):
        run.add(Item(ITEMS[0].question.lower(), "x"))


def test_additions_that_cannot_be_read_are_named_and_not_written_over(run):
    path = run.folder / "additions.jsonl"
    path.write_text('{"question": "x"\n', encoding="utf-8")
    with pytest.raises(RunError, match=r"additions\.jsonl"):
        run.add(Item("Câu?", "Đáp."))
    assert path.read_text(encoding="utf-8") == '{"question": "x"\n'


LONG = "Bàn gỗ sồi chân sắt có ngăn kéo loại dài 120 cm giá bao nhiêu?"
ADDED = Added(
    [Item("Có bán ghế không?", "Có."), Item("Phí giao hàng đi Đà Nẵng?", "40.000đ."), Item("Giá phòng đơn?", "1 triệu.")],
    [
        Item("Phí giao hàng đi Huế bao nhiêu?", "50.000đ."),
        Item("Bàn 120 cm giá bao nhiêu?", "2 triệu.", ("ban 1m2 nhiu",)),
        Item(LONG, "5 triệu."),
        Item("Ship tới Đà Nẵng bao nhiêu tiền?", "70.000đ."),
    ],
)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Phí giao hàng đi Huế bao nhiêu?", "50.000đ."),
        ("phi giao hang di hue bao nhieu", "50.000đ."),
        ("Phí giao hàng đi Huế là bao nhiêu ạ", "50.000đ."),
        ("ban 1m2 nhiu", "2 triệu."),
        (LONG.replace("giá", "thì giá"), "5 triệu."),
        (LONG.replace("120", "140"), None),
        ("Phí giao hàng đi Đà Nẵng bao nhiêu?", None),
        ("Phí giao hàng đi Vinh bao nhiêu?", None),
        ("ship toi da lat bao nhieu tien", None),
        ("ship toi da nang bao nhieu tien", "70.000đ."),
        ("ship tới đà nẵng bao nhiêu tiền ạ", "70.000đ."),
        ("ship tới Đà Nẵng bao nhieeu tiền?", "70.000đ."),
        ("Phí giao hàng?", None),
        ("Không giao hàng đi Huế?", None),
        ("Bàn 140 cm giá bao nhiêu?", None),
        ("Bạn 120 cm giá bao nhiêu?", None),
        ("Bán 120 cm giá bao nhiêu?", None),
        ("Bàn 120 cm hết giá bao nhiêu?", None),
        ("", None),
        ("🙂", None),
        ("x" * 10_000, None),
    ],
)
def test_an_addition_is_given_where_it_is_surely_asked_for(question, answer):
    found = ADDED.find(question)
    assert (found.answer if found else None) == answer


def test_an_addition_is_offered_where_it_is_nearest():
    assert ADDED.near("phí giao hàng đi Huế nhanh").answer == "50.000đ."
    assert ADDED.near("giá phòng đơn tháng này") is None
    assert Added([], []).near("x") is Added([], []).find("x") is None
