"""Make the pretraining corpus of a small Vietnamese language model from the text of Vietnamese Wikipedia.

    python benchmarks/mini_corpus.py VIWIKI.txt.xz --out FOLDER

The input is one paragraph a line with a blank line between articles. The folder gets text.txt (cleaned articles),
held-out.txt (about 1 % of the articles, never in the text or the pairs) and pairs.jsonl: questions made by rule from the
sentences of the articles, each with other wordings of the same question. A model that learns them learns that particles,
the order of words, missing diacritics and left-out words do not change what is asked.
"""

import argparse
import hashlib
import json
import lzma
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice, pairwise
from pathlib import Path

from hoidap.text import fold, nfc

TOPICS = 15_000  # topic pairs, at most
TOPICS_AN_ARTICLE = 4
FACTS_AN_ARTICLE = 8
HELD_OUT_IN = 100  # one article in so many is held out
SAME_SCRAPS, SAME_SENTENCES = 3, 50  # lines kept of one skeleton

Article = list[str]

# Letters. Vietnamese has no f, j, w, z; a letter with a mark shows that a syllable is Vietnamese.
MARKED = "àáảãạăằắẳẵặâầấẩẫậèéẻẽẹêềếểễệìíỉĩịòóỏõọôồốổỗộơờớởỡợùúủũụưừứửữựỳýỷỹỵđ"
PLAIN = "abcdeghiklmnopqrstuvxy"
LOWER = MARKED + PLAIN
WORD = re.compile(r"[^\W\d_]+")
GLUED = re.compile(rf"(?<![^\W\d_])((?:[^\W\d_])[{LOWER}]{{0,6}})([{MARKED.upper()}{PLAIN.upper()}][{LOWER}]+)")
ONLY_VIETNAMESE = re.compile(rf"[{LOWER}]+")
SYLLABLE = re.compile(
    r"(?:ngh|ng|nh|gh|gi|kh|ph|qu|th|tr|ch|[bcdghklmnpqrstvx])?[aeiouy]{1,3}(?:ch|nh|ng|[cmnpt])?",
)
HAS_MARK = re.compile(f"[{MARKED}]")
SPACES = re.compile(r"\s+")
CALENDAR = re.compile(r"\d[\d/. ]*(?:tháng \d+|TCN)?(?: năm \d+)? ?[:–-]")


@cache
def is_syllable(word: str) -> bool:
    """Return whether a word looks like one Vietnamese syllable; remembered, because the same words come back."""
    low = word.lower()
    return len(low) <= 7 and bool(ONLY_VIETNAMESE.fullmatch(low)) and bool(SYLLABLE.fullmatch(fold(low)))


# Repairs


def _part(match: re.Match[str]) -> str:
    left, right = match.groups()
    marked = HAS_MARK.search((left + right).lower())
    return f"{left} {right}" if marked and is_syllable(left) and len(left) > 1 else match.group()


REPAIRS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile("\u200b"), ""),
    (GLUED, _part),  # "nhà vănViệt Nam", where a link was stripped; McNaught has no marked letter and stays
    (re.compile(rf"([{LOWER}]{{2}}[,;])(?=[{LOWER}{LOWER.upper()}]{{2}})"), r"\1 "),
    (re.compile(r"\s*[(\[][\s,;:.–-]*[)\]]"), ""),  # "()" and "(, )", where a template was stripped
    (re.compile(r"\(\s*[,;:]\s*"), "("),
    (re.compile(r"\s+"), " "),
    (re.compile(r"\s+([,.;:!?)](?:\s|$))"), r"\1"),
    (re.compile(r"^(\w[^.,()]{2,60}?) \1 (?=là |\()"), r"\1 "),  # a heading joined to its sentence: "Sveg Sveg là"
)


def clean(line: str) -> str:
    line = nfc(line)
    for pattern, repaired in REPAIRS:
        line = pattern.sub(repaired, line)
    return line.strip()


# Rules that drop a line


