"""A model folder becomes an MPT: every tensor accounted for, nothing from the files executed.

A folder holds ``config.json`` and its weights as ``model.safetensors`` or ``pytorch_model.bin``, in one file or in shards
with an index; linear layers may be in 4 bits, several tensors a matrix (``stored``). Tensors are taken one at a time from
the mapped file, and the file is mapped anew for every GiB: pages once read count as the process's memory until the mapping
ends, so the whole is in memory neither twice nor beside its codes.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hoidap.errors import CheckpointError
from hoidap.kernels import fourbit, int8
from hoidap.kernels.fourbit import FourBitWeight
from hoidap.model import stored
from hoidap.model.config import MPTConfig, read_config
from hoidap.model.linear import Weight, dequantized
from hoidap.model.mpt import MPT, WTE
from hoidap.recipe import Embedding, Quantize

_log = logging.getLogger(__name__)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_FLOATS = ("BF16", "F16", "F32", "F64")  # as safetensors names them
_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}
_MAPPED_BYTES = 2**30  # read of a file before it is mapped anew
_Named = tuple[str, torch.Tensor]
_Came = torch.Tensor | FourBitWeight  # how a weight came: the second from files alone
# Told of a name, how the tensor came and how it is held. What is held in the very codes it came in has lost nothing: the
# second is then its shape alone, on the device "meta", because writing the matrix out would only cost.
Watch = Callable[[str, torch.Tensor, Weight], None]


def unwatched(_name: str, _original: torch.Tensor, _held: Weight) -> None:
    """Watch nothing."""


def load_checkpoint(
    folder: Path,
    *,
    quantize: Quantize,
    double_quant: bool = True,
    embedding: Embedding = "16-bit",
    device: torch.device,
    dtype: torch.dtype,
    watch: Watch = unwatched,
) -> MPT:
    """Load a model folder.

    Linear layers that are stored in 4 bits as ``quantize`` and ``double_quant`` ask keep their very codes; of another kind,
    they are dequantised, and what the codes stand for is held as asked.

    Args:
        folder: holds ``config.json`` and the weights.
        quantize: how the linear layers of the blocks are held; the rest is always in ``dtype``.
        double_quant: whether the scales of the 4-bit kinds are in eight bits too.
        embedding: "8-bit" holds the embedding in eight bits, a scale a row; "4-bit" in NF4; "16-bit" in ``dtype``, whatever
            that is.
        device: where the weights are put.
        dtype: what is computed in.
        watch: is told of each tensor once it is in its place: its name, how it came and how it is held.

    Raises:
        CheckpointError: files missing or broken, options not supported, or tensors that do not fit, all listed in one.

    """
    config, files, _, forms = _checked(folder)
    tensors = _read(files, forms)
    how: dict[str, Any] = {"quantize": quantize, "double_quant": double_quant, "embedding": embedding}
    return assemble(config, tensors, **how, device=device, dtype=dtype, watch=watch)


def assemble(
    config: MPTConfig,
    tensors: Iterable[tuple[str, _Came]],
    *,
    quantize: Quantize,
    double_quant: bool = True,
    embedding: Embedding = "16-bit",
    device: torch.device,
    dtype: torch.dtype,
    watch: Watch = unwatched,
) -> MPT:
    """Make an MPT of complete named tensors, moved one by one; what is quantised stays as it came until then."""
    weights: dict[str, Weight] = {}
    for name, tensor in tensors:
        moved = _moved(tensor, device, quantize, double_quant=double_quant)
        if name == WTE and embedding != "16-bit" and isinstance(moved, torch.Tensor):
            weights[name] = (
                int8.quantize(moved) if embedding == "8-bit" else fourbit.quantize(moved, double_quant=double_quant)
            )
        else:
            weights[name] = _hold(name, moved, quantize, dtype, double_quant=double_quant)
        watch(name, moved if isinstance(moved, torch.Tensor) else torch.empty(moved.shape, device="meta"), weights[name])
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
        self.config, _, self._file_of, self._forms = _checked(folder)
        self._names = dict.fromkeys(self.config.shapes())  # in order; a matrix in 4 bits is one, whatever its parts
        self._quantize, self._double_quant, self._device, self._dtype = quantize, double_quant, device, dtype
        self._kept: dict[str, Weight] = {}
        self._advance = advance  # called for each tensor that is read

    def __getitem__(self, name: str) -> Weight:
        if name in self._kept:
            return self._kept[name]
        moved = _moved(self._came(name), self._device, self._quantize, double_quant=self._double_quant)
        self._advance(1)
        if isinstance(moved, FourBitWeight) or stored.is_linear(name):
            return _hold(name, moved, self._quantize, self._dtype, double_quant=self._double_quant)
        self._kept[name] = moved.to(self._dtype, copy=True)  # a part of the mapped file would keep all of it
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _came(self, name: str) -> _Came:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._forms:
            return _open(self._file_of[name])(name)
        return self._forms[name].weight(_taken(self._forms[name].names(), self._file_of))


def _moved(came: _Came, device: torch.device, quantize: Quantize, *, double_quant: bool) -> _Came:
    """Return a weight on a device; one in 4 bits as it is where it is to be held so, and else what it stands for."""
    if isinstance(came, torch.Tensor):
        return came.detach().to(device)  # a pickle may hold parameters; what is trained is for the caller to say
    as_asked = stored.kind_of(came) == quantize and stored.is_double(came) == double_quant
    copied = stored.copied(came, device)
    return copied if as_asked else dequantized(copied, torch.float32)


def _hold(name: str, weight: _Came, quantize: Quantize, dtype: torch.dtype, *, double_quant: bool) -> Weight:
    """Return a weight as the model holds it; one that is still in 4 bits is so already."""
    if isinstance(weight, FourBitWeight):
        return weight
    if quantize == "none":
        return weight.to(dtype)
    if not stored.is_linear(name):
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
    """Write ``config.json`` and ``model.safetensors`` in PhoGPT's own layout into an existing folder.

    Weights in 4 bits are written as transformers and bitsandbytes do, their codes as they are.

    Raises:
        CheckpointError: weights are in 8 bits; nothing is written.

    """
    tensors: dict[str, torch.Tensor] = {}
    more = {}
    for name, weight in model.weights.items():
        if isinstance(weight, FourBitWeight):
            tensors |= stored.tensors_of(name, weight, model.dtype)
            more = {"quantization_config": stored.quantization_config(weight, model.dtype)}  # all are held alike
        elif isinstance(weight, torch.Tensor):
            tensors[name] = weight.detach().to("cpu").contiguous()
        else:
            msg = f"{name} is quantised to 8 bits; only a model of 4-, 16- or 32-bit weights is written as a checkpoint"
            raise CheckpointError(msg)
    (folder / "config.json").write_text(model.config.to_json(**more), encoding="utf-8")
    save_file(tensors, folder / _WEIGHTS[0], metadata={"format": "pt"})


def quantization_error(original: torch.Tensor, held: Weight) -> float | None:
    """Return ‖W − Q(W)‖ / ‖W‖ of a quantised matrix, None of one that is not.

    Exactness is stated against the dequantised weights; this is what it leaves out. It is 0 of a matrix whose codes were
    taken as they came (see ``Watch``).
    """
    if isinstance(held, torch.Tensor):
        return None
    if original.is_meta:
        return 0.0
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


class _Checked(NamedTuple):
    config: MPTConfig
    files: list[Path]
    file_of: dict[str, Path]  # by the name of a tensor
    forms: dict[str, stored.Form]  # of the matrices that are stored in 4 bits, by name


def _checked(folder: Path) -> _Checked:
    """Return what a folder holds, once every tensor is accounted for."""
    config = read_config(folder / "config.json")
    files = weight_files(folder)
    found: dict[str, stored.Header] = {}
    file_of: dict[str, Path] = {}
    twice = []
    for file in files:
        for name, shape, dtype in headers(file):
            if name in found:
                twice.append(name)
            found[name] = shape, dtype
            file_of[name] = file
    forms = stored.forms(config.shapes(), found)
    problems = _misfits(config, found, twice, forms)
    readable = {form.state: form for form in forms.values() if form.state_is_readable(found)}
    for name, state in _taken(readable, file_of).items():
        try:
            readable[name].mean(state)
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        hint = ""
        if all(p.startswith("unexpected") and ".bias" in p for p in problems):
            hint = "\nconfig.json says no_bias, but these are biases: the folder was probably saved by another library"
        msg = f"{folder}: {len(problems)} tensors do not fit config.json:\n" + "\n".join(problems) + hint
        raise CheckpointError(msg)
    return _Checked(config, files, file_of, forms)


def _misfits(
    config: MPTConfig, found: Mapping[str, stored.Header], twice: list[str], forms: Mapping[str, stored.Form]
) -> list[str]:
    wanted: dict[str, stored.Wanted] = {name: (shape, _FLOATS) for name, shape in config.shapes().items()}
    for form in forms.values():
        wanted |= form.wanted()
    states = {form.state for form in forms.values()}
    problems = [f"missing {name} {shape}" for name, (shape, _) in wanted.items() if name not in found]
    problems += [
        f"unexpected {name} {shape}" for name, (shape, _) in found.items() if name not in wanted and name not in states
    ]
    problems += [f"in two files {name}" for name in twice]
    for name, (_, dtype) in found.items():
        # Whole numbers are codes of some quantisation: without its scales they mean nothing.
        _, dtypes = wanted.get(name, ((), _FLOATS))
        if name not in states and dtype not in dtypes:
            problems.append(f"{name} holds {dtype}, wanted one of {', '.join(dtypes)}")
    problems += [
        f"{name} is {found[name][0]}, wanted {shape}"
        for name, (shape, _) in wanted.items()
        if name in found and found[name][0] != shape
    ]
    return problems + [problem for form in forms.values() for problem in form.problems(found)]


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


def _read(files: list[Path], forms: Mapping[str, stored.Form]) -> Iterator[tuple[str, _Came]]:
    """Yield the weights of files; one of several tensors once the last of them, maybe in another file, is there."""
    form_of = {part: form for form in forms.values() for part in form.names()}
    waiting: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in (named for file in files for named in _read_file(file)):
        if name not in form_of:
            yield name, tensor
            continue
        form = form_of[name]
        parts = waiting.setdefault(form.name, {})
        parts[name] = tensor.detach()
        if len(parts) == len(form.names()):
            yield form.name, form.weight(waiting.pop(form.name))


def _taken(names: Iterable[str], file_of: Mapping[str, Path]) -> dict[str, torch.Tensor]:
    """Return tensors by name, each file opened once."""
    wanted = sorted(names)
    opened = {file: _open(file) for file in {file_of[name] for name in wanted}}
    return {name: opened[file_of[name]](name).detach() for name in wanted}


def _read_file(file: Path) -> Iterator[_Named]:
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
