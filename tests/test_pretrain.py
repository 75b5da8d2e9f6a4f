"""Pretraining: the loss falls, is measured rightly, and a run that was stopped ends where it would have ended."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from hoidap.base import MINI_FOLDER, find_base
from hoidap.cli import app
from hoidap.errors import DataError, Interrupted, RecipeError, RunError, TrainError
from hoidap.run import Run
from hoidap.training import loop
from hoidap.training.pretrain import Shape, pretrain

SHAPE = Shape(d_model=64, n_layers=1, n_heads=1, max_seq_len=64)
SETTINGS = {"shape": SHAPE, "device": "cpu", "max_epochs": 3, "batch_tokens": 256, "max_tokens": 48, "save_every": 2}


@pytest.fixture
def text(tmp_path):
    articles = [f"Thành phố {n} nằm bên sông, có {n} cây cầu và {n + 2} ngôi chợ. " * 3 for n in range(30)]
    (tmp_path / "text.txt").write_text("\n\n".join(articles), encoding="utf-8")
    (tmp_path / "held.txt").write_text(
        "Thành phố mới nằm bên sông, có ba ngôi chợ.\nHai dòng.\n\nCây cầu.", encoding="utf-8"
    )
    (tmp_path / "pairs.csv").write_text("question,answer,wordings\nCầu ở đâu?,Bên sông ạ.,cau o dau\n", encoding="utf-8")
    return tmp_path


def run(text, name="run", **changes):
    given = {"held_out": text / "held.txt", "pairs": text / "pairs.csv", **SETTINGS, **changes}
    return pretrain([text / "text.txt"], out=text / name, **given)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_base_comes_out_that_train_takes(text):
    made = run(text)
    assert sorted(p.name for p in made.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    measured = [row for row in metrics(text / "run") if "held_out_nats" in row]
    assert [row["epoch"] for row in measured] == [1, 2, 3]
    assert measured[0]["held_out_nats"] < math.log(8192)
    assert measured[-1]["held_out_nats"] < measured[0]["held_out_nats"]
    base = find_base(str(made))
    assert (base.config.d_model, base.config.n_layers) == (64, 1)
    assert f"{measured[-1]['held_out_bits_per_byte']:.4f} bits a byte" in (text / "run" / "README.md").read_text()


def test_the_held_out_loss_is_that_of_each_token_given_those_before_it(text):
    made = run(text)
    base = find_base(str(made))
    model = base.load(quantize="none", device=torch.device("cpu"), dtype=torch.float32)
    tokenizer, nats, labels = base.tokenizer(), 0.0, 0
    articles = (text / "held.txt").read_text(encoding="utf-8").split("\n\n")
    for article in articles:
        ids = torch.tensor([tokenizer.eos_id, *tokenizer.encode(article), tokenizer.eos_id])
        assert len(ids) <= SETTINGS["max_tokens"]
        logprobs = model.forward(ids[None])[0, :-1].log_softmax(-1)
        nats -= float(logprobs.gather(1, ids[1:, None]).sum())
        labels += len(ids) - 1
    best = min((row for row in metrics(text / "run") if "held_out_nats" in row), key=lambda row: row["held_out_nats"])
    assert best["held_out_nats"] == pytest.approx(nats / labels, rel=1e-5)
    n_bytes = sum(len(article.encode()) for article in articles)
    assert best["held_out_bits_per_byte"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-5)


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_a_stopped_run_ends_where_it_would_have_ended(text, monkeypatch, stop_at):
    whole = run(text, "whole")
    step = loop._Training._step

    def pressed(training, batch):
        step(training, batch)
        if training.state.step == stop_at:
            import signal

            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "_step", pressed)
        with pytest.raises(Interrupted):
            run(text, "stopped")
    resumed = run(text, "stopped", resume=True)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    without_time = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in metrics(folder)]
        for folder in (text / "stopped", text / "whole")
    ]
    assert without_time[0] == without_time[1]


def test_a_finished_run_is_left_alone(text, capsys):
    made = run(text)
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert run(text, resume=True) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == before
    assert "nothing is left to do" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(RunError, match="exists already"):
        run(text)


def test_going_on_with_other_text_or_settings_is_refused(text):
    run(text)
    with (text / "text.txt").open("a") as file:
        file.write("\n\nMột bài nữa.")
    with pytest.raises(RunError, match=r"(?s)learning_rate is 0.1, was 0.002.*text is not what it was"):
        run(text, resume=True, learning_rate=0.1)
    with pytest.raises(RunError, match="start is not what it was"):
        run(text, resume=True, shape=Shape(d_model=128, n_layers=1, n_heads=2, max_seq_len=64))


def test_of_two_files_of_one_name_both_are_compared(text):
    for place in ("a", "b"):
        (text / place).mkdir()
        (text / place / "text.txt").write_text(f"Bài ở {place} kể về sông.", encoding="utf-8")
    given = {**SETTINGS, "held_out": text / "held.txt", "out": text / "run", "max_epochs": 1}
    both = [text / "a" / "text.txt", text / "b" / "text.txt"]
    pretrain(both, **given)
    both[0].write_text("Bài khác.", encoding="utf-8")
    with pytest.raises(RunError, match="text is not what it was"):
        pretrain(both, **given, resume=True)


def test_memory_that_runs_out_is_told_in_options_of_this_command(text, monkeypatch):
    def full(_training, _batch):
        raise MemoryError("no room")

    monkeypatch.setattr(loop._Training, "_step", full)
    with pytest.raises(TrainError) as caught:
        run(text)
    named = set(re.findall("--[a-z-]+", str(caught.value)))
    assert {"--batch-tokens", "--max-tokens", "--recompute"} <= named
    command = typer.main.get_command(app).commands["pretrain"]
    assert named <= {option for parameter in command.params for option in parameter.opts}


def test_a_base_can_be_gone_on_with(text):
    first = run(text)
    nats = [row["held_out_nats"] for row in metrics(text / "run") if "held_out_nats" in row]
    run(text, "second", model=str(first), shape=None, learning_rate=1e-6, max_epochs=1)
    onward = [row["held_out_nats"] for row in metrics(text / "second") if "held_out_nats" in row]
    assert onward[0] == pytest.approx(min(nats), abs=0.01)
    with pytest.raises(RunError, match="its own shape and tokenizer"):
        run(text, "third", model=str(first), shape=SHAPE)


def test_without_a_held_out_file_a_hundredth_of_the_articles_is_held_out(text):
    with pytest.raises(DataError, match="30 articles to train on and 0 held out"):
        run(text, held_out=None)
    articles = [f"Bài {n} kể về sông và núi." for n in range(300)]
    (text / "text.txt").write_text("\n\n".join(articles), encoding="utf-8")
    run(text, held_out=None, max_epochs=1)
    assert any("held_out_nats" in row for row in metrics(text / "run"))


def test_other_commands_say_what_a_pretraining_is(text):
    run(text, max_epochs=1)
    with pytest.raises(RunError, match=r"a pretraining's: hoidap train FILE --model .*run.model makes a bot"):
        Run.open(text / "run")
    (text / "other").mkdir()
    (text / "other" / "run.toml").write_text("format = 1\n")
    with pytest.raises(RunError, match="not the folder of a pretraining"):
        run(text, "other", resume=True)


def test_the_command(text):
    given = ["--out", str(text / "run"), "--held-out", str(text / "held.txt"), "--width", "64", "--layers", "1"]
    given += ["--epochs", "1", "--batch-tokens", "512", "--device", "cpu", "--lr", "1e-3", "--seed", "3"]
    result = CliRunner().invoke(app, ["pretrain", str(text / "text.txt"), *given], catch_exceptions=False)
    assert result.exit_code == 0
    assert f"--model {text / 'run' / 'model'}" in result.stderr
    assert "seed = 3" in (text / "run" / "recipe.toml").read_text()


def test_a_width_that_heads_do_not_divide_is_refused(text):
    given = ["pretrain", str(text / "text.txt"), "--out", str(text / "run"), "--width", "100"]
    with pytest.raises(RecipeError, match="--width is 100; it takes a multiple of 64"):
        CliRunner().invoke(app, given, catch_exceptions=False)
    assert not (text / "run").exists()


def test_the_default_tokenizer_is_the_shipped_one(text):
    made = run(text, max_epochs=1)
    assert Path(made / "tokenizer.json").read_bytes() == (MINI_FOLDER / "tokenizer.json").read_bytes()
