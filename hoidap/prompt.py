"""The only renderer: a conversation becomes token ids and a loss mask, for training, evaluating and chatting alike.

PhoGPT-4B-Chat's template (its tokenizer_config.json)::

    ### Câu hỏi: A
    ### Trả lời: B</s>
    ### Câu hỏi: C
    ### Trả lời:

A prompt ends right after the colon, so the model itself writes the space that opens an answer. Prompt and answer are
tokenised apart, as VinAI's fine-tuning did (llm-foundry v0.3.0, ``data/finetuning/tasks.py``): then the tokens asked
with are the tokens trained on, whatever follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hoidap.text import nfc
from hoidap.tokenizer import Tokenizer

TEMPLATE = "phogpt-4b-chat"
_QUESTION = "### Câu hỏi: "
_ANSWER = "\n### Trả lời:"
STOP = "### Câu hỏi:"  # a model that runs past its answer opens the next question


@dataclass(frozen=True)
class Turn:
    """One question and its answer; ``answer`` is None where the model is to write it."""

    question: str
    answer: str | None = None


@dataclass(frozen=True)
class Rendered:
    """Token ids, and for each of them whether the loss counts it (the answer and its ``</s>``)."""

    token_ids: list[int]
    in_loss: list[bool]


def render(turns: Sequence[Turn], tokenizer: Tokenizer) -> Rendered:
    """Render a conversation; with a last turn that has no answer it is a prompt to generate from."""
    token_ids: list[int] = []
    in_loss: list[bool] = []
    for number, turn in enumerate(turns):
        opening = _QUESTION if number == 0 else "\n" + _QUESTION
        asked = tokenizer.encode(opening + nfc(turn.question).strip() + _ANSWER)
        answered = [] if turn.answer is None else [*tokenizer.encode(" " + nfc(turn.answer)), tokenizer.eos_id]
        token_ids += asked + answered
        in_loss += [False] * len(asked) + [True] * len(answered)
    return Rendered(token_ids, in_loss)
