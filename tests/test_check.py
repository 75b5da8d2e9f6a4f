"""A file is examined before training: every kind of fault is found with file and line, a clean file is left alone."""

import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from hoidap.base import find_base
from hoidap.check.examination import Report, examine
from hoidap.check.finding import Finding, shown, where
from hoidap.check.kinds import KINDS
from hoidap.data.read import read_contents, read_items
from hoidap.errors import DataError
from hoidap.prompt import PHOGPT_7B5_INSTRUCT

MINI = find_base("mini")
EXAMPLE = Path(__file__).parent.parent / "examples" / "cua-hang.csv"
CLEAN = [
    ("Tiệm mở cửa lúc mấy giờ?", "Dạ, từ 8 giờ sáng ạ.", "may gio mo cua"),
    ("Phí giao hàng bao nhiêu?", "Nội thành 25.000đ ạ.", ""),
    ("Bánh mì có loại chay không?", "Dạ có, bánh mì nấm ạ.", ""),
]


def examined(path: Path, base=MINI) -> Report:
    return examine(path, base, Console(quiet=True))


def csv_file(folder: Path, rows, name="shop.csv") -> Path:
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    path = folder / name
    path.write_text("\n".join(["câu hỏi,trả lời,cách hỏi khác", *lines]) + "\n", encoding="utf-8")
    return path


def found(folder: Path, *rows, base=MINI) -> dict[str, list[Finding]]:
    """Return by kind what is found in the clean rows with some behind them: these stand from line 5 on."""
    padded = [(*row, "")[:3] for row in rows]
    return examined(csv_file(folder, [*CLEAN, *padded]), base).by_kind()


def lines_of(findings: list[Finding]) -> list[tuple[int, ...]]:
    return [finding.lines for finding in findings]


def test_the_example_is_clean(tmp_path):
    report = examined(EXAMPLE)
    assert (report.n_rows, report.n_items, report.count("error"), report.count("warning")) == (120, 120, 0, 0)
    assert set(report.by_kind()) == {"joined-questions", "phone-answered", "e-mail-answered"}
    assert found(tmp_path) == {}


# What training refuses


def test_refused_rows_are_shown_and_the_good_ones_are_still_examined(tmp_path):
    kinds = found(tmp_path, ("Có bán trà không?", ""), ("\u0007", "ạ"), ("Có trà sen không?", "TODO"))
    assert lines_of(kinds["refused"]) == [(5,), (6,)]
    assert kinds["refused"][0].what("vi") == "câu trả lời bỏ trống"
    assert kinds["refused"][0].what("en") == "the answer is empty"
    assert lines_of(kinds["no-answer"]) == [(7,)]


def test_what_check_refuses_is_what_reading_refuses(tmp_path):
    path = csv_file(tmp_path, [*CLEAN, ("a", ""), ("Tr\xadêng §¹i häc", "Hµ Néi"), ("#N/A", "b"), ("c", "d\u0001")])
    contents = read_contents(path)
    with pytest.raises(DataError) as caught:
        read_items(path)
    assert [problem for problem in caught.value.problems if "TCVN3" not in problem] == contents.problems
    assert contents.old == {4: "tcvn3"}
    assert contents.refused == {3, 5, 6}
    kinds = examined(path).by_kind()
    assert lines_of(kinds["refused"]) == [(5,), (7,), (8,)]
    assert lines_of(kinds["old-encoding"]) == [(6,), (6,)]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("shop.csv", "hỏi gì,đáp gì\na,b\n", (1,)),
        ("shop.csv", "", (1,)),
        ("shop.csv", "câu hỏi,trả lời\n", ()),
        ("shop.json", "{]", (1,)),
        ("shop.csv", b"\xff\xfe\x00", ()),
        ("shop.txt", "a", ()),
    ],
)
def test_a_file_that_cannot_be_read_is_one_refusal(tmp_path, name, content, line):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    report = examined(path)
    assert set(report.by_kind()) == {"refused"}
    assert report.findings[0].lines == line
    assert report.n_items == 0


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        examined(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("cells", "vietnamese"),
    [
        (("", "b"), "câu hỏi bỏ trống"),
        (("a", "#REF!"), "câu trả lời là #REF!, lỗi của Excel; sửa lại công thức"),
        (("a", "x" * 40_000), "câu trả lời có 40,000 ký tự; nhiều nhất 32,768"),
        (("a", "b", "c", "d"), "4 ô dưới 3 cột; ô có ',' phải đặt trong \"ngoặc kép\""),
        (("a", "b\ufffd"), "câu trả lời có ký tự U+FFFD không bàn phím nào gõ ra; có phải do chuyển mã?"),
        (("a", "b", "c\u0086x"), "một cách hỏi khác có ký tự U+0086 không bàn phím nào gõ ra; có phải do chuyển mã?"),
    ],
)
def test_refusals_are_told_in_vietnamese(tmp_path, cells, vietnamese):
    (refusal,) = examined(csv_file(tmp_path, [*CLEAN, cells])).by_kind()["refused"]
    assert refusal.what("vi") == vietnamese
    assert refusal.lines == (5,)


