"""Linear layers stored in 4 bits, in the tensors that bitsandbytes saves and transformers reads.

A matrix [out, in] of n weights under the name ``m.weight`` is

    m.weight                                    uint8 [n/2, 1], two codes a byte
    m.weight.absmax                             float32 [n/64]; with double quantisation uint8 [n/64]
    m.weight.quant_map                          float32 [16], what each code stands for
    m.weight.nested_absmax, .nested_quant_map   float32 [ceil(n/64/256)] and [256], with double quantisation alone
    m.weight.quant_state.bitsandbytes__nf4      uint8, JSON: the rest; or …__fp4

Headers alone say which matrices these are (``forms``). What the tensors hold is checked when a matrix is made of them:
files are anyone's, and a wrong scale would be a wrong model without a word.
"""

import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch

from hoidap.errors import CheckpointError
from hoidap.kernels.fourbit import ABSMAX_BLOCK, BLOCK, LEVELS, CodedAbsmax, FourBitWeight, Kind
from hoidap.model.config import LINEARS

Shape = tuple[int, ...]
Header = tuple[Shape, str]  # of a tensor in a file: shape and dtype
Wanted = tuple[Shape, tuple[str, ...]]  # of such a tensor: shape and the dtypes it may have
_MOST_STATE_BYTES = 4096  # real ones have fewer than 200
_BYTES = ("U8", "torch.uint8")  # safetensors' name and PyTorch's, which a pickle has
_FLOAT32 = ("F32",)
_STATE = "quant_state.bitsandbytes__"
_NESTED = ("nested_absmax", "nested_quant_map")
_COMPUTED = ("float32", "bfloat16", "float16")  # what bitsandbytes dequantises to; hoidap goes by its own dtype
_MOST_FLOAT32 = torch.finfo(torch.float32).max


def is_linear(name: str) -> bool:
    """Whether a tensor is the matrix of one of a block's linear layers."""
    return name.endswith(".weight") and name.removesuffix(".weight").endswith(LINEARS)


