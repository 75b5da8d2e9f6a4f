"""Variants are what customers type, mean the same, leave numbers and addresses alone, and are the same on every machine."""

import csv
import random
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hoidap.errors import RecipeError
from hoidap.text import fold, nfc
from hoidap.variants.families import FAMILIES, variants
from hoidap.variants.keystrokes import bare, misplaced, mistyped, off, typed
from hoidap.variants.phrasing import rephrased
from hoidap.variants.politeness import more_or_less_polite, parts
from hoidap.variants.teencode import codes, shorten
from hoidap.variants.words import rewrite, words

EXAMPLE = Path(__file__).parent.parent / "examples" / "cua-hang.csv"
TELEX = {"ă": "aw", "â": "aa", "ê": "ee", "ô": "oo", "ơ": "ow", "ư": "uw", **{v: v for v in "aeiouy"}}
VNI = {"ă": "a8", "â": "a6", "ê": "e6", "ô": "o6", "ơ": "o7", "ư": "u7", **{v: v for v in "aeiouy"}}
TONES = {
    "": ("", ""),
    "\u0301": ("s", "1"),
    "\u0300": ("f", "2"),
    "\u0309": ("r", "3"),
    "\u0303": ("x", "4"),
    "\u0323": ("j", "5"),
}
VOWELS = [(vowel, tone) for vowel in TELEX for tone in TONES]
FIXED = (
    "15",
    "0900 000 216",
    "200.000đ",
    "30/4, 1/5",
    "a.b@tiem.vn",
    "https://tiem.vn/đơn?mã=7",
    "tiem.example",
    "C/O",
    "#sale",
    "½",
)

PINNED = {
    "no-diacritics": "phi giao hang di tinh la bao nhieu?",
    "partly-bare": "Phí giao hang di tỉnh là bao nhieu?",
    "telex": "Phis giao hangf đi tỉnh là bao nhiêu?",
    "vni": "Phí giao ha2ng d9i tỉnh là bao nhiêu?",
    "marks": "Phí giao hàng đi tỉnh là bao nhieu?",
    "teencode": "Phí ship đi tỉnh là bn?",
    "particles": "Dạ cho em hỏi phí giao hàng đi tỉnh là bao nhiêu?",
    "phrasing": "Giao hàng đi tỉnh hết bao nhiêu tiền?",
    "case": "phí giao hàng đi tỉnh là bao nhiêu",
    "typo": "Phí giao hàng đi tỉh là bao nhiêu?",
}

VIETNAMESE = (
    "Tôi có thể",
    "muốn",
    "shop ơi",
    "Cho hỏi",
    "giá bao nhiêu",
    "khi nào",
    "không",
    "thì sao",
    "để",
    "ạ",
    "Đặt hàng",
)
TRICKY = (
    "15",
    "200.000đ",
    "30/4, 1/5",
    "a@b.vn",
    "https://x.vn",
    "TP.HCM",
    "?",
    ",",
    "  ",
    "\n",
    "😀",
    "e\u0302\u0301",
    "ß",
    "ŉ",
)
pieces = st.sampled_from((*VIETNAMESE, *TRICKY, "İ", "Ð", "²", "三", "\u0301"))
asked = st.text(max_size=500) | st.lists(pieces, max_size=30).map(" ".join)
many = settings(max_examples=200, deadline=None)


def made(question, family, seeds=range(60)):
    return {variant.text for seed in seeds for variant in variants(question, seed, [family])}


def questions():
    with EXAMPLE.open(encoding="utf-8", newline="") as file:
        return [row["câu hỏi"] for row in csv.DictReader(file)]


def numbers(text):
    return [c for c in text if c.isnumeric()]


# Telex and VNI


@pytest.mark.parametrize(("vowel", "tone"), VOWELS)
def test_every_vowel_with_every_tone_is_typed_as_the_tables_say(vowel, tone):
    telex, vni = TONES[tone]
    for last in (True, False):
        assert typed(nfc(vowel + tone), "telex", tone_last=last) == TELEX[vowel] + telex
        assert typed(nfc(vowel + tone), "vni", tone_last=last) == VNI[vowel] + vni
        assert (
            typed(nfc(vowel + tone).upper(), "telex", tone_last=last) == TELEX[vowel][0].upper() + TELEX[vowel][1:] + telex
        )
        assert typed(nfc("t" + vowel + tone).upper(), "vni", tone_last=last) == ("t" + VNI[vowel] + vni).upper()