def is_mostly_signs(line: str) -> bool:
    """Tell formulas, tables and scores: fewer than 60 % letters and spaces teach nothing about language."""
    return sum(c.isalpha() or c == " " for c in line) < 0.6 * len(line)


def is_foreign(line: str) -> bool:
    """Tell lines in other languages and lists of foreign names: most words are not Vietnamese syllables."""
    words = WORD.findall(line)
    return sum(map(is_syllable, words)) < 0.5 * len(words) or not HAS_MARK.search(line.lower())


def is_sentence(line: str) -> bool:
    """Tell a sentence from an entry of a list or a calendar: it is long enough and closed by a sign."""
    return len(line) >= 50 and line[-1] in ".!?"


def skeleton(line: str) -> str:
    """Return a line without its numbers and names: lines that are one template filled in many times become equal.

    Of an entry of a calendar ("5 tháng 3: Christian Knees, tay đua xe đạp Đức") only the first words count.
    """
    words = ["0" if w[0].isdigit() else "X" if w[0].isupper() else w for w in re.findall(r"\w+", line)]
    short = [w for n, w in enumerate(words) if n == 0 or w != "X" or words[n - 1] != "X"]
    return " ".join(short[:6] if CALENDAR.match(line) and not is_sentence(line) else short)


@dataclass
class Sieve:
    """Keep the good lines of article after article; count what each rule drops."""

    dropped: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)
    skeletons: Counter[str] = field(default_factory=Counter)

    def reason(self, line: str) -> str:
        """Return the rule that drops a line, or nothing."""
        if not line:
            return "empty"
        if is_mostly_signs(line):
            return "mostly signs"
        if is_foreign(line):
            return "not Vietnamese"
        if line in self.seen:
            return "exact duplicate"
        self.seen.add(line)
        shape = skeleton(line)
        self.skeletons[shape] += 1
        limit = SAME_SENTENCES if is_sentence(line) else SAME_SCRAPS
        return "near duplicate" if self.skeletons[shape] > limit else ""

    def keep(self, article: Article) -> Article:
        lines = []
        for raw in article:
            line = clean(raw)
            reason = self.reason(line)
            if reason:
                self.dropped[reason] += 1
            else:
                lines.append(line)
        return lines


# Articles


def read_articles(path: Path) -> list[Article]:
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        blocks = file.read().split("\n\n")
    return [lines for block in blocks if (lines := [line for line in block.split("\n") if line.strip()])]


def is_held_out(article: Article) -> bool:
    """Choose by the first line's hash, so that an article stays on its side when others are added or removed."""
    return int(hashlib.sha256(article[0].encode()).hexdigest()[:12], 16) % HELD_OUT_IN == 0


def without_copies(held_out: list[Article], training: list[Article]) -> list[Article]:
    """Drop held-out lines that share more than half of their runs of eight words with the training text."""

    def runs(line: str) -> set[tuple[str, ...]]:
        words = WORD.findall(line.lower())
        return set(zip(*(words[n:] for n in range(8)), strict=False))

    wanted = {run for article in held_out for line in article for run in runs(line)}
    copied = {run for article in training for line in article for run in wanted & runs(line)}
    kept = ([s for s in a if len(runs(s) & copied) <= 0.5 * len(runs(s))] for a in held_out)
    return [lines for lines in kept if lines]


def write_articles(path: Path, articles: list[Article]) -> None:
    path.write_text("\n\n".join("\n".join(lines) for lines in articles) + "\n", encoding="utf-8")


# Sentences and titles


def options(text: str, mark: str | None = "|") -> list[str]:
    return text.split(mark)


