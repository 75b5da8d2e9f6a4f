"""Characters that do not belong: broken encodings, HTML, what cannot be seen, letters of another alphabet that look alike.

Each flaw is a function that mends it; that it changes a text is the finding. So the report and ``--fix`` cannot disagree.
"""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from html.entities import html5
from typing import Literal, NamedTuple

from hoidap.data.legacy import looks_old, read_as, readings
from hoidap.text import nfc

Role = Literal["question", "wordings", "answer", "header"]


class Step(NamedTuple):
    """One flaw of a text, and the text without it."""

    kind: str
    before: str
    after: str


# UTF-8 read as Windows-1252, or as Latin-1: the characters that a byte came to stand for.
_SEEN = {byte: {bytes([byte]).decode("cp1252", "ignore"), chr(byte)} - {""} for byte in range(0x80, 0x100)}
_BYTES = {character: byte for byte, characters in _SEEN.items() for character in characters}


def _class(first: int, last: int) -> str:
    return "[" + "".join(re.escape(c) for byte in range(first, last + 1) for c in sorted(_SEEN[byte])) + "]"


_FOLLOWS = _class(0x80, 0xBF)
_BROKEN = re.compile(
    f"(?:{_class(0xC2, 0xDF)}{_FOLLOWS}|{_class(0xE0, 0xEF)}{_FOLLOWS}{{2}}|{_class(0xF0, 0xF4)}{_FOLLOWS}{{3}})"
)
# "“ĐÃ”" is no broken text: a capital with the sign behind it counts once something else in the text is broken.
_DOUBTFUL = re.compile("[ÂÃ][“”‘’•™…–—«»\u00a0]")
_WHOLE = re.compile(
    "[a-zA-ZÀÁÂÃÈÉÊÌÍÒÓÔÕÙÚÝàáâãèéêìíòóôõùúýĂăĐđĨĩŨũƠơƯư\u1ea0-\u1ef9\u0300-\u036f"
    "\u00a0-\u00bf–—‘’“”•…‰₫€™→×÷\ufeff\U0001f000-\U0001faff\u2600-\u27bf\ufe0f\u200b-\u200d]"
)

# Windows-1252 has no sign for five bytes: with them letters are lost for good ("á»" was one of ề ọ ỏ Ố ờ).
_LOST = re.compile("á[»º]|[ÄÆ]|Ã(?![a-zA-Z])")

_TAG = re.compile(
    r"</?(?:a|abbr|b|big|blockquote|body|br|center|code|dd|div|dl|dt|em|font|form|h[1-6]|head|hr|html|i|iframe|img|input|"
    r"label|li|link|meta|ol|option|p|pre|s|script|select|small|span|strike|strong|style|sub|sup|table|tbody|td|tfoot|th|"
    r"thead|title|tr|u|ul|video)"
    # An attribute has a value, or is one of a few: "<b hoặc đơn hàng lớn>" is text.
    r"(?:\s{1,4}(?:[a-z][a-z0-9:-]{0,40}\s?=\s?(?:\"[^\"<>]{0,2000}\"|'[^'<>]{0,2000}'|[^\s\"'<>]{1,2000})"
    r"|hidden|checked|disabled|selected|nowrap|noshade|controls|async|defer)){0,20}\s?/?>",
    re.IGNORECASE,
)
_LINK = re.compile(
    r"<a\s[^<>]{0,500}?href=[\"']?([^\"'<>\s]{1,1000})[^<>]{0,500}>((?:[^<]|<(?!/?a\b)[^<>]{0,300}>){0,500}?)</a>",
    re.IGNORECASE,
)
_LINE_END = re.compile(r"\s{0,100}(?:<br\s?/?>|</(?:p|div|li|tr|h[1-6])>)\s{0,100}", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,24});")
_MOST_TURNS = 4  # "&amp;amp;nbsp;" takes three
_MOST_CHARACTERS = 32_768  # the reader refuses a cell that has more

_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_LINE = re.compile("[\u2028\u2029]")
_NOTHING = re.compile("[\u00ad\u034f\u180e\u200b\u2060-\u2064\ufeff]")
_JOINERS = re.compile("[\u200c-\u200f\u061c\u202a-\u202e\u2066-\u2069]")  # right among Arabic or Indic letters
_OTHER_SCRIPT = re.compile("[\u0590-\u0dff]")
_EMOJI_JOINER = re.compile(
    "(?<=[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f\u2640-\u2642])\u200d(?=[\U0001f000-\U0001faff\u2600-\u27bf])"
)

