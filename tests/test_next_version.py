"""A run that begins from another, on data that has changed: its weights, and what became of the answers."""

import io
import json
import shutil
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from tiny_run import FULL, ITEMS, LORA, make_base, write_csv

from hoidap.data.items import Item
from hoidap.errors import RunError
from hoidap.evaluate.comparison import compare
from hoidap.ground.grounds import Grounds
from hoidap.model.adapter import load_adapter
from hoidap.text import comparable
from hoidap.training import job
from hoidap.training.job import train

QUIET = Console(quiet=True)
NEW = [
    replace(ITEMS[0], answer="Từ 9h đến 21h ạ."),
    *ITEMS[1:],
    Item("Có gói quà không?", "Dạ gói quà miễn phí ạ."),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def first(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    data = write_csv(folder / "shop.csv", ITEMS)
    return train(data, out=folder / "run", model=base.name, recipe=LORA, device="cpu", contact="028 1", console=QUIET)


def test_a_run_goes_on_from_another_and_says_what_became_of_its_answers(first, tmp_path, monkeypatch):
    began = []
    real = job.train_weights
    monkeypatch.setattr(
        job, "train_weights", lambda network, adapter, *rest: began.append(copied(adapter)) or real(network, adapter, *rest)
    )
    data = write_csv(tmp_path / "new.csv", NEW)
    console = Console(record=True, width=200, file=io.StringIO())
    run = train(data, out=tmp_path / "run", start=first.folder, device="cpu", console=console)
    config = job.find_base(first.base_name).config
    assert began[0].keys() == copied(load_adapter(first.weights_folder(), config, torch.device("cpu"))).keys()
    for name, tensor in copied(load_adapter(first.weights_folder(), config, torch.device("cpu"))).items():
        assert torch.equal(began[0][name], tensor)
    assert run.recipe.schedule == first.recipe.schedule, "settings are the earlier run's"
    assert run.owner() == first.owner()
    compared = run.report()["compared"]
    assert compared["fixed"] == [NEW[0].question], "its answer was right, and is another now"
    assert (compared["broke"], compared["right"], compared["wrong"], compared["new"]) == ([], 5, [], 1)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "So với bản trước: 1 câu nay đã đúng" in page


def copied(adapter):
    return {name: tensor.detach().clone() for name, tensor in adapter.trainable().items()}


def test_without_a_file_a_run_learns_what_its_owner_corrected_and_added(first, tmp_path):
    shutil.copytree(first.folder, tmp_path / "first")
    earlier = type(first).open(tmp_path / "first")
    earlier.correct(ITEMS[0].question, NEW[0].answer)
    earlier.add(NEW[-1])
    run = train(out=tmp_path / "run", start=earlier.folder, device="cpu", console=QUIET)
    assert [(item.question, item.answer) for item in run.items()] == [(item.question, item.answer) for item in NEW]
    assert run.report()["compared"]["fixed"] == [NEW[0].question]
    with pytest.raises(RunError, match="nothing to train on"):
        train(out=tmp_path / "none", console=QUIET)


def test_the_earlier_run_may_be_gone_when_training_goes_on(first, tmp_path, monkeypatch):
    earlier = tmp_path / "earlier"
    shutil.copytree(first.folder, earlier)
    data = write_csv(tmp_path / "new.csv", NEW)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "train_weights", stop)
    with pytest.raises(KeyboardInterrupt):
        train(data, out=tmp_path / "run", start=earlier, device="cpu", console=QUIET)
    shutil.rmtree(earlier)
    monkeypatch.undo()
    run = train(data, out=tmp_path / "run", resume=True, device="cpu", console=QUIET)
    assert run.report()["compared"]["fixed"] == [NEW[0].question]


@pytest.mark.parametrize(("changes", "message"), [
    ({"rank": 8}, "rank is 16, this one's 8"), ({"alpha": 8.0}, "alpha is 32, this one's 8"),
    ({"method": "full"}, "method is lora, this one's full"),
])  # fmt: skip
def test_what_cannot_begin_from_a_run_is_refused(first, changes, message, tmp_path):
    data = write_csv(tmp_path / "new.csv", NEW)
    with pytest.raises(RunError, match=message):
        train(data, out=tmp_path / "run", start=first.folder, device="cpu", console=QUIET, **changes)
    assert not (tmp_path / "run").exists()


def test_a_run_that_did_not_end_is_refused(first, tmp_path):
    shutil.copytree(first.folder, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "adapter")
    data = write_csv(tmp_path / "new.csv", NEW)
    with pytest.raises(RunError, match="its training did not end"):
        train(data, out=tmp_path / "run", start=tmp_path / "half", device="cpu", console=QUIET)


def test_a_run_of_all_weights_is_refused(base, tmp_path):
    short = replace(FULL, schedule=replace(FULL.schedule, max_epochs=1, recall_every=1))
    data = write_csv(tmp_path / "shop.csv", ITEMS)
    one = train(data, out=tmp_path / "one", model=base.name, recipe=short, device="cpu", console=QUIET)
    with pytest.raises(RunError, match="only an adapter can be gone on from"):
        train(data, out=tmp_path / "two", start=one.folder, device="cpu", console=QUIET)


def test_answers_are_compared_by_the_data_as_they_are_now():
    items = [Item(f"câu hỏi số {n}?", f"Trả lời thứ {n} ạ.") for n in range(6)]
    grounds = Grounds.build(items, [[] for _ in items])
    rows = [
        {"kind": "as written", "question": item.question, "item": n, "verdict": "exact" if n in (0, 1, 4) else "wrong"}
        for n, item in enumerate(items)
    ]
    rows.append({"kind": "typo", "question": "cau hoi so 0", "item": 0, "verdict": "wrong"})
    said = {0: "Trả lời cũ.", 1: "Trả lời thứ 1 ạ.", 2: "TRẢ LỜI THỨ 2 ẠÁ", 3: "Trả lời thứ 3 ạ."}
    found = compare({comparable(items[n].question): text for n, text in said.items()}, rows, grounds)
    assert found.fixed == (items[0].question,)
    assert found.broke == (items[3].question,)
    assert (found.right, found.wrong) == (1, (items[2].question,))
    assert (found.new, found.new_wrong) == (2, (items[5].question,))
    assert str(found) == "1 fixed, 1 broke, 1 right as before, 1 still wrong; 2 new, 1 of them right"


def test_a_damaged_file_of_earlier_answers_is_named(first, tmp_path):
    shutil.copytree(first.folder, tmp_path / "run")
    (tmp_path / "run" / "start").mkdir()
    (tmp_path / "run" / "start" / "answered.json").write_text(json.dumps([1]), encoding="utf-8")
    with pytest.raises(RunError, match=r"answered\.json cannot be read"):
        type(first).open(tmp_path / "run").answered_before()
