"""What needs a CUDA device: the kernels equal their references, and the main line runs there in each dtype."""

from pathlib import Path

import pytest
import torch
from outliers import START, agreement, documents, follower, logits_of, outlier_model
from safetensors.torch import load_file

from hoidap.data.pack import pack
from hoidap.infer.engine import Request, Sampling
from hoidap.infer.recital import Recital
from hoidap.infer.torch_engine import TorchEngine
from hoidap.kernels import few, fourbit, int8
from hoidap.kernels.fourbit import CodedAbsmax, FourBitWeight
from hoidap.kernels.product import product, product_reference
from hoidap.model.adapter import new_adapter
from hoidap.model.cache import KVCache
from hoidap.model.checkpoint import assemble, load_checkpoint, random_tensors
from hoidap.model.config import MPTConfig
from hoidap.model.few import FewTokens, most_tokens
from hoidap.model.linear import LowRank, linear
from hoidap.model.loss import loss_nats
from hoidap.model.overflow import first_overflow
from hoidap.prompt import Rendered, Turn, render
from hoidap.recipe import Optimizer, Quantize, Recipe
from hoidap.tokenizer import Tokenizer
from hoidap.training.step import Stepper

pytestmark = pytest.mark.gpu

GOLDEN = Path(__file__).parent / "golden"
TOKENIZER = Path(__file__).parent.parent / "hoidap" / "assets" / "mini" / "tokenizer.json"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONFIG = MPTConfig(d_model=256, n_heads=4, n_layers=2, vocab_size=8192, max_seq_len=512)
# Relative error of a whole gradient against float32: rounding of 8 and 11 bits, several products deep.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def tiny(device: torch.device, dtype: torch.dtype, *, quantize: Quantize = "nf4"):
    tensors = random_tensors(CONFIG, CPU, torch.float32, 0)
    return assemble(CONFIG, tensors, quantize=quantize, device=device, dtype=dtype)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def on_gpu(weight: FourBitWeight) -> FourBitWeight:
    absmax = weight.absmax
    if isinstance(absmax, CodedAbsmax):
        coded = (absmax.codes, absmax.scales, absmax.levels, absmax.mean)
        return FourBitWeight(
            weight.codes.to(CUDA), weight.levels.to(CUDA), CodedAbsmax(*(t.to(CUDA) for t in coded)), weight.shape
        )
    return FourBitWeight(weight.codes.to(CUDA), weight.levels.to(CUDA), absmax.to(CUDA), weight.shape)


each_kind = pytest.mark.parametrize("kind", ["nf4", "fp4"])
single_or_double = pytest.mark.parametrize("double_quant", [False, True], ids=["single", "double"])


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", [(64, 1), (7, 64), (192, 320), (1000, 448), (4096, 4096)])
@each_kind
@single_or_double
def test_four_bits_dequantised_on_the_gpu_equal_the_reference_to_the_bit(shape, dtype, kind, double_quant):
    on_cpu = fourbit.quantize(normal(*shape) * 0.05, kind, double_quant=double_quant)
    weight = on_gpu(on_cpu)
    fast = fourbit.dequantize(weight, dtype)
    assert torch.equal(fast, fourbit.dequantize_reference(weight, dtype))
    assert torch.equal(fast.cpu(), fourbit.dequantize_reference(on_cpu, dtype))


@pytest.mark.parametrize("shape", [(192, 320), (1000, 448)])
@each_kind
def test_four_bits_quantised_on_the_gpu_have_the_codes_of_the_cpu(shape, kind):
    weight = normal(*shape)
    assert torch.equal(fourbit.quantize(weight.to(CUDA), kind).codes.cpu(), fourbit.quantize(weight, kind).codes)


