"""Model folders as they come from anywhere: good ones load to the bit, broken and hostile ones are refused unrun."""

import json
import os
import pickle
import random
import re
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hoidap.errors import CheckpointError
from hoidap.kernels.fourbit import FourBitWeight
from hoidap.kernels.int8 import Int8Weight
from hoidap.model import checkpoint
from hoidap.model.checkpoint import LazyWeights, assemble, load_checkpoint, random_tensors, save_checkpoint, weight_files
from hoidap.model.config import MPTConfig
from hoidap.model.linear import Weight, dequantized
from hoidap.model.mpt import MPT
from hoidap.recipe import Quantize

GOLDEN = Path(__file__).parent / "golden" / "phogpt-4b-shape"
TENSORS: dict[str, torch.Tensor] = torch.load(GOLDEN / "pytorch_model.bin", weights_only=True)
NAMES = list(TENSORS)
CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]


def load(folder: Path, *, quantize: Quantize = "none", dtype: torch.dtype = torch.float32) -> MPT:
    return load_checkpoint(folder, quantize=quantize, device=CPU, dtype=dtype)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    return str(caught.value)


def holds(model: MPT, tensors: Tensors) -> bool:
    """Say whether the model's weights are these to the bit, after the way to its dtype."""
    return model.weights.keys() == tensors.keys() and all(
        torch.equal(model.weights[name], tensor.to(model.dtype)) for name, tensor in tensors.items()
    )


def save_bin(tensors: object, path: Path) -> None:
    torch.save(tensors, path)


