"""Compiles and launches ``few.cu``, through NVIDIA's bindings for Python, which PyTorch's CUDA builds bring along.

A kernel is compiled when it is first launched, for exactly this GPU and a number of tokens, which takes a second or two;
the user's cache folder keeps it.
"""

import contextlib
import ctypes
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from cuda.bindings import driver, nvrtc

from hoidap.kernels import few
from hoidap.kernels.few_tiling import Tiling, tiling
from hoidap.kernels.fourbit import BLOCK, CodedAbsmax, FourBitWeight
from hoidap.kernels.int8 import Int8Weight

_SOURCE = Path(__file__).parent / "few.cu"
_BASE_SOURCE = b"""extern "C" __global__ void shared_base(unsigned* out) {
  extern __shared__ float shared[];
  *out = (unsigned)__cvta_generic_to_shared(shared);
}"""
_POINTERS = (
    "x", "codes", "absmax", "scales", "steps", "pairs", "mean", "bias", "A", "B", "low", "counters", "out", "keys",
    "values", "rows", "positions",
)  # fmt: skip
_NUMBERS = ("N", "outs", "K", "rank", "parts", "heads", "head_dim", "cache_tokens", "out_is_wide", "then")
_THEN = ("store", "gelu", "add", "attend")
_DEFAULT_SHARED_BYTES = 48 * 1024
_DIGEST_BYTES = 32  # of SHA-256, ahead of machine code that is kept

Options = tuple[tuple[str, int], ...]  # the names that few.cu is compiled with, and their values


class _Product(ctypes.Structure):
    """``Product`` of few.cu."""

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


def fits(weight: FourBitWeight | Int8Weight, rank: int) -> bool:
    """Whether this GPU's shared memory holds what products of 64 tokens with a matrix and an adapter take."""
    is_four = isinstance(weight, FourBitWeight)
    most_shared = _shared_bytes(weight.device)
    try:
        tiling(tokens=few.MOST_TOKENS, ins=weight.shape[1], rank=rank, is_four=is_four, most_shared=most_shared)
    except ValueError:
        return False
    return True


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
    params.counters = scratch.counters.data_ptr()
    return params


def _launch(params: _Product, operand: few.Operand, dtype: torch.dtype, then: str) -> None:
    params.then = _THEN.index(then)
    weight = operand.weight
    device = torch.cuda.get_device_properties(weight.device)
    is_four = isinstance(weight, FourBitWeight)
    most_shared = _shared_bytes(weight.device)
    chosen = tiling(tokens=params.N, ins=params.K, rank=params.rank, is_four=is_four, most_shared=most_shared)
    is_coded = isinstance(weight, FourBitWeight) and isinstance(weight.absmax, CodedAbsmax)
    options = options_of(chosen, ins=params.K, is_bf16=dtype == torch.bfloat16, is_four=is_four, is_coded=is_coded)
    shared = chosen.shared_bytes(tokens=params.N, rank=params.rank, is_four=is_four)
    config = driver.CUlaunchConfig()
    programs = min(chosen.programs * device.multi_processor_count, -(-params.outs // chosen.rows))
    config.gridDimX, config.blockDimX = params.parts * params.rank // 16 + programs, chosen.threads
    config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1
    config.sharedMemBytes = shared
    config.hStream = torch.cuda.current_stream(weight.device).cuda_stream
    if device.major >= 9:  # may begin while the launch ahead of it ends
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        config.attrs, config.numAttrs = [attribute], 1
    function = _compiled(weight.device, options, shared)
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(params))
    _checked(driver.cuLaunchKernelEx(config, function, ctypes.addressof(arguments), 0))


def options_of(chosen: Tiling, *, ins: int, is_bf16: bool, is_four: bool, is_coded: bool) -> Options:
    """Return what few.cu is compiled with."""
    return (
        ("IS_BF16", is_bf16), ("IS_FOUR", is_four), ("IS_CODED", is_coded),
        ("IS_WHOLE", ins // BLOCK % chosen.blocks_at_once == 0), ("TOKEN_TILES", chosen.token_tiles),
        ("TOKEN_SLOTS", chosen.token_slots), ("ROW_TILES", chosen.row_tiles), ("WARPS_ROWS", chosen.warps_rows),
        ("WARPS_COLUMNS", chosen.warps_columns), ("BLOCKS_AT_ONCE", chosen.blocks_at_once), ("AHEAD", chosen.ahead),
        ("PROGRAMS", chosen.programs),
    )  # fmt: skip


@cache
def _shared_bytes(device: torch.device) -> int:
    most = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    return int(_checked(driver.cuDeviceGetAttribute(most, 0 if device.index is None else device.index)))


@cache
def _compiled(device: torch.device, options: Options, shared: int) -> Any:
    function = _function(device, _SOURCE.read_bytes(), (*options, ("SHARED_BASE", _shared_base(device))), b"run")
    if shared > _DEFAULT_SHARED_BYTES:
        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(function, most, shared))
    return function


@cache
def _shared_base(device: torch.device) -> int:
    """Return the address at which a kernel's own shared memory begins; what is before it is the system's."""
    function = _function(device, _BASE_SOURCE, (), b"shared_base")
    found = torch.zeros(1, dtype=torch.int32, device=device)
    out = ctypes.c_void_p(found.data_ptr())
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(out))
    stream = torch.cuda.current_stream(device).cuda_stream
    _checked(driver.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 1024, stream, ctypes.addressof(arguments), 0))
    return int(found)


def _function(device: torch.device, source: bytes, options: Options, name: bytes) -> Any:
    """Return a function of a source, from the user's cache folder if it is there and whole."""
    major, minor = torch.cuda.get_device_capability(device)
    architecture = f"sm_{major}{minor}"
    said = repr((source, architecture, options, _checked(nvrtc.nvrtcVersion(), several=True))).encode()
    code = _kept(said)
    if code is None:
        code = _compile(source, architecture, options)
        _keep(said, code)
    return _checked(driver.cuModuleGetFunction(_checked(driver.cuModuleLoadData(code)), name))


def _file(said: bytes) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hoidap"
    return folder / f"few-{hashlib.sha256(said).hexdigest()[:32]}.cubin"


def _kept(said: bytes) -> bytes | None:
    with contextlib.suppress(OSError, RuntimeError):  # the latter: there is no home
        held = _file(said).read_bytes()
        digest, code = held[:_DIGEST_BYTES], held[_DIGEST_BYTES:]
        return code if hashlib.sha256(code).digest() == digest else None
    return None


def _keep(said: bytes, code: bytes) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # a folder that cannot be written costs a second each time
        file = _file(said)
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            new.write_bytes(hashlib.sha256(code).digest() + code)
            new.replace(file)
        finally:
            new.unlink(missing_ok=True)


def compile_for(architecture: str, options: Options) -> bytes:
    """Return machine code of few.cu for an architecture such as "sm_75"."""
    return _compile(_SOURCE.read_bytes(), architecture, (*options, ("SHARED_BASE", 0)))


def _compile(source: bytes, architecture: str, options: Options) -> bytes:
    program = _checked(nvrtc.nvrtcCreateProgram(source, b"few.cu", 0, [], []))
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
