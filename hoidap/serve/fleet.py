"""Which runs are served together: runs on one base share an engine, each other has its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hoidap.bot import Bot, find_run_base, load
from hoidap.errors import RunError
from hoidap.infer.engine import Engine
from hoidap.infer.torch_engine import TorchEngine
from hoidap.loading import load_together, share_base
from hoidap.run import Run
from hoidap.runtime import pick_device, pick_dtype
from hoidap.serve.bench import Load


def open_runs(folders: Sequence[Path]) -> dict[str, Run]:
    """Open run folders by the ids of their bots, which are the folders' names.

    Raises:
        RunError: one is no finished run, or two have the same name.
    """
    runs: dict[str, Run] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in runs:
            msg = f"two runs are named {name!r}, and a bot is called by its run's name; rename one folder"
            raise RunError(msg)
        runs[name] = Run.open(folder)
        runs[name].weights_folder()
    return runs


def plan(runs: Mapping[str, Run], *, gguf: Path | None = None, **where: Any) -> list[Load]:
    """Return what loads each engine with its bots.

    Args:
        runs: by the ids of their bots.
        gguf: a file of llama.cpp that answers in place of the one run's own weights.
        where: base, device, dtype, download and console, as ``hoidap.load`` has them.

    Raises:
        RunError: a file was given, and several runs.
    """
    if gguf is not None:
        if len(runs) > 1:
            msg = f"--gguf is one run's, and {len(runs)} runs were given; serve that run alone"
            raise RunError(msg)
        return [_alone(name, run, gguf=gguf, **where) for name, run in runs.items()]
    groups: list[dict[str, Run]] = []
    for name, run in runs.items():
        group = next((g for g in groups if share_base(next(iter(g.values())), run)), None)
        if group is None:
            groups.append({name: run})
        else:
            group[name] = run
    return [_together(g, **where) if len(g) > 1 else _alone(*next(iter(g.items())), **where) for g in groups]


def _alone(name: str, run: Run, **where: Any) -> Load:
    def load_one() -> dict[str, Bot]:
        bot = load(run.folder, keeps_gaps=False, **where)  # the store keeps them, until they are to be deleted
        _warm_up(bot.engine)
        return {name: bot}

    return load_one


def _together(
    runs: Mapping[str, Run], *, base: str | None, device: str | None, dtype: str | None, download: bool, console: Console
) -> Load:
    def load_all() -> dict[str, Bot]:
        place = pick_device(device)
        found = find_run_base(next(iter(runs.values())), base, download=download, console=console)
        engine = load_together(runs, found, place, pick_dtype(place, dtype), console)
        _warm_up(engine)
        return {name: load(run.folder, engine=engine, adapter=name, keeps_gaps=False) for name, run in runs.items()}

    return load_all


def _warm_up(engine: Engine) -> None:
    if isinstance(engine, TorchEngine):
        engine.warm_up()