def test_an_item_that_does_not_fit_is_an_error(tmp_path):
    long = "Quy trình bảo hành gồm nhiều bước. " * 200
    (finding,) = found(tmp_path, ("Bảo hành ra sao?", long), ("Bảo hành?", "Dạ, " + "có ạ. " * 100))["too-long"]
    assert finding.lines == (5,)
    assert "1,024" in finding.what("vi")
    wide = replace(MINI, config=replace(MINI.config, max_seq_len=8192))
    assert "too-long" not in found(tmp_path, ("Bảo hành ra sao?", long), base=wide)


def test_length_is_counted_as_training_counts_it(tmp_path):
    path = csv_file(tmp_path, [("Đọc giúp số này?", "ạ " * 300)])
    tokenizer = MINI.tokenizer()
    from hoidap.data.fit import count_tokens

    n_tokens = count_tokens(read_items(path)[0], tokenizer, MINI.template)
    for most, is_long in ((n_tokens - 1, True), (n_tokens, False)):
        base = replace(MINI, config=replace(MINI.config, max_seq_len=most))
        assert ("too-long" in examined(path, base).by_kind()) == is_long


def test_conversations_are_an_error_for_a_base_of_single_questions(tmp_path):
    turns = [
        {"role": r, "content": c}
        for r, c in (("user", "a b"), ("assistant", "c d"), ("user", "e f"), ("assistant", "ghi kl"))
    ]
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    single = replace(MINI, config=replace(MINI.config, vocab_size=250_880))
    assert single.template == PHOGPT_7B5_INSTRUCT
    assert lines_of(examined(path, single).by_kind()["earlier-turns"]) == [(1,)]
    assert "earlier-turns" not in examined(path).by_kind()


# The same question


def test_the_same_question_with_two_answers_is_found(tmp_path):
    kinds = found(
        tmp_path, ("tiệm MỞ cửa lúc mấy giờ", "Dạ, từ 9 giờ sáng ạ."), ("Phí giao hàng bao nhiêu ?", "Nội thành 25.000đ ạ")
    )
    assert lines_of(kinds["answers-differ"]) == [(2, 5)]
    assert "từ 8 giờ" in kinds["answers-differ"][0].what("vi")
    assert "từ 9 giờ" in kinds["answers-differ"][0].what("en")
    assert lines_of(kinds["twice"]) == [(3, 6)]


def test_a_row_written_three_times_is_one_finding(tmp_path):
    assert lines_of(found(tmp_path, CLEAN[0], CLEAN[0])["twice"]) == [(2, 5, 6)]


def test_questions_that_differ_in_diacritics_alone_are_found_if_answers_differ(tmp_path):
    kinds = found(
        tmp_path, ("Phi giao hang bao nhieu?", "Ngoại thành 40.000đ."), ("banh mi co loai chay khong", CLEAN[2][1])
    )
    assert lines_of(kinds["same-without-marks"]) == [(3, 5)]
    assert "near-same-answer" not in kinds