@pytest.mark.parametrize(
    ("word", "telex", "vni"),
    [
        ("trường", "truwowngf", "tru7o7ng2"),
        ("được", "dduwowcj", "d9u7o7c5"),
        ("Đặt", "Ddawtj", "D9a8t5"),
        ("ĐƯỜNG", "DDUWOWNGF", "D9U7O7NG2"),
        ("nghiêng", "nghieeng", "nghie6ng"),
        ("quyển", "quyeenr", "quye6n3"),
        ("khuỷu", "khuyur", "khuyu3"),
        ("hoà", "hoaf", "hoa2"),
        ("hòa", "hoaf", "hoa2"),
        ("Ở", "Owr", "O73"),
        ("ship", "ship", "ship"),
        ("café", "cafes", "cafe1"),
        ("Ðà", "Ddaf", "D9a2"),  # U+00D0
    ],
)
def test_words_are_typed_with_the_tone_last(word, telex, vni):
    assert (typed(word, "telex"), typed(word, "vni")) == (telex, vni)


def test_the_tone_may_be_typed_behind_its_vowel_in_either_style():
    assert typed("trường", "telex", tone_last=False) == "truwowfng"
    assert [typed(w, "telex", tone_last=False) for w in ("hòa", "hoà")] == ["hofa", "hoaf"]
    assert [typed(w, "vni", tone_last=False) for w in ("thúy", "thuý")] == ["thu1y", "thuy1"]


def test_both_horns_may_be_one_key():
    assert typed("trường", "telex", horn_once=True) == "truowngf"
    assert typed("ƯỚC", "vni", horn_once=True) == "UO7C1"
    assert typed("lưu", "telex", horn_once=True) == "luwu"


def test_a_tone_typed_twice_is_gone_and_leaves_its_key():
    assert "trươngf" in off("trường", "telex")
    assert "hang2" in off("hàng", "vni")
    assert off("ship", "telex") == []


@pytest.mark.parametrize("method", ["telex", "vni"])
def test_what_was_typed_reads_back_as_the_word(method):
    """A decoder that knows nothing of the encoder: marks behind a letter, the tone at the end."""
    table, column = (TELEX, 0) if method == "telex" else (VNI, 1)
    marks = {keys: letter for letter, keys in table.items() if len(keys) == 2} | {"dd" if method == "telex" else "d9": "đ"}
    tones = {keys[column]: tone for tone, keys in TONES.items() if tone}
    for word in ("trường", "được", "đặt", "hàng", "giữa", "nghiêng", "quyển", "phở", "những", "điểm", "ủy", "ấm", "mười"):
        keys = typed(word, method)
        tone = tones.get(keys[-1], "") if fold(word)[-1] != keys[-1] else ""
        plain = re.sub("|".join(marks), lambda m: marks[m.group()], keys[:-1] if tone else keys)
        assert plain == nfc(unicodedata.normalize("NFD", word).translate(dict.fromkeys(map(ord, filter(None, TONES)))))
        assert tone == "".join(c for c in unicodedata.normalize("NFD", word) if c in TONES)


# Marks and typos


def test_marks_are_missed_misplaced_or_of_the_next_key():
    assert {"trương", "truờng", "trưòng", "truòng", "trừơng", "trưởng"} == set(misplaced("trường"))
    assert "dược" in misplaced("được")
    assert {"hoà", "hoa", "hỏa"} == set(misplaced("hòa"))
    assert "khỏan" in misplaced("khoản")
    assert misplaced("quý") == ["quy", "quỹ"]
    assert misplaced("ship") == []


def test_a_closed_syllable_gets_no_tone_that_none_has():
    assert misplaced("mất") == ["mât", "mát"]
    assert set(misplaced("các")) == {"cac"}


def test_no_slip_makes_a_question_rude():
    assert "buồi" not in misplaced("buổi")
    assert "đĩ" not in [slip for kind in mistyped("đĩa") for slip in kind]


