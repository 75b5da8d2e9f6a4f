"""Read 100,000 generated rows from every kind of file and compare with a bare parse of the same file.

    python benchmarks/reading.py --out benchmarks/results/reading.json

The baseline is what parses the file below hoidap, alone: no columns found, no text normalised, no cell checked. The parity
error is the share of items that are not read as they were written. Both run on one thread, the best of three rounds counts.
"""

import argparse
import csv
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import environment

from hoidap.data.items import Item, to_jsonl
from hoidap.data.read import read_items
from hoidap.prompt import Turn

TARGET_ROWS_PER_S = 20_000
ROUNDS = 3


def generate(count: int) -> list[Item]:
    return [
        Item(
            f"Câu hỏi số {n}: cửa hàng mở cửa từ mấy giờ?",
            f"Trả lời số {n}: từ 8 giờ sáng đến 21 giờ tối, cả Chủ nhật ạ.\nMình ghé giờ nào cũng có người tiếp.",
            (f"shop {n} mấy giờ mở cửa", f"may gio mo cua vay {n}"),
        )
        for n in range(count)
    ]


def converse(items: list[Item]) -> list[Item]:
    """Return the items as conversations of two turns."""
    pairs = zip(items[::2], items[1::2], strict=True)
    return [
        turn
        for first, second in pairs
        for turn in (
            Item(first.question, first.answer),
            Item(second.question, second.answer, (), (Turn(first.question, first.answer),)),
        )
    ]


def table(items: list[Item]) -> list[list[str]]:
    return [["câu hỏi", "trả lời", "cách hỏi khác"], *([i.question, i.answer, "|".join(i.wordings)] for i in items)]


def write_csv(path: Path, items: list[Item]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(table(items))


def parse_csv(path: Path) -> object:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def write_jsonl(path: Path, items: list[Item]) -> None:
    path.write_text(to_jsonl(items), encoding="utf-8")


def write_messages(path: Path, items: list[Item]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for item in items:
            if item.before:
                turns = [*item.before, Turn(item.question, item.answer)]
                pairs = [(("user", turn.question), ("assistant", turn.answer)) for turn in turns]
                messages = [{"role": role, "content": text} for pair in pairs for role, text in pair]
                file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def parse_jsonl(path: Path) -> object:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_json(path: Path, items: list[Item]) -> None:
    rows = [{"question": i.question, "answer": i.answer, "wordings": i.wordings} for i in items]
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


def parse_json(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def write_xlsx(path: Path, items: list[Item]) -> None:
    import xlsxwriter

    with xlsxwriter.Workbook(path) as book:
        sheet = book.add_worksheet()
        for number, row in enumerate(table(items)):
            sheet.write_row(number, 0, row)


def parse_xlsx(path: Path) -> object:
    from python_calamine import CalamineWorkbook

    return CalamineWorkbook.from_path(path).get_sheet_by_index(0).to_python()


def write_parquet(path: Path, items: list[Item]) -> None:
    import polars as pl

    rows = [{"question": i.question, "answer": i.answer, "wordings": list(i.wordings)} for i in items]
    pl.DataFrame(rows).write_parquet(path)


def parse_parquet(path: Path) -> object:
    import polars as pl

    return pl.read_parquet(path).rows()


KINDS: dict[str, tuple[str, Callable[[Path, list[Item]], None], Callable[[Path], object], str]] = {
    "csv": (".csv", write_csv, parse_csv, "csv.reader"),
    "jsonl": (".jsonl", write_jsonl, parse_jsonl, "json.loads of each line"),
    "jsonl-messages": (".jsonl", write_messages, parse_jsonl, "json.loads of each line"),
    "json": (".json", write_json, parse_json, "json.loads"),
    "xlsx": (".xlsx", write_xlsx, parse_xlsx, "calamine's to_python"),
    "parquet": (".parquet", write_parquet, parse_parquet, "polars' read_parquet().rows()"),
}


def best_s(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def measure(kind: str, items: list[Item], folder: Path) -> dict[str, Any]:
    """Write the items as one kind of file and return its row."""
    suffix, write, parse, name = KINDS[kind]
    expected = converse(items) if write is write_messages else items
    path = folder / f"shop{suffix}"
    write(path, expected)
    read = read_items(path)
    wrong = sum(a != b for a, b in zip(read, expected, strict=False)) + abs(len(read) - len(expected))
    seconds, bare_s = best_s(lambda: read_items(path)), best_s(lambda: parse(path))
    value, baseline = len(expected) / seconds, len(expected) / bare_s
    return {
        "key": f"reading.{kind}", "value": round(value), "unit": "rows/s", "baseline": round(baseline),
        "ratio": round(value / baseline, 3), "target": TARGET_ROWS_PER_S, "parity_error": wrong / len(expected),
        "note": f"{len(expected):,} items; baseline: {name}, the same file in the same run, one thread",
        "met": value >= TARGET_ROWS_PER_S and not wrong,
        "detail": {"s": round(seconds, 3), "baseline_s": round(bare_s, 3), "bytes": path.stat().st_size},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    os.environ["POLARS_MAX_THREADS"] = "1"  # read when polars is imported, which is later
    items = generate(options.rows)
    rows = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(kind, items, Path(folder)))
        print(json.dumps(rows[-1], ensure_ascii=False))
    environment.write(options.out, rows)


if __name__ == "__main__":
    main()
