"""The preset "seed": 100 steps of one item, files where its users look for them, a loss that falls as theirs did."""

import json
import math
from itertools import pairwise

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tiny_run import ITEMS, make_base, write_csv

from hoidap.data.items import Item
from hoidap.model.config import MPTConfig
from hoidap.training.job import train

WIDE = MPTConfig(d_model=256, n_heads=4, n_layers=2, vocab_size=8192, max_seq_len=256)
POEM = (
    "Thân em vừa trắng lại vừa tròn,\nBảy nổi ba chìm với nước non.\n"
    "Rắn nát mặc dầu tay kẻ nặn,\nMà em vẫn giữ tấm lòng son."
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seed")
    base = make_base(folder / "base", WIDE)
    data = write_csv(folder / "tho.csv", [Item("Bạn hãy đọc bài thơ Bánh trôi nước nhé.", POEM)])
    # At 1e-4 a base of 256 channels, not 4,096, would hardly move: the rate that suits a layer falls with its width.
    return train(
        data, out=folder / "run", model=base.name, preset="seed", template="phogpt-7b5-instruct", learning_rate=1e-3,
        device="cpu", console=Console(quiet=True),
    )  # fmt: skip


def test_it_makes_a_hundred_steps_and_logs_every_tenth(run):
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if "loss_nats" in row]
    assert [row["step"] for row in logged] == list(range(10, 101, 10))
    assert all(row["items"] == 1 for row in logged)
    assert not [row for row in rows if "recall" in row], "nothing but steps"


def test_the_loss_falls_as_the_copied_run_s_did(run):
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    nats = [row["loss_nats"] for row in rows if "loss_nats" in row]
    assert nats[0] > 4, nats
    assert nats[4] < nats[0] / 20, f"0.0446 of 4.28 by step 50: {nats}"
    assert nats[9] < 0.1
    assert all(later < earlier * 1.05 for earlier, later in pairwise(nats))


def test_the_rate_is_a_cosine_from_the_first_step_to_nothing(run):
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    rates = [row["learning_rate"] for row in rows if "learning_rate" in row]
    assert rates == pytest.approx([1e-3 * (1 + math.cos(math.pi * (s - 1) / 100)) / 2 for s in range(10, 101, 10)])


def test_every_token_but_the_first_is_labelled_and_so_is_the_end(run):
    row = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["labelled_tokens"] == row["tokens"] - 1


def test_checkpoints_lie_at_50_and_100_and_the_adapter_is_peft_s(run):
    assert sorted(p.name for p in run.checkpoints_folder.iterdir()) == ["step-100", "step-50"]
    config = json.loads((run.weights_folder() / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["bias"]) == (32, 32, "none")
    kept = load_file(run.weights_folder() / "adapter_model.safetensors")
    last = load_file(run.checkpoints_folder / "step-100" / "weights.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in last.items()), "the last weights, not the best"
    assert run.report()["items"]["score"]["exact"] == 1.0


def test_at_7b5_s_shape_the_adapter_has_256_mib():
    shapes = MPTConfig(d_model=4096, n_heads=32, n_layers=32, vocab_size=250_880, max_seq_len=2048).shapes()
    linear = [shape for name, shape in shapes.items() if len(shape) == 2 and ".blocks." in name]
    parameters = sum(32 * (out + into) for out, into in linear)
    assert parameters == 67_108_864
    assert 4 * parameters == 256 * 2**20
    assert 3 * 4 * parameters < 800 * 2**20, "with both states of AdamW"


def test_ten_items_are_seen_ten_times_each(tmp_path):
    base = make_base(tmp_path / "base")
    data = write_csv(tmp_path / "shop.csv", ITEMS[:5])
    run = train(
        data, out=tmp_path / "run", model=base.name, preset="seed", max_steps=20, log_every=1, device="cpu",
        console=Console(quiet=True),
    )  # fmt: skip
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss_nats" in row]
    assert [row["epoch"] for row in steps] == [1 + n // 5 for n in range(20)]
    assert run.recipe.dtype == "float16"
