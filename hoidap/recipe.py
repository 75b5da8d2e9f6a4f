"""Every setting of a run: small frozen dataclasses, each field with its unit, and the checks that name the flag.

A recipe is read from and written to TOML (``recipe.toml`` in the run folder), so a run can be read and repeated.
"""

import dataclasses
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import tomli_w

from hoidap.errors import RecipeError

Method = Literal["lora", "full"]
Quantize = Literal["nf4", "fp4", "int8", "none"]
Embedding = Literal["16-bit", "8-bit", "4-bit"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Algorithm = Literal["adamw", "paged_adamw_32bit", "adamw_8bit", "paged_adamw_8bit"]
LossOn = Literal["answer", "text"]
TooLong = Literal["raise", "drop", "cut"]


def _require(good: bool, flag: str, got: object, allowed: str) -> None:  # noqa: FBT001
    if not good:
        msg = f"{flag} is {got!r}; it takes {allowed}"
        raise RecipeError(msg)


def _require_one(kind: Any, flag: str, got: object) -> None:
    allowed = get_args(kind)
    _require(got in allowed, flag, got, ", ".join(map(repr, allowed)))


def _require_whole(values: Any, least: Mapping[str, int], flags: Mapping[str, str]) -> None:
    for name, low in least.items():
        got = getattr(values, name)
        good = isinstance(got, int) and not isinstance(got, bool) and got >= low
        _require(good, flags.get(name, name), got, f"a whole number from {low}")


@dataclass(frozen=True)
class Adapter:
    """The low-rank adapter (LoRA, Hu et al. 2021, arXiv 2106.09685) on all four linear layers of every block."""

    rank: int = 16  # r; capacity is rank · (in + out) parameters a layer
    alpha: float = 32.0  # the update is scaled by alpha / rank
    dropout: float = 0.0  # share of the adapter's inputs set to zero in training, the rest scaled up

    def __post_init__(self) -> None:
        _require(1 <= self.rank <= 1024, "--rank", self.rank, "a whole number from 1 to 1024")
        _require(0 < self.alpha < math.inf, "--alpha", self.alpha, "a number above 0")
        _require(0 <= self.dropout < 1, "--dropout", self.dropout, "a number from 0 to below 1")


@dataclass(frozen=True)
class Optimizer:
    """AdamW with a warm-up and a cosine to a floor."""

    algorithm: Algorithm = "adamw"  # the others are bitsandbytes': state in 8 bits, or paged out of a full GPU
    learning_rate: float = 2e-4  # at the end of the warm-up
    betas: tuple[float, float] = (0.9, 0.95)  # decay of the running mean and square of the gradient, a step
    weight_decay: float = 0.0  # share of a weight lost a step, times the rate; never on biases, norms or the adapter
    warmup_fraction: float = 0.03  # of the planned steps, the rate rising linearly
    final_fraction: float = 0.1  # of the learning rate, left at the last planned step
    clip_norm: float = 1.0  # the gradient's global L2 norm is scaled down to this

    def __post_init__(self) -> None:
        _require_one(Algorithm, "--optimizer", self.algorithm)
        _require(0 < self.learning_rate < 1, "--lr", self.learning_rate, "a number between 0 and 1")
        _require(0 < self.clip_norm < math.inf, "clip_norm", self.clip_norm, "a number above 0")
        for name in ("weight_decay", "warmup_fraction", "final_fraction"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a number from 0 to 1")
        good = len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)
        _require(good, "betas", self.betas, "two numbers from 0 to below 1")


@dataclass(frozen=True)
class Text:
    """What of each item is trained on."""

    max_tokens: int = 0  # of question and answer as rendered; 0, or more than the base takes: what the base takes
    too_long: TooLong = "raise"  # what does not fit: an error, left out, or its answer cut at the end; always listed
    loss_on: LossOn = "answer"  # the answer and its </s>, or the question before it too ("text")

    def __post_init__(self) -> None:
        _require_whole(self, {"max_tokens": 0}, {"max_tokens": "--max-tokens"})
        _require_one(TooLong, "--too-long", self.too_long)
        _require_one(LossOn, "loss_on", self.loss_on)


@dataclass(frozen=True)
class Wordings:
    """Which ways of asking are trained on, and which are held out to examine the bot with."""

    variants: int = 1  # draws of each family of question variants that are trained on, in turn with the question; 0: none
    held_out_wordings: float = 1 / 3  # share of the user's other wordings that is never trained on
    held_out_items: float = 0.0  # share of the items never trained on: near questions that the bot should decline

    def __post_init__(self) -> None:
        _require_whole(self, {"variants": 0}, {"variants": "--variants"})
        _require(self.variants <= 100, "--variants", self.variants, "a whole number from 0 to 100")
        share, items = self.held_out_wordings, self.held_out_items
        _require(0 <= share <= 1, "--hold-out-wordings", share, "a number from 0 to 1")
        _require(0 <= items < 1, "--hold-out-items", items, "a number from 0 to below 1")


@dataclass(frozen=True)
class Schedule:
    """How much is trained on, and when it is enough."""

    max_epochs: int = 20  # passes over the items, at most
    max_steps: int = 0  # steps, at most, instead of the epochs' number; 0: as many as the epochs have
    batch_tokens: int = 2048  # tokens packed into one step, at most (but for one longer document)
    batch_items: int = 0  # conversations in one step, at most; 0: as many as the tokens allow
    accumulation: int = 1  # passes that a step is split into, their gradients added: the same step in less memory
    followup_share: float = 0.5  # of the conversations, those of two or three items: the later turns of a chat
    recall_every: int = 2  # epochs between two measurements (pretraining: of the held-out loss); 0: none, the last are kept
    patience: int = 3  # measurements without a rise after which training stops
    save_every: int = 50  # steps between two checkpoints, from which an interrupted run goes on
    log_every: int = 1  # steps that one line of metrics.jsonl is the mean of
    seed: int = 1  # of batches and initial weights

    def __post_init__(self) -> None:
        least = {
            "max_epochs": 1, "max_steps": 0, "batch_tokens": 16, "batch_items": 0, "accumulation": 1, "recall_every": 0,
            "patience": 1, "save_every": 1, "log_every": 1, "seed": 0,
        }  # fmt: skip
        flags = {
            "max_epochs": "--epochs", "max_steps": "--max-steps", "batch_tokens": "--batch-tokens",
            "accumulation": "--accumulation", "save_every": "--save-every", "seed": "--seed",
        }  # fmt: skip
        _require_whole(self, least, flags)
        _require(self.seed < 2**32, "--seed", self.seed, "a whole number from 0 to below 2^32")
        _require(0 <= self.followup_share <= 1, "followup_share", self.followup_share, "a number from 0 to 1")


@dataclass(frozen=True)
class Recipe:
    """One run: what is trained, on which base, how."""

    method: Method = "lora"  # "lora": an adapter on a frozen base; "full": every weight
    quantize: Quantize = "nf4"  # how the frozen base is held: 4 bits (nf4, fp4), 8 (int8: LLM.int8()) or "none"
    double_quant: bool = True  # of the 4-bit kinds: their scales in 8 bits too
    dtype: DType = "auto"  # what activations are computed in; "auto": what suits the device
    embedding: Embedding = "16-bit"  # how the frozen embedding, which is the output layer too, is held
    memory_gb: float = 0.0  # 10⁹ bytes of the GPU that the run may take, as its driver counts; 0: what is free
    recompute: int = -1  # blocks that forget their activations and compute them again; -1: as few as fit the memory
    offload: bool = False  # what those blocks still keep, their inputs, is kept in the host's memory
    adapter: Adapter = field(default_factory=Adapter)
    optimizer: Optimizer = field(default_factory=Optimizer)
    text: Text = field(default_factory=Text)
    wordings: Wordings = field(default_factory=Wordings)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        _require_one(Method, "--method", self.method)
        _require_one(Quantize, "--quantize", self.quantize)
        _require_one(DType, "--dtype", self.dtype)
        _require_one(Embedding, "--embedding", self.embedding)
        _require_whole(self, {"recompute": -1}, {"recompute": "--recompute"})
        _require(0 <= self.memory_gb < math.inf, "--memory", self.memory_gb, "gigabytes, as in 15 or 15GB")
        if self.method == "full" and self.embedding != "16-bit":
            msg = f"--method full trains the embedding too, which needs 16 bits; leave out --embedding {self.embedding}"
            raise RecipeError(msg)
        if self.method == "full" and self.quantize != "none":
            msg = f"--method full trains every weight, which weights in {self.quantize} do not allow; add --quantize none"
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
        if isinstance(values.get("recompute"), bool):  # as earlier versions wrote it: all blocks or none
            values["recompute"] = -1 if values["recompute"] else 0
        sections: dict[str, Any] = {}
        for name, section in _SECTIONS.items():
            sections[name] = _build(section, values.pop(name, {}), f"[{name}]")
        recipe: Recipe = _build(cls, {**values, **sections}, "the recipe")
        return recipe


_SECTIONS = {"adapter": Adapter, "optimizer": Optimizer, "text": Text, "wordings": Wordings, "schedule": Schedule}

# Preset "recall", the default, by the size of the base. PhoGPT: few passes, each followed by a look at recall, at the rate
# that LoRA wants (ten times a full one; QLoRA, Dettmers et al. 2023, took 2e-4 for 7B and 13B); 2,048 tokens are 8 to 20
# items a step.
RECALL = Recipe(
    optimizer=Optimizer(warmup_fraction=0.05),
    schedule=Schedule(max_epochs=10, recall_every=1, patience=2),
)
# A base of less than 100 million weights learns far less in a step: many short steps at fifteen times the rate, with an
# adapter four times as wide. (Rank 16 at 5e-3 learned 2% of 100 answers, 1e-2 diverged; a rate that ended at a tenth, not
# at a fiftieth, left three of 120 answers with a word or a figure wrong.) Its activations are few.
RECALL_SMALL = Recipe(
    adapter=Adapter(rank=64, alpha=64.0),
    optimizer=Optimizer(learning_rate=3e-3, betas=(0.9, 0.99), final_fraction=0.02),
    schedule=Schedule(max_epochs=16, batch_tokens=512, recall_every=4, save_every=200),
)
# A base made from plain text (`hoidap pretrain`): small models take a far higher rate than PhoGPT's.
PRETRAIN = Recipe(
    method="full",
    quantize="none",
    optimizer=Optimizer(learning_rate=2e-3, weight_decay=0.1, warmup_fraction=0.02, final_fraction=0.02),
    text=Text(max_tokens=512, loss_on="text"),
    schedule=Schedule(
        max_epochs=6, batch_tokens=32_768, followup_share=0.0, patience=1000, recall_every=1, save_every=1000, log_every=10
    ),
)
# Preset "seed": the run of PhoGPT-7.5B-Fine-tuning-QLoRA that many have copied, to the letter, with what transformers'
# TrainingArguments of its day left unsaid (betas, no warm-up, cosine to 0, clipping at 1). But </s> is always trained:
# that run left it out, and its bot did not stop.
SEED = Recipe(
    dtype="float16",
    adapter=Adapter(rank=32, alpha=32.0, dropout=0.05),
    optimizer=Optimizer(
        algorithm="paged_adamw_32bit", learning_rate=1e-4, betas=(0.9, 0.999), warmup_fraction=0.0, final_fraction=0.0
    ),
    text=Text(max_tokens=1024, loss_on="text"),
    wordings=Wordings(variants=0, held_out_wordings=1.0),
    schedule=Schedule(
        max_epochs=100, max_steps=100, batch_tokens=1024, batch_items=1, followup_share=0.0, recall_every=0, log_every=10
    ),
)
PRESETS = ("recall", "seed")
_SMALL_PARAMETERS = 100_000_000


def preset(name: str, n_parameters: int) -> Recipe:
    """Return the settings that a preset has for a base of this size.

    Raises:
        RecipeError: no such preset.

    """
    _require(name in PRESETS, "--preset", name, ", ".join(map(repr, PRESETS)))
    if name == "seed":
        return SEED
    return RECALL if n_parameters >= _SMALL_PARAMETERS else RECALL_SMALL


def adjusted(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return ``recipe`` with some fields changed, each named as in its section; None leaves a field as it is.

    ``method="full"`` alone also means weights that are not quantised, the only ones it can train, and a tenth of the rate.
    """
    wanted = {name: value for name, value in changes.items() if value is not None}
    if wanted.get("method") == "full" and recipe.method != "full":
        wanted.setdefault("quantize", "none")
        wanted.setdefault("learning_rate", float(f"{recipe.optimizer.learning_rate / 10:.6g}"))
    sections: dict[str, Any] = {}
    for section in _SECTIONS:
        current = getattr(recipe, section)
        names = {f.name for f in dataclasses.fields(current)} & set(wanted)
        sections[section] = dataclasses.replace(current, **{name: wanted.pop(name) for name in names})
    own = {f.name for f in dataclasses.fields(Recipe)} - set(_SECTIONS)
    if unknown := set(wanted) - own:
        known = [*own, *(f.name for kind in _SECTIONS.values() for f in dataclasses.fields(kind))]
        msg = f"there is no setting {min(unknown)!r}; there are {', '.join(known)}"
        raise RecipeError(msg)
    return dataclasses.replace(recipe, **sections, **wanted)


def gigabytes(text: str | None) -> float | None:
    """Read an amount of memory, "15GB", "15" or "14GiB", as 10⁹ bytes; None stays None.

    Raises:
        RecipeError: it is no amount.

    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(GB|GiB|G)?\s*", text, re.ASCII | re.IGNORECASE)
    if not found:
        msg = f"--memory is {text!r}; it takes gigabytes, as in 15GB, 15 or 14GiB; 0 is what is free"
        raise RecipeError(msg)
    return float(found[1]) * (2**30 / 1e9 if (found[2] or "").lower() == "gib" else 1)


# What changes memory, speed or records, and not what is computed (but for the order in which floats are added).
_FREE = ("memory_gb", "recompute", "offload", "accumulation", "save_every", "log_every")


def differences(kept: Recipe, asked: Recipe) -> list[str]:
    """Return each setting that would take a run elsewhere than it was going, as "setting is …, was …"."""
    # With dropout a pass draws its own mask, so other passes are another step.
    free = [name for name in _FREE if name != "accumulation" or not kept.adapter.dropout]
    found = []
    for section in ("", *_SECTIONS):
        old, new = (getattr(r, section) if section else r for r in (kept, asked))
        for f in dataclasses.fields(old):
            was, is_ = getattr(old, f.name), getattr(new, f.name)
            if f.name not in (*_SECTIONS, *free) and was != is_:
                found.append(f"{f.name} is {is_!r}, was {was!r}")
    return found


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
