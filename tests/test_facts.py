"""The same fact in two writings is one value, a different fact another; nothing else in a text is a fact."""

import unicodedata
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hoidap.facts import facts_of, foreign_facts, missing_facts
from hoidap.text import fold, nfc

# Of each line, every writing is the same fact as every other, and different from those of every other line of its kind.
SAME = {
    "money": [
        ["1.500.000đ", "1,5 triệu", "1 triệu rưỡi", "1.500.000 VNĐ", "1500k", "1500 nghìn", "1tr5", "1 triệu 500 nghìn"],
        ["1.500.000đ", "một triệu rưỡi", "1.5 triệu", "1 triệu 500", "1tr500", "1,500,000 VND", "1.500.000₫", "1500000đ"],
        ["30k", "30.000 đồng", "30.000đ", "ba mươi nghìn", "30 ngàn", "30 K", "30000 vnd", "ba mươi ngàn đồng", "30 nghìn"],
        ["300.000đ", "3 trăm nghìn", "ba trăm nghìn đồng", "300k", "300 ngàn"],
        ["2 tỷ", "2.000.000.000 đồng", "2 tỉ đồng", "hai tỷ", "2000 triệu"],
        ["2,3 tỷ", "2 tỷ 300 triệu", "2 tỷ 3"],
        ["10 USD", "$10", "10$", "10 đô la", "10 usd"],
        ["25 nghìn", "hai mươi lăm nghìn", "25.000đ"],
        ["105.000đ", "một trăm lẻ năm nghìn"],
    ],
    "time": [
        ["8h", "8:00", "8 giờ", "08h00", "08:00", "tám giờ", "8 giờ sáng", "8h sáng", "8 AM", "8g00"],
        ["8h30", "8 giờ rưỡi", "8 giờ 30 phút", "8:30", "8 giờ 30", "08h30", "8g30", "8h30 sáng", "tám giờ rưỡi"],
        ["14h", "2 giờ chiều", "2h chiều", "14:00", "14 giờ", "2pm", "2:00 PM"],
        ["20h", "8 giờ tối", "8h tối", "20:00", "tám giờ tối"],
        ["8:45", "9 giờ kém 15", "8h45"],
        ["0:00", "12 giờ đêm", "0h"],
        ["12h trưa", "12:00", "12 giờ"],
        ["13h", "1 giờ trưa", "1h chiều"],
        ["24/7"],
    ],
    "date": [
        ["01/02/2026", "1-2-2026", "ngày 1 tháng 2 năm 2026", "1.2.2026", "2026-02-01", "1/2/26", "ngày 01/02/2026"],
        ["1/2", "01/02", "ngày 1 tháng 2", "ngày 1/2", "1 tháng 2"],
        ["2/1", "ngày 2 tháng 1"],
        ["2/1/2026", "ngày 2 tháng 1 năm 2026", "2/1 năm 2026"],
        ["tháng 2/2026", "tháng 2 năm 2026", "02/2026", "2-2026"],
        ["tháng 2", "tháng 02"],
        ["năm 2026", "Năm 2026"],
        ["mùng 5", "mồng 5", "ngày 5", "mùng năm"],
        ["29 tháng Chạp", "29 tháng chạp"],
        ["rằm tháng Giêng", "15 tháng Giêng", "rằm tháng giêng"],
        ["tháng 11 âm lịch"],
        ["tháng 11"],
    ],
    "weekday": [
        ["thứ Hai", "thứ 2", "Thứ hai", "T2"],
        ["thứ Bảy", "thứ 7", "t7"],
        ["chủ nhật", "Chủ Nhật"],
    ],
    "phone": [
        ["0901 234 567", "+84 901234567", "0901.234.567", "0901234567", "(+84) 901 234 567", "0901-234-567", "84901234567"],
        ["0901 234 568"],
        ["028 3000 2016", "(028) 3000 2016", "+84 28 3000 2016", "02830002016"],
        ["1900 1234", "19001234", "1900.1234", "1900-1234"],
        ["1800 545 415", "1800545415", "1800 54 54 15"],
    ],
    "percent": [
        ["10%", "10 %", "10 phần trăm", "mười phần trăm"],
        ["10,5%", "10.5%"],
        ["15%", "mười lăm phần trăm"],
        ["100%", "một trăm phần trăm"],
    ],
    "quantity": [
        ["3 ngày", "ba ngày", "03 ngày", "3ngày", "trong ba ngày"],
        ["5 ngày", "năm ngày", "trong năm ngày"],
        ["3 ngày làm việc", "ba ngày làm việc"],
        ["3 tuần", "ba tuần", "21 ngày"],
        ["1 năm", "12 tháng", "một năm"],
        ["18 tháng", "1 năm rưỡi", "mười tám tháng"],
        ["30 phút", "ba mươi phút", "nửa tiếng"],
        ["90 phút", "1 tiếng 30 phút", "1 tiếng rưỡi", "một tiếng rưỡi"],
        ["48 giờ", "48h", "48 tiếng"],
        ["1 kg", "1kg", "1000 g", "1.000 gam", "một ký", "1 KG"],
        ["100 g", "1 lạng", "100g"],
        ["350 ml", "0,35 lít", "350ml"],
        ["1,65 m", "1m65", "165 cm", "1.65m"],
        ["50 m²", "50m2", "50 mét vuông"],
        ["6 tuổi", "sáu tuổi"],
        ["10 MB", "10MB"],
        ["25°C", "25 độ", "25 độ C"],
        ["2 triệu tấn", "2.000.000 tấn"],
    ],
    "number": [
        ["2.000", "2000", "2,000"],
        ["2,5", "2.5"],
        ["1.500,75", "1,500.75"],
        ["12 món", "mười hai món", "12"],
        ["35", "ba mươi lăm người", "35 người"],
        ["21 bạn", "hai mươi mốt khách"],
        ["0,125"],
        ["2 triệu người", "2.000.000 người"],
    ],
    "link": [
        ["https://www.moc.vn/Don-Hang/", "moc.vn/Don-Hang", "http://MOC.vn/Don-Hang"],
        ["moc.vn", "www.moc.vn", "https://moc.vn/", "MOC.VN"],
        ["moc.vn/don-hang"],
        ["moc.com.vn"],
        ["https://moc.vn:8080/a?b=1#c", "moc.vn:8080/a?b=1#c"],
    ],
    "email": [["Chao@Moc.vn", "chao@moc.vn"], ["chao2@moc.vn"], ["chao.hoi+1@moc.com.vn"]],
    "account": [
        ["STK 1903 1234 5678 90", "số tài khoản: 19031234567890", "19031234567890"],
        ["mã số thuế 0312345678", "MST: 0312345678"],
        ["CCCD 001099012345", "001099012345"],
    ],
    "address": [
        ["số 12 ngõ 5 đường Láng", "Số 12, ngõ 5, đường Láng", "12 ngõ 5 Láng", "số nhà 12 ngõ 5 phố Láng"],
        ["số 12 ngõ 6 đường Láng"],
        ["46B/9 Tú Xương", "số 46b/9 đường Tú Xương", "46B/9 đường Tú Xương"],
        ["số 46B/9 Tú Mỡ"],
        ["144 đường Xuân Thuỷ", "số 144 Xuân Thủy"],
        ["145 đường Xuân Thuỷ"],
    ],
    "code": [["CHAO10", "chao10"], ["CHAO20"], ["123/2020/NĐ-CP", "123/2020/nđ-cp"], ["46B"], ["G8"]],
}
WRITINGS = [(kind, number, text) for kind, lines in SAME.items() for number, line in enumerate(lines) for text in line]
many = settings(max_examples=400, deadline=None)


