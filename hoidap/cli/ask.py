"""The commands that ask a run, or tell it: evaluate, correct, chat, demo."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hoidap.cli.options import BaseFolder, Device, Download, DType, RunFolder
from hoidap.cli.terminal import note, write
from hoidap.cli.terminal import questions as typed

if TYPE_CHECKING:
    from hoidap.bot import Bot
    from hoidap.infer.engine import Sampling


Mode = Annotated[
    Literal["checked", "model", "verbatim"] | None,
    typer.Option(help="How to answer: see docs/answers.md. [default: what bot.toml says]"),
]


def evaluate(
    run: RunFolder,
    questions: Annotated[
        Path | None, typer.Option(help="Ask the questions of this file instead, and compare where it has answers.")
    ] = None,
    mode: Mode = None,
    most_wrong: Annotated[
        float,
        typer.Option(help="Share of questions in scope that may be answered wrongly.", min=0, max=1),
    ] = 0.05,
    base: BaseFolder = None,
    device: Device = None,
    dtype: DType = None,
    download: Download = False,
) -> None:
    """Ask a run its exam: every question, other wordings, slips of the keys, questions out of scope.

    How sure the bot must be to answer is set on one half of the held-out questions; the rates are those of the other half.
    Writes report.html, report.json and the index into the run.
    """
    from rich.console import Console

    from hoidap.bot import load, load_engine
    from hoidap.data.read import read_questions
    from hoidap.evaluate.exam import examine
    from hoidap.evaluate.recall import ask, score
    from hoidap.evaluate.table import show_compared, show_report
    from hoidap.progress import bar
    from hoidap.run import Run

    progress = Console(stderr=True)
    where: dict[str, Any] = {"base": base, "device": device, "dtype": dtype, "download": download, "console": progress}
    if questions is None:
        opened = Run.open(run)
        engine, tokenizer = load_engine(opened, items=opened.items(), **where)
        show_report(examine(opened, engine, tokenizer, progress, most_wrong), Console())
        return
    asked = read_questions(questions, note)
    bot = load(run, mode=mode, keeps_gaps=False, **where)
    with bar(progress, "asking every question", len(asked)) as advance:
        compared = ask(bot, asked, lambda: advance(1))
    scored = score([(one.answer.text, one.wanted) for one in compared if one.wanted is not None])
    show_compared(compared, scored, Console())


def correct(
    run: RunFolder,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question of the item, as the data has it.")],
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="What the bot is to answer from now on.")],
) -> None:
    """Give an item another answer at once, before any training; the bot marks it as corrected."""
    from hoidap.run import Run

    item = Run.open(run).correct(question, answer)
    note(f"corrected: {item.question}\n  was {item.answer}\n  is  {answer.strip()}")
    note("change it in your data too, and train again when you can")


def chat(
    run: RunFolder,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest word; higher: more varied.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Draw among this many likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw among the likeliest tokens that hold this share.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    gguf: Annotated[
        Path | None,
        typer.Option(help="Answer with this file, as `hoidap export` wrote it, on the CPU; see docs/export.md."),
    ] = None,
    mode: Mode = None,
    base: BaseFolder = None,
    device: Device = None,
    dtype: DType = None,
    download: Download = False,
) -> None:
    """Talk with a run, in the terminal or through a pipe.

    In a pipe each line of standard input is a question and each answer a line of output, in one conversation.
    """
    from rich.console import Console

    from hoidap.bot import load
    from hoidap.infer.engine import Sampling

    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, seed=seed)
    where: dict[str, Any] = {"base": base, "device": device, "dtype": dtype, "download": download, "gguf": gguf}
    bot = load(run, mode=mode, console=Console(stderr=True), **where)
    _talk(bot, sampling)


def demo(
    out: Annotated[Path, typer.Option(help="The run folder to make.")] = Path("runs/demo"),
) -> None:
    """Train on the example shop, show the recall, and chat.

    On the CPU, with the base that ships: a few minutes on two cores. A second call goes straight to the chat.
    """
    from rich.console import Console

    from hoidap.bot import load
    from hoidap.demo import QUESTIONS
    from hoidap.demo import demo as run_demo
    from hoidap.evaluate.table import show_report
    from hoidap.infer.engine import GREEDY

    console = Console()
    run = run_demo(out, Console(stderr=True))
    show_report(run.report(), console)
    bot = load(out)
    if sys.stdin.isatty():
        _talk(bot, GREEDY)
    else:
        from hoidap.chat import chat as converse

        def shown() -> Iterator[str]:
            for question in QUESTIONS:
                write(f"> {question}\n")
                yield question

        converse(bot, shown(), write, note)


def _talk(bot: "Bot", sampling: "Sampling") -> None:
    from hoidap.chat import HELP
    from hoidap.chat import chat as converse

    if sys.stdin.isatty():
        note(HELP)
    if bot.template.is_single_turn:
        note("this base was taught single questions: each is answered on its own, whatever was said before")
    converse(bot, typed(), write, note, sampling)
