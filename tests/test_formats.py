"""Kinds of files, and the conversations in them."""

import codecs
import csv
import io
import json
import tempfile
import unicodedata
import zipfile
from pathlib import Path

import polars as pl
import pytest
import xlsxwriter
from hypothesis import given, settings
from hypothesis import strategies as st
from test_read import jsonl, problems, write, write_xlsx

from hoidap.data.items import Item
from hoidap.data.read import Question, read_items, read_questions
from hoidap.prompt import Turn

AB = Item("a", "b")


def write_parquet(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "shop.parquet"
    pl.DataFrame(rows).write_parquet(path)
    return path


def read_noting(path: Path, read=read_items) -> tuple[list[object], list[str]]:
    notes: list[str] = []
    return read(path, notes.append), notes


def write_rows(folder: Path, kind: str, rows: list[dict[str, object]]) -> Path:
    """Write rows of texts and lists of texts as a file of any kind."""
    name = f"shop.{kind}"
    if kind == "parquet":
        return write_parquet(folder, rows)
    if kind == "jsonl":
        return write(folder, name, jsonl(*rows))
    if kind == "json":
        return write(folder, name, json.dumps(rows, ensure_ascii=False, indent=1))
    header = list(dict.fromkeys(key for row in rows for key in row))
    cells = [["|".join(v) if isinstance(v, list) else v for v in (row.get(key, "") for key in header)] for row in rows]
    if kind == "xlsx":
        path = folder / name
        with xlsxwriter.Workbook(path, {"strings_to_formulas": False, "strings_to_urls": False}) as book:
            sheet = book.add_worksheet()
            for number, row in enumerate([header, *cells]):
                sheet.write_row(number, 0, row)
        return path
    text = io.StringIO()
    csv.writer(text, delimiter="\t" if kind == "tsv" else ";").writerows([header, *cells])
    return write(folder, name, text.getvalue())


# What is written is read

WORDS = (
    "mấy",
    "giờ",
    "mở",
    "cửa",
    "Đà Nẵng",
    "hoà",
    "thuý",
    "shop",
    "500.000đ",
    "«Ánh»",
    "café",
    "8–21",
    '"a"',
    "(b)",
    ";",
    ",",
    "🎉",
)
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
LONGER = st.lists(TEXTS, min_size=1, max_size=3).map("\n".join)
ITEMS = st.builds(Item, LONGER, LONGER, st.lists(TEXTS, max_size=3).map(tuple))
TURNS = st.lists(st.builds(Turn, LONGER, LONGER), min_size=1, max_size=4)
SOME = settings(max_examples=15, deadline=None)


@SOME
@given(st.sampled_from(["csv", "tsv", "jsonl", "json", "xlsx", "parquet"]), st.lists(ITEMS, min_size=1, max_size=4))
def test_items_written_as_any_kind_of_file_are_read_as_they_were(kind, items):
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"câu hỏi": i.question, "trả lời": i.answer, "cách hỏi khác": list(i.wordings)} for i in items]
        assert read_noting(write_rows(Path(folder), kind, rows)) == (items, [])


@SOME
@given(
    st.sampled_from(["utf-16-le", "utf-16-be"]), st.sampled_from(["csv", "tsv"]), st.lists(ITEMS, min_size=1, max_size=4)
)
def test_unicode_text_of_excel_is_read_whatever_its_suffix(encoding, kind, items):
    rows = [["question", "answer", "wordings"], *([i.question, i.answer, "|".join(i.wordings)] for i in items)]
    text = io.StringIO()
    csv.writer(text, delimiter="\t").writerows(rows)
    mark = codecs.BOM_UTF16_LE if encoding.endswith("le") else codecs.BOM_UTF16_BE
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), f"shop.{kind}", mark + text.getvalue().encode(encoding))
        assert read_noting(path) == (items, [f"shop.{kind}: UTF-16, read as such"])


