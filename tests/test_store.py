"""What a server keeps: found again, bounded, deleted from the file itself; a full disk and a locked file are told of."""

import secrets
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, func, select, text, update

from hoidap.errors import StoreError
from hoidap.prompt import Turn as Said
from hoidap.serve import asked as asked_module
from hoidap.serve import conversations as kept
from hoidap.serve.conversations import FullError, NotFoundError, Outcome
from hoidap.serve.store import Store, search_of
from hoidap.serve.tables import Base, Conversation, Turn

LAN, MAI = kept.hash_of("a" * 32), kept.hash_of("b" * 32)


@pytest.fixture
def store(tmp_path):
    opened = Store.open(tmp_path / "hoidap.db", busy_seconds=0.05)
    yield opened
    opened.close()


def tell(store, question, answer="Dạ có ạ.", visitor=LAN, conversation=None, replaces=None, **outcome):
    begun = kept.begin(store, visitor, "shop", question, conversation, replaces)
    assert kept.finish(store, begun, Outcome(answer, **{"finish_reason": "stop", **outcome}))
    return begun


def titles(store, search="", visitor=LAN):
    return [found["title"] for found in kept.conversations(store, visitor, search)]


def count(store, table=Turn):
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(table))


def raw(path):
    """Return all bytes of a file and of what SQLite keeps beside it."""
    return b"".join(part.read_bytes() for part in path.parent.iterdir() if part.name.startswith(path.name))


def test_only_the_owner_of_the_file_may_read_it(tmp_path):
    path = tmp_path / "kept" / "hoidap.db"
    store = Store.open(path)
    tell(store, "Mấy giờ mở cửa?")
    modes = {part.name: stat.S_IMODE(part.stat().st_mode) for part in path.parent.iterdir()}
    store.close()
    assert modes == {"hoidap.db": 0o600, "hoidap.db-wal": 0o600, "hoidap.db-shm": 0o600}


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path):
    path = tmp_path / "hoidap.db"
    path.touch(mode=0o644)
    Store.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_connection_is_set_up_alike(store):
    wanted = {"journal_mode": "wal", "foreign_keys": 1, "secure_delete": 1, "busy_timeout": 50}
    with store.reading() as one, store.reading() as other, store.writing() as third:
        for session in (one, other, third):
            assert {name: session.execute(text(f"PRAGMA {name}")).scalar() for name in wanted} == wanted


def test_what_was_told_is_there_after_opening_again(tmp_path):
    store = Store.open(tmp_path / "hoidap.db")
    near = ["Phí giao hàng?"]
    begun = tell(
        store, "Có ship không?", "Dạ có.", source=("Giao hàng?", "Dạ có."), near=near, confidence=0.75, seconds=1.5
    )
    store.close()
    store = Store.open(tmp_path / "hoidap.db")
    found = kept.conversation(store, LAN, begun.conversation)
    store.close()
    turn = found["turns"][0]
    assert found["bot"] == "shop"
    assert found["title"] == "Có ship không?"
    assert (turn["question"], turn["answer"], turn["confidence"]) == ("Có ship không?", "Dạ có.", 0.75)
    assert turn["source"] == {"question": "Giao hàng?", "answer": "Dạ có."}
    assert (turn["near"], turn["rating"], turn["finish_reason"]) == (near, 0, "stop")


def first_step(path):
    """Make a file as the first step has it."""
    engine = create_engine(f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", "hoidap.serve:migrations")
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            text("INSERT INTO conversations VALUES (7, :id, :visitor, 'shop', 'Đổi trả', 1, 1)"),
            {"id": "c" * 32, "visitor": LAN},
        )
        row = {"id": "d" * 32, "question": "Đổi trong bao lâu?", "answer": "Bảy ngày ạ.", "now": time.time()}
        connection.execute(
            text(
                "INSERT INTO turns VALUES (3, :id, 7, 'shop', :question, :answer, 'stop', 0, 0, 0.5, NULL, '[]', 0, '', "
                "NULL, NULL, :now)"
            ),
            row,
        )
    engine.dispose()