def save_legacy_bin(tensors: object, path: Path) -> None:
    """Write as PyTorch before 1.6 did: pickles one behind another, no zip archive."""
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def save_safetensors(tensors: Tensors, path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a model folder that lacks its weights alone."""
    made = tmp_path / "phogpt"
    made.mkdir()
    shutil.copy(GOLDEN / "config.json", made)
    return made


def write_shards(folder: Path, parts: list[Tensors], name: str, save: Callable[[Tensors, Path], None]) -> Path:
    """Write shards and their index, as ``save_pretrained`` does; return the index."""
    stem, suffix = name.split(".")
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        shard = f"{stem}-{number:05}-of-{len(parts):05}.{suffix}"
        save(part, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = folder / f"{name}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}), encoding="utf-8")
    return index


def thirds(tensors: Tensors) -> list[Tensors]:
    """Deal the tensors out in turn, so that no shard holds what stands together."""
    return [{name: tensors[name] for name in list(tensors)[at::3]} for at in range(3)]


each_format = pytest.mark.parametrize(
    ("name", "save"),
    [("pytorch_model.bin", save_bin), ("pytorch_model.bin", save_legacy_bin), ("model.safetensors", save_safetensors)],
    ids=["bin", "legacy bin", "safetensors"],
)


# Good folders


@each_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_whole_file_loads_to_the_bit(name, save, dtype, folder):
    save(TENSORS, folder / name)
    assert holds(load(folder, dtype=dtype), TENSORS)


@each_format
def test_shards_load_equal_to_the_single_file(name, save, folder):
    write_shards(folder, thirds(TENSORS), name, save)
    assert holds(load(folder), TENSORS)


@each_format
@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_a_file_mapped_anew_again_and_again_loads_to_the_bit(name, save, quantize, folder, monkeypatch):
    save(TENSORS, folder / name)
    expected = load(folder, quantize=quantize, dtype=torch.bfloat16).weights
    monkeypatch.setattr(checkpoint, "_MAPPED_BYTES", 10_000)
    assert all(
        same(weight, expected[n]) for n, weight in load(folder, quantize=quantize, dtype=torch.bfloat16).weights.items()
    )


@each_format
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("quantize", ["none", "nf4", "fp4", "int8"])
def test_weights_read_when_asked_for_are_those_read_at_once(name, save, sharded, quantize, folder):
    if sharded:
        write_shards(folder, thirds(TENSORS), name, save)
    else:
        save(TENSORS, folder / name)
    lazy = LazyWeights(folder, quantize=quantize, device=CPU, dtype=torch.bfloat16)
    model = load(folder, quantize=quantize, dtype=torch.bfloat16)
    assert list(lazy) == list(model.weights)
    assert len(lazy) == len(model.weights)
    assert all(same(lazy[n], weight) for n, weight in model.weights.items())
    assert lazy[NAMES[0]] is lazy[NAMES[0]], "the embedding is kept"
    matrix = "transformer.blocks.0.attn.Wqkv.weight"
    assert lazy[matrix] is not lazy[matrix], "a matrix is not"
    with pytest.raises(KeyError):
        lazy["transformer.blocks.99.attn.Wqkv.weight"]


def same(a: Weight, b: Weight) -> bool:
    return type(a) is type(b) and torch.equal(dequantized(a, torch.float32), dequantized(b, torch.float32))


def test_weights_read_when_asked_for_are_checked_first(folder):
    save_bin({name: TENSORS[name] for name in NAMES[1:]}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=f"missing {re.escape(NAMES[0])}"):
        LazyWeights(folder, quantize="none", device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_not_quantised_beside_quantised_weights_is_no_part_of_the_mapped_file(dtype, folder):
    save_safetensors(TENSORS, folder / "model.safetensors")
    model = load(folder, quantize="nf4", dtype=dtype)
    for weight in model.weights.values():
        if isinstance(weight, torch.Tensor):
            assert weight.untyped_storage().nbytes() == weight.nbytes


def test_the_tensors_may_stand_in_any_order(folder):
    save_bin(dict(reversed(TENSORS.items())), folder / "pytorch_model.bin")
    model = load(folder)
    assert holds(model, TENSORS)
    assert list(model.weights) == list(model.config.shapes())


def test_a_safetensors_file_beside_the_weights_is_not_taken_for_weights(folder):
    save_bin(TENSORS, folder / "pytorch_model.bin")
    shutil.copy(GOLDEN / "expected.safetensors", folder)
    save_safetensors({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    assert weight_files(folder) == [folder / "pytorch_model.bin"]
    assert holds(load(folder), TENSORS)


def test_only_the_shards_of_the_index_are_read(folder):
    index = write_shards(folder, thirds(TENSORS), "model.safetensors", save_safetensors)
    save_safetensors({"x": torch.zeros(1)}, folder / "model-00004-of-00004.safetensors")
    assert len(weight_files(folder)) == len(set(json.loads(index.read_text())["weight_map"].values())) == 3
    assert holds(load(folder), TENSORS)


def test_safetensors_are_taken_rather_than_a_pickle(folder):
    save_safetensors(TENSORS, folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    assert holds(load(folder), TENSORS)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_parameters_in_a_pickle_are_frozen_like_other_tensors(quantize, folder):
    save_bin({name: torch.nn.Parameter(tensor) for name, tensor in TENSORS.items()}, folder / "pytorch_model.bin")
    assert load(folder, quantize=quantize).trainable() == {}


@pytest.mark.parametrize(("quantize", "kind"), [("nf4", FourBitWeight), ("fp4", FourBitWeight), ("int8", Int8Weight)])
def test_only_the_linear_layers_of_the_blocks_are_quantised(quantize, kind, folder):
    save_bin(TENSORS, folder / "pytorch_model.bin")
    quantised = {name for name, weight in load(folder, quantize=quantize).weights.items() if isinstance(weight, kind)}
    assert quantised == {name for name, tensor in TENSORS.items() if tensor.dim() == 2 and "wte" not in name}


# Nothing is run


class Payload:
    """Unpickled by an ordinary unpickler, makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"mkdir '{self.mark}'",)


class Evaluated(Payload):
    """The same by ``eval``, which no list of dangerous modules catches."""

    def __reduce__(self) -> tuple[object, ...]:
        return eval, (f"__import__('os').mkdir({str(self.mark)!r})",)


