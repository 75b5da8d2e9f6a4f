"""A run that is stopped and goes on ends where one that was never stopped ends; what cannot go on says why."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny_run import ITEMS, LORA, make_base, write_csv

from hoidap.bot import load_engine
from hoidap.data.items import Item
from hoidap.errors import Interrupted, RunError, TrainError
from hoidap.kernels.int8 import Int8Weight
from hoidap.recipe import Adapter, Recipe, adjusted, differences
from hoidap.run import Run
from hoidap.training import job, loop, step
from hoidap.training.checkpoint import Checkpoints, State
from hoidap.training.job import train

QUIET = Console(quiet=True)
SHORT = adjusted(LORA, {"max_epochs": 6, "recall_every": 2, "batch_tokens": 128, "save_every": 4, "patience": 9})
FULL = Recipe(
    method="full",
    quantize="none",
    optimizer=dataclasses.replace(SHORT.optimizer, learning_rate=3e-3),
    schedule=SHORT.schedule,
)
RECIPES = {
    "lora": SHORT,
    "dropout": adjusted(SHORT, {"dropout": 0.3}),
    "8 bit": adjusted(SHORT, {"algorithm": "adamw_8bit", "rank": 32}),
    "full": FULL,
    "logged by threes": adjusted(SHORT, {"log_every": 3, "accumulation": 2}),
    "float16": adjusted(SHORT, {"dtype": "float16"}),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("data") / "shop.csv", ITEMS)


def stop_after(monkeypatch, step):
    """Press Ctrl-C during step number ``step`` of every training."""
    whole = loop._Training._step

    def pressed(training, batch):
        if training.state.step + 1 == step:
            os.kill(os.getpid(), signal.SIGINT)
        whole(training, batch)

    monkeypatch.setattr(loop._Training, "_step", pressed)


def weights_of(run):
    file = next(run.weights_folder().glob("*.safetensors"))
    return load_file(file)


def metrics_of(run):
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def assert_same(one, other):
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert metrics_of(one) == metrics_of(other)
    assert one.report()["items"] == other.report()["items"]


@pytest.mark.parametrize("kind", RECIPES)
def test_stopped_and_resumed_is_bit_equal_to_never_stopped(kind, base, shop, tmp_path, monkeypatch):
    asked = {"model": base.name, "recipe": RECIPES[kind], "device": "cpu", "console": QUIET}
    whole = train(shop, out=tmp_path / "whole", **asked)
    total = metrics_of(whole)[-1]["step"]
    out = tmp_path / "stopped"
    for at in (2, total // 2, total - 1):
        with monkeypatch.context() as patch:
            stop_after(patch, at)
            with pytest.raises(Interrupted, match=f"stopped after step {at}, and saved; give .* --resume"):
                train(shop, out=out, resume=True, **asked)
    assert_same(train(shop, out=out, resume=True, **asked), whole)


def test_a_run_that_is_done_is_left_alone(base, shop, tmp_path):
    asked = {"model": base.name, "recipe": SHORT, "device": "cpu", "console": QUIET}
    run = train(shop, out=tmp_path / "run", **asked)
    before = {p: p.stat().st_mtime_ns for p in run.folder.rglob("*") if p.is_file()}
    train(shop, out=tmp_path / "run", resume=True, **asked)
    assert {p: p.stat().st_mtime_ns for p in run.folder.rglob("*") if p.is_file()} == before


def test_a_run_killed_while_it_was_evaluated_only_evaluates(base, shop, tmp_path, monkeypatch):
    asked = {"model": base.name, "recipe": SHORT, "device": "cpu", "console": QUIET}
    with monkeypatch.context() as patch:
        patch.setattr(job, "examine", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(shop, out=tmp_path / "run", **asked)
    run = Run.open(tmp_path / "run")
    assert run.has_weights
    assert not run.has_report
    before = weights_of(run)
    steps = len(metrics_of(run))
    again = train(shop, out=tmp_path / "run", resume=True, **asked)
    assert again.has_report
    assert len(metrics_of(again)) == steps
    assert all(torch.equal(before[name], t) for name, t in weights_of(again).items())


@pytest.fixture(scope="module")
def stopped(base, shop, tmp_path_factory):
    """Return a run stopped at step 9, with checkpoints of steps 8 and 9."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 9)
        with pytest.raises(Interrupted):
            train(shop, out=out, model=base.name, recipe=SHORT, device="cpu", console=QUIET)
    return out


