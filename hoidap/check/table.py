"""The report on the terminal: the findings of each kind, a table that counts them, and what to do next."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hoidap.check.examination import Report
from hoidap.check.finding import where
from hoidap.check.kinds import KINDS, SEVERITIES, SEVERITY_NAMES, Severity
from hoidap.check.repair import Repaired
from hoidap.language import Both, Language

_MOST_SHOWN = 20  # findings of a kind
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
_MORE = Both("… và {0} chỗ nữa", "… and {0} more")
_HEADER = (Both("mức", "severity"), Both("điều thấy được", "what was found"), Both("số chỗ", "count"))
_NOTHING = Both("không thấy điều gì", "nothing")
_SUMMARY = Both(
    "{0}: {1} dòng, {2} câu hỏi dùng được; lỗi {3}, cảnh báo {4}, ghi chú {5}",
    "{0}: {1} rows, {2} questions that can be trained on; errors {3}, warnings {4}, notes {5}",
)
_MENDED = Both(
    "đã sửa {0} ô ở {1} dòng; bản sao: {2}; danh sách thay đổi: {3}",
    "{0} cells in {1} rows are mended; the copy: {2}; the list of changes: {3}",
)
_AS_CSV = Both("; ghi thành CSV vì hoidap không ghi được XLSX", "; as CSV, for hoidap does not write XLSX")
_NOTHING_MENDED = Both("không có gì để tự sửa; không ghi tệp nào", "nothing to mend; no file was written")
_NEXT_ERROR = Both(
    "Chưa huấn luyện được: sửa các lỗi trên{0}, rồi: hoidap check {1}",
    "Training would refuse it: correct the errors{0}, then: hoidap check {1}",
)
_NEXT_MEND = Both(", hoặc thêm --fix để sửa những chỗ tự sửa được", ", or add --fix for what can be mended")
_NEXT_WARNING = Both(
    "Huấn luyện được; nên xem các cảnh báo trước{0}, rồi: hoidap train {1} --out RUN",
    "It can be trained on; look at the warnings first{0}, then: hoidap train {1} --out RUN",
)
_NEXT_CLEAN = Both("Huấn luyện được: hoidap train {0} --out RUN", "It can be trained on: hoidap train {0} --out RUN")


def show(report: Report, language: Language, console: Console) -> None:
    """Print a report."""
    table = Table(*(name.of(language) for name in _HEADER))
    for kind, findings in report.by_kind().items():
        title, severity = KINDS[kind].title.of(language), KINDS[kind].severity
        console.print(Text(f"{SEVERITY_NAMES[severity].of(language)}: {title}", style=f"bold {_COLOURS[severity]}"))
        console.print(Text(f"  {KINDS[kind].advice.of(language)}", style="dim"))
        for finding in findings[:_MOST_SHOWN]:
            place = where(report.file, finding.lines)
            console.print(Text.assemble("  ", (_printable(place), "bold"), "  ", _printable(finding.what(language))))
        if len(findings) > _MOST_SHOWN:
            console.print(Text("  " + _MORE.of(language).format(f"{len(findings) - _MOST_SHOWN:,}")))
        table.add_row(Text(SEVERITY_NAMES[severity].of(language), style=_COLOURS[severity]), title, f"{len(findings):,}")
    if not report.findings:
        table.add_row("", _NOTHING.of(language), "0")
    console.print(table)


def summary(report: Report, language: Language) -> str:
    """Return the counts of a report in one sentence."""
    counts = (f"{report.count(severity):,}" for severity in SEVERITIES)
    return _SUMMARY.of(language).format(report.file, f"{report.n_rows:,}", f"{report.n_items:,}", *counts)


def advice(report: Report, file: str, language: Language, *, fixes: bool) -> str:
    """Return what to do next with a file; ``fixes`` says that it is mended already."""
    can_mend = not fixes and any(KINDS[finding.kind].is_mended for finding in report.findings)
    mend = _NEXT_MEND.of(language) if can_mend else ""
    worst: Severity | None = next((s for s in SEVERITIES if report.count(s)), None)
    if worst == "error":
        return _NEXT_ERROR.of(language).format(mend, file)
    if worst == "warning":
        return _NEXT_WARNING.of(language).format(mend, file)
    return _NEXT_CLEAN.of(language).format(file)


def _printable(text: str) -> str:
    """Return text without the characters that would move the cursor or turn the line around."""
    return "".join(c if c.isprintable() else "�" for c in text)


def show_repaired(repaired: Repaired, language: Language, console: Console) -> None:
    """Print what was mended, and where it is."""
    text = _MENDED.of(language) if repaired.n_changes else _NOTHING_MENDED.of(language)
    facts = (f"{repaired.n_changes:,}", f"{repaired.n_rows:,}", str(repaired.file), str(repaired.list))
    is_other_kind = repaired.n_changes and repaired.file.suffix.lower() != repaired.source.suffix.lower()
    console.print(Text(text.format(*facts) + _AS_CSV.of(language) * bool(is_other_kind)), soft_wrap=True)
