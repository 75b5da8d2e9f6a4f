"""Check a file of 100,000 rows with planted faults: seconds, peak memory, and whether every fault is found.

    python benchmarks/checking.py --out benchmarks/results/checking.json

The rows are written by rule from a seed: goods of an invented shop, each named by three of 840 syllables, so that no two
questions are alike but those planted. The parity error is the share of planted faults that the report does not name by kind
and line; pairs that are near by their letters alone are looked for within bounds, and are not planted. The check runs in a
process of its own, whose peak memory is the kernel's figure.
"""

import argparse
import csv
import json
import multiprocessing
import os
import random
import resource
import tempfile
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import environment
from rich.console import Console

from hoidap.base import MINI, find_base
from hoidap.check.examination import examine
from hoidap.check.page import page
from hoidap.text import fold

TARGET_S = 60
TARGET_GIB = 2
PLANTED = 200  # of each kind
ONSETS = ("b", "c", "ch", "d", "đ", "g", "h", "k", "kh", "l", "m", "n", "ng", "nh", "ph", "s", "t", "th", "tr", "v", "x")
RIMES = (
    *("a", "ai", "am", "an", "ang", "anh", "ao", "au", "ay", "e", "em", "en", "eo", "ê", "êm", "ên", "i", "im", "in"),
    *("inh", "iên", "iêu", "o", "oi", "om", "on", "ong", "ô", "ôi", "ôn", "ông", "ơ", "ơi", "ơn", "u", "ui", "um", "un"),
    *("ung", "uôi"),
)
QUESTIONS = (
    "{0} giá bao nhiêu một cái?",
    "Món {0} còn hàng ở quầy nào?",
    "Cho hỏi {0} bảo hành mấy tháng?",
    "Muốn đổi {0} thì làm sao?",
    "{0} có những màu gì?",
    "Bộ {0} nặng bao nhiêu?",
    "Đặt {0} thì mấy ngày có hàng?",
)
ANSWERS = (
    "Dạ, {0} giá {1}.000đ, đã gồm thuế, mua từ 3 cái được giảm thêm ạ.",
    "Món {0} còn ở quầy {1}, mình ghé lúc nào cũng có người tiếp nha.",
    "Dạ, {0} được bảo hành {1} tháng kể từ ngày mua, nhớ giữ hóa đơn ạ.",
    "Mình đổi {0} trong {1} ngày, còn nguyên tem và bao bì là được.",
    "{0} có {1} màu, mình nhắn tin để được gửi hình từng màu nha.",
    "Bộ {0} nặng {1} g, đóng hộp chống sốc, gửi đi tỉnh được ạ.",
    "Đặt {0} thì khoảng {1} ngày có hàng, có hàng là tiệm nhắn liền.",
)
Row = list[str]
Faults = dict[str, list[tuple[int, ...]]]


def generate(count: int, seed: int) -> list[Row]:
    """Return rows without a fault: question, answer, another wording."""
    rng = random.Random(seed)  # noqa: S311 - drawing rows, not keys
    names: set[str] = set()
    rows = []
    for number in range(count):
        while (name := " ".join((rng.choice(ONSETS) + rng.choice(RIMES)).capitalize() for _ in range(3))) in names:
            pass
        names.add(name)
        kind = rng.randrange(len(QUESTIONS))
        answer = ANSWERS[kind].format(name, 2 + number % 900)
        rows.append([QUESTIONS[kind].format(name), answer, f"shop oi {name.lower()} sao vay {number}"])
    return rows


SINGLE: dict[str, Callable[[Row, int], Row]] = {
    "refused": lambda row, _: [row[0], "", row[2]],
    "old-encoding": lambda row, n: [row[0], f"Tr\xadêng §¹i häc {n}", ""],
    "too-long": lambda row, n: [row[0], f"{row[1]} " * 60 + str(n), row[2]],
    "several-questions": lambda row, n: [f"{row[0]} Giao món {n} mấy ngày?", *row[1:]],
    "joined-questions": lambda row, n: [f"Món số {n} giá bao nhiêu và khi nào có hàng?", *row[1:]],
    "short-answer": lambda row, _: [row[0], "Có", row[2]],
    "no-answer": lambda row, _: [row[0], "TODO", row[2]],
    "points-elsewhere": lambda row, n: [row[0], f"Mình xem hình số {n} ở hình bên dưới nha, xem hình bên dưới.", row[2]],
    "no-letters": lambda row, n: [f"{n} + {n + 1} = ?", *row[1:]],
    "mojibake": lambda row, _: [row[0], f"{row[1]} Nhiệt độ 30 Â°C.", row[2]],
    "lost-letters": lambda row, _: [row[0], f"{row[1]} GiÃ¡ lÃ \u0020rẻ.", row[2]],
    "html": lambda row, _: [row[0], f"<b>{row[1]}</b>&nbsp;", row[2]],
    "invisible": lambda row, _: [row[0].replace(" ", "\u200b ", 1), *row[1:]],
    "false-d": lambda row, _: [row[0], f"Ðịa chỉ: {row[1]}", row[2]],
    "look-alikes": lambda row, _: [row[0], row[1].replace("mình", "mі\u0300nh") + " nhа", row[2]],
    "nfd": lambda row, _: [row[0], unicodedata.normalize("NFD", row[1]), row[2]],
    "tone-marks": lambda row, _: [row[0], f"{row[1]} Giữ hoá đơn nha.", row[2]],
    "phone-asked": lambda row, n: [f"{row[0]} Số mình 09{n % 100_000_000:08d}", *row[1:]],
    "e-mail-asked": lambda row, n: [f"{row[0]} Thư của em: khach{n}@thu.example", *row[1:]],
    "account-asked": lambda row, n: [f"{row[0]} STK của em 19{n:08d}", *row[1:]],
    "identity": lambda row, n: [row[0], f"{row[1]} CCCD 079{n % 10**9:09d}", row[2]],
    "card": lambda row, n: [row[0], f"{row[1]} Thẻ {card(n)}", row[2]],
}


