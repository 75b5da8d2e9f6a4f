"""The commands that make something: train, export, pretrain, tokenizer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from hoidap.cli.options import Accumulation, BaseFolder, Device, Download, DType, MaxSteps, Resume, RunFolder, Seed
from hoidap.cli.terminal import note

# The options of `train`, in the order of its help.
Start = Annotated[
    Path | None,
    typer.Option("--from", metavar="RUN", help="Begin from this run's adapter and settings, and compare the answers."),
]
Model = Annotated[
    str | None,
    typer.Option(help="The base: a hub id (owner/name, owner/name@revision), a model folder, or mini. [default: mini]"),
]
Preset = Annotated[
    str | None,
    typer.Option(help="recall: until the answers are learned; seed: 100 steps, as often copied. [default: recall]"),
]
Method = Annotated[str | None, typer.Option(help="lora: an adapter; full: all weights. [default: lora]")]
Quantize = Annotated[
    str | None, typer.Option(help="Hold the frozen base in nf4, fp4, int8 or none. [default: nf4; full: none]")
]
DoubleQuant = Annotated[bool | None, typer.Option(help="Hold the scales of nf4 and fp4 in 8 bits. [default: yes]")]
Rank = Annotated[int | None, typer.Option(help="Rank of the adapter. [default: 16; small bases: 64]")]
Alpha = Annotated[float | None, typer.Option(help="The adapter is scaled by alpha / rank. [default: 32; small bases: 64]")]
Dropout = Annotated[float | None, typer.Option(help="Share of its input the adapter does not see. [default: 0]")]
Optimizer = Annotated[
    str | None, typer.Option(help="adamw, paged_adamw_32bit, adamw_8bit or paged_adamw_8bit. [default: adamw]")
]
Rate = Annotated[float | None, typer.Option(help="Peak learning rate. [default: 2e-4; small bases: 3e-3; full: a tenth]")]
ProbeLr = Annotated[bool, typer.Option("--probe-lr", help="Try half, once and twice the rate first; take the best.")]
Epochs = Annotated[
    int | None, typer.Option(help="Passes over the items, at most. [default: 10; small bases: 16; more for few items]")
]
BatchTokens = Annotated[int | None, typer.Option(help="Tokens in one step. [default: 2048; small bases: 512]")]
Memory = Annotated[
    str | None,
    typer.Option(help="Of the GPU, at most, as in 15GB; what saves memory is chosen by it. [default: what is free]"),
]
Recompute = Annotated[
    int | None, typer.Option(help="Blocks that save memory by computing twice. [default: as few as fit the memory]")
]
Embedding = Annotated[
    str | None,
    typer.Option(help="Hold the frozen embedding in 16-bit, 8-bit or 4-bit. [default: 16-bit if it fits, else 8-bit]"),
]
MaxTokens = Annotated[int | None, typer.Option(help="Longest question with its answer. [default: what the base reads]")]
TooLong = Annotated[
    str | None,
    typer.Option(help="Items that do not fit: raise an error, drop or cut them, and say so. [default: raise]"),
]
Template = Annotated[
    str | None, typer.Option(help="phogpt-4b-chat, phogpt-7b5-instruct or instruction-response. [default: the base's]")
]
Variants = Annotated[
    int | None,
    typer.Option(help="Draws of each family of question variants (no diacritics, teencode …) to train on. [default: 1]"),
]
HeldOutWordings = Annotated[
    float | None,
    typer.Option(
        "--hold-out-wordings", help="Share of the other wordings kept for the exam, never trained on. [default: a third]"
    ),
]
HeldOutItems = Annotated[
    float | None,
    typer.Option(
        "--hold-out-items", help="Share of the items kept back, as questions that the bot should decline. [default: 0]"
    ),
]
Contact = Annotated[str, typer.Option(help="Whom the bot names when it does not know: a phone number, an address.")]
SaveEvery = Annotated[int | None, typer.Option(help="Steps between checkpoints. [default: 50; small bases: 200]")]


def train(
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="CSV, TSV, XLSX, JSON, JSONL or Parquet of questions and answers."),
    ] = None,
    start: Start = None,
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
    memory: Memory = None,
    recompute: Recompute = None,
    embedding: Embedding = None,
    max_tokens: MaxTokens = None,
    too_long: TooLong = None,
    template: Template = None,
    variants: Variants = None,
    held_out_wordings: HeldOutWordings = None,
    held_out_items: HeldOutItems = None,
    contact: Contact = "",
    save_every: SaveEvery = None,
    seed: Seed = None,
    device: Device = None,
    dtype: DType = None,
    resume: Resume = False,
    download: Download = False,
) -> None:
    """Fine-tune a base on FILE and leave a run folder; with --from and no FILE, on that run's items as its owner left them.

    All rows are checked before anything is loaded; at the end every question is asked, and the answers are compared.
    Ctrl-C saves; the same command with --resume goes on, and ends where it would have ended.
    """
    from rich.console import Console

    from hoidap.evaluate.table import show_report
    from hoidap.recipe import gigabytes
    from hoidap.training.job import train as run_job

    run = run_job(
        file, out=out, start=start, model=model, preset=preset, template=template, device=device, resume=resume,
        probe_lr=probe_lr, download=download, method=method, quantize=quantize, double_quant=double_quant, dtype=dtype,
        recompute=recompute, rank=rank, alpha=alpha, dropout=dropout, algorithm=optimizer, learning_rate=lr,
        max_epochs=epochs, max_steps=max_steps, batch_tokens=batch_tokens, accumulation=accumulation,
        max_tokens=max_tokens, too_long=too_long, variants=variants, held_out_wordings=held_out_wordings,
        held_out_items=held_out_items, contact=contact, save_every=save_every, seed=seed, memory_gb=gigabytes(memory),
        embedding=embedding,
    )  # fmt: skip
    console = Console()
    show_report(run.report(), console)
    console.print(f"next: open {out / 'report.html'}; hoidap chat {out}", markup=False, soft_wrap=True)


def export(
    run: RunFolder,
    to: Annotated[Literal["gguf"], typer.Option(help="The format: gguf, for llama.cpp and what is built on it.")],
    out: Annotated[Path, typer.Option(help="The file to make; FILE.json beside it says how its answers compare.")],
    kind: Annotated[
        Literal["f16", "q8_0", "q4_0", "q4_k_m"], typer.Option(help="How the weights are held: see docs/export.md.")
    ] = "q8_0",
    accept_below: Annotated[
        str, typer.Option(metavar="REASON", help="Keep a file whose answers differ too often; the reason is kept too.")
    ] = "",
    base: BaseFolder = None,
    download: Download = False,
) -> None:
    """Write a run as a file for other programs, and compare the answers of both.

    The run's questions, at most 200, are asked of the run and of the file; one that differs too often is not kept.
    """
    from rich.console import Console

    from hoidap.export.gate import export_gguf
    from hoidap.run import Run

    console = Console(stderr=True)
    opened = Run.open(run)
    compared = export_gguf(
        opened, out, kind, accept_below=accept_below, base=base, download=download, console=console
    )  # fmt: skip
    note(f"{to} {kind}, {out.stat().st_size:,} bytes: {compared.exact:.1%} of {compared.asked} answers are the run's")
    note(f"what differs is in {out}.json; next: hoidap chat {run} --gguf {out}")


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
    recompute: Annotated[int, typer.Option(help="Blocks that save memory by computing twice.", min=0)] = 0,
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
    note(f"next: hoidap train FILE --model {made} --out RUN")


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
    note(f"{out}: {vocab_size} tokens")