@pytest.mark.parametrize("shape", [(1, 8, 8), (16, 7, 5), (17, 64, 48), (33, 1025, 9), (100, 3072, 9216)], ids=str)
def test_products_of_whole_numbers_on_the_gpu_are_exact(shape):
    M, K, N = shape
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-127, 128, (rows, K), generator=generator, dtype=torch.int8) for rows in (M, N))
    result = int8.multiply(a.to(CUDA), b.to(CUDA))
    assert result.dtype == torch.int32
    assert torch.equal(result.cpu(), int8.multiply_reference(a, b))


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("T", [1, 16, 33])
@pytest.mark.parametrize("columns", [[], [3, 50, 191], list(range(192))], ids=["none", "some", "all"])
def test_int8_on_the_gpu_equals_the_cpu(T, dtype, columns):
    x = normal(T, 192).clamp(-5.9, 5.9)
    x[:, columns] = x[:, columns] * 100 + 6
    x, weight = x.to(dtype), int8.quantize(normal(96, 192) * 0.05)
    result = int8.apply(x.to(CUDA), int8.Int8Weight(weight.codes.to(CUDA), weight.scales.to(CUDA)))
    expected = int8.apply(x, weight)
    assert (result.cpu() - expected).abs().max() <= 1e-5 * max(expected.abs().max(), x.float().abs().max())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 64, 48), (33, 192, 128), (7, 37, 5), (64, 12288, 3072)], ids=str)
def test_a_product_in_float32_on_the_gpu_equals_the_reference(shape, dtype):
    M, K, N = shape
    a, b = (normal(M, K) * 300).to(CUDA, dtype), normal(N, K).to(CUDA, dtype)
    result, expected = product(a, b.T), product_reference(a, b.T)
    assert result.dtype == torch.float32
    assert (result - expected).norm() < 5e-5 * expected.norm()
    big = product(a.new_full((8, 64), 100.0), a.new_full((64, 8), 100.0))
    assert (big == 640_000).all(), "more than float16 holds"


@pytest.mark.parametrize("quantize", ["none", "nf4", "fp4", "int8"])
def test_a_float32_result_of_float16_and_its_gradients_on_the_gpu_equal_the_cpu(quantize):
    found = []
    for device in (CPU, CUDA):
        plain = (normal(192, 128) * 0.1).to(device)
        held = {"none": lambda w: w, "int8": int8.quantize}.get(quantize, lambda w: fourbit.quantize(w, quantize))(plain)
        x = normal(33, 128).to(device, torch.float16).requires_grad_()
        A, B, bias = (normal(*shape).to(device).requires_grad_() for shape in ((4, 128), (192, 4), (192,)))
        wanted = [x, A, B, bias] + ([held.requires_grad_()] if quantize == "none" else [])
        y = linear(x, held, bias, LowRank(A, B, 5 / 3), torch.float32)
        assert y.dtype == torch.float32
        gradients = torch.autograd.grad(y, wanted, normal(33, 192).to(device))
        found.append([t.detach().float().cpu() for t in (y, *gradients)])
    for result, expected in zip(*reversed(found), strict=True):
        assert (result - expected).norm() < 2e-3 * expected.norm()


@pytest.mark.parametrize(("quantize", "most_nats"), [("none", 1e-5), ("nf4", 1e-5), ("fp4", 1e-5), ("int8", 2e-3)])
def test_float16_beside_a_float32_stream_answers_as_float32_where_there_are_outliers(quantize, most_nats):
    tokens, starts = documents()
    expected = logits_of(outlier_model(quantize=quantize), tokens, starts)
    half = outlier_model(torch.float16, quantize=quantize, device=CUDA)
    same, nats = agreement(logits_of(half, tokens, starts), expected)
    assert same > 0.995
    assert nats < most_nats
    assert first_overflow(half, tokens.to(CUDA), starts) is None


