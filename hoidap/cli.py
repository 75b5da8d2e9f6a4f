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
Download = Annotated[bool, typer.Option("--download", help="Allow gigabytes of the base to be fetched from the hub.")]
BaseFolder = Annotated[str | None, typer.Option("--base", help="Where the base model is now, if it has moved.")]


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done, to standard error.")] = False,
) -> None:
    from hoidap.runtime import set_up_logging

    set_up_logging(verbose=verbose)


# The options of `train`, in the order of its help.
Model = Annotated[
    str | None,
    typer.Option(
        help="The base: a hub id (owner/name, owner/name@revision), a model folder, or scratch. [default: scratch]"
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(help="recall: until the answers are learned; seed: 100 steps, as often copied. [default: recall]"),
]
Method = Annotated[str | None, typer.Option(help="lora: an adapter; full: all weights. [default: lora; scratch: full]")]
Quantize = Annotated[
    str | None, typer.Option(help="Hold the frozen base in nf4, fp4, int8 or none. [default: nf4; full: none]")
]
DoubleQuant = Annotated[bool | None, typer.Option(help="Hold the scales of nf4 and fp4 in 8 bits. [default: yes]")]
Rank = Annotated[int | None, typer.Option(help="Rank of the adapter. [default: 16]")]
Alpha = Annotated[float | None, typer.Option(help="The adapter is scaled by alpha / rank. [default: 32]")]
Dropout = Annotated[float | None, typer.Option(help="Share of its input the adapter does not see. [default: 0]")]
Optimizer = Annotated[
    str | None, typer.Option(help="adamw, paged_adamw_32bit, adamw_8bit or paged_adamw_8bit. [default: adamw]")
]
Rate = Annotated[float | None, typer.Option(help="Peak learning rate. [default: 2e-4; small bases, scratch: 1e-3]")]
ProbeLr = Annotated[bool, typer.Option("--probe-lr", help="Try half, once and twice the rate first; take the best.")]
Epochs = Annotated[
    int | None, typer.Option(help="Passes over the items, at most. [default: 10; small bases: 40; scratch: 70]")
]
MaxSteps = Annotated[int | None, typer.Option(help="Steps, at most; 0: all of the epochs'. [default: 0]")]
BatchTokens = Annotated[int | None, typer.Option(help="Tokens in one step. [default: 2048; scratch: 1024]")]
Accumulation = Annotated[
    int | None, typer.Option(help="Passes a step is split into: the same step in less memory. [default: 1]")
]
Recompute = Annotated[
    bool | None, typer.Option(help="Save memory: compute activations twice. [default: yes; small bases: no]")
]
MaxTokens = Annotated[int | None, typer.Option(help="Longest question with its answer. [default: what the base reads]")]
TooLong = Annotated[
    str | None,
    typer.Option(help="Items that do not fit: raise an error, drop or cut them, and say so. [default: raise]"),
]
Template = Annotated[
    str | None, typer.Option(help="phogpt-4b-chat, phogpt-7b5-instruct or instruction-response. [default: the base's]")
]
SaveEvery = Annotated[int | None, typer.Option(help="Steps between checkpoints. [default: 50; scratch: 200]")]
Seed = Annotated[int | None, typer.Option(help="Of batches and initial weights. [default: 1]")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it was interrupted.")]


@app.command()
def train(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV, TSV, XLSX, JSON, JSONL or Parquet of questions and answers.")
    ],
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    model: Model = None,
    preset: Preset = None,
    method: Method = None,
    quantize: Quantize = None,
    double_quant: DoubleQuant = None,
    rank: Rank = None,
    alpha: Alpha = None,
    dropout: Dropout = None,
    optimizer: Optimizer = None,
    lr: Rate = None,
    probe_lr: ProbeLr = False,
    epochs: Epochs = None,
    max_steps: MaxSteps = None,
    batch_tokens: BatchTokens = None,
    accumulation: Accumulation = None,
    recompute: Recompute = None,
    max_tokens: MaxTokens = None,
    too_long: TooLong = None,
    template: Template = None,
    save_every: SaveEvery = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    resume: Resume = False,
    download: Download = False,
) -> None:
    """Fine-tune a base on FILE and leave a run folder.

    All rows are checked before anything is loaded; at the end every question is asked, and the answers are compared.
    Ctrl-C saves; the same command with --resume goes on, and ends where it would have ended.
    """
    from rich.console import Console

    from hoidap.evaluate.table import show_report
    from hoidap.training.job import train as run_job

    run = run_job(
        file, out=out, model=model, preset=preset, template=template, device=device, resume=resume, probe_lr=probe_lr,
        download=download, method=method, quantize=quantize, double_quant=double_quant, dtype=dtype, recompute=recompute,
        rank=rank, alpha=alpha, dropout=dropout, algorithm=optimizer, learning_rate=lr, max_epochs=epochs,
        max_steps=max_steps, batch_tokens=batch_tokens, accumulation=accumulation, max_tokens=max_tokens,
        too_long=too_long, save_every=save_every, seed=seed,
    )  # fmt: skip
    console = Console()
    show_report(run.report(), console)
    console.print(f"next: hoidap chat {out}", markup=False)


@app.command()
def pretrain(
    texts: Annotated[
        list[Path],
        typer.Argument(metavar="TEXT...", help="UTF-8 text (.xz too): a paragraph a line, a blank one between articles."),
    ],
    out: Annotated[Path, typer.Option(help="The folder to make; the base is then in its model/.")],
    pairs: Annotated[
        Path | None, typer.Option(help="Questions and answers to mix in, all wordings trained, as `train` reads them.")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Text to measure on. [default: a hundredth of the articles, by their hash]")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A base to go on from. [default: random weights]")] = None,
    width: Annotated[int, typer.Option(help="d_model of random weights, a multiple of 64: heads have 64.", min=64)] = 448,
    layers: Annotated[int, typer.Option(help="Blocks of random weights.", min=1)] = 6,
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json for random weights. [default: the shipped one]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the text. [default: 6]")] = None,
    max_steps: MaxSteps = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. [default: 2e-3]")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Share of a weight lost a step, times the rate.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens in one step. [default: 32768]")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest chunk of an article. [default: 512]")] = None,
    accumulation: Accumulation = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Save memory: compute activations twice.")] = False,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints. [default: 1000]")] = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    resume: Resume = False,
    download: Download = False,
) -> None:
    """Make a base from plain text, or go on with one: every weight trained, in bfloat16 on a GPU.

    Articles are packed without seeing each other. The loss on held-out text is measured every epoch, in nats a token and
    bits a byte, and the best weights are kept.
    """
    from hoidap.errors import RecipeError
    from hoidap.training.pretrain import Shape
    from hoidap.training.pretrain import pretrain as run_job

    if width % 64:
        msg = f"--width is {width}; it takes a multiple of 64, the width of a head"
        raise RecipeError(msg)
    made = run_job(
        texts, out=out, pairs=pairs, held_out=held_out, model=model,
        shape=None if model else Shape(width, layers, width // 64), tokenizer=tokenizer, device=device,
        resume=resume, download=download, max_epochs=epochs, max_steps=max_steps, learning_rate=lr,
        weight_decay=weight_decay, batch_tokens=batch_tokens, max_tokens=max_tokens, accumulation=accumulation,
        recompute=recompute, save_every=save_every, seed=seed, dtype=dtype,
    )  # fmt: skip
    _note(f"next: hoidap train FILE --model {made} --out RUN")


@app.command()
def evaluate(
    run: RunFolder,
    questions: Annotated[
        Path | None, typer.Option(help="Ask the questions of this file instead, and compare where it has answers.")
    ] = None,
    base: BaseFolder = None,
    device: Device = None,
    dtype: DType = None,
    download: Download = False,
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

    others = read_questions(questions, _note) if questions else []
    opened = Run.open(run)
    bot = load(run, base=base, device=device, dtype=dtype, download=download, console=Console(stderr=True))
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
    download: Download = False,
) -> None:
    """Talk with a run, in the terminal or through a pipe.

    In a pipe each line of standard input is a question and each answer a line of output, in one conversation.
    """
    from rich.console import Console

    from hoidap.bot import load
    from hoidap.infer.engine import Sampling

    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, seed)
    _talk(load(run, base=base, device=device, dtype=dtype, download=download, console=Console(stderr=True)), sampling)


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
def verify(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A hub id (owner/name, owner/name@revision) or a model folder.")
    ],
    device: Device = None,
    download: Download = False,
) -> None:
    """Examine a base: is it whole, is it sane, and what do 16, 8 and 4 bits make of it.

    Files and hashes, every tensor, tokenizer and template, the loss on a paragraph of Vietnamese, float16, int8 and NF4
    against float32 on the same tokens, and three questions answered in NF4. A model larger than the memory is examined one
    matrix at a time. Ends with status 1 if anything is bad.
    """
    from rich.console import Console
    from rich.text import Text

    from hoidap.base import find_base
    from hoidap.runtime import pick_device
    from hoidap.verify import verify as examine

    progress = Console(stderr=True)
    base = find_base(model, download=download, console=progress)
    signs = {"good": "ok ", "doubtful": "?  ", "bad": "BAD"}
    verdicts = []
    for finding in examine(base, pick_device(device), progress):
        Console(soft_wrap=True).print(Text(f"{signs[finding.verdict]} {finding.what}: {finding.text}"))
        verdicts.append(finding.verdict)
    _note(f"{verdicts.count('bad')} bad, {verdicts.count('doubtful')} doubtful, {verdicts.count('good')} good")
    if "bad" in verdicts:
        raise typer.Exit(1)


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
    from hoidap.errors import HoidapError, Interrupted

    # GNU OpenMP's threads spin at every barrier; with another program on the cores that made the demo's steps 14 times
    # slower (4.3 s for 0.3). Spinning for less costs nothing on free cores and leaves 0.8 s. Read when PyTorch loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        app()
    except Interrupted as error:
        _note(str(error))
        sys.exit(130)  # as a shell says of Ctrl-C
    except HoidapError as error:
        _note(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        _note("stopped; where a run was begun, the same command with --resume goes on")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)  # the reader of our output has gone


def _talk(bot: "Bot", sampling: "Sampling") -> None:
    from hoidap.chat import HELP
    from hoidap.chat import chat as converse

    if sys.stdin.isatty():
        _note(HELP)
    if bot.template.is_single_turn:
        _note("this base was taught single questions: each is answered on its own, whatever was said before")
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
