"""What the reader says of a row that it refuses, with its line, in both languages.

The reader writes English; the sentences that a shop's file meets are told in Vietnamese too, others stay as they are.
"""

import re

from hoidap.language import Both

_CELLS = {
    "the question": "câu hỏi",
    "the answer": "câu trả lời",
    "the input": "phần input",
    "a wording": "một cách hỏi khác",
}
_CELL = r"(the question|the answer|the input|a wording|the text of message \d+|the \w+ of earlier turn \d+)"
_SENTENCES = {
    rf"{_CELL} is empty": "{0} bỏ trống",
    rf"{_CELL} holds (U\+\w+), which no keyboard types; was it converted\?": (
        "{0} có ký tự {1} không bàn phím nào gõ ra; có phải do chuyển mã?"
    ),
    rf"{_CELL} is (#\S+), an error value of Excel; correct its formula": "{0} là {1}, lỗi của Excel; sửa lại công thức",
    rf"{_CELL} has ([\d,]+) characters; at most ([\d,]+)": "{0} có {1} ký tự; nhiều nhất {2}",
    rf"{_CELL} is (.+); it takes text": "{0} là {1}; ô này phải là chữ",
    r"(\d+) cells under (\d+) columns; put a cell that holds (.+) in \"quotes\"": (
        '{0} ô dưới {1} cột; ô có {2} phải đặt trong "ngoặc kép"'
    ),
    r"not JSON \((.*)\)": "không phải JSON ({0})",
    r"not CSV \((.*)\); is a \" left open\?": 'không phải CSV ({0}); có dấu " nào chưa đóng?',
    r"no column for the question; name one .*; found (.*)": "không có cột câu hỏi; đặt tên một cột là “câu hỏi”; có {0}",
    r"no column for the answer; name one .*; found (.*)": "không có cột trả lời; đặt tên một cột là “trả lời”; có {0}",
    r"two columns for the (\w+): (.*); keep one": "hai cột cho cùng một thứ: {1}; giữ một cột",
    r"no rows below the header; .*": "dưới dòng tên cột không có dòng nào; viết ít nhất một câu hỏi và câu trả lời",
    r"not UTF-8 text \(byte (\w+)\); save the file as UTF-8": "không phải UTF-8 (byte {0}); lưu lại tệp với UTF-8",
    r"(.+), not Unicode, in ([\d,]+) rows?: (.+) reads (.+) once converted; .*": (
        "{0}, không phải Unicode, {1} dòng: {2} đọc là {3}; thêm --fix để chuyển sang Unicode"
    ),
    r"UTF-16, read as such": "UTF-16, đã đọc như vậy",
    r"([\d,]+) system messages? left out; .*": "bỏ qua {0} lời dặn hệ thống (system): PhoGPT không có chỗ cho chúng",
}
_PATTERNS = tuple((re.compile(pattern, re.DOTALL), vietnamese) for pattern, vietnamese in _SENTENCES.items())


def told(file: str, problem: str) -> tuple[tuple[int, ...], Both]:
    """Return the line that a problem names, if it does, and what it says."""
    place = re.match(r":(\d+): ", problem.removeprefix(file)) if problem.startswith(file) else None
    what = problem.removeprefix(file)[place.end() :] if place else problem.removeprefix(f"{file}: ")
    return ((int(place[1]),) if place else ()), Both(_vietnamese(what), what)


def _vietnamese(what: str) -> str:
    for pattern, vietnamese in _PATTERNS:
        match = pattern.fullmatch(what)
        if match:
            return vietnamese.format(*(_CELLS.get(group, group) for group in match.groups()))
    return what