@pytest.fixture
def copy(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


def resumed(out, base, shop, **changes):
    return train(shop, out=out, model=changes.pop("model", base.name), device="cpu", console=QUIET, resume=True, **changes)


def test_checkpoints_hold_tensors_and_json_alone(stopped):
    names = {p.name for p in (stopped / "checkpoints").rglob("*") if p.is_file()}
    assert names == {"weights.safetensors", "optimizer.safetensors", "state.json"}
    assert sorted(p.name for p in (stopped / "checkpoints").iterdir() if p.name.startswith("step")) == ["step-8", "step-9"]


def test_two_steps_are_kept_and_every_best_that_they_name(base, shop, tmp_path):
    recipe = adjusted(SHORT, {"save_every": 1, "recall_every": 1})
    run = train(shop, out=tmp_path / "run", model=base.name, recipe=recipe, device="cpu", console=QUIET)
    steps = sorted(run.checkpoints_folder.glob("step-*"))
    assert len(steps) == 2
    named = {name for step in steps for name in json.loads((step / "state.json").read_text())["files"] if "/" in name}
    assert {f"{p.name}/weights.safetensors" for p in run.checkpoints_folder.glob("best-*")} == named
    assert not list(run.checkpoints_folder.glob(".*"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 1e-3}, "learning_rate is 0.001, was 0.02"),
        ({"rank": 4, "dropout": 0.1}, "rank is 4, was 16\ndropout is 0.1, was 0.0"),
        ({"template": "instruction-response"}, "the template is 'instruction-response', was 'phogpt-4b-chat'"),
        ({"preset": "seed"}, "max_steps is 100, was 0"),
    ],
)
def test_a_changed_recipe_is_named(changes, named, copy, base, shop):
    with pytest.raises(RunError) as caught:
        resumed(copy, base, shop, **changes)
    assert named in str(caught.value)
    assert "train anew with another --out" in str(caught.value)


def test_changed_data_are_named(copy, base, tmp_path):
    other = write_csv(tmp_path / "shop.csv", [*ITEMS, Item("Có wifi không?", "Dạ có.")])
    with pytest.raises(RunError, match="the data has 7 items, was 6"):
        resumed(copy, base, other)


def test_a_changed_base_is_named(copy, shop, tmp_path):
    other = make_base(tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text((tmp_path / "other" / "config.json").read_text() + "\n")
    with pytest.raises(RunError, match=r"files of the base .* that the run began with: config.json"):
        resumed(copy, other, shop)


def test_what_a_killed_process_left_half_written_is_cleared_away(copy, base, shop):
    (copy / ".hoidap.weights.abc" / "new").mkdir(parents=True)
    (copy / ".hoidap.report.json.123").write_text("{")
    (copy / "checkpoints" / ".hoidap.step-12.99").mkdir()
    (copy / ".git").mkdir()
    (copy / ".env").write_text("somebody else's")
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "loss_nats": 1}\n{"step": 11, "lo')
    run = resumed(copy, base, shop)
    assert sorted(p.name for p in run.folder.glob(".*") if p.name != ".hoidap-lock") == [".env", ".git"]
    assert not list(run.checkpoints_folder.glob(".*"))
    assert [row["step"] for row in metrics_of(run) if "loss_nats" in row] == list(range(1, metrics_of(run)[-1]["step"] + 1))


def test_what_only_saves_memory_may_change(copy, base, shop):
    run = resumed(copy, base, shop, accumulation=2, recompute=1)
    assert run.has_report


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["cut", "flipped", "gone"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_taken(file, harm, copy, base, shop, tmp_path):
    path = copy / "checkpoints" / "step-9" / file
    content = path.read_bytes()
    middle = len(content) // 2
    path.unlink()
    if harm == "cut":
        path.write_bytes(content[:middle])
    elif harm == "flipped":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0x80]) + content[middle + 1 :])
    with (tmp_path / "log").open("w") as log:
        console = Console(file=log, width=10_000)
        run = train(shop, out=copy, model=base.name, resume=True, device="cpu", console=console)
    said = (tmp_path / "log").read_text()
    assert f"{path.parent} is damaged" in said
    assert f"going on from {path.parent.with_name('step-8')}" in said
    names = {p.name for p in (copy / "checkpoints").iterdir() if "step" in p.name}
    assert "damaged-step-9" in names
    assert len(names) == 3, "two whole ones beside it"
    whole = train(shop, out=tmp_path / "whole", model=base.name, recipe=SHORT, device="cpu", console=QUIET)
    assert_same(run, whole)


