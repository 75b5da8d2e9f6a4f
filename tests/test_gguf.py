"""GGUF: what llama.cpp computes of a written file is what this model computes, and what it would get wrong is refused."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny import CPU, tiny_adapter, tiny_tensors
from tiny_run import FULL, ITEMS, LORA, TOKENIZER, make_base, write_csv

from hoidap.bot import load
from hoidap.errors import CheckpointError, QueueFullError, RequestError, RunError
from hoidap.infer.engine import Request, Sampling
from hoidap.infer.torch_engine import TorchEngine
from hoidap.model.checkpoint import assemble
from hoidap.model.config import MPTConfig
from hoidap.model.mpt import MPT
from hoidap.prompt import PHOGPT_4B_CHAT, Turn, render
from hoidap.run import Run
from hoidap.tokenizer import Tokenizer
from hoidap.training.job import train

for package in ("xllamacpp", "gguf", "libgguf"):
    pytest.importorskip(package, reason="GGUF needs hoidap[gguf]")

from hoidap.export import gate  # noqa: E402
from hoidap.export.gguf import KINDS, layout, pick_pre_tokenizer, quantized, trial_texts, write_gguf  # noqa: E402
from hoidap.infer import gguf_engine  # noqa: E402
from hoidap.infer.gguf_engine import GgufEngine, tokenize  # noqa: E402
from hoidap.infer.gguf_file import examine_gguf, tensor_name  # noqa: E402

CONFIG = MPTConfig(d_model=256, n_heads=8, n_layers=3, vocab_size=8192, max_seq_len=256)
PHOGPT_4B = MPTConfig(d_model=3072, n_heads=24, n_layers=32, vocab_size=20480, max_seq_len=8192)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(TOKENIZER)


def model_of(config: MPTConfig, seed: int = 5) -> MPT:
    tensors = tiny_tensors(config, seed)
    return assemble(config, tensors, quantize="none", device=CPU, dtype=torch.float32)


def write(model, adapter, tokenizer, path, kind="f16"):
    """Write a file without the proof of its tokenizer, which has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hoidap.export.gguf.pick_pre_tokenizer", lambda *_: "gpt-2")
        write_gguf(model, adapter, tokenizer, path, kind)


@pytest.fixture(scope="module")
def model():
    return model_of(CONFIG)


@pytest.fixture(scope="module")
def files(model, tokenizer, tmp_path_factory):
    """Return one file of each kind."""
    folder = tmp_path_factory.mktemp("gguf")
    for kind in KINDS:
        write(model, None, tokenizer, folder / f"{kind}.gguf", kind)
    return {kind: folder / f"{kind}.gguf" for kind in KINDS}


@pytest.fixture(scope="module")
def engine(files):
    engine = GgufEngine(files["f16"], max_batch=3, context_tokens=200)
    yield engine
    engine.close()


def prompts(tokenizer, count):
    text = "Dạ cửa hàng mở cửa lúc tám giờ sáng và đóng cửa lúc chín giờ tối, cả thứ bảy lẫn chủ nhật, trừ ngày lễ ạ."
    ids = tokenizer.encode(text)
    return [tuple(ids[n % 7 : n % 7 + 2 + n]) for n in range(count)]


def run_all(engine):
    pieces, texts, reasons = {}, {}, {}
    while came := engine.step():
        for piece in came:
            pieces.setdefault(piece.request_id, []).append(piece)
            texts[piece.request_id] = texts.get(piece.request_id, "") + piece.text
            if piece.finish_reason:
                assert piece.request_id not in reasons, "an answer ends once"
                reasons[piece.request_id] = piece.finish_reason
    return pieces, texts, reasons


def places_free(engine):
    """End an engine and return how many of its places were given back."""
    engine.close()
    while not engine._came.empty():
        assert engine._pieces(*engine._came.get()) == []
    return len(engine._free)


