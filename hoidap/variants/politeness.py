"""The words of politeness around a question, "cho hỏi … ạ?": told apart from what is asked, dropped and added.

A question is front + body + tail + end: "Shop ơi cho hỏi " + "phí giao hàng là bao nhiêu" + " vậy ạ" + "?".
"""

import random
import re
from dataclasses import dataclass, replace

from hoidap.variants.keystrokes import is_marked
from hoidap.variants.words import words

_FRONT = re.compile(
    r"""(?:(?:dạ|alo|hello|xin\ chào|chào\ (?:shop|ad|tiệm)|(?:shop|ad|admin|tiệm|quán)\ ơi)(?:\s*[,!.]\s*|\s+))*
    (?:(?:(?:(?:làm\ ơn|xin|shop|ad|tiệm)\ )?cho\ (?:(?:tôi|mình|em|e|mk|anh|chị)\ )?hỏi(?:\ (?:là|về|chút|xíu))?|xin\ hỏi)
    (?:\s*[,:]\s*|\s+))?""",
    re.VERBOSE | re.IGNORECASE,
)
_TAIL = re.compile(r"(?<!\s)\s+(?:(?:vậy|thế|với) ạ|(?:vậy|v|z|ạ) (?:shop|ad|sốp)|ạ|vậy|v|z|nhỉ)$", re.IGNORECASE)
_CALLS = re.compile(r"\b(?:shop|sốp|sh|ad|admin|tiệm|quán)(?: ơi)?$", re.IGNORECASE)
_END = re.compile(r"(?<![\s?!.…])[\s?!.…]*$")

_POLAR = re.compile(r"\b(?:không|ko|k|hông|hok|chưa)$", re.IGNORECASE)
_OPEN = re.compile(r"\b(?:gì|j|nào|đâu|sao|mấy|bao nhiêu|nhiu|bao lâu|bao giờ|ai)\b", re.IGNORECASE)
_MANNER = re.compile(r"\b(?:thế nào|sao)$", re.IGNORECASE)  # takes no "thế" behind it
_TOPIC = re.compile(
    r"(?:thủ tục|cách|giá|phí|lệ phí|học phí|địa chỉ|số|mã|thời gian|thời hạn|điều kiện|lịch|giờ|hướng dẫn|chỉ tiêu)\b",
    re.IGNORECASE,
)
_PRONOUN = re.compile(r"\b(?:tôi|mình|em)\b(?! bé)", re.IGNORECASE)
_SHOP = re.compile(
    r"\b(?:shop|tiệm|quán|cửa hàng|ship|(?:giao|đặt|đơn|còn|đổi|hết) hàng|giá bao nhiêu|giá sao|bao nhiêu tiền|mua)\b",
    re.IGNORECASE,
)
_OFFICE = re.compile(
    r"\b(?:thủ tục|hồ sơ|giấy|thuế|phép|hệ thống|bảo hiểm|đất|nhà ở|phường|ủy ban|công dân|trường|hàng hóa)\b",
    re.IGNORECASE,
)
_OWN_NAME = re.compile(r"\b(?:tiệm|quán)\b", re.IGNORECASE)
# These open a sentence without being part of a name: "Tối Noel", "Thứ Bảy".
_NEVER_NAMES = frozenset(
    ("tối", "sáng", "trưa", "chiều", "thứ", "các", "những", "khi", "có", "ở", "làm", "muốn", "cho", "phí", "giá", "cách")
)


@dataclass(frozen=True)
class Parts:
    """A question apart from its politeness; together the parts are the question."""

    front: str
    body: str
    tail: str
    end: str

    def __str__(self) -> str:
        return self.front + self.body + self.tail + self.end

    def with_body(self, body: str) -> str:
        """Return the question with another body, which opens with a capital if this one does."""
        opens = self.body[0].isupper() and not self.front
        return str(replace(self, body=capital(body) if opens else body))


def parts(question: str) -> Parts:
    """Take a question apart; the body is empty only where the question has no word."""
    end = _END.search(question)
    text = question[: end.start()] if end else question
    front = _FRONT.match(text)
    start = front.end() if front and front.end() < len(text) else 0
    tail = _TAIL.search(text, start)
    stop = tail.start() if tail and tail.start() > start else len(text)
    return Parts(text[:start], text[start:stop], text[stop:], question[len(text) :])


