"""The same question in another order, or with other words of the same sense: "Muốn X thì làm sao?" ↔ "Làm sao để X?".

The patterns are written by hand and cover what is sure to mean the same; a question that fits none is left alone.
"""

import random
import re
from functools import cache

from hoidap.variants.keystrokes import is_marked
from hoidap.variants.politeness import parts, uncapital
from hoidap.variants.words import BEGIN, END, digits

_LONGEST = 300  # characters; what is longer is a message of several sentences
_SHARE = 0.7  # of reordered questions, where both can be had

_X = r"(?P<x>(?:(?!\bthì\b)[^,;:?!])+?)"
_S = r"(?:(?P<s>tôi|mình|em|chúng tôi) )?"
_SHOPS = "(?P<s>tiệm|shop|quán|cửa hàng)"
_WHO = "(?P<s>tôi|mình|em|chúng tôi|tiệm|shop|quán|bên mình|hệ thống)"
_HOW = "(?:làm sao|làm thế nào|làm như thế nào)"
_WHAT = "(?P<g>(?:những )?(?:giấy tờ|thủ tục) (?:gì|nào)|làm gì|chuẩn bị gì)"
_WHERE = "(?P<v>[^,;:?! ]+(?: [^,;:?! ]+){0,3}? (?:ở đâu|ai))"
_WHEN = r"(?P<k>sau khi|trước khi|khi(?! nào))"
_TIME = (
    "(?P<t>(?:ngày (?:thường|lễ)|thứ|chủ nhật|buổi|tối|sáng|trưa|chiều|cuối tuần|các ngày|những ngày|dịp|mùng)"
    "(?:(?! (?:thì|tiệm|shop|quán|cửa hàng) )[^;:?!])*)"
)
_OPENING = "(?P<v>mở cửa|đóng cửa|nghỉ|làm việc)"
_PLACE = "(?P<x>(?:chi nhánh|tiệm|shop|quán|cửa hàng|văn phòng|trường|công ty|trụ sở|kho)[^,;:?!]*?)"
# Verbs: what stands behind them is done, so "muốn" or "để" can stand before it.
_DONE = (
    "(?:xin|đăng ký|đăng kí|cấp|chuyển|hoàn|thành lập|nhận|làm|mở|gia hạn|đổi|nộp|kiểm tra|tra cứu|tra|mua|đặt|thanh toán"
    "|hủy|huỷ|sửa|dùng|sử dụng|bảo quản|tính|xem|tải|lấy|gửi|tạo|cập nhật|kê khai|giao|ship|gói|quẹt|đóng|xử lý|giải quyết)"
)
_DOING = (
    rf"(?P<x>{_DONE}\b(?:(?!\b(?:thì|gì|nào|đâu|sao|mấy|bao nhiêu|bao lâu|ai)\b)[^,;:?!])*?(?<! là)(?<! không)(?<! chưa))"
)
_COST = "(?P<p>phí|lệ phí|học phí|chi phí|mức phí)"

