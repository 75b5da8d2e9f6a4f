"""What the documents say is what the code does. `make docs` writes docs/cli.md anew."""

import re
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

import hoidap
from hoidap.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
READMES = ("README.md", "README.vi.md")
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def help_text() -> str:
    """Return docs/cli.md as the code has it."""
    parts = ["# Command line\n\nWritten by `make docs` from the code; a test keeps it true.\n"]
    for command in ("", *COMMANDS):
        arguments = [command, "--help"] if command else ["--help"]
        out = CliRunner().invoke(app, arguments, prog_name="hoidap", env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"})
        lines = "\n".join(line.rstrip() for line in out.output.strip().splitlines())
        parts.append(f"## hoidap {command}".rstrip() + f"\n\n```\n{lines}\n```\n")
    return "\n".join(parts)


def commands_in(text: str) -> list[str]:
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith(("hoidap ", "make "))]


def test_the_help_page_is_what_the_commands_say():
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == help_text(), "run `make docs`"


@pytest.mark.parametrize("name", READMES)
def test_every_command_of_the_readme_exists(name):
    lines = commands_in((ROOT / name).read_text(encoding="utf-8"))
    assert lines
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for line in lines:
        program, verb, *rest = line.split("#")[0].split()
        assert verb in (COMMANDS if program == "hoidap" else targets), line
        if program == "hoidap":
            known = CliRunner().invoke(app, [verb, "--help"]).output
            assert all(flag in known for flag in rest if flag.startswith("--")), line


@pytest.mark.parametrize("name", READMES)
def test_the_first_command_is_within_thirty_lines(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert any(line.startswith(("make ", "hoidap ")) for line in lines[:30])


@pytest.mark.parametrize("name", READMES)
def test_the_readme_s_tree_names_every_part_and_nothing_else(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    tree = text.split("```\nhoidap/\n", 1)[1].split("```", 1)[0]
    named = {line.split()[0].rstrip("/") for line in tree.splitlines() if line.startswith("  ")}
    parts = {p.name for p in (ROOT / "hoidap").iterdir() if not p.name.startswith("__")}
    assert named == parts


def test_both_readmes_hold_the_same_commands():
    english, vietnamese = (commands_in((ROOT / name).read_text(encoding="utf-8")) for name in READMES)
    assert [c.split("#")[0].strip() for c in english] == [c.split("#")[0].strip() for c in vietnamese]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_to_files_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_the_changelog_is_of_this_version():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    pinned = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest
    assert pinned
    assert newest[1] == pinned[1] == hoidap.__version__


def test_figures_of_the_readme_stand_in_a_result():
    results = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "benchmarks" / "results").glob("*.json"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`benchmarks/results/([\w.-]+)`", text):
        assert (ROOT / "benchmarks" / "results" / name).is_file()
    assert results


if __name__ == "__main__":
    (ROOT / "docs" / "cli.md").write_text(help_text(), encoding="utf-8")
