"""The kernels for few tokens, compiled for the CPU with their instructions emulated, against plain arithmetic.

What tilings, tails and shared tiles compute is tested where no GPU is; races and speed are not (test_gpu.py).
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from hoidap.kernels import few, fourbit, int8
from hoidap.kernels.few_tiling import tiling

KERNELS = Path(few.__file__).parent
EMULATION = Path(__file__).parent / "emulation"
POINTERS = (
    "x", "codes", "absmax", "scales", "steps", "pairs", "mean", "bias", "A", "B", "low", "counters", "sums", "out", "keys",
    "values", "rows", "positions",
)  # fmt: skip
NUMBERS = ("N", "outs", "K", "rank", "parts", "heads", "head_dim", "cache_tokens", "out_is_wide", "then")
THEN = ("store", "gelu", "add", "attend")
H200, RTX, T4 = 227 * 1024, 99 * 1024, 64 * 1024
BF16, FP16 = torch.bfloat16, torch.float16
HEADS, WIDTH, CELLS = 2, 64, 9


class Product(ctypes.Structure):
    """As in few_common.cuh."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_float) for name in ("factor", "clip", "unscale")),
        *((name, ctypes.c_int) for name in NUMBERS),
    )


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Return what makes a kernel's ``launch``."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++, to compile the kernels for the CPU")
    folder = tmp_path_factory.mktemp("emulated")
    for file in (*KERNELS.glob("few*.cu"), KERNELS / "few_common.cuh", *EMULATION.iterdir()):
        shutil.copy(file, folder)
    made = {}

    def make(source, options):
        if (source, options) not in made:
            library = folder / f"{len(made)}.so"
            names = [f"-D{name}={int(value)}" for name, value in options]
            command = ["g++", "-std=c++20", "-O1", "-w", "-shared", "-fPIC", "-fno-strict-aliasing", f'-DKERNEL="{source}"']
            done = subprocess.run(
                [*command, *names, "launch.cpp", "-o", library], cwd=folder, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            made[source, options] = ctypes.CDLL(str(library)).launch
        return made[source, options]

    return make


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


CASES = [
    # tokens, outs, ins, rank, then, dtype, kind, shared memory, programs
    (1, 192, 448, 32, "gelu", BF16, "nf4", H200, 5),
    (2, 100, 448, 8, "store", BF16, "nf4 single", H200, 3),
    (3, 384, 320, 32, "attend", FP16, "nf4", T4, 7),
    (7, 192, 1024, 64, "add", BF16, "fp4", H200, 5),
    (5, 200, 320, 0, "store", BF16, "int8", H200, 9),
    (16, 96, 4096, 32, "add", BF16, "nf4", H200, 11),
    (20, 384, 320, 0, "attend", BF16, "nf4", H200, 4),
    (32, 300, 704, 32, "gelu", FP16, "nf4", T4, 9),
    (33, 200, 1024, 40, "store", FP16, "nf4 single", RTX, 9),
    (64, 300, 448, 32, "gelu", BF16, "nf4", H200, 3),
    (64, 130, 64, 32, "store", BF16, "nf4", H200, 2),
    (40, 500, 640, 0, "store", BF16, "int8", H200, 6),
    (9, 500, 640, 32, "store", BF16, "int8", T4, 1),
]


@pytest.mark.parametrize(
    ("count", "outs", "ins", "rank", "then", "dtype", "kind", "most_shared", "programs"), CASES, ids=str
)
def test_a_kernel_computes_the_product(count, outs, ins, rank, then, dtype, kind, most_shared, programs, compiled):
    is_four = kind != "int8"
    weight = normal(outs, ins) * 0.05
    weight = fourbit.quantize(weight, kind[:3], double_quant="single" not in kind) if is_four else int8.quantize(weight)
    operand = few.Operand.of(weight, normal(outs), dtype)
    if rank:
        operand = operand.with_adapter(normal(rank, ins) * 0.05, normal(outs, rank) * 0.05, 0.7, dtype)
        rank = len(operand.A)
    x = normal(count, ins).to(dtype)
    chosen = tiling(tokens=count, ins=ins, rank=rank, is_four=is_four, most_shared=most_shared)
    is_coded = is_four and isinstance(weight.absmax, fourbit.CodedAbsmax)
    options = (
        ("IS_BF16", dtype == BF16), ("IS_FOUR", is_four), ("IS_CODED", is_coded), ("SHARED_BASE", 0), ("PROGRAMS", 1),
        ("IS_WHOLE", ins // 64 % chosen.blocks_at_once == 0), ("TOKEN_TILES", chosen.token_tiles),
        ("TOKEN_SLOTS", chosen.token_slots), ("ROW_TILES", chosen.row_tiles), ("WARPS_ROWS", chosen.warps_rows),
        ("WARPS_COLUMNS", chosen.warps_columns), ("BLOCKS_AT_ONCE", chosen.blocks_at_once),
        ("STAGE_COUNT", chosen.stages),
    )  # fmt: skip
    programs = chosen.programs_for(outs, ins, programs)
    tiles = -(-outs // chosen.rows)
    counters = torch.zeros(2 + tiles, dtype=torch.int32)
    nan = float("nan")
    clip = 1.0 if then == "attend" else 0.0
    out = (
        normal(count, outs)
        if then == "add"
        else torch.full((count, outs // 3 if then == "attend" else outs), nan).to(dtype)
    )
    keys, values = (torch.zeros(count + 2, HEADS, CELLS, WIDTH, dtype=dtype) for _ in range(2))
    rows, positions = (torch.arange(count) + 1).int(), (torch.arange(count) % CELLS).int()
    given = {
        "x": x, "codes": weight.codes, "bias": operand.bias, "out": out, "counters": counters, "rows": rows,
        "positions": positions, "keys": keys, "values": values, "absmax": weight.absmax if is_four else weight.scales,
        "sums": torch.full((2 * programs * chosen.tokens * chosen.rows,), nan),
        "low": torch.full((few.PARTS * count * max(1, rank),), nan),
    }  # fmt: skip
    if is_four:
        given["pairs"] = operand.pairs
    if is_coded:
        absmax = weight.absmax
        given |= {"absmax": absmax.codes, "scales": absmax.scales, "steps": absmax.levels, "mean": absmax.mean}
    if rank:
        given |= {"A": operand.A, "B": operand.B}
    params = Product(
        **{name: tensor.data_ptr() for name, tensor in given.items()}, N=count, outs=outs, K=ins, rank=rank,
        parts=few.PARTS if rank else 0, factor=operand.scale, unscale=operand.unscale, clip=clip, heads=HEADS,
        head_dim=WIDTH, cache_tokens=CELLS, out_is_wide=out.dtype == torch.float32, then=THEN.index(then),
    )  # fmt: skip
    wanted = few._reference(x, operand)
    if then == "attend":
        wanted = wanted.clamp(-clip, clip)
    wanted = torch.nn.functional.gelu(wanted) if then == "gelu" else wanted + out if then == "add" else wanted
    launch = compiled(chosen.source, options)
    for _ in range(1 if then == "add" else 2):  # the second finds the counters as the first left them
        launch(ctypes.byref(params), programs + few.PARTS * rank // 16, chosen.threads)
        assert not counters.any()
    if then == "attend":
        cells = [cache[rows.long(), :, positions.long()].flatten(1) for cache in (keys, values)]
        assert not keys[0].any()
        out = torch.cat([out, *cells], 1)
    error = float((out.double() - wanted).norm() / wanted.double().norm())
    assert error < {BF16: 3e-3, FP16: 6e-4}[dtype]
