"""A base that is whole and sane is called so; each way of being neither is found, and named."""

import shutil

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny_run import TOKENIZER, make_base

from hoidap.base import find_base
from hoidap.data.pack import pack
from hoidap.model.checkpoint import load_checkpoint, save_checkpoint
from hoidap.model.config import MPTConfig
from hoidap.prompt import Rendered, Turn, render
from hoidap.recipe import Optimizer, Recipe
from hoidap.tokenizer import Tokenizer
from hoidap.training.step import Stepper
from hoidap.verify import PARAGRAPH, QUESTIONS, _template, verify

CPU = torch.device("cpu")
QUIET = Console(quiet=True)
ANSWERS = ("Hà Nội.", "Bảy ngày.", "Phở là món ăn nước của Việt Nam.")
CONFIG = MPTConfig(d_model=128, n_heads=2, n_layers=2, vocab_size=8192, max_seq_len=512)


def taught(folder, answers):
    """Make a base that knows the paragraph and answers the questions."""
    base = make_base(folder, CONFIG)
    tokenizer = Tokenizer.from_file(TOKENIZER)
    model = load_checkpoint(folder, quantize="none", device=CPU, dtype=torch.float32)
    for weight in model.weights.values():
        weight.requires_grad_()
    paragraph = tokenizer.encode(PARAGRAPH)
    documents = [Rendered(paragraph, [False] + [True] * (len(paragraph) - 1))]
    documents += [render([Turn(q, a)], tokenizer) for q, a in zip(QUESTIONS, answers, strict=True)]
    recipe = Recipe(method="full", quantize="none", optimizer=Optimizer(learning_rate=3e-3))
    stepper = Stepper(model, None, model.trainable(), recipe, 60)
    for _ in range(60):
        stepper.step(pack(documents))
    save_checkpoint(model, folder)
    return base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return taught(tmp_path_factory.mktemp("verify") / "base", ANSWERS)


@pytest.fixture
def copy(base, tmp_path):
    return shutil.copytree(base.folder, tmp_path / "copy")


def findings(base):
    return list(verify(base, CPU, QUIET))


def changed(folder, change):
    """Change a folder's tensors and return the base."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")
    return find_base(str(folder))


def bad(base):
    return {f.what: f.text for f in findings(base) if f.verdict == "bad"}


def test_a_whole_and_sane_base_is_called_so(base):
    found = findings(base)
    assert {f.verdict for f in found} == {"good"}, [f for f in found if f.verdict != "good"]
    texts = {f.what: f.text for f in found}
    assert texts["tensors"] == "27 (27 in F32), 1,445,376 weights, all biases there"
    assert texts["special tokens"] == "<unk> 0, <s> 1, </s> 2, <pad> 3"
    assert texts["template"].startswith("phogpt-4b-chat")
    assert "gives Vietnamese back to the letter" in texts["tokenizer"]
    assert [f.text.split(" → ")[1] for f in found if f.what == "answer"] == list(ANSWERS)
    files = [f.text.split(":")[0] for f in found if f.what == "file"]
    assert files == ["tokenizer.json", "config.json", "model.safetensors"]
    for name in ("float16", "int8", "nf4"):
        assert "KL 0.0" in texts[name]
        assert "3 of 3 answers begin alike" in texts[name]


def test_biases_that_are_missing_are_counted(copy):
    found = bad(changed(copy, lambda t: {n: w for n, w in t.items() if not n.endswith(".bias")}))
    assert "13 tensors do not fit config.json" in found["weights and tokenizer"]
    assert "missing transformer.blocks.0.attn.Wqkv.bias" in found["weights and tokenizer"]


def test_weights_of_another_model_have_no_sane_loss(copy):
    found = bad(changed(copy, lambda t: {n: w.flip(0).contiguous() for n, w in t.items()}))
    assert "bits a byte" in found["loss"]
    assert "guessing blindly has 9.01 nats" in found["loss"]


def test_a_tokenizer_of_another_model_is_found_by_the_loss_or_its_size(copy):
    found = bad(changed(copy, lambda t: {**t, "transformer.wte.weight": t["transformer.wte.weight"].roll(1, 0)}))
    assert "this tokenizer" in found["loss"]


def test_a_shard_cut_short_is_named(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert "not a whole safetensors file" in bad(find_base(str(copy)))["weights and tokenizer"]


def test_a_model_that_answers_nothing_but_new_lines_is_issue_27(tmp_path):
    found = bad(taught(tmp_path / "base", ("\n", "\n\n", "\n")))
    assert "3 of 3 answers in NF4 hold nothing but white space, as in PhoGPT's issue 27" in found["answers"]


def test_an_overflow_of_float16_is_named_with_its_place(copy):
    def spoil(tensors):
        name = "transformer.blocks.1.ffn.up_proj"
        return {**tensors, f"{name}.weight": tensors[f"{name}.weight"] * 1e5}

    found = bad(changed(copy, spoil))
    assert "not finite: something overflows float16" in found["float16"]
    assert "block 1, ffn.up_proj output" in found["overflow"]
    assert "exceeds float16's 65,504" in found["overflow"]
    (outliers,) = (f for f in findings(find_base(str(copy))) if f.what == "outliers")
    assert "channels of more than 100 times the median" in outliers.text


@pytest.mark.parametrize(
    ("content", "verdict", "said"),
    [
        (
            '{"chat_template": "{{ \'### Câu hỏi: \' + q }}\\n### Trả lời:"}',
            "good",
            "phogpt-4b-chat, by the vocabulary of 8,192",
        ),
        ('{"model_max_length": 8192}', "good", "phogpt-4b-chat"),
        (
            '{"chat_template": "[INST] {{ q }} [/INST]"}',
            "doubtful",
            "own chat_template has no '### Câu hỏi:' and '### Trả lời:'",
        ),
        ("[" * 100_000, "doubtful", "tokenizer_config.json cannot be read"),
        ("[]", "doubtful", "tokenizer_config.json cannot be read"),
    ],
)
def test_a_chat_template_of_its_own_is_compared_and_never_run(content, verdict, said, copy):
    (copy / "tokenizer_config.json").write_text(content, encoding="utf-8")
    found = _template(find_base(str(copy)))
    assert found.verdict == verdict
    assert said in found.text


def test_weights_that_are_no_numbers_are_named_and_nothing_is_blamed_on_float16(copy):
    name = "transformer.blocks.1.ffn.up_proj.weight"
    found = bad(changed(copy, lambda t: {**t, name: t[name] * float("nan")}))
    assert found == {
        "weights": "not finite in float32 either: block 1, ffn.up_proj output is not finite; download them again"
    }


def test_the_base_that_ships_is_whole_and_sane():
    found = findings(find_base("mini"))
    assert {one.verdict for one in found} == {"good"}, found
