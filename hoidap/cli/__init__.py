"""The command line: the only place that reads arguments and environment. Commands import what they need: help is quick."""

import os
import sys
from typing import Annotated

import typer

from hoidap.cli.ask import chat, correct, demo, evaluate
from hoidap.cli.examine import check, verify
from hoidap.cli.make import export, pretrain, tokenizer, train
from hoidap.cli.serve import keys, serve
from hoidap.cli.terminal import note

app = typer.Typer(
    name="hoidap",
    help="Turn a question–answer file into a Vietnamese chatbot that you own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done, to standard error.")] = False,
) -> None:
    from hoidap.runtime import set_up_logging

    set_up_logging(verbose=verbose)


for command in (check, train, evaluate, chat, serve, keys, correct, export, demo, verify, pretrain, tokenizer):
    app.command()(command)


def main() -> None:
    """Run the command line; errors of hoidap's own are printed without a traceback."""
    from hoidap.errors import HoidapError, Interrupted

    # GNU OpenMP's threads spin at every barrier; with another program on the cores that made the demo's steps 14 times
    # slower (4.3 s for 0.3). Spinning for less costs nothing on free cores and leaves 0.8 s. Read when PyTorch loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        app()
    except Interrupted as error:
        note(str(error))
        sys.exit(130)  # as a shell says of Ctrl-C
    except HoidapError as error:
        note(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        note("stopped; where a run was begun, the same command with --resume goes on")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)  # the reader of our output has gone
