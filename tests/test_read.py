"""Files of questions and answers become items, or one error with every problem by file and line."""

import codecs
import datetime as dt
import errno
import json
import os
import unicodedata
import zipfile
from pathlib import Path

import pytest
import xlsxwriter

from hoidap.data.items import Item, from_jsonl, hash_of, to_jsonl
from hoidap.data.read import Question, read_items, read_questions
from hoidap.errors import DataError
from hoidap.prompt import Turn

OPEN = Item("Mấy giờ mở cửa?", "Từ 8 giờ, cả Chủ nhật.")
SHIP = Item("Có giao hàng không?", "Dạ có.")


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_xlsx(folder: Path, rows: list[list[object]], top: int = 0) -> Path:
    """Write rows from line ``top + 1`` of the first sheet; None leaves a cell empty."""
    path = folder / "shop.xlsx"
    with xlsxwriter.Workbook(path, {"default_date_format": "dd/mm/yyyy"}) as book:
        sheet = book.add_worksheet()
        for number, row in enumerate(rows, start=top):
            for column, value in enumerate(row):
                if value is not None:
                    sheet.write(number, column, value)
    return path


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def problems(path: Path, read=read_items) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).endswith("\n".join(caught.value.problems))
    return caught.value.problems


# What is read


@pytest.mark.parametrize("delimiter", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8], ids=["no BOM", "BOM"])
def test_a_csv_file_reads_whatever_its_delimiter_line_ends_and_mark(delimiter, end, bom, tmp_path):
    rows = [["câu hỏi", "trả lời"], [OPEN.question, f'"{OPEN.answer}"'], [SHIP.question, SHIP.answer]]
    text = "".join(delimiter.join(row) + end for row in rows)
    assert read_items(write(tmp_path, "shop.csv", bom + text.encode())) == [OPEN, SHIP]


def test_a_last_line_without_an_end_is_read(tmp_path):
    assert read_items(write(tmp_path, "shop.csv", "question,answer\na,b\nc,d")) == [Item("a", "b"), Item("c", "d")]


def test_a_file_name_may_end_in_capitals(tmp_path):
    assert read_items(write(tmp_path, "SHOP.CSV", "question,answer\na,b\n")) == [Item("a", "b")]


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_quoted_cells_keep_delimiters_quotes_and_new_lines(end, tmp_path):
    text = end.join(["question,answer", '"a, ""b""', 'c","d', "", 'e"', "f,g", ""])
    assert read_items(write(tmp_path, "shop.csv", text)) == [Item('a, "b"\nc', "d\n\ne"), Item("f", "g")]


def test_jsonl_reads_with_its_empty_lines_mark_and_carriage_returns(tmp_path):
    text = "\ufeff" + jsonl({"question": "a", "answer": "b"}) + "\n  \r\n" + '{"answer": "d\\ne", "question": "c"}\r\n'
    assert read_items(write(tmp_path, "shop.jsonl", text)) == [Item("a", "b"), Item("c", "d\ne")]


def test_a_line_separator_inside_json_does_not_end_its_line(tmp_path):
    # U+2028 is a line end to str.splitlines, and none to JSON.
    path = write(tmp_path, "shop.jsonl", jsonl({"question": "a\u2028b", "answer": "c\u2029d"}))
    assert read_items(path) == [Item("a\u2028b", "c\u2029d")]


def test_xlsx_reads_its_first_sheet(tmp_path):
    path = write_xlsx(tmp_path, [["câu hỏi", "trả lời"], [OPEN.question, OPEN.answer], [SHIP.question, SHIP.answer]])
    assert read_items(path) == [OPEN, SHIP]


