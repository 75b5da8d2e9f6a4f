"""How quickly the nearest of 100,000 questions is found, and their near duplicates, beside scikit-learn's own TF-IDF.

    python benchmarks/lookup_speed.py --out benchmarks/results/lookup-speed.json

The questions are invented by rule, all distinct; those that are asked lack a word and their diacritics. The baseline is
lookup.py's: scikit-learn over 2- to 4-grams, and one sparse product for a question. The parity error is the share of
questions whose nearest is less near than the best of all 100,000.

The rows ``grounds`` are what a bot does to find the item asked for, but for the model: it restores diacritics, looks in two
indexes (of the questions, and of all that is known of an item), and weighs what comes with the model's answer, here an
item's to the letter; nothing is kept from the question before. Their detail says how long it takes where the model's answer
is another text, which is looked for in a third index. Of so many items the embedding extra makes no vectors (10,000 texts
have them at most), and takes no time.

Near duplicates are looked for in a process of its own, that its memory be known. All is one thread.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import environment
import numpy as np

from hoidap.data.items import Item
from hoidap.ground.grounds import Grounds, Said
from hoidap.ground.index import Index
from hoidap.text import fold

ASKED = 300
LEAST, MOST = 0.9, 1000
PLACES = ["shop", "cửa hàng", "tiệm", "bên mình", "quán", "chi nhánh Thủ Đức", "kho Hà Nội"]
THINGS = [
    "áo thun cổ tròn", "quần jean ống rộng", "giày thể thao", "nồi cơm điện", "bàn phím cơ", "chuột không dây", "son dưỡng",
    "kem chống nắng", "ba lô laptop", "đồng hồ nam", "túi xách nữ", "bình giữ nhiệt", "máy sấy tóc", "đèn bàn học",
    "ghế văn phòng", "trà ô long", "cà phê rang xay", "bộ ấm chén", "gạo lứt", "khăn tắm",
]  # fmt: skip
ASKS = [
    "giá bao nhiêu", "còn hàng không", "bao giờ về hàng", "giao mấy ngày thì tới", "bảo hành thế nào", "đổi trả được không",
    "mua nhiều có giảm không", "có màu khác không", "thanh toán khi nhận được không", "nặng bao nhiêu ký",
]  # fmt: skip


def invent(count: int) -> list[str]:
    """Return so many distinct questions, the same each time."""
    chance = random.Random(7)  # noqa: S311 - nothing is kept secret
    found: dict[str, None] = {}
    while len(found) < count:
        place, thing, ask = (chance.choice(words) for words in (PLACES, THINGS, ASKS))
        code = f"{chance.choice('ABCDEFGH')}{chance.randrange(1, 30_000)}"
        found[f"{place.capitalize()} ơi, {thing} mã {code} {ask} ạ?"] = None
    return list(found)


def shorten(question: str, chance: random.Random) -> str:
    """Return a question without diacritics and one of its words."""
    words = fold(question).split()
    del words[chance.randrange(len(words))]
    return " ".join(words)


def best_ms(call: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds)


def each_ms(ask: Callable[[str], object], asked: Sequence[str]) -> list[float]:
    return [best_ms(lambda text=text: ask(text), 3) for text in asked]  # type: ignore[misc]


def answered(questions: Sequence[str]) -> list[Item]:
    """Return an item for each question, its answer invented too."""
    chance = random.Random(9)  # noqa: S311
    items = []
    for question in questions:
        asked = question.split(" ơi, ")[1].removesuffix(" ạ?")
        price, days = chance.randrange(10, 999), chance.randrange(1, 9)
        items.append(Item(question, f"Dạ, {asked}: {price}.000đ, bên em giao trong {days} ngày ạ."))
    return items


def grounds_ms(questions: Sequence[str], asked: Sequence[str], numbers: Sequence[int]) -> dict[str, list[float]]:
    """Return the milliseconds of finding each item: its answer said to the letter, and cut short."""
    items = answered(questions)
    grounds = Grounds.build(items, [()] * len(items))

    def find(question: str, said: Said) -> object:
        fresh = replace(grounds, _known={}, _sources={})
        fresh.restorer.restore(question)
        return fresh.recognise(question, said)

    said = [items[number].answer for number in numbers]
    ways = {"to the letter": said, "cut short": [" ".join(text.split()[:-2]) for text in said]}
    return {
        way: [best_ms(lambda q=q, text=text: find(q, Said(text, 0.9)), 3) for q, text in zip(asked, texts, strict=True)]  # type: ignore[misc]
        for way, texts in ways.items()
    }


def baseline(questions: Sequence[str], asked: Sequence[str]) -> tuple[float, list[float]]:
    """Return scikit-learn's milliseconds for building and for each question."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    started = time.perf_counter()
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    table = vectors.fit_transform([fold(question) for question in questions])
    build_ms = 1000 * (time.perf_counter() - started)
    turned = table.T.tocsr()
    return build_ms, each_ms(lambda text: (vectors.transform([fold(text)]) @ turned).toarray().argmax(), asked)


