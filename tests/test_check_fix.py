"""--fix writes a mended copy in which nothing else has changed, and a list of every change; the original stays."""

import csv
import errno
import json
import tempfile
import unicodedata
from pathlib import Path

import polars as pl
import pytest
import xlsxwriter
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hoidap.base import find_base
from hoidap.check.examination import examine
from hoidap.check.kinds import KINDS
from hoidap.check.repair import repair
from hoidap.data.items import Item
from hoidap.data.read import read_contents, read_items
from hoidap.errors import DataError, RecipeError

HEADER = ["mã", "Câu hỏi", "Trả lời", "cách hỏi khác", "ghi chú"]
ROWS = [
    ["1", "Hóa đơn có hòa mạng không?", "Dạ có, <b>hoá đơn</b> đỏ ạ.", "hoa don | xuất\u00a0hóa đơn", "<b>giữ</b>"],
    ["2", "Tr\xadêng §¹i häc ë ®©u", "Hµ Néi", "", "x"],
    ["3", "Ðường nào?", "Đường nhа\u200b b, “c”; d", "", "\u200b"],
    ["4", unicodedata.normalize("NFD", "Mở cửa lúc nào?"), "30 Â°C,\nhai dòng", "", ""],
    ["5", "Bình thường?", "Dạ vâng, tốt ạ.", "binh thuong", "a;b\tc"],
    ["6", "Không trả lời?", "", "", ""],
]
MENDED = [
    ["1", "Hóa đơn có hòa mạng không?", "Dạ có, hóa đơn đỏ ạ.", "hoa don | xuất hóa đơn", "<b>giữ</b>"],
    ["2", "Trường Đại học ở đâu", "Hà Nội", "", "x"],
    ["3", "Đường nào?", "Đường nha b, “c”; d", "", "\u200b"],
    ["4", "Mở cửa lúc nào?", "30 °C,\nhai dòng", "", ""],
    *ROWS[4:],
]
ITEMS = [Item(q, a, tuple(w.strip() for w in ws.split("|") if w.strip())) for _, q, a, ws, _ in MENDED[:5]]


def write_rows(folder: Path, kind: str, rows=ROWS) -> Path:
    path = folder / f"shop.{kind}"
    objects = [dict(zip(HEADER, row, strict=True)) for row in rows]
    match kind:
        case "csv" | "tsv":
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, delimiter="\t" if kind == "tsv" else ",").writerows([HEADER, *rows])
        case "jsonl":
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in objects), encoding="utf-8")
        case "json":
            path.write_text(json.dumps({"data": objects, "name": "tiệm"}, ensure_ascii=False), encoding="utf-8")
        case "xlsx":
            with xlsxwriter.Workbook(path) as book:
                sheet = book.add_worksheet()
                for number, row in enumerate([HEADER, *rows]):
                    sheet.write_row(number, 0, row)
        case "parquet":
            pl.DataFrame(objects).write_parquet(path)
    return path


def all_columns(path: Path) -> list[list[str]]:
    """Return the cells of a copy, as written."""
    match path.suffix:
        case ".csv" | ".tsv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                return list(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","))[1:]
        case ".jsonl":
            return [list(json.loads(line).values()) for line in path.read_text(encoding="utf-8").splitlines() if line]
        case ".json":
            document = json.loads(path.read_text(encoding="utf-8"))
            assert document["name"] == "tiệm"
            return [list(row.values()) for row in document["data"]]
    return [list(row) for row in pl.read_parquet(path).rows()]


def kinds_in(path: Path) -> set[str]:
    return set(examine(path, find_base("mini"), Console(quiet=True)).by_kind())


def listed(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


REPAIRED = {kind for kind in KINDS if KINDS[kind].is_mended}


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "xlsx", "parquet"])
def test_a_copy_is_mended_and_all_else_is_kept(kind, tmp_path):
    path = write_rows(tmp_path, kind)
    before = path.read_bytes()
    assert kinds_in(path) >= REPAIRED
    repaired = repair(path, "vi")
    assert repaired.file.name == ("shop.fixed.csv" if kind == "xlsx" else f"shop.fixed.{kind}")
    assert path.read_bytes() == before
    assert all_columns(repaired.file) == MENDED
    assert not kinds_in(repaired.file) & REPAIRED
    contents = read_contents(repaired.file)
    assert contents.items == ITEMS
    assert len(contents.problems) == len(read_contents(path).problems) == 1


