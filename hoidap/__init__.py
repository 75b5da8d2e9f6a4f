"""hoidap turns a question–answer file into a Vietnamese chatbot that you own.

import hoidap
run = hoidap.train("shop.xlsx", model="vinai/PhoGPT-4B-Chat", out="runs/shop")
bot = hoidap.load("runs/shop")
bot.answer("Mấy giờ mở cửa?")      # Answer(text, source, confidence, finish_reason)
for piece in bot.stream("..."): ...
model = hoidap.load_model("vinai/PhoGPT-4B-Chat", quantize="nf4")  # .forward(input_ids[B, T], attention_mask) → logits
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Answer", "Bot", "HoidapError", "Item", "Recipe", "Run", "Sampling", "Turn", "load", "load_model", "train"]

if TYPE_CHECKING:
    from hoidap.base import load_model
    from hoidap.bot import Answer, Bot, load
    from hoidap.data.items import Item
    from hoidap.errors import HoidapError
    from hoidap.infer.engine import Sampling
    from hoidap.prompt import Turn
    from hoidap.recipe import Recipe
    from hoidap.run import Run
    from hoidap.training.job import train

# Importing hoidap imports nothing else: PyTorch alone takes a second, which `hoidap --help` need not wait for.
_HOMES = {
    "Answer": "bot",
    "Bot": "bot",
    "HoidapError": "errors",
    "Item": "data.items",
    "Recipe": "recipe",
    "Run": "run",
    "Sampling": "infer.engine",
    "Turn": "prompt",
    "load": "bot",
    "load_model": "base",
    "train": "training.job",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'hoidap' has no attribute {name!r}; it has {', '.join(__all__)}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(f"hoidap.{_HOMES[name]}"), name)
