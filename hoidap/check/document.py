"""A file with all of its columns, to be changed and written again: what ``read_rows`` gives, and what it leaves alone."""

import codecs
import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hoidap.check.characters import flaws
from hoidap.data.cells import is_empty
from hoidap.data.columns import find_columns
from hoidap.data.encoding import read_text
from hoidap.data.legacy import OldText
from hoidap.data.objects import json_lines, json_list
from hoidap.data.rows import csv_reader
from hoidap.data.workbook import as_typed, read_sheet
from hoidap.errors import DataError

_NEEDED = ("question", "answer")
_MARK = "\ufeff"  # of byte order; with it Excel reads CSV as UTF-8


@dataclass
class Row:
    """A row: its line, its cells, and where in them the columns are that hoidap knows."""

    line: int
    cells: Any  # a list, or an object of JSON
    places: dict[str, Any] = field(default_factory=dict)  # none: the row is left as it stands
    is_changed: bool = False

    def known(self) -> dict[str, object]:
        """Return the known columns with their values."""
        return {column: self.cells[key] for column, key in self.places.items()}


@dataclass
class Document:
    """The rows of a file, and how they are written."""

    rows: list[Row]
    write: Callable[[Path], None]
    renamed: list[tuple[int, str, str]] = field(default_factory=list)  # columns: line, name as it stood, name


def written_as(path: Path) -> str:
    """Return the suffix of a file's copy: a workbook is written as CSV."""
    return ".csv" if path.suffix.lower() == ".xlsx" else path.suffix


def open_document(path: Path) -> Document:
    """Read a file whole.

    Raises:
        DataError: it cannot be read, or not be written again without losing something.

    """
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return _open_csv(path)
        case ".jsonl":
            return _open_json_lines(path)
        case ".json":
            return _open_json(path)
        case ".xlsx":
            return _open_workbook(path)
        case _:
            return _open_parquet(path)


def _open_csv(path: Path) -> Document:
    text, mark, end = _text(path)
    reader = csv_reader(text)
    rows, line = [], 1
    try:
        old_header = next(reader, [])
        header, places = _header(path.name, 1, old_header)
        line = reader.line_num + 1
        for cells in reader:
            fits = len(cells) <= len(header)
            rows.append(Row(line, cells, {name: at for name, at in places.items() if fits and at < len(cells)}))
            line = reader.line_num + 1
    except csv.Error as error:
        msg = f'{path.name}:{line}: not CSV ({error}); correct this before --fix: is a " left open?'
        raise DataError([msg]) from None
    delimiter = reader.dialect.delimiter

    def write(copy: Path) -> None:
        _write_csv(copy, [header, *(row.cells for row in rows)], delimiter, mark, end)

    return Document(rows, write, _renamed(1, old_header, header))


def _open_workbook(path: Path) -> Document:
    found = [(number, row) for number, row in enumerate(read_sheet(path), start=1) if not all(map(is_empty, row))]
    if not found:
        find_columns(path.name, 1, [], _NEEDED)
    line, old_header = found[0][0], [str(cell) for cell in found[0][1]]
    header, places = _header(path.name, line, old_header)
    rows = [Row(number, [_as_shown(cell) for cell in row], dict(places)) for number, row in found[1:]]

    def write(copy: Path) -> None:
        _write_csv(copy, [header, *(row.cells for row in rows)], ",", _MARK, "\r\n")

    return Document(rows, write, _renamed(line, old_header, header))


def _open_json_lines(path: Path) -> Document:
    text, mark, end = _text(path)
    rows = [Row(line, value, _keys(path.name, line, value)) for line, value in json_lines(path.name, text, [])]

    def write(copy: Path) -> None:
        lines = text.split("\n")
        for row in rows:
            if row.is_changed:
                lines[row.line - 1] = _json(row.cells)
        copy.write_text(mark + "\n".join(lines), encoding="utf-8", newline=end)

    return Document(rows, write)