def items_of(turns: list[Turn]) -> list[Item]:
    return [Item(t.question, str(t.answer), (), tuple(turns[:n])) for n, t in enumerate(turns)]


def openai(turns: list[Turn]) -> list[dict[str, object]]:
    pairs = [(("user", t.question), ("assistant", t.answer)) for t in turns]
    return [{"role": role, "content": text} for pair in pairs for role, text in pair]


def sharegpt(turns: list[Turn]) -> list[dict[str, object]]:
    pairs = [(("human", t.question), ("gpt", t.answer)) for t in turns]
    return [{"from": role, "value": text} for pair in pairs for role, text in pair]


@SOME
@given(
    st.sampled_from(["jsonl", "json", "parquet"]),
    st.sampled_from([("messages", openai), ("conversations", sharegpt)]),
    st.lists(TURNS, min_size=1, max_size=4),
)
def test_a_conversation_of_n_answers_becomes_n_items(kind, form, conversations):
    key, messages = form
    with tempfile.TemporaryDirectory() as folder:
        path = write_rows(Path(folder), kind, [{"id": 1, key: messages(turns)} for turns in conversations])
        assert read_noting(path) == ([item for turns in conversations for item in items_of(turns)], [])


@SOME
@given(st.sampled_from(["jsonl", "json", "parquet"]), TURNS, TEXTS)
def test_an_alpaca_row_goes_on_with_its_input_and_after_its_history(kind, turns, given_text):
    history = [[t.question, t.answer] for t in turns]
    rows = [
        {"instruction": "a", "input": given_text, "output": "b", "history": history},
        {"instruction": "c", "input": "", "output": "d", "history": []},
    ]
    with tempfile.TemporaryDirectory() as folder:
        items = read_items(write_rows(Path(folder), kind, rows))
    assert items == [Item(f"a\n{given_text}", "b", (), tuple(turns)), Item("c", "d")]


# Tables


def test_a_header_may_hold_other_delimiters_in_quotes(tmp_path):
    assert read_items(write(tmp_path, "shop.csv", '"question (a,b,c)";question;answer\nx;a;b\n')) == [AB]


@pytest.mark.parametrize("kind", ["csv", "tsv", "xlsx"])
def test_alpaca_columns_are_read_from_tables_as_well(kind, tmp_path):
    rows = [{"instruction": "a", "input": "c", "output": "b"}, {"instruction": "d", "input": " ", "output": "e"}]
    assert read_items(write_rows(tmp_path, kind, rows)) == [Item("a\nc", "b"), Item("d", "e")]


@pytest.mark.parametrize("kind", ["csv", "tsv", "xlsx"])
def test_columns_of_lists_are_left_alone_in_tables(kind, tmp_path):
    row = {"question": "a", "answer": "b", "messages": "x", "before": "y", "history": "z", "input": "w"}
    assert read_items(write_rows(tmp_path, kind, [row])) == [AB]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_extra_keys_are_left_alone(kind, tmp_path):
    row = {"id": 5, "question": "a", "answer": "b", "input": "w", "history": "z", "source": {"url": ["x"]}}
    assert read_items(write_rows(tmp_path, kind, [row])) == [AB]


@pytest.mark.parametrize("kind", ["csv", "xlsx", "jsonl", "json", "parquet"])
def test_an_error_value_of_excel_is_named_with_its_row(kind, tmp_path):
    rows = [{"question": "a", "answer": "#N/A"}, {"question": "#REF!", "answer": "b"}, {"question": "#1", "answer": "b"}]
    assert [p.split(":", 2)[2] for p in problems(write_rows(tmp_path, kind, rows))] == [
        " the answer is #N/A, an error value of Excel; correct its formula",
        " the question is #REF!, an error value of Excel; correct its formula",
    ]


# Workbooks