def values(text):
    return [(fact.kind, fact.value) for fact in facts_of(text)]


@pytest.mark.parametrize(("kind", "number", "text"), WRITINGS)
def test_every_writing_is_one_fact_of_its_kind(kind, number, text):
    whole = f"Dạ, {text} ạ." if kind != "address" else f"Địa chỉ là {text}."
    assert values(text) == values(SAME[kind][number][0])
    assert [fact.kind for fact in facts_of(whole)] == [kind]
    assert values(whole) == values(text)
    fact = facts_of(whole)[0]
    assert whole[fact.start : fact.start + len(fact.text)] == fact.text
    assert fact.text in text


@pytest.mark.parametrize("kind", SAME)
def test_different_facts_have_different_values(kind):
    firsts = [line[0] for line in SAME[kind] if line[0] != "1.500.000đ"]
    for one, other in combinations(firsts, 2):
        assert values(one) != values(other), (one, other)
        assert missing_facts(one, other), (one, other)
        assert foreign_facts(one, other), (one, other)


@pytest.mark.parametrize("text", [text for kind, _, text in WRITINGS if kind not in {"link", "email", "code"}])
def test_case_and_normal_form_change_no_value(text):
    expected = values(text)
    assert values(unicodedata.normalize("NFD", text)) == expected
    if "đường" not in text and "ngõ" not in text:
        assert values(text.upper()) == expected