def next_tokens(engine, asked):
    """Return the first choice behind each prompt and its log-probability, None where llama.cpp does not tell it."""
    ids = [engine.submit(Request(prompt, Sampling(max_new_tokens=1))) for prompt in asked]
    pieces, _, _ = run_all(engine)
    first = [next((p for p in pieces[i] if p.token_id is not None), None) for i in ids]
    return [(p.token_id, p.logprob_nats) if p else None for p in first]


def agrees(model, path, asked, atol):
    """Return how many first choices were compared, and the share that is the model's own."""
    engine = GgufEngine(path, context_tokens=200)
    found = next_tokens(engine, asked)
    engine.close()
    same = []
    for prompt, came in zip(asked, found, strict=True):
        if came is not None:
            with torch.no_grad():
                nats = model.logits(model.hidden(torch.tensor(prompt), [0, len(prompt)])[-1]).log_softmax(-1)
            assert came[1] == pytest.approx(float(nats[came[0]]), abs=atol)
            same.append(came[0] == int(nats.argmax()))
    return len(same), sum(same) / len(same)


@pytest.mark.parametrize(
    "changes", [{}, {"n_heads": 6, "d_model": 192}, {"clip_qkv": 0.3}, {"alibi_bias_max": 4.0}, {"no_bias": True}]
)
def test_llama_cpp_computes_what_the_model_does(changes, tokenizer, tmp_path):
    config = MPTConfig(**{"d_model": 128, "n_heads": 4, "n_layers": 2, "vocab_size": 8192, "max_seq_len": 256, **changes})
    model = model_of(config)
    write(model, None, tokenizer, tmp_path / "tiny.gguf", "f16")
    count, share = agrees(model, tmp_path / "tiny.gguf", prompts(tokenizer, 30), atol=0.02)
    assert count >= 20
    assert share == 1


def test_an_adapter_is_merged_into_the_file(tokenizer, tmp_path):
    config = MPTConfig(d_model=64, n_heads=2, n_layers=2, vocab_size=8192, max_seq_len=256)
    base, adapter = model_of(config), tiny_adapter(config, 2)
    write(base, adapter, tokenizer, tmp_path / "tuned.gguf", "f16")
    asked = prompts(tokenizer, 20)
    assert agrees(base.merge(adapter), tmp_path / "tuned.gguf", asked, atol=0.05)[1] >= 0.95
    with pytest.raises(AssertionError):
        agrees(base, tmp_path / "tuned.gguf", asked, atol=0.05)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "f16"])
def test_a_quantised_file_computes_what_its_own_weights_say(kind, files, model, tokenizer):
    from gguf import GGUFReader
    from gguf.quants import dequantize

    held = {
        t.name: dequantize(t.data, t.tensor_type).reshape(tuple(t.shape)[::-1]) for t in GGUFReader(files[kind]).tensors
    }
    weights = {name: torch.from_numpy(np.array(held[tensor_name(name)], np.float32)) for name in CONFIG.shapes()}
    count, share = agrees(MPT(CONFIG, weights, torch.float32), files[kind], prompts(tokenizer, 30), atol=0.5)
    assert count >= 20
    assert share >= 0.8, "llama.cpp rounds activations to 8 bits"
    worst = max(float((weights[name] - w).norm() / w.norm()) for name, w in model.weights.items() if w.dim() == 2)
    assert worst < {"q8_0": 0.01, "q4_0": 0.12, "q4_k_m": 0.1}[kind]