def _open_json(path: Path) -> Document:
    text, mark, end = _text(path)
    problems: list[str] = []
    lines = [line for line, _ in json_list(path.name, text, problems)]
    if problems:  # json keeps the last of two equal keys: the copy would lack the other
        raise DataError(problems)
    document = json.loads(text)
    values = document if isinstance(document, list) else next(v for v in document.values() if isinstance(v, list))
    rows = [Row(line, value, _keys(path.name, line, value)) for line, value in zip(lines, values, strict=True)]

    def write(copy: Path) -> None:
        copy.write_text(mark + _json(document, indent=2) + "\n", encoding="utf-8", newline=end)

    return Document(rows, write)


def _open_parquet(path: Path) -> Document:
    import polars as pl

    try:
        frame = pl.scan_parquet(path, glob=False, hive_partitioning=False).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).split("\n", 1)[0]
        raise DataError([f"{path.name}: not Parquet that can be read ({reason}); write it again"]) from None
    places = find_columns(path.name, 1, frame.columns, _NEEDED, lists=True)
    names = {column: frame.columns[at] for column, at in places.items()}
    rows = [Row(number, cells, names) for number, cells in enumerate(frame.select(names.values()).to_dicts(), start=1)]

    def write(copy: Path) -> None:
        columns = [pl.Series(name, [row.cells[name] for row in rows], frame.schema[name]) for name in names.values()]
        frame.with_columns(columns).write_parquet(copy)

    return Document(rows, write)


def _text(path: Path) -> tuple[str, str, str]:
    """Return a file's text, the mark that its copy begins with, if any, and the end of its lines.

    Bytes of an encoding older than Unicode come as Latin-1 shows them, as the cells of a workbook do.
    """
    raw = path.read_bytes()
    end = "\r\n" if b"\r\n" in raw else "\n"
    try:
        text = read_text(path, lambda _: None)
    except DataError:
        text = raw.decode("latin-1").replace("\r\n", "\n")
        old = OldText()
        for number, line in enumerate(text.split("\n"), start=1):
            old.look(number, [line])
        if not old.found():
            raise
        return text, _MARK, end
    has_mark = raw.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return text, _MARK if has_mark else "", end


def _header(file: str, line: int, header: list[str]) -> tuple[list[str], dict[str, int]]:
    """Return the names of the columns, out of an old encoding if they are in one, and where the known ones are."""
    try:
        return header, find_columns(file, line, header, _NEEDED)
    except DataError:
        old = OldText()
        old.look(line, header)
        if not old.found():
            raise
    converted = [flaws(name, "header", old.found()[0])[1] for name in header]
    return converted, find_columns(file, line, converted, _NEEDED)


def _renamed(line: int, before: Sequence[str], after: Sequence[str]) -> list[tuple[int, str, str]]:
    return [(line, old, new) for old, new in zip(before, after, strict=True) if old != new]


def _keys(file: str, line: int, value: object) -> dict[str, str]:
    """Return the keys of an object that hoidap knows; none if training refuses it."""
    if not isinstance(value, dict):
        return {}
    keys = list(value)
    try:
        return {column: keys[at] for column, at in find_columns(file, line, keys, _NEEDED, lists=True).items()}
    except DataError:
        return {}


def _as_shown(cell: object) -> str:
    return str(cell).upper() if isinstance(cell, bool) else str(as_typed(cell))


def _json(value: object, indent: int | None = None) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which the reader refuses; it stays as it was written
        return json.dumps(value, indent=indent)
    return text


def _write_csv(path: Path, table: Sequence[Sequence[str]], delimiter: str, mark: str, end: str) -> None:
    header = table[0] if table else []
    # hoidap takes for the delimiter what a header has most of, outside quotes.
    is_doubtful = any(sign in name for name in header for sign in ",;\t")
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(mark)
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
        quoted = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
        (quoted if is_doubtful else writer).writerow(header)
        writer.writerows(table[1:])
