"""A model folder becomes an MPT: every tensor accounted for, nothing from the files executed.

A folder holds ``config.json`` and its weights as ``model.safetensors`` or ``pytorch_model.bin``, in one file or in shards
with an index. Tensors are taken one at a time from the mapped file, and the file is mapped anew for every GiB: pages once
read count as the process's memory until the mapping ends, so the whole is in memory neither twice nor beside its codes.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hoidap.errors import CheckpointError
from hoidap.kernels import fourbit, int8
from hoidap.model.config import MPTConfig, read_config
from hoidap.model.linear import Weight, dequantized
from hoidap.model.mpt import LINEARS, MPT
from hoidap.recipe import Quantize

_log = logging.getLogger(__name__)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_FLOATS = ("BF16", "F16", "F32", "F64")  # as safetensors names them
_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}
_MAPPED_BYTES = 2**30  # read of a file before it is mapped anew
_Named = tuple[str, torch.Tensor]
Watch = Callable[[str, torch.Tensor, Weight], None]


def unwatched(_name: str, _original: torch.Tensor, _held: Weight) -> None:
    """Watch nothing."""


def load_checkpoint(
    folder: Path,
    *,
    quantize: Quantize,
    double_quant: bool = True,
    device: torch.device,
    dtype: torch.dtype,
    watch: Watch = unwatched,
) -> MPT:
    """Load a model folder.

    Args:
        folder: holds ``config.json`` and the weights.
        quantize: how the linear layers of the blocks are held; the rest is always in ``dtype``.
        double_quant: whether the scales of the 4-bit kinds are in eight bits too.
        device: where the weights are put.
        dtype: what is computed in.
        watch: is told of each tensor once it is in its place: its name, how it came and how it is held.

    Raises:
        CheckpointError: files missing or broken, options not supported, or tensors that do not fit, all listed in one.

    """
    config, files = _checked(folder)
    tensors = (named for file in files for named in _read(file))
    return assemble(config, tensors, quantize=quantize, double_quant=double_quant, device=device, dtype=dtype, watch=watch)


def assemble(
    config: MPTConfig,
    tensors: Iterable[_Named],
    *,
    quantize: Quantize,
    double_quant: bool = True,
    device: torch.device,
    dtype: torch.dtype,
    watch: Watch = unwatched,
) -> MPT:
    """Make an MPT of complete named tensors, moved one by one; what is quantised stays as it came until then."""
    weights: dict[str, Weight] = {}
    for name, tensor in tensors:
        moved = tensor.detach().to(device)  # a pickle may hold parameters; what is trained is for the caller to say
        weights[name] = _hold(name, moved, quantize, dtype, double_quant=double_quant)
        watch(name, moved, weights[name])
    order = config.shapes()
    return MPT(config, {name: weights[name] for name in order}, dtype)


class LazyWeights(Mapping[str, Weight]):
    """The weights of a model folder, each read, and quantised, whenever it is asked for.

    Only the embeddings and the vectors are kept, so a model larger than the memory can be run, one matrix at a time.

    Raises:
        CheckpointError: as ``load_checkpoint`` does.

    """

    def __init__(
        self,
        folder: Path,
        *,
        quantize: Quantize,
        double_quant: bool = True,
        device: torch.device,
        dtype: torch.dtype,
        advance: Callable[[int], None] = lambda _n_tensors: None,
    ) -> None:
        self.config, files = _checked(folder)
        self._file_of = {name: file for file in files for name, *_ in headers(file)}
        self._quantize, self._double_quant, self._device, self._dtype = quantize, double_quant, device, dtype
        self._kept: dict[str, Weight] = {}
        self._advance = advance  # called for each tensor that is read

    def __getitem__(self, name: str) -> Weight:
        if name in self._kept:
            return self._kept[name]
        tensor = _open(self._file_of[name])(name).detach().to(self._device)
        self._advance(1)
        if _is_linear(name):
            return _hold(name, tensor, self._quantize, self._dtype, double_quant=self._double_quant)
        self._kept[name] = tensor.to(self._dtype, copy=True)  # a part of the mapped file would keep all of it
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.config.shapes())

    def __len__(self) -> int:
        return len(self._file_of)


def _is_linear(name: str) -> bool:
    return name.endswith(".weight") and name.removesuffix(".weight").endswith(LINEARS)


def _hold(name: str, weight: torch.Tensor, quantize: Quantize, dtype: torch.dtype, *, double_quant: bool) -> Weight:
    """Return a tensor as the model holds it."""
    if quantize == "none":
        return weight.to(dtype)
    if not _is_linear(name):
        return weight.to(dtype, copy=True)  # a part of the mapped file would keep all of it in memory
    try:
        return (
            int8.quantize(weight) if quantize == "int8" else fourbit.quantize(weight, quantize, double_quant=double_quant)
        )
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
        if not isinstance(weight, torch.Tensor):
            msg = f"{name} is quantised; only a model of 16- or 32-bit weights is written as a checkpoint"
            raise CheckpointError(msg)
        tensors[name] = weight.detach().to("cpu").contiguous()
    (folder / "config.json").write_text(model.config.to_json(), encoding="utf-8")
    save_file(tensors, folder / _WEIGHTS[0], metadata={"format": "pt"})


def quantization_error(original: torch.Tensor, held: Weight) -> float | None:
    """Return ‖W − Q(W)‖ / ‖W‖ of a quantised matrix, None of one that is not.

    Exactness is stated against the dequantised weights; this is what it leaves out.
    """
    if isinstance(held, torch.Tensor):
        return None
    exact = original.float()
    return float((exact - dequantized(held, torch.float32)).norm() / exact.norm())


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


def _checked(folder: Path) -> tuple[MPTConfig, list[Path]]:
    """Return a folder's configuration and weight files, once every tensor is accounted for."""
    config = read_config(folder / "config.json")
    files = weight_files(folder)
    _check_tensors(folder, config, files)
    return config, files


def _check_tensors(folder: Path, config: MPTConfig, files: list[Path]) -> None:
    wanted = config.shapes()
    found: dict[str, tuple[int, ...]] = {}
    twice = []
    no_floats = []  # whole numbers are codes of some quantisation: without its scales they mean nothing
    for file in files:
        for name, shape, dtype in headers(file):
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


def headers(file: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
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
    names = [name for name, *_ in headers(file)]
    get, n_bytes = _open(file), 0
    for name in names:
        if n_bytes > _MAPPED_BYTES and _is_mapped(file):
            get, n_bytes = _open(file), 0
        tensor = get(name)
        n_bytes += tensor.nbytes
        yield name, tensor


def _open(file: Path) -> Callable[[str], torch.Tensor]:
    """Map a file and return what takes a tensor from it by name; the mapping ends with the last of them."""
    if file.suffix == ".safetensors":
        get: Callable[[str], torch.Tensor] = _open_safetensors(file).get_tensor
        return get
    return _load_pickle(file).__getitem__


def _is_mapped(file: Path) -> bool:
    """Whether tensors come from the file when they are used: those of PyTorch before 1.6 are no zip, and read whole."""
    with file.open("rb") as opened:
        return file.suffix == ".safetensors" or opened.read(4) == b"PK\x03\x04"


def _open_safetensors(file: Path) -> safe_open:
    try:
        return safe_open(file, "pt")
    except (SafetensorError, OSError) as error:
        msg = f"{file} is not a whole safetensors file ({error}); copy or download it again"
        raise CheckpointError(msg) from None


def _load_pickle(file: Path) -> dict[str, torch.Tensor]:
    try:
        # weights_only: tensors and containers alone, no code; mmap: read from disk when a tensor is used.
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_mapped(file))
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