SENTENCE_END = re.compile(rf"(?<=[.!?])(?<![ (][^\W\d_]\.)\s+(?=[{LOWER.upper()}FJWZ\"“])")
ASIDE = re.compile(r"\s*[(\[][^()\[\]]*[)\]]")
TITLE_END = re.compile(
    r"[,;:]| (?:là|hay|hoặc|còn|cũng|tức|được|bị|nằm|diễn|thuộc|có|gồm|bao gồm|đã|do|phía|sinh|tên|viết|trong|theo|tại) "
)
# fmt: off
# Words that lean on the sentence before, words that begin no subject, words that part the terms of a sentence.
LEANING = frozenset(options("""
    nó ông bà họ cô anh chị chúng điều tuy đây đó này nhưng và vì do ngoài thế bởi mặc dù vậy nhờ rồi thì song còn
    cũng hơn như ví tương mà khi lúc sau trước nếu tất lại bấy theo hai một
""", None))
NO_SUBJECT = frozenset(options("""
    những các trong tại với để từ đến vào hiện cùng dưới trên ở cả mỗi bên đồng ngày năm tháng sự cuối ban lần nhiều
    thường qua nhằm gần kể dựa chính việc người trái đầu đặc thông hầu được bị là có tiếp bản xem đối giữa thời ba
    bốn đa phần tính hàng quá rất khoảng không chỉ ngay kế kết vua
""", None)) | LEANING
STOP = frozenset(options("""
    là và của các những một có được trong cho với để này đó khi đã không từ ở tại vào năm theo về nhiều trên bị như
    cũng do đến thì mà còn hơn nhưng nên hay hoặc vì bởi sau trước ngày tháng rất lại sẽ đang phải chỉ nó ông bà họ
    anh cô chúng mình tôi đây nếu nào gì cả mỗi mọi cùng lên xuống tới giữa ngoài dưới nhất đều vẫn rằng rồi nữa hai
    ba vậy tuy dù khoảng lúc chiếc kể ngay luôn nhờ bao gồm
""", None))
KINDS = frozenset(options(
    "thành phố|huyện|tỉnh|xã|thị trấn|quận|đảo|nước|quốc gia|sân bay|làng|công ty|hãng|trường|loài|phim|bộ phim|album|"
    "bài hát|đài|thị xã|hòn đảo|ngôi làng|tiểu hành tinh|vùng|khu vực|câu lạc bộ|đội|ban nhạc|trận đấu|cuộc chiến|"
    "đất nước|hồ|núi|sông|đền|chùa"
))
JOINTS = frozenset(options("của và trong ở tại cho với về từ theo trên", None))
PRONOUNS = frozenset(options("nó ông bà họ cô anh đây", None))
HAN = re.compile(r"\s*[\u3000-\u9fff\uac00-\ud7af].*")
# fmt: on


def sentences_of(line: str) -> list[str]:
    return [s.strip() for s in SENTENCE_END.split(line)]


def is_good_sentence(sentence: str) -> bool:
    return (
        6 <= len(sentence.split()) <= 45
        and sentence[-1] in ".!?"
        and sentence[0].isupper()
        and sentence.count("(") == sentence.count(")")
        and sentence.count('"') % 2 == 0
        and bool(HAS_MARK.search(sentence))
    )


def bare(sentence: str) -> str:
    """Return a sentence without its asides in parentheses, where dates and foreign spellings stand."""
    previous = ""
    while previous != sentence:
        previous, sentence = sentence, ASIDE.sub("", sentence)
    return sentence.strip(" .!?")


def is_name(text: str) -> bool:
    words = text.split()
    return (
        1 <= len(words) <= 8
        and 2 <= len(text) <= 60
        and text[0].isupper()
        and words[0].lower() not in NO_SUBJECT
        and words[-1].lower() not in NO_SUBJECT
        and not any(c in text for c in '"“”:;/|–=()[]')
    )


def title_of(article: Article) -> str:
    """Return what an article is about: what stands before the first verb or comma of its first sentence."""
    head = HAN.sub("", TITLE_END.split(bare(sentences_of(article[0])[0]), maxsplit=1)[0]).strip(" ,.'\"")
    return head if is_name(head) else ""


# Wordings


