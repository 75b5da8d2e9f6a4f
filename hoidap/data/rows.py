"""A file becomes rows: CSV, TSV, JSON lines, JSON, a workbook or Parquet, each row with its place in the file."""

import csv
import io
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hoidap.data.cells import is_empty
from hoidap.data.columns import find_columns
from hoidap.data.encoding import read_text
from hoidap.data.objects import json_lines, json_list
from hoidap.data.workbook import MOST_CELLS, as_typed, read_sheet
from hoidap.errors import DataError

if TYPE_CHECKING:
    import _csv  # where csv.reader's type has its name

_MOST_BYTES = 256 * 2**20
_SUFFIXES = ".csv, .tsv, .jsonl, .json, .xlsx, .parquet"
_QUOTED = re.compile('"[^"]*"')

Row = tuple[int, dict[str, object]]  # line in the file (in Parquet: number of the row), column → cell
Note = Callable[[str], None]


def read_rows(path: Path, needed: Sequence[str], problems: list[str], note: Note) -> Iterator[Row]:
    """Give out the rows one by one; those without form go to ``problems``, so that they stand there in the file's order.

    Raises:
        DataError: nothing of the file can be read.

    """
    try:
        _check(path)
        match path.suffix.lower():
            case ".csv" | ".tsv":
                yield from _read_csv(path, needed, problems, note)
            case ".jsonl":
                values = json_lines(path.name, read_text(path, note), problems)
                yield from _read_json(path.name, values, needed, problems)
            case ".json":
                values = json_list(path.name, read_text(path, note), problems)
                yield from _read_json(path.name, values, needed, problems)
            case ".xlsx":
                yield from _read_xlsx(path, needed)
            case ".parquet":
                yield from _read_parquet(path, needed)
    except FileNotFoundError:
        raise DataError([f"{path}: no such file"]) from None
    except OSError as error:
        raise DataError(
            [f"{path}: cannot be read ({error.strerror or error}); check its name and who may read it"]
        ) from None


def _check(path: Path) -> None:
    if path.suffix.lower() not in _SUFFIXES.split(", "):
        kind = f"a {path.suffix} file" if path.suffix else "a file whose name ends in no kind"
        raise DataError([f"{path.name}: {kind}; hoidap reads {_SUFFIXES}; save it as one of these"])
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise DataError([f"{path}: a folder; name the file in it"])
    if not stat.S_ISREG(status.st_mode):
        raise DataError([f"{path}: not a file that stays (a pipe or a device); save it first"])
    if status.st_size > _MOST_BYTES:
        msg = f"{path.name}: {status.st_size:,} bytes; at most {_MOST_BYTES:,} are read; split the file"
        raise DataError([msg])


def _read_csv(path: Path, needed: Sequence[str], problems: list[str], note: Note) -> Iterator[Row]:
    reader = csv_reader(read_text(path, note))
    end = 0  # lines read; a quoted cell may span lines, and a row is named by its first
    try:
        header = next(reader, [])
        places = find_columns(path.name, 1, header, needed).items()
        end = reader.line_num
        for cells in reader:
            line, end = end + 1, reader.line_num
            if len(cells) > len(header) and any(map(str.strip, cells)):
                extra = f"{len(cells)} cells under {len(header)} columns"
                inner = reader.dialect.delimiter
                problems.append(f'{path.name}:{line}: {extra}; put a cell that holds {inner!r} in "quotes"')
            elif any(map(str.strip, cells)):
                width = len(cells)
                yield line, {name: cells[at] for name, at in places if at < width}
    except csv.Error as error:
        problems.append(f'{path.name}:{end + 1}: not CSV ({error}); is a " left open?')


def csv_reader(text: str) -> "_csv.Reader":
    """Return a strict reader of CSV text whose delimiter is the one that its header has most of, outside quotes."""
    first = _QUOTED.sub("", text.split("\n", 1)[0])
    delimiter = max(",;\t", key=first.count)  # Excel writes semicolons with Vietnamese settings, tabs as Unicode text
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)


def _read_xlsx(path: Path, needed: Sequence[str]) -> Iterator[Row]:
    places: dict[str, int] | None = None
    for number, row in enumerate(read_sheet(path), start=1):
        if all(map(is_empty, row)):
            continue
        if places is None:
            places = find_columns(path.name, number, [str(cell) for cell in row], needed)
        else:
            yield number, {name: as_typed(row[at]) for name, at in places.items()}
    if places is None:
        find_columns(path.name, 1, [], needed)


def _read_parquet(path: Path, needed: Sequence[str]) -> Iterator[Row]:
    import polars as pl

    try:
        frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        header = frame.collect_schema().names()
        places = find_columns(path.name, 1, header, needed, lists=True)
        n_rows = frame.select(pl.len()).collect().item()
        if n_rows * len(places) > MOST_CELLS:
            size = f"{n_rows:,} rows of {len(places)} columns"
            raise DataError([f"{path.name}: {size}; at most {MOST_CELLS:,} cells are read; split the file"])
        rows = frame.select([header[at] for at in places.values()]).collect().iter_rows()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).split("\n", 1)[0]
        raise DataError([f"{path.name}: not Parquet that can be read ({reason}); write it again"]) from None
    for number, row in enumerate(rows, start=1):
        yield number, dict(zip(places, row, strict=True))


def _read_json(
    file: str, values: Iterator[tuple[int, object]], needed: Sequence[str], problems: list[str]
) -> Iterator[Row]:
    for line, value in values:
        if not isinstance(value, dict):
            problems.append(f'{file}:{line}: {type(value).__name__}, wanted an object like {{"question": …}}')
            continue
        keys = list(value)
        try:
            places = find_columns(file, line, keys, needed, lists=True)
        except DataError as error:
            problems += error.problems
        else:
            yield line, {name: value[keys[at]] for name, at in places.items()}
