"""A run takes its exam: index, report and page are written into its folder."""

from dataclasses import asdict
from typing import Any

from rich.console import Console

from hoidap.bot import Bot
from hoidap.evaluate.comparison import compare
from hoidap.evaluate.forgetting import forgetting
from hoidap.evaluate.page import page
from hoidap.evaluate.questions import questions
from hoidap.evaluate.report import MOST_WRONG, evaluate
from hoidap.ground.embedding import Embeddings
from hoidap.ground.grounds import Grounds
from hoidap.infer.torch_engine import TorchEngine
from hoidap.progress import bar
from hoidap.run import Run
from hoidap.tokenizer import Tokenizer


def examine(
    run: Run, engine: TorchEngine, tokenizer: Tokenizer, console: Console, most_wrong: float = MOST_WRONG
) -> dict[str, Any]:
    """Index the items of a run, ask it its exam, and return the report.

    Args:
        run: whose folder is written to.
        engine: with the run's weights.
        tokenizer: of the run.
        console: where the progress is shown.
        most_wrong: the share of in-scope questions that may be answered wrongly, which the threshold keeps to.

    """
    split = run.split()
    by_user = split.by_user()
    with bar(console, "embedding the items", 2 * len(split.items) + sum(map(len, by_user))) as advance:
        embeddings = Embeddings.build(split.items, by_user, advance)
    grounds = Grounds.build(split.items, by_user, embeddings)
    bot = Bot(engine, tokenizer, split.items, run.template, grounds=grounds)
    with bar(console, "asking every question", len(questions(split))) as advance:
        report, grounds = evaluate(bot, split, most_wrong, lambda: advance(1))
    before = run.answered_before()
    report["compared"] = None if before is None else asdict(compare(before, report["asked"], grounds))
    report["learned"] = run.learned()
    report["forgetting"] = forgetting(engine.model, engine.adapter, tokenizer) if engine.adapter else None
    run.save_grounds(grounds)
    run.save_report(report)
    run.save_page(page(report, run.folder.resolve().name))
    return report
