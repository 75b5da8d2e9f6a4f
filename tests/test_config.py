"""A config.json becomes an MPTConfig, or an error that names every option that hoidap does not compute."""

import json
import math
from pathlib import Path

import pytest

from hoidap.errors import CheckpointError
from hoidap.model.config import _ONLY, _ONLY_ATTENTION, _ONLY_FFN, MPTConfig, read_config

GOLDEN = Path(__file__).parent / "golden"
PHOGPT_4B = MPTConfig(d_model=3072, n_heads=24, n_layers=32, vocab_size=20480, max_seq_len=8192)
PHOGPT_7B5 = MPTConfig(d_model=4096, n_heads=32, n_layers=32, vocab_size=250880, max_seq_len=2048)

# PhoGPT-4B's config.json as it was first uploaded (llm-foundry v0.3).
RAW = {
    "architectures": ["MPTForCausalLM"],
    "model_type": "mpt",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.31.0",
    "use_cache": False,
    "auto_map": {"AutoConfig": "configuration_mpt.MPTConfig", "AutoModelForCausalLM": "modeling_mpt.MPTForCausalLM"},
    "attn_config": {
        "alibi": True,
        "alibi_bias_max": 8,
        "attn_impl": "torch",
        "attn_pdrop": 0.0,
        "attn_type": "multihead_attention",
        "attn_uses_sequence_id": False,
        "clip_qkv": None,
        "prefix_lm": False,
        "qk_ln": False,
        "softmax_scale": None,
    },
    "ffn_config": {"fc_type": "torch", "ffn_type": "mptmlp"},
    "fc_type": "torch",
    "no_bias": False,
    "norm_type": "low_precision_layernorm",
    "learned_pos_emb": True,
    "d_model": 3072,
    "n_heads": 24,
    "n_layers": 32,
    "expansion_ratio": 4,
    "max_seq_len": 8192,
    "vocab_size": 20480,
    "emb_pdrop": 0,
    "resid_pdrop": 0,
    "embedding_fraction": 1.0,
    "logit_scale": None,
    "init_device": "cpu",
    "init_config": {"name": "kaiming_normal_", "fan_mode": "fan_in", "init_nonlinearity": "relu", "init_gain": 0},
    "verbose": 0,
}
# What later llm-foundry versions (code of February 2024 and after) write besides.
LATER = {
    "qk_gn": False,
    "rope": False,
    "rope_theta": 10000,
    "rope_impl": "dail",
    "rope_dail_config": {"type": "original", "pos_idx_in_fp32": True, "xpos_scale_base": 512},
    "rope_hf_config": {"type": "no_scaling", "factor": 1.0},
    "sliding_window_size": -1,
    "kv_n_heads": None,
    "attn_logit_softcapping": None,
    "model_type": "",
}
WRONG = {
    "model_type": "llama",
    "norm_type": "rmsnorm",
    "embedding_fraction": 0.5,
    "emb_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "tie_word_embeddings": False,
    "fc_type": "te",
    "layer_norm_epsilon": 1e-6,
    "quantization_config": {"load_in_4bit": True},
    "no_bias": "no",
    "learned_pos_emb": None,
}
WRONG_ATTENTION = {
    "attn_type": "multiquery_attention",
    "attn_pdrop": 0.1,
    "prefix_lm": True,
    "attn_uses_sequence_id": True,
    "qk_gn": True,
    "rope": True,
    "sliding_window_size": 4096,
    "kv_n_heads": 8,
    "attn_logit_softcapping": 50.0,
    "alibi": "false",
    "qk_ln": None,
}
HUGE = pytest.param(10**400, id="401 digits")  # valid JSON, and more than a float holds
WRONG_FFN = {"ffn_type": "mptglu", "fc_type": {"name": "te"}}


def raw(
    attention: dict[str, object] | None = None, ffn: dict[str, object] | None = None, **changes: object
) -> dict[str, object]:
    """Return RAW with some options changed."""
    return {
        **RAW,
        "attn_config": {**RAW["attn_config"], **(attention or {})},
        "ffn_config": {**RAW["ffn_config"], **(ffn or {})},
        **changes,
    }


