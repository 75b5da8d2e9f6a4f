"""JSON text becomes values with their lines: one in each line, or all in one list."""

import json
import re
from collections import Counter
from collections.abc import Iterator

from hoidap.errors import DataError

_SPACE = re.compile(r"[ \t\n\r]*")
_WANTED = 'a list of rows, or an object in which one list holds them, like {"data": [{"question": …}]}'


def json_lines(file: str, text: str, problems: list[str]) -> Iterator[tuple[int, object]]:
    """Give out the value of each line that has one; lines that are not JSON go to ``problems``."""
    twice: list[str] = []
    decode = _decoder(twice).decode
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or line.isspace():
            continue
        twice.clear()
        try:
            value = decode(line)
        except (ValueError, RecursionError) as error:
            problems.append(f"{file}:{number}: not JSON ({error})")
            continue
        if twice:
            problems.append(f"{file}:{number}: not JSON ({twice[0]})")
        else:
            yield number, value


def json_list(file: str, text: str, problems: list[str]) -> Iterator[tuple[int, object]]:
    """Give out the values of a file's list with the lines they begin on.

    Raises:
        DataError: the text is not JSON, or has no list that can be told to hold the rows.

    """
    try:
        json.loads(text)  # errors come from here, with their line; below, the text is known to be JSON
    except json.JSONDecodeError as error:
        hint = "; a file of one object a line is named .jsonl" if error.msg == "Extra data" else ""
        raise DataError([f"{file}:{error.lineno}: not JSON ({error.msg}, column {error.colno}){hint}"]) from None
    except (ValueError, RecursionError) as error:
        raise DataError([f"{file}: not JSON ({error})"]) from None
    at = _skip(text, _start(file, text) + 1)
    line, counted = 1, 0
    twice: list[str] = []
    decode = _decoder(twice).raw_decode
    while text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        twice.clear()
        value, end = decode(text, at)
        if twice:
            problems.append(f"{file}:{line}: not JSON ({twice[0]})")
        else:
            yield line, value
        at = _behind_comma(text, end)


def _start(file: str, text: str) -> int:
    """Return where the list of rows opens."""
    at = _skip(text, 0)
    if text[at] == "[":
        return at
    if text[at] != "{":
        raise DataError([f"{file}:1: one single value; wanted {_WANTED}"])
    decode = json.JSONDecoder().raw_decode
    keys, starts = [], []
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, at = decode(text, at)
        keys.append(key)
        at = _skip(text, _skip(text, at) + 1)  # behind the colon
        if text[at] == "[":
            starts.append(at)
        at = _behind_comma(text, decode(text, at)[1])
    if len(starts) != 1:
        names = ", ".join(map(repr, keys[:20])) or "none"
        raise DataError([f"{file}:1: an object with {len(starts)} lists (its keys: {names}); wanted {_WANTED}"])
    if len(set(keys)) < len(keys):
        raise DataError([f"{file}:1: not JSON ({_twice(keys)})"])
    return starts[0]


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _behind_comma(text: str, at: int) -> int:
    at = _skip(text, at)
    return _skip(text, at + 1) if text[at] == "," else at


def _decoder(twice: list[str]) -> json.JSONDecoder:
    """Return a decoder that notes in ``twice`` what json would pass over: of two equal keys it keeps the last."""

    def build(pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        if len(value) < len(pairs):
            twice.append(_twice([key for key, _ in pairs]))
        return value

    return json.JSONDecoder(object_pairs_hook=build)


def _twice(keys: list[str]) -> str:
    return f"the key {Counter(keys).most_common(1)[0][0]!r} twice in one object"
