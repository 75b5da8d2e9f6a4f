"""The index finds what a plain computation of the same cosines finds, keeps it in one file and notices damage."""

import os
import re
import subprocess
import sys
import unicodedata
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import CountVectorizer

from hoidap.data.read import read_items
from hoidap.errors import RunError
from hoidap.ground import index as module
from hoidap.ground.index import Index
from hoidap.text import comparable, fold

SHOP = read_items(Path(__file__).parent.parent / "examples" / "cua-hang.csv")
QUESTIONS = [item.question for item in SHOP]
FILE = "index.safetensors"
WORDS = st.sampled_from(
    re.findall(r"\w+", "giá bao nhiêu một cái áo sơ mi màu đỏ ship mấy ngày tới Hà Nội đổi trả được 8h30 ạ")
)
TEXTS = st.lists(st.lists(WORDS, max_size=8).map(" ".join), max_size=30)
many = settings(max_examples=150, deadline=None)


def cosines(texts, asked):
    """Return the similarity of each asked text to each text, computed by scikit-learn and one dense product."""
    flat = [re.sub(r"[\W_]+", " ", fold(text)) for text in [*texts, *asked]]
    if not any(text.strip() for text in flat):
        return np.zeros((len(asked), len(texts)))
    counts = CountVectorizer(analyzer="char_wb", ngram_range=(3, 4)).fit_transform(flat).toarray()
    n_texts = (counts[: len(texts)] > 0).sum(0)
    weights = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * (np.log((1 + len(texts)) / (1 + n_texts)) + 0.5)
    unit = weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-9)
    return unit[len(texts) :] @ unit[: len(texts)].T


@many
@given(TEXTS, st.lists(WORDS | st.sampled_from(["zzz", "không", "?"]), max_size=6).map(" ".join), st.integers(1, 40))
def test_nearest_is_what_the_dense_product_says(texts, asked, k):
    expected = cosines(texts, [asked])[0]
    found = Index.build(texts).nearest(asked, k)
    assert len(found) == min(k, int((expected > 1e-9).sum()))
    np.testing.assert_allclose([near.similarity for near in found], np.sort(expected)[::-1][: len(found)], atol=1e-5)
    np.testing.assert_allclose([near.similarity for near in found], expected[[near.number for near in found]], atol=1e-5)


def test_every_question_finds_itself_however_it_is_typed():
    index = Index.build(QUESTIONS)
    for number, question in enumerate(QUESTIONS):
        typed = (question, question.upper(), fold(question), unicodedata.normalize("NFD", question), f"  {question}!? 😀 ")
        for text in typed:
            best = index.nearest(text, 3)[0]
            assert best.number == number
            assert best.similarity == pytest.approx(1, abs=1e-5)


def test_other_wordings_of_a_shop_find_their_question_as_often_as_the_baseline():
    index = Index.build(QUESTIONS)
    asked = [(wording, item.answer) for item in SHOP for wording in item.wordings]
    right = [comparable(SHOP[index.nearest(w, 1)[0].number].answer) == comparable(answer) for w, answer in asked]
    assert sum(right) / len(right) >= 0.52  # 2- to 4-grams of the folded text with scikit-learn's weights: 0.521


def test_equal_texts_come_in_their_order():
    index = Index.build(["phí ship", "Phi ship?", "giá áo", "PHÍ SHIP", "phí  ship"])
    assert [near.number for near in index.nearest("phí ship", 3)] == [0, 1, 3]
    assert [near.number for near in index.nearest("phí ship", 9)][:4] == [0, 1, 3, 4]


def test_words_that_no_text_has_lower_the_similarity_and_not_the_order():
    index = Index.build(QUESTIONS)
    plain, longer = (index.nearest(text, 5) for text in ("mấy giờ mở cửa", "mấy giờ mở cửa xyzzy qwfpg zxcv"))
    assert [near.number for near in plain] == [near.number for near in longer]
    assert all(a.similarity > b.similarity for a, b in zip(plain, longer, strict=True))


@pytest.mark.parametrize("text", ["", "?!…", "😀", "zzzz", "\ud800", "あ", " "])
def test_what_shares_nothing_finds_nothing(text):
    assert Index.build(["giá áo", "", "phí ship"]).nearest(text, 5) == []