def test_kinds_hold_what_llama_cpp_s_own_quantiser_would():
    types = layout(PHOGPT_4B, "q4_k_m")
    assert types["transformer.wte.weight"] == "Q6_K"
    assert types["transformer.blocks.5.attn.Wqkv.weight"] == "Q5_K"
    assert types["transformer.blocks.5.ffn.up_proj.weight"] == "Q4_K"
    more = [n for n in range(32) if types[f"transformer.blocks.{n}.ffn.down_proj.weight"] == "Q6_K"]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    bits = {"F32": 32, "F16": 16, "Q8_0": 8.5, "Q4_0": 4.5, "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625}
    shapes = PHOGPT_4B.shapes()
    n_bytes = sum(np.prod(shapes[name]) * bits[held] for name, held in types.items()) / 8
    assert 2_363_000_000 < n_bytes < 2_364_585_312, "of the file that VinAI published, less the vocabulary"
    assert len(types) == 387


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alibi": False, "learned_pos_emb": True}, "learned_pos_emb is True"),
        ({"alibi": False}, "alibi is False"),
        ({"qk_ln": True}, "qk_ln is True"),
        ({"logit_scale": 0.5}, "logit_scale is 0.5"),
        ({"softmax_scale": 0.5}, "softmax_scale is 0.5"),
        ({"d_model": 192, "n_heads": 6}, "q4_k_m holds rows of a multiple of 256 weights; .*: take f16 or q8_0 or q4_0"),
    ],
)  # fmt: skip
def test_what_llama_cpp_cannot_compute_is_refused_by_name(changes, message):
    sizes = {"d_model": 256, "n_heads": 4, "n_layers": 2, "vocab_size": 8192, "max_seq_len": 64}
    with pytest.raises(CheckpointError, match=message):
        layout(MPTConfig(**{**sizes, **changes}), "q4_k_m")


def test_a_weight_that_float16_cannot_hold_is_refused():
    with pytest.raises(CheckpointError, match="a weight is 70000; the kind f16 holds up to 65504: take q8_0"):
        quantized(np.full((2, 32), 70000, np.float32), "F16")


def test_both_tokenizers_take_the_same_texts_apart_alike(files, tokenizer):
    import unicodedata

    texts = [*trial_texts(), *(item.question for item in ITEMS), *(item.answer for item in ITEMS)]
    texts += [unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).upper()) for text in texts[:100]]
    assert len(texts) > 400
    normal = [unicodedata.normalize("NFC", text) for text in texts]
    assert tokenize(files["f16"], normal) == tokenizer.encode_all(normal)


def test_a_pre_tokenizer_that_disagrees_is_not_chosen_and_none_is_an_error(tokenizer, monkeypatch):
    monkeypatch.setattr("hoidap.export.gguf.PRE_TOKENIZERS", ("bloom", "gpt-2"))
    assert pick_pre_tokenizer(tokenizer, 8192, list(trial_texts())) == "gpt-2"
    monkeypatch.setattr("hoidap.export.gguf.PRE_TOKENIZERS", ("bloom",))
    with pytest.raises(
        CheckpointError, match=r"no pre-tokenizer of llama.cpp \(bloom\) makes this tokenizer's tokens: .* in llama.cpp"
    ):
        pick_pre_tokenizer(tokenizer, 8192, list(trial_texts()))


def test_rows_of_the_embedding_without_a_token_are_no_obstacle(tokenizer, tmp_path):
    config = MPTConfig(d_model=64, n_heads=2, n_layers=1, vocab_size=8300, max_seq_len=64)
    write_gguf(model_of(config), None, tokenizer, tmp_path / "padded.gguf")
    assert examine_gguf(tmp_path / "padded.gguf").config == config


