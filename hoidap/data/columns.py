"""Names of columns, or keys of JSON objects, become places; extra ones are left alone.

Names count in Vietnamese or English, with or without diacritics, whatever their case and signs.
"""

from collections.abc import Sequence
from functools import lru_cache

from hoidap.data.legacy import OldText
from hoidap.errors import DataError
from hoidap.text import fold, nfc

# Folded, letters and digits alone.
_PLAIN = {
    "question": ("cauhoi", "hoi", "question", "questions", "q", "prompt", "instruction"),
    "answer": ("traloi", "cautraloi", "dap", "dapan", "answer", "answers", "a", "response", "output"),
    "wordings": ("cachhoikhac", "cauhoikhac", "wordings", "paraphrases", "otherquestions"),
    "input": ("input",),  # Alpaca's, which goes on with the instruction
    "system": ("system",),  # Alpaca's, which no template has a place for
}
# In JSON and Parquet alone, whose cells can be lists.
_LISTS = {
    "before": ("before", "history"),
    "conversation": ("conversations", "messages"),
}


def find_columns(
    file: str, line: int, header: Sequence[str], needed: Sequence[str], *, lists: bool = False
) -> dict[str, int]:
    """Return the place of each column that hoidap knows.

    Args:
        file: its name, for the error.
        line: where the header stands.
        header: the names as they stand.
        needed: columns that must be there; a conversation stands for all of them.
        lists: whether cells can be lists, so that a row may hold a conversation.

    Raises:
        DataError: a needed column is missing, or two are for the same thing; all of it at once.

    """
    found, problems = _places(tuple(header), tuple(needed), lists)
    if problems:
        old = OldText()
        old.look(line, header)
        raise DataError(old.problems(file) or [f"{file}:{line}: {problem}" for problem in problems])
    return found


@lru_cache(maxsize=256)  # every object of a JSON file has a header of its own, mostly the same
def _places(header: tuple[str, ...], needed: tuple[str, ...], lists: bool) -> tuple[dict[str, int], list[str]]:  # noqa: FBT001
    keys = ["".join(c for c in fold(nfc(name)) if c.isalnum()) for name in header]
    known = {**_PLAIN, **_LISTS} if lists else _PLAIN
    places = {column: [at for at, key in enumerate(keys) if key in names] for column, names in known.items()}
    if not (places["question"] and keys[places["question"][0]] == "instruction"):
        places["input"] = places["system"] = []
        places["before"] = [at for at in places.get("before", ()) if keys[at] == "before"]
    problems = [
        f"two columns for the {column}: {' and '.join(repr(header[at]) for at in twins)}; keep one"
        for column, twins in places.items()
        if len(twins) > 1
    ]
    if conversation := places.get("conversation"):
        if places["question"] and places["answer"]:
            name = header[conversation[0]]
            problems.append(f"both a question with its answer and a conversation, {name!r}; keep one of the two")
        return {"conversation": conversation[0]}, problems
    for column in needed:
        if not places[column]:
            allowed = "'câu hỏi' or 'question'" if column == "question" else "'trả lời' or 'answer'"
            here = ", ".join(map(repr, header)) or "none"
            problems.append(f"no column for the {column}; name one {allowed}; found {here}")
    return {column: at[0] for column, at in places.items() if at}, problems
