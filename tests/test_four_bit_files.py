"""Model folders in 4 bits: bitsandbytes reads what is written and its files are read, to the bit; damage has a name."""

import json
import math
from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CPU, some_tokens, tiny_config, tiny_model, tiny_tensors
from transformers import BitsAndBytesConfig

from hoidap.errors import CheckpointError
from hoidap.kernels import fourbit
from hoidap.kernels.fourbit import CodedAbsmax, FourBitWeight
from hoidap.model import checkpoint
from hoidap.model.checkpoint import LazyWeights, load_checkpoint, quantization_error, save_checkpoint
from hoidap.model.config import read_config
from hoidap.model.linear import Weight
from hoidap.model.mpt import MPT
from hoidap.model.stored import is_linear

CONFIG = tiny_config(d_model=96)  # up_proj has 576 blocks: three scales, the last of a part alone
TENSORS = dict(tiny_tensors(CONFIG, 0))
LINEARS = [name for name in TENSORS if is_linear(name)]
NAME = "transformer.blocks.1.ffn.up_proj.weight"
STATE = f"{NAME}.quant_state.bitsandbytes__nf4"
Tensors = dict[str, torch.Tensor]
each_kind = pytest.mark.parametrize("kind", ["nf4", "fp4"])
single_or_double = pytest.mark.parametrize("double_quant", [False, True], ids=["single", "double"])


def load(folder: Path, quantize="nf4", *, double_quant: bool = True, dtype: torch.dtype = torch.float32, **more) -> MPT:
    return load_checkpoint(folder, quantize=quantize, double_quant=double_quant, device=CPU, dtype=dtype, **more)


def plain(weight: Weight) -> list[torch.Tensor]:
    """Return the tensors of a weight, whatever it is."""
    if isinstance(weight, torch.Tensor):
        return [weight]
    parts = [*vars(weight).values()]
    inner = [[*vars(part).values()] if isinstance(part, CodedAbsmax) else [part] for part in parts]
    return [torch.as_tensor(tensor) for tensors in inner for tensor in tensors]


def raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


def same(a: Weight, b: Weight) -> bool:
    """Say whether two weights are held alike, to the bit."""
    return (
        type(a) is type(b)
        and len(plain(a)) == len(plain(b))
        and all(
            x.dtype == y.dtype and x.shape == y.shape and torch.equal(raw(x), raw(y))
            for x, y in zip(plain(a), plain(b), strict=True)
        )
    )


def all_same(a: MPT, b: MPT) -> bool:
    return list(a.weights) == list(b.weights) and all(same(a.weights[name], b.weights[name]) for name in a.weights)


def quantised(kind="nf4", *, double_quant: bool = True, dtype: torch.dtype = torch.float32) -> MPT:
    return tiny_model(CONFIG, 0, quantize=kind, double_quant=double_quant, dtype=dtype)


def theirs(kind="nf4", *, double_quant: bool = True, dtype: torch.dtype = torch.float32) -> Tensors:
    """Return the tensors of a file that transformers and bitsandbytes write."""
    tensors = {}
    for name, tensor in TENSORS.items():
        tensors[name] = tensor.to(dtype)
        if name in LINEARS:
            packed, state = bnb.quantize_4bit(
                tensor.to(dtype), quant_type=kind, compress_statistics=double_quant, blocksize=64
            )
            parts = state.as_dict(packed=True)
            tensors |= {name: packed, **{f"{name}.{part}": value.clone() for part, value in parts.items()}}
    return tensors


def write(folder: Path, tensors: Tensors, kind="nf4", *, double_quant: bool = True) -> Path:
    options = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype="bfloat16",
    )
    values = json.loads(CONFIG.to_json()) | {"quantization_config": options.to_dict()}
    (folder / "config.json").write_text(json.dumps(values))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def state_bytes(content: str | bytes) -> torch.Tensor:
    return torch.tensor(list(content.encode() if isinstance(content, str) else content), dtype=torch.uint8)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(folder, "none")
    return str(caught.value)


# Round trips