def read(folder: Path, values: object) -> MPTConfig:
    path = folder / "config.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return read_config(path)


def refusal(folder: Path, values: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(folder, values)
    message = str(caught.value)
    assert message.startswith(str(folder / "config.json"))
    return message.removeprefix(str(folder / "config.json"))


# What is read


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ("phogpt-4b-shape", MPTConfig(d_model=192, n_heads=24, n_layers=2, vocab_size=512, max_seq_len=256)),
        ("phogpt-7b5-shape", MPTConfig(d_model=128, n_heads=8, n_layers=2, vocab_size=1000, max_seq_len=256)),
        ("mpt-7b-shape", MPTConfig(d_model=128, n_heads=4, n_layers=2, vocab_size=512, max_seq_len=256, no_bias=True)),
    ],
)
def test_the_golden_configurations_are_read(shape, config):
    assert read_config(GOLDEN / shape / "config.json") == config


def test_phogpts_first_configuration_is_read_with_all_its_quirks(tmp_path):
    assert read(tmp_path, RAW) == PHOGPT_4B


def test_the_keys_of_later_llm_foundry_versions_change_nothing(tmp_path):
    assert read(tmp_path, raw(attention=LATER)) == PHOGPT_4B


@pytest.mark.parametrize("dropout", [0, 0.0])
def test_no_dropout_may_be_written_as_a_whole_number_or_a_float(dropout, tmp_path):
    assert read(tmp_path, raw(attention={"attn_pdrop": dropout}, emb_pdrop=dropout, resid_pdrop=dropout)) == PHOGPT_4B


@pytest.mark.parametrize(
    ("learned", "alibi", "has_positions"),
    [(True, True, False), (False, True, False), (True, False, True), (False, False, False)],
)
def test_learned_positions_are_there_only_without_alibi(learned, alibi, has_positions, tmp_path):
    config = read(tmp_path, raw(attention={"alibi": alibi}, learned_pos_emb=learned))
    assert config.learned_pos_emb == has_positions
    assert ("transformer.wpe.weight" in config.shapes()) == has_positions


def test_what_a_file_leaves_out_is_as_llm_foundry_defaults_it(tmp_path):
    sizes = {"d_model": 8, "n_heads": 2, "n_layers": 1, "vocab_size": 10, "max_seq_len": 16}
    assert read(tmp_path, sizes) == MPTConfig(**sizes, alibi=False, learned_pos_emb=True)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"no_bias": True}, "no_bias", True),
        ({"expansion_ratio": 2}, "expansion_ratio", 2),
        ({"logit_scale": 0.5}, "logit_scale", 0.5),
        ({"logit_scale": "inv_sqrt_d_model"}, "logit_scale", 1 / math.sqrt(3072)),
        ({"attention": {"alibi_bias_max": 16}}, "alibi_bias_max", 16.0),
        ({"attention": {"qk_ln": True}}, "qk_ln", True),
        ({"attention": {"clip_qkv": 6}}, "clip_qkv", 6.0),
        ({"attention": {"clip_qkv": 0}}, "clip_qkv", None),  # llm-foundry: `if self.clip_qkv`
        ({"attention": {"softmax_scale": 0.25}}, "softmax_scale", 0.25),
    ],
)
def test_an_option_that_hoidap_computes_is_read(changes, field, value, tmp_path):
    assert getattr(read(tmp_path, raw(**changes)), field) == value


@pytest.mark.parametrize("fc_type", ["torch", {"name": "torch"}])
def test_the_linear_layer_of_any_version_is_read(fc_type, tmp_path):
    assert read(tmp_path, raw(fc_type=fc_type, ffn={"fc_type": fc_type}, attention={"fc_type": fc_type})) == PHOGPT_4B


# What is refused


def test_every_option_with_one_way_to_compute_it_has_a_wrong_value_here():
    assert set(WRONG) == set(_ONLY)
    assert set(WRONG_ATTENTION) == set(_ONLY_ATTENTION)
    assert set(WRONG_FFN) == set(_ONLY_FFN)


@pytest.mark.parametrize(("key", "value"), WRONG.items(), ids=WRONG.keys())
def test_an_unsupported_option_is_refused_by_name(key, value, tmp_path):
    message = refusal(tmp_path, raw(**{key: value}))
    assert message.startswith(f": hoidap cannot compute this model exactly: {key} is {value!r}, supported is ")
    assert ";" not in message, "and nothing else"


