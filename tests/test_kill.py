"""Killed at any moment, in the middle of a save too, a run goes on and ends where it would have ended."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import ITEMS, make_base, write_csv

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="Windows has no fork"),
]


@pytest.mark.parametrize(("mode", "number", "least"), [("moments", 50, 50), ("writes", 3, 40)])
def test_killed_and_resumed_is_bit_equal_to_never_killed(mode, number, least, tmp_path):
    base = make_base(tmp_path / "base")
    shop = write_csv(tmp_path / "shop.csv", ITEMS)
    script = Path(__file__).with_name("killed.py")
    arguments = [sys.executable, script, mode, base.name, shop, tmp_path, str(number)]
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout)["kills"] >= least
