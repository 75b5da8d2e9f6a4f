"""The Colab notebook is valid, and its cells run from upload to download; Colab's own parts are stood in for."""

import re
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest
from tiny_run import ITEMS, make_base, write_csv

import hoidap

NOTEBOOK = Path(__file__).parent.parent / "examples" / "colab.ipynb"
COMMAND = "from hoidap.cli import main; main()"


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """Stand in for google.colab: one uploaded file, a drive that is there, a download that is noted."""
    downloads: list[str] = []
    content = write_csv(tmp_path / "Cửa hàng.CSV", ITEMS).read_bytes()
    colab = types.ModuleType("google.colab")
    colab.files = types.SimpleNamespace(upload=lambda: {"Cửa hàng.CSV": content}, download=downloads.append)
    colab.drive = types.SimpleNamespace(mount=lambda _place: None)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    return downloads


def cells(replaced):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code" and not cell.source.startswith("%pip"):
            source = cell.source
            for old, new in replaced.items():
                source = source.replace(old, str(new))
            yield re.sub(r"^!hoidap (.*)$", r'shell(f"\1")', source, flags=re.MULTILINE)


def test_the_cells_run_from_upload_to_download_and_again_after_a_hang_up(colab, tmp_path, monkeypatch, capsys):
    base = make_base(tmp_path / "base")
    verified: list[int] = []

    def shell(command: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *command.split()], capture_output=True, text=True, check=False
        )
        verified.append(done.returncode)
        assert "tensors: 27" in done.stdout, done.stderr

    for _ in range(2):
        questions = iter([ITEMS[0].question, ITEMS[1].question, ""])
        monkeypatch.setattr("builtins.input", lambda _prompt, left=questions: next(left))
        names = {"shell": shell}
        places = {
            "/content/drive/MyDrive/hoidap": tmp_path / "drive",
            "/content/hoidap-run": tmp_path / "zip",
            "vinai/PhoGPT-4B-Chat": base.name,
        }
        for source in cells(places):
            exec(compile(source, NOTEBOOK.name, "exec"), names)  # noqa: S102 - the notebook is ours
    assert verified == [1, 1], "random weights are found out"
    said = capsys.readouterr().out
    assert "of 6 answers come back to the letter" in said
    assert [Path(p).suffix for p in colab] == [".zip", ".zip"]
    assert hoidap.load(tmp_path / "drive" / "run", device="cpu").items == ITEMS
