"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as `hoidap train` leaves it.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. [default: a GPU if there is one]")]
DType = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: what suits the device]")]
Download = Annotated[bool, typer.Option("--download", help="Allow gigabytes of the base to be fetched from the hub.")]
BaseFolder = Annotated[str | None, typer.Option("--base", help="Where the base model is now, if it has moved.")]
MaxSteps = Annotated[int | None, typer.Option(help="Steps, at most; 0: all of the epochs'. [default: 0]")]
Accumulation = Annotated[
    int | None, typer.Option(help="Passes a step is split into: the same step in less memory. [default: 1]")
]
Seed = Annotated[int | None, typer.Option(help="Of batches and initial weights. [default: 1]")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it was interrupted.")]