@dataclass(frozen=True)
class Pair:
    """An answer and the ways to ask for it; the first wording is the question."""

    kind: str
    answer: str
    wordings: tuple[str, ...]


# fmt: off
CALLS = ("bạn ơi", "shop ơi", "ad ơi", "dạ", "dạ bạn ơi", "dạ ad ơi")
OPENERS = ("cho mình hỏi", "cho em hỏi", "cho hỏi", "dạ cho em hỏi", "mình muốn hỏi", "ad cho hỏi", *CALLS[:4])
CLOSERS = ("ạ", "vậy ạ", "vậy", "vậy bạn", "thế ạ", "nhỉ", "thế", "vậy shop", "hả bạn")
ASKING = re.compile(
    r"(?:cho|bạn|mình|có thông|giới thiệu|giải thích|nói về|tìm hiểu|thông tin|kể|muốn|định nghĩa|tiểu sử)\b|.* giúp em$",
    re.IGNORECASE,
)
TEENCODE = {
    long: short.split(",")
    for long, short in (entry.split("=") for entry in options(
        "không=ko,k,hông,khong|được=dc,đc|gì=j|vậy=v,z,dậy|bao nhiêu=bn,bnhiu|như thế nào=ntn|thế nào=tn|biết=bít,bik|"
        "nào=nèo|mình=mk,m|rồi=r,rùi|với=vs|người=ng|những=n~|bạn=b,bn|của=cua,c|cho em=cho e|ở đâu=ở đou,ở dau|"
        "nhiều=nhìu|trong=trog|thông tin=ttin,tt|khi nào=khi nèo|giới thiệu=gthieu|là=la|năm=nam"
    ))
}
TEEN = re.compile(r"\b(" + "|".join(sorted(TEENCODE, key=len, reverse=True)) + r")\b")

WHAT = options(
    "{x} là gì?|{x} là cái gì vậy ạ|{x} nghĩa là gì|bạn biết gì về {x} không|giới thiệu giúp mình về {x}|"
    "thế nào là {x}?|"
    "{x} là như thế nào|cho mình biết {x} là gì với|định nghĩa {x}|giải thích {x} giúp em|khái niệm {x} là gì")
WHOM = options(
    "{x} là ai?|ai là {x}|{x} là người như thế nào|bạn biết gì về {x} không|giới thiệu giúp mình về {x}|{x} là ai vậy ạ|"
    "cho mình biết {x} là ai với|tiểu sử của {x}|{x} là nhân vật nào|kể về {x} đi ạ|nói về {x} giúp em")
WHERE = options(
    "{x} ở đâu?|{x} nằm ở đâu?|{x} nằm ở chỗ nào vậy|{x} thuộc nơi nào|vị trí của {x} ở đâu|{x} ở chỗ nào|"
    "địa điểm của {x} là đâu|muốn biết {x} nằm ở vùng nào|{x} thuộc khu vực nào?")
WHEN = options(
    "{x} {v} khi nào?|{x} {v} năm nào?|năm nào {x} {v}|{x} {v} vào lúc nào|khi nào {x} {v}|{x} {v} từ bao giờ|"
    "bao giờ {x} {v}|thời gian {x} {v} là khi nào|{x} {v} hồi nào|{x} {v} vào năm bao nhiêu")
AMOUNT = options(
    "{v} của {x} là bao nhiêu?|{x} có {v} bao nhiêu?|{v} {x} bao nhiêu|{x} {v} là bao nhiêu|{v} ở {x} bao nhiêu vậy|"
    "cho biết {v} của {x}|{x} thì {v} được bao nhiêu|số liệu {v} của {x}")
BORN = options(
    "{x} sinh năm nào?|{x} sinh năm bao nhiêu|năm sinh của {x}|{x} sinh ngày nào|ngày sinh của {x} là khi nào|"
    "{x} sinh khi nào|khi nào {x} ra đời|{x} ra đời năm nào|sinh nhật {x} là ngày nào|năm nào {x} sinh ra")