def test_an_index_of_nothing_finds_nothing(tmp_path):
    for texts in ([], ["", "?"]):
        Index.build(texts).save(tmp_path)
        for index in (Index.build(texts), Index.load(tmp_path)):
            assert len(index) == len(texts)
            assert index.nearest("giá áo", 3) == []
            assert index.near_duplicates(0.5, 10) == []


@pytest.mark.parametrize("text", ["a" * 100_000, "giá " * 50_000, "1" * 100_000, "\u0301" * 100_000, "𝐚" * 9999])
def test_a_very_long_text_counts_by_its_beginning(text):
    index = Index.build([text, "giá áo"])
    assert [near.number for near in index.nearest(text[:2000], 1)] == ([0] if text[0] != "\u0301" else [])


@given(st.text())
@many
def test_any_text_can_be_built_and_asked(text):
    found = Index.build([text, "giá áo bao nhiêu"]).nearest(text, 2)
    assert all(0 < near.similarity <= 1 for near in found)


def test_too_many_entries_to_walk_still_find_the_nearest(monkeypatch):
    texts = [f"Cho mình hỏi giá của mẫu áo số {n} màu {'đỏ' if n % 2 else 'xanh'} là bao nhiêu ạ?" for n in range(900)]
    index = Index.build(texts)
    asked = [f"ao so {n} mau {'do' if n % 2 else 'xanh'} gia nhieu" for n in range(0, 900, 30)]
    whole = [index.nearest(text, 1) for text in asked]
    monkeypatch.setattr(module, "_MOST_LISTED", 2000)
    monkeypatch.setattr(module, "_CANDIDATES", 40)
    part = [index.nearest(text, 1) for text in asked]
    assert [near[0].number for near in part] == [near[0].number for near in whole]
    assert [near[0].similarity for near in part] == pytest.approx([near[0].similarity for near in whole])


def test_an_index_comes_back_from_its_file_as_it_was(tmp_path):
    index = Index.build(QUESTIONS)
    index.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    again = Index.load(tmp_path)
    assert len(again) == len(QUESTIONS)
    for item in SHOP:
        assert again.nearest(item.wordings[0], 5) == index.nearest(item.wordings[0], 5)
    assert again.near_duplicates(0.3, 50) == index.near_duplicates(0.3, 50)


def test_another_process_writes_the_same_file_and_needs_no_scikit_learn(tmp_path):
    Index.build(QUESTIONS).save(tmp_path)
    (tmp_path / "other").mkdir()
    program = (
        "import sys; from pathlib import Path\n"
        "from hoidap.data.read import read_items; from hoidap.ground.index import Index\n"
        "Index.build([i.question for i in read_items(Path(sys.argv[1]))]).save(Path(sys.argv[2]))\n"
        "assert Index.load(Path(sys.argv[2])).nearest('mấy giờ mở cửa', 1)\n"
        "assert not {'sklearn', 'scipy', 'torch'} & set(sys.modules)\n"
    )
    file = Path(__file__).parent.parent / "examples" / "cua-hang.csv"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", program, file, tmp_path / "other"], check=True, env=environment)
    assert (tmp_path / "other" / FILE).read_bytes() == (tmp_path / FILE).read_bytes()


def test_a_folder_without_an_index_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match=r"index\.safetensors is missing; `hoidap evaluate` builds it again"):
        Index.load(tmp_path)
    with pytest.raises(RunError, match="cannot be written"):
        Index.build(QUESTIONS).save(tmp_path / "none")


