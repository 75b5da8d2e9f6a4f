"""Guesses at how an answer goes on: a bot fine-tuned on questions and answers mostly recites one of the answers.

Speculative decoding (Leviathan et al. 2023, arXiv 2211.17192) without a second model, as prompt lookup does it: a guess is
read in one pass, and kept as far as the model would have written it. What is written never depends on the guesses.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from hoidap.data.items import Item
from hoidap.prompt import Template
from hoidap.tokenizer import Tokenizer

_MOST_TOKENS = 31  # of a guess: with the token before it 32, which is what a step on a GPU is made for
_MOST_CHARACTERS = 1_000_000  # of all texts: under a second to tokenise when a bot is loaded
_BEHIND_ALL = 2**62  # no token id


class Recital:
    """The texts that may be recited, as tokens."""

    def __init__(self, texts: Iterable[Sequence[int]] = ()) -> None:
        self._texts = sorted({tuple(text) for text in texts})

    @classmethod
    def of_items(cls, items: Sequence[Item], tokenizer: Tokenizer, template: Template) -> "Recital":
        """Take the items' answers, as ``prompt.render`` renders them for training, up to a million characters of them."""
        ends = accumulate(len(item.answer) for item in items)
        fit = [item for item, end in zip(items, ends, strict=True) if end <= _MOST_CHARACTERS]
        texts = [template.opens_answer + item.answer for item in fit]
        return cls([*token_ids, tokenizer.eos_id] for token_ids in tokenizer.encode_all(texts))

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._texts)

    def is_begun(self, said: Sequence[int]) -> bool:
        """Whether a text begins with ``said`` and goes on."""
        begin = tuple(said)
        at = bisect_left(self._texts, (*begin, 0))
        return at < len(self._texts) and self._texts[at][: len(begin)] == begin

    def after(self, said: Sequence[int], most: int) -> tuple[int, ...]:
        """Return the tokens that come next in every text that begins with ``said``, at most so many of them."""
        begin = tuple(said)
        low = bisect_left(self._texts, begin)
        high = bisect_left(self._texts, (*begin, _BEHIND_ALL))
        if not begin or low == high:
            return ()
        first, last = self._texts[low], self._texts[high - 1]  # sorted: what these two share, all between them share
        guess: list[int] = []
        for one, other in zip(first[len(begin) :], last[len(begin) :], strict=False):
            if one != other or len(guess) == min(most, _MOST_TOKENS):
                break
            guess.append(one)
        return tuple(guess)