TOPIC = options(
    "{x} {b} như thế nào?|{x} {b} ra sao?|{x} {b} là thế nào?|{b} {x} như thế nào|{x} {b} thì sao ạ|thông tin về {x} {b}|"
    "mình muốn biết về {x} {b}|nói về {b} {x} giúp em|tìm hiểu {x} {b}|{x} {b}|{b} {x}|{x} có gì về {b} không|"
    "bạn cho mình biết {b} {x} với|có thông tin gì về {x} {b} không|cho hỏi về {b} {x}")

PERSON = re.compile(
    r"(?:một |vị |nữ |nam |cựu |người |là |những |trong |các )*(?:nhà (?:văn|thơ|khoa|vật|toán|hóa|soạn|sử|triết|chính|báo|"
    r"du|thiên|nghiên|thám|hoạt|cách|ngoại|thần|sinh|ngôn|tư|làm|phát|viết|sản|kinh|lý|thiết|lãnh|quân)|ca sĩ|diễn viên|"
    r"vua|chính trị gia|cầu thủ|nhạc sĩ|vị|hoàng đế|tổng thống|thủ tướng|họa sĩ|đạo diễn|nghệ sĩ|nhạc trưởng|đại tướng|"
    r"vận động viên|tay|bác sĩ|kỹ sư|giáo sư|luật sư|công chúa|nữ hoàng|quốc vương|giáo hoàng|hoàng hậu|danh tướng|"
    r"thi sĩ|tu sĩ|linh mục|rapper|con trai|con gái|đô vật|huấn luyện viên|thiền sư|sĩ quan|chính khách|doanh nhân)\b"
)
DONE = (
    "thành lập|sáng lập|xây dựng|khởi công|khánh thành|phát hành|xuất bản|công bố|ban hành|khai trương|phát hiện|"
    "sáng tác|thiết kế|đặt tên|công nhận|chế tạo|phát minh|sản xuất|công chiếu|trình chiếu|tổ chức|ký kết|bầu|bổ nhiệm|"
    "sáp nhập|giải thể|tái lập|phong|đổi tên|đưa vào sử dụng|mô tả|thông qua|hoàn thành|thu âm"
)
IS_WHERE = re.compile(
    r"^(.{0,90}?) ?\b(?:nằm (?:ở|tại|trên|trong|giữa|bên|phía|cách|dọc|về)|t[oọ][aạ] lạc|(?:có|đặt|đóng) trụ sở|"
    r"thuộc (?:tỉnh|huyện|thành phố|địa phận|bang|quận|vùng)|phân bố|sinh sống (?:ở|tại)|là (?:một )?(?:xã|huyện|thị trấn|"
    r"quận|thành phố|tỉnh|đảo|núi|sông|hồ|sân bay|làng|phường|thị xã|đô thị)\b[^,.]{0,30}? (?:thuộc|ở|của|tại))"
)
IS_WHEN = re.compile(
    rf"^(.{{0,90}}?) ?\b(được (?:{DONE})|thành lập|ra đời|qua đời|từ trần|ra mắt|diễn ra|bắt đầu|kết thúc|sinh|mất|"
    r"phát hành|tốt nghiệp|giành độc lập|lên ngôi|bùng nổ|kết hôn|sụp đổ|nghỉ hưu|giải nghệ|hình thành)\b"
    r"[^,;]{0,60}?\b(?:năm \d{3,4}|ngày \d+|thế kỷ|tháng \d)"
)
IS_AMOUNT = re.compile(
    r"^(.{0,90}?) ?\b(mật độ dân số|dân số|diện tích|chiều dài|chiều cao|chiều rộng|độ cao|nhiệt độ|khối lượng|đường kính|"
    r"chu kỳ|tốc độ|sức chứa|doanh thu|số dân)\b[^.]{0,60}?\d", re.IGNORECASE
)
IS_BORN = re.compile(
    r"^([^(]{2,60}) \((?:[^()]*[;,] ?)?(?:sinh(?: ngày| năm)? ?)?(?:ngày )?\d{1,2} tháng \d{1,2}[, ]+(?:năm )?\d{4}"
)
FACTS = (("where", IS_WHERE, WHERE), ("when", IS_WHEN, WHEN), ("how many", IS_AMOUNT, AMOUNT))
TAIL = re.compile(
    r"(?:\s(?:đã|được|có|là|với|chính thức|sẽ|đang|vừa|mới|cũng|lại|hiện|hiện nay|bắt đầu|do|bởi|và|thì|của|một|bị|"
    r"của nó|lần đầu|đầu tiên))+$"
)
VERB = re.compile(r"\b(?:tăng|giảm|cao|chiếm|đạt|sở hữu|khiến|gặp|thấy|chọn|cho biết|đã|xây|giành|sống|chuyển)\b")
# fmt: on