def test_float16_gradients_are_finite_and_near_float32_where_there_are_outliers():
    tokens, starts = documents()
    predicting = (tokens != START).nonzero()[:, 0]
    targets = follower(tokens[predicting])
    grads = []
    for device, dtype in ((CPU, torch.float32), (CUDA, torch.float16)):
        model = outlier_model(dtype, quantize="nf4", device=device)
        adapter = new_adapter(model.config, 4, 4.0, device, torch.Generator().manual_seed(0))
        hidden = model.hidden(tokens.to(device), starts, adapter=adapter)
        (loss_nats(model, hidden[predicting.to(device)], targets.to(device)) * 16).backward()
        grads.append(torch.cat([t.grad.cpu().flatten() for t in adapter.trainable().values()]))
    assert grads[1].isfinite().all()
    assert (grads[1] - grads[0]).norm() < 0.02 * grads[0].norm()


@pytest.mark.parametrize("name", ["phogpt-4b-shape", "phogpt-7b5-shape", "mpt-7b-shape"])
def test_golden_logits_on_the_gpu(name):
    expected = load_file(GOLDEN / name / "expected.safetensors")
    model = load_checkpoint(GOLDEN / name, quantize="none", device=CUDA, dtype=torch.float32)
    mask = expected["attention_mask"].bool()
    with torch.no_grad():
        logits = model.forward(expected["input_ids"], mask).cpu()
    assert (logits - expected["logits"])[mask].abs().max() < 1e-4


@pytest.mark.parametrize("recompute", [0, 1])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_gradients_of_every_dtype_are_near_float32_on_the_cpu(dtype, recompute):
    tokenizer = Tokenizer.from_file(TOKENIZER)
    turns = [("Mấy giờ mở cửa?", "8 giờ sáng ạ."), ("Giá bao nhiêu?", "Dạ 185.000đ, " * 20), ("Ở đâu?", "Quận 3.")]
    batch = pack([render([Turn(q, a)], tokenizer) for q, a in turns])
    grads = []
    for device, kind in ((CPU, torch.float32), (CUDA, dtype)):
        model = tiny(device, kind)
        model.recompute = recompute
        generator = torch.Generator().manual_seed(0)
        adapter = new_adapter(CONFIG, 4, 8, device, generator)
        with torch.no_grad():
            for delta in adapter.deltas.values():
                delta.B.copy_(torch.randn(delta.B.shape, generator=generator) * 0.05)
        moved = batch.to(device)
        hidden = model.hidden(moved.tokens, moved.starts, adapter=adapter)
        (loss_nats(model, hidden[moved.predicting], moved.targets) / len(moved.targets) * 256).backward()
        grads.append(torch.cat([t.grad.cpu().flatten() for t in adapter.trainable().values()]))
        assert grads[-1].dtype == torch.float32
    assert (grads[1] - grads[0]).norm() / grads[0].norm() < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_in_16_bits_lowers_the_loss(dtype):
    tokenizer = Tokenizer.from_file(TOKENIZER)
    batch = pack([render([Turn("Mấy giờ mở cửa?", "Từ 8h30 đến 20h30 ạ.")], tokenizer)])
    model = tiny(CUDA, dtype)
    adapter = new_adapter(CONFIG, 8, 16, CUDA, torch.Generator().manual_seed(0))
    recipe = Recipe(optimizer=Optimizer(learning_rate=1e-2))
    stepper = Stepper(model, adapter, adapter.trainable(), recipe, 40)
    losses = [stepper.step(batch)["loss_nats"] for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def greedy_answers(device, recital=None):
    """Return the tokens that the tiny model answers four questions with, three at a time."""
    tokenizer = Tokenizer.from_file(TOKENIZER)
    model = tiny(device, torch.float32, quantize="none")
    engine = TorchEngine(model, tokenizer, recital=recital, max_batch=3)
    for question in ("Mấy giờ mở cửa?", "Giá?", "Ở đâu vậy shop?", "Có giao hàng không?"):
        engine.submit(Request(tuple(render([Turn(question)], tokenizer).token_ids), Sampling(max_new_tokens=12)))
    out: dict[int, list[int]] = {}
    while pieces := engine.step():
        for piece in pieces:
            out.setdefault(piece.request_id, []).append(piece.token_id)
    return out


def test_the_engine_writes_the_same_greedy_text_on_both_devices_guessed_or_not():
    answers = greedy_answers(CPU)
    assert greedy_answers(CUDA) == answers
    half_right = [tokens[:6] + tokens[:6] for tokens in answers.values()]
    for recital in (Recital(answers.values()), Recital(half_right)):
        assert greedy_answers(CUDA, recital) == answers


@pytest.mark.parametrize("algorithm", ["adamw", "paged_adamw_32bit", "adamw_8bit", "paged_adamw_8bit"])
def test_every_optimiser_goes_on_from_its_saved_state(algorithm):
    recipe = Recipe(optimizer=Optimizer(algorithm=algorithm, learning_rate=1e-2))
    tokens = torch.randint(4, CONFIG.vocab_size, (300,), generator=torch.Generator().manual_seed(3)).tolist()
    batch = pack([Rendered(tokens, [False] * 100 + [True] * 200)])

    def begin():
        adapter = new_adapter(CONFIG, 32, 32, CUDA, torch.Generator().manual_seed(0))
        return Stepper(tiny(CUDA, torch.float32), adapter, adapter.trainable(), recipe, 20), adapter.trainable()

    stepper, trained = begin()
    losses = [stepper.step(batch)["loss_nats"] for _ in range(6)]
    assert losses[-1] < losses[0] - 0.1
    tensors, numbers, _ = stepper.snapshot()
    tensors = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
    weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in trained.items()}
    wanted = [stepper.step(batch)["loss_nats"] for _ in range(3)]
    again, _ = begin()
    again.state.step, again.state.optimizer = 6, numbers
    again.restore(weights, tensors)
    assert [again.step(batch)["loss_nats"] for _ in range(3)] == pytest.approx(wanted, rel=1e-4)


