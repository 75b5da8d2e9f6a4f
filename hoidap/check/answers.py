"""Answers that are no answers yet: a placeholder, a few letters, a finger at a picture that the bot does not have."""

import re

from hoidap.text import fold

# Folded words of answers that wait for being written.
_PLACEHOLDERS = {
    "", "x", "xx", "xxx", "xxxx", "todo", "tbd", "tba", "fixme", "n a", "na", "none", "null", "nan", "nil", "test",
    "lorem ipsum", "chua co", "chua co cau tra loi", "chua tra loi", "chua ro", "chua biet", "chua cap nhat",
    "dang cap nhat", "se cap nhat", "se cap nhat sau", "cap nhat sau", "bo sung sau", "can bo sung", "dien sau",
    "viet sau", "trong", "de trong", "bo trong", "xem anh", "xem hinh", "xem anh duoi", "xem hinh duoi", "nhu anh",
    "nhu hinh", "nhu tren", "nhu duoi", "xem tren", "xem duoi", "cau tra loi", "tra loi", "noi dung", "answer",
    "see above", "see image", "see picture",
}  # fmt: skip
_MOST_PLACEHOLDER = 24  # characters
_ELSEWHERE = re.compile(
    r"\b(?:xem|theo|nhu|tham khao|trong|o)\s+(?:them\s+)?(?:cac\s+|nhung\s+)?(?:tam |buc |bang |file |tep )?"
    r"(?:anh|hinh|hinh anh|file|tep|bang|so do)\s+(?:o |ben |phia |ngay )*(?:duoi|tren|dinh kem|kem theo|sau)\b"
    r"|\b(?:hinh anh|hinh|anh|file|tep) dinh kem\b"
)
_MAYBE_ELSEWHERE = re.compile("dưới|trên|sau|kèm|duoi|tren|kem", re.IGNORECASE)  # without which it is nowhere
_MOST_CHECKED = 4000  # characters
_FEWEST_LETTERS = 4


def flaw_of(answer: str) -> str:
    """Return "no-answer", "points-elsewhere", "short-answer" or "" for one that is none of these."""
    letters = sum(map(str.isalnum, answer[:_MOST_CHECKED]))
    if len(answer) <= _MOST_PLACEHOLDER and " ".join(re.findall(r"\w+", fold(answer))) in _PLACEHOLDERS:
        return "no-answer"
    if not letters:
        return "no-answer"
    if _MAYBE_ELSEWHERE.search(answer) and _ELSEWHERE.search(fold(answer[:_MOST_CHECKED])):
        return "points-elsewhere"
    if letters < _FEWEST_LETTERS and not any(map(str.isdigit, answer)):
        return "short-answer"
    return ""