@pytest.mark.parametrize(("key", "value"), WRONG_ATTENTION.items(), ids=WRONG_ATTENTION.keys())
def test_an_unsupported_option_of_the_attention_is_refused_by_name(key, value, tmp_path):
    message = refusal(tmp_path, raw(attention={key: value}))
    assert message.startswith(f": hoidap cannot compute this model exactly: attn_config.{key} is {value!r}, supported is ")
    assert ";" not in message


@pytest.mark.parametrize(("key", "value"), WRONG_FFN.items(), ids=WRONG_FFN.keys())
def test_an_unsupported_option_of_the_feed_forward_layer_is_refused_by_name(key, value, tmp_path):
    message = refusal(tmp_path, raw(ffn={key: value}))
    assert message.startswith(f": hoidap cannot compute this model exactly: ffn_config.{key} is {value!r}, supported is ")
    assert ";" not in message


def test_a_refusal_says_which_values_are_supported(tmp_path):
    assert refusal(tmp_path, raw(norm_type="rmsnorm")) == (
        ": hoidap cannot compute this model exactly: norm_type is 'rmsnorm', "
        "supported is 'layernorm' or 'low_precision_layernorm'"
    )


@pytest.mark.parametrize("section", ["attention", "ffn"])
def test_an_option_nobody_knows_is_refused_by_name_inside_a_section(section, tmp_path):
    prefix = {"attention": "attn_config", "ffn": "ffn_config"}[section]
    message = refusal(tmp_path, raw(**{section: {"new_option": False}}))
    assert message == f": hoidap cannot compute this model exactly: {prefix}.new_option is not an option hoidap knows"


def test_all_that_is_wrong_is_in_one_message(tmp_path):
    values = raw(attention={**WRONG_ATTENTION, "x": 1}, ffn={**WRONG_FFN, "y": 2}, **WRONG)
    del values["d_model"], values["vocab_size"]
    message = refusal(tmp_path, values)
    for name in (
        *WRONG,
        *(f"attn_config.{key}" for key in (*WRONG_ATTENTION, "x")),
        *(f"ffn_config.{key}" for key in (*WRONG_FFN, "y")),
    ):
        assert f" {name} is " in message
    assert "d_model is missing; vocab_size is missing" in message


@pytest.mark.parametrize("key", ["d_model", "n_heads", "n_layers", "vocab_size", "max_seq_len"])
def test_a_missing_size_is_named(key, tmp_path):
    values = {name: value for name, value in RAW.items() if name != key}
    assert refusal(tmp_path, values) == f": hoidap cannot compute this model exactly: {key} is missing"


@pytest.mark.parametrize("value", [0, -1, 1.5, 4.0, "32", None, True, [4], 10**9, HUGE])
@pytest.mark.parametrize("key", ["d_model", "n_heads", "n_layers", "vocab_size", "max_seq_len", "expansion_ratio"])
def test_an_impossible_size_is_named_with_its_value(key, value, tmp_path):
    message = refusal(tmp_path, raw(**{key: value}))
    assert message.startswith(
        f": the model's configuration is impossible: {key} is {value!r}, it takes a whole number from 1 to "
    )
    assert ";" not in message


def test_all_impossible_sizes_are_in_one_message(tmp_path):
    message = refusal(tmp_path, raw(d_model=0, n_layers=-3, vocab_size="many"))
    assert [part.split(", ")[0] for part in message.split("impossible: ")[1].split("; ")] == [
        "d_model is 0",
        "n_layers is -3",
        "vocab_size is 'many'",
    ]


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path):
    assert refusal(tmp_path, raw(n_heads=25)) == (
        ": the model's configuration is impossible: d_model 3072 is not a multiple of n_heads 25"
    )