FEW = [
    (torch.bfloat16, 1, 32, "add", (4096, 16384)), (torch.bfloat16, 1, 0, "gelu", (16384, 3072)),
    (torch.bfloat16, 2, 8, "store", (1000, 320)), (torch.bfloat16, 3, 32, "gelu", (1792, 448)),
    (torch.bfloat16, 8, 0, "add", (192, 64)), (torch.bfloat16, 13, 40, "gelu", (448, 1792)),
    (torch.bfloat16, 32, 32, "add", (3072, 12288)), (torch.bfloat16, 50, 32, "store", (4096, 4096)),
    (torch.float16, 1, 32, "gelu", (4096, 4096)), (torch.float16, 64, 8, "add", (1000, 320)),
    (torch.bfloat16, 20, 8, "gelu", (12288, 4096)), (torch.bfloat16, 64, 32, "add", (4096, 16384)),
    (torch.bfloat16, 40, 0, "store", (9216, 3072)), (torch.float16, 16, 32, "add", (3072, 12288)),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "count", "rank", "then", "shape"), FEW, ids=str)
@single_or_double
def test_products_of_few_tokens_equal_float64s(dtype, count, rank, then, shape, double_quant):
    outs, ins = shape
    weight = on_gpu(fourbit.quantize(normal(outs, ins) * 0.05, "nf4", double_quant=double_quant))
    scratch = few.Scratch.of(CUDA, rank)
    for seed in range(4):
        generator = torch.Generator(CUDA).manual_seed(seed)
        x, bias, A, B = (
            torch.randn(size, generator=generator, device=CUDA) * by
            for size, by in (((count, ins), 1.0), ((outs,), 1.0), ((rank, ins), 0.05), ((outs, rank), 0.05))
        )
        x, bias = x.to(dtype), bias.to(dtype)
        operand = few.Operand.of(weight, bias, dtype)
        wanted = x.double() @ fourbit.dequantize_reference(weight, torch.float32).double().T + bias.double()
        if rank:
            operand = operand.with_adapter(A, B, 0.7, dtype)
            wanted += 0.7 * (x.double() @ A.to(dtype).double().T) @ B.to(dtype).double().T
        out = torch.full((count, outs), float("nan"), device=CUDA, dtype=dtype)
        if then == "add":
            out = torch.randn(count, outs, generator=generator, device=CUDA)
            wanted += out.double()
        few.product(x, operand, out, scratch, then)
        wanted = torch.nn.functional.gelu(wanted) if then == "gelu" else wanted
        error = float((out.double() - wanted).norm() / wanted.norm())
        assert error < {torch.bfloat16: 3e-3, torch.float16: 6e-4}[dtype]
        assert not scratch.counters.any()