def test_xlsx_rows_and_columns_may_begin_anywhere(tmp_path):
    path = write_xlsx(tmp_path, [[None, None, "answer", None, "question"], [], [None, None, "b", None, "a"]], top=3)
    assert read_items(path) == [Item("a", "b")]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (8, "8"),
        (8.5, "8.5"),
        (-25_000, "-25000"),
        (2 / 3, "0.666666666666667"),
        (1e15, "1000000000000000"),
        (dt.date(2024, 3, 15), "2024-03-15"),
    ],
)
def test_an_xlsx_cell_that_excel_typed_is_text(cell, text, tmp_path):
    assert read_items(write_xlsx(tmp_path, [["question", "answer"], ["a", cell]])) == [Item("a", text)]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("câu hỏi", "trả lời"),
        ("Câu Hỏi", "Câu trả lời"),
        ("CÂU HỎI (*)", "Đáp án:"),
        ("cau hoi", "tra loi"),
        ("cau_hoi", "dap-an"),
        ("Hỏi", "Ðáp"),
        ("question", "answer"),
        ("Questions", "Answers"),
        ("Q", "A"),
        ("instruction", "output"),
        ("prompt", "response"),
        (unicodedata.normalize("NFD", "câu hỏi"), unicodedata.normalize("NFD", "trả lời")),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "xlsx"])
def test_columns_are_found_by_their_names(kind, question, answer, tmp_path):
    header, row = ["stt", answer, "ghi chú", question], ["1", "b", "x", "a"]
    if kind == "csv":
        path = write(tmp_path, "shop.csv", "\n".join([",".join(header), ",".join(row)]))
    elif kind == "jsonl":
        path = write(tmp_path, "shop.jsonl", jsonl(dict(zip(header, row, strict=True))))
    else:
        path = write_xlsx(tmp_path, [header, row])
    assert read_items(path) == [Item("a", "b")]


@pytest.mark.parametrize("name", ["cách hỏi khác", "Câu hỏi khác", "cach hoi khac", "wordings", "Other questions"])
def test_other_wordings_stand_in_their_own_column(name, tmp_path):
    path = write(tmp_path, "shop.csv", f"question,answer,{name}\na,b,c | d\ne,f,\n")
    assert read_items(path) == [Item("a", "b", ("c", "d")), Item("e", "f")]


@pytest.mark.parametrize("cell", ["c|d", " c | d |", "c\nd", "|c\n\n d\n", "c|\n|d"])
def test_wordings_in_one_cell_are_split_at_bars_and_new_lines(cell, tmp_path):
    assert read_items(write(tmp_path, "shop.csv", f'question,answer,wordings\na,b,"{cell}"\n'))[0].wordings == ("c", "d")


@pytest.mark.parametrize(
    ("value", "wordings"),
    [
        (["c", " d "], ("c", "d")),
        (["c | d"], ("c | d",)),
        (["", "c", " "], ("c",)),
        ([], ()),
        (None, ()),
        ("", ()),
        ("c|d", ("c", "d")),
    ],
)
def test_wordings_in_json_are_a_list_or_one_text(value, wordings, tmp_path):
    path = write(tmp_path, "shop.jsonl", jsonl({"question": "a", "answer": "b", "wordings": value}))
    assert read_items(path) == [Item("a", "b", wordings)]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "xlsx"])
def test_decomposed_text_becomes_composed(kind, tmp_path):
    row = {"question": "Mấy giờ?", "answer": "Tám giờ rưỡi", "wordings": "Lúc nào"}
    apart = {name: unicodedata.normalize("NFD", text) for name, text in row.items()}
    if kind == "csv":
        path = write(tmp_path, "shop.csv", ",".join(apart) + "\n" + ",".join(apart.values()))
    elif kind == "jsonl":
        path = write(tmp_path, "shop.jsonl", jsonl(apart))
    else:
        path = write_xlsx(tmp_path, [list(apart), list(apart.values())])
    assert read_items(path) == [Item("Mấy giờ?", "Tám giờ rưỡi", ("Lúc nào",))]


def test_white_space_around_a_cell_is_taken_off_and_inside_kept(tmp_path):
    assert read_items(write(tmp_path, "shop.csv", 'question,answer\n  a  b\t," \u00a0c\n\td\n"\n')) == [
        Item("a  b", "c\n\td")
    ]