@pytest.mark.parametrize("value", ["eight", True, [8], {}, math.inf, math.nan, HUGE])
@pytest.mark.parametrize(
    ("section", "key"),
    [("attention", "alibi_bias_max"), ("attention", "clip_qkv"), ("attention", "softmax_scale"), (None, "logit_scale")],
)
def test_a_number_that_is_none_is_refused_by_name(section, key, value, tmp_path):
    message = refusal(tmp_path, raw(**({section: {key: value}} if section else {key: value})))
    assert message == f": {'attn_config.' if section else ''}{key} is {value!r}; it takes a number"


def test_alibi_without_its_largest_bias_is_refused(tmp_path):
    assert (
        refusal(tmp_path, raw(attention={"alibi_bias_max": None}))
        == ": attn_config.alibi_bias_max is None; it takes a number"
    )


def test_a_negative_bias_is_refused(tmp_path):
    assert refusal(tmp_path, raw(attention={"alibi_bias_max": -1e5})) == (
        ": the model's configuration is impossible: alibi_bias_max is -100000.0, it takes a number from 0"
    )


@pytest.mark.parametrize("d_model", [0, -4, "wide", HUGE])
def test_a_scale_from_an_impossible_width_blames_the_width(d_model, tmp_path):
    message = refusal(tmp_path, raw(logit_scale="inv_sqrt_d_model", d_model=d_model))
    assert message.startswith(f": the model's configuration is impossible: d_model is {d_model!r}, ")


@pytest.mark.parametrize("section", ["attn_config", "ffn_config"])
@pytest.mark.parametrize("value", ["torch", [1], 5, True])
def test_a_section_that_is_no_object_is_refused(section, value, tmp_path):
    assert refusal(tmp_path, raw(**{section: value})) == f": {section} is {value!r}; it takes an object of options"


# Files


