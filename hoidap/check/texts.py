"""The texts in a row of a file, wherever they stand in its cells: read, or changed."""

from collections.abc import Callable, Iterator, Mapping

from hoidap.check.characters import Role

Change = Callable[[Role, str], str]

_ROLES: dict[str, Role] = {"question": "question", "input": "question", "wordings": "wordings", "answer": "answer"}


def texts_of(columns: Mapping[str, object]) -> Iterator[tuple[Role, str]]:
    """Give out the texts of a row, each with what it is."""
    for column, value in columns.items():
        if isinstance(value, str) and column in _ROLES:
            yield _ROLES[column], value
        elif not isinstance(value, str):
            yield from _within(column, value)


def changed(column: str, value: object, change: Change) -> object:
    """Return a cell's value with its texts changed; what is no text stays as it is."""
    if column in _ROLES:
        return _changed(value, _ROLES[column], change)
    if column == "before" and isinstance(value, list):
        return [_turn(pair, change) for pair in value]
    if column == "conversation" and isinstance(value, list):
        return [_message(message, change) for message in value]
    return value


def _within(column: str, value: object) -> list[tuple[Role, str]]:
    found: list[tuple[Role, str]] = []

    def note(role: Role, text: str) -> str:
        found.append((role, text))
        return text

    changed(column, value, note)
    return found


def _changed(value: object, role: Role, change: Change) -> object:
    if isinstance(value, str):
        return change(role, value)
    if isinstance(value, list) and role == "wordings":
        return [change(role, part) if isinstance(part, str) else part for part in value]
    return value


def _turn(pair: object, change: Change) -> object:
    if not isinstance(pair, list) or len(pair) != 2:
        return pair
    return [_changed(pair[0], "question", change), _changed(pair[1], "answer", change)]


def _message(message: object, change: Change) -> object:
    """Return a message with its text changed, under either of the keys and in either of the forms that are read."""
    if not isinstance(message, dict):
        return message
    who, said = ("from", "value") if "from" in message else ("role", "content")
    role: Role = "question" if str(message.get(who)).lower() in {"user", "human"} else "answer"
    content = message.get(said)
    if isinstance(content, list):
        parts = [_part(part, role, change) for part in content]
        return {**message, said: parts}
    return {**message, said: _changed(content, role, change)} if said in message else message


def _part(part: object, role: Role, change: Change) -> object:
    if not isinstance(part, dict) or not isinstance(part.get("text"), str):
        return part
    return {**part, "text": change(role, part["text"])}