def test_no_whole_checkpoint_is_a_refusal(copy, base, shop):
    for state in copy.glob("checkpoints/step-*/state.json"):
        state.write_text("{}x")
    with pytest.raises(RunError, match=r"no checkpoint is whole; delete .*checkpoints to train from the beginning"):
        resumed(copy, base, shop)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("/tmp/hoidap-was-run",)  # noqa: S108


@pytest.mark.parametrize("as_file", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_pickle_in_a_checkpoint_is_not_run(as_file, copy):
    torch.save({"a": Bomb()}, copy / "checkpoints" / "step-9" / as_file)
    found, damaged = Checkpoints(copy / "checkpoints").newest()
    assert found is not None
    assert found.state.step == 8
    assert "step-9 is damaged" in damaged[0]
    assert not os.path.exists("/tmp/hoidap-was-run")  # noqa: S108, PTH110


@pytest.mark.parametrize(
    "state",
    [
        "[" * 100_000,
        "[1]",
        '{"step": "9"}',
        '{"step": 9, "files": {"weights.safetensors": 3}}',
        '{"nobody": 1}',
        '{"step": 9, "scaler": {"scale": "x"}}',
        '{"step": true}',
        '{"best_epoch": 4, "files": {"best-4/weights.safetensors": "../../x"}}',
    ],
)
def test_a_hostile_state_is_a_damaged_checkpoint(state, copy):
    (copy / "checkpoints" / "step-9" / "state.json").write_text(state)
    found, damaged = Checkpoints(copy / "checkpoints").newest()
    assert found is not None
    assert found.state.step == 8
    assert "step-9 is damaged" in damaged[0]


def test_tensors_of_another_run_are_refused(copy, base, shop, tmp_path):
    other = train(
        shop, out=tmp_path / "other", model=base.name, recipe=adjusted(SHORT, {"rank": 4}), device="cpu", console=QUIET
    )
    shutil.rmtree(copy / "checkpoints")
    shutil.copytree(other.checkpoints_folder, copy / "checkpoints")
    with pytest.raises(RunError, match="holds other tensors than this run trains"):
        resumed(copy, base, shop)
    assert not Run.open(copy).has_weights


def test_an_optimiser_state_of_another_kind_is_refused(copy, base, shop):
    for step_folder in (copy / "checkpoints").glob("step-*"):
        save_file({"x/exp_avg": torch.zeros(3)}, step_folder / "optimizer.safetensors")
        state = json.loads((step_folder / "state.json").read_text())
        digest = hashlib.sha256((step_folder / "optimizer.safetensors").read_bytes()).hexdigest()
        state["files"]["optimizer.safetensors"] = digest
        (step_folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(RunError, match=r"the optimiser's state in .* is not that of this run"):
        resumed(copy, base, shop)
    assert not Run.open(copy).has_weights


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_resume
from hoidap.errors import RunError
resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))
try:
    test_resume.train({shop!r}, out={out!r}, model={base!r}, recipe=test_resume.SHORT, device="cpu", resume=True)
