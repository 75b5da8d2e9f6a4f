"""Every kind of finding: how grave it is, and what the report says of it in Vietnamese and in English.

In a text ``{0}``, ``{1}`` … are the facts of a finding. An error is what training refuses, a warning what is probably
wrong, a note what is good to know.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from hoidap.language import Both

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True)
class Kind:
    """What findings of one kind have in common."""

    severity: Severity
    title: Both
    what: Both  # one finding
    advice: Both
    is_mended: bool = False  # by --fix


SEVERITY_NAMES = {
    "error": Both("lỗi", "error"),
    "warning": Both("cảnh báo", "warning"),
    "note": Both("ghi chú", "note"),
}
ROLES = {
    "question": Both("câu hỏi", "question"),
    "wordings": Both("cách hỏi khác", "other wordings"),
    "answer": Both("câu trả lời", "answer"),
    "header": Both("tên cột", "column's name"),
}

_MEND = Both("Thêm --fix để sửa vào một bản sao.", "Add --fix to mend it in a copy.")

KINDS = {
    "refused": Kind(
        "error",
        Both("Dòng không huấn luyện được", "Rows that training refuses"),
        Both("{0}", "{0}"),
        Both(
            "Sửa các dòng này; còn một dòng lỗi thì chưa huấn luyện được.",
            "Correct them; one is enough to stop training.",
        ),
    ),
    "old-encoding": Kind(
        "error",
        Both("Chữ Việt gõ bằng bảng mã cũ", "Vietnamese in an encoding older than Unicode"),
        Both("{0}, {1}: “{2}” → “{3}”", "{0}, {1}: “{2}” → “{3}”"),
        Both(
            "Chuyển sang Unicode: thêm --fix, hoặc dùng UniKey (Ctrl+Shift+F6).",
            "Convert it to Unicode: add --fix, or use UniKey (Ctrl+Shift+F6).",
        ),
        is_mended=True,
    ),
    "too-long": Kind(
        "error",
        Both("Dài hơn mức mô hình đọc được", "Longer than the model reads"),
        Both("{0} token, nhiều nhất {1}: “{2}”", "{0} tokens, at most {1}: “{2}”"),
        Both(
            "Rút gọn hoặc tách câu trả lời; hoặc huấn luyện với --too-long drop (bỏ) hay cut (cắt).",
            "Shorten or split the answer; or train with --too-long drop or cut.",
        ),
    ),
    "earlier-turns": Kind(
        "error",
        Both("Hội thoại nhiều lượt mà mô hình không nhận", "Conversations that the model does not take"),
        Both("{0} câu hỏi có lượt trước; mẫu {1} chỉ nhận một câu hỏi", "{0} have earlier turns; {1} takes one question"),
        Both(
            "Tách mỗi câu hỏi thành một dòng, hoặc chọn mô hình khác.",
            "Write one question a row, or choose another base.",
        ),
    ),
    "answers-differ": Kind(
        "warning",
        Both("Cùng một câu hỏi, câu trả lời khác nhau", "The same question with different answers"),
        Both("“{0}” có {1} câu trả lời: {2}", "“{0}” has {1} answers: {2}"),
        Both("Giữ một câu trả lời đúng, hoặc hỏi cho rõ hơn.", "Keep the right one, or ask more exactly."),
    ),
    "same-without-marks": Kind(
        "warning",
        Both(
            "Câu hỏi chỉ khác nhau ở dấu, câu trả lời khác nhau",
            "Questions that differ in diacritics alone, answers in more",
        ),
        Both("{0} — câu trả lời: {1}", "{0} — answers: {1}"),
        Both(
            "Nếu là một câu hỏi thì giữ một câu trả lời; cách gõ không dấu để ở cột “cách hỏi khác”.",
            "If they are one question keep one answer; spellings without diacritics go into “other wordings”.",
        ),
    ),
    "wording-clash": Kind(
        "warning",
        Both("Cách hỏi khác trùng với câu hỏi có câu trả lời khác", "Another wording is also that of a different answer"),
        Both("“{0}” vừa dẫn tới “{1}” vừa dẫn tới “{2}”", "“{0}” leads to “{1}” and to “{2}”"),
        Both("Bỏ cách hỏi ấy ở một trong các dòng.", "Take the wording out of all rows but one."),
    ),
    "twice": Kind(
        "warning",
        Both("Một dòng viết nhiều lần", "The same row more than once"),
        Both("“{0}”, {1} lần", "“{0}”, {1} times"),
        Both(
            "Xoá các dòng thừa: bot học chúng nhiều hơn các dòng khác.",
            "Delete the extra rows: they are learned more than others.",
        ),
    ),
    "facts-differ": Kind(
        "warning",
        Both("Một câu hỏi, hai cách nói, con số khác nhau", "One question in other words with different figures"),
        Both("{0} — con số trong câu trả lời: {1}", "{0} — figures in the answers: {1}"),
        Both("Giữ con số đúng; nếu là hai chuyện thì hỏi cho rõ hơn.", "Keep the right one, or ask more exactly."),
    ),
    "label-differs": Kind(
        "warning",
        Both("Một thông tin, nhiều giá trị", "One thing with several values"),
        Both("{0}: {1}", "{0}: {1}"),
        Both(
            "Nếu chỉ có một giá trị đúng thì sửa các dòng còn lại; nếu có nhiều thì ghi rõ giá trị nào của ai.",
            "If one is right correct the others; if all are, say in the answer whose each one is.",
        ),
    ),
    "near-other-answer": Kind(
        "warning",
        Both("Một câu hỏi, hai cách nói, câu trả lời khác nhau", "One question in other words with different answers"),
        Both("{0} — câu trả lời: {1}", "{0} — answers: {1}"),
        Both("Nếu là một câu hỏi thì giữ một câu trả lời.", "If they are one question keep one answer."),
    ),
    "easily-confused": Kind(
        "note",
        Both("Câu hỏi dễ nhầm với nhau", "Questions that are easily confused"),
        Both("“{0}” ↔ “{1}” (giống {2}): “{3}” / “{4}”", "“{0}” ↔ “{1}” ({2} alike): “{3}” / “{4}”"),
        Both("Xem câu trả lời có đúng câu hỏi của nó không.", "See that each answer is that of its question."),
    ),
    "near-same-answer": Kind(
        "note",
        Both("Câu hỏi gần như trùng, cùng câu trả lời", "Questions that are nearly the same, with the same answer"),
        Both("“{0}” ↔ “{1}” (giống {2})", "“{0}” ↔ “{1}” ({2} alike)"),
        Both(
            "Có thể gộp: một câu hỏi, câu kia để ở cột “cách hỏi khác”.",
            "They can be one row: one asks, the other goes into “other wordings”.",
        ),
    ),
    "several-questions": Kind(
        "warning",
        Both("Nhiều câu hỏi trong một dòng", "Several questions in one row"),
        Both("“{0}”", "“{0}”"),
        Both(
            "Tách mỗi câu hỏi thành một dòng với câu trả lời của nó.",
            "Write each in a row of its own, with its own answer.",
        ),
    ),
    "joined-questions": Kind(
        "note",
        Both("Hai câu hỏi nối nhau trong một dòng", "Two questions joined in one row"),
        Both("“{0}”", "“{0}”"),
        Both("Tách ra thì bot trả lời gọn hơn khi khách chỉ hỏi một ý.", "Apart, each can be asked and answered alone."),
    ),
    "no-letters": Kind(
        "warning",
        Both("Câu hỏi không có chữ nào", "Questions without a letter"),
        Both("“{0}”", "“{0}”"),
        Both("Viết câu hỏi như khách sẽ hỏi.", "Write it as a customer would ask."),
    ),
    "no-answer": Kind(
        "warning",
        Both("Câu trả lời còn bỏ ngỏ", "Answers that are still to be written"),
        Both("“{0}” → “{1}”", "“{0}” → “{1}”"),
        Both(
            "Viết câu trả lời, hoặc bỏ dòng này: bot sẽ học đúng những chữ này.",
            "Write it or delete the row: the bot learns just these words.",
        ),
    ),
    "points-elsewhere": Kind(
        "note",
        Both("Câu trả lời chỉ tới hình hay tệp mà bot không đưa ra được", "Answers that point to a picture or file"),
        Both("“{0}” → “{1}”", "“{0}” → “{1}”"),
        Both(
            "Viết bằng chữ điều có trong hình, hoặc ghi đường dẫn.",
            "Write what it shows, or give its address: the bot has text alone.",
        ),
    ),
    "short-answer": Kind(
        "note",
        Both("Câu trả lời rất ngắn", "Very short answers"),
        Both("“{0}” → “{1}”", "“{0}” → “{1}”"),
        Both("Trả lời trọn câu thì khách dễ hiểu hơn.", "A whole sentence tells a customer more."),
    ),
    "mojibake": Kind(
        "warning",
        Both("Chữ bị vỡ (UTF-8 mở bằng bảng mã khác)", "Broken letters (UTF-8 opened as Windows-1252)"),
        Both("{0}: “{1}” → “{2}”", "{0}: “{1}” → “{2}”"),
        Both("Mở lại tệp gốc với UTF-8, hoặc thêm --fix.", "Open the original again as UTF-8, or add --fix."),
        is_mended=True,
    ),
    "lost-letters": Kind(
        "warning",
        Both("Chữ bị vỡ, mất hẳn một phần", "Broken letters, some lost for good"),
        Both("{0}: “{1}”", "{0}: “{1}”"),
        Both("Mở lại tệp gốc với UTF-8, hoặc gõ lại.", "Open the original again as UTF-8, or type it anew."),
    ),
    "html": Kind(
        "warning",
        Both("Thẻ hoặc mã HTML", "HTML tags or entities"),
        Both("{0}: “{1}” → “{2}”", "{0}: “{1}” → “{2}”"),
        _MEND,
        is_mended=True,
    ),
    "invisible": Kind(
        "warning",
        Both("Ký tự không nhìn thấy", "Invisible characters"),
        Both("{0}: {1} trong “{2}”", "{0}: {1} in “{2}”"),
        _MEND,
        is_mended=True,
    ),
    "false-d": Kind(
        "warning",
        Both("Chữ Ð/ð giả thay cho Đ/đ", "Ð/ð that stands for Đ/đ"),
        Both("{0}: {1} trong “{2}”", "{0}: {1} in “{2}”"),
        _MEND,
        is_mended=True,
    ),
    "look-alikes": Kind(
        "warning",
        Both("Chữ Nga hoặc Hy Lạp lẫn trong chữ Việt", "Cyrillic or Greek letters within Latin words"),
        Both("{0}: {1} trong “{2}”", "{0}: {1} in “{2}”"),
        _MEND,
        is_mended=True,
    ),
    "tone-marks": Kind(
        "warning",
        Both("Hai kiểu bỏ dấu trong một tệp", "Two places for the tone mark in one file"),
        Both("“{0}” → “{1}”, {2} lần; cả tệp: {3}", "“{0}” → “{1}”, {2} times; in the file: {3}"),
        Both(
            "Cùng một từ nhưng mô hình thấy thành hai; thêm --fix để theo kiểu chiếm đa số.",
            "One word, but two for the model; add --fix to take the more frequent style.",
        ),
        is_mended=True,
    ),
    "nfd": Kind(
        "note",
        Both("Dấu gõ rời (Unicode tổ hợp)", "Diacritics apart from their letters (NFD)"),
        Both("{0} dòng", "{0} rows"),
        Both(
            "Không cần làm gì: khi đọc, hoidap tự ghép lại (NFC).",
            "Nothing to do: hoidap composes them (NFC) as it reads.",
        ),
        is_mended=True,
    ),
    "phone-asked": Kind(
        "warning",
        Both("Số điện thoại trong câu hỏi", "A phone number in a question"),
        Both("{0}: {1}", "{0}: {1}"),
        Both("Có lẽ là số của khách: xoá đi trước khi huấn luyện.", "Probably a customer's: delete it before training."),
    ),
    "e-mail-asked": Kind(
        "warning",
        Both("Địa chỉ e-mail trong câu hỏi", "An e-mail address in a question"),
        Both("{0}: {1}", "{0}: {1}"),
        Both("Có lẽ của khách: xoá đi trước khi huấn luyện.", "Probably a customer's: delete it before training."),
    ),
    "account-asked": Kind(
        "warning",
        Both("Số tài khoản ngân hàng trong câu hỏi", "A bank account number in a question"),
        Both("{0}: {1}", "{0}: {1}"),
        Both("Có lẽ của khách: xoá đi trước khi huấn luyện.", "Probably a customer's: delete it before training."),
    ),
    "identity": Kind(
        "warning",
        Both("Số CCCD, CMND hoặc hộ chiếu", "A number of an identity card or passport"),
        Both("{0}: {1}", "{0}: {1}"),
        Both("Xoá đi: không ai cần bot đọc lại số này.", "Delete it: nobody needs a bot that recites it."),
    ),
    "card": Kind(
        "warning",
        Both("Số thẻ ngân hàng", "A number of a bank card"),
        Both("{0}: {1}", "{0}: {1}"),
        Both("Xoá đi: không ai cần bot đọc lại số này.", "Delete it: nobody needs a bot that recites it."),
    ),
    "phone-answered": Kind(
        "note",
        Both("Số điện thoại trong câu trả lời", "Phone numbers in answers"),
        Both("{0}, {1} lần", "{0}, {1} times"),
        Both("Chỉ để lại số mà ai cũng được biết.", "Leave those alone that anybody may know."),
    ),
    "e-mail-answered": Kind(
        "note",
        Both("Địa chỉ e-mail trong câu trả lời", "E-mail addresses in answers"),
        Both("{0}, {1} lần", "{0}, {1} times"),
        Both("Chỉ để lại địa chỉ mà ai cũng được biết.", "Leave those alone that anybody may know."),
    ),
    "account-answered": Kind(
        "note",
        Both("Số tài khoản ngân hàng trong câu trả lời", "Bank account numbers in answers"),
        Both("{0}, {1} lần", "{0}, {1} times"),
        Both(
            "Soát lại từng chữ số, và chỉ để lại số mà ai cũng được biết.",
            "Compare digit by digit, and leave those alone that anybody may know.",
        ),
    ),
    "reader": Kind(
        "note",
        Both("Khi đọc tệp", "As the file was read"),
        Both("{0}", "{0}"),
        Both("Không cần làm gì.", "Nothing to do."),
    ),
}  # fmt: skip