def test_the_same_question_in_another_conversation_is_another_question(tmp_path):
    def talk(first, answer):
        said = ["user", first, "assistant", "Dạ có ạ.", "user", "Còn màu khác không?", "assistant", answer]
        return {"messages": [{"role": r, "content": c} for r, c in zip(said[::2], said[1::2], strict=True)]}

    path = tmp_path / "talk.jsonl"
    rows = [talk("Có bình gốm không?", "Có màu xanh ạ."), talk("Có khăn bàn không?", "Có màu be ạ.")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "answers-differ" not in examined(path).by_kind()


def test_a_wording_that_leads_to_two_answers_is_found(tmp_path):
    kinds = found(
        tmp_path,
        ("Đổi hàng trong mấy ngày?", "Trong 7 ngày ạ.", "phí giao hàng bao nhiêu | đổi hàng"),
        ("Ai trả tiền gửi khi đổi?", "Tiệm trả ạ.", "ĐỔI HÀNG!"),
    )
    assert lines_of(kinds["wording-clash"]) == [(3, 5), (5, 6)]


@pytest.mark.parametrize("other", ["Shop ơi, phí giao hàng là bao nhiêu vậy ạ?", "Bao nhiêu phí giao hàng?"])
def test_a_reworded_question_with_another_answer_is_found(tmp_path, other):
    kinds = found(tmp_path, (other, "Miễn phí ạ."))
    assert lines_of(kinds["near-other-answer"]) == [(3, 5)]
    assert "easily-confused" not in kinds


@pytest.mark.parametrize(
    "other",
    ["Phí giao hàng đi tỉnh bao nhiêu?", "Phí đổi hàng bao nhiêu?", "Phí giao hàng từ 2 kg bao nhiêu?"],
)
def test_a_question_about_something_else_is_no_contradiction(tmp_path, other):
    kinds = found(tmp_path, (other, "30.000đ ạ."))
    assert not {"near-other-answer", "facts-differ", "answers-differ", "same-without-marks"} & kinds.keys()


def test_the_order_of_words_counts_where_a_way_has_two_ends(tmp_path):
    rows = [("Gửi từ Huế đến Vinh bao nhiêu?", "50.000đ ạ."), ("Gửi từ Vinh đến Huế bao nhiêu?", "60.000đ ạ.")]
    assert not {"near-other-answer", "facts-differ"} & found(tmp_path, *rows).keys()


def test_near_questions_are_shown_with_their_likeness(tmp_path):
    one, other = "Sứa lược ăn bao nhiêu con mồi trong một ngày?", "Sứa lược có thể ăn bao nhiêu con mồi trong ngày?"
    (finding,) = found(tmp_path, (one, "Rất nhiều ạ."), (other, "Rất nhiều ạ."))["near-same-answer"]
    assert finding.lines == (5, 6)
    assert "%" in finding.what("vi")
    confused = found(tmp_path, ("Chủ tịch hội thợ gốm là ai?", "Bà Lan."), ("Phó chủ tịch hội thợ gốm là ai?", "Ông Ba."))
    assert lines_of(confused["easily-confused"]) == [(5, 6)]


# Questions and answers by themselves


@pytest.mark.parametrize(
    "question",
    [
        "Giá bao nhiêu? Giao mấy ngày?",
        "gia bao nhieu? ship may ngay?",
        "Có size M không ạ? Màu đỏ còn không?",
        "Ai bán?? Bán ở đâu??",
    ],
)
def test_two_questions_in_a_row_are_found(tmp_path, question):
    assert lines_of(found(tmp_path, (question, "Dạ, 100.000đ ạ."))["several-questions"]) == [(5,)]


@pytest.mark.parametrize(
    "question", ["Tiệm nghỉ ngày nào và khi nào mở lại?", "Bộ ấm giá bao nhiêu, còn giao thì mấy ngày?"]
)
def test_joined_questions_are_noted(tmp_path, question):
    kinds = found(tmp_path, (question, "Dạ, ngày mai ạ."))
    assert lines_of(kinds["joined-questions"]) == [(5,)]
    assert "several-questions" not in kinds


@pytest.mark.parametrize(
    "question",
    [
        "Shop ơi? Cái này giá bao nhiêu?",
        "Thứ Bảy và Chủ nhật mở cửa mấy giờ?",
        "Làm sao biết món còn hàng ở chi nhánh nào?",
        "Vậy hả?! Bao lâu thì có???",
        "Trà và bánh có bán chung không?",
        "Cái “có gì?” là gì?",
    ],
)
def test_one_question_is_one(tmp_path, question):
    assert not {"several-questions", "joined-questions"} & found(tmp_path, (question, "Dạ, ngày mai ạ.")).keys()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("?", "no-answer"),
        ("…", "no-answer"),
        ("TODO", "no-answer"),
        ("Chưa có.", "no-answer"),
        ("(xem ảnh)", "no-answer"),
        ("N/A", "no-answer"),
        ("🙂", "no-answer"),
        ("\u200b", "no-answer"),
        ("Mình xem hình bên dưới nha", "points-elsewhere"),
        ("Hai cách khác nhau, bạn tham khảo hình dưới:", "points-elsewhere"),
        ("Theo file đính kèm ạ", "points-elsewhere"),
        ("Có", "short-answer"),
    ],
)
def test_answers_that_are_none_are_found(tmp_path, answer, kind):
    assert lines_of(found(tmp_path, ("Có giao tận nhà không?", answer))[kind]) == [(5,)]