def test_typos_are_one_slip_of_a_finger():
    swapped, doubled, dropped, beside = mistyped("Tiệm")
    assert swapped == ["Itệm", "Tệim", "Timệ"]
    assert doubled == ["Ttiệm", "Tiệmm"]
    assert dropped == ["Tệm", "Tim", "Tiệ"]
    assert {"Yiệm", "Toệm", "Tiện"} <= set(beside)
    assert mistyped("mở") == mistyped("A4x") == mistyped("中文字") == []


# Every family


def test_every_question_of_the_example_has_variants_of_nearly_every_family():
    found = [{v.family for v in variants(q)} for q in questions()]
    assert min(map(len, found)) >= 7
    assert sum(map(len, found)) / len(found) > 9


@many
@given(asked, st.integers(0, 3))
def test_variants_of_any_text_keep_what_they_must(question, seed):
    found = variants(question, seed)
    texts = [v.text for v in found]
    assert len(set(texts)) == len(texts)
    assert [v.family for v in found] == sorted({v.family for v in found}, key=FAMILIES.index)
    for family, text in ((v.family, v.text) for v in found):
        assert text not in (question, nfc(question))
        assert text.strip()
        assert text == nfc(text)
        assert len(text) <= len(nfc(question)) + 60
        assert len(text.splitlines()) <= max(1, len(question.splitlines()))
        if family != "vni":  # its keys are digits
            assert numbers(text) == numbers(nfc(question))
        at = 0
        for token in (w.text for w in words(nfc(question)) if numbers(w.text)):
            assert token in text[at:]
            at = text.index(token, at) + len(token)


@many
@given(asked, st.integers(0, 3))
def test_decomposed_text_has_the_same_variants(question, seed):
    assert variants(unicodedata.normalize("NFD", question), seed) == variants(nfc(question), seed)


@pytest.mark.parametrize("fixed", FIXED)
@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_prices_addresses_and_codes_stay_as_they_are(family, fixed):
    texts = made(f"Shop ơi mình muốn hỏi {fixed}, còn hàng không và được giảm giá bao nhiêu?", family, range(25))
    assert texts
    assert all(fixed in text for text in texts)


def test_a_price_in_words_is_left_alone_by_slips():
    for family in ("telex", "vni", "marks", "typo"):
        assert all("năm trăm nghìn đồng" in text for text in made("Tầm năm trăm nghìn đồng mua gì được?", family))


def test_a_seed_gives_the_same_everywhere_and_another_seed_others():
    question = "Phí giao hàng đi tỉnh là bao nhiêu?"
    assert {v.family: v.text for v in variants(question, 1)} == PINNED
    assert all(len(made(question, family)) > 1 for family in FAMILIES)


def test_what_a_family_gives_does_not_hang_on_the_others():
    for question in questions()[:20]:
        together = variants(question, 3)
        assert together == [v for family in FAMILIES for v in variants(question, 3, [family])]
        kept = ("typo", "telex")
        assert [v for v in together if v.family in kept] == variants(question, 3, kept)


def test_a_family_that_does_not_exist_is_named():
    with pytest.raises(RecipeError, match=r"families of variants: emoji; there are no-diacritics, .*, typo"):
        variants("Có ship không?", 1, ["emoji", "typo"])


@pytest.mark.parametrize("question", ["", " ", "?", "...", "😀", "15", "\n\n"])
def test_a_question_without_words_has_no_slips(question):
    assert {v.family for v in variants(question)} <= {"case"}


def test_a_question_in_another_language_is_not_made_vietnamese():
    assert {v.family for seed in range(30) for v in variants("Do you deliver to Germany?", seed)} == {"case", "typo"}


def test_a_surrogate_half_does_not_stop_it():
    assert variants("Còn hàng không \ud800?")


# One by one


def test_without_diacritics_nothing_else_changes_but_case_and_the_question_mark():
    for question in questions():
        for text in made(question, "no-diacritics", range(8)):
            folded = " ".join(w if re.search(r"\d|TP", w) else fold(w) for w in question.split())
            assert text.lower().rstrip("?") == folded.lower().rstrip("?")
    assert made("ship COD", "no-diacritics") == set()
    assert bare("Đặt Ở ĐÂY, ưng 15 ü ł") == "Dat O DAY, ung 15 ü ł"


def test_partly_bare_leaves_some_marks_and_takes_some():
    question = "Phí giao hàng đi tỉnh là bao nhiêu?"
    for text in made(question, "partly-bare"):
        assert fold(text) == fold(question)
        kept = [a == b for a, b in zip(text.split(), question.split(), strict=True)]
        assert 2 < sum(kept) < 8  # "giao" and "bao" have none
    assert made("Giá sao?", "partly-bare") == set()


