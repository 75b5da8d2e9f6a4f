"""The first sheet of a workbook becomes rows of cells, once its size is known to be bearable.

calamine gives memory to every cell between the first and the last one, so a single cell in the last corner of a sheet ends
the process. It also gives an error value as an empty cell. Both are seen beforehand in the sheet's own XML.
"""

import re
import zipfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from hoidap.errors import DataError

MOST_CELLS = 20_000_000
_MOST_UNPACKED_BYTES = 2**30
_SHEET = re.compile(rb"<(?:\w+:)?sheet\s[^<>]*?\s\w+:id=[\"']([^\"']*)")
_RELATION = re.compile(rb"<(?:\w+:)?Relationship\s([^<>]*)>")
_TAG = re.compile(rb"<(?:\w+:)?(row|c)\b([^<>]*)>")
_CELL = re.compile(rb"<(?:\w+:)?c\b")
_CELL_WITH_PLACE = re.compile(rb"<(?:\w+:)?c\b[^<>]*?\sr=[\"']([A-Za-z]+)(\d+)")
_PLACE = re.compile(rb"\sr=[\"']([A-Za-z]*)(\d+)")
_IS_ERROR = re.compile(rb"\st=[\"']e[\"']")
_VALUE = re.compile(rb"<(?:\w+:)?v>([^<]*)")


def read_sheet(path: Path) -> Sequence[Sequence[object]]:
    """Return the rows of the first sheet from its line 1 on, each as wide as the sheet; an error value is its name.

    Raises:
        DataError: not a workbook, or one too large.
        OSError: the file cannot be read.

    """
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        errors = _survey(path)
        sheet = CalamineWorkbook.from_path(path).get_sheet_by_index(0).to_python(skip_empty_area=False)
        for (row, column), name in errors.items():
            sheet[row][column] = name
    except (CalamineError, zipfile.BadZipFile, zlib.error, EOFError, LookupError, ValueError, RuntimeError) as error:
        msg = f"{path.name}: not a workbook that can be read ({error}); save it again as .xlsx"
        raise DataError([msg]) from None
    return sheet


def _survey(path: Path) -> dict[tuple[int, int], str]:
    """Return the error values by row and column, both from 0; refuse a sheet too large to lay out."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > _MOST_UNPACKED_BYTES:
            msg = f"{path.name}: unpacks to {unpacked:,} bytes; at most {_MOST_UNPACKED_BYTES:,} are read; split the file"
            raise DataError([msg])
        xml = archive.read(_first_sheet(archive))
    if _is_surely_bearable(xml):
        return {}
    n_rows, n_columns, errors = _walk(xml)
    if n_rows * n_columns > MOST_CELLS:
        size = f"cells as far as row {n_rows:,} and column {n_columns:,}, {n_rows * n_columns:,} in all"
        advice = "delete the stray cells at the end, or save the rows as CSV"
        raise DataError([f"{path.name}: {size}; at most {MOST_CELLS:,} are read; {advice}"])
    return errors


def _is_surely_bearable(xml: bytes) -> bool:
    """Tell quickly what is true of nearly every sheet: no error value, each cell names its place, none is far off."""
    places = _CELL_WITH_PLACE.findall(xml)
    if _IS_ERROR.search(xml) or len(places) < len(_CELL.findall(xml)):
        return False
    n_rows = max((int(digits) for _, digits in places), default=0)
    n_columns = max(map(_number, {letters for letters, _ in places}), default=0)
    return n_rows * n_columns <= MOST_CELLS


def _walk(xml: bytes) -> tuple[int, int, dict[tuple[int, int], str]]:
    """Return the last row and column that have a value, and the error values by row and column, both from 0."""
    errors = {}
    row = column = n_rows = n_columns = 0
    for tag in _TAG.finditer(xml):
        kind, attributes = tag.groups()
        place = _PLACE.search(attributes)
        if kind == b"row":
            row, column = (int(place[2]) if place else row + 1), 0
            continue
        row, column = (int(place[2]), _number(place[1])) if place else (row, column + 1)
        if attributes.endswith(b"/"):
            continue  # it has a format and no value
        n_rows, n_columns = max(n_rows, row), max(n_columns, column)
        if _IS_ERROR.search(attributes):
            value = _VALUE.search(xml, tag.end())
            errors[row - 1, column - 1] = value[1].decode() if value else "#N/A"
    return n_rows, n_columns, errors


def _first_sheet(archive: zipfile.ZipFile) -> str:
    """Return the name of the part of the archive that holds the first sheet."""
    names = {name.lower(): name for name in archive.namelist()}
    sheet = _SHEET.search(archive.read(names["xl/workbook.xml"]))
    for attributes in _RELATION.findall(archive.read(names["xl/_rels/workbook.xml.rels"])):
        found = dict(re.findall(rb"(\w+)=[\"']([^\"']*)", attributes))
        if sheet and found.get(b"Id") == sheet[1]:
            target = found.get(b"Target", b"").decode()
            part = target.removeprefix("/") if target.startswith("/") else f"xl/{target}"
            return names[part.lower()]
    msg = "it has no sheet"
    raise ValueError(msg)


@lru_cache
def _number(letters: bytes) -> int:
    """Return a column's number: A is 1, Z is 26, AA is 27."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + letter - 64
    return number


def as_typed(value: object) -> object:
    """Return a cell that Excel keeps as a number or a date as text, 8 for 8.0; a truth value stays one."""
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.15g}"  # Excel keeps and shows 15 digits
    return str(value)
