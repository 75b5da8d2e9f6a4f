"""The commands that examine what others made: verify."""

from typing import Annotated

import typer

from hoidap.cli.options import Device, Download
from hoidap.cli.terminal import note


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
