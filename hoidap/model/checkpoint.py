"""A model folder becomes an MPT: every tensor accounted for, nothing from the files executed.

A folder holds ``config.json`` and its weights as ``model.safetensors`` or ``pytorch_model.bin``, in one file or in shards
with an index. Tensors are taken one at a time from the mapped file, so the whole is never in memory twice.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hoidap.errors import CheckpointError
from hoidap.kernels import nf4
from hoidap.kernels.nf4 import NF4Weight
from hoidap.model.config import MPTConfig, read_config
from hoidap.model.linear import Weight
from hoidap.model.mpt import LINEARS, MPT

_log = logging.getLogger(__name__)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_FLOATS = ("BF16", "F16", "F32", "F64")  # as safetensors names them
_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}
_Named = tuple[str, torch.Tensor]
Watch = Callable[[str, torch.Tensor, Weight], None]


def unwatched(_name: str, _original: torch.Tensor, _held: Weight) -> None:
    """Watch nothing."""


def load_checkpoint(
    folder: Path, *, quantize: bool, device: torch.device, dtype: torch.dtype, watch: Watch = unwatched
) -> MPT:
    """Load a model folder; with ``quantize`` the linear layers of the blocks are held in NF4.

    ``watch`` is told of each tensor once it is in its place: its name, how it came and how it is held.

    Raises:
        CheckpointError: files missing or broken, options not supported, or tensors that do not fit, all listed in one.

    """
    config = read_config(folder / "config.json")
    files = weight_files(folder)
    _check_tensors(folder, config, files)
    tensors = (named for file in files for named in _read(file))
    return assemble(config, tensors, quantize=quantize, device=device, dtype=dtype, watch=watch)


def assemble(
    config: MPTConfig,
    tensors: Iterable[_Named],
    *,
    quantize: bool,
    device: torch.device,
    dtype: torch.dtype,
    watch: Watch = unwatched,
) -> MPT:
    """Make an MPT of complete named tensors: moved one by one, floats in ``dtype`` (before NF4 they stay as they came)."""
    weights: dict[str, Weight] = {}
    for name, tensor in tensors:
        moved = tensor.detach().to(device)  # a pickle may hold parameters; what is trained is for the caller to say
        if quantize and name.removesuffix(".weight").endswith(LINEARS) and name.endswith(".weight"):
            weights[name] = _quantize(name, moved)
        else:
            weights[name] = moved.to(dtype)
        watch(name, moved, weights[name])
    order = config.shapes()
    return MPT(config, {name: weights[name] for name in order}, dtype)


def _quantize(name: str, weight: torch.Tensor) -> NF4Weight:
    try:
        return nf4.quantize(weight)
    except ValueError as error:
        msg = f"{name}: {error}; use this model with --quantize none"
        raise CheckpointError(msg) from None


def random_tensors(config: MPTConfig, device: torch.device, dtype: torch.dtype, seed: int) -> Iterator[_Named]:
    """Yield freshly initialised tensors, as llm-foundry does: Kaiming normal, residual layers over √(2 layers)."""
    generator = torch.Generator(device).manual_seed(seed)
    for name, shape in config.shapes().items():
        tensor = torch.zeros(shape, device=device, dtype=dtype)
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and len(shape) == 1:
            tensor.fill_(1.0)  # layer norm
        elif name.endswith(".weight"):
            residual = module.endswith(("out_proj", "down_proj"))
            std = (2 / shape[1]) ** 0.5 / ((2 * config.n_layers) ** 0.5 if residual else 1)
            tensor.normal_(0, std, generator=generator)
        yield name, tensor


def save_checkpoint(model: MPT, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` in PhoGPT's own layout into an existing folder."""
    tensors = {}
    for name, weight in model.weights.items():
        if isinstance(weight, NF4Weight):
            msg = f"{name} is held in NF4; only a model of 16- or 32-bit weights is written as a checkpoint"
            raise CheckpointError(msg)
        tensors[name] = weight.detach().to("cpu").contiguous()
    (folder / "config.json").write_text(model.config.to_json(), encoding="utf-8")
    save_file(tensors, folder / _WEIGHTS[0], metadata={"format": "pt"})