@pytest.mark.parametrize(
    "answer", ["308", "Chưa có ạ, tháng sau tiệm mới bán.", "Dạ không", "8h", "Mình gửi hình qua Zalo nha.", "東京都庁"]
)
def test_short_answers_that_say_something_are_left_alone(tmp_path, answer):
    assert not {"no-answer", "points-elsewhere", "short-answer"} & found(tmp_path, ("Ở đó có gì?", answer)).keys()


def test_a_question_without_letters_is_found(tmp_path):
    assert lines_of(found(tmp_path, ("1 + 1 = ?", "Bằng 2 ạ."), ("🙂?", "Dạ chào bạn."))["no-letters"]) == [(5,), (6,)]


# Characters and personal data, by row


def test_characters_are_found_with_line_and_cell(tmp_path):
    kinds = found(
        tmp_path,
        ("Giá <b>bao nhiêu</b>?", "Dạ,&nbsp;5.000đ ạ."),
        ("Ðổi ở đâu?", "Ở quầy\u200b 3 ạ."),
        ("Nhiệt độ lò?", "1.200 Â°C ạ."),
        ("Có trà không?", "Dạ cо́ ạ, ngоn."),
        (unicodedata.normalize("NFD", "Có cà phê không?"), "Dạ có bán ạ."),
    )
    assert {kind: lines_of(findings) for kind, findings in kinds.items()} == {
        "html": [(5,), (5,)],
        "false-d": [(6,)],
        "invisible": [(5,), (6,)],
        "mojibake": [(7,)],
        "look-alikes": [(8,)],
        "nfd": [(9,)],
    }
    assert kinds["html"][0].what("vi") == "câu hỏi: “Giá <b>bao nhiêu</b>?” → “Giá bao nhiêu?”"
    assert "U+200B ×1" in kinds["invisible"][1].what("en")
    assert "U+043E (о)" in kinds["look-alikes"][0].what("vi")


def test_a_minority_of_tone_marks_is_listed(tmp_path):
    rows = [("Hóa đơn có hòa mạng không?", "Dạ có hóa đơn ạ."), ("Khoẻ không?", "Khoẻ, cảm ơn, quý khách có hoá đơn chưa?")]
    findings = found(tmp_path, *rows)["tone-marks"]
    assert [(f.lines, f.facts[0], f.facts[1]) for f in findings] == [((6,), "khoẻ", "khỏe"), ((6,), "hoá", "hóa")]
    assert "3 từ kiểu cũ (hòa), 3 kiểu mới (hoà)" in findings[0].what("vi")
    assert "tone-marks" not in found(tmp_path, rows[0])


def test_personal_data_is_told_by_where_it_stands(tmp_path):
    kinds = found(
        tmp_path,
        ("Gọi lại cho em 0900 000 216 được không?", "Dạ được ạ, hotline 0900 000 218."),
        ("Hotline là gì?", "0900000218 ạ, thư tới chao@tiem.example.", "mail lan@nha.example"),
        ("Căn cước của em là 079 203 001 234?", "Dạ, thẻ 4111 1111 1111 1111 ạ."),
        ("STK của em 0123456789 đúng chưa?", "STK tiệm: 9876543210 ạ."),
    )
    assert {kind: lines_of(findings) for kind, findings in kinds.items()} == {
        "phone-asked": [(5,)],
        "e-mail-asked": [(6,)],
        "account-asked": [(8,)],
        "identity": [(7,)],
        "card": [(7,)],
        "phone-answered": [(5, 6)],
        "e-mail-answered": [(6,)],
        "account-answered": [(8,)],
    }