BARE = [
    ("2 trieu", "2 triệu"),
    ("1 trieu ruoi", "1 triệu rưỡi"),
    ("30 nghin", "30 nghìn"),
    ("30.000 dong", "30.000 đồng"),
    ("30.000d", "30.000đ"),
    ("gia 30.000đ a", "30.000đ"),
    ("8 gio", "8 giờ"),
    ("8 gio 30 phut", "8h30"),
    ("2 gio chieu", "14h"),
    ("8h toi 17h", "8h, 17h"),
    ("ngay 1 thang 2 nam 2026", "1/2/2026"),
    ("thang 2", "tháng 2"),
    ("10 phan tram", "10%"),
    ("3 ngay lam viec", "3 ngày làm việc"),
    ("ba tuan", "3 tuần"),
    ("hai muoi lam nghin", "25k"),
    ("tu 3 den 5 ngay", "3-5 ngày"),
    ("chu nhat", "chủ nhật"),
    ("so 12 ngo 5 duong Lang", "số 12 ngõ 5 đường Láng"),
]


@pytest.mark.parametrize(("bare", "marked"), BARE)
def test_text_without_diacritics_says_the_same(bare, marked):
    assert values(bare) == values(marked)
    assert values(bare)


RANGES = [
    ("3-5 ngày", ["3 ngày", "5 ngày"]),
    ("3–5 ngày làm việc", ["3 ngày làm việc", "5 ngày làm việc"]),
    ("từ 3 đến 5 ngày", ["3 ngày", "5 ngày"]),
    ("ba đến năm ngày", ["3 ngày", "5 ngày"]),
    ("3 hoặc 6 tháng", ["3 tháng", "6 tháng"]),
    ("30.000–70.000đ", ["30.000đ", "70.000đ"]),
    ("30-70k", ["30k", "70k"]),
    ("4-5 triệu đồng", ["4 triệu", "5 triệu"]),
    ("50.000đ đến 1 triệu", ["50.000đ", "1 triệu"]),
    ("10-15%", ["10%", "15%"]),
    ("1,4 × 2 m", ["1,4 m", "2 m"]),
    ("40x60cm", ["40 cm", "60 cm"]),
    ("9h00–18h00", ["9h", "18h"]),
    ("8-17h", ["8h", "17h"]),
    ("7–9 giờ tối", ["19h", "21h"]),
    ("14–16/8", ["14/8", "16/8"]),
    ("30/4-1/5", ["30/4", "1/5"]),
    ("15 đến 28 tháng Chạp", ["15 tháng Chạp", "28 tháng Chạp"]),
    ("từ ngày 5 đến ngày 10", ["ngày 5", "ngày 10"]),
    ("2018–2022", ["năm 2018", "năm 2022"]),
    ("thứ Hai đến thứ Sáu", ["thứ 2", "thứ 6"]),
    ("thứ 2 - 6", ["thứ 2", "thứ 6"]),
    ("T2–CN", ["thứ 2", "chủ nhật"]),
    ("thứ 7, CN", ["thứ 7", "chủ nhật"]),
    ("0901 234 567 - 0902 345 678", ["0901234567", "0902345678"]),
    ("size 38,39,40", ["38", "39", "40"]),
    ("1–5 sao", ["1", "5"]),
]


@pytest.mark.parametrize(("text", "parts"), RANGES)
def test_a_range_is_two_facts_with_what_stands_behind_it(text, parts):
    assert values(text) == [value for part in parts for value in values(part)]


