"""What a run takes of a GPU is reckoned, and the cheapest dials are chosen under which it fits."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from hoidap.errors import RecipeError
from hoidap.model.config import MPTConfig
from hoidap.recipe import RECALL, SEED, adjusted, gigabytes
from hoidap.training.memory import choose, fit_memory, reckon

PHOGPT_4B = MPTConfig(d_model=3072, n_heads=24, n_layers=32, vocab_size=20_480, max_seq_len=8192)
PHOGPT_7B5 = MPTConfig(d_model=4096, n_heads=32, n_layers=32, vocab_size=250_880, max_seq_len=2048)
WIDE = adjusted(RECALL, {"rank": 32})
GB = 1e9


def chosen(gb: float, config=PHOGPT_7B5, dtype=torch.float16, longest=1024, **changes):
    return choose(adjusted(WIDE, changes), config, dtype, longest, gb * GB)


def test_with_memory_to_spare_nothing_is_computed_twice():
    recipe = chosen(140, dtype=torch.bfloat16, batch_tokens=16_384)
    assert (recipe.recompute, recipe.offload, recipe.schedule.accumulation) == (0, False, 1)
    assert (recipe.optimizer.algorithm, recipe.embedding) == ("adamw", "16-bit")


def test_less_memory_costs_more_and_more():
    found = [chosen(gb) for gb in (20, 13, 12, 9)]
    twice = [recipe.recompute for recipe in found]
    assert twice == sorted(twice)
    assert twice[0] == 0
    assert twice[-1] > 8
    assert [recipe.embedding for recipe in found] == ["16-bit"] * 4
    assert chosen(7.2).embedding == "8-bit"


@settings(deadline=None)
@given(
    gb=st.floats(6.5, 60),
    batch_tokens=st.sampled_from([512, 2048, 8192]),
    longest=st.sampled_from([100, 1024, 2048]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16]),
    small=st.booleans(),
)
def test_what_is_chosen_fits_and_leaves_what_is_computed(gb, batch_tokens, longest, dtype, small):
    config = PHOGPT_4B if small else PHOGPT_7B5
    asked = adjusted(WIDE, {"batch_tokens": batch_tokens})
    try:
        found = choose(asked, config, dtype, longest, gb * GB)
    except RecipeError:
        reject()
    assert reckon(config, found, dtype, longest, found.schedule.accumulation).total <= gb * GB
    free = ("recompute", "offload", "embedding")
    same = {name: getattr(asked, name) for name in free}
    back = adjusted(found, {**same, "accumulation": 1, "algorithm": asked.optimizer.algorithm})
    assert back == asked


def test_what_was_asked_for_is_kept():
    assert chosen(20, recompute=5).recompute == 5
    assert chosen(20, recompute=99).recompute == PHOGPT_7B5.n_layers
    assert chosen(20, accumulation=2).schedule.accumulation >= 2
    assert chosen(20, embedding="8-bit").embedding == "8-bit"
    dropped = choose(SEED, PHOGPT_7B5, torch.float16, 1024, 20 * GB)
    assert dropped.schedule.accumulation == 1, "other passes would draw other masks"


def test_what_cannot_fit_is_told_with_its_parts():
    with pytest.raises(RecipeError, match=r"this run needs .* GB of GPU memory .*and 4\.\d are allowed; lower --rank"):
        chosen(3.5)


def test_every_saving_saves():
    def need(**changes):
        recipe = adjusted(WIDE, {"recompute": 0, **changes})
        return reckon(PHOGPT_7B5, recipe, torch.bfloat16, 1024, recipe.schedule.accumulation)

    plain = need()
    assert need(recompute=16).activations < plain.activations
    assert need(recompute=32).activations < need(recompute=16).activations
    assert need(recompute=32, offload=True).activations == 0
    assert plain.weights - need(embedding="8-bit").weights == pytest.approx(250_880 * (4096 - 4))
    assert plain.weights - need(embedding="4-bit").weights == pytest.approx(250_880 * 4096 * (2 - 4.127 / 8))
    assert need(algorithm="adamw_8bit").adapter < plain.adapter
    assert need(accumulation=8, batch_tokens=8192).activations < need(batch_tokens=8192).activations
    assert need(quantize="nf4").weights < need(quantize="int8").weights < need(quantize="none").weights


def test_what_goes_through_autograd_keeps_more():
    plain, dropping = adjusted(WIDE, {"recompute": 0}), adjusted(WIDE, {"recompute": 0, "dropout": 0.05})
    kept = [reckon(PHOGPT_4B, recipe, torch.bfloat16, 1024, 1).activations for recipe in (plain, dropping)]
    assert kept[1] == pytest.approx(2.7 * kept[0])


def test_weights_and_adapter_are_counted_exactly():
    recipe = adjusted(WIDE, {"recompute": 32})
    need = reckon(PHOGPT_7B5, recipe, torch.float16, 1024, 1)
    linear = 32 * 12 * 4096**2
    assert need.weights == pytest.approx(linear * 4.127 / 8 + 250_880 * 4096 * 2, rel=1e-3)
    assert need.adapter == 67_108_864 * 16, "a float32 weight, its gradient, and AdamW's two means"


def test_a_cpu_has_no_dials_but_a_large_base_computes_twice():
    cpu = torch.device("cpu")
    small = MPTConfig(d_model=448, n_heads=7, n_layers=4, vocab_size=8192, max_seq_len=512)
    assert fit_memory(RECALL, small, cpu, torch.float32, 100) == (replace(RECALL, recompute=0), "")
    assert fit_memory(RECALL, PHOGPT_4B, cpu, torch.float32, 100)[0].recompute == PHOGPT_4B.n_layers
    asked = adjusted(RECALL, {"recompute": 3})
    assert fit_memory(asked, PHOGPT_4B, cpu, torch.float32, 100)[0].recompute == 3


@pytest.mark.parametrize(
    ("text", "gb"),
    [("15GB", 15), ("15", 15), (" 7.5 gb ", 7.5), ("14GiB", 14 * 2**30 / 1e9), ("8G", 8), ("0", 0), (None, None)],
)
def test_memory_is_read_with_and_without_its_unit(text, gb):
    assert gigabytes(text) == (None if gb is None else pytest.approx(gb))


@pytest.mark.parametrize("text", ["", "a lot", "15TB", "-3", "1e3", "15GB of 16", "nan", "١٥"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(RecipeError, match=r"--memory is .*; it takes gigabytes, as in 15GB"):
        gigabytes(text)


def test_what_was_asked_for_by_name_is_not_given_up_to_fit():
    assert chosen(7.2).embedding == "8-bit"
    with pytest.raises(RecipeError, match="this run needs"):
        choose(WIDE, PHOGPT_7B5, torch.float16, 1024, 6.5 * GB, ("embedding", "algorithm"))


def test_memory_is_refused_where_it_means_nothing():
    for recipe in (adjusted(RECALL, {"memory_gb": 15.0}), adjusted(RECALL, {"method": "full", "memory_gb": 15.0})):
        with pytest.raises(RecipeError, match="--memory is for adapters trained on a GPU"):
            fit_memory(recipe, PHOGPT_4B, torch.device("cpu"), torch.float32, 100)


def test_full_fine_tuning_of_a_large_base_computes_twice_and_has_no_8_bit_embedding():
    full = adjusted(RECALL, {"method": "full"})
    assert fit_memory(full, PHOGPT_4B, torch.device("cuda"), torch.bfloat16, 100)[0].recompute == PHOGPT_4B.n_layers
    with pytest.raises(RecipeError, match="--method full trains the embedding too"):
        adjusted(full, {"embedding": "8-bit"})


def test_float32_is_reckoned_wider():
    recipe = adjusted(WIDE, {"recompute": 0, "quantize": "none"})
    narrow, wide = (reckon(PHOGPT_4B, recipe, dtype, 1024, 1) for dtype in (torch.bfloat16, torch.float32))
    assert wide.weights == pytest.approx(2 * narrow.weights)
    assert wide.activations > 2 * narrow.activations