@pytest.mark.parametrize("blank", ["", "   ", ",", " ,\t", '"",""'])
def test_rows_with_nothing_in_them_are_skipped(blank, tmp_path):
    assert read_items(write(tmp_path, "shop.csv", f"question,answer\n{blank}\na,b\n{blank}\n")) == [Item("a", "b")]


def test_xlsx_rows_with_nothing_in_them_are_skipped(tmp_path):
    assert read_items(write_xlsx(tmp_path, [["question", "answer"], [], [" ", ""], ["a", "b"]])) == [Item("a", "b")]


def test_a_row_may_leave_its_last_columns_out(tmp_path):
    assert read_items(write(tmp_path, "shop.csv", "question,answer,wordings\na,b\n")) == [Item("a", "b")]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "xlsx"])
def test_a_text_of_the_greatest_length_is_read_whole(kind, tmp_path):
    long = "dài " * 8000 + "x" * 767 + "."  # 32,768 characters are the most; a cell of Excel holds one less
    if kind == "csv":
        path = write(tmp_path, "shop.csv", f"question,answer\na,{long}\n")
    elif kind == "jsonl":
        path = write(tmp_path, "shop.jsonl", jsonl({"question": "a", "answer": long}))
    else:
        long = long[1:]
        path = write_xlsx(tmp_path, [["question", "answer"], ["a", long]])
    assert read_items(path)[0].answer == long


def test_a_hundred_thousand_rows_are_all_read(tmp_path):
    rows = (f"Câu hỏi số {n}?,Trả lời số {n}: từ 8 giờ sáng đến 21 giờ tối.\n" for n in range(100_000))
    items = read_items(write(tmp_path, "shop.csv", "câu hỏi,trả lời\n" + "".join(rows)))
    assert len(items) == 100_000
    assert items[-1] == Item("Câu hỏi số 99999?", "Trả lời số 99999: từ 8 giờ sáng đến 21 giờ tối.")


# Questions


@pytest.mark.parametrize("name", ["ask.csv", "ask.jsonl"])
def test_questions_need_no_answers(name, tmp_path):
    content = "câu hỏi\nMấy giờ?\nỞ đâu?\n" if name.endswith("csv") else jsonl({"q": "Mấy giờ?"}, {"q": "Ở đâu?"})
    assert read_questions(write(tmp_path, name, content)) == [Question("Mấy giờ?", None), Question("Ở đâu?", None)]


def test_questions_keep_the_answers_that_are_there(tmp_path):
    path = write(tmp_path, "ask.csv", "question,answer\na,b\nc,\nd\ne,  \n")
    assert read_questions(path) == [Question("a", "b"), Question("c", None), Question("d", None), Question("e", None)]


def test_questions_in_xlsx_need_no_answers(tmp_path):
    path = write_xlsx(tmp_path, [["question", "answer"], ["a"], ["b", 8]])
    assert read_questions(path) == [Question("a", None), Question("b", "8")]


def test_questions_in_decomposed_text_become_composed(tmp_path):
    path = write(tmp_path, "ask.csv", unicodedata.normalize("NFD", "câu hỏi\nỞ đâu?\n"))
    assert read_questions(path) == [Question("Ở đâu?", None)]


def test_bad_questions_and_bad_answers_are_all_listed(tmp_path):
    path = write(tmp_path, "ask.jsonl", jsonl({"q": ""}, {"q": "a", "a": 5}, {"q": "b"}, {"a": "c"}) + "{\n")
    found = problems(path, read_questions)
    assert found[:3] == (
        "ask.jsonl:1: the question is empty",
        "ask.jsonl:2: the answer is 5; it takes text",
        "ask.jsonl:4: no column for the question; name one 'câu hỏi' or 'question'; found 'a'",
    )
    assert found[3].startswith("ask.jsonl:5: not JSON (")
    assert len(found) == 4