def save_pickle(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("payload", [Payload, Evaluated])
@pytest.mark.parametrize("save", [save_bin, save_legacy_bin, save_pickle])
@pytest.mark.parametrize("beside_tensors", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(payload, save, beside_tensors, folder, tmp_path):
    mark = tmp_path / "the code ran"
    path = folder / "pytorch_model.bin"
    save({**(TENSORS if beside_tensors else {}), "transformer.norm_f.bias": payload(mark)}, path)
    message = refusal(folder)
    assert not mark.exists()
    assert message.startswith(f"{path} cannot be read as plain tensors (")
    assert message.endswith("); nothing in it was run. Download it again from its source")
    torch.load(path, weights_only=False) if save is not save_pickle else pickle.loads(path.read_bytes())  # noqa: S301
    assert mark.exists(), "the payload works where pickles are run"


def test_code_in_one_shard_is_not_run(folder, tmp_path):
    mark = tmp_path / "the code ran"
    parts = thirds(TENSORS)
    parts[2]["x"] = Payload(mark)
    write_shards(folder, parts, "pytorch_model.bin", save_bin)
    assert "nothing in it was run" in refusal(folder)
    assert not mark.exists()


def test_python_files_named_by_auto_map_are_not_imported(folder, tmp_path, monkeypatch):
    mark = tmp_path / "the code ran"
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_mpt.MPTConfig",
        "AutoModelForCausalLM": "modeling_mpt.MPTForCausalLM",
    }
    for module in ("configuration_mpt", "modeling_mpt", "__init__"):
        (folder / f"{module}.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    save_bin(TENSORS, folder / "pytorch_model.bin")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    assert holds(load(folder), TENSORS)
    assert not mark.exists()
    assert not {"configuration_mpt", "modeling_mpt"} & set(sys.modules)


# Broken files


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@each_format
def test_a_cut_file_is_refused_by_name(name, save, share, folder):
    save(TENSORS, folder / name)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    assert refusal(folder).startswith((f"{folder / name} cannot be read as", f"{folder / name} is not a whole safetensors"))


def test_a_safetensors_file_that_lacks_its_last_byte_is_refused(folder):
    path = folder / "model.safetensors"
    save_safetensors(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(folder).startswith(f"{path} is not a whole safetensors file (")
    assert refusal(folder).endswith("; copy or download it again")


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**30, 2**63, 2**64 - 1])
def test_a_safetensors_header_of_impossible_length_is_refused(length, folder):
    path = folder / "model.safetensors"
    save_safetensors(TENSORS, path)
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8 : 2**20])
    assert refusal(folder).startswith(f"{path} is not a whole safetensors file (")


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**62]}},
        {"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}},
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"},
        {"a": 5},
        [],
    ],
    ids=["past the end", "huge", "negative", "backwards", "another type", "overlapping", "no tensor", "a list"],
)
def test_a_safetensors_header_that_lies_is_refused(header, folder):
    raw = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + b"\0" * 4)
    assert "model.safetensors is not a whole safetensors file (" in refusal(folder)


@pytest.mark.parametrize("seed", range(40))
def test_a_pickle_with_wrong_bytes_is_refused_or_loads(seed, folder):
    # Wrong bytes raise anything from KeyError to AssertionError inside the unpickler; none may come through.
    rng = random.Random(seed)
    source, target = folder / "whole.bin", folder / "pytorch_model.bin"
    save_bin(TENSORS, source)
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(target, "w") as broken:
        for name in whole.namelist():
            content = bytearray(whole.read(name))
            if name.endswith("data.pkl"):
                for _ in range(3):
                    content[rng.randrange(len(content))] = rng.randrange(256)
            broken.writestr(name, bytes(content))
    try:
        load(folder)
    except CheckpointError as error:
        assert str(folder) in str(error)  # noqa: PT017 - loading is fine as well: a byte of a key that nothing reads


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"state_dict": TENSORS}, "state_dict is dict"),
        ({**TENSORS, "step": 5}, "step is int"),
        ({**TENSORS, "step": 5, "loss": [1.0]}, "step is int, loss is list"),
        ({**TENSORS, "x": torch.zeros(3, device="meta")}, "x is torch.strided on meta"),
        ({**TENSORS, "x": torch.ones(3).to_sparse()}, "x is torch.sparse_coo on cpu"),
    ],
    ids=["nested", "a number", "two things", "no data", "sparse"],
)
def test_a_pickle_of_more_than_tensors_by_name_is_refused(content, found, folder):
    save_bin(content, folder / "pytorch_model.bin")
    assert refusal(folder) == (
        f"{folder / 'pytorch_model.bin'} does not hold plain tensors by name: {found}; save the model's state_dict() alone"
    )