NOTHING = [
    "",
    "Dạ, mình ghé giờ nào cũng có người tiếp nha.",
    "một chiếc áo đẹp, một người bạn",
    "mỗi năm một lần",  # "một" is no count here
    "năm nay, năm sau, hằng năm",
    "mỗi năm khách được tặng quà, trong năm người mua",
    "ba mẹ và các bạn",
    "sau ngày đó, trong năm",
    "ở TP.HCM, quận Ba",
    "hết hàng rồi ạ.Shop nhập sau nha.",
    "v.v. và A.B",
    "Mùng một tháng sau",
    "lần thứ hai, người thứ ba",
    "Gồm: 1. Đăng nhập\n2. Chọn mục\n3) Gửi.",
    "lúc nửa đêm, CN Tú Xương",
    "Thứ hai, mình cần giấy tờ.",
    "tám chuyện, bảy tỏ, chín muồi",
    "……………!!!???",
    "😀🎉",
    "sau ngay do, trong nam, bay ngay",  # typed bare these are "after", "year", "fly"
]


@pytest.mark.parametrize("text", NOTHING)
def test_what_asserts_nothing_has_no_fact(text):
    found = values(text)
    assert found == ([("date", "---01")] if text.startswith("Mùng") else [])


PLACES = [
    ("bảo hành 3 tháng", "tháng 3"),
    ("5 năm", "năm 5 ngày"),
    ("12 tháng", "tháng 12"),
    ("200 g", "200 gb"),
    ("3 ngày", "3 ngày làm việc"),
    ("3 ngày", "3 giờ"),
    ("1,5 triệu", "15 triệu"),
    ("1.500đ", "1.500.000đ"),
    ("10%", "10"),
    ("14h", "2h"),
    ("1/2/2026", "1/2/2025"),
    ("15 ký tự", "15 ký"),
    ("2 đồng hồ", "2 đồng"),
    ("quận 3", "quận 2"),
    ("46B", "46C"),
    ("số 10 đường Nguyễn Thị Minh Khai", "số 10 đường Nguyễn Thị Định"),
    ("12 đường Láng", "12 đường Láng Hạ"),
    ("ngày 5 tháng này", "ngày 6 tháng này"),
    ("GIẢM 3 NGÀY VÀNG", "GIẢM 4 NGÀY VÀNG"),
]


@pytest.mark.parametrize(("one", "other"), PLACES)
def test_what_looks_alike_is_not_the_same(one, other):
    assert missing_facts(one, other)


LOOSE = [
    ("Giá 145.000 ạ", "Giá 145.000đ ạ"),
    ("từ năm 2026", "từ 2026"),
    ("trong 2 giờ", "2 giờ"),
    ("giao trong vòng 2 tiếng", "giao trong 2h"),
    ("MST 0312345678", "0312345678"),
    ("144 Xuân Thuỷ Cầu Giấy Hà Nội", "số 144 Xuân Thủy, Cầu Giấy"),
    ("số 19 phố Lê Thánh Tông, quận Hoàn Kiếm", "ở 19 Lê Thánh Tông quận Hoàn Kiếm"),
    ("thứ Hai đến thứ Sáu, 8h–17h", "T2-T6: 8:00 - 17:00"),
    ("Zalo: 0901 234 567 (24/24)", "zalo 0901234567, 24h/24"),
]


@pytest.mark.parametrize(("said", "wanted"), LOOSE)
def test_a_word_left_out_makes_no_other_fact(said, wanted):
    assert missing_facts(said, wanted) == foreign_facts(said, wanted) == ()
    assert facts_of(said)


def test_missing_and_foreign_facts_of_an_answer():
    wanted = "Dạ, phí giao 25.000đ, đơn từ 500.000đ được miễn phí, 2–3 ngày tới. Gọi 0901 234 567 ạ."
    assert missing_facts(wanted, wanted) == ()
    said = "Phí ship 30k nha, đơn 500k freeship, khoảng hai đến ba ngày, gọi +84901234567 hoặc 0901234568, 30k thôi."
    assert [(fact.kind, fact.text) for fact in missing_facts(said, wanted)] == [("money", "25.000đ")]
    assert [(fact.kind, fact.text) for fact in foreign_facts(said, wanted)] == [("money", "30k"), ("phone", "0901234568")]
    assert len(missing_facts("", wanted)) == len(facts_of(wanted)) == 5


def test_the_most_special_kind_takes_its_place():
    text = "Gọi 0901234567 hoặc xem moc.vn/2026/01, mã CHAO10, số 46B/9 Tú Xương, ngày 1/2/2026 lúc 8h30, giá 1tr5/3 tháng."
    assert [fact.kind for fact in facts_of(text)] == [
        "phone", "link", "code", "address", "date", "time", "money", "quantity",
    ]  # fmt: skip


