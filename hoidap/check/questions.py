"""Questions that ask for more than one thing, or for nothing."""

import re

from hoidap.text import fold

_AT_END = r"(?=(?:\s+(?:ạ|vậy|shop|ad|em|anh|chị|a|vay|chi))*\s*$)"  # a "không" that asks stands there
# Where a clause has one of these it asks. Folded ones serve texts without diacritics, and a question mark must follow.
_ASKS = re.compile(
    rf"\b(?:gì|nào|sao|đâu|mấy|bao nhiêu|bao lâu|bao giờ|ai|chăng|(?:không|chưa|hông|hong|hok|ko){_AT_END})\b",
    re.IGNORECASE,
)
_ASKS_FOLDED = re.compile(rf"\b(?:gi|nao|sao|dau|may|bao nhieu|bao lau|bao gio|ai|(?:khong|chua|hong|hok|ko){_AT_END})\b")
_QUOTED = re.compile('[“"«][^“”"«»]{0,200}[”"»]')
_MARK = re.compile(r"\?[\s?!.)\]”\"]*")
_AND = re.compile(r"\s+và\s+|,\s+(?:còn|với lại|đồng thời)\s+", re.IGNORECASE)
_FEWEST_WORDS = 2  # "Shop ơi?" asks nothing


def several(question: str) -> str:
    """Return "several-questions" if each has its mark, "joined-questions" if "và" or the like joins two, or ""."""
    question = _QUOTED.sub("", question)
    if question.count("?") > 1:
        clauses = [clause for clause in _MARK.split(question) if len(clause.split()) >= _FEWEST_WORDS]
        marked = clauses[: len(_MARK.findall(question))]
        if sum(_asks(clause) for clause in marked) > 1:
            return "several-questions"
    for match in _AND.finditer(question):
        left, right = question[: match.start()], question[match.end() :].rstrip("?!. ")
        if len(right.split()) >= _FEWEST_WORDS and _ASKS.search(left) and _ASKS.search(right):
            return "joined-questions"
    return ""


def has_letters(text: str) -> bool:
    """Return whether a text has any letter."""
    return any(map(str.isalpha, text))


def _asks(clause: str) -> bool:
    clause = clause.rstrip("?!. ")
    return bool(_ASKS.search(clause) or (clause.isascii() and _ASKS_FOLDED.search(fold(clause))))
