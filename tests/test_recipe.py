"""A recipe reads back as it was written, and says by name what it does not take."""

import dataclasses

import pytest
import torch

from hoidap.errors import HoidapError, RecipeError
from hoidap.recipe import (
    RECALL,
    RECALL_SMALL,
    SEED,
    Adapter,
    Optimizer,
    Recipe,
    Schedule,
    Text,
    adjusted,
    differences,
    preset,
)
from hoidap.runtime import pick_device, pick_dtype


@pytest.mark.parametrize(
    "recipe", [RECALL, RECALL_SMALL, SEED, Recipe(adapter=Adapter(rank=3, alpha=1.5), schedule=Schedule(seed=9))]
)
def test_a_recipe_reads_back_as_it_was_written(recipe):
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method = ", "the recipe is not TOML"),
        ("colour = 1", "the recipe has colour, which hoidap does not know; it takes method, quantize"),
        ("[schedule]\nepochs = 3", r"\[schedule\] has epochs, which hoidap does not know; it takes max_epochs"),
        ("schedule = 3", r"\[schedule\] has 3"),
        ("[schedule]\nmax_epochs = 'many'", "--epochs is 'many'; it takes a whole number from 1"),
        ("[adapter]\nrank = 0", "--rank is 0; it takes a whole number from 1 to 1024"),
    ],
)
def test_what_a_recipe_does_not_take_is_named(text, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.from_toml(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adapter(alpha=0), "--alpha is 0; it takes a number above 0"),
        (lambda: Optimizer(learning_rate=0), "--lr is 0"),
        (lambda: Optimizer(learning_rate=float("nan")), "--lr is nan"),
        (lambda: Optimizer(clip_norm=0), "clip_norm is 0"),
        (lambda: Optimizer(warmup_fraction=1.5), "warmup_fraction is 1.5; it takes a number from 0 to 1"),
        (lambda: Optimizer(betas=(0.9, 1.0)), r"betas is \(0.9, 1.0\); it takes two numbers from 0 to below 1"),
        (lambda: Schedule(max_epochs=0), "--epochs is 0; it takes a whole number from 1"),
        (lambda: Schedule(batch_tokens=1), "--batch-tokens is 1"),
        (lambda: Schedule(followup_share=-0.1), "followup_share is -0.1"),
        (lambda: Schedule(recall_every=-1), "recall_every is -1; it takes a whole number from 0"),
        (lambda: Schedule(accumulation=0), "--accumulation is 0; it takes a whole number from 1"),
        (lambda: Schedule(save_every=1.5), "--save-every is 1.5; it takes a whole number from 1"),
        (lambda: Adapter(dropout=1.0), "--dropout is 1.0; it takes a number from 0 to below 1"),
        (lambda: Optimizer(algorithm="sgd"), "--optimizer is 'sgd'; it takes 'adamw', 'paged_adamw_32bit', 'adamw_8bit'"),
        (lambda: Text(max_tokens=-1), "--max-tokens is -1; it takes a whole number from 0"),
        (lambda: Text(too_long="trim"), "--too-long is 'trim'; it takes 'raise', 'drop', 'cut'"),
        (lambda: Recipe(dtype="half"), "--dtype is 'half'; it takes 'auto', 'float32'"),
        (lambda: preset("best", 1), "--preset is 'best'; it takes 'recall', 'seed'"),
        (lambda: Schedule(patience=0), "patience is 0"),
        (lambda: Schedule(seed=-1), "--seed is -1"),
        (lambda: Schedule(seed=2**32), r"--seed is 4294967296; it takes a whole number from 0 to below 2\^32"),
        (lambda: Adapter(alpha=float("inf")), "--alpha is inf; it takes a number above 0"),
        (lambda: Recipe(quantize="int3"), "--quantize is 'int3'; it takes 'nf4', 'fp4', 'int8', 'none'"),
        (lambda: pick_device("tpu"), "--device is 'tpu'; it takes 'cpu', 'cuda' or 'cuda:N'"),
        (lambda: pick_device("mps"), "--device is 'mps'; it takes 'cpu', 'cuda' or 'cuda:N'"),
        (lambda: pick_dtype(torch.device("cpu"), "half"), "--dtype is 'half'; it takes float32, bfloat16, float16"),
    ],
)
def test_each_setting_out_of_range_is_named_by_its_flag(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_adjusting_changes_what_is_named_and_nothing_else():
    changed = adjusted(RECALL, {"rank": 4, "learning_rate": 1e-4, "max_epochs": 3, "seed": None})
    assert (changed.adapter.rank, changed.optimizer.learning_rate, changed.schedule.max_epochs) == (4, 1e-4, 3)
    assert changed.schedule.seed == RECALL.schedule.seed
    assert (
        dataclasses.replace(changed, adapter=RECALL.adapter, optimizer=RECALL.optimizer, schedule=RECALL.schedule) == RECALL
    )


def test_adjusting_an_unknown_setting_is_an_error_that_names_it():
    with pytest.raises(RecipeError, match=r"there is no setting 'epochs'; there are .*max_epochs"):
        adjusted(RECALL, {"epochs": 3})


def test_the_cpu_computes_in_float32_by_default():
    assert pick_dtype(torch.device("cpu")) == torch.float32


def test_every_error_of_hoidap_s_own_is_one_kind():
    from hoidap import errors

    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    assert all(issubclass(kind, HoidapError) for kind in kinds)
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds), "the tree in the docstring names each"


