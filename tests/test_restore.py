"""Diacritics that a question was typed without come back from the items' own words, and nothing else of it changes."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoidap.errors import RunError
from hoidap.ground.restore import Restorer
from hoidap.text import fold, nfc

TEXTS = [
    "Phí giao hàng nội thành bao nhiêu?",
    "Nội thành 25.000đ, đơn từ 500.000đ được miễn phí giao hàng.",
    "Giá một hộp trà sen bao nhiêu?",
    "Tiệm mở cửa từ 8h30, đóng cửa lúc 20h30 ạ.",
    "Đặt bánh trước mấy ngày?",
    "Mẹ mua má phanh, mã đơn là ma trận.",
    "ship nội thành hết bao nhiêu vậy",
    "may gio mo cua, phi ship bao nhieu",  # typed without: teaches nothing
]
RESTORER = Restorer.build(TEXTS)
# Words of the texts, and whatever else a keyboard or a program may send.
TYPED = st.lists(st.sampled_from([*" ".join(TEXTS).split(), *fold(" ".join(TEXTS)).split()]) | st.text(max_size=12)).map(
    " ".join
)


@pytest.mark.parametrize(
    ("typed", "restored"),
    [
        ("phi giao hang noi thanh bao nhieu", "phí giao hàng nội thành bao nhiêu"),
        ("PHI GIAO HANG", "PHÍ GIAO HÀNG"),
        ("Dat banh truoc may ngay?", "Đặt bánh trước mấy ngày?"),
        ("gia  1 hop tra\nsen,25.000d!!", "giá  1 hộp trà\nsen,25.000d!!"),  # numbers with letters are left alone
        ("phí giao hang", "phí giao hàng"),  # partly typed without
        ("ship bao nhieu vay", "ship bao nhiêu vậy"),
        ("xyz quoc te", "xyz quoc te"),  # in no item
        ("mà", "mà"),  # it has its mark already
        ("🙂 ban phi giao?", "🙂 ban phí giao?"),
        ("", ""),
        ("?!", "?!"),
    ],
)
def test_marks_come_back_and_the_rest_stays(typed, restored):
    assert RESTORER.restore(typed) == restored


def test_the_neighbour_tells_which_form_is_meant():
    assert RESTORER.restore("ma tran") == "ma trận"
    assert RESTORER.restore("ma phanh") == "má phanh"
    assert RESTORER.restore("ma don") == "mã đơn"


def test_the_word_behind_tells_as_well_as_the_word_before():
    restorer = Restorer.build(["hàng mới", "hàng mới", "hàng mới", "hang động"])
    assert restorer.restore("hang") == "hàng"
    assert restorer.restore("hang dong") == "hang động"


def test_a_text_without_marks_teaches_nothing():
    assert Restorer.build(["phi ship"]).forms == {}
    assert RESTORER.restore("gio") == "gio"


def test_both_places_of_a_tone_mark_are_one_form():
    restorer = Restorer.build(["hoà bình", "hòa bình", "hoa hồng đỏ", "hoa hồng đỏ"])
    assert set(restorer.forms["hoa"]) == {"hòa", "hoa"}
    assert restorer.restore("hoa binh") == "hòa bình"


def test_decomposed_texts_are_read_and_asked_like_composed_ones():
    decomposed = Restorer.build([unicodedata.normalize("NFD", text) for text in TEXTS])
    assert decomposed == RESTORER
    assert RESTORER.restore(unicodedata.normalize("NFD", "phí giao hang")) == "phí giao hàng"


def test_a_word_that_stands_behind_one_alone_tells_that_one():
    # "báo" and "hồ" are the frequent forms, and what stands before them here is new.
    restorer = Restorer.build(["báo giá", "báo cáo", "báo tin", "hồ sơ", "hồ bơi", "bao lâu", "hộ chiếu", "làm giấy"])
    assert restorer.restore("lam ho chieu mat bao lau") == "làm hộ chiếu mat bao lâu"
    assert restorer.restore("bao") == "báo"


def test_one_number_is_as_good_as_another():
    restorer = Restorer.build(["Mẫu 250g giá rẻ", "gia đình", "gia hạn"])
    assert restorer.restore("gia 250g") == "gia 250g"
    assert restorer.restore("mau 1kg gia") == "mẫu 1kg giá"


def test_every_word_with_a_digit_is_kept_as_one(tmp_path):
    Restorer.build([f"mã A{n} giá {n}.000đ" for n in range(5000)]).save(tmp_path / "words.json")
    assert (tmp_path / "words.json").stat().st_size < 1000


def test_nothing_learned_restores_nothing():
    assert Restorer.build([]).restore("phi giao hang 2 hop") == "phi giao hang 2 hop"


@given(TYPED)
def test_no_letter_digit_or_sign_changes_but_for_its_marks(text):
    assert fold(RESTORER.restore(text)) == fold(nfc(text))
    assert [c.isupper() for c in RESTORER.restore(text)] == [c.isupper() for c in nfc(text)]


@given(TYPED)
def test_what_has_its_marks_keeps_them(text):
    for typed, restored in zip(nfc(text), RESTORER.restore(text), strict=True):
        assert typed.isascii() or restored == typed


@given(TYPED)
def test_what_was_restored_stays(text):
    once = RESTORER.restore(text)
    assert len(RESTORER.restore(once)) == len(once)


def test_what_lies_behind_a_thousand_characters_stays_as_it_was():
    restored = RESTORER.restore("giao hang " * 5000)
    assert restored.startswith("giao hàng " * 100)
    assert restored.endswith("giao hang " * 4899)


def test_what_was_learned_is_written_and_read(tmp_path):
    RESTORER.save(tmp_path / "words.json")
    assert Restorer.load(tmp_path / "words.json") == RESTORER


@pytest.mark.parametrize(
    "content",
    [
        None, b"", b"\xff", b"[]", b'{"a": 1}', b'{"a": {"b": "c"}}', b'{"a": {"b": 0}}', b'{"a": {"b": true}}',
        b'{"a": {"b": 1e400}}', b"[" * 100_000, json.dumps({"a": {"b": -1}}).encode(),
    ],
)  # fmt: skip
def test_a_damaged_file_says_what_to_do(content, tmp_path):
    if content is not None:
        (tmp_path / "words.json").write_bytes(content)
    with pytest.raises(RunError, match="`hoidap evaluate` writes it again"):
        Restorer.load(tmp_path / "words.json")


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("hoidap.ground.counts._MOST_BYTES", 10)
    RESTORER.save(tmp_path / "words.json")
    with pytest.raises(RunError, match="of 10 allowed"):
        Restorer.load(tmp_path / "words.json")