@pytest.mark.parametrize(
    ("name", "content"), [("ask.csv", "question\n"), ("ask.jsonl", ""), ("ask.csv", "question\n \n\n")]
)
def test_a_file_without_questions_is_refused(name, content, tmp_path):
    assert problems(write(tmp_path, name, content), read_questions) == (
        f"{name}: no questions below the header; write at least one",
    )


# Files that cannot be read


@pytest.mark.parametrize("name", ["shop.txt", "shop.xls", "shop.csv.gz", "shop", ".csv"])
@pytest.mark.parametrize("read", [read_items, read_questions])
def test_another_kind_of_file_is_refused_with_the_kinds_that_are_read(name, read, tmp_path):
    suffix = Path(name).suffix
    kind = f"a {suffix} file" if suffix else "a file whose name ends in no kind"
    assert problems(write(tmp_path, name, "question,answer\na,b\n"), read) == (
        f"{name}: {kind}; hoidap reads .csv, .tsv, .jsonl, .json, .xlsx, .parquet; save it as one of these",
    )


@pytest.mark.parametrize("name", ["shop.csv", "shop.tsv", "shop.jsonl", "shop.json", "shop.xlsx", "shop.parquet"])
def test_a_missing_file_is_named_with_its_folder(name, tmp_path):
    assert problems(tmp_path / name) == (f"{tmp_path / name}: no such file",)


@pytest.mark.parametrize("name", ["shop.csv", "shop.xlsx", "shop.parquet"])
def test_a_folder_is_no_file(name, tmp_path):
    (tmp_path / name).mkdir()
    assert problems(tmp_path / name) == (f"{tmp_path / name}: a folder; name the file in it",)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "shop.csv")
    assert problems(tmp_path / "shop.csv") == (
        f"{tmp_path / 'shop.csv'}: not a file that stays (a pipe or a device); save it first",
    )


def test_a_name_that_the_system_refuses_is_an_error_of_the_data(tmp_path):
    path = tmp_path / ("x" * 300 + ".csv")
    assert problems(path) == (f"{path}: cannot be read (File name too long); check its name and who may read it",)


