"""What is too long for the model: an error by default, left out or cut on request, never silently."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from hoidap.data.items import Item
from hoidap.data.pack import render_item
from hoidap.errors import DataError
from hoidap.prompt import Template, Turn, render
from hoidap.recipe import TooLong
from hoidap.tokenizer import Tokenizer


def fit(
    items: Sequence[Item],
    tokenizer: Tokenizer,
    template: Template,
    max_tokens: int,
    too_long: TooLong,
    note: Callable[[str], None],
) -> list[Item]:
    """Return the items that fit in ``max_tokens``, those that do not left out ("drop") or their answers cut ("cut").

    ``note`` is told of each; with "raise" all items come back as they are, and ``Packer`` refuses them together.

    Raises:
        DataError: no item is left, or a question that leaves no room for an answer, which cutting cannot mend.

    """
    if too_long == "raise":
        return list(items)
    fitting: list[Item] = []
    problems: list[str] = []
    for number, item in enumerate(items, start=1):
        n_tokens = count_tokens(item, tokenizer, template)
        if n_tokens <= max_tokens:
            fitting.append(item)
            continue
        facts = f"item {number}, {item.question[:60]!r}: {n_tokens} tokens, at most {max_tokens}"
        if too_long == "drop":
            note(f"{facts}: left out")
        elif cut := _cut(item, n_tokens - max_tokens, tokenizer, template, max_tokens):
            note(f"{facts}: its answer now ends with {cut.answer[-30:]!r}")
            fitting.append(cut)
        else:
            problems.append(f"{facts}; its question leaves no room for an answer: shorten it, or use --too-long drop")
    if not fitting and not problems:
        problems.append(f"every one of {len(items)} items is longer than {max_tokens} tokens; raise --max-tokens")
    if problems:
        raise DataError(problems)
    return fitting


def count_tokens(item: Item, tokenizer: Tokenizer, template: Template) -> int:
    """Return an item's tokens, as the first turn or as a later one, whichever is more."""
    lengths = [len(render_item(item, tokenizer, template).token_ids)]
    if not (template.is_single_turn or item.before):
        later = render([Turn(item.question, item.answer)], tokenizer, template, opens=False)
        lengths.append(len(later.token_ids))
    return max(lengths)


def _cut(item: Item, excess: int, tokenizer: Tokenizer, template: Template, max_tokens: int) -> Item | None:
    """Cut an answer's end until the item fits; None if nothing of the answer would be left."""
    answer_tokens = tokenizer.encode(item.answer)
    keep = len(answer_tokens) - excess
    while keep > 0:
        # Half a character at the cut is no text; and text cut anew may have other tokens, so it is counted again.
        text = tokenizer.decode(answer_tokens[:keep]).rstrip("\ufffd").rstrip()
        shorter = replace(item, answer=text)
        if text and count_tokens(shorter, tokenizer, template) <= max_tokens:
            return shorter
        keep -= 1
    return None
