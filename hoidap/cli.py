"""The command line: the only place that reads arguments and environment. Commands import what they need: help is quick."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hoidap.bot import Bot
    from hoidap.infer.engine import Sampling

app = typer.Typer(
    name="hoidap",
    help="Turn a question–answer file into a Vietnamese chatbot that you own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as `hoidap train` leaves it.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. [default: a GPU if there is one]")]
DType = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: what suits the device]")]
BaseFolder = Annotated[str | None, typer.Option("--base", help="Where the base model is now, if it has moved.")]


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done, to standard error.")] = False,
) -> None:
    from hoidap.runtime import set_up_logging

    set_up_logging(verbose=verbose)


@app.command()
def train(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, XLSX or JSONL: a question and an answer a row.")],
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    model: Annotated[str, typer.Option(help="The base: a model folder, or 'scratch', a small one of random weights.")] = (
        "scratch"
    ),
    method: Annotated[
        str | None, typer.Option(help="lora: an adapter; full: all weights. [default: lora; scratch: full]")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="Hold the frozen base in nf4 or none. [default: nf4; full: none]")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the adapter. [default: 16]")] = None,
    alpha: Annotated[float | None, typer.Option(help="The adapter is scaled by alpha / rank. [default: 32]")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. [default: 2e-4; scratch: 1e-3]")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the items, at most. [default: 20; scratch: 70]")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens in one step. [default: 2048; scratch: 1024]")] = None,
    recompute: Annotated[
        bool | None, typer.Option(help="Save memory: compute activations twice. [default: yes; scratch: no]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of batches and initial weights. [default: 1]")] = None,
    device: Device = None,
    dtype: DType = None,
) -> None:
    """Fine-tune a base on FILE and leave a run folder.

    All rows are checked before anything is loaded; at the end every question is asked, and the answers are compared.
    """
    from rich.console import Console

    from hoidap.evaluate.table import show_report
    from hoidap.training.job import train as run_job

    run = run_job(
        file, out=out, model=model, device=device, dtype=dtype, method=method, quantize=quantize, rank=rank, alpha=alpha,
        learning_rate=lr, max_epochs=epochs, batch_tokens=batch_tokens, recompute=recompute, seed=seed,
    )  # fmt: skip
    console = Console()
    show_report(run.report(), console)
    console.print(f"next: hoidap chat {out}", markup=False)


@app.command()
def evaluate(
    run: RunFolder,
    questions: Annotated[
        Path | None, typer.Option(help="Ask the questions of this file instead, and compare where it has answers.")
    ] = None,
    base: BaseFolder = None,
    device: Device = None,
    dtype: DType = None,
) -> None:
    """Ask every question of a run and compare the answers.

    To the letter, after normalisation, and by chrF; the other wordings of the items are asked too.
    """
    from rich.console import Console

    from hoidap.bot import load
    from hoidap.data.read import read_questions
    from hoidap.evaluate.recall import ask, ask_items, score
    from hoidap.evaluate.table import show_asked, show_report
    from hoidap.progress import bar
    from hoidap.run import Run

    others = read_questions(questions) if questions else []
    opened = Run.open(run)
    bot = load(run, base=base, device=device, dtype=dtype, console=Console(stderr=True))
    total = len(others) or sum(1 + len(item.wordings) for item in bot.items)
    with bar(Console(stderr=True), "asking every question", total) as advance:
        if questions:
            asked = ask(bot, [(q.question, q.answer) for q in others], lambda: advance(1))
        else:
            report = ask_items(bot, lambda: advance(1))
    if questions:
        show_asked(asked, score(asked), Console())
    else:
        opened.save_report(report)
        show_report(report, Console())


@app.command()
def chat(
    run: RunFolder,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest word; higher: more varied.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Draw among this many likeliest tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw among the likeliest tokens that hold this share.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    base: BaseFolder = None,
    device: Device = None,
    dtype: DType = None,
) -> None:
    """Talk with a run, in the terminal or through a pipe.

    In a pipe each line of standard input is a question and each answer a line of output, in one conversation.
    """
    from rich.console import Console

    from hoidap.bot import load
    from hoidap.infer.engine import Sampling

    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, seed)
    _talk(load(run, base=base, device=device, dtype=dtype, console=Console(stderr=True)), sampling)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The run folder to make.")] = Path("runs/demo"),
) -> None:
    """Train on the example shop, show the recall, and chat.

    On the CPU, a small base of random weights: a few minutes on two cores. A second call goes straight to the chat.
    """
    import torch
    from rich.console import Console

    from hoidap.bot import load
    from hoidap.demo import QUESTIONS
    from hoidap.demo import demo as run_demo
    from hoidap.evaluate.table import show_report
    from hoidap.infer.engine import GREEDY

    # Every operation waits for its slowest thread, and on shared machines a second core comes and goes: a step on both took
    # 0.22 to 0.9 s, on one 0.38 to 0.52 s. So half of the cores, at least one.
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
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
                _write(f"> {question}\n")
                yield question

        converse(bot, shown(), _write, _note)


@app.command()
def tokenizer(
    texts: Annotated[list[Path], typer.Argument(metavar="TEXT...", help="UTF-8 text files, .xz too, a paragraph a line.")],
    out: Annotated[Path, typer.Option(help="The tokenizer.json to write.")],
    vocab_size: Annotated[int, typer.Option(help="Number of tokens, the four special ones included.", min=260)] = 8192,
) -> None:
    """Train a byte-level BPE tokenizer on text.

    NFC, with PhoGPT's special tokens and their ids. This made the one that ships, from Vietnamese Wikipedia.
    """
    import lzma

    from hoidap.errors import TokenizerError
    from hoidap.tokenizer import train_tokenizer

    if missing := [str(path) for path in texts if not path.is_file()]:
        msg = f"no such file: {', '.join(missing)}"
        raise TokenizerError(msg)

    def lines() -> Iterator[str]:
        for path in texts:
            opener = lzma.open if path.suffix == ".xz" else open
            with opener(path, "rt", encoding="utf-8") as file:
                yield from (line.rstrip("\n") for line in file)

    out.write_text(train_tokenizer(lines(), vocab_size).to_json(), encoding="utf-8")
    _note(f"{out}: {vocab_size} tokens")


def main() -> None:
    """Run the command line; errors of hoidap's own are printed without a traceback."""
    from hoidap.errors import HoidapError

    # GNU OpenMP's threads spin at every barrier; with another program on the cores that made the demo's steps 14 times
    # slower (4.3 s for 0.3). Spinning for less costs nothing on free cores and leaves 0.8 s. Read when PyTorch loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        app()
    except HoidapError as error:
        _note(f"error: {error}")
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)  # the reader of our output has gone


def _talk(bot: "Bot", sampling: "Sampling") -> None:
    from hoidap.chat import HELP
    from hoidap.chat import chat as converse

    if sys.stdin.isatty():
        _note(HELP)
    converse(bot, _questions(), _write, _note, sampling)


def _questions() -> Iterator[str]:
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            _write("\n")
            return


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _note(text: str) -> None:
    sys.stderr.write(text + "\n")