def test_every_change_is_listed(tmp_path):
    repaired = repair(write_rows(tmp_path, "csv"), "en")
    header, *changes = listed(repaired.list)
    assert header == ["line", "column", "before", "after", "why"]
    assert [change[:2] for change in changes] == [
        ["2", "answer"], ["2", "other wordings"], ["3", "question"], ["3", "answer"], ["4", "question"], ["4", "answer"],
        ["5", "question"], ["5", "answer"],
    ]  # fmt: skip
    assert changes[0][2:] == [
        ROWS[0][2], MENDED[0][2], "HTML tags or entities; Two places for the tone mark in one file",
    ]  # fmt: skip
    assert changes[7][2:4] == [ROWS[3][2], MENDED[3][2]]
    assert (repaired.n_changes, repaired.n_rows) == (8, 4)


def test_the_list_speaks_vietnamese_too(tmp_path):
    header, first, *_ = listed(repair(write_rows(tmp_path, "csv"), "vi").list)
    assert header == ["dòng", "cột", "trước", "sau", "vì sao"]
    assert first[1] == "câu trả lời"
    assert first[4] == "Thẻ hoặc mã HTML; Hai kiểu bỏ dấu trong một tệp"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet", "xlsx"])
def test_where_nothing_is_to_be_mended_nothing_is_written(kind, tmp_path):
    repaired = repair(write_rows(tmp_path, kind, ROWS[4:5]), "vi")
    assert repaired.n_changes == 0
    assert [file.name for file in tmp_path.iterdir()] == [f"shop.{kind}"]


@pytest.mark.parametrize("there", ["shop.fixed.csv", "shop.changes.tsv"])
def test_what_is_there_is_never_overwritten(there, tmp_path):
    path = write_rows(tmp_path, "csv")
    (tmp_path / there).write_text("mine")
    with pytest.raises(RecipeError, match=there):
        repair(path, "vi")
    assert (tmp_path / there).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path, monkeypatch):
    path = write_rows(tmp_path, "csv")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hoidap.check.repair._write_list", fail)
    with pytest.raises(RecipeError, match="No space left"):
        repair(path, "vi")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_copy_keeps_delimiter_line_ends_and_mark(end, mark, delimiter, tmp_path):
    rows = [["câu hỏi", "trả lời"], ["Giá <b>gì</b>?", "5.000đ"], ["Gì?", "x"]]
    path = tmp_path / "shop.csv"
    path.write_bytes((mark + "".join(delimiter.join(row) + end for row in rows)).encode())
    repair(path, "vi")
    rows[1][0] = "Giá gì?"
    expected = (mark + "".join(delimiter.join(row) + end for row in rows)).encode()
    assert (tmp_path / "shop.fixed.csv").read_bytes() == expected


def test_lines_that_are_no_rows_stay_as_they_stand(tmp_path):
    lines = [
        '{"question": "Giá <b>gì</b>?", "answer": "5.000đ", "n": [1, {"x": null}]}',
        "",
        "{broken",
        '{"question":  "a",  "answer": "b"}',
        '"text"',
        '{"other": 1}',
        '{"answer": 8, "question": ["Ð"]}',
    ]
    path = tmp_path / "shop.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    repair(path, "vi")
    copied = (tmp_path / "shop.fixed.jsonl").read_text(encoding="utf-8").split("\n")
    assert copied[0] == '{"question": "Giá gì?", "answer": "5.000đ", "n": [1, {"x": null}]}'
    assert copied[1:] == [*lines[1:], ""]


def test_rows_of_csv_with_too_many_cells_and_empty_lines_stay(tmp_path):
    path = tmp_path / "shop.csv"
    path.write_text("question,answer\nÐường?,b\n\nÐ a,b,c\nd\n", encoding="utf-8")
    repair(path, "vi")
    assert (tmp_path / "shop.fixed.csv").read_text(encoding="utf-8") == "question,answer\nĐường?,b\n\nÐ a,b,c\nd\n"