def low_first(text: str) -> str:
    """Lower the first letter of a common word ("Công ty"); a name keeps its capital, as all its words have one."""
    words = text.split()
    common = len(words) > 1 and words[1][0].islower() and is_syllable(words[0])
    return text[0].lower() + text[1:] if common else text


def typo(text: str, rng: random.Random) -> str:
    places = [n for n in range(1, len(text) - 1) if text[n].isalpha() and text[n + 1].isalpha()]
    if not places:
        return text
    n = rng.choice(places)
    return text[:n] + (text[n + 1] + text[n] + text[n + 2 :] if rng.random() < 0.5 else text[n + 1 :])


def polite(text: str, rng: random.Random) -> str:
    """Put a particle before or after a question, as people write to a shop."""
    draw = rng.random()
    text = low_first(text.rstrip("?"))
    closed = text.endswith(CLOSERS)
    if ASKING.match(text):  # it asks already, a second "cho hỏi" would be odd
        return f"{rng.choice(CALLS)} {text}" if draw < 0.5 or closed else text + rng.choice(("", " ạ", " nhé", " nha"))
    before = f"{rng.choice(OPENERS)} " if draw < 0.4 or 0.75 < draw < 0.9 else ""
    after = f" {rng.choice(CLOSERS)}" if 0.4 < draw < 0.9 and not closed else ""
    return before + text + after if draw < 0.9 else text.lower()


def noisy(text: str, rng: random.Random) -> str:
    """Write a question as in a chat: short forms, a wrong letter, sometimes no diacritics."""
    text = text.lower().rstrip("?")
    out = TEEN.sub(lambda m: rng.choice(TEENCODE[m.group()]) if rng.random() < 0.8 else m.group(), text)
    if out == text or rng.random() < 0.5:
        out = typo(out, rng)
    return fold(out) if rng.random() < 0.3 else out


def flat(text: str) -> str:
    return SPACES.sub(" ", re.sub(r"[?!.,\"“”]", " ", fold(text))).strip()


def worded(kind: str, answer: str, wordings: list[str], rng: random.Random) -> Pair:
    """Return a pair with two or three clean wordings, a folded one and, half of the time, a noisy one."""
    question, *others = wordings
    rng.shuffle(others)
    clean_ones = [w if rng.random() < 0.35 else polite(w, rng) for w in others[: rng.choice((2, 2, 3))]]
    source = rng.choice(wordings)
    folded = flat(source if rng.random() < 0.6 else polite(source, rng))
    extra = [noisy(polite(rng.choice(wordings), rng), rng)] if rng.random() < 0.5 else []
    asked = question if rng.random() < 0.7 else polite(question, rng)
    return Pair(kind, answer, tuple(SPACES.sub(" ", w).strip() for w in (asked, *clean_ones, folded, *extra)))


def fill(frames: list[str], rng: random.Random, x: str, v: str = "") -> list[str]:
    """Return the first frame and six others filled in; a question with its sign begins with a capital."""
    filled = [frames[0].format(x=x, v=v)]
    x = x if rng.random() < 0.6 else low_first(x)
    filled += [f.format(x=x, v=v) for f in rng.sample(frames[1:], 6)]
    return [w[0].upper() + w[1:] if w.endswith("?") else w for w in filled]


