"""Launches ``few_direct.cu`` and ``few_staged.cu``, through NVIDIA's bindings, which PyTorch's CUDA builds bring along."""

import ctypes
from functools import cache
from typing import Any

import torch
from cuda.bindings import driver

from hoidap.kernels import few, machine_code
from hoidap.kernels.few_tiling import SIZES, Tiling, tiling
from hoidap.kernels.fourbit import BLOCK, CodedAbsmax, FourBitWeight
from hoidap.kernels.int8 import Int8Weight
from hoidap.kernels.machine_code import Options, checked

_BASE_SOURCE = b"""extern "C" __global__ void shared_base(unsigned* out) {
  extern __shared__ float shared[];
  *out = (unsigned)__cvta_generic_to_shared(shared);
}"""
_POINTERS = (
    "x", "codes", "absmax", "scales", "steps", "pairs", "mean", "bias", "A", "B", "low", "counters", "sums", "out", "keys",
    "values", "rows", "positions",
)  # fmt: skip
_NUMBERS = ("N", "outs", "K", "rank", "parts", "heads", "head_dim", "cache_tokens", "out_is_wide", "then")
_THEN = ("store", "gelu", "add", "attend")
_DEFAULT_SHARED_BYTES = 48 * 1024


class _Product(ctypes.Structure):
    """``Product`` of few_common.cuh."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_float) for name in ("factor", "clip", "unscale")),
        *((name, ctypes.c_int) for name in _NUMBERS),
    )


def product(x: torch.Tensor, operand: few.Operand, out: torch.Tensor, scratch: few.Scratch, then: few.Then) -> None:
    """``few.product``."""
    params = _params(x, operand, scratch)
    params.out, params.out_is_wide = out.data_ptr(), out.dtype == torch.float32
    _launch(params, operand, x.dtype, then)


def attend_product(
    x: torch.Tensor,
    operand: few.Operand,
    queries: torch.Tensor,
    cells: few.Cells,
    clip: float | None,
    scratch: few.Scratch,
) -> None:
    """``few.attend_product``."""
    params = _params(x, operand, scratch)
    params.out, params.clip = queries.data_ptr(), clip or 0.0
    params.keys, params.values = cells.keys.data_ptr(), cells.values.data_ptr()
    params.rows, params.positions = cells.rows.data_ptr(), cells.positions.data_ptr()
    _, params.heads, params.cache_tokens, params.head_dim = cells.keys.shape
    _launch(params, operand, x.dtype, "attend")


def most_tokens(weight: FourBitWeight | Int8Weight, rank: int) -> int:
    """Return for how many tokens this GPU's shared memory has room, with an adapter of ``rank``."""
    known = {"ins": weight.shape[1], "rank": rank, "is_four": isinstance(weight, FourBitWeight)}
    most_shared = _shared_bytes(weight.device)
    return max((size for size in SIZES if tiling(tokens=size, most_shared=most_shared, **known)), default=0)


def _params(x: torch.Tensor, operand: few.Operand, scratch: few.Scratch) -> _Product:
    weight = operand.weight
    params = _Product(x=x.data_ptr(), codes=weight.codes.data_ptr(), N=len(x), outs=weight.shape[0], K=weight.shape[1])
    if isinstance(weight, Int8Weight):
        params.absmax = weight.scales.data_ptr()
    else:
        assert operand.pairs is not None  # noqa: S101 - Operand.of has made them
        params.pairs, params.unscale = operand.pairs.data_ptr(), operand.unscale
        if isinstance(absmax := weight.absmax, CodedAbsmax):
            params.absmax, params.scales = absmax.codes.data_ptr(), absmax.scales.data_ptr()
            params.steps, params.mean = absmax.levels.data_ptr(), absmax.mean.data_ptr()
        else:
            params.absmax = absmax.data_ptr()
    if operand.bias is not None:
        params.bias = operand.bias.data_ptr()
    if operand.A is not None and operand.B is not None:
        params.A, params.B, params.factor = operand.A.data_ptr(), operand.B.data_ptr(), operand.scale
        params.rank, params.parts, params.low = len(operand.A), few.PARTS, scratch.low.data_ptr()
    params.counters, params.sums = scratch.counters.data_ptr(), scratch.sums.data_ptr()
    return params