def test_conversations_are_mended_where_they_speak(tmp_path):
    said = {"role": "user", "content": "Giá <b>gì</b>?", "name": "<b>An</b>"}
    row = {"messages": [said, {"role": "assistant", "content": [{"type": "text", "text": "5\u00a0đồng"}]}], "id": "<i>"}
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    repair(path, "vi")
    copy = json.loads((tmp_path / "talk.fixed.jsonl").read_text(encoding="utf-8"))
    assert copy["messages"][0] == {"role": "user", "content": "Giá gì?", "name": "<b>An</b>"}
    assert copy["messages"][1]["content"] == [{"type": "text", "text": "5 đồng"}]
    assert copy["id"] == "<i>"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_in_bytes_of_an_old_encoding_becomes_utf8(kind, tmp_path):
    texts = ["C©u hái", "Tr¶ lêi"] if kind == "csv" else ["question", "answer"]
    rows = [["Tr\xadêng ë ®©u, §¹i häc nµo", "Hµ Néi"], ["Mêi giê më cöa", "T¸m giê s¸ng"]]
    path = tmp_path / f"old.{kind}"
    if kind == "csv":
        text = "\r\n".join(",".join(f'"{cell}"' for cell in row) for row in [texts, *rows]) + "\r\n"
    else:
        text = "".join(json.dumps(dict(zip(texts, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError):
        read_items(path)
    repaired = repair(path, "en")
    assert read_items(repaired.file) == [
        Item("Trường ở đâu, Đại học nào", "Hà Nội"),
        Item("Mời giờ mở cửa", "Tám giờ sáng"),
    ]
    if kind == "csv":
        assert [change[1:4] for change in listed(repaired.list)[1:3]] == [
            ["C©u hái", "C©u hái", "Câu hỏi"],
            ["Tr¶ lêi", "Tr¶ lêi", "Trả lời"],
        ]


def test_broken_utf8_that_the_reader_refuses_is_mended(tmp_path):
    path = tmp_path / "shop.csv"
    broken = "Mở cửa lúc tám giờ, nghỉ buổi trưa".encode().decode("latin-1")
    path.write_text(f'question,answer\nKhi nào?,"{broken}"\n', encoding="utf-8")
    with pytest.raises(DataError):
        read_items(path)
    assert read_items(repair(path, "vi").file) == [Item("Khi nào?", "Mở cửa lúc tám giờ, nghỉ buổi trưa")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("shop.csv", 'question,answer\na,"b\n'),
        ("shop.csv", "what,ever\nÐa,b\n"),
        ("shop.csv", b"question,answer\n\x8d\x8f,b\n"),
        ("shop.json", '[{"question": "Ða", "question": "b", "answer": "c"}]'),
        ("shop.json", "{"),
        ("shop.xlsx", b"PK"),
        ("shop.parquet", b"PAR1"),
        ("shop.txt", "a"),
    ],
)
def test_a_file_that_cannot_be_written_again_whole_is_refused(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError):
        repair(path, "vi")
    assert list(tmp_path.iterdir()) == [path]


# No Cyrillic letter: once it is Latin, a file of nothing but such words can read as one in VISCII.
CELL = st.text(st.sampled_from("aĐÐ<b>&;,\t\"'\n |#\u200b\u00a0àò"), max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(CELL, CELL, CELL, CELL), min_size=1, max_size=6), st.sampled_from(["csv", "tsv", "jsonl", "json"])
)
def test_whatever_the_cells_the_rest_is_kept_and_mending_is_done_at_once(rows, kind):
    with tempfile.TemporaryDirectory() as folder:
        table = [[str(n), *row] for n, row in enumerate(rows)]
        path = write_rows(Path(folder), kind, table)
        repaired = repair(path, "vi")
        if not repaired.n_changes:
            return
        copy = all_columns(repaired.file)
        assert [(row[0], row[4]) for row in copy] == [(row[0], row[4]) for row in table]
        assert not kinds_in(repaired.file) & REPAIRED
        assert len(read_contents(repaired.file).problems) <= len(read_contents(path).problems)
        assert repair(repaired.file, "vi").n_changes == 0


def test_a_header_with_other_delimiters_is_still_read(tmp_path):
    path = tmp_path / "shop.csv"
    path.write_text('question,answer,"a;b;c;d"\nÐa?,b,c\n', encoding="utf-8")
    assert read_items(repair(path, "vi").file) == [Item("Đa?", "b")]


def test_parquet_keeps_the_kinds_of_its_columns(tmp_path):
    path = tmp_path / "shop.parquet"
    frame = pl.DataFrame(
        {
            "question": ["Ðâu?", "b"],
            "answer": ["c", None],
            "wordings": [["Ðó"], None],
            "n": pl.Series([1, 2], dtype=pl.UInt8),
        }
    )
    frame.write_parquet(path)
    copy = pl.read_parquet(repair(path, "vi").file)
    assert copy.schema == frame.schema
    assert copy.rows() == [("Đâu?", "c", ["Đó"], 1), ("b", None, None, 2)]