# Pairs


def definition(article: Article, title: str, rng: random.Random) -> Iterator[Pair]:
    """Ask what or who the article is about, where its first sentence says so."""
    first = sentences_of(article[0])[0]
    name, _, said = bare(first).partition(" là ")
    if title and said and is_good_sentence(first) and len(name) < len(title) + 60:
        yield worded("definition", first, fill(WHOM if PERSON.match(said) else WHAT, rng, title), rng)


def subject_of(before: str, title: str) -> str:
    """Return what a fact is about: the sentence's own subject if it is a name, else what the article is about."""
    own = TAIL.sub("", bare(before).strip(" ,")).strip(" ,")
    opening, comma, rest = own.rpartition(", ")
    if comma and opening.split()[0].lower() not in NO_SUBJECT:
        return ""
    own = rest
    words = own.split()
    if not words or own.lower() in KINDS or own.lower() in PRONOUNS or set(words) <= set(title.split()):
        return title
    if not is_name(own) or any(w in STOP and w not in {"của", "và"} for w in words) or VERB.search(own):
        return ""
    named = any(w[0].isupper() for w in words[1:]) or (len(words) == 1 and not is_syllable(own))
    return own if named else ""


def facts(sentences: list[str], title: str, rng: random.Random) -> Iterator[Pair]:
    """Ask where, when and how many, where a sentence says so in a known form."""
    for sentence in sentences:
        born = IS_BORN.match(sentence)
        if born and title and born.group(1).startswith(title) and PERSON.search(sentence.partition(" là ")[2][:60]):
            yield worded("when", sentence, fill(BORN, rng, title), rng)
            continue
        for kind, pattern, frames in FACTS:
            match = pattern.match(sentence)
            x = subject_of(match.group(1), title) if match else ""
            if match and x:
                v = match.group(2).lower() if pattern.groups > 1 else ""
                yield worded(kind, sentence, fill(frames, rng, x, v), rng)
                break


TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W_]+(?:[-'’.][^\W_]+)*|[^\w\s]")


def is_term(tokens: list[str]) -> bool:
    """Tell a run of two to four words, or a name of one; a longer run would have to be cut, maybe inside a name."""
    return 2 <= len(tokens) <= 4 or (len(tokens) == 1 and len(tokens[0]) > 2 and tokens[0][0].isupper())


def phrases_of(sentence: str, title: str) -> list[tuple[str, str, str]]:
    """Return two neighbouring terms and the phrase they stand in: "sản phẩm phụ", "quá trình".

    Terms are the runs of words between stop words and signs: with no segmenter these are nearest to words.
    """
    tokens = TOKEN.findall(low_first(bare(sentence)))
    parted = [n for n, t in enumerate(tokens) if t in STOP or not t[0].isalnum()]
    edges = [-1, *parted, len(tokens)]
    runs = [(a + 1, b) for a, b in pairwise(edges) if is_term(tokens[a + 1 : b])]
    core = set(fold(title).replace("-", " ").split())
    found = []
    for (start, left), (right, end) in pairwise(runs):
        terms = " ".join(tokens[start:left]), " ".join(tokens[right:end])
        joined = right - left == 1 and tokens[left] in JOINTS
        if joined and all(set(fold(t).replace("-", " ").split()) - core for t in terms) and terms[0] != terms[1]:
            found.append((*terms, " ".join(tokens[start:end])))
    return found


def topics(sentences: list[str], title: str, rng: random.Random) -> Iterator[Pair]:
    """Ask about other sentences by the title and a phrase; each wording holds the title and at least one of its terms."""
    for sentence in sentences:
        first = sentence.split(maxsplit=1)[0].lower().strip(",")
        phrases = phrases_of(sentence, title)
        if not title or first in LEANING or not phrases:
            continue
        one, two, phrase = rng.choice(phrases)
        bodies = [phrase, phrase, max(one, two, key=len), f"{one} {two}", f"{two} {one}"]
        asked = rng.choice(TOPIC[:3]).format(x=title, b=phrase)
        frames = rng.sample(TOPIC, len(bodies))
        others = [f.format(x=low_first(title), b=b) for f, b in zip(frames, bodies, strict=True)]
        yield worded("topic", sentence, [asked[0].upper() + asked[1:], *others], rng)


def pairs_of(article: Article, rng: random.Random) -> list[Pair]:
    """Return an article's pairs, the most certain kind first; a sentence serves one fact or one topic."""
    title = title_of(article)
    every = (s for line in article for s in sentences_of(line) if is_good_sentence(s))
    sentences = [s for s in every if " này" not in s[:50]]  # "this" points to the sentence before
    rng.shuffle(sentences)
    found = [*definition(article, title, rng), *islice(facts(sentences, title, rng), FACTS_AN_ARTICLE)]
    used = {p.answer for p in found}
    return [*found, *islice(topics([s for s in sentences if s not in used], title, rng), TOPICS_AN_ARTICLE)]


def unambiguous(pairs: list[Pair]) -> Iterator[Pair]:
    """Yield pairs; a wording used for another answer before, with or without diacritics, is left out."""
    answers: dict[str, str] = {}
    for pair in pairs:
        question, *others = pair.wordings
        if answers.setdefault(flat(question), pair.answer) != pair.answer:
            continue
        free = [w for w in dict.fromkeys(others) if w != question and answers.get(flat(w), pair.answer) == pair.answer]
        if len(free) >= 3 and any(w == fold(w) for w in free):
            answers.update({flat(w): pair.answer for w in free})
            yield Pair(pair.kind, pair.answer, (question, *free))


def make_pairs(articles: list[Article], count: int, seed: int) -> list[Pair]:
    """Return pairs of all articles: every definition and fact, and topics of one article after another up to a count."""
    rng = random.Random(seed)  # noqa: S311  # it draws wordings, no secrets
    ranked = [(n, pair) for article in articles for n, pair in enumerate(pairs_of(article, rng))]
    ranked.sort(key=lambda row: (row[1].kind == "topic", row[0]))
    good = list(unambiguous([pair for _, pair in ranked]))
    asked = [p for p in good if p.kind == "topic"]
    pairs = [p for p in good if p.kind != "topic"] + asked[:count]
    rng.shuffle(pairs)
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", type=Path, help="the articles, plain or compressed with xz")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write into")
    parser.add_argument("--topics", type=int, default=TOPICS, help="the most pairs that ask for a sentence by its words")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()

    args.out.mkdir(parents=True, exist_ok=True)
    articles = read_articles(args.source)
    sieve = Sieve()  # the held-out articles come second: a line that the text holds is dropped from them
    training = [lines for a in articles if not is_held_out(a) and (lines := sieve.keep(a))]
    held_out = [lines for a in articles if is_held_out(a) and (lines := sieve.keep(a))]
    held_out = without_copies(held_out, training)
    write_articles(args.out / "text.txt", training)
    write_articles(args.out / "held-out.txt", held_out)
    pairs = make_pairs(training, args.topics, args.seed)
    rows = ({"question": p.wordings[0], "answer": p.answer, "paraphrases": p.wordings[1:]} for p in pairs)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (args.out / "pairs.jsonl").write_text(lines, encoding="utf-8")

    print(f"input: {len(articles):,} articles, {sum(map(len, articles)):,} lines")
    for name, kept in (("text", training), ("held-out", held_out)):
        print(f"{name}.txt: {len(kept):,} articles, {sum(map(len, kept)):,} lines")
    print("dropped:", dict(sieve.dropped.most_common()))
    print(f"pairs: {len(pairs):,}", dict(Counter(p.kind for p in pairs).most_common()))
    print(f"wordings: {sum(len(p.wordings) for p in pairs):,}; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