@each_kind
@single_or_double
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_saved_model_loads_to_the_bit_and_is_saved_again_to_the_bit(kind, double_quant, dtype, tmp_path):
    model = quantised(kind, double_quant=double_quant, dtype=dtype)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    save_checkpoint(model, folders[0])
    again = load(folders[0], kind, double_quant=double_quant, dtype=dtype)
    assert again.config == model.config
    assert all_same(again, model)
    assert all(isinstance(again.weights[name], FourBitWeight) for name in LINEARS)
    save_checkpoint(again, folders[1])
    for file in ("config.json", "model.safetensors"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()


@each_kind
@single_or_double
def test_bitsandbytes_reads_what_is_written_and_makes_equal_values_of_it(kind, double_quant, tmp_path):
    model = quantised(kind, double_quant=double_quant)
    save_checkpoint(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in LINEARS:
        parts = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        state = bnb.QuantState.from_dict(parts, CPU)
        assert (tuple(state.shape), state.quant_type, state.nested) == (CONFIG.shapes()[name], kind, double_quant)
        state.shape = torch.Size((math.prod(state.shape) // 64, 64))  # their C version misreads blocks that cross rows
        values = bnb.dequantize_4bit(tensors[name], state).reshape(CONFIG.shapes()[name])
        assert torch.equal(values, fourbit.dequantize(model.weights[name], torch.float32))


@each_kind
@single_or_double
def test_the_tensors_written_have_the_names_shapes_and_dtypes_that_bitsandbytes_gives_them(kind, double_quant, tmp_path):
    save_checkpoint(quantised(kind, double_quant=double_quant), tmp_path)
    ours, expected = load_file(tmp_path / "model.safetensors"), theirs(kind, double_quant=double_quant)
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert ours[name].dtype == tensor.dtype
        if "quant_state" in name:
            states = [json.loads(bytes(t.tolist())) for t in (ours[name], tensor)]
            assert states[0] == states[1]
        else:
            assert ours[name].shape == tensor.shape


@each_kind
@single_or_double
def test_transformers_reads_the_configuration_written(kind, double_quant, tmp_path):
    save_checkpoint(quantised(kind, double_quant=double_quant, dtype=torch.bfloat16), tmp_path)
    options = BitsAndBytesConfig.from_dict(json.loads((tmp_path / "config.json").read_text())["quantization_config"])
    assert options.load_in_4bit
    assert not options.load_in_8bit
    assert (options.bnb_4bit_quant_type, options.bnb_4bit_use_double_quant) == (kind, double_quant)
    assert (options.bnb_4bit_compute_dtype, options.bnb_4bit_quant_storage) == (torch.bfloat16, torch.uint8)


def test_a_model_may_be_saved_over_the_file_that_it_came_from(tmp_path):
    write(tmp_path, theirs())
    model = load(tmp_path)
    before = {name: [tensor.clone() for tensor in plain(weight)] for name, weight in model.weights.items()}
    save_checkpoint(model, tmp_path)
    again = load(tmp_path)
    for name, tensors in before.items():
        assert all(torch.equal(a, b) for a, b in zip(tensors, plain(again.weights[name]), strict=True))


# What bitsandbytes wrote


@each_kind
@single_or_double
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_bitsandbytes_wrote_is_taken_as_it_is(kind, double_quant, dtype, tmp_path):
    tensors = theirs(kind, double_quant=double_quant, dtype=dtype)
    model = load(write(tmp_path, tensors, kind, double_quant=double_quant), kind, double_quant=double_quant, dtype=dtype)
    for name, tensor in TENSORS.items():
        if name not in LINEARS:
            assert same(model.weights[name], tensors[name])
            continue
        absmax = tensors[f"{name}.absmax"]
        if double_quant:
            _, state = bnb.quantize_4bit(tensor.to(dtype), quant_type=kind, compress_statistics=True, blocksize=64)
            scales, steps = tensors[f"{name}.nested_absmax"], tensors[f"{name}.nested_quant_map"]
            absmax = CodedAbsmax(absmax, scales, steps, state.offset.float())
        expected = FourBitWeight(tensors[name].flatten(), tensors[f"{name}.quant_map"], absmax, CONFIG.shapes()[name])
        assert same(model.weights[name], expected)


@each_kind
@single_or_double
def test_logits_equal_those_of_the_original_quantised_when_loaded(kind, double_quant, tmp_path):
    original, four_bit = tmp_path / "original", tmp_path / "four_bit"
    original.mkdir()
    four_bit.mkdir()
    save_checkpoint(tiny_model(CONFIG, 0), original)
    expected = load(original, kind, double_quant=double_quant)
    save_checkpoint(expected, four_bit)
    model = load(four_bit, kind, double_quant=double_quant)
    tokens = some_tokens(CONFIG, 20)
    assert torch.equal(model.forward(tokens[None]), expected.forward(tokens[None]))


@each_kind
@single_or_double
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_quantisation_the_values_of_the_codes_are_held(kind, double_quant, dtype, tmp_path):
    source = quantised(kind, double_quant=double_quant, dtype=dtype)
    save_checkpoint(source, tmp_path)
    model = load(tmp_path, "none", dtype=dtype)
    for name in LINEARS:
        assert same(model.weights[name], fourbit.dequantize(source.weights[name], torch.float32).to(dtype))


@pytest.mark.parametrize(
    ("quantize", "double_quant"), [("nf4", False), ("fp4", True), ("fp4", False), ("int8", True), ("none", True)]
)
def test_another_kind_is_made_of_the_values_of_the_codes(quantize, double_quant, tmp_path):
    four_bit, values = tmp_path / "four_bit", tmp_path / "values"
    values.mkdir()
    four_bit.mkdir()
    save_checkpoint(quantised(), four_bit)
    save_checkpoint(load(four_bit, "none"), values)
    again = load(four_bit, quantize, double_quant=double_quant)
    assert all_same(again, load(values, quantize, double_quant=double_quant))


@pytest.mark.parametrize("quantize", ["nf4", "fp4", "int8", "none"])
@single_or_double
def test_weights_read_when_asked_for_are_those_read_at_once(quantize, double_quant, tmp_path):
    write(tmp_path, theirs())
    read = []
    lazy = LazyWeights(
        tmp_path, quantize=quantize, double_quant=double_quant, device=CPU, dtype=torch.bfloat16, advance=read.append
    )
    model = load(tmp_path, quantize, double_quant=double_quant, dtype=torch.bfloat16)
    assert list(lazy) == list(model.weights)
    assert len(lazy) == len(model.weights)
    assert all(same(lazy[name], weight) for name, weight in model.weights.items())
    assert sum(read) == len(TENSORS)
    with pytest.raises(KeyError):
        lazy[f"{NAME}.absmax"]


@pytest.mark.parametrize("form", ["safetensors", "bin", "legacy"])
@pytest.mark.parametrize("sharded", [False, True])
def test_any_file_and_shards_that_part_a_matrix_load_to_the_bit(form, sharded, tmp_path):
    tensors = theirs()
    expected = load(write(tmp_path, tensors))
    (tmp_path / "model.safetensors").unlink()
    stem, suffix = ("model", "safetensors") if form == "safetensors" else ("pytorch_model", "bin")
    parts = [{name: tensors[name] for name in list(tensors)[at::3]} for at in range(3)] if sharded else [tensors]
    files = [f"{stem}-{n}-of-3.{suffix}" for n in range(1, 4)] if sharded else [f"{stem}.{suffix}"]
    for file, part in zip(files, parts, strict=True):
        if form == "safetensors":
            save_file(part, tmp_path / file)
        else:
            torch.save(part, tmp_path / file, _use_new_zipfile_serialization=form == "bin")
    if sharded:
        weight_map = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        (tmp_path / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert all_same(load(tmp_path), expected)
    lazy = LazyWeights(tmp_path, quantize="nf4", device=CPU, dtype=torch.float32)
    assert all(same(lazy[name], weight) for name, weight in expected.weights.items())


def test_a_file_mapped_anew_again_and_again_loads_to_the_bit(tmp_path, monkeypatch):
    expected = load(write(tmp_path, theirs()))
    monkeypatch.setattr(checkpoint, "_MAPPED_BYTES", 1000)
    assert all_same(load(tmp_path), expected)


def test_a_linear_layer_left_in_full_precision_beside_others_in_four_bits_is_read(tmp_path):
    tensors = {key: value for key, value in theirs().items() if not key.startswith(NAME)} | {NAME: TENSORS[NAME]}
    write(tmp_path, tensors)
    assert same(load(tmp_path, "none").weights[NAME], TENSORS[NAME])
    assert same(load(tmp_path).weights[NAME], fourbit.quantize(TENSORS[NAME], "nf4"))


def test_codes_are_no_part_of_the_mapped_file(tmp_path):
    tensors = theirs()
    model = load(write(tmp_path, tensors))
    for weight in model.weights.values():
        for tensor in plain(weight):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


# What is told of them


@single_or_double
def test_codes_taken_as_they_are_have_lost_nothing_and_others_their_error(double_quant, tmp_path):
    write(tmp_path, theirs(double_quant=double_quant))
    told = {}

    def watch(name: str, original: torch.Tensor, held: Weight) -> None:
        assert original.shape == CONFIG.shapes()[name]
        told[name] = quantization_error(original, held)

    load(tmp_path, double_quant=double_quant, watch=watch)
    assert told == {name: 0.0 if name in LINEARS else None for name in TENSORS}
    load(tmp_path, "fp4", double_quant=double_quant, watch=watch)
    assert all(0.01 < told[name] < 0.2 for name in LINEARS)
    load(tmp_path, "none", watch=watch)
    assert told == dict.fromkeys(TENSORS)


# Damage

SHAPE = list(CONFIG.shapes()[NAME])
GOOD = {
    "quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": SHAPE, "nested_blocksize": 256,
    "nested_dtype": "float32", "nested_offset": 0.25,
}  # fmt: skip


def test_the_state_that_the_damaged_ones_are_made_of_is_good(tmp_path):
    load(write(tmp_path, {**theirs(), STATE: state_bytes(json.dumps(GOOD))}))


@pytest.mark.parametrize("part", ["absmax", "quant_map", "nested_absmax", "nested_quant_map"])
@single_or_double
def test_a_missing_part_is_named(part, double_quant, tmp_path):
    tensors = theirs(double_quant=double_quant)
    if tensors.pop(f"{NAME}.{part}", None) is None:
        return  # there is no such part without double quantisation
    assert f"1 tensors do not fit config.json:\nmissing {NAME}.{part} (" in refusal(
        write(tmp_path, tensors, double_quant=double_quant)
    )


def test_a_missing_state_is_named(tmp_path):
    tensors = theirs()
    del tensors[STATE]
    assert f"1 tensors do not fit config.json:\nmissing {STATE}" in refusal(write(tmp_path, tensors))


def test_codes_alone_are_not_taken_for_weights(tmp_path):
    tensors = {key: value for key, value in theirs().items() if not key.startswith(f"{NAME}.")}
    message = refusal(write(tmp_path, tensors))
    assert f"{NAME} holds U8, wanted one of BF16, F16, F32, F64" in message


@pytest.mark.parametrize(
    ("part", "tensor", "complaint"),
    [
        ("", torch.zeros(SHAPE[0] * SHAPE[1] // 2 - 1, 1, dtype=torch.uint8), "is (18431, 1), wanted (18432, 1)"),
        ("", torch.zeros(SHAPE[0] * SHAPE[1] // 2, dtype=torch.uint8), "is (18432,), wanted (18432, 1)"),
        ("", torch.zeros(SHAPE[0] * SHAPE[1] // 2, 1), "holds F32, wanted one of U8"),
        (".absmax", torch.zeros(577, dtype=torch.uint8), "is (577,), wanted (576,)"),
        (".absmax", torch.zeros(576), "holds F32, wanted one of U8"),
        (".quant_map", torch.zeros(15), "is (15,), wanted (16,)"),
        (".quant_map", torch.zeros(16, dtype=torch.float16), "holds F16, wanted one of F32"),
        (".nested_absmax", torch.zeros(2), "is (2,), wanted (3,)"),
        (".nested_quant_map", torch.zeros(255), "is (255,), wanted (256,)"),
        (".quant_state.bitsandbytes__nf4", torch.zeros(4097, dtype=torch.uint8), "is (4097,) of U8, wanted 1 to 4,096"),
        (".quant_state.bitsandbytes__nf4", torch.zeros(0, dtype=torch.uint8), "is (0,) of U8, wanted 1 to 4,096 bytes"),
        (".quant_state.bitsandbytes__nf4", torch.zeros(9, 9, dtype=torch.uint8), "is (9, 9) of U8, wanted 1 to 4,096"),
        (".quant_state.bitsandbytes__nf4", torch.zeros(9), "is (9,) of F32, wanted 1 to 4,096 bytes of U8"),
    ],
)
def test_a_part_of_another_shape_or_dtype_is_named(part, tensor, complaint, tmp_path):
    message = refusal(write(tmp_path, {**theirs(), f"{NAME}{part}": tensor}))
    assert f"1 tensors do not fit config.json:\n{NAME}{part} {complaint}" in message


@pytest.mark.parametrize(
    "name", [f"{NAME}.extra", f"{NAME}.quant_state.bitsandbytes__fp4", "transformer.wte.weight.absmax"]
)
def test_a_part_of_nothing_is_unexpected(name, tmp_path):
    message = refusal(write(tmp_path, {**theirs(), name: torch.zeros(3)}))
    assert f"unexpected {name} (3,)" in message


def test_all_damage_is_in_one_message(tmp_path):
    tensors = theirs()
    del tensors[f"{NAME}.absmax"], tensors["transformer.norm_f.weight"]
    tensors |= {"other": torch.zeros(2), f"{LINEARS[0]}.nested_absmax": torch.zeros(7), STATE: state_bytes("{")}
    message = refusal(write(tmp_path, tensors))
    assert ": 5 tensors do not fit config.json:" in message
    for complaint in (
        f"missing {NAME}.absmax (576,)",
        "missing transformer.norm_f.weight (96,)",
        "unexpected other (2,)",
        f"{LINEARS[0]}.nested_absmax is (7,), wanted (2,)",
        f"{STATE} is not JSON: ",
    ):
        assert f"\n{complaint}" in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xff\xfe", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 4096, "is not JSON"),
        ("9" * 4096, "holds int, not an object"),
        ("[]", "holds list, not an object"),
        ("{}", "quant_type is None, supported is 'nf4'; blocksize is None, supported is 64; dtype is None"),
        ({**GOOD, "quant_type": "fp4"}, "quant_type is 'fp4', supported is 'nf4'"),
        ({**GOOD, "blocksize": 128}, "blocksize is 128, supported is 64"),
        ({**GOOD, "blocksize": [64]}, "blocksize is [64], supported is 64"),
        ({**GOOD, "dtype": "int8"}, "dtype is 'int8', supported is 'float32' or 'bfloat16' or 'float16'"),
        ({**GOOD, "shape": SHAPE[::-1]}, f"shape is {SHAPE[::-1]}, supported is {SHAPE}"),
        ({**GOOD, "shape": None}, "shape is None, supported is"),
        ({**GOOD, "shape": [10**300, 1]}, "shape is [1000"),
        ({**GOOD, "nested_blocksize": 128}, "nested_blocksize is 128, supported is 256"),
        ({**GOOD, "nested_dtype": "float16"}, "nested_dtype is 'float16', supported is 'float32'"),
        ({**GOOD, "nested_offset": math.nan}, "nested_offset is nan, it takes a finite number"),
        ({**GOOD, "nested_offset": -math.inf}, "nested_offset is -inf, it takes a finite number"),
        ({**GOOD, "nested_offset": 1e39}, "nested_offset is 1e+39, it takes a finite number"),
        ({**GOOD, "nested_offset": 10**400}, "nested_offset is 1000"),
        ({**GOOD, "nested_offset": "0.25"}, "nested_offset is '0.25', it takes a finite number"),
        ({**GOOD, "nested_offset": True}, "nested_offset is True, it takes a finite number"),
        ({**GOOD, "nested_offset": None}, "nested_offset is None, it takes a finite number"),
        ({**GOOD, "absmax": 5}, "'absmax' is not known"),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_a_state_that_lies_is_refused_by_name(content, complaint, lazy, tmp_path):
    written = json.dumps(content) if isinstance(content, dict) else content
    write(tmp_path, {**theirs(), STATE: state_bytes(written)})
    with pytest.raises(CheckpointError) as caught:
        LazyWeights(tmp_path, quantize="nf4", device=CPU, dtype=torch.float32) if lazy else load(tmp_path)
    assert f"1 tensors do not fit config.json:\n{STATE}" in str(caught.value)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("depth", [100, 900, 2000])
def test_a_state_of_any_depth_is_refused_by_name(depth, tmp_path):
    deep = json.dumps(GOOD).replace(str(SHAPE), "[" * depth + "]" * depth)
    assert STATE in refusal(write(tmp_path, {**theirs(), STATE: state_bytes(deep)}))


def test_nested_values_without_double_quantisation_are_refused(tmp_path):
    tensors = theirs(double_quant=False) | {STATE: state_bytes(json.dumps(GOOD))}
    assert f"{STATE}: 'nested_blocksize' is not known" in refusal(write(tmp_path, tensors, double_quant=False))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("part", "double_quant"), [("absmax", False), ("nested_absmax", True), ("nested_quant_map", True)])
@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_a_scale_that_is_not_finite_is_refused_by_name(part, double_quant, value, quantize, tmp_path):
    tensors = theirs(double_quant=double_quant)
    tensors[f"{NAME}.{part}"][1] = value
    write(tmp_path, tensors, double_quant=double_quant)
    complaint = f"{NAME}.{part} holds numbers that are not finite"
    with pytest.raises(CheckpointError, match=complaint):
        load(tmp_path, quantize, double_quant=double_quant)
    lazy = LazyWeights(tmp_path, quantize=quantize, double_quant=double_quant, device=CPU, dtype=torch.float32)
    with pytest.raises(CheckpointError, match=complaint):
        lazy[NAME]


def test_scales_that_are_finite_but_together_beyond_float32_are_refused(tmp_path):
    tensors = theirs()
    tensors[f"{NAME}.nested_absmax"].fill_(3e38)
    tensors[STATE] = state_bytes(json.dumps({**GOOD, "nested_offset": 3e38}))
    assert f"{NAME}.nested_absmax and the rest stand for absmax values beyond float32" in refusal(write(tmp_path, tensors))


@pytest.mark.parametrize("value", [0.5, math.nan])
def test_levels_of_another_kind_are_refused_by_name(value, tmp_path):
    tensors = theirs()
    tensors[f"{NAME}.quant_map"][3] = value
    assert f"{NAME}.quant_map holds other levels than those of nf4" in refusal(write(tmp_path, tensors))


def test_a_matrix_that_blocks_do_not_divide_is_named(tmp_path):
    odd = tiny_config(d_model=12)
    tensors = dict(tiny_tensors(odd, 0))
    name = LINEARS[0]
    packed, state = bnb.quantize_4bit(tensors[name], quant_type="nf4", compress_statistics=False, blocksize=64)
    tensors |= {name: packed, **{f"{name}.{part}": value for part, value in state.as_dict(packed=True).items()}}
    write(tmp_path, tensors)
    (tmp_path / "config.json").write_text(odd.to_json())
    assert f"{name} is held in 4 bits, whose blocks of 64 do not divide (36, 12)" in refusal(tmp_path)


def test_eight_bits_are_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match=r"Wqkv\.weight is quantised to 8 bits; only a model of 4-, 16- or 32-bit"):
        save_checkpoint(tiny_model(CONFIG, 0, quantize="int8"), tmp_path)
    assert list(tmp_path.iterdir()) == []


# quantization_config

FOUR_BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def read_options(folder: Path, options: object):
    (folder / "config.json").write_text(json.dumps(json.loads(CONFIG.to_json()) | {"quantization_config": options}))
    return read_config(folder / "config.json")


@pytest.mark.parametrize(
    "options",
    [
        None,
        FOUR_BITS,
        BitsAndBytesConfig(load_in_4bit=True).to_dict(),
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True).to_dict(),
        {**FOUR_BITS, "llm_int8_skip_modules": ["lm_head"]},
    ],
)
def test_a_quantisation_to_four_bits_is_no_part_of_the_configuration(options, tmp_path):
    assert read_options(tmp_path, options) == CONFIG


@pytest.mark.parametrize(
    "options",
    [
        {},
        [],
        False,
        "bitsandbytes",
        {"load_in_4bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "load_in_4bit": True},
        BitsAndBytesConfig(load_in_8bit=True).to_dict(),
    ],
)
def test_another_quantisation_is_refused_by_name(options, tmp_path):
    with pytest.raises(CheckpointError, match=r"exactly: quantization_config is .*, supported is None or {'quant_method'"):
        read_options(tmp_path, options)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bnb_4bit_quant_type", "int4"),
        ("bnb_4bit_quant_storage", "bfloat16"),
        ("bnb_4bit_use_double_quant", "yes"),
        ("load_in_8bit", True),
        ("_load_in_8bit", True),
        ("_load_in_4bit", False),
    ],
)
def test_an_option_of_it_that_is_not_supported_is_refused_by_name(key, value, tmp_path):
    with pytest.raises(CheckpointError, match=f"exactly: quantization_config.{key} is {value!r}, supported is"):
        read_options(tmp_path, {**FOUR_BITS, key: value})


def test_an_option_of_it_that_hoidap_does_not_know_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"quantization_config\.blocks is not an option hoidap knows"):
        read_options(tmp_path, {**FOUR_BITS, "blocks": 32})
