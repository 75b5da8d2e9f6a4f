"""Every kernel compiles for a T4 (sm_75): within its shared memory, those of training with no register spilled.

Triton and NVIDIA's compiler are needed, not a T4; they come with PyTorch's CUDA builds. Attention in training is not among
them: a T4 has PyTorch's.
"""

import re
import subprocess
from pathlib import Path

import pytest

from hoidap.kernels.few_tiling import SIZES, tiling
from hoidap.kernels.machine_code import compiled

pytestmark = pytest.mark.gpu

SHARED_BYTES = 64 * 1024
FLOAT16, STREAM, WIDE = "*fp16", "*fp32", "*fp32"  # beside float16 the residual stream is float32
CODES = {"codes": "*u8", "levels": WIDE, "absmax": "*u8", "absmax_scales": WIDE, "absmax_levels": WIDE, "absmax_mean": WIDE}
BORDER = {"A": WIDE, "B": WIDE, "bias": FLOAT16, "scale": "fp32"}
DECODING = {"INS": 4096, "CODED": True}
BORDERING = {"RANK": 32, "SPARE": 64, "SPARE_WIDTH": 64, "BIASED": True}
SPARE = {"SPARE": 64, "SPARE_WIDTH": 64}
EXACT = {"num_warps": 4, "enable_fp_fusion": False}
# Kernel → types of its pointers and floats (the rest are int32), constants, options.
KERNELS = {
    "rows._add_norm": (
        {"x": STREAM, "y": STREAM, "total": STREAM, "weight": FLOAT16, "bias": FLOAT16, "out": FLOAT16, "epsilon": "fp32"},
        {"d": 4096, "WIDTH": 4096, "ADDS": True, "BIASED": True, **SPARE}, {"num_warps": 8},
    ),
    "rows._norm_backward": (
        {
            "grad": FLOAT16, "x": STREAM, "weight": FLOAT16, "bias": FLOAT16, "above": STREAM, "total": STREAM,
            "out": FLOAT16, "normed": FLOAT16, "epsilon": "fp32",
        },
        {"d": 4096, "WIDTH": 4096, "BIASED": True, "ROUNDS": True}, {"num_warps": 8},
    ),
    "rows._gelu": ({"u": FLOAT16, "out": FLOAT16}, {"n": 16_384, "WIDTH": 2048, **SPARE}, {"num_warps": 4}),
    "rows._gelu_backward": (
        {"u": FLOAT16, "grad": FLOAT16, "out": FLOAT16}, {"n": 16_384, "WIDTH": 2048}, {"num_warps": 4}
    ),
    "fourbit._dequantize": ({**CODES, "out": FLOAT16}, {**DECODING, "BLOCKS": 16}, EXACT),
    "fourbit._border": (
        {**BORDER, "out": FLOAT16}, {"INS": 4096, "ROWS": 32, "WIDTH": 1024, **BORDERING}, {"num_warps": 4}
    ),
    "fourbit._bordered": (
        {**CODES, **BORDER, "out": FLOAT16}, {**DECODING, "BLOCKS": 16, "ROWS": 32, "WIDTH": 1024, **BORDERING}, EXACT
    ),
    "rows._norm": (
        {"x": STREAM, "weight": FLOAT16, "bias": FLOAT16, "out": FLOAT16, "epsilon": "fp32"},
        {"d": 4096, "WIDTH": 4096, "BIASED": True, "EARLY": False}, {"num_warps": 8},
    ),
    "cached._attend": (
        {
            "queries": FLOAT16, "keys": FLOAT16, "values": FLOAT16, "slopes": WIDE, "out": FLOAT16, "sums": WIDE,
            "peaks": WIDE, "weights": WIDE, "scale": "fp32",
            **dict.fromkeys(("rows", "positions", "settled", "counters"), "*i32"),
        },
        {"D": 128, "PIECE": 64, "PIECES": 16, "AT_ONCE": 8, "EARLY": False, "READS_AHEAD": False}, {"num_warps": 2},
    ),
    "cross_entropy._cross_entropy": (
        {"logits": WIDE, "targets": "*i64", "grad": FLOAT16, "losses": WIDE, "factor": "fp32"}, {"WIDTH": 4096},
        {"num_warps": 8},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_compiles_for_a_t4_within_its_shared_memory_and_registers(name, tmp_path):
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    file, kernel = name.split(".")
    function = getattr(importlib.import_module(f"hoidap.kernels.{file}_triton"), kernel)
    types, constants, options = KERNELS[name]
    signature = {a: "constexpr" if a in constants else types.get(a, "i32") for a in function.arg_names}
    assert set(constants) | set(types) <= set(function.arg_names)
    aligned = {(at,): [["tt.divisibility", 16]] for at, a in enumerate(function.arg_names) if signature[a].startswith("*")}
    source = ASTSource(function, signature, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 75, 32), options=options)
    assert ".target sm_75" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= SHARED_BYTES
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    ptx = tmp_path / "kernel.ptx"
    ptx.write_text(compiled.asm["ptx"])
    command = [str(ptxas), "-v", "-arch=sm_75", str(ptx), "-o", str(tmp_path / "kernel.cubin")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert re.findall(r"(\d+) bytes spill", said) == ["0", "0"], said


@pytest.mark.parametrize("tokens", SIZES)
@pytest.mark.parametrize("is_four", [False, True], ids=["eight bits", "four bits"])
def test_products_of_few_tokens_compile_for_a_t4(tokens, is_four):
    from hoidap.kernels.few_cuda import options_of

    chosen = tiling(tokens=tokens, ins=3072, rank=32, is_four=is_four, most_shared=SHARED_BYTES)
    options = options_of(chosen, ins=3072, is_bf16=False, is_four=is_four, is_coded=True)
    assert len(compiled("sm_75", chosen.source, (*options, ("SHARED_BASE", 0)))) > 10_000