def test_the_preset_recall_is_keyed_by_the_size_of_the_base():
    phogpt = preset("recall", 3_688_077_312)
    assert (phogpt.adapter.rank, phogpt.adapter.alpha, phogpt.adapter.dropout) == (16, 32, 0)
    assert phogpt.optimizer.learning_rate == 2e-4
    assert (phogpt.schedule.max_epochs, phogpt.schedule.recall_every, phogpt.schedule.patience) == (10, 1, 2)
    assert (phogpt.method, phogpt.quantize, phogpt.double_quant) == ("lora", "nf4", True)
    assert preset("recall", 50_000_000) == RECALL_SMALL


def test_the_preset_seed_is_the_copied_run_to_the_letter():
    seed = preset("seed", 7_471_767_552)
    assert (seed.method, seed.quantize, seed.double_quant, seed.dtype) == ("lora", "nf4", True, "float16")
    assert (seed.adapter.rank, seed.adapter.alpha, seed.adapter.dropout) == (32, 32, 0.05)
    optimizer = seed.optimizer
    assert (optimizer.algorithm, optimizer.learning_rate, optimizer.betas) == ("paged_adamw_32bit", 1e-4, (0.9, 0.999))
    assert (optimizer.warmup_fraction, optimizer.final_fraction, optimizer.weight_decay) == (0, 0, 0)
    schedule = seed.schedule
    assert (schedule.batch_items, schedule.accumulation, schedule.max_steps) == (1, 1, 100)
    assert (schedule.save_every, schedule.log_every, schedule.followup_share) == (50, 10, 0)
    assert (seed.text.max_tokens, seed.text.loss_on) == (1024, "text")


def test_differences_are_named_but_for_what_changes_nothing_that_is_computed():
    assert differences(RECALL, RECALL) == []
    changed = adjusted(RECALL, {"rank": 8, "learning_rate": 1e-3, "quantize": "int8"})
    named = ["quantize is 'int8', was 'nf4'", "rank is 8, was 16", "learning_rate is 0.001, was 0.0002"]
    assert differences(RECALL, changed) == named
    free = {"recompute": 3, "memory_gb": 15.0, "offload": True, "accumulation": 4, "save_every": 7, "log_every": 3}
    assert differences(RECALL, adjusted(RECALL, free)) == []


def test_full_fine_tuning_takes_a_tenth_of_the_rate_once():
    full = adjusted(RECALL, {"method": "full"})
    assert (full.quantize, full.optimizer.learning_rate) == ("none", 2e-5)
    assert adjusted(full, {"method": "full"}) == full, "going on changes nothing"
    assert adjusted(RECALL, {"method": "full", "learning_rate": 1e-4}).optimizer.learning_rate == 1e-4


@pytest.mark.parametrize(("kept", "read"), [("true", -1), ("false", 0)])
def test_a_recipe_of_an_earlier_version_is_read(kept, read):
    text = RECALL.to_toml().replace("recompute = -1", f"recompute = {kept}")
    assert kept in text
    assert Recipe.from_toml(text) == adjusted(RECALL, {"recompute": read})
