"""How long the exam of 1,000 items takes on this machine with the base that ships.

    python benchmarks/exam_speed.py --out benchmarks/results/exam-speed.json

The items are put together at random from the words of the example shop. The base is asked as it is, untrained: it recites
calibrating. The baseline answers one at a time, measured on the first fifty questions; its judging is the same.
calibrating. The baseline has the answers one at a time, of the first fifty questions, and the same judging.
"""

import argparse
import random
import time
from pathlib import Path
from typing import Any

import environment
import torch

from hoidap.base import MINI, find_base
from hoidap.bot import Bot
from hoidap.data.items import Item
from hoidap.data.read import read_items
from hoidap.data.wordings import split
from hoidap.evaluate.questions import questions
from hoidap.evaluate.report import evaluate
from hoidap.ground.grounds import Grounds
from hoidap.infer.torch_engine import TorchEngine
from hoidap.recipe import Wordings

SHOP = Path(__file__).parent.parent / "examples" / "cua-hang.csv"
ALONE = 50  # questions asked one by one
TARGET_S = 300


def invent(count: int) -> list[Item]:
    """Return items of nine words asked and thirty answered, with two other wordings each."""
    shop, rng = read_items(SHOP), random.Random(1)  # noqa: S311 - no secret
    asked = " ".join(item.question for item in shop).split()
    answered = " ".join(item.answer for item in shop).split()

    def words(n: int, number: int) -> str:
        return f"{' '.join(rng.sample(asked, n))} {number}"

    return [Item(f"{words(9, n)}?", " ".join(rng.sample(answered, 30)), (words(6, n), words(6, n))) for n in range(count)]


def measure(count: int) -> dict[str, Any]:
    """Take the exam and return its row."""
    base, parts = find_base(MINI), split(invent(count), Wordings(), 1)
    tokenizer = base.tokenizer()
    model = base.load(quantize="nf4", device=torch.device("cpu"), dtype=torch.float32)
    grounds = Grounds.build(parts.items, parts.by_user())
    bot = Bot(TorchEngine(model, tokenizer), tokenizer, parts.items, base.template, grounds=grounds)
    exam = questions(parts)
    started = time.perf_counter()
    evaluate(bot, parts)
    seconds = time.perf_counter() - started
    alone = Bot(TorchEngine(model, tokenizer, max_batch=1), tokenizer, parts.items, base.template)
    started = time.perf_counter()
    batched = bot.answer_all([question.text for question in exam[:ALONE]], bot.sampling())
    together = time.perf_counter() - started
    started = time.perf_counter()
    single = alone.answer_all([question.text for question in exam[:ALONE]], bot.sampling())
    apart = time.perf_counter() - started
    baseline = seconds + (apart - together) / ALONE * len(exam)
    differing = sum(one.text != other.text for one, other in zip(batched, single, strict=True))
    return {
        "key": f"exam-{count}", "value": round(seconds, 1), "unit": "s", "baseline": round(baseline, 1),
        "ratio": round(baseline / seconds, 2), "target": TARGET_S, "met": seconds <= TARGET_S,
        "parity_error": differing / ALONE,
        "note": f"{len(exam):,} questions, {torch.get_num_threads()} threads; mini untrained",
        "detail": {"first_50_together_s": round(together, 2)},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    environment.write(options.out, [measure(options.items)])


if __name__ == "__main__":
    main()