def near_duplicates(folder: Path) -> None:
    """Print what a search took, for the process that started this one."""
    index = Index.load(folder)
    started = time.perf_counter()
    found = index.near_duplicates(LEAST, MOST)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"s": round(seconds, 3), "peak_gib": round(peak, 3), "pairs": len(found), "last": found[-1][2]}))


def row(
    name: str, value: float, unit: str, base: float | None, target: float | None, note: str, **more: Any
) -> dict[str, Any]:
    base = None if base is None else round(base, 3)
    ratio = None if base is None else round(value / base, 3)
    return {
        "key": f"lookup.{name}", "value": round(value, 3), "unit": unit, "baseline": base, "ratio": ratio, "target": target,
        "parity_error": more.pop("parity_error", None), "note": note,
        "met": None if target is None else value <= target, "detail": more,
    }  # fmt: skip


def measure(questions: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    chance = random.Random(8)  # noqa: S311
    numbers = chance.sample(range(len(questions)), ASKED)
    asked = [shorten(questions[number], chance) for number in numbers]
    built: list[Index] = []
    build_ms = best_ms(lambda: built.append(Index.build(questions)), 1)
    built[0].save(folder)
    load_ms = best_ms(lambda: Index.load(folder), 3)
    index = Index.load(folder)
    milliseconds = each_ms(lambda text: index.nearest(text, 5), asked)
    less = [index.nearest(t, 5)[0].similarity < index.nearest(t, len(index))[0].similarity - 1e-5 for t in asked]
    base_build_ms, base_ms = baseline(questions, asked)
    command = [sys.executable, __file__, "--near-duplicates", str(folder)]
    pairs = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603
    size = sum(file.stat().st_size for file in folder.iterdir())
    note = f"{len(questions):,} questions"
    found = grounds_ms(questions, asked, numbers)
    bot_p50, bot_p95 = np.percentile(found["to the letter"], (50, 95)).tolist()
    other_p50, other_p95 = (round(ms, 3) for ms in np.percentile(found["cut short"], (50, 95)).tolist())
    bots = f"{note} with answers; {ASKED} asked, the best of three"
    (p50, p95), (base_p50, base_p95) = (np.percentile(values, (50, 95)).tolist() for values in (milliseconds, base_ms))
    nearest = f"{note}; {ASKED} asked, five nearest of each, the best of three"
    return [
        row("build", build_ms / 1000, "s", base_build_ms / 1000, None, note, bytes=size),
        row("load", load_ms, "ms", None, None, f"{note}; best of three"),
        row("nearest.p50", p50, "ms", base_p50, None, nearest),
        row("nearest.p95", p95, "ms", base_p95, 5, nearest, parity_error=sum(less) / len(less)),
        row("grounds.p50", bot_p50, "ms", base_p50, None, bots, other_answer_ms=other_p50),
        row("grounds.p95", bot_p95, "ms", base_p95, 5, bots, other_answer_ms=other_p95),
        row("near-duplicates", pairs["s"], "s", None, 20, f"{note}; the {MOST:,} nearest pairs over {LEAST}", **pairs),
        row("near-duplicates.peak", pairs["peak_gib"], "GiB", None, 1, f"{note}; of the whole process"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--near-duplicates", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.near_duplicates:
        near_duplicates(options.near_duplicates)
        return
    if options.out is None:
        parser.error("--out is needed")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(invent(options.questions), Path(folder))
    for each in rows:
        print(json.dumps(each, ensure_ascii=False))
    environment.write(options.out, rows)


if __name__ == "__main__":
    main()