def capital(text: str) -> str:
    """Return a text with its first letter as a capital; a number or code stays."""
    return text if _is_fixed(text.partition(" ")[0]) else text[:1].upper() + text[1:]


def uncapital(text: str) -> str:
    """Return a text with its first letter small, as inside a sentence; a name, a code or an abbreviation stays."""
    first, _, rest = text.partition(" ")
    if _is_fixed(first) or (len(first) > 1 and not first[1:].islower()):
        return text
    is_name = rest[:1].isupper() and first.lower() not in _NEVER_NAMES
    return text if is_name else text[:1].lower() + text[1:]


def _is_fixed(text: str) -> bool:
    return any(word.is_fixed for word in words(text))


def more_or_less_polite(question: str, rng: random.Random) -> str | None:
    """Return a question with words of politeness dropped or added; None if it has no marks or is in capitals."""
    known = parts(question)
    if question.isupper() or not is_marked(known.body):
        return None
    if (known.front or known.tail) and rng.random() < 0.5:
        return _dropped(known, rng)
    return _added(known, rng)


def _dropped(known: Parts, rng: random.Random) -> str:
    droppable = [name for name in ("front", "tail") if getattr(known, name)]
    if len(droppable) == 2 and rng.random() < 0.5:
        droppable = [rng.choice(droppable)]
    opens = known.front[:1].isupper()
    left = str(replace(known, **dict.fromkeys(droppable, "")))
    return capital(left) if opens else left


def _added(known: Parts, rng: random.Random) -> str | None:
    calls = bool(_CALLS.search(known.body + known.tail))  # "… bao nhiêu shop" ends with its politeness
    free = ["front"] if not known.front else []
    free += ["tail"] if not known.tail and not calls else []
    where = rng.choice([*free, "both"]) if len(free) == 2 else "".join(free)
    front = rng.choice(_fronts(known.body, is_called=calls)) if where in ("front", "both") else ""
    tail = " " + rng.choice(_tails(known.body, front or known.front)) if where in ("tail", "both") else ""
    if not front:
        return str(replace(known, tail=tail)) if tail else None
    opens = known.body[:1].isupper()
    body = uncapital(known.body)
    return (capital(front) if opens else front) + " " + str(replace(known, body=body, tail=tail or known.tail))


def _fronts(body: str, *, is_called: bool) -> list[str]:
    """Return what may stand before a question; what only tells of a trouble is not asked with "cho hỏi"."""
    name = _called(body)
    calls = [] if is_called else [f"{name} ơi", f"{name} ơi,"]
    if not (_POLAR.search(body) or _OPEN.search(body) or _TOPIC.match(body)):
        return calls or ["dạ"]
    pronoun = _PRONOUN.search(body)
    asking = [f"cho {who} hỏi" for who in ([pronoun.group().lower()] if pronoun else ["mình", "em"])]
    direct = [] if is_called or name in body.lower() else [f"{name} cho hỏi"]
    both = [f"{name} ơi {ask}" for ask in asking if not is_called]
    return [*calls, "cho hỏi", "xin hỏi", *asking, *direct, *both, f"dạ {asking[-1]}"]


def _tails(body: str, front: str) -> list[str]:
    """Return what may stand behind a question; nobody is called twice, and who asks does not wonder ("nhỉ")."""
    name = _called(body)
    calls = [] if name in (front + body).lower() else [f"vậy {name}"]
    clause = body.rsplit(",", 1)[-1]
    if _POLAR.search(clause):
        return ["ạ", "vậy ạ", "vậy", *calls]
    if not _OPEN.search(clause):
        return ["ạ"]
    wondering = [] if "hỏi" in front.lower() else ["nhỉ"]
    return ["ạ", "vậy ạ", "vậy", *calls, *wondering, *([] if _MANNER.search(body) else ["thế ạ"])]


def _called(body: str) -> str:
    """Return by what name to call whom is asked; an office is no shop."""
    if _OFFICE.search(body) or not _SHOP.search(body):
        return "ad"
    own = _OWN_NAME.search(body)
    return own.group().lower() if own else "shop"