@pytest.mark.parametrize("method", ["stat", "read_bytes"])
def test_a_file_that_may_not_be_read_is_an_error_of_the_data(method, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    path = write(tmp_path, "shop.csv", "question,answer\na,b\n")
    monkeypatch.setattr(Path, method, refuse)  # who tests as root may read anything
    assert problems(path) == (f"{path}: cannot be read (Permission denied); check its name and who may read it",)


def test_a_workbook_that_may_not_be_read_is_an_error_of_the_data(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    path = write_xlsx(tmp_path, [["question", "answer"], ["a", "b"]])
    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    assert problems(path) == (f"{path}: cannot be read (Permission denied); check its name and who may read it",)


def test_a_file_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "shop.csv"
    with path.open("wb") as file:
        file.truncate(300 * 2**20)
    assert problems(path) == ("shop.csv: 314,572,800 bytes; at most 268,435,456 are read; split the file",)


@pytest.mark.parametrize(
    ("content", "line", "byte"),
    [
        ("question,answer\na,b\nc,đ\n".encode("cp1258"), 3, "f0"),
        (b"question,answer\r\na,\x80\r\n", 2, "80"),
        (codecs.BOM_UTF8 + b"q,a\n\x81\n", 2, "81"),
        (b"question,answer\na,\xed\xa0\x80\n", 2, "ed"),
    ],
    ids=["Windows-1258", "a stray byte", "a stray byte behind a mark", "half a surrogate pair"],
)
@pytest.mark.parametrize("name", ["shop.csv", "shop.jsonl"])
def test_bytes_that_are_not_utf8_are_refused_with_their_line(name, content, line, byte, tmp_path):
    assert problems(write(tmp_path, name, content)) == (
        f"{name}:{line}: not UTF-8 text (byte 0x{byte}); save the file as UTF-8",
    )


@pytest.mark.parametrize("name", ["shop.csv", "shop.jsonl"])
def test_a_nul_is_refused_with_its_line(name, tmp_path):
    assert problems(write(tmp_path, name, "question,answer\r\na,b\r\nc,\x00d\r\n")) == (
        f"{name}:3: a NUL character; this is not a text file, save it as UTF-8 text",
    )


@pytest.mark.parametrize(
    "content", [b"", b"question,answer\na,b\n", b"PK\x03\x04 and no more"], ids=["empty", "CSV", "cut"]
)
def test_a_workbook_that_is_none_is_refused(content, tmp_path):
    (problem,) = problems(write(tmp_path, "shop.xlsx", content))
    assert problem.startswith("shop.xlsx: not a workbook that can be read (")
    assert problem.endswith("); save it again as .xlsx")


def test_a_cut_workbook_is_refused(tmp_path):
    path = write_xlsx(tmp_path, [["question", "answer"], ["a", "b"]])
    path.write_bytes(path.read_bytes()[:-500])
    assert problems(path)[0].startswith("shop.xlsx: not a workbook that can be read (")


# Headers


@pytest.mark.parametrize("content", ["", "\n", "\ufeff"], ids=["nothing", "an empty line", "a mark alone"])
def test_an_empty_csv_file_lacks_both_columns(content, tmp_path):
    assert problems(write(tmp_path, "shop.csv", content)) == (
        "shop.csv:1: no column for the question; name one 'câu hỏi' or 'question'; found none",
        "shop.csv:1: no column for the answer; name one 'trả lời' or 'answer'; found none",
    )


def test_an_empty_jsonl_file_has_no_rows(tmp_path):
    assert problems(write(tmp_path, "shop.jsonl", "\n")) == (
        "shop.jsonl: no rows below the header; write at least one question and its answer",
    )


def test_an_empty_workbook_lacks_both_columns(tmp_path):
    assert [p.split(";")[0] for p in problems(write_xlsx(tmp_path, []))] == [
        "shop.xlsx:1: no column for the question",
        "shop.xlsx:1: no column for the answer",
    ]


@pytest.mark.parametrize("content", ["question,answer\n", "question,answer", "question,answer\n\n , \n"])
def test_a_header_alone_is_refused(content, tmp_path):
    assert problems(write(tmp_path, "shop.csv", content)) == (
        "shop.csv: no rows below the header; write at least one question and its answer",
    )


def test_a_header_alone_in_a_workbook_is_refused(tmp_path):
    assert problems(write_xlsx(tmp_path, [["question", "answer"]])) == (
        "shop.xlsx: no rows below the header; write at least one question and its answer",
    )


def test_a_header_without_an_answer_says_what_it_found(tmp_path):
    assert problems(write(tmp_path, "shop.csv", "câu hỏi;ghi chú\na;b\n")) == (
        "shop.csv:1: no column for the answer; name one 'trả lời' or 'answer'; found 'câu hỏi', 'ghi chú'",
    )


def test_rows_without_a_header_are_not_taken_for_one(tmp_path):
    found = problems(write(tmp_path, "shop.csv", "Mấy giờ?,8 giờ\nỞ đâu?,Nha Trang\n"))
    assert [p.rsplit("; ", 1)[1] for p in found] == ["found 'Mấy giờ?', '8 giờ'"] * 2


def test_two_columns_for_one_thing_are_refused_for_each(tmp_path):
    path = write(tmp_path, "shop.csv", "question,câu hỏi,answer,dap an,wordings,câu hỏi khác\na,b,c,d,e,f\n")
    assert problems(path) == (
        "shop.csv:1: two columns for the question: 'question' and 'câu hỏi'; keep one",
        "shop.csv:1: two columns for the answer: 'answer' and 'dap an'; keep one",
        "shop.csv:1: two columns for the wordings: 'wordings' and 'câu hỏi khác'; keep one",
    )


def test_a_workbooks_header_problem_has_the_headers_own_line(tmp_path):
    path = write_xlsx(tmp_path, [["question", "câu hỏi", "answer"], ["a", "b", "c"]], top=4)
    assert problems(path) == ("shop.xlsx:5: two columns for the question: 'question' and 'câu hỏi'; keep one",)


# Rows


def test_every_bad_csv_row_is_listed_with_the_line_it_begins_on(tmp_path):
    lines = [
        "question,answer,wordings",  # 1
        '"a quoted',  # 2
        "",  # 3
        'cell",b',  # 4
        ",an answer without a question",  # 5
        "",  # 6
        '"two',  # 7
        'lines", ',  # 8: whitespace for an answer
        "x,y,z,and one more",  # 9
        "\u200a,",  # 10: white space alone, so no row
        "only a question",  # 11
        "bell\a,ok",  # 12
        "ok,b\ufffdn",  # 13
        f"ok,{'x' * 32_769}",  # 14
        f"{'x' * 40_000},ok,{'y' * 32_769}",  # 15
        "fine,fine",  # 16
        "ok,ok,c|\x1b|d",  # 17
        'open,"never closed',  # 18
        "and so on,to the end",  # 19
    ]
    assert problems(write(tmp_path, "shop.csv", "\r\n".join(lines))) == (
        "shop.csv:5: the question is empty",
        "shop.csv:7: the answer is empty",
        "shop.csv:9: 4 cells under 3 columns; put a cell that holds ',' in \"quotes\"",
        "shop.csv:11: the answer is empty",
        "shop.csv:12: the question holds U+0007, which no keyboard types; was it converted?",
        "shop.csv:13: the answer holds U+FFFD, which no keyboard types; was it converted?",
        "shop.csv:14: the answer has 32,769 characters; at most 32,768",
        "shop.csv:15: the question has 40,000 characters; at most 32,768",
        "shop.csv:15: a wording has 32,769 characters; at most 32,768",
        "shop.csv:17: a wording holds U+001B, which no keyboard types; was it converted?",
        'shop.csv:18: not CSV (unexpected end of data); is a " left open?',
    )


def test_every_bad_jsonl_row_is_listed_with_its_line(tmp_path):
    rows = [
        '{"question": "a", "answer": "b"}',  # 1
        '["a", "b"]',  # 2
        '"a"',  # 3
        "5",  # 4
        "null",  # 5
        "",  # 6
        '{"question": 5, "answer": false}',  # 7
        '{"question": "a", "answer": null, "wordings": [1]}',  # 8
        '{"question": " \\n", "answer": ["b"]}',  # 9
        '{"question": "a", "hoi": "b", "answer": "c"}',  # 10
        '{"hỏi gì": "a"}',  # 11
        '{"question": "a", "answer": "b", "wordings": {"c": "d"}}',  # 12
        '{"question": "\\ud800", "answer": "\\u0000"}',  # 13
        '{"question": "a", "question": "b", "answer": "c"}',  # 14
        '{"question": "a", "answer": "b", "wordings": ["c", "\\udfff"]}',  # 15
    ]
    assert problems(write(tmp_path, "shop.jsonl", "\n".join(rows))) == (
        'shop.jsonl:2: list, wanted an object like {"question": …}',
        'shop.jsonl:3: str, wanted an object like {"question": …}',
        'shop.jsonl:4: int, wanted an object like {"question": …}',
        'shop.jsonl:5: NoneType, wanted an object like {"question": …}',
        "shop.jsonl:7: the question is 5; it takes text",
        "shop.jsonl:7: the answer is False; it takes text",
        "shop.jsonl:8: the answer is empty",
        "shop.jsonl:8: the wordings are [1]; they take a list of texts, or one text with | between",
        "shop.jsonl:9: the question is empty",
        "shop.jsonl:9: the answer is ['b']; it takes text",
        "shop.jsonl:10: two columns for the question: 'question' and 'hoi'; keep one",
        "shop.jsonl:11: no column for the question; name one 'câu hỏi' or 'question'; found 'hỏi gì'",
        "shop.jsonl:11: no column for the answer; name one 'trả lời' or 'answer'; found 'hỏi gì'",
        "shop.jsonl:12: the wordings are {'c': 'd'}; they take a list of texts, or one text with | between",
        "shop.jsonl:13: the question holds U+D800, which no keyboard types; was it converted?",
        "shop.jsonl:13: the answer holds U+0000, which no keyboard types; was it converted?",
        "shop.jsonl:14: not JSON (the key 'question' twice in one object)",
        "shop.jsonl:15: a wording holds U+DFFF, which no keyboard types; was it converted?",
    )


def test_every_bad_xlsx_row_is_listed_with_its_line(tmp_path):
    rows = [
        ["question", "answer", "wordings"],
        ["a"],
        [],
        [None, "b"],
        ["c", "d\ve", "e|\x1b"],
        ["fine", "fine"],
        [" ", "f"],
    ]
    assert problems(write_xlsx(tmp_path, rows, top=2)) == (
        "shop.xlsx:4: the answer is empty",
        "shop.xlsx:6: the question is empty",
        "shop.xlsx:7: the answer holds U+000B, which no keyboard types; was it converted?",
        "shop.xlsx:7: a wording holds U+001B, which no keyboard types; was it converted?",
        "shop.xlsx:9: the question is empty",
    )


@pytest.mark.parametrize(
    "line", ["{", "{'question': 'a'}", "question,answer", '{"question": "a",}', '{"question": "a\tb"}']
)
def test_a_line_that_is_not_json_is_refused(line, tmp_path):
    (problem,) = problems(write(tmp_path, "shop.jsonl", jsonl({"question": "a", "answer": "b"}) + line))
    assert problem.startswith("shop.jsonl:2: not JSON (")


def test_one_json_array_of_all_rows_is_refused(tmp_path):
    rows = [{"question": "a", "answer": "b"}]
    assert problems(write(tmp_path, "shop.jsonl", json.dumps(rows))) == (
        'shop.jsonl:1: list, wanted an object like {"question": …}',
    )


@pytest.mark.parametrize("depth", [50, 400, 700, 900, 990, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"])
def test_json_nested_without_end_is_one_short_problem(depth, opening, closing, tmp_path):
    nested = opening * depth + "1" + closing * depth
    (problem,) = problems(write(tmp_path, "shop.jsonl", f'{{"question": {nested}, "answer": "b"}}'))
    assert problem.startswith(("shop.jsonl:1: the question is ", "shop.jsonl:1: not JSON ("))
    assert len(problem) < 300


@pytest.mark.parametrize(
    "value", ["9" * 4000, "9" * 5000, "[" + "1," * 10_000 + "1]"], ids=["4000 digits", "5000", "a long list"]
)
def test_a_huge_json_value_is_one_short_problem(value, tmp_path):
    (problem,) = problems(write(tmp_path, "shop.jsonl", f'{{"question": {value}, "answer": "b"}}'))
    assert len(problem) < 300


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('"c,d', "unexpected end of data"),
        ('"c"d,e', "',' expected after '\"'"),
        (f"c,{'x' * 140_000}", "field larger than field limit (131072)"),
    ],
    ids=["open to the end", "text behind a quoted cell", "a cell of all that follows"],
)
def test_a_csv_row_without_form_is_named_by_its_first_line(row, reason, tmp_path):
    assert problems(write(tmp_path, "shop.csv", f'question,answer\n"a\n",b\n{row}\ne,f\n')) == (
        f'shop.csv:4: not CSV ({reason}); is a " left open?',
    )


def test_a_quote_left_open_in_the_header_is_found_on_line_one(tmp_path):
    assert problems(write(tmp_path, "shop.csv", 'question,"answer\na,b\n')) == (
        'shop.csv:1: not CSV (unexpected end of data); is a " left open?',
    )


def test_an_unquoted_delimiter_is_refused_not_cut(tmp_path):
    assert problems(write(tmp_path, "shop.csv", "question;answer\na;b; c\n")) == (
        "shop.csv:2: 3 cells under 2 columns; put a cell that holds ';' in \"quotes\"",
    )


def test_one_problem_is_counted_in_the_singular(tmp_path):
    with pytest.raises(DataError, match=r"^1 problem in the data; nothing was done:\nshop\.csv:2: the answer is empty$"):
        read_items(write(tmp_path, "shop.csv", "question,answer\na,\n"))


def test_many_problems_are_counted_and_all_there(tmp_path):
    found = problems(write(tmp_path, "shop.csv", "question,answer\n" + "a,\n" * 5000))
    assert found == tuple(f"shop.csv:{line}: the answer is empty" for line in range(2, 5002))


@pytest.mark.parametrize("name", ["a:b.csv", "a:².csv", "đơn hàng 1.csv"])
def test_a_file_name_with_strange_signs_keeps_the_lines_in_order(name, tmp_path):
    content = "question,answer\n" + "a,\n" * 3 + "a,b,c\n"
    assert [p.removeprefix(f"{name}:")[0] for p in problems(write(tmp_path, name, content))] == ["2", "3", "4", "5"]


# Items as kept in a run folder

KEPT = [
    Item("a", "b"),
    Item('Mấy giờ "mở"?', "8 giờ\n9 giờ\r\u2028\u0085🎉", ("Lúc nào?", "a|b")),
    Item("Còn Chủ nhật?", "Cũng vậy.", (), (Turn("Mấy giờ mở?", "8 giờ."), Turn("Đóng?", "21 giờ.\u2028"))),
]


def test_items_written_as_lines_read_back_the_same(tmp_path):
    assert from_jsonl(write(tmp_path, "items.jsonl", to_jsonl(KEPT))) == KEPT


def test_items_as_kept_are_a_file_that_can_be_trained_on_again(tmp_path):
    kept = [OPEN, Item("a", "b\u2028c", ("d", "e | f")), Item("a", "b", ("c",), (Turn("d", "e"), Turn("f", "g")))]
    assert read_items(write(tmp_path, "items.jsonl", to_jsonl(kept))) == kept


def test_earlier_turns_are_kept_where_there_are_any_and_change_no_other_item():
    assert to_jsonl([Item("a", "b", ("c",))]) == '{"question": "a", "answer": "b", "wordings": ["c"]}\n'
    assert to_jsonl([Item("a", "b", (), (Turn("c", "d"), Turn("e", "f")))]) == (
        '{"question": "a", "answer": "b", "wordings": [], "before": [["c", "d"], ["e", "f"]]}\n'
    )


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]\n",
        '{"question": "a"}\n',
        "5\n",
        '{"question": "a", "answer": "b", "wordings": 5}\n',
        '{"question": "a", "answer": "b", "wordings": [], "before": ["abc"]}\n',
        '{"question": "a", "answer": "b", "wordings": [], "before": 5}\n',
    ],
)
def test_a_file_that_is_not_the_items_of_a_run_is_refused(content, tmp_path):
    path = write(tmp_path, "items.jsonl", content)
    with pytest.raises(DataError, match="not the items of a run"):
        from_jsonl(path)


def test_any_change_of_an_item_changes_the_hash():
    changed = [
        [Item("a", "c"), KEPT[1]],
        [Item("b", "b"), KEPT[1]],
        [Item("a", "b", ("c",)), KEPT[1]],
        [Item("a", "b", (), (Turn("c", "d"),)), KEPT[1]],
        [Item("a", "b", (), (Turn("c", "e"),)), KEPT[1]],
        KEPT[::-1],
        KEPT[:1],
    ]
    assert len({hash_of(items) for items in [KEPT, *changed]}) == 8
    assert hash_of(list(KEPT)) == hash_of(KEPT)