_FALSE_D = {"Ð": "Đ", "ð": "đ", "Ɖ": "Đ", "ɖ": "đ"}
# A word begins with it and goes on as a Vietnamese one: Icelandic and phonetic script never do both. Or it is an
# abbreviation ("Ð/c", "ÐHQG").
_D_FIRST = re.compile("[ÐðƉɖ][a-zăâêôơưàáảãạằắẳẵặầấẩẫậèéẻẽẹềếểễệìíỉĩịòóỏõọồốổỗộờớởỡợùúủũụừứửữựỳýỷỹỵ]{1,6}", re.IGNORECASE)
_D_SHORT = re.compile("[BCDĐÐƉGHKLMNPQRSTVX]{1,6}")
_ALIKE = dict(
    zip(
        "аеоорсхуіјѕԁһӏАВЕЅІЈКМНОРСТХУΑΒΕΖΗΙΚΜΝΟΡΤΥΧο",
        "aeoopcxyijsdhlABESIJKMHOPCTXYABEZHIKMNOPTYXo",
        strict=True,
    )
)
_OTHER_LETTER = re.compile("[\u0370-\u03ff\u0400-\u052f]")
_WORD = re.compile("(?:[^\\W\\d_]|[\u0300-\u036f])+")
_LATIN = re.compile("[A-Za-zÀ-ɏ\u1ea0-\u1ef9]")

# Nearly every text has none of these, and is told to be in order by them alone.
_ODD = re.compile(
    "[<&\u00a0\u00ad\u034f\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u2069\u3000\ufeffÐðƉɖ\u0370-\u052f]"
    f"|{_BROKEN.pattern}"
)


def flaws(text: str, role: Role, encoding: str = "") -> tuple[list[Step], str]:
    """Return the flaws of a text one by one, and the text without them, in NFC.

    Args:
        text: as it stands in the file.
        role: of the cell; in an answer alone a line may end where HTML ends one.
        encoding: what the text's row was typed in, if that is older than Unicode.

    A text that the reader refuses as too long is given back as it is.
    """
    if len(text) > _MOST_CHARACTERS:
        return [], text
    now = nfc(text)
    steps: list[Step] = [] if now == text else [Step("nfd", text, now)]
    if encoding and encoding != "cp1252" and looks_old(now):
        after = nfc(converted(now, encoding))
        if after != now:
            steps.append(Step("old-encoding", now, after))
            now = after
    if not _ODD.search(now):
        return steps, now
    is_refused = encoding == "cp1252"
    menders: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("old-encoding" if is_refused else "mojibake", broken_mended),
        ("html", lambda t: without_html(t, role)),
        ("invisible", lambda t: without_invisible(t, role)),
        ("look-alikes", without_look_alikes),
        ("false-d", without_false_d),
    )
    for _ in range(_MOST_TURNS):  # mending one may lay another open: what cannot be seen hides a tag, a tag a letter
        last = now
        for kind, mend in menders:
            after = nfc(mend(now))
            if mend is broken_mended and after != now and _LOST.search(after):
                return [*steps, Step("old-encoding" if is_refused else "lost-letters", now, now)], now
            # A cell that would be empty, or an error value of Excel, is not mended but told of, or refused, as it stands.
            if after != now and after.strip() and (after[0] != "#" or now[0] == "#"):
                steps.append(Step(kind, now, after))
                now = after
        if now == last:
            break
    return steps, now


def converted(text: str, encoding: str) -> str:
    """Return text of an encoding older than Unicode in Unicode; words that are in Unicode already stay."""
    if not any(c.isalpha() and ord(c) > 0xFF for c in text):
        return _capitals(text, read_as(text, encoding))
    words = re.split(r"(\s+)", text)
    return "".join(_capitals(w, read_as(w, encoding)) if encoding in (readings(w) or ()) else w for w in words)


def broken_mended(text: str) -> str:
    """Return text with what is UTF-8 read as Windows-1252 read as UTF-8."""
    surely = [match.group() for match in _BROKEN.finditer(text) if not _DOUBTFUL.fullmatch(match.group())]
    if not any(_decoded(run) != run for run in surely):
        return text
    return _BROKEN.sub(lambda match: _decoded(match.group()), text)