def _launch(params: _Product, operand: few.Operand, dtype: torch.dtype, then: str) -> None:
    params.then = _THEN.index(then)
    weight = operand.weight
    device = torch.cuda.get_device_properties(weight.device)
    is_four = isinstance(weight, FourBitWeight)
    most_shared = _shared_bytes(weight.device)
    chosen = tiling(tokens=params.N, ins=params.K, rank=params.rank, is_four=is_four, most_shared=most_shared)
    assert chosen is not None  # noqa: S101 - most_tokens has said so
    is_coded = isinstance(weight, FourBitWeight) and isinstance(weight.absmax, CodedAbsmax)
    options = options_of(chosen, ins=params.K, is_bf16=dtype == torch.bfloat16, is_four=is_four, is_coded=is_coded)
    shared = chosen.shared_bytes(tokens=params.N, rank=params.rank, is_four=is_four)
    config = driver.CUlaunchConfig()
    firsts = params.parts * params.rank // 16  # programs that multiply A
    room = chosen.programs * device.multi_processor_count
    most = max(room - firsts, room // 2) if chosen.stages else room  # those that multiply A end soon
    config.gridDimX, config.blockDimX = firsts + chosen.programs_for(params.outs, params.K, most), chosen.threads
    config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1
    config.sharedMemBytes = shared
    config.hStream = torch.cuda.current_stream(weight.device).cuda_stream
    if device.major >= 9:  # may begin while the launch ahead of it ends
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        config.attrs, config.numAttrs = [attribute], 1
    function = _function(weight.device, chosen.source, options, shared)
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(params))
    checked(driver.cuLaunchKernelEx(config, function, ctypes.addressof(arguments), 0))


def options_of(chosen: Tiling, *, ins: int, is_bf16: bool, is_four: bool, is_coded: bool) -> Options:
    """Return what a tiling's source is compiled with, but for SHARED_BASE."""
    return (
        ("IS_BF16", is_bf16), ("IS_FOUR", is_four), ("IS_CODED", is_coded),
        ("IS_WHOLE", ins // BLOCK % chosen.blocks_at_once == 0), ("TOKEN_TILES", chosen.token_tiles),
        ("TOKEN_SLOTS", chosen.token_slots), ("ROW_TILES", chosen.row_tiles), ("WARPS_ROWS", chosen.warps_rows),
        ("WARPS_COLUMNS", chosen.warps_columns), ("BLOCKS_AT_ONCE", chosen.blocks_at_once), ("STAGE_COUNT", chosen.stages),
        ("PROGRAMS", chosen.programs),
    )  # fmt: skip


@cache
def _shared_bytes(device: torch.device) -> int:
    most = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    return int(checked(driver.cuDeviceGetAttribute(most, 0 if device.index is None else device.index)))


@cache
def _function(device: torch.device, source: str, options: Options, shared: int) -> Any:
    at = _shared_base(device)
    function = machine_code.load(_architecture(device), source, (*options, ("SHARED_BASE", at)), "run")
    if shared > _DEFAULT_SHARED_BYTES:
        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        checked(driver.cuFuncSetAttribute(function, most, shared))
    return function


@cache
def _shared_base(device: torch.device) -> int:
    """Return the address at which a kernel's own shared memory begins; what is before it is the system's."""
    function = machine_code.load(_architecture(device), _BASE_SOURCE, (), "shared_base")
    found = torch.zeros(1, dtype=torch.int32, device=device)
    out = ctypes.c_void_p(found.data_ptr())
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(out))
    stream = torch.cuda.current_stream(device).cuda_stream
    checked(driver.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 1024, stream, ctypes.addressof(arguments), 0))
    return int(found)


def _architecture(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"
