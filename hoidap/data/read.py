"""A file of questions and answers becomes items, or one error that lists every bad row with file and line.

A row is a question with its answer in columns of their own (other columns are left alone), or, in JSON and Parquet, an
instruction (Alpaca) or a conversation (ShareGPT, OpenAI), of which every answer becomes an item.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hoidap.data.cells import Cells, is_empty
from hoidap.data.conversations import read_conversation, read_pairs
from hoidap.data.items import Item
from hoidap.data.rows import Row, read_rows
from hoidap.errors import DataError
from hoidap.prompt import Turn

_NO_ROWS = "no rows below the header; write at least one question and its answer"


@dataclass(frozen=True)
class Question:
    """A question to ask; ``answer`` is what it should say, where the file has one."""

    question: str
    answer: str | None


@dataclass(frozen=True)
class Contents:
    """All that a file holds, the good and the bad, as ``hoidap check`` shows it."""

    rows: list[Row]  # as they stand in the file, the refused ones too; those without form are problems alone
    items: list[Item]
    owners: list[int]  # number of each item's row
    problems: list[str]  # but for old encodings
    refused: set[int]  # numbers of the rows that have problems
    old: dict[int, str]  # number of a row → the encoding older than Unicode that it is in


def _ignore(_sentence: str) -> None:
    pass


def read_items(path: Path, note: Callable[[str], None] = _ignore) -> list[Item]:
    """Read a file in which every row has a question and an answer, or a conversation.

    Args:
        path: .csv, .tsv, .jsonl, .json, .xlsx or .parquet.
        note: is told, in a sentence each, what is neither in the items nor an error.

    Raises:
        DataError: the file cannot be read, or rows are bad; all problems at once, each with file and line.

    """
    cells = Cells(path.name)
    items: list[Item] = []
    for row in read_rows(path, ("question", "answer"), cells.problems, note):
        items += _items_of(row, cells)[0]
    _finish(cells, items, note, _NO_ROWS)
    return items


def read_contents(path: Path, note: Callable[[str], None] = _ignore) -> Contents:
    """Read a file as ``read_items`` does, and give out what is good in it beside what is not.

    Raises:
        DataError: nothing of the file can be read.

    """
    cells = Cells(path.name)
    contents = Contents([], [], [], cells.problems, set(), {})
    encodings = {}
    for number, row in enumerate(read_rows(path, ("question", "answer"), cells.problems, note)):
        n_problems = len(cells.problems)
        items, encodings[number] = _items_of(row, cells)
        contents.rows.append(row)
        contents.items.extend(items)
        contents.owners.extend([number] * len(items))
        if len(cells.problems) > n_problems:
            contents.refused.add(number)
    found = cells.old_encodings()
    contents.old.update({number: encoding for number, encoding in encodings.items() if encoding in found})
    if not (contents.items or contents.problems or contents.old):
        contents.problems.append(f"{path.name}: {_NO_ROWS}")
    _tell(cells, note)
    return contents


def read_questions(path: Path, note: Callable[[str], None] = _ignore) -> list[Question]:
    """Read a file in which every row has a question, and perhaps an answer to compare with.

    Args:
        path: as for ``read_items``; a conversation is a question if it has no more than one.
        note: as for ``read_items``.

    Raises:
        DataError: as ``read_items``.

    """
    cells = Cells(path.name)
    questions: list[Question] = []
    for line, row in read_rows(path, ("question",), cells.problems, note):
        if "conversation" in row:
            turns = read_conversation(row["conversation"], line, cells)
            if len(turns) > 1:
                cells.report(line, f"a conversation of {len(turns)} questions; each is asked alone; write one a row")
            questions += [Question(turn.question, turn.answer) for turn in turns]
        else:
            question = _question(row, line, cells)
            answer = None if is_empty(row.get("answer")) else cells.text(row["answer"], line, "the answer")
            if not is_empty(row.get("before")):
                cells.report(line, "a question with earlier turns; each is asked alone; write one a row")
            if question:
                questions.append(Question(question, answer))
        cells.end_row(line)
    _finish(cells, questions, note, "no questions below the header; write at least one")
    return questions


def _finish(cells: Cells, found: Sequence[object], note: Callable[[str], None], nothing: str) -> None:
    """Raise all problems at once; if there are none, tell what was left out."""
    problems = cells.all_problems()
    if not found and not problems:
        problems.append(f"{cells.file}: {nothing}")
    if problems:
        raise DataError(problems)
    _tell(cells, note)


def _tell(cells: Cells, note: Callable[[str], None]) -> None:
    """Tell what was left out."""
    if n := cells.n_system_messages:
        messages = "1 system message" if n == 1 else f"{n:,} system messages"
        note(f"{cells.file}: {messages} left out; PhoGPT's templates have no place for them")


def _items_of(row: Row, cells: Cells) -> tuple[list[Item], str]:
    """Return the items of a row and the old encoding that it may be in; what is wrong with it goes to ``cells``."""
    line, columns = row
    if "conversation" in columns:
        items = _items(read_conversation(columns["conversation"], line, cells), line, cells)
    else:
        question = _question(columns, line, cells)
        answer = cells.text(columns.get("answer"), line, "the answer")
        wordings = cells.wordings(columns.get("wordings"), line)
        before = read_pairs(columns.get("before"), line, cells)
        items = [Item(question, answer, wordings, before)] if question and answer else []
    return items, cells.end_row(line)


def _question(row: dict[str, object], line: int, cells: Cells) -> str:
    """Return the question of a row; an Alpaca instruction goes on with its input, and its system text is left out."""
    cells.n_system_messages += not is_empty(row.get("system"))
    question = cells.text(row.get("question"), line, "the question")
    if is_empty(row.get("input")):
        return question
    given = cells.text(row["input"], line, "the input")
    return f"{question}\n{given}" if question and given else ""


def _items(turns: Sequence[Turn], line: int, cells: Cells) -> list[Item]:
    """Return an item for each answer of a conversation."""
    if turns and turns[-1].answer is None:
        cells.report(line, "the conversation ends with a question that has no answer; add it or take the question out")
        return []
    return [Item(t.question, t.answer, (), tuple(turns[:n])) for n, t in enumerate(turns) if t.answer is not None]