def test_no_sentence_shows_personal_data(tmp_path):
    numbers = ("0900 000 216", "4111 1111 1111 1111", "lan@nha.example")
    text = f"Số {numbers[0]}, thẻ {numbers[1]}, thư {numbers[2]}"
    report = examined(
        csv_file(tmp_path, [*CLEAN, (f"{text}?", text), (f"{text}?", f"<b>{text}</b>"), (f"{text}? Gì?", "")])
    )
    sentences = [finding.what(language) for finding in report.findings for language in ("vi", "en")]
    assert len(sentences) > 10
    assert not [sentence for sentence in sentences if any(number in sentence for number in numbers)]


# The report itself


def test_every_kind_speaks_both_languages():
    assert len(KINDS) > 30
    for kind in KINDS.values():
        for text in (kind.title, kind.what, kind.advice):
            assert text.vi
            assert text.en
            assert text.vi.count("{") == text.en.count("{")


def test_kinds_come_from_the_gravest_down(tmp_path):
    kinds = list(found(tmp_path, ("a", ""), ("Giá <b>gì</b>?", "Có"), ("Giá <b>gì</b>?", "Sai rồi")))
    severities = [KINDS[kind].severity for kind in kinds]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert set(severities) == {"error", "warning", "note"}


def test_a_place_names_ten_lines_and_counts_the_rest():
    assert where("a.csv", ()) == "a.csv"
    assert where("a.csv", (3, 9)) == "a.csv:3, 9"
    assert where("a.csv", range(1, 1001)).endswith("9, 10 … +990")


def test_what_is_shown_is_one_line_and_bounded():
    assert shown("a\n\tb") == "a b"
    assert len(shown("dài " * 1000)) <= 160