# A pattern of the whole question and what may be said instead; an optional part that is missing leaves its space as well.
_ORDERS = (
    (
        f"{_HOW} để (?!tôi |mình |em ){_X}",
        ("muốn {x} thì làm sao", "muốn {x} thì làm thế nào", "muốn {x} phải làm thế nào"),
    ),
    (
        f"làm sao (?P<v>biết|theo dõi|xem|tra cứu|kiểm tra|đăng ký|đặt|đổi|lấy) {_X}",
        ("muốn {v} {x} thì làm sao", "làm sao để {v} {x}"),
    ),
    (f"{_S}muốn {_X} thì (?:phải |cần )?(?:{_HOW}|sao)", ("làm sao để {x}", "làm thế nào để {x}", "cách {x} như thế nào")),
    (f"{_S}muốn {_X} thì (?:cần(?: có)?|phải có) {_WHAT}", ("{s} cần {g} để {x}", "để {x}, {s} cần {g}")),
    (f"{_S}cần {_WHAT} để {_X}", ("{s} muốn {x} thì cần {g}", "để {x}, {s} cần {g}")),
    (f"{_S}cần làm gì {_WHEN} {_X}", ("{k} {x}, {s} cần làm gì", "{s} phải làm gì {k} {x}")),
    (rf"{_S}muốn (?P<x>(?P<w>[^,;:?! ]+)[^,;:?!]*?) thì (?!(?P=w)\b){_WHERE}", ("{v} nếu {s} muốn {x}",)),
    (f"(?:tôi|mình|em) muốn (?!.*\\b(?:gì|nào|đâu|sao|mấy|bao|ai|không)\\b){_X}", ("làm sao để {x}", "làm thế nào để {x}")),
    (f"có thể (?!.*\\bđược\\b){_X} không", ("{x} được không",)),
    (f"{_WHO} có thể (?!.*\\bđược\\b){_X} không", ("{s} {x} được không",)),
    (f"{_WHO} (?!có |được |bị |muốn ){_X} được không", ("{s} có thể {x} không",)),
    (f"{_S}muốn {_X} được không", ("{s} có thể {x} không",)),
    (
        f"có được (?P<v>dẫn|đem|mang|chụp|quay|uống|ăn|thử|xem|mở) {_X} không",
        ("{v} {x} được không", "có thể {v} {x} không"),
    ),
    (f"có (?P<a>(?!.*(?:sau|trước) khi)[^,;:?!]+?) {_WHEN} {_X} không", ("{k} {x} có {a} không",)),
    (f"{_WHO} có (?P<a>[^,;:?!]+?) {_WHEN} {_X} không", ("{k} {x}, {s} có {a} không",)),
    (f"{_WHEN} {_X},? {_WHO} có (?P<a>[^,;:?!]+) không", ("{s} có {a} {k} {x} không",)),
    (f"{_TIME} {_SHOPS} có (?P<a>[^,;:?!]+) không", ("{s} có {a} vào {t} không",)),
    (f"{_TIME} {_SHOPS} {_OPENING}(?P<a> [^,;:?!]*mấy giờ)", ("{s} {v}{a} vào {t}",)),
    (f"{_SHOPS} có (?P<a>[^,;:?!]+) vào {_TIME} không", ("{t} {s} có {a} không",)),
    (f"mấy giờ (?:thì )?(?P<s>[^,;:?!]{{2,40}}) {_OPENING}", ("{s} {v} lúc mấy giờ", "{s} {v} mấy giờ")),
    (f"{_SHOPS} {_OPENING} (?:lúc )?mấy giờ", ("mấy giờ {s} {v}", "mấy giờ thì {s} {v}")),
    (r"(?P<x>(?:(?!\b(?:và|có|thì|nào)\b)[^,;:?!]){3,60}?) giá bao nhiêu", ("giá {x} là bao nhiêu", "{x} bao nhiêu tiền")),
    (r"giá (?!từ |của |trên )(?P<x>[^,;:?!]{3,60}?)(?: là)? bao nhiêu", ("{x} giá bao nhiêu", "{x} bao nhiêu tiền")),
    (f"{_COST} {_DOING}(?: là)? bao nhiêu", ("{x} {p} bao nhiêu", "{x} hết bao nhiêu tiền", "{x} mất bao nhiêu tiền")),
    (f"địa chỉ {_PLACE} là gì", ("{x} nằm ở đâu", "địa chỉ {x} ở đâu")),
    (f"{_PLACE} (?:nằm )?ở đâu", ("địa chỉ {x} ở đâu", "địa chỉ {x} là gì")),
    (
        r"điều kiện (?:để )?(?P<x>(?:được|hưởng|nhận|đăng ký|mua|vay|thi|xin|mở)\b[^,;:?!]+?) là gì",
        ("muốn {x} thì cần điều kiện gì", "để {x} cần điều kiện gì"),
    ),
    (f"thời (?:hạn|gian) {_DOING} là bao lâu", ("{x} mất bao lâu", "mất bao lâu để {x}")),
    (f"{_DOING} mất (?P<t>bao lâu|mấy ngày|bao nhiêu ngày)", ("mất {t} để {x}",)),
    (f"mất (?P<t>bao lâu|mấy ngày|bao nhiêu ngày) để {_X}", ("{x} mất {t}",)),
    (f"thủ tục {_DOING}(?: (?:như )?thế nào| ra sao)", ("muốn {x} thì thủ tục thế nào", "{x} cần thủ tục gì")),
    (
        rf"thủ tục (?!.*\b(?:gì|nào|đâu|sao|mấy|bao|ai|không)\b){_DOING}",
        ("thủ tục {x} như thế nào", "muốn {x} thì thủ tục thế nào", "{x} cần thủ tục gì"),
    ),
    (f"cách {_DOING}(?: là gì| (?:như )?thế nào| ra sao)?", ("làm sao để {x}", "muốn {x} thì làm thế nào")),
    (f"nếu {_X} thì (?P<h>sao|(?:phải )?{_HOW})", ("{x} thì {h}",)),
    (
        rf"(?!muốn |nếu |lúc |khi |còn |để )(?!.*\bmuốn\b){_X}(?: thì|,) (?:phải )?(?P<h>{_HOW})",
        ("phải {h} nếu {x}", "nếu {x} thì phải {h}"),
    ),
    (
        rf"(?!muốn |nếu |lúc |khi |còn |để )(?=.*\b(?:bị|quên|không|mất|nhập|lỡ|chưa|hết)\b)(?!.*\bmuốn\b){_X} thì sao",
        ("nếu {x} thì sao", "{x} thì làm sao"),
    ),
    (f"{_X} thì làm sao (?P<v>[^,;:?!]+)", ("làm sao {v} nếu {x}",)),
    (f"{_SHOPS} có (?!.*\\bmình\\b){_X} không", ("bên mình có {x} không",)),
    (rf"{_DOING} có (?P<a>(?:mất|tốn|bị|cần|tính)\b[^,;:?!]+) không", ("có {a} khi {x} không",)),
)