@pytest.mark.parametrize(("content", "kind"), [([1, 2], "list"), (torch.zeros(3), "Tensor"), (5, "int")])
def test_a_pickle_of_no_dictionary_is_refused(content, kind, folder):
    save_bin(content, folder / "pytorch_model.bin")
    assert refusal(folder) == (
        f"{folder / 'pytorch_model.bin'} holds {kind}, not tensors by name; save the model's state_dict()"
    )


@pytest.mark.parametrize(
    ("dtype", "pickled", "in_safetensors"),
    [
        (torch.int8, "torch.int8", "I8"),
        (torch.uint8, "torch.uint8", "U8"),
        (torch.int64, "torch.int64", "I64"),
        (torch.bool, "torch.bool", "BOOL"),
        (torch.float8_e4m3fn, "torch.float8_e4m3fn", "F8_E4M3"),
        (torch.complex64, "torch.complex64", "C64"),
    ],
)
def test_codes_of_a_quantisation_are_not_taken_for_weights(dtype, pickled, in_safetensors, folder):
    name = "transformer.blocks.1.ffn.up_proj.weight"
    tensors = {**TENSORS, name: torch.zeros(TENSORS[name].shape, dtype=dtype)}
    save_bin(tensors, folder / "pytorch_model.bin")
    assert f"1 tensors do not fit config.json:\n{name} holds {pickled}, wanted one of BF16, F16, F32, F64" in refusal(
        folder
    )
    save_safetensors(tensors, folder / "model.safetensors")
    assert f"{name} holds {in_safetensors}, wanted one of" in refusal(folder)


# Shards


def test_a_missing_shard_is_named(folder):
    index = write_shards(folder, thirds(TENSORS), "model.safetensors", save_safetensors)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert refusal(folder) == (
        f"{index}: shards missing: ['model-00002-of-00003.safetensors']; names that are not plain file names: none"
    )


@pytest.mark.parametrize("name", ["../other/w.bin", "sub/w.bin", "../w.bin", "/etc/passwd", ".", "sub/../w.bin", "./w.bin"])
def test_a_shard_outside_the_folder_is_refused_even_where_it_exists(name, folder, tmp_path):
    for place in (tmp_path / "other", folder / "sub"):
        place.mkdir()
        save_bin(TENSORS, place / "w.bin")
    save_bin(TENSORS, tmp_path / "w.bin")
    save_bin(TENSORS, folder / "w.bin")
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(NAMES, name)}))
    assert refusal(folder) == f"{index}: shards missing: none; names that are not plain file names: ['{name}']"


@pytest.mark.parametrize("name", ["..", "", "nul\0", "w.bin"])
def test_a_shard_name_that_is_no_file_is_missing(name, folder):
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(NAMES, name)}))
    assert refusal(folder) == f"{index}: shards missing: {[name]}; names that are not plain file names: none"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"weight_map": ["a"]}',
        '{"weight_map": {"a": 5}}',
        '{"weight_map": {"a": 5, "b": "c"}}',
        '{"weight_map": {"a": ["b"]}}',
        '{"weight_map": null}',
        "[" * 100_000,
        json.dumps({"weight_map": {"a": "x" * 5000}}),
        "\ufeff{}",
    ],
    ids=[
        "empty",
        "cut",
        "a list",
        "no map",
        "a list of names",
        "a number",
        "mixed",
        "lists",
        "null",
        "deep",
        "a long name",
        "BOM",
    ],
)
def test_an_index_that_is_none_is_refused(content, folder):
    index = folder / "model.safetensors.index.json"
    index.write_text(content, encoding="utf-8")
    assert refusal(folder).startswith(f"{index} is not an index of shards: ")


def test_an_index_of_nothing_is_refused(folder):
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {}}')
    assert refusal(folder).startswith(f"{index}: shards missing: none")


def test_a_tensor_that_no_shard_holds_is_named(folder):
    parts = thirds(TENSORS)
    del parts[1][NAMES[4]]
    write_shards(folder, parts, "model.safetensors", save_safetensors)
    assert f"1 tensors do not fit config.json:\nmissing {NAMES[4]} {tuple(TENSORS[NAMES[4]].shape)}" in refusal(folder)


