"""What needs a CUDA device: the kernels equal their references, and the main line runs there in each dtype."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hoidap.data.pack import pack
from hoidap.infer.engine import Request, Sampling
from hoidap.infer.torch_engine import TorchEngine
from hoidap.kernels import nf4
from hoidap.model.adapter import new_adapter
from hoidap.model.checkpoint import assemble, load_checkpoint, random_tensors
from hoidap.model.config import MPTConfig
from hoidap.model.loss import loss_nats
from hoidap.prompt import Turn, render
from hoidap.recipe import Optimizer, Recipe
from hoidap.tokenizer import Tokenizer
from hoidap.training.loop import Stepper

pytestmark = pytest.mark.gpu

GOLDEN = Path(__file__).parent / "golden"
TOKENIZER = Path(__file__).parent.parent / "hoidap" / "assets" / "tokenizer.json"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONFIG = MPTConfig(d_model=256, n_heads=4, n_layers=2, vocab_size=8192, max_seq_len=512)
# Relative error of a whole gradient against float32: rounding of 8 and 11 bits, several products deep.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def tiny(device: torch.device, dtype: torch.dtype, *, quantize: bool = True):
    tensors = random_tensors(CONFIG, CPU, torch.float32, 0)
    return assemble(CONFIG, tensors, quantize=quantize, device=device, dtype=dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", [(64, 1), (7, 64), (192, 320), (1000, 448), (4096, 4096)])
def test_nf4_dequantised_on_the_gpu_equals_the_reference_to_the_bit(shape, dtype):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.05
    on_cpu = nf4.quantize(weight)
    on_gpu = nf4.NF4Weight(*(getattr(on_cpu, f).to(CUDA) for f in list(on_cpu.__dataclass_fields__)[:5]), on_cpu.shape)
    fast = nf4.dequantize(on_gpu, dtype)
    assert torch.equal(fast, nf4.dequantize_reference(on_gpu, dtype))
    assert torch.equal(fast.cpu(), nf4.dequantize_reference(on_cpu, dtype))


@pytest.mark.parametrize("shape", [(192, 320), (1000, 448)])
def test_nf4_quantised_on_the_gpu_has_the_codes_of_the_cpu(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nf4.quantize(weight.to(CUDA)).codes.cpu(), nf4.quantize(weight).codes)


@pytest.mark.parametrize("name", ["phogpt-4b-shape", "phogpt-7b5-shape", "mpt-7b-shape"])
def test_golden_logits_on_the_gpu(name):
    expected = load_file(GOLDEN / name / "expected.safetensors")
    model = load_checkpoint(GOLDEN / name, quantize=False, device=CUDA, dtype=torch.float32)
    mask = expected["attention_mask"].bool()
    with torch.no_grad():
        logits = model.forward(expected["input_ids"], mask).cpu()
    assert (logits - expected["logits"])[mask].abs().max() < 1e-4


@pytest.mark.parametrize("recompute", [False, True])
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


def test_the_engine_writes_the_same_greedy_text_on_both_devices():
    tokenizer = Tokenizer.from_file(TOKENIZER)
    texts = []
    for device in (CPU, CUDA):
        engine = TorchEngine(tiny(device, torch.float32, quantize=False), tokenizer, max_batch=3)
        for question in ("Mấy giờ mở cửa?", "Giá?", "Ở đâu vậy shop?", "Có giao hàng không?"):
            engine.submit(Request(tuple(render([Turn(question)], tokenizer).token_ids), Sampling(max_new_tokens=12)))
        out: dict[int, list[int]] = {}
        while pieces := engine.step():
            for piece in pieces:
                out.setdefault(piece.request_id, []).append(piece.token_id)
        texts.append(out)
    assert texts[0] == texts[1]
