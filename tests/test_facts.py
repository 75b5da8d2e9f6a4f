"""What an answer asserts: each fact once, equal however it is written, different when it is another."""

import unicodedata
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hoidap.facts import facts_of, foreign_facts, missing_facts

# In each row every wording states the same facts.
EQUAL = {
    "money": [
        "1.500.000đ|1,5 triệu|1 triệu rưỡi|1tr5|1.500.000 VNĐ|1500k|1500 nghìn|1500 ngàn đồng|1 TRIỆU 500 nghìn",
        "30k|30.000 đồng|30 nghìn|30,000đ|30.000₫|ba mươi nghìn|30 ngan dong",
        "100-200k|100.000đ - 200.000đ|100 đến 200 nghìn|100–200 ngàn|100 toi 200k",
        "30-70.000đ|30.000–70.000đ",
        "2 trieu|hai triệu|2.000.000đ",
        "1,5 tỷ|1.500.000.000 đồng|1 tỷ 500 triệu",
        "1 triệu 500|1500 ngàn",
        "50 USD|50usd",
    ],
    "time": [
        "8h|8:00|8 giờ|08h00|tám giờ|8 giờ sáng|8 gio|8H",
        "8h30|8 giờ rưỡi|8 giờ 30 phút|8 giờ 30|8:30|8g30",
        "2 giờ chiều|14h|14:00",
        "8h tối|20h",
        "8-17h|8h-17h|8h tới 17h|từ 8 giờ đến 17 giờ",
    ],
    "date": [
        "01/02/2026|1-2-2026|ngày 1 tháng 2 năm 2026|1.2.2026|1/2/26|2026-02-01|ngay 1 thang 2 nam 2026",
        "1/2|ngày 1 tháng 2|01/02",
        "tháng 2/2026|2/2026|tháng 2 năm 2026|thang 02/2026",
        "14–16/8|14/8 - 16/8|ngày 14 đến 16 tháng 8",
    ],
    "phone": [
        "0901 234 567|+84 901234567|0901.234.567|090 123 4567|0901-234-567|+84 (0)901 234 567",
        "1900 1234|19001234",
        "(028) 3000 2016|028 3000 2016|02830002016",
    ],
    "percent": ["10%|10 phần trăm|10 %|10,0%", "5-10%|5% đến 10%|5 đến 10 phần trăm"],
    "number": [
        "3-5 ngày|3 đến 5 ngày|3 ngày - 5 ngày|3 tới 5 ngày|ba đến năm ngày",
        "ba ngày|3 ngày|BA NGÀY|03 ngày|3 ngay",
        "2 năm|hai năm|2 nam",
        "mười hai tháng|12 tháng",
        "30p|30 phút",
        "2 học kì|hai học kỳ",
        "2.000|2000|2 000",
        "2 triệu người|2.000.000 người",
        "1234 5678 9012|123456789012",
    ],
    "address": [
        "số 12 ngõ 5 đường Láng|SỐ 12 NGÕ 5 ĐƯỜNG LÁNG|12 ngõ 5 Láng|5/12 đường Láng|so 12 ngo 5 duong lang",
        "38/12 Xuân Thủy|38/12 xuan thuy|số 38/12 đường Xuân Thủy, phường An Khánh",
        "46B/9 Tú Xương|46b/9 tú xương|Số nhà 46B/9 Tú Xương phường Xuân Hòa",
        "số 12 đường 3/2|12 đường 3 tháng 2",
    ],
    "link": ["https://www.MocNhien.example/|mocnhien.example|http://mocnhien.example."],
    "email": ["Chao@MocNhien.example|chao@mocnhien.example"],
}
# In each row no two wordings state the same facts.
DIFFERENT = {
    "money": ["15.000đ|150.000đ|1.500.000đ|1tr05|1 triệu", "50 USD|50.000đ"],
    "time": ["8h|8h30|20h|8h03", "12 giờ trưa|12 giờ đêm"],
    "date": ["1/2|2/1|1/2/2026|2/2026|1/2/2025"],
    "phone": ["0901 234 567|0901 234 576|1900 1234"],
    "percent": ["10%|1%|10,5%|10"],
    "number": ["3 ngày|3 tháng|5 ngày|ngày 3", "2.000|2,5|2", "0071000123456|71000123456", "G1|G8|A1"],
    "address": ["số 12 ngõ 5 đường Láng|số 5 ngõ 12 đường Láng|số 12 đường Láng", "38/12 Xuân Thủy|38/12 Xuân Diệu"],
    "link": ["mocnhien.example|mocnhien.example/don-hang|mocnhien.vn"],
    "email": ["chao@mocnhien.example|si@mocnhien.example"],
}
ANY_TEXT = st.text() | st.text(
    st.sampled_from([*"0123456789 .,/:-–hđk%+()@số ngàyđếntriệugiờ\u0301\u0323İŉ²🙂\0"]), max_size=60
)
many = settings(max_examples=300, deadline=None)