def without(path: Path, out: Path, dropped: str) -> Path:
    """Copy a file but for one tensor."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader, writer = GGUFReader(path), GGUFWriter(out, "mpt")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = field.types[0]
            writer.add_key_value(key, field.contents(), kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        if tensor.name != dropped:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_a_dropped_bias_is_caught_though_llama_cpp_would_run_without(files, tmp_path):
    lacking = without(files["f16"], tmp_path / "lacking.gguf", "blk.1.ffn_up.bias")
    with pytest.raises(CheckpointError, match=r"missing blk\.1\.ffn_up\.bias"):
        GgufEngine(lacking)
    assert len(tokenize(lacking, ["xin chào"])) == 1, "llama.cpp loads it"
    assert examine_gguf(without(files["f16"], tmp_path / "whole.gguf", "")).config == CONFIG


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.999])
def test_a_file_that_was_cut_off_is_an_error_not_a_crash(share, files, tmp_path):
    whole = files["q8_0"].read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match="is no GGUF file of an MPT that is whole"):
        GgufEngine(cut)


@pytest.mark.parametrize("junk", [b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, b"PK\x03\x04" * 100, b"\0" * 4096])
def test_a_hostile_file_is_an_error_not_a_crash(junk, tmp_path):
    (tmp_path / "hostile.gguf").write_bytes(junk)
    with pytest.raises(CheckpointError, match="is no GGUF file of an MPT that is whole"):
        GgufEngine(tmp_path / "hostile.gguf")
    with pytest.raises(CheckpointError, match="does not exist; `hoidap export RUN --to gguf"):
        GgufEngine(tmp_path / "nowhere.gguf")


def test_a_file_of_another_architecture_or_shape_is_refused(files, tmp_path):
    data = files["f16"].read_bytes()
    other = tmp_path / "other.gguf"
    other.write_bytes(data.replace(b"\x03\0\0\0\0\0\0\0mpt", b"\x03\0\0\0\0\0\0\0gpt", 1))
    with pytest.raises(CheckpointError, match="its architecture is 'gpt'; hoidap runs 'mpt'"):
        examine_gguf(other)
    at = data.index(b"mpt.block_count") + len(b"mpt.block_count") + 4
    other.write_bytes(data[:at] + b"\x05" + data[at + 1 :])
    with pytest.raises(CheckpointError, match=r"does not hold what its own header says: missing blk\.3\.attn_norm\.weight"):
        examine_gguf(other)


def test_greedy_answers_are_the_other_engine_s_alone_and_in_company(engine, model, tokenizer):
    ours = TorchEngine(model, tokenizer, context_tokens=200)
    asked = [Request(prompt, Sampling(max_new_tokens=12)) for prompt in prompts(tokenizer, 12)]
    wanted = [ours.submit(request) for request in asked]
    texts = run_all(ours)[1]
    alone = []
    for request in asked:
        request_id = engine.submit(request)
        alone.append(run_all(engine)[1][request_id])
    ids = [engine.submit(request) for request in asked]
    together, reasons = run_all(engine)[1:]
    # Random weights leave tokens nearly alike: another height of a product may take the other one.
    assert sum(together[i] == text for i, text in zip(ids, alone, strict=True)) >= 10
    # The two write bytes that are no text with more or fewer replacement characters.
    same = [a.replace("\ufffd", "") == texts[i].replace("\ufffd", "") for a, i in zip(alone, wanted, strict=True)]
    assert sum(same) >= 9
    assert {reasons[i] for i in ids} <= {"length", "stop"}


def test_an_answer_ends_before_a_stop_text_at_its_length_and_where_the_context_does(engine, tokenizer):
    prompt = prompts(tokenizer, 9)[8]
    whole = engine.submit(Request(prompt, Sampling(max_new_tokens=30)))
    pieces, texts, reasons = run_all(engine)
    assert reasons[whole] == "length"
    assert 20 <= sum(p.token_id is not None for p in pieces[whole]) <= 30
    stop = texts[whole][len(texts[whole]) // 2 :][:3]
    cut = engine.submit(Request(prompt, Sampling(max_new_tokens=30), stop=(stop,)))
    _, stopped, reasons = run_all(engine)
    assert (stopped[cut], reasons[cut]) == (texts[whole][: texts[whole].index(stop)], "stop")
    full = engine.submit(Request(prompt * 19, Sampling(max_new_tokens=10_000)))
    pieces, _, reasons = run_all(engine)
    assert reasons[full] == "length"
    assert sum(p.token_id is not None for p in pieces[full]) <= 200 - 19 * len(prompt)


def test_a_seed_gives_the_same_text_and_limits_leave_the_likeliest(engine, tokenizer):
    prompt = prompts(tokenizer, 9)[8]

    def drawn(**how):
        request_id = engine.submit(Request(prompt, Sampling(max_new_tokens=15, **how)))
        return run_all(engine)[1][request_id]

    hot = {"temperature": 1.0}
    assert drawn(**hot, seed=7) == drawn(**hot, seed=7)
    assert drawn(**hot, seed=7) != drawn(**hot, seed=8)
    assert drawn(**hot, seed=2**32 - 1) == drawn(**hot, seed=2**32 - 1), "llama.cpp would draw this one itself"
    greedy = drawn()
    assert drawn(temperature=5.0, top_k=1) == drawn(temperature=5.0, min_p=1.0) == drawn(**hot, top_p=1e-6) == greedy
    assert drawn(repetition_penalty=5.0) != greedy


def test_a_cut_by_share_is_made_after_the_temperature_as_in_the_other_engine(engine, model, tokenizer):
    prompt = prompts(tokenizer, 9)[8]
    with torch.no_grad():
        logits = model.logits(model.hidden(torch.tensor(prompt), [0, len(prompt)])[-1])
    kept = set((logits / 3).softmax(-1).ge(0.97 * (logits / 3).softmax(-1).max()).nonzero().flatten().tolist())
    sampling = [Sampling(max_new_tokens=1, temperature=3.0, min_p=0.97, seed=seed) for seed in range(40)]
    ids = [engine.submit(Request(prompt, one)) for one in sampling]
    pieces = run_all(engine)[0]
    seen = {p.token_id for i in ids for p in pieces[i] if p.token_id is not None}
    near = set((logits / 3).softmax(-1).ge(0.96 * (logits / 3).softmax(-1).max()).nonzero().flatten().tolist())
    assert seen <= near
    assert len(kept) < 2 or len(seen) > 1


def test_what_can_never_be_served_is_refused(engine, files):
    with pytest.raises(RequestError, match="the prompt has 200 tokens; prompt and answer together may have 200"):
        engine.submit(Request((1,) * 200))
    with pytest.raises(RequestError, match="the prompt holds token 8192; this model has tokens 0 to 8191"):
        engine.submit(Request((8192,)))
    with pytest.raises(RequestError, match="the adapter is 'shop'; a GGUF file has none by name"):
        engine.submit(Request((1,), adapter="shop"))
    assert engine.step() == [], "nothing was left behind"
    small = GgufEngine(files["q8_0"], max_batch=1, max_waiting=1, cache_bytes=1)
    first = small.submit(Request((5, 6), Sampling(max_new_tokens=2)))
    with pytest.raises(QueueFullError):
        small.submit(Request((5, 6)))
    assert run_all(small)[2][first] in ("length", "stop")
    small.close()


def test_a_cancelled_request_stops_the_work_and_frees_its_place(files, tokenizer):
    engine = GgufEngine(files["q8_0"], max_batch=1, context_tokens=256)
    long, short = prompts(tokenizer, 2)
    for _ in range(10):
        gone = engine.submit(Request(long, Sampling(max_new_tokens=240)))
        engine.step()
        last = engine.cancel(gone)
        assert last is not None
        assert last.finish_reason == "cancelled"
        assert engine.cancel(gone) is None
        kept = engine.submit(Request(short, Sampling(max_new_tokens=3)))
        waiting = engine.submit(Request(short, Sampling(max_new_tokens=3)))
        assert engine.cancel(waiting) is not None
        pieces, _, reasons = run_all(engine)
        assert set(pieces) == set(reasons) == {kept}
    metrics = dict(line.split() for line in engine._server.handle_metrics().splitlines() if not line.startswith("#"))
    assert int(metrics["llamacpp:tokens_predicted_total"]) < 10 * 120, "all of 10 answers would be 2,400 tokens"
    assert places_free(engine) == 1


def test_a_deadline_ends_a_request_wherever_it_is(files, tokenizer, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(gguf_engine.time, "monotonic", lambda: clock[0])
    engine = GgufEngine(files["q8_0"], max_batch=1, context_tokens=256)
    a = engine.submit(Request(prompts(tokenizer, 1)[0], Sampling(max_new_tokens=250), seconds=5))
    b = engine.submit(Request(prompts(tokenizer, 2)[1], Sampling(max_new_tokens=3), seconds=5))
    engine.step()
    clock[0] = 106.0
    came = [piece for piece in engine.step() if piece.finish_reason]
    assert {(piece.request_id, piece.finish_reason) for piece in came} == {(a, "deadline"), (b, "deadline")}
    assert engine.step() == []
    engine.close()


def test_one_request_s_error_ends_that_request_alone(files, tokenizer, monkeypatch, caplog):
    engine = GgufEngine(files["q8_0"], max_batch=3, context_tokens=200)
    body = GgufEngine._body
    poisoned = {1: {"top_k": "many"}, 2: {"prompt": object()}}  # the server refuses one, the other fails on its way there
    monkeypatch.setattr(GgufEngine, "_body", lambda self, running: {**body(self, running), **poisoned.get(running.id, {})})
    ids = [engine.submit(Request(prompt, Sampling(max_new_tokens=4))) for prompt in prompts(tokenizer, 4)]
    with caplog.at_level(logging.ERROR):
        reasons = run_all(engine)[2]
    assert [reasons[i] in ("length", "stop") for i in ids] == [True, False, False, True]
    assert [reasons[i] for i in ids[1:3]] == ["error", "error"]
    assert "request 1 failed" in caplog.text
    assert places_free(engine) == 3


def test_clients_do_not_share_what_was_read(files, tokenizer):
    engine = GgufEngine(files["f16"], max_batch=1, context_tokens=200)
    prompt = prompts(tokenizer, 20)[19]
    cached = []
    for client in ("a", "a", "b"):
        engine.submit(Request(prompt, Sampling(max_new_tokens=1), client=client))
        before = engine._server.handle_metrics()
        run_all(engine)
        after = engine._server.handle_metrics()
        read = [int(text.split("\nllamacpp:prompt_tokens_total ")[1].split()[0]) for text in (before, after)]
        cached.append(len(prompt) - (read[1] - read[0]))
    assert cached[0] == cached[2] == 0
    assert cached[1] == len(prompt) - 1
    engine.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Return a folder with a base and two runs on it: all weights trained, and an adapter."""
    folder = tmp_path_factory.mktemp("shop")
    base, data = make_base(folder / "base"), write_csv(folder / "shop.csv", ITEMS)
    for name, recipe in (("full", FULL), ("lora", LORA)):
        train(data, out=folder / name, model=base.name, recipe=recipe, device="cpu", console=Console(quiet=True))
    return folder