def test_slips_of_keys_leave_all_but_two_words():
    question = "Tiệm có giao hàng hỏa tốc vào buổi tối không?"
    for family in ("telex", "vni", "marks", "typo"):
        changed = [sum(a != b for a, b in zip(t.split(), question.split(), strict=True)) for t in made(question, family)]
        assert set(changed) == ({1} if family == "typo" else {1, 2})
    assert all(fold(text) == fold(question) for text in made(question, "marks"))


def test_case_and_punctuation():
    texts = made("Lễ 30/4, 1/5 có bán, có giao không?", "case")
    assert texts == {
        "lễ 30/4, 1/5 có bán, có giao không?",
        "lễ 30/4, 1/5 có bán, có giao không",
        "LỄ 30/4, 1/5 CÓ BÁN, CÓ GIAO KHÔNG?",
        "Lễ 30/4, 1/5 có bán,có giao không?",
        "Lễ 30/4, 1/5 có bán, có giao không??",
        "Lễ 30/4, 1/5 có bán, có giao không???",
        "Lễ 30/4, 1/5 có bán, có giao không ?",
    }
    assert made("còn hàng ko", "case") == {"CÒN HÀNG KO", "Còn hàng ko?"}


# Teencode


def test_the_list_is_in_order():
    rows = (Path(__file__).parent.parent / "hoidap/assets/teencode.tsv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "standard\tteencode"
    assert len(set(rows)) == len(rows)
    for row in rows[1:]:
        standard, code = row.split("\t")
        assert row == nfc(row).lower()
        assert standard.split(" ") == standard.split()
        assert code
        assert code.split(" ") == code.split()
        assert not numbers(row)


@pytest.mark.parametrize("standard", [s for s, found in codes().items() if found != (s,)])
def test_every_row_of_the_list_is_used(standard):
    texts = {shorten(f"Đó {standard} đó", random.Random(seed)) for seed in range(80)}
    assert {f"Đó {code} đó" for code in codes()[standard]} <= texts


@pytest.mark.parametrize("kept", ["vé hàng không", "trẻ em", "thôi việc"])
def test_words_of_another_sense_are_kept(kept):
    assert shorten(f"Cho xem {kept}", random.Random(1)) is None


def test_the_longest_phrase_counts_and_only_whole_words_do():
    assert made("Phí giao hàng ra sao?", "teencode") == {"Phí ship ra sao?"}
    assert made("Xem ở không.vn hay @không?", "teencode") == set()
    assert made("Hướng dẫn sử dụng đâu?", "teencode") == {"Hdsd đâu?"}


def test_behind_a_number_no_letter_makes_a_price():
    texts = made("Có loại dưới 200 không?", "teencode")
    assert "Có loại dưới 200 ko?" in texts
    assert "Có loại dưới 200 k?" not in texts
    assert "Còn hàng k?" in made("Còn hàng không?", "teencode")


def test_one_code_does_not_stand_for_two_words():
    assert all(text.lower().split().count("mk") < 2 for text in made("Mình quên mật khẩu?", "teencode"))
    assert all(text.lower().split().count("bh") < 2 for text in made("Bây giờ còn bảo hành không?", "teencode"))


def test_case_is_kept_and_bare_questions_get_bare_codes():
    assert made("ĐƯỢC ĐỔI CHỨ?", "teencode") == {"ĐC ĐỔI CHỨ?", "DC ĐỔI CHỨ?"}
    assert made("Được đổi chứ?", "teencode") == {"Đc đổi chứ?", "Dc đổi chứ?"}
    assert made("shop co ban ko", "teencode") == {"sop co ban ko"}


# Politeness


@pytest.mark.parametrize(
    ("question", "front", "body", "tail", "end"),
    [
        ("Shop ơi cho em hỏi phí ship bao nhiêu vậy ạ?", "Shop ơi cho em hỏi ", "phí ship bao nhiêu", " vậy ạ", "?"),
        ("Xin hỏi: mấy giờ đóng cửa ?", "Xin hỏi: ", "mấy giờ đóng cửa", "", " ?"),
        ("Dạ, có giao không ạ", "Dạ, ", "có giao không", " ạ", ""),
        ("Dạy nấu ăn ở đâu?", "", "Dạy nấu ăn ở đâu", "", "?"),
        ("Cho em xin địa chỉ với ạ", "", "Cho em xin địa chỉ", " với ạ", ""),
        ("Cho hỏi", "", "Cho hỏi", "", ""),
        ("?", "", "", "", "?"),
    ],
)
def test_a_question_is_taken_apart_from_its_politeness(question, front, body, tail, end):
    known = parts(question)
    assert (known.front, known.body, known.tail, known.end) == (front, body, tail, end)


@many
@given(asked)
def test_the_parts_of_any_text_are_the_text(question):
    assert str(parts(question)) == question


def test_politeness_is_added_around_the_question_and_before_the_question_mark():
    texts = made("Tiệm có giao hàng không?", "particles")
    assert {"Tiệm có giao hàng không ạ?", "Cho hỏi tiệm có giao hàng không?"} <= texts
    assert all("iệm có giao hàng không" in text for text in texts)
    assert all(text.endswith("?") for text in texts)


def test_politeness_is_dropped_too():
    texts = made("Cho em hỏi tiệm đóng cửa mấy giờ ạ?", "particles")
    assert texts == {
        "Tiệm đóng cửa mấy giờ?",
        "Tiệm đóng cửa mấy giờ ạ?",
        "Cho em hỏi tiệm đóng cửa mấy giờ?",
    }


def test_an_office_is_not_called_a_shop():
    assert any("Shop ơi" in text for text in made("Ly này giá bao nhiêu?", "particles"))
    for question in ("Thủ tục mua nhà ở xã hội thế nào?", "Nộp hồ sơ ở đâu?", "Cửa hàng của tôi nộp thuế gì?"):
        assert not any("shop" in text.lower() for text in made(question, "particles"))


def test_who_asks_stays_the_same_person_and_a_name_keeps_its_capital():
    assert not any("em hỏi" in text for text in made("Tôi có cần đặt cọc không?", "particles"))
    assert all("Hà Nội có" in text for text in made("Hà Nội có chi nhánh không?", "particles"))
    assert any("hỏi CCCD" in text for text in made("CCCD làm ở đâu?", "particles"))


def test_trouble_that_is_told_is_not_asked():
    assert made("Tôi không nhận được mã OTP?", "particles") == {
        "Ad ơi tôi không nhận được mã OTP?",
        "Ad ơi, tôi không nhận được mã OTP?",
        "Ad ơi tôi không nhận được mã OTP ạ?",
        "Ad ơi, tôi không nhận được mã OTP ạ?",
        "Tôi không nhận được mã OTP ạ?",
    }


def test_nobody_is_called_twice():
    for text in made("Ly này bao nhiêu tiền shop", "particles") | made("Ly này bao nhiêu tiền?", "particles"):
        assert text.lower().count("shop") <= 1


def test_capitals_and_bare_questions_get_no_politeness():
    for question in ("GIÁ BAO NHIÊU?", "gia bao nhieu"):
        assert more_or_less_polite(question, random.Random(1)) is None
        assert rephrased(question, random.Random(1)) is None


# Phrasing


@pytest.mark.parametrize(
    ("question", "others"),
    [
        ("Mấy giờ cửa hàng mở cửa?", {"Cửa hàng mở cửa mấy giờ?", "Cửa hàng mở cửa lúc mấy giờ?"}),
        ("Buổi trưa tiệm có nghỉ không?", {"Tiệm có nghỉ vào buổi trưa không?"}),
        ("Tiệm có giao vào buổi tối không?", {"Buổi tối tiệm có giao không?", "Bên mình có giao vào buổi tối không?"}),
        ("Làm sao để hủy đơn?", {"Muốn hủy đơn thì làm sao?", "Muốn hủy đơn thì làm thế nào?", "Làm thế nào để hủy đơn?"}),
        ("Muốn hủy đơn thì làm thế nào?", {"Làm sao để hủy đơn?", "Cách hủy đơn như thế nào?"}),
        ("Em muốn đổi lịch hẹn?", {"Làm sao để đổi lịch hẹn?", "Mình muốn đổi lịch hẹn?"}),
        ("Có thể trả góp không?", {"Trả góp được không?"}),
        ("Tôi có thể nộp đơn online không?", {"Tôi nộp đơn online được không?", "Tôi có thể nộp đơn trực tuyến không?"}),
        ("Tiệm gói quà giúp khách được không?", {"Tiệm có thể gói quà giúp khách không?"}),
        ("Tôi có phải đóng phí khi đổi hàng không?", {"Khi đổi hàng, tôi có phải đóng phí không?"}),
        ("Khi nhận hàng mình có được kiểm tra không?", {"Mình có được kiểm tra khi nhận hàng không?"}),
        ("Bình gốm giá bao nhiêu?", {"Giá bình gốm là bao nhiêu?", "Bình gốm bao nhiêu tiền?"}),
        ("Phí giao hàng đi tỉnh là bao nhiêu?", {"Giao hàng đi tỉnh hết bao nhiêu tiền?"}),
        ("Địa chỉ chi nhánh Thảo Điền là gì?", {"Chi nhánh Thảo Điền nằm ở đâu?"}),
        ("Tôi cần giấy tờ gì để làm thẻ?", {"Tôi muốn làm thẻ thì cần giấy tờ gì?", "Để làm thẻ, tôi cần giấy tờ gì?"}),
        ("Thủ tục đăng ký tạm trú?", {"Đăng ký tạm trú cần thủ tục gì?", "Thủ tục đăng ký tạm trú như thế nào?"}),
        ("Nếu đơn bị trễ thì sao?", {"Đơn bị trễ thì sao?"}),
        ("Tôi quên mã thì phải làm sao?", {"Phải làm sao nếu tôi quên mã?", "Nếu tôi quên mã thì phải làm sao?"}),
        ("Muốn góp ý thì gửi ở đâu?", {"Gửi ở đâu nếu muốn góp ý?"}),
        ("Cho hỏi muốn hủy đơn thì làm sao ạ?", {"Cho hỏi làm sao để hủy đơn ạ?"}),
        ("Khi nào có hàng lại?", {"Bao giờ có hàng lại?"}),
    ],
)  # fmt: skip
def test_the_same_is_asked_in_another_order_or_other_words(question, others):
    assert others <= made(question, "phrasing")


@pytest.mark.parametrize(
    "question",
    [
        "Khách nước ngoài trả bằng đô la được không?",  # no subject that "có thể" could follow
        "Mã giảm giá còn hạn không?",
        "Bảng lương của mình ra năm nào?",
        "Trẻ em học được không?",
        "Sản phẩm được làm vào khi nào?",  # khi nào at the end asks of the past
        "Sự thay đổi này tốt không?",
        "Cách 1 và cách 2 khác gì nhau?",
        "Tôi.",
    ],
)
def test_what_fits_no_pattern_is_left_alone(question):
    assert made(question, "phrasing") == set()


def test_words_of_several_senses_keep_theirs():
    assert made("Mình có được hỗ trợ khi gặp thiên tai không?", "phrasing") >= {
        "Khi gặp thiên tai, mình có được hỗ trợ không?"
    }
    assert not any("hỗ trợ được" in text for text in made("Có được hỗ trợ phí ship không?", "phrasing"))
    assert made("Tích điểm như thế nào?", "phrasing") == {"Tích điểm thế nào?"}
    assert made("Lỡ chuyển dư thì làm sao lấy lại?", "phrasing") == {"Làm sao lấy lại nếu lỡ chuyển dư?"}


def test_numbers_do_not_change_places():
    assert any(text.startswith("Khi đổi") for text in made("Tôi có phải trả phí khi đổi sau 7 ngày không?", "phrasing"))
    assert not any(text.startswith("Khi đổi") for text in made("Tôi có phải trả 50k khi đổi sau 7 ngày không?", "phrasing"))


# Words


def test_words_are_found_without_the_punctuation_around_them():
    found = words('"Trà sen", 15k/hộp (tiem.vn)?')
    assert [(w.text, w.is_fixed) for w in found] == [("Trà", False), ("sen", False), ("15k/hộp", True), ("tiem.vn", True)]
    assert rewrite("a b c", {words("a b c")[1]: "xyz"}) == "a xyz c"


@many
@given(asked)
def test_words_stand_where_they_say(text):
    for word in words(text):
        assert text[word.start : word.end] == word.text
    assert rewrite(text, {word: word.text for word in words(text)}) == text