def test_a_file_of_the_first_step_is_brought_up_to_date_with_what_it_holds(tmp_path):
    first_step(tmp_path / "hoidap.db")
    store = Store.open(tmp_path / "hoidap.db")
    assert titles(store, "bao lau") == titles(store, "doi tra") == titles(store, "bay ngay") == ["Đổi trả"]
    assert titles(store, "bao lau", MAI) == []
    kept.forget(store, LAN)
    assert titles(store) == []
    store.close()


def test_the_steps_make_what_the_tables_say(store):
    with store.reading() as session:
        context = MigrationContext.configure(session.connection())
        differences = compare_metadata(context, Base.metadata)
    own = [change for change in differences if "_words" not in str(change)]
    assert own == []


def test_a_file_of_a_newer_hoidap_is_refused(tmp_path):
    path = tmp_path / "hoidap.db"
    Store.open(path).close()
    with sqlite3.connect(path) as raw_file:
        raw_file.execute("UPDATE alembic_version SET version_num = '9999'")
    raw_file.close()
    with pytest.raises(StoreError, match=r"hoidap\.db is at step '9999'.*newer hoidap"):
        Store.open(path)


def test_what_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "hoidap.db"
    path.write_bytes(b"question,answer\n" * 1000)
    with pytest.raises(StoreError, match="cannot be read or written"):
        Store.open(path)
    assert path.read_bytes() == b"question,answer\n" * 1000


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path):
    with pytest.raises(StoreError, match=str(tmp_path)):
        Store.open(tmp_path)


