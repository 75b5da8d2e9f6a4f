"""A recipe reads back as it was written, and says by name what it does not take."""

import dataclasses

import pytest
import torch

from hoidap.errors import HoidapError, RecipeError
from hoidap.recipe import LORA, SCRATCH, Adapter, Optimizer, Recipe, Schedule, adjusted
from hoidap.runtime import pick_device, pick_dtype


@pytest.mark.parametrize("recipe", [LORA, SCRATCH, Recipe(adapter=Adapter(rank=3, alpha=1.5), schedule=Schedule(seed=9))])
def test_a_recipe_reads_back_as_it_was_written(recipe):
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method = ", "the recipe is not TOML"),
        ("colour = 1", "the recipe has colour, which hoidap does not know; it takes method, quantize"),
        ("[schedule]\nepochs = 3", r"\[schedule\] has epochs, which hoidap does not know; it takes max_epochs"),
        ("schedule = 3", r"\[schedule\] has 3"),
        ("[schedule]\nmax_epochs = 'many'", r"\[schedule\]: .*not supported between"),
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
        (lambda: Schedule(recall_every=0), "recall_every is 0"),
        (lambda: Schedule(patience=0), "patience is 0"),
        (lambda: Schedule(seed=-1), "--seed is -1"),
        (lambda: Recipe(quantize="int3"), "--quantize is 'int3'; it takes 'nf4' or 'none'"),
        (lambda: pick_device("tpu"), "--device is 'tpu'; it takes 'cpu', 'cuda' or 'cuda:N'"),
        (lambda: pick_device("mps"), "--device is 'mps'; it takes 'cpu', 'cuda' or 'cuda:N'"),
        (lambda: pick_dtype(torch.device("cpu"), "half"), "--dtype is 'half'; it takes float32, bfloat16, float16"),
    ],
)
def test_each_setting_out_of_range_is_named_by_its_flag(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_adjusting_changes_what_is_named_and_nothing_else():
    changed = adjusted(LORA, {"rank": 4, "learning_rate": 1e-4, "max_epochs": 3, "seed": None})
    assert (changed.adapter.rank, changed.optimizer.learning_rate, changed.schedule.max_epochs) == (4, 1e-4, 3)
    assert changed.schedule.seed == LORA.schedule.seed
    assert dataclasses.replace(changed, adapter=LORA.adapter, optimizer=LORA.optimizer, schedule=LORA.schedule) == LORA


def test_adjusting_an_unknown_setting_is_an_error_that_names_it():
    with pytest.raises(RecipeError, match=r"there is no setting 'epochs'; there are .*max_epochs"):
        adjusted(LORA, {"epochs": 3})


def test_the_cpu_computes_in_float32_by_default():
    assert pick_dtype(torch.device("cpu")) == torch.float32


def test_every_error_of_hoidap_s_own_is_one_kind():
    from hoidap import errors

    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    assert all(issubclass(kind, HoidapError) for kind in kinds)
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds), "the tree in the docstring names each"
