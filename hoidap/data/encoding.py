"""The bytes of a text file become text: UTF-8, or UTF-16 with its mark; anything else is named, as far as it can be."""

import codecs
import re
from collections.abc import Callable
from pathlib import Path

from hoidap.data.legacy import OldText
from hoidap.errors import DataError

_SAMPLE_BYTES = 4096
_MOST_LINES = 100_000  # with letters beyond ASCII, read to tell an old encoding
_BETWEEN_CELLS = re.compile('[,;\t"]')


def read_text(path: Path, note: Callable[[str], None]) -> str:
    r"""Return the text of a file, each end of line as ``\n``.

    Raises:
        DataError: the bytes are not text in UTF-8 or UTF-16.
        OSError: the file cannot be read.

    """
    raw = path.read_bytes()
    text = _decode(path.name, raw, note)
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise DataError([f"{path.name}:{line}: a NUL character; this is not a text file, save it as UTF-8 text"])
    return text.replace("\r\n", "\n")


def _decode(name: str, raw: bytes, note: Callable[[str], None]) -> str:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text = raw.decode("utf-16")
        except UnicodeDecodeError as error:
            msg = f"{name}: begins as UTF-16 and does not go on so ({error.reason}, byte {error.start:,}); save it as UTF-8"
            raise DataError([msg]) from None
        note(f"{name}: UTF-16, read as such")
        return text
    if wide := _wide(raw):
        shown = _BETWEEN_CELLS.split(raw[:_SAMPLE_BYTES].decode(wide, "replace").split("\n", 1)[0].strip())[0][:20]
        what = f"{shown.encode(wide, 'replace')!r} reads {shown!r} once decoded"
        raise DataError([f"{name}:1: UTF-16 without its byte order mark: {what}; save the file as UTF-8"])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The error's own copy has no byte order mark: error.start counts from behind it.
        raise DataError(_old(name, error.object) or [_no_utf8(name, error)]) from None


def _wide(raw: bytes) -> str:
    """Return which UTF-16 the bytes are: every other one is mostly NUL, the ones between are not."""
    sample = raw[:_SAMPLE_BYTES]
    half = len(sample) / 2
    low, high = sample[::2].count(0), sample[1::2].count(0)
    if not sample or max(low, high) < 0.3 * half or min(low, high) > 0.05 * half:
        return ""
    return "utf-16-le" if high > low else "utf-16-be"


def _old(name: str, raw: bytes) -> list[str]:
    """Return which old encoding the bytes are, or nothing."""
    old = OldText()
    n_looked_at = 0
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.isascii():
            old.look(number, _BETWEEN_CELLS.split(line.decode("latin-1")))
            n_looked_at += 1
            if n_looked_at == _MOST_LINES:
                break
    return old.problems(name)


def _no_utf8(name: str, error: UnicodeDecodeError) -> str:
    line = error.object.count(b"\n", 0, error.start) + 1
    return f"{name}:{line}: not UTF-8 text (byte 0x{error.object[error.start]:02x}); save the file as UTF-8"