def card(number: int) -> str:
    """Return an invented card number whose check digit is right."""
    body = f"411111{number % 10**9:09d}"
    doubled = [int(d) * (2 - place % 2) for place, d in enumerate(reversed(body))]
    return body + str(-sum(d - 9 * (d > 9) for d in doubled) % 10)


def goods(row: Row) -> str:
    return f"bình {row[2].removeprefix('shop oi ')}"


# Two rows that make a fault together.
PAIRED: dict[str, Callable[[Row, Row], tuple[Row, Row]]] = {
    "answers-differ": lambda one, other: (one, [one[0].upper(), other[1], ""]),
    "twice": lambda one, _: (one, [one[0], one[1], ""]),
    "same-without-marks": lambda one, other: (one, [fold(one[0]), other[1], ""]),
    "facts-differ": lambda one, other: (
        [one[0], f"{one[1]} Mã 1.", one[2]],
        [f"Shop ơi {one[0].rstrip('?')} vậy ạ?", f"{other[1]} Mã 2.", ""],
    ),
    "near-other-answer": lambda one, _: (one, [f"Cho mình hỏi {one[0].rstrip('?')} ạ?", "Mình ghé tiệm hỏi nha.", ""]),
    "label-differs": lambda one, other: (
        [one[0], f"Dạ, {goods(other)} giá 5.000đ ạ.", one[2]],
        [other[0], f"{goods(other)} giá 6.000đ, có hộp.", ""],
    ),
    "wording-clash": lambda one, other: (one, [other[0], other[1], one[0].lower()]),
}


def plant(rows: list[Row], seed: int) -> Faults:
    """Plant faults in rows, and return by kind the lines that a report must name together."""
    rng = random.Random(seed + 1)  # noqa: S311
    places = iter(rng.sample(range(len(rows)), PLANTED * (len(SINGLE) + 2 * len(PAIRED))))
    faults: Faults = {kind: [] for kind in (*SINGLE, *PAIRED)}
    for kind, spoil in SINGLE.items():
        for _ in range(PLANTED):
            at = next(places)
            rows[at] = spoil(rows[at], at)
            faults[kind].append((at + 2,))
    for kind, join in PAIRED.items():
        for _ in range(PLANTED):
            one, other = sorted((next(places), next(places)))
            rows[one], rows[other] = join(rows[one], rows[other])
            faults[kind].append((one + 2, other + 2))
    return faults


def write(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["câu hỏi", "trả lời", "cách hỏi khác"], *rows])


def check(path: Path, faults: Faults) -> dict[str, Any]:
    """Check a file; return seconds, peak memory, and how many planted faults of each kind are not found."""
    base = find_base(MINI)
    started, cpu_started = time.perf_counter(), time.process_time()
    report = examine(path, base, Console(quiet=True))
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    found = {kind: [set(finding.lines) for finding in findings] for kind, findings in report.by_kind().items()}
    missing = {}
    for kind, planted in faults.items():
        by_line: dict[int, list[set[int]]] = {}
        for lines in found.get(kind, []):
            for line in lines:
                by_line.setdefault(line, []).append(lines)
        missing[kind] = sum(not any(set(lines) <= told for told in by_line.get(lines[0], [])) for lines in planted)
    return {
        "s": seconds, "cpu_s": round(cpu_s, 1), "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "missing": missing, "found": {kind: len(findings) for kind, findings in found.items()},
        "page_bytes": len(page(report, "vi").encode()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = generate(options.rows, options.seed)
    faults = plant(rows, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shop.csv"
        write(path, rows)
        n_bytes = path.stat().st_size
        del rows
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # its peak is not this process's
            result = pool.apply(check, (path, faults))
    n_planted, n_missing = sum(map(len, faults.values())), sum(result["missing"].values())
    gib = result["peak_bytes"] / 2**30
    note = f"{options.rows:,} rows, {n_planted:,} planted faults of {len(faults)} kinds, {os.cpu_count()} cores"
    shared = {"parity_error": n_missing / n_planted, "baseline": None, "ratio": None, "note": note}
    table = [
        {"key": "checking.seconds", "value": round(result["s"], 1), "unit": "s", "target": TARGET_S, **shared,
         "met": result["s"] <= TARGET_S and not n_missing,
         "detail": {"bytes": n_bytes, **{key: result[key] for key in ("cpu_s", "missing", "found", "page_bytes")}}},
        {"key": "checking.memory", "value": round(gib, 2), "unit": "GiB", "target": TARGET_GIB, **shared,
         "met": gib <= TARGET_GIB and not n_missing, "detail": {}},
    ]  # fmt: skip
    for row in table:
        print(json.dumps(row, ensure_ascii=False))
    environment.write(options.out, table)


if __name__ == "__main__":
    main()
