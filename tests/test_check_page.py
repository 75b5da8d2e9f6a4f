"""The report as a table and as a page, and the command that makes both."""

import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import xlsxwriter
from rich.console import Console
from typer.testing import CliRunner

from hoidap.base import find_base
from hoidap.check.examination import Report, examine
from hoidap.check.finding import Finding
from hoidap.check.kinds import KINDS
from hoidap.check.page import page, write_page
from hoidap.check.personal import mask
from hoidap.check.table import advice, show, summary
from hoidap.cli import app, main
from hoidap.errors import RecipeError

HOSTILE = '<script>alert("x")</script>'
CLEAN = "câu hỏi,trả lời\nMở cửa mấy giờ?,Dạ từ 8 giờ ạ.\n"
WARNED = CLEAN + "Mở cửa mấy giờ?,Dạ từ 9 giờ ạ.\n"
REFUSED = WARNED + "Ai bán?,\n"


class Parsed(HTMLParser):
    """The elements of a page, and its text without styles."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)


def report_of(folder: Path, content: str, name="shop.csv") -> Report:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return examine(path, find_base("mini"), Console(quiet=True))


def run(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)], env={"COLUMNS": "120", "TERM": "dumb"})


# The page


def test_hostile_text_is_text(tmp_path):
    rows = f"câu hỏi,trả lời\n{HOSTILE} là gì?,Có\n&lt;img src=x onerror=alert(1)&gt; đâu?,'\"><b>đây</b>\n".replace(
        '"x"', "1"
    )
    parsed = Parsed(page(report_of(tmp_path, rows), "vi"))
    assert {tag for tag, _ in parsed.elements} <= {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "input",
            "div",
            "label",
            "main",
            "h1",
            "h2",
            "p",
            "span",
            "table",
        ),
        *("thead", "tbody", "tr", "th", "td", "a", "section", "ol", "li", "code", "footer"),
    }
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script> là gì?" in "".join(parsed.texts)


def test_a_hostile_file_name_is_text(tmp_path):
    text = page(report_of(tmp_path, REFUSED, "<script>&amp;.csv"), "vi")
    assert "<script" not in text
    assert "&lt;script&gt;&amp;amp;.csv:4" in text


def test_a_page_asks_for_nothing_and_runs_nothing(tmp_path):
    text = page(report_of(tmp_path, REFUSED + "Trang nào?,https://tiem.example/x.js ạ\n"), "vi")
    parsed = Parsed(text)
    links = [a[name] for _, a in parsed.elements for name in ("src", "href", "action", "srcset") if name in a]
    assert links
    assert all(link.startswith("#") for link in links)
    assert {link[1:] for link in links} <= {a.get("id") for _, a in parsed.elements}
    assert not re.search(r"@import|url\(|javascript:", text)
    assert "default-src 'none'" in text


@pytest.mark.parametrize(("language", "other"), [("vi", "en"), ("en", "vi")])
def test_a_page_holds_both_languages_and_opens_in_one(language, other, tmp_path):
    text = page(report_of(tmp_path, REFUSED), language)
    for kind in ("refused", "answers-differ"):
        assert KINDS[kind].title.vi in text
        assert KINDS[kind].title.en in text
        assert KINDS[kind].advice.en in text
    assert "câu trả lời bỏ trống" in text
    assert "the answer is empty" in text
    inputs = {a["id"]: a for tag, a in Parsed(text).elements if tag == "input"}
    assert "checked" in inputs[language]
    assert "checked" not in inputs[other]
    assert f'<html lang="{language}">' in text


def test_each_piece_of_text_has_its_twin_in_the_other_language(tmp_path):
    parsed = Parsed(page(report_of(tmp_path, REFUSED), "vi"))
    languages = [a["lang"] for tag, a in parsed.elements if tag == "span" and "lang" in a]
    assert languages == ["vi", "en"] * (len(languages) // 2)


def test_a_page_is_bounded_and_counts_the_rest():
    findings = tuple(Finding("html", (n,), ("câu", "x" * 10_000, "y" * 10_000)) for n in range(5000))
    text = page(Report("shop.csv", 5000, 5000, findings), "vi")
    assert text.count("<li><code>") == 200
    assert "… và 4,800 chỗ nữa" in text
    assert "… and 4,800 more" in text
    assert len(text) < 400_000


def test_a_page_with_nothing_to_say_says_so(tmp_path):
    text = page(report_of(tmp_path, CLEAN), "vi")
    assert "Không thấy điều gì phải sửa." in text
    assert "<section" not in text


def test_only_a_report_is_overwritten(tmp_path):
    report = report_of(tmp_path, REFUSED)
    write_page(report, tmp_path / "report.html", "vi")
    path = tmp_path / "shop.csv"
    assert run(path, "--out", tmp_path / "report.html").exit_code == 1
    (tmp_path / "mine.html").write_text("<html>mine</html>")
    for out in (tmp_path / "mine.html", path, tmp_path, tmp_path / "none" / "r.html"):
        result = run(path, "--out", out)
        assert isinstance(result.exception, RecipeError)
        assert str(out) in str(result.exception)
    assert (tmp_path / "mine.html").read_text() == "<html>mine</html>"
    assert path.read_text(encoding="utf-8") == REFUSED


# The table


def printed(report, language="vi"):
    console = Console(width=120, file=io.StringIO())
    show(report, language, console)
    return console.file.getvalue()


def test_the_table_is_bounded_and_counts_the_rest():
    findings = tuple(Finding("html", (n,), ("câu", "một", "hai")) for n in range(1, 51))
    text = printed(Report("shop.csv", 50, 50, findings))
    assert text.count("shop.csv:") == 20
    assert "… và 30 chỗ nữa" in text
    assert re.search(r"cảnh báo.*Thẻ hoặc mã HTML.*50", text)


def test_the_terminal_is_not_told_to_do_anything():
    (line,) = [
        x
        for x in printed(Report("a.csv", 1, 1, (Finding("no-letters", (1,), ("\x1b[2J[red]\u202e1",)),))).splitlines()
        if "a.csv" in x
    ]
    assert line == "  a.csv:1  “�[2J[red]�1”"


@pytest.mark.parametrize(
    ("content", "vietnamese", "english"),
    [
        (
            CLEAN,
            "Huấn luyện được: hoidap train shop.csv --out RUN",
            "It can be trained on: hoidap train shop.csv --out RUN",
        ),
        (WARNED, "Huấn luyện được; nên xem các cảnh báo trước, rồi", "look at the warnings first, then"),
        (REFUSED, "Chưa huấn luyện được: sửa các lỗi trên, rồi", "Training would refuse it: correct the errors, then"),
        (CLEAN + "Ðâu?,Dạ đây ạ.\n", "trước, hoặc thêm --fix", "first, or add --fix"),
    ],
)
def test_what_to_do_next_depends_on_the_worst(content, vietnamese, english, tmp_path):
    report = report_of(tmp_path, content)
    assert vietnamese in advice(report, "shop.csv", "vi", fixes=False)
    assert english in advice(report, "shop.csv", "en", fixes=False)
    assert "--fix" not in advice(report, "shop.csv", "en", fixes=True)


def test_one_sentence_counts_it_all(tmp_path):
    report = report_of(tmp_path, REFUSED)
    assert summary(report, "vi") == "shop.csv: 3 dòng, 2 câu hỏi dùng được; lỗi 1, cảnh báo 1, ghi chú 0"
    assert summary(report, "en") == "shop.csv: 3 rows, 2 questions that can be trained on; errors 1, warnings 1, notes 0"


# The command


@pytest.mark.parametrize(("content", "status"), [(CLEAN, 0), (WARNED, 0), (REFUSED, 1), ("a,b\n1,2\n", 1)])
def test_the_status_tells_whether_training_would_refuse_it(content, status, tmp_path):
    path = tmp_path / "shop.csv"
    path.write_text(content, encoding="utf-8")
    result = run(path)
    assert result.exit_code == status, result.output
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
    assert [file.name for file in tmp_path.iterdir()] == ["shop.csv"]


def test_the_command_speaks_the_language_asked_for(tmp_path):
    path = tmp_path / "shop.csv"
    path.write_text(REFUSED, encoding="utf-8")
    assert "câu trả lời bỏ trống" in run(path).output
    output = run(path, "--language", "en").output
    assert "the answer is empty" in output
    assert "lỗi" not in output
    assert "--language is 'fr'; it takes 'vi', 'en'" in str(run(path, "--language", "fr").exception)


def test_the_command_mends_and_says_where(tmp_path):
    path = tmp_path / "shop.csv"
    path.write_text(CLEAN + "Ðâu <b>đó</b>?,Dạ đây ạ.\n", encoding="utf-8")
    result = run(path, "--fix", "--out", tmp_path / "r.html")
    assert result.exit_code == 0, result.output
    assert "đã sửa 1 ô ở 1 dòng" in result.output
    assert f"hoidap train {tmp_path / 'shop.fixed.csv'} --out RUN" in result.output
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.html", "shop.changes.tsv", "shop.csv", "shop.fixed.csv"]
    assert run(tmp_path / "shop.fixed.csv", "--fix").output.count("không có gì để tự sửa") == 1
    again = run(path, "--fix")
    assert isinstance(again.exception, RecipeError)
    assert "shop.fixed.csv" in str(again.exception)


def test_a_mended_workbook_is_said_to_be_csv(tmp_path):
    with xlsxwriter.Workbook(tmp_path / "shop.xlsx") as book:
        sheet = book.add_worksheet()
        for number, row in enumerate([("câu hỏi", "trả lời"), ("Ðâu?", "Dạ đây ạ.")]):
            sheet.write_row(number, 0, row)
    output = run(tmp_path / "shop.xlsx", "--fix", "--language", "en").output
    assert "shop.fixed.csv" in output
    assert "as CSV" in output
    assert (tmp_path / "shop.fixed.csv").read_bytes().startswith(b"\xef\xbb\xbf")


def test_the_base_says_what_fits(tmp_path):
    from tiny_run import make_base

    make_base(tmp_path / "base")
    path = tmp_path / "shop.csv"
    path.write_text(CLEAN + f"Đọc thơ đi?,{'Bước tới Đèo Ngang bóng xế tà. ' * 60}\n", encoding="utf-8")
    assert run(path).exit_code == 0
    result = run(path, "--model", tmp_path / "base")
    assert result.exit_code == 1
    assert "nhiều nhất 256" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.csv",), "none.csv: no such file"),
        (("none.csv", "--fix"), "none.csv: no such file"),
        (("none.csv", "--model", "nothing"), "there is no such folder"),
    ],
)
def test_mistakes_are_named_without_a_traceback(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hoidap", "check", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert message in capsys.readouterr().err


def test_importing_the_command_imports_nothing_heavy():
    code = "import sys; import hoidap.cli; print({'torch', 'jinja2', 'polars', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_an_address_that_hides_as_itself_ends_the_hiding():
    assert mask("Gửi về %@-.com nhé") == "Gửi về %@-.com nhé"
