"""Items that do not fit in what the model reads, and conversations that its template has no place for."""

from collections.abc import Callable, Iterator, Sequence

from hoidap.base import Base
from hoidap.check.finding import Finding
from hoidap.data.fit import count_tokens
from hoidap.data.items import Item
from hoidap.prompt import Template
from hoidap.tokenizer import Tokenizer


def unfit(items: Sequence[Item], lines: Sequence[int], base: Base, step_on: Callable[[], None]) -> Iterator[Finding]:
    """Give out the items that training on a base would refuse; ``step_on`` is called for each item."""
    template, most = base.template, base.config.max_seq_len
    tokenizer: Tokenizer | None = None  # read once it is needed, which takes longer than to examine a shop's file
    turned = [line for item, line in zip(items, lines, strict=True) if item.before] if template.is_single_turn else []
    if turned:
        yield Finding("earlier-turns", tuple(dict.fromkeys(turned)), (str(len(turned)), template.name))
    for item, line in zip(items, lines, strict=True):
        # A token of a byte-level tokenizer has a byte at least: what is short in bytes need not be tokenised.
        if _bytes_of(item, template) > most and not (item.before and template.is_single_turn):
            tokenizer = tokenizer or base.tokenizer()
            n_tokens = count_tokens(item, tokenizer, template)
            if n_tokens > most:
                yield Finding("too-long", (line,), (f"{n_tokens:,}", f"{most:,}", item.question))
        step_on()


def _bytes_of(item: Item, template: Template) -> int:
    around = (template.before_question, template.before_later_question or "", template.before_answer, template.opens_answer)
    turns = 1 + len(item.before)
    texts = [item.question, item.answer, *(text for turn in item.before for text in (turn.question, turn.answer or ""))]
    return sum(len(text.encode()) for text in texts) + turns * (sum(len(text.encode()) for text in around) + 1)
