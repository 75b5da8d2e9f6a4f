"""A file of questions and answers becomes items, or one error that lists every bad row with file and line.

CSV (comma, semicolon or tab), XLSX (first sheet) and JSONL. Columns are found by name, in Vietnamese or English, with or
without diacritics; columns of other names are left alone.
"""

import csv
import io
import json
import re
import reprlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hoidap.data.items import Item
from hoidap.errors import DataError
from hoidap.text import fold, nfc

_MOST_BYTES = 256 * 2**20
_MOST_CHARACTERS = 32_768  # in one cell, as in Excel
# Names of columns, folded, letters and digits alone.
_QUESTION = ("cauhoi", "hoi", "question", "questions", "q", "prompt", "instruction")
_ANSWER = ("traloi", "cautraloi", "dap", "dapan", "answer", "answers", "a", "response", "output")
_WORDINGS = ("cachhoikhac", "cauhoikhac", "wordings", "paraphrases", "otherquestions")
_COLUMNS = {"question": _QUESTION, "answer": _ANSWER, "wordings": _WORDINGS}
_SEPARATOR = "|"  # between wordings in one cell; a new line does as well
# Control characters but tab and line ends, halves of surrogate pairs, and the sign of a failed conversion.
_STRANGE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")


@dataclass(frozen=True)
class Question:
    """A question to ask; ``answer`` is what it should say, where the file has one."""

    question: str
    answer: str | None


_Row = tuple[int, dict[str, object]]  # line in the file, column name → cell


def read_items(path: Path) -> list[Item]:
    """Read a file in which every row has a question and an answer.

    Raises:
        DataError: the file cannot be read, or rows are bad; all problems at once, each with file and line.

    """
    problems: list[str] = []
    items = []
    for line, row in _rows(path, ("question", "answer"), problems):
        where = f"{path.name}:{line}"
        question = _text(row, "question", where, problems)
        answer = _text(row, "answer", where, problems)
        wordings = _wordings(row, where, problems)
        if question and answer:
            items.append(Item(question, answer, wordings))
    if not items and not problems:
        problems.append(f"{path.name}: no rows below the header; write at least one question and its answer")
    if problems:
        raise DataError(problems)
    return items


def read_questions(path: Path) -> list[Question]:
    """Read a file in which every row has a question, and perhaps an answer to compare with.

    Raises:
        DataError: as ``read_items``.

    """
    problems: list[str] = []
    questions = []
    for line, row in _rows(path, ("question",), problems):
        where = f"{path.name}:{line}"
        question = _text(row, "question", where, problems)
        answer = _text(row, "answer", where, problems) if not _empty(row.get("answer")) else None
        if question:
            questions.append(Question(question, answer))
    if not questions and not problems:
        problems.append(f"{path.name}: no questions below the header; write at least one")
    if problems:
        raise DataError(problems)
    return questions


def _rows(path: Path, needed: Sequence[str], problems: list[str]) -> Iterator[_Row]:
    """Give out the rows one by one; those without form go to ``problems``, so that they stand there in the file's order."""
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".xlsx": _read_xlsx}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        msg = f"{path.name}: a {path.suffix or 'nameless'} file; hoidap reads {', '.join(readers)}; save it as one of these"
        raise DataError([msg])
    if not path.is_file():
        raise DataError([f"{path}: no such file"])
    if path.stat().st_size > _MOST_BYTES:
        msg = f"{path.name}: {path.stat().st_size:,} bytes; at most {_MOST_BYTES:,} are read; split the file"
        raise DataError([msg])
    return reader(path, needed, problems)


def _read_csv(path: Path, needed: Sequence[str], problems: list[str]) -> Iterator[_Row]:
    text = _decode(path)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)  # Excel with Vietnamese settings writes semicolons
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    end = 0  # lines read; a quoted cell may span lines, and a row is named by its first
    try:
        header = next(reader, [])
        columns = _columns(path, header, needed)
        end = reader.line_num
        for cells in reader:
            line, end = end + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(header):
                extra = f"{len(cells)} cells under {len(header)} columns"
                problems.append(f'{path.name}:{line}: {extra}; put a cell that holds {delimiter!r} in "quotes"')
            else:
                yield line, {name: cells[at] for name, at in columns.items() if at < len(cells)}
    except csv.Error as error:
        problems.append(f'{path.name}:{end + 1}: not CSV ({error}); is a " left open?')