def test_a_tensor_in_two_shards_is_named(folder):
    parts = thirds(TENSORS)
    parts[2][NAMES[0]] = TENSORS[NAMES[0]] + 1
    write_shards(folder, parts, "pytorch_model.bin", save_bin)
    assert refusal(folder) == f"{folder}: 1 tensors do not fit config.json:\nin two files {NAMES[0]}"


# Folders


def test_a_folder_without_weights_says_what_it_holds(folder):
    (folder / "tokenizer.json").write_text("{}")
    assert refusal(folder) == (
        f"{folder} has no weights: wanted model.safetensors or pytorch_model.bin (or shards with their .index.json); "
        "it holds config.json, tokenizer.json"
    )


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    assert refusal(tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere' / 'config.json'} does not exist")


def test_a_configuration_of_endless_layers_is_refused_at_once(folder):
    save_bin(TENSORS, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_layers": 10**9}))
    assert "n_layers is 1000000000, it takes a whole number from 1 to 1,024" in refusal(folder)


# Saving

OPTIONS = MPTConfig(
    d_model=16,
    n_heads=4,
    n_layers=2,
    vocab_size=11,
    max_seq_len=8,
    expansion_ratio=2,
    alibi=False,
    learned_pos_emb=True,
    qk_ln=True,
    clip_qkv=3.0,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_saved_model_loads_to_the_bit(dtype, folder, tmp_path):
    save_bin(TENSORS, folder / "pytorch_model.bin")
    saved = tmp_path / "saved"
    saved.mkdir()
    model = load(folder, dtype=dtype)
    save_checkpoint(model, saved)
    again = load(saved, dtype=dtype)
    assert again.config == model.config
    assert holds(again, model.weights)
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_a_model_of_other_options_loads_to_the_bit(tmp_path):
    model = assemble(
        OPTIONS, random_tensors(OPTIONS, CPU, torch.float32, 1), quantize="none", device=CPU, dtype=torch.float32
    )
    save_checkpoint(model, tmp_path)
    again = load(tmp_path)
    assert again.config == OPTIONS
    assert holds(again, model.weights)


def test_a_model_in_training_is_saved_without_its_gradients(folder, tmp_path):
    save_bin(TENSORS, folder / "pytorch_model.bin")
    model = load(folder)
    for weight in model.weights.values():
        weight.requires_grad_()
    save_checkpoint(model, tmp_path)
    assert holds(load(tmp_path), TENSORS)


def test_a_model_may_be_saved_over_the_file_that_it_is_mapped_from(folder):
    save_safetensors(TENSORS, folder / "model.safetensors")
    save_checkpoint(load(folder, dtype=torch.bfloat16), folder)
    assert holds(load(folder), TENSORS)


def test_changing_loaded_weights_leaves_the_file_alone(folder):
    save_bin(TENSORS, folder / "pytorch_model.bin")
    load(folder, dtype=torch.bfloat16).weights[NAMES[0]].add_(1)
    assert holds(load(folder), TENSORS)


def test_a_model_in_eight_bits_is_not_saved(folder, tmp_path):
    save_bin(TENSORS, folder / "pytorch_model.bin")
    saved = tmp_path / "saved"
    saved.mkdir()
    with pytest.raises(CheckpointError, match=r"blocks\.0\.attn\.Wqkv\.weight is quantised to 8 bits; only a model of 4-,"):
        save_checkpoint(load(folder, quantize="int8"), saved)
    assert list(saved.iterdir()) == []


def test_a_layer_that_nf4_cannot_hold_is_named(tmp_path):
    config = MPTConfig(d_model=4, n_heads=2, n_layers=1, vocab_size=11, max_seq_len=8)
    model = assemble(
        config, random_tensors(config, CPU, torch.float32, 1), quantize="none", device=CPU, dtype=torch.float32
    )
    save_checkpoint(model, tmp_path)
    with pytest.raises(
        CheckpointError, match=r"Wqkv\.weight: nf4 takes .* multiple of 64; got \(12, 4\); .*--quantize none"
    ):
        load(tmp_path, quantize="nf4")
