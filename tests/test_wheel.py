"""The wheel, installed where nothing else is, trains and answers from an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
BIN = "Scripts" if sys.platform == "win32" else "bin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build the wheel, install it in a fresh environment, and return that environment's programs."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT])
    call([sys.executable, "-m", "venv", folder / "venv"])
    programs = folder / "venv" / BIN
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    (wheel,) = folder.glob("*.whl")
    call([*pip, "--constraint", ROOT / "constraints.txt", "torch==2.13.0"])
    call([*pip, "--constraint", ROOT / "constraints.txt", wheel])
    return programs


def call(arguments, **options):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_runs_from_the_wheel_in_an_empty_folder(installed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    said = call([installed / "hoidap", "demo"], cwd=tmp_path, stdin=subprocess.DEVNULL, env=environment)
    assert "Từ thứ Hai đến thứ Sáu, cả ba chi nhánh mở cửa từ 8h30 đến 20h30 ạ." in said
    again = call([installed / "hoidap", "chat", "runs/demo"], cwd=tmp_path, input="Mấy giờ tiệm mở cửa?\n", env=environment)
    assert again.strip()


def test_every_module_is_in_the_wheel(installed, tmp_path):
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "hoidap").rglob("*.py")
        # Triton and the bindings to CUDA come with CUDA builds of PyTorch alone.
        if path.stem not in {"__init__", "few_cuda"} and "triton" not in path.stem
    ]
    call(
        [installed / "python", "-c", f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"],
        cwd=tmp_path,
    )
