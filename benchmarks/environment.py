"""What every result says of where it comes from."""

import datetime as dt
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a result file."""
    text = json.dumps({**_environment(), "rows": rows}, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def _environment() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {os.cpu_count()} cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "commit": _COMMIT,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": " ".join(["python", *sys.argv]),
    }


def _git_commit() -> str:
    head, changes = (
        subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603, S607
        for arguments in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain"])
    )
    return head + ("+changes" if changes else "")


# Asked at the start: the tree may move on while a measurement runs. A machine without its history is told.
_COMMIT = os.environ.get("HOIDAP_COMMIT") or _git_commit()