def test_error_cells_and_truth_values_of_a_workbook_are_named_with_their_rows(tmp_path):
    path = tmp_path / "shop.xlsx"
    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet()
        sheet.write_row(2, 1, ["question", "answer", "wordings"])
        sheet.write_row(3, 1, ["a", 8, "c"])
        sheet.write_string(4, 1, "a")
        sheet.write_formula(4, 2, "=NA()", value="#N/A")
        sheet.write_formula(5, 1, "=A99", value="#REF!")
        sheet.write_boolean(5, 2, True)  # noqa: FBT003
        sheet.write_row(6, 1, ["a", "b"])
        sheet.write_formula(6, 3, "=1/0", value="#DIV/0!")
        sheet.write_row(7, 1, ["a", "b", False])
        sheet.write_formula(8, 0, "=1/0", value="#DIV/0!")  # in no column that is read
        sheet.write_row(8, 1, ["a", "b"])
    assert problems(path) == (
        "shop.xlsx:5: the answer is #N/A, an error value of Excel; correct its formula",
        "shop.xlsx:6: the question is #REF!, an error value of Excel; correct its formula",
        "shop.xlsx:6: the answer is True; it takes text",
        "shop.xlsx:7: a wording is #DIV/0!, an error value of Excel; correct its formula",
        "shop.xlsx:8: the wordings are False; they take a list of texts, or one text with | between",
    )


@pytest.mark.parametrize("kind", ["first sheet", "last of two"])
def test_a_stray_cell_in_the_last_corner_is_refused_before_memory_is_given_to_it(kind, tmp_path):
    path = tmp_path / "shop.xlsx"
    with xlsxwriter.Workbook(path) as book:
        first = book.add_worksheet()
        first.write_row(0, 0, ["question", "answer"])
        first.write_row(1, 0, ["a", "b"])
        stray = first if kind == "first sheet" else book.add_worksheet()
        stray.write(1_048_575, 16_383, "x")
    if kind == "last of two":
        assert read_items(path) == [AB]
    else:
        size = "cells as far as row 1,048,576 and column 16,384, 17,179,869,184 in all; at most 20,000,000 are read"
        advice = "delete the stray cells at the end, or save the rows as CSV"
        assert problems(path) == (f"shop.xlsx: {size}; {advice}",)


def test_a_format_without_a_value_does_not_make_a_sheet_larger(tmp_path):
    path = tmp_path / "shop.xlsx"
    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["question", "answer"])
        sheet.write_row(1, 0, ["a", "b"])
        sheet.write_blank(1_048_575, 16_383, None, book.add_format({"bold": True}))
    assert read_items(path) == [AB]


