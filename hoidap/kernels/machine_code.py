"""Machine code of CUDA sources for the GPU at hand: compiled when first needed, and kept in the user's cache folder.

NVIDIA's compiler library and bindings come with PyTorch's CUDA builds.
"""

import contextlib
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
_HEADERS = ("few_common.cuh", "few_instructions.cuh")
_DIGEST_BYTES = 32  # of SHA-256, ahead of code that is kept

Options = tuple[tuple[str, int], ...]  # the names that a source is compiled with, and their values


def load(architecture: str, source: str | bytes, options: Options, name: str) -> Any:
    """Return a function of a source, ready to be launched.

    Args:
        architecture: the GPU's, such as "sm_90".
        source: a file of this folder, or CUDA C++ itself.
        options: what it is compiled with.
        name: the function's.

    Raises:
        RuntimeError: it does not compile, or the GPU refuses it.

    """
    from cuda.bindings import driver, nvrtc

    text = _text(source)
    said = repr((text, _headers(), architecture, options, checked(nvrtc.nvrtcVersion(), several=True))).encode()
    code = kept(said)
    if code is None:
        code = compiled(architecture, source, options)
        keep(said, code)
    return checked(driver.cuModuleGetFunction(checked(driver.cuModuleLoadData(code)), name.encode()))


def compiled(architecture: str, source: str | bytes, options: Options) -> bytes:
    """Return machine code for an architecture; no GPU is needed."""
    from cuda.bindings import nvrtc

    names = [name.encode() for name in _HEADERS]
    program = checked(nvrtc.nvrtcCreateProgram(_text(source), b"few.cu", len(names), _headers(), names))
    flags = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17"]
    flags += [f"-D{name}={int(value)}".encode() for name, value in options]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(flags), flags)
    if int(error):
        log = bytes(checked(nvrtc.nvrtcGetProgramLogSize(program)))
        nvrtc.nvrtcGetProgramLog(program, log)
        msg = f"{source!r} does not compile for {architecture}: {log.decode()}"
        raise RuntimeError(msg)
    code = bytes(checked(nvrtc.nvrtcGetCUBINSize(program)))
    checked(nvrtc.nvrtcGetCUBIN(program, code))
    return code


def checked(result: tuple[Any, ...], *, several: bool = False) -> Any:
    """Return what a call into CUDA returned behind its error; raise RuntimeError for one."""
    error, *values = result
    if int(error):
        msg = f"CUDA: {error}"
        raise RuntimeError(msg)
    return values if several else values[0] if values else None


def kept(said: bytes) -> bytes | None:
    """Return the code that was kept for what ``said`` tells, if it is there and whole."""
    with contextlib.suppress(OSError, RuntimeError):  # the latter: there is no home
        held = _file(said).read_bytes()
        digest, code = held[:_DIGEST_BYTES], held[_DIGEST_BYTES:]
        return code if hashlib.sha256(code).digest() == digest else None
    return None


def keep(said: bytes, code: bytes) -> None:
    """Keep code for the next process; a folder that cannot be written costs a second or two each time."""
    with contextlib.suppress(OSError, RuntimeError):
        file = _file(said)
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            new.write_bytes(hashlib.sha256(code).digest() + code)
            new.replace(file)
        finally:
            new.unlink(missing_ok=True)


def _file(said: bytes) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hoidap"
    return folder / f"{hashlib.sha256(said).hexdigest()[:40]}.cubin"


def _text(source: str | bytes) -> bytes:
    return source if isinstance(source, bytes) else (_FOLDER / source).read_bytes()


@cache
def _headers() -> list[bytes]:
    return [(_FOLDER / name).read_bytes() for name in _HEADERS]
