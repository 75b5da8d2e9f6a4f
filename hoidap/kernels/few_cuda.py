"""Compiles and launches ``few.cu``, through NVIDIA's bindings for Python, which PyTorch's CUDA builds bring along.

A kernel is compiled when it is first launched, for exactly this GPU and a number of tokens, which takes a second or two, and
kept in the user's cache folder.
"""

import contextlib
import ctypes
import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from cuda.bindings import driver, nvrtc

from hoidap.kernels import few
from hoidap.kernels.int8 import Int8Weight

_SOURCE = Path(__file__).parent / "few.cu"
_POINTERS = (
    "x", "codes", "absmax", "scales", "steps", "pairs", "mean", "bias", "A", "B", "low", "counters", "out", "keys", "values",
    "rows", "positions",
)  # fmt: skip
_NUMBERS = ("N", "outs", "K", "rank", "parts", "heads", "head_dim", "cache_tokens", "out_is_wide", "then")
_THEN = ("store", "gelu", "add", "attend")
_TABLE_BYTES, _STEPS_BYTES = 32_768, 1024
_DEFAULT_SHARED_BYTES = 48 * 1024


class _Product(ctypes.Structure):
    """``Product`` of few.cu."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_float) for name in ("factor", "clip", "unscale")),
        *((name, ctypes.c_int) for name in _NUMBERS),
    )


@dataclass(frozen=True)
class _Tiling:
    """How a product is divided; found by trying on an H200 (``benchmarks/decode.py`` has its speed)."""

    token_tiles: int  # of eight tokens
    token_slots: int  # of few tokens: columns of an instruction that one token takes, each some of the blocks
    row_tiles: int  # of 16 rows that a warp takes
    warps_rows: int  # warps side by side
    warps_columns: int  # warps that share rows, each some of the columns
    blocks_at_once: int  # of 64 columns
    ahead: int  # activations are loaded a block ahead
    programs: int  # a multiprocessor, which take tiles by turns

    @property
    def rows(self) -> int:
        return 16 * self.row_tiles * self.warps_rows


_BY_TOKENS = {
    1: _Tiling(1, 8, 1, 1, 4, 8, ahead=0, programs=3),
    2: _Tiling(1, 4, 1, 1, 8, 4, ahead=0, programs=2),
    4: _Tiling(1, 2, 1, 1, 8, 4, ahead=0, programs=2),
    8: _Tiling(1, 1, 1, 1, 8, 4, ahead=0, programs=2),
    16: _Tiling(2, 1, 2, 1, 8, 4, ahead=0, programs=1),
    32: _Tiling(4, 1, 2, 1, 8, 2, ahead=1, programs=1),
    64: _Tiling(8, 1, 1, 2, 4, 2, ahead=1, programs=1),
}
_LONG, _LONG_BLOCKS = _Tiling(1, 8, 1, 1, 8, 8, ahead=0, programs=2), 160  # one token, of so many blocks a row
# Eight bits are twice the registers of four, and nothing to decode.
_EIGHT_BITS_BY_TOKENS = {
    **{n: _Tiling(1, 1, 1, 1, 8, 4, ahead=0, programs=2) for n in (1, 2, 4, 8)},
    16: _Tiling(2, 1, 1, 1, 8, 2, ahead=1, programs=1),
    32: _Tiling(4, 1, 1, 1, 8, 2, ahead=1, programs=1),
    64: _Tiling(8, 1, 1, 1, 8, 2, ahead=0, programs=1),
}


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


def _params(x: torch.Tensor, operand: few.Operand, scratch: few.Scratch) -> _Product:
    weight = operand.weight
    params = _Product(x=x.data_ptr(), codes=weight.codes.data_ptr(), N=len(x), outs=weight.shape[0], K=weight.shape[1])
    if isinstance(weight, Int8Weight):
        params.absmax = weight.scales.data_ptr()
    else:
        pairs, params.unscale = _pairs(weight.levels, x.dtype)
        params.pairs = pairs.data_ptr()
        if (absmax := few.coded(weight)) is not None:
            params.absmax, params.scales = absmax.codes.data_ptr(), absmax.scales.data_ptr()
            params.steps, params.mean = absmax.levels.data_ptr(), absmax.mean.data_ptr()
        else:
            assert isinstance(weight.absmax, torch.Tensor)  # noqa: S101 - one or the other
            params.absmax = weight.absmax.data_ptr()
    if operand.bias is not None:
        params.bias = operand.bias.data_ptr()
    if operand.A is not None and operand.B is not None:
        params.A, params.B, params.factor = operand.A.data_ptr(), operand.B.data_ptr(), operand.scale
        params.rank, params.parts, params.low = len(operand.A), few.PARTS, scratch.low.data_ptr()
    params.counters = scratch.counters.data_ptr()
    return params


_PAIRS: dict[tuple[tuple[int, ...], torch.device], torch.Tensor] = {}
_LEVELS: dict[tuple[int, torch.dtype], tuple[torch.Tensor, tuple[int, ...], float]] = {}


def _pairs(levels: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    """Return the two levels of each byte in 16 bits, int32 [256], and what they are to be multiplied by."""
    key = (levels.data_ptr(), dtype)
    if key not in _LEVELS:
        bits, unscale = few.levels_16(tuple(levels.tolist()), dtype)
        _LEVELS[key] = (levels, bits, unscale)  # held, so that no other tensor gets its address
    _, bits, unscale = _LEVELS[key]
    if (bits, levels.device) not in _PAIRS:
        words = [bits[byte >> 4] | bits[byte & 15] << 16 for byte in range(256)]
        _PAIRS[bits, levels.device] = torch.tensor(words).to(levels.device, torch.int32)
    return _PAIRS[bits, levels.device], unscale


def _launch(params: _Product, operand: few.Operand, dtype: torch.dtype, then: str) -> None:
    params.then = _THEN.index(then)
    is_four = not isinstance(operand.weight, Int8Weight)
    tokens = 1 << (params.N - 1).bit_length()
    tiling = (_BY_TOKENS if is_four else _EIGHT_BITS_BY_TOKENS)[tokens]
    blocks = params.K // 64
    if tokens == 1 and is_four and blocks >= _LONG_BLOCKS:
        tiling = _LONG
    columns = tiling.warps_columns
    each = tiling.programs
    if blocks // tiling.blocks_at_once % columns and not blocks // tiling.blocks_at_once % 6:
        columns, each = 6, min(2, each)  # PhoGPT-4B's 48 blocks
    device = operand.weight.device
    major, _ = torch.cuda.get_device_capability(device)
    table = _TABLE_BYTES + _STEPS_BYTES if is_four else 0
    width = 8 * tiling.token_tiles
    sums = 2 * 4 * columns * width * tiling.rows + 2 * params.N * params.rank
    shared = max(table + sums, 4 * tiling.warps_rows * columns * 16 * width)
    options = (
        ("IS_BF16", dtype == torch.bfloat16), ("IS_FOUR", is_four), 
        ("IS_CODED", not isinstance(operand.weight, Int8Weight) and few.coded(operand.weight) is not None),
        ("IS_WHOLE", blocks % tiling.blocks_at_once == 0), ("TOKEN_TILES", tiling.token_tiles),
        ("TOKEN_SLOTS", tiling.token_slots), ("ROW_TILES", tiling.row_tiles), ("WARPS_ROWS", tiling.warps_rows),
        ("WARPS_COLUMNS", columns), ("BLOCKS_AT_ONCE", tiling.blocks_at_once), ("AHEAD", tiling.ahead),
        ("PROGRAMS", each),
    )  # fmt: skip
    function = _compiled(device.index or 0, options, shared)
    config = driver.CUlaunchConfig()
    programs = min(each * _multiprocessors(device), -(-params.outs // tiling.rows))
    config.gridDimX = params.parts * params.rank // 16 + programs
    config.blockDimX = 32 * tiling.warps_rows * columns
    config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1
    config.sharedMemBytes = shared
    config.hStream = torch.cuda.current_stream(device).cuda_stream
    if major >= 9:  # may begin while the launch ahead of it ends
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        config.attrs, config.numAttrs = [attribute], 1
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(params))
    _checked(driver.cuLaunchKernelEx(config, function, ctypes.addressof(arguments), 0))


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def _compiled(device: int, options: tuple[tuple[str, int], ...], shared: int) -> Any:
    major, minor = torch.cuda.get_device_capability(device)
    module = _checked(driver.cuModuleLoadData(_machine_code(f"sm_{major}{minor}", options)))
    function = _checked(driver.cuModuleGetFunction(module, b"run"))
    if shared > _DEFAULT_SHARED_BYTES:
        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(function, most, shared))
    return function


def _machine_code(architecture: str, options: tuple[tuple[str, int], ...]) -> bytes:
    """Return what ``compile_for`` does, from the user's cache folder if it is there."""
    version = _checked(nvrtc.nvrtcVersion(), several=True)
    said = repr((_SOURCE.read_bytes(), architecture, options, version)).encode()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hoidap"
    file = folder / f"few-{hashlib.sha256(said).hexdigest()[:32]}.cubin"
    with contextlib.suppress(OSError):
        return file.read_bytes()
    code = compile_for(architecture, options)
    with contextlib.suppress(OSError):  # a folder that cannot be written costs a second each time
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as new:
            new.write(code)
        Path(new.name).replace(file)
    return code


def compile_for(architecture: str, options: tuple[tuple[str, int], ...]) -> bytes:
    """Return machine code of few.cu for an architecture such as "sm_75"."""
    program = _checked(nvrtc.nvrtcCreateProgram(_SOURCE.read_bytes(), b"few.cu", 0, [], []))
    flags = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
    flags += [f"-D{name}={int(value)}".encode() for name, value in options]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(flags), flags)
    if int(error):
        log = bytes(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
        nvrtc.nvrtcGetProgramLog(program, log)
        msg = f"few.cu does not compile for {architecture}: {log.decode()}"
        raise RuntimeError(msg)
    code = bytes(_checked(nvrtc.nvrtcGetCUBINSize(program)))
    _checked(nvrtc.nvrtcGetCUBIN(program, code))
    return code


def _checked(result: tuple[Any, ...], *, several: bool = False) -> Any:
    error, *values = result
    if int(error):
        msg = f"CUDA: {error}"
        raise RuntimeError(msg)
    return values if several else values[0] if values else None
