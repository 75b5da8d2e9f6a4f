"""The only renderer: a conversation becomes token ids and a loss mask, for training, evaluating and chatting alike.

Which template a base was taught is the checkpoint's to say (``base.Base.template``); a run keeps its name.

    phogpt-4b-chat        its tokenizer_config.json    ### Câu hỏi: A⏎### Trả lời: B</s>⏎### Câu hỏi: C⏎### Trả lời:
    phogpt-7b5-instruct   its README and data          ### Câu hỏi:⏎A⏎⏎### Trả lời:B</s>
    instruction-response  the run of preset "seed"     ### Instruction:A### Response:B</s>

A prompt ends right after the colon, so the model itself writes the space that opens an answer of 4B-Chat. Prompt and answer
are tokenised apart, as VinAI's fine-tuning did (llm-foundry v0.3.0, ``data/finetuning/tasks.py``): then the tokens asked
with are the tokens trained on, whatever follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hoidap.errors import RecipeError
from hoidap.text import nfc
from hoidap.tokenizer import Tokenizer


@dataclass(frozen=True)
class Template:
    """What stands around questions and answers."""

    name: str
    before_question: str
    before_later_question: str | None  # None: the base was taught single turns alone
    before_answer: str
    opens_answer: str  # written by the model itself
    stop: str  # a model that runs past its answer opens the next question

    @property
    def is_single_turn(self) -> bool:
        """Whether a prompt holds one question alone."""
        return self.before_later_question is None


PHOGPT_4B_CHAT = Template(
    "phogpt-4b-chat", "### Câu hỏi: ", "\n### Câu hỏi: ", "\n### Trả lời:", opens_answer=" ", stop="### Câu hỏi:"
)
PHOGPT_7B5_INSTRUCT = Template(
    "phogpt-7b5-instruct", "### Câu hỏi:\n", None, "\n\n### Trả lời:", opens_answer="", stop="### Câu hỏi:"
)
INSTRUCTION_RESPONSE = Template(
    "instruction-response", "### Instruction:", None, "### Response:", opens_answer="", stop="### Instruction:"
)
TEMPLATES = {t.name: t for t in (PHOGPT_4B_CHAT, PHOGPT_7B5_INSTRUCT, INSTRUCTION_RESPONSE)}


def find_template(name: str) -> Template:
    """Return the template of that name.

    Raises:
        RecipeError: there is none.

    """
    if name not in TEMPLATES:
        msg = f"--template is {name!r}; it takes {', '.join(map(repr, TEMPLATES))}"
        raise RecipeError(msg)
    return TEMPLATES[name]


@dataclass(frozen=True)
class Turn:
    """One question and its answer; ``answer`` is None where the model is to write it."""

    question: str
    answer: str | None = None


@dataclass(frozen=True)
class Rendered:
    """Token ids, and for each of them whether it is an answer's (its ``</s>`` included): what recall looks at."""

    token_ids: list[int]
    in_answer: list[bool]


def render(
    turns: Sequence[Turn], tokenizer: Tokenizer, template: Template = PHOGPT_4B_CHAT, *, opens: bool = True
) -> Rendered:
    """Render a conversation; with a last turn that has no answer it is a prompt to generate from.

    Args:
        turns: questions and answers in order.
        tokenizer: of the base.
        template: of the base.
        opens: whether the first turn opens the conversation; if not, it is rendered as a later one.

    Raises:
        ValueError: a second turn in a single-turn template.

    """
    token_ids: list[int] = []
    in_answer: list[bool] = []
    for number, turn in enumerate(turns):
        opening = template.before_question if number == 0 and opens else template.before_later_question
        if opening is None:
            msg = f"the template {template.name} holds one question; got {len(turns)} turns"
            raise ValueError(msg)
        asked = tokenizer.encode(opening + nfc(turn.question).strip() + template.before_answer)
        answered = []
        if turn.answer is not None:
            answered = [*tokenizer.encode(template.opens_answer + nfc(turn.answer)), tokenizer.eos_id]
        token_ids += asked + answered
        in_answer += [False] * len(asked) + [True] * len(answered)
    return Rendered(token_ids, in_answer)