def hoidap(*arguments, stdin="", cwd=None):
    command = [sys.executable, "-c", "import torch; torch.set_num_threads(1); from hoidap.cli import main; main()"]
    return subprocess.run(
        [*command, *map(str, arguments)], input=stdin, capture_output=True, text=True, cwd=cwd, timeout=300, check=False
    )


def test_a_run_is_exported_compared_and_chatted_with_from_the_command_line(shop):
    done = hoidap("export", "full", "--to", "gguf", "--out", "shop.gguf", "--kind", "q8_0", cwd=shop)
    assert done.returncode == 0, done.stderr
    assert "100.0% of 6 answers are the run's" in done.stderr
    table = json.loads((shop / "shop.gguf.json").read_text(encoding="utf-8"))
    assert (table["kind"], table["asked"], table["exact"], table["differences"]) == ("q8_0", 6, 1.0, [])
    assert table["n_bytes"] == (shop / "shop.gguf").stat().st_size
    assert sorted(p.name for p in shop.glob(".hoidap*")) == []
    arguments = ("chat", "full", "--gguf", "shop.gguf", "--mode", "model")
    done = hoidap(*arguments, stdin=f"{ITEMS[0].question}\n{ITEMS[1].question}\n", cwd=shop)
    assert done.stdout == f"{ITEMS[0].answer}\n{ITEMS[1].answer}\n", done.stderr
    assert done.stderr == ""
    done = hoidap("export", "full", "--to", "gguf", "--out", "shop.gguf", cwd=shop)
    assert (done.returncode, done.stderr) == (
        1, "error: shop.gguf exists already; choose another --out, or delete it first\n",
    )  # fmt: skip