@pytest.mark.parametrize("digits", ["٣", "３"])
def test_digits_of_other_scripts_are_digits(digits):
    assert values(f"{digits} ngày") == values("3 ngày")


HOSTILE = [
    "1" * 100_000,
    "1." * 50_000,
    "1,2" * 40_000,
    "." * 100_000,
    "1 " * 50_000,
    "0 " * 50_000,
    "1/" * 50_000,
    "-" * 100_000,
    "1-" * 50_000,
    "a." * 50_000,
    "a@" * 50_000,
    "a" * 100_000,
    "a1" * 50_000,
    "một " * 25_000,
    "tỷ " * 30_000,
    "1 tỷ " * 20_000,
    "1 triệu 1 nghìn " * 6000,
    "năm " * 25_000,
    "ngày 1 tháng " * 8000,
    "số 1/1/1/1/1 ngõ " * 6000,
    "số tài khoản " * 8000,
    "1900 " * 20_000,
    "8h" * 50_000,
    "thứ hai đến " * 8000,
    "http://" * 14_000,
    "(" * 100_000,
    "đ" * 100_000,
    "\0" * 100_000,
    "e\u0302\u0301" * 30_000,
    "😀" * 50_000,
    " " * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:8]))
def test_hostile_text_is_read_to_its_bound(text):
    facts = facts_of(text)
    assert all(fact.start + len(fact.text) <= 32_768 for fact in facts)


PIECES = st.sampled_from([
    *"0123456789.,/-:%đ ()+@x\n\0", "triệu", "nghìn", "k", "tr", "giờ", "h", "ngày", "tháng", "năm", "ba", "mười", "rưỡi",
    "đến", "số", "ngõ", "đường", "Láng", "thứ", "hai", "0901", "1900", "kg", "m", "moc.vn", "STK", "lúc", "trong", "sáng",
    "Ấ", "ß", "İ", "\u0301", "½", "²", "😀", "gio", "trieu", "USD", "$", "phần trăm", "mùng", "Chạp", "CHAO10", "a@b.vn",
])  # fmt: skip
ANY_TEXT = st.lists(PIECES).map("".join) | st.lists(PIECES).map(" ".join) | st.text()


@many
@given(ANY_TEXT)
def test_facts_of_any_text_lie_in_it_in_order_and_apart(text):
    composed = nfc(text)
    end = 0
    for fact in facts_of(text):
        assert fact.start >= end
        end = fact.start + len(fact.text)
        assert composed[fact.start : end] == fact.text != ""
        assert fact.value


@many
@given(ANY_TEXT)
def test_normal_form_changes_no_fact(text):
    assert facts_of(unicodedata.normalize("NFD", text)) == facts_of(nfc(text))


@many
@given(ANY_TEXT, ANY_TEXT)
def test_no_text_lacks_what_it_says_itself(one, other):
    assert missing_facts(one, one) == ()
    assert foreign_facts(one, other) == missing_facts(other, one)
    assert set(missing_facts(one, other)) <= set(facts_of(other))


def test_number_words_up_to_a_thousand():
    for number in range(1, 1000):
        words = spoken(number)
        assert values(f"giá {words} nghìn đồng") == values(f"{number}.000đ"), words
        if not {"năm", "sáu", "bảy", "tám"} & set(words.split()):  # bare these may be "year", "after", "fly", "about"
            assert values(fold(f"giá {words} nghìn đồng")) == values(f"{number}.000đ"), words


def spoken(number):
    """Return a number below a thousand in words, as a textbook has it."""
    ones = ["", "một", "hai", "ba", "bốn", "năm", "sáu", "bảy", "tám", "chín"]
    hundreds, rest = divmod(number, 100)
    tens, one = divmod(rest, 10)
    words = [ones[hundreds], "trăm"] if hundreds else []
    if tens:
        words += ["mười"] if tens == 1 else [ones[tens], "mươi"]
        words += [{1: "một" if tens == 1 else "mốt", 5: "lăm"}.get(one, ones[one])] if one else []
    elif one:
        words += ["lẻ", ones[one]] if hundreds else [ones[one]]
    return " ".join(words)