def values(text):
    return [(fact.kind, fact.value) for fact in facts_of(text)]


def rows(table):
    return [pytest.param(kind, row.split("|"), id=row) for kind, listed in table.items() for row in listed]


@pytest.mark.parametrize(("kind", "wordings"), rows(EQUAL))
def test_one_fact_in_other_words_is_the_same_fact(kind, wordings):
    first = values(wordings[0])
    assert first
    assert {found for found, _ in first} == {kind}
    assert {wording: values(wording) for wording in wordings} == dict.fromkeys(wordings, first)


@pytest.mark.parametrize(("kind", "wordings"), rows(DIFFERENT))
def test_another_fact_is_not_the_same_fact(kind, wordings):
    assert kind in {found for found, _ in values(wordings[0])}
    for one, other in combinations(wordings, 2):
        assert missing_facts(one, other)
        assert foreign_facts(one, other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Dạ được ạ, mình ghé giờ nào cũng có người tiếp 🙂", []),
        ("sau ngày 5, thứ Bảy lẫn Chủ nhật", ["5"]),
        ("mỗi năm trường tuyển một phần", []),
        ("3 ngân hàng, dưới 80 đối với năm đầu", ["3", "80"]),
        ("quận 3, lầu 1 chi nhánh Tú Xương", ["3", "1"]),
        ("bé dưới 10 kg, 2 món và 15 ký tự", ["10 kg", "2 mon", "15 ky tu"]),
        ("trước 15 tháng Chạp, tháng 11 âm lịch", ["15", "11"]),
        ("giờ 8h 30/4 và 2/9 Tiệm nghỉ", ["8:00", "30/4", "2/9"]),
        ("14h30/16h", ["14:30", "16:00"]),
        ("12 tháng 5 lần, 10 tháng 12 triệu", ["12 thang", "5 lan", "10 thang", "12000000"]),
        ("Giá từ 30.000–70.000đ/giờ", ["30000", "70000"]),
        ("đơn từ 1965-1966 tới 99/99", ["1965", "1966", "99", "99"]),
    ],
)
def test_a_sentence_states_these_facts(text, expected):
    assert [fact.value for fact in facts_of(text)] == expected


def test_missing_and_foreign_facts_are_those_that_only_one_text_states():
    said, wanted = "Phí 25k, giao trong 3 ngày.", "Phí giao 25.000đ, 3-5 ngày tới nơi."
    assert [fact.value for fact in missing_facts(said, wanted)] == ["5 ngay"]
    assert foreign_facts(said, wanted) == ()
    assert [fact.text for fact in foreign_facts("Phí 52k", wanted)] == ["52k"]


def test_a_fact_says_where_and_how_it_was_written():
    text = "Giờ mở cửa: 8 giờ rưỡi, phí 100–200K"
    assert [(fact.start, fact.text) for fact in facts_of(unicodedata.normalize("NFD", text))] == [
        (text.index("8 giờ"), "8 giờ rưỡi"),
        (text.index("100"), "100–200K"),
        (text.index("100"), "100–200K"),
    ]


@many
@given(ANY_TEXT)
def test_any_text_has_facts_in_order_that_do_not_overlap(text):
    found = facts_of(text)
    composed = unicodedata.normalize("NFC", text)
    spans = sorted({(fact.start, fact.start + len(fact.text)) for fact in found})
    assert [fact.start for fact in found] == sorted(fact.start for fact in found)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert all(fact.value and composed[fact.start :].startswith(fact.text) for fact in found)


@many
@given(ANY_TEXT)
def test_decomposed_text_states_the_same_facts_and_a_text_lacks_none_of_its_own(text):
    assert facts_of(unicodedata.normalize("NFD", text)) == facts_of(text)
    assert missing_facts(text, text) == foreign_facts(text, text) == ()


@pytest.mark.parametrize(
    "piece", ["1", "1.", "1/", " ", "số ", "số 1 ", "1 ", "a.a@", "1-", "mười ", "0901 ", "số 1 A A ", "1:"]
)
def test_long_hostile_text_is_read(piece):
    facts = facts_of(piece * (100_000 // len(piece)))
    assert all(fact.start < 32_768 for fact in facts)
    assert bool(facts) == ("1" in piece or "@" in piece)