def test_an_adapter_s_run_answers_from_a_file_as_it_does_itself(shop):
    compared = gate.export_gguf(Run.open(shop / "lora"), shop / "lora.gguf", "f16")
    assert compared.exact == 1
    own, bot = (load(shop / "lora", device="cpu", mode="model", gguf=path) for path in (None, shop / "lora.gguf"))
    for item in ITEMS:
        theirs, ours = bot.answer(item.question), own.answer(item.question)
        assert theirs.text == ours.text
        assert theirs.source == ours.source
        assert theirs.confidence == pytest.approx(ours.confidence, abs=0.02)


def test_a_file_that_answers_otherwise_is_not_kept_unless_a_reason_is_given(shop, monkeypatch):
    write = gate.write_gguf

    def spoilt(model, _adapter, *rest, **more):
        write(model, None, *rest, **more)  # the adapter forgotten

    monkeypatch.setattr(gate, "write_gguf", spoilt)
    run, out = Run.open(shop / "lora"), shop / "spoilt.gguf"
    with pytest.raises(RunError, match=r"0\.0% of 6 answers are the run's; f16 takes 99%\. The file was not kept"):
        gate.export_gguf(run, out, "f16")
    assert not out.exists()
    table = json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))
    assert len(table["differences"]) == 6
    gate.export_gguf(run, out, "f16", accept_below="only to look at")
    assert out.exists()
    assert json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))["accepted_below_because"] == "only to look at"