def rewrite_sheet(path: Path, xml: str) -> Path:
    """Replace the XML of the first sheet."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["xl/worksheets/sheet1.xml"] = xml.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


NAMESPACE = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


@pytest.mark.parametrize(
    "xml",
    [
        '<row r="1"><c r="A1" t="str"><v>question</v></c><c r="XFD1" t="str"><v>answer</v></c></row>'
        + "<row><c><v>1</v></c></row>" * 2000,
        "<row>" + "<c><v>1</v></c>" * 5000 + '</row><row r="5000"><c><v>1</v></c></row>',
        "<row r='5000'><c t='str' r='XFD5000'><v>x</v></c></row>",
        '<row r="1"><c r="XFD5000"><v>1</v></c></row>',
        '<row r="1"><c r="A99999999999"><v>1</v></c></row>',
    ],
    ids=[
        "rows without a place",
        "cells without a place",
        "single quotes",
        "a cell that is not in its row",
        "a row beyond all",
    ],
)
def test_a_large_sheet_is_seen_however_its_cells_are_written(xml, tmp_path):
    path = rewrite_sheet(
        write_xlsx(tmp_path, [["a"]]), f'<worksheet xmlns="{NAMESPACE}"><sheetData>{xml}</sheetData></worksheet>'
    )
    (problem,) = problems(path)
    assert problem.startswith("shop.xlsx: cells as far as row ")


def test_a_sheet_whose_tags_have_a_prefix_is_read_with_its_errors(tmp_path):
    rows = [("question", "answer"), ("a", "b")]
    cells = ["".join(f'<x:c t="str"><x:v>{cell}</x:v></x:c>' for cell in row) for row in rows]
    cells.append('<x:c t="str"><x:v>a</x:v></x:c><x:c r="B3" t="e"><x:f>1/0</x:f><x:v>#DIV/0!</x:v></x:c>')
    body = "".join(f'<x:row r="{n}">{row}</x:row>' for n, row in enumerate(cells, start=1))
    path = rewrite_sheet(
        write_xlsx(tmp_path, [["a"]]), f'<x:worksheet xmlns:x="{NAMESPACE}"><x:sheetData>{body}</x:sheetData></x:worksheet>'
    )
    assert problems(path) == ("shop.xlsx:3: the answer is #DIV/0!, an error value of Excel; correct its formula",)


def test_a_workbook_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hoidap.data.workbook._MOST_UNPACKED_BYTES", 1000)
    (problem,) = problems(write_xlsx(tmp_path, [["question", "answer"], ["a", "b"]]))
    assert problem.startswith("shop.xlsx: unpacks to ")
    assert problem.endswith(" bytes; at most 1,000 are read; split the file")


# JSON


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_is_read(indent, tmp_path):
    content = json.dumps([{"question": "a", "answer": "b"}], indent=indent)
    assert read_items(write(tmp_path, "shop.json", f" \n{content}\n ")) == [AB]


@pytest.mark.parametrize("key", ["data", "items", "rasa", "câu hỏi"])
def test_an_object_may_hold_the_rows_in_its_only_list(key, tmp_path):
    whole = {"version": "1", "about": {"list": [1, "]"], "n": 2}, key: [{"question": "a", "answer": "b"}], "last": None}
    for indent in (None, 2):
        assert read_items(write(tmp_path, "shop.json", "\ufeff" + json.dumps(whole, indent=indent) + "\r\n")) == [AB]


def test_a_row_of_a_json_file_is_named_by_the_line_it_begins_on(tmp_path):
    lines = [
        '{"data": [',  # 1
        '{"question": "a", "answer": "b"}, {"question": "",',  # 2
        '  "answer": "[{\\"b\\""',  # 3
        "},",  # 4
        "5,",  # 5
        '  {"question": "a", "question": "b", "answer": "c"},',  # 6
        '{"question": "a", "answer": ["b"]}',  # 7
        '], "n": 1}',  # 8
    ]
    assert problems(write(tmp_path, "shop.json", "\r\n".join(lines))) == (
        "shop.json:2: the question is empty",
        'shop.json:5: int, wanted an object like {"question": …}',
        "shop.json:6: not JSON (the key 'question' twice in one object)",
        "shop.json:7: the answer is ['b']; it takes text",
    )


WANTED = 'wanted a list of rows, or an object in which one list holds them, like {"data": [{"question": …}]}'


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", ":1: not JSON (Expecting value, column 1)"),
        ("[\n{},\n{'a'}]", ":3: not JSON (Expecting property name enclosed in double quotes, column 2)"),
        ('[{"question": "a"},]', ":1: not JSON (Expecting value, column 20)"),
        ("{}\n{}", ":2: not JSON (Extra data, column 1); a file of one object a line is named .jsonl"),
        ("5", f":1: one single value; {WANTED}"),
        ("{}", f":1: an object with 0 lists (its keys: none); {WANTED}"),
        ('{"question": "a"}', f":1: an object with 0 lists (its keys: 'question'); {WANTED}"),
        ('{"a": [], "b": 1, "c": []}', f":1: an object with 2 lists (its keys: 'a', 'b', 'c'); {WANTED}"),
        ('{"a": 1, "a": [{"question": "a", "answer": "b"}]}', ":1: not JSON (the key 'a' twice in one object)"),
        ("[]", ": no rows below the header; write at least one question and its answer"),
        ('{"data": []}', ": no rows below the header; write at least one question and its answer"),
    ],
)
def test_json_that_holds_no_rows_is_refused(content, problem, tmp_path):
    assert problems(write(tmp_path, "shop.json", content)) == (f"shop.json{problem}",)


@pytest.mark.parametrize("depth", [50, 400, 900, 990, 100_000])
@pytest.mark.parametrize(
    ("before", "behind"), [("", ""), ('[{"question": ', ', "answer": "b"}]')], ids=["alone", "in a row"]
)
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"])
def test_a_json_file_nested_without_end_is_one_short_problem(depth, before, behind, opening, closing, tmp_path):
    nested = before + opening * depth + "1" + closing * depth + behind
    (problem,) = problems(write(tmp_path, "shop.json", nested))
    assert len(problem) < 300


# Parquet


def test_parquet_reads_texts_lists_and_nothing(tmp_path):
    rows = [{"answer": "b", "question": "a", "wordings": ["c", "d"]}, {"answer": "f", "question": "e", "wordings": None}]
    assert read_items(write_parquet(tmp_path, rows)) == [Item("a", "b", ("c", "d")), Item("e", "f")]


def test_bad_parquet_rows_are_named_by_their_number(tmp_path):
    path = write_parquet(tmp_path, [{"question": "a", "answer": 1.5}, {"question": None, "answer": 2.0}])
    assert problems(path) == (
        "shop.parquet:1: the answer is 1.5; it takes text",
        "shop.parquet:2: the question is empty",
        "shop.parquet:2: the answer is 2.0; it takes text",
    )


def test_parquet_without_the_columns_says_what_it_found(tmp_path):
    assert problems(write_parquet(tmp_path, [{"question": "a", "text": "b"}])) == (
        "shop.parquet:1: no column for the answer; name one 'trả lời' or 'answer'; found 'question', 'text'",
    )


@pytest.mark.parametrize("content", [b"", b"PAR1", b"question,answer\na,b\n"], ids=["empty", "cut", "CSV"])
def test_a_file_that_is_not_parquet_is_refused(content, tmp_path):
    (problem,) = problems(write(tmp_path, "shop.parquet", content))
    assert problem.startswith("shop.parquet: not Parquet that can be read (")
    assert problem.endswith("); write it again")


def test_parquet_of_too_many_rows_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("hoidap.data.rows.MOST_CELLS", 3)
    assert problems(write_parquet(tmp_path, [{"question": "a", "answer": "b", "c": 1}] * 2)) == (
        "shop.parquet: 2 rows of 2 columns; at most 3 cells are read; split the file",
    )


def test_a_parquet_file_may_be_named_like_a_pattern(tmp_path):
    path = write_parquet(tmp_path, [{"question": "a", "answer": "b"}]).rename(tmp_path / "shop[1]*.parquet")
    assert read_items(path) == [AB]


# Conversations


@pytest.mark.parametrize("question", ["user", "human", "Human"])
@pytest.mark.parametrize("answer", ["assistant", "gpt", "chatgpt", "bot", "GPT"])
@pytest.mark.parametrize(("key", "who", "said"), [("conversations", "from", "value"), ("messages", "role", "content")])
def test_roles_have_several_names(question, answer, key, who, said, tmp_path):
    row = {key: [{who: question, said: " a "}, {who: answer, said: unicodedata.normalize("NFD", "ừ")}]}
    assert read_items(write(tmp_path, "shop.jsonl", jsonl(row))) == [Item("a", "ừ")]


def test_the_content_of_a_message_may_be_a_list_of_texts(tmp_path):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "c"}]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "b", "tool_calls": None}]}
    assert read_items(write(tmp_path, "shop.jsonl", jsonl(row))) == [Item("a\nc", "b")]


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, []),
        (1, ["shop.jsonl: 1 system message left out; PhoGPT's templates have no place for them"]),
        (1037, ["shop.jsonl: 1,037 system messages left out; PhoGPT's templates have no place for them"]),
    ],
)
@pytest.mark.parametrize("read", [read_items, read_questions])
def test_system_messages_are_left_out_and_counted(count, told, read, tmp_path):
    messages = openai([Turn("a", "b")])
    rows = [{"messages": [{"role": "system" if n % 2 else "developer", "content": "x"}, *messages]} for n in range(count)]
    found, notes = read_noting(write(tmp_path, "shop.jsonl", jsonl(*rows, {"messages": messages})), read)
    assert notes == told
    assert found == [AB if read is read_items else Question("a", "b")] * (count + 1)


def said(*roles: str) -> list[dict[str, object]]:
    return [{"role": role, "content": "x"} for role in roles]


ROLES = "it takes user, human, assistant, gpt, chatgpt, bot, system, developer"
TEXT_ALONE = "hoidap trains on text alone; take the conversation out"


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        (None, 'the conversation is None; it takes a list of messages like {"role": "user", "content": "…"}'),
        ([], 'the conversation is []; it takes a list of messages like {"role": "user", "content": "…"}'),
        ("a", 'the conversation is \'a\'; it takes a list of messages like {"role": "user", "content": "…"}'),
        (["a"], 'message 1 is \'a\'; it takes an object like {"role": "user", "content": "…"}'),
        ([{}], f"message 1 has the role None; {ROLES}"),
        ([{"from": ["user"]}], f"message 1 has the from ['user']; {ROLES}"),
        (said("user", "tool"), f"message 2 has the role 'tool'; {ROLES}"),
        (said("assistant", "user"), "message 1 is an answer, where a question comes; they alternate"),
        (said("user", "user"), "message 2 is a question, where an answer comes; they alternate"),
        (said("user", "assistant", "bot"), "message 3 is an answer, where a question comes; they alternate"),
        (said("user", "assistant", "system"), "message 3 is a system message, where a question comes; they alternate"),
        (said("system", "developer"), "message 2 is a system message, where a question comes; they alternate"),
        (said("system"), "a conversation of one system message; it takes a question and an answer"),
        (said("user"), "the conversation ends with a question that has no answer; add it or take the question out"),
        (
            said("user", "assistant", "user"),
            "the conversation ends with a question that has no answer; add it or take the question out",
        ),
        ([*said("user"), {"role": "assistant"}], "the text of message 2 is empty"),
        ([*said("user"), {"role": "assistant", "content": 5}], "the text of message 2 is 5; it takes text"),
        ([*said("user"), {"role": "assistant", "content": []}], "the text of message 2 is empty"),
        (
            [*said("user"), {"role": "assistant", "content": "x\x07"}],
            "the text of message 2 holds U+0007, which no keyboard types; was it converted?",
        ),
        (
            [*said("user"), {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}],
            f"message 2 holds 'tool_calls'; {TEXT_ALONE}",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}}]}],
            f"message 1 holds 'image_url'; {TEXT_ALONE}",
        ),
        ([{"role": "user", "content": ["x"]}], f"message 1 holds \"'x'\"; {TEXT_ALONE}"),
        ([{"role": "user", "content": [{"type": "text"}]}], f"message 1 holds 'text without text'; {TEXT_ALONE}"),
        (said(*["user", "assistant"] * 257), "a conversation of 514 messages; at most 512; split it"),
    ],
)
@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_a_conversation_without_form_is_named_by_what_is_wrong(key, messages, problem, tmp_path):
    rows = [{key: openai([Turn("a", "b")])}, {key: messages}, {key: openai([Turn("a", "b")])}]
    assert problems(write(tmp_path, "shop.jsonl", jsonl(*rows))) == (f"shop.jsonl:2: {problem}",)


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        ("a", "the earlier turns are 'a'; they take a list of [question, answer] pairs"),
        ([["a"]], "the earlier turns are [['a']]; they take a list of [question, answer] pairs"),
        (["ab"], "the earlier turns are ['ab']; they take a list of [question, answer] pairs"),
        ([["a", "b"], ["c", ""]], "the answer of earlier turn 2 is empty"),
        ([[5, "b"]], "the question of earlier turn 1 is 5; it takes text"),
        ([["a", "b"]] * 256, "256 earlier turns; at most 255; split the conversation"),
    ],
)
@pytest.mark.parametrize("kind", ["alpaca", "own"])
def test_earlier_turns_without_form_are_named(kind, history, problem, tmp_path):
    plain = {"question": "a", "answer": "b", "before": history}
    row = plain if kind == "own" else {"instruction": "a", "output": "b", "history": history}
    assert problems(write(tmp_path, "shop.jsonl", jsonl(row))) == (f"shop.jsonl:1: {problem}",)


def test_an_input_that_is_no_text_is_named(tmp_path):
    rows = [{"instruction": "a", "input": 5, "output": "b"}, {"instruction": "", "input": "c", "output": "b"}]
    assert problems(write(tmp_path, "shop.jsonl", jsonl(*rows))) == (
        "shop.jsonl:1: the input is 5; it takes text",
        "shop.jsonl:2: the question is empty",
    )


def test_a_row_that_is_two_things_is_refused_and_one_that_has_a_prompt_besides_is_not(tmp_path):
    messages = openai([Turn("a", "b")])
    both = {"prompt": "x", "response": "y", "messages": messages}
    twins = {"messages": messages, "conversations": messages}
    assert read_items(write(tmp_path, "shop.jsonl", jsonl({"prompt": "a", "messages": messages}))) == [AB]
    assert problems(write(tmp_path, "shop.jsonl", jsonl(both, twins))) == (
        "shop.jsonl:1: both a question with its answer and a conversation, 'messages'; keep one of the two",
        "shop.jsonl:2: two columns for the conversation: 'messages' and 'conversations'; keep one",
    )


def test_questions_stand_alone(tmp_path):
    rows = [
        {"messages": said("user")},
        {"messages": openai([Turn("a", "b")])},
        {"instruction": "a", "input": "c", "output": "b", "history": []},
    ]
    path = write(tmp_path, "ask.jsonl", jsonl(*rows))
    assert read_questions(path) == [Question("x", None), Question("a", "b"), Question("a\nc", "b")]
    rows = [{"messages": said("user", "assistant", "user")}, {"question": "a", "before": [["b", "c"]]}]
    assert problems(write(tmp_path, "ask.jsonl", jsonl(*rows)), read_questions) == (
        "ask.jsonl:1: a conversation of 2 questions; each is asked alone; write one a row",
        "ask.jsonl:2: a question with earlier turns; each is asked alone; write one a row",
    )


def test_an_answer_of_no_weight_is_not_trained_on_in_silence(tmp_path):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    path = tmp_path / "shop.jsonl"
    path.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    (problem,) = problems(path)
    assert problem == "shop.jsonl:1: message 2 has the weight 0; every answer is trained on; take it out"
    messages[1]["weight"] = 1
    path.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    assert read_items(path) == [Item("a", "b")]


def test_the_system_text_of_alpaca_is_left_out_and_counted(tmp_path):
    row = {"instruction": "a", "input": "", "output": "b", "system": "Bạn là trợ lý."}
    path = tmp_path / "shop.json"
    path.write_text(json.dumps([row, row, {**row, "system": ""}]), encoding="utf-8")
    notes: list[str] = []
    assert read_items(path, notes.append) == [Item("a", "b")] * 3
    assert notes == ["shop.json: 2 system messages left out; PhoGPT's templates have no place for them"]
