"""What a bot answers rightly, wrongly and not at all, in words that it never saw and out of scope, beside lookup alone.

    python benchmarks/answers.py services=FILE.jsonl admissions=FILE.jsonl --out benchmarks/results/answers.json

A fifth of the items is held out whole (near questions), and every other wording: the model learns the questions as
written, and their variants. Half of the items sets the thresholds of `checked`, `verbatim` and `lookup`, the other half is
counted, once.

Lookup's row is the baseline. The parity error is the difference to what the bot itself answers to the first hundred
questions counted, one by one, as a customer would ask them.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import environment

import hoidap
from hoidap.data.wordings import OTHER
from hoidap.evaluate.questions import BARE, FAR, NEAR
from hoidap.run import Run
from hoidap.text import comparable

TARGETS = {"services.checked.right": 0.70, "services.checked.wrong": 0.05, "services.out-of-scope.far.answered": 0.05}
ASKED_AGAIN = 100


def share(rows: list[dict[str, Any]], way: str, what: str) -> float:
    return sum(row["ways"][way] == what for row in rows) / len(rows)


def parity(run: Run, rows: list[dict[str, Any]]) -> float:
    """Return how far the share of right answers of the mode checked is from what the report says of the same questions."""
    bot = hoidap.load(run.folder)
    chosen = rows[:ASKED_AGAIN]
    answers = [bot.answer(row["question"], mode="checked") for row in chosen]
    right = [
        answer.source is not None and comparable(answer.source.answer) == comparable(row["wanted"])
        for answer, row in zip(answers, chosen, strict=True)
    ]
    return abs(sum(right) / len(right) - share(chosen, "checked", "right"))


def rows_of(name: str, file: Path, model: str, folder: Path) -> list[dict[str, Any]]:
    """Train on one file and return its rows."""
    started = time.perf_counter()
    run = hoidap.train(file, out=folder, model=model, held_out_items=0.2, held_out_wordings=1.0)
    seconds = round(time.perf_counter() - started)
    report = run.report()
    counted = [row for row in report["asked"] if not row["calibrates"] and not row["trained"]]
    kinds = {kind: [row for row in counted if row["kind"] == kind] for kind in (OTHER, BARE, NEAR, FAR)}
    error = parity(run, kinds[OTHER])
    note = f"base {model}, {report['items']['score']['count']} items, {seconds} s; {len(kinds[OTHER])} wordings counted"

    def row(key: str, value: float, baseline: float | None) -> dict[str, Any]:
        target = TARGETS.get(f"{name}.{key}")
        met = None if target is None else value <= target if key.endswith(("wrong", "answered")) else value >= target
        ratio = round(value / baseline, 3) if baseline else None
        return {
            "key": f"{name}.{key}", "value": round(value, 4), "unit": "share", "baseline": baseline, "ratio": ratio,
            "target": target, "met": met, "parity_error": error, "note": note,
        }  # fmt: skip

    rows = [
        row(f"{way}.{what}", share(kinds[OTHER], way, what), share(kinds[OTHER], "lookup", what))
        for way in kinds[OTHER][0]["ways"]
        for what in ("right", "wrong", "declined")
    ]
    rows.append(row("no-diacritics.right", share(kinds[BARE], "checked", "right"), share(kinds[OTHER], "checked", "right")))
    for kind in (NEAR, FAR):
        answered = {way: 1 - share(kinds[kind], way, "declined") for way in ("checked", "lookup")}
        rows.append(row(f"out-of-scope.{kind}.answered", answered["checked"], answered["lookup"]))
    return [*rows, row("exact-recall", report["items"]["score"]["exact"], None)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, file in (pair.split("=", 1) for pair in options.files):
        with tempfile.TemporaryDirectory() as folder:
            rows += rows_of(name, Path(file), options.model, Path(folder) / "run")
        environment.write(options.out, rows)


if __name__ == "__main__":
    main()
