"""A list of messages, or of earlier pairs, becomes turns.

ShareGPT: ``{"from": "human", "value": …}``. OpenAI: ``{"role": "user", "content": …}``, where the content may be a list of
texts. Both are read under either key. A system message has no place in any template: it is left out, and counted.
"""

import reprlib

from hoidap.data.cells import Cells, is_empty
from hoidap.prompt import Turn

_ROLES = {
    "user": "question", "human": "question",
    "assistant": "answer", "gpt": "answer", "chatgpt": "answer", "bot": "answer",
    "system": "system", "developer": "system",
}  # fmt: skip
_NOT_TEXT = ("tool_calls", "function_call", "images", "audio", "refusal")
_MOST_TURNS = 256  # each turn becomes an item with all turns before it: n turns hold n²/2


def read_conversation(value: object, line: int, cells: Cells) -> list[Turn]:
    """Return the turns of a list of messages; the last one may lack its answer. What is wrong goes to ``cells``."""
    if not isinstance(value, list) or not value:
        what = f"the conversation is {reprlib.repr(value)}"
        cells.report(line, f'{what}; it takes a list of messages like {{"role": "user", "content": "…"}}')
        return []
    texts: list[str] = []
    for number, message in enumerate(value, start=1):
        role, content = _parts(message, number, line, cells)
        wanted = "answer" if len(texts) % 2 else "question"
        if role == "system" and number == 1:
            cells.n_system_messages += 1
            continue
        if role != wanted:
            if role:  # otherwise it is reported already
                cells.report(line, f"message {number} is {_article(role)}, where {_article(wanted)} comes; they alternate")
            return []  # what follows would only repeat it
        texts.append(cells.text(content, line, f"the text of message {number}"))
    if len(texts) > 2 * _MOST_TURNS:
        cells.report(line, f"a conversation of {len(texts):,} messages; at most {2 * _MOST_TURNS}; split it")
        return []
    if not texts:
        cells.report(line, "a conversation of one system message; it takes a question and an answer")
    questions, answers = texts[::2], texts[1::2]
    return [Turn(q, a) for q, a in zip(questions, [*answers, None], strict=False)]


def read_pairs(value: object, line: int, cells: Cells) -> tuple[Turn, ...]:
    """Return the answered turns that stand before a question as a list of [question, answer] pairs."""
    if is_empty(value):
        return ()
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        what = f"the earlier turns are {reprlib.repr(value)}; they take a list of [question, answer] pairs"
        cells.report(line, what)
        return ()
    if len(value) >= _MOST_TURNS:
        cells.report(line, f"{len(value):,} earlier turns; at most {_MOST_TURNS - 1}; split the conversation")
        return ()
    turns = []
    for number, (question, answer) in enumerate(value, start=1):
        asked = cells.text(question, line, f"the question of earlier turn {number}")
        turns.append(Turn(asked, cells.text(answer, line, f"the answer of earlier turn {number}")))
    return tuple(turns)


def _parts(message: object, number: int, line: int, cells: Cells) -> tuple[str, object]:
    """Return whose a message is ("question", "answer", "system") and its content; ("", None) if it is none."""
    if not isinstance(message, dict):
        what = f"message {number} is {reprlib.repr(message)}"
        cells.report(line, f'{what}; it takes an object like {{"role": "user", "content": "…"}}')
        return "", None
    who, said = ("from", "value") if "from" in message else ("role", "content")
    name = message.get(who)
    role = _ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        cells.report(line, f"message {number} has the {who} {reprlib.repr(name)}; it takes {', '.join(_ROLES)}")
        return "", None
    if message.get("weight", 1) != 1:
        cells.report(
            line, f"message {number} has the weight {message['weight']!r}; every answer is trained on; take it out"
        )
    other = next((key for key in _NOT_TEXT if not is_empty(message.get(key))), "")
    content = message.get(said)
    if isinstance(content, list):
        other = other or next((kind for part in content if (kind := _kind(part)) != "text"), "")
        content = "\n".join(str(part["text"]) for part in content) if not other else None
    if other:
        cells.report(line, f"message {number} holds {other!r}; hoidap trains on text alone; take the conversation out")
        return "", None
    return role, content


def _kind(part: object) -> str:
    """Return "text" for a part that is one, otherwise what it is."""
    if not isinstance(part, dict):
        return reprlib.repr(part)
    if part.get("type") == "text":
        return "text" if isinstance(part.get("text"), str) else "text without text"
    return str(part.get("type"))


def _article(role: str) -> str:
    return {"question": "a question", "answer": "an answer"}.get(role, "a system message")