def test_conversations_alpaca_and_lists_are_examined_too(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": "Giá <b>gì</b> ạ?"}, {"role": "assistant", "content": "Ðúng 5.000đ ạ."}]},
        {"instruction": "Dịch câu này", "input": "a\u200bb", "output": "c\u00a0d e f"},
        {"question": "Giá bao nhiêu?", "answer": "5.000đ ạ.", "wordings": ["nhiu\u200b tiền"]},
        {"question": "Còn không?", "answer": "Dạ còn.", "before": [["Có <i>trà</i> không?", "Dạ cо́ trà."]]},
        {
            "conversations": [
                {"from": "human", "value": "Đau&nbsp;đầu?"},
                {"from": "gpt", "value": [{"type": "text", "text": "ok <br>"}]},
            ]
        },
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    kinds = examined(path).by_kind()
    assert lines_of(kinds["html"]) == [(1,), (4,), (5,), (5,)]
    assert lines_of(kinds["invisible"]) == [(2,), (2,), (3,), (5,)]
    assert lines_of(kinds["false-d"]) == [(1,)]
    assert lines_of(kinds["look-alikes"]) == [(4,)]


def test_rows_of_one_line_are_told_apart(tmp_path):
    rows = [
        {"question": "Tr\xadêng §¹i häc ë ®©u?", "answer": "Hµ Néi"},
        {"question": "Có <b>trà</b> không?", "answer": ""},
        {"question": "Ở đâu ra đó?", "answer": "Ở hai dòng sông ạ."},
        {"question": "Ở đâu ra đó?", "answer": "Ở ba dòng sông ạ."},
    ]
    path = tmp_path / "shop.json"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    report = examined(path)
    assert (report.n_rows, report.n_items) == (4, 2)
    assert [len(report.by_kind()[kind]) for kind in ("refused", "old-encoding", "answers-differ", "html")] == [1, 2, 1, 1]
    assert "mojibake" not in report.by_kind()


# Figures that disagree


def test_a_reworded_question_with_another_figure_is_told_of_by_its_figures(tmp_path):
    kinds = found(tmp_path, ("Shop ơi phí giao hàng là bao nhiêu ạ?", "Nội thành 30.000đ ạ."))
    assert lines_of(kinds["facts-differ"]) == [(3, 5)]
    assert kinds["facts-differ"][0].what("vi").endswith("con số trong câu trả lời: 25.000đ / 30.000đ")
    assert "near-other-answer" not in kinds


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ("Từ 8h đến 21h ạ.", "Từ 8h đến 22h nha.", "21h / 22h"),
        ("Giá 1,5 triệu, giao 3 ngày.", "Giá 1.500.000đ, giao 5 ngày.", "3 ngày / 5 ngày"),
        ("Giá 1,5 triệu.", "Dạ, giá 1.500.000đ ạ.", ""),
        ("Dạ có, 2 loại ạ.", "Dạ không ạ.", ""),
        ("Gọi 0900 000 216.", "Gọi 0900 000 217 ạ.", "•••• ••• 216 / •••• ••• 217"),
    ],
)
def test_figures_are_compared_by_their_value(tmp_path, one, other, told):
    kinds = found(tmp_path, ("Bình gốm men lam thì sao?", one), ("Cho hỏi bình gốm men lam thì sao ạ?", other))
    if told:
        assert kinds["facts-differ"][0].what("en").endswith(f"figures in the answers: {told}")
    else:
        assert lines_of(kinds["near-other-answer"]) == [(5, 6)]


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ("Hotline của tiệm là 028 3000 2016 ạ.", "Mình gọi hotline: 028 3000 2017 nha.", "hotline"),
        ("Zalo 0900 000 216 nha.", "Gửi hình qua Zalo của shop 0900 000 261.", "Zalo"),
        ("Số điện thoại tiệm là 0900000216.", "SĐT: 0900000218", "số điện thoại"),
        ("Thư gửi e-mail chao@tiem.example.", "E-mail của tiệm là hoi@tiem.example ạ.", "e-mail"),
        ("STK: 0123456789.", "Chuyển vào số tài khoản 0123456798 nha.", "số tài khoản"),
        ("Địa chỉ tiệm là 46B/9 Tú Xương, quận 3.", "Dạ, địa chỉ: số 48 Tú Xương ạ.", "địa chỉ"),
        ("Dạ, bộ ấm Sen giá 785.000đ ạ.", "Bộ ấm Sen giá 800.000đ, gồm 6 chén.", "giá “bộ ấm Sen”"),
        ("Trà sen Đồng Tháp giá 220k/hộp.", "Dạ có, trà sen Đồng Tháp giá 250.000đ/hộp ạ.", "giá “Trà sen Đồng Tháp/hộp”"),
    ],
)
def test_one_thing_with_two_values_is_found(tmp_path, one, other, name):
    (finding,) = found(tmp_path, ("Liên hệ sao ạ?", one), ("Muốn hỏi thêm thì sao?", other))["label-differs"]
    assert finding.lines == (5, 6)
    assert finding.what("vi").startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hotline là 028 3000 2016.", "Hotline: (028) 3000.2016 ạ."),
        ("Hotline là 028 3000 2016.", "Zalo là 0900 000 216."),
        ("Hotline là 028 3000 2016.", "Hotline chi nhánh Huế là 0234 300 2016."),
        ("Hotline là 028 3000 2016.", "Cần gấp thì gọi anh Lâm, số điện thoại 0900 000 217. Hotline không trực đêm."),
        ("Hotline là 028 3000 2016 hoặc hotline 1900 1234.", "Hotline: 1900 1234 nha."),
        ("Ly men ngọc giá 145.000đ/cái.", "Ly men ngọc giá 540.000đ/bộ."),
        ("Ly men ngọc giá 145.000đ.", "Ly men lam giá 155.000đ."),
        ("Một cái giá 5.000đ.", "Một cái giá 6.000đ."),
        ("Ly men ngọc giá 145k ạ.", "Ly men ngọc giá 145.000đ ạ."),
        ("Địa chỉ: 46B/9 Tú Xương, phường Xuân Hòa.", "Địa chỉ là số 46B/9 đường Tú Xương (quận 3 cũ)."),
    ],
)
def test_two_things_with_their_values_are_left_alone(tmp_path, one, other):
    assert "label-differs" not in found(tmp_path, ("Liên hệ sao ạ?", one), ("Muốn hỏi thêm thì sao?", other))


def test_the_question_may_say_whose_it_is(tmp_path):
    rows = [
        ("Hotline Đà Nẵng số mấy?", "Hotline là 0236 300 2016."),
        ("Hotline Hà Nội số mấy?", "Hotline là 024 3000 2016."),
    ]
    assert "label-differs" not in found(tmp_path, *rows)


def test_values_are_shown_with_their_lines_and_masked(tmp_path):
    rows = [(f"Câu thứ {n} là gì thế?", f"Hotline 028 3000 20{16 + n % 2} ạ.") for n in range(9)]
    (finding,) = found(tmp_path, *rows)["label-differs"]
    assert finding.what("en") == "hotline: ••• •••• •016 (5, 7, 9, 11, 13); ••• •••• •017 (6, 8, 10, 12)"