# Words that can stand for others, as patterns between the bounds of words; what is asked of a place or a time stays that.
_SYNONYMS = (
    ("làm sao để", ("làm thế nào để", "làm cách nào để")),
    ("làm thế nào để", ("làm sao để", "làm cách nào để")),
    ("như thế nào", ("thế nào",)),
    ("(?<!như )(?<!làm )thế nào", ("như thế nào",)),
    ("ra sao", ("thế nào",)),
    ("giá bao nhiêu", ("bao nhiêu tiền",)),
    ("bán bao nhiêu tiền", ("bán giá bao nhiêu",)),
    ("(?P<v>nằm|đậu|gửi|coi|xem|lấy|mua|hồ sơ|làm|nhận|đăng ký) ở đâu", (r"\g<v> ở chỗ nào",)),
    ("(?:^|(?<=thì )|(?<=là )|(?<=và ))khi nào", ("bao giờ",)),
    ("online", ("trực tuyến",)),
    ("trực tuyến", ("online",)),
    ("website", ("trang web",)),
    ("giấy tờ gì", ("những giấy tờ nào",)),
    ("mất phí", ("tốn phí",)),
    ("thay đổi(?= (?:thông tin|địa chỉ|tên|mật khẩu|số|email|lịch|đơn|gói|nơi))", ("đổi",)),
    ("chỉnh sửa", ("sửa",)),
)
# The same at the end alone: "thì làm sao lấy lại" goes on.
_ENDINGS = (
    ("thì làm sao", ("thì làm thế nào", "thì làm như thế nào")),
    ("thì làm thế nào", ("thì làm sao", "thì làm như thế nào")),
    ("phải làm sao", ("phải làm thế nào",)),
    ("bằng cách nào", ("như thế nào",)),
)
# Who asks names himself as subject; in "Tesla … của mình" nobody does.
_ASKER = re.compile(
    r"(?<!của )\b(?P<own>tôi|mình|em) (?:có|muốn|cần|được|bị|phải|không|chưa|đã|đang|đổi|đặt|mua|nhận|gửi|hẹn|thích|đem"
    r"|nhập|nộp|quên)\b",
    re.IGNORECASE,
)
_OTHERS = re.compile(r"\b(?:(?:bên|một|chính|trường|tiệm|shop) mình|(?:trẻ|con|anh|chị|các) em|em bé)\b", re.IGNORECASE)
_GAPS = re.compile(" {2,}")


@cache
def _orders() -> list[tuple[re.Pattern[str], tuple[str, ...]]]:
    return [(re.compile(pattern, re.IGNORECASE), forms) for pattern, forms in _ORDERS]


@cache
def _synonyms() -> list[tuple[re.Pattern[str], tuple[str, ...]]]:
    return [(re.compile(BEGIN + words + END, re.IGNORECASE), others) for words, others in _SYNONYMS]


def rephrased(question: str, rng: random.Random) -> str | None:
    """Return a question put in another way; None if no pattern fits, or it has no marks or is in capitals."""
    if len(question) > _LONGEST or question.isupper() or not is_marked(question):
        return None
    known = parts(question)
    if not known.body:
        return None
    body = uncapital(known.body)
    reordered, exchanged = ([known.with_body(b) for b in found] for found in (_reordered(body), _exchanged(body)))
    return _one(question, reordered, exchanged, rng)


def _one(question: str, reordered: list[str], exchanged: list[str], rng: random.Random) -> str | None:
    kinds = []
    for found in (reordered, exchanged):
        # Where two numbers changed places it might be another question.
        kept = [text for text in dict.fromkeys(found) if text != question and digits(text) == digits(question)]
        kinds.append(kept)
    first = rng.random() < _SHARE
    chosen = next((found for found in (kinds if first else kinds[::-1]) if found), None)
    return rng.choice(chosen) if chosen else None


def _reordered(body: str) -> list[str]:
    found = []
    for pattern, forms in _orders():
        match = pattern.fullmatch(body)
        if match:
            groups = {name: text or "" for name, text in match.groupdict().items()}
            found += [_GAPS.sub(" ", form.format(**groups)).strip() for form in forms]
    return found


def _exchanged(body: str) -> list[str]:
    """Return what comes of exchanging one phrase, or every pronoun of the customer."""
    found = []
    for pattern, others in _synonyms():
        found += [pattern.sub(other, body, count=1) for other in others if pattern.search(body)]
    for ending, others in _ENDINGS:
        found += [body.removesuffix(ending) + other for other in others if body.endswith(" " + ending)]
    asker = _ASKER.search(body)
    if asker and not _OTHERS.search(body):
        own = asker["own"].lower()
        names = [name for name in ("tôi", "mình", "em") if not re.search(rf"\b{name}\b", body, re.IGNORECASE)]
        found += [re.sub(rf"\b{own}\b", name, body, flags=re.IGNORECASE) for name in names]
    return found
