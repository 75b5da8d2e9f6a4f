"""The commands that examine what others made: a file of data, a base."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from hoidap.cli.options import Device, Download
from hoidap.cli.terminal import note


def check(
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV, TSV, XLSX, JSON, JSONL or Parquet of questions and answers.")
    ],
    fix: Annotated[
        bool, typer.Option("--fix", help="Write a mended copy beside FILE, with a list of its changes; FILE stays.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="The base to train on it: what must fit is its. [default: mini]")
    ] = None,
    language: Annotated[str, typer.Option(help="vi or en.")] = "vi",
    out: Annotated[Path | None, typer.Option(help="Write the report as a page (HTML) too, in both languages.")] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Allow gigabytes of the base to be fetched from the hub.")
    ] = False,
) -> None:
    """Examine FILE before training: rows that training refuses, and what would spoil the answers.

    Questions with two answers, near duplicates, figures that disagree, several questions in a row, broken or invisible
    characters, old encodings, personal data, what is too long. Ends with status 1 if training would refuse it.
    """
    from rich.console import Console

    from hoidap.base import MINI, find_base
    from hoidap.check.examination import examine
    from hoidap.check.page import refuse_to_overwrite, write_page
    from hoidap.check.repair import outputs, repair
    from hoidap.check.table import advice, show, show_repaired, summary
    from hoidap.errors import RecipeError
    from hoidap.language import Language

    if language not in get_args(Language):
        msg = f"--language is {language!r}; it takes {', '.join(map(repr, get_args(Language)))}"
        raise RecipeError(msg)
    spoken: Language = "vi" if language == "vi" else "en"
    if out:
        refuse_to_overwrite(out)
    if fix:
        outputs(file)
    console, progress = Console(), Console(stderr=True)
    base = find_base(model or MINI, download=download, console=progress)
    report = examine(file, base, progress)
    show(report, spoken, console)
    if out:
        write_page(report, out, spoken)
    if fix:
        repaired = repair(file, spoken)
        show_repaired(repaired, spoken, console)
        file = repaired.file if repaired.n_changes else file
    console.print(summary(report, spoken), markup=False, highlight=False, soft_wrap=True)
    console.print(advice(report, str(file), spoken, fixes=fix), markup=False, highlight=False, soft_wrap=True)
    if report.count("error"):
        raise typer.Exit(1)


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
    note(f"{verdicts.count('bad')} bad, {verdicts.count('doubtful')} doubtful, {verdicts.count('good')} good")
    if "bad" in verdicts:
        raise typer.Exit(1)
