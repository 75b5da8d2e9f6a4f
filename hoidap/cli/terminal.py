"""What goes to the terminal: answers to standard output, notes to standard error; and the questions that come from it."""

import sys
from collections.abc import Iterator


def questions() -> Iterator[str]:
    """Yield the lines that a person types, or that come through a pipe."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            write("\n")
            return


def write(text: str) -> None:
    """Write a part of an answer."""
    sys.stdout.write(text)
    sys.stdout.flush()


def note(text: str) -> None:
    """Write a line that is no part of an answer."""
    sys.stderr.write(text + "\n")