@pytest.mark.parametrize("count", [1, 8, 30, 64])
@pytest.mark.parametrize("rank", [0, 8])
def test_products_of_few_tokens_with_eight_bits(count, rank):
    weight = int8.quantize((normal(1000, 320) * 0.05).to(CUDA))
    x = normal(count, 320).to(CUDA, torch.bfloat16)
    out = torch.full((count, 1000), float("nan"), device=CUDA)
    operand = few.Operand.of(weight, None, torch.bfloat16)
    if rank:
        A, B = (normal(rank, 320) * 0.05).to(CUDA), (normal(1000, rank) * 0.05).to(CUDA)
        operand = operand.with_adapter(A, B, 0.7, torch.bfloat16)
    few.product(x, operand, out, few.Scratch.of(CUDA, rank))
    wanted = few._reference(x, operand).double()
    assert float((out.double() - wanted).norm() / wanted.norm()) < (2e-3 if rank else 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("quantize", ["nf4", "fp4"])
@pytest.mark.parametrize("embedding", ["16-bit", "8-bit", "4-bit"])
@torch.inference_mode()
def test_the_network_for_few_tokens_has_the_logits_of_the_network_for_many(dtype, quantize, embedding):
    config = MPTConfig(d_model=256, n_heads=4, n_layers=4, vocab_size=2048, max_seq_len=1024, clip_qkv=3.0)
    tensors = random_tensors(config, CPU, torch.float32, 0)
    model = assemble(config, tensors, quantize=quantize, embedding=embedding, device=CUDA, dtype=dtype)
    exact = assemble(config, random_tensors(config, CPU, torch.float32, 0), quantize=quantize, embedding=embedding,
                     device=CPU, dtype=torch.float32)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    adapter = new_adapter(config, 8, 16, CUDA, generator)
    plain = new_adapter(config, 8, 16, CPU, torch.Generator().manual_seed(0))
    for module, delta in adapter.deltas.items():
        delta.B.copy_(torch.randn(delta.B.shape, generator=generator) * 0.05)
        plain.deltas[module].B.copy_(delta.B.cpu())
    assert most_tokens(model)
    caches = KVCache(config, 70, 600, dtype, CUDA), KVCache(config, 70, 600, torch.float32, CPU)
    network = FewTokens(model, adapter, caches[0])
    worst = 0.0
    for lengths in ([60, 3, 1], [1] * 64, [1], [1, 1], [1, 17], [5, 1, 1, 20], [64], [64], [64], [64], [64]):
        rows = list(range(len(lengths)))
        stream = torch.randint(4, config.vocab_size, (sum(lengths),), generator=generator)
        starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        places = [(row, caches[1].lengths[row] + n) for row, new in zip(rows, lengths, strict=True) for n in range(new)]
        wanted = exact.logits(exact.hidden(stream, starts, caches[1].rows(rows), plain))
        step = network.start(stream.tolist(), [row for row, _ in places], [place for _, place in places])
        worst = max(worst, float((step.logits.cpu() - wanted).norm() / wanted.norm()))
        assert step.likeliest()[0] == step.logits.argmax(-1).tolist()
    assert worst < {torch.bfloat16: 3e-2, torch.float16: 5e-3}[dtype]
