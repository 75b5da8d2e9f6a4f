"""The shipped tokenizer, streamed decoding, training a tokenizer, and files that are none."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import hoidap
from hoidap.errors import TokenizerError
from hoidap.text import nfc
from hoidap.tokenizer import SPECIALS, Tokenizer, train_tokenizer

SHIPPED_FILE = Path(hoidap.__file__).parent / "assets" / "mini" / "tokenizer.json"
SHIPPED = Tokenizer.from_file(SHIPPED_FILE)
CORPUS = ["Cửa hàng mở cửa lúc mấy giờ?", "Dạ, cửa hàng mở cửa từ 8 giờ sáng đến 21 giờ."] * 8
SENTENCES = [
    "Cửa hàng mở cửa từ 8 giờ sáng đến 21 giờ tối hằng ngày.",
    "Phí giao hàng nội thành là 25.000 đ; đơn từ 500.000 đ thì miễn phí.",
    "Nghiêng ngả, khuỷu tay, thuở xưa, quẫy, ngoằn ngoèo, huýt sáo, ĐƯỜNG PHỐ",
    "  hai khoảng trắng  ,\n\nxuống dòng\tvà tab ",
    "<s>chào</s> <pad><unk>",
    "👩‍👩‍👧‍👦 🇻🇳 ✅ 日本語 العربية 𝄞",
    "",
]
# Vietnamese, signs, emoji of several code points, and whatever else Unicode has; U+FFFD itself stands for broken bytes.
PIECES = st.sampled_from([*"aăâđêôơưẫệỗứỵ .,\n", *SENTENCES, "👍🏽", "</s>"])
ANY_TEXT = st.lists(PIECES | st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=20).map(
    "".join
)
many = settings(max_examples=300, deadline=None)
each_sentence = pytest.mark.parametrize("text", SENTENCES)


def pushed(tokenizer: Tokenizer, token_ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [stream.push(token_id) for token_id in token_ids]


def test_the_shipped_special_tokens_have_phogpts_ids():
    ids = {token: SHIPPED._core.token_to_id(token) for token in SPECIALS}
    assert ids == {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3}
    assert SHIPPED.eos_id == 2


def test_the_shipped_vocabulary_has_8192_entries():
    assert SHIPPED.vocab_size == 8192


@each_sentence
def test_nothing_is_added_at_either_end(text):
    ids = SHIPPED.encode(text)
    assert not set(ids) & {0, 1, 2, 3}
    assert SHIPPED.decode(ids) == text


@each_sentence
def test_a_beginning_token_that_the_file_asks_for_is_left_out(text, tmp_path):
    values = json.loads(SHIPPED_FILE.read_text(encoding="utf-8"))
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    values["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, sequence],
        "pair": [bos, sequence, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert tokenizer._core.encode("a").ids[0] == 1, "the file does ask for it"
    assert tokenizer.encode(text) == SHIPPED.encode(text)


@many
@given(ANY_TEXT)
def test_decoding_gives_back_the_text_in_nfc(text):
    assert SHIPPED.decode(SHIPPED.encode(text)) == nfc(text)


@many
@given(ANY_TEXT)
def test_decomposed_text_has_the_same_ids_as_composed(text):
    assert SHIPPED.encode(unicodedata.normalize("NFD", text)) == SHIPPED.encode(nfc(text))


def test_decomposed_text_has_the_same_ids_where_the_file_itself_does_not_normalise(tmp_path):
    values = json.loads(SHIPPED_FILE.read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps({**values, "normalizer": None}), encoding="utf-8")
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert tokenizer.encode(unicodedata.normalize("NFD", "Tiếng Việt")) == SHIPPED.encode("Tiếng Việt")


@many
@given(ANY_TEXT)
@example("</s>")
@example(" </s>")
@example("a</s>\n</s>")
@example("<</s>s>")
def test_a_special_token_spelled_in_text_is_ordinary_characters(text):
    assert not set(SHIPPED.encode(text)) & {0, 1, 2, 3}


@pytest.mark.parametrize("special", [True, False])
def test_a_spelled_end_token_is_text_whatever_the_file_says_of_it(special, tmp_path):
    values = json.loads(SHIPPED_FILE.read_text(encoding="utf-8"))
    values["added_tokens"] = [{**token, "special": special} for token in values["added_tokens"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert tokenizer.encode("a</s>b") == SHIPPED.encode("a</s>b")
    assert tokenizer.decode([*tokenizer.encode("a"), 2]) == "a"


def test_special_tokens_are_left_out_of_decoded_text():
    assert SHIPPED.decode([1, *SHIPPED.encode("Chào bạn"), 2, 3]) == "Chào bạn"


@many
@given(ANY_TEXT)
@example("👩‍👩‍👧‍👦")
def test_streamed_pieces_join_to_the_decoded_text_and_no_character_is_broken(text):
    ids = SHIPPED.encode(text)
    pieces = pushed(SHIPPED, ids)
    assert "".join(pieces) == SHIPPED.decode(ids) == nfc(text)
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_emoji_of_several_tokens_waits_until_it_is_whole():
    ids = SHIPPED.encode("𝄞")
    assert len(ids) > 1
    assert pushed(SHIPPED, ids) == [""] * (len(ids) - 1) + ["𝄞"]


def test_a_streamed_end_token_gives_no_text():
    assert pushed(SHIPPED, [*SHIPPED.encode("Chào"), 2])[-1] == ""


def test_two_streams_do_not_disturb_each_other():
    one, other = SHIPPED.stream(), SHIPPED.stream()
    ids = SHIPPED.encode("Chào 👋 bạn")
    taken = [(one.push(token_id), other.push(token_id)) for token_id in ids]
    assert "".join(a for a, _ in taken) == "".join(b for _, b in taken) == "Chào 👋 bạn"


@many
@given(st.lists(st.integers(0, 8191), max_size=30))
def test_a_stream_takes_any_tokens_and_says_no_more_than_the_whole(token_ids):
    # A model may write bytes that are no text; what the stream holds back at the end is the unfinished part alone.
    streamed = "".join(pushed(SHIPPED, token_ids))
    assert SHIPPED.decode(token_ids).startswith(streamed)


def test_a_trained_tokenizer_has_the_special_ids_and_the_size():
    tokenizer = train_tokenizer(CORPUS, vocab_size=300)
    assert [tokenizer._core.token_to_id(token) for token in SPECIALS] == [0, 1, 2, 3]
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (2, 300)


def test_training_puts_frequent_words_into_fewer_tokens():
    tokenizer = train_tokenizer(CORPUS, vocab_size=340)
    assert len(tokenizer.encode("cửa hàng")) < len("cửa hàng".encode())


@each_sentence
def test_a_trained_tokenizer_encodes_characters_it_never_saw(text):
    tokenizer = train_tokenizer(CORPUS, vocab_size=300)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_written_tokenizer_reads_back_the_same(tmp_path):
    trained = train_tokenizer(CORPUS, vocab_size=320)
    (tmp_path / "tokenizer.json").write_text(trained.to_json(), encoding="utf-8")
    read = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert read.to_json() == trained.to_json()
    assert [read.encode(text) for text in SENTENCES] == [trained.encode(text) for text in SENTENCES]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json does not exist; a model folder needs its tokenizer\.json"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut"),
        pytest.param(SHIPPED_FILE.read_bytes()[:-1000], id="the end missing"),
        pytest.param(b"[1, 2]", id="a list"),
        pytest.param(b'{"model": {"type": "BPE"}}', id="nothing in it"),
        pytest.param(b'{"model": {"type": "Hidden"}}', id="an unknown model"),
        pytest.param(b"[" * 100_000, id="nested without end"),
        pytest.param(b"\xff\xfe\x00", id="no text"),
    ],
)
def test_a_broken_file_is_refused_by_name(content, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.json is not a tokenizer\.json that the tokenizers library reads: ."
    ):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_file_too_large_to_be_a_tokenizer_is_not_read(tmp_path):
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(TokenizerError, match=r"has 68,157,440 bytes; a tokenizer\.json has at most 67,108,864"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    text = train_tokenizer(CORPUS, vocab_size=300).to_json().replace("</s>", "<end>")
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(
        TokenizerError, match="the tokenizer has no token '</s>', which ends every answer; take the tokenizer"
    ):
        Tokenizer.from_file(tmp_path / "tokenizer.json")
