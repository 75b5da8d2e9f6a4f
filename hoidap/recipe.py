"""Every setting of a run: small frozen dataclasses, each field with its unit, and the checks that name the flag.

A recipe is read from and written to TOML (``recipe.toml`` in the run folder), so a run can be read and repeated.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import tomli_w

from hoidap.errors import RecipeError

Method = Literal["lora", "full"]
Quantize = Literal["nf4", "none"]


def _require(good: bool, flag: str, got: object, allowed: str) -> None:  # noqa: FBT001
    if not good:
        msg = f"{flag} is {got!r}; it takes {allowed}"
        raise RecipeError(msg)


@dataclass(frozen=True)
class Adapter:
    """The low-rank adapter (LoRA, Hu et al. 2021, arXiv 2106.09685) on all four linear layers of every block."""

    rank: int = 16  # r; capacity is rank · (in + out) parameters a layer
    alpha: float = 32.0  # the update is scaled by alpha / rank

    def __post_init__(self) -> None:
        _require(1 <= self.rank <= 1024, "--rank", self.rank, "a whole number from 1 to 1024")
        _require(self.alpha > 0, "--alpha", self.alpha, "a number above 0")


@dataclass(frozen=True)
class Optimizer:
    """AdamW with a warm-up and a cosine to a floor."""

    learning_rate: float = 2e-4  # at the end of the warm-up
    betas: tuple[float, float] = (0.9, 0.95)  # decay of the running mean and square of the gradient, a step
    weight_decay: float = 0.0  # share of a weight lost a step, times the rate; never on biases, norms or the adapter
    warmup_fraction: float = 0.03  # of the planned steps, the rate rising linearly
    final_fraction: float = 0.1  # of the learning rate, left at the last planned step
    clip_norm: float = 1.0  # the gradient's global L2 norm is scaled down to this

    def __post_init__(self) -> None:
        _require(0 < self.learning_rate < 1, "--lr", self.learning_rate, "a number between 0 and 1")
        _require(self.clip_norm > 0, "clip_norm", self.clip_norm, "a number above 0")
        for name in ("weight_decay", "warmup_fraction", "final_fraction"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a number from 0 to 1")
        good = len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)
        _require(good, "betas", self.betas, "two numbers from 0 to below 1")


@dataclass(frozen=True)
class Schedule:
    """How much is trained on, and when it is enough."""

    max_epochs: int = 20  # passes over the items, at most
    batch_tokens: int = 2048  # tokens packed into one step
    followup_share: float = 0.5  # of the conversations, those of two or three items: the later turns of a chat
    recall_every: int = 2  # epochs between two measurements of recall
    patience: int = 3  # measurements without a rise after which training stops
    seed: int = 1  # of batches and initial weights

    def __post_init__(self) -> None:
        _require(self.max_epochs >= 1, "--epochs", self.max_epochs, "a whole number from 1")
        _require(self.batch_tokens >= 16, "--batch-tokens", self.batch_tokens, "a whole number from 16")
        _require(0 <= self.followup_share <= 1, "followup_share", self.followup_share, "a number from 0 to 1")
        _require(self.recall_every >= 1, "recall_every", self.recall_every, "a whole number from 1")
        _require(self.patience >= 1, "patience", self.patience, "a whole number from 1")
        _require(self.seed >= 0, "--seed", self.seed, "a whole number from 0")


@dataclass(frozen=True)
class Recipe:
    """One run: what is trained, on which base, how."""

    method: Method = "lora"  # "lora": an adapter on a frozen base; "full": every weight
    quantize: Quantize = "nf4"  # how the frozen base is held: 4 bits (NF4, double quantisation) or "none"
    recompute: bool = False  # forget each block's activations and compute them again in the backward pass: less memory
    adapter: Adapter = field(default_factory=Adapter)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        _require(self.method in ("lora", "full"), "--method", self.method, "'lora' or 'full'")
        _require(self.quantize in ("nf4", "none"), "--quantize", self.quantize, "'nf4' or 'none'")
        if self.method == "full" and self.quantize != "none":
            msg = "--method full trains every weight, which 4-bit weights do not allow; add --quantize none"
            raise RecipeError(msg)

    def to_toml(self) -> str:
        """Return the recipe as TOML, as kept in a run folder."""
        return tomli_w.dumps(dataclasses.asdict(self))

    @classmethod
    def from_toml(cls, text: str) -> "Recipe":
        """Read what ``to_toml`` wrote; an unknown or mistyped key is an error that names it."""
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            msg = f"the recipe is not TOML: {error}"
            raise RecipeError(msg) from None
        sections: dict[str, Any] = {}
        for name, section in (("adapter", Adapter), ("optimizer", Optimizer), ("schedule", Schedule)):
            sections[name] = _build(section, values.pop(name, {}), f"[{name}]")
        recipe: Recipe = _build(cls, {**values, **sections}, "the recipe")
        return recipe


# PhoGPT and other pretrained bases: an adapter, few passes, the rate that LoRA wants (about ten times a full one).
# Activations are computed twice: 7B5 then trains in 8.3 GiB with float16 (benchmarks/results/shapes-fp16.json).
LORA = Recipe(recompute=True)
# A base that starts from random weights has the language to learn as well as the answers: more passes at a higher rate.
SCRATCH = Recipe(
    method="full",
    quantize="none",
    optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.01),
    schedule=Schedule(max_epochs=70, batch_tokens=1024, followup_share=0.8, recall_every=5, patience=4),
)


def adjusted(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return ``recipe`` with some fields changed, each named as in its section; None leaves a field as it is.

    ``method="full"`` alone also means weights that are not quantised, the only ones it can train.
    """
    wanted = {name: value for name, value in changes.items() if value is not None}
    if wanted.get("method") == "full":
        wanted.setdefault("quantize", "none")
    sections: dict[str, Any] = {}
    for section in ("adapter", "optimizer", "schedule"):
        current = getattr(recipe, section)
        names = {f.name for f in dataclasses.fields(current)} & set(wanted)
        sections[section] = dataclasses.replace(current, **{name: wanted.pop(name) for name in names})
    if unknown := set(wanted) - {"method", "quantize", "recompute"}:
        known = [f.name for kind in (Recipe, Adapter, Optimizer, Schedule) for f in dataclasses.fields(kind)]
        msg = f"there is no setting {min(unknown)!r}; there are {', '.join(known)}"
        raise RecipeError(msg)
    return dataclasses.replace(recipe, **sections, **wanted)


def _build(kind: Any, values: Any, where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if not isinstance(values, dict) or (unknown := sorted(set(values) - set(fields))):
        got = ", ".join(unknown) if isinstance(values, dict) else repr(values)
        msg = f"{where} has {got}, which hoidap does not know; it takes {', '.join(fields)}"
        raise RecipeError(msg)
    if "betas" in values:
        values = {**values, "betas": tuple(values["betas"])}
    try:
        return kind(**values)
    except TypeError as error:
        msg = f"{where}: {error}"
        raise RecipeError(msg) from None