def _read_xlsx(path: Path, needed: Sequence[str], _problems: list[str]) -> Iterator[_Row]:
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        cells = CalamineWorkbook.from_path(path).get_sheet_by_index(0).to_python(skip_empty_area=False)
    except (CalamineError, OSError, ValueError) as error:
        raise DataError([f"{path.name}: not a workbook that can be read ({error}); save it again as .xlsx"]) from None
    top = next((n for n, row in enumerate(cells) if any(not _empty(cell) for cell in row)), 0)
    columns = _columns(path, [str(cell) for cell in cells[top]] if cells else [], needed, line=top + 1)
    for number, row in enumerate(cells[top + 1 :], start=top + 2):
        if any(not _empty(cell) for cell in row):
            yield number, {name: _number_as_typed(row[at]) for name, at in columns.items()}


def _read_jsonl(path: Path, needed: Sequence[str], problems: list[str]) -> Iterator[_Row]:
    for number, line in enumerate(_decode(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            problems.append(f"{path.name}:{number}: not JSON ({error})")
            continue
        if not isinstance(value, dict):
            problems.append(f'{path.name}:{number}: {type(value).__name__}, wanted an object like {{"question": …}}')
            continue
        try:
            columns = _columns(path, list(value), needed, line=number)
        except DataError as error:
            problems += error.problems
            continue
        keys = list(value)
        yield number, {name: value[keys[at]] for name, at in columns.items()}


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        msg = f"the key {twice!r} twice in one object"  # json would keep the last and drop the others
        raise ValueError(msg)
    return value


def _decode(path: Path) -> str:
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        content = error.object  # without the byte order mark: error.start counts from behind it
        line = content.count(b"\n", 0, error.start) + 1
        msg = f"{path.name}:{line}: not UTF-8 text (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        raise DataError([msg]) from None
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise DataError([f"{path.name}:{line}: a NUL character; this is not a text file, save it as UTF-8 text"])
    return text.replace("\r\n", "\n")


def _columns(path: Path, header: Sequence[str], needed: Sequence[str], line: int = 1) -> dict[str, int]:
    """Find the place of each column by its name."""
    keys = ["".join(c for c in fold(nfc(name)) if c.isalnum()) for name in header]
    found: dict[str, int] = {}
    problems = []
    for column, names in _COLUMNS.items():
        places = [at for at, key in enumerate(keys) if key in names]
        if len(places) > 1:
            twins = " and ".join(repr(header[at]) for at in places)
            problems.append(f"{path.name}:{line}: two columns for the {column}: {twins}; keep one")
        elif places:
            found[column] = places[0]
        elif column in needed:
            allowed = "'câu hỏi' or 'question'" if column == "question" else "'trả lời' or 'answer'"
            names_here = ", ".join(repr(name) for name in header) or "none"
            problems.append(f"{path.name}:{line}: no column for the {column}; name one {allowed}; found {names_here}")
    if problems:
        raise DataError(problems)
    return found


def _text(row: dict[str, object], column: str, where: str, problems: list[str]) -> str:
    """Return a cell's text in NFC, or note what is wrong with it and return ""."""
    value = row.get(column)
    if _empty(value):
        problems.append(f"{where}: the {column} is empty")
        return ""
    if not isinstance(value, str):
        problems.append(f"{where}: the {column} is {reprlib.repr(value)}; it takes text")
        return ""
    text = nfc(value).strip()
    flaw = _flaw(text)
    if flaw:
        problems.append(f"{where}: the {column} {flaw}")
        return ""
    return text


def _flaw(text: str) -> str:
    """Return what makes a cell's text unusable, or ""."""
    if len(text) > _MOST_CHARACTERS:
        return f"has {len(text):,} characters; at most {_MOST_CHARACTERS:,}"
    strange = _STRANGE.search(text)
    return f"holds U+{ord(strange.group()):04X}, which no keyboard types; was it converted?" if strange else ""


def _wordings(row: dict[str, object], where: str, problems: list[str]) -> tuple[str, ...]:
    value = row.get("wordings")
    if _empty(value):
        return ()
    if isinstance(value, str):
        value = value.replace("\n", _SEPARATOR).split(_SEPARATOR)
    if not isinstance(value, list) or not all(isinstance(w, str) for w in value):
        problems.append(
            f"{where}: the wordings are {reprlib.repr(value)}; they take a list of texts, or one text with | between"
        )
        return ()
    wordings = tuple(w for w in (nfc(w).strip() for w in value) if w)
    flaws = [flaw for flaw in map(_flaw, wordings) if flaw]
    problems += [f"{where}: a wording {flaw}" for flaw in flaws]
    return () if flaws else wordings


def _empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value == []


def _number_as_typed(value: object) -> object:
    """Return a cell that Excel typed as a number or a date as text: 8 for 8.0."""
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.15g}"  # Excel keeps and shows 15 digits
    return str(value)