def quantization_error(original: torch.Tensor, held: Weight) -> float | None:
    """Return ‖W − NF4(W)‖ / ‖W‖ of a quantised matrix, None of one that is not.

    Exactness is stated against the dequantised weights; this is what it leaves out.
    """
    if not isinstance(held, NF4Weight):
        return None
    exact = original.float()
    return float((exact - nf4.dequantize(held, torch.float32)).norm() / exact.norm())


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a folder's weights, in order."""
    for name in _WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            return _shards(index)
    found = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
    msg = f"{folder} has no weights: wanted {' or '.join(_WEIGHTS)} (or shards with their .index.json); it holds {found}"
    raise CheckpointError(msg)


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        # A shard is a plain file beside its index; a name with a folder in it could reach anywhere.
        strange = [n for n in names if Path(n).name != n]
        missing = [n for n in names if n not in strange and not (index.parent / n).is_file()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        msg = f"{index} is not an index of shards: {error!r}"
        raise CheckpointError(msg) from None
    if strange or missing or not names:
        msg = f"{index}: shards missing: {missing or 'none'}; names that are not plain file names: {strange or 'none'}"
        raise CheckpointError(msg)
    return [index.parent / n for n in names]


def _check_tensors(folder: Path, config: MPTConfig, files: list[Path]) -> None:
    wanted = config.shapes()
    found: dict[str, tuple[int, ...]] = {}
    twice = []
    no_floats = []  # whole numbers are codes of some quantisation: without its scales they mean nothing
    for file in files:
        for name, shape, dtype in _headers(file):
            if name in found:
                twice.append(name)
            found[name] = shape
            if dtype not in _FLOATS:
                no_floats.append(f"{name} holds {dtype}, wanted one of {', '.join(_FLOATS)}")
    problems = [f"missing {name} {shape}" for name, shape in wanted.items() if name not in found]
    problems += [f"unexpected {name} {shape}" for name, shape in found.items() if name not in wanted]
    problems += [f"in two files {name}" for name in twice]
    problems += no_floats
    problems += [
        f"{name} is {found[name]}, wanted {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if problems:
        hint = ""
        if all(p.startswith("unexpected") and ".bias" in p for p in problems):
            hint = "\nconfig.json says no_bias, but these are biases: the folder was probably saved by another library"
        msg = f"{folder}: {len(problems)} tensors do not fit config.json:\n" + "\n".join(problems) + hint
        raise CheckpointError(msg)


def _headers(file: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Yield name, shape and dtype of each tensor in a file."""
    if file.suffix == ".safetensors":
        with _open_safetensors(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 - the handle is not a dict
                header = tensors.get_slice(name)
                yield name, tuple(header.get_shape()), header.get_dtype()
    else:
        for name, tensor in _load_pickle(file).items():
            yield name, tuple(tensor.shape), _DTYPES.get(tensor.dtype, str(tensor.dtype))


def _read(file: Path) -> Iterator[_Named]:
    _log.info("reading %s", file)
    if file.suffix == ".safetensors":
        with _open_safetensors(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118
                yield name, tensors.get_tensor(name)
    else:
        yield from _load_pickle(file).items()


def _open_safetensors(file: Path) -> safe_open:
    try:
        return safe_open(file, "pt")
    except (SafetensorError, OSError) as error:
        msg = f"{file} is not a whole safetensors file ({error}); copy or download it again"
        raise CheckpointError(msg) from None


def _load_pickle(file: Path) -> dict[str, torch.Tensor]:
    try:
        with file.open("rb") as opened:
            is_zip = opened.read(4) == b"PK\x03\x04"  # the files of PyTorch before 1.6 are not, and cannot be mapped
        # weights_only: tensors and containers alone, no code; mmap: read from disk when a tensor is used.
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # noqa: BLE001 - a broken pickle raises whatever its broken parts raise
        first = str(error).strip().split("\n")[0] or type(error).__name__
        msg = f"{file} cannot be read as plain tensors ({first}); nothing in it was run. Download it again from its source"
        raise CheckpointError(msg) from None
    if not isinstance(tensors, dict):
        msg = f"{file} holds {type(tensors).__name__}, not tensors by name; save the model's state_dict()"
        raise CheckpointError(msg)
    strange = [f"{name} is {_kind(value)}" for name, value in tensors.items() if _kind(value) != "plain"]
    if strange:
        msg = f"{file} does not hold plain tensors by name: {', '.join(strange[:5])}; save the model's state_dict() alone"
        raise CheckpointError(msg)
    return tensors


def _kind(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return "plain" if value.layout == torch.strided and not value.is_meta else f"{value.layout} on {value.device}"