def test_a_locked_file_is_told_of_and_can_still_be_read(tmp_path, store):
    begun = tell(store, "Mấy giờ mở cửa?")
    other = sqlite3.connect(tmp_path / "hoidap.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        tell(store, "Có ship không?")
    with pytest.raises(StoreError, match="locked"):
        kept.forget(store, LAN)
    assert len(kept.conversation(store, LAN, begun.conversation)["turns"]) == 1
    other.execute("ROLLBACK")
    other.close()
    tell(store, "Có ship không?")
    assert titles(store) == ["Có ship không?", "Mấy giờ mở cửa?"]


def test_a_full_file_is_told_of_and_nothing_is_half_kept(tmp_path):
    store = Store.open(tmp_path / "hoidap.db", most_bytes=400 * 1024)

    def fill():
        conversation = None
        for _ in range(100):
            conversation = tell(store, "Câu hỏi?", secrets.token_hex(8000), conversation=conversation).conversation

    with pytest.raises(StoreError, match="full"):
        fill()
    n_turns = count(store)
    assert n_turns > 3
    with store.reading() as session:
        unfinished = session.scalar(select(func.count()).where(Turn.finish_reason.is_(None)))
        assert session.execute(text("SELECT count(*) FROM turn_words")).scalar() == n_turns - unfinished
    kept.forget(store, LAN)
    tell(store, "Còn chỗ rồi?")
    assert titles(store) == ["Còn chỗ rồi?"]
    store.close()


LIMITED = """
import resource, sys
from pathlib import Path
from hoidap.errors import StoreError
from hoidap.serve import conversations as kept
from hoidap.serve.conversations import Outcome
from hoidap.serve.store import Store
store = Store.open(Path(sys.argv[1]))
begun = kept.begin(store, "lan", "shop", "Trước khi đầy?")
kept.finish(store, begun, Outcome("Dạ.", "stop"))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
try:
    for n in range(200):
        begun = kept.begin(store, "lan", "shop", f"Câu {n}?", begun.conversation)
        kept.finish(store, begun, Outcome("dài " * 5000, "stop"))
    print("never full")
except StoreError as error:
    print("told:", error)
print(len(kept.conversations(store, "lan")))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
begun = kept.begin(store, "lan", "shop", "Sau khi có chỗ?")
print(kept.finish(store, begun, Outcome("Dạ.", "stop")))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no RLIMIT_FSIZE")
def test_a_disk_that_takes_no_more_is_told_of_and_the_next_turn_is_kept_once_there_is_room(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "hoidap.db")], capture_output=True, text=True, check=True, timeout=60
    )
    told, listed, again = done.stdout.strip().split("\n")
    assert told.startswith("told: what the server keeps cannot be read or written")
    assert (listed, again) == ("1", "True")


def test_a_search_finds_words_without_their_marks_and_with_them(store):
    tell(store, "Học phí ngành Đông phương học bao nhiêu?", "Mười triệu đồng.")
    tell(store, "Mấy giờ mở cửa?", "Tám giờ ạ.")
    for search in ("hoc phi", "HỌC PHÍ", "học phí", "dong phuong", "Đông", "trieu", "MƯỜI", "hoc ph", "phí học"):
        assert titles(store, search) == ["Học phí ngành Đông phương học bao nhiêu?"], search
    assert titles(store, "đóng cửa") == titles(store, "cửa hàng") == []
    assert titles(store, "giờ") == ["Mấy giờ mở cửa?"]
    assert len(titles(store, "   ")) == 2


def test_a_search_finds_text_that_was_typed_decomposed(store):
    tell(store, unicodedata.normalize("NFD", "Phí giao hàng?"), "Đồng giá.")
    assert len(titles(store, "phí")) == len(titles(store, unicodedata.normalize("NFD", "Hàng đồng"))) == 1


def test_a_renamed_conversation_is_found_by_its_new_title_alone(store):
    begun = tell(store, "Câu hỏi đầu", "Trả lời.")
    kept.rename(store, LAN, begun.conversation, "Chuyện đổi trả")
    assert titles(store, "chuyen") == titles(store, "dau") == ["Chuyện đổi trả"]  # the question is still there
    kept.rename(store, LAN, begun.conversation, "Khác")
    assert titles(store, "chuyen") == []


def test_nobody_finds_what_another_visitor_asked(store):
    begun = tell(store, "Mật khẩu wifi là gì?", visitor=MAI)
    assert titles(store, "wifi") == titles(store) == []
    assert titles(store, MAI) == titles(store, f'whose : "{MAI}"') == []
    assert titles(store, "wifi", MAI) == ["Mật khẩu wifi là gì?"]
    for attempt in (
        lambda: kept.conversation(store, LAN, begun.conversation),
        lambda: kept.rename(store, LAN, begun.conversation, "x"),
        lambda: kept.remove(store, LAN, begun.conversation),
        lambda: kept.rate(store, LAN, begun.turn, 1, ""),
        lambda: kept.past(store, LAN, begun.conversation),
        lambda: kept.begin(store, LAN, "shop", "x", begun.conversation),
        lambda: kept.begin(store, LAN, "shop", "x", begun.conversation, begun.turn),
    ):
        with pytest.raises(NotFoundError):
            attempt()
    assert kept.forget(store, LAN) == 0
    assert len(kept.conversation(store, MAI, begun.conversation)["turns"]) == 1


SYNTAX = (
    '"',
    "'",
    "*",
    "a*",
    "^a",
    "a OR",
    "NOT",
    "NEAR(a b, 2)",
    "question:a",
    "{question}: a",
    "a AND (",
    "--",
    ";",
    "\0",
)


@pytest.mark.parametrize("search", [*SYNTAX, '"; DROP TABLE turns; --', "\ud800", "½²", "🙂", "a" * 5000, "x " * 5000])
def test_no_search_is_taken_for_syntax(store, search):
    tell(store, "Near or not?", "a and b")
    titles(store, search)
    asked_module.asked(store, None, "all", search)
    assert count(store) == 1


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    store = Store.open(tmp_path_factory.mktemp("shared") / "hoidap.db")
    tell(store, "Học phí?", "Dạ có.")
    yield store
    store.close()


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_can_be_searched_for(shared, search):
    match = search_of(search, LAN)
    assert titles(shared, search) in ([], ["Học phí?"])
    assert match is None or match.startswith(f'whose : "{LAN}" AND ("')


def test_words_that_sqlite_takes_for_its_own_are_found_as_words(store):
    tell(store, "Không AND có OR NOT NEAR")
    assert titles(store, "and or not near") == ["Không AND có OR NOT NEAR"]
    assert titles(store, "NOT vang") == []


PERSONAL = "Bà Nguyễn Thị Mật, 0912 345 678"


def test_what_a_visitor_deletes_is_gone_from_the_bytes_of_the_file(tmp_path, store):
    path = tmp_path / "hoidap.db"
    conversation = None
    for n in range(40):
        begun = tell(store, f"{PERSONAL} hỏi {n} matkhau{n}", f"Chào {PERSONAL}", conversation=conversation)
        conversation = begun.conversation
        tell(store, f"Câu của người khác {n}", visitor=MAI)
    kept.rename(store, LAN, begun.conversation, f"Chuyện của {PERSONAL}")
    kept.rate(store, LAN, begun.turn, -1, f"Gọi {PERSONAL}")
    needles = [PERSONAL.encode(), "Mật".encode(), b"matkhau7", b"0912", b"mat, 0912", LAN.encode()]
    assert all(needle in raw(path) for needle in needles)
    assert kept.forget(store, LAN) == 1
    left = raw(path)
    assert [needle for needle in needles if needle in left] == []
    assert "Câu của người khác 7".encode() in left
    assert len(titles(store, "nguoi khac", MAI)) == 40


def test_a_deleted_conversation_is_gone_from_the_bytes_of_the_file(tmp_path, store):
    stays = tell(store, "Câu hỏi ở lại")
    goes = tell(store, f"{PERSONAL} hỏi", f"matkhau {PERSONAL}")
    kept.remove(store, LAN, goes.conversation)
    left = raw(tmp_path / "hoidap.db")
    assert not any(needle in left for needle in (PERSONAL.encode(), b"matkhau", b"0912", goes.turn.encode()))
    assert stays.turn.encode() in left
    with pytest.raises(NotFoundError):
        kept.conversation(store, LAN, goes.conversation)


def test_what_was_deleted_while_somebody_read_is_gone_from_the_log_once_that_ends(tmp_path, store):
    tell(store, f"{PERSONAL} hỏi")
    with store.reading() as session:
        session.execute(text("SELECT 1 FROM turns")).all()
        kept.forget(store, LAN)
        store.tidy()
        assert PERSONAL.encode() in raw(tmp_path / "hoidap.db")
    store.tidy()
    assert PERSONAL.encode() not in raw(tmp_path / "hoidap.db")


def test_what_was_kept_for_long_enough_is_deleted_when_the_file_is_opened(tmp_path):
    path = tmp_path / "hoidap.db"
    store = Store.open(path)
    old = tell(store, f"{PERSONAL} hỏi lâu rồi")
    both = tell(store, "Câu cũ bí mật")
    new = tell(store, "Câu mới", conversation=both.conversation)
    with store.writing() as session:
        ago = time.time() - 31 * 86_400
        session.execute(update(Turn).where(Turn.id.in_((old.turn, both.turn))).values(created=ago))
        session.execute(update(Conversation).where(Conversation.id == old.conversation).values(updated=ago))
    store.close()
    store = Store.open(path, keep_days=30)
    assert [turn["id"] for turn in kept.conversation(store, LAN, both.conversation)["turns"]] == [new.turn]
    assert len(titles(store)) == 1
    assert PERSONAL.encode() not in raw(path)
    store.close()


def test_what_is_young_enough_stays(tmp_path):
    store = Store.open(tmp_path / "hoidap.db", keep_days=1)
    begun = tell(store, "Câu hỏi")
    store.tidy()
    assert store.delete_before(time.time() - 3600) == 0
    assert len(kept.conversation(store, LAN, begun.conversation)["turns"]) == 1
    assert store.delete_before(time.time() + 1) == 1
    assert titles(store) == []
    store.close()


def test_a_replaced_turn_goes_with_all_behind_it(store):
    first = tell(store, "Câu một", "Đáp một")
    second = tell(store, "Câu hai", "Đáp hai", conversation=first.conversation)
    tell(store, "Câu ba", "Đáp ba", conversation=first.conversation)
    assert kept.past(store, LAN, first.conversation, second.turn).turns == (Said("Câu một", "Đáp một"),)
    tell(store, "Câu hai sửa", "Đáp mới", conversation=first.conversation, replaces=second.turn)
    turns = kept.conversation(store, LAN, first.conversation)["turns"]
    assert [turn["question"] for turn in turns] == ["Câu một", "Câu hai sửa"]
    assert titles(store, "dap ba") == []
    assert titles(store, "dap moi") == ["Câu một"]
    with pytest.raises(NotFoundError):
        kept.begin(store, LAN, "shop", "x", first.conversation, second.turn)


def test_a_turn_of_another_conversation_replaces_nothing(store):
    one, other = tell(store, "Câu một"), tell(store, "Câu hai")
    with pytest.raises(NotFoundError):
        kept.begin(store, LAN, "shop", "x", one.conversation, other.turn)
    assert count(store) == 2


def test_a_title_follows_its_first_question_until_it_was_given(store):
    begun = tell(store, "Mấy giờ mở")
    begun = tell(store, "Mấy giờ mở cửa?", conversation=begun.conversation, replaces=begun.turn)
    assert titles(store) == ["Mấy giờ mở cửa?"]
    kept.rename(store, LAN, begun.conversation, "Giờ giấc")
    tell(store, "Mấy giờ đóng?", conversation=begun.conversation, replaces=begun.turn)
    assert titles(store) == ["Giờ giấc"]


def test_the_bot_is_given_whole_answers_alone(store):
    begun = tell(store, "Một?", "Đáp một.")
    tell(store, "Hai?", "Đáp h", conversation=begun.conversation, finish_reason="cancelled")
    tell(store, "Ba?", "", conversation=begun.conversation, finish_reason="error")
    kept.begin(store, LAN, "shop", "Bốn?", begun.conversation)
    tell(store, "Năm?", "Đáp năm.", conversation=begun.conversation, finish_reason="length")
    assert kept.past(store, LAN, begun.conversation).turns == (Said("Một?", "Đáp một."), Said("Năm?", "Đáp năm."))


def test_a_turn_that_was_deleted_while_it_was_answered_is_not_kept(store):
    begun = kept.begin(store, LAN, "shop", "Câu hỏi?")
    kept.forget(store, LAN)
    assert kept.finish(store, begun, Outcome("Dạ.", "stop")) is False
    assert titles(store, "da") == []


def test_answers_are_cut_and_conversations_and_turns_are_bounded(store, monkeypatch):
    monkeypatch.setattr(kept, "MOST_TURNS", 3)
    monkeypatch.setattr(kept, "MOST_CONVERSATIONS", 4)
    begun = tell(store, "Dài?", "x" * 40_000)
    assert len(kept.conversation(store, LAN, begun.conversation)["turns"][0]["answer"]) == kept.MOST_ANSWER
    for _ in range(2):
        last = tell(store, "Nữa?", conversation=begun.conversation)
    with pytest.raises(FullError, match="3 turns"):
        kept.begin(store, LAN, "shop", "Quá?", begun.conversation)
    with pytest.raises(FullError, match="3 turns"):
        kept.past(store, LAN, begun.conversation)
    tell(store, "Thay?", conversation=begun.conversation, replaces=last.turn)
    for n in range(5):
        tell(store, f"Chuyện {n}")
    assert titles(store) == ["Chuyện 4", "Chuyện 3", "Chuyện 2", "Chuyện 1"]
    assert titles(store, "dai") == []


def test_a_long_question_makes_a_short_title():
    assert kept.title_of("  Mấy giờ\n\nmở   cửa? ") == "Mấy giờ mở cửa?"
    assert len(kept.title_of("dài " * 100)) <= 80


def test_threads_that_write_at_once_lose_nothing(tmp_path):
    store = Store.open(tmp_path / "hoidap.db", busy_seconds=20)

    def ask(visitor):
        conversation = None
        for n in range(10):
            conversation = tell(store, f"Câu {n}", f"Đáp {visitor} {n}", visitor, conversation).conversation
        return kept.conversation(store, visitor, conversation)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, map(kept.hash_of, map(str, range(8)))))
    assert all([turn["question"] for turn in one["turns"]] == [f"Câu {n}" for n in range(10)] for one in found)
    assert count(store) == 80
    store.close()


def test_two_that_open_a_new_file_at_once_both_get_it(tmp_path):
    path, stores = tmp_path / "hoidap.db", []
    begin = threading.Barrier(2)

    def open_store():
        begin.wait()
        stores.append(Store.open(path, busy_seconds=20))

    threads = [threading.Thread(target=open_store) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tell(stores[0], "Câu hỏi?")
    assert titles(stores[1]) == ["Câu hỏi?"]
    for store in stores:
        store.close()


def test_what_was_asked_comes_page_by_page_each_turn_once(store):
    begun = [tell(store, f"Câu {n}", visitor=(LAN, MAI)[n % 2], seconds=float(n % 4)) for n in range(11)]
    for only, wanted in (
        ("all", [turn.turn for turn in reversed(begun)]),
        ("slow", [begun[n].turn for n in sorted(range(11), key=lambda n: (-(n % 4), -n))]),
    ):
        found, cursor = [], None
        for _ in range(6):
            page, cursor = asked_module.asked(store, "shop", only, before=cursor, limit=3)
            found += [turn["id"] for turn in page]
            if cursor is None:
                break
        assert found == wanted


def test_what_was_asked_can_be_narrowed(store):
    down = tell(store, "Dở?", "Không hay")
    kept.rate(store, LAN, down.turn, -1, "sai giá")
    declined = tell(store, "Lạ?", declined=True)
    corrected = tell(store, "Sửa?", corrected=True)
    kept.begin(store, LAN, "shop", "Đang trả lời?")
    by = {
        only: [turn["id"] for turn in asked_module.asked(store, None, only)[0]]
        for only in ("all", "declined", "down", "corrected")
    }
    assert by == {
        "all": [corrected.turn, declined.turn, down.turn],
        "declined": [declined.turn],
        "down": [down.turn],
        "corrected": [corrected.turn],
    }
    assert [turn["comment"] for turn in asked_module.asked(store, "shop", search="khong hay")[0]] == ["sai giá"]
    assert asked_module.asked(store, "other")[0] == asked_module.asked(store, None, search="?!")[0] == []


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1e9", "٣", "9" * 40, "1_2_3", "1 OR 1"])
def test_a_cursor_that_no_page_gave_is_refused(store, cursor):
    with pytest.raises(asked_module.CursorError):
        asked_module.asked(store, None, before=cursor)
    if cursor != "1_2_3":
        with pytest.raises(asked_module.CursorError):
            asked_module.asked(store, None, "slow", before=cursor)


def test_the_summary_counts_and_measures(store):
    for n in range(20):
        begun = tell(store, f"Câu {n}", first_seconds=float(n + 1), declined=n < 5, corrected=n == 19)
        if n < 3:
            kept.rate(store, LAN, begun.turn, 1 if n else -1, "")
    tell(store, "Dừng", finish_reason="cancelled")
    assert asked_module.summary(store, "shop", 30) == {
        "asked": 21, "declined": 5, "answered": 15, "corrected": 1, "up": 2, "down": 1,
        "median_first_seconds": 11.0, "p95_first_seconds": 19.0, "days": 30,
    }  # fmt: skip
    assert asked_module.summary(store, "other", 30)["median_first_seconds"] is None
