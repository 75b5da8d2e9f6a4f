"""A conversation in the terminal or through a pipe: questions come in as lines, answers stream out."""

from collections.abc import Callable, Iterable

from hoidap.bot import Bot
from hoidap.errors import RequestError
from hoidap.infer.engine import GREEDY, Sampling
from hoidap.prompt import Turn

HELP = "/new forgets the conversation so far, /quit ends; Ctrl-C stops an answer"


def chat(
    bot: Bot,
    lines: Iterable[str],
    write: Callable[[str], None],
    note: Callable[[str], None],
    sampling: Sampling = GREEDY,
) -> None:
    """Answer each line, remembering the turns before it.

    Args:
        bot: who answers.
        lines: questions, or the commands of ``HELP``; empty lines are passed over.
        write: takes the answers' text as it comes, each answer ended by a new line.
        note: takes what is not part of an answer.
        sampling: how answers are drawn.
    """
    history: list[Turn] = []
    for line in lines:
        question = line.strip()
        if question == "/quit":
            return
        if question == "/new":
            history = []
            note("a new conversation")
        elif question:
            history = _turn(bot, question, history, write, note, sampling)


def _turn(
    bot: Bot,
    question: str,
    history: list[Turn],
    write: Callable[[str], None],
    note: Callable[[str], None],
    sampling: Sampling,
) -> list[Turn]:
    """Answer one question and return the history with it, if it was answered whole."""
    text = ""
    try:
        kept = bot.fit(question, history, sampling)
        if len(kept) < len(history):
            note(
                f"the conversation is longer than the model reads: its first {len(history) - len(kept)} turns are left out"
            )
        for piece in bot.stream(question, kept, sampling):
            text += piece
            write(piece)
    except RequestError as error:
        note(str(error))
        return history
    except KeyboardInterrupt:
        write("\n")
        note("stopped; this answer is not remembered")
        return history
    write("\n")
    return [*kept, Turn(question, text)]