def test_a_file_that_is_cut_or_of_another_kind_is_refused(tmp_path):
    Index.build(QUESTIONS).save(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for content in (
        b"",
        whole[:100],
        whole[: len(whole) // 2],
        whole[:-1],
        b"\x80\x04pickle",
        b"\xff" * 5000,
        whole + b"0",
    ):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(RunError, match="is damaged"):
            Index.load(tmp_path)
    save_file(load_bytes(tmp_path, whole), tmp_path / FILE, {"format": "hoidap index 99"})
    with pytest.raises(RunError, match="has the format 'hoidap index 99', this hoidap reads 'hoidap index 1'"):
        Index.load(tmp_path)
    save_file({"weight": np.zeros(3)}, tmp_path / FILE)
    with pytest.raises(RunError, match="has the format 'none'"):
        Index.load(tmp_path)


def load_bytes(folder, content):
    (folder / FILE).write_bytes(content)
    return load_file(folder / FILE)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("grams", lambda a: a[::-1].copy()),
        ("grams", lambda a: a[1:]),
        ("grams", lambda a: a.astype(np.int64)),
        ("ranks", np.zeros_like),
        ("by_text.ids", lambda a: a + 10**6),
        ("by_text.ids", lambda a: -a),
        ("by_gram.ids", lambda a: a + 10**6),
        ("by_gram.ids", lambda a: a[:-1]),
        ("by_text.starts", lambda a: a[::-1].copy()),
        ("by_text.starts", lambda a: a[:-1]),
        ("by_text.starts", lambda a: a[:0]),
        ("by_gram.starts", lambda a: a * 2),
        ("by_gram.starts", lambda a: np.insert(a, 1, 0)),
        ("by_text.weights", lambda a: a * np.nan),
        ("by_gram.weights", lambda a: a * 1000),
        ("by_gram.weights", lambda a: -a),
        ("by_text.weights", lambda a: a.reshape(1, -1)),
        ("by_text.weights", lambda _: None),
    ],
)
def test_contents_that_do_not_fit_together_are_refused(tmp_path, name, change):
    Index.build(QUESTIONS).save(tmp_path)
    arrays = load_file(tmp_path / FILE)
    changed = change(arrays.pop(name))
    save_file(arrays | ({} if changed is None else {name: changed}), tmp_path / FILE, {"format": "hoidap index 1"})
    with pytest.raises(RunError, match=r"is damaged: .*; `hoidap evaluate` builds it again"):
        Index.load(tmp_path)


@many
@given(TEXTS, st.sampled_from([0.3, 0.6, 0.8, 0.9, 0.95]), st.integers(1, 60))
def test_near_duplicates_are_what_the_dense_product_says(texts, least, most):
    table = cosines(texts, texts) if texts else np.zeros((0, 0))
    similarities = [table[i, j] for i, j in combinations(range(len(texts)), 2)]
    if any(abs(value - least) < 1e-5 for value in similarities):
        return  # on the edge, where the last digit decides
    expected = sorted((value for value in similarities if value >= least), reverse=True)[:most]
    found = Index.build(texts).near_duplicates(least, most)
    np.testing.assert_allclose([similarity for *_, similarity in found], expected, atol=1e-5)
    assert all(i < j and table[i, j] == pytest.approx(similarity, abs=1e-5) for i, j, similarity in found)
    assert len({pair[:2] for pair in found}) == len(found)
    assert found == sorted(found, key=lambda pair: (-pair[2], *pair[:2]))


def test_texts_of_one_key_are_pairs_each_with_each():
    texts = ["Giá áo?", "phí ship bao nhiêu", "gia ao", "", "GIÁ ÁO", "phí ship bao nhiêu ạ", "?"]
    found = Index.build(texts).near_duplicates(0.7, 100)
    assert found[:3] == [(0, 2, 1.0), (0, 4, 1.0), (2, 4, 1.0)]
    assert [pair[:2] for pair in found[3:]] == [(1, 5)]
    assert Index.build(texts).near_duplicates(0.7, 2) == found[:2]


def test_of_very_many_texts_that_are_much_alike_as_many_pairs_come_as_asked(monkeypatch):
    words = ["một", "hai", "ba", "bốn", "năm", "sáu", "bảy", "tám", "chín", "mười", "trăm", "nghìn"]
    texts = [
        "cho mình hỏi giá của mẫu áo này " + " ".join(w for bit, w in enumerate(words) if n >> bit & 1) for n in range(4096)
    ]
    monkeypatch.setattr(module, "_MOST_PAIRS", 20_000)
    found = Index.build(texts).near_duplicates(0.8, 100)
    assert len(found) == 100
    index = Index.build(texts)
    for i, j, similarity in found[:10]:
        assert next(near.similarity for near in index.nearest(texts[i], 4096) if near.number == j) == pytest.approx(
            similarity
        )