def test_a_file_of_another_base_is_refused(shop, tokenizer, tmp_path):
    config = MPTConfig(d_model=64, n_heads=2, n_layers=1, vocab_size=8192, max_seq_len=64)
    parts = json.loads(tokenizer.to_json())
    names = sorted(parts["model"]["vocab"], key=parts["model"]["vocab"].get)
    names[-1] = "đượcđược"
    parts["model"]["vocab"] = {name: n for n, name in enumerate(names)}
    parts["model"]["merges"] = parts["model"]["merges"][:-1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(parts), encoding="utf-8")
    write(model_of(config), None, Tokenizer.from_file(tmp_path / "tokenizer.json"), tmp_path / "other.gguf", "f16")
    with pytest.raises(CheckpointError, match="has another vocabulary than the run"):
        load(shop / "full", device="cpu", mode="model", gguf=tmp_path / "other.gguf")


def test_where_answers_begin_to_differ():
    compared = gate.compare(["a", "b", "c"], ["giống", "khác nhau", "dài"], ["giống", "khác hẳn", "dài hơn"])
    assert compared.exact == pytest.approx(1 / 3)
    assert [(d.question, d.first) for d in compared.differences] == [("b", 5), ("c", 3)]
    assert [item.question for item in gate.spread(ITEMS, 3)] == [ITEMS[n].question for n in (0, 2, 4)]


def test_a_prompt_is_tokenised_alike_in_one_piece_and_has_no_beginning_token(files, tokenizer):
    prompt = render([Turn("Mấy giờ mở cửa?")], tokenizer, PHOGPT_4B_CHAT).token_ids
    assert tokenize(files["f16"], ["### Câu hỏi: Mấy giờ mở cửa?\n### Trả lời:"]) == [prompt]