except RunError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a file's size")
def test_a_full_disk_is_named_and_what_was_kept_goes_on(copy, base, shop, tmp_path):
    tests = os.path.dirname(__file__)  # noqa: PTH120
    script = LIMITED.format(tests=tests, most=100_000, shop=str(shop), out=str(copy), base=base.name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert "cannot be written" in done.stdout
    assert "make room, then give the same command with --resume" in done.stdout
    whole = train(shop, out=tmp_path / "whole", model=base.name, recipe=SHORT, device="cpu", console=QUIET)
    assert_same(resumed(copy, base, shop), whole)


def test_too_little_room_is_seen_before_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(RunError, match=r"No space left on device.*takes 0\.0 MiB.*make room"):
        Checkpoints(tmp_path).save(State(step=1), {"a": torch.zeros(4)}, {}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["nan", "inf"])
def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(harm, base, shop, tmp_path, monkeypatch):
    whole = loop._Training._step

    def spoiled(training, batch):
        if training.state.step == 9:
            next(iter(training._trained.values())).detach().fill_(float(harm))
        whole(training, batch)

    monkeypatch.setattr(loop._Training, "_step", spoiled)
    with pytest.raises(TrainError, match=r"became nan at step 10; train again with a lower rate(?s:.*)step-8"):
        train(shop, out=tmp_path / "run", model=base.name, recipe=SHORT, device="cpu", console=QUIET)
    found, _ = Checkpoints(tmp_path / "run" / "checkpoints").newest()
    assert found is not None
    assert all(t.isfinite().all() for t in found.weights.values())


def test_a_loss_that_runs_away_stops_the_run_and_keeps_the_best(base, shop, tmp_path, monkeypatch):
    whole = loop._Training._step

    def spoiled(training, batch):
        if training.state.step >= 12:
            for tensor in training._trained.values():
                tensor.detach().normal_(0, 1, generator=torch.Generator().manual_seed(training.state.step))
        whole(training, batch)

    monkeypatch.setattr(loop._Training, "_step", spoiled)
    monkeypatch.setattr(step, "_RUNAWAY_NATS", 0.1)  # a small vocabulary leaves no room for 2 nats above chance
    recipe = adjusted(SHORT, {"max_epochs": 200, "recall_every": 1, "patience": 500})
    with pytest.raises(TrainError, match=r"the loss ran away: \d+\.\d+ nats at first(?s:.*)hoidap evaluate"):
        train(shop, out=tmp_path / "run", model=base.name, recipe=recipe, device="cpu", console=QUIET)
    found, _ = Checkpoints(tmp_path / "run" / "checkpoints").newest()
    assert found is not None
    kept = weights_of(Run.open(tmp_path / "run"))
    assert all(torch.equal(kept[name], tensor) for name, tensor in found.best.items())


def test_the_dropout_of_a_step_leaves_the_caller_s_draws_alone(base, shop, tmp_path):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    recipe = dataclasses.replace(SHORT, adapter=Adapter(dropout=0.2))
    train(shop, out=tmp_path / "run", model=base.name, recipe=recipe, device="cpu", console=QUIET)
    assert torch.equal(torch.rand(3), wanted)
    assert math.isfinite(metrics_of(Run.open(tmp_path / "run"))[1]["loss_nats"])


def test_two_processes_do_not_train_one_run(copy, base, shop):
    with Run.open(copy).lock(), pytest.raises(RunError, match=r"another process is training .*; wait for it, or end it"):
        resumed(copy, base, shop)
    assert resumed(copy, base, shop).has_report


def test_ctrl_c_between_two_questions_saves_before_it_says_so(base, shop, tmp_path, monkeypatch):
    answers = iter([False, False, False, True, True])  # asked a second time in one step it would say True after False

    class Stop:
        @property
        def asked(self):
            return next(answers)

    monkeypatch.setattr(loop, "stop_on_signals", lambda: contextlib.nullcontext(Stop()))
    recipe = adjusted(SHORT, {"save_every": 100, "recall_every": 6})
    with pytest.raises(Interrupted, match="stopped after step 4, and saved"):
        train(shop, out=tmp_path / "run", model=base.name, recipe=recipe, device="cpu", console=QUIET)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-4"]


def test_the_same_command_with_resume_goes_on_after_a_probe(base, shop, tmp_path, monkeypatch):
    recipe = adjusted(SHORT, {"learning_rate": 1e-3})
    asked = {"model": base.name, "recipe": recipe, "device": "cpu", "probe_lr": True, "console": QUIET}
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Interrupted):
            train(shop, out=tmp_path / "run", **asked)
    run = train(shop, out=tmp_path / "run", resume=True, **asked)
    assert run.recipe.optimizer.learning_rate == 2e-3
    assert max(row["learning_rate"] for row in metrics_of(run) if "learning_rate" in row) == pytest.approx(2e-3, rel=0.1)


def test_an_empty_folder_is_as_good_as_none(base, shop, tmp_path):
    recipe = adjusted(SHORT, {"max_epochs": 1})
    for name, resume in (("a", False), ("b", True)):
        (tmp_path / name).mkdir()
        asked = {"model": base.name, "recipe": recipe, "device": "cpu", "console": QUIET}
        assert train(shop, out=tmp_path / name, resume=resume, **asked).has_report