def without_html(text: str, role: Role) -> str:
    """Return text without HTML's tags and entities; what ends a line ends one in an answer."""
    if "<" not in text and "&" not in text:
        return text
    before = text
    for _ in range(_MOST_TURNS):
        last = text
        text = _LINK.sub(lambda match: match[2] if match[1] in match[2] else f"{match[2]} ({match[1]})", text)
        text = _LINE_END.sub("\n" if role == "answer" else " ", text)
        text = _TAG.sub("", text)
        decoded = _ENTITY.sub(_character, text)
        # "&lt;b&gt;" is somebody's text about a tag: it is not turned into one, which would then be taken out.
        text = _ENTITY.sub(_character_but_brackets, text) if _TAG.search(decoded) else decoded
        if text == last:
            break
    return text if text == before else text.strip()


def without_invisible(text: str, role: Role) -> str:
    """Return text without characters that cannot be seen; odd spaces become plain ones."""
    text = _SPACE.sub(" ", text)
    text = _LINE.sub("\n" if role == "answer" else " ", text)
    text = _NOTHING.sub("", text)
    if not _JOINERS.search(text) or _OTHER_SCRIPT.search(_JOINERS.sub("", text)):
        return text
    kept = _EMOJI_JOINER.sub("\x00", text)  # the reader refuses this character: it is free
    return _JOINERS.sub("", kept).replace("\x00", "\u200d")


def without_look_alikes(text: str) -> str:
    """Return text with Latin letters for those of other alphabets that stand within Latin words."""
    if not _OTHER_LETTER.search(text):
        return text
    return _WORD.sub(_latin, text)


def without_false_d(text: str) -> str:
    """Return text with Đ for the letters of other languages that look like it."""
    return _WORD.sub(_true_d, text) if any(letter in text for letter in _FALSE_D) else text


def invisible_in(text: str) -> str:
    """Return the characters of a text that cannot be seen: "U+200B ×2, U+00A0 ×1"."""
    found = Counter(c for pattern in (_SPACE, _LINE, _NOTHING, _JOINERS) for c in pattern.findall(text))
    return ", ".join(f"U+{ord(character):04X} ×{count}" for character, count in sorted(found.items()))


def look_alikes_in(text: str) -> str:
    """Return the letters in a text that look like others: "U+0430 (а)"."""
    return ", ".join(f"U+{ord(c):04X} ({c})" for c in sorted(set(text) & (_ALIKE.keys() | _FALSE_D.keys())))


def _decoded(run: str) -> str:
    try:
        text = bytes(_BYTES[character] for character in run).decode("utf-8")
    except UnicodeDecodeError:
        return run
    return text if _WHOLE.fullmatch(text) else run


def _capitals(old: str, new: str) -> str:
    """Return converted text with its words in capitals whole: TCVN3 has none with marks, a font showed them so."""
    words = zip(re.split(r"(\s+)", old), re.split(r"(\s+)", new), strict=False)
    if len(old.split()) != len(new.split()):
        return new
    return "".join(now.upper() if _is_capital(then) else now for then, now in words)


def _is_capital(word: str) -> bool:
    ascii_letters = [c for c in word[1:] if c.isascii() and c.isalpha()]
    return bool(ascii_letters) and all(c.isupper() for c in ascii_letters)


def _character(match: re.Match[str]) -> str:
    """Return what an HTML entity stands for; as it is, if that is nothing or no text."""
    entity = match.group()
    if entity[1] != "#" and entity[1:] not in html5:
        return entity
    text = html.unescape(entity)
    usable = all(c in "\t\n" or unicodedata.category(c) not in {"Cc", "Cs", "Cn", "Co"} for c in text)
    return text if usable and text != "\ufffd" else entity


def _character_but_brackets(match: re.Match[str]) -> str:
    return match.group() if (character := _character(match)) in ("<", ">") else character


def _true_d(match: re.Match[str]) -> str:
    word = match.group()
    if _D_FIRST.fullmatch(word):
        return _FALSE_D[word[0]] + word[1:]
    return "".join(_FALSE_D.get(c, c) for c in word) if _D_SHORT.fullmatch(word) else word


def _latin(match: re.Match[str]) -> str:
    word = match.group()
    others = set(_OTHER_LETTER.findall(word))
    if not others or not others <= _ALIKE.keys() or not _LATIN.search(word):
        return word
    return "".join(_ALIKE.get(c, c) for c in word)
