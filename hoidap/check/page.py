"""The report as one page: Vietnamese and English, without scripts, and without anything that is fetched."""

from pathlib import Path

from hoidap.check.examination import Report
from hoidap.check.finding import where
from hoidap.check.kinds import KINDS, SEVERITY_NAMES
from hoidap.check.table import advice, summary
from hoidap.errors import RecipeError
from hoidap.language import Both, Language
from hoidap.page import render

_MOST_SHOWN = 200  # findings of a kind
_MARK = '<meta name="generator" content="hoidap check">'
_MARKED_BYTES = 1000  # the mark stands among these, the first of a page


def refuse_to_overwrite(path: Path) -> None:
    """Refuse a path that holds anything but a report.

    Raises:
        RecipeError: it does, or there is no such folder.

    """
    if not path.parent.is_dir():
        msg = f"--out is {path}, and there is no folder {path.parent}; make it, or name another"
        raise RecipeError(msg)
    if path.is_dir() or (path.exists() and _MARK.encode() not in path.read_bytes()[:_MARKED_BYTES]):
        msg = f"--out is {path}, which exists and is no report of hoidap check; name another, or move it away"
        raise RecipeError(msg)


def write_page(report: Report, path: Path, language: Language) -> None:
    """Write a report as a page that opens in one language and can be switched to the other.

    Raises:
        RecipeError: the page cannot be written.

    """
    try:
        path.write_text(page(report, language), encoding="utf-8", errors="replace")
    except OSError as error:
        msg = f"--out is {path}, which cannot be written ({error.strerror or error}); name another"
        raise RecipeError(msg) from None


def page(report: Report, language: Language) -> str:
    """Return the page."""
    sections = [
        {
            "name": name,
            "kind": KINDS[name],
            "severity": SEVERITY_NAMES[KINDS[name].severity],
            "count": f"{len(findings):,}",
            "more": f"{len(findings) - _MOST_SHOWN:,}" if len(findings) > _MOST_SHOWN else "",
            "findings": [
                (where(report.file, finding.lines), Both(finding.what("vi"), finding.what("en")))
                for finding in findings[:_MOST_SHOWN]
            ],
        }
        for name, findings in report.by_kind().items()
    ]
    values = {
        "mark": _MARK,
        "file": report.file,
        "language": language,
        "summary": Both(summary(report, "vi"), summary(report, "en")),
        "advice": Both(advice(report, report.file, "vi", fixes=False), advice(report, report.file, "en", fixes=False)),
        "sections": sections,
    }
    return render("check.html.j2", values)