def test_a_missing_file_is_named_with_what_a_model_folder_holds(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json does not exist; a model folder holds config\.json, tokenizer"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    "content", ["", "{", "{'d_model': 1}", "[" * 100_000], ids=["empty", "cut", "Python", "nested without end"]
)
def test_a_file_that_is_not_json_is_refused(content, tmp_path):
    assert refusal(tmp_path, content).startswith(" is not JSON: ")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(CheckpointError, match="is not JSON: 'utf-8' codec can't decode byte 0x80"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize(("value", "kind"), [([RAW], "list"), ("5", "int"), ("null", "NoneType"), ('"mpt"', "str")])
def test_json_that_is_no_object_is_refused(value, kind, tmp_path):
    assert refusal(tmp_path, value) == f" holds {kind}, not an object of options"


def test_a_file_too_large_for_a_configuration_is_not_read(tmp_path):
    assert refusal(tmp_path, " " * 2_000_000) == " has 2,000,000 bytes; a config.json has at most 1,048,576"


# What a configuration means


@pytest.mark.parametrize(
    ("config", "n_parameters"), [(PHOGPT_4B, 3_688_077_312), (PHOGPT_7B5, 7_471_767_552)], ids=["4B", "7B5"]
)
def test_phogpt_has_387_tensors_and_its_published_size(config, n_parameters):
    shapes = config.shapes()
    assert len(shapes) == 387
    assert sum(math.prod(shape) for shape in shapes.values()) == n_parameters


def test_a_block_has_the_tensors_of_llm_foundry_in_its_order():
    block = "transformer.blocks.31."
    shapes = {name.removeprefix(block): shape for name, shape in PHOGPT_4B.shapes().items() if name.startswith(block)}
    assert list(shapes.items()) == [
        ("norm_1.weight", (3072,)),
        ("norm_1.bias", (3072,)),
        ("attn.Wqkv.weight", (9216, 3072)),
        ("attn.Wqkv.bias", (9216,)),
        ("attn.out_proj.weight", (3072, 3072)),
        ("attn.out_proj.bias", (3072,)),
        ("norm_2.weight", (3072,)),
        ("norm_2.bias", (3072,)),
        ("ffn.up_proj.weight", (12288, 3072)),
        ("ffn.up_proj.bias", (12288,)),
        ("ffn.down_proj.weight", (3072, 12288)),
        ("ffn.down_proj.bias", (3072,)),
    ]


def test_outside_the_blocks_are_the_embedding_and_the_last_norm():
    outside = {name: shape for name, shape in PHOGPT_7B5.shapes().items() if ".blocks." not in name}
    assert outside == {
        "transformer.wte.weight": (250880, 4096),
        "transformer.norm_f.weight": (4096,),
        "transformer.norm_f.bias": (4096,),
    }


def test_no_bias_leaves_every_bias_out_and_nothing_else():
    sizes = {"d_model": 64, "n_heads": 4, "n_layers": 3, "vocab_size": 100, "max_seq_len": 32, "qk_ln": True}
    with_biases, without = MPTConfig(**sizes).shapes(), MPTConfig(**sizes, no_bias=True).shapes()
    assert without == {name: shape for name, shape in with_biases.items() if not name.endswith(".bias")}
    assert len(with_biases) == 3 + 3 * 16
    assert len(without) == 2 + 3 * 8


def test_qk_ln_norms_the_whole_width():
    shapes = MPTConfig(d_model=64, n_heads=4, n_layers=1, vocab_size=100, max_seq_len=32, qk_ln=True).shapes()
    assert all(
        shapes[f"transformer.blocks.0.attn.{norm}.{kind}"] == (64,)
        for norm in ("q_ln", "k_ln")
        for kind in ("weight", "bias")
    )


ALIBI_LOG2 = {
    # 32 = 2⁵ heads: -0.25, -0.5, ... -8.
    32: [-0.25 * i for i in range(1, 33)],
    # 24 heads, PhoGPT-4B: every second of the 32, then the first eight of the others.
    24: [-0.5 * i for i in range(1, 17)] + [-0.25 - 0.5 * i for i in range(8)],
    # 40 heads: every second of 64, then the first eight of the others.
    40: [-0.25 * i for i in range(1, 33)] + [-0.125 - 0.25 * i for i in range(8)],
    # 6 heads: every second of 8, then the first two of the others.
    6: [-2, -4, -6, -8, -1, -3],
}


@pytest.mark.parametrize("n_heads", ALIBI_LOG2)
def test_alibi_slopes_are_llm_foundrys(n_heads):
    config = MPTConfig(d_model=128 * n_heads, n_heads=n_heads, n_layers=1, vocab_size=10, max_seq_len=16)
    assert config.alibi_slopes() == pytest.approx([2.0**log2 for log2 in ALIBI_LOG2[n_heads]], rel=1e-15)


def test_the_largest_bias_stretches_the_slopes():
    config = MPTConfig(d_model=8, n_heads=4, n_layers=1, vocab_size=10, max_seq_len=16, alibi_bias_max=16.0)
    assert config.alibi_slopes() == [2.0**-4, 2.0**-8, 2.0**-12, 2.0**-16]


def test_without_alibi_all_slopes_are_zero():
    config = MPTConfig(d_model=12, n_heads=6, n_layers=1, vocab_size=10, max_seq_len=16, alibi=False)
    assert config.alibi_slopes() == [0.0] * 6


def test_scores_are_divided_by_the_root_of_the_head_size_unless_a_scale_is_given():
    sizes = {"d_model": 3072, "n_heads": 24, "n_layers": 1, "vocab_size": 10, "max_seq_len": 16}
    assert MPTConfig(**sizes).attention_scale == pytest.approx(128**-0.5)
    assert MPTConfig(**sizes, softmax_scale=0.0).attention_scale == 0.0


@pytest.mark.parametrize(
    "config",
    [
        PHOGPT_4B,
        PHOGPT_7B5,
        MPTConfig(
            d_model=64, n_heads=4, n_layers=3, vocab_size=100, max_seq_len=32, expansion_ratio=2, no_bias=True, alibi=False,
            learned_pos_emb=True, qk_ln=True, clip_qkv=6.0, softmax_scale=0.1, logit_scale=1 / 3,
        ),
        MPTConfig(d_model=64, n_heads=4, n_layers=3, vocab_size=100, max_seq_len=32, alibi=False),
        MPTConfig(d_model=64, n_heads=4, n_layers=3, vocab_size=100, max_seq_len=32, alibi_bias_max=12.5),
    ],
    ids=["4B", "7B5", "all options", "no positions at all", "another bias"],
)  # fmt: skip
def test_a_written_configuration_reads_back_the_same(config, tmp_path):
    assert read(tmp_path, config.to_json()) == config