@dataclass(frozen=True)
class Form:
    """How one matrix is stored."""

    name: str
    shape: Shape  # out, in
    kind: Kind
    double_quant: bool

    @property
    def state(self) -> str:
        """Name of the tensor that holds JSON."""
        return f"{self.name}.{_STATE}{self.kind}"

    def wanted(self) -> dict[str, Wanted]:
        """Return shape and dtype of each tensor by its name, but of the one that holds JSON, whose length is free."""
        blocks = math.prod(self.shape) // BLOCK
        wanted: dict[str, Wanted] = {
            self.name: ((blocks * BLOCK // 2, 1), _BYTES),
            f"{self.name}.absmax": ((blocks,), _BYTES if self.double_quant else _FLOAT32),
            f"{self.name}.quant_map": ((16,), _FLOAT32),
        }
        if self.double_quant:
            wanted[f"{self.name}.nested_absmax"] = ((math.ceil(blocks / ABSMAX_BLOCK),), _FLOAT32)
            wanted[f"{self.name}.nested_quant_map"] = ((256,), _FLOAT32)
        return wanted

    def names(self) -> set[str]:
        """Return the names of all tensors of the matrix."""
        return {*self.wanted(), self.state}

    def problems(self, found: Mapping[str, Header]) -> list[str]:
        """Return what is wrong that ``wanted`` does not tell: blocks that do not divide it, or no room for JSON."""
        problems = []
        if math.prod(self.shape) % BLOCK:
            problems.append(f"{self.name} is held in 4 bits, whose blocks of {BLOCK} do not divide {self.shape}")
        if self.state not in found:
            problems.append(f"missing {self.state}")
        elif not self.state_is_readable(found):
            shape, dtype = found[self.state]
            problems.append(f"{self.state} is {shape} of {dtype}, wanted 1 to {_MOST_STATE_BYTES:,} bytes of U8")
        return problems

    def state_is_readable(self, found: Mapping[str, Header]) -> bool:
        """Whether the tensor that holds JSON is there, of bytes and few enough."""
        shape, dtype = found.get(self.state, ((), ""))
        return dtype in _BYTES and len(shape) == 1 and 1 <= shape[0] <= _MOST_STATE_BYTES

    def mean(self, state: torch.Tensor) -> float:
        """Return the mean of the absmax values, 0 without double quantisation, from the tensor that holds JSON.

        Raises:
            CheckpointError: it holds no JSON object, or one of another form than this: all that is wrong, by name.

        """
        try:
            values = json.loads(bytes(state.tolist()).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            msg = f"{self.state} is not JSON: {error}"
            raise CheckpointError(msg) from None
        if not isinstance(values, dict):
            msg = f"{self.state} holds {type(values).__name__}, not an object"
            raise CheckpointError(msg)
        only: dict[str, tuple[Any, ...]] = {
            "quant_type": (self.kind,), "blocksize": (BLOCK,), "dtype": _COMPUTED, "shape": (list(self.shape),),
        }  # fmt: skip
        if self.double_quant:
            only |= {"nested_blocksize": (ABSMAX_BLOCK,), "nested_dtype": ("float32",)}
        wrong = [  # shortened: nothing says how deep a value goes
            f"{key} is {reprlib.repr(values.get(key))}, supported is {' or '.join(repr(value) for value in allowed)}"
            for key, allowed in only.items()
            if values.get(key) not in allowed
        ]
        known = {*only, "nested_offset"} if self.double_quant else {*only}
        wrong += [f"{reprlib.repr(key)} is not known" for key in values if key not in known]
        offset: Any = values.get("nested_offset") if self.double_quant else 0.0
        # Not NaN either: it is not within any bounds. A longer number is valid JSON and no float32.
        is_number = isinstance(offset, int | float) and not isinstance(offset, bool)
        if not is_number or not -_MOST_FLOAT32 <= offset <= _MOST_FLOAT32:
            wrong.append(f"nested_offset is {reprlib.repr(offset)}, it takes a finite number")
        if wrong:
            raise CheckpointError(f"{self.state}: {'; '.join(wrong)}")
        return float(offset)

    def weight(self, tensors: Mapping[str, torch.Tensor]) -> FourBitWeight:
        """Make the matrix of its tensors, whose shapes and dtypes are those wanted; it shares their memory.

        Raises:
            CheckpointError: a tensor holds what no quantisation writes, by name.

        """
        mean = self.mean(tensors[self.state])
        levels = tensors[f"{self.name}.quant_map"]
        if not torch.equal(levels, torch.tensor(LEVELS[self.kind])):
            # bitsandbytes computes with its own levels whatever stands here: others would mean another model to it.
            msg = f"{self.name}.quant_map holds other levels than those of {self.kind}"
            raise CheckpointError(msg)
        absmax: torch.Tensor | CodedAbsmax = self._finite(tensors, "absmax")
        if self.double_quant:
            scales, steps = (self._finite(tensors, part) for part in _NESTED)
            absmax = CodedAbsmax(tensors[f"{self.name}.absmax"], scales, steps, torch.tensor(mean))
            if not (scales.abs().max() * steps.abs().max() + abs(mean)).isfinite():
                msg = f"{self.name}.nested_absmax and the rest stand for absmax values beyond float32"
                raise CheckpointError(msg)
        return FourBitWeight(tensors[self.name].flatten(), levels, absmax, (self.shape[0], self.shape[1]))

    def _finite(self, tensors: Mapping[str, torch.Tensor], part: str) -> torch.Tensor:
        tensor = tensors[f"{self.name}.{part}"]
        if not tensor.isfinite().all():
            msg = f"{self.name}.{part} holds numbers that are not finite"
            raise CheckpointError(msg)
        return tensor


def forms(shapes: Mapping[str, Shape], found: Mapping[str, Header]) -> dict[str, Form]:
    """Return the matrices that are stored in 4 bits: those with a tensor beside their own that only these have."""
    parts: dict[str, set[str]] = {}
    for key in found:
        module, _, part = key.partition(".weight.")
        name = f"{module}.weight"
        if is_linear(name) and name in shapes and (part in {"absmax", "quant_map", *_NESTED} or part.startswith(_STATE)):
            parts.setdefault(name, set()).add(part)
    result = {}
    for name, beside in parts.items():
        kinds: list[Kind] = [kind for kind in get_args(Kind) if f"{_STATE}{kind}" in beside]
        _, absmax_dtype = found.get(f"{name}.absmax", ((), ""))
        double_quant = absmax_dtype in _BYTES or not beside.isdisjoint(_NESTED)
        result[name] = Form(name, shapes[name], kinds[0] if kinds else "nf4", double_quant)
    return result


def kind_of(weight: FourBitWeight) -> Kind:
    """Return the kind whose levels a matrix has.

    Raises:
        CheckpointError: it has those of none.

    """
    levels = weight.levels.to("cpu")
    for kind, values in LEVELS.items():
        if torch.equal(levels, torch.tensor(values)):
            return kind
    msg = f"a matrix has levels of no known kind: {levels.tolist()}"
    raise CheckpointError(msg)


def is_double(weight: FourBitWeight) -> bool:
    """Whether the absmax values of a matrix are in eight bits."""
    return isinstance(weight.absmax, CodedAbsmax)


def copied(weight: FourBitWeight, device: torch.device) -> FourBitWeight:
    """Return a matrix on a device in memory of its own: a part of a mapped file would keep all of it."""

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, copy=True)

    absmax = weight.absmax
    return FourBitWeight(
        copy(weight.codes),
        copy(weight.levels),
        CodedAbsmax(copy(absmax.codes), copy(absmax.scales), copy(absmax.levels), copy(absmax.mean))
        if isinstance(absmax, CodedAbsmax)
        else copy(absmax),
        weight.shape,
    )


def tensors_of(name: str, weight: FourBitWeight, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return a matrix as the tensors of a file; ``dtype`` is what other readers compute in."""
    held = copied(weight, torch.device("cpu"))  # safetensors writes no memory twice, and levels may be shared
    kind, computed = kind_of(held), str(dtype).removeprefix("torch.")
    state: dict[str, Any] = {
        "quant_type": kind,
        "blocksize": BLOCK,
        "dtype": computed if computed in _COMPUTED else "float32",
        "shape": list(held.shape),
    }
    tensors = {name: held.codes.reshape(-1, 1), f"{name}.quant_map": held.levels}
    if isinstance(held.absmax, CodedAbsmax):
        tensors |= {
            f"{name}.absmax": held.absmax.codes,
            f"{name}.nested_absmax": held.absmax.scales,
            f"{name}.nested_quant_map": held.absmax.levels,
        }
        # A float64 holds the float32 exactly, and JSON's shortest digits hold the float64.
        state |= {"nested_blocksize": ABSMAX_BLOCK, "nested_dtype": "float32", "nested_offset": held.absmax.mean.item()}
    else:
        tensors[f"{name}.absmax"] = held.absmax
    tensors[f"{name}.{_STATE}{kind}"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    return tensors


def quantization_config(weight: FourBitWeight, dtype: torch.dtype) -> dict[str, Any]:
    """Return what ``config.json`` says of a model whose matrices are held as this one; transformers goes by it."""
    computed = str(dtype).removeprefix("torch.")
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": kind_of(weight),
        "bnb_4bit_use_double_quant": is_double(weight),
        "bnb_4bit_compute_dtype": computed if computed in _COMPUTED else "float32",
        "bnb_4bit_quant_storage": "uint8",
    }