def test_a_place_where_no_run_can_be_made_is_named_before_the_base_is_loaded(base, shop, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"file/run cannot be written .*check --out"):
        train(shop, out=tmp_path / "file" / "run", model=base.name, device="cpu", console=QUIET)


def test_weights_that_do_not_fit_the_disk_are_named(base, shop, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job, "save_adapter", full)
    with pytest.raises(RunError, match=r"cannot be written .*No space left.* goes on with --resume"):
        train(shop, out=tmp_path / "run", model=base.name, recipe=SHORT, device="cpu", console=QUIET)
    monkeypatch.undo()
    assert resumed(tmp_path / "run", base, shop).has_report


def test_max_steps_take_the_place_of_the_epochs_number(base, shop, tmp_path):
    recipe = adjusted(SHORT, {"max_epochs": 1, "max_steps": 9})
    run = train(shop, out=tmp_path / "run", model=base.name, recipe=recipe, device="cpu", console=QUIET)
    assert max(row["step"] for row in metrics_of(run) if "step" in row) == 9


def test_other_passes_are_another_step_where_dropout_draws_for_each():
    dropped = adjusted(SHORT, {"dropout": 0.1})
    assert differences(dropped, adjusted(dropped, {"accumulation": 2})) == ["accumulation is 2, was 1"]
    assert differences(SHORT, adjusted(SHORT, {"accumulation": 2})) == []


def test_going_on_without_the_base_says_which_run_wants_it(base, shop, tmp_path):
    run = train(shop, out=tmp_path / "run", model=base.name, recipe=LORA, device="cpu", console=QUIET)
    card = run.folder / "run.toml"
    card.write_text(card.read_text(encoding="utf-8").replace(base.name, "scratch"), encoding="utf-8")
    with pytest.raises(RunError, match=r"run was trained on 'scratch': .* to train anew, take another --out"):
        train(shop, out=run.folder, resume=True, device="cpu", console=QUIET)


def fitting(**dials):
    """Stand in for a GPU whose memory the run fits with these dials alone; what must stay as it is stays."""

    def fit(recipe, _config, _device, _dtype, _longest, fixed=()):
        return adjusted(recipe, {name: value for name, value in dials.items() if name not in fixed}), "memory: little"

    return fit


@pytest.mark.parametrize("again", [{}, {"embedding": "8-bit"}, {"preset": None}])
def test_a_run_that_fitted_with_an_8_bit_embedding_goes_on_with_it(again, base, shop, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "fit_memory", fitting(embedding="8-bit", recompute=1))
    stop_after(monkeypatch, 6)
    asked = {"out": tmp_path / "run", "model": base.name, "recipe": SHORT, "device": "cpu", "console": QUIET}
    with pytest.raises(Interrupted):
        train(shop, **asked)
    monkeypatch.undo()
    monkeypatch.setattr(job, "fit_memory", fitting(algorithm="adamw_8bit"))  # less is free now
    run = train(shop, **{**asked, **again}, resume=True)
    assert (run.recipe.embedding, run.recipe.optimizer.algorithm) == ("8-bit", "adamw")
    assert run.recipe.recompute == -1, "chosen anew at each start"
    with pytest.raises(RunError, match="embedding is '16-bit', was '8-bit'"):
        train(shop, **asked, resume=True, embedding="16-bit")


def test_what_is_named_is_not_overridden(base, shop, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "fit_memory", fitting(embedding="8-bit"))
    asked = {"model": base.name, "recipe": adjusted(SHORT, {"max_epochs": 1}), "device": "cpu", "console": QUIET}
    assert train(shop, out=tmp_path / "free", **asked).recipe.embedding == "8-bit"
    assert train(shop, out=tmp_path / "named", embedding="16-bit", **asked).recipe.embedding == "16-bit"


def test_a_run_with_an_8_bit_embedding_is_loaded_with_it(base, shop, tmp_path):
    recipe = adjusted(SHORT, {"max_epochs": 1, "embedding": "8-bit"})
    run = train(shop, out=tmp_path / "run", model=base.name, recipe=recipe, device="cpu", console=QUIET)
    engine, _ = load_engine(run, device="cpu")
    assert isinstance(engine.model.weights["transformer.wte.weight"], Int8Weight)
