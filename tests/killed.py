"""Train, be killed, go on: run by test_kill.py in a process of its own, which forks a child for each life of a run.

python killed.py moments BASE SHOP FOLDER KILLS    kill -9 at random moments
python killed.py writes BASE SHOP FOLDER STRIDE    kill -9 at every STRIDE-th write, rename, deletion and sync
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from rich.console import Console
from test_resume import SHORT

from hoidap.recipe import adjusted
from hoidap.training import checkpoint, job

RECIPE = adjusted(SHORT, {"save_every": 2, "recall_every": 2, "max_epochs": 6, "dropout": 0.1})


def live(base: str, shop: str, out: Path, kill_at_write: int = 0) -> int:
    """Fork a child that trains, and return its process; it kills itself at its ``kill_at_write``-th write."""
    child = os.fork()
    if child:
        return child
    try:
        if kill_at_write:
            mine_the_writes(kill_at_write)
        job.train(shop, out=out, model=base, recipe=RECIPE, device="cpu", resume=True, console=Console(quiet=True))
        os._exit(0)
    except BaseException:  # noqa: BLE001 - whatever it is, the parent must see that the child failed
        traceback.print_exc()
        os._exit(1)


def mine_the_writes(kill_at: int) -> None:
    """Have the ``kill_at``-th of all writes kill this process just before it happens."""
    left = kill_at

    def mined(function):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    os.fsync = mined(os.fsync)
    Path.rename, Path.replace, Path.mkdir = mined(Path.rename), mined(Path.replace), mined(Path.mkdir)
    Path.write_text, Path.write_bytes = mined(Path.write_text), mined(Path.write_bytes)
    shutil.rmtree = mined(shutil.rmtree)
    checkpoint.save_file = mined(checkpoint.save_file)


def ended(child: int) -> bool:
    """Wait for a child; return whether it came to its end, not killed; its own error ends everything."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status):
        sys.exit("a run that was killed neither went on nor ended well")
    return True


def result(out: Path) -> tuple[bytes, list[str]]:
    """Return a run's weights and metrics, seconds left out."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    kept = [json.dumps({k: v for k, v in row.items() if k != "seconds"}) for row in rows]
    return (out / "adapter" / "adapter_model.safetensors").read_bytes(), kept


def at_moments(base: str, shop: str, folder: Path, kills: int) -> None:
    """Kill runs at random moments, some of them several times, until ``kills`` have fallen; all end as the first did."""
    started = time.monotonic()
    assert ended(live(base, shop, folder / "whole"))
    whole, seconds = result(folder / "whole"), time.monotonic() - started
    draws = random.Random(0)
    fallen = runs = 0
    while fallen < kills:
        out = folder / f"run-{runs}"
        runs += 1
        for _ in range(5):
            child = live(base, shop, out)
            time.sleep(draws.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            if ended(child):
                break
            fallen += 1
        else:
            assert ended(live(base, shop, out))
        assert result(out) == whole, f"{out} ended elsewhere"
        shutil.rmtree(out)
    print(json.dumps({"kills": fallen, "runs": runs}))


def at_writes(base: str, shop: str, folder: Path, stride: int) -> None:
    """Kill a run at every ``stride``-th of its writes; each goes on and ends as the first did."""
    assert ended(live(base, shop, folder / "whole"))
    whole = result(folder / "whole")
    fallen, kill_at = 0, 1
    while True:
        out = folder / f"run-{kill_at}"
        if ended(live(base, shop, out, kill_at)):
            break
        fallen += 1
        assert ended(live(base, shop, out))
        assert result(out) == whole, f"killed at write {kill_at}: {out} ended elsewhere"
        shutil.rmtree(out)
        kill_at += stride
    print(json.dumps({"kills": fallen, "writes": kill_at}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    mode, base, shop, folder, number = sys.argv[1:]
    {"moments": at_moments, "writes": at_writes}[mode](base, shop, Path(folder), int(number))
