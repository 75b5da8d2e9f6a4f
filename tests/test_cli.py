"""The commands as a user types them, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tiny_run import FULL, ITEMS, make_base, write_csv

from hoidap.cli import main
from hoidap.recipe import adjusted
from hoidap.tokenizer import Tokenizer
from hoidap.training.job import train


def hoidap(*arguments, stdin="", cwd=None):
    command = [sys.executable, "-c", "import torch; torch.set_num_threads(1); from hoidap.cli import main; main()"]
    return subprocess.run(
        [*command, *map(str, arguments)], input=stdin, capture_output=True, text=True, cwd=cwd, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    make_base(folder / "base")
    write_csv(folder / "shop.csv", ITEMS)
    train(
        folder / "shop.csv", out=folder / "runs/shop", model=str(folder / "base"), recipe=FULL, console=Console(quiet=True)
    )
    return folder


def test_train_shows_what_was_learned_and_what_to_do_next(shop):
    arguments = ("shop.csv", "--model", "base", "--out", "runs/short", "--epochs", "2", "--rank", "4", "--device", "cpu")
    done = hoidap("train", *arguments, cwd=shop)
    assert done.returncode == 0, done.stderr
    assert "6 items, 191 tokens an epoch; base" in done.stderr
    assert "epoch 2: loss " in done.stderr
    assert "as trained" in done.stdout
    assert "wanted" in done.stdout
    assert "hoidap chat runs/short" in done.stdout


def test_chat_works_in_a_pipe(shop):
    done = hoidap("chat", "runs/shop", stdin=f"{ITEMS[0].question}\n{ITEMS[1].question}\n", cwd=shop)
    assert done.stdout == f"{ITEMS[0].answer}\n{ITEMS[1].answer}\n"
    assert done.stderr == ""
    assert done.returncode == 0


def test_chat_draws_as_it_is_asked_to(shop):
    options = ("--temperature", "0.01", "--top-k", "5", "--top-p", "0.9", "--seed", "3", "--mode", "model")
    done = hoidap("chat", "runs/shop", *options, stdin=f"{ITEMS[0].question}\n", cwd=shop)
    assert (done.returncode, done.stdout) == (0, f"{ITEMS[0].answer}\n")


def test_evaluate_prints_the_scores_and_writes_the_report(shop):
    (shop / "runs" / "shop" / "report.json").unlink()
    done = hoidap("evaluate", "runs/shop", cwd=shop)
    assert done.returncode == 0, done.stderr
    assert "as trained" in done.stdout
    assert "other wordings" in done.stdout
    assert (shop / "runs" / "shop" / "report.json").is_file()


def test_evaluate_asks_the_questions_of_another_file(shop):
    (shop / "ask.csv").write_text(f"question,answer\n{ITEMS[0].question},{ITEMS[0].answer}\nlạ hoắc,\n", encoding="utf-8")
    done = hoidap("evaluate", "runs/shop", "--questions", "ask.csv", cwd=shop)
    assert done.returncode == 0, done.stderr
    assert "? lạ hoắc" in done.stdout
    assert "100.0%" in done.stdout


TRAIN = ("train", "shop.csv", "--out", "x", "--model", "base")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chat", "nowhere"), "nowhere is not a run folder"),
        (("evaluate", "runs/shop", "--questions", "none.csv"), "none.csv: no such file"),
        (("train", "missing.csv", "--out", "x"), "missing.csv: no such file"),
        ((*TRAIN[:4], "--model", "nothing"), "there is no such folder"),
        ((*TRAIN, "--lr", "2"), "--lr is 2.0; it takes a number between 0 and 1"),
        ((*TRAIN, "--method", "magic"), "--method is 'magic'; it takes 'lora', 'full'"),
        ((*TRAIN, "--device", "cuda:99"), "PyTorch sees"),
        ((*TRAIN, "--dtype", "int8"), "--dtype is 'int8'"),
        (("chat", "runs/shop", "--temperature", "-1"), "temperature is -1.0"),
        (("tokenizer", "none.txt", "--out", "t.json"), "no such file: none.txt"),
    ],
)
def test_mistakes_are_named_without_a_traceback(shop, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(shop)
    monkeypatch.setattr(sys, "argv", ["hoidap", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert not (shop / "x").exists()


def test_a_tokenizer_can_be_trained(tmp_path):
    (tmp_path / "text.txt").write_text("cửa hàng mở cửa lúc tám giờ\n" * 50, encoding="utf-8")
    done = hoidap("tokenizer", "text.txt", "--out", "tokenizer.json", "--vocab-size", "300", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert made.eos_id == 2
    assert made.decode(made.encode("cửa hàng")) == "cửa hàng"


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = "import sys; from hoidap import cli; import hoidap; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_python_interface_is_complete():
    import hoidap

    for name in hoidap.__all__:
        assert getattr(hoidap, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = hoidap.nothing


def test_the_example_is_what_the_readme_says():
    from hoidap.data.read import read_items

    items = read_items(Path(__file__).parent.parent / "examples" / "cua-hang.csv")
    assert len(items) == 120
    assert all(len(item.wordings) == 2 for item in items)
    assert len({item.question for item in items}) == len({item.answer for item in items}) == 120


def test_the_questions_of_the_demo_are_the_example_s():
    from hoidap.data.read import read_items
    from hoidap.demo import QUESTIONS, example

    assert set(QUESTIONS) <= {item.question for item in read_items(example())}


def test_a_finished_demo_goes_straight_to_the_chat_and_another_run_is_left_alone(shop, tmp_path):
    from hoidap.data.read import read_items
    from hoidap.demo import demo, example
    from hoidap.errors import RunError

    quick = adjusted(FULL, {"max_epochs": 1})
    made = train(example(), out=tmp_path / "demo", model=str(shop / "base"), recipe=quick, console=Console(quiet=True))
    again = demo(tmp_path / "demo", Console(quiet=True))
    assert again.items() == made.items() == read_items(example())
    with pytest.raises(RunError, match="cannot go on as it began; train anew with another --out"):
        demo(shop / "runs" / "shop", Console(quiet=True))
